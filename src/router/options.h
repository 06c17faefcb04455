/*
 * What the operator decides about a router; the same for all threads, constant while it runs.
 */
#ifndef KAISO_ROUTER_OPTIONS_H
#define KAISO_ROUTER_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "net/relay.h"

/* Times are in milliseconds, 0 for no limit. */
struct router_options {
	const char *services; /* the services directory; borrowed */
	unsigned threads;
	bool has_verbs;
	enum relay_mode relay_up;   /* from TCP clients towards their service */
	enum relay_mode relay_down; /* and back */
	uint64_t request_timeout_ms;
	uint64_t connect_timeout_ms;
	uint64_t idle_timeout_ms;
	uint64_t drain_timeout_ms;
	uint64_t max_sessions;
	uint64_t max_sessions_per_address;
	uint64_t max_requests_per_second;
	uint64_t max_lists;
	unsigned max_pipes; /* per thread */
};

#endif
