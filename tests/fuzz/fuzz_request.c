/*
 * Any bytes as what a client sends: a conversation of lines.
 *
 * Beyond crashes: a line fed in pieces asks for what it asks for whole, what
 * stands behind it never matters, exactly the line is consumed, CRLF and LF
 * mean the same, and no path that is handed on is one that path_check() refuses
 * (which has a fuzz target of its own).
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "proto/path.h"
#include "proto/request.h"

#define ENSURE(condition)         \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)

/* Pieces of a longer line than this are tried at its end only, to stay fast. */
#define PIECES_MAX 128

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length);

/* Parses a copy that ends where the bytes do, so that a look behind them is an error. */
static struct request parse_copy(const char *bytes, size_t length, bool has_verbs)
{
	char *copy = malloc(MAX(length, 1));
	struct request request;

	ENSURE(copy);
	memcpy(copy, bytes, length);
	request = request_parse(copy, length, has_verbs);
	ENSURE(request.path >= copy && request.path + request.path_length <= copy + length);
	request.path = bytes + (request.path - copy);
	free(copy);
	return request;
}

static void ensure_same(const struct request *one, const struct request *other)
{
	ENSURE(one->kind == other->kind && one->line_length == other->line_length);
	ENSURE(one->path == other->path && one->path_length == other->path_length);
}

static bool is_line(enum request_kind kind)
{
	return kind != REQUEST_INCOMPLETE && kind != REQUEST_TOO_LONG;
}

/* Where the line ends, found without the parser. */
static void check_end(const struct request *request, const char *bytes, size_t length)
{
	size_t end = 0;

	while (end < length && end < 4096 && bytes[end] != '\n')
		end++;
	if (end == 4096)
		ENSURE(request->kind == REQUEST_TOO_LONG && request->line_length == 0);
	else if (end == length)
		ENSURE(request->kind == REQUEST_INCOMPLETE && request->line_length == 0);
	else
		ENSURE(is_line(request->kind) && request->line_length == end + 1);
	if (is_line(request->kind))
		ENSURE(request->path + request->path_length <= bytes + end);
}

static void check_path(const struct request *request, bool has_verbs)
{
	bool is_named = path_check(request->path, request->path_length) == PATH_OK;

	switch (request->kind) {
	case REQUEST_INCOMPLETE:
	case REQUEST_TOO_LONG:
		return;
	case REQUEST_OPEN:
		ENSURE(is_named);
		return;
	case REQUEST_LIST:
		ENSURE(is_named || request->path_length == 0);
		return;
	case REQUEST_REFUSED:
		ENSURE(!is_named);
		return;
	case REQUEST_VERB_OPEN:
		ENSURE(has_verbs && is_named);
		return;
	case REQUEST_VERB_LIST:
		ENSURE(has_verbs && (is_named || request->path_length == 0));
		return;
	case REQUEST_VERB_REFUSED:
		ENSURE(has_verbs && !is_named);
		return;
	case REQUEST_VERB_VERSION:
		ENSURE(has_verbs && request->path_length == 0);
		return;
	case REQUEST_VERB_UNKNOWN:
		ENSURE(has_verbs && request->path_length >= strlen(".kaiso/"));
		return;
	}
	abort();
}

/* A growing prefix is incomplete until the LF is there; from then on the answer stands. */
static void check_pieces(const struct request *whole, const char *bytes, size_t length, bool has_verbs)
{
	size_t first = length > PIECES_MAX ? length - PIECES_MAX : 0;
	struct request request;

	for (size_t piece = first; piece < length; piece++) {
		request = parse_copy(bytes, piece, has_verbs);
		ENSURE(request.kind == REQUEST_INCOMPLETE && request.line_length == 0);
	}
	request = parse_copy(bytes, length, has_verbs);
	ensure_same(&request, whole);
}

/* A line that ended with LF alone, with CRLF: the same, one byte longer. */
static void check_crlf(const struct request *whole, const char *bytes, bool has_verbs)
{
	char line[REQUEST_LINE_MAX];
	size_t length = whole->line_length;
	struct request request;

	if (length >= REQUEST_LINE_MAX || (length >= 2 && bytes[length - 2] == '\r'))
		return;
	memcpy(line, bytes, length - 1);
	memcpy(line + length - 1, "\r\n", 2);
	request = request_parse(line, length + 1, has_verbs);
	ENSURE(request.line_length == length + 1);
	request.line_length = length;
	request.path = bytes + (request.path - line);
	ensure_same(&request, whole);
}

static void check_conversation(const char *bytes, size_t length, bool has_verbs)
{
	/* Some lines are enough, and a megabyte of line ends would take for ever. */
	for (int lines = 0; lines < 64; lines++) {
		struct request request = request_parse(bytes, length, has_verbs);

		ENSURE(request.path != NULL);
		check_end(&request, bytes, length);
		check_path(&request, has_verbs);
		if (!is_line(request.kind))
			return;
		check_pieces(&request, bytes, request.line_length, has_verbs);
		check_crlf(&request, bytes, has_verbs);
		bytes += request.line_length;
		length -= request.line_length;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length)
{
	check_conversation((const char *)input, length, false);
	check_conversation((const char *)input, length, true);
	return 0;
}
