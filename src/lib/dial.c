/*
 * Theory of operation: struct conversation is the whole of it, from the first
 * address to the verdict, and never blocks. kaiso_dial() keeps one on its
 * stack and polls; a dialer wraps one up for event loops: its epoll descriptor
 * stays the same while connections come and go, and holds a timer as well.
 *
 * The verdict is looked at first and then taken up to its line feed, so what
 * the service says after it stays in the socket.
 */
#include "lib/kaiso.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "lib/connection.h"

#define OPEN_VERB ".kaiso/open "
#define VERDICT_MAX 256

/* The line with the verb has to fit, and so does the plain one then. */
_Static_assert(sizeof(OPEN_VERB) - 1 + KAISO_SERVICE_MAX + 2 == KAISO_LINE_MAX, "the longest service");

struct conversation {
	struct kaiso_connection connection;
	bool is_plain; /* this router gives no verdict */
	size_t verdict_length;
	char verdict[VERDICT_MAX];
	char service[KAISO_SERVICE_MAX + 1];
};

static const struct code {
	const char *name;
	int error;
} codes[] = {
	{ "not-found", -ENOENT },  { "denied", -EACCES }, { "unavailable", -EHOSTDOWN },
	{ "timeout", -ETIMEDOUT }, { "limit", -EBUSY },   { "invalid", -EBADMSG },
	{ "loop", -ELOOP },
};

/* The verdict as a whole, its LF included: 0 or a negative errno. */
static int verdict_read(const char *line, size_t length)
{
	size_t word;

	length--;
	if (length > 0 && line[length - 1] == '\r')
		length--;
	if (length == 1 && line[0] == '+')
		return 0;
	if (length < 2 || line[0] != '-')
		return -EPROTO;
	for (word = 1; word < length && line[word] != ' '; word++)
		;
	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		if (strlen(codes[i].name) == word - 1 && memcmp(line + 1, codes[i].name, word - 1) == 0)
			return codes[i].error;
	return -EREMOTEIO;
}

/* Takes as much of the verdict as is there. 1: it is complete; 0: the end, or a reset; -EAGAIN; another
 * errno. */
static int verdict_receive(struct conversation *conversation)
{
	char *rest = conversation->verdict + conversation->verdict_length;
	size_t room = VERDICT_MAX - conversation->verdict_length;
	int fd = conversation->connection.fd;
	ssize_t seen = recv(fd, rest, room, MSG_PEEK | MSG_DONTWAIT);
	const char *end;

	if (seen < 0)
		return errno == ECONNRESET ? 0 : -errno;
	if (seen == 0)
		return 0;
	/* All that is taken belongs to the verdict, so it is not looked at again when the rest comes. */
	end = memchr(rest, '\n', (size_t)seen);
	if (end)
		seen = end + 1 - rest;
	seen = recv(fd, rest, (size_t)seen, MSG_DONTWAIT);
	if (seen < 0)
		return -errno;
	conversation->verdict_length += (size_t)seen;
	if (!end && conversation->verdict_length == VERDICT_MAX)
		return -EPROTO;
	return end ? 1 : -EAGAIN;
}

static int conversation_init(struct conversation *conversation, const char *router, const char *service)
{
	const char *path = service ? service : conversation->service;
	int r = kaiso_connection_init(&conversation->connection, router, conversation->service,
				      sizeof(conversation->service));

	if (r < 0)
		return r;
	conversation->is_plain = false;
	conversation->verdict_length = 0;
	if (strlen(path) > KAISO_SERVICE_MAX)
		return -ENAMETOOLONG;
	for (const char *byte = path; *byte != '\0'; byte++)
		if ((unsigned char)*byte < 0x20 || *byte == 0x7f)
			return -EINVAL;
	/* To a plain router these two would be requests for lists. */
	if (*path == '\0' || path[strlen(path) - 1] == '/')
		return -EINVAL;
	/* It may be the very same text, from a URL. */
	memmove(conversation->service, path, strlen(path) + 1);
	return kaiso_connection_restart(&conversation->connection, OPEN_VERB, conversation->service);
}

/* 0: the service is connected. -EAGAIN: wait for what the connection says. Another negative errno: it is
 * over. */
static int conversation_step(struct conversation *conversation)
{
	struct kaiso_connection *connection = &conversation->connection;

	/* At most twice round, but for signals: with the verb, and with the plain line. */
	for (;;) {
		int r = kaiso_connection_step(connection);

		/* A router that is quick to refuse the verb may have closed before all of the line was sent. */
		if (r == 0 && conversation->is_plain)
			return 0;
		if (r == -ECONNRESET && connection->sent > 0)
			r = 0;
		else if (r == 0)
			r = verdict_receive(conversation);
		if (r == -EINTR)
			continue;
		if (r == 1)
			return verdict_read(conversation->verdict, conversation->verdict_length);
		if (r < 0)
			return r;
		if (conversation->is_plain || conversation->verdict_length > 0)
			return -ECONNRESET;
		conversation->is_plain = true;
		r = kaiso_connection_restart(connection, "", conversation->service);
		if (r < 0)
			return r;
	}
}

