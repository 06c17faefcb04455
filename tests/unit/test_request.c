/*
 * Request lines, as conversations: what a client sends, and what each of its lines asks for.
 */
#include "fixture.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "proto/request.h"

#define BYTES(literal) (literal), sizeof(literal) - 1

struct line_case {
	const char *bytes;
	size_t length;
	enum request_kind kind;
	const char *path;
	size_t path_length;
};

/* Each is one line with its terminator. */
static const struct line_case plain_lines[] = {
	{ BYTES("\n"), REQUEST_LIST, BYTES("") },
	{ BYTES("\r\n"), REQUEST_LIST, BYTES("") },
	{ BYTES("dir/\r\n"), REQUEST_LIST, BYTES("dir") },
	{ BYTES("dir/sub dir/\n"), REQUEST_LIST, BYTES("dir/sub dir") },

	{ BYTES("foo\n"), REQUEST_OPEN, BYTES("foo") },
	{ BYTES("foo\r\n"), REQUEST_OPEN, BYTES("foo") },
	{ BYTES("foo \r\n"), REQUEST_OPEN, BYTES("foo ") },
	{ BYTES(" foo\n"), REQUEST_OPEN, BYTES(" foo") },
	{ BYTES("FOO/b r\n"), REQUEST_OPEN, BYTES("FOO/b r") },
	{ BYTES("\xc3\xa9\n"), REQUEST_OPEN, BYTES("\xc3\xa9") },
	{ BYTES("kaiso/version\n"), REQUEST_OPEN, BYTES("kaiso/version") },

	{ BYTES("/\n"), REQUEST_REFUSED, BYTES("/") },
	{ BYTES("//\n"), REQUEST_REFUSED, BYTES("//") },
	{ BYTES("/foo\n"), REQUEST_REFUSED, BYTES("/foo") },
	{ BYTES("dir//\n"), REQUEST_REFUSED, BYTES("dir//") },
	{ BYTES("d//foo\n"), REQUEST_REFUSED, BYTES("d//foo") },
	{ BYTES(".hid\n"), REQUEST_REFUSED, BYTES(".hid") },
	{ BYTES(".hid/\r\n"), REQUEST_REFUSED, BYTES(".hid/") },
	{ BYTES("../\r\n"), REQUEST_REFUSED, BYTES("../") },
	{ BYTES("d/../foo\n"), REQUEST_REFUSED, BYTES("d/../foo") },
	{ BYTES(".kaiso\n"), REQUEST_REFUSED, BYTES(".kaiso") },
	{ BYTES("foo\0junk\n"), REQUEST_REFUSED, BYTES("foo\0junk") },
	{ BYTES("\0\n"), REQUEST_REFUSED, BYTES("\0") },
	/* Only the one CR before the LF belongs to the line's end. */
	{ BYTES("\r\r\n"), REQUEST_REFUSED, BYTES("\r") },
	{ BYTES("fo\ro\n"), REQUEST_REFUSED, BYTES("fo\ro") },
	{ BYTES("\rfoo\n"), REQUEST_REFUSED, BYTES("\rfoo") },
};

