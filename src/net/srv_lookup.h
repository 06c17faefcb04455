/*
 * One look-up of a service name: its SRV records, then the addresses of their hosts, which make the answer.
 */
#ifndef KAISO_NET_SRV_LOOKUP_H
#define KAISO_NET_SRV_LOOKUP_H

#include "net/dns.h"
#include "net/srv.h"

/* Where it asks; borrowed. */
struct srv_place {
	struct loop *loop;
	struct dns *dns; /* of DNS_RECORDS */
	struct resolver *resolver;
};

struct srv_outcome {
	int error; /* of srv_done */
	bool is_cut;
	uint64_t
		keep_ms; /* how long the answer holds: from 1 s to 1 h, or 0 for those alone who wait for it */
	struct srv_answer *answer; /* the callee's, NULL with an error */
};

typedef void (*srv_lookup_done)(void *context, const struct srv_outcome *outcome);

struct srv_lookup;

/*
 * Asks for a name (as srv_name_read() leaves it, borrowed). last: the last good answer, or NULL; the addresses of a host
 * that DNS is silent about now come from there. done is called once, never before this returns, and the look-up is no
 * more then. NULL when out of memory.
 */
struct srv_lookup *srv_lookup_start(const struct srv_place *place, const char *name, struct srv_answer *last,
				    srv_lookup_done done, void *context);

/* done is not called any more. The look-up frees itself: by a task, once c-ares has answered; dns_free() makes it. */
void srv_lookup_abandon(struct srv_lookup *lookup);

#endif
