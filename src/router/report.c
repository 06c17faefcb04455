/*
 * Theory of operation: a report goes from worker to worker and takes what is theirs, on their own threads; then it is
 * back with the first, whose thread the asker lives on. Text of sessions is written by their own worker, since it is
 * theirs to read.
 */
#include "router/report.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/sandbox.h"

SANDBOX_CALLS("getdents64", "prlimit64");

/* ---- gathering --------------------------------------------------------------------------------------- */

static struct service_stats *report_service(struct report *report, const struct service *service)
{
	if (!service || service->kind == SERVICE_UNKNOWN)
		return NULL;
	return stats_service(&report->total, service->path, service->path_length, service->hash,
			     service->kind);
}

static void add_services(struct report *report, const struct stats *stats)
{
	for (size_t i = 0; i < STATS_BUCKETS; i++) {
		for (const struct service_stats *from = stats->buckets[i]; from; from = from->next) {
			struct service_stats *to = stats_service(&report->total, from->path,
								 from->path_length, from->hash, from->kind);

			if (!to)
				continue;
			to->sessions += from->sessions;
			to->failures += from->failures;
			to->sent += from->sent;
			to->received += from->received;
		}
	}
}

static void add_totals(struct report *report, const struct worker *worker)
{
	for (unsigned i = 0; i < SESSION_REASON_COUNT; i++)
		report->reasons[i] += worker->reason_counts[i];
	report->refused += worker->refused_count;
	report->total.sent += worker->stats.sent;
	report->total.received += worker->stats.received;
	report->total.requests += worker->stats.requests;
	histogram_add(&report->total.request_time, &worker->stats.request_time);
	histogram_add(&report->total.connect_time, &worker->stats.connect_time);
	histogram_add(&report->total.duration, &worker->stats.duration);
}

static void tell_session(struct json *json, const struct session *session)
{
	const struct service *service = session->service;
	char text[ADDR_TEXT_SIZE];
	char id[SESSION_ID_SIZE];

	json_open(json, '{');
	json_put_string(json, "id", session_id(session, id));
	json_put_string(json, "client", addr_format(&session->peer, text));
	json_put_string(json, "state", session_state_name((enum session_state)session->state));
	if (service) {
		json_key(json, "service");
		json_bytes(json, service->path, service->path_length);
		json_put_string(json, "kind", service_kind_name(session_target(session)->kind));
		json_put_string(json, "target", session_target(session)->text);
	}
	json_put_number(json, "sent", relay_way_payload(&session->up));
	json_put_number(json, "received", relay_way_payload(&session->down));
	json_key(json, "seconds");
	json_seconds(json, session_age_ms(session));
	json_close(json, '}');
}

static void add_session(struct report *report, const struct session *session, unsigned *told)
{
	struct service_stats *stats = report_service(report, session->service);

	report->open++;
	report->total.sent += relay_way_payload(&session->up);
	report->total.received += relay_way_payload(&session->down);
	if (stats) {
		stats->open++;
		stats->sent += relay_way_payload(&session->up);
		stats->received += relay_way_payload(&session->down);
	}
	if (!report->wants_sessions)
		return;
	if (*told < REPORT_SESSIONS_MAX)
		tell_session(&report->sessions, session);
	else
		report->untold++;
	++*told;
}

static void report_on_worker(struct worker_tour *tour, struct worker *worker)
{
	struct report *report = CONTAINER_OF(tour, struct report, tour);
	unsigned told = 0;

	add_totals(report, worker);
	add_services(report, &worker->stats);
	for (struct list *link = worker->sessions.next; link != &worker->sessions; link = link->next) {
		const struct session *session = CONTAINER_OF(link, struct session, link);

		if (session->state != SESSION_ENDED)
			add_session(report, session, &told);
	}
}

static void report_on_done(struct worker_tour *tour)
{
	struct report *report = CONTAINER_OF(tour, struct report, tour);

	report->on_done(report);
}

