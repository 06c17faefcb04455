/*
 * Opening and reading the file that holds a service description.
 *
 * What lies at a service's path is whatever the operator, or a program that may
 * write there, put there: a FIFO or a device must neither block the router nor
 * notice that it was looked at.
 */
#ifndef KAISO_ROUTER_DESCRIPTION_FILE_H
#define KAISO_ROUTER_DESCRIPTION_FILE_H

#include <sys/stat.h>
#include <sys/types.h>

#include "proto/description.h"

/* Room that description_file_read() needs: a byte more than allowed shows that there is too much. */
#define DESCRIPTION_FILE_BUFFER (DESCRIPTION_SIZE_MAX + 1)

/*
 * Opens path, links followed, relative to directory_fd (which may be an O_PATH descriptor, or
 * AT_FDCWD) for reading, close-on-exec. *status is filled in whenever something lies at path,
 * even when it is refused.
 *
 * Returns the descriptor, the caller's to close, or: -EINVAL, it is no regular file (nothing was
 * opened but its name); -EFBIG, it is longer than DESCRIPTION_SIZE_MAX; -ENOSYS, there is no /proc,
 * which this needs; another negative errno of openat(2).
 */
int description_file_open(int directory_fd, const char *path, struct stat *status);

/*
 * Reads the whole file from its start, wherever the descriptor's position is, into bytes, which
 * has room for DESCRIPTION_FILE_BUFFER. Not terminated. Returns the length, at most
 * DESCRIPTION_SIZE_MAX; -EFBIG when the file has grown beyond it; or another negative errno.
 */
ssize_t description_file_read(int fd, char *bytes);

#endif
