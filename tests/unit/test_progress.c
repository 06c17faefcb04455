/*
 * The line of --progress, in any width.
 */
#include "fixture.h"

#include <string.h>

#include "base/macros.h"
#include "base/progress.h"

/* Half a gigabyte sent evenly in 65 seconds, and nothing received in the last two. */
static void fill(struct progress *progress)
{
	progress_begin(progress, (struct progress_sample){ 1000, 0, 0 });
	for (uint64_t ms = 250; ms <= 65000; ms += 250)
		progress_add(progress,
			     (struct progress_sample){ 1000 + ms, ms << 13, MIN(ms, UINT64_C(63000)) });
}

static void test_line(void **state)
{
	static const struct {
		int columns;
		const char *what;
		const char *line;
	} cases[] = {
		{ 200, "", "1m05s  sent 508M 7.8M/s  received  62K    0/s" },
		{ 45, "", "1m05s  sent 508M 7.8M/s  received  62K    0/s" },
		{ 200, "3 clients", "1m05s  3 clients  sent 508M 7.8M/s  received  62K    0/s" },
		{ 44, "", "1m05s  sent 508M  received  62K" },
		{ 31, "", "1m05s  sent 508M  received  62K" },
		{ 30, "", "1m05s  sent 508M" },
		{ 16, "3 clients", "1m05s  3 clients" },
		{ 15, "", "1m05s" },
		{ 4, "", "" },
		{ 0, "", "" },
		{ -1, "", "" },
	};
	struct progress progress;
	char line[PROGRESS_LINE_SIZE];

	(void)state;
	fill(&progress);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		progress_line(&progress, cases[i].what, cases[i].columns, line);
		assert_string_equal(line, cases[i].line);
	}
}

static void test_rates_are_those_of_now(void **state)
{
	struct progress progress;
	char line[PROGRESS_LINE_SIZE];

	(void)state;
	progress_begin(&progress, (struct progress_sample){ 0, 5000, 0 });
	progress_line(&progress, "", 80, line);
	assert_string_equal(line, "0s  sent 4.9K    0/s  received    0    0/s");
	progress_add(&progress, (struct progress_sample){ 500, 6000, 10 });
	progress_line(&progress, "", 80, line);
	assert_string_equal(line, "0s  sent 5.9K 2.0K/s  received   10   20/s");
	for (uint64_t ms = 750; ms <= 2750; ms += 250)
		progress_add(&progress, (struct progress_sample){ ms, 6000, 10 });
	progress_line(&progress, "", 80, line);
	assert_string_equal(line, "2s  sent 5.9K    0/s  received   10    0/s");
}

static void test_summary(void **state)
{
	struct progress progress;
	char line[PROGRESS_LINE_SIZE];

	(void)state;
	fill(&progress);
	progress_summary(&progress, (struct progress_sample){ 1000 + 65000, 65000 << 13, 130 }, line);
	assert_string_equal(line, "sent 508M (7.8M/s), received 130 (2/s) in 1m05s");
	progress_begin(&progress, (struct progress_sample){ 7, 0, 0 });
	progress_summary(&progress, (struct progress_sample){ 7, 3, 0 }, line);
	assert_string_equal(line, "sent 3 (0/s), received 0 (0/s) in 0s");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FIXTURE_TEST(test_line),
		FIXTURE_TEST(test_rates_are_those_of_now),
		FIXTURE_TEST(test_summary),
	};

	return FIXTURE_RUN(tests);
}
