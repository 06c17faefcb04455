/*
 * Theory of operation: a thread that wakes four times a second and reads the counts; the relay does not know of it. It is
 * also the one that signals go to, so that the last line is there before the program is gone.
 *
 * As curl(1) has it, nothing is drawn between the lines of an output that goes to the terminal itself: then, and without
 * a terminal, there is the last line alone. The status line of log.h does the drawing.
 */
#include "cmd/connect_meter.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/progress.h"

static struct {
	const struct stdio_relay_counts *counts; /* NULL: not started */
	struct progress progress;
	pthread_t thread;
	sigset_t signals; /* taken */
	sigset_t before;
	int end_fd; /* an eventfd: no more is to be drawn */
	int signal_fd;
	bool has_terminal; /* standard error is one */
	bool is_live;
} meter;

static struct progress_sample sample_now(void)
{
	return (struct progress_sample){ clock_now_ms(), meter.counts->sent, meter.counts->received };
}

static void draw(void)
{
	char line[PROGRESS_LINE_SIZE];

	progress_add(&meter.progress, sample_now());
	progress_line(&meter.progress, "", log_status_columns(), line);
	log_set_status(line);
}

static void write_summary(void)
{
	char line[PROGRESS_LINE_SIZE];

	progress_summary(&meter.progress, sample_now(), line);
	if (meter.has_terminal)
		log_leave_status(line);
	else
		fprintf(stderr, "kaiso connect: %s\n", line);
}

/* As if it had not been taken: the program ends, with the status that belongs to the signal. */
static void obey(const struct signalfd_siginfo *info)
{
	sigset_t one;

	sigemptyset(&one);
	sigaddset(&one, (int)info->ssi_signo);
	raise((int)info->ssi_signo);
	pthread_sigmask(SIG_UNBLOCK, &one, NULL);
}

static void *run(void *context)
{
	struct pollfd watched[] = { { .fd = meter.end_fd, .events = POLLIN },
				    { .fd = meter.signal_fd, .events = POLLIN } };
	struct signalfd_siginfo info;

	(void)context;
	for (;;) {
		int count = poll(watched, ARRAY_SIZE(watched), meter.is_live ? PROGRESS_INTERVAL_MS : -1);

		if (count > 0 && watched[0].revents)
			return NULL;
		if (count > 0 && read(meter.signal_fd, &info, sizeof(info)) == sizeof(info)) {
			write_summary();
			obey(&info);
		}
		if (count == 0)
			draw();
	}
}

/* Those that end the program; what the caller has chosen to ignore (nohup) is left so. */
static void take_signals(void)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE };

	sigemptyset(&meter.signals);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		struct sigaction action;

		if (sigaction(numbers[i], NULL, &action) == 0 && action.sa_handler == SIG_DFL)
			sigaddset(&meter.signals, numbers[i]);
	}
	pthread_sigmask(SIG_BLOCK, &meter.signals, &meter.before);
}

static int start_thread(void)
{
	CLEANUP_CLOSE int end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	CLEANUP_CLOSE int signal_fd = signalfd(-1, &meter.signals, SFD_CLOEXEC | SFD_NONBLOCK);
	int r;

	if (end_fd < 0 || signal_fd < 0)
		return -errno;
	meter.end_fd = end_fd;
	meter.signal_fd = signal_fd;
	r = pthread_create(&meter.thread, NULL, run, NULL);
	if (r != 0)
		return -r;
	STEAL_FD(end_fd);
	STEAL_FD(signal_fd);
	return 0;
}

int connect_meter_start(const struct stdio_relay_counts *counts)
{
	int r;

	log_init(LOG_LEVEL_ERROR, LOG_FORMAT_LOGFMT);
	meter.has_terminal = isatty(STDERR_FILENO);
	meter.is_live = meter.has_terminal && !isatty(STDOUT_FILENO);
	meter.counts = counts;
	progress_begin(&meter.progress, sample_now());
	take_signals();
	r = start_thread();
	if (r == 0)
		return 0;
	pthread_sigmask(SIG_SETMASK, &meter.before, NULL);
	meter.counts = NULL;
	return r;
}

void connect_meter_end(void)
{
	if (!meter.counts)
		return;
	fd_raise_event(meter.end_fd);
	pthread_join(meter.thread, NULL);
	close(meter.end_fd);
	close(meter.signal_fd);
	write_summary();
	meter.counts = NULL;
	log_deinit();
	pthread_sigmask(SIG_SETMASK, &meter.before, NULL);
}
