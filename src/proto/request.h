/*
 * Request lines: where one ends, and what it asks for (the protocol, "On the wire"
 * and "Words for tools").
 *
 * Pure text, no allocation: the results point into the caller's bytes.
 */
#ifndef KAISO_PROTO_REQUEST_H
#define KAISO_PROTO_REQUEST_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of a line, its terminator included. */
#define REQUEST_LINE_MAX 4096

enum request_kind {
	REQUEST_INCOMPLETE,   /* no LF yet, and room for one: read more */
	REQUEST_TOO_LONG,     /* REQUEST_LINE_MAX bytes without a LF */
	REQUEST_LIST,         /* the empty line: path is empty. "DIR/": path is "DIR" */
	REQUEST_OPEN,         /* a service: path */
	REQUEST_REFUSED,      /* no client may name it: treat as not found; path is the whole line */
	REQUEST_VERB_VERSION, /* ".kaiso/version" */
	REQUEST_VERB_LIST,    /* ".kaiso/list" (path empty) or ".kaiso/list DIR/" (path "DIR") */
	REQUEST_VERB_OPEN,    /* ".kaiso/open PATH" */
	/* ".kaiso/open" of a path no client may name (PATH/ too): answer not-found.
	 * path is what stood there. */
	REQUEST_VERB_REFUSED,
	/* Another word behind ".kaiso/", or a known one with a wrong argument: close.
	 * path is the whole line. */
	REQUEST_VERB_UNKNOWN,
};

struct request {
	enum request_kind kind;
	size_t line_length; /* bytes to consume, terminator included; 0 for INCOMPLETE and TOO_LONG */
	const char *path;   /* into the caller's bytes, not terminated; never NULL */
	size_t path_length;
};

/*
 * Looks at the first line of length bytes that a client has sent. Only the
 * first REQUEST_LINE_MAX bytes count. With has_verbs false, lines that begin with ".kaiso/" are
 * REQUEST_REFUSED like every hidden path.
 */
struct request request_parse(const char *bytes, size_t length, bool has_verbs);

#endif
