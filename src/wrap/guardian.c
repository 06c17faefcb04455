/*
 * Theory of operation: the guardian is the program's parent and its subreaper: daemons come to it, it stays
 * the ancestor of all, and when it has no child left, nothing of the program lives.
 *
 * It sits in the process group of the tool and the program. A signal that it has got from the same sender
 * as the tool was meant for all: only one that the tool alone has got is passed on.
 *
 * Nothing of the program survives the guardian: the kernel kills the program then (PR_SET_PDEATHSIG,
 * prctl(2)), its descendants come to the tool, the next subreaper, and the tool kills them.
 */
#include "wrap/guardian.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/macros.h"

/* How long a signal of the guardian's own is remembered: the tool asks at once. */
#define GROUP_SIGNAL_MS 100
#define EXIT_FAILED 1

/* ---- news ------------------------------------------------------------------------------------------ */

void news_send(int control, enum news_kind kind, int value)
{
	struct news news = { .kind = kind, .value = value };

	send(control, &news, sizeof(news), MSG_NOSIGNAL);
}

bool news_receive(int control, struct news *news, int flags)
{
	ssize_t length;

	do {
		length = recv(control, news, sizeof(*news), flags);
	} while (length < 0 && errno == EINTR);
	return length == (ssize_t)sizeof(*news);
}

/* ---- the program's process ------------------------------------------------------------------------- */

/* What the program's process tells over its pipe before it execs; then the pipe closes by itself. */
struct birth {
	bool is_denied; /* else: value is the listener, or a negative errno of exec */
	int value;
};

static void tell_birth(int pipe_fd, bool is_denied, int value)
{
	struct birth birth = { .is_denied = is_denied, .value = value };
	ssize_t written;

	do {
		written = write(pipe_fd, &birth, sizeof(birth));
	} while (written < 0 && errno == EINTR);
}

static bool hear_birth(int pipe_fd, struct birth *birth)
{
	ssize_t length;

	do {
		length = read(pipe_fd, birth, sizeof(*birth));
	} while (length < 0 && errno == EINTR);
	return length == (ssize_t)sizeof(*birth);
}

/* Never returns. birth_fd is written, go_fd read: the supervisor closes its end when it is ready. */
static void become_program(const struct launch *launch, const struct supervisor *supervisor, pid_t parent,
			   int birth_fd, int go_fd)
{
	char byte;
	int r = launch_prepare(launch);

	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (getppid() != parent)
		_exit(EXIT_FAILED); /* it died before the line above */
	if (r == 0 && launch->mode == WRAP_SECCOMP) {
		int listener = supervisor_filter(supervisor);

		tell_birth(birth_fd, listener < 0, listener);
		if (listener < 0 || read(go_fd, &byte, 1) != 1)
			_exit(EXIT_FAILED);
	}
	if (r == 0)
		r = launch_exec(launch);
	tell_birth(birth_fd, false, r);
	_exit(EXIT_FAILED);
}

/* ---- watching over it ------------------------------------------------------------------------------ */

struct group_signal {
	uint32_t sender;
	uint64_t at_ms;
};

struct guardian {
	const struct launch *launch;
	struct supervisor *supervisor;
	struct loop_watch control; /* to the tool */
	struct loop_watch signals;
	pid_t program; /* 0: has ended */
	struct group_signal seen[_NSIG + 1];
};

static void tell_ended(struct guardian *guardian, int status)
{
	const struct wrap_plan *plan = guardian->launch->plan;

	guardian->program = 0;
	for (size_t i = 0; i < plan->role_count; i++) {
		if (plan->roles[i]->program_ended)
			plan->roles[i]->program_ended(plan->roles[i], guardian->supervisor);
	}
	/* Last: what the roles take back must be gone when the tool ends. */
	news_send(guardian->control.fd, NEWS_ENDED, status);
}

static void reap(struct guardian *guardian)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0) {
		if (pid != guardian->program)
			continue; /* a daemon that came to us */
		if (WIFSTOPPED(status))
			news_send(guardian->control.fd, NEWS_STOPPED, WSTOPSIG(status));
		else
			tell_ended(guardian, status);
	}
	if (pid < 0 && errno == ECHILD)
		loop_stop(supervisor_loop(guardian->supervisor));
}

static void read_signals(struct guardian *guardian)
{
	struct signalfd_siginfo info;
	bool has_child_news = false;

	while (read(guardian->signals.fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGCHLD)
			has_child_news = true;
		if (info.ssi_signo <= _NSIG)
			guardian->seen[info.ssi_signo] =
				(struct group_signal){ .sender = info.ssi_pid, .at_ms = clock_now_ms() };
	}
	if (has_child_news)
		reap(guardian);
}

/*
 * Has this process got the signal too, so that the program has? kill(2) walks a process group under the
 * kernel's list lock, which setpgid(2) takes for writing: after it, such a walk is over.
 */
static bool was_for_the_group(struct guardian *guardian, const struct signalfd_siginfo *info)
{
	struct group_signal *seen = &guardian->seen[info->ssi_signo];

	setpgid(0, getpgrp());
	read_signals(guardian);
	if (seen->at_ms == 0 || seen->sender != info->ssi_pid ||
	    clock_now_ms() - seen->at_ms > GROUP_SIGNAL_MS)
		return false;
	seen->at_ms = 0;
	return true;
}

static void pass_on(struct guardian *guardian, const struct signalfd_siginfo *info)
{
	if (info->ssi_signo > _NSIG || was_for_the_group(guardian, info) || guardian->program == 0)
		return;
	if (info->ssi_code == SI_QUEUE)
		sigqueue(guardian->program, (int)info->ssi_signo,
			 (union sigval){ .sival_int = info->ssi_int });
	else
		kill(guardian->program, (int)info->ssi_signo);
}

