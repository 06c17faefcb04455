/*
 * Theory of operation: when this router connects to itself, the new client's connection and the backend
 * connection of an older session are the same, seen from its two ends. From there the way back is: that
 * session's client connection, is it our own again? Every service met on the way is compared.
 */
#include "router/chains.h"

#include <stdlib.h>

#include "base/clock.h"

struct chain {
	struct chain *next;
	struct addr_ends backend;
	struct addr_ends client;
	uint64_t service_hash;
	bool is_fixed;
};

void chains_init(struct chains *chains)
{
	pthread_mutex_init(&chains->mutex, NULL);
}

void chains_deinit(struct chains *chains)
{
	pthread_mutex_destroy(&chains->mutex);
}

/* Connections differ in their port first of all. */
static struct chain **chains_bucket(struct chains *chains, const union addr *addr)
{
	uint16_t port = addr->sa.sa_family == AF_INET6 ? addr->in6.sin6_port : addr->in.sin_port;

	return &chains->buckets[ntohs(port) % CHAINS_BUCKETS];
}

struct chain *chains_add(struct chains *chains, const struct addr_ends *backend,
			 const struct addr_ends *client, uint64_t service_hash, bool is_fixed)
{
	struct chain **bucket = chains_bucket(chains, &backend->local);
	struct chain *chain = malloc(sizeof(*chain));

	if (!chain)
		return NULL;
	*chain = (struct chain){
		.backend = *backend, .client = *client, .service_hash = service_hash, .is_fixed = is_fixed
	};
	pthread_mutex_lock(&chains->mutex);
	chain->next = *bucket;
	*bucket = chain;
	pthread_mutex_unlock(&chains->mutex);
	chains->count++;
	return chain;
}

void chains_remove(struct chains *chains, struct chain *chain)
{
	struct chain **link;

	if (!chain)
		return;
	pthread_mutex_lock(&chains->mutex);
	link = chains_bucket(chains, &chain->backend.local);
	while (*link != chain)
		link = &(*link)->next;
	*link = chain->next;
	pthread_mutex_unlock(&chains->mutex);
	chains->count--;
	free(chain);
}

/* The session whose backend connection this client's connection is. */
static const struct chain *chains_find(struct chains *chains, const struct addr_ends *client)
{
	const struct chain *chain = *chains_bucket(chains, &client->peer);

	while (chain && !(addr_is_equal(&chain->backend.local, &client->peer) &&
			  addr_is_equal(&chain->backend.peer, &client->local)))
		chain = chain->next;
	return chain;
}

/* With the mutex. */
static void chains_note_loop(struct chains *chains, uint64_t service_hash)
{
	uint64_t until_ms = clock_now_ms() + CHAINS_LOOP_PAUSE_MS;

	chains->loops[service_hash % CHAINS_LOOPS] =
		(struct chains_loop){ .service_hash = service_hash, .until_ms = until_ms };
	chains->looping_until_ms = until_ms;
}

bool chains_is_known_loop(struct chains *chains, uint64_t service_hash)
{
	const struct chains_loop *loop = &chains->loops[service_hash % CHAINS_LOOPS];
	bool is_known;

	if (chains->looping_until_ms == 0 || clock_now_ms() >= chains->looping_until_ms)
		return false;
	pthread_mutex_lock(&chains->mutex);
	is_known = loop->service_hash == service_hash && clock_now_ms() < loop->until_ms;
	pthread_mutex_unlock(&chains->mutex);
	return is_known;
}

bool chains_is_loop(struct chains *chains, const struct addr_ends *client, uint64_t service_hash)
{
	const struct chain *chain;
	unsigned depth = 0;
	bool is_loop = false, is_fixed = true;

	if (client->peer.sa.sa_family == AF_UNIX)
		return false;
	pthread_mutex_lock(&chains->mutex);
	for (chain = chains_find(chains, client); chain && !is_loop;
	     chain = chains_find(chains, &chain->client)) {
		is_fixed = is_fixed && chain->is_fixed;
		is_loop = chain->service_hash == service_hash || ++depth >= CHAINS_DEPTH_MAX;
	}
	if (is_loop && is_fixed && depth < CHAINS_DEPTH_MAX)
		chains_note_loop(chains, service_hash);
	pthread_mutex_unlock(&chains->mutex);
	return is_loop;
}
