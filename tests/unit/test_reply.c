/*
 * What a client that asked for reasons is told.
 */
#include "fixture.h"

#include <stdio.h>
#include <string.h>

#include "base/macros.h"
#include "proto/reply.h"

static const struct {
	enum reply_code code;
	const char *name;
} codes[] = {
	{ REPLY_NOT_FOUND, "not-found" }, { REPLY_DENIED, "denied" }, { REPLY_UNAVAILABLE, "unavailable" },
	{ REPLY_TIMEOUT, "timeout" },     { REPLY_LIMIT, "limit" },   { REPLY_INVALID, "invalid" },
	{ REPLY_LOOP, "loop" },
};

static void codes_are_named_as_the_protocol_does(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
		assert_string_equal(reply_code_name(codes[i].code), codes[i].name);
}

static void an_error_is_one_line_of_code_and_text(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
		char line[REPLY_LINE_MAX], begin[32];
		size_t length = reply_format_error(line, sizeof(line), codes[i].code);

		snprintf(begin, sizeof(begin), "-%s ", codes[i].name);
		assert_int_equal(length, strlen(line));
		assert_true(length < REPLY_LINE_MAX - 1);
		assert_memory_equal(line, begin, strlen(begin));
		assert_true(length > strlen(begin) + 2);
		assert_string_equal(line + length - 2, "\r\n");
		for (size_t at = 0; at < length - 2; at++)
			assert_in_range(line[at], 0x20, 0x7e);
	}
}

static void an_unknown_service_reads_so(void **state)
{
	char line[REPLY_LINE_MAX];

	(void)state;
	reply_format_error(line, sizeof(line), REPLY_NOT_FOUND);
	assert_string_equal(line, "-not-found no such service\r\n");
}

static void a_small_buffer_is_never_overrun(void **state)
{
	char line[8] = "untouch";

	(void)state;
	assert_int_equal(reply_format_error(line, 0, REPLY_LOOP), 0);
	assert_string_equal(line, "untouch");
	assert_int_equal(reply_format_error(line, sizeof(line), REPLY_LOOP), 7);
	assert_string_equal(line, "-loop t");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(codes_are_named_as_the_protocol_does),
		cmocka_unit_test(an_error_is_one_line_of_code_and_text),
		cmocka_unit_test(an_unknown_service_reads_so),
		cmocka_unit_test(a_small_buffer_is_never_overrun),
	};

	return FIXTURE_RUN(tests);
}
