/*
 * Words to listening sockets, on the loopback and in a directory of its own.
 */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/macros.h"
#include "net/listen.h"

static char directory[64];
static int home_fd;

static int make_directory(void **state)
{
	strcpy(directory, "/tmp/test-listen-XXXXXX");
	home_fd = open(".", O_PATH | O_CLOEXEC);
	return fixture_setup(state) == 0 && mkdtemp(directory) != NULL ? 0 : -1;
}

/* Whatever a test should have removed itself makes rmdir() fail. */
static int remove_directory(void **state)
{
	int r;

	r = fchdir(home_fd);
	if (rmdir(directory) != 0)
		r = -1;
	if (fixture_teardown(state) != 0)
		r = -1;
	close(home_fd);
	return r;
}

static int option(int fd, int level, int name)
{
	int value = -1;
	socklen_t length = sizeof(value);

	assert_int_equal(getsockopt(fd, level, name, &value, &length), 0);
	return value;
}

static void assert_adds(struct listen_set *set, const char *word)
{
	char reason[LISTEN_REASON_SIZE] = "";
	int r = listen_set_add(set, word, reason, sizeof(reason));

	if (r != 0)
		print_error("%s: %s\n", word, reason);
	assert_int_equal(r, 0);
}

static void assert_refuses(struct listen_set *set, const char *word, int error, const char *expected)
{
	char reason[LISTEN_REASON_SIZE] = "";
	size_t count = set->count;
	int r = listen_set_add(set, word, reason, sizeof(reason));

	if (r != error || strstr(reason, expected) == NULL)
		print_error("%.300s: %d, %s\n", word, r, reason);
	assert_int_equal(r, error);
	assert_memory_equal(reason, "cannot listen on ", 17);
	assert_non_null(strstr(reason, expected));
	assert_int_equal(set->count, count);
}

static union addr address_of(int fd)
{
	struct sockaddr_storage storage;
	socklen_t length = sizeof(storage);
	union addr addr;

	assert_int_equal(getsockname(fd, (struct sockaddr *)&storage, &length), 0);
	addr_from_sockaddr(&addr, (struct sockaddr *)&storage, length);
	return addr;
}

static bool has_ipv6(void)
{
	struct sockaddr_in6 loopback = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool is_there = fd >= 0 && bind(fd, (struct sockaddr *)&loopback, sizeof(loopback)) == 0;

	if (fd >= 0)
		close(fd);
	return is_there;
}

static void assert_tcp_options(int fd)
{
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 60);
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPINTVL), 15);
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPCNT), 4);
}

