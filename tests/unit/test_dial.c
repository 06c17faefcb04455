/*
 * Dials to sockets of the test's own: in a directory, and on the loopback.
 *
 * A port that is bound but not listened on refuses for certain; a listener whose
 * backlog is full answers nothing.
 */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/macros.h"
#include "net/dial.h"

#define PATIENCE_MS 10000
#define NOBODY 65534
#define SKIPPED 77
#define PENDING 1 /* what no dial ends with: a descriptor is larger, an error negative */

static struct loop loop;
static struct dial dial;
static int result;
static char directory[64];
static int home_fd;

static int begin(void **state)
{
	result = PENDING;
	return fixture_setup(state) == 0 && loop_init(&loop) == 0 ? 0 : -1;
}

static int end(void **state)
{
	loop_run_out(&loop);
	loop_deinit(&loop);
	return fixture_teardown(state);
}

static int begin_in_directory(void **state)
{
	home_fd = open(".", O_PATH | O_CLOEXEC);
	strcpy(directory, "/tmp/test-dial-XXXXXX");
	return begin(state) == 0 && mkdtemp(directory) && chdir(directory) == 0 ? 0 : -1;
}

/* Whatever a test should have removed itself makes rmdir() fail. */
static int end_in_directory(void **state)
{
	int r = fchdir(home_fd);

	if (rmdir(directory) != 0)
		r = -1;
	if (end(state) != 0)
		r = -1;
	close(home_fd);
	return r;
}

static void on_done(struct dial *done, int outcome)
{
	assert_ptr_equal(done, &dial);
	assert_int_equal(result, PENDING);
	result = outcome;
	loop_stop(&loop);
}

static void dial_begin_within(uint64_t wait_ms)
{
	result = PENDING;
	dial_init(&dial, &loop, wait_ms == UINT64_MAX ? UINT64_MAX : clock_now_ms() + wait_ms, on_done);
}

static void run(void)
{
	assert_int_equal(result, PENDING); /* never from within dial_start_*() */
	loop.is_stopping = false;
	assert_int_equal(loop_run(&loop), 0);
	assert_int_not_equal(result, PENDING);
	assert_int_equal(loop.heap_length, 0);
	dial_cancel(&dial); /* harmless */
}

static void on_pause_end(struct loop_timer *timer)
{
	(void)timer;
	loop_stop(&loop);
}

/* Lets a dial go on for a while. */
static void run_for(uint64_t wait_ms)
{
	struct loop_timer timer = { .on_expire = on_pause_end };

	loop_timer_set(&loop, &timer, clock_now_ms() + wait_ms);
	loop.is_stopping = false;
	assert_int_equal(loop_run(&loop), 0);
	loop_timer_cancel(&loop, &timer);
}

static void assert_socket_is_ready_for_the_loop(int fd)
{
	assert_true(fd > PENDING);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_true((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
}

/* ---- UNIX sockets --------------------------------------------------------------------------------- */

/* Listens at a short path in the working directory. */
static int unix_listener(const char *path, int backlog)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	strcpy(address.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, backlog), 0);
	return fd;
}

/* Closes both ends of a connection that works, and removes the socket file. */
static void assert_meets_and_end(int client, int listener, const char *path)
{
	char byte = 0;
	int accepted;

	assert_socket_is_ready_for_the_loop(client);
	accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(accepted >= 0);
	assert_int_equal(send(client, "!", 1, MSG_NOSIGNAL), 1);
	assert_int_equal(recv(accepted, &byte, 1, 0), 1);
	assert_int_equal(byte, '!');
	close(accepted);
	close(client);
	close(listener);
	assert_int_equal(unlink(path), 0);
}