bool report_begin(const struct report_source *source, bool wants_sessions, void (*on_done)(struct report *),
		  void *context)
{
	struct report *report = calloc(1, sizeof(*report));

	if (!report)
		return false;
	report->source = source;
	report->on_done = on_done;
	report->context = context;
	report->wants_sessions = wants_sessions;
	report->tour = (struct worker_tour){ .workers = source->workers,
					     .count = source->count,
					     .visit = report_on_worker,
					     .done = report_on_done };
	json_begin(&report->sessions);
	json_open(&report->sessions, '[');
	worker_tour_begin(&report->tour);
	return true;
}

void report_free(struct report *report)
{
	size_t length;

	if (report->sessions.stream)
		free(json_take(&report->sessions, &length));
	stats_deinit(&report->total);
	free(report);
}

/* ---- the process ------------------------------------------------------------------------------------- */

/* The size of that directory is the number of descriptors since Linux 6.2; before, they are counted. */
static uint64_t count_descriptors(void)
{
	struct stat status;
	uint64_t count = 0;
	DIR *directory;

	if (stat("/proc/self/fd", &status) == 0 && status.st_size > 0)
		return (uint64_t)status.st_size;
	directory = opendir("/proc/self/fd");
	if (!directory)
		return 0;
	while (readdir(directory))
		count++;
	closedir(directory);
	return count > 3 ? count - 3 : 0; /* ".", "..", and its own */
}

static uint64_t resident_bytes(void)
{
	FILE *file = fopen("/proc/self/statm", "re");
	unsigned long long pages = 0;

	if (!file)
		return 0;
	if (fscanf(file, "%*u %llu", &pages) != 1)
		pages = 0;
	fclose(file);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

struct report_process report_process(void)
{
	struct report_process process = { .descriptors = count_descriptors(),
					  .resident_bytes = resident_bytes() };
	struct timespec used;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
		process.descriptors_max = limit.rlim_cur;
	if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) == 0)
		process.cpu_ms = (uint64_t)used.tv_sec * 1000 + (uint64_t)used.tv_nsec / 1000000;
	return process;
}

/* ---- JSON -------------------------------------------------------------------------------------------- */

static void tell_listeners(struct json *json, const struct worker_shared *shared)
{
	char text[LISTEN_TEXT_SIZE];

	json_key(json, "listeners");
	json_open(json, '[');
	for (size_t i = 0; i < shared->listeners->count; i++) {
		json_open(json, '{');
		json_put_string(json, "address", listen_format(&shared->listeners->listeners[i], text));
		if (shared->options->exposure)
			json_put_string(json, "service", shared->options->exposure->services[i]);
		json_close(json, '}');
	}
	json_close(json, ']');
}

static void tell_router(struct json *json, const struct report *report)
{
	const struct worker_shared *shared = report->source->workers[0].shared;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	json_put_string(json, "version", KAISO_VERSION);
	json_put_number(json, "pid", (uint64_t)getpid());
	json_put_number(json, "started", (uint64_t)report->source->started.tv_sec);
	json_put_number(json, "uptime_seconds",
			(uint64_t)MAX(now.tv_sec - report->source->started.tv_sec, 0));
	json_key(json, "draining");
	json_bool(json, report->source->is_draining);
	json_put_number(json, "threads", report->source->count);
	json_put_string(json, "services_directory", shared->options->services);
	if (shared->options->exposure)
		json_put_string(json, "kaiso", shared->options->exposure->target);
	tell_listeners(json, shared);
}

static void tell_limits(struct json *json, const struct report *report)
{
	const struct router_options *options = report->source->workers[0].shared->options;
	struct report_process process = report_process();

	json_key(json, "limits");
	json_open(json, '{');
	json_put_number(json, "sessions", options->max_sessions);
	json_put_number(json, "sessions_per_address", options->max_sessions_per_address);
	json_put_number(json, "requests_per_second_per_address", options->max_requests_per_second);
	json_put_number(json, "lists", options->max_lists);
	json_put_number(json, "descriptors", process.descriptors_max);
	json_close(json, '}');
	json_put_number(json, "descriptors", process.descriptors);
	json_put_number(json, "resident_bytes", process.resident_bytes);
	json_key(json, "cpu_seconds");
	json_seconds(json, process.cpu_ms);
}

