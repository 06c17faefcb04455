/*
 * Where a router is: every way to say it, and what is refused.
 */
#include "fixture.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "net/kaiso_address.h"

struct address_case {
	const char *word;
	const char *formatted;
	const char *host;
	uint16_t port;
	const char *service;
};

static const struct address_case valid_cases[] = {
	{ "localhost:80", "localhost:80", "localhost", 80, "" },
	{ "localhost", "localhost:37812", "localhost", 37812, "" },
	{ "127.0.0.1:1", "127.0.0.1:1", "127.0.0.1", 1, "" },
	{ "127.0.0.1", "127.0.0.1:37812", "127.0.0.1", 37812, "" },
	{ "[::1]:65535", "[::1]:65535", "::1", 65535, "" },
	{ "[::1]", "[::1]:37812", "::1", 37812, "" },
	{ "[fe80::1%7]:80", "[fe80::1%7]:80", "fe80::1%7", 80, "" },
	{ ":80", ":80", "", 80, "" },
	{ "\xc3\xa9t\xc3\xa9.example", "\xc3\xa9t\xc3\xa9.example:37812", "\xc3\xa9t\xc3\xa9.example", 37812,
	  "" },
	{ "a_b-c.example.:80", "a_b-c.example.:80", "a_b-c.example.", 80, "" },
	{ "unix.", "unix.:37812", "unix.", 37812, "" },
	{ "kaiso", "kaiso:37812", "kaiso", 37812, "" },
	{ "kaiso://host", "host:37812", "host", 37812, "" },
	{ "kaiso://host/", "host:37812", "host", 37812, "" },
	{ "KAISO://host:80/web", "host:80", "host", 80, "web" },
	{ "kaiso://:80/web", ":80", "", 80, "web" },
	{ "kaiso://[::1]/web", "[::1]:37812", "::1", 37812, "web" },
	{ "kaiso://[::1]:80/d/web", "[::1]:80", "::1", 80, "d/web" },
	{ "kaiso://[fe80::1%257]:80/web", "[fe80::1%7]:80", "fe80::1%7", 80, "web" },
	{ "kaiso://[fe80::1%7]/web", "[fe80::1%7]:37812", "fe80::1%7", 37812, "web" },
	{ "kaiso://host/d/", "host:37812", "host", 37812, "d/" },
	{ "kaiso://host/a%20b%2Fc%25", "host:37812", "host", 37812, "a b/c%" },
	{ "kaiso://host/%3f%23%FF", "host:37812", "host", 37812, "?#\xff" },
	{ "kaiso://host/a b:c@d", "host:37812", "host", 37812, "a b:c@d" },
	{ "kaiso://host//x", "host:37812", "host", 37812, "/x" },
};

static void test_valid(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(valid_cases); i++) {
		const struct address_case *expected = &valid_cases[i];
		char reason[KAISO_ADDRESS_REASON_SIZE] = "";
		char text[KAISO_ADDRESS_TEXT_SIZE];
		struct kaiso_address address;

		if (kaiso_address_parse(expected->word, &address, reason) != 0)
			fail_msg("%s", reason);
		assert_null(address.unix_path);
		assert_string_equal(address.host, expected->host);
		assert_int_equal(address.port, expected->port);
		assert_string_equal(address.service, expected->service);
		assert_string_equal(kaiso_address_format(&address, text), expected->formatted);
	}
}

static void test_unix(void **state)
{
	static const char *const paths[] = { "/run/kaiso.sock", "kaiso:80", "a b", "kaiso://x", "\xff" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		char reason[KAISO_ADDRESS_REASON_SIZE];
		char text[KAISO_ADDRESS_TEXT_SIZE];
		char word[64];
		struct kaiso_address address;

		snprintf(word, sizeof(word), "unix:%s", paths[i]);
		assert_int_equal(kaiso_address_parse(word, &address, reason), 0);
		assert_string_equal(address.unix_path, paths[i]);
		assert_string_equal(address.service, "");
		assert_string_equal(kaiso_address_format(&address, text), word);
	}
}

struct invalid_case {
	const char *word;
	int result;
	const char *reason; /* a part of it */
};

