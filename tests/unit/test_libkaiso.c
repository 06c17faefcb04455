/*
 * libkaiso against a router that is played by hand: a thread with a script for the blocking calls, the
 * test itself for the others.
 */
#include "workplace.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/macros.h"
#include "lib/kaiso.h"
#include "net/fdpass.h"

#define PATIENCE_MS 20000

/* ------------------------------------------------------ a scripted router */

/* One connection: the line that must come, what is answered, and how it ends. */
struct turn {
	const char *line, *reply;
	enum { ENDS, RESETS, ECHOES, STAYS } then;
};

struct router {
	int listener_fd;
	char address[40];
	const struct turn *turns;
	bool in_pieces;
	const char *mistake; /* what the library did wrong; NULL for nothing */
	pthread_t thread;
};

static int listen_tcp(char *address, size_t size)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(listen(fd, 64), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &length), 0);
	snprintf(address, size, "127.0.0.1:%u", ntohs(in.sin_port));
	return fd;
}

static bool read_line(int fd, char *line, size_t size)
{
	size_t length = 0;

	while (length + 1 < size && recv(fd, line + length, 1, 0) == 1)
		if (line[length++] == '\n')
			break;
	line[length] = '\0';
	return length > 0 && line[length - 1] == '\n';
}

static void reply(int fd, const char *text, bool in_pieces)
{
	size_t length = strlen(text), piece = in_pieces ? 1 : length;

	for (size_t at = 0; at < length; at += piece) {
		if (send(fd, text + at, piece, MSG_NOSIGNAL) < 0)
			return;
		if (in_pieces)
			usleep(500);
	}
}

static void turn_end(int fd, const struct turn *turn)
{
	const struct linger reset = { .l_onoff = 1, .l_linger = 0 };
	char bytes[256];
	ssize_t count;

	if (turn->then == RESETS)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	if (turn->then == ECHOES || turn->then == STAYS)
		while ((count = recv(fd, bytes, sizeof(bytes), 0)) > 0)
			if (turn->then == ECHOES)
				send(fd, bytes, (size_t)count, MSG_NOSIGNAL);
	close(fd);
}

static void *router_run(void *argument)
{
	struct router *router = argument;
	char line[5000];

	for (const struct turn *turn = router->turns; turn->line; turn++) {
		int fd = accept4(router->listener_fd, NULL, NULL, SOCK_CLOEXEC);
		int yes = 1;

		if (fd < 0)
			return NULL;
		setsockopt(fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &yes, sizeof(yes));
		if (!read_line(fd, line, sizeof(line)) || strcmp(line, turn->line) != 0)
			router->mistake = "another line was expected";
		reply(fd, turn->reply, router->in_pieces);
		turn_end(fd, turn);
	}
	return NULL;
}

/* turns ends with a zeroed one. */
static void router_start(struct router *router, const struct turn *turns, bool in_pieces)
{
	*router = (struct router){ .turns = turns, .in_pieces = in_pieces };
	router->listener_fd = listen_tcp(router->address, sizeof(router->address));
	assert_int_equal(pthread_create(&router->thread, NULL, router_run, router), 0);
}

static void router_stop(struct router *router)
{
	shutdown(router->listener_fd, SHUT_RDWR);
	pthread_join(router->thread, NULL);
	close(router->listener_fd);
	assert_ptr_equal(router->mistake, NULL);
}

static void assert_exchanges(int fd, const char *text)
{
	char got[64] = "";

	assert_true(strlen(text) < sizeof(got));
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
	assert_int_equal(recv(fd, got, strlen(text), MSG_WAITALL), strlen(text));
	assert_string_equal(got, text);
}

