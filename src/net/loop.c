/*
 * Theory of operation: one round waits for events, calls their watches, then
 * the timers that are due, then the tasks. Tasks that are queued meanwhile wait
 * for the next round, which then does not sleep; so a stream that always
 * has more to do gets its turn, and so has everybody else.
 *
 * Deadlines lie in a binary heap of (time, timer) pairs; a timer knows its
 * place. Only armed timers need room, so a thing without a deadline costs none.
 */
#include "net/loop.h"

#include <limits.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/macros.h"
#include "base/sandbox.h"

SANDBOX_CALLS("epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait");

#define LOOP_BATCH 128
#define TIMER_BATCH 8
#define WAIT_FAILURES_MAX 100 /* in a row: then the loop is beyond help */
#define WAIT_FAILURE_NAP_NS 10000000
#define CATCH_UP_MS 1000 /* at most: events may come faster than they are dealt with */

/* Ends the task list: NULL would say "not queued". */
static struct loop_task loop_tasks_end;

int loop_watch(struct loop *loop, struct loop_watch *watch, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = watch };
	int operation = EPOLL_CTL_MOD;

	if (events == watch->events)
		return 0;
	if (watch->events == 0)
		operation = EPOLL_CTL_ADD;
	else if (events == 0)
		operation = EPOLL_CTL_DEL;
	if (epoll_ctl(loop->epoll_fd, operation, watch->fd, &event) != 0)
		return -errno;
	watch->events = events;
	return 0;
}

/* ---- deadlines ------------------------------------------------------------------------------------ */

static void heap_put(struct loop *loop, size_t position, struct loop_deadline deadline)
{
	loop->heap[position - 1] = deadline;
	deadline.timer->position = (uint32_t)position;
}

/* Lets the deadline rise from the hole at position, then puts it down. */
static void heap_rise(struct loop *loop, size_t position, struct loop_deadline deadline)
{
	while (position > 1 && loop->heap[position / 2 - 1].at_ms > deadline.at_ms) {
		heap_put(loop, position, loop->heap[position / 2 - 1]);
		position /= 2;
	}
	heap_put(loop, position, deadline);
}

static void heap_sink(struct loop *loop, size_t position, struct loop_deadline deadline)
{
	for (;;) {
		size_t child = position * 2;

		if (child > loop->heap_length)
			break;
		if (child < loop->heap_length && loop->heap[child].at_ms < loop->heap[child - 1].at_ms)
			child++;
		if (loop->heap[child - 1].at_ms >= deadline.at_ms)
			break;
		heap_put(loop, position, loop->heap[child - 1]);
		position = child;
	}
	heap_put(loop, position, deadline);
}

static void heap_settle(struct loop *loop, size_t position, struct loop_deadline deadline)
{
	if (position > 1 && loop->heap[position / 2 - 1].at_ms > deadline.at_ms)
		heap_rise(loop, position, deadline);
	else
		heap_sink(loop, position, deadline);
}

static int heap_grow(struct loop *loop)
{
	size_t capacity = loop->heap_capacity ? loop->heap_capacity * 2 : 64;
	struct loop_deadline *heap = reallocarray(loop->heap, capacity, sizeof(*heap));

	if (!heap)
		return -ENOMEM;
	loop->heap = heap;
	loop->heap_capacity = capacity;
	return 0;
}

int loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at_ms)
{
	struct loop_deadline deadline = { .at_ms = at_ms, .timer = timer };

	if (timer->position) {
		heap_settle(loop, timer->position, deadline);
		return 0;
	}
	if (loop->heap_length == loop->heap_capacity && heap_grow(loop) != 0)
		return -ENOMEM;
	heap_rise(loop, ++loop->heap_length, deadline);
	return 0;
}

void loop_timer_cancel(struct loop *loop, struct loop_timer *timer)
{
	size_t position = timer->position;

	if (position == 0)
		return;
	timer->position = 0;
	loop->heap_length--;
	if (position <= loop->heap_length)
		heap_settle(loop, position, loop->heap[loop->heap_length]);
}

uint64_t loop_timer_due_ms(const struct loop *loop, const struct loop_timer *timer)
{
	return timer->position > 0 ? loop->heap[timer->position - 1].at_ms : 0;
}

/* What is due beyond a batch waits for the next round, so that events come in between. */
static void loop_run_timers(struct loop *loop)
{
	for (unsigned i = 0; i < TIMER_BATCH && loop->heap_length > 0 && loop->heap[0].at_ms <= loop->now_ms;
	     i++) {
		struct loop_timer *timer = loop->heap[0].timer;

		loop_timer_cancel(loop, timer);
		timer->on_expire(timer);
	}
}