static void assert_listens(int fd)
{
	assert_int_equal(option(fd, SOL_SOCKET, SO_ACCEPTCONN), 1);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_true((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
}

/* ---------------------------------------------------------------------- TCP */

static void test_address_and_port(void **state)
{
	struct listen_set set = { 0 };
	char text[LISTEN_TEXT_SIZE], word[LISTEN_TEXT_SIZE];
	union addr addr;
	int client, accepted;

	(void)state;
	assert_adds(&set, "127.0.0.1:0");
	assert_int_equal(set.count, 1);
	assert_listens(set.listeners[0].fd);
	assert_tcp_options(set.listeners[0].fd);
	assert_int_equal(option(set.listeners[0].fd, SOL_SOCKET, SO_REUSEADDR), 1);
	assert_null(set.listeners[0].unix_path);

	addr = address_of(set.listeners[0].fd);
	client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(client, &addr.sa, addr_length(&addr)), 0);
	accepted = accept4(set.listeners[0].fd, NULL, NULL, SOCK_CLOEXEC);
	assert_true(accepted >= 0);
	assert_tcp_options(accepted);
	close(accepted);
	close(client);

	strcpy(word, listen_format(&set.listeners[0], text));
	assert_memory_equal(word, "127.0.0.1:", 10);
	assert_refuses(&set, word, -EADDRINUSE, "address already in use; another program listens there");
	listen_set_close(&set);
	assert_int_equal(set.count, 0);
	/* At once, although a connection of it is still in TIME-WAIT. */
	assert_adds(&set, word);
	assert_string_equal(listen_format(&set.listeners[0], text), word);
	listen_set_close(&set);
}

static void assert_refused_without_ipv6(void)
{
	struct listen_set set = { 0 };
	char reason[LISTEN_REASON_SIZE] = "";
	int r = listen_set_add(&set, "[::1]:0", reason, sizeof(reason));

	assert_true(r == -EADDRNOTAVAIL || r == -EAFNOSUPPORT);
	assert_memory_equal(reason, "cannot listen on [::1]:0", 24);
	assert_int_equal(set.count, 0);
}

static void test_ipv6_address(void **state)
{
	struct listen_set set = { 0 };
	char text[LISTEN_TEXT_SIZE];

	(void)state;
	if (!has_ipv6()) {
		assert_refused_without_ipv6();
		return;
	}
	assert_adds(&set, "[::1]:0");
	assert_int_equal(set.count, 1);
	assert_listens(set.listeners[0].fd);
	assert_tcp_options(set.listeners[0].fd);
	assert_int_equal(option(set.listeners[0].fd, IPPROTO_IPV6, IPV6_V6ONLY), 1);
	assert_memory_equal(listen_format(&set.listeners[0], text), "[::1]:", 6);
	listen_set_close(&set);
}

static void test_mapped_address(void **state)
{
	struct listen_set set = { 0 };
	char text[LISTEN_TEXT_SIZE];

	(void)state;
	/* The IPv4 address that it stands for, or it could not be bound at all. */
	assert_adds(&set, "[::ffff:127.0.0.1]:0");
	assert_memory_equal(listen_format(&set.listeners[0], text), "127.0.0.1:", 10);
	listen_set_close(&set);
}

static void assert_pair_with_one_port(const struct listen_set *set)
{
	union addr in = address_of(set->listeners[0].fd);
	union addr in6;

	assert_int_equal(in.sa.sa_family, AF_INET);
	/* Where IPv6 is switched off its wildcard may still be had, but not its loopback. */
	assert_true(set->count == 2 || (set->count == 1 && !has_ipv6()));
	if (set->count == 1)
		return;
	in6 = address_of(set->listeners[1].fd);
	assert_int_equal(in6.sa.sa_family, AF_INET6);
	assert_int_equal(in.in.sin_port, in6.in6.sin6_port);
	assert_int_not_equal(in.in.sin_port, 0);
}

static void test_any_address_takes_one_port_for_both_families(void **state)
{
	struct listen_set set = { 0 };
	char word[16];

	(void)state;
	for (int i = 0; i < 50; i++) {
		assert_adds(&set, ":0");
		assert_pair_with_one_port(&set);
		snprintf(word, sizeof(word), ":%u", ntohs(address_of(set.listeners[0].fd).in.sin_port));
		assert_refuses(&set, word, -EADDRINUSE, "(0.0.0.0:");
		listen_set_close(&set);
	}
	assert_adds(&set, word);
	assert_pair_with_one_port(&set);
	listen_set_close(&set);
}

/* The port that the holder got by chance may be somebody else's in the other family: then that one is named. */
static void assert_taken_is_taken(const char *holder, const char *expected)
{
	bool is_named = false;

	for (int attempt = 0; attempt < 256 && !is_named; attempt++) {
		struct listen_set taken = { 0 }, set = { 0 };
		char word[16], reason[LISTEN_REASON_SIZE];
		union addr addr;

		assert_adds(&taken, holder);
		addr = address_of(taken.listeners[0].fd);
		/* The port stands at the same place in both families. */
		snprintf(word, sizeof(word), ":%u", ntohs(addr.in.sin_port));
		assert_int_equal(listen_set_add(&set, word, reason, sizeof(reason)), -EADDRINUSE);
		assert_int_equal(set.count, 0);
		is_named = strstr(reason, expected) != NULL;
		listen_set_close(&taken);
	}
	assert_true(is_named);
}

static void test_taken_in_one_family_is_taken(void **state)
{
	(void)state;
	assert_taken_is_taken("0.0.0.0:0", "(0.0.0.0:");
	if (has_ipv6())
		assert_taken_is_taken("[::]:0", "([::]:");
}

static void test_name(void **state)
{
	struct listen_set set = { 0 };

	(void)state;
	assert_adds(&set, "localhost:0");
	assert_true(set.count >= 1);
	for (size_t i = 1; i < set.count; i++)
		assert_int_equal(address_of(set.listeners[i].fd).in.sin_port,
				 address_of(set.listeners[0].fd).in.sin_port);
	listen_set_close(&set);
}

static void test_loopback(void **state)
{
	struct listen_set set = { 0 }, other = { 0 };
	char reason[LISTEN_REASON_SIZE], text[LISTEN_TEXT_SIZE];
	uint16_t port;

	(void)state;
	assert_int_equal(listen_set_add_loopback(&set, 0, reason, sizeof(reason)), 0);
	assert_pair_with_one_port(&set);
	assert_int_equal(set.count, has_ipv6() ? 2 : 1);
	assert_memory_equal(listen_format(&set.listeners[0], text), "127.0.0.1:", 10);
	if (set.count == 2)
		assert_memory_equal(listen_format(&set.listeners[1], text), "[::1]:", 6);
	port = ntohs(address_of(set.listeners[0].fd).in.sin_port);
	assert_int_equal(listen_set_add_loopback(&other, port, reason, sizeof(reason)), -EADDRINUSE);
	assert_memory_equal(reason, "cannot listen on 127.0.0.1:", 27);
	listen_set_close(&set);
	assert_int_equal(listen_set_add_loopback(&other, port, reason, sizeof(reason)), 0);
	listen_set_close(&other);
}

static void test_words_that_are_none(void **state)
{
	struct listen_set set = { 0 };

	(void)state;
	assert_refuses(&set, "", -EINVAL, "no port; write ADDR:PORT");
	assert_refuses(&set, "127.0.0.1", -EINVAL, "on 127.0.0.1: no port");
	assert_refuses(&set, "127.0.0.1:", -EINVAL, "no port");
	assert_refuses(&set, "[::1]", -EINVAL, "not an address");
	assert_refuses(&set, "127.0.0.1:http", -EINVAL, "not an address");
	assert_refuses(&set, "127.0.0.1:65536", -ERANGE, "port out of range");
	assert_refuses(&set, ":99999999999999999999999", -ERANGE, "port out of range");
	assert_refuses(&set, ":-1", -EINVAL, "not an address");
	assert_refuses(&set, "::1:80", -EINVAL, "needs brackets");
	assert_refuses(&set, "[::1]x:80", -EINVAL, "not an address");
	assert_refuses(&set, "[1::2::3]:80", -EINVAL, "not an address");
	assert_refuses(&set, "host\nname\x1b:x", -EINVAL, "on host?name?:x: not an address");
}

static void test_address_of_another_host(void **state)
{
	struct listen_set set = { 0 };

	(void)state;
	/* TEST-NET-1 (RFC 5737) is nobody's. */
	assert_refuses(&set, "192.0.2.1:0", -EADDRNOTAVAIL, "address not available");
}

static void test_unknown_name(void **state)
{
	struct listen_set set = { 0 };
	char word[2000];

	(void)state;
	memset(word, 'n', sizeof(word));
	strcpy(word + sizeof(word) - 4, ":80");
	assert_refuses(&set, word, -EADDRNOTAVAIL, "...: host name not known");
}

static void test_reason_is_cut_to_its_size(void **state)
{
	struct listen_set set = { 0 };
	char reason[20] = "untouched";

	(void)state;
	assert_int_equal(listen_set_add(&set, "x", reason, 0), -EINVAL);
	assert_string_equal(reason, "untouched");
	assert_int_equal(listen_set_add(&set, "x", reason, sizeof(reason)), -EINVAL);
	assert_string_equal(reason, "cannot listen on x:");
}

static void test_full_set(void **state)
{
	struct listen_set set = { 0 };

	(void)state;
	while (set.count < LISTEN_MAX)
		assert_adds(&set, "127.0.0.1:0");
	assert_refuses(&set, "127.0.0.1:0", -ENOSPC, "too many sockets");
	assert_refuses(&set, "unix:/tmp/x", -ENOSPC, "at most 64");
	close(set.listeners[--set.count].fd);
	if (has_ipv6())
		assert_refuses(&set, ":0", -ENOSPC, "too many sockets");
	listen_set_close(&set);
}

/* Runs function in a child, which may change what belongs to the process; its exit status. */
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

/* The ports that are every user's to take begin here (ip(7)). */
static int first_open_port(void)
{
	FILE *file = fopen("/proc/sys/net/ipv4/ip_unprivileged_port_start", "re");
	int port = 1024;

	if (!file)
		return port;
	if (fscanf(file, "%d", &port) != 1)
		port = -1;
	fclose(file);
	return port;
}

/* As a user without rights: as one he already is, or as nobody. */
static int listen_on_low_port(void)
{
	struct listen_set set = { 0 };
	char reason[LISTEN_REASON_SIZE];
	int r;

	if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
		return 1;
	r = listen_set_add(&set, "127.0.0.1:1", reason, sizeof(reason));
	if (first_open_port() <= 1)
		return r == 0 || r == -EADDRINUSE ? 0 : 2;
	if (r != -EACCES)
		return 3;
	return strcmp(reason, "cannot listen on 127.0.0.1:1: permission denied; "
			      "ports below 1024 need CAP_NET_BIND_SERVICE") == 0 ?
		       0 :
		       4;
}

static void test_low_port(void **state)
{
	(void)state;
	assert_int_equal(run_in_child(listen_on_low_port), 0);
}

static int listen_without_descriptors(void)
{
	struct rlimit limit = { .rlim_cur = 3, .rlim_max = 3 };
	struct listen_set set = { 0 };
	char reason[LISTEN_REASON_SIZE];

	if (setrlimit(RLIMIT_NOFILE, &limit) != 0 ||
	    listen_set_add(&set, "127.0.0.1:0", reason, sizeof(reason)) != -EMFILE)
		return 1;
	return strstr(reason, "raise the limit of open files") != NULL ? 0 : 2;
}

static void test_no_descriptors_left(void **state)
{
	(void)state;
	assert_int_equal(run_in_child(listen_without_descriptors), 0);
}

/* --------------------------------------------------------------------- UNIX */

/* Connects by the last component from within the file's directory; the descriptor or a negative errno. */
static int connect_unix(const char *directory_path, const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int directory_fd = open(directory_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int file_fd = openat(directory_fd, name, O_PATH | O_CLOEXEC);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int r = 0;

	assert_true(file_fd >= 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d", file_fd);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		r = -errno;
	close(directory_fd);
	close(file_fd);
	if (r < 0)
		close(fd);
	return r < 0 ? r : fd;
}

static void assert_serves(const struct listen_set *set, const char *directory_path, const char *name)
{
	int client = connect_unix(directory_path, name);
	int accepted = accept4(set->listeners[0].fd, NULL, NULL, SOCK_CLOEXEC);

	assert_true(client >= 0);
	assert_true(accepted >= 0);
	close(accepted);
	close(client);
}

static void test_unix_path(void **state)
{
	struct listen_set set = { 0 };
	char word[128], text[LISTEN_TEXT_SIZE];

	(void)state;
	snprintf(word, sizeof(word), "unix:%s/socket", directory);
	assert_adds(&set, word);
	assert_listens(set.listeners[0].fd);
	assert_string_equal(set.listeners[0].unix_path, word + 5);
	assert_string_equal(listen_format(&set.listeners[0], text), word);
	assert_serves(&set, directory, "socket");
	listen_set_close(&set);
	assert_int_equal(access(word + 5, F_OK), -1);
}

static void test_unix_relative_path_is_removed_from_elsewhere(void **state)
{
	struct listen_set set = { 0 };
	char expected[128];

	(void)state;
	assert_int_equal(chdir(directory), 0);
	assert_adds(&set, "unix:a b:c");
	snprintf(expected, sizeof(expected), "%s/a b:c", directory);
	assert_string_equal(set.listeners[0].unix_path, expected);
	assert_int_equal(chdir("/"), 0);
	listen_set_close(&set);
	assert_int_equal(access(expected, F_OK), -1);
}

/* Paths around the length of a socket address, and far beyond. */
static void check_long_name(size_t name_length)
{
	struct listen_set set = { 0 };
	char word[512], name[256];

	memset(name, 'n', name_length);
	name[name_length] = '\0';
	snprintf(word, sizeof(word), "unix:%s/%s", directory, name);
	assert_adds(&set, word);
	assert_listens(set.listeners[0].fd);
	assert_serves(&set, directory, name);
	assert_refuses(&set, word, -EADDRINUSE, "another program listens there");
	/* A crash leaves the file behind. */
	close(set.listeners[0].fd);
	free(set.listeners[0].unix_path);
	set.count = 0;
	assert_adds(&set, word);
	assert_serves(&set, directory, name);
	listen_set_close(&set);
}

static void test_unix_names_of_all_lengths(void **state)
{
	(void)state;
	for (size_t length = 70; length <= 110; length++)
		check_long_name(length);
	check_long_name(255);
}

static void test_unix_name_too_long_for_any_file(void **state)
{
	struct listen_set set = { 0 };
	char word[512];

	(void)state;
	snprintf(word, sizeof(word), "unix:%s/%0256d", directory, 0);
	assert_refuses(&set, word, -ENAMETOOLONG, "...: file name too long; at most 255 bytes");
}

static void test_unix_path_beyond_the_systems_limit(void **state)
{
	struct listen_set set = { 0 };
	static char path[16384], text[LISTEN_TEXT_SIZE];
	char component[201];
	int depth = 0, fd = open(directory, O_PATH | O_CLOEXEC);

	(void)state;
	memset(component, 'd', 200);
	component[200] = '\0';
	snprintf(path, sizeof(path), "unix:%s", directory);
	for (; depth < 30; depth++) {
		int next;

		assert_int_equal(mkdirat(fd, component, 0700), 0);
		next = openat(fd, component, O_PATH | O_CLOEXEC);
		close(fd);
		fd = next;
		strcat(strcat(path, "/"), component);
	}
	strcat(path, "/socket");
	assert_adds(&set, path);
	assert_memory_equal(listen_format(&set.listeners[0], text), "unix:/tmp/", 10);
	assert_int_equal(strlen(text), LISTEN_TEXT_SIZE - 1);
	listen_set_close(&set);
	assert_int_equal(unlinkat(fd, "socket", 0), -1);
	for (; depth > 0; depth--) {
		int above = openat(fd, "..", O_PATH | O_CLOEXEC);

		close(fd);
		fd = above;
		assert_int_equal(unlinkat(fd, component, AT_REMOVEDIR), 0);
	}
	close(fd);
}

static void test_unix_stale_socket_is_replaced(void **state)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct listen_set set = { 0 };
	char word[128];
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	snprintf(word, sizeof(word), "unix:%s/socket", directory);
	strcpy(address.sun_path, word + 5);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
	assert_adds(&set, word);
	assert_serves(&set, directory, "socket");
	listen_set_close(&set);
}

static void test_unix_live_socket_is_left_alone(void **state)
{
	struct listen_set live = { 0 }, set = { 0 };
	char word[128];

	(void)state;
	snprintf(word, sizeof(word), "unix:%s/socket", directory);
	assert_adds(&live, word);
	assert_refuses(&set, word, -EADDRINUSE, "ss -lxp");
	assert_int_equal(close(accept4(live.listeners[0].fd, NULL, NULL, SOCK_CLOEXEC)), 0);
	assert_serves(&live, directory, "socket");
	listen_set_close(&live);
}

static void test_unix_live_socket_with_full_backlog_is_left_alone(void **state)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct listen_set set = { 0 };
	char word[128];
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	snprintf(word, sizeof(word), "unix:%s/socket", directory);
	strcpy(address.sun_path, word + 5);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 0), 0);
	assert_int_equal(connect(client, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_refuses(&set, word, -EADDRINUSE, "another program");
	close(client);
	close(fd);
	assert_int_equal(unlink(word + 5), 0);
}

static void test_unix_datagram_socket_is_left_alone(void **state)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct listen_set set = { 0 };
	char word[128];
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	(void)state;
	snprintf(word, sizeof(word), "unix:%s/socket", directory);
	strcpy(address.sun_path, word + 5);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_refuses(&set, word, -EADDRINUSE, "another program");
	close(fd);
	assert_int_equal(unlink(word + 5), 0);
}

