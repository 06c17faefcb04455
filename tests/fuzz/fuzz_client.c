/*
 * What a router, or what stands in its place, answers to those who ask it: `kaiso ls` and `kaiso connect`
 * (net/client.h), and libkaiso. Any bytes, in pieces of any size, on up to three connections, since clients ask again
 * in plainer words.
 *
 * Oracle: pieces change nothing. Of a connection that leads to a service just the verdict's line is taken. A refusal
 * has a code. An entry lies within its list, is no empty line, and has what was asked for before it. And where both
 * clients get a whole list of the new form they see the same in it; so do both who open.
 *
 * No router is there: connect(2) gives the end of a pair that holds the answer, and recv(2) the pieces.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/macros.h"
#include "descriptors.h"
#include "lib/kaiso.h"
#include "net/client.h"
#include "proto/reply.h"

#define ENSURE(condition)                                                       \
	do {                                                                    \
		if (!(condition)) {                                             \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
			abort();                                                \
		}                                                               \
	} while (0)

#define ANSWERS 3
#define INPUT_MAX 32768 /* what a pair of sockets holds for certain */
#define SEPARATOR 0xfe

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

/* ---- the router ------------------------------------------------------------------------------------------- */

static struct {
	bool is_on;
	const char *answers[ANSWERS];
	size_t lengths[ANSWERS];
	size_t next;
	int routers[ANSWERS];
	size_t piece; /* bytes that one recv() gives */
	bool is_reset;
} world;

/* By another name here, for the header's has a type that is not the standard's. */
int give_answer(int fd, const struct sockaddr *address, socklen_t length) __asm__("connect");

/* Past the last answer nobody is there. */
int give_answer(int fd, const struct sockaddr *address, socklen_t length)
{
	int ends[2], flags = fcntl(fd, F_GETFL);

	if (!world.is_on)
		return (int)syscall(SYS_connect, fd, address, length);
	if (world.next == ANSWERS) {
		errno = ECONNREFUSED;
		return -1;
	}
	ENSURE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
	ENSURE(send(ends[0], world.answers[world.next], world.lengths[world.next], MSG_DONTWAIT) ==
	       (ssize_t)world.lengths[world.next]);
	shutdown(ends[0], SHUT_WR);
	ENSURE(dup3(ends[1], fd, O_CLOEXEC) == fd && fcntl(fd, F_SETFL, flags) == 0);
	close(ends[1]);
	world.routers[world.next++] = ends[0];
	return 0;
}

ssize_t recv(int fd, void *bytes, size_t size, int flags)
{
	ssize_t received = syscall(SYS_recvfrom, fd, bytes, world.is_on ? MIN(size, world.piece) : size,
				   flags, NULL, NULL);

	if (world.is_on && received == 0 && world.is_reset) {
		errno = ECONNRESET;
		return -1;
	}
	return received;
}

static void world_begin(size_t piece)
{
	world.is_on = true;
	world.next = 0;
	world.piece = piece;
}

static void world_end(void)
{
	world.is_on = false;
	while (world.next > 0)
		close(world.routers[--world.next]);
}

/* ---- lists --------------------------------------------------------------------------------------------------- */

struct seen {
	int result;
	bool is_detailed;
	size_t length; /* of entries, as text */
	char entries[4 * INPUT_MAX];
};

static void see(struct seen *seen, const char *bytes, size_t length, char end)
{
	ENSURE(length < sizeof(seen->entries) - seen->length);
	memcpy(seen->entries + seen->length, bytes, length);
	seen->length += length;
	seen->entries[seen->length++] = end;
}

static void see_text(struct seen *seen, const struct client_list *list, struct client_text text, char end)
{
	ENSURE(text.start >= list->bytes && text.start + text.length <= list->bytes + list->length);
	see(seen, text.start, text.length, end);
}

static void list_by_client(struct seen *seen, const char *directory, bool is_detailed, size_t piece)
{
	static const struct kaiso_address address = { .unix_path = "nowhere" };
	struct client_list_entry entry;
	struct client_list list;
	struct client client;
	size_t position = 0;

	world_begin(piece);
	client_init(&client, &address, 0);
	seen->length = 0;
	seen->result = client_list(&client, directory, is_detailed, &list);
	seen->is_detailed = list.is_detailed;
	while (seen->result == 0 && client_list_next(&list, &position, &entry)) {
		ENSURE(entry.path.length + entry.kind.length + entry.about.length > 0 || is_detailed);
		ENSURE(memchr(entry.path.start, '\n', entry.path.length) == NULL);
		see_text(seen, &list, entry.path, '\t');
		see_text(seen, &list, entry.kind, '\t');
		see_text(seen, &list, entry.about, '\n');
		ENSURE(entry.path.length >= strlen(directory) || list.is_detailed);
	}
	client_list_deinit(&list);
	client_hang_up(&client);
	world_end();
}

