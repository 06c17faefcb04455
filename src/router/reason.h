/*
 * Why a session ended: for the log, and for clients that ask (".kaiso/open").
 */
#ifndef KAISO_ROUTER_REASON_H
#define KAISO_ROUTER_REASON_H

#include "proto/reply.h"

/* Why a session ended; session_reason_name() gives the words. */
enum session_reason {
	SESSION_DONE,          /* both directions came to their end */
	SESSION_HANDED_OVER,   /* the client's socket was given to the service */
	SESSION_LISTED,        /* the client asked for lists only, and left */
	SESSION_CLIENT_CLOSED, /* left without a whole request line */
	SESSION_CLIENT_RESET,
	SESSION_SERVICE_RESET,
	SESSION_REQUEST_TIMEOUT,
	SESSION_CONNECT_TIMEOUT,
	SESSION_IDLE_TIMEOUT,
	SESSION_LINE_TOO_LONG,
	SESSION_NOT_FOUND,
	SESSION_DENIED,
	SESSION_UNAVAILABLE,
	SESSION_INVALID,
	SESSION_LIMIT,
	SESSION_LOOP,
	SESSION_NO_MEMORY,
	SESSION_SHUTDOWN,    /* the router was told to end */
	SESSION_CLOSED,      /* an operator ended it: `kaiso close` */
	SESSION_NOT_ALLOWED, /* the service is not for this client (allow, deny): told as not found */
	SESSION_PROXY, /* a header of the PROXY protocol that is missing, malformed, or not from a front end */
};
#define SESSION_REASON_COUNT (SESSION_PROXY + 1)

/* The word of the log. Static. */
const char *session_reason_name(enum session_reason reason);

/* What it is to a client that asked for a verdict. */
enum reply_code session_reason_reply(enum session_reason reason);

/* What another router answered, as a reason of ours. */
enum session_reason session_reason_from_reply(enum reply_code code);

/* Of a negative errno that a look-up or a connection attempt gave. */
enum session_reason session_reason_from_errno(int error);

#endif
