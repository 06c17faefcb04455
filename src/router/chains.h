/*
 * Which of the router's own connections lead where: so that a chain that comes back to this router is
 * recognised, and one that asks for the same service again is ended.
 *
 * A session that leads to a TCP target is entered with both ends of its backend connection. A client's
 * connection that has the same two ends, seen from the other side, is this router's own. One end would not
 * do: the kernel gives the same local port to connections that go to different places. Shared by all
 * threads; thread safe.
 */
#ifndef KAISO_ROUTER_CHAINS_H
#define KAISO_ROUTER_CHAINS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "net/addr.h"

#define CHAINS_BUCKETS 1024
#define CHAINS_DEPTH_MAX 16 /* a longer chain through one router counts as a loop */

#define CHAINS_LOOPS 16
#define CHAINS_LOOP_PAUSE_MS 100

struct chain;

struct chains {
	_Atomic uint64_t count;
	pthread_mutex_t mutex;
	struct chain *buckets[CHAINS_BUCKETS];
	_Atomic uint64_t looping_until_ms; /* the last one's end */
	struct chains_loop {
		uint64_t service_hash;
		uint64_t until_ms;
	} loops[CHAINS_LOOPS];
};

void chains_init(struct chains *chains);

/* No chain may be left. */
void chains_deinit(struct chains *chains);

/* Enters a session: the ends of its backend's and of its client's connection, and the hash of its service's
 * path. is_fixed: where it leads on from there is the description's word, not the client's. NULL when out of memory:
 * then a loop through it goes unseen, up to the limits. */
struct chain *chains_add(struct chains *chains, const struct addr_ends *backend,
			 const struct addr_ends *client, uint64_t service_hash, bool is_fixed);

/* NULL is allowed. */
void chains_remove(struct chains *chains, struct chain *chain);

static inline bool chains_is_empty(const struct chains *chains)
{
	return chains->count == 0;
}

/* Would the request for that service, coming over this connection, close a loop? */
bool chains_is_loop(struct chains *chains, const struct addr_ends *client, uint64_t service_hash);

/* Was there one a moment ago that led from that service to itself, whatever its client said? Then who asks next need not
 * go all the way round: a loop that is asked for again and again would else keep the router busy with itself. */
bool chains_is_known_loop(struct chains *chains, uint64_t service_hash);

#endif
