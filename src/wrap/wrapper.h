/*
 * Running a program with a wrapper around it.
 *
 *   tool            the process that the user started: passes signals on, ends as the program ends
 *    └ supervisor   ancestor of all that the program starts, and its subreaper: lives as long as any of it
 *       └ program
 *
 * Under preload, and with no role that needs a supervisor, the tool itself becomes the program.
 */
#ifndef KAISO_WRAP_WRAPPER_H
#define KAISO_WRAP_WRAPPER_H

#include <stdbool.h>
#include <stddef.h>

#include "wrap/supervisor.h"

/* As shells have it (POSIX, 2.8.2). */
#define WRAP_EXIT_CANNOT_RUN 126 /* found, but it cannot be run, or cannot be wrapped */
#define WRAP_EXIT_NOT_FOUND 127

enum wrap_mode {
	WRAP_AUTO, /* seccomp, and where that is denied preload */
	WRAP_SECCOMP,
	WRAP_PRELOAD,
};

/* auto, seccomp or preload. False, and the mode left alone, for any other word. */
bool wrap_mode_parse(const char *word, enum wrap_mode *mode);

/*
 * What one command does to a program. Functions that are NULL have nothing to do. Storage is the
 * caller's; a role knows itself by CONTAINER_OF().
 */
struct wrap_role {
	struct supervisor_hooks hooks; /* in seccomp mode */

	/* Wants the supervisor process under preload too. */
	bool needs_supervisor;
	/* The supervisor keeps standard error open for the role; else it has /dev/null, since
	 * whoever reads the program's output must see its end when the program closes it. */
	bool needs_stderr;

	/*
	 * In the supervisor process, before the program starts, in the mode that is tried. It may open
	 * descriptors that the program is to inherit (close-on-exec still; see prepare()). 0, or a negative
	 * errno after a line on standard error: the tool then ends with status 1. When seccomp turns out to
	 * be denied in auto mode, the process ends and start() is called again in another one with
	 * WRAP_PRELOAD: what lies in the file system has to be taken back by stop().
	 */
	int (*start)(struct wrap_role *role, struct supervisor *supervisor, enum wrap_mode mode);

	/*
	 * In the process that is about to exec the program: setenv() and, for descriptors that it is to
	 * inherit, clearing FD_CLOEXEC. LD_PRELOAD is set already under preload, and no hook is in force
	 * yet by seccomp. 0 or a negative errno.
	 */
	int (*prepare)(struct wrap_role *role, enum wrap_mode mode);

	/* In the supervisor: the program itself has ended; descendants of it may live. The tool ends after
	 * this. */
	void (*program_ended)(struct wrap_role *role, struct supervisor *supervisor);

	/* In the supervisor, last of all: nothing of the program lives any more (or it never began). */
	void (*stop)(struct wrap_role *role, struct supervisor *supervisor);
};

struct wrap_plan {
	const char *tool; /* "kaiso inject": begins every message */
	enum wrap_mode mode;
	struct wrap_role *roles[SUPERVISOR_ROLES_MAX];
	size_t role_count;
	char **program; /* its words, NULL at the end */
};

/*
 * Runs the program and returns its exit status; when a signal ended it, the process ends by that signal. Or
 * after a line on standard error: WRAP_EXIT_NOT_FOUND, WRAP_EXIT_CANNOT_RUN (also what cannot be wrapped:
 * 32-bit, set-uid, static under preload), or 1. To be called with one thread only.
 */
int wrap_run(const struct wrap_plan *plan);

#endif
