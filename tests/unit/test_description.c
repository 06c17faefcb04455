/*
 * Service descriptions: what a file means, and what is said about one that means nothing.
 */
#include "fixture.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "proto/description.h"

#define BYTES(literal) (literal), sizeof(literal) - 1

struct valid_case {
	const char *bytes;
	enum description_kind kind;
	const char *host; /* TCP, KAISO; the SOCKET otherwise */
	uint16_t port;    /* the knock port otherwise */
	const char *service;
};

static const struct valid_case valid_cases[] = {
	{ "localhost:80", DESCRIPTION_TCP, "localhost", 80, "" },
	{ "a-b_c.example:1", DESCRIPTION_TCP, "a-b_c.example", 1, "" },
	{ "127.0.0.1:65535", DESCRIPTION_TCP, "127.0.0.1", 65535, "" },
	{ "127.0.0.1:0080", DESCRIPTION_TCP, "127.0.0.1", 80, "" },
	{ "[::1]:80", DESCRIPTION_TCP, "::1", 80, "" },
	{ "[::ffff:192.0.2.1]:80", DESCRIPTION_TCP, "::ffff:192.0.2.1", 80, "" },
	{ "[fe80::1%eth0.7]:80", DESCRIPTION_TCP, "fe80::1%eth0.7", 80, "" },
	{ "srv:80", DESCRIPTION_TCP, "srv", 80, "" },
	{ "passfd:80", DESCRIPTION_TCP, "passfd", 80, "" },

	{ "host:37812 foo", DESCRIPTION_KAISO, "host", 37812, "foo" },
	{ "host:37812 \t  a/b c", DESCRIPTION_KAISO, "host", 37812, "a/b c" },
	{ "[::1]:37812 foo  bar", DESCRIPTION_KAISO, "::1", 37812, "foo  bar" },
	{ "host:1 passfd", DESCRIPTION_KAISO, "host", 1, "passfd" },
	{ "host:1 a:b passfd:80", DESCRIPTION_KAISO, "host", 1, "a:b passfd:80" },
	{ "srv:80 foo", DESCRIPTION_KAISO, "srv", 80, "foo" },
	{ "host:1 caf\xc3\xa9", DESCRIPTION_KAISO, "host", 1, "caf\xc3\xa9" },

	{ "host:80 /", DESCRIPTION_MOUNT, "host", 80, "" },
	{ "host:80 dir/", DESCRIPTION_MOUNT, "host", 80, "dir" },
	{ "[::1]:80  a b/c /", DESCRIPTION_MOUNT, "::1", 80, "a b/c " },
	{ "srv:_kaiso._tcp.example /", DESCRIPTION_MOUNT, "_kaiso._tcp.example", 0, "" },
	{ "srv:fleet a/", DESCRIPTION_MOUNT, "fleet", 0, "a" },

	{ "srv:_http._tcp.example.org", DESCRIPTION_SRV, "_http._tcp.example.org", 0, "" },
	{ "srv:_http._tcp.example.org.", DESCRIPTION_SRV, "_http._tcp.example.org.", 0, "" },
	{ "srv:web.service.consul a/b c", DESCRIPTION_SRV, "web.service.consul", 0, "a/b c" },
	{ "srv:80x", DESCRIPTION_SRV, "80x", 0, "" },

	{ "sock", DESCRIPTION_UNIX, "sock", 0, "" },
	{ "/run/x.sock", DESCRIPTION_UNIX, "/run/x.sock", 0, "" },
	{ "/run/a:b", DESCRIPTION_UNIX, "/run/a:b", 0, "" },
	{ "./a:b", DESCRIPTION_UNIX, "./a:b", 0, "" },
	{ "../host:80", DESCRIPTION_UNIX, "../host:80", 0, "" },
	{ "./ foo", DESCRIPTION_UNIX, "./ foo", 0, "" },
	{ "./#foo", DESCRIPTION_UNIX, "./#foo", 0, "" },
	{ "./srv:foo", DESCRIPTION_UNIX, "./srv:foo", 0, "" },
	{ "two words", DESCRIPTION_UNIX, "two words", 0, "" },
	{ "word host:80", DESCRIPTION_UNIX, "word host:80", 0, "" },
	{ ".hidden/sock", DESCRIPTION_UNIX, ".hidden/sock", 0, "" },
	{ "passfd", DESCRIPTION_UNIX, "passfd", 0, "" },
	{ "sock passfdx", DESCRIPTION_UNIX, "sock passfdx", 0, "" },
	{ "sock passfd x", DESCRIPTION_UNIX, "sock passfd x", 0, "" },
	{ "sock xpassfd:0", DESCRIPTION_UNIX, "sock xpassfd:0", 0, "" },
	{ "s\xc3\xb6"
	  "ck",
	  DESCRIPTION_UNIX,
	  "s\xc3\xb6"
	  "ck",
	  0, "" },

	{ "sock passfd", DESCRIPTION_PASSFD, "sock", 0, "" },
	{ "sock \t passfd", DESCRIPTION_PASSFD, "sock", 0, "" },
	{ "sock passfd:8080", DESCRIPTION_PASSFD, "sock", 8080, "" },
	{ "two words  passfd:1", DESCRIPTION_PASSFD, "two words", 1, "" },
	{ "passfd passfd", DESCRIPTION_PASSFD, "passfd", 0, "" },
	{ "sock passfd passfd", DESCRIPTION_PASSFD, "sock passfd", 0, "" },
	{ "./a:b passfd:65535", DESCRIPTION_PASSFD, "./a:b", 65535, "" },
	{ "/run/a b passfd", DESCRIPTION_PASSFD, "/run/a b", 0, "" },
};

