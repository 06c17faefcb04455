/*
 * Any bytes as a service description.
 *
 * Beyond crashes: what is accepted points into the file, is in range and says
 * the same when its target stands alone or in a file with other line ends; what
 * is refused is refused in one printable line that names a line of the file, and
 * touches nothing else.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/description.h"
#include "proto/path.h"

#define ENSURE(condition)         \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length);

static void check_inside(struct description_text text, const char *bytes, size_t length)
{
	ENSURE(text.start != NULL && text.start >= bytes);
	ENSURE((size_t)(text.start - bytes) <= length);
	ENSURE(text.length <= length - (size_t)(text.start - bytes));
	ENSURE(text.length == 0 || !memchr(text.start, '\n', text.length));
	ENSURE(text.length == 0 || !memchr(text.start, '\0', text.length));
}

static bool is_blank_ended(struct description_text text)
{
	return text.length == 0 || strchr(" \t\r", text.start[text.length - 1]) != NULL;
}

static void check_socket(const struct description *description)
{
	ENSURE(!is_blank_ended(description->socket) && description->socket.length <= 4095);
	ENSURE(description->socket.start == description->target.start);
	ENSURE(description->port == 0 && description->host.length == 0 && description->service.length == 0);
}

static void check_network(const struct description *description)
{
	struct description_text host = description->host;

	ENSURE(host.length >= 1 && host.length <= 253);
	for (size_t i = 0; i < host.length; i++)
		ENSURE(host.start[i] > ' ' && host.start[i] < 127 && !strchr("[]/", host.start[i]));
	/* Only an address that stood in brackets holds a colon. */
	if (memchr(host.start, ':', host.length))
		ENSURE(host.start[-1] == '[' && host.start[host.length] == ']');
	ENSURE((description->port == 0) == description->is_srv);
	ENSURE(description->knock_port == 0 && description->socket.length == 0);
}

static void check_kind(const struct description *description)
{
	switch (description->kind) {
	case DESCRIPTION_TCP:
		check_network(description);
		ENSURE(description->service.length == 0);
		return;
	case DESCRIPTION_KAISO:
		check_network(description);
		ENSURE(path_check(description->service.start, description->service.length) == PATH_OK);
		return;
	case DESCRIPTION_MOUNT:
		check_network(description);
		ENSURE(description->service.start[description->service.length] == '/');
		ENSURE(description->service.length == 0 ||
		       path_check(description->service.start, description->service.length) == PATH_OK);
		return;
	case DESCRIPTION_SRV:
		check_network(description);
		ENSURE(description->is_srv);
		return;
	case DESCRIPTION_UNIX:
		check_socket(description);
		ENSURE(description->knock_port == 0);
		ENSURE(description->socket.length == description->target.length);
		return;
	case DESCRIPTION_PASSFD:
		check_socket(description);
		ENSURE(description->socket.length < description->target.length);
		return;
	}
	abort();
}

static bool is_same_text(struct description_text one, struct description_text other)
{
	return one.length == other.length && memcmp(one.start, other.start, one.length) == 0;
}

/* The target alone, then with ending behind it, means what it means in its file. */
static void check_again(const struct description *first, const char *ending)
{
	size_t length = first->target.length + strlen(ending);
	char *bytes = malloc(length);
	struct description again;
	struct description_error error;

	ENSURE(bytes);
	memcpy(bytes, first->target.start, first->target.length);
	memcpy(bytes + first->target.length, ending, strlen(ending));
	if (length <= DESCRIPTION_SIZE_MAX) {
		ENSURE(description_parse(bytes, length, &again, &error) == 0);
		ENSURE(again.kind == first->kind && again.port == first->port);
		ENSURE(again.knock_port == first->knock_port);
		ENSURE(is_same_text(again.target, first->target) && is_same_text(again.host, first->host));
		ENSURE(is_same_text(again.service, first->service));
		ENSURE(is_same_text(again.socket, first->socket));
	}
	free(bytes);
}

static void check_valid(const struct description *description, const char *bytes, size_t length)
{
	ENSURE(length <= 65536 && description->target.start == bytes);
	check_inside(description->target, bytes, length);
	check_inside(description->host, bytes, length);
	check_inside(description->service, bytes, length);
	check_inside(description->socket, bytes, length);
	ENSURE(description->options.start >= bytes &&
	       description->options.start + description->options.length == bytes + length);
	ENSURE(!is_blank_ended(description->target));
	check_kind(description);
	check_again(description, "");
	check_again(description, " \t\r\n \r\n# more\n");
}

static void check_error(const struct description_error *error, const char *bytes, size_t length)
{
	size_t lines = 1;
	const char *end = memchr(error->reason, '\0', sizeof(error->reason));

	for (size_t i = 0; i < length; i++)
		lines += bytes[i] == '\n';
	ENSURE(error->line <= lines && (error->line == 0) == (length > 65536));
	/* One that fills its array has been cut short. */
	ENSURE(end && end > error->reason && end < error->reason + sizeof(error->reason) - 1);
	for (const char *byte = error->reason; byte < end; byte++)
		ENSURE(*byte >= 0x20 && *byte < 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length)
{
	struct description description, untouched_description;
	struct description_error error, untouched_error;
	int result;

	memset(&untouched_description, 0x5a, sizeof(untouched_description));
	memset(&untouched_error, 0x5a, sizeof(untouched_error));
	memcpy(&description, &untouched_description, sizeof(description));
	memcpy(&error, &untouched_error, sizeof(error));
	result = description_parse((const char *)input, length, &description, &error);
	if (result == 0) {
		ENSURE(memcmp(&error, &untouched_error, sizeof(error)) == 0);
		check_valid(&description, (const char *)input, length);
	} else {
		ENSURE(result == -EINVAL);
		ENSURE(memcmp(&description, &untouched_description, sizeof(description)) == 0);
		check_error(&error, (const char *)input, length);
	}
	return 0;
}
