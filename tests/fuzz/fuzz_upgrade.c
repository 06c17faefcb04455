/*
 * Any bytes as what a running router wrote down for the next program. The old router is trusted, but a new one that
 * misreads it would lose everything: so whatever is taken for a session must be one, and the same again when it is
 * written down anew.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "router/session_image.h"
#include "router/upgrade.h"

#define ENSURE(condition)         \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length);

static void ensure_same(const struct session_image *one, const struct session_image *other)
{
	ENSURE(memcmp(one->numbers, other->numbers, sizeof(one->numbers)) == 0);
	for (int i = 0; i < IMAGE_TEXTS; i++) {
		ENSURE(one->texts[i].length == other->texts[i].length);
		if (one->texts[i].length > 0)
			ENSURE(memcmp(one->texts[i].bytes, other->texts[i].bytes, one->texts[i].length) == 0);
	}
}

static void check_session(const struct field *field)
{
	struct session_image image, again;
	struct fields_writer writer = { 0 };
	struct fields_reader reader;
	struct field written;
	int r = session_image_read(&image, field);

	ENSURE(r == 0 || r == -EPROTO || r == -ENOTSUP);
	if (r != 0)
		return;
	ENSURE(image.numbers[IMAGE_CLIENT] > 0);
	session_image_write(&image, &writer, field->tag);
	ENSURE(!writer.has_failed);
	reader = (struct fields_reader){ writer.bytes, writer.bytes + writer.length };
	ENSURE(fields_next(&reader, &written) == 1);
	ENSURE(session_image_read(&again, &written) == 0);
	ensure_same(&image, &again);
	free(writer.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length)
{
	const size_t magic = strlen(UPGRADE_MAGIC);
	char *bytes = malloc(magic + length);
	struct fields_reader reader;
	struct field field;
	size_t sessions;
	int r;

	ENSURE(bytes);
	memcpy(bytes, UPGRADE_MAGIC, magic);
	if (length > 0)
		memcpy(bytes + magic, input, length);
	r = upgrade_check_state(bytes, magic + length, &sessions);
	ENSURE(r == 0 || r == -EPROTO || r == -ENOTSUP);
	reader = (struct fields_reader){ bytes + magic, bytes + magic + length };
	while (fields_next(&reader, &field) > 0)
		check_session(&field);
	free(bytes);
	return 0;
}