static const struct line_case verb_lines[] = {
	{ BYTES(".kaiso/version\r\n"), REQUEST_VERB_VERSION, BYTES("") },
	{ BYTES(".kaiso/list\n"), REQUEST_VERB_LIST, BYTES("") },
	{ BYTES(".kaiso/list dir/\r\n"), REQUEST_VERB_LIST, BYTES("dir") },
	{ BYTES(".kaiso/list a b/c /\n"), REQUEST_VERB_LIST, BYTES("a b/c ") },
	{ BYTES(".kaiso/open foo\r\n"), REQUEST_VERB_OPEN, BYTES("foo") },
	{ BYTES(".kaiso/open foo bar \n"), REQUEST_VERB_OPEN, BYTES("foo bar ") },
	{ BYTES(".kaiso/open  foo\n"), REQUEST_VERB_OPEN, BYTES(" foo") },

	{ BYTES(".kaiso/open \n"), REQUEST_VERB_REFUSED, BYTES("") },
	{ BYTES(".kaiso/open .hid\r\n"), REQUEST_VERB_REFUSED, BYTES(".hid") },
	{ BYTES(".kaiso/open foo/\n"), REQUEST_VERB_REFUSED, BYTES("foo/") },
	{ BYTES(".kaiso/open /\n"), REQUEST_VERB_REFUSED, BYTES("/") },
	{ BYTES(".kaiso/open a\0b\n"), REQUEST_VERB_REFUSED, BYTES("a\0b") },
	{ BYTES(".kaiso/open .kaiso/open foo\n"), REQUEST_VERB_REFUSED, BYTES(".kaiso/open foo") },

	{ BYTES(".kaiso/\n"), REQUEST_VERB_UNKNOWN, BYTES(".kaiso/") },
	{ BYTES(".kaiso/open\n"), REQUEST_VERB_UNKNOWN, BYTES(".kaiso/open") },
	{ BYTES(".kaiso/open\tfoo\n"), REQUEST_VERB_UNKNOWN, BYTES(".kaiso/open\tfoo") },
	{ BYTES(".kaiso/opens foo\n"), REQUEST_VERB_UNKNOWN, BYTES(".kaiso/opens foo") },
	{ BYTES(".kaiso/list \n"), REQUEST_VERB_UNKNOWN, BYTES(".kaiso/list ") },
	{ BYTES(".kaiso/list dir\n"), REQUEST_VERB_UNKNOWN, BYTES(".kaiso/list dir") },
	{ BYTES(".kaiso/list /\n"), REQUEST_VERB_UNKNOWN, BYTES(".kaiso/list /") },
	{ BYTES(".kaiso/list ../\n"), REQUEST_VERB_UNKNOWN, BYTES(".kaiso/list ../") },
	{ BYTES(".kaiso/list/\n"), REQUEST_VERB_UNKNOWN, BYTES(".kaiso/list/") },
	{ BYTES(".kaiso/version \n"), REQUEST_VERB_UNKNOWN, BYTES(".kaiso/version ") },
	{ BYTES(".kaiso/Version\n"), REQUEST_VERB_UNKNOWN, BYTES(".kaiso/Version") },
	{ BYTES(".kaiso/quit\0\n"), REQUEST_VERB_UNKNOWN, BYTES(".kaiso/quit\0") },
};

static void assert_request(const struct request *request, const struct line_case *expected)
{
	if (request->kind != expected->kind)
		fail_msg("\"%s\": kind %d, expected %d", expected->bytes, (int)request->kind,
			 (int)expected->kind);
	assert_int_equal(request->line_length, expected->length);
	assert_int_equal(request->path_length, expected->path_length);
	assert_memory_equal(request->path, expected->path, expected->path_length);
}

/* Whole; then byte by byte, out of storage that ends where the client's bytes do; then with
 * more behind it. */
static void assert_line(const struct line_case *line, bool has_verbs)
{
	static const char behind[] = "\r\nother\n.kaiso/version\n\0";
	char *longer = malloc(line->length + sizeof(behind));
	struct request request = request_parse(line->bytes, line->length, has_verbs);

	assert_request(&request, line);
	assert_non_null(longer);
	for (size_t length = 0; length < line->length; length++) {
		char *piece = malloc(length + 1);

		assert_non_null(piece);
		memcpy(piece + 1, line->bytes, length);
		request = request_parse(piece + 1, length, has_verbs);
		assert_int_equal(request.kind, REQUEST_INCOMPLETE);
		assert_int_equal(request.line_length, 0);
		assert_non_null(request.path);
		free(piece);
	}
	memcpy(longer, line->bytes, line->length);
	memcpy(longer + line->length, behind, sizeof(behind));
	for (size_t more = 1; more <= sizeof(behind); more++) {
		request = request_parse(longer, line->length + more, has_verbs);
		assert_request(&request, line);
	}
	free(longer);
}

static void a_line_asks_for_the_same_however_it_arrives(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(plain_lines); i++) {
		assert_line(&plain_lines[i], false);
		assert_line(&plain_lines[i], true);
	}
}

