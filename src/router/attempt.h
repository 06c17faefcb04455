/*
 * One client's way through the targets of a service that has several, or whose targets DNS has (`srv:`): which is to be
 * tried next, and what came of it.
 *
 * A target whose hosts are DNS's is tried host by host, in the order of RFC 2782, those that failed lately last. The caller
 * looks the name up (attempt_wants_answer()) and connects; nothing here waits.
 */
#ifndef KAISO_ROUTER_ATTEMPT_H
#define KAISO_ROUTER_ATTEMPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/srv.h"
#include "proto/options.h"
#include "router/backends.h"

struct service;
struct target;

#define ATTEMPT_TARGETS_MAX (OPTIONS_BACKENDS_MAX + 1)

struct attempt {
	struct backends *backends;
	struct service *service; /* borrowed */
	const void *client;      /* which client it is, for backends */
	uint64_t deadline_ms;    /* of the whole; UINT64_MAX for none */
	struct target *target;   /* that is tried, or was reached; the service's */
	struct backend *
		backend; /* the target's; borrowed from it, or kept by has_session. NULL where there is only one */
	struct backend *host;      /* a reference: of the host that is tried, where they are DNS's */
	struct srv_answer *answer; /* a reference: of the target, once it is known */
	size_t next;               /* into order: the target after this one */
	size_t host_next;          /* into hosts: the host after this one */
	int last_error;            /* a negative errno; 0 for none yet */
	bool is_trying;            /* backend, host: nothing is known yet of what comes of it */
	bool has_session;          /* counted by backend */
	unsigned round;            /* how often it has begun from the front again */
	uint64_t busy;     /* of bits, one a target: it had no room, so the round may be worth another */
	uint64_t was_busy; /* the same of the round before */
	uint8_t order[ATTEMPT_TARGETS_MAX];
	uint8_t hosts[SRV_TARGETS_MAX];
};

/* Begins with the first target, which is attempt->target then. What is borrowed must live as long as the attempt. */
void attempt_begin(struct attempt *attempt, struct backends *backends, struct service *service,
		   const void *client, uint64_t now_ms, uint64_t deadline_ms);

/* Has reached the service's only target in the process before this one: it is counted there. */
void attempt_restore(struct attempt *attempt, struct backends *backends, struct service *service);

/* Nothing is tried any more; a session that was counted ends. */
void attempt_end(struct attempt *attempt);

/* Must the target's name be looked up before anything can be tried? */
bool attempt_wants_answer(const struct attempt *attempt);

/* What was found (one more reference is taken): the first of its hosts is attempt_host() then. */
void attempt_take_answer(struct attempt *attempt, struct srv_answer *answer, uint64_t *random,
			 uint64_t now_ms);

/* The host to be tried; NULL where the target is none of DNS's. Valid as long as the answer. */
const struct srv_target *attempt_host(const struct attempt *attempt);

/* When to give up what is tried now, so that all that are left have their share of the time. */
uint64_t attempt_deadline_ms(const struct attempt *attempt, uint64_t now_ms);

/* What was tried is reached. */
void attempt_succeeded(struct attempt *attempt);

/* It failed, with a negative errno. True: there is another one to be tried, attempt->target or attempt_host(). -EAGAIN
 * says that it has no room just now, which is no failure of its; nor is what the router itself is short of. */
bool attempt_failed(struct attempt *attempt, int error, uint64_t now_ms);

/* All have been tried, and one had no room: begins from the front, without those that were found to fail. False: none
 * had, or the time is over. */
bool attempt_again(struct attempt *attempt, uint64_t now_ms);

#endif