static void tell_histogram(struct json *json, const char *name, const struct histogram *histogram)
{
	uint64_t count = 0;

	json_key(json, name);
	json_open(json, '{');
	json_put_number(json, "count", histogram->count);
	json_key(json, "sum_seconds");
	json_seconds(json, histogram->sum_ms);
	json_key(json, "buckets");
	json_open(json, '[');
	for (size_t i = 0; i < HISTOGRAM_BOUNDS; i++) {
		count += histogram->counts[i];
		json_open(json, '[');
		json_seconds(json, histogram_bounds_ms[i]);
		json_number(json, count);
		json_close(json, ']');
	}
	json_close(json, ']');
	json_close(json, '}');
}

static void tell_totals(struct json *json, const struct report *report)
{
	json_put_number(json, "open", report->open);
	json_put_number(json, "refused", report->refused);
	json_put_number(json, "requests", report->total.requests);
	json_put_number(json, "sent", report->total.sent);
	json_put_number(json, "received", report->total.received);
	json_put_number(json, "log_lines_dropped", log_dropped());
	json_key(json, "ended");
	json_open(json, '{');
	for (unsigned i = 0; i < SESSION_REASON_COUNT; i++) {
		if (report->reasons[i] > 0)
			json_put_number(json, session_reason_name((enum session_reason)i),
					report->reasons[i]);
	}
	json_close(json, '}');
	tell_histogram(json, "request_time", &report->total.request_time);
	tell_histogram(json, "connect_time", &report->total.connect_time);
	tell_histogram(json, "duration", &report->total.duration);
}

static int compare_services(const void *left, const void *right)
{
	const struct service_stats *a = *(const struct service_stats *const *)left;
	const struct service_stats *b = *(const struct service_stats *const *)right;
	int order = memcmp(a->path, b->path, MIN(a->path_length, b->path_length));

	return order ? order : (a->path_length > b->path_length) - (a->path_length < b->path_length);
}

size_t report_services(const struct report *report, const struct service_stats **services)
{
	size_t count = 0;

	for (size_t i = 0; i < STATS_BUCKETS; i++) {
		for (const struct service_stats *stats = report->total.buckets[i]; stats; stats = stats->next)
			services[count++] = stats;
	}
	if (count > 0)
		qsort(services, count, sizeof(const struct service_stats *), compare_services);
	return count;
}

static void tell_services(struct json *json, const struct report *report)
{
	static const struct service_stats *services[STATS_SERVICES_MAX]; /* the first worker's alone */
	size_t count = report_services(report, services);

	json_key(json, "services");
	json_open(json, '[');
	for (size_t i = 0; i < count; i++) {
		json_open(json, '{');
		json_key(json, "service");
		json_bytes(json, services[i]->path, services[i]->path_length);
		json_put_string(json, "kind", service_kind_name(services[i]->kind));
		json_put_number(json, "open", services[i]->open);
		json_put_number(json, "sessions", services[i]->sessions + services[i]->open);
		json_put_number(json, "failures", services[i]->failures);
		json_put_number(json, "sent", services[i]->sent);
		json_put_number(json, "received", services[i]->received);
		json_close(json, '}');
	}
	json_close(json, ']');
}

char *report_to_json(struct report *report, size_t *length)
{
	struct json json;
	size_t sessions_length;
	char *sessions;

	json_begin(&json);
	json_open(&json, '{');
	tell_router(&json, report);
	tell_limits(&json, report);
	tell_totals(&json, report);
	tell_services(&json, report);
	if (report->wants_sessions) {
		json_close(&report->sessions, ']');
		sessions = json_take(&report->sessions, &sessions_length);
		json_put_raw(&json, "sessions", sessions ? sessions : "[]");
		json_put_number(&json, "sessions_untold", report->untold);
		free(sessions);
	}
	json_close(&json, '}');
	return json_take(&json, length);
}
