/*
 * Paths to services, over a real directory that changes between one look and
 * the next. The clock of the catalog can be put forward, so that a file counts as one
 * that is at rest.
 */
#include "workplace.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/macros.h"
#include "router/catalog.h"

static time_t clock_ahead_seconds;

/* In place of the C library's, for the program under test too. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
	int r = (int)syscall(SYS_clock_gettime, clock, now);

	now->tv_sec += clock_ahead_seconds;
	return r;
}

static struct loop loop;
static struct catalog catalog;

/* What the latest look found. */
static struct service *found;
static int connection;
static struct catalog_problem problem;
static struct policies *policies;
static struct backends backends;
static const union addr client = { .in = { .sin_family = AF_INET } };

static int catalog_setup(void **state)
{
	clock_ahead_seconds = 0;
	if (workplace_setup(state) != 0 || loop_init(&loop) != 0)
		return -1;
	backends_init(&backends);
	policies = policies_new("services");
	if (!policies)
		return -1;
	return catalog_init(&catalog, &loop, "services", policies, &backends);
}

static int catalog_teardown(void **state)
{
	catalog_deinit(&catalog);
	loop_run_out(&loop);
	loop_deinit(&loop);
	policies_free(policies);
	backends_deinit(&backends);
	return workplace_teardown(state);
}

/* The service is the caller's to drop(), the connection is closed. */
static int look(const char *path)
{
	int r;

	connection = INT_MIN;
	r = catalog_open(&catalog, path, strlen(path), &client, &found, &connection, &problem);
	assert_non_null(found);
	assert_string_equal(found->path, path);
	if (r < 0)
		assert_int_equal(found->kind, SERVICE_UNKNOWN);
	else if (found->kind != SERVICE_SOCKET && found->kind != SERVICE_UNIX)
		assert_true(connection < 0);
	if (r == 0 && connection >= 0)
		close(connection);
	return r;
}

static void drop(void)
{
	service_unref(found);
	found = NULL;
	loop_run_out(&loop);
}

static void assert_absent(const char *path)
{
	assert_int_equal(look(path), -ENOENT);
	drop();
}

static void assert_socket(const char *path)
{
	assert_int_equal(look(path), 0);
	assert_int_equal(found->kind, SERVICE_SOCKET);
	assert_true(connection >= 0);
	drop();
}

static void assert_port(const char *path, unsigned port)
{
	assert_int_equal(look(path), 0);
	assert_int_equal(found->kind, SERVICE_TCP);
	assert_int_equal(found->targets->port, port);
	drop();
}

static int listen_at(const char *path, int type, int backlog)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	assert_true(strlen(path) < sizeof(address.sun_path));
	strcpy(address.sun_path, path);
	assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
	if (type == SOCK_STREAM)
		assert_int_equal(listen(fd, backlog), 0);
	return fd;
}

/* ---- sockets --------------------------------------------------------------------------------------- */

static void test_socket(void **state)
{
	int listener = listen_at("services/s", SOCK_STREAM, 8);
	struct service *service;
	char byte = 'x';
	int accepted;

	(void)state;
	assert_int_equal(catalog_open(&catalog, "s", 1, &client, &service, &connection, &problem), 0);
	assert_int_equal(service->kind, SERVICE_SOCKET);
	assert_string_equal(service->path, "s");
	assert_string_equal(service->targets->socket_path, "services/s");
	assert_string_equal(service->targets->text, "unix");
	assert_int_equal(service->hash, catalog_path_hash("s", 1));
	assert_true((fcntl(connection, F_GETFL) & O_NONBLOCK) != 0);
	assert_int_equal(fcntl(connection, F_GETFD), FD_CLOEXEC);
	accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_int_equal(write(connection, &byte, 1), 1);
	assert_int_equal(read(accepted, &byte, 1), 1);
	close(accepted);
	close(connection);
	close(listener);
	service_unref(service);
}

