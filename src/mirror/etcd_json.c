/*
 * Theory of operation: jansson makes a tree of each answer, and members are taken from it by name. What is missing has
 * its default, as Protocol Buffers want it, and what has the wrong type makes the answer a bad one. Base64 is turned
 * into bytes where it is used, in memory that is given back at once: an answer may be large.
 */
#include "mirror/etcd_json.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/args.h"
#include "base/macros.h"

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

#define CLEANUP_JSON __attribute__((cleanup(cleanup_json), unused))

/* ---- base64 (RFC 4648, section 4) ---------------------------------------------------------------- */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int digit_value(char digit)
{
	const char *found = digit ? strchr(digits, digit) : NULL;

	return found ? (int)(found - digits) : -1;
}

/* With its padding, and nothing else in between. NULL when it is none. */
static char *decode(const char *text, size_t length, size_t *decoded_length)
{
	CLEANUP_FREE char *bytes = malloc(length / 4 * 3 + 1);
	size_t padding = 0, at = 0;

	if (!bytes || length % 4 != 0)
		return NULL;
	while (padding < MIN(length, 2u) && text[length - 1 - padding] == '=')
		padding++;
	for (size_t i = 0; i < length; i += 4) {
		uint32_t group = 0;

		for (size_t j = i; j < i + 4; j++) {
			int value = j >= length - padding ? 0 : digit_value(text[j]);

			if (value < 0)
				return NULL;
			group = group << 6 | (uint32_t)value;
		}
		bytes[at++] = (char)(group >> 16);
		bytes[at++] = (char)(group >> 8);
		bytes[at++] = (char)group;
	}
	*decoded_length = at - padding;
	return STEAL_PTR(bytes);
}

/* On the heap, terminated. */
static char *encode(struct etcd_bytes bytes)
{
	size_t length = (bytes.length + 2) / 3 * 4, at = 0;
	char *text = malloc(length + 1);

	if (!text)
		return NULL;
	for (size_t i = 0; i < bytes.length; i += 3) {
		size_t left = MIN(bytes.length - i, 3u);
		uint32_t group = 0;

		for (size_t j = 0; j < 3; j++)
			group = group << 8 | (j < left ? (unsigned char)bytes.start[i + j] : 0);
		for (size_t j = 0; j < 4; j++)
			text[at++] = j <= left ? digits[group >> (18 - 6 * j) & 63] : '=';
	}
	text[at] = '\0';
	return text;
}

/* ---- members ------------------------------------------------------------------------------------- */

/* Each returns 0, or -EBADMSG when the member is of another type. */
static int read_number(const json_t *object, const char *name, uint64_t *number)
{
	const json_t *member = json_object_get(object, name);

	*number = 0;
	if (!member)
		return 0;
	if (json_is_integer(member) && json_integer_value(member) >= 0) {
		*number = (uint64_t)json_integer_value(member);
		return 0;
	}
	if (!json_is_string(member))
		return -EBADMSG;
	return args_parse_number(json_string_value(member), 0, UINT64_MAX, number) == 0 ? 0 : -EBADMSG;
}

static int read_flag(const json_t *object, const char *name, bool *flag)
{
	const json_t *member = json_object_get(object, name);

	*flag = json_is_true(member);
	return !member || json_is_boolean(member) ? 0 : -EBADMSG;
}

/* On the heap; empty when it is missing. */
static int read_bytes(const json_t *object, const char *name, char **bytes, size_t *length)
{
	const json_t *member = json_object_get(object, name);

	if (member && !json_is_string(member))
		return -EBADMSG;
	*bytes = decode(member ? json_string_value(member) : "", member ? json_string_length(member) : 0,
			length);
	return *bytes ? 0 : -EBADMSG;
}

static int read_header(const json_t *answer, struct etcd_header *header)
{
	const json_t *object = json_object_get(answer, "header");
	int r = read_number(object, "cluster_id", &header->cluster);

	return r < 0 ? r : read_number(object, "revision", &header->revision);
}