static bool is_nonblocking(int fd)
{
	return (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0;
}

static bool is_cloexec(int fd)
{
	return (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0;
}

/* ---------------------------------------------------------------- dialling */

static const struct {
	const char *verdict;
	int error;
} verdicts[] = {
	{ "-not-found no such service\r\n", -ENOENT },
	{ "-denied not open to this address\r\n", -EACCES },
	{ "-unavailable nothing answers\r\n", -EHOSTDOWN },
	{ "-timeout too late\r\n", -ETIMEDOUT },
	{ "-limit too many\r\n", -EBUSY },
	{ "-invalid described wrongly\r\n", -EBADMSG },
	{ "-loop circle\r\n", -ELOOP },
	{ "-loop\n", -ELOOP },
	{ "-loops around\r\n", -EREMOTEIO },
	{ "-lo op\r\n", -EREMOTEIO },
	{ "- \r\n", -EREMOTEIO },
	{ "-\r\n", -EPROTO },
	{ "\r\n", -EPROTO },
	{ "++\r\n", -EPROTO },
	{ "HTTP/1.0 400 Bad Request\r\n\r\n", -EPROTO },
	{ "+", -ECONNRESET },
	{ "-not-found", -ECONNRESET },
};

static void test_every_verdict(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(verdicts) * 2; i++) {
		const struct turn turns[] = { { ".kaiso/open a b\r\n", verdicts[i / 2].verdict, ENDS },
					      { 0 } };
		struct router router;

		router_start(&router, turns, i % 2);
		assert_int_equal(kaiso_dial(router.address, "a b", PATIENCE_MS), verdicts[i / 2].error);
		router_stop(&router);
	}
}

static void test_a_verdict_without_end(void **state)
{
	char endless[600];
	const struct turn turns[] = { { ".kaiso/open web\r\n", endless, ENDS }, { 0 } };
	struct router router;

	(void)state;
	memset(endless, '-', sizeof(endless));
	endless[sizeof(endless) - 1] = '\0';
	router_start(&router, turns, false);
	assert_int_equal(kaiso_dial(router.address, "web", PATIENCE_MS), -EPROTO);
	router_stop(&router);
}

static void test_exactly_the_verdict_is_consumed(void **state)
{
	static const char *const verdict_ends[] = { "+\r\n", "+\n" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(verdict_ends) * 2; i++) {
		char text[32], got[32] = "";
		const struct turn turns[] = { { ".kaiso/open web\r\n", text, ECHOES }, { 0 } };
		struct router router;
		int fd;

		snprintf(text, sizeof(text), "%s\r\n-hello", verdict_ends[i / 2]);
		router_start(&router, turns, i % 2);
		fd = kaiso_dial(router.address, "web", PATIENCE_MS);
		assert_true(fd >= 0);
		assert_false(is_nonblocking(fd));
		assert_true(is_cloexec(fd));
		assert_int_equal(recv(fd, got, 8, MSG_WAITALL), 8);
		assert_string_equal(got, "\r\n-hello");
		assert_exchanges(fd, "and back");
		close(fd);
		router_stop(&router);
	}
}

static void test_a_router_that_knows_no_verdict(void **state)
{
	(void)state;
	for (int resets = 0; resets < 2; resets++) {
		const struct turn turns[] = { { ".kaiso/open d/web\r\n", "", resets ? RESETS : ENDS },
					      { "d/web\r\n", "", ECHOES },
					      { 0 } };
		struct router router;
		int fd;

		router_start(&router, turns, false);
		fd = kaiso_dial(router.address, "d/web", PATIENCE_MS);
		assert_true(fd >= 0);
		assert_exchanges(fd, "hello");
		close(fd);
		router_stop(&router);
	}
}

static void test_a_service_that_such_a_router_does_not_have(void **state)
{
	const struct turn turns[] = { { ".kaiso/open web\r\n", "", ENDS }, { "web\r\n", "", ENDS }, { 0 } };
	struct router router;
	char byte;
	int fd;

	(void)state;
	router_start(&router, turns, false);
	fd = kaiso_dial(router.address, "web", PATIENCE_MS);
	assert_true(fd >= 0);
	assert_int_equal(recv(fd, &byte, 1, 0), 0);
	close(fd);
	router_stop(&router);
}

static void test_a_silent_router(void **state)
{
	const struct turn turns[] = { { ".kaiso/open web\r\n", "", STAYS },
				      { ".kaiso/list\r\n", "a\t", STAYS },
				      { 0 } };
	struct router router;

	(void)state;
	router_start(&router, turns, false);
	assert_int_equal(kaiso_dial(router.address, "web", 50), -ETIMEDOUT);
	assert_int_equal(kaiso_list(router.address, NULL, 50, NULL, NULL), -ETIMEDOUT);
	router_stop(&router);
}

static void test_nobody_there(void **state)
{
	char address[40];
	int listener_fd = listen_tcp(address, sizeof(address));

	(void)state;
	close(listener_fd);
	assert_int_equal(kaiso_dial(address, "web", PATIENCE_MS), -ECONNREFUSED);
	assert_int_equal(kaiso_dial("unix:/nonexistent/kaiso", "web", PATIENCE_MS), -ECONNREFUSED);
	assert_int_equal(kaiso_list(address, NULL, PATIENCE_MS, NULL, NULL), -ECONNREFUSED);
}

static const struct {
	const char *router, *service;
	int error;
} senseless[] = {
	{ "127.0.0.1:0", "web", -EINVAL },
	{ "127.0.0.1:65536", "web", -EINVAL },
	{ "127.0.0.1:", "web", -EINVAL },
	{ "127.0.0.1:x", "web", -EINVAL },
	{ "127.0.0.1:+1", "web", -EINVAL },
	{ "", "web", -EINVAL },
	{ "::1", "web", -EINVAL },
	{ "[::1", "web", -EINVAL },
	{ "[]:1", "web", -EINVAL },
	{ "[::1]1", "web", -EINVAL },
	{ "unix:", "web", -EINVAL },
	{ "kaiso://", "web", -EINVAL },
	{ "kaiso://127.0.0.1:1", NULL, -EINVAL },
	{ "kaiso://127.0.0.1:1/", NULL, -EINVAL },
	{ "kaiso://127.0.0.1:1/a%", NULL, -EINVAL },
	{ "kaiso://127.0.0.1:1/a%4", NULL, -EINVAL },
	{ "kaiso://127.0.0.1:1/a%4g", NULL, -EINVAL },
	{ "kaiso://127.0.0.1:1/a%\x11\x11", NULL, -EINVAL },
	{ "kaiso://127.0.0.1:1/a%00", NULL, -EINVAL },
	{ "kaiso://127.0.0.1:1/a%0a", NULL, -EINVAL },
	{ "kaiso://127.0.0.1:1/a?b", NULL, -EINVAL },
	{ "127.0.0.1:1", NULL, -EINVAL },
	{ "127.0.0.1:1", "", -EINVAL },
	{ "127.0.0.1:1", "web/", -EINVAL },
	{ "127.0.0.1:1", "we\nb", -EINVAL },
	{ "127.0.0.1:1", "web\x7f", -EINVAL },
};

static void test_words_that_make_no_sense(void **state)
{
	char longest[KAISO_SERVICE_MAX + 2];
	struct kaiso_dialer *dialer;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(senseless); i++) {
		assert_int_equal(kaiso_dial(senseless[i].router, senseless[i].service, 1000),
				 senseless[i].error);
		assert_int_equal(kaiso_dial_start(senseless[i].router, senseless[i].service, 1000, &dialer),
				 senseless[i].error);
	}
	memset(longest, 'a', sizeof(longest));
	longest[sizeof(longest) - 1] = '\0';
	assert_int_equal(kaiso_dial("127.0.0.1:1", longest, 1000), -ENAMETOOLONG);
	assert_int_equal(kaiso_list("127.0.0.1:1", longest, 1000, NULL, NULL), -ENAMETOOLONG);
	assert_int_equal(kaiso_list("127.0.0.1:1", "a\tb", 1000, NULL, NULL), -EINVAL);
}

static void test_the_longest_service(void **state)
{
	char service[KAISO_SERVICE_MAX + 1], line[KAISO_SERVICE_MAX + 20];
	const struct turn turns[] = { { line, "-loop\r\n", ENDS }, { 0 } };
	struct router router;

	(void)state;
	memset(service, 'a', sizeof(service));
	service[sizeof(service) - 1] = '\0';
	snprintf(line, sizeof(line), ".kaiso/open %s\r\n", service);
	assert_int_equal(strlen(line), 4096);
	router_start(&router, turns, false);
	assert_int_equal(kaiso_dial(router.address, service, PATIENCE_MS), -ELOOP);
	router_stop(&router);
}

