/*
 * libcurl, loaded when a mirror starts: it brings many libraries along (TLS, HTTP/2 and what they need), and every start
 * of every command would pay for them.
 */
#ifndef KAISO_MIRROR_CURL_LIBRARY_H
#define KAISO_MIRROR_CURL_LIBRARY_H

#include <curl/curl.h>
#include <stddef.h>

/* Its functions that are used here, without their curl_. */
#define CURL_LIBRARY_CALLS(CALL)  \
	CALL(easy_cleanup)        \
	CALL(easy_getinfo)        \
	CALL(easy_init)           \
	CALL(easy_setopt)         \
	CALL(easy_strerror)       \
	CALL(global_init)         \
	CALL(multi_add_handle)    \
	CALL(multi_cleanup)       \
	CALL(multi_info_read)     \
	CALL(multi_init)          \
	CALL(multi_perform)       \
	CALL(multi_poll)          \
	CALL(multi_remove_handle) \
	CALL(multi_strerror)      \
	CALL(slist_append)        \
	CALL(slist_free_all)

struct curl_library {
/* NOLINTNEXTLINE(bugprone-macro-parentheses): it is a declaration */
#define CURL_LIBRARY_MEMBER(name) __typeof__(&curl_##name) name;
	CURL_LIBRARY_CALLS(CURL_LIBRARY_MEMBER)
#undef CURL_LIBRARY_MEMBER
};

/* Loads it; it stays. Static; NULL when it cannot be had, with why in reason. To be called before threads start. */
const struct curl_library *curl_library_load(char *reason, size_t reason_size);

#endif
