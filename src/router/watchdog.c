#include "router/watchdog.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/notify.h"

/* Of the time that the manager gives: a message may be late or lost (a full queue) and the next is still in time. */
#define WATCHDOG_SHARE 4

/* The number of a thread that has not answered, from 1; 0 when all have. */
static unsigned silent_worker(const struct watchdog *watchdog)
{
	for (unsigned i = 0; i < watchdog->count; i++) {
		if (watchdog->workers[i].answered != watchdog->question)
			return i + 1;
	}
	return 0;
}

static void tell_silence(struct watchdog *watchdog, unsigned number)
{
	struct log_line line;

	if (watchdog->is_alarmed)
		return;
	watchdog->is_alarmed = true;
	log_begin(&line, LOG_LEVEL_ERROR,
		  "a thread does not come round; the watchdog is not told that all is well");
	log_add_number(&line, "thread", number);
	log_end(&line);
}

static void watchdog_on_timer(struct loop_timer *timer)
{
	struct watchdog *watchdog = CONTAINER_OF(timer, struct watchdog, timer);
	unsigned silent = silent_worker(watchdog);

	if (silent > 0) {
		tell_silence(watchdog, silent);
	} else {
		watchdog->is_alarmed = false;
		notify_send("WATCHDOG=1");
		watchdog->question++;
		for (unsigned i = 0; i < watchdog->count; i++)
			worker_ask(&watchdog->workers[i], watchdog->question);
	}
	/* There was a place for it in the heap. */
	loop_timer_set(&watchdog->workers[0].loop, timer, clock_now_ms() + watchdog->pause_ms);
}

int watchdog_start(struct watchdog *watchdog, struct worker *workers, unsigned count)
{
	uint64_t interval_ms = notify_watchdog_ms();

	if (interval_ms == 0)
		return 0;
	*watchdog = (struct watchdog){ .workers = workers,
				       .count = count,
				       .pause_ms = MAX(interval_ms / WATCHDOG_SHARE, 1),
				       .timer.on_expire = watchdog_on_timer };
	return loop_timer_set(&workers[0].loop, &watchdog->timer, clock_now_ms());
}