static const struct invalid_case invalid_cases[] = {
	{ "", -EINVAL, "expected HOST" },
	{ ":", -EINVAL, "expected HOST" },
	{ "host:", -EINVAL, "expected HOST" },
	{ "host:x", -EINVAL, "expected HOST" },
	{ "host:80 ", -EINVAL, "expected HOST" },
	{ "ho st:80", -EINVAL, "expected HOST" },
	{ "ho\nst:80", -EINVAL, "'ho?st:80'" },
	{ "host:0", -ERANGE, "from 1 to 65535" },
	{ "host:65536", -ERANGE, "from 1 to 65535" },
	{ "host:65616", -ERANGE, "from 1 to 65535" },
	{ "37812", -EINVAL, "written with a colon" },
	{ "37812:80", -EINVAL, "expected HOST" },
	{ "::1", -EINVAL, "in brackets" },
	{ "::1:80", -EINVAL, "in brackets" },
	{ "fe80::1", -EINVAL, "in brackets" },
	{ "[::1", -EINVAL, "expected HOST" },
	{ "[::1]x", -EINVAL, "expected HOST" },
	{ "[::1]:", -EINVAL, "expected HOST" },
	{ "[name]:80", -EINVAL, "expected HOST" },
	{ "[]:80", -EINVAL, "expected HOST" },
	{ "web/", -EINVAL, "expected HOST" },
	{ "user@host:80", -EINVAL, "expected HOST" },
	{ "http://host/web", -EINVAL, "expected HOST" },
	{ "unix", -EINVAL, "expected HOST" },
	{ "kaiso://unix:80/web", -EINVAL, "expected HOST" },
	{ "unix:", -EINVAL, "path of the socket" },
	{ "kaiso:", -EINVAL, "expected HOST" },
	{ "kaiso://", -EINVAL, "kaiso://HOST" },
	{ "kaiso:///web", -EINVAL, "kaiso://HOST" },
	{ "kaiso://user@host/web", -EINVAL, "expected HOST" },
	{ "kaiso://host:0/web", -ERANGE, "from 1 to 65535" },
	{ "kaiso://::1/web", -EINVAL, "in brackets" },
	{ "kaiso://host/a?b", -EINVAL, "%3F" },
	{ "kaiso://host/a#b", -EINVAL, "%3F" },
	{ "kaiso://host?x", -EINVAL, "%3F" },
	{ "kaiso://host/%", -EINVAL, "hexadecimal" },
	{ "kaiso://host/%4", -EINVAL, "hexadecimal" },
	{ "kaiso://host/%4g", -EINVAL, "hexadecimal" },
	{ "kaiso://host/%-1", -EINVAL, "hexadecimal" },
	{ "kaiso://host/a%0Ab", -EINVAL, "control byte" },
	{ "kaiso://host/a%0d", -EINVAL, "control byte" },
	{ "kaiso://host/%00", -EINVAL, "control byte" },
	{ "kaiso://host/%7f", -EINVAL, "control byte" },
	{ "kaiso://host/a\nb", -EINVAL, "control byte" },
	{ "kaiso://ho%73t/web", -EINVAL, "expected HOST" },
};

static void test_invalid(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(invalid_cases); i++) {
		const struct invalid_case *expected = &invalid_cases[i];
		char reason[KAISO_ADDRESS_REASON_SIZE] = "";
		struct kaiso_address address;
		int r = kaiso_address_parse(expected->word, &address, reason);

		if (r != expected->result || !strstr(reason, expected->reason))
			fail_msg("'%s': %d, '%s'", expected->word, r, reason);
		assert_null(strpbrk(reason, "\n\r\x1b\x7f"));
	}
}

/* A word of prefix, and then count times 'a', and then suffix; the caller frees it. */
static char *make_word(const char *prefix, size_t count, const char *suffix)
{
	char *word = malloc(strlen(prefix) + count + strlen(suffix) + 1);

	assert_non_null(word);
	strcpy(word, prefix);
	memset(word + strlen(prefix), 'a', count);
	strcpy(word + strlen(prefix) + count, suffix);
	return word;
}

