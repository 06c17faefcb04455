/*
 * The loop against models: random deadlines against a table, and the order of
 * events, timers and tasks as a string of letters.
 *
 * Deadlines of the random test lie in the past, so that order alone is at stake and nothing waits.
 */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/time.h>

#include "base/clock.h"
#include "base/macros.h"
#include "net/loop.h"

/* What happened, a letter each. */
static char history[256];

static void note(char letter)
{
	size_t length = strlen(history);

	assert_true(length + 1 < sizeof(history));
	history[length] = letter;
	history[length + 1] = '\0';
}

static struct loop loop;

static int begin(void **state)
{
	history[0] = '\0';
	return fixture_setup(state) == 0 && loop_init(&loop) == 0 ? 0 : -1;
}

static int end(void **state)
{
	loop_deinit(&loop);
	return fixture_teardown(state);
}

static int ready_eventfd(void)
{
	int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);

	assert_true(fd >= 0);
	return fd;
}

/* ---- timers --------------------------------------------------------------------------------------- */

#define MODEL_TIMERS 300
#define MODEL_NOT_ARMED 0

struct model_timer {
	uint64_t at_ms; /* MODEL_NOT_ARMED, or what the loop was told */
	struct loop_timer timer;
};

static struct model_timer model[MODEL_TIMERS];
static unsigned model_fired;
static unsigned model_moves_left; /* what the timers themselves may still do, so that it ends */
static uint64_t random_state;

/* xorshift64, so that a failure comes back. */
static uint64_t random_below(uint64_t bound)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state % bound;
}

static uint64_t model_earliest(void)
{
	uint64_t earliest = UINT64_MAX;

	for (size_t i = 0; i < MODEL_TIMERS; i++) {
		if (model[i].at_ms != MODEL_NOT_ARMED && model[i].at_ms < earliest)
			earliest = model[i].at_ms;
	}
	return earliest;
}

static void model_act(void)
{
	struct model_timer *chosen = &model[random_below(MODEL_TIMERS)];

	if (random_below(3) == 0) {
		chosen->at_ms = MODEL_NOT_ARMED;
		loop_timer_cancel(&loop, &chosen->timer);
	} else {
		/* Few different times, so that many are equal. */
		chosen->at_ms = 1 + random_below(200);
		assert_int_equal(loop_timer_set(&loop, &chosen->timer, chosen->at_ms), 0);
	}
	for (size_t i = 0; i < MODEL_TIMERS; i++)
		assert_int_equal(model[i].timer.position != 0, model[i].at_ms != MODEL_NOT_ARMED);
}

static void model_on_expire(struct loop_timer *timer)
{
	struct model_timer *fired = CONTAINER_OF(timer, struct model_timer, timer);

	assert_int_not_equal(fired->at_ms, MODEL_NOT_ARMED);
	assert_int_equal(fired->at_ms, model_earliest());
	assert_int_equal(timer->position, 0);
	fired->at_ms = MODEL_NOT_ARMED;
	model_fired++;
	if (model_moves_left > 0) {
		model_moves_left--;
		model_act();
	}
	if (model_earliest() == UINT64_MAX)
		loop_stop(&loop);
}

static void test_timers_of_random_sequences_fire_in_order(void **state)
{
	(void)state;
	random_state = 0x1234567;
	for (int round = 0; round < 30; round++) {
		unsigned acts = 1 + (unsigned)random_below(1500);

		memset(model, 0, sizeof(model));
		for (size_t i = 0; i < MODEL_TIMERS; i++)
			model[i].timer.on_expire = model_on_expire;
		for (unsigned i = 0; i < acts; i++)
			model_act();
		/* One more, lest there be none. */
		model[0].at_ms = 100;
		assert_int_equal(loop_timer_set(&loop, &model[0].timer, 100), 0);
		model_fired = 0;
		model_moves_left = (unsigned)random_below(100);
		loop.is_stopping = false;
		assert_int_equal(loop_run(&loop), 0);
		assert_true(model_fired > 0);
		assert_int_equal(model_earliest(), UINT64_MAX);
		assert_int_equal(loop.heap_length, 0);
	}
}

static uint64_t expired_ms;

static void on_expire_stop(struct loop_timer *timer)
{
	(void)timer;
	expired_ms = clock_now_ms();
	note('t');
	loop_stop(&loop);
}

static void on_expire_note(struct loop_timer *timer)
{
	(void)timer;
	note('n');
}

