/*
 * Theory of operation: names, several addresses and full backlogs are dealt with by dial.h, for which a
 * loop is made and run until it is done. The questions themselves are plain poll(2) with what is left
 * of the deadline.
 *
 * From a connection that will belong to a service exactly the verdict's line may be taken, so it is
 * read byte by byte: three system calls for "+" CR LF, once in a connection's life. "Closed without a
 * word" covers a reset as well: a router that closes with our bytes unread sends one.
 */
#include "net/client.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/macros.h"
#include "net/dial.h"
#include "net/loop.h"
#include "net/resolve.h"

#define LINE_MAX_BYTES 4096 /* of a request, its CRLF included */
#define VERDICT_MAX 512     /* longer than any line that a router answers */
#define LIST_CHUNK 65536

#define WORD_OPEN ".kaiso/open "
#define WORD_LIST ".kaiso/list"

/* ---- connecting ------------------------------------------------------------------------------------- */

static void on_dialled(struct dial *dial, int result)
{
	*(int *)dial->context = result;
	loop_stop(dial->loop);
}

/* Without a host: this host, whichever family the router listens on. */
static int dial_loopback(struct dial *dial, uint16_t port)
{
	const union addr addresses[] = {
		{ .in = { .sin_family = AF_INET,
			  .sin_port = htons(port),
			  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } },
		{ .in6 = { .sin6_family = AF_INET6,
			   .sin6_port = htons(port),
			   .sin6_addr = IN6ADDR_LOOPBACK_INIT } },
	};

	return dial_start_addresses(dial, addresses, ARRAY_SIZE(addresses));
}

/* *resolver is made when a name has to be looked up. */
static int dial_start(struct dial *dial, const struct kaiso_address *address, struct resolver **resolver)
{
	union addr numeric;

	if (address->unix_path)
		return dial_start_unix_retry(dial, address->unix_path);
	if (address->host[0] == '\0')
		return dial_loopback(dial, address->port);
	if (addr_parse_numeric(address->host, strlen(address->host), address->port, &numeric) == 0)
		return dial_start_addresses(dial, &numeric, 1);
	*resolver = resolver_new(dial->loop, NULL);
	return dial_start_host(dial, *resolver, address->host, address->port);
}

/* A descriptor, or a negative errno. */
static int dial_in_loop(struct loop *loop, const struct client *client)
{
	struct resolver *resolver = NULL;
	struct dial dial;
	int result = -EIO;
	int r;

	dial_init(&dial, loop, client->deadline_ms, on_dialled);
	dial.context = &result;
	r = dial_start(&dial, client->address, &resolver);
	if (r == 0)
		r = loop_run(loop);
	dial_cancel(&dial);
	if (resolver)
		resolver_free(resolver);
	loop_run_out(loop);
	return r < 0 ? r : result;
}

static int client_dial(struct client *client)
{
	const char *path = client->address->unix_path;
	struct loop loop;
	int r = path ? dial_unix(path) : -EAGAIN;

	/* A UNIX socket answers at once, or has a full backlog, which takes time. */
	if (r == -EAGAIN) {
		r = loop_init(&loop);
		if (r < 0)
			return r;
		r = dial_in_loop(&loop, client);
		loop_deinit(&loop);
	}
	if (r < 0)
		return r;
	client->fd = r;
	client->is_reached = true;
	return 0;
}

/* ---- bytes ------------------------------------------------------------------------------------------ */

/* Waits until the socket is ready for events. 0, -ETIMEDOUT, or another negative errno. */
static int wait_for(const struct client *client, short events)
{
	struct pollfd watched = { .fd = client->fd, .events = events };
	int r;

	do {
		uint64_t now_ms = clock_now_ms();
		int wait_ms = -1;

		if (client->deadline_ms != UINT64_MAX) {
			if (client->deadline_ms <= now_ms)
				return -ETIMEDOUT;
			wait_ms = (int)MIN(client->deadline_ms - now_ms, (uint64_t)INT_MAX);
		}
		r = poll(&watched, 1, wait_ms);
		if (r < 0 && errno != EINTR)
			return -errno;
	} while (r <= 0);
	return 0;
}

