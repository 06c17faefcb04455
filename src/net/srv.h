/*
 * What DNS has for the service name of a `srv:` target (SRV records, RFC 2782): hosts, ports, priorities and weights,
 * with the hosts' addresses. One cache a loop, beside its resolver. Not thread safe, save for answers; but caches share
 * the last good answer and what the log is told, whatever their threads.
 *
 * An answer is kept as long as its records say (their TTL and that of the addresses), at least 1 s and at most 1 h, and
 * asked for again before that while it is in use. One with a TTL of 0 is for those alone who wait for it. While DNS is
 * away the last good answer goes on (as in RFC 8767), which the log says once, as it says the end of it. That there is
 * no such service is an answer too, kept for a second.
 */
#ifndef KAISO_NET_SRV_H
#define KAISO_NET_SRV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "net/addr.h"
#include "net/loop.h"
#include "net/resolve.h"
#include "net/srv_records.h"

#define SRV_ADDRESSES_MAX 8 /* of a target */
#define SRV_NAMES_MAX 256   /* that a cache keeps answers for; the one that was asked for longest ago goes */

struct srv_target {
	const char *host; /* terminated; without a dot at its end */
	uint16_t port;    /* 1 to 65535 */
	uint16_t priority;
	uint16_t weight;
	unsigned address_count;      /* 1 to SRV_ADDRESSES_MAX */
	const union addr *addresses; /* with the port; in the order in which to try them (RFC 6724) */
};

/* Immutable, with references, which any thread may take and give. */
struct srv_answer {
	_Atomic unsigned references;
	uint64_t expires_ms; /* of clock_now_ms(): at least 1 s after it came, at most 1 h */
	size_t count;        /* 1 to SRV_TARGETS_MAX */
	const struct srv_target
		*targets; /* by priority, then weight, host and port: the same set, the same order */
};

void srv_answer_ref(struct srv_answer *answer);
void srv_answer_unref(struct srv_answer *answer); /* NULL is allowed */

/* Has it outlived its time? Such a one is given out while DNS is away or slow. */
static inline bool srv_answer_is_stale(const struct srv_answer *answer)
{
	return clock_now_ms() >= answer->expires_ms;
}

/*
 * The order in which a client is to try the targets (RFC 2782, "Usage rules"): priorities ascending; within one, drawn
 * by weight. order has the indices of all count targets. *random is the state of the draws, anything to begin with, and
 * goes on; the same state gives the same order.
 */
void srv_order(const struct srv_answer *answer, uint64_t *random, uint8_t order[static SRV_TARGETS_MAX]);

struct srv_cache;
struct srv_query;

/* resolver is borrowed, and has to outlive the cache. NULL when out of memory. */
struct srv_cache *srv_cache_new(struct loop *loop, struct resolver *resolver);

/* Queries under way are dropped without a call; answers that others hold stay. What is left is freed by
 * loop_run_out(). NULL is allowed. */
void srv_cache_free(struct srv_cache *cache);

/* The state of draws of a cache, for srv_order(); seeded differently each time. */
uint64_t *srv_cache_random(struct srv_cache *cache);

/*
 * An answer with at least one target (borrowed: take a reference to keep it), or NULL and a negative errno:
 *   -ENOENT        there is no such name, or nothing for it; or it says that the service is not to be had
 *                  (a target of "."), or none of its hosts has an address
 *   -ETIMEDOUT, -EHOSTUNREACH  no name server answered (in time), and there is no earlier answer
 *   -EBADMSG       what the name server said makes no sense, and there is no earlier answer
 *   -ENOMEM
 */
typedef void (*srv_done)(void *context, int error, struct srv_answer *answer);

/*
 * Asks for a name (terminated, a full domain name: the search list of resolv.conf(5) does not apply; with or without
 * the dot at its end). What no name can be is -ENOENT. done is called once, never before this returns, unless the query
 * is cancelled first: from the cache in the same round of the loop, else when DNS has answered; with an expired answer
 * at the latest after 1 s, when DNS has not. Without any earlier answer there is no limit but that of the look-up, which
 * may be many seconds. NULL when out of memory.
 */
struct srv_query *srv_start(struct srv_cache *cache, const char *name, srv_done done, void *context);

/* The query is forgotten: done is not called any more, and the handle is no longer valid. */
void srv_cancel(struct srv_query *query);

#endif
