/*
 * Theory of operation: the listener and the connections of routers are in one
 * level-triggered epoll, which is also what the caller waits for. One event at
 * a time is asked for; the kernel then puts it last among those that are ready, so every
 * connection has its turn and a silent one costs nothing.
 *
 * A descriptor that does not fit the process any more is lost once its byte is
 * taken. So the message is looked at first: that already brings a descriptor of
 * the client, to keep, or tells that there is no room, and then the message stays where it is.
 * Taking the byte without room for descriptors drops the queue's own reference.
 *
 * Routers that wait with a client each must not use up the descriptors that their clients
 * need, or nothing would ever move again. So one is held in reserve before a router is
 * accepted, and given up for a client.
 *
 * The lock is held while nothing blocks. Whoever waits does so outside of it,
 * and may find that another thread was faster.
 */
#include "lib/kaiso.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "lib/socket_file.h"

#define CLIENT_BYTE '*'
#define GREETING_BYTE '+'
#define SILENT_MAX 256

/* A router's connection: in the list while it is open. */
struct connection {
	struct connection *next, *previous;
	int fd;
	bool is_silent; /* no client has come over it */
};

struct kaiso_receiver {
	pthread_mutex_t lock; /* over all that changes, and from the look at a client to the taking of it */
	struct connection
		connections; /* a ring, the oldest first; this is its head and stands for the listener */
	unsigned silent_count;
	bool is_nonblocking;
	int epoll_fd;
	int reserve_fd; /* room for a client when there is none otherwise; -1: it was needed */
	struct kaiso_socket_file file;
};

/* ------------------------------------------------------------ connections */

/* Out of the epoll first: where a child of fork() has a copy, close() alone would leave it there. */
static void connection_close(struct kaiso_receiver *receiver, struct connection *connection)
{
	epoll_ctl(receiver->epoll_fd, EPOLL_CTL_DEL, connection->fd, NULL);
	connection->previous->next = connection->next;
	connection->next->previous = connection->previous;
	receiver->silent_count -= connection->is_silent;
	close(connection
		      ->fd); /* nobody else has it, unless by fork: then it had better leave the epoll, too */
	free(connection);
}

static void connection_close_oldest_silent(struct kaiso_receiver *receiver)
{
	struct connection *connection = receiver->connections.next;

	while (!connection->is_silent)
		connection = connection->next;
	connection_close(receiver, connection);
}