static void test_unix_listener(void **state)
{
	int listener = unix_listener("socket", 1);
	char path[128];

	(void)state;
	close(dial_unix("socket"));
	close(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	snprintf(path, sizeof(path), "%s/socket", directory);
	assert_meets_and_end(dial_unix(path), listener, "socket");
}

/* A socket that was made a moment ago may be about to listen; this lets the moment pass. */
static void let_sockets_age(void)
{
	static const struct timespec moment = { .tv_nsec = 250 * 1000 * 1000 };

	nanosleep(&moment, NULL);
}

static void test_unix_paths_that_lead_nowhere(void **state)
{
	int file = open("file", O_CREAT | O_WRONLY | O_CLOEXEC, 0600), closed = unix_listener("closed", 1);

	(void)state;
	close(file);
	close(closed);
	assert_int_equal(symlink("link", "link"), 0);
	assert_int_equal(symlink("nothing", "dangling"), 0);
	assert_int_equal(dial_unix("absent"), -ENOENT);
	assert_int_equal(dial_unix("dangling"), -ENOENT);
	assert_int_equal(dial_unix("absent/socket"), -ENOENT);
	assert_int_equal(dial_unix("file/socket"), -ENOTDIR);
	assert_int_equal(dial_unix("link"), -ELOOP);
	assert_int_equal(dial_unix("file"), -ECONNREFUSED);
	assert_int_equal(dial_unix("."), -ECONNREFUSED);
	assert_int_equal(dial_unix("closed"), -EAGAIN); /* made just now */
	let_sockets_age();
	assert_int_equal(dial_unix("closed"), -ECONNREFUSED);
	unlink("file");
	unlink("closed");
	unlink("link");
	unlink("dangling");
}

/* The kernel would take it for an abstract name that anybody may have bound. */
static void test_unix_empty_path(void **state)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	if (bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t) + 1) == 0) /* else another did */
		assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(dial_unix(""), -ENOENT);
	close(fd);
}

static void test_unix_datagram_socket(void **state)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "datagrams" };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	(void)state;
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(dial_unix("datagrams"), -EPROTOTYPE);
	close(fd);
	unlink("datagrams");
}

static int dial_forbidden(void)
{
	if (getuid() == 0 && (setgid(NOBODY) != 0 || setuid(NOBODY) != 0))
		return SKIPPED;
	return dial_unix("forbidden") == -EACCES ? 0 : 1;
}

