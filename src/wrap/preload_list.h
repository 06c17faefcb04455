/*
 * The list in LD_PRELOAD (ld.so(8)): paths between colons or blanks.
 */
#ifndef KAISO_WRAP_PRELOAD_LIST_H
#define KAISO_WRAP_PRELOAD_LIST_H

#include <stdbool.h>
#include <string.h>

/* Is path one of the list's elements, and not only a part of one? Safe after fork and in signal handlers. */
static inline bool preload_list_has(const char *list, const char *path)
{
	size_t path_length = strlen(path);

	for (;;) {
		size_t length = strcspn(list, ": ");

		if (length == path_length && memcmp(list, path, length) == 0)
			return true;
		if (list[length] == '\0')
			return false;
		list += length + 1;
	}
}

#endif
