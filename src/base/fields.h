/*
 * Tagged fields, one after the other: what a process writes down about itself for the one that takes over.
 *
 * A field is a tag, a length and bytes, in the machine's own byte order: both processes are on it. What a
 * tag means is the caller's; a reader refuses tags that it does not know, since what they say matters.
 */
#ifndef KAISO_BASE_FIELDS_H
#define KAISO_BASE_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zeroed storage is an empty writer. bytes is of malloc(3) and the caller's to free. */
struct fields_writer {
	char *bytes;
	size_t length;
	size_t capacity;
	bool has_failed; /* out of memory, or a field of 4 GiB: what was written is not whole */
};

void fields_put(struct fields_writer *writer, uint16_t tag, const void *bytes, size_t length);
void fields_put_number(struct fields_writer *writer, uint16_t tag, uint64_t number);

struct fields_reader {
	const char *at;
	const char *end;
};

struct field {
	uint16_t tag;
	size_t length;
	const char *bytes; /* into what is read; not aligned, not terminated */
};

/* 1 with the next field, 0 at the end, -EPROTO when the bytes are no fields. */
int fields_next(struct fields_reader *reader, struct field *field);

/* 0, or -EPROTO when the field holds no number. */
int field_number(const struct field *field, uint64_t *number);

#endif