/* 0, CLIENT_CLOSED, or a negative errno. */
static int send_all(const struct client *client, const char *bytes, size_t length)
{
	while (length > 0) {
		ssize_t sent = send(client->fd, bytes, length, MSG_NOSIGNAL);
		int r = sent < 0 ? -errno : 0;

		if (r == -EPIPE || r == -ECONNRESET)
			return CLIENT_CLOSED;
		if (r == -EAGAIN)
			r = wait_for(client, POLLOUT);
		if (r < 0 && r != -EINTR)
			return r;
		if (sent > 0) {
			bytes += sent;
			length -= (size_t)sent;
		}
	}
	return 0;
}

/* How many bytes came; 0 for the end, by a reset as well; or a negative errno. */
static ssize_t receive_some(const struct client *client, char *bytes, size_t size)
{
	for (;;) {
		ssize_t count = recv(client->fd, bytes, size, 0);
		int r = count < 0 ? -errno : 0;

		/* From a router that never stops sending there is nothing to wait for. */
		if (count > 0 && clock_now_ms() >= client->deadline_ms)
			return -ETIMEDOUT;
		if (r == -ECONNRESET)
			return 0;
		if (r == -EAGAIN)
			r = wait_for(client, POLLIN);
		else if (r == 0)
			return count;
		if (r < 0 && r != -EINTR)
			return r;
	}
}

/* ---- questions -------------------------------------------------------------------------------------- */

void client_init(struct client *client, const struct kaiso_address *address, uint64_t timeout_ms)
{
	*client = (struct client){
		.address = address,
		.deadline_ms = timeout_ms == 0 ? UINT64_MAX : clock_now_ms() + timeout_ms,
		.fd = -1,
	};
}

void client_hang_up(struct client *client)
{
	if (client->fd >= 0)
		close(STEAL_FD(client->fd));
}

/* Sends the line "WORD ARGUMENT" over a new connection. */
static int ask(struct client *client, const char *word, const char *argument)
{
	size_t word_length = strlen(word);
	size_t argument_length = strlen(argument);
	char line[LINE_MAX_BYTES];
	int r;

	if (word_length + argument_length + 2 > sizeof(line))
		return CLIENT_CLOSED; /* what a router would do with it */
	memcpy(line, word, word_length);
	memcpy(line + word_length, argument, argument_length);
	memcpy(line + word_length + argument_length, "\r\n", 2);
	client_hang_up(client);
	r = client_dial(client);
	return r < 0 ? r : send_all(client, line, word_length + argument_length + 2);
}

/* "CODE TEXT", terminated, its line end taken off. */
static int take_refusal(struct client *client, const char *line)
{
	size_t length = strcspn(line, " ");
	const char *text = line + length + strspn(line + length, " ");

	if (length == 0 || length >= sizeof(client->code))
		return -EPROTO;
	memcpy(client->code, line, length);
	client->code[length] = '\0';
	length = MIN(strlen(text), sizeof(client->text) - 1);
	memcpy(client->text, text, length);
	client->text[length] = '\0';
	return CLIENT_REFUSED;
}

/* The line without its end, terminated. 0, CLIENT_CLOSED or a negative errno. */
static int read_verdict_line(const struct client *client, char line[static VERDICT_MAX])
{
	size_t length = 0;

	for (;;) {
		char byte = '\0';
		ssize_t count = receive_some(client, &byte, 1);

		if (count < 0)
			return (int)count;
		if (count == 0)
			return length == 0 ? CLIENT_CLOSED : -ECONNRESET;
		if (byte == '\n')
			break;
		/* The first byte tells: other protocols need not send a line's end ever. */
		if ((length == 0 && byte != '+' && byte != '-') || byte == '\0' || length + 1 == VERDICT_MAX)
			return -EPROTO;
		line[length++] = byte;
	}
	if (length > 0 && line[length - 1] == '\r')
		length--;
	line[length] = '\0';
	return 0;
}

static int read_verdict(struct client *client)
{
	char line[VERDICT_MAX];
	int r = read_verdict_line(client, line);

	if (r != 0)
		return r;
	if (line[0] == '-')
		return take_refusal(client, line + 1);
	return strcmp(line, "+") == 0 ? 0 : -EPROTO;
}

int client_open(struct client *client, const char *service)
{
	int r = ask(client, WORD_OPEN, service);

	if (r == 0)
		r = read_verdict(client);
	if (r != CLIENT_CLOSED)
		return r;
	client->is_silent = true;
	return ask(client, "", service);
}

/* ---- lists ------------------------------------------------------------------------------------------ */

