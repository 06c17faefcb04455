/*
 * A client that says what connect(2) and its like say to it: `connect_probe CASE HOST PORT`, a line for
 * each call.
 *
 * Run with a wrapper and without, against the same listener, both must print the same
 * (tests/integration/test_inject_semantics.py).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#ifndef TCP_FASTOPEN_CONNECT
#define TCP_FASTOPEN_CONNECT 30
#endif

static struct sockaddr_storage target;
static socklen_t target_length;

static void tell(const char *what, long result)
{
	if (result < 0)
		printf("%s: %s\n", what, strerrorname_np(errno));
	else
		printf("%s: %ld\n", what, result);
	fflush(stdout);
}

static int open_socket(int flags)
{
	int fd = socket(target.ss_family, SOCK_STREAM | flags, 0);

	if (fd < 0)
		abort();
	return fd;
}

static void dial(int fd)
{
	tell("connect", connect(fd, (struct sockaddr *)&target, target_length));
}

static void await(int fd, int timeout_ms)
{
	struct pollfd watched = { .fd = fd, .events = POLLIN | POLLOUT };
	int r = poll(&watched, 1, timeout_ms);

	printf("poll: %d %s%s%s%s\n", r, watched.revents & POLLIN ? "IN" : "",
	       watched.revents & POLLOUT ? "OUT" : "", watched.revents & POLLERR ? "ERR" : "",
	       watched.revents & POLLHUP ? "HUP" : "");
	fflush(stdout);
}

static void tell_error(int fd)
{
	int error = -1;
	socklen_t length = sizeof(error);

	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
	printf("SO_ERROR: %s\n", error == 0 ? "0" : strerrorname_np(error));
	fflush(stdout);
}

static void tell_mode(int fd)
{
	printf("O_NONBLOCK: %d\n", (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
	fflush(stdout);
}

/* Sends and reads it back until the end: the listener is an echo, or something that answers as much. */
static void exchange(int fd)
{
	char got[64];
	size_t length = 0;
	ssize_t r;

	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	tell("send", send(fd, "payload", 7, MSG_NOSIGNAL));
	shutdown(fd, SHUT_WR);
	while (length < sizeof(got) && (r = read(fd, got + length, sizeof(got) - length)) > 0)
		length += (size_t)r;
	printf("got: %.*s\n", (int)length, got);
	fflush(stdout);
}

static void set_timeout(int fd, int milliseconds)
{
	struct timeval timeout = { .tv_usec = milliseconds * 1000 };

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
}

static volatile sig_atomic_t alarms;
static int restarts;

static void on_alarm(int number)
{
	struct sigaction action = { .sa_handler = on_alarm };

	/* The last one interrupts. */
	if (++alarms >= restarts)
		sigaction(number, &action, NULL);
}

/* A signal every 100 ms, whose handler has SA_RESTART the first few times. */
static void start_alarms(int count)
{
	struct itimerval interval = { { 0, 100000 }, { 0, 100000 } };
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };

	restarts = count;
	if (count == 0)
		action.sa_flags = 0;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &interval, NULL);
}

static void stop_alarms(void)
{
	struct itimerval none = { 0 };

	setitimer(ITIMER_REAL, &none, NULL);
}

static void case_blocking(void)
{
	int fd = open_socket(0);

	dial(fd);
	tell_mode(fd);
	dial(fd);
	exchange(fd);
	dial(fd);
}

static void case_nonblocking(void)
{
	int fd = open_socket(SOCK_NONBLOCK);

	dial(fd);
	await(fd, 5000);
	tell_error(fd);
	tell_mode(fd);
	dial(fd);
	dial(fd);
	exchange(fd);
}

static void case_refused(void)
{
	int fd = open_socket(SOCK_NONBLOCK);

	dial(fd);
	await(fd, 5000);
	tell_error(fd);
	tell_error(fd);
	dial(fd);
	dial(fd);
	await(fd, 5000);
	dial(fd);
	dial(fd);
}

static void case_refused_blocking(void)
{
	int fd = open_socket(0);

	dial(fd);
	dial(fd);
	tell_error(fd);
}

/* The listener's backlog is full in these. */
static void case_busy(void)
{
	int fd = open_socket(SOCK_NONBLOCK);

	dial(fd);
	dial(fd);
	await(fd, 200);
	tell_error(fd);
	tell("send", send(fd, "payload", 7, MSG_NOSIGNAL));
}