/* Ways to say where the router is; the port goes where %s stands. */
static void test_forms_of_the_router(void **state)
{
	static const struct {
		const char *format, *service, *line;
		bool by_variable;
	} forms[] = {
		{ "127.0.0.1:%s", "web", ".kaiso/open web\r\n", false },
		{ "localhost:%s", "web", ".kaiso/open web\r\n", false },
		{ ":%s", "web", ".kaiso/open web\r\n", false },
		{ "[::ffff:127.0.0.1]:%s", "web", ".kaiso/open web\r\n", false },
		{ "127.0.0.1:%s", "web", ".kaiso/open web\r\n", true },
		{ "kaiso://127.0.0.1:%s", "web", ".kaiso/open web\r\n", true },
		{ "Kaiso://localhost:%s/a%%20b/%%C3%%A4%%3f", NULL, ".kaiso/open a b/\xc3\xa4?\r\n", true },
		{ "kaiso://127.0.0.1:%s/other", "web", ".kaiso/open web\r\n", false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		const struct turn turns[] = { { forms[i].line, "-loop\r\n", ENDS }, { 0 } };
		struct router router;
		char word[100], *port;

		router_start(&router, turns, false);
		port = strchr(router.address, ':') + 1;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(word, sizeof(word), forms[i].format, port);
#pragma GCC diagnostic pop
		setenv("KAISO", forms[i].by_variable ? word : "127.0.0.1:1", 1);
		assert_int_equal(
			kaiso_dial(forms[i].by_variable ? NULL : word, forms[i].service, PATIENCE_MS),
			-ELOOP);
		router_stop(&router);
		unsetenv("KAISO");
	}
}

/* ------------------------------------------------- dialling in event loops */

/* Waits for the descriptor as an event loop would, then steps. */
static int dialer_await(struct kaiso_dialer *dialer)
{
	struct pollfd event = { .fd = kaiso_dialer_fd(dialer), .events = POLLIN };

	assert_int_equal(poll(&event, 1, PATIENCE_MS), 1);
	return kaiso_dial_step(dialer);
}

static int accept_line(int listener_fd, const char *expected)
{
	char line[100];
	int fd = accept4(listener_fd, NULL, NULL, SOCK_CLOEXEC);

	assert_true(fd >= 0);
	assert_true(read_line(fd, line, sizeof(line)));
	assert_string_equal(line, expected);
	return fd;
}

static int dial_to_the_end(struct kaiso_dialer *dialer)
{
	int r;

	do {
		r = dialer_await(dialer);
	} while (r == -EAGAIN);
	return r;
}

static void test_dialling_step_by_step(void **state)
{
	char address[40];
	int listener_fd = listen_tcp(address, sizeof(address)), epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = { .events = EPOLLIN };
	struct kaiso_dialer *dialer;
	int peer, fd, r;

	(void)state;
	assert_int_equal(kaiso_dial_start(address, "web", -1, &dialer), 0);
	peer = accept_line(listener_fd, ".kaiso/open web\r\n");
	for (int i = 0; i < 3; i++)
		assert_int_equal(kaiso_dial_step(dialer), -EAGAIN);
	send(peer, "+\r", 2, MSG_NOSIGNAL);
	assert_int_equal(dialer_await(dialer), -EAGAIN);
	send(peer, "\nhello", 6, MSG_NOSIGNAL);
	fd = dial_to_the_end(dialer);
	assert_true(fd >= 0);
	assert_true(is_nonblocking(fd));
	assert_true(is_cloexec(fd));
	/* It is nobody's but the caller's. */
	r = poll(&(struct pollfd){ .fd = kaiso_dialer_fd(dialer), .events = POLLIN }, 1, 0);
	assert_int_equal(r, 0);
	assert_int_equal(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event), 0);
	assert_int_equal(kaiso_dial_step(dialer), -EBADF);
	kaiso_dialer_free(dialer);
	close(peer);
	close(fd);
	close(epoll_fd);
	close(listener_fd);
}

static void test_dialling_a_router_without_verdicts_step_by_step(void **state)
{
	char address[40];
	int listener_fd = listen_tcp(address, sizeof(address)), peer, fd, number;
	struct kaiso_dialer *dialer;

	(void)state;
	assert_int_equal(kaiso_dial_start(address, "web", PATIENCE_MS, &dialer), 0);
	number = kaiso_dialer_fd(dialer);
	close(accept_line(listener_fd, ".kaiso/open web\r\n"));
	fd = dial_to_the_end(dialer);
	assert_true(fd >= 0);
	assert_int_equal(kaiso_dialer_fd(dialer), number);
	peer = accept_line(listener_fd, "web\r\n");
	kaiso_dialer_free(dialer);
	close(peer);
	close(fd);
	close(listener_fd);
}

static void test_dialling_that_fails_step_by_step(void **state)
{
	char address[40];
	int listener_fd = listen_tcp(address, sizeof(address)), peer, r;
	struct kaiso_dialer *dialer;

	(void)state;
	assert_int_equal(kaiso_dial_start(address, "web", PATIENCE_MS, &dialer), 0);
	peer = accept_line(listener_fd, ".kaiso/open web\r\n");
	send(peer, "-denied\r\n", 9, MSG_NOSIGNAL);
	assert_int_equal(dial_to_the_end(dialer), -EACCES);
	assert_int_equal(kaiso_dial_step(dialer), -EBADF);
	kaiso_dialer_free(dialer);
	close(peer);

	assert_int_equal(kaiso_dial_start(address, "web", 30, &dialer), 0);
	assert_int_equal(dial_to_the_end(dialer), -ETIMEDOUT);
	kaiso_dialer_free(dialer);

	assert_int_equal(kaiso_dial_start(address, "web", 0, &dialer), 0);
	assert_int_equal(dial_to_the_end(dialer), -ETIMEDOUT);
	kaiso_dialer_free(dialer);

	assert_int_equal(kaiso_dial_start(address, "web", -1, &dialer), 0);
	kaiso_dialer_free(dialer); /* given up */
	kaiso_dialer_free(NULL);

	close(listener_fd);
	r = kaiso_dial_start(address, "web", PATIENCE_MS, &dialer);
	if (r == 0) {
		r = dial_to_the_end(dialer);
		kaiso_dialer_free(dialer);
	}
	assert_int_equal(r, -ECONNREFUSED);
}

