/*
 * From a word to listening sockets.
 *
 * TCP: a word becomes a list of candidates (one address, those of a name, the
 * wildcards or the loopbacks of both families), which are opened in order. The first
 * one decides the port when that was 0; when a later one finds it taken, all
 * are closed and a new port is tried. A candidate may be optional: it is skipped
 * when the host does not have its family or address, as long as another is left.
 *
 * UNIX: bind(2) refuses a name that exists, so what is in the way is looked at
 * first, through an O_PATH descriptor: the file that is found stale is the one that is removed.
 * A path that does not fit a socket address is bound under a short, hidden name of the same
 * directory, reached through /proc/self/fd, and linked to its own name once it listens.
 * The socket belongs to the file, not to the name, so clients find it there.
 */
#include "net/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/args.h"
#include "base/fd.h"
#include "base/hint.h"
#include "base/macros.h"
#include "base/sandbox.h"

SANDBOX_CALLS("shutdown", "unlink", "unlinkat");

/* The kernel lowers it to net.core.somaxconn, whose default this is since Linux 5.4. */
#define BACKLOG 4096
#define KEEPALIVE_MIN_S 2
#define KEEPALIVE_MAX_S 65534 /* TCP_KEEPIDLE is 32767 at most */
/* How often a free port may turn out to be taken in the other family. */
#define PORT_ATTEMPTS 16
/* How often something new may be in a socket file's way. */
#define BIND_ATTEMPTS 4
#define WORD_SHOWN_MAX 200
#define WAY_OUT_SIZE (HINT_SIZE + 128)
#define INHERITED_FIRST 3 /* SD_LISTEN_FDS_START */
#define UNIX_PREFIX "unix:"

/* Where an error is to be told, and about what. */
struct complaint {
	const char *word;
	char *reason;
	size_t reason_size;
};

/* Why, and the way out: one table for each kind of socket, as the same errno means different things. */
struct hint {
	int error;
	const char *text;
};

static const struct hint tcp_hints[] = {
	{ EADDRNOTAVAIL, "address not available; no interface of this host has it (ip address lists them)" },
	{ EAFNOSUPPORT, "address family not supported; this host has no IPv6" },
	{ EACCES, "permission denied; a security policy (SELinux, AppArmor, Landlock, systemd) forbids it" },
	{ ENOSPC, "too many sockets; leave some out" },
	{ EINVAL, "invalid address; a link-local one needs its interface, as in [fe80::1%eth0]:80" },
};

static const struct hint unix_hints[] = {
	{ EADDRINUSE, "address already in use; another program listens there (ss -lxp tells which)" },
	{ ENOTSOCK, "something that is no socket is there; remove it or choose another path" },
	{ EPERM, "operation not permitted; a stale socket of another user must be removed by its owner" },
	{ ENOENT, "no such directory; create it first" },
	{ ENOTDIR, "a part of the path is no directory; choose another path" },
	{ ENOSPC, "no room for another socket; at most 64 in all, and the disk must not be full" },
	{ EROFS, "read-only file system; choose another path" },
	{ ENAMETOOLONG, "file name too long; at most 255 bytes may stand between two slashes" },
	{ EINVAL, "the path names no file; write unix:PATH, as in unix:/run/kaiso.sock" },
};

/* What the tables do not have in the words of listening is said in those of any program (hint.h). */
static const char *find_hint(const struct hint *hints, size_t count, int error,
			     char text[static WAY_OUT_SIZE])
{
	char general[HINT_SIZE];

	for (size_t i = 0; i < count; i++)
		if (hints[i].error == error)
			return hints[i].text;
	hint_for(error, NULL, 0, general);
	snprintf(text, WAY_OUT_SIZE, "%s%s%s", strerror(error), *general ? "; " : "", general);
	return text;
}

/* Writes the line for people and returns the error, negative. The word comes from a command line or a
 * unit file, and the line goes to a terminal: control bytes would forge lines or move the cursor. */