static void test_a_timer_never_fires_early(void **state)
{
	struct loop_timer timer = { .on_expire = on_expire_stop };

	(void)state;
	for (uint64_t wait_ms = 0; wait_ms < 12; wait_ms++) {
		uint64_t at_ms = clock_now_ms() + wait_ms;

		assert_int_equal(loop_timer_set(&loop, &timer, at_ms), 0);
		loop.is_stopping = false;
		assert_int_equal(loop_run(&loop), 0);
		assert_true(expired_ms >= at_ms);
		assert_true(loop.now_ms >= at_ms);
	}
}

static void test_a_cancelled_timer_does_not_fire(void **state)
{
	struct loop_timer cancelled = { .on_expire = on_expire_note };
	struct loop_timer last = { .on_expire = on_expire_stop };

	(void)state;
	loop_timer_cancel(&loop, &cancelled); /* never armed: harmless */
	assert_int_equal(loop_timer_set(&loop, &cancelled, 1), 0);
	loop_timer_cancel(&loop, &cancelled);
	loop_timer_cancel(&loop, &cancelled);
	assert_int_equal(loop_timer_set(&loop, &last, 2), 0);
	assert_int_equal(loop_run(&loop), 0);
	assert_string_equal(history, "t");
}

static struct loop_timer *victim;

static void on_expire_cancel_victim(struct loop_timer *timer)
{
	(void)timer;
	note('c');
	loop_timer_cancel(&loop, victim);
}

static void test_a_timer_may_cancel_one_that_is_due(void **state)
{
	struct loop_timer first = { .on_expire = on_expire_cancel_victim };
	struct loop_timer second = { .on_expire = on_expire_note };
	struct loop_timer third = { .on_expire = on_expire_stop };

	(void)state;
	victim = &second;
	loop_timer_set(&loop, &first, 1);
	loop_timer_set(&loop, &second, 2);
	loop_timer_set(&loop, &third, 3);
	assert_int_equal(loop_run(&loop), 0);
	assert_string_equal(history, "ct");
}

/* More milliseconds than an int of epoll_wait() holds: neither at once nor a negative wait. */
static void test_a_timer_of_the_far_future_waits(void **state)
{
	struct loop_timer far = { .on_expire = on_expire_note }, never = { .on_expire = on_expire_note };
	struct loop_timer near = { .on_expire = on_expire_stop };

	(void)state;
	assert_int_equal(loop_timer_set(&loop, &never, UINT64_MAX), 0);
	assert_int_equal(loop_timer_set(&loop, &far, clock_now_ms() + (UINT64_C(1) << 40)), 0);
	assert_int_equal(loop_timer_set(&loop, &near, clock_now_ms() + 5), 0);
	assert_int_equal(loop_run(&loop), 0);
	assert_string_equal(history, "t");
	assert_int_equal(loop.heap_length, 2);
}

/* ---- tasks ---------------------------------------------------------------------------------------- */

static struct loop_task *other_task;
static int repeats_left;

static void run_note(struct loop_task *task)
{
	(void)task;
	note('k');
}

static void run_stop(struct loop_task *task)
{
	(void)task;
	note('s');
	loop_stop(&loop);
}

static void run_and_repeat(struct loop_task *task)
{
	note('r');
	if (--repeats_left > 0)
		loop_defer(&loop, task);
	else
		loop_stop(&loop);
}

static void run_and_queue_other(struct loop_task *task)
{
	(void)task;
	note('q');
	loop_defer(&loop, other_task);
}

static void run_and_free(struct loop_task *task)
{
	note('f');
	free(task);
}

static void on_events_note(struct loop_watch *watch, uint32_t events)
{
	(void)watch;
	assert_int_equal(events, EPOLLIN);
	note('e');
}

static void on_events_defer_other(struct loop_watch *watch, uint32_t events)
{
	(void)watch;
	(void)events;
	note('e');
	loop_defer(&loop, other_task);
}

static void test_tasks_run_in_the_order_in_which_they_came(void **state)
{
	struct loop_task first = { .run = run_note }, last = { .run = run_stop };
	struct loop_task *freed = malloc(sizeof(*freed));

	(void)state;
	*freed = (struct loop_task){ .run = run_and_free };
	loop_defer(&loop, &first);
	loop_defer(&loop, freed);
	loop_defer(&loop, &last);
	loop_defer(&loop, &first); /* is queued already */
	assert_int_equal(loop_run(&loop), 0);
	assert_string_equal(history, "kfs");
	assert_null(first.next);
	assert_null(last.next);
}

