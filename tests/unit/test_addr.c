/*
 * Addresses from text and from the kernel, and back.
 */
#include "fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "base/macros.h"
#include "net/addr.h"

struct numeric_case {
	const char *text;
	const char *formatted; /* with port 80; NULL when the text is no address */
};

static const struct numeric_case numeric_cases[] = {
	{ "127.0.0.1", "127.0.0.1:80" },
	{ "0.0.0.0", "0.0.0.0:80" },
	{ "255.255.255.255", "255.255.255.255:80" },
	{ "::", "[::]:80" },
	{ "::1", "[::1]:80" },
	{ "2001:DB8::0:1", "[2001:db8::1]:80" },
	{ "1:2:3:4:5:6:7:8", "[1:2:3:4:5:6:7:8]:80" },
	{ "::ffff:192.0.2.1", "192.0.2.1:80" },
	{ "::ffff:c000:201", "192.0.2.1:80" },
	{ "64:ff9b::192.0.2.1", "[64:ff9b::c000:201]:80" },
	{ "fe80::1", "[fe80::1]:80" },
	{ "fe80::1%7", "[fe80::1%7]:80" },
	{ "fe80::1%4294967295", "[fe80::1%4294967295]:80" },
	{ "ff02::1%7", "[ff02::1%7]:80" },
	{ "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:80" },
	{ "", NULL },
	{ "localhost", NULL },
	{ "127.1", NULL },
	{ "0x7f000001", NULL },
	{ "127.0.0.01", NULL },
	{ "127.0.0.256", NULL },
	{ "127.0.0.1 ", NULL },
	{ " 127.0.0.1", NULL },
	{ "127.0.0.1%1", NULL },
	{ "127.0.0.1:80", NULL },
	{ "[::1]", NULL },
	{ "::1%1", NULL },
	{ ":", NULL },
	{ ":::", NULL },
	{ "1:2:3:4:5:6:7:8:9", NULL },
	{ "fe80::1%", NULL },
	{ "fe80::1%0", NULL },
	{ "fe80::1%4294967296", NULL },
	{ "fe80::1%no-such-if", NULL },
	{ "fe80::1%1%1", NULL },
	{ "fe80::1%a-name-that-no-interface-can-ever-have-for-it-is-far-too-long", NULL },
};

static void test_numeric(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(numeric_cases); i++) {
		const struct numeric_case *expected = &numeric_cases[i];
		char text[ADDR_TEXT_SIZE];
		union addr addr;
		int r = addr_parse_numeric(expected->text, strlen(expected->text), 80, &addr);

		if (r != (expected->formatted != NULL ? 0 : -EINVAL))
			print_error("text: '%s'\n", expected->text);
		assert_int_equal(r, expected->formatted != NULL ? 0 : -EINVAL);
		if (r == 0)
			assert_string_equal(addr_format(&addr, text), expected->formatted);
	}
}

static void test_numeric_reads_only_its_length(void **state)
{
	char text[ADDR_TEXT_SIZE];
	union addr addr;

	(void)state;
	assert_int_equal(addr_parse_numeric("127.0.0.19", 9, 1, &addr), 0);
	assert_string_equal(addr_format(&addr, text), "127.0.0.1:1");
	assert_int_equal(addr_parse_numeric("127.0.0.1\0x", 11, 1, &addr), -EINVAL);
	assert_int_equal(addr_parse_numeric("127.0.0.1", 0, 1, &addr), -EINVAL);
}

static void test_scope_by_name(void **state)
{
	unsigned int loopback = if_nametoindex("lo");
	union addr addr;

	(void)state;
	/* A name that no interface has, where there is none called "lo". */
	assert_int_equal(addr_parse_numeric("fe80::1%lo", 10, 80, &addr), loopback != 0 ? 0 : -EINVAL);
	if (loopback != 0)
		assert_int_equal(addr.in6.sin6_scope_id, loopback);
}

static void test_longest_text_fits(void **state)
{
	char text[ADDR_TEXT_SIZE];
	union addr addr;

	(void)state;
	memset(&addr, 0xff, sizeof(addr));
	addr.sa.sa_family = AF_INET6;
	assert_string_equal(addr_format(&addr, text),
			    "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535");
}

static void test_from_the_kernel(void **state)
{
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(80), .sin6_flowinfo = 99 };
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(443) };
	struct sockaddr_un un = { .sun_family = AF_UNIX, .sun_path = "/run/socket" };
	char text[ADDR_TEXT_SIZE];
	union addr addr, mapped;

	(void)state;
	in.sin_addr.s_addr = htonl(0xc0000201);
	memset(in.sin_zero, 0xff, sizeof(in.sin_zero));
	addr_from_sockaddr(&addr, (struct sockaddr *)&in, sizeof(in));
	assert_string_equal(addr_format(&addr, text), "192.0.2.1:443");
	assert_int_equal(addr_length(&addr), sizeof(struct sockaddr_in));

	inet_pton(AF_INET6, "::ffff:192.0.2.1", &in6.sin6_addr);
	in6.sin6_port = htons(443);
	addr_from_sockaddr(&mapped, (struct sockaddr *)&in6, sizeof(in6));
	assert_true(addr_is_equal(&addr, &mapped));
	assert_memory_equal(&addr, &mapped, sizeof(addr));

	inet_pton(AF_INET6, "2001:db8::1", &in6.sin6_addr);
	addr_from_sockaddr(&addr, (struct sockaddr *)&in6, sizeof(in6));
	assert_string_equal(addr_format(&addr, text), "[2001:db8::1]:443");
	assert_int_equal(addr_length(&addr), sizeof(struct sockaddr_in6));
	assert_int_equal(addr.in6.sin6_flowinfo, 0);

	addr_from_sockaddr(&addr, (struct sockaddr *)&un, sizeof(un));
	assert_string_equal(addr_format(&addr, text), "unix");
	assert_int_equal(addr_length(&addr), sizeof(sa_family_t));
	addr_from_sockaddr(&mapped, (struct sockaddr *)&un, sizeof(sa_family_t));
	assert_true(addr_is_equal(&addr, &mapped));
}