__attribute__((format(printf, 3, 4))) static int complain(const struct complaint *complaint, int error,
							  const char *format, ...)
{
	char *reason = complaint->reason;
	int length = (int)strnlen(complaint->word, WORD_SHOWN_MAX + 1);
	va_list arguments;
	size_t end;

	if (complaint->reason_size == 0)
		return error;
	snprintf(reason, complaint->reason_size, "cannot listen on %.*s%s: ", MIN(length, WORD_SHOWN_MAX),
		 complaint->word, length > WORD_SHOWN_MAX ? "..." : "");
	end = strlen(reason);
	va_start(arguments, format);
	vsnprintf(reason + end, complaint->reason_size - end, format, arguments);
	va_end(arguments);
	for (char *byte = reason; *byte != '\0'; byte++)
		if ((unsigned char)*byte < 0x20 || *byte == 0x7f)
			*byte = '?';
	return error;
}

/* Takes fd and unix_path (or NULL) on success. */
static int set_append_take(struct listen_set *set, int fd, char *unix_path)
{
	if (set->count == LISTEN_MAX)
		return -ENOSPC;
	set->listeners[set->count++] = (struct listener){ .fd = fd, .unix_path = unix_path };
	return 0;
}

/* Closes what was added after the first 'count'; socket files stay. */
static void set_truncate(struct listen_set *set, size_t count)
{
	while (set->count > count)
		close(set->listeners[--set->count].fd);
}

/* -------------------------------------------------------------------- TCP */

/* An address to be listened on; an optional one may turn out not to be this host's. */
struct candidate {
	union addr addr;
	bool is_optional;
};

/* Failure is not looked at: a socket that lacks an option still serves. The one that must not fail,
 * IPV6_V6ONLY, is found out by bind(), which then meets its IPv4 twin. */
static void set_option(int fd, int level, int option, int value)
{
	setsockopt(fd, level, option, &value, sizeof(value));
}

void listen_set_keepalive(int fd, uint64_t limit_ms)
{
	uint64_t limit_s = MIN(MAX((limit_ms + 999) / 1000, KEEPALIVE_MIN_S), KEEPALIVE_MAX_S);
	uint64_t idle_s = limit_s / 2, interval_s = MAX(limit_s / 8, 1);

	set_option(fd, SOL_SOCKET, SO_KEEPALIVE, limit_ms > 0);
	set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, (int)idle_s);
	set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, (int)interval_s);
	set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, (int)((limit_s - idle_s) / interval_s));
}

/* What accepted sockets are to have from the listener. */
static void set_inheritable_options(int fd)
{
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_option(fd, SOL_SOCKET, SO_OOBINLINE, 1);
	listen_set_keepalive(fd, LISTEN_KEEPALIVE_MS);
}

/* A listening descriptor, or a negative errno. */
static int open_tcp(const union addr *addr)
{
	CLEANUP_CLOSE int fd = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (addr->sa.sa_family == AF_INET6)
		set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	set_inheritable_options(fd);
	if (bind(fd, &addr->sa, addr_length(addr)) != 0 || listen(fd, BACKLOG) != 0)
		return -errno;
	return STEAL_FD(fd);
}

/* sin_port and sin6_port are the same field. */
static void set_port(union addr *addr, in_port_t port_network)
{
	if (addr->sa.sa_family == AF_INET6)
		addr->in6.sin6_port = port_network;
	else
		addr->in.sin_port = port_network;
}

/* The port that the kernel chose, in network order; 0 when it cannot be asked. */
static in_port_t bound_port(int fd)
{
	union addr addr = { .sa = { .sa_family = AF_UNSPEC } };
	socklen_t length = sizeof(addr);

	if (getsockname(fd, &addr.sa, &length) != 0)
		return 0;
	return addr.sa.sa_family == AF_INET6 ? addr.in6.sin6_port : addr.in.sin_port;
}

/* The host has no such family, or no such address in it. */
static bool is_absent(int error)
{
	return error == -EAFNOSUPPORT || error == -EADDRNOTAVAIL;
}

/* Opens all candidates with one port. On failure the set is as before, and *failed the culprit as it
 * was tried. */
