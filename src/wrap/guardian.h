/*
 * The process between the tool and the program: it runs the supervisor, and is the ancestor of all that the
 * program starts.
 */
#ifndef KAISO_WRAP_GUARDIAN_H
#define KAISO_WRAP_GUARDIAN_H

#include <stdbool.h>
#include <sys/signalfd.h>

#include "wrap/launch.h"

/* What the guardian and the tool tell each other, a message each, over a SEQPACKET socket pair. */
enum news_kind {
	NEWS_ROLE_FAILED, /* a role could not start; it has said why */
	NEWS_DENIED,      /* the program cannot be supervised: value is the errno */
	NEWS_NO_EXEC,     /* it cannot be run: value is the errno */
	NEWS_STARTED,
	NEWS_STOPPED, /* by signal value */
	NEWS_ENDED,   /* value is the status of wait(2) */
	NEWS_SIGNAL,  /* from the tool: it has got signal value */
};

struct news {
	enum news_kind kind;
	int value;
	struct signalfd_siginfo info; /* NEWS_SIGNAL */
};

void news_send(int control, enum news_kind kind, int value);

/* False: the other one has gone, or (with MSG_DONTWAIT) there is nothing. */
bool news_receive(int control, struct news *news, int flags);

/* All descriptors of signals of this process, which must be blocked: non-blocking, close-on-exec. Or a
 * negative errno. */
int news_open_signals(void);

/* The whole life of the guardian, in a process of its own. control is borrowed. */
void guardian_run(const struct launch *launch, int control);

#endif