static int run_in_child(int (*function)(void))
{
	pid_t child = fork();
	int status;

	if (child == 0)
		_exit(function());
	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_unix_without_permission(void **state)
{
	int listener = unix_listener("forbidden", 1), status;

	(void)state;
	assert_int_equal(chmod(directory, 0755), 0);
	assert_int_equal(chmod("forbidden", 0), 0);
	status = run_in_child(dial_forbidden);
	close(listener);
	unlink("forbidden");
	if (status == SKIPPED)
		skip();
	assert_int_equal(status, 0);
}

/* Names whose paths have every length around the 107 bytes that a socket address holds. */
static void test_unix_paths_longer_than_a_socket_address(void **state)
{
	char name[128], path[256];
	size_t base_length = strlen(directory) + 1;

	(void)state;
	for (size_t length = 100; length < 115; length++) {
		int listener;

		memset(name, 's', sizeof(name));
		name[length - base_length] = '\0';
		listener = unix_listener(name, 1);
		snprintf(path, sizeof(path), "%s/%s", directory, name);
		assert_int_equal(strlen(path), length);
		assert_meets_and_end(dial_unix(path), listener, name);
		assert_int_equal(dial_unix(path), -ENOENT);
	}
}

static void test_unix_long_paths_fail_like_short_ones(void **state)
{
	char path[300];
	int fd;

	(void)state;
	memset(path, '/', 200);
	strcpy(path + 200, directory + 1);
	fd = open("file", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	strcat(path, "/file");
	assert_int_equal(dial_unix(path), -ECONNREFUSED);
	strcat(path, "/socket");
	assert_int_equal(dial_unix(path), -ENOTDIR);
	unlink("file");
	path[strlen(path) - strlen("/socket")] = '\0';
	assert_int_equal(dial_unix(path), -ENOENT);
}

/* What was looked at is what is connected, whatever has its name by now. */
static void test_unix_file_that_was_looked_at(void **state)
{
	int first = unix_listener("first", 1), second = unix_listener("second", 1);
	int file = open("first", O_PATH | O_CLOEXEC);
	int client;

	(void)state;
	assert_int_equal(rename("second", "first"), 0);
	client = dial_unix_at(file);
	assert_int_equal(accept4(second, NULL, NULL, SOCK_CLOEXEC), -1);
	close(file);
	close(second);
	assert_meets_and_end(client, first, "first");
}

static void test_unix_file_that_is_no_socket(void **state)
{
	int file = open("/dev/null", O_PATH | O_CLOEXEC);

	(void)state;
	assert_int_equal(dial_unix_at(file), -ECONNREFUSED);
	close(file);
}

/* A listener that takes no more: one client waits. */
static int full_unix_listener(const char *path, int *waiting)
{
	int listener = unix_listener(path, 0);

	*waiting = dial_unix(path);
	assert_true(*waiting >= 0);
	assert_int_equal(dial_unix(path), -EAGAIN);
	return listener;
}

static struct {
	struct loop_timer timer;
	int listener;
	int accepted;
} host;

static void host_accept(struct loop_timer *timer)
{
	(void)timer;
	assert_int_equal(result, PENDING);
	host.accepted = accept4(host.listener, NULL, NULL, SOCK_CLOEXEC);
}

static void host_leave(struct loop_timer *timer)
{
	(void)timer;
	close(host.listener);
}

static void test_unix_backlog_that_gets_room(void **state)
{
	int waiting;

	(void)state;
	host.listener = full_unix_listener("socket", &waiting);
	host.timer = (struct loop_timer){ .on_expire = host_accept };
	loop_timer_set(&loop, &host.timer, clock_now_ms() + 30);
	dial_begin_within(PATIENCE_MS);
	assert_int_equal(dial_start_unix_retry(&dial, "socket"), 0);
	run();
	close(host.accepted);
	close(waiting);
	assert_meets_and_end(result, host.listener, "socket");
}

static void test_unix_backlog_that_stays_full(void **state)
{
	uint64_t started_ms = clock_now_ms();
	int waiting, listener = full_unix_listener("socket", &waiting);

	(void)state;
	dial_begin_within(80);
	assert_int_equal(dial_start_unix_retry(&dial, "socket"), 0);
	run();
	assert_int_equal(result, -ETIMEDOUT);
	assert_true(clock_now_ms() >= started_ms + 80);
	close(waiting);
	close(listener);
	unlink("socket");
}

static void test_unix_backlog_whose_listener_leaves(void **state)
{
	int waiting;

	(void)state;
	host.listener = full_unix_listener("socket", &waiting);
	host.timer = (struct loop_timer){ .on_expire = host_leave };
	loop_timer_set(&loop, &host.timer, clock_now_ms() + 10);
	dial_begin_within(UINT64_MAX);
	assert_int_equal(dial_start_unix_retry(&dial, "socket"), 0);
	run();
	assert_int_equal(result, -ECONNREFUSED);
	close(waiting);
	unlink("socket");
}

static void test_unix_retry_that_is_cancelled(void **state)
{
	int waiting, listener = full_unix_listener("socket", &waiting);

	(void)state;
	dial_begin_within(PATIENCE_MS);
	assert_int_equal(dial_start_unix_retry(&dial, "socket"), 0);
	run_for(10);
	dial_cancel(&dial);
	dial_cancel(&dial);
	assert_int_equal(loop.heap_length, 0);
	close(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	run_for(10);
	assert_int_equal(result, PENDING);
	close(waiting);
	close(listener);
	unlink("socket");
}

/* ---- TCP ------------------------------------------------------------------------------------------ */

/* Takes a port of the loopback. backlog < 0: it refuses, since nobody listens. */
static int tcp_port(union addr *addr, int backlog)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(any);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&any, length), 0);
	if (backlog >= 0)
		assert_int_equal(listen(fd, backlog), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&any, &length), 0);
	addr_from_sockaddr(addr, (struct sockaddr *)&any, length);
	return fd;
}

/* A listener that answers nothing any more, and its clients. */
struct full_listener {
	union addr addr;
	int fd;
	int clients[16];
	int count;
};

static void full_listener_open(struct full_listener *full)
{
	struct pollfd poll_fd = { .events = POLLOUT };

	full->fd = tcp_port(&full->addr, 0);
	full->count = 0;
	do {
		assert_true(full->count < (int)ARRAY_SIZE(full->clients));
		poll_fd.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		full->clients[full->count++] = poll_fd.fd;
		connect(poll_fd.fd, &full->addr.sa, addr_length(&full->addr));
	} while (poll(&poll_fd, 1, 50) > 0);
}