static int add_candidates(struct listen_set *set, const struct candidate *candidates, size_t count,
			  union addr *failed)
{
	const size_t count_before = set->count;
	in_port_t free_port = 0;
	int first_error = 0;

	for (size_t i = 0; i < count; i++) {
		union addr addr = candidates[i].addr;
		int fd, r;

		if (free_port != 0)
			set_port(&addr, free_port);
		fd = open_tcp(&addr);
		r = fd < 0 ? fd : set_append_take(set, fd, NULL);
		if (r < 0) {
			if (fd >= 0)
				close(fd);
			if (first_error == 0 || !is_absent(r)) {
				*failed = addr;
				first_error = r;
			}
			if (candidates[i].is_optional && is_absent(r))
				continue;
			set_truncate(set, count_before);
			return r;
		}
		/* Where a port was asked for, this is the same one again. */
		free_port = bound_port(fd);
	}
	return set->count > count_before ? 0 : first_error;
}

static int complain_tcp(const struct complaint *complaint, const union addr *failed, int error)
{
	char way_out[WAY_OUT_SIZE], text[ADDR_TEXT_SIZE];
	const char *hint = find_hint(tcp_hints, ARRAY_SIZE(tcp_hints), -error, way_out);
	struct complaint with_address = *complaint;
	char word[WORD_SHOWN_MAX + ADDR_TEXT_SIZE];

	if (error == -EACCES && ntohs(failed->in.sin_port) < 1024)
		hint = "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE";
	if (error == -EADDRINUSE) {
		snprintf(
			way_out, sizeof(way_out),
			"address already in use; another program listens there (ss -ltnp sport = :%u tells which)",
			ntohs(failed->in.sin_port));
		hint = way_out;
	}
	/* A word that stands for several addresses does not tell which one failed. */
	addr_format(failed, text);
	if (strcmp(text, complaint->word) != 0 && error != -ENOSPC) {
		snprintf(word, sizeof(word), "%.100s (%s)", complaint->word, text);
		with_address.word = word;
	}
	return complain(&with_address, error, "%s", hint);
}

/* bind() picks a port that is free in one family, without a look at the other: where any will do,
 * a collision is bad luck and no error. */
static int add_tcp(struct listen_set *set, const struct candidate *candidates, size_t count,
		   const struct complaint *complaint)
{
	const bool is_any_port = candidates[0].addr.in.sin_port == 0;
	union addr failed;
	int r;

	for (int attempt = 0; attempt < PORT_ATTEMPTS; attempt++) {
		r = add_candidates(set, candidates, count, &failed);
		if (r != -EADDRINUSE || !is_any_port)
			break;
	}
	return r < 0 ? complain_tcp(complaint, &failed, r) : 0;
}

/* The same kind of address in both families: the wildcard or the loopback. */
static int add_both_families(struct listen_set *set, uint32_t in_host, struct in6_addr in6, uint16_t port,
			     const struct complaint *complaint)
{
	struct candidate both[2];

	memset(both, 0, sizeof(both));
	both[0].addr.in.sin_family = AF_INET;
	both[0].addr.in.sin_addr.s_addr = htonl(in_host);
	both[1].addr.in6.sin6_family = AF_INET6;
	both[1].addr.in6.sin6_addr = in6;
	both[1].is_optional = true;
	set_port(&both[0].addr, htons(port));
	set_port(&both[1].addr, htons(port));
	return add_tcp(set, both, ARRAY_SIZE(both), complaint);
}

/* /etc/hosts may well give the same address twice, and the second would find the first in its way. */
static size_t collect_candidates(const struct addrinfo *list, uint16_t port, struct candidate *candidates)
{
	size_t count = 0;

	for (const struct addrinfo *info = list; info != NULL && count < LISTEN_MAX; info = info->ai_next) {
		union addr addr;
		bool is_known = false;

		addr_from_sockaddr(&addr, info->ai_addr, info->ai_addrlen);
		if (addr.sa.sa_family != AF_INET && addr.sa.sa_family != AF_INET6)
			continue;
		set_port(&addr, htons(port));
		for (size_t i = 0; i < count; i++)
			is_known = is_known || addr_is_equal(&candidates[i].addr, &addr);
		if (!is_known)
			candidates[count++] = (struct candidate){ .addr = addr, .is_optional = true };
	}
	return count;
}

