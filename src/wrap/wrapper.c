/*
 * Theory of operation: three processes (wrapper.h draws them), two of which are forks of this one.
 *
 * The tool blocks every signal and reads them from a signalfd. What the terminal sent has reached the
 * program too, which is in the same process group; what somebody sent to the tool alone is passed on. Only
 * the supervisor can tell these apart: it sits in the group as well, so a signal that it has got from the
 * same sender was meant for all. When the program stops, so does the tool, for the shell's job control.
 *
 * Tool and supervisor close every descriptor that they inherited as soon as the program runs, and put
 * /dev/null in place of the standard streams: who reads the program's output sees its end when the program
 * closes it.
 */
#include "wrap/wrapper.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/macros.h"
#include "wrap/guardian.h"
#include "wrap/launch.h"
#include "wrap/program.h"

#define EXIT_FAILED 1

bool wrap_mode_parse(const char *word, enum wrap_mode *mode)
{
	static const char *const words[] = {
		[WRAP_AUTO] = "auto", [WRAP_SECCOMP] = "seccomp", [WRAP_PRELOAD] = "preload"
	};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (strcmp(word, words[i]) == 0) {
			*mode = (enum wrap_mode)i;
			return true;
		}
	}
	return false;
}

/* ---- the tool's process ---------------------------------------------------------------------------- */

/* Ends, or stops, this process as the program was; returns when it was continued. */
static void suffer_signal(int number)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, number);
	raise(number);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

static int end_as(int status)
{
	struct rlimit none = { 0 };

	if (!WIFSIGNALED(status))
		return WEXITSTATUS(status);
	/* The program has left its core; another one would say nothing. */
	setrlimit(RLIMIT_CORE, &none);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	signal(WTERMSIG(status), SIG_DFL);
	suffer_signal(WTERMSIG(status));
	return 128 + WTERMSIG(status); /* not reached but for signals that end nothing */
}

/* What a person or a program sent to the tool; not the terminal, whose signals the program gets itself. */
static void forward_signals(int control, int signals)
{
	struct news news = { .kind = NEWS_SIGNAL };

	while (read(signals, &news.info, sizeof(news.info)) == (ssize_t)sizeof(news.info)) {
		if (news.info.ssi_signo == SIGCHLD || news.info.ssi_code > 0)
			continue;
		news.value = (int)news.info.ssi_signo;
		send(control, &news, sizeof(news), MSG_NOSIGNAL | MSG_DONTWAIT);
	}
}

/* What happened first decides: an outcome of the attempt, or the program's end. */
struct outcome {
	enum news_kind kind;
	int value;
};

/* The supervisor has died, of a fault or by somebody's hand. Its children are this process's now. */
static struct outcome end_orphans(void)
{
	for (;;) {
		FILE *children = fopen("/proc/thread-self/children", "re");
		int pid;

		while (children && fscanf(children, "%d", &pid) == 1)
			kill(pid, SIGKILL);
		if (children)
			fclose(children);
		/* What a killed child leaves behind comes up in the next round. */
		if (waitpid(-1, NULL, 0) < 0 && errno == ECHILD)
			return (struct outcome){ NEWS_ENDED, SIGKILL };
	}
}

static struct outcome attend(const struct launch *launch, int control, int signals)
{
	struct pollfd watched[] = { { .fd = control, .events = POLLIN },
				    { .fd = signals, .events = POLLIN } };
	struct news news;

	for (;;) {
		if (poll(watched, ARRAY_SIZE(watched), -1) < 0)
			continue;
		if (watched[1].revents)
			forward_signals(control, signals);
		if (!watched[0].revents)
			continue;
		if (!news_receive(control, &news, 0))
			return end_orphans();
		if (news.kind == NEWS_STARTED)
			launch_drop_inherited(&launch->inherited, false);
		else if (news.kind == NEWS_STOPPED)
			suffer_signal(news.value);
		else
			return (struct outcome){ news.kind, news.value };
	}
}

/* One attempt in launch->mode with a supervisor. */
static struct outcome run_supervised(const struct launch *launch)
{
	struct outcome outcome = { NEWS_DENIED, 0 };
	CLEANUP_CLOSE int tool_end = -1;
	CLEANUP_CLOSE int signals = news_open_signals();
	int ends[2];
	pid_t pid;

	if (signals < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
		outcome.value = errno;
		return outcome;
	}
	tool_end = ends[0];
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	pid = fork();
	if (pid == 0) {
		cleanup_close(&signals);
		cleanup_close(&tool_end);
		guardian_run(launch, ends[1]);
		_exit(0);
	}
	outcome.value = errno;
	close(ends[1]);
	if (pid < 0)
		return outcome;
	outcome = attend(launch, tool_end, signals);
	if (outcome.kind != NEWS_ENDED)
		waitpid(pid, NULL, 0);
	return outcome;
}

