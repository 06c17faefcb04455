/*
 * Proves the descriptor check. Without an argument nothing is wrong and the
 * program passes; with one it does a single wrong thing, and meson.build
 * expects it to fail. So a check that sees nothing is found out, and so is
 * one that always cries.
 */
#include "fixture.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static int borrowed = -1;

static void test_opens_and_closes(void **state)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(close(fd), 0);
}

static void test_leaves_one_open(void **state)
{
	(void)state;
	assert_true(open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0);
}

static void test_closes_a_stranger(void **state)
{
	(void)state;
	assert_int_equal(close(borrowed), 0);
}

int main(int argc, char **argv)
{
	const char *fault = argc > 1 ? argv[1] : "";
	const struct CMUnitTest sound[] = {
		cmocka_unit_test(test_opens_and_closes),
		FIXTURE_TEST(test_opens_and_closes),
	};
	const struct CMUnitTest leaking_group[] = { cmocka_unit_test(test_leaves_one_open) };
	const struct CMUnitTest leaking_test[] = { FIXTURE_TEST(test_leaves_one_open) };
	const struct CMUnitTest closing_group[] = { cmocka_unit_test(test_closes_a_stranger) };

	if (!strcmp(fault, "leaking-group"))
		return FIXTURE_RUN(leaking_group);
	if (!strcmp(fault, "leaking-test"))
		return cmocka_run_group_tests(leaking_test, NULL, NULL);
	if (!strcmp(fault, "closing-group")) {
		borrowed = open("/dev/null", O_RDONLY | O_CLOEXEC);
		return FIXTURE_RUN(closing_group);
	}
	return FIXTURE_RUN(sound);
}
