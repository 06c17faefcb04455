/*
 * Which target a client tries, with a made-up clock and targets that are names alone: "A", "B", "C"...
 */
#include "fixture.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"
#include "router/backends.h"

enum { TARGETS_MAX = 64 };

/* A service with its targets. */
struct world {
	struct backends backends;
	struct backend_group *group;
	struct backend *targets[TARGETS_MAX];
	size_t count;
};

static void world_init(struct world *world, size_t count)
{
	backends_init(&world->backends);
	world->group = backends_group(&world->backends, "service", 7);
	assert_non_null(world->group);
	world->count = count;
	for (size_t i = 0; i < count; i++) {
		char name = (char)('A' + i);

		world->targets[i] = backends_get(&world->backends, &name, 1);
		assert_non_null(world->targets[i]);
	}
}

/* All of it is given back, so only failed targets may be left. */
static void world_deinit(struct world *world)
{
	for (size_t i = 0; i < world->count; i++)
		backend_unref(world->targets[i]);
	backends_group_unref(world->group);
	assert_int_equal(world->backends.entry_count, world->backends.idle_count);
	backends_deinit(&world->backends);
}

/* The order as letters; the first one is small when it is a trial. */
static const char *order(struct world *world, enum balance balance, const void *client, uint64_t now_ms)
{
	static _Thread_local char text[TARGETS_MAX + 1];
	size_t numbers[TARGETS_MAX];
	struct backend *trial =
		backends_order(world->group, balance, world->targets, world->count, client, now_ms, numbers);

	for (size_t i = 0; i < world->count; i++)
		text[i] = (char)('A' + numbers[i]);
	text[world->count] = '\0';
	if (trial) {
		assert_ptr_equal(trial, world->targets[numbers[0]]);
		text[0] = (char)('a' + numbers[0]);
	}
	return text;
}

static void begin_sessions(struct world *world, const char *targets)
{
	for (; *targets; targets++)
		backend_begin_session(world->targets[*targets - 'A']);
}

static void end_sessions(struct world *world, const char *targets)
{
	for (; *targets; targets++)
		backend_end_session(world->targets[*targets - 'A']);
}

/* ---- orders ---------------------------------------------------------------------------------------- */

struct order_case {
	enum balance balance;
	const char *sessions; /* a letter for each */
	uint64_t now_ms;
	uint64_t failed_ms[4]; /* of A, B...; 0: never; left out for about one second */
	const char
		*expected; /* of clients one after the other, again and again; the first may be any of them */
};

static const struct order_case order_cases[] = {
	{ BALANCE_FIRST, "", 10000, { 0 }, "ABCD" },
	{ BALANCE_FIRST, "AAAAB", 10000, { 0 }, "ABCD" },
	{ BALANCE_FIRST, "", 10000, { 9900 }, "BCDA" },
	{ BALANCE_FIRST, "", 10000, { 9900, 0, 9500 }, "BDCA" },
	{ BALANCE_FIRST, "", 10000, { 9900, 9700, 9500, 9300 }, "DCBA" }, /* better a try than a refusal */
	{ BALANCE_FIRST, "", 10000, { 8000 }, "aBCD" },
	{ BALANCE_FIRST, "", 10000, { 0, 8000 }, "ACDB" }, /* a well one is surer as the second choice */
	{ BALANCE_FIRST, "", 10000, { 9900, 8000 }, "bCDA" },
	{ BALANCE_FIRST, "", 10000, { 8000, 8500 }, "aCDB" }, /* one trial a client */
	{ BALANCE_FIRST, "", 10000, { 7000, 5000, 9900, 6000 }, "aBDC" },
	{ BALANCE_ROUND_ROBIN, "", 10000, { 0 }, "ABCD BCDA CDAB DABC" },
	{ BALANCE_ROUND_ROBIN, "AAABBC", 10000, { 0 }, "ABCD BCDA CDAB DABC" },
	{ BALANCE_ROUND_ROBIN, "", 10000, { 0, 9900 }, "ACDB CDAB DACB" },
	{ BALANCE_ROUND_ROBIN, "", 10000, { 9500, 0, 9900 }, "BDAC DBAC" },
	{ BALANCE_ROUND_ROBIN, "", 10000, { 9500, 9900, 0, 9700 }, "CADB" },
	{ BALANCE_ROUND_ROBIN, "", 10000, { 0, 8000 }, "ACDB bCDA CDAB DACB" },
	{ BALANCE_LEAST_SESSIONS, "", 10000, { 0 }, "ABCD BCDA CDAB DABC" },
	{ BALANCE_LEAST_SESSIONS, "AAABBC", 10000, { 0 }, "DCBA" },
	{ BALANCE_LEAST_SESSIONS, "AAABBC", 10000, { 0, 0, 0, 9900 }, "CBAD" },
	{ BALANCE_LEAST_SESSIONS, "AAABBC", 10000, { 0, 0, 0, 8000 }, "dCBA" },
	{ BALANCE_LEAST_SESSIONS, "AAABBC", 10000, { 8000 }, "DCBA" },
	{ BALANCE_LEAST_SESSIONS, "BD", 10000, { 0 }, "ACBD CABD" },
	{ BALANCE_LEAST_SESSIONS, "D", 10000, { 9900 }, "BCDA CBDA" },
	{ BALANCE_LEAST_SESSIONS, "ABBCCCDDDD", 10000, { 9300, 9900, 9500, 9700 }, "ACDB" },
};

