#include "base/fields.h"

#include <string.h>

#include "base/macros.h"

#define HEAD_SIZE (sizeof(uint16_t) + sizeof(uint32_t))

static bool writer_make_room(struct fields_writer *writer, size_t length)
{
	size_t capacity = writer->capacity;
	char *bytes;

	if (writer->has_failed || length > UINT32_MAX - HEAD_SIZE)
		return false;
	length += HEAD_SIZE;
	if (length <= capacity - writer->length)
		return true;
	capacity = MAX(capacity * 2, writer->length + length);
	bytes = realloc(writer->bytes, capacity);
	if (!bytes)
		return false;
	writer->bytes = bytes;
	writer->capacity = capacity;
	return true;
}

static void writer_append(struct fields_writer *writer, const void *bytes, size_t length)
{
	if (length > 0)
		memcpy(writer->bytes + writer->length, bytes, length);
	writer->length += length;
}

void fields_put(struct fields_writer *writer, uint16_t tag, const void *bytes, size_t length)
{
	uint32_t length32 = (uint32_t)length;

	if (!writer_make_room(writer, length)) {
		writer->has_failed = true;
		return;
	}
	writer_append(writer, &tag, sizeof(tag));
	writer_append(writer, &length32, sizeof(length32));
	writer_append(writer, bytes, length);
}

void fields_put_number(struct fields_writer *writer, uint16_t tag, uint64_t number)
{
	fields_put(writer, tag, &number, sizeof(number));
}

int fields_next(struct fields_reader *reader, struct field *field)
{
	size_t left = (size_t)(reader->end - reader->at);
	uint32_t length;

	if (left == 0)
		return 0;
	if (left < HEAD_SIZE)
		return -EPROTO;
	memcpy(&field->tag, reader->at, sizeof(field->tag));
	memcpy(&length, reader->at + sizeof(field->tag), sizeof(length));
	if (length > left - HEAD_SIZE)
		return -EPROTO;
	field->length = length;
	field->bytes = reader->at + HEAD_SIZE;
	reader->at = field->bytes + length;
	return 1;
}

int field_number(const struct field *field, uint64_t *number)
{
	if (field->length != sizeof(*number))
		return -EPROTO;
	memcpy(number, field->bytes, sizeof(*number));
	return 0;
}