static void assert_text(struct description_text text, const char *expected)
{
	assert_non_null(text.start);
	assert_int_equal(text.length, strlen(expected));
	assert_memory_equal(text.start, expected, text.length);
}

/* Parses out of storage that ends where the file does. */
static void assert_valid(const char *bytes, size_t length, const struct valid_case *expected)
{
	struct description description;
	struct description_error error = { 77, "untouched" };
	char *file = malloc(length + 1);
	bool is_network = expected->kind != DESCRIPTION_UNIX && expected->kind != DESCRIPTION_PASSFD;

	assert_non_null(file);
	memcpy(file + 1, bytes, length);
	if (description_parse(file + 1, length, &description, &error) != 0)
		fail_msg("\"%.*s\": line %u: %s", (int)length, bytes, error.line, error.reason);
	assert_int_equal(error.line, 77);
	assert_string_equal(error.reason, "untouched");
	assert_int_equal(description.kind, expected->kind);
	assert_text(description.target, expected->bytes);
	assert_text(description.host, is_network ? expected->host : "");
	assert_int_equal(description.port, is_network ? expected->port : 0);
	assert_int_equal(description.is_srv, is_network && expected->port == 0);
	assert_text(description.service, expected->service);
	assert_text(description.socket, is_network ? "" : expected->host);
	assert_int_equal(description.knock_port, is_network ? 0 : expected->port);
	free(file);
}

static void a_first_line_is_a_target(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(valid_cases); i++)
		assert_valid(valid_cases[i].bytes, strlen(valid_cases[i].bytes), &valid_cases[i]);
}

static void line_ends_blanks_and_comments_do_no_harm(void **state)
{
	static const char *const endings[] = {
		"\n",        "\r\n",
		" ",         "\t \t",
		"  \n",      " \r\n",
		"\n\n",      "\n\r\n \t\r\n",
		"\n# about", "\n\t#\xff\x01\r\n\n",
	};
	char bytes[256];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(valid_cases); i++) {
		for (size_t ending = 0; ending < ARRAY_SIZE(endings); ending++) {
			int length =
				snprintf(bytes, sizeof(bytes), "%s%s", valid_cases[i].bytes, endings[ending]);

			assert_valid(bytes, (size_t)length, &valid_cases[i]);
		}
	}
}

struct invalid_case {
	const char *bytes;
	size_t length;
	unsigned line;
	const char *reason; /* occurs in what is said */
};