static void case_busy_timeout(void)
{
	int fd = open_socket(0);

	set_timeout(fd, 300);
	dial(fd);
	dial(fd);
	tell_mode(fd);
}

static void case_busy_interrupted(void)
{
	int fd = open_socket(0);

	start_alarms(0);
	dial(fd);
	stop_alarms();
	fcntl(fd, F_SETFL, O_NONBLOCK);
	dial(fd);
	tell_error(fd);
}

static void case_busy_restarted(void)
{
	int fd = open_socket(0);

	start_alarms(4);
	dial(fd);
	stop_alarms();
	printf("alarms: %d\n", (int)alarms);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	dial(fd);
}

static void case_busy_timeout_interrupted(void)
{
	int fd = open_socket(0);

	set_timeout(fd, 900);
	start_alarms(1000);
	dial(fd);
	stop_alarms();
	printf("alarms: %d\n", (int)alarms);
}

/* Signals by the thousand must not show in what a non-blocking caller gets. */
static void case_storm(void)
{
	struct itimerval interval = { { 0, 50 }, { 0, 50 } };
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	int wrong = 0;

	restarts = 1 << 30;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &interval, NULL);
	for (int i = 0; i < 500; i++) {
		int fd = open_socket(SOCK_NONBLOCK);

		if (connect(fd, (struct sockaddr *)&target, target_length) != -1 || errno != EINPROGRESS)
			printf("wrong: %s\n", strerrorname_np(errno)), wrong++;
		close(fd);
	}
	stop_alarms();
	printf("wrong: %d\n", wrong);
}

static void case_fastopen(void)
{
	int fd = open_socket(0);

	tell("sendto", sendto(fd, "fast", 4, MSG_FASTOPEN, (struct sockaddr *)&target, target_length));
	exchange(fd);
}

static void case_fastopen_nonblocking(void)
{
	int fd = open_socket(SOCK_NONBLOCK);

	tell("sendto", sendto(fd, "fast", 4, MSG_FASTOPEN, (struct sockaddr *)&target, target_length));
	await(fd, 5000);
	tell_error(fd);
	exchange(fd);
}

static void case_fastopen_messages(void)
{
	struct iovec part = { .iov_base = (char[]){ "fast" }, .iov_len = 4 };
	struct mmsghdr message = { .msg_hdr = { .msg_name = &target,
						.msg_namelen = target_length,
						.msg_iov = &part,
						.msg_iovlen = 1 } };
	int fd = open_socket(0);

	tell("sendmsg", sendmsg(fd, &message.msg_hdr, MSG_FASTOPEN));
	exchange(fd);
	fd = open_socket(0);
	tell("sendmmsg", sendmmsg(fd, &message, 1, MSG_FASTOPEN));
	exchange(fd);
	fd = open_socket(SOCK_NONBLOCK);
	tell("sendmsg", sendmsg(fd, &message.msg_hdr, MSG_FASTOPEN));
	await(fd, 5000);
	exchange(fd);
}

static void case_fastopen_option(void)
{
	int fd = open_socket(0);

	setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &(int){ 1 }, sizeof(int));
	dial(fd);
	exchange(fd);
}

static void case_fastopen_refused(void)
{
	int fd = open_socket(0);

	tell("sendto",
	     sendto(fd, "fast", 4, MSG_FASTOPEN | MSG_NOSIGNAL, (struct sockaddr *)&target, target_length));
	tell_error(fd);
	fd = open_socket(SOCK_NONBLOCK);
	tell("sendto",
	     sendto(fd, "fast", 4, MSG_FASTOPEN | MSG_NOSIGNAL, (struct sockaddr *)&target, target_length));
	await(fd, 5000);
	tell_error(fd);
}