/* ----------------------------------------------------------------- listing */

struct told {
	char text[1000];
	unsigned stop_after;
};

static int tell(const struct kaiso_entry *entry, void *userdata)
{
	struct told *told = userdata;
	size_t length = strlen(told->text);

	snprintf(told->text + length, sizeof(told->text) - length, "%s|%s|%s\n", entry->path, entry->kind,
		 entry->about);
	return told->stop_after > 0 && --told->stop_after == 0 ? 42 : 0;
}

static const struct {
	const char *directory;
	struct turn turns[3];
	const char *told;
	int result;
} lists[] = {
	{ NULL,
	  { { ".kaiso/list\r\n", "a b\tunix\t\r\nd/e\ttcp\tabout it\r\nm/\tmount\tx\ty\r\n\r\nrest", ENDS } },
	  "a b|unix|\nd/e|tcp|about it\nm/|mount|x\ty\n",
	  0 },
	{ "", { { ".kaiso/list\r\n", "\r\n", STAYS } }, "", 0 },
	{ "d", { { ".kaiso/list d/\r\n", "d/e\ttcp\t\n\n", ENDS } }, "d/e|tcp|\n", 0 },
	{ "d/", { { ".kaiso/list d/\r\n", "d/e\r\n\r\n", ENDS } }, "d/e||\n", 0 },
	{ NULL,
	  { { ".kaiso/list\r\n", "", ENDS }, { "\r\n", "foo\r\nbar\tno kind\r\n\r\n", ENDS } },
	  "foo||\nbar\tno kind||\n",
	  0 },
	{ NULL, { { ".kaiso/list\r\n", "", RESETS }, { "\r\n", "\r\n", ENDS } }, "", 0 },
	{ "no", { { ".kaiso/list no/\r\n", "", ENDS }, { "no/\r\n", "", ENDS } }, "", -ENOENT },
	{ NULL, { { ".kaiso/list\r\n", "", ENDS }, { "\r\n", "", ENDS } }, "", -ECONNRESET },
	{ NULL, { { ".kaiso/list\r\n", "a\tunix\t\r\nb", ENDS } }, "a|unix|\n", -ECONNRESET },
	{ NULL, { { ".kaiso/list\r\n", "a\tunix\t\r\n", RESETS } }, NULL, -ECONNRESET },
};

static void test_lists(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lists) * 2; i++) {
		struct told told = { 0 };
		struct router router;
		int r;

		router_start(&router, lists[i / 2].turns, i % 2);
		r = kaiso_list(router.address, lists[i / 2].directory, PATIENCE_MS, tell, &told);
		assert_int_equal(r, lists[i / 2].result);
		if (lists[i / 2].told)
			assert_string_equal(told.text, lists[i / 2].told);
		router_stop(&router);
	}
}

static void test_a_list_that_is_stopped(void **state)
{
	const struct turn turns[] = {
		{ ".kaiso/list\r\n", "a\tunix\t\r\nb\tunix\t\r\nc\tunix\t\r\n\r\n", ENDS }, { 0 }
	};
	struct told told = { .stop_after = 2 };
	struct router router;

	(void)state;
	router_start(&router, turns, false);
	assert_int_equal(kaiso_list(router.address, NULL, PATIENCE_MS, tell, &told), 42);
	assert_string_equal(told.text, "a|unix|\nb|unix|\n");
	router_stop(&router);
}

static void test_a_list_of_one_endless_line(void **state)
{
	static char endless[80 << 10];
	const struct turn turns[] = { { ".kaiso/list\r\n", endless, ENDS }, { 0 } };
	struct told told = { 0 };
	struct router router;

	(void)state;
	memset(endless, 'a', sizeof(endless) - 1);
	router_start(&router, turns, false);
	assert_int_equal(kaiso_list(router.address, NULL, PATIENCE_MS, tell, &told), -EPROTO);
	assert_string_equal(told.text, "");
	router_stop(&router);
}

/* --------------------------------------------------------------- receiving */

#define SOCKET "receiver"

/* A connection to the receiver, as a router makes it. */
static int router_connect(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* A client's connection: its own end, and the one that is handed over. */
struct client {
	int own_fd, router_fd;
	struct sockaddr_in name;
};

static struct client client_make(void)
{
	char address[40];
	int listener_fd = listen_tcp(address, sizeof(address));
	struct client client = { .own_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) };
	struct sockaddr_in in;
	socklen_t length = sizeof(in);

	getsockname(listener_fd, (struct sockaddr *)&in, &length);
	assert_int_equal(connect(client.own_fd, (struct sockaddr *)&in, length), 0);
	length = sizeof(client.name);
	getsockname(client.own_fd, (struct sockaddr *)&client.name, &length);
	client.router_fd = accept4(listener_fd, NULL, NULL, SOCK_CLOEXEC);
	assert_true(client.router_fd >= 0);
	close(listener_fd);
	return client;
}

/* Hands a new client over. Its own end, which begins with a number. */
static int hand_over(int router, unsigned number)
{
	struct client client = client_make();

	assert_int_equal(send(client.own_fd, &number, sizeof(number), 0), sizeof(number));
	assert_int_equal(fdpass_send(router, '*', client.router_fd), 0);
	close(client.router_fd);
	return client.own_fd;
}

static unsigned take_number(int client_fd)
{
	unsigned number = ~0u;

	recv(client_fd, &number, sizeof(number), MSG_WAITALL);
	close(client_fd);
	return number;
}

static struct kaiso_receiver *receiver_make(int flags)
{
	struct kaiso_receiver *receiver = NULL;

	assert_int_equal(kaiso_listen(SOCKET, flags, &receiver), 0);
	return receiver;
}

