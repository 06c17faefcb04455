/*
 * Which names in Host are this server's: against pages that have a name of their own lead here (DNS rebinding).
 */
#include "fixture.h"

#include "base/macros.h"
#include "router/http_host.h"

static void test_ours(void **state)
{
	static const char *const hosts[] = {
		"127.0.0.1",        "127.0.0.1:9090",  "192.0.2.7:80", "[::1]",       "[::1]:9090",
		"[2001:db8::1]:80", "localhost",       "LocalHost",    "localhost:1", "home.example",
		"home.example:80",  "HOME.example:80", "127.0.0.1:",   "[::1]:",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(hosts); i++) {
		if (!http_host_is_ours(hosts[i], "home.example"))
			fail_msg("'%s' should be ours", hosts[i]);
	}
}

static void test_foreign(void **state)
{
	static const char *const hosts[] = {
		"",
		":80",
		"evil.example",
		"evil.example:80",
		"localhost.evil.example",
		"localhost.",
		"evil.localhost",
		"127.0.0.1.evil.example",
		"127.0.0.1.",
		"127.0.0.1@evil.example",
		"127.0.0.1:80@evil.example",
		"127.0.0.1:80:80",
		"127.0.0.1:123456",
		"127.0.0.1:+80",
		"127.0.0.1 ",
		" 127.0.0.1",
		"127.1",
		"2130706433",
		"0x7f.0.0.1",
		"::1",
		"::1:80",
		"[::1",
		"[::1]evil.example",
		"[::1]:80x",
		"[127.0.0.1]",
		"[fe80::1%lo]",
		"[localhost]",
		"[]",
		"home.example.evil.example",
		"home.exampl",
		"home.example:x",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(hosts); i++) {
		if (http_host_is_ours(hosts[i], "home.example"))
			fail_msg("'%s' should be foreign", hosts[i]);
	}
}

static void test_without_a_name(void **state)
{
	(void)state;
	assert_true(http_host_is_ours("127.0.0.1", NULL));
	assert_false(http_host_is_ours("", NULL));
	assert_false(http_host_is_ours("", ""));
	assert_false(http_host_is_ours(":80", ""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ours),
		cmocka_unit_test(test_foreign),
		cmocka_unit_test(test_without_a_name),
	};

	return FIXTURE_RUN(tests);
}
