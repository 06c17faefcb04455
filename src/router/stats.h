/*
 * What a worker has counted since it began: sessions by service, and how long things took. One a thread, touched by
 * that thread alone; report.h brings them together.
 */
#ifndef KAISO_ROUTER_STATS_H
#define KAISO_ROUTER_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "base/fields.h"
#include "router/catalog.h"

#define STATS_SERVICES_MAX 4096 /* told apart; what else is asked for is counted in the totals only */
#define STATS_BUCKETS 1024

#define HISTOGRAM_BOUNDS 12

/* Upper bounds in milliseconds; what is longer than the last counts in `count` alone. Cumulative only in reports. */
extern const uint32_t histogram_bounds_ms[HISTOGRAM_BOUNDS];

struct histogram {
	uint64_t counts[HISTOGRAM_BOUNDS];
	uint64_t count;
	uint64_t sum_ms;
};

void histogram_observe(struct histogram *histogram, uint64_t duration_ms);
void histogram_add(struct histogram *sum, const struct histogram *other);

/* Of one service, by the path that clients ask for. */
struct service_stats {
	struct service_stats *next;
	uint64_t hash;
	enum service_kind kind;
	uint64_t open;     /* reports only: sessions that go on */
	uint64_t sessions; /* that ended, and were connected */
	uint64_t failures; /* that ended, and were not */
	uint64_t sent;     /* bytes from clients, of ended sessions; in reports of all */
	uint64_t received; /* and from the service */
	size_t path_length;
	char path[]; /* not terminated */
};

struct stats {
	uint64_t sent; /* of ended sessions */
	uint64_t received;
	uint64_t requests;
	struct histogram request_time; /* from accept to a whole request line, of each session's first */
	struct histogram connect_time; /* from the request line to the connected service */
	struct histogram duration;     /* of sessions */
	size_t service_count;
	struct service_stats *buckets[STATS_BUCKETS];
};

void stats_deinit(struct stats *stats);

/* The entry of a path; made when there is none. NULL when out of memory, or for one service too many. */
struct service_stats *stats_service(struct stats *stats, const char *path, size_t length, uint64_t hash,
				    enum service_kind kind);

/* For a process that goes on as another program: one field for the totals and one for each service. */
void stats_write(const struct stats *stats, struct fields_writer *writer, uint16_t totals_tag,
		 uint16_t service_tag);

/* Adds what such a field holds. Of another form (of another version), or without memory: it is lost. */
void stats_take_totals(struct stats *stats, const struct field *field);
void stats_take_service(struct stats *stats, const struct field *field);

#endif
