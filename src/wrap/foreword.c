/*
 * Theory of operation: TCP Fast Open (RFC 7413, tcp(7)) is the one way to queue data on a socket before its
 * handshake is over. With TCP_FASTOPEN_NO_COOKIE (Linux 4.15) a sendto() with MSG_FASTOPEN puts the line
 * into the send queue, sends a SYN that carries it, and returns. A server that knows nothing of Fast Open,
 * or has it off, ignores the data in the SYN, and the kernel sends it again behind the handshake: in every
 * case the line is what the connection begins with, and the program's own writes queue up behind it.
 *
 * Without a cookie nothing is stored about the server, so the program's own Fast Open is not disturbed.
 */
#include "wrap/foreword.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/mptcp.h and newer libc headers */
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

#ifndef TCP_FASTOPEN_NO_COOKIE
#define TCP_FASTOPEN_NO_COOKIE 34
#endif

/*
 * Straight to the kernel: inside of the preload library the names sendto and connect are the library's own.
 */
static long kernel_sendto(int fd, const void *bytes, size_t length, int flags, const struct sockaddr *address,
			  socklen_t address_length)
{
	int saved_errno = errno;
	long r = syscall(SYS_sendto, fd, bytes, length, flags, address, address_length);

	if (r < 0)
		r = -errno;
	errno = saved_errno;
	return r;
}

static int kernel_connect(int fd, const struct sockaddr *address, socklen_t length)
{
	int saved_errno = errno;
	int r = (int)syscall(SYS_connect, fd, address, length);

	if (r < 0)
		r = -errno;
	errno = saved_errno;
	return r;
}

/* An option of the size of an int, or -1. */
static int get_option(int fd, int level, int name)
{
	int saved_errno = errno;
	int value = -1;
	socklen_t length = sizeof(value);

	if (getsockopt(fd, level, name, &value, &length) != 0)
		value = -1;
	errno = saved_errno;
	return value;
}

bool foreword_is_tcp(int fd)
{
	int protocol = get_option(fd, SOL_SOCKET, SO_PROTOCOL);

	return (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP) &&
	       get_option(fd, SOL_SOCKET, SO_TYPE) == SOCK_STREAM;
}

bool foreword_is_due(int fd)
{
	int saved_errno = errno;
	struct tcp_info info = { 0 };
	/* The state comes first; the kernel gives as much as is asked for. */
	socklen_t length = sizeof(info.tcpi_state);
	bool is_due = getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
		      info.tcpi_state == TCP_CLOSE;

	errno = saved_errno;
	return is_due;
}

static int get_flags(int fd)
{
	int saved_errno = errno;
	int flags = fcntl(fd, F_GETFL);

	errno = saved_errno;
	return flags;
}

bool foreword_is_nonblocking(int fd)
{
	int flags = get_flags(fd);

	return flags >= 0 && (flags & O_NONBLOCK);
}

int foreword_timeout_ms(int fd)
{
	int saved_errno = errno;
	struct timeval timeout = { 0 };
	socklen_t length = sizeof(timeout);
	int64_t timeout_ms = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, &length) == 0)
		timeout_ms = (int64_t)timeout.tv_sec * 1000 + (timeout.tv_usec + 999) / 1000;
	errno = saved_errno;
	if (timeout_ms == 0)
		return -1;
	return timeout_ms > INT_MAX ? INT_MAX : (int)timeout_ms;
}

static bool forgo_cookie(int fd)
{
	int saved_errno = errno;
	bool is_set = setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, &(int){ 1 }, sizeof(int)) == 0;

	errno = saved_errno;
	return is_set;
}

int foreword_begin(int fd, const struct sockaddr *address, socklen_t length, const char *line,
		   size_t line_length)
{
	long r;

	if (!forgo_cookie(fd))
		return -EOPNOTSUPP;
	r = kernel_sendto(fd, line, line_length, MSG_FASTOPEN | MSG_DONTWAIT | MSG_NOSIGNAL, address, length);
	/* A SYN went out without data: no room for it in the segment, or a kernel that has given up on Fast
	 * Open. */
	return r == -EINPROGRESS ? 0 : (int)r;
}

int foreword_connect(int fd, const struct sockaddr *address, socklen_t length)
{
	int flags = get_flags(fd);
	int r;

	if (flags < 0 || (flags & O_NONBLOCK))
		return kernel_connect(fd, address, length);
	/* The mode is the open file's, seen by all who share it; but nobody can do anything with
	 * the socket before it is connected. */
	fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	r = kernel_connect(fd, address, length);
	fcntl(fd, F_SETFL, flags);
	return r;
}

int foreword_send(int fd, const char *rest, size_t length)
{
	long r = kernel_sendto(fd, rest, length, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);

	if (r == -EAGAIN || r == -EINTR)
		return 0;
	return (int)r;
}

/* Waits for room to send. False: there is no connection, or will be none. */
static bool await_room(int fd)
{
	struct pollfd watched = { .fd = fd, .events = POLLOUT };
	int saved_errno = errno;

	while (poll(&watched, 1, -1) < 0 && errno == EINTR)
		;
	errno = saved_errno;
	return !(watched.revents & (POLLERR | POLLHUP | POLLNVAL));
}

void foreword_finish(int fd, const char *rest, size_t length)
{
	while (length > 0 && await_room(fd)) {
		int sent = foreword_send(fd, rest, length);

		if (sent < 0)
			break;
		rest += sent;
		length -= (size_t)sent;
	}
}

void foreword_undo(int fd)
{
	struct sockaddr nobody = { .sa_family = AF_UNSPEC };

	kernel_connect(fd, &nobody, sizeof(nobody));
}
