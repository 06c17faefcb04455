/*
 * The supervisor of a wrapped program: seccomp user notification (seccomp_unotify(2), Linux 5.0;
 * pidfd_getfd(2), 5.6; SECCOMP_IOCTL_NOTIF_ADDFD, 5.9 and 5.14).
 *
 * A task that makes one of the hooked system calls stops; the supervisor looks at the call and
 * either has the kernel carry it out or gives the result itself. One supervisor serves several
 * roles (inject, passfd) and all descendants of the program. It is their ancestor, so that
 * Yama lets it look into them, and one thread: a hook must not block. What takes time is
 * done with watches and timers of the loop, and answered later.
 *
 * Under preload the same process runs the same loop, for roles that need one, without hooks.
 */
#ifndef KAISO_WRAP_SUPERVISOR_H
#define KAISO_WRAP_SUPERVISOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "net/loop.h"

struct supervisor;

/* A system call in which a task is stopped. */
struct supervisor_call {
	uint64_t id; /* names the call when it is answered */
	pid_t tid;   /* the thread, as this process sees it */
	int number;
	uint64_t arguments[6];
};

enum supervisor_verdict {
	SUPERVISOR_NOT_MINE, /* ask the next role; after the last one the kernel carries the call out */
	SUPERVISOR_CONTINUE, /* the kernel carries it out */
	SUPERVISOR_RETURN,   /* it returns *result, a value or a negative errno */
	SUPERVISOR_LATER,    /* it has been answered, or will be: see supervisor_return() and the like */
};

/* One call that a role wants to see. */
struct supervisor_hook {
	int number;
	/* Only calls with one of these bits (of the lower 32) in arguments[flags_argument] stop at all;
	 * 0: every one does. */
	unsigned flags_argument;
	uint32_t flags_any;
	/* Only calls whose arguments[values_argument] (the lower 32 bits) is one of these; count 0: all.
	 * Not together with flags_any. */
	unsigned values_argument;
	unsigned value_count;
	const uint32_t *values;
	enum supervisor_verdict (*run)(struct supervisor *supervisor, const struct supervisor_call *call,
				       int64_t *result, void *context);
};

/* The hooks of one role; all borrowed. */
struct supervisor_hooks {
	const struct supervisor_hook *hooks;
	size_t count;
	void *context; /* given to run() */
	/*
	 * A signal ends the wait for an answer, and the answer is lost: for calls that wait long (accept).
	 * Without it, and where the kernel can do so (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, Linux 5.19),
	 * only a fatal signal ends the wait of a call that a hook has seen. It is enough that one role
	 * wants it.
	 */
	bool is_interruptible;
};

#define SUPERVISOR_ROLES_MAX 2

/* ---- for hooks ------------------------------------------------------------------------------------ */

struct loop *supervisor_loop(struct supervisor *supervisor);

/*
 * The task's memory, exactly length bytes. 0, -EFAULT when that is not all there, -ESRCH when the task
 * has gone or its call was interrupted meanwhile (whatever is then answered is ignored), -EPERM when the
 * program has forbidden it (prctl(2), PR_SET_DUMPABLE).
 */
int supervisor_read(struct supervisor *supervisor, const struct supervisor_call *call, uint64_t address,
		    void *bytes, size_t length);
int supervisor_write(struct supervisor *supervisor, const struct supervisor_call *call, uint64_t address,
		     const void *bytes, size_t length);

/* A duplicate of the task's descriptor, close-on-exec, owned by the caller; -EBADF when the task has no
 * such one, -ESRCH, -EPERM, -EMFILE. */
int supervisor_take_fd(struct supervisor *supervisor, const struct supervisor_call *call, int fd);

/* Puts a duplicate of fd into the task: at number (replacing what is there), or at the lowest free one when
 * number is -1. flags: O_CLOEXEC or 0. Its number there, or a negative errno (-EMFILE: the task's limit).
 * The call is still to be answered. */
int supervisor_give_fd(struct supervisor *supervisor, const struct supervisor_call *call, int fd, int number,
		       int flags);

/*
 * Answers of a call by its id, within run() (then SUPERVISOR_LATER is the verdict) or at any later time.
 * 0, or -ESRCH: nobody waits any more, because a signal interrupted the call or the task died. After a
 * signal with SA_RESTART the same task makes the same call again, as a new one.
 */
int supervisor_return(struct supervisor *supervisor, uint64_t id, int64_t result);
int supervisor_continue(struct supervisor *supervisor, uint64_t id);

/* Puts a duplicate of fd at the task's lowest free number and answers with that number, in one step: 0.
 * Else -ESRCH (nobody waits any more), or another negative errno, and the call is still to be answered. */
int supervisor_return_fd(struct supervisor *supervisor, uint64_t id, int fd, int flags);

/* Whether the task still waits for the answer (it may be gone the moment after). */
bool supervisor_is_waiting(struct supervisor *supervisor, uint64_t id);

/* Does the thread have a signal pending that it does not block? One that was sent to the process counts
 * too, though another thread may be about to take it. For calls that a signal cannot interrupt and should
 * have. */
bool supervisor_has_signal(pid_t tid);

/* The thread group of a thread, read from /proc; -ESRCH. */
pid_t supervisor_process_of(pid_t tid);

/* ---- for wrapper.c -------------------------------------------------------------------------------- */

/* A supervisor without a program, and its loop. NULL when out of memory or descriptors. */
struct supervisor *supervisor_new(void);
void supervisor_free(struct supervisor *supervisor);

/* hooks is borrowed. Before supervisor_filter(). */
void supervisor_add_hooks(struct supervisor *supervisor, const struct supervisor_hooks *hooks);

/*
 * In the process that becomes the program: from here on its hooked calls stop, and those of all its
 * descendants. Other ABIs than the native one get ENOSYS for the same calls. Needs no privilege: where
 * there is none, no_new_privs is set (prctl(2)). The listener's number (close-on-exec), or a negative
 * errno: -EBUSY when a supervisor is there already, -EINVAL or -ENOSYS where there is no seccomp, -EPERM,
 * -EACCES.
 */
int supervisor_filter(const struct supervisor *supervisor);

/* In the supervisor: takes that listener over from the process and serves it. Also proves that the process
 * can be looked into. 0, or a negative errno. The listener stays open in the process until it execs. */
int supervisor_attach(struct supervisor *supervisor, pid_t pid, int listener_number);

#endif