static int complain_lookup(const struct complaint *complaint, int lookup)
{
	if (lookup == EAI_SYSTEM)
		return complain(complaint, -errno, "name lookup failed: %s", strerror(errno));
	if (lookup == EAI_MEMORY)
		return complain(complaint, -ENOMEM, "out of memory");
	if (lookup == EAI_AGAIN)
		return complain(complaint, -EAGAIN,
				"name lookup failed for now; try again, or write a numeric address");
	return complain(complaint, -EADDRNOTAVAIL,
			"host name not known; write an address of this host, or :PORT for all of them");
}

static int add_name(struct listen_set *set, const char *host, size_t host_length, uint16_t port,
		    const struct complaint *complaint)
{
	const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	struct candidate candidates[LISTEN_MAX];
	struct addrinfo *list;
	char name[NI_MAXHOST];
	size_t count;
	int r;

	if (host_length >= sizeof(name))
		return complain_lookup(complaint, EAI_NONAME);
	memcpy(name, host, host_length);
	name[host_length] = '\0';
	r = getaddrinfo(name, NULL, &hints, &list);
	if (r != 0)
		return complain_lookup(complaint, r);
	count = collect_candidates(list, port, candidates);
	freeaddrinfo(list);
	if (count == 0)
		return complain_lookup(complaint, EAI_NONAME);
	return add_tcp(set, candidates, count, complaint);
}

/* addr_split() says what is wrong in general; a person wants to know which mistake it was. */
static int complain_word(const struct complaint *complaint, int error)
{
	const char *word = complaint->word;
	const char *colon = strrchr(word, ':');

	if (error == -ERANGE)
		return complain(complaint, error,
				"port out of range; it is at most 65535, and 0 takes a free one");
	if (colon == NULL || colon[1] == '\0')
		return complain(complaint, error, "no port; write ADDR:PORT, as in 127.0.0.1:8080, or :PORT");
	if (strchr(word, ':') != colon && word[0] != '[')
		return complain(complaint, error, "an IPv6 address needs brackets, as in [::1]:8080");
	return complain(complaint, error, "not an address; write ADDR:PORT, [ADDR]:PORT, :PORT or unix:PATH");
}

static int add_tcp_word(struct listen_set *set, const struct complaint *complaint)
{
	struct candidate candidate = { .is_optional = false };
	size_t host_length;
	const char *host;
	uint16_t port;
	int r;

	r = addr_split(complaint->word, 0, &host, &host_length, &port);
	if (r < 0)
		return complain_word(complaint, r);
	if (host_length == 0)
		return add_both_families(set, INADDR_ANY, in6addr_any, port, complaint);
	if (addr_parse_numeric(host, host_length, port, &candidate.addr) == 0)
		return add_tcp(set, &candidate, 1, complaint);
	/* No name holds a colon: it was meant as an IPv6 address. */
	if (memchr(host, ':', host_length) != NULL)
		return complain(complaint, -EINVAL,
				"not an address; between brackets stands an IPv6 address");
	return add_name(set, host, host_length, port, complaint);
}

int listen_set_add_loopback(struct listen_set *set, uint16_t port, char *reason, size_t reason_size)
{
	char word[32];
	const struct complaint complaint = { word, reason, reason_size };

	snprintf(word, sizeof(word), "127.0.0.1:%u", port);
	return add_both_families(set, INADDR_LOOPBACK, in6addr_loopback, port, &complaint);
}

/* ------------------------------------------------------------------- UNIX */

/* Whether somebody answers at the socket file: 0, or -ECONNREFUSED when nobody does, else a negative
 * errno. */
static int probe_socket(int file_fd)
{
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (fd < 0)
		return -errno;
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d", file_fd);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return 0;
	/* A full backlog, or a socket of another type: there is somebody. */
	return errno == EAGAIN || errno == EPROTOTYPE ? 0 : -errno;
}

