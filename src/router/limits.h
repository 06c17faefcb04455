/*
 * The router's limits: how many sessions, requests and lists there may be, in all
 * and by client address. Shared by all threads; thread safe.
 *
 * Clients of UNIX listeners have no address: only the limits in all count for them.
 * IPv6 clients are told apart by their /64, since one host has that many addresses (RFC 4291, section 2.5.4).
 */
#ifndef KAISO_ROUTER_LIMITS_H
#define KAISO_ROUTER_LIMITS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "net/addr.h"

#define LIMITS_BUCKETS 4096
#define LIMITS_ADDRESSES_MAX 65536 /* remembered at a time; more than that are refused */

enum limit {
	LIMIT_NONE, /* admitted */
	LIMIT_SESSIONS,
	LIMIT_ADDRESS_SESSIONS,
	LIMIT_ADDRESS_REQUESTS,
	LIMIT_LISTS,            /* or, of the lister, LISTER_TEXTS_MAX */
	LIMIT_SERVICE_SESSIONS, /* `max-sessions` of the service's own options; not decided here */
	LIMIT_DESCRIPTORS,      /* not decided here: the system's own */
};

struct limits_address;

struct limits {
	uint64_t sessions_max;                    /* 1 or more */
	uint64_t sessions_per_address_max;        /* 0: no limit */
	uint64_t requests_per_second_per_address; /* 0: no limit; bursts of one second's worth pass */
	uint64_t lists_max;                       /* 1 or more */
	_Atomic uint64_t sessions;
	_Atomic uint64_t lists;
	pthread_mutex_t mutex; /* guards what follows; untouched when nothing is limited by address */
	struct limits_address *buckets[LIMITS_BUCKETS];
	uint64_t address_count;
	uint64_t sweep_bucket;
};

/* The fields that say _max and per_second are the caller's to set. */
void limits_init(struct limits *limits);
void limits_deinit(struct limits *limits);

/* A session begins (LIMIT_NONE), or may not. Each that began must end with the same address. */
enum limit limits_begin_session(struct limits *limits, const union addr *client);
void limits_end_session(struct limits *limits, const union addr *client);

/* A session that began without an address turns out to be of this one: LIMIT_NONE, or it must not go on, and ends without an
 * address. */
enum limit limits_move_session(struct limits *limits, const union addr *client);

/* A session goes on that was admitted by the process before this one. It ends as others do. */
void limits_restore_session(struct limits *limits, const union addr *client);

/* Within a session: may this address make one more request now? LIMIT_NONE or LIMIT_ADDRESS_REQUESTS. */
enum limit limits_request(struct limits *limits, const union addr *client, uint64_t now_ms);

/* A list is wanted (LIMIT_NONE), or too many are waiting (LIMIT_LISTS). Each that began must end. */
enum limit limits_begin_list(struct limits *limits);
void limits_end_list(struct limits *limits);

/* The option's name without dashes, for logs. Static. */
const char *limit_name(enum limit limit);

#endif