/* Both events come before the task of the first, and the timer that is due as well. */
static void test_tasks_run_after_the_events_and_timers_of_their_round(void **state)
{
	struct loop_watch watches[2];
	struct loop_task task = { .run = run_stop };
	struct loop_timer timer = { .on_expire = on_expire_note };

	(void)state;
	other_task = &task;
	for (int i = 0; i < 2; i++) {
		watches[i] = (struct loop_watch){ .on_events = on_events_defer_other, .fd = ready_eventfd() };
		assert_int_equal(loop_watch(&loop, &watches[i], EPOLLIN), 0);
	}
	loop_timer_set(&loop, &timer, 1);
	assert_int_equal(loop_run(&loop), 0);
	assert_string_equal(history, "eens");
	for (int i = 0; i < 2; i++)
		close(watches[i].fd);
}

/* A task that always has more to do leaves room for events between its turns. */
static void test_tasks_of_tasks_wait_for_the_next_round(void **state)
{
	struct loop_watch watch = { .on_events = on_events_note, .fd = ready_eventfd() };
	struct loop_task task = { .run = run_and_repeat };

	(void)state;
	repeats_left = 4;
	assert_int_equal(loop_watch(&loop, &watch, EPOLLIN), 0);
	loop_defer(&loop, &task);
	assert_int_equal(loop_run(&loop), 0);
	assert_string_equal(history, "erererer");
	close(watch.fd);
}

/* Nothing else is due: the round with the task must not sleep for events. */
static void test_a_queued_task_keeps_the_loop_awake(void **state)
{
	struct loop_task task = { .run = run_and_repeat };
	struct loop_timer far = { .on_expire = on_expire_note };

	(void)state;
	repeats_left = 3;
	loop_timer_set(&loop, &far, clock_now_ms() + 1000000);
	loop_defer(&loop, &task);
	assert_int_equal(loop_run(&loop), 0);
	assert_string_equal(history, "rrr");
}

static void test_a_task_queues_one_that_waits_in_the_same_round(void **state)
{
	struct loop_task first = { .run = run_and_queue_other }, second = { .run = run_stop };

	(void)state;
	other_task = &second;
	loop_defer(&loop, &first);
	loop_defer(&loop, &second);
	assert_int_equal(loop_run(&loop), 0);
	assert_string_equal(history, "qs");
	loop_run_out(&loop);
	assert_string_equal(history, "qs");
}

static void test_running_out_runs_the_tasks_of_tasks(void **state)
{
	struct loop_task first = { .run = run_and_queue_other }, second = { .run = run_note };

	(void)state;
	other_task = &second;
	loop_run_out(&loop);
	loop_defer(&loop, &first);
	loop_run_out(&loop);
	assert_string_equal(history, "qk");
	loop_run_out(&loop);
	assert_string_equal(history, "qk");
}

/* ---- events --------------------------------------------------------------------------------------- */

#define RIVALS 5

static struct loop_watch rivals[RIVALS];

static void on_events_take_others_out(struct loop_watch *watch, uint32_t events)
{
	(void)events;
	note('w');
	for (int i = 0; i < RIVALS; i++) {
		if (&rivals[i] != watch)
			assert_int_equal(loop_watch(&loop, &rivals[i], 0), 0);
	}
	loop_stop(&loop);
}

static void test_a_watch_taken_out_by_an_earlier_event_gets_no_call(void **state)
{
	(void)state;
	for (int i = 0; i < RIVALS; i++) {
		rivals[i] =
			(struct loop_watch){ .on_events = on_events_take_others_out, .fd = ready_eventfd() };
		assert_int_equal(loop_watch(&loop, &rivals[i], EPOLLIN), 0);
	}
	assert_int_equal(loop_run(&loop), 0);
	assert_string_equal(history, "w");
	for (int i = 0; i < RIVALS; i++)
		close(rivals[i].fd);
}

static void on_events_stop(struct loop_watch *watch, uint32_t events)
{
	(void)watch;
	(void)events;
	note('x');
	loop_stop(&loop);
}

/* The other event of the batch, the timer and the task are not lost. */
static void test_stop_ends_after_the_round(void **state)
{
	struct loop_watch watches[2];
	struct loop_task task = { .run = run_note };
	struct loop_timer timer = { .on_expire = on_expire_note };

	(void)state;
	for (int i = 0; i < 2; i++) {
		watches[i] = (struct loop_watch){ .on_events = on_events_stop, .fd = ready_eventfd() };
		assert_int_equal(loop_watch(&loop, &watches[i], EPOLLIN), 0);
	}
	loop_timer_set(&loop, &timer, 1);
	loop_defer(&loop, &task);
	assert_int_equal(loop_run(&loop), 0);
	assert_string_equal(history, "xxnk");
	/* Stopped already: no further round. */
	assert_int_equal(loop_run(&loop), 0);
	assert_string_equal(history, "xxnk");
	for (int i = 0; i < 2; i++)
		close(watches[i].fd);
}

