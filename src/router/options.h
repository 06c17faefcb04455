/*
 * What the operator decides about a router; the same for all threads, constant while it runs.
 */
#ifndef KAISO_ROUTER_OPTIONS_H
#define KAISO_ROUTER_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "net/dns.h"
#include "net/relay.h"
#include "proto/options.h"

/* For `kaiso expose`: clients say nothing, each listener leads to one service of another kaiso. All
 * borrowed. */
struct router_exposure {
	const char *host;      /* of that kaiso: a name or a numeric address; "" when it is reached by */
	const char *unix_path; /* a UNIX socket; else "" */
	uint16_t port;
	const char *target;          /* its address for logs */
	const char *const *services; /* one for each listener, in their order; "" or "DIR/" for a list */
	enum proxy_version proxy;    /* what that kaiso is told of the client, if anything */
};

/* Times are in milliseconds, 0 for no limit. */
struct router_options {
	const char *services; /* the services directory; borrowed. NULL: nothing is routed, only exposed */
	const struct router_exposure *exposure; /* NULL: clients say what they want */
	unsigned threads;
	unsigned busy_poll_us; /* of each thread's loop */
	bool has_verbs;
	bool has_sandbox;
	bool has_progress;    /* a status line on a terminal (meter.h) */
	bool has_unix_fronts; /* clients of UNIX listeners are front ends, too */
	const struct access_rule
		*fronts; /* whose word counts for whose connection it is (PROXY protocol); borrowed */
	size_t front_count;
	const char *user;           /* to become (sandbox_become_user()); borrowed; NULL: nobody else */
	enum relay_mode relay_up;   /* from TCP clients towards their service */
	enum relay_mode relay_down; /* and back */
	const char
		*control; /* path of the control socket, or "none"; borrowed. NULL: control_default_path() */
	const char
		*http; /* where the status page is, as listen_set_add() takes it; borrowed. NULL: nowhere */
	struct dns_servers dns; /* name servers to ask; none: those of the system */
	uint64_t request_timeout_ms;
	uint64_t connect_timeout_ms;
	uint64_t idle_timeout_ms;
	uint64_t keepalive_ms; /* a TCP peer that is not heard of for so long is gone */
	uint64_t drain_timeout_ms;
	uint64_t max_sessions;
	uint64_t max_sessions_per_address;
	uint64_t max_requests_per_second;
	uint64_t max_lists;
	unsigned max_pipes; /* per thread */
};

#endif