static void test_flags_and_peer_of_a_client(void **state)
{
	static const int flags[] = { 0, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_CLOEXEC | SOCK_NONBLOCK };
	struct kaiso_receiver *receiver = receiver_make(0);
	int router = router_connect(SOCKET);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(flags) * 2; i++) {
		struct client client = client_make();
		struct sockaddr_storage peer;
		socklen_t length = sizeof(peer);
		char got[6] = "";
		int fd;

		if (i % 2)
			fcntl(client.router_fd, F_SETFL, O_NONBLOCK);
		send(client.own_fd, "hello", 5, 0);
		assert_int_equal(fdpass_send(router, '*', client.router_fd), 0);
		close(client.router_fd);
		fd = kaiso_accept(receiver, (struct sockaddr *)&peer, &length, flags[i / 2]);
		assert_true(fd >= 0);
		assert_int_equal(is_nonblocking(fd), (flags[i / 2] & SOCK_NONBLOCK) != 0);
		assert_int_equal(is_cloexec(fd), (flags[i / 2] & SOCK_CLOEXEC) != 0);
		assert_int_equal(length, sizeof(struct sockaddr_in));
		assert_memory_equal(&peer, &client.name, sizeof(struct sockaddr_in));
		assert_int_equal(recv(fd, got, 5, MSG_WAITALL), 5);
		assert_string_equal(got, "hello");
		close(fd);
		assert_int_equal(recv(client.own_fd, got, 1, 0), 0); /* nobody else had it open */
		close(client.own_fd);
	}
	assert_int_equal(kaiso_accept(receiver, NULL, NULL, SOCK_DGRAM), -EINVAL);
	close(router);
	kaiso_receiver_free(receiver);
}

static void test_a_peer_address_is_cut_to_its_room(void **state)
{
	struct kaiso_receiver *receiver = receiver_make(0);
	int router = router_connect(SOCKET), own = hand_over(router, 1), fd;
	char room[8];
	socklen_t length = 4;

	(void)state;
	memset(room, 'x', sizeof(room));
	fd = kaiso_accept(receiver, (struct sockaddr *)room, &length, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(length, sizeof(struct sockaddr_in));
	assert_memory_equal(room + 4, "xxxx", 4);
	close(fd);
	close(own);
	close(router);
	kaiso_receiver_free(receiver);
}

static void test_routers_are_greeted_and_keep_their_connections(void **state)
{
	struct kaiso_receiver *receiver = receiver_make(SOCK_NONBLOCK);
	int routers[4];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(routers); i++)
		routers[i] = router_connect(SOCKET);
	assert_int_equal(kaiso_accept(receiver, NULL, NULL, 0), -EAGAIN);
	for (size_t i = 0; i < ARRAY_SIZE(routers); i++) {
		char greeting[2];

		assert_int_equal(recv(routers[i], greeting, 2, MSG_DONTWAIT), 1);
		assert_int_equal(greeting[0], '+');
	}
	for (unsigned number = 0; number < 40; number++) {
		int own = hand_over(routers[number % 4], number);

		assert_int_equal(take_number(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC)), number);
		close(own);
	}
	assert_int_equal(kaiso_accept(receiver, NULL, NULL, 0), -EAGAIN);
	for (size_t i = 0; i < ARRAY_SIZE(routers); i++)
		close(routers[i]);
	assert_int_equal(kaiso_accept(receiver, NULL, NULL, 0), -EAGAIN);
	kaiso_receiver_free(receiver);
}

/* The first kaiso's way: it has left when the receiver comes to it. */
static void test_routers_that_leave_at_once(void **state)
{
	struct kaiso_receiver *receiver = receiver_make(SOCK_NONBLOCK);
	unsigned seen = 0;
	int owns[20];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(owns); i++) {
		int router = router_connect(SOCKET);

		owns[i] = hand_over(router, i);
		close(router);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(owns); i++)
		seen |= 1u << take_number(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC));
	assert_int_equal(seen, (1u << ARRAY_SIZE(owns)) - 1);
	assert_int_equal(kaiso_accept(receiver, NULL, NULL, 0), -EAGAIN);
	for (unsigned i = 0; i < ARRAY_SIZE(owns); i++)
		close(owns[i]);
	kaiso_receiver_free(receiver);
}

/* One busy router does not keep the others waiting. */
static void test_routers_take_turns(void **state)
{
	struct kaiso_receiver *receiver = receiver_make(SOCK_NONBLOCK);
	int routers[2] = { router_connect(SOCKET), router_connect(SOCKET) }, owns[20];
	unsigned of_second = 0;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(owns); i++)
		owns[i] = hand_over(routers[i < 15 ? 0 : 1], i);
	for (unsigned i = 0; i < 10; i++)
		of_second += take_number(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC)) >= 15;
	assert_in_range(of_second, 4, 5);
	for (unsigned i = 0; i < ARRAY_SIZE(owns); i++)
		close(owns[i]);
	close(routers[0]);
	close(routers[1]);
	kaiso_receiver_free(receiver);
}

static void test_silent_connections_delay_nobody_and_are_bounded(void **state)
{
	struct kaiso_receiver *receiver = receiver_make(SOCK_NONBLOCK);
	int silent[300], router = router_connect(SOCKET), own = hand_over(router, 7), closed = 0;

	(void)state;
	assert_int_equal(take_number(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC)), 7);
	close(own);
	for (size_t i = 0; i < ARRAY_SIZE(silent); i++)
		silent[i] = router_connect(SOCKET);
	own = hand_over(router, 8);
	assert_int_equal(take_number(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC)), 8);
	close(own);
	assert_int_equal(kaiso_accept(receiver, NULL, NULL, 0), -EAGAIN);
	for (size_t i = 0; i < ARRAY_SIZE(silent); i++) {
		char bytes[2];

		assert_int_equal(recv(silent[i], bytes, 1, MSG_DONTWAIT), 1);
		if (recv(silent[i], bytes, 1, MSG_DONTWAIT) == 0)
			closed++;
		close(silent[i]);
	}
	assert_int_equal(closed, 300 - 256);
	own = hand_over(router, 9); /* the one that brings clients is not the oldest silent one */
	assert_int_equal(take_number(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC)), 9);
	close(own);
	close(router);
	kaiso_receiver_free(receiver);
}

