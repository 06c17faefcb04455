/*
 * Writes JSON (RFC 8259) into memory, one value after the other; commas and escapes are its work.
 *
 * Strings are any bytes: text_write_strict_json(). Running out of memory is remembered and told by json_take().
 */
#ifndef KAISO_BASE_JSON_H
#define KAISO_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct json {
	FILE *stream; /* of open_memstream(3); NULL when out of memory */
	char *text;
	size_t length;
	bool needs_comma;
};

void json_begin(struct json *json);

/* The text, terminated, which is the caller's from now on (free(3)); NULL when out of memory. */
char *json_take(struct json *json, size_t *length);

/* The key of the next value, a literal. */
void json_key(struct json *json, const char *key);

void json_open(struct json *json, char bracket);  /* '{' or '[' */
void json_close(struct json *json, char bracket); /* '}' or ']' */
void json_bytes(struct json *json, const char *bytes, size_t length);
void json_string(struct json *json, const char *text); /* NULL: null */
void json_number(struct json *json, uint64_t number);
void json_seconds(struct json *json, uint64_t milliseconds); /* as 1.234 */
void json_bool(struct json *json, bool value);

/* Key and value in one; raw: JSON that stands already. */
void json_put_raw(struct json *json, const char *key, const char *text);
void json_put_number(struct json *json, const char *key, uint64_t number);
void json_put_string(struct json *json, const char *key, const char *text);

#endif
