#include "cmd/control_client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hint.h"
#include "base/macros.h"
#include "net/dial.h"

#define SYSTEM_PLACE "/run/kaiso/control"
#define ANSWER_MAX (256u << 20)
#define PIECE 65536

static void explain(char *reason, size_t size, const char *path, int error)
{
	char hint[HINT_SIZE];

	if (error == -ENOENT)
		snprintf(hint, sizeof(hint), "%s",
			 "start a router, or name its control socket with --control");
	else
		hint_for(-error, path, W_OK, hint);
	snprintf(reason, size, "%.256s: %s%s%s", path, strerror(-error), *hint ? "; " : "", hint);
}

static int open_at(struct control_client *client, const char *path, char *reason, size_t reason_size)
{
	int fd = dial_unix(path);

	if (fd < 0) {
		explain(reason, reason_size, path, fd);
		return fd;
	}
	*client = (struct control_client){ .fd = fd };
	return 0;
}

/* The user's own place, then the system's. Says why of the first that is there at all. */
static int open_usual(struct control_client *client, char *reason, size_t reason_size)
{
	const char *user = getenv("XDG_RUNTIME_DIR");
	CLEANUP_FREE char *own = NULL;
	int r = -ENOENT;

	if (user && user[0] == '/' && asprintf(&own, "%s/kaiso/control", user) >= 0)
		r = open_at(client, own, reason, reason_size);
	if (r == -ENOENT || r == -ECONNREFUSED) {
		char other[CONTROL_REASON_SIZE];
		int other_r = open_at(client, SYSTEM_PLACE, other, sizeof(other));

		if (other_r == -ENOENT && r == -ENOENT)
			snprintf(reason, reason_size,
				 "no router is found at %s%s" SYSTEM_PLACE
				 "; start one, or name its control socket with --control",
				 own ? own : "", own ? " or " : "");
		else if (other_r != -ENOENT)
			snprintf(reason, reason_size, "%s", other);
		if (other_r != -ENOENT)
			r = other_r;
	}
	return r;
}

int control_client_open(struct control_client *client, const char *path, char *reason, size_t reason_size)
{
	const char *named = getenv("KAISO_CONTROL");

	*client = (struct control_client){ .fd = -1 };
	if (!path && named && named[0])
		path = named;
	return path ? open_at(client, path, reason, reason_size) : open_usual(client, reason, reason_size);
}

void control_client_close(struct control_client *client)
{
	if (client->fd >= 0)
		close(STEAL_FD(client->fd));
	free(STEAL_PTR(client->buffer));
	client->length = client->capacity = 0;
}

/* Waits for events until the deadline: 0 or a negative errno. */
static int wait_for(const struct control_client *client, short events, uint64_t end_ms)
{
	struct pollfd waiting = { .fd = client->fd, .events = events };

	for (;;) {
		uint64_t now_ms = clock_now_ms();
		int count = now_ms < end_ms ? poll(&waiting, 1, (int)(end_ms - now_ms)) : 0;

		if (count > 0)
			return 0;
		if (count == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

int control_client_send(struct control_client *client, const char *line)
{
	uint64_t end_ms = clock_now_ms() + CONTROL_TIMEOUT_MS;
	CLEANUP_FREE char *text = NULL;
	int length = asprintf(&text, "%s\n", line), done = 0, r = 0;

	if (length < 0)
		return -ENOMEM;
	while (done < length && r == 0) {
		ssize_t sent = send(client->fd, text + done, (size_t)(length - done), MSG_NOSIGNAL);

		if (sent >= 0)
			done += (int)sent;
		else if (errno == EAGAIN)
			r = wait_for(client, POLLOUT, end_ms);
		else if (errno != EINTR)
			r = errno == EPIPE ? -ECONNRESET : -errno;
	}
	return r;
}

static int make_room(struct control_client *client)
{
	char *buffer;

	if (client->capacity - client->length > PIECE)
		return 0;
	if (client->capacity >= ANSWER_MAX)
		return -EPROTO;
	buffer = realloc(client->buffer, client->capacity * 2 + 2 * PIECE);
	if (!buffer)
		return -ENOMEM;
	client->buffer = buffer;
	client->capacity = client->capacity * 2 + 2 * PIECE;
	return 0;
}

/* Until the line's end, which is the last byte: a question has one answer. */
static int receive_line(struct control_client *client, uint64_t end_ms)
{
	for (;;) {
		int r = make_room(client);
		ssize_t received;

		if (r < 0)
			return r;
		received = recv(client->fd, client->buffer + client->length, PIECE, 0);
		if (received == 0)
			return -ECONNRESET;
		if (received > 0) {
			client->length += (size_t)received;
			if (client->buffer[client->length - 1] == '\n')
				return 0;
		} else if (errno == EAGAIN) {
			r = wait_for(client, POLLIN, end_ms);
			if (r < 0)
				return r;
		} else if (errno != EINTR) {
			return -errno;
		}
	}
}

static json_t *receive_until(struct control_client *client, uint64_t end_ms)
{
	json_t *answer = NULL;
	int r = receive_line(client, end_ms);

	if (r == 0) {
		answer = json_loadb(client->buffer, client->length, 0, NULL);
		client->length = 0;
		if (!json_is_object(answer)) {
			json_decref(answer);
			answer = NULL;
			r = -EPROTO;
		}
	}
	errno = -r;
	return answer;
}

json_t *control_client_receive(struct control_client *client)
{
	json_t *answer = receive_until(client, 0);

	if (!answer && errno == ETIMEDOUT)
		errno = EAGAIN;
	return answer;
}

json_t *control_client_ask(struct control_client *client, const char *line)
{
	int r = control_client_send(client, line);

	if (r == 0)
		return receive_until(client, clock_now_ms() + CONTROL_TIMEOUT_MS);
	errno = -r;
	return NULL;
}
