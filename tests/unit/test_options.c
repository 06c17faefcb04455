/* Option lines, and who may by them. */
#include "fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"
#include "proto/options.h"

static struct description_text text_of(const char *string)
{
	return (struct description_text){ string, strlen(string) };
}

/* ---- lines ----------------------------------------------------------------------------------------- */

struct line_case {
	const char *line;
	enum option_key key;
	const char *value;
	uint64_t number;
};

static const struct line_case line_cases[] = {
	{ "about A page for caf\xc3\xa9s", OPTION_ABOUT, "A page for caf\xc3\xa9s", 0 },
	{ "\t about \t x  y \t\r\n", OPTION_ABOUT, "x  y", 0 },
	{ "backend 127.0.0.1:80", OPTION_BACKEND, "127.0.0.1:80", 0 },
	{ "backend ./a b passfd", OPTION_BACKEND, "./a b passfd", 0 },
	{ "backend srv:_a._tcp.b foo", OPTION_BACKEND, "srv:_a._tcp.b foo", 0 },
	{ "balance first", OPTION_BALANCE, "first", BALANCE_FIRST },
	{ "balance round-robin", OPTION_BALANCE, "round-robin", BALANCE_ROUND_ROBIN },
	{ "balance least-sessions", OPTION_BALANCE, "least-sessions", BALANCE_LEAST_SESSIONS },
	{ "allow 127.0.0.1", OPTION_ALLOW, "127.0.0.1", 0 },
	{ "deny ::/0 10.0.0.0/8\t2001:db8::1", OPTION_DENY, "::/0 10.0.0.0/8\t2001:db8::1", 0 },
	{ "proxy v1", OPTION_PROXY, "v1", PROXY_V1 },
	{ "proxy v2", OPTION_PROXY, "v2", PROXY_V2 },
	{ "proxy none", OPTION_PROXY, "none", PROXY_NONE },
	{ "max-sessions 17", OPTION_MAX_SESSIONS, "17", 17 },
	{ "max-sessions 0", OPTION_MAX_SESSIONS, "0", 0 },
	{ "connect-timeout 500ms", OPTION_CONNECT_TIMEOUT, "500ms", 500 },
	{ "idle-timeout 5m", OPTION_IDLE_TIMEOUT, "5m", 300000 },
	{ "idle-timeout 0", OPTION_IDLE_TIMEOUT, "0", 0 },
};

static void every_option_has_its_value(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(line_cases); i++) {
		struct options_cursor cursor = options_begin(text_of(line_cases[i].line), 2);
		struct description_error error;
		struct option_line option;

		if (options_next(&cursor, &option, &error) != 1)
			fail_msg("\"%s\": %s", line_cases[i].line, error.reason);
		assert_int_equal(option.key, line_cases[i].key);
		assert_int_equal(option.value.length, strlen(line_cases[i].value));
		assert_memory_equal(option.value.start, line_cases[i].value, option.value.length);
		assert_int_equal(option.number, line_cases[i].number);
		assert_int_equal(cursor.line, 2);
		assert_int_equal(options_next(&cursor, &option, &error), 0);
	}
}

static void lines_are_counted_and_comments_left_out(void **state)
{
	struct options_cursor cursor =
		options_begin(text_of("# a\n\n \t# \x01\r\nabout x\n\nproxy v1\nbackend a\nbackend b"), 1);
	static const unsigned lines[] = { 4, 6, 7, 8 };
	struct description_error error;
	struct option_line option;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		assert_int_equal(options_next(&cursor, &option, &error), 1);
		assert_int_equal(cursor.line, lines[i]);
	}
	assert_int_equal(cursor.backends, 2);
	assert_int_equal(options_next(&cursor, &option, &error), 0);
}

struct fault_case {
	const char *text;
	unsigned line;
	const char *reason;
};

static const struct fault_case fault_cases[] = {
	{ "about\n", 1, "about without a value" },
	{ "About x\n", 1, "no option is called About" },
	{ "about x\nabout y\n", 2, "about stands there twice" },
	{ "proxy v1\n\nproxy v1\n", 3, "proxy stands there twice" },
	{ "about a\x02", 1, "control byte (0x02)" },
	{ "about a\rb", 1, "control byte (0x0d)" },
	{ "balance random", 1, "balance random: it is one of first, round-robin, least-sessions" },
	{ "balance first x", 1, "balance first x" },
	{ "proxy v3", 1, "proxy v3: it is one of v1, v2, none" },
	{ "max-sessions -1", 1, "max-sessions -1: it is a number" },
	{ "max-sessions 4294967296", 1, "it is a number" },
	{ "max-sessions 5 6", 1, "it is a number" },
	{ "connect-timeout 5", 1, "connect-timeout 5: a duration is like 500ms, 10s, 5m, or 0 for none" },
	{ "idle-timeout 99999999999999999999999999999999999999s", 1, "a duration is like" },
	{ "idle-timeout 1s 2s", 1, "a duration is like" },
	{ "backend :80", 1, "no host" },
	{ "allow all", 1, "all is not an address; it is like 192.0.2.0/24 or 2001:db8::/32" },
	{ "\nallow 10.0.0.0/33", 2, "10.0.0.0/33: the bits behind the '/' are a number from 0 to 32" },
	{ "deny ::1/129", 1, "a number from 0 to 128" },
	{ "deny ::1/", 1, "a number from 0 to 128" },
	{ "deny 10/8", 1, "10/8 is not an address" },
	{ "deny 10.0.0.1/8x", 1, "the bits" },
	{ "deny 127.0.0.1,127.0.0.2", 1, "is not an address" },
	{ "deny fe80::1%eth0", 1, "is not an address" },
};