static void test_a_watch_gets_the_events_it_is_registered_for(void **state)
{
	struct loop_watch watch = { .on_events = on_events_note, .fd = ready_eventfd() };
	struct loop_task task = { .run = run_and_repeat };
	static const struct {
		uint32_t events;
		const char *expected;
	} cases[] = {
		{ 0, "r" },        { EPOLLIN, "er" }, { EPOLLIN, "er" },
		{ EPOLLPRI, "r" }, { EPOLLIN, "er" }, { 0, "r" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		history[0] = '\0';
		repeats_left = 1;
		loop.is_stopping = false;
		assert_int_equal(loop_watch(&loop, &watch, cases[i].events), 0);
		assert_int_equal(watch.events, cases[i].events);
		loop_defer(&loop, &task);
		assert_int_equal(loop_run(&loop), 0);
		assert_string_equal(history, cases[i].expected);
	}
	close(watch.fd);
}

static void test_an_edge_comes_once(void **state)
{
	struct loop_watch watch = { .on_events = on_events_note, .fd = ready_eventfd() };
	struct loop_task task = { .run = run_and_repeat };

	(void)state;
	repeats_left = 3;
	assert_int_equal(loop_watch(&loop, &watch, EPOLLIN | EPOLLET), 0);
	loop_defer(&loop, &task);
	assert_int_equal(loop_run(&loop), 0);
	assert_string_equal(history, "errr");
	close(watch.fd);
}

static void test_what_cannot_be_watched(void **state)
{
	struct loop_watch watch = { .on_events = on_events_note, .fd = -1 };

	(void)state;
	assert_int_equal(loop_watch(&loop, &watch, EPOLLIN), -EBADF);
	assert_int_equal(watch.events, 0);
	assert_int_equal(loop_watch(&loop, &watch, 0), 0);
	watch.fd =
		open("/proc/self/exe", O_RDONLY | O_CLOEXEC); /* files are always ready, so epoll refuses */
	assert_int_equal(loop_watch(&loop, &watch, EPOLLIN), -EPERM);
	assert_int_equal(watch.events, 0);
	close(watch.fd);
}

/* No system call when nothing changes: one would fail here. */
static void test_an_unchanged_watch_costs_nothing(void **state)
{
	struct loop_watch watch = { .on_events = on_events_note, .fd = ready_eventfd() };

	(void)state;
	assert_int_equal(loop_watch(&loop, &watch, EPOLLIN), 0);
	close(watch.fd);
	assert_int_equal(loop_watch(&loop, &watch, EPOLLIN), 0);
	assert_int_equal(loop_watch(&loop, &watch, EPOLLOUT), -EBADF);
	assert_int_equal(watch.events, EPOLLIN);
}

/* More ready descriptors than one call of epoll_wait() brings: all get their turn. */
static void test_more_events_than_a_batch(void **state)
{
	struct loop_watch watches[200];
	struct loop_task task = { .run = run_and_repeat };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(watches); i++) {
		watches[i] = (struct loop_watch){ .on_events = on_events_note, .fd = ready_eventfd() };
		assert_int_equal(loop_watch(&loop, &watches[i], EPOLLIN | EPOLLET), 0);
	}
	repeats_left = 3;
	loop_defer(&loop, &task);
	assert_int_equal(loop_run(&loop), 0);
	assert_int_equal(strlen(history), ARRAY_SIZE(watches) + 3);
	for (size_t i = 0; i < ARRAY_SIZE(watches); i++)
		close(watches[i].fd);
}

/* An event that is there and a timer that is due long after the polling: both come, in this order. */
static void test_busy_polling_changes_no_order(void **state)
{
	struct loop_watch watch = { .on_events = on_events_note, .fd = ready_eventfd() };
	struct loop_timer timer = { .on_expire = on_expire_stop };

	(void)state;
	loop.busy_poll_us = 1000;
	assert_int_equal(loop_watch(&loop, &watch, EPOLLIN | EPOLLET), 0);
	loop_timer_set(&loop, &timer, clock_now_ms() + 20);
	assert_int_equal(loop_run(&loop), 0);
	assert_int_equal(strlen(history), 2);
	assert_int_equal(history[1], 't');
	close(watch.fd);
}

static unsigned due_left;

static void on_expire_of_many(struct loop_timer *timer)
{
	(void)timer;
	if (--due_left == 0)
		loop_stop(&loop);
}