static void test_from_less_than_an_address(void **state)
{
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };
	struct sockaddr other = { .sa_family = AF_PACKET };
	char text[ADDR_TEXT_SIZE];
	union addr addr;

	(void)state;
	for (socklen_t length = 0; length < sizeof(in6); length++) {
		addr_from_sockaddr(&addr, (struct sockaddr *)&in6, length);
		assert_int_equal(addr.sa.sa_family, AF_UNSPEC);
	}
	addr_from_sockaddr(&addr, &other, sizeof(other));
	assert_string_equal(addr_format(&addr, text), "unknown");
}

static void test_equal(void **state)
{
	static const char *const texts[] = {
		"127.0.0.1", "127.0.0.2", "::1", "::2", "fe80::1%1", "fe80::1%2"
	};
	union addr one, other;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		assert_int_equal(addr_parse_numeric(texts[i], strlen(texts[i]), 80, &one), 0);
		for (size_t k = 0; k < ARRAY_SIZE(texts); k++) {
			assert_int_equal(addr_parse_numeric(texts[k], strlen(texts[k]), 80, &other), 0);
			assert_int_equal(addr_is_equal(&one, &other), i == k);
		}
		assert_int_equal(addr_parse_numeric(texts[i], strlen(texts[i]), 81, &other), 0);
		assert_false(addr_is_equal(&one, &other));
	}
}

struct split_case {
	const char *text;
	uint16_t minimum;
	int result;
	const char *host;
	uint16_t port;
};

static const struct split_case split_cases[] = {
	{ "localhost:80", 1, 0, "localhost", 80 },
	{ "127.0.0.1:65535", 1, 0, "127.0.0.1", 65535 },
	{ "[::1]:8080", 1, 0, "::1", 8080 },
	{ "[fe80::1%eth0]:1", 1, 0, "fe80::1%eth0", 1 },
	{ "[name]:1", 1, 0, "name", 1 },
	{ ":80", 1, 0, "", 80 },
	{ ":0", 0, 0, "", 0 },
	{ "a b:80", 1, 0, "a b", 80 },
	{ "x:080", 1, 0, "x", 80 },
	{ ":0", 1, -ERANGE, NULL, 0 },
	{ "a:65536", 0, -ERANGE, NULL, 0 },
	{ "a:65616", 0, -ERANGE, NULL, 0 },
	{ "a:99999999999999999999999", 0, -ERANGE, NULL, 0 },
	{ "", 0, -EINVAL, NULL, 0 },
	{ "a", 0, -EINVAL, NULL, 0 },
	{ "80", 0, -EINVAL, NULL, 0 },
	{ "a:", 0, -EINVAL, NULL, 0 },
	{ ":", 0, -EINVAL, NULL, 0 },
	{ "a:b", 0, -EINVAL, NULL, 0 },
	{ "a:8 ", 0, -EINVAL, NULL, 0 },
	{ "a: 8", 0, -EINVAL, NULL, 0 },
	{ "a:+8", 0, -EINVAL, NULL, 0 },
	{ "a:-1", 0, -EINVAL, NULL, 0 },
	{ "a:b:80", 0, -EINVAL, NULL, 0 },
	{ "::1:80", 0, -EINVAL, NULL, 0 },
	{ "[]:80", 0, -EINVAL, NULL, 0 },
	{ "[:80", 0, -EINVAL, NULL, 0 },
	{ "]:80", 0, -EINVAL, NULL, 0 },
	{ "[::1:80", 0, -EINVAL, NULL, 0 },
	{ "[::1]80", 0, -EINVAL, NULL, 0 },
	{ "[::1]", 0, -EINVAL, NULL, 0 },
	{ "[::1]x:80", 0, -EINVAL, NULL, 0 },
	{ "x[::1]:80", 0, -EINVAL, NULL, 0 },
	{ "[[::1]]:80", 0, -EINVAL, NULL, 0 },
};

static void test_split(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(split_cases); i++) {
		const struct split_case *expected = &split_cases[i];
		const char *host = NULL;
		size_t length = 4711;
		uint16_t port = 4711;
		int r = addr_split(expected->text, expected->minimum, &host, &length, &port);

		if (r != expected->result)
			print_error("text: '%s'\n", expected->text);
		assert_int_equal(r, expected->result);
		if (r == 0) {
			assert_int_equal(length, strlen(expected->host));
			assert_memory_equal(host, expected->host, length);
			assert_int_equal(port, expected->port);
		} else {
			assert_null(host);
			assert_int_equal(length, 4711);
			assert_int_equal(port, 4711);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_numeric),         cmocka_unit_test(test_numeric_reads_only_its_length),
		cmocka_unit_test(test_scope_by_name),   cmocka_unit_test(test_longest_text_fits),
		cmocka_unit_test(test_from_the_kernel), cmocka_unit_test(test_from_less_than_an_address),
		cmocka_unit_test(test_equal),           cmocka_unit_test(test_split),
	};

	return FIXTURE_RUN(tests);
}
