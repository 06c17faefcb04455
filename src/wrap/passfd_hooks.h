/*
 * What the supervisor does for a server that it wraps by seccomp: listen() and accept(), and the calls that
 * would tell the program that its listener is another socket now.
 */
#ifndef KAISO_WRAP_PASSFD_HOOKS_H
#define KAISO_WRAP_PASSFD_HOOKS_H

#include "base/list.h"
#include "wrap/passfd_receiver.h"
#include "wrap/supervisor.h"

struct passfd_hooks {
	struct supervisor_hooks calls; /* for the role; their context is this struct */
	struct passfd_receiver *receiver;
	struct list parked; /* blocking accept() calls that wait for a client, the oldest first */
};

/* The receiver is borrowed and may be opened later. */
void passfd_hooks_init(struct passfd_hooks *hooks, struct passfd_receiver *receiver);

/* Forgets the calls that are parked, unanswered. */
void passfd_hooks_deinit(struct passfd_hooks *hooks);

#endif