/* More timers are due than one round runs: nobody is to wait for events meanwhile, least of all actively. */
static void test_busy_polling_holds_up_no_timer(void **state)
{
	static struct loop_timer due[100];
	const uint64_t begin_ms = clock_now_ms();

	(void)state;
	loop.busy_poll_us = 20 * 1000 * 1000;
	due_left = ARRAY_SIZE(due);
	for (size_t i = 0; i < ARRAY_SIZE(due); i++) {
		due[i].on_expire = on_expire_of_many;
		assert_int_equal(loop_timer_set(&loop, &due[i], 1), 0);
	}
	assert_int_equal(loop_run(&loop), 0);
	assert_true(clock_now_ms() - begin_ms < loop.busy_poll_us / 1000);
}

static volatile sig_atomic_t signals_seen;

static void on_signal(int number)
{
	(void)number;
	signals_seen++;
}

static void test_a_signal_does_not_end_the_loop(void **state)
{
	struct sigaction action = { .sa_handler = on_signal }, old;
	struct itimerval interval = { .it_value.tv_usec = 5000 };
	struct loop_timer timer = { .on_expire = on_expire_stop };

	(void)state;
	sigaction(SIGALRM, &action, &old);
	loop_timer_set(&loop, &timer, clock_now_ms() + 40);
	setitimer(ITIMER_REAL, &interval, NULL);
	assert_int_equal(loop_run(&loop), 0);
	assert_int_equal(signals_seen, 1);
	assert_string_equal(history, "t");
	sigaction(SIGALRM, &old, NULL);
}

#define CROWD 1000

static unsigned crowd_fired;
static int crowd_fd;

static void on_expire_of_a_crowd(struct loop_timer *timer)
{
	static const uint64_t one = 1;

	(void)timer;
	if (crowd_fired++ == 0)
		assert_int_equal(write(crowd_fd, &one, sizeof(one)), sizeof(one));
}

static void on_event_beside_a_crowd(struct loop_watch *watch, uint32_t events)
{
	(void)watch;
	(void)events;
	note('e');
	loop_stop(&loop);
}

static void test_an_event_waits_for_no_crowd_of_timers(void **state)
{
	static struct loop_timer crowd[CROWD];
	struct loop_watch watch = { .on_events = on_event_beside_a_crowd };

	(void)state;
	crowd_fd = watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(loop_watch(&loop, &watch, EPOLLIN), 0);
	for (unsigned i = 0; i < CROWD; i++) {
		crowd[i].on_expire = on_expire_of_a_crowd;
		assert_int_equal(loop_timer_set(&loop, &crowd[i], 1), 0);
	}
	assert_int_equal(loop_run(&loop), 0);
	assert_string_equal(history, "e");
	assert_in_range(crowd_fired, 1, CROWD / 10);
	assert_int_equal(loop_watch(&loop, &watch, 0), 0);
	close(watch.fd);
}

#define LOOP_TEST(function) cmocka_unit_test_setup_teardown(function, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOOP_TEST(test_timers_of_random_sequences_fire_in_order),
		LOOP_TEST(test_a_timer_never_fires_early),
		LOOP_TEST(test_a_cancelled_timer_does_not_fire),
		LOOP_TEST(test_a_timer_may_cancel_one_that_is_due),
		LOOP_TEST(test_a_timer_of_the_far_future_waits),
		LOOP_TEST(test_tasks_run_in_the_order_in_which_they_came),
		LOOP_TEST(test_tasks_run_after_the_events_and_timers_of_their_round),
		LOOP_TEST(test_tasks_of_tasks_wait_for_the_next_round),
		LOOP_TEST(test_a_queued_task_keeps_the_loop_awake),
		LOOP_TEST(test_a_task_queues_one_that_waits_in_the_same_round),
		LOOP_TEST(test_running_out_runs_the_tasks_of_tasks),
		LOOP_TEST(test_a_watch_taken_out_by_an_earlier_event_gets_no_call),
		LOOP_TEST(test_stop_ends_after_the_round),
		LOOP_TEST(test_a_watch_gets_the_events_it_is_registered_for),
		LOOP_TEST(test_an_edge_comes_once),
		LOOP_TEST(test_busy_polling_changes_no_order),
		LOOP_TEST(test_busy_polling_holds_up_no_timer),
		LOOP_TEST(test_what_cannot_be_watched),
		LOOP_TEST(test_an_unchanged_watch_costs_nothing),
		LOOP_TEST(test_more_events_than_a_batch),
		LOOP_TEST(test_an_event_waits_for_no_crowd_of_timers),
		LOOP_TEST(test_a_signal_does_not_end_the_loop),
	};

	return FIXTURE_RUN(tests);
}