static void test_unix_what_is_no_socket_is_left_alone(void **state)
{
	struct listen_set set = { 0 };
	char word[128];
	const char *path = word + 5;

	(void)state;
	snprintf(word, sizeof(word), "unix:%s/file", directory);
	close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	assert_refuses(&set, word, -ENOTSOCK, "something that is no socket is there; remove it");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_refuses(&set, word, -ENOTSOCK, "no socket");
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(symlink("nowhere", path), 0);
	assert_refuses(&set, word, -ENOTSOCK, "no socket");
	assert_int_equal(unlink(path), 0);
}

static void test_unix_paths_that_are_none(void **state)
{
	struct listen_set set = { 0 };
	char word[128];

	(void)state;
	assert_refuses(&set, "unix:", -EINVAL, "the path names no file");
	assert_refuses(&set, "unix:/", -EINVAL, "the path names no file");
	assert_refuses(&set, "unix:/tmp/", -EINVAL, "the path names no file");
	assert_refuses(&set, "unix:/tmp/.", -ENOTSOCK, "no socket");
	assert_refuses(&set, "unix:/dev/null/x", -ENOTDIR, "is no directory");
	snprintf(word, sizeof(word), "unix:%s/missing/socket", directory);
	assert_refuses(&set, word, -ENOENT, "no such directory; create it first");
}

