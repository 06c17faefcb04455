#include "base/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "base/text.h"

void json_begin(struct json *json)
{
	*json = (struct json){ 0 };
	json->stream = open_memstream(&json->text, &json->length);
}

char *json_take(struct json *json, size_t *length)
{
	bool has_failed = !json->stream || ferror(json->stream);

	if (json->stream && fclose(STEAL_PTR(json->stream)) != 0)
		has_failed = true;
	if (has_failed) {
		free(json->text);
		json->text = NULL;
		json->length = 0;
	}
	*length = json->length;
	return STEAL_PTR(json->text);
}

static void put(struct json *json, const char *text)
{
	if (json->stream)
		fputs(text, json->stream);
}

/* What stands before a value. */
static void begin_value(struct json *json)
{
	if (json->needs_comma)
		put(json, ",");
	json->needs_comma = true;
}

void json_key(struct json *json, const char *key)
{
	begin_value(json);
	if (json->stream)
		fprintf(json->stream, "\"%s\":", key);
	json->needs_comma = false;
}

void json_open(struct json *json, char bracket)
{
	begin_value(json);
	put(json, (const char[]){ bracket, '\0' });
	json->needs_comma = false;
}

void json_close(struct json *json, char bracket)
{
	put(json, (const char[]){ bracket, '\0' });
	json->needs_comma = true;
}

void json_bytes(struct json *json, const char *bytes, size_t length)
{
	begin_value(json);
	if (json->stream)
		text_write_strict_json(json->stream, bytes, length);
}

void json_string(struct json *json, const char *text)
{
	if (text) {
		json_bytes(json, text, strlen(text));
		return;
	}
	begin_value(json);
	put(json, "null");
}

void json_number(struct json *json, uint64_t number)
{
	begin_value(json);
	if (json->stream)
		fprintf(json->stream, "%" PRIu64, number);
}

void json_seconds(struct json *json, uint64_t milliseconds)
{
	begin_value(json);
	if (json->stream)
		fprintf(json->stream, "%" PRIu64 ".%03" PRIu64, milliseconds / 1000, milliseconds % 1000);
}

void json_bool(struct json *json, bool value)
{
	begin_value(json);
	put(json, value ? "true" : "false");
}

void json_put_number(struct json *json, const char *key, uint64_t number)
{
	json_key(json, key);
	json_number(json, number);
}

void json_put_string(struct json *json, const char *key, const char *text)
{
	json_key(json, key);
	json_string(json, text);
}

void json_put_raw(struct json *json, const char *key, const char *text)
{
	json_key(json, key);
	begin_value(json);
	put(json, text);
}