static bool is_expected(const char *orders, size_t client, const char *found, size_t length)
{
	size_t clients = (strlen(orders) + 1) / (length + 1);

	return strncmp(orders + client % clients * (length + 1), found, length) == 0;
}

static void check_order(const struct order_case *tested)
{
	struct world world;
	size_t first = 0;

	world_init(&world, 4);
	begin_sessions(&world, tested->sessions);
	for (size_t i = 0; i < 4; i++) {
		if (tested->failed_ms[i] > 0)
			assert_in_range(backend_failed(world.targets[i], "", tested->failed_ms[i]), 875,
					1000);
	}
	for (size_t i = 0; i < 12; i++) {
		const char *found = order(&world, tested->balance, "client", tested->now_ms);

		while (i == 0 && first < 4 && !is_expected(tested->expected, first, found, 4))
			first++;
		if (!is_expected(tested->expected, first + i, found, 4))
			fail_msg("case %zu, client %zu: %s instead of %s", (size_t)(tested - order_cases), i,
				 found, tested->expected);
		for (size_t j = 0; j < 4; j++)
			backend_untried(world.targets[j], "client");
	}
	end_sessions(&world, tested->sessions);
	world_deinit(&world);
}

static void test_orders(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(order_cases); i++)
		check_order(&order_cases[i]);
}

static void test_any_number_of_targets(void **state)
{
	(void)state;
	for (size_t count = 0; count <= TARGETS_MAX; count++) {
		struct world world;

		world_init(&world, count);
		for (enum balance balance = BALANCE_FIRST; balance <= BALANCE_LEAST_SESSIONS; balance++) {
			const char *found = order(&world, balance, "client", 1000);

			assert_int_equal(strlen(found), count);
			for (size_t i = 0; i < count; i++)
				assert_non_null(strchr(found, (char)('A' + i)));
		}
		world_deinit(&world);
	}
}

/* ---- health ---------------------------------------------------------------------------------------- */

enum event { ORDER, FAILED, SUCCEEDED, UNTRIED };

/* What happens to a service "first" with the targets A and B. */
struct step {
	enum event event;
	uint64_t now_ms;
	const char *client;
	const char *what;  /* ORDER: what is expected; else the target */
	uint64_t pause_ms; /* FAILED: about; 0: it changes nothing */
	bool was_left_out; /* SUCCEEDED */
};

struct conversation {
	const char *name;
	struct step steps[16];
};

