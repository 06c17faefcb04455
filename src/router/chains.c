/*
 * Theory of operation: the kernel gives every connection a local address that
 * no other has at the time. When this router connects to itself, the new client's peer address is
 * the local address of an older session's backend. From there the way back is: that
 * session's client address, is it ours again? Every service met on the way is compared.
 */
#include "router/chains.h"

#include <stdlib.h>

struct chain {
	struct chain *next;
	union addr backend_local;
	union addr client;
	uint64_t service_hash;
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

struct chain *chains_add(struct chains *chains, const union addr *backend_local, const union addr *client,
			 uint64_t service_hash)
{
	struct chain **bucket = chains_bucket(chains, backend_local);
	struct chain *chain = malloc(sizeof(*chain));

	if (!chain)
		return NULL;
	*chain = (struct chain){ .backend_local = *backend_local,
				 .client = *client,
				 .service_hash = service_hash };
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
	link = chains_bucket(chains, &chain->backend_local);
	while (*link != chain)
		link = &(*link)->next;
	*link = chain->next;
	pthread_mutex_unlock(&chains->mutex);
	chains->count--;
	free(chain);
}

static const struct chain *chains_find(struct chains *chains, const union addr *local)
{
	const struct chain *chain = *chains_bucket(chains, local);

	while (chain && !addr_is_equal(&chain->backend_local, local))
		chain = chain->next;
	return chain;
}

bool chains_is_loop(struct chains *chains, const union addr *client, uint64_t service_hash)
{
	const struct chain *chain;
	unsigned depth = 0;
	bool is_loop = false;

	if (chains->count == 0 || client->sa.sa_family == AF_UNIX)
		return false;
	pthread_mutex_lock(&chains->mutex);
	for (chain = chains_find(chains, client); chain && !is_loop;
	     chain = chains_find(chains, &chain->client))
		is_loop = chain->service_hash == service_hash || ++depth >= CHAINS_DEPTH_MAX;
	pthread_mutex_unlock(&chains->mutex);
	return is_loop;
}