static int refuse(const struct launch *launch, const char *reason)
{
	fprintf(stderr, "%s: cannot wrap %s: %s\n", launch->plan->tool, launch->plan->program[0], reason);
	return WRAP_EXIT_CANNOT_RUN;
}

static int report_no_exec(const struct launch *launch, int error)
{
	fprintf(stderr, "%s: cannot run %s: %s\n", launch->plan->tool, launch->plan->program[0],
		strerror(error));
	return WRAP_EXIT_CANNOT_RUN;
}

static int report_denied(const struct launch *launch, int error, const char *hint)
{
	fprintf(stderr, "%s: cannot watch %s by seccomp: %s%s\n", launch->plan->tool,
		launch->plan->program[0], error == EBUSY ? "somebody else does already" : strerror(error),
		hint);
	return WRAP_EXIT_CANNOT_RUN;
}

/* The exit status of an attempt, or -1: seccomp is denied, errno-like reason in *denied. */
static int run_attempt(const struct launch *launch, int *denied)
{
	struct outcome outcome = run_supervised(launch);

	switch (outcome.kind) {
	case NEWS_ENDED:
		return end_as(outcome.value);
	case NEWS_NO_EXEC:
		return report_no_exec(launch, outcome.value);
	case NEWS_DENIED:
		*denied = outcome.value;
		return -1;
	case NEWS_ROLE_FAILED:
	case NEWS_STARTED:
	case NEWS_STOPPED:
	case NEWS_SIGNAL:
		break;
	}
	return EXIT_FAILED;
}

static bool needs_supervisor(const struct wrap_plan *plan)
{
	bool needs = false;

	for (size_t i = 0; i < plan->role_count; i++)
		needs |= plan->roles[i]->needs_supervisor;
	return needs;
}

static int run_preloaded(struct launch *launch)
{
	char path[PATH_MAX];
	int r = launch_find_library(path);
	int denied = 0;

	if (r < 0)
		return refuse(launch, r != -EINVAL ?
					      "the library to preload, " LAUNCH_LIBRARY ", is not installed" :
					      "the path of the library to preload holds a blank or a colon");
	launch->mode = WRAP_PRELOAD;
	if (needs_supervisor(launch->plan)) {
		r = run_attempt(launch, &denied);
		return r >= 0 ? r : report_no_exec(launch, denied);
	}
	r = launch_prepare(launch);
	return report_no_exec(launch, -(r < 0 ? r : launch_exec(launch)));
}

/* seccomp, and where it is denied and the mode is auto, preload. */
static int run_in_mode(struct launch *launch, const struct program_facts *facts)
{
	const char *obstacle = program_obstacle(facts, launch->plan->mode == WRAP_PRELOAD);
	int denied = 0, status;

	if (obstacle)
		return refuse(launch, obstacle);
	if (launch->plan->mode == WRAP_PRELOAD)
		return run_preloaded(launch);
	launch->mode = WRAP_SECCOMP;
	status = run_attempt(launch, &denied);
	if (status >= 0)
		return status;
	if (launch->plan->mode == WRAP_SECCOMP)
		return report_denied(launch, denied, "");
	if (program_obstacle(facts, true))
		return report_denied(launch, denied, ", and no library can be preloaded into it");
	return run_preloaded(launch);
}

static int inspect(struct launch *launch, struct program_facts *facts)
{
	int r = program_inspect(launch->path, facts);

	if (r == -ENOEXEC) /* neither ELF nor "#!": launch_exec() gives it to the shell */
		r = program_inspect("/bin/sh", facts);
	if (r == -EACCES)
		return refuse(launch, "its file cannot be read, so nobody may look into the running program");
	return r < 0 ? report_no_exec(launch, -r) : 0;
}

int wrap_run(const struct wrap_plan *plan)
{
	CLEANUP_FREE char *path = NULL;
	struct launch launch = { .plan = plan };
	struct program_facts facts;
	sigset_t all;
	int r = program_find(plan->program[0], &path);

	launch.path = path;
	if (r == -ENOENT || r == -ENOTDIR) {
		fprintf(stderr, "%s: %s: no such program\n", plan->tool, plan->program[0]);
		return WRAP_EXIT_NOT_FOUND;
	}
	if (r < 0)
		return report_no_exec(&launch, -r);
	r = inspect(&launch, &facts);
	if (r != 0)
		return r;
	fflush(NULL); /* or forks would print it again */
	launch_list_inherited(&launch.inherited);
	/* Whoever ignores SIGCHLD has no children to wait for. */
	sigaction(SIGCHLD, &(struct sigaction){ .sa_handler = SIG_DFL }, &launch.child_action);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &launch.mask);
	r = run_in_mode(&launch, &facts);
	free(launch.inherited.fds);
	return r;
}