static int on_entry(const struct kaiso_entry *entry, void *userdata)
{
	struct seen *seen = userdata;

	see(seen, entry->path, strlen(entry->path), '\t');
	see(seen, entry->kind, strlen(entry->kind), '\t');
	see(seen, entry->about, strlen(entry->about), '\n');
	return 0;
}

static void list_by_library(struct seen *seen, const char *directory, size_t piece)
{
	world_begin(piece);
	seen->length = 0;
	seen->result = kaiso_list("unix:nowhere", directory, -1, on_entry, seen);
	world_end();
}

static void ensure_same(const struct seen *one, const struct seen *other)
{
	ENSURE(one->result == other->result && one->length == other->length);
	ENSURE(memcmp(one->entries, other->entries, one->length) == 0);
}

static void check_lists(const char *directory, size_t piece)
{
	static struct seen whole, pieces, library;

	list_by_client(&whole, directory, false, SIZE_MAX);
	list_by_client(&pieces, directory, false, piece);
	ensure_same(&whole, &pieces);
	list_by_client(&whole, directory, true, SIZE_MAX);
	list_by_client(&pieces, directory, true, piece);
	ensure_same(&whole, &pieces);
	list_by_library(&library, directory, SIZE_MAX);
	list_by_library(&pieces, directory, piece);
	ensure_same(&library, &pieces);
	/* The library passes on texts that end at a NUL, and what a router lists elsewhere. */
	if (whole.result == 0 && whole.is_detailed && *directory == '\0' &&
	    !memchr(world.answers[0], '\0', world.lengths[0]))
		ensure_same(&whole, &library);
}

/* ---- opening --------------------------------------------------------------------------------------------------- */

/* What is left on the connection is what stands behind the line. */
static void check_rest(int fd)
{
	const char *end = memchr(world.answers[0], '\n', world.lengths[0]);
	static char rest[INPUT_MAX];
	size_t expected, length = 0;
	ssize_t count;

	ENSURE(end);
	ENSURE(world.answers[0][0] == '+' && end - world.answers[0] <= 2);
	expected = world.lengths[0] - (size_t)(end + 1 - world.answers[0]);
	while ((count = read(fd, rest + length, sizeof(rest) - length)) > 0)
		length += (size_t)count;
	ENSURE(length == expected && memcmp(rest, end + 1, length) == 0);
}

static void check_refusal(const struct client *client)
{
	const char *line = world.answers[0];
	enum reply_code code;

	ENSURE(line[0] == '-');
	ENSURE(client->code[0] != '\0' && memchr(client->code, '\0', sizeof(client->code)));
	ENSURE(memchr(client->text, '\0', sizeof(client->text)));
	ENSURE(reply_parse(line, strcspn(line, "\r\n"), &code) == 1 || line[1] == '\r');
}

static int open_by_client(size_t piece)
{
	static const struct kaiso_address address = { .unix_path = "nowhere" };
	struct client client;
	int result;

	world_begin(piece);
	client_init(&client, &address, 0);
	result = client_open(&client, "service");
	if (result == 0 && !client.is_silent)
		check_rest(client.fd);
	else if (result == 0)
		ENSURE(world.next == 2 && world.lengths[0] == 0);
	if (result == CLIENT_REFUSED)
		check_refusal(&client);
	client_hang_up(&client);
	world_end();
	return result;
}

static int open_by_library(size_t piece)
{
	int fd;

	world_begin(piece);
	fd = kaiso_dial("unix:nowhere", "service", -1);
	if (fd >= 0 && world.next == 1)
		check_rest(fd);
	if (fd >= 0)
		close(fd);
	world_end();
	return fd >= 0 ? 0 : fd;
}

static void check_opening(size_t piece)
{
	int result = open_by_client(SIZE_MAX), by_library = open_by_library(SIZE_MAX);

	ENSURE(open_by_client(piece) == result);
	ENSURE(open_by_library(piece) == by_library);
	/* They say it with other numbers; but who is connected with one is so with the other. */
	ENSURE((result == 0) == (by_library == 0));
}

/* ---- */

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	static const char *const directories[] = { "", "d/", "a/b/", "-/" };
	size_t descriptors = count_descriptors();
	char *text;
	size_t piece, at = 0;

	if (size < 2 || size > INPUT_MAX)
		return 0;
	piece = 1 + (input[0] & 31);
	world.is_reset = input[0] & 32;
	text = malloc(size);
	ENSURE(text);
	memcpy(text, input + 2, size - 2);
	text[size - 2] = '\0';
	for (size_t i = 0; i < ANSWERS; i++) {
		const char *separator = memchr(text + at, SEPARATOR, size - 2 - at);

		world.answers[i] = text + at;
		world.lengths[i] = separator ? (size_t)(separator - text) - at : size - 2 - at;
		at += world.lengths[i] + (separator ? 1 : 0);
	}
	if (input[0] & 64)
		check_lists(directories[input[1] % ARRAY_SIZE(directories)], piece);
	else
		check_opening(piece);
	free(text);
	ENSURE(count_descriptors() == descriptors);
	return 0;
}