int kaiso_dial(const char *router, const char *service, int timeout_ms)
{
	struct conversation conversation;
	int64_t deadline_ms;
	int r = conversation_init(&conversation, router, service);

	if (r < 0)
		return r;
	deadline_ms = kaiso_deadline_ms(timeout_ms);
	do {
		r = conversation_step(&conversation);
	} while (r == -EAGAIN && (r = kaiso_connection_wait(&conversation.connection, deadline_ms)) == 0);
	/* A socket that was just made has no other flags to be kept. */
	if (r == 0 && fcntl(conversation.connection.fd, F_SETFL, 0) != 0)
		r = -errno;
	if (r == 0)
		return kaiso_connection_steal(&conversation.connection);
	kaiso_connection_close(&conversation.connection);
	return r;
}

/* ------------------------------------------------------- for event loops */

struct kaiso_dialer {
	struct conversation conversation;
	int epoll_fd; /* holds the connection and the timer */
	int timer_fd; /* -1: no timeout */
};

/* A timer that is given the time 0 would be off. */
static int dialer_set_timer(struct kaiso_dialer *dialer, int timeout_ms)
{
	struct itimerspec time = { .it_value = { .tv_sec = timeout_ms / 1000,
						 .tv_nsec = timeout_ms % 1000 * 1000000L + 1 } };
	struct epoll_event event = { .events = EPOLLIN };

	dialer->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (dialer->timer_fd < 0 || timerfd_settime(dialer->timer_fd, 0, &time, NULL) != 0 ||
	    epoll_ctl(dialer->epoll_fd, EPOLL_CTL_ADD, dialer->timer_fd, &event) != 0)
		return -errno;
	return 0;
}

/* A connection that was closed has left the epoll by itself, and the number may be that of the next one. */
static int dialer_watch(struct kaiso_dialer *dialer)
{
	const struct kaiso_connection *connection = &dialer->conversation.connection;
	struct epoll_event event = { .events = connection->events == POLLOUT ? EPOLLOUT : EPOLLIN };

	if (epoll_ctl(dialer->epoll_fd, EPOLL_CTL_MOD, connection->fd, &event) == 0 ||
	    (errno == ENOENT && epoll_ctl(dialer->epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) == 0))
		return 0;
	return -errno;
}

/* Begins to connect, so that there is something to wait for. */
static int dialer_begin(struct kaiso_dialer *dialer, const char *router, const char *service, int timeout_ms)
{
	struct kaiso_connection *connection = &dialer->conversation.connection;
	int r = conversation_init(&dialer->conversation, router, service);

	if (r < 0)
		return r;
	dialer->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (dialer->epoll_fd < 0)
		return -errno;
	r = timeout_ms >= 0 ? dialer_set_timer(dialer, timeout_ms) : 0;
	if (r < 0)
		return r;
	r = kaiso_connection_step(connection);
	/* What went wrong after the first byte is for the first step to see. */
	return r == 0 || r == -EAGAIN || connection->sent > 0 ? dialer_watch(dialer) : r;
}

int kaiso_dial_start(const char *router, const char *service, int timeout_ms, struct kaiso_dialer **started)
{
	struct kaiso_dialer *dialer = malloc(sizeof(*dialer));
	int r;

	if (!dialer)
		return -ENOMEM;
	dialer->conversation.connection.fd = dialer->epoll_fd = dialer->timer_fd = -1;
	r = dialer_begin(dialer, router, service, timeout_ms);
	if (r < 0)
		kaiso_dialer_free(dialer);
	else
		*started = dialer;
	return r;
}

int kaiso_dialer_fd(const struct kaiso_dialer *dialer)
{
	return dialer->epoll_fd;
}

static bool dialer_is_late(const struct kaiso_dialer *dialer)
{
	uint64_t expirations;

	return dialer->timer_fd >= 0 && read(dialer->timer_fd, &expirations, sizeof(expirations)) > 0;
}

/* The socket lives on: this epoll is not to wake for it any more. */
static int dialer_finish(struct kaiso_dialer *dialer)
{
	epoll_ctl(dialer->epoll_fd, EPOLL_CTL_DEL, dialer->conversation.connection.fd, NULL);
	return kaiso_connection_steal(&dialer->conversation.connection);
}

int kaiso_dial_step(struct kaiso_dialer *dialer)
{
	struct kaiso_connection *connection = &dialer->conversation.connection;
	int r;

	if (connection->fd < 0)
		return -EBADF;
	r = conversation_step(&dialer->conversation);
	if (r == -EAGAIN)
		r = dialer_is_late(dialer) ? -ETIMEDOUT : dialer_watch(dialer);
	else if (r == 0)
		return dialer_finish(dialer);
	if (r == 0)
		return -EAGAIN;
	kaiso_connection_close(connection);
	return r;
}

void kaiso_dialer_free(struct kaiso_dialer *dialer)
{
	if (!dialer)
		return;
	kaiso_connection_close(&dialer->conversation.connection);
	if (dialer->timer_fd >= 0)
		close(dialer->timer_fd);
	if (dialer->epoll_fd >= 0)
		close(dialer->epoll_fd);
	free(dialer);
}
