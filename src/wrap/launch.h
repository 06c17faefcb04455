/*
 * One attempt to run a program, in one mode: what all processes around it know, and the last steps of the one
 * that becomes it.
 */
#ifndef KAISO_WRAP_LAUNCH_H
#define KAISO_WRAP_LAUNCH_H

#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

#include "wrap/wrapper.h"

#define LAUNCH_LIBRARY "libkaiso-preload.so"

/* What was open before the wrapper opened anything: the program's, not the wrapper's. */
struct launch_inherited {
	int *fds;
	size_t count;
};

struct launch {
	const struct wrap_plan *plan;
	enum wrap_mode mode; /* never WRAP_AUTO */
	const char *path;
	sigset_t mask; /* this and the next: as the tool was started with */
	struct sigaction child_action;
	struct launch_inherited inherited;
};

/* Remembers what is open now. The list is for the caller to free. */
void launch_list_inherited(struct launch_inherited *inherited);

/* For processes that are not the program: closes what the program has copies of, which would keep pipes
 * open that it closes, and puts /dev/null on the standard streams. */
void launch_drop_inherited(const struct launch_inherited *inherited, bool keep_stderr);

/* The path of the library to preload: 0, or a negative errno, -EINVAL for a path that LD_PRELOAD cannot
 * hold. */
int launch_find_library(char path[static PATH_MAX]);

/* In the process that becomes the program: the environment. 0 or a negative errno. */
int launch_prepare(const struct launch *launch);

/* And the exec, with signals as the tool was given them. Returns only with a negative errno. */
int launch_exec(const struct launch *launch);

#endif