static const struct invalid_case invalid_cases[] = {
	{ BYTES(""), 1, "blank" },
	{ BYTES("\n"), 1, "blank" },
	{ BYTES(" \t\r\n"), 1, "blank" },
	{ BYTES("\nhost:80\n"), 1, "blank" },
	{ BYTES("#host:80"), 1, "./NAME" },
	{ BYTES(" host:80"), 1, "./NAME" },
	{ BYTES("\tsock"), 1, "./NAME" },
	{ BYTES("so\rck"), 1, "control byte (0x0d)" },
	{ BYTES("sock\r"), 1, "control byte (0x0d)" },
	{ BYTES("sock\r\r\n"), 1, "control byte (0x0d)" },
	{ BYTES("host:80 a\x1b[2J"), 1, "control byte (0x1b)" },
	{ BYTES("sock\x7f"), 1, "control byte (0x7f)" },
	{ BYTES("host:80\0"), 1, "NUL" },
	{ BYTES("\0"), 1, "NUL" },
	{ BYTES("host:80\n# a\n\n \0"), 4, "NUL" },
	{ BYTES("host:80\nabout x\n\0"), 3, "NUL" },

	{ BYTES("host:0"), 1, "port 0 is not between 1 and 65535" },
	{ BYTES("host:65536"), 1, "port 65536 is not between 1 and 65535" },
	{ BYTES("host:65616"), 1, "port 65616 is not between 1 and 65535" },
	{ BYTES("host:18446744073709551696"), 1, "port 18446744073709551696 is not between" },
	{ BYTES("host:111111111111111111111111111111111111111111111111111"), 1,
	  "port 111111111111111111111111111111111111... is not" },
	{ BYTES("host:"), 1, "no port" },
	{ BYTES("host: foo"), 1, "no port" },
	{ BYTES("host:http"), 1,
	  "port http is not a number; a socket whose name holds a colon is written ./a:b" },
	{ BYTES("host:+80"), 1, "not a number" },
	{ BYTES("host:-1"), 1, "not a number" },
	{ BYTES("host:0x50"), 1, "not a number" },
	{ BYTES("host:80/foo"), 1, "not a number" },
	{ BYTES(":80"), 1, "no host before ':80'" },
	{ BYTES(":"), 1, "no host" },
	{ BYTES("a:b:c"), 1, "a socket whose name holds a colon is written ./a:b" },
	{ BYTES("host:80:"), 1, "more than one colon" },
	{ BYTES("dir/a:80"), 1, "a socket whose name holds a colon is written ./a:b" },
	{ BYTES("h\xc3\xb6st:80"), 1, "h??st is not the name of a host" },
	{ BYTES("%:80"), 1, "not the name of a host" },

	{ BYTES("::1:80"), 1, "an IPv6 address needs brackets: [::1]:80" },
	{ BYTES("::1"), 1, "an IPv6 address needs brackets" },
	{ BYTES("1:2:3:4:5:6:7:8:80"), 1, "an IPv6 address needs brackets" },
	{ BYTES("fe80::1%eth0:80"), 1, "an IPv6 address needs brackets" },
	{ BYTES("[::1:80"), 1, "no ']'" },
	{ BYTES("[::1]"), 1, "no ':PORT'" },
	{ BYTES("[::1]80"), 1, "no ':PORT'" },
	{ BYTES("[::1]x:80"), 1, "no ':PORT'" },
	{ BYTES("[::1]:"), 1, "no port" },
	{ BYTES("[::1]:0"), 1, "port 0 is not" },
	{ BYTES("[::1]:80:90"), 1, "not a number" },
	{ BYTES("[]:80"), 1, "not an IPv6 address" },
	{ BYTES("[::g]:80"), 1, "::g is not an IPv6 address" },
	{ BYTES("[127.0.0.1]:80"), 1, "127.0.0.1 is not an IPv6 address" },
	{ BYTES("[localhost]:80"), 1, "not an IPv6 address" },
	{ BYTES("[0000:0000:0000:0000:0000:0000:0000:0000:0000:0000]:80"), 1, "not an IPv6 address" },
	{ BYTES("[%eth0]:80"), 1, "not an IPv6 address" },
	{ BYTES("[fe80::1%]:80"), 1, "scope" },
	{ BYTES("[fe80::1%a/b]:80"), 1, "scope" },
	{ BYTES("[fe80::1%a%b]:80"), 1, "scope" },

	{ BYTES("host:80 dir//"), 1, "empty component" },
	{ BYTES("host:80 //"), 1, "begins with a slash" },
	{ BYTES("host:80 .hid/"), 1, "begins with a dot" },
	{ BYTES("host:80 .hid"), 1, "begins with a dot" },
	{ BYTES("host:80 a/../b"), 1, "begins with a dot" },
	{ BYTES("host:80 .kaiso/version"), 1, "begins with a dot" },
	{ BYTES("host:80 /foo"), 1, "begins with a slash" },
	{ BYTES("host:80 a//b"), 1, "empty component" },
	{ BYTES("host:80 a\tb"), 1, "control byte" },

	{ BYTES("srv:a b/../c"), 1, "begins with a dot" },
	{ BYTES("srv:a..b"), 1, "empty part" },
	{ BYTES("srv:.a"), 1, "empty part" },
	{ BYTES("srv:a:80"), 1, "no name behind 'srv:'" },
	{ BYTES("srv:a/b"), 1, "no name behind 'srv:'" },
	{ BYTES("srv:aaaaaaaabbbbbbbbccccccccddddddddeeeeeeeeffffffffgggggggghhhhhhhh.x"), 1,
	  "longer than 63 bytes" },
	{ BYTES("srv:"), 1, "no port" },
	{ BYTES("srv:65616"), 1, "port 65616" },

	{ BYTES("sock passfd:0"), 1, "port 0 is not between 1 and 65535" },
	{ BYTES("sock passfd:70000"), 1, "port 70000 is not between 1 and 65535" },
	{ BYTES("sock passfd:x"), 1, "port x is not a number" },
	{ BYTES("sock passfd:"), 1, "no port" },
	{ BYTES("./a:b passfd:80x"), 1, "port 80x is not a number" },
	{ BYTES("a:b passfd"), 1, "port b is not a number" },

	{ BYTES("host:80\nabot Something\n"), 2, "no option is called abot" },
	{ BYTES("sock\r\n# fine\r\n\r\n\tmax-sessions five\r\n"), 4, "max-sessions five: it is a number" },
	{ BYTES("sock\nallow\x1b\xff\n"), 2, "control byte (0x1b)" },
	{ BYTES("sock\n[more]\n"), 2, "[more]" },
	{ BYTES("sock\na-key-that-goes-on-and-on-and-on-and-on-and-on x\n"), 2,
	  "a-key-that-goes-on-and-on-and-on-and..." },
	{ BYTES("sock\n\nbackend host:x\n"), 3, "port x is not a number" },
	{ BYTES("sock\nbackend host:80 /\n"), 2, "a mount beside a target that is none" },
	{ BYTES("host:1 /\nbackend other:1 /\nbackend other:1 a\n"), 3,
	  "a mount beside a target that is none" },
	{ BYTES("sock passfd\nproxy v1\n"), 2, "no header of the PROXY protocol can be sent ahead" },
	{ BYTES("sock passfd:80\nabout x\nproxy v2\n"), 3,
	  "no header of the PROXY protocol can be sent ahead" },
};