static void full_listener_close(struct full_listener *full)
{
	for (int i = 0; i < full->count; i++)
		close(full->clients[i]);
	close(full->fd);
}

static int option(int fd, int level, int name)
{
	int value = -1;
	socklen_t length = sizeof(value);

	assert_int_equal(getsockopt(fd, level, name, &value, &length), 0);
	return value;
}

/* Closes both ends, which see each other. */
static void assert_connected_to(int listener)
{
	struct addr_ends dialled, met;
	int accepted;

	assert_socket_is_ready_for_the_loop(result);
	assert_int_equal(option(result, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(option(result, SOL_SOCKET, SO_KEEPALIVE), 1);
	accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(accepted >= 0);
	assert_int_equal(addr_ends_of(result, &dialled), 0);
	assert_int_equal(addr_ends_of(accepted, &met), 0);
	assert_true(addr_is_equal(&dialled.local, &met.peer));
	assert_true(addr_is_equal(&dialled.peer, &met.local));
	close(accepted);
	close(result);
}

static void test_tcp_listener(void **state)
{
	union addr addr;
	int listener = tcp_port(&addr, 1);

	(void)state;
	dial_begin_within(PATIENCE_MS);
	assert_int_equal(dial_start_addresses(&dial, &addr, 1), 0);
	run();
	assert_connected_to(listener);
	dial_begin_within(UINT64_MAX);
	assert_int_equal(dial_start_addresses(&dial, &addr, 1), 0);
	run();
	assert_connected_to(listener);
	close(listener);
}

static void test_tcp_addresses_in_turn(void **state)
{
	union addr addresses[3];
	int refusing[2], listener;

	(void)state;
	for (int i = 0; i < 2; i++)
		refusing[i] = tcp_port(&addresses[i], -1);
	listener = tcp_port(&addresses[2], 1);
	dial_begin_within(PATIENCE_MS);
	assert_int_equal(dial_start_addresses(&dial, addresses, 3), 0);
	run();
	assert_connected_to(listener);
	close(listener);
	close(refusing[0]);
	close(refusing[1]);
}

static void test_tcp_all_refuse(void **state)
{
	union addr addresses[RESOLVE_ADDRESSES_MAX];
	int refusing = tcp_port(&addresses[0], -1);

	(void)state;
	for (size_t i = 1; i < ARRAY_SIZE(addresses); i++)
		addresses[i] = addresses[0];
	dial_begin_within(PATIENCE_MS);
	assert_int_equal(dial_start_addresses(&dial, addresses, ARRAY_SIZE(addresses)), 0);
	run();
	assert_int_equal(result, -ECONNREFUSED);
	close(refusing);
}

static void test_tcp_no_address(void **state)
{
	(void)state;
	dial_begin_within(PATIENCE_MS);
	assert_int_equal(dial_start_addresses(&dial, NULL, 0), -EINVAL);
	dial_cancel(&dial);
}

/* Addresses that fail on the spot: still told from the loop, and the next one is tried. */
static void test_tcp_address_that_fails_at_once(void **state)
{
	union addr addresses[2] = { { .in = { .sin_family = AF_INET,
					      .sin_port = htons(9),
					      .sin_addr.s_addr = htonl(INADDR_BROADCAST) } } };
	int listener = tcp_port(&addresses[1], 1);

	(void)state;
	dial_begin_within(PATIENCE_MS);
	assert_int_equal(dial_start_addresses(&dial, addresses, 1), 0);
	run();
	assert_true(result == -ENETUNREACH || result == -EACCES);
	dial_begin_within(PATIENCE_MS);
	assert_int_equal(dial_start_addresses(&dial, addresses, 2), 0);
	run();
	assert_connected_to(listener);
	addresses[0] = (union addr){ .sa.sa_family = AF_UNSPEC };
	dial_begin_within(UINT64_MAX);
	assert_int_equal(dial_start_addresses(&dial, addresses, 1), 0);
	run();
	assert_int_equal(result, -EAFNOSUPPORT);
	close(listener);
}

static void test_tcp_listener_that_does_not_answer(void **state)
{
	struct full_listener full;
	uint64_t started_ms;

	(void)state;
	full_listener_open(&full);
	started_ms = clock_now_ms();
	dial_begin_within(100);
	assert_int_equal(dial_start_addresses(&dial, &full.addr, 1), 0);
	run();
	assert_int_equal(result, -ETIMEDOUT);
	assert_true(clock_now_ms() >= started_ms + 100);
	full_listener_close(&full);
}

/* The silent one has its share of the time, and leaves some for the next. */
static void test_tcp_silent_address_leaves_time_for_the_next(void **state)
{
	union addr addresses[2];
	struct full_listener full;
	int listener = tcp_port(&addresses[1], 1);

	(void)state;
	full_listener_open(&full);
	addresses[0] = full.addr;
	dial_begin_within(600);
	assert_int_equal(dial_start_addresses(&dial, addresses, 2), 0);
	run();
	assert_connected_to(listener);
	close(listener);
	full_listener_close(&full);
}

/* Silence says more than a refusal, in whatever order they came. */
static void test_tcp_silent_address_is_remembered(void **state)
{
	union addr addresses[2];
	struct full_listener full;
	int refusing = tcp_port(&addresses[1], -1);

	(void)state;
	full_listener_open(&full);
	addresses[0] = full.addr;
	dial_begin_within(600);
	assert_int_equal(dial_start_addresses(&dial, addresses, 2), 0);
	run();
	assert_int_equal(result, -ETIMEDOUT);
	addresses[0] = addresses[1];
	addresses[1] = full.addr;
	dial_begin_within(100);
	assert_int_equal(dial_start_addresses(&dial, addresses, 2), 0);
	run();
	assert_int_equal(result, -ETIMEDOUT);
	close(refusing);
	full_listener_close(&full);
}

static void test_tcp_dial_that_is_cancelled(void **state)
{
	struct full_listener full;
	union addr addr;
	int listener = tcp_port(&addr, 1);

	(void)state;
	full_listener_open(&full);
	dial_begin_within(PATIENCE_MS);
	assert_int_equal(dial_start_addresses(&dial, &full.addr, 1), 0);
	run_for(5);
	dial_cancel(&dial);
	dial_cancel(&dial);
	assert_int_equal(loop.heap_length, 0);
	/* Connected in the kernel already, but not told yet. */
	dial_begin_within(PATIENCE_MS);
	assert_int_equal(dial_start_addresses(&dial, &addr, 1), 0);
	dial_cancel(&dial);
	run_for(5);
	assert_int_equal(result, PENDING);
	close(listener);
	full_listener_close(&full);
}

/* A network of the child's own, whose only port to dial from is the one that is dialled. */
static bool make_one_port_network(const char *range)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd;
	bool is_made;

	if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
		return false;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	is_made = fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &request) == 0;
	close(fd);
	fd = open("/proc/sys/net/ipv4/ip_local_port_range", O_WRONLY | O_CLOEXEC);
	is_made = is_made && fd >= 0 && write(fd, range, strlen(range)) == (ssize_t)strlen(range);
	close(fd);
	return is_made;
}

