#include "router/http_library.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>

/* The interface that the header describes has this number. */
#define LIBRARY "libmicrohttpd.so.12"

static bool find_calls(void *handle, struct http_library *library)
{
	bool has_all = true;

/* dlsym(3) tells how to get around ISO C, which knows no function behind a void pointer. */
#define FIND(call)                                                      \
	*(void **)(void *)&library->call = dlsym(handle, "MHD_" #call); \
	has_all = has_all && library->call;
	HTTP_LIBRARY_CALLS(FIND)
#undef FIND
	return has_all;
}

const struct http_library *http_library_load(char *reason, size_t reason_size)
{
	static struct http_library library;
	static bool is_loaded;
	void *handle;

	if (is_loaded)
		return &library;
	handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	if (!handle || !find_calls(handle, &library)) {
		snprintf(reason, reason_size, "it needs libmicrohttpd: %s", dlerror());
		return NULL;
	}
	is_loaded = true;
	return &library;
}
