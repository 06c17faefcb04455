/*
 * Bytes made fit for a terminal, a pipe and JSON.
 */
#include "fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "base/text.h"

struct text_case {
	const char *text;
	const char *visible;
	size_t columns;
	const char *plain;
	const char *json;
};

static const struct text_case cases[] = {
	{ "", "", 0, "", "\"\"" },
	{ "web/a b", "web/a b", 7, "web/a b", "\"web/a b\"" },
	{ "a\"b\\c", "a\"b\\c", 5, "a\"b\\c", "\"a\\\"b\\\\c\"" },
	{ "\x1b[2J\t\n\x7f", "\\x1b[2J\\x09\\x0a\\x7f", 19, "\\x1b[2J\\x09\\x0a\\x7f",
	  "\"\\u001b[2J\\u0009\\u000a\\u007f\"" },
	{ "\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\x9f", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\x9f", 3,
	  "\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\x9f", "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\x9f\"" },
	/* C1, and a line's end of Unicode */
	{ "\xc2\x9b"
	  "2J\xe2\x80\xa8",
	  "\\xc2\\x9b2J\\xe2\\x80\\xa8", 22,
	  "\xc2\x9b"
	  "2J\xe2\x80\xa8",
	  "\"\\u009b2J\\u2028\"" },
	/* alone, cut short, overlong, a surrogate, beyond the last */
	{ "\xff", "\\xff", 4, "\xff", "\"\\udcff\"" },
	{ "a\xc3", "a\\xc3", 5, "a\xc3", "\"a\\udcc3\"" },
	{ "\xc3z", "\\xc3z", 5, "\xc3z", "\"\\udcc3z\"" },
	{ "\xc0\xaf", "\\xc0\\xaf", 8, "\xc0\xaf", "\"\\udcc0\\udcaf\"" },
	{ "\xe0\x80\xaf", "\\xe0\\x80\\xaf", 12, "\xe0\x80\xaf", "\"\\udce0\\udc80\\udcaf\"" },
	{ "\xed\xa0\x80", "\\xed\\xa0\\x80", 12, "\xed\xa0\x80", "\"\\udced\\udca0\\udc80\"" },
	{ "\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80", 16, "\xf4\x90\x80\x80",
	  "\"\\udcf4\\udc90\\udc80\\udc80\"" },
};

/* Each ends the text in stream, of which only so much is looked at as was written. */
static void expect_written(FILE *stream, char **text, const char *expected)
{
	assert_int_equal(fclose(stream), 0);
	assert_string_equal(*text, expected);
	free(*text);
}

static void test_writers(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		size_t length = strlen(cases[i].text);
		/* Exactly as long, so that a sanitizer sees a byte too many. */
		char *bytes = memcpy(malloc(length + 1), cases[i].text, length);
		char *text;
		size_t size;
		FILE *stream = open_memstream(&text, &size);

		bytes = realloc(bytes, length + (length == 0));
		assert_int_equal(text_write_visible(NULL, bytes, length), cases[i].columns);
		assert_int_equal(text_write_visible(stream, bytes, length), cases[i].columns);
		expect_written(stream, &text, cases[i].visible);
		stream = open_memstream(&text, &size);
		text_write_plain(stream, bytes, length);
		expect_written(stream, &text, cases[i].plain);
		stream = open_memstream(&text, &size);
		text_write_json(stream, bytes, length);
		expect_written(stream, &text, cases[i].json);
		free(bytes);
	}
}

static void test_nul_is_a_byte_like_others(void **state)
{
	char *text;
	size_t size;
	FILE *stream = open_memstream(&text, &size);

	(void)state;
	assert_int_equal(text_write_visible(stream, "a\0b", 3), 6);
	text_write_plain(stream, "\0", 1);
	text_write_json(stream, "\0", 1);
	expect_written(stream, &text, "a\\x00b\\x00\"\\u0000\"");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_writers),
		cmocka_unit_test(test_nul_is_a_byte_like_others),
	};

	return FIXTURE_RUN(tests);
}
