/*
 * Who may still come in, with a made-up clock and addresses that nobody has.
 */
#include "fixture.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"
#include "router/limits.h"

static union addr address(const char *text)
{
	union addr addr;

	assert_int_equal(addr_parse_numeric(text, strlen(text), 1234, &addr), 0);
	return addr;
}

/* Any number of IPv6 hosts, each in a /64 of its own. */
static union addr address_of_host(unsigned number)
{
	char text[64];

	snprintf(text, sizeof(text), "2001:db8:%x:%x::1", number >> 16, number & 0xffff);
	return address(text);
}

static const union addr unix_client = { .sa = { .sa_family = AF_UNIX } };

static enum limit begin(struct limits *limits, const char *text)
{
	union addr client = address(text);

	return limits_begin_session(limits, &client);
}

static void end(struct limits *limits, const char *text)
{
	union addr client = address(text);

	limits_end_session(limits, &client);
}

static enum limit request(struct limits *limits, const char *text, uint64_t now_ms)
{
	union addr client = address(text);

	return limits_request(limits, &client, now_ms);
}

/* So many requests are admitted at that moment, and the next is not. */
static void assert_requests(struct limits *limits, const char *text, uint64_t now_ms, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		assert_int_equal(request(limits, text, now_ms), LIMIT_NONE);
	assert_int_equal(request(limits, text, now_ms), LIMIT_ADDRESS_REQUESTS);
}

/* ---- sessions -------------------------------------------------------------------------------------- */

static void test_sessions_in_all(void **state)
{
	struct limits limits = { .sessions_max = 2, .lists_max = 1 };

	(void)state;
	limits_init(&limits);
	assert_int_equal(begin(&limits, "192.0.2.1"), LIMIT_NONE);
	assert_int_equal(limits_begin_session(&limits, &unix_client), LIMIT_NONE);
	assert_int_equal(begin(&limits, "192.0.2.1"), LIMIT_SESSIONS);
	assert_int_equal(limits_begin_session(&limits, &unix_client), LIMIT_SESSIONS);
	assert_int_equal(limits.sessions, 2);
	limits_end_session(&limits, &unix_client);
	assert_int_equal(begin(&limits, "::1"), LIMIT_NONE);
	end(&limits, "::1");
	end(&limits, "192.0.2.1");
	assert_int_equal(limits.sessions, 0);
	/* Nothing is limited by address, so none is remembered. */
	assert_int_equal(limits.address_count, 0);
	limits_deinit(&limits);
}

static void test_sessions_per_address(void **state)
{
	struct limits limits = { .sessions_max = 100, .sessions_per_address_max = 2, .lists_max = 1 };

	(void)state;
	limits_init(&limits);
	assert_int_equal(begin(&limits, "192.0.2.1"), LIMIT_NONE);
	assert_int_equal(begin(&limits, "192.0.2.1"), LIMIT_NONE);
	assert_int_equal(begin(&limits, "192.0.2.1"), LIMIT_ADDRESS_SESSIONS);
	assert_int_equal(begin(&limits, "192.0.2.2"), LIMIT_NONE);
	/* Who is refused takes no place among all. */
	assert_int_equal(limits.sessions, 3);
	end(&limits, "192.0.2.1");
	assert_int_equal(begin(&limits, "192.0.2.1"), LIMIT_NONE);
	assert_int_equal(begin(&limits, "192.0.2.1"), LIMIT_ADDRESS_SESSIONS);
	end(&limits, "192.0.2.1");
	end(&limits, "192.0.2.1");
	end(&limits, "192.0.2.2");
	assert_int_equal(limits.sessions, 0);
	limits_deinit(&limits);
}

static void test_all_counts_before_the_address(void **state)
{
	struct limits limits = { .sessions_max = 1, .sessions_per_address_max = 1, .lists_max = 1 };

	(void)state;
	limits_init(&limits);
	assert_int_equal(begin(&limits, "192.0.2.1"), LIMIT_NONE);
	assert_int_equal(begin(&limits, "192.0.2.1"), LIMIT_SESSIONS);
	assert_int_equal(begin(&limits, "192.0.2.2"), LIMIT_SESSIONS);
	end(&limits, "192.0.2.1");
	assert_int_equal(begin(&limits, "192.0.2.2"), LIMIT_NONE);
	end(&limits, "192.0.2.2");
	limits_deinit(&limits);
}

