/*
 * Theory of operation: the detailed list is asked for; a router that ends the
 * connection over that is asked for the plain one. Lines are cut out of one
 * buffer, in which a started line moves to the front before more is read.
 */
#include "lib/kaiso.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "lib/connection.h"

#define LIST_VERB ".kaiso/list"
/* A path of a request line's length, and a line of a description file, which has at most 64 KiB. */
#define BUFFER_SIZE (KAISO_LINE_MAX + (64 << 10) + 256)

struct list {
	struct kaiso_connection connection;
	kaiso_list_callback *callback;
	void *userdata;
	bool is_plain, has_begun;
	char directory[KAISO_SERVICE_MAX + 2]; /* "" or "DIR/" */
	size_t length;
	char buffer[BUFFER_SIZE];
};

enum { LIST_GOES_ON, LIST_IS_COMPLETE, LIST_IS_STOPPED };

static int list_ask(struct list *list)
{
	const char *verb = list->is_plain ? "" : *list->directory == '\0' ? LIST_VERB : LIST_VERB " ";

	return kaiso_connection_restart(&list->connection, verb, list->directory);
}

static int list_init(struct list *list, const char *router, const char *directory)
{
	size_t length = directory ? strlen(directory) : 0;

	list->is_plain = list->has_begun = false;
	list->length = 0;
	if (length > KAISO_SERVICE_MAX)
		return -ENAMETOOLONG;
	/* A line feed would make a second request of it. */
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)directory[i] < 0x20 || directory[i] == 0x7f)
			return -EINVAL;
	memcpy(list->directory, directory ? directory : "", length);
	if (length > 0 && list->directory[length - 1] != '/')
		list->directory[length++] = '/';
	list->directory[length] = '\0';
	return kaiso_connection_init(&list->connection, router, NULL, 0);
}

/* Cuts the text at its next tab and returns what is behind it; "" when there is none. */
static char *cut_field(char *text)
{
	char *tab = strchr(text, '\t');

	if (!tab)
		return text + strlen(text);
	*tab = '\0';
	return tab + 1;
}

/* One line, terminated, without its end. *stopped gets what the callback returned. */
static int list_take_line(struct list *list, char *line, int *stopped)
{
	struct kaiso_entry entry = { .path = line, .kind = "", .about = "" };

	if (*line == '\0')
		return LIST_IS_COMPLETE;
	if (!list->is_plain) {
		char *kind = cut_field(line);

		entry.kind = kind;
		entry.about = cut_field(kind);
	}
	*stopped = list->callback(&entry, list->userdata);
	return *stopped == 0 ? LIST_GOES_ON : LIST_IS_STOPPED;
}

static int list_take_lines(struct list *list, int *stopped)
{
	char *line = list->buffer, *end;
	size_t left = list->length;
	int outcome = LIST_GOES_ON;

	while (outcome == LIST_GOES_ON && (end = memchr(line, '\n', left))) {
		left -= (size_t)(end + 1 - line);
		*end = '\0';
		if (end > line && end[-1] == '\r')
			end[-1] = '\0';
		outcome = list_take_line(list, line, stopped);
		line = end + 1;
	}
	memmove(list->buffer, line, left);
	list->length = left;
	return outcome;
}

/* The connection ended before the list did. 0: another question is on its way. */
static int list_on_end(struct list *list)
{
	/* Half a list is not to pass for a whole one. */
	if (list->has_begun)
		return -ECONNRESET;
	/* What a router does over a directory that is not there: no list is ever empty by silence. */
	if (list->is_plain)
		return *list->directory != '\0' ? -ENOENT : -ECONNRESET;
	list->is_plain = true;
	return list_ask(list);
}

/* Reads what is there. An outcome, or a negative errno. */
static int list_read(struct list *list, int *stopped)
{
	ssize_t received;

	if (list->length == sizeof(list->buffer))
		return -EPROTO;
	received = recv(list->connection.fd, list->buffer + list->length, sizeof(list->buffer) - list->length,
			MSG_DONTWAIT);
	if (received == 0 || (received < 0 && errno == ECONNRESET))
		return list_on_end(list);
	if (received < 0)
		return errno == EINTR ? LIST_GOES_ON : -errno;
	list->has_begun = true;
	list->length += (size_t)received;
	return list_take_lines(list, stopped);
}

/* An outcome, or a negative errno. */
static int list_step(struct list *list, int64_t deadline_ms, int *stopped)
{
	int r = kaiso_connection_step(&list->connection);

	if (r == -ECONNRESET && list->connection.sent > 0)
		return list_on_end(list);
	if (r == 0)
		r = list_read(list, stopped);
	return r == -EAGAIN ? kaiso_connection_wait(&list->connection, deadline_ms) : r;
}

static int list_run(struct list *list, int timeout_ms)
{
	int64_t deadline_ms = kaiso_deadline_ms(timeout_ms);
	int stopped = 0, r = list_ask(list);

	if (r < 0)
		return r;
	do {
		r = list_step(list, deadline_ms, &stopped);
		/* A router that never stops sending leaves nothing to wait for. */
		if (r == LIST_GOES_ON && list->has_begun && kaiso_now_ms() >= deadline_ms)
			r = -ETIMEDOUT;
	} while (r == LIST_GOES_ON);
	kaiso_connection_close(&list->connection);
	return r < 0 ? r : stopped;
}

int kaiso_list(const char *router, const char *directory, int timeout_ms, kaiso_list_callback *callback,
	       void *userdata)
{
	struct list *list = malloc(sizeof(*list));
	int r;

	if (!list)
		return -ENOMEM;
	list->callback = callback;
	list->userdata = userdata;
	r = list_init(list, router, directory);
	if (r == 0)
		r = list_run(list, timeout_ms);
	free(list);
	return r;
}
