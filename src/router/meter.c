/*
 * Theory of operation: a timer begins a report, whose end draws the line and sets the timer again, so there is never
 * more than one under way.
 */
#include "router/meter.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/progress.h"
#include "base/quantity.h"
#include "router/upgrade.h"

struct meter {
	const struct report_source *source;
	struct loop_timer timer;
	struct progress progress;
	bool must_begin; /* what the first report says was moved by the program before this one */
	bool is_finished;
};

static struct loop *loop_of(const struct meter *meter)
{
	return &meter->source->workers[0].loop;
}

static void meter_wait(struct meter *meter)
{
	/* Out of memory there is no line more; the router goes on. */
	(void)loop_timer_set(loop_of(meter), &meter->timer, clock_now_ms() + PROGRESS_INTERVAL_MS);
}

static void meter_draw(struct meter *meter, uint64_t open, uint64_t ended, struct progress_sample sample)
{
	char open_text[QUANTITY_SIZE], all_text[QUANTITY_SIZE];
	char line[PROGRESS_LINE_SIZE], clients[64];

	if (meter->must_begin)
		progress_begin(&meter->progress, sample);
	else
		progress_add(&meter->progress, sample);
	meter->must_begin = false;
	snprintf(clients, sizeof(clients), "clients %3s of %s", quantity_count(open, open_text),
		 quantity_count(open + ended, all_text));
	progress_line(&meter->progress, clients, log_status_columns(), line);
	log_set_status(line);
}

static uint64_t count_ended(const uint64_t reasons[static SESSION_REASON_COUNT])
{
	uint64_t count = 0;

	for (unsigned i = 0; i < SESSION_REASON_COUNT; i++)
		count += reasons[i];
	return count;
}

static void meter_on_report(struct report *report)
{
	struct meter *meter = report->context;
	struct progress_sample sample = { clock_now_ms(), report->total.sent, report->total.received };

	if (!meter->is_finished) {
		meter_draw(meter, report->open, count_ended(report->reasons), sample);
		meter_wait(meter);
	}
	report_free(report);
}

static void meter_on_timer(struct loop_timer *timer)
{
	struct meter *meter = CONTAINER_OF(timer, struct meter, timer);

	if (log_status_columns() == 0 || !report_begin(meter->source, false, meter_on_report, meter))
		meter_wait(meter);
}

struct meter *meter_new(const struct report_source *source)
{
	struct meter *meter = calloc(1, sizeof(*meter));

	if (!meter)
		return NULL;
	meter->source = source;
	meter->timer.on_expire = meter_on_timer;
	meter->must_begin = upgrade_role() == UPGRADE_TAKES;
	progress_begin(&meter->progress, (struct progress_sample){ .at_ms = clock_now_ms() });
	meter_wait(meter);
	return meter;
}

void meter_finish(struct meter *meter)
{
	struct progress_sample last = { .at_ms = clock_now_ms() };
	char text[PROGRESS_LINE_SIZE], line[LOG_STATUS_SIZE], number[QUANTITY_SIZE];
	uint64_t clients = 0;

	for (unsigned i = 0; i < meter->source->count; i++) {
		const struct worker *worker = &meter->source->workers[i];

		last.sent += worker->stats.sent;
		last.received += worker->stats.received;
		clients += count_ended(worker->reason_counts);
	}
	progress_summary(&meter->progress, last, text);
	snprintf(line, sizeof(line), "clients %s, %s", quantity_count(clients, number), text);
	log_leave_status(line);
	meter->is_finished = true;
}

void meter_free(struct meter *meter)
{
	if (meter)
		loop_timer_cancel(loop_of(meter), &meter->timer);
	free(meter);
}
