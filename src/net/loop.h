/*
 * The event loop of one thread: descriptors (epoll), deadlines, and work put
 * off until the current events are dealt with.
 *
 * Ownership: the loop owns nothing that is registered with it. It closes no
 * descriptor and frees no watch, timer or task. What a callback wants to free may still
 * be named by an event of the same batch, so it is freed by a task
 * (loop_defer()), which runs after the batch.
 *
 * Not thread safe: everything is called on the loop's own thread. Nothing
 * blocks but loop_run(). Sources: epoll(7), epoll_ctl(2).
 */
#ifndef KAISO_NET_LOOP_H
#define KAISO_NET_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

struct loop_watch {
	/* events: EPOLLIN and so on, as epoll_wait(2) reports them. */
	void (*on_events)(struct loop_watch *watch, uint32_t events);
	int fd;
	uint32_t events; /* what is registered; 0: nothing */
};

/* Packed: a session has one, and four bytes more would make it a size larger to malloc(3). */
struct loop_timer {
	void (*on_expire)(struct loop_timer *timer);
	uint32_t position; /* in the heap, from 1; 0: not armed */
} __attribute__((packed, aligned(4)));

struct loop_task {
	struct loop_task *next; /* NULL: not queued */
	void (*run)(struct loop_task *task);
};

struct loop_deadline {
	uint64_t at_ms;
	struct loop_timer *timer;
};

struct loop {
	int epoll_fd;
	bool is_stopping;
	uint64_t now_ms;          /* clock_now_ms() when the current batch began */
	uint64_t catch_up_end_ms; /* until then deadlines wait, while there are events; 0: they do not */
	unsigned
		busy_poll_us; /* look for events for so long before sleeping; 0: sleep at once. The caller's */
	struct loop_deadline *heap;
	size_t heap_length;
	size_t heap_capacity;
	struct loop_task *tasks;
	struct loop_task *tasks_last;
};

/* 0 or a negative errno. */
int loop_init(struct loop *loop);

void loop_deinit(struct loop *loop);

/* Runs the tasks that are queued, and those that they queue: so that what waits to be freed is freed
 * before its surroundings go. For the end, when nothing goes on forever any more. */
void loop_run_out(struct loop *loop);

/* Runs until loop_stop(), to the end of that round. 0, or a negative errno of epoll_wait(2) that stays. */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop);

/* Takes loop_stop() back, while the loop does not run: it can be run again. What happened meanwhile is dealt with
 * before any deadline that came due meanwhile. */
void loop_resume(struct loop *loop);

/*
 * Registers the watch for exactly these events (EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLET, EPOLLEXCLUSIVE;
 * errors and hang-ups always come), or changes what it is registered for; 0 takes it out. No system call
 * when nothing changes. 0 or a negative errno (-ENOMEM, -ENOSPC: epoll_ctl(2)). A watch must be taken out
 * before its descriptor is closed when another descriptor may share the open file (SCM_RIGHTS, fork):
 * events would go on.
 */
int loop_watch(struct loop *loop, struct loop_watch *watch, uint32_t events);

/* Arms the timer for clock_now_ms() >= at_ms, or moves it. 0, or -ENOMEM (never for a timer that is
 * armed). */
int loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at_ms);
void loop_timer_cancel(struct loop *loop, struct loop_timer *timer);

/* When it is due; 0 when it is not armed. */
uint64_t loop_timer_due_ms(const struct loop *loop, const struct loop_timer *timer);

/* Has the task run once, after the current batch of events. Queued already: nothing happens. */
void loop_defer(struct loop *loop, struct loop_task *task);

#endif