static int list_make_room(struct client_list *list)
{
	size_t capacity = MAX(list->capacity * 2, (size_t)LIST_CHUNK);
	char *grown;

	if (list->capacity - list->length >= LIST_CHUNK / 2)
		return 0;
	if (list->length > CLIENT_LIST_MAX)
		return -EFBIG;
	grown = realloc(list->bytes, capacity);
	if (!grown)
		return -ENOMEM;
	list->bytes = grown;
	list->capacity = capacity;
	return 0;
}

/* Looks through the bytes from *scanned on for the empty line that ends a list; with it, the list is
 * cut there. *line is where the line begins that is not complete yet. */
static bool list_find_end(struct client_list *list, size_t *line, size_t *scanned)
{
	const char *end;

	while ((end = memchr(list->bytes + *scanned, '\n', list->length - *scanned))) {
		size_t next = (size_t)(end - list->bytes) + 1;
		size_t length = next - 1 - *line;

		if (length == 0 || (length == 1 && list->bytes[*line] == '\r')) {
			list->length = *line;
			return true;
		}
		*line = *scanned = next;
	}
	*scanned = list->length;
	return false;
}

/* CLIENT_CLOSED when not a byte came. */
static int read_list(const struct client *client, struct client_list *list)
{
	size_t line = 0, scanned = 0;

	do {
		int r = list_make_room(list);
		ssize_t count;

		if (r < 0)
			return r;
		count = receive_some(client, list->bytes + list->length, list->capacity - list->length);
		if (count < 0)
			return (int)count;
		if (count == 0)
			return list->length == 0 ? CLIENT_CLOSED : -ECONNABORTED;
		list->length += (size_t)count;
	} while (!list_find_end(list, &line, &scanned));
	return 0;
}

static int ask_list(struct client *client, const char *word, const char *directory, struct client_list *list)
{
	int r = ask(client, word, directory);

	return r == 0 ? read_list(client, list) : r;
}

/* Routers that know no directories have the whole list only; but one that lists a mount knows them. */
static int ask_whole_list(struct client *client, const char *directory, struct client_list *list)
{
	struct client_list_entry entry;
	size_t position = 0;
	int r = ask_list(client, "", "", list);

	list->prefix = directory;
	if (r != 0 || !*directory)
		return r;
	if (!client_list_next(list, &position, &entry))
		return CLIENT_NO_DIRECTORY;
	return entry.path.length == strlen(directory) ? CLIENT_NO_MOUNTED : 0;
}

int client_list(struct client *client, const char *directory, bool is_detailed, struct client_list *list)
{
	int r = CLIENT_CLOSED;

	*list = (struct client_list){ .is_detailed = is_detailed, .prefix = "" };
	if (is_detailed)
		r = ask_list(client, *directory ? WORD_LIST " " : WORD_LIST, directory, list);
	if (r != CLIENT_CLOSED)
		return r;
	list->is_detailed = false;
	if (*directory)
		r = ask_list(client, "", directory, list);
	return r == CLIENT_CLOSED ? ask_whole_list(client, directory, list) : r;
}

/* Cuts off what comes before the first tab, and the tab. */
static struct client_text cut_field(struct client_text *rest)
{
	const char *tab = memchr(rest->start, '\t', rest->length);
	struct client_text field = { rest->start, tab ? (size_t)(tab - rest->start) : rest->length };
	size_t used = field.length + (tab ? 1 : 0);

	rest->start += used;
	rest->length -= used;
	return field;
}

static void take_entry(struct client_text line, bool is_detailed, struct client_list_entry *entry)
{
	struct client_text rest = { line.start + line.length, 0 };

	entry->path = is_detailed ? cut_field(&line) : line;
	if (is_detailed)
		rest = line;
	entry->kind = cut_field(&rest);
	entry->about = rest;
}

bool client_list_next(const struct client_list *list, size_t *position, struct client_list_entry *entry)
{
	size_t prefix_length = strlen(list->prefix);

	while (*position < list->length) {
		struct client_text line = { list->bytes + *position, 0 };
		const char *end = memchr(line.start, '\n', list->length - *position);

		line.length = end ? (size_t)(end - line.start) : list->length - *position;
		*position += line.length + 1;
		if (line.length > 0 && line.start[line.length - 1] == '\r')
			line.length--;
		if (line.length < prefix_length || memcmp(line.start, list->prefix, prefix_length) != 0)
			continue;
		take_entry(line, list->is_detailed, entry);
		return true;
	}
	return false;
}

void client_list_deinit(struct client_list *list)
{
	free(list->bytes);
	list->bytes = NULL;
}