struct same_case {
	const char *one;
	const char *other;
	bool is_same;
};

static const struct same_case same_cases[] = {
	{ "192.0.2.1", "192.0.2.1", true },
	{ "192.0.2.1", "192.0.2.2", false },
	{ "192.0.2.1", "::ffff:192.0.2.1", true }, /* v4-mapped */
	{ "2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true },
	{ "2001:db8::1", "2001:db8:0:1::1", false },
	{ "::1", "::2", true },
	{ "0.0.0.0", "::", false },
	{ "32.1.13.184", "2001:db8::", false }, /* the same bytes in another family */
};

static void test_what_is_one_address(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(same_cases); i++) {
		struct limits limits = { .sessions_max = 9, .sessions_per_address_max = 1, .lists_max = 1 };
		enum limit expected = same_cases[i].is_same ? LIMIT_ADDRESS_SESSIONS : LIMIT_NONE;

		limits_init(&limits);
		assert_int_equal(begin(&limits, same_cases[i].one), LIMIT_NONE);
		assert_int_equal(begin(&limits, same_cases[i].other), expected);
		limits_deinit(&limits);
	}
}

static void test_clients_without_address(void **state)
{
	struct limits limits = { .sessions_max = 9, .lists_max = 1 };

	(void)state;
	limits.sessions_per_address_max = 1;
	limits.requests_per_second_per_address = 1;
	limits_init(&limits);
	for (int i = 0; i < 9; i++) {
		assert_int_equal(limits_begin_session(&limits, &unix_client), LIMIT_NONE);
		assert_int_equal(limits_request(&limits, &unix_client, 1), LIMIT_NONE);
	}
	assert_int_equal(limits_begin_session(&limits, &unix_client), LIMIT_SESSIONS);
	for (int i = 0; i < 9; i++)
		limits_end_session(&limits, &unix_client);
	assert_int_equal(limits.sessions, 0);
	assert_int_equal(limits.address_count, 0);
	limits_deinit(&limits);
}

/* ---- requests -------------------------------------------------------------------------------------- */

static void test_requests_fill_again_at_their_rate(void **state)
{
	struct limits limits = { .sessions_max = 9, .lists_max = 1 };
	uint64_t now_ms = 1000000;

	(void)state;
	limits.requests_per_second_per_address = 10;
	limits_init(&limits);
	assert_requests(&limits, "192.0.2.1", now_ms, 10); /* one second's worth at once */
	assert_requests(&limits, "192.0.2.1", now_ms + 99, 0);
	assert_requests(&limits, "192.0.2.1", now_ms + 100, 1);
	assert_requests(&limits, "192.0.2.1", now_ms + 450, 3); /* and a half, which is kept */
	assert_requests(&limits, "192.0.2.1", now_ms + 500, 1);
	assert_requests(&limits, "192.0.2.2", now_ms + 500, 10);
	assert_requests(&limits, "192.0.2.1", now_ms + 1000000, 10); /* never more than that */
	limits_deinit(&limits);
}

static void test_refused_requests_cost_nothing(void **state)
{
	struct limits limits = { .sessions_max = 9, .lists_max = 1 };

	(void)state;
	limits.requests_per_second_per_address = 1;
	limits_init(&limits);
	assert_requests(&limits, "192.0.2.1", 1000, 1);
	for (uint64_t now_ms = 1001; now_ms < 2000; now_ms++)
		assert_int_equal(request(&limits, "192.0.2.1", now_ms), LIMIT_ADDRESS_REQUESTS);
	assert_int_equal(request(&limits, "192.0.2.1", 2000), LIMIT_NONE);
	limits_deinit(&limits);
}

/* Threads read the clock at their own times, so it may seem to go back a little. */
static void test_clock_that_goes_back(void **state)
{
	struct limits limits = { .sessions_max = 9, .lists_max = 1 };

	(void)state;
	limits.requests_per_second_per_address = 2;
	limits_init(&limits);
	assert_requests(&limits, "192.0.2.1", 5000, 2);
	assert_requests(&limits, "192.0.2.1", 4000, 0);
	assert_requests(&limits, "192.0.2.1", 5499, 0);
	assert_requests(&limits, "192.0.2.1", 5500, 1);
	limits_deinit(&limits);
}

