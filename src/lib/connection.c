/*
 * Theory of operation: there is no state but how much of the line is sent.
 * send(2) on a socket that is still connecting says EAGAIN, and on one that
 * failed to, why: so the first byte sent is what tells that an address was
 * reached, and an error before it moves on to the next.
 */
#include "lib/connection.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int64_t kaiso_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t kaiso_deadline_ms(int timeout_ms)
{
	return timeout_ms < 0 ? INT64_MAX : kaiso_now_ms() + timeout_ms;
}

int kaiso_connection_init(struct kaiso_connection *connection, const char *router, char *service,
			  size_t service_size)
{
	connection->next = 0;
	connection->fd = -1;
	connection->events = 0;
	connection->length = connection->sent = 0;
	return kaiso_addresses_lookup(router, &connection->address, service, service_size);
}

int kaiso_connection_restart(struct kaiso_connection *connection, const char *verb, const char *path)
{
	int length = snprintf(connection->line, sizeof(connection->line), "%s%s\r\n", verb, path);

	if (length < 0 || (size_t)length >= sizeof(connection->line))
		return -ENAMETOOLONG;
	/* The address that answered was the one before the next. */
	if (connection->sent > 0)
		connection->next--;
	kaiso_connection_close(connection);
	connection->length = (size_t)length;
	connection->sent = 0;
	return 0;
}

/* Opens a socket to the next address. 0, also when the connection is under way, or a negative errno. */
static int connection_open(struct kaiso_connection *connection)
{
	const struct sockaddr *address =
		(const struct sockaddr *)&connection->address.addresses[connection->next];
	socklen_t length = connection->address.lengths[connection->next];

	connection->next++;
	connection->fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (connection->fd < 0)
		return -errno;
	/* Interrupted it goes on all the same, connect(2). */
	if (connect(connection->fd, address, length) == 0 || errno == EINPROGRESS || errno == EINTR)
		return 0;
	/* No UNIX socket at this path: to the caller ENOENT is a service that is not there. */
	if (errno == ENOENT)
		return -ECONNREFUSED;
	/* A UNIX socket's backlog is full, and nothing would tell when it no longer is. */
	return errno == EAGAIN ? -EBUSY : -errno;
}

/* 0: all is sent; or a negative errno. While TCP is connecting, that is EAGAIN (tcp_sendmsg() with nothing to
 * wait for), and afterwards what connect(2) would have said. */
static int connection_send(struct kaiso_connection *connection)
{
	while (connection->sent < connection->length) {
		ssize_t sent = send(connection->fd, connection->line + connection->sent,
				    connection->length - connection->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (sent >= 0)
			connection->sent += (size_t)sent;
		else if (errno != EINTR)
			return -errno;
	}
	return 0;
}

int kaiso_connection_step(struct kaiso_connection *connection)
{
	int r = connection->fd < 0 ? -ENOTCONN : connection_send(connection);

	while (r < 0 && r != -EAGAIN && connection->sent == 0 &&
	       connection->next < connection->address.count) {
		kaiso_connection_close(connection);
		r = connection_open(connection);
		if (r == 0)
			r = connection_send(connection);
	}
	connection->events = r == -EAGAIN ? POLLOUT : POLLIN;
	return r == -EPIPE ? -ECONNRESET : r;
}

int kaiso_connection_wait(const struct kaiso_connection *connection, int64_t deadline_ms)
{
	struct pollfd waited = { .fd = connection->fd, .events = connection->events };

	for (;;) {
		int64_t left_ms = deadline_ms == INT64_MAX ? -1 : deadline_ms - kaiso_now_ms();
		int r;

		/* Too late already: still look once, for the sake of a timeout of 0. */
		if (left_ms < 0 && deadline_ms != INT64_MAX)
			left_ms = 0;
		r = poll(&waited, 1, left_ms > INT_MAX ? INT_MAX : (int)left_ms);
		if (r != 0 && !(r < 0 && errno == EINTR))
			return r > 0 ? 0 : -errno;
		if (deadline_ms != INT64_MAX && kaiso_now_ms() >= deadline_ms)
			return -ETIMEDOUT;
	}
}

void kaiso_connection_close(struct kaiso_connection *connection)
{
	if (connection->fd >= 0)
		close(connection->fd);
	connection->fd = -1;
}

int kaiso_connection_steal(struct kaiso_connection *connection)
{
	int fd = connection->fd;

	connection->fd = -1;
	return fd;
}
