/*
 * Service paths: what a client may name and what a list may show.
 */
#include "fixture.h"

#include <string.h>

#include "base/macros.h"
#include "proto/path.h"

/* Bytes that may hold a NUL. */
#define BYTES(literal) (literal), sizeof(literal) - 1

struct path_case {
	const char *path;
	size_t length;
	enum path_verdict verdict;
};

static const struct path_case path_cases[] = {
	{ BYTES("foo"), PATH_OK },
	{ BYTES("foo/bar"), PATH_OK },
	{ BYTES("a/b/c/d/e"), PATH_OK },
	{ BYTES("foo "), PATH_OK },
	{ BYTES(" foo"), PATH_OK },
	{ BYTES(" "), PATH_OK },
	{ BYTES("Foo.bar"), PATH_OK },
	{ BYTES("foo."), PATH_OK },
	{ BYTES("foo../bar.."), PATH_OK },
	{ BYTES("caf\xc3\xa9/\xe8\xa7\xa3"), PATH_OK },
	{ BYTES("\x80\xff"), PATH_OK },
	{ BYTES("\\..\\x"), PATH_OK },
	{ BYTES("~"), PATH_OK },

	{ BYTES(""), PATH_EMPTY },

	{ BYTES("/"), PATH_LEADING_SLASH },
	{ BYTES("//"), PATH_LEADING_SLASH },
	{ BYTES("/foo"), PATH_LEADING_SLASH },
	{ BYTES("/.hid"), PATH_LEADING_SLASH },

	{ BYTES("foo/"), PATH_EMPTY_COMPONENT },
	{ BYTES("foo//"), PATH_EMPTY_COMPONENT },
	{ BYTES("foo//bar"), PATH_EMPTY_COMPONENT },
	{ BYTES("d//.hid"), PATH_EMPTY_COMPONENT },

	{ BYTES("."), PATH_HIDDEN },
	{ BYTES(".."), PATH_HIDDEN },
	{ BYTES("..."), PATH_HIDDEN },
	{ BYTES(".hid"), PATH_HIDDEN },
	{ BYTES("d/.hid"), PATH_HIDDEN },
	{ BYTES("d/../.hid"), PATH_HIDDEN },
	{ BYTES("d/../foo"), PATH_HIDDEN },
	{ BYTES("./foo"), PATH_HIDDEN },
	{ BYTES(".h/s"), PATH_HIDDEN },
	{ BYTES("a/b/.c/d"), PATH_HIDDEN },
	{ BYTES(".kaiso/version"), PATH_HIDDEN },

	{ BYTES("foo\0junk"), PATH_CONTROL_BYTE },
	{ BYTES("foo\r"), PATH_CONTROL_BYTE },
	{ BYTES("foo\nbar"), PATH_CONTROL_BYTE },
	{ BYTES("foo\tbar"), PATH_CONTROL_BYTE },
	{ BYTES("d/\x1f"), PATH_CONTROL_BYTE },
	{ BYTES("foo\x7f"), PATH_CONTROL_BYTE },
	{ BYTES("\x1b[2J/foo"), PATH_CONTROL_BYTE },
};

static void a_path_is_judged_by_its_components(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(path_cases); i++) {
		const struct path_case *path = &path_cases[i];
		enum path_verdict verdict = path_check(path->path, path->length);

		if (verdict != path->verdict)
			fail_msg("\"%s\": %s, expected %s", path->path, path_verdict_text(verdict),
				 path_verdict_text(path->verdict));
	}
}

static void every_control_byte_is_refused_and_no_other(void **state)
{
	(void)state;
	for (int byte = 0; byte <= 0xff; byte++) {
		char path[] = { 'a', '/', 'b', (char)byte, 'c' };
		enum path_verdict expected = byte < 0x20 || byte == 0x7f ? PATH_CONTROL_BYTE : PATH_OK;

		assert_int_equal(path_check(path, sizeof(path)), expected);
	}
}

static void a_path_may_be_as_long_as_a_line_carries(void **state)
{
	static char path[PATH_LENGTH_MAX + 1];

	(void)state;
	memset(path, 'x', sizeof(path));
	assert_int_equal(path_check(path, PATH_LENGTH_MAX), PATH_OK);
	assert_int_equal(path_check(path, PATH_LENGTH_MAX + 1), PATH_TOO_LONG);
	assert_int_equal(path_check_component(path, PATH_LENGTH_MAX + 1), PATH_TOO_LONG);
	/* The whole counts, not only each component. */
	path[2000] = '/';
	assert_int_equal(path_check(path, PATH_LENGTH_MAX), PATH_OK);
	assert_int_equal(path_check(path, PATH_LENGTH_MAX + 1), PATH_TOO_LONG);
}

static void a_name_is_listed_when_a_line_can_carry_it(void **state)
{
	(void)state;
	assert_int_equal(path_check_component(BYTES("foo bar")), PATH_OK);
	assert_int_equal(path_check_component(BYTES("a:b")), PATH_OK);
	assert_int_equal(path_check_component(BYTES("")), PATH_EMPTY);
	assert_int_equal(path_check_component(BYTES(".kaiso")), PATH_HIDDEN);
	assert_int_equal(path_check_component(BYTES("foo\r\nforged")), PATH_CONTROL_BYTE);
}

static void every_verdict_has_words_of_its_own(void **state)
{
	(void)state;
	for (int verdict = PATH_OK; verdict <= PATH_CONTROL_BYTE; verdict++) {
		assert_string_not_equal(path_verdict_text((enum path_verdict)verdict), "unknown");
		for (int other = PATH_OK; other < verdict; other++)
			assert_string_not_equal(path_verdict_text((enum path_verdict)verdict),
						path_verdict_text((enum path_verdict)other));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_path_is_judged_by_its_components),
		cmocka_unit_test(every_control_byte_is_refused_and_no_other),
		cmocka_unit_test(a_path_may_be_as_long_as_a_line_carries),
		cmocka_unit_test(a_name_is_listed_when_a_line_can_carry_it),
		cmocka_unit_test(every_verdict_has_words_of_its_own),
	};

	return FIXTURE_RUN(tests);
}