static const struct conversation conversations[] = {
	{ "a failure, a trial, and it is well",
	  { { ORDER, 1, "1", "AB", 0, false },
	    { FAILED, 10, "1", "A", 1000, false },
	    { ORDER, 884, "2", "BA", 0, false },
	    { ORDER, 1010, "3", "aB", 0, false },
	    { ORDER, 1010, "4", "BA", 0, false },
	    { ORDER, 9999, "5", "BA", 0, false }, /* however long it takes */
	    { SUCCEEDED, 0, "3", "A", 0, true },
	    { ORDER, 1020, "6", "AB", 0, false },
	    { SUCCEEDED, 0, "6", "A", 0, false },
	    { FAILED, 1030, "7", "A", 1000, false } } },
	{ "failures within a pause do not lengthen it",
	  { { FAILED, 10, "1", "A", 1000, false },
	    { FAILED, 10, "2", "A", 0, false },
	    { FAILED, 800, "3", "A", 0, false },
	    { FAILED, 5, "4", "A", 0, false }, /* a thread whose clock is behind */
	    { ORDER, 1010, "5", "aB", 0, false },
	    { FAILED, 1010, "5", "A", 2000, false },
	    { FAILED, 1020, "6", "A", 0, false } } },
	{ "a trial that is not made passes on",
	  { { FAILED, 10, "1", "A", 1000, false },
	    { ORDER, 1010, "2", "aB", 0, false },
	    { UNTRIED, 0, "3", "A", 0, false }, /* not its to give */
	    { ORDER, 1010, "3", "BA", 0, false },
	    { UNTRIED, 0, "2", "A", 0, false },
	    { ORDER, 1010, "3", "aB", 0, false },
	    { ORDER, 1010, "2", "BA", 0, false },
	    { UNTRIED, 0, "3", "A", 0, false },
	    { UNTRIED, 0, "3", "B", 0, false },
	    { ORDER, 1010, "2", "aB", 0, false } } },
	{ "another client's failure leaves the trial alone",
	  { { FAILED, 10, "1", "A", 1000, false },
	    { ORDER, 1010, "2", "aB", 0, false },
	    { FAILED, 1020, "1", "A", 2000, false },
	    { ORDER, 9999, "3", "BA", 0, false },
	    { FAILED, 1030, "2", "A", 0, false },
	    { ORDER, 9999, "3", "aB", 0, false } } },
	{ "a late word does not end a later trial",
	  { { FAILED, 10, "1", "A", 1000, false },
	    { ORDER, 1010, "2", "aB", 0, false },
	    { SUCCEEDED, 0, "1", "A", 0, true },
	    { FAILED, 1020, "3", "A", 1000, false },
	    { ORDER, 2020, "4", "aB", 0, false },
	    { UNTRIED, 0, "2", "A", 0, false },
	    { ORDER, 2020, "5", "BA", 0, false },
	    { FAILED, 2030, "2", "A", 2000, false },
	    { ORDER, 9999, "5", "BA", 0, false },
	    { UNTRIED, 0, "4", "A", 0, false },
	    { ORDER, 9999, "5", "aB", 0, false } } },
	{ "all are left out",
	  { { FAILED, 10, "1", "A", 1000, false },
	    { FAILED, 300, "1", "B", 1000, false },
	    { ORDER, 500, "2", "AB", 0, false },
	    { SUCCEEDED, 0, "2", "A", 0, true }, /* it was no trial, and is as good as one */
	    { ORDER, 500, "3", "AB", 0, false },
	    { FAILED, 600, "3", "A", 1000, false },
	    { ORDER, 700, "4", "BA", 0, false },
	    { ORDER, 5000, "5", "aB", 0, false },
	    { ORDER, 5000, "6", "bA", 0, false },
	    { ORDER, 5000, "7", "BA", 0, false } } },
};

static void take_step(struct world *world, const struct step *step, const char *name)
{
	struct backend *target = world->targets[step->what[0] == 'B'];

	switch (step->event) {
	case ORDER: {
		const char *found = order(world, BALANCE_FIRST, step->client, step->now_ms);

		if (strcmp(found, step->what) != 0)
			fail_msg("%s: %s instead of %s at %d", name, found, step->what, (int)step->now_ms);
		break;
	}
	case FAILED:
		assert_in_range(backend_failed(target, step->client, step->now_ms), step->pause_ms * 7 / 8,
				step->pause_ms);
		break;
	case SUCCEEDED:
		assert_int_equal(backend_succeeded(target), step->was_left_out);
		break;
	case UNTRIED:
		backend_untried(target, step->client);
		break;
	}
}