static void on_done_in_child(struct dial *done, int outcome)
{
	(void)done;
	result = outcome;
	loop_stop(&loop);
}

static int dial_oneself(void)
{
	union addr addr = { .in = { .sin_family = AF_INET,
				    .sin_port = htons(40000),
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } };
	int fd;

	if (!make_one_port_network("40000 40000"))
		return SKIPPED;
	/* The kernel does it: this is what the dial has to see through. */
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(fd, &addr.sa, addr_length(&addr)) != 0)
		return SKIPPED;
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){ .l_onoff = 1 }, sizeof(struct linger));
	close(fd);
	dial_init(&dial, &loop, UINT64_MAX, on_done_in_child);
	if (dial_start_addresses(&dial, &addr, 1) != 0 || loop_run(&loop) != 0)
		return 1;
	return result == -ECONNREFUSED ? 0 : 2;
}

static void test_tcp_port_that_connects_to_itself(void **state)
{
	int status;

	(void)state;
	status = run_in_child(dial_oneself);
	if (status == SKIPPED)
		skip();
	assert_int_equal(status, 0);
}

/* ---- names ---------------------------------------------------------------------------------------- */

static void test_host_name(void **state)
{
	struct resolver *resolver = resolver_new(&loop, NULL);
	union addr addr;
	int listener = tcp_port(&addr, 1), refusing;

	(void)state;
	assert_non_null(resolver);
	dial_begin_within(PATIENCE_MS);
	assert_int_equal(dial_start_host(&dial, resolver, "localhost", ntohs(addr.in.sin_port)), 0);
	run();
	assert_connected_to(listener);
	dial_begin_within(UINT64_MAX);
	assert_int_equal(dial_start_host(&dial, resolver, "localhost", ntohs(addr.in.sin_port)), 0);
	run();
	assert_connected_to(listener);
	refusing = tcp_port(&addr, -1);
	dial_begin_within(PATIENCE_MS);
	assert_int_equal(dial_start_host(&dial, resolver, "localhost", ntohs(addr.in.sin_port)), 0);
	run();
	/* what ::1 said, the last one that was tried, and not every host has it */
	assert_true(result == -ECONNREFUSED || result == -EADDRNOTAVAIL);
	close(refusing);
	close(listener);
	resolver_free(resolver);
}