static void test_unix_file_of_another_is_not_removed(void **state)
{
	struct listen_set first = { 0 }, second = { 0 };
	char word[128];

	(void)state;
	snprintf(word, sizeof(word), "unix:%s/socket", directory);
	assert_adds(&first, word);
	assert_int_equal(unlink(word + 5), 0);
	assert_adds(&second, word);
	listen_set_close(&first);
	assert_serves(&second, directory, "socket");
	listen_set_close(&second);
	assert_int_equal(access(word + 5, F_OK), -1);
}

static void test_shut_refuses_before_it_closes(void **state)
{
	struct listen_set set = { 0 };
	char word[128];
	union addr addr;
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	snprintf(word, sizeof(word), "unix:%s/socket", directory);
	assert_adds(&set, word);
	assert_adds(&set, "127.0.0.1:0");
	addr = address_of(set.listeners[1].fd);
	listen_set_shut(&set);
	assert_int_equal(access(word + 5, F_OK), -1);
	assert_int_equal(connect(client, &addr.sa, addr_length(&addr)), -1);
	assert_int_equal(errno, ECONNREFUSED);
	close(client);
	assert_int_equal(set.count, 2);
	assert_int_equal(fcntl(set.listeners[1].fd, F_GETFD), FD_CLOEXEC);
	listen_set_close(&set);
}