static void case_wrong(void)
{
	struct sockaddr nobody = { .sa_family = AF_UNSPEC };
	int fd = open_socket(0);
	int pipe_fds[2];

	tell("short", connect(fd, (struct sockaddr *)&target, 1));
	tell("less", connect(fd, (struct sockaddr *)&target, 8));
	tell("long", connect(fd, (struct sockaddr *)&target, 4096));
	tell("negative", connect(fd, (struct sockaddr *)&target, (socklen_t)-1));
	tell("nowhere", connect(fd, (struct sockaddr *)8, target_length));
	tell("null", connect(fd, NULL, target_length));
	tell("closed", connect(999, (struct sockaddr *)&target, target_length));
	tell("minus", connect(-1, (struct sockaddr *)&target, target_length));
	if (pipe(pipe_fds) != 0)
		abort();
	tell("pipe", connect(pipe_fds[0], (struct sockaddr *)&target, target_length));
	tell("unspecified", connect(fd, &nobody, sizeof(nobody)));
	tell("unix", connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&target, target_length));
	tell("udp",
	     connect(socket(target.ss_family, SOCK_DGRAM, 0), (struct sockaddr *)&target, target_length));
	listen(fd, 1);
	tell("listening", connect(fd, (struct sockaddr *)&target, target_length));
}

/* One socket, two connections after each other. */
static void case_again(void)
{
	struct sockaddr nobody = { .sa_family = AF_UNSPEC };
	int fd = open_socket(0);

	dial(fd);
	exchange(fd);
	tell("disconnect", connect(fd, &nobody, sizeof(nobody)));
	dial(fd);
	exchange(fd);
}

static void case_mapped(void)
{
	struct sockaddr_in plain;
	struct sockaddr_in6 mapped = { .sin6_family = AF_INET6 };

	memcpy(&plain, &target, sizeof(plain));
	mapped.sin6_port = plain.sin_port;
	mapped.sin6_addr.s6_addr[10] = mapped.sin6_addr.s6_addr[11] = 0xff;
	memcpy(&mapped.sin6_addr.s6_addr[12], &plain.sin_addr, 4);
	memcpy(&target, &mapped, sizeof(mapped));
	target_length = sizeof(mapped);
	case_blocking();
	case_nonblocking();
}

static void case_mptcp(void)
{
	int fd = socket(target.ss_family, SOCK_STREAM, 262);

	if (fd < 0)
		fd = open_socket(0);
	dial(fd);
	exchange(fd);
}

/* A socket that a child connects: the same open file in two processes. */
static void *connect_in_thread(void *argument)
{
	dial(*(int *)argument);
	return NULL;
}

static void case_shared(void)
{
	pthread_t thread;
	int fd = open_socket(0);

	pthread_create(&thread, NULL, connect_in_thread, &fd);
	pthread_join(thread, NULL);
	exchange(fd);
}

static void *connect_alone(void *argument)
{
	usleep(50000); /* the first thread has ended by then, or not: both must do */
	case_shared();
	case_nonblocking();
	exit(0);
	return argument;
}

/* The thread that began the process has ended. */
static void case_leaderless(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, connect_alone, NULL);
	pthread_exit(NULL);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "blocking", case_blocking },
	{ "nonblocking", case_nonblocking },
	{ "refused", case_refused },
	{ "refused-blocking", case_refused_blocking },
	{ "busy", case_busy },
	{ "busy-timeout", case_busy_timeout },
	{ "busy-interrupted", case_busy_interrupted },
	{ "busy-restarted", case_busy_restarted },
	{ "busy-timeout-interrupted", case_busy_timeout_interrupted },
	{ "storm", case_storm },
	{ "fastopen", case_fastopen },
	{ "fastopen-nonblocking", case_fastopen_nonblocking },
	{ "fastopen-messages", case_fastopen_messages },
	{ "fastopen-option", case_fastopen_option },
	{ "fastopen-refused", case_fastopen_refused },
	{ "wrong", case_wrong },
	{ "again", case_again },
	{ "mapped", case_mapped },
	{ "mptcp", case_mptcp },
	{ "shared", case_shared },
	{ "leaderless", case_leaderless },
};

int main(int argc, char **argv)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&target;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&target;

	if (argc != 4)
		return 2;
	if (inet_pton(AF_INET, argv[2], &in->sin_addr) == 1) {
		in->sin_family = AF_INET;
		target_length = sizeof(*in);
	} else if (inet_pton(AF_INET6, argv[2], &in6->sin6_addr) == 1) {
		in6->sin6_family = AF_INET6;
		target_length = sizeof(*in6);
	}
	in->sin_port = htons((uint16_t)atoi(argv[3]));
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (strcmp(argv[1], cases[i].name) == 0) {
			cases[i].run();
			return 0;
		}
	}
	return 2;
}
