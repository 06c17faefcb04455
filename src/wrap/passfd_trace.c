/*
 * ptrace(2) serves every program alike: static ones, Go, children of children. It is slow, and it is only
 * for looking.
 *
 * The descendants are traced from their birth (PTRACE_O_TRACEFORK and so on); each stops at the entry and
 * at the exit of every system call. At the exit the kernel tells the number no more, so what was called is
 * kept by task from the entry on (PTRACE_GET_SYSCALL_INFO, Linux 5.3).
 */
#include "wrap/passfd_trace.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/macros.h"
#include "wrap/wrapper.h"

#define TRACE_OPTIONS                                                                             \
	(PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | \
	 PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL)

/* A task inside a call that is shown. */
struct pending {
	pid_t tid; /* 0: unused */
	uint64_t number;
	uint64_t arguments[3];
};

struct trace {
	struct pending *pending;
	size_t count;
};

static const char *family_name(uint64_t family)
{
	if (family == AF_UNIX)
		return "unix";
	if (family == AF_INET)
		return "IPv4";
	if (family == AF_INET6)
		return "IPv6";
	return family == AF_NETLINK ? "netlink" : "other";
}

static const char *type_name(uint64_t type)
{
	type &= ~(uint64_t)(SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (type == SOCK_STREAM)
		return "TCP";
	return type == SOCK_DGRAM ? "UDP" : "other";
}

/* An error is -1, as the program's own call of the C library returns it. */
static void print_call(const struct pending *call, int64_t value)
{
	const int result = value < 0 ? -1 : (int)value;

	if (call->number == SYS_socket)
		fprintf(stderr, "socket %s %s %d = %d\n", family_name(call->arguments[0]),
			type_name(call->arguments[1]), (int)call->arguments[2], result);
	else
		fprintf(stderr, "%s %d = %d\n", call->number == SYS_bind ? "bind" : "accept",
			(int)call->arguments[0], result);
}

static struct pending *pending_of(struct trace *trace, pid_t tid)
{
	for (size_t i = 0; i < trace->count; i++)
		if (trace->pending[i].tid == tid)
			return &trace->pending[i];
	return NULL;
}

static struct pending *pending_new(struct trace *trace)
{
	struct pending *free_one = pending_of(trace, 0);
	struct pending *more;

	if (free_one)
		return free_one;
	more = realloc(trace->pending, (trace->count + 16) * sizeof(*more));
	if (!more)
		return NULL;
	memset(more + trace->count, 0, 16 * sizeof(*more));
	trace->pending = more;
	trace->count += 16;
	return more + trace->count - 16;
}

static bool is_shown(uint64_t number)
{
	return number == SYS_socket || number == SYS_bind || number == SYS_accept || number == SYS_accept4;
}

static void on_syscall(struct trace *trace, pid_t tid)
{
	struct __ptrace_syscall_info info = { .op = PTRACE_SYSCALL_INFO_NONE };
	struct pending *call = pending_of(trace, tid);

	if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), &info) < 0)
		return;
	if (info.op == PTRACE_SYSCALL_INFO_ENTRY && is_shown(info.entry.nr)) {
		call = call ? call : pending_new(trace);
		if (!call)
			return;
		*call = (struct pending){ .tid = tid, .number = info.entry.nr };
		for (size_t i = 0; i < ARRAY_SIZE(call->arguments); i++)
			call->arguments[i] = info.entry.args[i];
	} else if (info.op == PTRACE_SYSCALL_INFO_EXIT && call) {
		/* -512 and below: the kernel makes the call again after a signal (linux/errno.h). */
		if (info.exit.rval > -512)
			print_call(call, info.exit.rval);
		call->tid = 0;
	}
}

/* The signal that the task is to get when it goes on. */
static int signal_for(int status)
{
	const int signal_number = WSTOPSIG(status);
	const int event = status >> 16;

	/* SIGSTOP begins a new descendant's life under trace (PTRACE_EVENT_STOP has it for those attached
	 * by seize). */
	if (event != 0 || signal_number == (SIGTRAP | 0x80))
		return 0;
	return signal_number;
}

/* Until the program itself is gone. Returns its wait status. */
static int trace_loop(pid_t program)
{
	struct trace trace = { .count = 0 };
	int status, last = 0;

	for (;;) {
		pid_t tid = waitpid(-1, &status, __WALL);

		if (tid < 0 && errno == EINTR)
			continue;
		if (tid < 0)
			break;
		if (!WIFSTOPPED(status)) {
			if (tid == program)
				last = status;
			continue; /* on to the descendants: this is their tracer */
		}
		if (WSTOPSIG(status) == (SIGTRAP | 0x80))
			on_syscall(&trace, tid);
		if (status >> 16 == PTRACE_EVENT_STOP && WSTOPSIG(status) != SIGTRAP)
			ptrace(PTRACE_LISTEN, tid, 0, 0); /* stopped as by a terminal: it stays so */
		else
			ptrace(PTRACE_SYSCALL, tid, 0, signal_for(status));
	}
	free(trace.pending);
	return last;
}

/* In the child: waits to be seized, then becomes the program. */
static void become(char **program, const int gate_ends[2], int failure)
{
	const int gate = gate_ends[0];
	char byte;
	int error;

	close(gate_ends[1]);
	while (read(gate, &byte, 1) < 0 && errno == EINTR)
		;
	execvp(program[0], program);
	error = errno;
	while (write(failure, &error, sizeof(error)) < 0 && errno == EINTR)
		;
	_exit(error == ENOENT ? WRAP_EXIT_NOT_FOUND : WRAP_EXIT_CANNOT_RUN);
}

static int exit_status(const char *tool, const char *word, int status, int failure)
{
	int error = 0;

	if (read(failure, &error, sizeof(error)) == sizeof(error))
		fprintf(stderr, "%s: %s: %s\n", tool, word, strerror(error));
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int trace_run(const char *tool, char **program)
{
	int gate[2], failure[2];
	pid_t child;
	int status;

	if (pipe2(gate, O_CLOEXEC) != 0 || pipe2(failure, O_CLOEXEC) != 0 || (child = fork()) < 0) {
		fprintf(stderr, "%s: cannot start the program: %s\n", tool, strerror(errno));
		return 1;
	}
	if (child == 0)
		become(program, gate, failure[1]);
	close(failure[1]);
	/* Keys of the terminal reach the program, and the tracer ends with it. */
	signal(SIGINT, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
	if (ptrace(PTRACE_SEIZE, child, 0, TRACE_OPTIONS) != 0) {
		fprintf(stderr, "%s: cannot trace: %s\n", tool, strerror(errno));
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		return 1;
	}
	ptrace(PTRACE_INTERRUPT, child, 0, 0);
	close(gate[1]);
	status = trace_loop(child);
	status = exit_status(tool, program[0], status, failure[0]);
	close(gate[0]);
	close(failure[0]);
	return status;
}