static void assert_invalid(const char *bytes, size_t length, unsigned line, const char *reason)
{
	struct description description, untouched;
	struct description_error error = { 77, "" };
	char *file = malloc(length + 1);

	assert_non_null(file);
	memcpy(file + 1, bytes, length);
	memset(&untouched, 0x5a, sizeof(untouched));
	description = untouched;
	if (description_parse(file + 1, length, &description, &error) != -EINVAL)
		fail_msg("\"%.*s\" was accepted", (int)length, bytes);
	if (error.line != line || !strstr(error.reason, reason))
		fail_msg("\"%s\": line %u: %s; expected line %u: %s", bytes, error.line, error.reason, line,
			 reason);
	for (const char *byte = error.reason; *byte; byte++)
		assert_in_range(*byte, 0x20, 0x7e);
	/* Cut short is what would fill the whole array. */
	assert_true(strlen(error.reason) < sizeof(error.reason) - 1);
	assert_memory_equal(&description, &untouched, sizeof(description));
	free(file);
}

static void what_is_wrong_is_told_with_its_line(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(invalid_cases); i++) {
		const struct invalid_case *invalid = &invalid_cases[i];

		assert_invalid(invalid->bytes, invalid->length, invalid->line, invalid->reason);
	}
}

static void a_file_of_no_bytes_needs_no_storage(void **state)
{
	struct description description;
	struct description_error error;

	(void)state;
	assert_int_equal(description_parse(NULL, 0, &description, &error), -EINVAL);
	assert_int_equal(error.line, 1);
}

