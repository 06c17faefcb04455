/*
 * One thread of the router: its loop, and what its sessions share.
 *
 * A session stays on the worker that accepted it, so nothing here needs a lock
 * but the mailbox, through which other threads reach a worker.
 */
#ifndef KAISO_ROUTER_WORKER_H
#define KAISO_ROUTER_WORKER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "net/listen.h"
#include "net/loop.h"
#include "net/relay.h"
#include "net/resolve.h"
#include "net/srv.h"
#include "proto/request.h"
#include "router/backends.h"
#include "router/catalog.h"
#include "router/chains.h"
#include "router/limits.h"
#include "router/lister.h"
#include "router/options.h"
#include "router/policy.h"
#include "router/session.h"
#include "router/stats.h"
#include "router/turns.h"

/* What all workers share. Owned by the server; each part is thread safe or constant. */
struct worker_shared {
	const struct router_options *options;
	struct listen_set *listeners;
	struct listen_set *control; /* of one listener, or none */
	struct listen_set *http;    /* those of --http, or none */
	struct limits limits;
	struct chains chains;
	struct turns turns;
	struct backends backends;
	struct policies *policies; /* NULL: there is no services directory */
	struct lister *lister;
	_Atomic unsigned busy_workers; /* that have sessions left while the router drains */
	int idle_fd;                   /* eventfd(2): written when busy_workers reaches 0 */
};

struct worker_listener {
	struct loop_watch watch;
	struct worker *worker;
	unsigned batch;          /* clients to accept at an event: as many as waited the last time */
	unsigned failures;       /* of accept4(2), one after the other */
	struct service *service; /* exposed: what its clients get; a reference. NULL: they say */
};

/* What another thread wants done on a worker's own thread. It is the caller's storage until it has run. */
struct worker_job {
	struct list link;
	void (*run)(struct worker *worker, struct worker_job *job);
};

/* A job that goes from worker to worker, on the thread of each in turn, so that what it gathers needs no lock and no
 * thread waits for another. In the caller's storage until done, which is called on the first worker's thread. */
struct worker_tour {
	struct worker_job job;
	struct worker *workers;
	unsigned count;
	unsigned next;
	void (*visit)(struct worker_tour *tour, struct worker *worker);
	void (*done)(struct worker_tour *tour);
};

struct worker {
	struct worker_shared *shared;
	pthread_t thread;
	struct loop loop;
	struct relay_pool pool;
	struct catalog catalog;
	struct resolver *resolver; /* NULL until the first name is asked for */
	struct srv_cache *srv;     /* the same for those of `srv:` targets */
	struct list sessions;
	uint64_t reason_counts[SESSION_REASON_COUNT];
	uint64_t refused_count; /* clients closed at once, with reason limit */
	struct stats stats;
	bool is_draining;
	bool is_done; /* counted out of busy_workers */
	struct loop_timer drain_timer;
	struct loop_timer peers_timer; /* for session_check_peers() */
	struct worker_listener *listeners;
	struct loop_timer accept_timer; /* armed while accepting pauses */
	int spare_fd;                   /* given up to accept and close a client when descriptors are short */
	struct loop_watch wake;         /* eventfd(2) of the mailbox */
	pthread_mutex_t mailbox_mutex;  /* guards the five below */
	struct list mailbox;            /* wishes that the lister has done */
	struct list jobs;
	bool must_drain;
	bool must_stop;
	bool must_halt;
	_Atomic unsigned asked;         /* the watchdog's question; any thread */
	_Atomic unsigned answered;      /* the last question that this thread came round to */
	char request[REQUEST_LINE_MAX]; /* the line that is being looked at; valid within one callback */
};

/* Does not listen yet. 0 or a negative errno, with nothing left behind. */
int worker_init(struct worker *worker, struct worker_shared *shared);

/* The worker's sessions are ended, its descriptors closed. Its thread must have ended. */
void worker_deinit(struct worker *worker);

/* Begins to accept clients on the shared listeners. 0 or a negative errno. */
int worker_listen(struct worker *worker);

/* Thread safe, no blocking: */
void worker_drain(struct worker *worker); /* accept nobody any more, let sessions end */
void worker_stop(struct worker *worker);  /* end all sessions and leave loop_run() */
void worker_halt(struct worker *worker);  /* leave loop_run() with all sessions as they are */
void worker_post(struct worker *worker, struct lister_wish *wish);
void worker_ask(struct worker *worker, unsigned question); /* to answer when it comes round (watchdog.h) */
void worker_run(struct worker *worker, struct worker_job *job);
void worker_tour_begin(struct worker_tour *tour); /* next is 0, and all but job is set */

/* Does the jobs that wait. For the end, when its thread has ended; else the worker does it itself. */
void worker_do_jobs(struct worker *worker);

/* After sessions were restored, all of them, on all workers, and before the thread: see session_go_on(). */
void worker_go_on(struct worker *worker);

/* After worker_halt(), when its thread has ended: loop_run() goes on where it was. */
void worker_resume(struct worker *worker);

/* On the worker's own thread: its resolver, made when first needed. NULL when out of memory. */
struct resolver *worker_resolver(struct worker *worker);

/* The same for its memory of what DNS has for services. */
struct srv_cache *worker_srv(struct worker *worker);

/* A session has left the worker's list. */
void worker_session_gone(struct worker *worker);

#endif
