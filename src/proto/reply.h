/*
 * What a router answers: the codes of ".kaiso/open", and why a session ended.
 *
 * Pure text, no allocation.
 */
#ifndef KAISO_PROTO_REPLY_H
#define KAISO_PROTO_REPLY_H

#include <stddef.h>

/* "-CODE TEXT" CRLF: one of these is CODE. */
enum reply_code {
	REPLY_NOT_FOUND,   /* not-found: no such service, or none that this client may see */
	REPLY_DENIED,      /* denied */
	REPLY_UNAVAILABLE, /* unavailable: nobody listens behind it */
	REPLY_TIMEOUT,     /* timeout: nobody answered within the connect timeout */
	REPLY_LIMIT,       /* limit: one of the router's limits is reached */
	REPLY_INVALID,     /* invalid: its description is wrong */
	REPLY_LOOP,        /* loop: it leads back to itself */
};

#define REPLY_OPENED "+\r\n"
#define REPLY_LINE_MAX 128

/* The protocol's word for a code. Static. */
const char *reply_code_name(enum reply_code code);

/* What a line, without its terminator, answers to ".kaiso/open": 0 for "+", 1 for "-CODE TEXT" with *code
 * set (a code that this version does not know is REPLY_UNAVAILABLE), -EINVAL for anything else. */
int reply_parse(const char *line, size_t length, enum reply_code *code);

/* Writes "-CODE TEXT\r\n", terminated, of at most size bytes; returns its length without the
 * terminator. REPLY_LINE_MAX is always enough. */
size_t reply_format_error(char *line, size_t size, enum reply_code code);

#endif