static void test_conversations(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(conversations); i++) {
		struct world world;

		world_init(&world, 2);
		for (const struct step *step = conversations[i].steps; step->what; step++)
			take_step(&world, step, conversations[i].name);
		world_deinit(&world);
	}
}

static void test_pauses_grow_up_to_a_cap(void **state)
{
	static const uint64_t pauses_ms[] = { 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000 };
	uint64_t now_ms = 1000;
	struct world world;

	(void)state;
	world_init(&world, 2);
	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < ARRAY_SIZE(pauses_ms); i++) {
			uint64_t pause_ms = backend_failed(world.targets[0], "client", now_ms);

			assert_in_range(pause_ms, pauses_ms[i] * 7 / 8, pauses_ms[i]);
			now_ms += pause_ms;
			assert_string_equal(order(&world, BALANCE_FIRST, "client", now_ms - 1), "BA");
			assert_string_equal(order(&world, BALANCE_FIRST, "client", now_ms), "aB");
		}
		assert_true(backend_succeeded(world.targets[0]));
	}
	world_deinit(&world);
}

static void test_pauses_differ(void **state)
{
	uint64_t least_ms = UINT64_MAX, most_ms = 0;
	struct world world;

	(void)state;
	world_init(&world, 64);
	for (size_t i = 0; i < 64; i++) {
		uint64_t pause_ms = backend_failed(world.targets[i], "client", 1000);

		least_ms = MIN(least_ms, pause_ms);
		most_ms = MAX(most_ms, pause_ms);
	}
	assert_true(most_ms - least_ms > 50);
	world_deinit(&world);
}

/* ---- shares ---------------------------------------------------------------------------------------- */

struct share_case {
	enum balance balance;
	bool sessions_last; /* until all clients have come */
	bool b_is_left_out;
	int expected[3];
};

static const struct share_case share_cases[] = {
	{ BALANCE_FIRST, false, false, { 600, 0, 0 } },
	{ BALANCE_ROUND_ROBIN, false, false, { 200, 200, 200 } },
	{ BALANCE_ROUND_ROBIN, true, false, { 200, 200, 200 } },
	{ BALANCE_ROUND_ROBIN, false, true, { 300, 0, 300 } },
	{ BALANCE_LEAST_SESSIONS, false, false, { 200, 200, 200 } },
	{ BALANCE_LEAST_SESSIONS, true, false, { 200, 200, 200 } },
	{ BALANCE_LEAST_SESSIONS, false, true, { 300, 0, 300 } },
	{ BALANCE_LEAST_SESSIONS, true, true, { 300, 0, 300 } },
};

static void check_shares(const struct share_case *tested)
{
	int shares[3] = { 0 };
	struct world world;

	world_init(&world, 3);
	if (tested->b_is_left_out)
		(void)backend_failed(world.targets[1], "", 1000);
	for (int i = 0; i < 600; i++) {
		int first = order(&world, tested->balance, "client", 1001)[0] - 'A';

		shares[first]++;
		backend_begin_session(world.targets[first]);
		if (!tested->sessions_last)
			backend_end_session(world.targets[first]);
	}
	for (int i = 0; i < 3; i++) {
		assert_int_equal(shares[i], tested->expected[i]);
		for (int j = 0; j < shares[i] && tested->sessions_last; j++)
			backend_end_session(world.targets[i]);
	}
	world_deinit(&world);
}

static void test_shares(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(share_cases); i++)
		check_shares(&share_cases[i]);
}

