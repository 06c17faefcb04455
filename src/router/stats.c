#include "router/stats.h"

#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "proto/request.h"

const uint32_t histogram_bounds_ms[HISTOGRAM_BOUNDS] = { 1,    5,    10,    50,    100,    500,
							 1000, 5000, 10000, 60000, 600000, 3600000 };

void histogram_observe(struct histogram *histogram, uint64_t duration_ms)
{
	histogram->count++;
	histogram->sum_ms += duration_ms;
	for (size_t i = 0; i < HISTOGRAM_BOUNDS; i++) {
		if (duration_ms <= histogram_bounds_ms[i]) {
			histogram->counts[i]++;
			return;
		}
	}
}

void histogram_add(struct histogram *sum, const struct histogram *other)
{
	for (size_t i = 0; i < HISTOGRAM_BOUNDS; i++)
		sum->counts[i] += other->counts[i];
	sum->count += other->count;
	sum->sum_ms += other->sum_ms;
}

void stats_deinit(struct stats *stats)
{
	for (size_t i = 0; i < STATS_BUCKETS; i++) {
		while (stats->buckets[i]) {
			struct service_stats *service = stats->buckets[i];

			stats->buckets[i] = service->next;
			free(service);
		}
	}
	stats->service_count = 0;
}

struct service_stats *stats_service(struct stats *stats, const char *path, size_t length, uint64_t hash,
				    enum service_kind kind)
{
	struct service_stats **bucket = &stats->buckets[hash % STATS_BUCKETS];
	struct service_stats *service;

	for (service = *bucket; service; service = service->next) {
		if (service->hash == hash && service->path_length == length &&
		    memcmp(service->path, path, length) == 0) {
			service->kind = kind;
			return service;
		}
	}
	if (stats->service_count == STATS_SERVICES_MAX)
		return NULL;
	service = calloc(1, sizeof(*service) + length);
	if (!service)
		return NULL;
	service->hash = hash;
	service->kind = kind;
	service->path_length = length;
	memcpy(service->path, path, length);
	service->next = *bucket;
	*bucket = service;
	stats->service_count++;
	return service;
}

/* ---- from one process to the next ---------------------------------------------------------------------- */

struct totals_image {
	uint64_t sent;
	uint64_t received;
	uint64_t requests;
	struct histogram request_time;
	struct histogram connect_time;
	struct histogram duration;
};

/* The path follows. */
struct service_image {
	uint64_t hash;
	uint64_t kind;
	uint64_t sessions;
	uint64_t failures;
	uint64_t sent;
	uint64_t received;
};

static void write_service(const struct service_stats *service, struct fields_writer *writer, uint16_t tag)
{
	const struct service_image image = { service->hash,     service->kind, service->sessions,
					     service->failures, service->sent, service->received };
	char bytes[sizeof(image) + REQUEST_LINE_MAX];

	memcpy(bytes, &image, sizeof(image));
	memcpy(bytes + sizeof(image), service->path, MIN(service->path_length, (size_t)REQUEST_LINE_MAX));
	fields_put(writer, tag, bytes, sizeof(image) + MIN(service->path_length, (size_t)REQUEST_LINE_MAX));
}

void stats_write(const struct stats *stats, struct fields_writer *writer, uint16_t totals_tag,
		 uint16_t service_tag)
{
	const struct totals_image image = { stats->sent,         stats->received,     stats->requests,
					    stats->request_time, stats->connect_time, stats->duration };

	fields_put(writer, totals_tag, &image, sizeof(image));
	for (size_t i = 0; i < STATS_BUCKETS; i++) {
		for (const struct service_stats *service = stats->buckets[i]; service;
		     service = service->next)
			write_service(service, writer, service_tag);
	}
}

void stats_take_totals(struct stats *stats, const struct field *field)
{
	struct totals_image image;

	if (field->length != sizeof(image))
		return;
	memcpy(&image, field->bytes, sizeof(image));
	stats->sent += image.sent;
	stats->received += image.received;
	stats->requests += image.requests;
	histogram_add(&stats->request_time, &image.request_time);
	histogram_add(&stats->connect_time, &image.connect_time);
	histogram_add(&stats->duration, &image.duration);
}

void stats_take_service(struct stats *stats, const struct field *field)
{
	struct service_image image;
	struct service_stats *service;

	if (field->length < sizeof(image) || field->length > sizeof(image) + REQUEST_LINE_MAX)
		return;
	memcpy(&image, field->bytes, sizeof(image));
	if (image.kind > SERVICE_SRV)
		return;
	service = stats_service(stats, field->bytes + sizeof(image), field->length - sizeof(image),
				image.hash, (enum service_kind)image.kind);
	if (!service)
		return;
	service->sessions += image.sessions;
	service->failures += image.failures;
	service->sent += image.sent;
	service->received += image.received;
}
