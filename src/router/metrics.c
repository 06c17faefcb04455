/*
 * Theory of operation: one function for each kind of value, and the list of them all, from top to bottom, in
 * metrics_of_report(). All values of one name stand together, as the format asks for.
 */
#include "router/metrics.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"

void metrics_write_label(FILE *stream, const char *text, size_t length)
{
	char *visible = NULL;
	size_t visible_length = 0;
	FILE *memory = open_memstream(&visible, &visible_length);

	if (!memory)
		return;
	text_write_visible(memory, text, length);
	if (fclose(memory) == 0) {
		for (size_t i = 0; i < visible_length; i++) {
			if (visible[i] == '\\' || visible[i] == '"')
				fputc('\\', stream);
			fputc(visible[i], stream);
		}
	}
	free(visible);
}

static void begin(FILE *stream, const char *name, const char *type, const char *help)
{
	fprintf(stream, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void write_number(FILE *stream, const char *name, const char *type, const char *help, uint64_t number)
{
	begin(stream, name, type, help);
	fprintf(stream, "%s %" PRIu64 "\n", name, number);
}

static void write_seconds(FILE *stream, const char *name, const char *type, const char *help, uint64_t ms)
{
	begin(stream, name, type, help);
	fprintf(stream, "%s %" PRIu64 ".%03" PRIu64 "\n", name, ms / 1000, ms % 1000);
}

static void write_histogram(FILE *stream, const char *name, const char *help,
			    const struct histogram *histogram)
{
	uint64_t count = 0;

	begin(stream, name, "histogram", help);
	for (size_t i = 0; i < HISTOGRAM_BOUNDS; i++) {
		count += histogram->counts[i];
		/* "%g" gives the shortest form: 0.001, 0.5, 1, 3600. */
		fprintf(stream, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name, histogram_bounds_ms[i] / 1000.0,
			count);
	}
	fprintf(stream, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, histogram->count);
	fprintf(stream, "%s_sum %" PRIu64 ".%03" PRIu64 "\n", name, histogram->sum_ms / 1000,
		histogram->sum_ms % 1000);
	fprintf(stream, "%s_count %" PRIu64 "\n", name, histogram->count);
}

/* ---- the router ---------------------------------------------------------------------------------------- */

static void write_sessions(FILE *stream, const struct report *report)
{
	static const char bytes[] = "kaiso_session_bytes_total", reasons[] = "kaiso_sessions_total";

	write_number(stream, "kaiso_sessions_open", "gauge", "Clients that are connected.", report->open);
	begin(stream, reasons, "counter", "Sessions that ended, by the reason that the log tells.");
	for (unsigned i = 0; i < SESSION_REASON_COUNT; i++)
		fprintf(stream, "%s{reason=\"%s\"} %" PRIu64 "\n", reasons,
			session_reason_name((enum session_reason)i), report->reasons[i]);
	write_number(stream, "kaiso_refused_total", "counter",
		     "Clients that were closed at once, for a limit.", report->refused);
	write_number(stream, "kaiso_requests_total", "counter", "Request lines, of lists too.",
		     report->total.requests);
	begin(stream, bytes, "counter",
	      "Bytes sent by clients, and received by them, without request lines.");
	fprintf(stream, "%s{direction=\"sent\"} %" PRIu64 "\n", bytes, report->total.sent);
	fprintf(stream, "%s{direction=\"received\"} %" PRIu64 "\n", bytes, report->total.received);
	write_histogram(stream, "kaiso_request_duration_seconds",
			"Time from a client's connection to its first whole request line.",
			&report->total.request_time);
	write_histogram(stream, "kaiso_connect_duration_seconds",
			"Time from a request line to the connected service.", &report->total.connect_time);
	write_histogram(stream, "kaiso_session_duration_seconds", "Time that sessions lasted.",
			&report->total.duration);
}

static void write_limits(FILE *stream, const struct report *report)
{
	const struct router_options *options = report->source->workers[0].shared->options;

	write_number(stream, "kaiso_limit_sessions", "gauge", "Clients that may be connected at a time.",
		     options->max_sessions);
	write_number(stream, "kaiso_limit_sessions_per_address", "gauge",
		     "The same from one IPv4 address or IPv6 /64; 0: no limit.",
		     options->max_sessions_per_address);
	write_number(stream, "kaiso_limit_requests_per_second_per_address", "gauge",
		     "Request lines a second from one IPv4 address or IPv6 /64; 0: no limit.",
		     options->max_requests_per_second);
	write_number(stream, "kaiso_limit_lists", "gauge", "Lists that may be made at a time.",
		     options->max_lists);
}

static void write_router(FILE *stream, const struct report *report)
{
	begin(stream, "kaiso_build_info", "gauge", "The version, in a label; its value is always 1.");
	fputs("kaiso_build_info{version=\"" KAISO_VERSION "\"} 1\n", stream);
	write_number(stream, "kaiso_draining", "gauge", "Whether the router was told to end: 1, else 0.",
		     report->source->is_draining);
	write_number(stream, "kaiso_threads", "gauge", "Threads that serve clients.", report->source->count);
	write_number(stream, "kaiso_log_lines_dropped_total", "counter",
		     "Lines that the log's reader did not take in time.", log_dropped());
}

static void write_process(FILE *stream, const struct report *report)
{
	struct report_process process = report_process();

	write_seconds(stream, "process_cpu_seconds_total", "counter", "Processor time used, user and system.",
		      process.cpu_ms);
	write_number(stream, "process_open_fds", "gauge", "Open descriptors.", process.descriptors);
	write_number(stream, "process_max_fds", "gauge", "Descriptors that may be open.",
		     process.descriptors_max);
	write_number(stream, "process_resident_memory_bytes", "gauge", "Resident memory.",
		     process.resident_bytes);
	write_seconds(stream, "process_start_time_seconds", "gauge",
		      "When this program began, by an upgrade too, in seconds since 1970.",
		      (uint64_t)report->source->started.tv_sec * 1000 +
			      (uint64_t)report->source->started.tv_nsec / 1000000);
}

/* ---- services ------------------------------------------------------------------------------------------ */

struct labelled_services {
	size_t count;
	const struct service_stats *services[STATS_SERVICES_MAX];
	char *labels[STATS_SERVICES_MAX]; /* {service="PATH" without the end */
};

typedef uint64_t (*service_value)(const struct service_stats *service);

static uint64_t value_open(const struct service_stats *service)
{
	return service->open;
}

/* Those that go on are in it, so that it does not fall when one turns out a failure. */
static uint64_t value_sessions(const struct service_stats *service)
{
	return service->sessions + service->failures + service->open;
}

static uint64_t value_failures(const struct service_stats *service)
{
	return service->failures;
}

static uint64_t value_sent(const struct service_stats *service)
{
	return service->sent;
}

static uint64_t value_received(const struct service_stats *service)
{
	return service->received;
}

/* "" for a label that is missing: out of memory. */
static char *label_of(const struct service_stats *service)
{
	char *label = NULL;
	size_t length;
	FILE *stream = open_memstream(&label, &length);

	if (!stream)
		return NULL;
	metrics_write_label(stream, service->path, service->path_length);
	if (fclose(stream) == 0)
		return label;
	free(label);
	return NULL;
}

static struct labelled_services *label_services(const struct report *report)
{
	struct labelled_services *labelled = calloc(1, sizeof(*labelled));

	if (!labelled)
		return NULL;
	labelled->count = report_services(report, labelled->services);
	for (size_t i = 0; i < labelled->count; i++)
		labelled->labels[i] = label_of(labelled->services[i]);
	return labelled;
}

static void labelled_free(struct labelled_services *labelled)
{
	for (size_t i = 0; i < labelled->count; i++)
		free(labelled->labels[i]);
	free(labelled);
}

static void write_values(FILE *stream, const struct labelled_services *labelled, const char *name,
			 const char *more, service_value value)
{
	for (size_t i = 0; i < labelled->count; i++) {
		if (labelled->labels[i])
			fprintf(stream, "%s{service=\"%s\"%s} %" PRIu64 "\n", name, labelled->labels[i], more,
				value(labelled->services[i]));
	}
}

static void write_services(FILE *stream, const struct labelled_services *labelled)
{
	static const char open[] = "kaiso_service_sessions_open", sessions[] = "kaiso_service_sessions_total",
			  failures[] = "kaiso_service_failures_total", bytes[] = "kaiso_service_bytes_total";

	begin(stream, open, "gauge", "Sessions of the service that go on.");
	write_values(stream, labelled, open, "", value_open);
	begin(stream, sessions, "counter", "Sessions that asked for the service.");
	write_values(stream, labelled, sessions, "", value_sessions);
	begin(stream, failures, "counter", "Those of them that ended without being connected to it.");
	write_values(stream, labelled, failures, "", value_failures);
	begin(stream, bytes, "counter", "Bytes sent by the service's clients, and received by them.");
	write_values(stream, labelled, bytes, ",direction=\"sent\"", value_sent);
	write_values(stream, labelled, bytes, ",direction=\"received\"", value_received);
}

/* ---- all -------------------------------------------------------------------------------------------------- */

static void write_all(FILE *stream, const struct report *report, const struct labelled_services *labelled)
{
	write_router(stream, report);
	write_sessions(stream, report);
	write_services(stream, labelled);
	write_limits(stream, report);
	write_process(stream, report);
}

char *metrics_of_report(const struct report *report, size_t *length)
{
	struct labelled_services *labelled = label_services(report);
	char *text = NULL;
	FILE *stream = labelled ? open_memstream(&text, length) : NULL;
	bool has_failed = !stream;

	if (stream) {
		write_all(stream, report, labelled);
		has_failed = ferror(stream);
		has_failed |= fclose(stream) != 0;
	}
	if (labelled)
		labelled_free(labelled);
	if (has_failed) {
		free(text);
		return NULL;
	}
	return text;
}