static void send_two_descriptors(int router)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control = { 0 };
	char byte = '*';
	struct iovec part = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};
	int fds[2] = { router, router };

	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(&control.header), fds, sizeof(fds));
	assert_int_equal(sendmsg(router, &message, MSG_NOSIGNAL), 1);
}

static void test_strays(void **state)
{
	struct kaiso_receiver *receiver = receiver_make(SOCK_NONBLOCK);
	int file = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)state;
	for (int i = 0; i < 7; i++) {
		int router = router_connect(SOCKET), other, own;

		if (i == 0)
			send(router, "*", 1, 0); /* no descriptor */
		else if (i == 1)
			send(router, "GET / HTTP/1.0\r\n\r\n", 18, 0);
		else if (i == 2)
			fdpass_send(router, '!', file); /* another byte */
		else if (i == 3)
			fdpass_send(router, '*', file); /* not a socket */
		else if (i == 4)
			send_two_descriptors(router);
		else if (i == 5)
			shutdown(router, SHUT_WR);
		assert_int_equal(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC), -EAGAIN);
		other = router_connect(SOCKET);
		own = hand_over(other, 5);
		assert_int_equal(take_number(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC)), 5);
		close(own);
		close(other);
		close(router);
	}
	close(file);
	kaiso_receiver_free(receiver);
}

static void test_clients_that_were_reset_are_left_out(void **state)
{
	const struct linger reset = { .l_onoff = 1, .l_linger = 0 };
	struct kaiso_receiver *receiver = receiver_make(SOCK_NONBLOCK);
	int router = router_connect(SOCKET), own = hand_over(router, 1), ended;

	(void)state;
	setsockopt(own, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(own);
	ended = hand_over(router, 2); /* a clean end is no reset */
	close(ended);
	own = hand_over(router, 3);
	assert_int_equal(take_number(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC)), 2);
	assert_int_equal(take_number(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC)), 3);
	assert_int_equal(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC), -EAGAIN);
	close(own);
	close(router);
	kaiso_receiver_free(receiver);
}

/* Leaves room for so many more descriptors, below the first gap's end; the limit that was. */
static struct rlimit limit_descriptors(int room)
{
	struct rlimit limit, lowered;
	int fds[8], highest = -1;

	assert_true(room < 8);
	for (int i = 0; i <= room; i++)
		highest = fds[i] = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
	for (int i = 0; i <= room; i++)
		close(fds[i]);
	getrlimit(RLIMIT_NOFILE, &limit);
	lowered = limit;
	lowered.rlim_cur = (rlim_t)highest;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &lowered), 0);
	return limit;
}

static void test_no_client_is_lost_at_the_limit_of_descriptors(void **state)
{
	struct kaiso_receiver *receiver = receiver_make(SOCK_NONBLOCK);
	int router = router_connect(SOCKET), owns[4], clients[4], late;
	struct rlimit limit;

	(void)state;
	assert_int_equal(kaiso_accept(receiver, NULL, NULL, 0), -EAGAIN);
	for (unsigned i = 0; i < 4; i++)
		owns[i] = hand_over(router, i);
	limit = limit_descriptors(1); /* and the one in reserve */
	for (int i = 0; i < 2; i++)
		clients[i] = kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC);
	for (int i = 0; i < 3; i++)
		assert_int_equal(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC), -EMFILE);
	assert_int_equal(take_number(clients[0]), 0);
	clients[2] = kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC);
	assert_int_equal(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC), -EMFILE);
	setrlimit(RLIMIT_NOFILE, &limit);
	clients[3] = kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC);
	for (unsigned i = 1; i < 4; i++)
		assert_int_equal(take_number(clients[i]), i);

	/* A router that connects at the limit waits likewise. */
	late = router_connect(SOCKET);
	limit = limit_descriptors(0);
	assert_int_equal(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC), -EMFILE);
	setrlimit(RLIMIT_NOFILE, &limit);
	close(owns[0]);
	owns[0] = hand_over(late, 9);
	assert_int_equal(take_number(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC)), 9);
	for (int i = 0; i < 4; i++)
		close(owns[i]);
	close(late);
	close(router);
	kaiso_receiver_free(receiver);
}

/* More of them than there are descriptors, and all get a client: with no descriptor left for the clients,
 * nothing would ever move again. */
static void test_waiting_connections_leave_room_for_clients(void **state)
{
	enum { ROUTERS = 7 };
	struct kaiso_receiver *receiver = receiver_make(SOCK_NONBLOCK);
	struct client clients[ROUTERS];
	struct rlimit limit;
	int routers[ROUTERS];
	unsigned seen = 0;

	(void)state;
	for (unsigned i = 0; i < ROUTERS; i++) {
		routers[i] = router_connect(SOCKET);
		clients[i] = client_make();
		send(clients[i].own_fd, &i, sizeof(i), 0);
	}
	limit = limit_descriptors(5);
	assert_int_equal(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC), -EMFILE);
	for (unsigned i = 0; i < ROUTERS; i++)
		assert_int_equal(fdpass_send(routers[i], '*', clients[i].router_fd), 0);
	for (int round = 0; round < 100 && seen != (1u << ROUTERS) - 1; round++) {
		int client = kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC);

		if (client >= 0)
			seen |= 1u << take_number(client);
	}
	setrlimit(RLIMIT_NOFILE, &limit);
	/* Those that were accepted keep their connections, so the last ones had to wait for the limit to rise. */
	assert_true(seen != 0);
	for (unsigned i = 0; i < ROUTERS; i++) {
		close(routers[i]);
		close(clients[i].own_fd);
		close(clients[i].router_fd);
	}
	kaiso_receiver_free(receiver);
}

static void on_alarm(int number)
{
	(void)number;
}