/* Whoever has the fewest sessions gets the next one, until all have equally many. */
static void test_least_sessions_evens_out(void **state)
{
	struct world world;

	(void)state;
	world_init(&world, 3);
	begin_sessions(&world, "AAAAAABBBB");
	for (int i = 0; i < 8; i++) {
		int first = order(&world, BALANCE_LEAST_SESSIONS, "client", 1)[0] - 'A';

		assert_int_not_equal(first, 0);
		backend_begin_session(world.targets[first]);
	}
	end_sessions(&world, "AAAAAABBBBBBCCCCCC");
	world_deinit(&world);
}

static void test_new_groups_begin_anywhere(void **state)
{
	int shares[4] = { 0 };
	struct world world;

	(void)state;
	world_init(&world, 4);
	for (int i = 0; i < 400; i++) {
		backends_group_unref(world.group);
		world.group = backends_group(&world.backends, "service", 7);
		shares[order(&world, BALANCE_ROUND_ROBIN, "client", 1)[0] - 'A']++;
	}
	for (int i = 0; i < 4; i++)
		assert_in_range(shares[i], 50, 200);
	world_deinit(&world);
}

/* ---- limits of sessions ---------------------------------------------------------------------------- */

static void test_sessions_of_a_service(void **state)
{
	struct world world;
	struct backend_group *same, *other;

	(void)state;
	world_init(&world, 0);
	same = backends_group(&world.backends, "service", 7);
	other = backends_group(&world.backends, "service/", 8);
	assert_ptr_equal(same, world.group);
	assert_true(backends_group_begin(world.group, 2));
	assert_true(backends_group_begin(same, 2));
	assert_false(backends_group_begin(world.group, 2));
	assert_true(backends_group_begin(other, 1));
	assert_true(backends_group_begin(world.group, 0)); /* no limit, counted all the same */
	assert_false(backends_group_begin(world.group, 3));
	assert_true(backends_group_begin(world.group, 4));
	for (int i = 0; i < 3; i++)
		backends_group_end(world.group);
	assert_true(backends_group_begin(world.group, 2));
	assert_false(backends_group_begin(world.group, 2));
	backends_group_unref(same);
	backends_group_end(same);
	backends_group_end(same);
	backends_group_unref(other);
	assert_int_equal(world.backends.entry_count, 2); /* a session holds it too */
	backends_group_end(other);
	assert_int_equal(world.backends.entry_count, 1);
	world_deinit(&world);
}

/* ---- what is remembered ---------------------------------------------------------------------------- */

static struct backend *get(struct backends *backends, const char *text)
{
	struct backend *target = backends_get(backends, text, strlen(text));

	assert_non_null(target);
	return target;
}

static void test_same_text_is_same_target(void **state)
{
	struct backends backends;
	struct backend *target, *same, *shorter;
	struct backend_group *group;

	(void)state;
	backends_init(&backends);
	target = get(&backends, "127.0.0.1:80");
	same = get(&backends, "127.0.0.1:80");
	shorter = get(&backends, "127.0.0.1:8");
	group = backends_group(&backends, "127.0.0.1:80", 12); /* another realm */
	assert_ptr_equal(target, same);
	assert_ptr_not_equal(target, shorter);
	assert_int_equal(backends.entry_count, 3);
	assert_int_not_equal(backend_failed(target, "1", 1000), 0);
	assert_int_equal(backend_failed(same, "2", 1000), 0);
	assert_int_not_equal(backend_failed(shorter, "1", 1000), 0);
	assert_true(backend_succeeded(shorter));
	backend_unref(target);
	backend_unref(same);
	backend_unref(shorter);
	backend_unref(NULL);
	backends_group_unref(group);
	backends_group_unref(NULL);
	assert_int_equal(backends.entry_count, 1);
	assert_int_equal(backends.idle_count, 1);
	backends_deinit(&backends);
}

/* So many texts that some are in one bucket with a beginning of theirs. */
static void test_beginnings_are_other_targets(void **state)
{
	static char text[500];
	struct backend *targets[sizeof(text)];
	struct backends backends;

	(void)state;
	backends_init(&backends);
	memset(text, 'a', sizeof(text));
	for (size_t i = 0; i < sizeof(text); i++)
		targets[i] = backends_get(&backends, text, sizeof(text) - i);
	assert_int_equal(backends.entry_count, sizeof(text));
	for (size_t i = 0; i < sizeof(text); i++)
		backend_unref(targets[i]);
	assert_int_equal(backends.entry_count, 0);
	backends_deinit(&backends);
}