static bool is_same_file(const struct stat *one, const struct stat *other)
{
	return one->st_dev == other->st_dev && one->st_ino == other->st_ino;
}

/* Clears the way for bind: 0 when the name is free now, -EADDRINUSE when the socket is alive, -ENOTSOCK. */
static int remove_stale(int directory_fd, const char *name)
{
	CLEANUP_CLOSE int file_fd = openat(directory_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat found, now;
	int r;

	if (file_fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(file_fd, &found) != 0)
		return -errno;
	if (!S_ISSOCK(found.st_mode))
		return -ENOTSOCK;
	r = probe_socket(file_fd);
	if (r != -ECONNREFUSED)
		return r == 0 ? -EADDRINUSE : r;
	/* Somebody else may have replaced it in the meantime: then bind has its say again. */
	if (fstatat(directory_fd, name, &now, AT_SYMLINK_NOFOLLOW) != 0 || !is_same_file(&found, &now))
		return 0;
	return unlinkat(directory_fd, name, 0) == 0 || errno == ENOENT ? 0 : -errno;
}

static int bind_and_listen(int fd, const struct sockaddr_un *address)
{
	if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) != 0 || listen(fd, BACKLOG) != 0)
		return -errno;
	return 0;
}

/* For paths that fit no address. The final name appears when the socket already listens. */
static int bind_by_link(int fd, int directory_fd, const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char short_name[32];
	uint64_t random;
	int r;

	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return -EAGAIN;
	snprintf(short_name, sizeof(short_name), ".kaiso-%016" PRIx64, random);
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", directory_fd, short_name);
	r = bind_and_listen(fd, &address);
	if (r == 0 && linkat(directory_fd, short_name, directory_fd, name, 0) != 0)
		r = errno == EEXIST ? -EADDRINUSE : -errno;
	/* Should bind itself have failed, nothing of this name is there. */
	unlinkat(directory_fd, short_name, 0);
	return r;
}

/* One attempt: a listening descriptor, or a negative errno. A path that fits is bound as it is, for it is
 * what ss(8) shows and what getpeername() tells the clients. */
static int open_unix(int directory_fd, const char *path, const char *name)
{
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int r;

	if (fd < 0)
		return -errno;
	if (strlen(path) < sizeof(address.sun_path)) {
		memcpy(address.sun_path, path, strlen(path) + 1);
		r = bind_and_listen(fd, &address);
	} else {
		r = bind_by_link(fd, directory_fd, name);
	}
	return r < 0 ? r : STEAL_FD(fd);
}

/* The directory of path, opened, and the name in it, which points into path. */
static int open_directory(const char *path, const char **name)
{
	const char *slash = strrchr(path, '/');
	CLEANUP_FREE char *directory = NULL;

	*name = slash == NULL ? path : slash + 1;
	if (**name == '\0')
		return -EINVAL;
	if (strlen(*name) > NAME_MAX)
		return -ENAMETOOLONG;
	if (slash == NULL)
		return fd_open_path(".", O_PATH | O_DIRECTORY);
	/* The slash stays, for the root directory's sake. */
	directory = strndup(path, (size_t)(*name - path));
	return directory == NULL ? -ENOMEM : fd_open_path(directory, O_PATH | O_DIRECTORY);
}

/* On the heap; the path itself where the working directory has no name. */
static char *absolute_path(const char *path)
{
	CLEANUP_FREE char *directory = path[0] == '/' ? NULL : getcwd(NULL, 0);
	char *absolute;

	if (directory == NULL)
		return strdup(path);
	return asprintf(&absolute, "%s/%s", directory, path) < 0 ? NULL : absolute;
}

/* Binds, and makes way once for each thing that is in the way. */
static int open_unix_replacing(int directory_fd, const char *path, const char *name)
{
	int fd = -EADDRINUSE;

	for (int attempt = 0; attempt < BIND_ATTEMPTS && fd == -EADDRINUSE; attempt++) {
		int r;

		fd = open_unix(directory_fd, path, name);
		r = fd == -EADDRINUSE ? remove_stale(directory_fd, name) : 0;
		if (r < 0)
			return r;
	}
	return fd;
}

