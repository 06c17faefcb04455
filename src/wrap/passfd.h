/*
 * The role of `kaiso passfd`: any server program receives the clients' own sockets.
 *
 * At listen() the file under the program's listener is replaced by a queue (passfd_queue.h), and accept()
 * takes clients out of it. The receiver (passfd_receiver.h) fills the queues; it lives in the supervisor's
 * process. Under seccomp the supervisor does both steps for the program (passfd_hooks.h), under preload the
 * library in the program does (preload_passfd.c) and asks for its queue over the control socket.
 */
#ifndef KAISO_WRAP_PASSFD_H
#define KAISO_WRAP_PASSFD_H

#include <stdbool.h>

#include "wrap/passfd_control.h"
#include "wrap/passfd_hooks.h"
#include "wrap/passfd_receiver.h"
#include "wrap/wrapper.h"

struct passfd {
	struct wrap_role role;
	const char *tool; /* begins messages */
	struct receiver_options options;
	struct passfd_receiver receiver;
	struct passfd_control control; /* under preload */
	struct passfd_hooks hooks;     /* under seccomp */
	bool has_control;
};

/* Sets the role up; options are then filled in by the caller. Storage must last as long as the plan. */
void passfd_init(struct passfd *passfd, const char *tool);

#endif
