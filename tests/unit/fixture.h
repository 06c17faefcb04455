/*
 * What every unit test runs under: a look at the open descriptors before and
 * after, so that a leaked one fails the test, as does one closed by mistake.
 *
 * A test program ends with
 *
 *	return FIXTURE_RUN(tests);
 *
 * which runs the table as a group with one comparison around it. A single test gets a
 * comparison of its own, which names the culprit, by FIXTURE_TEST(function) in place of
 * cmocka_unit_test(function).
 */
#ifndef KAISO_UNIT_FIXTURE_H
#define KAISO_UNIT_FIXTURE_H

/* cmocka.h wants these first, in this order, and includes none of them itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* Both have the form of cmocka's setup and teardown functions and leave *state alone. They may be
 * used for a group and for tests in it at once. teardown is -1 when the descriptors differ, which it tells on
 * standard error. */
int fixture_setup(void **state);
int fixture_teardown(void **state);

/* How many comparisons have failed so far: cmocka 1.1.5 does not count a group's failed teardown. */
int fixture_failures(void);

#define FIXTURE_TEST(function) cmocka_unit_test_setup_teardown(function, fixture_setup, fixture_teardown)
#define FIXTURE_RUN(tests) \
	(cmocka_run_group_tests(tests, fixture_setup, fixture_teardown) + fixture_failures())

#endif