static void test_what_outlives_its_references(void **state)
{
	struct backends backends;
	struct backend *target;

	(void)state;
	backends_init(&backends);
	target = get(&backends, "with a session");
	backend_begin_session(target);
	backend_unref(target);
	assert_ptr_equal(get(&backends, "with a session"), target);
	backend_unref(target);
	assert_int_equal(backends.entry_count, 1);
	backend_end_session(target);
	assert_int_equal(backends.entry_count, 0);

	target = get(&backends, "failed");
	assert_int_not_equal(backend_failed(target, "1", 1000), 0);
	backend_unref(target);
	assert_int_equal(backends.idle_count, 1);
	target = get(&backends, "failed");
	assert_int_equal(backends.idle_count, 0);
	assert_int_equal(backend_failed(target, "1", 1001), 0);
	backend_begin_session(target);
	backend_unref(target);
	assert_int_equal(backends.idle_count, 0);
	backend_end_session(target);
	assert_int_equal(backends.idle_count, 1);
	target = get(&backends, "failed");
	assert_true(backend_succeeded(target));
	backend_unref(target);
	assert_int_equal(backends.entry_count, 0);
	backends_deinit(&backends);
}

/* A client that never said what came of its trial, of a service that nobody has asked for since. */
static void test_a_trial_ends_with_its_last_reference(void **state)
{
	struct world world;

	(void)state;
	world_init(&world, 1);
	(void)backend_failed(world.targets[0], "1", 1000);
	assert_string_equal(order(&world, BALANCE_FIRST, "2", 2000), "a");
	assert_string_equal(order(&world, BALANCE_FIRST, "3", 2000), "A");
	backend_unref(world.targets[0]);
	world.targets[0] = get(&world.backends, "A");
	assert_string_equal(order(&world, BALANCE_FIRST, "3", 2000), "a");
	world_deinit(&world);
}

/* Whether the target is left out, by a look that leaves it as it was found. */
static bool is_known_as_failed(struct backends *backends, const char *text, uint64_t now_ms)
{
	struct backend *target = get(backends, text);
	bool is_known = backend_failed(target, "client", now_ms) == 0;

	if (!is_known)
		backend_succeeded(target);
	backend_unref(target);
	return is_known;
}

static void test_memory_is_bounded(void **state)
{
	struct backends backends;
	char text[32];

	(void)state;
	backends_init(&backends);
	for (int i = 0; i < 3 * BACKENDS_IDLE_MAX; i++) {
		struct backend *target;

		snprintf(text, sizeof(text), "192.0.2.1:%d", i);
		target = get(&backends, text);
		(void)backend_failed(target, "client", 1000);
		backend_unref(target);
		assert_true(backends.entry_count <= BACKENDS_IDLE_MAX);
	}
	/* The oldest went first. */
	assert_int_equal(backends.idle_count, BACKENDS_IDLE_MAX);
	snprintf(text, sizeof(text), "192.0.2.1:%d", 2 * BACKENDS_IDLE_MAX);
	assert_true(is_known_as_failed(&backends, text, 1001));
	snprintf(text, sizeof(text), "192.0.2.1:%d", 2 * BACKENDS_IDLE_MAX - 1);
	assert_false(is_known_as_failed(&backends, text, 1001));
	assert_int_equal(backends.entry_count, BACKENDS_IDLE_MAX);
	backends_deinit(&backends);
}

/* ---- threads --------------------------------------------------------------------------------------- */

enum { THREADS = 4, ROUNDS = 3000 };

struct crowd {
	struct world world;
	pthread_barrier_t barrier;
	_Atomic unsigned trials;
	_Atomic unsigned inside;
	_Atomic unsigned mistakes;
};

static void crowd_run(struct crowd *crowd, void *(*thread_main)(void *))
{
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, thread_main, crowd), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

/* Each round all ask at once for a target whose time has just come; the trial fails, so the next round is
 * later. */
