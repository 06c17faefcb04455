/*
 * From one program to the next without losing a connection: the running router writes down what it has
 * (sessions, listeners, counters) into a memfd(2) and starts the new program by execve(2) in its own process, where
 * all descriptors stay open; the new one makes the same sessions from it and goes on.
 *
 * Before that the new program is run beside, with the same words and the same state, and asked whether it can: only
 * one that answers so gets the process. Whatever is wrong, the old program goes on.
 *
 * What is made anew: connections that were being made (with the time they had left), lists that were being written,
 * lasting connections to receivers, and the request budgets of --max-requests-per-second.
 */
#ifndef KAISO_ROUTER_UPGRADE_H
#define KAISO_ROUTER_UPGRADE_H

#include <stddef.h>
#include <stdint.h>

#include "net/listen.h"
#include "router/worker.h"

#define UPGRADE_REASON_SIZE 512

/* The state begins with it; its number changes when an older program could misread what follows. */
#define UPGRADE_MAGIC "kaiso upgrade 1\n"

/* Later versions append. */
enum state_tag {
	STATE_VERSION,  /* text */
	STATE_PROGRAM,  /* text: the path of the program's file */
	STATE_COUNTER,  /* two numbers: enum session_reason, how many sessions ended so */
	STATE_REFUSED,  /* number */
	STATE_LISTENER, /* fields of enum listener_tag */
	STATE_LIST,     /* text of a list that sessions are sending */
	STATE_SESSION,  /* session_image.h */
	STATE_END,      /* number of sessions: what was written is whole */
	STATE_SANDBOX,  /* number: SANDBOX_REVISION of the sandbox that the process is in */
	STATE_LOG_TAIL, /* text: of a line that the log's reader has taken in part */
	STATE_LOG_OWED, /* number: lines that were dropped, and not told yet */
	STATE_CONTROL,  /* fields of enum listener_tag: the control socket */
	STATE_STATS,    /* stats.h: the totals of one thread */
	STATE_SERVICE,  /* and of one service there */
	STATE_HTTP,     /* fields of enum listener_tag: a socket of --http */
	STATE_TAGS,
};

enum upgrade_role {
	UPGRADE_NONE,  /* an ordinary start */
	UPGRADE_ASKED, /* can this program take over? Nothing is to be done but to answer */
	UPGRADE_TAKES, /* this process was another program's a moment ago */
};

/* For the first lines of main(): remembers the words and the program's file, and learns the role from the
 * environment, which is cleared of it. argv is borrowed for good. */
void upgrade_begin(int argc, char **argv);

enum upgrade_role upgrade_role(void);

/* The path of the program's file; NULL when it is not known. */
const char *upgrade_program(void);

/* The SANDBOX_REVISION (base/sandbox.h) of the program that put this process into a sandbox, be it one before; 0 for
 * none. OF_FILES: one that gave up no system call, as no revision needs any that is missing there. */
#define UPGRADE_SANDBOX_OF_FILES UINT64_MAX
uint64_t upgrade_sandbox(void);
void upgrade_set_sandbox(uint64_t revision);

/* ASKED: says on standard output whether the state can be read. The exit status. */
int upgrade_answer(void);

/* TAKES: the listeners, and for each, when services is not NULL, the service it exposes (as they are for good). 0
 * or a negative errno. */
int upgrade_take_listeners(struct listen_set *listeners, const char **services);

/* TAKES: the listeners of another kind, STATE_CONTROL or STATE_HTTP, when there are any. 0 or a negative errno. */
int upgrade_take_others(struct listen_set *listeners, enum state_tag kind);

/* TAKES: makes the sessions, on workers that do not run yet. How many there are; those that could not be made, for
 * lack of memory, are closed and counted in *lost. */
size_t upgrade_take_sessions(struct worker *workers, unsigned count, size_t *lost);

/* TAKES: the version that it was before. Static. */
const char *upgrade_previous_version(void);

/*
 * Goes over to the new program. All workers must have halted, and this thread be the only one of theirs that is
 * left. Returns only when the old program is to go on: a negative errno, and why in reason.
 */
int upgrade_run(struct worker *workers, unsigned count, char *reason, size_t reason_size);

/* Parses a whole state: 0, -ENOTSUP (made by a later version) or -EPROTO. *sessions is how many there are, or the
 * number of the one that could not be read. For the answer, and for fuzzing. */
int upgrade_check_state(const char *bytes, size_t length, size_t *sessions);

#endif
