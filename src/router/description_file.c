/*
 * Theory of operation
 *
 * An O_PATH descriptor names a file without opening it: no FIFO waits for a
 * writer, no driver hears of it. fstat(2) on that descriptor says what it is,
 * and only a regular file of a sane size is opened in earnest, through
 * /proc/self/fd, so that the file which was looked at is the one that is read,
 * even when the name has come to mean another in between.
 */
#include "router/description_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/macros.h"

int description_file_open(int directory_fd, const char *path, struct stat *status)
{
	CLEANUP_CLOSE int handle = openat(directory_fd, path, O_PATH | O_CLOEXEC);
	char reopened_path[32];
	int fd;

	if (handle < 0 || fstat(handle, status) < 0)
		return -errno;
	if (!S_ISREG(status->st_mode))
		return -EINVAL;
	if (status->st_size > DESCRIPTION_SIZE_MAX)
		return -EFBIG;

	snprintf(reopened_path, sizeof(reopened_path), "/proc/self/fd/%d", handle);
	/* O_NONBLOCK does not concern regular files, but for one under a lease (fcntl(2), F_SETLEASE):
	 * then EAGAIN instead of waiting for its holder. */
	fd = open(reopened_path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return -ENOSYS;
	return fd < 0 ? -errno : fd;
}

ssize_t description_file_read(int fd, char *bytes)
{
	size_t length = 0;

	while (length < DESCRIPTION_FILE_BUFFER) {
		ssize_t got = pread(fd, bytes + length, DESCRIPTION_FILE_BUFFER - length, (off_t)length);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			return (ssize_t)length;
		length += (size_t)got;
	}
	return -EFBIG;
}