/* ---------------------------------------------------------------- inherited */

static void inherit_variables(pid_t pid, const char *count)
{
	char word[16];

	snprintf(word, sizeof(word), "%d", (int)pid);
	setenv("LISTEN_PID", word, 1);
	setenv("LISTEN_FDS", count, 1);
	setenv("LISTEN_FDNAMES", "a:b", 1);
}

/* Puts a plain socket at each of the numbers from 3 on. */
static int place(int number, int domain, int type, bool is_listening)
{
	union addr addr = { .in = { .sin_family = AF_INET } };
	int fd = socket(domain, type, 0);

	if (domain == AF_UNIX)
		addr.sa.sa_family = AF_UNIX;
	if (fd < 0 || bind(fd, &addr.sa, addr_length(&addr)) != 0 || (is_listening && listen(fd, 1) != 0))
		return -1;
	if (fd == number)
		return 0;
	return dup2(fd, number) == number && close(fd) == 0 ? 0 : -1;
}

static int inherit_two(void)
{
	struct listen_set set = { 0 };
	char reason[LISTEN_REASON_SIZE], text[LISTEN_TEXT_SIZE];

	if (place(4, AF_UNIX, SOCK_STREAM, true) != 0 || place(3, AF_INET, SOCK_STREAM, true) != 0)
		return 1;
	inherit_variables(getpid(), "2");
	if (listen_set_inherit(&set, reason, sizeof(reason)) != 2 || set.count != 2)
		return 2;
	if (getenv("LISTEN_PID") != NULL || getenv("LISTEN_FDS") != NULL || getenv("LISTEN_FDNAMES") != NULL)
		return 3;
	for (int i = 0; i < 2; i++)
		if (set.listeners[i].fd != 3 + i || fcntl(3 + i, F_GETFD) != FD_CLOEXEC ||
		    (fcntl(3 + i, F_GETFL) & O_NONBLOCK) == 0 || set.listeners[i].unix_path != NULL)
			return 4;
	if (option(3, IPPROTO_TCP, TCP_NODELAY) != 1 || option(3, SOL_SOCKET, SO_KEEPALIVE) != 1)
		return 5;
	if (strncmp(listen_format(&set.listeners[0], text), "0.0.0.0:", 8) != 0 ||
	    strncmp(listen_format(&set.listeners[1], text), "unix:@", 6) != 0)
		return 6;
	if (listen_set_inherit(&set, reason, sizeof(reason)) != 0)
		return 7;
	listen_set_close(&set);
	return 0;
}