static void test_no_limits_by_address(void **state)
{
	struct limits limits = { .sessions_max = 1, .lists_max = 1 };

	(void)state;
	limits_init(&limits);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(request(&limits, "192.0.2.1", 1), LIMIT_NONE);
	assert_int_equal(limits.address_count, 0);
	limits_deinit(&limits);
}

/* ---- what is remembered ---------------------------------------------------------------------------- */

/* Whoever has no session and a full budget is forgotten as the others come and go. */
static void test_idle_addresses_are_forgotten(void **state)
{
	struct limits limits = { .sessions_max = 9, .lists_max = 1 };
	union addr client;

	(void)state;
	limits.sessions_per_address_max = 1;
	limits.requests_per_second_per_address = 1;
	limits_init(&limits);
	assert_int_equal(begin(&limits, "192.0.2.1"), LIMIT_NONE);
	for (unsigned i = 0; i < 1000; i++) {
		client = address_of_host(i);
		assert_int_equal(limits_request(&limits, &client, 1000), LIMIT_NONE);
	}
	assert_int_equal(limits.address_count, 1001);
	for (unsigned i = 0; i < LIMITS_BUCKETS; i++)
		(void)request(&limits, "192.0.2.2", 1000);
	assert_int_equal(limits.address_count, 1002); /* their budgets are not full yet */
	for (unsigned i = 0; i < LIMITS_BUCKETS; i++)
		(void)request(&limits, "192.0.2.2", 3000);
	assert_int_equal(limits.address_count, 2);
	assert_int_equal(begin(&limits, "192.0.2.1"), LIMIT_ADDRESS_SESSIONS);
	end(&limits, "192.0.2.1");
	limits_deinit(&limits);
}

static void test_sessions_alone_are_forgotten_too(void **state)
{
	struct limits limits = { .sessions_max = 9, .sessions_per_address_max = 1, .lists_max = 1 };

	(void)state;
	limits_init(&limits);
	for (unsigned i = 0; i < 4 * LIMITS_BUCKETS; i++) {
		union addr client = address_of_host(i);

		assert_int_equal(limits_begin_session(&limits, &client), LIMIT_NONE);
		limits_end_session(&limits, &client);
		/* Each look-up sweeps one bucket, so about one round's worth is left at a time. */
		assert_true(limits.address_count <= 2 * LIMITS_BUCKETS);
	}
	limits_deinit(&limits);
}

static void test_full_table_refuses_and_recovers(void **state)
{
	struct limits limits = { .sessions_max = 2 * LIMITS_ADDRESSES_MAX, .lists_max = 1 };
	union addr client;

	(void)state;
	limits.sessions_per_address_max = 2;
	limits_init(&limits);
	for (unsigned i = 0; i < LIMITS_ADDRESSES_MAX; i++) {
		client = address_of_host(i);
		assert_int_equal(limits_begin_session(&limits, &client), LIMIT_NONE);
	}
	assert_int_equal(begin(&limits, "192.0.2.1"), LIMIT_ADDRESS_SESSIONS);
	assert_int_equal(limits.address_count, LIMITS_ADDRESSES_MAX);
	assert_int_equal(limits.sessions, LIMITS_ADDRESSES_MAX);
	client = address_of_host(7); /* those that are in it go on */
	assert_int_equal(limits_begin_session(&limits, &client), LIMIT_NONE);
	limits_end_session(&limits, &client);

	for (unsigned i = 0; i < LIMITS_ADDRESSES_MAX; i++) {
		client = address_of_host(i);
		limits_end_session(&limits, &client);
	}
	for (unsigned i = 0; i < LIMITS_BUCKETS; i++) {
		if (begin(&limits, "192.0.2.1") == LIMIT_NONE)
			end(&limits, "192.0.2.1");
	}
	assert_true(limits.address_count <= 1);
	assert_int_equal(limits.sessions, 0);
	limits_deinit(&limits);
}

