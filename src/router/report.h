/*
 * What the whole router is doing: the numbers of all workers brought together, each taken on its own thread, so that no
 * session needs a lock for being counted. For the control socket and for --http.
 */
#ifndef KAISO_ROUTER_REPORT_H
#define KAISO_ROUTER_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "base/json.h"
#include "router/reason.h"
#include "router/stats.h"
#include "router/worker.h"

#define REPORT_SESSIONS_MAX 1000 /* of one worker that are told one by one */

/* What reports are about; the server's. */
struct report_source {
	struct worker *workers;
	unsigned count;
	struct timespec started; /* CLOCK_REALTIME */
	bool is_draining;
};

struct report {
	struct worker_tour tour;
	const struct report_source *source;
	void (*on_done)(struct report *report); /* on the first worker's thread; frees it some time */
	void *context;
	uint64_t reasons[SESSION_REASON_COUNT];
	uint64_t refused;
	uint64_t open;      /* sessions */
	struct stats total; /* its services have open sessions in them as well */
	bool wants_sessions;
	struct json sessions; /* wants_sessions: an array of objects */
	uint64_t untold;      /* sessions that are not in it: there are too many */
};

/* Begins one. False when out of memory: on_done is not called. */
bool report_begin(const struct report_source *source, bool wants_sessions, void (*on_done)(struct report *),
		  void *context);

void report_free(struct report *report);

/* Of the process: what the kernel tells about it at this moment. */
struct report_process {
	uint64_t descriptors;
	uint64_t descriptors_max;
	uint64_t resident_bytes;
	uint64_t cpu_ms;
};
struct report_process report_process(void);

/* The services in the order of their paths; room for STATS_SERVICES_MAX. How many. */
size_t report_services(const struct report *report, const struct service_stats **services);

/* The whole as one JSON object, on one line. May be called once. */
char *report_to_json(struct report *report, size_t *length);

#endif