static void test_host_name_without_a_resolver(void **state)
{
	(void)state;
	dial_begin_within(PATIENCE_MS);
	assert_int_equal(dial_start_host(&dial, NULL, "localhost", 1), -ENOMEM);
	dial_cancel(&dial);
	assert_int_equal(loop.heap_length, 0);
}

static void test_host_name_whose_dial_is_cancelled(void **state)
{
	struct resolver *resolver = resolver_new(&loop, NULL);
	union addr addr;
	int listener = tcp_port(&addr, 1);

	(void)state;
	dial_begin_within(PATIENCE_MS);
	assert_int_equal(dial_start_host(&dial, resolver, "localhost", ntohs(addr.in.sin_port)), 0);
	dial_cancel(&dial);
	run_for(5);
	assert_int_equal(result, PENDING);
	assert_int_equal(accept4(listener, NULL, NULL, SOCK_CLOEXEC), -1);
	close(listener);
	resolver_free(resolver);
}

#define DIAL_TEST(function) cmocka_unit_test_setup_teardown(function, begin, end)
#define UNIX_TEST(function) cmocka_unit_test_setup_teardown(function, begin_in_directory, end_in_directory)

int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIX_TEST(test_unix_listener),
		UNIX_TEST(test_unix_paths_that_lead_nowhere),
		UNIX_TEST(test_unix_empty_path),
		UNIX_TEST(test_unix_datagram_socket),
		UNIX_TEST(test_unix_without_permission),
		UNIX_TEST(test_unix_paths_longer_than_a_socket_address),
		UNIX_TEST(test_unix_long_paths_fail_like_short_ones),
		UNIX_TEST(test_unix_file_that_was_looked_at),
		DIAL_TEST(test_unix_file_that_is_no_socket),
		UNIX_TEST(test_unix_backlog_that_gets_room),
		UNIX_TEST(test_unix_backlog_that_stays_full),
		UNIX_TEST(test_unix_backlog_whose_listener_leaves),
		UNIX_TEST(test_unix_retry_that_is_cancelled),
		DIAL_TEST(test_tcp_listener),
		DIAL_TEST(test_tcp_addresses_in_turn),
		DIAL_TEST(test_tcp_all_refuse),
		DIAL_TEST(test_tcp_no_address),
		DIAL_TEST(test_tcp_address_that_fails_at_once),
		DIAL_TEST(test_tcp_listener_that_does_not_answer),
		DIAL_TEST(test_tcp_silent_address_leaves_time_for_the_next),
		DIAL_TEST(test_tcp_silent_address_is_remembered),
		DIAL_TEST(test_tcp_dial_that_is_cancelled),
		DIAL_TEST(test_tcp_port_that_connects_to_itself),
		DIAL_TEST(test_host_name),
		DIAL_TEST(test_host_name_without_a_resolver),
		DIAL_TEST(test_host_name_whose_dial_is_cancelled),
	};

	return FIXTURE_RUN(tests);
}