static void test_full_table_refuses_requests(void **state)
{
	struct limits limits = { .sessions_max = 1, .lists_max = 1 };
	union addr client;

	(void)state;
	limits.requests_per_second_per_address = 5;
	limits_init(&limits);
	for (unsigned i = 0; i < LIMITS_ADDRESSES_MAX; i++) {
		client = address_of_host(i);
		assert_int_equal(limits_request(&limits, &client, 1000), LIMIT_NONE);
	}
	assert_int_equal(request(&limits, "192.0.2.1", 1000), LIMIT_ADDRESS_REQUESTS);
	/* A second later all of them may go, and the first look-up makes room. */
	assert_int_equal(request(&limits, "192.0.2.1", 2000), LIMIT_NONE);
	limits_deinit(&limits);
}

/* ---- lists, names, threads ------------------------------------------------------------------------- */

static void test_lists(void **state)
{
	struct limits limits = { .sessions_max = 1, .lists_max = 2 };

	(void)state;
	limits_init(&limits);
	assert_int_equal(limits_begin_list(&limits), LIMIT_NONE);
	assert_int_equal(limits_begin_list(&limits), LIMIT_NONE);
	assert_int_equal(limits_begin_list(&limits), LIMIT_LISTS);
	limits_end_list(&limits);
	assert_int_equal(limits_begin_list(&limits), LIMIT_NONE);
	assert_int_equal(limits.lists, 2);
	limits_deinit(&limits);
}

static void test_names(void **state)
{
	static const enum limit all[] = {
		LIMIT_NONE,  LIMIT_SESSIONS,   LIMIT_ADDRESS_SESSIONS, LIMIT_ADDRESS_REQUESTS,
		LIMIT_LISTS, LIMIT_DESCRIPTORS
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		for (size_t j = 0; j < i; j++)
			assert_string_not_equal(limit_name(all[i]), limit_name(all[j]));
	assert_string_equal(limit_name(LIMIT_SESSIONS), "max-sessions");
}

enum { THREADS = 4, ROUNDS = 3000 };

struct crowd {
	struct limits limits;
	_Atomic unsigned inside;
	_Atomic unsigned mistakes;
};

/* At most two of an address are ever inside, whoever else comes and goes. */
static void *crowd_main(void *context)
{
	struct crowd *crowd = context;

	for (unsigned i = 0; i < ROUNDS; i++) {
		union addr client = { .in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0xc0000201) } };
		union addr passer_by = { .in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(i) } };

		(void)limits_request(&crowd->limits, &passer_by, i);
		if (limits_begin_session(&crowd->limits, &client) != LIMIT_NONE)
			continue;
		if (++crowd->inside > 2)
			crowd->mistakes++;
		crowd->inside--;
		limits_end_session(&crowd->limits, &client);
	}
	return NULL;
}

static void test_threads(void **state)
{
	static struct crowd crowd = {
		.limits = { .sessions_max = 3, .sessions_per_address_max = 2, .lists_max = 1 }
	};
	pthread_t threads[THREADS];

	(void)state;
	crowd.limits.requests_per_second_per_address = 100;
	limits_init(&crowd.limits);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, crowd_main, &crowd), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(crowd.mistakes, 0);
	assert_int_equal(crowd.limits.sessions, 0);
	limits_deinit(&crowd.limits);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FIXTURE_TEST(test_sessions_in_all),
		FIXTURE_TEST(test_sessions_per_address),
		FIXTURE_TEST(test_all_counts_before_the_address),
		FIXTURE_TEST(test_what_is_one_address),
		FIXTURE_TEST(test_clients_without_address),
		FIXTURE_TEST(test_requests_fill_again_at_their_rate),
		FIXTURE_TEST(test_refused_requests_cost_nothing),
		FIXTURE_TEST(test_clock_that_goes_back),
		FIXTURE_TEST(test_no_limits_by_address),
		FIXTURE_TEST(test_idle_addresses_are_forgotten),
		FIXTURE_TEST(test_sessions_alone_are_forgotten_too),
		FIXTURE_TEST(test_full_table_refuses_and_recovers),
		FIXTURE_TEST(test_full_table_refuses_requests),
		FIXTURE_TEST(test_lists),
		FIXTURE_TEST(test_names),
		FIXTURE_TEST(test_threads),
	};

	return FIXTURE_RUN(tests);
}