static int add_unix(struct listen_set *set, const char *path)
{
	CLEANUP_CLOSE int directory_fd = -1;
	CLEANUP_FREE char *absolute = absolute_path(path);
	CLEANUP_CLOSE int fd = -1;
	struct listener *listener;
	struct stat file;
	const char *name;

	if (absolute == NULL)
		return -ENOMEM;
	if (set->count == LISTEN_MAX)
		return -ENOSPC;
	directory_fd = open_directory(path, &name);
	if (directory_fd < 0)
		return directory_fd;
	fd = open_unix_replacing(directory_fd, path, name);
	if (fd < 0)
		return fd;
	if (fstatat(directory_fd, name, &file, AT_SYMLINK_NOFOLLOW) != 0)
		return -errno;
	/* Nothing can fail any more, so the file needs no undoing. */
	listener = &set->listeners[set->count++];
	*listener = (struct listener){ .fd = STEAL_FD(fd), .unix_path = absolute };
	listener->unix_device = file.st_dev;
	listener->unix_inode = file.st_ino;
	absolute = NULL;
	return 0;
}

/* Who may write in the directory may make a socket, and who may write to a socket may find out that it is stale. */
static int complain_unix(const struct complaint *complaint, int error, const char *path)
{
	const char *slash = strrchr(path, '/');
	CLEANUP_FREE char *directory = slash ? strndup(path, (size_t)MAX(slash - path, 1)) : strdup(".");
	char way_out[WAY_OUT_SIZE], hint[HINT_SIZE];
	bool is_directory = directory && access(directory, W_OK | X_OK) != 0;

	if (error != -EACCES)
		return complain(complaint, error, "%s",
				find_hint(unix_hints, ARRAY_SIZE(unix_hints), -error, way_out));
	hint_for(EACCES, is_directory ? directory : path, is_directory ? W_OK | X_OK : W_OK, hint);
	return complain(
		complaint, error,
		"permission denied; this user must be able to write to the directory, and to a socket there; %s",
		hint);
}

int listen_set_add(struct listen_set *set, const char *word, char *reason, size_t reason_size)
{
	const struct complaint complaint = { word, reason, reason_size };
	int r;

	if (strncmp(word, UNIX_PREFIX, strlen(UNIX_PREFIX)) != 0)
		return add_tcp_word(set, &complaint);
	r = add_unix(set, word + strlen(UNIX_PREFIX));
	return r < 0 ? complain_unix(&complaint, r, word + strlen(UNIX_PREFIX)) : 0;
}

/* -------------------------------------------------------------- inherited */

static int socket_option(int fd, int option)
{
	int value = -1;
	socklen_t length = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0 ? value : -1;
}

/* SO_ACCEPTCONN tells a listening socket from the connected one that a unit with Accept=yes passes. */
static bool is_listening_stream(int fd)
{
	int domain = socket_option(fd, SO_DOMAIN);

	return (domain == AF_INET || domain == AF_INET6 || domain == AF_UNIX) &&
	       socket_option(fd, SO_TYPE) == SOCK_STREAM && socket_option(fd, SO_ACCEPTCONN) == 1;
}

/* How many descriptors are meant for this process; 0 for none, negative when the variables make no sense. */
static int inherited_count(void)
{
	const char *pid_word = getenv("LISTEN_PID");
	const char *count_word = getenv("LISTEN_FDS");
	uint64_t pid, count;

	if (pid_word == NULL || count_word == NULL)
		return 0;
	if (args_parse_number(pid_word, 1, INT32_MAX, &pid) < 0 ||
	    args_parse_number(count_word, 0, INT32_MAX - INHERITED_FIRST, &count) < 0)
		return -EINVAL;
	return (pid_t)pid == getpid() ? (int)count : 0;
}

static int inherit_one(struct listen_set *set, int fd, const struct complaint *complaint)
{
	if (!is_listening_stream(fd))
		return complain(
			complaint, -EINVAL,
			"descriptor %d is no listening stream socket; a unit needs ListenStream= and Accept=no",
			fd);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	if (socket_option(fd, SO_DOMAIN) != AF_UNIX)
		set_inheritable_options(fd);
	int r = set_append_take(set, fd, NULL);

	if (r == 0)
		set->listeners[set->count - 1].is_inherited = true;
	return r;
}