static void test_waiting_ends_with_a_signal(void **state)
{
	const struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	/* Again and again: the first may come before the wait. */
	const struct itimerval soon = { .it_interval = { .tv_usec = 20000 },
					.it_value = { .tv_usec = 20000 } };
	const struct itimerval never = { { 0 }, { 0 } };
	struct kaiso_receiver *receiver = receiver_make(0);
	struct sigaction before;

	(void)state;
	sigaction(SIGALRM, &action, &before);
	setitimer(ITIMER_REAL, &soon, NULL);
	assert_int_equal(kaiso_accept(receiver, NULL, NULL, 0), -EINTR);
	setitimer(ITIMER_REAL, &never, NULL);
	sigaction(SIGALRM, &before, NULL);
	kaiso_receiver_free(receiver);
}

struct taker {
	struct kaiso_receiver *receiver;
	pthread_t thread;
	unsigned taken;
	unsigned long long sum;
};

static void *taker_run(void *argument)
{
	struct taker *taker = argument;

	for (;;) {
		unsigned number = take_number(kaiso_accept(taker->receiver, NULL, NULL, SOCK_CLOEXEC));

		if (number == 0)
			return NULL;
		taker->taken++;
		taker->sum += number;
	}
}

static void test_many_threads_share_a_receiver(void **state)
{
	enum { TAKERS = 4, CLIENTS = 200 };
	struct kaiso_receiver *receiver = receiver_make(0);
	struct taker takers[TAKERS];
	unsigned long long sum = 0;
	unsigned taken = 0;
	int routers[3], owns[CLIENTS + TAKERS];

	(void)state;
	for (int i = 0; i < TAKERS; i++) {
		takers[i] = (struct taker){ .receiver = receiver };
		assert_int_equal(pthread_create(&takers[i].thread, NULL, taker_run, &takers[i]), 0);
	}
	for (int i = 0; i < 3; i++)
		routers[i] = router_connect(SOCKET);
	/* The last ones, with 0, tell the threads to end. */
	for (unsigned i = 0; i < CLIENTS; i++)
		owns[i] = hand_over(routers[i % 3], i + 1);
	for (unsigned i = CLIENTS; i < CLIENTS + TAKERS; i++)
		owns[i] = hand_over(routers[0], 0);
	for (int i = 0; i < TAKERS; i++) {
		pthread_join(takers[i].thread, NULL);
		taken += takers[i].taken;
		sum += takers[i].sum;
	}
	for (; taken < CLIENTS; taken++) /* those that other routers' connections still hold */
		sum += take_number(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC));
	assert_int_equal(sum, CLIENTS * (CLIENTS + 1) / 2);
	for (size_t i = 0; i < ARRAY_SIZE(owns); i++)
		close(owns[i]);
	for (int i = 0; i < 3; i++)
		close(routers[i]);
	kaiso_receiver_free(receiver);
}

/* --------------------------------------------------------- its socket file */

static bool exists(const char *path)
{
	struct stat found;

	return lstat(path, &found) == 0;
}

static void test_the_file_comes_and_goes(void **state)
{
	struct kaiso_receiver *receiver = receiver_make(0), *other = NULL;
	struct stat found;

	(void)state;
	assert_int_equal(lstat(SOCKET, &found), 0);
	assert_true(S_ISSOCK(found.st_mode));
	assert_int_equal(kaiso_listen(SOCKET, 0, &other), -EADDRINUSE);
	assert_int_equal(kaiso_listen("./" SOCKET, SOCK_NONBLOCK, &other), -EADDRINUSE);
	assert_int_equal(kaiso_listen(SOCKET, SOCK_CLOEXEC, &other), -EINVAL);
	close(router_connect(SOCKET));
	assert_int_equal(chdir("services"), 0);
	kaiso_receiver_free(receiver);
	assert_int_equal(chdir(".."), 0);
	assert_false(exists(SOCKET));
	kaiso_receiver_free(NULL);
}

static void test_what_is_stale_is_replaced(void **state)
{
	struct kaiso_receiver *receiver;
	int router, own;

	(void)state;
	workplace_make_socket(SOCKET);
	receiver = receiver_make(0);
	router = router_connect(SOCKET);
	own = hand_over(router, 3);
	assert_int_equal(take_number(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC)), 3);
	close(own);
	close(router);
	kaiso_receiver_free(receiver);
}

static void test_what_is_no_socket_is_left_alone(void **state)
{
	struct kaiso_receiver *receiver = NULL;

	(void)state;
	workplace_make_file("file", "content");
	workplace_make_socket("stale");
	assert_int_equal(symlink("stale", "link"), 0);
	assert_int_equal(kaiso_listen("file", 0, &receiver), -ENOTSOCK);
	assert_int_equal(kaiso_listen("services", 0, &receiver), -ENOTSOCK);
	assert_int_equal(kaiso_listen("link", 0, &receiver), -ENOTSOCK);
	assert_int_equal(kaiso_listen("", 0, &receiver), -EINVAL);
	assert_int_equal(kaiso_listen("services/", 0, &receiver), -EINVAL);
	assert_int_equal(kaiso_listen("no/where", 0, &receiver), -ENOENT);
	assert_true(exists("file") && exists("stale") && exists("link"));
}

static void test_another_file_at_the_end_is_left_alone(void **state)
{
	struct kaiso_receiver *receiver = receiver_make(0);

	(void)state;
	assert_int_equal(unlink(SOCKET), 0);
	workplace_make_file(SOCKET, "content");
	kaiso_receiver_free(receiver);
	assert_true(exists(SOCKET));
}

static void test_long_paths(void **state)
{
	char path[300] = "";
	struct kaiso_receiver *receiver = NULL;

	(void)state;
	for (int i = 0; i < 3; i++) {
		memset(path + strlen(path), 'd', 60);
		assert_int_equal(mkdir(path, 0700), 0);
		strcat(path, "/");
	}
	strcat(path, "name-of-the-socket");
	assert_int_equal(kaiso_listen(path, 0, &receiver), 0);
	assert_true(exists(path));
	kaiso_receiver_free(receiver);
	assert_false(exists(path));
	*strrchr(path, '/') = '\0';
	strcat(path, "/");
	memset(path + strlen(path), 'n', 100);
	assert_int_equal(kaiso_listen(path, 0, &receiver), -ENAMETOOLONG);
}