static int inherit_expecting(const char *count, int error, const char *expected)
{
	struct listen_set set = { 0 };
	char reason[LISTEN_REASON_SIZE] = "";

	inherit_variables(getpid(), count);
	if (listen_set_inherit(&set, reason, sizeof(reason)) != error || set.count != 0)
		return 10;
	return strstr(reason, expected) != NULL && getenv("LISTEN_FDS") == NULL ? 0 : 11;
}

static int inherit_what_does_not_listen(void)
{
	return place(3, AF_INET, SOCK_STREAM, true) != 0 || place(4, AF_INET, SOCK_STREAM, false) != 0 ?
		       1 :
		       inherit_expecting("2", -EINVAL, "descriptor 4 is no listening stream socket");
}

static int inherit_datagrams(void)
{
	return place(3, AF_INET, SOCK_DGRAM, false) != 0 ?
		       1 :
		       inherit_expecting("1", -EINVAL, "descriptor 3 is no listening stream socket");
}

static int inherit_nothing_open(void)
{
	close(3);
	return inherit_expecting("1", -EINVAL, "descriptor 3");
}

static void test_inherited(void **state)
{
	(void)state;
	assert_int_equal(run_in_child(inherit_two), 0);
	assert_int_equal(run_in_child(inherit_what_does_not_listen), 0);
	assert_int_equal(run_in_child(inherit_datagrams), 0);
	assert_int_equal(run_in_child(inherit_nothing_open), 0);
}