static void a_file_may_hold_64_kib(void **state)
{
	static char bytes[DESCRIPTION_SIZE_MAX + 1] = "host:80\n#";
	const struct valid_case expected = { "host:80", DESCRIPTION_TCP, "host", 80, "" };

	(void)state;
	memset(bytes + 9, 'x', sizeof(bytes) - 9);
	assert_valid(bytes, DESCRIPTION_SIZE_MAX, &expected);
	assert_invalid(bytes, DESCRIPTION_SIZE_MAX + 1, 0, "larger than 65536 bytes");
}

static void a_host_may_have_253_bytes(void **state)
{
	char bytes[300], host[255];
	struct valid_case expected = { bytes, DESCRIPTION_TCP, host, 80, "" };

	(void)state;
	memset(host, 'h', sizeof(host));
	host[253] = '\0';
	snprintf(bytes, sizeof(bytes), "%s:80", host);
	assert_valid(bytes, strlen(bytes), &expected);
	host[253] = 'h';
	host[254] = '\0';
	snprintf(bytes, sizeof(bytes), "%s:80", host);
	assert_invalid(bytes, strlen(bytes), 1, "longer than 253 bytes");
}

static void a_socket_may_have_4095_bytes(void **state)
{
	static char bytes[4200];
	static char socket[4097];
	struct valid_case expected = { bytes, DESCRIPTION_UNIX, socket, 0, "" };

	(void)state;
	memset(socket, 's', 4095);
	strcpy(bytes, socket);
	assert_valid(bytes, strlen(bytes), &expected);
	expected.kind = DESCRIPTION_PASSFD;
	strcat(bytes, " passfd");
	assert_valid(bytes, strlen(bytes), &expected);
	memset(bytes, 's', 4096);
	bytes[4096] = '\0';
	assert_invalid(bytes, strlen(bytes), 1, "longer than 4095 bytes");
	strcat(bytes, " passfd");
	assert_invalid(bytes, strlen(bytes), 1, "longer than 4095 bytes");
}

static void a_service_may_have_4094_bytes(void **state)
{
	static char bytes[4200] = "host:80 ";

	(void)state;
	memset(bytes + 8, 's', 4094);
	assert_valid(bytes, 8 + 4094,
		     &(struct valid_case){ bytes, DESCRIPTION_KAISO, "host", 80, bytes + 8 });
	bytes[8 + 4094] = 's';
	assert_invalid(bytes, 8 + 4095, 1, "too long");
}

static void kinds_have_the_words_of_detailed_lists(void **state)
{
	(void)state;
	assert_string_equal(description_kind_name(DESCRIPTION_TCP), "tcp");
	assert_string_equal(description_kind_name(DESCRIPTION_KAISO), "kaiso");
	assert_string_equal(description_kind_name(DESCRIPTION_UNIX), "unix");
	assert_string_equal(description_kind_name(DESCRIPTION_PASSFD), "passfd");
	assert_string_equal(description_kind_name(DESCRIPTION_MOUNT), "mount");
	assert_string_equal(description_kind_name(DESCRIPTION_SRV), "srv");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_first_line_is_a_target),
		cmocka_unit_test(line_ends_blanks_and_comments_do_no_harm),
		cmocka_unit_test(what_is_wrong_is_told_with_its_line),
		cmocka_unit_test(a_file_of_no_bytes_needs_no_storage),
		cmocka_unit_test(a_file_may_hold_64_kib),
		cmocka_unit_test(a_host_may_have_253_bytes),
		cmocka_unit_test(a_socket_may_have_4095_bytes),
		cmocka_unit_test(a_service_may_have_4094_bytes),
		cmocka_unit_test(kinds_have_the_words_of_detailed_lists),
	};

	return FIXTURE_RUN(tests);
}