static void verbs_are_known_when_they_are_on(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(verb_lines); i++)
		assert_line(&verb_lines[i], true);
}

static void verbs_are_hidden_paths_when_they_are_off(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(verb_lines); i++) {
		struct line_case line = verb_lines[i];

		line.kind = REQUEST_REFUSED;
		line.path = line.bytes;
		line.path_length = line.length - 1;
		if (line.path[line.path_length - 1] == '\r')
			line.path_length--;
		assert_line(&line, false);
	}
}

static void nothing_sent_yet_is_incomplete(void **state)
{
	struct request request = request_parse(NULL, 0, true);

	(void)state;
	assert_int_equal(request.kind, REQUEST_INCOMPLETE);
	assert_int_equal(request.line_length, 0);
	assert_int_equal(request.path_length, 0);
	assert_non_null(request.path);
}

static void lists_may_come_before_a_service(void **state)
{
	static const char sent[] = "\n\r\ndir/\nfoo\r\n\r\npayload";
	static const enum request_kind kinds[] = { REQUEST_LIST, REQUEST_LIST, REQUEST_LIST, REQUEST_OPEN };
	const char *at = sent;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct request request = request_parse(at, strlen(at), true);

		assert_int_equal(request.kind, kinds[i]);
		at += request.line_length;
	}
	/* What follows the service's line is the service's, a line end in front of it too. */
	assert_string_equal(at, "\r\npayload");
}

static void a_line_of_4096_bytes_is_the_longest(void **state)
{
	static char sent[REQUEST_LINE_MAX + 2];
	struct request request;

	(void)state;
	memset(sent, 'x', sizeof(sent));
	assert_int_equal(request_parse(sent, REQUEST_LINE_MAX - 1, true).kind, REQUEST_INCOMPLETE);
	assert_int_equal(request_parse(sent, REQUEST_LINE_MAX, true).kind, REQUEST_TOO_LONG);

	sent[REQUEST_LINE_MAX] = '\n';
	request = request_parse(sent, REQUEST_LINE_MAX + 1, true);
	assert_int_equal(request.kind, REQUEST_TOO_LONG);
	assert_int_equal(request.line_length, 0);
	assert_non_null(request.path);

	sent[REQUEST_LINE_MAX - 1] = '\n';
	request = request_parse(sent, REQUEST_LINE_MAX + 1, true);
	assert_int_equal(request.kind, REQUEST_OPEN);
	assert_int_equal(request.line_length, REQUEST_LINE_MAX);
	assert_int_equal(request.path_length, REQUEST_LINE_MAX - 1);
}

static void crlf_counts_as_two_bytes_of_a_line(void **state)
{
	static char sent[REQUEST_LINE_MAX + 1];
	struct request request;

	(void)state;
	memset(sent, 'x', sizeof(sent));
	sent[REQUEST_LINE_MAX - 2] = '\r';
	sent[REQUEST_LINE_MAX - 1] = '\n';
	request = request_parse(sent, sizeof(sent), false);
	assert_int_equal(request.kind, REQUEST_OPEN);
	assert_int_equal(request.path_length, REQUEST_LINE_MAX - 2);

	sent[REQUEST_LINE_MAX - 2] = 'x';
	sent[REQUEST_LINE_MAX - 1] = '\r';
	sent[REQUEST_LINE_MAX] = '\n';
	assert_int_equal(request_parse(sent, sizeof(sent), false).kind, REQUEST_TOO_LONG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_line_asks_for_the_same_however_it_arrives),
		cmocka_unit_test(verbs_are_known_when_they_are_on),
		cmocka_unit_test(verbs_are_hidden_paths_when_they_are_off),
		cmocka_unit_test(nothing_sent_yet_is_incomplete),
		cmocka_unit_test(lists_may_come_before_a_service),
		cmocka_unit_test(a_line_of_4096_bytes_is_the_longest),
		cmocka_unit_test(crlf_counts_as_two_bytes_of_a_line),
	};

	return FIXTURE_RUN(tests);
}
