/*
 * A session: the life of one client's connection.
 *
 *            +-- a list, a word for tools --> REPLY --+
 *            |                                        |
 *   accept --> REQUEST <------------------------------+
 *            |
 *            +-- a service --> LOOKUP --> DIAL --> RELAY -----> ENDED     (exposed: accept --> DIAL)
 *                                 |         |
 *                                 |         +----> HANDOVER --> ENDED
 *                                 |                  |  ^
 *                                 +-- (no waiting) --+  +-- DIAL (receiver, knock)
 *
 * Where a router is asked for a verdict: DIAL --> VERDICT --> RELAY.
 *
 * State     What is valid                            Deadline          Left for
 * REQUEST   client                                   request timeout   REPLY, LOOKUP, ENDED
 * REPLY     client, reply                            request timeout,  REQUEST, ENDED
 *                                                    more for a long list
 * LOOKUP    client, the path in worker->request      none: no waiting  DIAL, RELAY, HANDOVER, REPLY, ENDED,
 *                                                                      REQUEST (a file is being written)
 * DIAL      client, service, dial (or extra->query)  connect timeout   VERDICT, RELAY, HANDOVER, REPLY, ENDED
 * VERDICT   client, service, backend                 connect timeout   DIAL, RELAY, REPLY, ENDED
 * HANDOVER  client, service, perhaps backend         connect timeout   DIAL, REPLY, ENDED
 * RELAY     client, service, backend, up, down       idle timeout      ENDED
 * ENDED     nothing is to be used; freed when the current events are dealt with
 *
 * Where a service has several targets, each failure in DIAL, VERDICT or HANDOVER leads back to DIAL, for the next of them
 * (attempt.h).
 *
 * REPLY after a refusal (`.kaiso/open`) goes to ENDED once the reply is sent.
 * Half-close is no state: each direction of the relay has eof_seen and eof_sent.
 *
 * Ownership: the session is on its worker's list and frees itself (a task of the loop). It owns both
 * descriptors, and session_end() closes them; but a client that was handed over is closed right then, and
 * so is the connection to a router that did not know the word for a verdict.
 */
#ifndef KAISO_ROUTER_SESSION_H
#define KAISO_ROUTER_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "net/addr.h"
#include "net/loop.h"
#include "net/relay.h"
#include "router/reason.h"

enum session_state {
	SESSION_REQUEST,
	SESSION_REPLY,
	SESSION_LOOKUP,
	SESSION_DIAL,
	SESSION_VERDICT,
	SESSION_HANDOVER,
	SESSION_RELAY,
	SESSION_ENDED,
};

#define SESSION_STARTED_BITS 37
#define SESSION_STARTED_MASK ((UINT64_C(1) << SESSION_STARTED_BITS) - 1)

struct worker;
struct service;
struct dial;
struct session_reply;
struct chain;

struct session {
	struct list link;
	struct worker *worker;
	struct service *service;     /* a reference; NULL until a path was asked for */
	struct session_extra *extra; /* owned; NULL: nothing of what only few have */
	struct loop_watch client;    /* client.fd, backend.fd: owned; -1 for none */
	struct loop_watch backend;
	struct loop_task task; /* more to pump; in ENDED: to be freed */
	union {
		struct session_reply *reply;   /* REPLY */
		struct dial *dial;             /* DIAL; NULL between two */
		uint64_t handover_deadline_ms; /* HANDOVER; UINT64_MAX for none */
		struct chain *chain;           /* VERDICT, RELAY: to a TCP target; else NULL */
	};
	struct relay_way up;   /* client to backend */
	struct relay_way down; /* backend to client */
	union addr peer;       /* the client's address */
	struct loop_timer timer;
	uint64_t started_ms : SESSION_STARTED_BITS; /* the low bits of the clock: enough for four years */
	uint64_t state : 3;                         /* enum session_state; written by session_enter() alone */
	uint64_t refusal : 5;       /* REPLY: the enum session_reason to end with, 0 to go on */
	uint64_t limit : 3;         /* enum limit: the one that a refusal is about */
	uint64_t wants_verdict : 1; /* asked by `.kaiso/open` */
	uint64_t has_listed : 1;
	uint64_t is_client_lost : 1;  /* an error event: the client was reset */
	uint64_t is_backend_gone : 1; /* a hang-up: the service reads no more, or all is closed */
	uint64_t has_verdict : 1;     /* the next router has said that it has opened the service */
	uint64_t is_exposed : 1;      /* the listener said which service */
	uint64_t is_knocking : 1;     /* DIAL: to the knock port */
	uint64_t has_knocked : 1;
	uint64_t is_detached : 1; /* HANDOVER: the client is in blocking mode and out of epoll for good */
	/* RELAY: the service was reset, the client's last bytes are on their way. HANDOVER: the client was told "+", or a
	 * part of it, and must not see a clean end before it is another's. */
	uint64_t is_resetting : 1;
	uint64_t retry_shift : 3; /* HANDOVER, is_resetting: how often it was waited, for the next wait */
	uint64_t has_turn : 1;    /* service->turn is this session's */
	uint64_t
		is_client_overdue : 1; /* RELAY: it was unanswered (down.is_unanswered) at the check before, too */
	uint64_t is_backend_overdue : 1;
};

/*
 * Begins the session of a client that was just accepted and counted by
 * limits_begin_session(), without an address where it is_front: a front end, which says first by the header of the PROXY
 * protocol whose connection it is. Takes client_fd. -ENOMEM: nothing is taken. With a service (exposed by its
 * listener, borrowed) the client is led there without a word of its own.
 */
int session_new_take(struct worker *worker, int client_fd, const union addr *peer, bool is_front,
		     struct service *exposed);

/* Where its service is to be had: the target that it tries, or has. NULL as long as there is no service. */
struct target *session_target(const struct session *session);

/* Since its client was accepted. */
uint64_t session_age_ms(const struct session *session);

#define SESSION_ID_SIZE 32

/* Tells it from all others that are open and from those of late: its descriptor's number and when it began. Returns
 * text, terminated. */
const char *session_id(const struct session *session, char text[static SESSION_ID_SIZE]);

/* The state's word, for people. Static. */
const char *session_state_name(enum session_state state);

/* Ends the session now, in whatever state it is; it is freed after the current events. */
void session_end(struct session *session, enum session_reason reason);

/* To be called twice within --keepalive: a TCP peer that has answered nothing from one call to the third, though there
 * are bytes for it under way, is gone with its host, and the session ends as by a reset. TCP's own keepalive is for the
 * time when nothing is under way. interval_ms: the time from call to call. */
void session_check_peers(struct session *session, uint64_t interval_ms);

/* The router drains: a session that has not asked for a service is ended. */
void session_drain(struct session *session);

/* What another process makes the same session from; borrows from the session, whose worker must have halted. False
 * for one that has ended and waits to be freed. */
struct session_image;
bool session_image_of(const struct session *session, struct session_image *image);

/* The same session on a worker that does not run yet; takes the image's descriptors. 0; or -ENOMEM, with the
 * descriptors closed. */
int session_restore_take(struct worker *worker, const struct session_image *image);

/* For a session that was restored, once all are: looks at its sockets, before any deadline counts. */
void session_go_on(struct session *session);

/* A wish came back from the lister; its session may be gone. */
struct lister_wish;
void session_wish_done(struct lister_wish *wish);

#endif