static void test_inherited_variables(void **state)
{
	struct listen_set set = { 0 };
	char reason[LISTEN_REASON_SIZE];

	(void)state;
	assert_int_equal(listen_set_inherit(&set, reason, sizeof(reason)), 0);
	inherit_variables(getpid() + 1, "1");
	assert_int_equal(listen_set_inherit(&set, reason, sizeof(reason)), 0);
	assert_null(getenv("LISTEN_FDS"));
	assert_int_equal(inherit_expecting("0", 0, ""), 0);
	assert_int_equal(inherit_expecting("x", -EINVAL, "LISTEN_FDS"), 0);
	assert_int_equal(inherit_expecting("-1", -EINVAL, "LISTEN_FDS"), 0);
	assert_int_equal(inherit_expecting("99999999999", -EINVAL, "LISTEN_FDS"), 0);
	assert_int_equal(inherit_expecting("65", -ENOSPC, "too many"), 0);
}

/* Half of the time in silence, then probes for the other half. */
static void test_keepalive_of_any_time(void **state)
{
	static const struct {
		uint64_t limit_ms;
		int idle_s, interval_s, count;
	} cases[] = { { 1, 1, 1, 1 },
		      { 2000, 1, 1, 1 },
		      { 2001, 1, 1, 2 },
		      { 9000, 4, 1, 5 },
		      { 120000, 60, 15, 4 },
		      { 86400000, 32767, 8191, 4 },
		      { UINT64_MAX / 2, 32767, 8191, 4 } };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		listen_set_keepalive(fd, cases[i].limit_ms);
		assert_int_equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
		assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), cases[i].idle_s);
		assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPINTVL), cases[i].interval_s);
		assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPCNT), cases[i].count);
	}
	listen_set_keepalive(fd, 0);
	assert_int_equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), 0);
	close(fd);
}