static int parse_long(const char *prefix, size_t count, const char *suffix, struct kaiso_address *address)
{
	char reason[KAISO_ADDRESS_REASON_SIZE];
	char text[KAISO_ADDRESS_TEXT_SIZE];
	char *word = make_word(prefix, count, suffix);
	int r = kaiso_address_parse(word, address, reason);

	if (r == 0)
		assert_true(strlen(kaiso_address_format(address, text)) < sizeof(text));
	else
		assert_true(strlen(reason) < sizeof(reason) - 1);
	address->unix_path = NULL;
	free(word);
	return r;
}

static void test_longest(void **state)
{
	struct kaiso_address address;

	(void)state;
	assert_int_equal(parse_long("", 255, "", &address), 0);
	assert_int_equal(strlen(address.host), 255);
	assert_int_equal(parse_long("", 255, ":65535", &address), 0);
	assert_int_equal(parse_long("", 256, "", &address), -EINVAL);
	assert_int_equal(parse_long("", 100000, ":80", &address), -EINVAL);
	assert_int_equal(parse_long("kaiso://", 255, "/x", &address), 0);
	assert_int_equal(parse_long("kaiso://", 100000, "/x", &address), -EINVAL);
	assert_int_equal(parse_long("kaiso://h/", 4095, "", &address), 0);
	assert_int_equal(strlen(address.service), 4095);
	assert_int_equal(parse_long("kaiso://h/", 4094, "%41", &address), 0);
	assert_int_equal(parse_long("kaiso://h/", 4096, "", &address), -EINVAL);
	assert_int_equal(parse_long("unix:/", 100000, "", &address), 0);
	assert_int_equal(parse_long("[", 100000, "]", &address), -EINVAL);
}

static void test_long_path_is_cut_in_messages(void **state)
{
	char reason[KAISO_ADDRESS_REASON_SIZE];
	char text[KAISO_ADDRESS_TEXT_SIZE];
	char *word = make_word("unix:/x\n", 1000, "");
	struct kaiso_address address;

	(void)state;
	assert_int_equal(kaiso_address_parse(word, &address, reason), 0);
	kaiso_address_format(&address, text);
	assert_int_equal(strlen(text), sizeof(text) - 1);
	assert_memory_equal(text, "unix:/x?aaa", 11);
	assert_string_equal(text + strlen(text) - 4, "a...");
	free(word);
}

static void test_default(void **state)
{
	char reason[KAISO_ADDRESS_REASON_SIZE];
	char text[KAISO_ADDRESS_TEXT_SIZE];
	struct kaiso_address address;

	(void)state;
	unsetenv(KAISO_VARIABLE);
	assert_int_equal(kaiso_address_default(&address, reason), 0);
	assert_string_equal(kaiso_address_format(&address, text), "127.0.0.1:37812");
	setenv(KAISO_VARIABLE, "", 1);
	assert_int_equal(kaiso_address_default(&address, reason), 0);
	assert_string_equal(kaiso_address_format(&address, text), "127.0.0.1:37812");
	setenv(KAISO_VARIABLE, "kaiso://host:80/web", 1);
	assert_int_equal(kaiso_address_default(&address, reason), 0);
	assert_string_equal(kaiso_address_format(&address, text), "host:80");
	assert_string_equal(address.service, "web");
	setenv(KAISO_VARIABLE, "host:99999", 1);
	assert_int_equal(kaiso_address_default(&address, reason), -ERANGE);
	assert_string_equal(reason, "$KAISO is 'host:99999': a port is a number from 1 to 65535");
	unsetenv(KAISO_VARIABLE);
}

static void test_is_url(void **state)
{
	(void)state;
	assert_true(kaiso_address_is_url("kaiso://x"));
	assert_true(kaiso_address_is_url("Kaiso://"));
	assert_false(kaiso_address_is_url("kaiso:/x"));
	assert_false(kaiso_address_is_url("kaiso"));
	assert_false(kaiso_address_is_url("unix:kaiso://"));
	assert_false(kaiso_address_is_url(""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_valid),   cmocka_unit_test(test_unix),
		cmocka_unit_test(test_invalid), cmocka_unit_test(test_longest),
		cmocka_unit_test(test_default), cmocka_unit_test(test_long_path_is_cut_in_messages),
		cmocka_unit_test(test_is_url),
	};

	return FIXTURE_RUN(tests);
}
