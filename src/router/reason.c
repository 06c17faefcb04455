/*
 * Four tables, as switches so that the compiler asks for what a new reason lacks.
 */
#include "router/reason.h"

#include <errno.h>

const char *session_reason_name(enum session_reason reason)
{
	switch (reason) {
	case SESSION_DONE:
		return "done";
	case SESSION_HANDED_OVER:
		return "handed-over";
	case SESSION_LISTED:
		return "listed";
	case SESSION_CLIENT_CLOSED:
		return "client-closed";
	case SESSION_CLIENT_RESET:
		return "client-reset";
	case SESSION_SERVICE_RESET:
		return "service-reset";
	case SESSION_REQUEST_TIMEOUT:
		return "request-timeout";
	case SESSION_CONNECT_TIMEOUT:
		return "timeout";
	case SESSION_IDLE_TIMEOUT:
		return "idle-timeout";
	case SESSION_LINE_TOO_LONG:
		return "line-too-long";
	case SESSION_NOT_FOUND:
		return "not-found";
	case SESSION_DENIED:
		return "denied";
	case SESSION_UNAVAILABLE:
		return "unavailable";
	case SESSION_INVALID:
		return "invalid";
	case SESSION_LIMIT:
		return "limit";
	case SESSION_LOOP:
		return "loop";
	case SESSION_NO_MEMORY:
		return "no-memory";
	case SESSION_SHUTDOWN:
		return "shutdown";
	case SESSION_CLOSED:
		return "closed";
	case SESSION_NOT_ALLOWED:
		return "not-allowed";
	case SESSION_PROXY:
		return "proxy";
	}
	return "unknown";
}

enum reply_code session_reason_reply(enum session_reason reason)
{
	switch (reason) {
	case SESSION_DENIED:
		return REPLY_DENIED;
	case SESSION_CONNECT_TIMEOUT:
		return REPLY_TIMEOUT;
	case SESSION_LIMIT:
		return REPLY_LIMIT;
	case SESSION_INVALID:
		return REPLY_INVALID;
	case SESSION_LOOP:
		return REPLY_LOOP;
	case SESSION_NOT_FOUND:
	case SESSION_NOT_ALLOWED: /* what may not be opened is not seen */
		return REPLY_NOT_FOUND;
	case SESSION_DONE:
	case SESSION_HANDED_OVER:
	case SESSION_LISTED:
	case SESSION_CLIENT_CLOSED:
	case SESSION_CLIENT_RESET:
	case SESSION_SERVICE_RESET:
	case SESSION_REQUEST_TIMEOUT:
	case SESSION_IDLE_TIMEOUT:
	case SESSION_LINE_TOO_LONG:
	case SESSION_UNAVAILABLE:
	case SESSION_NO_MEMORY:
	case SESSION_SHUTDOWN:
	case SESSION_CLOSED:
	case SESSION_PROXY:
		break;
	}
	return REPLY_UNAVAILABLE;
}

enum session_reason session_reason_from_errno(int error)
{
	switch (-error) {
	case ENOENT:
	case ENOTDIR:
	case ENAMETOOLONG:
	case ELOOP:
		return SESSION_NOT_FOUND;
	case EINVAL:
		return SESSION_INVALID;
	case ETIMEDOUT:
		return SESSION_CONNECT_TIMEOUT;
	case EMFILE:
	case ENFILE:
	case ENOBUFS:
		return SESSION_LIMIT;
	case ENOMEM:
		return SESSION_NO_MEMORY;
	default:
		return SESSION_UNAVAILABLE;
	}
}

enum session_reason session_reason_from_reply(enum reply_code code)
{
	switch (code) {
	case REPLY_NOT_FOUND:
		return SESSION_NOT_FOUND;
	case REPLY_DENIED:
		return SESSION_DENIED;
	case REPLY_UNAVAILABLE:
		return SESSION_UNAVAILABLE;
	case REPLY_TIMEOUT:
		return SESSION_CONNECT_TIMEOUT;
	case REPLY_LIMIT:
		return SESSION_LIMIT;
	case REPLY_INVALID:
		return SESSION_INVALID;
	case REPLY_LOOP:
		return SESSION_LOOP;
	}
	return SESSION_UNAVAILABLE;
}