/* ---- tasks ---------------------------------------------------------------------------------------- */

void loop_defer(struct loop *loop, struct loop_task *task)
{
	if (task->next)
		return;
	task->next = &loop_tasks_end;
	if (loop->tasks == &loop_tasks_end)
		loop->tasks = task;
	else
		loop->tasks_last->next = task;
	loop->tasks_last = task;
}

static void loop_run_tasks(struct loop *loop)
{
	struct loop_task *task = loop->tasks;

	loop->tasks = &loop_tasks_end;
	while (task != &loop_tasks_end) {
		struct loop_task *next = task->next;

		task->next = NULL;
		task->run(task); /* may free the task */
		task = next;
	}
}

/* ---- running -------------------------------------------------------------------------------------- */

static int loop_wait_ms(const struct loop *loop)
{
	uint64_t now_ms, wait_ms;

	if (loop->tasks != &loop_tasks_end)
		return 0;
	if (loop->heap_length == 0)
		return -1;
	now_ms = clock_now_ms();
	if (loop->heap[0].at_ms <= now_ms)
		return 0;
	wait_ms = loop->heap[0].at_ms - now_ms;
	return wait_ms > INT_MAX ? INT_MAX : (int)wait_ms;
}

/* Looks for events without sleeping. On a processor of its own this saves the time that waking up takes. */
static int loop_poll(const struct loop *loop, struct epoll_event events[static LOOP_BATCH])
{
	uint64_t end_us = clock_now_us() + loop->busy_poll_us;
	int count;

	do {
		count = epoll_wait(loop->epoll_fd, events, LOOP_BATCH, 0);
	} while (count == 0 && clock_now_us() < end_us);
	return count;
}

static int loop_wait(const struct loop *loop, struct epoll_event events[static LOOP_BATCH])
{
	int count = 0;

	/* Not while there is something to do already, timers that are due included. */
	if (loop->busy_poll_us > 0 && loop_wait_ms(loop) != 0)
		count = loop_poll(loop, events);
	return count ? count : epoll_wait(loop->epoll_fd, events, LOOP_BATCH, loop_wait_ms(loop));
}

/* Sessions depend on the loop: what passes does not end it. Meanwhile it must not spin. */
static bool loop_bears_failure(unsigned *failures)
{
	static const struct timespec nap = { .tv_nsec = WAIT_FAILURE_NAP_NS };
	int error = errno;

	if (error == EINTR)
		return true;
	nanosleep(&nap, NULL);
	errno = error;
	return ++*failures < WAIT_FAILURES_MAX;
}

int loop_run(struct loop *loop)
{
	struct epoll_event events[LOOP_BATCH];
	unsigned failures = 0;

	while (!loop->is_stopping) {
		int count = loop_wait(loop, events);

		if (count >= 0)
			failures = 0;
		else if (!loop_bears_failure(&failures))
			return -errno;
		loop->now_ms = clock_now_ms();
		for (int i = 0; i < count; i++) {
			struct loop_watch *watch = events[i].data.ptr;

			/* Taken out by an earlier event of this batch: no longer wanted. */
			if (watch->events != 0)
				watch->on_events(watch, events[i].events);
		}
		if ((count >= 0 && count < LOOP_BATCH) || loop->now_ms >= loop->catch_up_end_ms)
			loop->catch_up_end_ms = 0;
		if (loop->catch_up_end_ms == 0)
			loop_run_timers(loop);
		loop_run_tasks(loop);
	}
	return 0;
}

void loop_stop(struct loop *loop)
{
	loop->is_stopping = true;
}

void loop_resume(struct loop *loop)
{
	loop->is_stopping = false;
	loop->catch_up_end_ms = clock_now_ms() + CATCH_UP_MS;
}

/* ---- life ------------------------------------------------------------------------------------------ */

int loop_init(struct loop *loop)
{
	*loop = (struct loop){ .epoll_fd = epoll_create1(EPOLL_CLOEXEC), .now_ms = clock_now_ms() };
	loop->tasks = &loop_tasks_end;
	loop->catch_up_end_ms = loop->now_ms + CATCH_UP_MS; /* it may go on for another program */
	return loop->epoll_fd < 0 ? -errno : 0;
}

void loop_deinit(struct loop *loop)
{
	cleanup_close(&loop->epoll_fd);
	free(loop->heap);
	*loop = (struct loop){ .epoll_fd = -1 };
}

void loop_run_out(struct loop *loop)
{
	while (loop->tasks != &loop_tasks_end)
		loop_run_tasks(loop);
}