static void faults_are_told_with_their_line(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(fault_cases); i++) {
		struct options_cursor cursor = options_begin(text_of(fault_cases[i].text), 1);
		struct description_error error;
		struct option_line option;
		int result;

		while ((result = options_next(&cursor, &option, &error)) > 0)
			;
		if (result != -EINVAL)
			fail_msg("\"%s\" was accepted", fault_cases[i].text);
		if (error.line != fault_cases[i].line || !strstr(error.reason, fault_cases[i].reason))
			fail_msg("\"%s\": line %u: %s", fault_cases[i].text, error.line, error.reason);
	}
}

static void backends_are_bounded(void **state)
{
	char text[1024] = "";
	struct options_cursor cursor;
	struct description_error error;
	struct option_line option;

	(void)state;
	for (int i = 0; i <= OPTIONS_BACKENDS_MAX; i++)
		strcat(text, "backend a\n");
	cursor = options_begin(text_of(text), 1);
	for (int i = 0; i < OPTIONS_BACKENDS_MAX; i++)
		assert_int_equal(options_next(&cursor, &option, &error), 1);
	assert_int_equal(options_next(&cursor, &option, &error), -EINVAL);
	assert_int_equal(error.line, OPTIONS_BACKENDS_MAX + 1);
}

/* ---- who may --------------------------------------------------------------------------------------- */

struct access_case {
	const char *allow, *deny;
	const char *address;
	bool may;
};

static const struct access_case access_cases[] = {
	{ "", "", "192.0.2.1", true },
	{ "", "192.0.2.1", "192.0.2.1", false },
	{ "", "192.0.2.1", "192.0.2.2", true },
	{ "192.0.2.0/24", "", "192.0.2.7", true },
	{ "192.0.2.0/24", "", "192.0.3.7", false },
	{ "192.0.2.9/24", "", "192.0.2.7", true },
	{ "192.0.2.0/24", "192.0.2.7", "192.0.2.7", false },
	{ "192.0.2.0/24", "192.0.2.7", "192.0.2.8", true },
	{ "192.0.2.7", "192.0.2.0/24", "192.0.2.7", true },
	{ "192.0.2.7", "192.0.2.0/24", "192.0.2.8", false },
	{ "192.0.2.0/24", "192.0.2.0/24", "192.0.2.8", false },
	{ "0.0.0.0/0", "", "192.0.2.1", true },
	{ "0.0.0.0/0", "", "2001:db8::1", false },
	{ "::/0", "", "192.0.2.1", true },
	{ "::/0", "0.0.0.0/0", "192.0.2.1", false },
	{ "2001:db8::/33", "", "2001:db8:7fff::1", true },
	{ "2001:db8::/33", "", "2001:db8:8000::1", false },
	{ "::1/128", "", "::1", true },
	{ "::ffff:192.0.2.0/120", "", "192.0.2.1", true },
	{ "10.0.0.0/9", "", "10.128.0.0", false },
	{ "10.0.0.0/9", "", "10.127.255.255", true },
};

static size_t add_rules(struct access_rule *rules, size_t count, const char *list, bool is_allowed)
{
	struct description_text rest = text_of(list);
	struct description_error error;

	while (access_rule_next(&rest, is_allowed, &rules[count], &error) == 1)
		count++;
	return count;
}

static void the_most_specific_rule_wins(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(access_cases); i++) {
		const struct access_case *expected = &access_cases[i];
		struct access_rule rules[8];
		struct in6_addr address = { .s6_addr = { [10] = 0xff, [11] = 0xff } };
		size_t count = add_rules(rules, 0, expected->allow, true);

		count = add_rules(rules, count, expected->deny, false);
		if (inet_pton(AF_INET6, expected->address, &address) != 1)
			assert_int_equal(inet_pton(AF_INET, expected->address, &address.s6_addr[12]), 1);
		if (access_is_allowed(rules, count, &address) != expected->may)
			fail_msg("allow %s, deny %s: %s", expected->allow, expected->deny, expected->address);
	}
}

static void keys_have_their_words(void **state)
{
	(void)state;
	assert_string_equal(option_key_name(OPTION_IDLE_TIMEOUT), "idle-timeout");
	assert_string_equal(balance_name(BALANCE_LEAST_SESSIONS), "least-sessions");
	assert_string_equal(proxy_version_name(PROXY_V2), "v2");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_option_has_its_value),
		cmocka_unit_test(lines_are_counted_and_comments_left_out),
		cmocka_unit_test(faults_are_told_with_their_line),
		cmocka_unit_test(backends_are_bounded),
		cmocka_unit_test(the_most_specific_rule_wins),
		cmocka_unit_test(keys_have_their_words),
	};

	return FIXTURE_RUN(tests);
}