int listen_set_inherit(struct listen_set *set, char *reason, size_t reason_size)
{
	const struct complaint complaint = { "the service manager's sockets", reason, reason_size };
	const size_t count_before = set->count;
	int count = inherited_count();

	/* For us alone: a program that we start must not take them for its own. */
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (count < 0)
		return complain(&complaint, count,
				"LISTEN_FDS or LISTEN_PID is no number; sd_listen_fds(3) has the rules");
	if ((size_t)count > LISTEN_MAX - set->count)
		return complain(&complaint, -ENOSPC, "%d are too many; at most %d sockets in all", count,
				LISTEN_MAX);
	for (int i = 0; i < count; i++) {
		int r = inherit_one(set, INHERITED_FIRST + i, &complaint);

		if (r < 0) {
			set->count = count_before;
			return r;
		}
	}
	return count;
}

/* -------------------------------------------------------------------- all */

/* Not terminated, when the name fills the address or is abstract (unix(7)). */
static void format_unix(const struct sockaddr_un *address, socklen_t length,
			char text[static LISTEN_TEXT_SIZE])
{
	size_t name_length = length - offsetof(struct sockaddr_un, sun_path);
	bool is_abstract = name_length > 0 && address->sun_path[0] == '\0';

	if (is_abstract)
		snprintf(text, LISTEN_TEXT_SIZE, "unix:@%.*s", (int)name_length - 1, address->sun_path + 1);
	else
		snprintf(text, LISTEN_TEXT_SIZE, "unix:%.*s", (int)name_length, address->sun_path);
}

const char *listen_format(const struct listener *listener, char text[static LISTEN_TEXT_SIZE])
{
	struct sockaddr_storage address = { .ss_family = AF_UNSPEC };
	socklen_t length = sizeof(address);
	union addr addr;

	if (listener->unix_path != NULL) {
		snprintf(text, LISTEN_TEXT_SIZE, "unix:%s", listener->unix_path);
		return text;
	}
	if (getsockname(listener->fd, (struct sockaddr *)&address, &length) != 0)
		length = 0;
	if (address.ss_family == AF_UNIX) {
		format_unix((const struct sockaddr_un *)&address, length, text);
		return text;
	}
	addr_from_sockaddr(&addr, (const struct sockaddr *)&address, length);
	_Static_assert(ADDR_TEXT_SIZE <= LISTEN_TEXT_SIZE, "addr_format() writes into the larger buffer");
	addr_format(&addr, text);
	return text;
}

static void remove_socket_file(const struct listener *listener)
{
	const struct stat made = { .st_dev = listener->unix_device, .st_ino = listener->unix_inode };
	CLEANUP_CLOSE int directory_fd = -1;
	struct stat found;
	const char *name;

	directory_fd = open_directory(listener->unix_path, &name);
	if (directory_fd < 0 || fstatat(directory_fd, name, &found, AT_SYMLINK_NOFOLLOW) != 0)
		return;
	if (S_ISSOCK(found.st_mode) && is_same_file(&made, &found))
		unlinkat(directory_fd, name, 0);
}

/* While the socket listens nobody takes the file for stale, so nobody replaces it just now. */
static void give_up_file(struct listener *listener)
{
	if (listener->unix_path != NULL)
		remove_socket_file(listener);
	free(listener->unix_path);
	listener->unix_path = NULL;
}

void listen_set_shut(struct listen_set *set)
{
	for (size_t i = 0; i < set->count; i++) {
		give_up_file(&set->listeners[i]);
		if (!set->listeners[i].is_inherited)
			shutdown(set->listeners[i].fd, SHUT_RDWR);
	}
}

void listen_set_close(struct listen_set *set)
{
	for (size_t i = 0; i < set->count; i++) {
		give_up_file(&set->listeners[i]);
		close(set->listeners[i].fd);
	}
	set->count = 0;
}