static void *trial_main(void *context)
{
	struct crowd *crowd = context;
	char client;

	for (uint64_t round = 1; round <= 200; round++) {
		uint64_t now_ms = round * 2 * BACKENDS_PAUSE_MAX_MS;
		bool is_trial;

		pthread_barrier_wait(&crowd->barrier);
		is_trial = order(&crowd->world, BALANCE_FIRST, &client, now_ms)[0] == 'a';
		crowd->trials += is_trial;
		pthread_barrier_wait(&crowd->barrier);
		if (crowd->trials != round)
			crowd->mistakes++;
		if (is_trial)
			(void)backend_failed(crowd->world.targets[0], &client, now_ms);
	}
	return NULL;
}

static void test_one_of_many_is_the_trial(void **state)
{
	struct crowd crowd = { 0 };

	(void)state;
	world_init(&crowd.world, 2);
	pthread_barrier_init(&crowd.barrier, NULL, THREADS);
	(void)backend_failed(crowd.world.targets[0], "", 0);
	crowd_run(&crowd, trial_main);
	assert_int_equal(crowd.mistakes, 0);
	pthread_barrier_destroy(&crowd.barrier);
	world_deinit(&crowd.world);
}

/* One client of a service with at most two sessions, which looks up all that it needs. */
static void visit(struct crowd *crowd, struct backend *targets[3], unsigned number)
{
	struct backends *backends = &crowd->world.backends;
	struct backend_group *group = backends_group(backends, "service", 7);
	size_t numbers[3];
	struct backend *chosen;

	if (backends_group_begin(group, 2)) {
		if (++crowd->inside > 2)
			crowd->mistakes++;
		(void)backends_order(group, number % 3, targets, 3, &numbers, number, numbers);
		chosen = targets[numbers[0]];
		backend_begin_session(chosen);
		if (number % 7 == 0)
			(void)backend_failed(chosen, &numbers, number);
		else if (number % 7 == 1)
			(void)backend_succeeded(chosen);
		backend_untried(chosen, &numbers);
		backend_end_session(chosen);
		crowd->inside--;
		backends_group_end(group);
	}
	backends_group_unref(group);
}

static void *visitors_main(void *context)
{
	struct crowd *crowd = context;

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct backend *targets[3] = { get(&crowd->world.backends, "X"),
					       get(&crowd->world.backends, "Y"),
					       get(&crowd->world.backends, i % 2 ? "Z" : "X") };

		visit(crowd, targets, i);
		for (int j = 0; j < 3; j++)
			backend_unref(targets[j]);
	}
	return NULL;
}

static void test_threads(void **state)
{
	struct crowd crowd = { 0 };

	(void)state;
	world_init(&crowd.world, 0);
	crowd_run(&crowd, visitors_main);
	assert_int_equal(crowd.mistakes, 0);
	/* What is left are targets that have failed, and the group. */
	assert_int_equal(crowd.world.backends.entry_count, crowd.world.backends.idle_count + 1);
	world_deinit(&crowd.world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FIXTURE_TEST(test_orders),
		FIXTURE_TEST(test_any_number_of_targets),
		FIXTURE_TEST(test_conversations),
		FIXTURE_TEST(test_pauses_grow_up_to_a_cap),
		FIXTURE_TEST(test_pauses_differ),
		FIXTURE_TEST(test_shares),
		FIXTURE_TEST(test_least_sessions_evens_out),
		FIXTURE_TEST(test_new_groups_begin_anywhere),
		FIXTURE_TEST(test_sessions_of_a_service),
		FIXTURE_TEST(test_same_text_is_same_target),
		FIXTURE_TEST(test_beginnings_are_other_targets),
		FIXTURE_TEST(test_what_outlives_its_references),
		FIXTURE_TEST(test_a_trial_ends_with_its_last_reference),
		FIXTURE_TEST(test_memory_is_bounded),
		FIXTURE_TEST(test_one_of_many_is_the_trial),
		FIXTURE_TEST(test_threads),
	};

	return FIXTURE_RUN(tests);
}