static void test_path_is_not_terminated(void **state)
{
	int listener = listen_at("services/s", SOCK_STREAM, 8);
	struct service *service;

	(void)state;
	assert_int_equal(catalog_open(&catalog, "square", 1, &client, &service, &connection, &problem), 0);
	assert_string_equal(service->path, "s");
	assert_true(connection >= 0);
	close(connection);
	close(listener);
	service_unref(service);
}

/* It is there, but not to be had at the moment. */
static void test_socket_that_cannot_be_connected(void **state)
{
	int datagrams = listen_at("services/datagrams", SOCK_DGRAM, 0);
	int full = listen_at("services/full", SOCK_STREAM, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "services/full" };
	int waiting = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	workplace_make("s:deserted");
	assert_int_equal(connect(waiting, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(look("deserted"), 0);
	assert_int_equal(found->kind, SERVICE_SOCKET);
	assert_int_equal(connection, -EAGAIN); /* made just now: it may be about to listen */
	drop();
	assert_int_equal(look("full"), 0);
	assert_int_equal(found->kind, SERVICE_SOCKET);
	assert_int_equal(connection, -EAGAIN);
	drop();
	assert_int_equal(look("datagrams"), 0);
	assert_int_equal(found->kind, SERVICE_SOCKET);
	assert_int_equal(connection, -EPROTOTYPE);
	drop();
	close(waiting);
	close(full);
	close(datagrams);
}

/* A socket that was made a moment ago may be about to listen; this lets the moment pass. */
static void let_sockets_age(void)
{
	static const struct timespec moment = { .tv_nsec = 250 * 1000 * 1000 };

	nanosleep(&moment, NULL);
}

static void test_socket_keeps_its_object(void **state)
{
	int listener = listen_at("services/s", SOCK_STREAM, 8);
	struct service *first;

	(void)state;
	assert_int_equal(look("s"), 0);
	first = found;
	assert_int_equal(look("s"), 0);
	assert_ptr_equal(found, first);
	close(listener);
	let_sockets_age();
	assert_int_equal(look("s"), 0);
	assert_int_equal(connection, -ECONNREFUSED);
	assert_ptr_equal(found, first);
	assert_int_equal(first->references, 3);
	drop();
	service_unref(first);
	service_unref(first);
	service_unref(NULL);
}

/* ---- descriptions ---------------------------------------------------------------------------------- */

struct described {
	const char *content;
	enum service_kind kind;
	const char *target;
	const char *host;
	uint16_t port;
	const char *remote;
	const char *socket_path;
	uint16_t knock_port;
	int family;
};

static const struct described described[] = {
	{ "host:80\n", SERVICE_TCP, "host:80", "host", 80, "", NULL, 0, AF_UNSPEC },
	{ "127.0.0.1:81\r\n", SERVICE_TCP, "127.0.0.1:81", "127.0.0.1", 81, "", NULL, 0, AF_INET },
	{ "[::1]:65535", SERVICE_TCP, "[::1]:65535", "::1", 65535, "", NULL, 0, AF_INET6 },
	{ "host:1 a/b c  \n", SERVICE_KAISO, "host:1 a/b c", "host", 1, "a/b c", NULL, 0, AF_UNSPEC },
	{ "192.0.2.1:2 s\n", SERVICE_KAISO, "192.0.2.1:2 s", "192.0.2.1", 2, "s", NULL, 0, AF_INET },
	{ "a/b.sock\n", SERVICE_UNIX, "a/b.sock", "", 0, "", "services/a/b.sock", 0, AF_UNSPEC },
	{ "/no/where", SERVICE_UNIX, "/no/where", "", 0, "", "/no/where", 0, AF_UNSPEC },
	{ "./a:b\n", SERVICE_UNIX, "./a:b", "", 0, "", "services/./a:b", 0, AF_UNSPEC },
	{ "s passfd\n", SERVICE_PASSFD, "s passfd", "", 0, "", "services/s", 0, AF_UNSPEC },
	{ "/s passfd:99\n", SERVICE_PASSFD, "/s passfd:99", "", 0, "", "/s", 99, AF_UNSPEC },
};

static void test_descriptions(void **state)
{
	(void)state;
	mkdir("services/d", 0755);
	for (size_t i = 0; i < ARRAY_SIZE(described); i++) {
		const struct described *expected = &described[i];

		workplace_make_file("services/d/f", expected->content);
		assert_int_equal(look("d/f"), 0);
		assert_int_equal(found->kind, expected->kind);
		assert_string_equal(found->targets->text, expected->target);
		assert_string_equal(found->targets->host, expected->host);
		assert_int_equal(found->targets->port, expected->port);
		assert_string_equal(found->targets->remote, expected->remote);
		if (expected->socket_path)
			assert_string_equal(found->targets->socket_path, expected->socket_path);
		assert_int_equal(found->targets->knock_port, expected->knock_port);
		assert_int_equal(found->targets->address.sa.sa_family, expected->family);
		if (expected->family == AF_INET)
			assert_int_equal(ntohs(found->targets->address.in.sin_port), expected->port);
		if (expected->kind == SERVICE_UNIX)
			assert_int_equal(connection, -ENOENT);
		drop();
	}
}

/* The socket that a description names is connected at once, wherever the description lies. */
static void test_description_of_a_socket(void **state)
{
	int inside, outside;
	char line[PATH_MAX];

	(void)state;
	mkdir("services/d", 0755);
	mkdir("out", 0755);
	inside = listen_at("services/.s", SOCK_STREAM, 8);
	outside = listen_at("out/s", SOCK_STREAM, 8);
	workplace_make_file("services/d/inside", ".s\n");
	assert_non_null(getcwd(line, sizeof(line) - 8));
	workplace_make_file("services/outside", strcat(line, "/out/s"));
	workplace_make_file("services/s passfd", "s passfd\n");
	for (int i = 0; i < 2; i++) {
		assert_int_equal(look("d/inside"), 0);
		assert_true(connection >= 0);
		drop();
		assert_int_equal(look("outside"), 0);
		assert_true(connection >= 0);
		drop();
	}
	close(inside);
	close(outside);
	let_sockets_age();
	assert_int_equal(look("d/inside"), 0);
	assert_int_equal(connection, -ECONNREFUSED);
	drop();
	/* Who takes the clients' own sockets is not connected by the look. */
	assert_int_equal(look("s passfd"), 0);
	assert_true(connection < 0);
	drop();
}

static void test_invalid_descriptions(void **state)
{
	static const char *const contents[] = { "",         "\n",           "# comment\n",
						"host:0\n", "host:99999\n", " host:80\n" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(contents); i++) {
		workplace_make_file("services/f", contents[i]);
		problem.error.reason[0] = '\0';
		if (contents[i][0] == '\0') {
			assert_int_equal(look("f"), -EAGAIN); /* somebody may be about to write it */
			drop();
		}
		clock_ahead_seconds = 1;
		assert_int_equal(look("f"), -EINVAL);
		clock_ahead_seconds = 0;
		assert_string_not_equal(problem.error.reason, "");
		drop();
	}
	workplace_make_file("services/f", "host:80\n");
	assert_int_equal(truncate("services/f", DESCRIPTION_SIZE_MAX + 1), 0);
	assert_int_equal(look("f"), -EINVAL);
	assert_non_null(strstr(problem.error.reason, "64 KiB"));
	drop();
	workplace_make_file("services/f", "host:80\n");
	assert_port("f", 80);
	/* What was valid once is not served for ever. */
	workplace_make_file("services/f", "host:0\n");
	assert_int_equal(look("f"), -EINVAL);
	drop();
}

static void test_description_of_64_kib(void **state)
{
	FILE *file = fopen("services/f", "we");

	(void)state;
	fputs("host:80\n", file);
	for (int i = 8; i < DESCRIPTION_SIZE_MAX; i += 8)
		fputs("# more \n", file);
	assert_int_equal(ftell(file), DESCRIPTION_SIZE_MAX);
	fclose(file);
	assert_port("f", 80);
}

/* ---- what lies where ------------------------------------------------------------------------------- */

static void test_what_is_no_service(void **state)
{
	static const char *const paths[] = { "none",   "d",   "fifo",   "gone", "self",
					     "device", "f/x", "d/none", "e/f" };
	char longest[PATH_MAX];

	(void)state;
	workplace_make_all((const char *const[]){ "d:d", "p:fifo", "l:gone>nowhere", "l:self>self",
						  "l:device>/dev/null", "f:f", "l:to-d>d", NULL });
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		assert_absent(paths[i]);
	assert_absent("to-d");
	/* Longer than a file name may be, and longer than a path may be. */
	memset(longest, 'n', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	assert_absent(longest);
	for (size_t i = 1; i < sizeof(longest) - 1; i += 2)
		longest[i] = '/';
	assert_absent(longest);
}

static void test_links(void **state)
{
	int listener;

	(void)state;
	mkdir("out", 0755);
	listener = listen_at("out/s", SOCK_STREAM, 8);
	workplace_make_file("out/f", "host:81\n");
	workplace_make_all((const char *const[]){ "f:.hidden", "l:a>.hidden", "l:b>a", "l:c>../out/s",
						  "l:d>../out/f", "l:e>../out", NULL });
	assert_port("a", 80);
	assert_port("b", 80);
	assert_socket("c");
	assert_port("d", 81);
	assert_socket("e/s");
	assert_port("e/f", 81);
	/* To another target, at once. */
	assert_int_equal(unlink("services/a"), 0);
	workplace_make("l:a>../out/f");
	assert_port("a", 81);
	assert_port("b", 81);
	close(listener);
}

/* Goes into directories of 100 bytes each until their path has 4000; the innermost's descriptor. */
static int make_deep(char path[4096])
{
	char name[100];
	int fd = open("services", O_PATH | O_CLOEXEC);

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	path[0] = '\0';
	for (int i = 0; i < 40; i++) {
		int parent = fd;

		assert_int_equal(mkdirat(parent, name, 0755), 0);
		fd = openat(parent, name, O_PATH | O_CLOEXEC);
		assert_true(fd >= 0);
		close(parent);
		strcat(strcat(path, name), "/");
	}
	return fd;
}

static void test_deep_paths(void **state)
{
	char path[4096], socket_path[64];
	int fd = make_deep(path);
	int file = openat(fd, "f", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	size_t length = strlen(path);
	int listener;

	(void)state;
	assert_int_equal(write(file, "host:80\n", 8), 8);
	close(file);
	snprintf(socket_path, sizeof(socket_path), "/proc/self/fd/%d/s", fd);
	listener = listen_at(socket_path, SOCK_STREAM, 8);
	assert_absent(path);
	strcpy(path + length, "s");
	for (int i = 0; i < 2; i++)
		assert_socket(path);
	strcpy(path + length, "f");
	clock_ahead_seconds = 10;
	for (int i = 0; i < 2; i++)
		assert_port(path, 80);
	strcpy(path + length, "none");
	assert_absent(path);
	strcpy(path + length, "f/x");
	assert_absent(path);
	close(listener);
	close(fd);
}

/* The directory's own name may take a path beyond what the system takes at once. */
static void test_deep_path_in_a_deep_directory(void **state)
{
	static char services[4096 + 16];
	struct catalog deep;
	char path[4096];
	int fd = make_deep(path);
	int file = openat(fd, "f", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	char *end = path + strlen(path);
	struct policies *deep_policies;
	struct service *service;

	(void)state;
	assert_int_equal(write(file, "host:80\n", 8), 8);
	close(file);
	close(fd);
	/* A half of it as services, and the way to services and back again before that. */
	for (int i = 0; i < 100; i++)
		strcat(services, "services/../");
	memcpy(stpcpy(services + strlen(services), "services/"), path, 1999);
	strcpy(end, "f");
	deep_policies = policies_new(services);
	assert_non_null(deep_policies);
	assert_int_equal(catalog_init(&deep, &loop, services, deep_policies, &backends), 0);
	assert_true(strlen(services) + 1 + strlen(path + 2000) > PATH_MAX);
	clock_ahead_seconds = 10;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(catalog_open(&deep, path + 2000, strlen(path + 2000), &client, &service,
					      &connection, &problem),
				 0);
		assert_int_equal(service->targets->port, 80);
		service_unref(service);
	}
	catalog_deinit(&deep);
	policies_free(deep_policies);
	loop_run_out(&loop);
}

/* ---- changes --------------------------------------------------------------------------------------- */

/* Over and over within one second, and with one size. */
static void test_change_is_seen_at_once(void **state)
{
	char content[16];

	(void)state;
	for (unsigned port = 100; port < 400; port++) {
		snprintf(content, sizeof(content), "host:%u\n", port);
		workplace_make_file("services/f", content);
		assert_port("f", port);
	}
	for (unsigned port = 400; port < 700; port++) {
		snprintf(content, sizeof(content), "host:%u\n", port);
		workplace_make_file("services/new", content);
		assert_int_equal(rename("services/new", "services/f"), 0);
		assert_port("f", port);
	}
}

/* Changes the file, which stays as long as it is, until that shows in its times. */
static void change_for_sure(const char *path, const char *content)
{
	struct stat before, after;

	assert_int_equal(stat(path, &before), 0);
	do {
		workplace_make_file(path, content);
		assert_int_equal(stat(path, &after), 0);
	} while (after.st_ctim.tv_sec == before.st_ctim.tv_sec &&
		 after.st_ctim.tv_nsec == before.st_ctim.tv_nsec);
}

static bool is_opened(int watcher)
{
	char events[4096];
	ssize_t length = read(watcher, events, sizeof(events));

	assert_true(length > 0 || errno == EAGAIN);
	return length > 0;
}

static void test_file_at_rest_is_read_once(void **state)
{
	int watcher = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

	(void)state;
	workplace_make("f:f");
	assert_true(inotify_add_watch(watcher, "services/f", IN_OPEN) >= 0);
	assert_port("f", 80);
	assert_true(is_opened(watcher));
	assert_port("f", 80);
	assert_true(is_opened(watcher)); /* it was too young to be trusted */
	clock_ahead_seconds = 10;
	assert_port("f", 80);
	assert_true(is_opened(watcher));
	for (int i = 0; i < 3; i++)
		assert_port("f", 80);
	assert_false(is_opened(watcher));
	change_for_sure("services/f", "host:81\n");
	assert_true(is_opened(watcher));
	assert_port("f", 81);
	assert_true(is_opened(watcher));
	assert_port("f", 81);
	assert_false(is_opened(watcher));
	close(watcher);
}

/* A clock that was put back must not make a new file an old one. */
static void test_clock_behind_the_files(void **state)
{
	(void)state;
	clock_ahead_seconds = -1000;
	workplace_make("f:f");
	assert_int_equal(look("f"), 0);
	assert_false(found->is_settled);
	drop();
}

static void test_description_and_socket_take_turns(void **state)
{
	struct service *held;

	(void)state;
	clock_ahead_seconds = 10;
	for (int i = 0; i < 3; i++) {
		int listener;

		workplace_make("f:x");
		assert_port("x", 80);
		assert_int_equal(unlink("services/x"), 0);
		assert_absent("x");
		listener = listen_at("services/x", SOCK_STREAM, 8);
		assert_socket("x");
		assert_socket("x");
		close(listener);
		assert_int_equal(unlink("services/x"), 0);
		assert_absent("x");
	}
	/* And without anybody looking in between, while a session still has the first. */
	workplace_make("f:x");
	assert_int_equal(look("x"), 0);
	held = found;
	assert_int_equal(unlink("services/x"), 0);
	close(listen_at("services/x", SOCK_STREAM, 8));
	assert_int_equal(look("x"), 0);
	assert_int_equal(found->kind, SERVICE_SOCKET);
	assert_int_equal(connection, -ECONNREFUSED);
	drop();
	assert_int_equal(unlink("services/x"), 0);
	mkdir("services/x", 0755);
	assert_absent("x");
	assert_int_equal(held->kind, SERVICE_TCP);
	assert_string_equal(held->targets->text, "host:80");
	service_unref(held);
}

static void test_services_directory_is_replaced(void **state)
{
	int old, new;

	(void)state;
	clock_ahead_seconds = 10;
	workplace_make_all((const char *const[]){ "f:f", "f:only-old", NULL });
	old = listen_at("services/s", SOCK_STREAM, 8);
	assert_port("f", 80);
	assert_socket("s");
	assert_int_equal(rename("services", "old"), 0);
	assert_absent("f");
	assert_absent("s");
	assert_int_equal(mkdir("services", 0755), 0);
	assert_absent("f");
	workplace_make_file("services/f", "host:81\n");
	new = listen_at("services/s", SOCK_STREAM, 8);
	assert_port("f", 81);
	assert_absent("only-old");
	close(old);
	assert_socket("s");
	close(new);
	/* A link in its place does as well. */
	assert_int_equal(rename("services", "new"), 0);
	assert_int_equal(symlink("old", "services"), 0);
	assert_port("f", 80);
	assert_port("only-old", 80);
}

/* A receiver may have a connection to keep, so whoever rewrites the same must not cost it that. */
static void test_same_words_keep_the_object(void **state)
{
	struct service *first;

	(void)state;
	workplace_make_file("services/f", "s passfd\n");
	assert_int_equal(look("f"), 0);
	first = found;
	workplace_make_file("services/new", "s passfd  \r\n");
	assert_int_equal(rename("services/new", "services/f"), 0);
	assert_int_equal(look("f"), 0);
	assert_ptr_equal(found, first);
	service_unref(found);

	workplace_make_file("services/f", "t passfd\n");
	assert_int_equal(look("f"), 0);
	assert_ptr_not_equal(found, first);
	assert_string_equal(found->targets->socket_path, "services/t");
	assert_string_equal(first->targets->socket_path, "services/s");
	assert_false(first->is_remembered);
	assert_true(found->is_remembered);
	service_unref(first);
	drop();
}

/* ---- what cannot be looked at ---------------------------------------------------------------------- */

static void assert_denied(void)
{
	static const char *const paths[] = { "d/s", "d/f", "d/none", "f" };

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		assert_int_equal(look(paths[i]), -EACCES);
		drop();
	}
	assert_int_equal(look("s"), 0);
	assert_int_equal(found->kind, SERVICE_SOCKET);
	assert_int_equal(connection, -EACCES);
	drop();
	assert_port("read-only", 80);
}

/* As nobody, when the test is root's; files without rights keep everybody else out, the owner too. */
static void test_permission_denied(void **state)
{
	bool is_root = geteuid() == 0;
	int listener;

	(void)state;
	workplace_make_all(
		(const char *const[]){ "d:d", "s:d/s", "f:d/f", "f:f", "f:read-only", "f:was", NULL });
	listener = listen_at("services/s", SOCK_STREAM, 8);
	clock_ahead_seconds = 10;
	assert_port("was", 80);
	assert_int_equal(chmod("services/d", 0), 0);
	assert_int_equal(chmod("services/f", 0), 0);
	assert_int_equal(chmod("services/s", 0), 0);
	assert_int_equal(chmod("services/read-only", 0444), 0);
	if (is_root)
		assert_int_equal(seteuid(65534), 0);
	assert_denied();
	if (is_root)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(chmod("services/d", 0755), 0);
	close(listener);
}

/* Lets the process open no more than it has open and so many more. */
static struct rlimit descriptors_limit(unsigned more)
{
	struct rlimit before, scarce;
	int lowest = open(".", O_PATH | O_CLOEXEC);

	getrlimit(RLIMIT_NOFILE, &before);
	scarce = before;
	scarce.rlim_cur = (rlim_t)lowest + more;
	close(lowest);
	setrlimit(RLIMIT_NOFILE, &scarce);
	return before;
}

static void test_no_descriptors_left(void **state)
{
	int listener = listen_at("services/s", SOCK_STREAM, 8);
	int results[5];
	struct rlimit before;

	(void)state;
	workplace_make_all((const char *const[]){ "f:f", "f:known", NULL });
	clock_ahead_seconds = 10;
	assert_port("known", 80);
	before = descriptors_limit(0);
	results[0] = look("s");
	drop();
	results[1] = look("f");
	drop();
	results[2] = look("known");
	drop();
	setrlimit(RLIMIT_NOFILE, &before);
	before = descriptors_limit(1);
	results[3] = look("f"); /* the file is found, but cannot be opened */
	drop();
	results[4] = look("s");
	drop();
	setrlimit(RLIMIT_NOFILE, &before);
	assert_int_equal(results[0], -EMFILE);
	assert_int_equal(results[1], -EMFILE);
	assert_int_equal(results[2], 0); /* that needs none */
	assert_int_equal(results[3], -EMFILE);
	assert_int_equal(results[4], 0);
	assert_socket("s");
	assert_port("f", 80);
	close(listener);
}

/* ---- memory ---------------------------------------------------------------------------------------- */

static size_t count_remembered(void)
{
	size_t count = 0;

	for (size_t i = 0; i < CATALOG_BUCKETS; i++)
		for (const struct service *service = catalog.buckets[i]; service; service = service->next)
			count++;
	return count;
}

/* One directory under many names, so that its file has as many paths. */
static const char *alias(unsigned number)
{
	static char path[32];

	snprintf(path, sizeof(path), "%u/f", number);
	return path;
}

enum { ALIASES = CATALOG_UNUSED_MAX + 200 };

static void make_aliases(void)
{
	char word[32];

	workplace_make_all((const char *const[]){ "d:.d", "f:.d/f", NULL });
	for (unsigned i = 0; i < ALIASES; i++) {
		snprintf(word, sizeof(word), "l:%u>.d", i);
		workplace_make(word);
	}
}

static void test_unused_services_are_bounded(void **state)
{
	struct service *early, *late;

	(void)state;
	make_aliases();
	assert_int_equal(look(alias(0)), 0);
	early = found;
	for (unsigned i = 1; i < ALIASES; i++)
		assert_port(alias(i), 80);
	assert_int_equal(catalog.unused_count, CATALOG_UNUSED_MAX);
	assert_int_equal(count_remembered(), CATALOG_UNUSED_MAX + 1);
	/* What is in use stays, however long ago it was asked for. */
	assert_int_equal(look(alias(0)), 0);
	assert_ptr_equal(found, early);
	drop();
	/* Of the others, those that were used last. */
	assert_int_equal(look(alias(ALIASES - CATALOG_UNUSED_MAX)), 0);
	late = found;
	assert_int_equal(catalog.unused_count, CATALOG_UNUSED_MAX - 1);
	assert_port(alias(1), 80);
	assert_int_equal(catalog.unused_count, CATALOG_UNUSED_MAX);
	service_unref(late);
	service_unref(early);
	loop_run_out(&loop);
	assert_int_equal(catalog.unused_count, CATALOG_UNUSED_MAX);
	assert_int_equal(count_remembered(), CATALOG_UNUSED_MAX);
}

static void test_used_services_are_not_bounded(void **state)
{
	static struct service *services[ALIASES];

	(void)state;
	make_aliases();
	for (unsigned i = 0; i < ALIASES; i++) {
		assert_int_equal(look(alias(i)), 0);
		services[i] = found;
	}
	assert_int_equal(catalog.unused_count, 0);
	assert_int_equal(count_remembered(), ALIASES);
	for (unsigned i = 0; i < ALIASES; i++)
		service_unref(services[i]);
	loop_run_out(&loop);
	assert_int_equal(catalog.unused_count, CATALOG_UNUSED_MAX);
	assert_int_equal(count_remembered(), CATALOG_UNUSED_MAX);
}

/* Paths that lead nowhere are no way to fill the memory. */
static void test_failures_are_not_remembered(void **state)
{
	char path[32];

	(void)state;
	workplace_make_file("services/bad", "host:0\n");
	for (unsigned i = 0; i < 100; i++) {
		snprintf(path, sizeof(path), "none%u", i);
		assert_absent(path);
	}
	assert_int_equal(look("bad"), -EINVAL);
	drop();
	assert_int_equal(count_remembered(), 0);
	assert_int_equal(catalog.unused_count, 0);
}

/* Names whose hashes share a bucket are told apart, and each can be forgotten. */
static void test_one_bucket(void **state)
{
	uint64_t bucket = catalog_path_hash("f", 1) % CATALOG_BUCKETS;
	char names[4][16] = { "f" };
	char path[64], content[32];
	unsigned count = 1;

	(void)state;
	for (unsigned i = 0; count < ARRAY_SIZE(names); i++) {
		snprintf(names[count], sizeof(names[count]), "%u", i);
		count += catalog_path_hash(names[count], strlen(names[count])) % CATALOG_BUCKETS == bucket;
	}
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < count; i++) {
			snprintf(path, sizeof(path), "services/%.15s", names[i]);
			snprintf(content, sizeof(content), "host:%u\n", 10 * round + i + 1);
			workplace_make_file(path, content);
			assert_port(names[i], 10 * round + i + 1);
		}
		for (unsigned i = 0; i < count; i++)
			assert_port(names[i], 10 * round + i + 1);
		assert_int_equal(count_remembered(), count);
	}
}

static void test_unknown(void **state)
{
	struct service *service = catalog_unknown(&catalog, "../x\n", 5);

	(void)state;
	assert_int_equal(service->kind, SERVICE_UNKNOWN);
	assert_string_equal(service->path, "../x\n");
	assert_int_equal(service->path_length, 5);
	assert_null(service_kind_name(service->kind));
	service_unref(service);
	assert_int_equal(count_remembered(), 0);
	assert_string_equal(service_kind_name(SERVICE_SOCKET), "unix");
	assert_string_equal(service_kind_name(SERVICE_UNIX), "unix");
	assert_string_equal(service_kind_name(SERVICE_TCP), "tcp");
	assert_string_equal(service_kind_name(SERVICE_KAISO), "kaiso");
	assert_string_equal(service_kind_name(SERVICE_PASSFD), "passfd");
}

#define CATALOG_TEST(function) cmocka_unit_test_setup_teardown(function, catalog_setup, catalog_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CATALOG_TEST(test_socket),
		CATALOG_TEST(test_path_is_not_terminated),
		CATALOG_TEST(test_socket_that_cannot_be_connected),
		CATALOG_TEST(test_socket_keeps_its_object),
		CATALOG_TEST(test_descriptions),
		CATALOG_TEST(test_description_of_a_socket),
		CATALOG_TEST(test_invalid_descriptions),
		CATALOG_TEST(test_description_of_64_kib),
		CATALOG_TEST(test_what_is_no_service),
		CATALOG_TEST(test_links),
		CATALOG_TEST(test_deep_paths),
		CATALOG_TEST(test_deep_path_in_a_deep_directory),
		CATALOG_TEST(test_change_is_seen_at_once),
		CATALOG_TEST(test_file_at_rest_is_read_once),
		CATALOG_TEST(test_clock_behind_the_files),
		CATALOG_TEST(test_description_and_socket_take_turns),
		CATALOG_TEST(test_services_directory_is_replaced),
		CATALOG_TEST(test_same_words_keep_the_object),
		CATALOG_TEST(test_permission_denied),
		CATALOG_TEST(test_no_descriptors_left),
		CATALOG_TEST(test_unused_services_are_bounded),
		CATALOG_TEST(test_used_services_are_not_bounded),
		CATALOG_TEST(test_failures_are_not_remembered),
		CATALOG_TEST(test_one_bucket),
		CATALOG_TEST(test_unknown),
	};

	return FIXTURE_RUN(tests);
}