/* A child that gives it up changes nothing for the parent. */
static void test_a_child_that_frees_the_receiver(void **state)
{
	struct kaiso_receiver *receiver = receiver_make(0);
	int router = router_connect(SOCKET), own = hand_over(router, 1), status;
	pid_t child;

	(void)state;
	assert_int_equal(take_number(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC)), 1);
	close(own);
	child = fork();
	if (child == 0) {
		kaiso_receiver_free(receiver);
		_exit(exists(SOCKET) ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	own = hand_over(router, 2);
	assert_int_equal(take_number(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC)), 2);
	close(own);
	close(router);
	kaiso_receiver_free(receiver);
}

/* Its copies keep connections open that have ended for the parent. */
static void test_a_child_that_keeps_the_receiver(void **state)
{
	struct kaiso_receiver *receiver = receiver_make(SOCK_NONBLOCK);
	int router = router_connect(SOCKET), pipe_ends[2], own;
	pid_t child;
	char byte;

	(void)state;
	assert_int_equal(kaiso_accept(receiver, NULL, NULL, 0), -EAGAIN);
	assert_int_equal(pipe2(pipe_ends, O_CLOEXEC), 0);
	child = fork();
	if (child == 0) {
		close(pipe_ends[1]);
		close(router);
		_exit(read(pipe_ends[0], &byte, 1) == 0 ? 0 : 1);
	}
	send(router, "?", 1, 0); /* that ends the connection */
	assert_int_equal(kaiso_accept(receiver, NULL, NULL, 0), -EAGAIN);
	send(router, "?", 1, MSG_NOSIGNAL); /* what the child's copy still gets must not be the parent's */
	close(router);
	for (int i = 0; i < 10; i++)
		assert_int_equal(kaiso_accept(receiver, NULL, NULL, 0), -EAGAIN);
	router = router_connect(SOCKET);
	own = hand_over(router, 2);
	assert_int_equal(take_number(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC)), 2);
	close(pipe_ends[1]);
	assert_int_equal(waitpid(child, NULL, 0), child);
	close(pipe_ends[0]);
	close(own);
	close(router);
	kaiso_receiver_free(receiver);
}

static void test_a_listener_of_the_callers(void **state)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = SOCKET };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), router, own, pair[2];
	struct kaiso_receiver *receiver = NULL;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(kaiso_listen_on(pair[0], 0, &receiver), -EINVAL);
	assert_int_equal(kaiso_listen_on(-1, 0, &receiver), -EINVAL);
	assert_int_equal(kaiso_listen_on(fd, 0, &receiver), -EINVAL);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 8), 0);
	assert_int_equal(kaiso_listen_on(fd, 0, &receiver), 0);
	assert_true(is_cloexec(fd));
	router = router_connect(SOCKET);
	own = hand_over(router, 4);
	assert_int_equal(take_number(kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC)), 4);
	kaiso_receiver_free(receiver);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_true(exists(SOCKET));
	close(own);
	close(router);
	close(pair[0]);
	close(pair[1]);
}

static void test_words_for_errors(void **state)
{
	(void)state;
	assert_string_equal(kaiso_strerror(-ENOENT), kaiso_strerror(ENOENT));
	assert_string_equal(kaiso_strerror(-EMFILE), strerror(EMFILE));
	assert_string_equal(kaiso_version(), KAISO_VERSION);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FIXTURE_TEST(test_every_verdict),
		FIXTURE_TEST(test_a_verdict_without_end),
		FIXTURE_TEST(test_exactly_the_verdict_is_consumed),
		FIXTURE_TEST(test_a_router_that_knows_no_verdict),
		FIXTURE_TEST(test_a_service_that_such_a_router_does_not_have),
		FIXTURE_TEST(test_a_silent_router),
		FIXTURE_TEST(test_nobody_there),
		FIXTURE_TEST(test_words_that_make_no_sense),
		FIXTURE_TEST(test_the_longest_service),
		FIXTURE_TEST(test_forms_of_the_router),
		FIXTURE_TEST(test_dialling_step_by_step),
		FIXTURE_TEST(test_dialling_a_router_without_verdicts_step_by_step),
		FIXTURE_TEST(test_dialling_that_fails_step_by_step),
		FIXTURE_TEST(test_lists),
		FIXTURE_TEST(test_a_list_that_is_stopped),
		FIXTURE_TEST(test_a_list_of_one_endless_line),
		WORKPLACE_TEST(test_flags_and_peer_of_a_client),
		WORKPLACE_TEST(test_a_peer_address_is_cut_to_its_room),
		WORKPLACE_TEST(test_routers_are_greeted_and_keep_their_connections),
		WORKPLACE_TEST(test_routers_that_leave_at_once),
		WORKPLACE_TEST(test_routers_take_turns),
		WORKPLACE_TEST(test_silent_connections_delay_nobody_and_are_bounded),
		WORKPLACE_TEST(test_strays),
		WORKPLACE_TEST(test_clients_that_were_reset_are_left_out),
		WORKPLACE_TEST(test_no_client_is_lost_at_the_limit_of_descriptors),
		WORKPLACE_TEST(test_waiting_connections_leave_room_for_clients),
		WORKPLACE_TEST(test_waiting_ends_with_a_signal),
		WORKPLACE_TEST(test_many_threads_share_a_receiver),
		WORKPLACE_TEST(test_the_file_comes_and_goes),
		WORKPLACE_TEST(test_what_is_stale_is_replaced),
		WORKPLACE_TEST(test_what_is_no_socket_is_left_alone),
		WORKPLACE_TEST(test_another_file_at_the_end_is_left_alone),
		WORKPLACE_TEST(test_long_paths),
		WORKPLACE_TEST(test_a_child_that_frees_the_receiver),
		WORKPLACE_TEST(test_a_child_that_keeps_the_receiver),
		WORKPLACE_TEST(test_a_listener_of_the_callers),
		FIXTURE_TEST(test_words_for_errors),
	};

	return FIXTURE_RUN(tests);
}
