/*
 * Chains of sessions through one router, as tables of who came from where.
 */
#include "fixture.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/macros.h"
#include "router/chains.h"

/* Services are told apart by a number: their hashes. */
enum { A = 1, B, C, D };

static union addr address(const char *text)
{
	const char *host;
	size_t length;
	uint16_t port;
	union addr addr;

	assert_int_equal(addr_split(text, 0, &host, &length, &port), 0);
	assert_int_equal(addr_parse_numeric(host, length, port, &addr), 0);
	return addr;
}

/* Where the router of all these tests listens. */
static const char *const router = "127.0.0.1:80";

/* The connection of a client, as the router sees it. */
static struct addr_ends from(const char *client)
{
	return (struct addr_ends){ .local = address(router), .peer = address(client) };
}

/* A connection that the router makes to itself. */
static struct addr_ends to_itself(const char *local)
{
	return (struct addr_ends){ .local = address(local), .peer = address(router) };
}

/* Enters a session that leads back to the router. */
static struct chain *add(struct chains *chains, const char *backend_local, const char *client,
			 uint64_t service)
{
	struct addr_ends backend_ends = to_itself(backend_local);
	struct addr_ends client_ends = from(client);
	struct chain *chain = chains_add(chains, &backend_ends, &client_ends, service, false);

	assert_non_null(chain);
	return chain;
}

static bool is_loop(struct chains *chains, const char *client, uint64_t service)
{
	struct addr_ends ends = from(client);

	return chains_is_loop(chains, &ends, service);
}

static void test_loop_of_one_service(void **state)
{
	struct chains chains = { 0 };
	struct chain *chain;

	(void)state;
	chains_init(&chains);
	assert_true(chains_is_empty(&chains));
	assert_false(is_loop(&chains, "127.0.0.1:1001", A));
	chain = add(&chains, "127.0.0.1:1001", "192.0.2.1:5000", A);
	assert_false(chains_is_empty(&chains));
	assert_true(is_loop(&chains, "127.0.0.1:1001", A));
	/* Another service on the way is none, nor is another client. */
	assert_false(is_loop(&chains, "127.0.0.1:1001", B));
	assert_false(is_loop(&chains, "192.0.2.1:5000", A));
	assert_false(is_loop(&chains, "127.0.0.1:1002", A));
	assert_false(is_loop(&chains, "127.0.0.2:1001", A));
	assert_false(is_loop(&chains, "[::1]:1001", A));
	chains_remove(&chains, chain);
	assert_false(is_loop(&chains, "127.0.0.1:1001", A));
	chains_deinit(&chains);
}

/* Known for a moment, and only where no client had a say in it. */
static void test_known_loop(void **state)
{
	struct addr_ends backend = to_itself("127.0.0.1:1001"), client = from("192.0.2.1:5000");
	struct chains chains = { 0 };
	struct chain *chain;

	(void)state;
	chains_init(&chains);
	chain = chains_add(&chains, &backend, &client, A, false);
	assert_true(is_loop(&chains, "127.0.0.1:1001", A));
	assert_false(chains_is_known_loop(&chains, A));
	chains_remove(&chains, chain);
	chain = chains_add(&chains, &backend, &client, A, true);
	assert_false(chains_is_known_loop(&chains, A));
	assert_true(is_loop(&chains, "127.0.0.1:1001", A));
	assert_true(chains_is_known_loop(&chains, A));
	assert_false(chains_is_known_loop(&chains, B));
	assert_false(chains_is_known_loop(&chains, A + CHAINS_LOOPS));
	usleep((CHAINS_LOOP_PAUSE_MS + 1) * 1000);
	assert_false(chains_is_known_loop(&chains, A));
	chains_remove(&chains, chain);
	chains_deinit(&chains);
}

/* The kernel gives one port to connections that go to different places. */
static void test_same_port_to_another_place(void **state)
{
	struct addr_ends elsewhere = { .local = address("127.0.0.1:1001"), .peer = address("127.0.0.1:81") };
	struct addr_ends client = from("192.0.2.1:5000");
	struct chains chains = { 0 };
	struct chain *away, *back;

	(void)state;
	chains_init(&chains);
	away = chains_add(&chains, &elsewhere, &client, A, false);
	assert_false(is_loop(&chains, "127.0.0.1:1001", A));
	back = add(&chains, "127.0.0.1:1001", "192.0.2.2:5000", B);
	assert_false(is_loop(&chains, "127.0.0.1:1001", A));
	assert_true(is_loop(&chains, "127.0.0.1:1001", B));
	chains_remove(&chains, back);
	assert_false(is_loop(&chains, "127.0.0.1:1001", B));
	chains_remove(&chains, away);
	chains_deinit(&chains);
}

static void test_loop_of_two_services(void **state)
{
	struct chains chains = { 0 };
	struct chain *first, *second;

	(void)state;
	chains_init(&chains);
	first = add(&chains, "127.0.0.1:1001", "192.0.2.1:5000", A);
	second = add(&chains, "[::1]:1002", "127.0.0.1:1001", B);
	assert_true(is_loop(&chains, "[::1]:1002", A));
	assert_true(is_loop(&chains, "[::1]:1002", B));
	assert_false(is_loop(&chains, "[::1]:1002", C));
	/* Without the first, the second begins a chain. */
	chains_remove(&chains, first);
	assert_false(is_loop(&chains, "[::1]:1002", A));
	assert_true(is_loop(&chains, "[::1]:1002", B));
	chains_remove(&chains, second);
	assert_true(chains_is_empty(&chains));
	chains_deinit(&chains);
}