static void on_control(struct loop_watch *watch, uint32_t events)
{
	struct guardian *guardian = CONTAINER_OF(watch, struct guardian, control);
	struct news news;

	(void)events;
	while (news_receive(watch->fd, &news, MSG_DONTWAIT))
		pass_on(guardian, &news.info);
	if (events & (EPOLLHUP | EPOLLRDHUP)) {
		/* The tool was killed, and to whoever did it the tool is the program. */
		if (guardian->program != 0)
			kill(guardian->program, SIGKILL);
		loop_watch(supervisor_loop(guardian->supervisor), watch, 0);
	}
}

static void on_signals(struct loop_watch *watch, uint32_t events)
{
	(void)events;
	read_signals(CONTAINER_OF(watch, struct guardian, signals));
}

/* 0, a negative errno when the process cannot be looked into; *exec_error is set when exec said no. */
static int bring_up(struct guardian *guardian, int birth_fd, int *go_fd, int *exec_error)
{
	struct birth birth;
	int r;

	*exec_error = 0;
	if (guardian->launch->mode == WRAP_SECCOMP) {
		if (!hear_birth(birth_fd, &birth))
			return -ECHILD;
		if (birth.value >= 0) {
			r = supervisor_attach(guardian->supervisor, guardian->program, birth.value);
			if (r < 0)
				return r;
		} else if (birth.is_denied) {
			return birth.value;
		} else {
			*exec_error = birth.value;
			return 0;
		}
		if (write(*go_fd, "", 1) != 1)
			return -errno;
	}
	cleanup_close(go_fd);
	*go_fd = -1;
	if (hear_birth(birth_fd, &birth))
		*exec_error = birth.value;
	return 0;
}

/* Forks the program's process and sees it through exec(2). True when the program runs. */
static bool start_program(struct guardian *guardian)
{
	const struct launch *launch = guardian->launch;
	pid_t parent = getpid();
	int birth[2], go[2], r, exec_error = 0;

	if (pipe2(birth, O_CLOEXEC) != 0 || pipe2(go, O_CLOEXEC) != 0) {
		news_send(guardian->control.fd, NEWS_DENIED, errno);
		return false;
	}
	guardian->program = fork();
	if (guardian->program == 0) {
		close(go[1]); /* else it would wait for itself */
		become_program(launch, guardian->supervisor, parent, birth[1], go[0]);
	}
	r = guardian->program < 0 ? -errno : 0;
	close(birth[1]);
	close(go[0]);
	if (r == 0)
		r = bring_up(guardian, birth[0], &go[1], &exec_error);
	close(birth[0]);
	cleanup_close(&go[1]);
	if (r == 0 && exec_error == 0)
		return true;
	if (guardian->program > 0)
		waitpid(guardian->program, NULL, 0);
	guardian->program = 0;
	news_send(guardian->control.fd, r < 0 ? NEWS_DENIED : NEWS_NO_EXEC, r < 0 ? -r : -exec_error);
	return false;
}

int news_open_signals(void)
{
	sigset_t all;
	int fd;

	sigfillset(&all);
	fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

static bool needs_stderr(const struct wrap_plan *plan)
{
	bool needs = false;

	for (size_t i = 0; i < plan->role_count; i++)
		needs |= plan->roles[i]->needs_stderr;
	return needs;
}

static bool start_roles(struct guardian *guardian, size_t *started)
{
	const struct wrap_plan *plan = guardian->launch->plan;

	for (*started = 0; *started < plan->role_count; ++*started) {
		struct wrap_role *role = plan->roles[*started];

		supervisor_add_hooks(guardian->supervisor, &role->hooks);
		if (role->start && role->start(role, guardian->supervisor, guardian->launch->mode) < 0) {
			news_send(guardian->control.fd, NEWS_ROLE_FAILED, 0);
			return false;
		}
	}
	return true;
}

static void guard(struct guardian *guardian)
{
	struct loop *loop = supervisor_loop(guardian->supervisor);

	guardian->signals = (struct loop_watch){ .on_events = on_signals, .fd = news_open_signals() };
	if (loop_watch(loop, &guardian->signals, EPOLLIN) < 0 ||
	    loop_watch(loop, &guardian->control, EPOLLIN) < 0) {
		news_send(guardian->control.fd, NEWS_DENIED, ENFILE);
		return; /* and with this process the program ends */
	}
	launch_drop_inherited(&guardian->launch->inherited, needs_stderr(guardian->launch->plan));
	news_send(guardian->control.fd, NEWS_STARTED, 0);
	fd_raise_limit();
	reap(guardian); /* it may have ended before the signals were watched */
	loop_run(loop);
}

void guardian_run(const struct launch *launch, int control)
{
	struct guardian guardian = { .launch = launch, .supervisor = supervisor_new() };
	size_t started = 0;

	guardian.control = (struct loop_watch){ .on_events = on_control, .fd = control };
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	if (!guardian.supervisor)
		news_send(control, NEWS_DENIED, ENOMEM);
	else if (start_roles(&guardian, &started) && start_program(&guardian))
		guard(&guardian);
	while (started-- > 0) {
		if (launch->plan->roles[started]->stop)
			launch->plan->roles[started]->stop(launch->plan->roles[started], guardian.supervisor);
	}
	cleanup_close(&guardian.signals.fd);
	supervisor_free(guardian.supervisor);
}
