/*
 * A path longer than PATH_MAX cannot be given to the kernel in one piece, but a
 * directory can be opened and the rest be named from there. So a long path is
 * cut at the last '/' that fits, again and again; each piece is held only
 * until the next is open.
 */
#include "base/fd.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/macros.h"

#define RAISE_ATTEMPTS 200

/* Length of the longest leading piece of path that ends before a '/' and fits one system call. */
static size_t fd_piece_length(const char *path)
{
	size_t cut = PATH_MAX - 1;

	while (cut > 0 && path[cut] != '/')
		cut--;
	return cut;
}

int fd_open_path(const char *path, int flags)
{
	CLEANUP_CLOSE int directory = -1;
	char piece[PATH_MAX];

	while (strlen(path) >= PATH_MAX) {
		size_t length = fd_piece_length(path);
		int next;

		if (length == 0)
			return -ENAMETOOLONG;
		memcpy(piece, path, length);
		piece[length] = '\0';
		next = openat(directory < 0 ? AT_FDCWD : directory, piece, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (next < 0)
			return -errno;
		cleanup_close(&directory);
		directory = next;
		path += length + strspn(path + length, "/");
		if (*path == '\0')
			path = "."; /* slashes at the end of the whole */
	}

	int fd = openat(directory < 0 ? AT_FDCWD : directory, path, flags | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

void fd_fill_standard_streams(void)
{
	int fd;

	do {
		fd = open("/dev/null",
			  O_RDWR); /* the lowest free number; inherited by intent, like any standard stream */
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd > STDERR_FILENO)
		close(fd);
}

int fd_raise_event(int event_fd)
{
	static const struct timespec nap = { .tv_nsec = 1000000 };
	static const uint64_t one = 1;
	int error = 0;

	for (int attempt = 0; attempt < RAISE_ATTEMPTS; attempt++) {
		if (write(event_fd, &one, sizeof(one)) == sizeof(one))
			return 0;
		error = errno;
		nanosleep(&nap, NULL);
	}
	return -error;
}

uint64_t fd_raise_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return 1024;
	if (limit.rlim_cur < limit.rlim_max) {
		struct rlimit raised = { .rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max };

		if (setrlimit(RLIMIT_NOFILE, &raised) == 0)
			limit = raised;
	}
	return limit.rlim_cur;
}