/* One port, many addresses: they share a bucket. */
static void test_removal_from_the_middle(void **state)
{
	static const char *const locals[] = { "127.0.0.1:7", "127.0.0.2:7", "[::1]:7", "127.0.0.3:7",
					      "127.0.0.1:1031" };
	static const size_t order[] = { 2, 0, 4, 1, 3 };
	struct chain *entered[ARRAY_SIZE(locals)];
	struct chains chains = { 0 };

	(void)state;
	chains_init(&chains);
	for (size_t i = 0; i < ARRAY_SIZE(locals); i++)
		entered[i] = add(&chains, locals[i], "192.0.2.1:5000", A + i);
	for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
		for (size_t j = i; j < ARRAY_SIZE(order); j++)
			assert_true(is_loop(&chains, locals[order[j]], A + order[j]));
		chains_remove(&chains, entered[order[i]]);
		assert_false(is_loop(&chains, locals[order[i]], A + order[i]));
	}
	chains_remove(&chains, NULL);
	chains_deinit(&chains);
}

static void test_too_deep_is_a_loop(void **state)
{
	struct chain *entered[CHAINS_DEPTH_MAX];
	struct addr_ends client = from("192.0.2.1:5000");
	struct addr_ends backend = to_itself("127.0.0.1:1001");
	struct chains chains = { 0 };

	(void)state;
	chains_init(&chains);
	for (unsigned i = 0; i < CHAINS_DEPTH_MAX; i++) {
		assert_false(chains_is_loop(&chains, &client, 100));
		entered[i] = chains_add(&chains, &backend, &client, i, false);
		client.peer = backend.local;
		backend.local.in.sin_port++;
	}
	assert_true(chains_is_loop(&chains, &client, 100));
	for (unsigned i = 0; i < CHAINS_DEPTH_MAX; i++)
		chains_remove(&chains, entered[i]);
	chains_deinit(&chains);
}

/* Ports are used again, so that what is entered may in theory bite its own tail: the search must end. */
static void test_entries_in_a_circle(void **state)
{
	struct chains chains = { 0 };
	struct chain *one, *other;

	(void)state;
	chains_init(&chains);
	one = add(&chains, "127.0.0.1:1", "127.0.0.1:2", A);
	other = add(&chains, "127.0.0.1:2", "127.0.0.1:1", B);
	assert_true(is_loop(&chains, "127.0.0.1:1", C));
	chains_remove(&chains, one);
	chains_remove(&chains, other);
	chains_deinit(&chains);
}

static void test_clients_of_unix_listeners(void **state)
{
	static const struct addr_ends unix_client = { .local = { .sa = { .sa_family = AF_UNIX } },
						      .peer = { .sa = { .sa_family = AF_UNIX } } };
	struct addr_ends backend = to_itself("127.0.0.1:1001");
	struct chains chains = { 0 };
	struct chain *chain;

	(void)state;
	chains_init(&chains);
	chain = chains_add(&chains, &backend, &unix_client, A, false);
	assert_true(is_loop(&chains, "127.0.0.1:1001", A));
	assert_false(is_loop(&chains, "127.0.0.1:1001", B));
	assert_false(chains_is_loop(&chains, &unix_client, A));
	chains_remove(&chains, chain);
	chains_deinit(&chains);
}

/* ---- threads --------------------------------------------------------------------------------------- */

enum { THREADS = 4, ROUNDS = 2000, HELD = 8 };

struct traffic {
	struct chains chains;
	_Atomic unsigned next_thread;
	_Atomic unsigned mistakes;
};

/* Each thread has addresses and a service of its own, in buckets that all share. */
static void *traffic_main(void *context)
{
	static const union addr router_addr = { .in = { .sin_family = AF_INET } };
	struct traffic *traffic = context;
	unsigned thread = traffic->next_thread++;
	union addr local = { .in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001 + thread) } };
	struct addr_ends client = { .local = router_addr, .peer = router_addr };
	struct chain *held[HELD] = { NULL };

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct addr_ends backend, next_client;

		local.in.sin_port = htons((uint16_t)(1000 + i % HELD));
		backend = (struct addr_ends){ .local = local, .peer = router_addr };
		next_client = (struct addr_ends){ .local = router_addr, .peer = local };
		chains_remove(&traffic->chains, held[i % HELD]);
		if (chains_is_loop(&traffic->chains, &next_client, thread))
			traffic->mistakes++;
		held[i % HELD] = chains_add(&traffic->chains, &backend, &client, thread, false);
		if (!chains_is_loop(&traffic->chains, &next_client, thread) ||
		    chains_is_loop(&traffic->chains, &next_client, thread + 1))
			traffic->mistakes++;
	}
	for (unsigned i = 0; i < HELD; i++)
		chains_remove(&traffic->chains, held[i]);
	return NULL;
}

static void test_threads(void **state)
{
	static struct traffic traffic;
	pthread_t threads[THREADS];

	(void)state;
	chains_init(&traffic.chains);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, traffic_main, &traffic), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(traffic.mistakes, 0);
	assert_true(chains_is_empty(&traffic.chains));
	chains_deinit(&traffic.chains);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FIXTURE_TEST(test_loop_of_one_service),
		FIXTURE_TEST(test_same_port_to_another_place),
		FIXTURE_TEST(test_known_loop),
		FIXTURE_TEST(test_loop_of_two_services),
		FIXTURE_TEST(test_removal_from_the_middle),
		FIXTURE_TEST(test_too_deep_is_a_loop),
		FIXTURE_TEST(test_entries_in_a_circle),
		FIXTURE_TEST(test_clients_of_unix_listeners),
		FIXTURE_TEST(test_threads),
	};

	return FIXTURE_RUN(tests);
}