/* Takes fd on success. */
static int connection_add_take(struct kaiso_receiver *receiver, int fd)
{
	struct connection *connection = malloc(sizeof(*connection));
	struct epoll_event event = { .events = EPOLLIN, .data = { .ptr = connection } };

	if (!connection)
		return -ENOMEM;
	if (epoll_ctl(receiver->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
		free(connection);
		return -errno;
	}
	connection->fd = fd;
	connection->is_silent = true;
	connection->next = &receiver->connections;
	connection->previous = receiver->connections.previous;
	connection->previous->next = connection->next->previous = connection;
	if (++receiver->silent_count > SILENT_MAX)
		connection_close_oldest_silent(receiver);
	return 0;
}

/* 0 or a negative errno. */
static int reserve_hold(struct kaiso_receiver *receiver)
{
	if (receiver->reserve_fd < 0)
		receiver->reserve_fd = fcntl(receiver->epoll_fd, F_DUPFD_CLOEXEC, 0);
	return receiver->reserve_fd < 0 ? -errno : 0;
}

static void reserve_release(struct kaiso_receiver *receiver)
{
	if (receiver->reserve_fd >= 0)
		close(receiver->reserve_fd);
	receiver->reserve_fd = -1;
}

/* A router connects. 0 or a negative errno. */
static int accept_router(struct kaiso_receiver *receiver)
{
	static const char greeting = GREETING_BYTE;
	int fd, r = reserve_hold(receiver);

	if (r < 0)
		return r;
	fd = accept4(receiver->file.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	/* Another process that shares the listener was faster, or the router has left. */
	if (fd < 0)
		return errno == EAGAIN || errno == ECONNABORTED || errno == EINTR ? 0 : -errno;
	r = connection_add_take(receiver, fd);
	if (r < 0) {
		close(fd);
		return r;
	}
	/* One that gives a client and leaves is gone already: the client is there all the same. */
	send(fd, &greeting, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	return 0;
}

/* ---------------------------------------------------------------- clients */

/* No descriptor came though one was sent: is it that this process can have no more? */
static int error_of_truncation(void)
{
	int fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);

	if (fd < 0 && (errno == EMFILE || errno == ENFILE))
		return -errno;
	if (fd >= 0)
		close(fd);
	return -EACCES;
}

/*
 * Looks at the next message, which stays in the queue. 1 and *client: a descriptor of it; 0: there is none
 * now; -EMFILE, -ENFILE: there is no room for it; -EACCES: a security policy withholds it; -EPROTO: it is not
 * of the protocol, or the end.
 */
static int client_peek(int connection_fd, int flags, int *client)
{
	union {
		struct cmsghdr header; /* for its alignment */
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	char byte = 0;
	struct iovec part = { .iov_base = &byte, .iov_len = 1 };
	/* Not CMSG_SPACE: with its padding there would be room for two. */
	struct msghdr message = { .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = CMSG_LEN(sizeof(int)) };
	const struct cmsghdr *header;
	ssize_t seen = recvmsg(connection_fd, &message, MSG_PEEK | MSG_DONTWAIT | flags);

	if (seen < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -EPROTO;
	header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
	    header->cmsg_len == CMSG_LEN(sizeof(int))) {
		memcpy(client, CMSG_DATA(header), sizeof(int));
		if (seen == 1 && byte == CLIENT_BYTE && (message.msg_flags & MSG_CTRUNC) == 0)
			return 1;
		close(*client);
		return -EPROTO;
	}
	return seen == 1 && (message.msg_flags & MSG_CTRUNC) != 0 ? error_of_truncation() : -EPROTO;
}

/* Takes the byte that was looked at. False when no descriptor came with it: behind a byte without one, the look
 * shows that of the message after it (unix_stream_read_generic(), Linux 6.18). */
static bool client_take(int connection_fd)
{
	char byte;
	struct iovec part = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	ssize_t taken;

	do {
		taken = recvmsg(connection_fd, &message, MSG_DONTWAIT);
	} while (taken < 0 && errno == EINTR);
	return taken == 1 && (message.msg_flags & MSG_CTRUNC) != 0;
}

/* 1 and *client: the next client of this connection; 0: it has none, or has ended; a negative errno: for the
 * caller. */
static int connection_receive(struct kaiso_receiver *receiver, struct connection *connection, int flags,
			      int *client)
{
	int r = client_peek(connection->fd, flags, client);

	if ((r == -EMFILE || r == -ENFILE) && receiver->reserve_fd >= 0) {
		reserve_release(receiver);
		r = client_peek(connection->fd, flags, client);
	}
	if ((r == -EACCES || r == 1) && !client_take(connection->fd)) {
		if (r == 1)
			close(*client);
		r = -EPROTO;
	}
	if (r == -EPROTO)
		connection_close(receiver, connection);
	if (r == 0 || r == -EPROTO)
		return 0;
	if (r == -EACCES || r == 1) {
		receiver->silent_count -= connection->is_silent;
		connection->is_silent = false;
	}
	return r == -EACCES ? 0 : r;
}

/* Who the client is, and the mode that was asked for: routers of the first kind give non-blocking ones. 0, or
 * a negative errno: the client has left, or it is no connection. */
static int client_prepare(int client, int flags, struct sockaddr *peer, socklen_t *peer_length)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof(address);
	int nonblocking = (flags & SOCK_NONBLOCK) != 0;

	if (getpeername(client, (struct sockaddr *)&address, &length) != 0 ||
	    ioctl(client, FIONBIO, &nonblocking) != 0)
		return -errno;
	if (peer && peer_length) {
		memcpy(peer, &address, *peer_length < length ? *peer_length : length);
		*peer_length = length;
	}
	return 0;
}

/* -------------------------------------------------------------- accepting */

/* 1 and *client; 0: something else happened; -EAGAIN: nothing has; another negative errno. */
static int receiver_step(struct kaiso_receiver *receiver, int flags, int *client)
{
	struct epoll_event event;
	int count = epoll_wait(receiver->epoll_fd, &event, 1, 0);

	if (count < 0)
		return errno == EINTR ? 0 : -errno;
	if (count == 0)
		return -EAGAIN;
	if (event.data.ptr == &receiver->connections)
		return accept_router(receiver);
	return connection_receive(receiver, event.data.ptr, flags, client);
}

static int receiver_step_locked(struct kaiso_receiver *receiver, int flags, int *client)
{
	int r;

	pthread_mutex_lock(&receiver->lock);
	r = receiver_step(receiver, flags, client);
	pthread_mutex_unlock(&receiver->lock);
	return r;
}

/* poll(2) is interrupted by every handler. */
static int receiver_wait(const struct kaiso_receiver *receiver)
{
	struct pollfd event = { .fd = receiver->epoll_fd, .events = POLLIN };

	return poll(&event, 1, -1) < 0 ? -errno : 0;
}

int kaiso_accept(struct kaiso_receiver *receiver, struct sockaddr *peer, socklen_t *peer_length, int flags)
{
	if ((flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) != 0)
		return -EINVAL;
	for (;;) {
		int client = -1;
		int r = receiver_step_locked(receiver, (flags & SOCK_CLOEXEC) ? MSG_CMSG_CLOEXEC : 0,
					     &client);

		if (r == 1) {
			if (client_prepare(client, flags, peer, peer_length) == 0)
				return client;
			close(client);
		}
		if (r == -EAGAIN && !receiver->is_nonblocking)
			r = receiver_wait(receiver);
		if (r < 0)
			return r;
	}
}

/* ------------------------------------------------------------------- life */

/* Takes the file on success. */
static int receiver_new_take(struct kaiso_socket_file *file, int flags, struct kaiso_receiver **made)
{
	struct kaiso_receiver *receiver = malloc(sizeof(*receiver));
	struct epoll_event event = { .events = EPOLLIN };
	int r;

	if (!receiver)
		return -ENOMEM;
	event.data.ptr = &receiver->connections;
	receiver->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (receiver->epoll_fd < 0 || epoll_ctl(receiver->epoll_fd, EPOLL_CTL_ADD, file->fd, &event) != 0) {
		r = -errno;
		if (receiver->epoll_fd >= 0)
			close(receiver->epoll_fd);
		free(receiver);
		return r;
	}
	pthread_mutex_init(&receiver->lock, NULL);
	receiver->connections.next = receiver->connections.previous = &receiver->connections;
	receiver->silent_count = 0;
	receiver->reserve_fd = -1;
	receiver->is_nonblocking = (flags & SOCK_NONBLOCK) != 0;
	receiver->file = *file;
	*made = receiver;
	return 0;
}

int kaiso_listen(const char *path, int flags, struct kaiso_receiver **receiver)
{
	struct kaiso_socket_file file;
	int r = (flags & ~SOCK_NONBLOCK) != 0 ? -EINVAL : kaiso_socket_file_open(&file, path);

	if (r < 0)
		return r;
	r = receiver_new_take(&file, flags, receiver);
	if (r < 0)
		kaiso_socket_file_close(&file);
	return r;
}

static int socket_option(int fd, int option)
{
	int value = -1;
	socklen_t length = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0 ? value : -1;
}

int kaiso_listen_on(int listener_fd, int flags, struct kaiso_receiver **receiver)
{
	struct kaiso_socket_file file = { .fd = listener_fd, .directory_fd = -1 };
	int mode = fcntl(listener_fd, F_GETFL);

	if ((flags & ~SOCK_NONBLOCK) != 0 || mode < 0 || socket_option(listener_fd, SO_DOMAIN) != AF_UNIX ||
	    socket_option(listener_fd, SO_TYPE) != SOCK_STREAM ||
	    socket_option(listener_fd, SO_ACCEPTCONN) != 1)
		return -EINVAL;
	if (fcntl(listener_fd, F_SETFL, mode | O_NONBLOCK) != 0 ||
	    fcntl(listener_fd, F_SETFD, FD_CLOEXEC) != 0)
		return -errno;
	return receiver_new_take(&file, flags, receiver);
}

int kaiso_receiver_fd(const struct kaiso_receiver *receiver)
{
	return receiver->epoll_fd;
}

/* Only closes: a child of fork() shares the epoll with its parent, and must leave alone what is in it. */
void kaiso_receiver_free(struct kaiso_receiver *receiver)
{
	struct connection *connection, *next;

	if (!receiver)
		return;
	kaiso_socket_file_close(&receiver->file);
	for (connection = receiver->connections.next; connection != &receiver->connections;
	     connection = next) {
		next = connection->next;
		close(connection->fd);
		free(connection);
	}
	reserve_release(receiver);
	close(receiver->epoll_fd);
	pthread_mutex_destroy(&receiver->lock);
	free(receiver);
}
