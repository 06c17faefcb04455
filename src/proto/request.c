/*
 * Request lines: where one ends, and what it asks for.
 *
 * Theory of operation: the parser keeps nothing between calls. The caller
 * peeks at what the client has sent so far and asks again with more bytes as
 * long as the answer is INCOMPLETE; once the LF is there, the answer depends on
 * the line alone, however it arrived and whatever stands behind it.
 * line_length then says how many bytes to take from the socket, because what
 * follows belongs to the service.
 *
 * Nothing is trimmed or folded: names are bytes, and only the one CR before the
 * LF is not part of the line.
 */
#include "proto/request.h"

#include <string.h>

#include "base/macros.h"
#include "proto/path.h"

/* Begins like a hidden directory, so a router that knows no verbs refuses it like any hidden path. */
#define VERB_PREFIX ".kaiso/"

struct span {
	const char *start;
	size_t length;
};

static bool span_is(struct span span, const char *word)
{
	return span.length == strlen(word) && memcmp(span.start, word, span.length) == 0;
}

/* Takes word off the front of the span; leaves it alone when it begins otherwise. */
static bool span_skip(struct span *span, const char *word)
{
	size_t length = strlen(word);

	if (span->length < length || memcmp(span->start, word, length) != 0)
		return false;
	span->start += length;
	span->length -= length;
	return true;
}

/* Takes off the '/' that makes a path ask for a list, when a client may name what is left. */
static bool span_strip_directory(struct span *span)
{
	if (span->length == 0 || span->start[span->length - 1] != '/')
		return false;
	if (path_check(span->start, span->length - 1) != PATH_OK)
		return false;
	span->length--;
	return true;
}

/* What a line without its terminator asks for; *path is narrowed to the path that it names. */
static enum request_kind request_classify(struct span *path)
{
	if (path->length == 0 || span_strip_directory(path))
		return REQUEST_LIST;
	return path_check(path->start, path->length) == PATH_OK ? REQUEST_OPEN : REQUEST_REFUSED;
}

/*
 * The same for what stands behind VERB_PREFIX. One space parts a verb from its argument; any more
 * of them belong to the name, because names are never trimmed. A plain name for `list` is
 * unknown rather than guessed at: a path without its '/' is a service.
 */
static enum request_kind request_classify_verb(struct span verb, struct span *path)
{
	struct span argument = verb;

	if (span_is(verb, "version") || span_is(verb, "list")) {
		path->length = 0;
		return span_is(verb, "list") ? REQUEST_VERB_LIST : REQUEST_VERB_VERSION;
	}
	if (span_skip(&argument, "list ") && span_strip_directory(&argument)) {
		*path = argument;
		return REQUEST_VERB_LIST;
	}
	argument = verb;
	if (span_skip(&argument, "open ")) {
		*path = argument;
		if (path_check(argument.start, argument.length) == PATH_OK)
			return REQUEST_VERB_OPEN;
		return REQUEST_VERB_REFUSED;
	}
	return REQUEST_VERB_UNKNOWN;
}

struct request request_parse(const char *bytes, size_t length, bool has_verbs)
{
	struct request request = { .kind = REQUEST_INCOMPLETE, .path = bytes ? bytes : "" };
	size_t visible = MIN(length, REQUEST_LINE_MAX);
	/* Before the first byte has come there may be no buffer either, and memchr() wants one. */
	const char *lf = memchr(request.path, '\n', visible);
	struct span line, verb;

	if (!lf) {
		if (visible == REQUEST_LINE_MAX)
			request.kind = REQUEST_TOO_LONG;
		return request;
	}
	request.line_length = (size_t)(lf - request.path) + 1;
	line = (struct span){ request.path, (size_t)(lf - request.path) };
	if (line.length > 0 && lf[-1] == '\r')
		line.length--;

	verb = line;
	if (has_verbs && span_skip(&verb, VERB_PREFIX))
		request.kind = request_classify_verb(verb, &line);
	else
		request.kind = request_classify(&line);
	request.path = line.start;
	request.path_length = line.length;
	return request;
}