/* For logs; etcd's own are plain English. */
static void copy_reason(const json_t *word, char reason[static ETCD_REASON_SIZE])
{
	const char *text = json_is_string(word) ? json_string_value(word) : "";
	size_t length = strnlen(text, ETCD_REASON_SIZE - 1);

	for (size_t i = 0; i < length; i++)
		reason[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
	reason[length] = '\0';
}

/* ---- answers ------------------------------------------------------------------------------------- */

static json_t *parse(const char *text, size_t length)
{
	json_error_t error;
	CLEANUP_JSON json_t *json = json_loadb(text, length, 0, &error);

	return json_is_object(json) ? STEAL_PTR(json) : NULL;
}

static int visit_pair(const json_t *kv, bool is_deleted, etcd_visit visit, void *context, uint64_t *revision)
{
	CLEANUP_FREE char *key = NULL;
	CLEANUP_FREE char *value = NULL;
	struct etcd_pair pair = { .is_deleted = is_deleted };
	int r = read_bytes(kv, "key", &key, &pair.key.length);

	if (r == 0)
		r = read_bytes(kv, "value", &value, &pair.value.length);
	if (r == 0)
		r = read_number(kv, "mod_revision", &pair.revision);
	if (r < 0)
		return r;
	pair.key.start = key;
	pair.value.start = value;
	*revision = pair.revision;
	return visit(&pair, context);
}

int etcd_json_read_page(const char *text, size_t length, struct etcd_page *page, etcd_visit visit,
			void *context)
{
	CLEANUP_JSON json_t *answer = parse(text, length);
	const json_t *kvs = json_object_get(answer, "kvs"), *kv;
	uint64_t revision;
	size_t i;
	int r;

	*page = (struct etcd_page){ 0 };
	/* Without a revision there is nothing to go on from. */
	if (read_header(answer, &page->header) < 0 || page->header.revision == 0)
		return -EBADMSG;
	if (read_flag(answer, "more", &page->has_more) < 0 || (kvs && !json_is_array(kvs)))
		return -EBADMSG;
	json_array_foreach(kvs, i, kv)
	{
		r = visit_pair(kv, false, visit, context, &revision);
		if (r < 0)
			return r;
	}
	/* It would be asked for for ever. */
	return page->has_more && json_array_size(kvs) == 0 ? -EBADMSG : 0;
}

/* PUT is the default of its type. */
static int read_deleted(const json_t *event, bool *is_deleted)
{
	const json_t *type = json_object_get(event, "type");
	const char *word = json_string_value(type);

	*is_deleted = word && strcmp(word, "DELETE") == 0;
	return !type || *is_deleted || (word && strcmp(word, "PUT") == 0) ? 0 : -EBADMSG;
}

static int visit_events(const json_t *events, struct etcd_report *report, etcd_visit visit, void *context)
{
	const json_t *event;
	size_t i;

	if (events && !json_is_array(events))
		return -EBADMSG;
	json_array_foreach(events, i, event)
	{
		uint64_t revision = 0;
		bool is_deleted;
		int r = read_deleted(event, &is_deleted);

		if (r == 0)
			r = visit_pair(json_object_get(event, "kv"), is_deleted, visit, context, &revision);
		if (r < 0)
			return r;
		report->last_revision = MAX(report->last_revision, revision);
	}
	return 0;
}

static void fill_error(const json_t *object, const char *number, struct etcd_error *error)
{
	const json_t *code = json_object_get(object, number);
	const json_t *message = json_object_get(object, "message");

	*error = (struct etcd_error){ 0 };
	if (json_is_integer(code) && json_integer_value(code) > 0 && json_integer_value(code) < 1000)
		error->code = (int)json_integer_value(code);
	copy_reason(message ? message : json_object_get(object, "error"), error->reason);
}

int etcd_json_read_report(const char *text, size_t length, struct etcd_report *report, etcd_visit visit,
			  void *context)
{
	CLEANUP_JSON json_t *answer = parse(text, length);
	const json_t *result = json_object_get(answer, "result");
	const json_t *failure = json_object_get(answer, "error");

	*report = (struct etcd_report){ 0 };
	if (failure) {
		report->has_failed = true;
		/* In a stream, or instead of one. */
		if (json_is_object(failure))
			fill_error(failure, "grpc_code", &report->error);
		else
			fill_error(answer, "code", &report->error);
		return 0;
	}
	if (!json_is_object(result) || read_header(result, &report->header) < 0 ||
	    read_flag(result, "created", &report->is_created) < 0 ||
	    read_flag(result, "canceled", &report->is_canceled) < 0 ||
	    read_flag(result, "fragment", &report->is_fragment) < 0 ||
	    read_number(result, "compact_revision", &report->compact_revision) < 0)
		return -EBADMSG;
	copy_reason(json_object_get(result, "cancel_reason"), report->error.reason);
	return visit_events(json_object_get(result, "events"), report, visit, context);
}

void etcd_json_read_error(const char *text, size_t length, struct etcd_error *error)
{
	CLEANUP_JSON json_t *answer = parse(text, length);

	fill_error(answer, "code", error);
}

char *etcd_json_read_token(const char *text, size_t length)
{
	CLEANUP_JSON json_t *answer = parse(text, length);
	const char *token = json_string_value(json_object_get(answer, "token"));

	if (!token || *token == '\0')
		return NULL;
	/* It becomes the value of a header, which no line end may leave. */
	for (const char *byte = token; *byte; byte++) {
		if (*byte <= ' ' || *byte > '~')
			return NULL;
	}
	return strdup(token);
}

/* ---- requests ------------------------------------------------------------------------------------ */

/* Takes the reference. */
static char *dump(json_t *request)
{
	char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;

	json_decref(request);
	return text;
}

/* The first key behind all those that begin with prefix, in base64 on the heap: its last byte is one higher. "\0" is
 * etcd's word for "to the end". */
static char *encode_end(struct etcd_bytes prefix)
{
	CLEANUP_FREE char *end = malloc(prefix.length + 1);

	if (!end)
		return NULL;
	while (prefix.length > 0 && (unsigned char)prefix.start[prefix.length - 1] == 0xff)
		prefix.length--;
	if (prefix.length == 0)
		return encode((struct etcd_bytes){ "", 1 });
	memcpy(end, prefix.start, prefix.length);
	end[prefix.length - 1] = (char)((unsigned char)end[prefix.length - 1] + 1);
	return encode((struct etcd_bytes){ end, prefix.length });
}

/* An empty key is none: the smallest one is "\0". */
static char *encode_key(struct etcd_bytes key)
{
	return encode(key.length > 0 ? key : (struct etcd_bytes){ "", 1 });
}

char *etcd_json_range(struct etcd_bytes prefix, struct etcd_bytes first, uint64_t limit, uint64_t revision)
{
	CLEANUP_FREE char *key = encode_key(first);
	CLEANUP_FREE char *end = encode_end(prefix);

	return dump(json_pack("{s:s s:s s:I s:I}", "key", key, "range_end", end, "limit", (json_int_t)limit,
			      "revision", (json_int_t)revision));
}

char *etcd_json_watch(struct etcd_bytes prefix, uint64_t revision)
{
	CLEANUP_FREE char *key = encode_key(prefix);
	CLEANUP_FREE char *end = encode_end(prefix);

	return dump(json_pack("{s:{s:s s:s s:I s:b s:b}}", "create_request", "key", key, "range_end", end,
			      "start_revision", (json_int_t)revision, "fragment", 1, "progress_notify", 1));
}

char *etcd_json_authenticate(const char *user, const char *password)
{
	return dump(json_pack("{s:s s:s}", "name", user, "password", password));
}
