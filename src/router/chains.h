/*
 * Which of the router's own connections lead where: so that a chain that comes
 * back to this router is recognised, and one that asks for the same service again is ended.
 *
 * A session that leads to a TCP target is entered under the local address of its backend connection. A client
 * whose address stands here is this router itself. Shared by all threads; thread safe.
 */
#ifndef KAISO_ROUTER_CHAINS_H
#define KAISO_ROUTER_CHAINS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "net/addr.h"

#define CHAINS_BUCKETS 1024
#define CHAINS_DEPTH_MAX 16 /* a longer chain through one router counts as a loop */

struct chain;

struct chains {
	_Atomic uint64_t count;
	pthread_mutex_t mutex;
	struct chain *buckets[CHAINS_BUCKETS];
};

void chains_init(struct chains *chains);

/* No chain may be left. */
void chains_deinit(struct chains *chains);

/* Enters a session: its backend's local address, its client's address, and the hash of its service's path.
 * NULL when out of memory: then a loop through it goes unseen, up to the limits. */
struct chain *chains_add(struct chains *chains, const union addr *backend_local, const union addr *client,
			 uint64_t service_hash);

/* NULL is allowed. */
void chains_remove(struct chains *chains, struct chain *chain);

/* Would this client's request for that service close a loop? Costs nothing while no chain is entered. */
bool chains_is_loop(struct chains *chains, const union addr *client, uint64_t service_hash);

#endif
