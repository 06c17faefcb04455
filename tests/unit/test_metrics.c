/*
 * Names of services as labels, and a whole report in Prometheus' text. (promtool reads it in test_http.py.)
 */
#include "fixture.h"

#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "router/metrics.h"

static void test_labels(void **state)
{
	static const char *const cases[][2] = {
		{ "", "" },
		{ "web/a b", "web/a b" },
		{ "a\"b\\c", "a\\\"b\\\\c" },
		{ "a\nb", "a\\\\x0ab" },
		{ "\xff\xc3\xa9", "\\\\xff\xc3\xa9" },
		{ "<b>{x=\"1\"} 1", "<b>{x=\\\"1\\\"} 1" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char *text;
		size_t length;
		FILE *stream = open_memstream(&text, &length);

		metrics_write_label(stream, cases[i][0], strlen(cases[i][0]));
		fclose(stream);
		assert_string_equal(text, cases[i][1]);
		free(text);
	}
}

static void expect_line(const char *text, const char *line)
{
	const char *found = strstr(text, line);

	if (!found || found == text || found[-1] != '\n' || found[strlen(line)] != '\n')
		fail_msg("no line '%s' in:\n%s", line, text);
}

static void count_service(struct stats *stats, const char *path)
{
	struct service_stats *service =
		stats_service(stats, path, strlen(path), catalog_path_hash(path, strlen(path)), SERVICE_UNIX);

	service->open = 1;
	service->sessions = 2;
	service->failures = 3;
	service->sent = 4;
	service->received = 5;
}

static void test_a_report(void **state)
{
	struct router_options options = { .max_sessions = 100, .max_lists = 7 };
	struct worker_shared shared = { .options = &options };
	struct worker worker = { .shared = &shared };
	struct report_source source = { .workers = &worker, .count = 1, .started = { 1000000000, 5000000 } };
	struct report *report = calloc(1, sizeof(*report));
	size_t length;
	char *text;

	(void)state;
	report->source = &source;
	report->reasons[SESSION_NOT_FOUND] = 6;
	report->open = UINT64_MAX;
	count_service(&report->total, "web\"");
	histogram_observe(&report->total.duration, 3);
	histogram_observe(&report->total.duration, 3000);
	histogram_observe(&report->total.duration, 4000000);
	text = metrics_of_report(report, &length);
	assert_int_equal(strlen(text), length);
	expect_line(text, "kaiso_sessions_open 18446744073709551615");
	expect_line(text, "kaiso_sessions_total{reason=\"not-found\"} 6");
	expect_line(text, "kaiso_sessions_total{reason=\"done\"} 0");
	expect_line(text, "kaiso_service_sessions_open{service=\"web\\\"\"} 1");
	expect_line(text, "kaiso_service_sessions_total{service=\"web\\\"\"} 6");
	expect_line(text, "kaiso_service_failures_total{service=\"web\\\"\"} 3");
	expect_line(text, "kaiso_service_bytes_total{service=\"web\\\"\",direction=\"sent\"} 4");
	expect_line(text, "kaiso_service_bytes_total{service=\"web\\\"\",direction=\"received\"} 5");
	expect_line(text, "kaiso_session_duration_seconds_bucket{le=\"0.001\"} 0");
	expect_line(text, "kaiso_session_duration_seconds_bucket{le=\"0.005\"} 1");
	expect_line(text, "kaiso_session_duration_seconds_bucket{le=\"5\"} 2");
	expect_line(text, "kaiso_session_duration_seconds_bucket{le=\"3600\"} 2");
	expect_line(text, "kaiso_session_duration_seconds_bucket{le=\"+Inf\"} 3");
	expect_line(text, "kaiso_session_duration_seconds_sum 4003.003");
	expect_line(text, "kaiso_session_duration_seconds_count 3");
	expect_line(text, "kaiso_limit_sessions 100");
	expect_line(text, "process_start_time_seconds 1000000000.005");
	free(text);
	stats_deinit(&report->total);
	free(report);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_labels),
		cmocka_unit_test(test_a_report),
	};

	return FIXTURE_RUN(tests);
}
