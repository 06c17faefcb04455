/*
 * Small language helpers: array length, container_of, and cleanup attributes.
 *
 * The CLEANUP_* attributes free a local when it goes out of scope; hand the
 * resource on with STEAL_FD() or STEAL_PTR(), which leave an empty local.
 */
#ifndef KAISO_BASE_MACROS_H
#define KAISO_BASE_MACROS_H

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define MIN(x, y) ((x) < (y) ? (x) : (y))
#define MAX(x, y) ((x) > (y) ? (x) : (y))
#define CONTAINER_OF(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))
#define PRINTF_LIKE(text, arguments) __attribute__((format(printf, text, arguments)))

static inline void cleanup_close(int *fd)
{
	if (*fd >= 0) {
		int saved_errno = errno;
		close(*fd);
		errno = saved_errno;
	}
}

static inline void cleanup_free(void *pointer)
{
	free(*(void **)pointer);
}

#define CLEANUP_CLOSE __attribute__((cleanup(cleanup_close), unused))
#define CLEANUP_FREE __attribute__((cleanup(cleanup_free), unused))

static inline int steal_fd(int *fd)
{
	int stolen = *fd;
	*fd = -1;
	return stolen;
}

#define STEAL_FD(fd) steal_fd(&(fd))
#define STEAL_PTR(pointer)                               \
	__extension__({                                  \
		__typeof__(pointer) stolen_ = (pointer); \
		(pointer) = NULL;                        \
		stolen_;                                 \
	})

#endif