static void test_keepalive_on_a_unix_socket_is_harmless(void **state)
{
	int ends[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	listen_set_keepalive(ends[0], 1000);
	close(ends[0]);
	close(ends[1]);
}

#define UNIX_TEST(function) cmocka_unit_test_setup_teardown(function, make_directory, remove_directory)

int main(void)
{
	const struct CMUnitTest tests[] = {
		FIXTURE_TEST(test_address_and_port),
		FIXTURE_TEST(test_ipv6_address),
		FIXTURE_TEST(test_mapped_address),
		FIXTURE_TEST(test_any_address_takes_one_port_for_both_families),
		FIXTURE_TEST(test_taken_in_one_family_is_taken),
		FIXTURE_TEST(test_name),
		FIXTURE_TEST(test_loopback),
		FIXTURE_TEST(test_words_that_are_none),
		FIXTURE_TEST(test_address_of_another_host),
		FIXTURE_TEST(test_unknown_name),
		FIXTURE_TEST(test_reason_is_cut_to_its_size),
		FIXTURE_TEST(test_full_set),
		FIXTURE_TEST(test_low_port),
		FIXTURE_TEST(test_no_descriptors_left),
		UNIX_TEST(test_unix_path),
		UNIX_TEST(test_unix_relative_path_is_removed_from_elsewhere),
		UNIX_TEST(test_unix_names_of_all_lengths),
		UNIX_TEST(test_unix_name_too_long_for_any_file),
		UNIX_TEST(test_unix_path_beyond_the_systems_limit),
		UNIX_TEST(test_unix_stale_socket_is_replaced),
		UNIX_TEST(test_unix_live_socket_is_left_alone),
		UNIX_TEST(test_unix_live_socket_with_full_backlog_is_left_alone),
		UNIX_TEST(test_unix_datagram_socket_is_left_alone),
		UNIX_TEST(test_unix_what_is_no_socket_is_left_alone),
		UNIX_TEST(test_unix_paths_that_are_none),
		UNIX_TEST(test_unix_file_of_another_is_not_removed),
		UNIX_TEST(test_shut_refuses_before_it_closes),
		FIXTURE_TEST(test_inherited),
		FIXTURE_TEST(test_inherited_variables),
		FIXTURE_TEST(test_keepalive_of_any_time),
		FIXTURE_TEST(test_keepalive_on_a_unix_socket_is_harmless),
	};

	return FIXTURE_RUN(tests);
}
