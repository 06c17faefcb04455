#include "mirror/curl_library.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/macros.h"

/* The same interface over two libraries of TLS; a Debian has either, often both. */
static const char *const names[] = { "libcurl.so.4", "libcurl-gnutls.so.4" };

static bool find_calls(void *handle, struct curl_library *library)
{
	bool has_all = true;

/* dlsym(3) tells how to get around ISO C, which knows no function behind a void pointer. */
#define FIND(call)                                                       \
	*(void **)(void *)&library->call = dlsym(handle, "curl_" #call); \
	has_all = has_all && library->call;
	CURL_LIBRARY_CALLS(FIND)
#undef FIND
	return has_all;
}

const struct curl_library *curl_library_load(char *reason, size_t reason_size)
{
	static struct curl_library library;
	static bool is_loaded;
	void *handle = NULL;

	if (is_loaded)
		return &library;
	for (size_t i = 0; i < ARRAY_SIZE(names) && !handle; i++)
		handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
	if (!handle || !find_calls(handle, &library)) {
		snprintf(reason, reason_size, "it needs libcurl (on Debian the package libcurl4): %s",
			 dlerror());
		return NULL;
	}
	if (library.global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
		snprintf(reason, reason_size, "libcurl cannot be set up");
		return NULL;
	}
	is_loaded = true;
	return &library;
}
