/*
 * Clients on their way through the targets of a service, whose description is read from a real directory; what
 * comes of each target is the test's word.
 */
#include "workplace.h"

#include <errno.h>
#include <string.h>

#include "base/macros.h"
#include "router/attempt.h"
#include "router/catalog.h"

#define NOW 100000
#define DEADLINE (NOW + 1000)

static struct loop loop;
static struct catalog catalog;
static struct policies *policies;
static struct backends backends;
static struct service *service;
static struct attempt attempts[2]; /* each a client */

static int attempt_setup(void **state)
{
	if (workplace_setup(state) != 0 || loop_init(&loop) != 0)
		return -1;
	backends_init(&backends);
	policies = policies_new("services");
	return policies ? catalog_init(&catalog, &loop, "services", policies, &backends) : -1;
}

static int attempt_teardown(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(attempts); i++) {
		if (attempts[i].service)
			attempt_end(&attempts[i]);
		attempts[i] = (struct attempt){ 0 };
	}
	service_unref(service);
	catalog_deinit(&catalog);
	loop_run_out(&loop);
	loop_deinit(&loop);
	policies_free(policies);
	assert_int_equal(backends.entry_count, backends.idle_count); /* nobody holds anything */
	backends_deinit(&backends);
	return workplace_teardown(state);
}

static void describe(const char *content)
{
	const union addr client = { .in = { .sin_family = AF_INET } };
	struct catalog_problem problem;
	int connection;

	workplace_make_file("services/foo", content);
	assert_int_equal(catalog_open(&catalog, "foo", 3, &client, &service, &connection, &problem), 0);
	assert_true(service->has_choice);
}

static void begin(struct attempt *attempt, uint64_t now_ms)
{
	attempt_begin(attempt, &backends, service, attempt, now_ms, DEADLINE);
}

static void assert_tries(const struct attempt *attempt, const char *target)
{
	assert_string_equal(attempt->target->text, target);
}

static void test_one_after_the_other(void **state)
{
	struct attempt *attempt = &attempts[0];

	(void)state;
	describe("one\nbackend two\nbackend three\n");
	begin(attempt, NOW);
	assert_tries(attempt, "one");
	assert_int_equal(attempt_deadline_ms(attempt, NOW), NOW + 334);
	assert_true(attempt_failed(attempt, -ECONNREFUSED, NOW));
	assert_tries(attempt, "two");
	assert_int_equal(attempt_deadline_ms(attempt, NOW), NOW + 500);
	assert_true(attempt_failed(attempt, -ETIMEDOUT, NOW));
	assert_tries(attempt, "three");
	assert_int_equal(attempt_deadline_ms(attempt, NOW), DEADLINE);
	assert_false(attempt_failed(attempt, -ECONNREFUSED, NOW));
	assert_false(attempt_again(attempt, NOW));
	assert_int_equal(attempt->last_error, -ECONNREFUSED);
}

static void test_the_time_is_over(void **state)
{
	(void)state;
	describe("one\nbackend two\n");
	begin(&attempts[0], NOW);
	assert_false(attempt_failed(&attempts[0], -EAGAIN, DEADLINE));
	assert_false(attempt_again(&attempts[0], DEADLINE));
}

static void test_who_failed_is_left_out(void **state)
{
	(void)state;
	describe("one\nbackend two\n");
	begin(&attempts[0], NOW);
	attempt_failed(&attempts[0], -ECONNREFUSED, NOW);
	attempt_succeeded(&attempts[0]);
	begin(&attempts[1], NOW);
	assert_tries(&attempts[1], "two");
}

/* Neither that it has no room, nor what the router is short of. */
static void test_what_is_no_failure(void **state)
{
	static const int errors[] = { -EAGAIN, -EMFILE, -ENFILE, -ENOMEM, -ENOBUFS };

	(void)state;
	describe("one\nbackend two\n");
	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		begin(&attempts[0], NOW);
		assert_true(attempt_failed(&attempts[0], errors[i], NOW));
		assert_tries(&attempts[0], "two");
		begin(&attempts[1], NOW);
		assert_tries(&attempts[1], "one");
		attempt_end(&attempts[1]);
		attempt_end(&attempts[0]);
	}
}

/* Those that were found to fail are passed over until their pause is over; those without room are not. */
static void test_further_rounds(void **state)
{
	struct attempt *attempt = &attempts[0];

	(void)state;
	describe("one\nbackend two\nbackend three\n");
	begin(attempt, NOW);
	assert_true(attempt_failed(attempt, -EAGAIN, NOW));
	assert_true(attempt_failed(attempt, -ECONNREFUSED, NOW));
	assert_false(attempt_failed(attempt, -EAGAIN, NOW));
	for (unsigned round = 0; round < 3; round++) {
		assert_true(attempt_again(attempt, NOW + 10));
		assert_tries(attempt, "one");
		assert_true(attempt_failed(attempt, -EAGAIN, NOW + 10));
		assert_tries(attempt, "three");
		assert_false(attempt_failed(attempt, -EAGAIN, NOW + 10));
	}
	attempt->deadline_ms = UINT64_MAX;
	assert_true(attempt_again(attempt, NOW + 1000));
	assert_true(attempt_failed(attempt, -EAGAIN, NOW + 1000));
	assert_true(attempt_failed(attempt, -ECONNREFUSED, NOW + 1000));
	assert_tries(attempt, "two");
}

/* The one client that tries a target goes, by whatever way: the next one does. */
static void test_a_trial_passes_on(void **state)
{
	(void)state;
	describe("one\nbackend two\n");
	begin(&attempts[0], NOW);
	attempt_failed(&attempts[0], -ECONNREFUSED, NOW);
	attempt_end(&attempts[0]);
	for (unsigned i = 0; i < 3; i++) {
		begin(&attempts[0], NOW + 2000);
		assert_tries(&attempts[0], "one");
		begin(&attempts[1], NOW + 2000);
		assert_tries(&attempts[1], "two");
		attempt_end(&attempts[1]);
		attempt_end(&attempts[0]);
	}
}

/* A session of the process before counts as long as it lasts. */
static void test_restored(void **state)
{
	(void)state;
	describe("one\nbackend two\nbalance least-sessions\n");
	attempt_restore(&attempts[0], &backends, service);
	for (unsigned i = 0; i < 3; i++) {
		begin(&attempts[1], NOW);
		assert_tries(&attempts[1], "two");
		attempt_end(&attempts[1]);
	}
	attempt_end(&attempts[0]);
	begin(&attempts[0], NOW);
	begin(&attempts[1], NOW);
	assert_ptr_not_equal(attempts[0].target, attempts[1].target);
}

#define ATTEMPT_TEST(function) cmocka_unit_test_setup_teardown(function, attempt_setup, attempt_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ATTEMPT_TEST(test_one_after_the_other),
		ATTEMPT_TEST(test_the_time_is_over),
		ATTEMPT_TEST(test_who_failed_is_left_out),
		ATTEMPT_TEST(test_what_is_no_failure),
		ATTEMPT_TEST(test_further_rounds),
		ATTEMPT_TEST(test_a_trial_passes_on),
		ATTEMPT_TEST(test_restored),
	};

	return FIXTURE_RUN(tests);
}
