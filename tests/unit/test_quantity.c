/*
 * Numbers for people.
 */
#include "fixture.h"

#include "base/macros.h"
#include "base/quantity.h"

static void test_numbers(void **state)
{
	static const struct {
		double bytes;
		const char *text;
	} cases[] = {
		{ 0, "0" },
		{ 0.2, "1" },
		{ 7.4, "7" },
		{ 999, "999" },
		{ 1000, "1.0K" },
		{ 1024 * 9.94, "9.9K" },
		{ 1024 * 9.96, "10K" },
		{ 1023487, "999K" },
		{ 1048576, "1.0M" },
		{ 1e18, "888P" },
		{ 18e18, "16E" },
	};
	char text[QUANTITY_SIZE];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_string_equal(quantity_bytes(cases[i].bytes, text), cases[i].text);
	assert_string_equal(quantity_count(999, text), "999");
	assert_string_equal(quantity_count(12345, text), "12K");
	assert_string_equal(quantity_age(59.9, text), "59s");
	assert_string_equal(quantity_age(3599, text), "59m59s");
	assert_string_equal(quantity_age(86399, text), "23h59m");
	assert_string_equal(quantity_age(86400 * 99.5, text), "99d12h");
	assert_string_equal(quantity_age(86400.0 * 12345, text), "12345d");
	assert_string_equal(quantity_age(-1, text), "0s");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FIXTURE_TEST(test_numbers),
	};

	return FIXTURE_RUN(tests);
}
