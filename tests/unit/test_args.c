/*
 * Numbers, durations and sizes: every notation, and every way to get one wrong.
 */
#include "fixture.h"

#include <errno.h>

#include "base/args.h"
#include "base/macros.h"

#define UNTOUCHED 4711u

struct number_case {
	const char *word;
	uint64_t minimum, maximum;
	int result;
	uint64_t value;
};

static const struct number_case number_cases[] = {
	{ "0", 0, 10, 0, 0 },
	{ "10", 0, 10, 0, 10 },
	{ "007", 0, 10, 0, 7 },
	{ "65535", 1, 65535, 0, 65535 },
	{ "18446744073709551615", 0, UINT64_MAX, 0, UINT64_MAX },
	{ "00000000000000000000000000000001", 0, 1, 0, 1 },
	{ "0", 1, 10, -ERANGE, 0 },
	{ "11", 0, 10, -ERANGE, 0 },
	{ "65616", 1, 65535, -ERANGE, 0 },
	{ "18446744073709551616", 0, UINT64_MAX, -ERANGE, 0 },
	{ "99999999999999999999999", 0, UINT64_MAX, -ERANGE, 0 },
	{ "", 0, 10, -EINVAL, 0 },
	{ " 1", 0, 10, -EINVAL, 0 },
	{ "1 ", 0, 10, -EINVAL, 0 },
	{ "+1", 0, 10, -EINVAL, 0 },
	{ "-1", 0, 10, -EINVAL, 0 },
	{ "0x1", 0, 10, -EINVAL, 0 },
	{ "1.0", 0, 10, -EINVAL, 0 },
	{ "1\n", 0, 10, -EINVAL, 0 },
	{ "99999999999999999999999x", 0, 10, -EINVAL, 0 },
	{ "\xd9\xa1", 0, 10, -EINVAL, 0 },
};

static void test_numbers(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(number_cases); i++) {
		const struct number_case *expected = &number_cases[i];
		uint64_t value = UNTOUCHED;
		int r = args_parse_number(expected->word, expected->minimum, expected->maximum, &value);

		if (r != expected->result)
			print_error("word: '%s'\n", expected->word);
		assert_int_equal(r, expected->result);
		assert_true(value == (r == 0 ? expected->value : UNTOUCHED));
	}
}

static void test_number_of_a_part_reads_no_further(void **state)
{
	const char text[] = { '1', '2', '3' };
	uint64_t value = UNTOUCHED;

	(void)state;
	assert_int_equal(args_parse_number_n(text, sizeof(text), 0, 1000, &value), 0);
	assert_true(value == 123);
	assert_int_equal(args_parse_number_n("12345", 2, 0, 1000, &value), 0);
	assert_true(value == 12);
	assert_int_equal(args_parse_number_n("1\0", 2, 0, 1000, &value), -EINVAL);
	assert_int_equal(args_parse_number_n("1", 0, 0, 1000, &value), -EINVAL);
}

struct unit_case {
	const char *word;
	int result;
	uint64_t value;
};

#define YEARS_10_MS UINT64_C(315360000000)

static const struct unit_case duration_cases[] = {
	{ "0", 0, 0 },
	{ "0s", 0, 0 },
	{ "500ms", 0, 500 },
	{ "10s", 0, 10000 },
	{ "5m", 0, 300000 },
	{ "2h", 0, 7200000 },
	{ "1d", 0, 86400000 },
	{ "3650d", 0, YEARS_10_MS },
	{ "315360000000ms", 0, YEARS_10_MS },
	{ "3651d", -ERANGE, 0 },
	{ "315360000001ms", -ERANGE, 0 },
	{ "18446744073709551615d", -ERANGE, 0 },
	{ "99999999999999999999999s", -ERANGE, 0 },
	{ "", -EINVAL, 0 },
	{ "00", -EINVAL, 0 },
	{ "10", -EINVAL, 0 },
	{ "s", -EINVAL, 0 },
	{ "ms", -EINVAL, 0 },
	{ "10 s", -EINVAL, 0 },
	{ "10S", -EINVAL, 0 },
	{ "10sec", -EINVAL, 0 },
	{ "1m30s", -EINVAL, 0 },
	{ "1.5s", -EINVAL, 0 },
	{ "-1s", -EINVAL, 0 },
	{ " 1s", -EINVAL, 0 },
	{ "1s ", -EINVAL, 0 },
};

static const struct unit_case size_cases[] = {
	{ "0", 0, 0 },
	{ "1", 0, 1 },
	{ "64k", 0, 65536 },
	{ "2M", 0, 2097152 },
	{ "1G", 0, 1073741824 },
	{ "18446744073709551615", 0, UINT64_MAX },
	{ "17179869183G", 0, UINT64_C(17179869183) << 30 },
	{ "17179869184G", -ERANGE, 0 },
	{ "18446744073709551616", -ERANGE, 0 },
	{ "", -EINVAL, 0 },
	{ "k", -EINVAL, 0 },
	{ "1K", -EINVAL, 0 },
	{ "1kB", -EINVAL, 0 },
	{ "1 k", -EINVAL, 0 },
	{ "1T", -EINVAL, 0 },
	{ "-1k", -EINVAL, 0 },
};

static void check_units(const struct unit_case *cases, size_t count,
			int (*parse)(const char *word, uint64_t *value))
{
	for (size_t i = 0; i < count; i++) {
		uint64_t value = UNTOUCHED;
		int r = parse(cases[i].word, &value);

		if (r != cases[i].result)
			print_error("word: '%s'\n", cases[i].word);
		assert_int_equal(r, cases[i].result);
		assert_true(value == (r == 0 ? cases[i].value : UNTOUCHED));
	}
}

static void test_durations(void **state)
{
	(void)state;
	check_units(duration_cases, ARRAY_SIZE(duration_cases), args_parse_duration_ms);
}

static void test_sizes(void **state)
{
	(void)state;
	check_units(size_cases, ARRAY_SIZE(size_cases), args_parse_size);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_number_of_a_part_reads_no_further),
		cmocka_unit_test(test_durations),
		cmocka_unit_test(test_sizes),
	};

	return FIXTURE_RUN(tests);
}
