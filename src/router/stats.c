#include "router/stats.h"

#include <stdlib.h>
#include <string.h>

#include "base/macros.h"

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
