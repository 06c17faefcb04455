/*
 * Tells a service manager that the router is alive, as often as it wants to hear that (WATCHDOG=1, sd_notify(3)).
 *
 * Alive is a router whose threads all come round: each is asked, through the way by which it gets every message from
 * other threads, and answers from within its event loop. When one does not, nothing is sent, and the manager does what
 * it was told to do. The lister is not asked: a walk may take as long as its disk, and holds up nobody but those who
 * want that list.
 */
#ifndef KAISO_ROUTER_WATCHDOG_H
#define KAISO_ROUTER_WATCHDOG_H

#include <stdbool.h>

#include "net/loop.h"
#include "router/worker.h"

struct watchdog {
	struct worker *workers;
	unsigned count;
	unsigned question; /* the last one that was asked */
	bool is_alarmed;   /* somebody did not answer, and the log says so */
	uint64_t pause_ms; /* from one question to the next */
	struct loop_timer timer;
};

/* Begins, on the first worker's loop, which is not to run yet; nothing when no manager wants it. The workers are
 * borrowed for as long as their loops run. 0 or -ENOMEM. */
int watchdog_start(struct watchdog *watchdog, struct worker *workers, unsigned count);

#endif
