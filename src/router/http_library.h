/*
 * libmicrohttpd, loaded when --http asks for it: it brings ten libraries along (TLS and what that needs), and every
 * start of every command would pay for them, an upgrade twice.
 */
#ifndef KAISO_ROUTER_HTTP_LIBRARY_H
#define KAISO_ROUTER_HTTP_LIBRARY_H

#include <microhttpd.h>
#include <stddef.h>

/* Its functions that are used here, without their MHD_. */
#define HTTP_LIBRARY_CALLS(CALL)          \
	CALL(add_connection)              \
	CALL(add_response_header)         \
	CALL(create_response_from_buffer) \
	CALL(destroy_response)            \
	CALL(get_connection_values)       \
	CALL(get_daemon_info)             \
	CALL(get_timeout)                 \
	CALL(queue_response)              \
	CALL(resume_connection)           \
	CALL(run)                         \
	CALL(start_daemon)                \
	CALL(stop_daemon)                 \
	CALL(suspend_connection)

struct http_library {
/* NOLINTNEXTLINE(bugprone-macro-parentheses): it is a declaration */
#define HTTP_LIBRARY_MEMBER(name) __typeof__(&MHD_##name) name;
	HTTP_LIBRARY_CALLS(HTTP_LIBRARY_MEMBER)
#undef HTTP_LIBRARY_MEMBER
};

/* Loads it; it stays. Static; NULL when it cannot be had, with why in reason. */
const struct http_library *http_library_load(char *reason, size_t reason_size);

#endif
