#include "base/progress.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"
#include "base/quantity.h"

#define PART_SIZE 64
#define GAP "  "

void progress_begin(struct progress *progress, struct progress_sample first)
{
	*progress = (struct progress){ .first = first };
	progress_add(progress, first);
}

void progress_add(struct progress *progress, struct progress_sample sample)
{
	progress->samples[progress->count++ % PROGRESS_SAMPLES] = sample;
}

static const struct progress_sample *newest(const struct progress *progress)
{
	return &progress->samples[(progress->count - 1) % PROGRESS_SAMPLES];
}

static const struct progress_sample *oldest(const struct progress *progress)
{
	return &progress->samples[progress->count < PROGRESS_SAMPLES ? 0 :
								       progress->count % PROGRESS_SAMPLES];
}

static const char *rate(uint64_t bytes, uint64_t time_ms, char text[static QUANTITY_SIZE])
{
	return quantity_bytes(time_ms > 0 ? (double)bytes * 1000 / (double)time_ms : 0, text);
}

struct parts {
	char age[QUANTITY_SIZE];
	char sent[PART_SIZE];
	char received[PART_SIZE];
};

/* Numbers stand still while they change: each has its room. */
static void write_way(const char *word, uint64_t bytes, uint64_t in_window, uint64_t window_ms, bool has_rate,
		      char part[static PART_SIZE])
{
	char total[QUANTITY_SIZE], speed[QUANTITY_SIZE];

	quantity_bytes((double)bytes, total);
	if (has_rate)
		snprintf(part, PART_SIZE, "%s %4s %4s/s", word, total, rate(in_window, window_ms, speed));
	else
		snprintf(part, PART_SIZE, "%s %4s", word, total);
}

static void write_parts(const struct progress *progress, bool has_rates, struct parts *parts)
{
	const struct progress_sample *first = oldest(progress), *last = newest(progress);
	uint64_t window_ms = last->at_ms - first->at_ms;

	quantity_age((double)(last->at_ms - progress->first.at_ms) / 1000, parts->age);
	write_way("sent", last->sent, last->sent - first->sent, window_ms, has_rates, parts->sent);
	write_way("received", last->received, last->received - first->received, window_ms, has_rates,
		  parts->received);
}

/* As many whole parts as there is room for; false when that is not all of them. */
static bool join(const struct parts *parts, const char *what, size_t room,
		 char line[static PROGRESS_LINE_SIZE])
{
	const char *const texts[] = { parts->age, what, parts->sent, parts->received };
	size_t used = 0;

	line[0] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		const char *gap = used > 0 ? GAP : "";

		if (!*texts[i])
			continue;
		if (used + strlen(gap) + strlen(texts[i]) > room)
			return false;
		used += (size_t)snprintf(line + used, PROGRESS_LINE_SIZE - used, "%s%s", gap, texts[i]);
	}
	return true;
}

void progress_line(const struct progress *progress, const char *what, int columns,
		   char line[static PROGRESS_LINE_SIZE])
{
	size_t room = (size_t)MIN(MAX(columns, 0), PROGRESS_LINE_SIZE - 1);
	struct parts parts;

	write_parts(progress, true, &parts);
	if (join(&parts, what, room, line))
		return;
	write_parts(progress, false, &parts);
	join(&parts, what, room, line);
}

void progress_summary(const struct progress *progress, struct progress_sample last,
		      char line[static PROGRESS_LINE_SIZE])
{
	const struct progress_sample *first = &progress->first;
	uint64_t time_ms = last.at_ms - first->at_ms;
	char sent[2][QUANTITY_SIZE], received[2][QUANTITY_SIZE], age[QUANTITY_SIZE];

	snprintf(line, PROGRESS_LINE_SIZE, "sent %s (%s/s), received %s (%s/s) in %s",
		 quantity_bytes((double)last.sent, sent[0]), rate(last.sent - first->sent, time_ms, sent[1]),
		 quantity_bytes((double)last.received, received[0]),
		 rate(last.received - first->received, time_ms, received[1]),
		 quantity_age((double)time_ms / 1000, age));
}
