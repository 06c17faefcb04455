/*
 * Theory of operation: the directory is kept open, so that the file is found
 * again after chdir(2) and through a path of any length. bind(2) refuses a name
 * that is taken; what is there is then held by an O_PATH descriptor while it is
 * tried, and removed only when it is still that file and nobody answered.
 */
#include "lib/socket_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/macros.h"

#define BACKLOG 4096 /* the kernel lowers it to net.core.somaxconn */
#define BIND_ATTEMPTS 4

/* Splits path: the directory is opened, the name copied. */
static int open_directory(struct kaiso_socket_file *file, const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	CLEANUP_FREE char *directory = slash ? strndup(path, (size_t)(name - path)) : strdup(".");

	if (!directory)
		return -ENOMEM;
	if (*name == '\0')
		return -EINVAL;
	if (strlen(name) > NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(file->name, name, strlen(name) + 1);
	file->directory_fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return file->directory_fd < 0 ? -errno : 0;
}

/* A path that fits is bound as it is, for it is what ss(8) shows. */
static int make_address(const struct kaiso_socket_file *file, const char *path, struct sockaddr_un *address)
{
	char through_directory[sizeof("/proc/self/fd//") + 10 + NAME_MAX];
	const char *word = path;

	if (strlen(path) >= sizeof(address->sun_path)) {
		snprintf(through_directory, sizeof(through_directory), "/proc/self/fd/%d/%s",
			 file->directory_fd, file->name);
		word = through_directory;
	}
	if (strlen(word) >= sizeof(address->sun_path))
		return -ENAMETOOLONG;
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	memcpy(address->sun_path, word, strlen(word) + 1);
	return 0;
}

/* Does somebody answer at this file? 1, 0, or a negative errno. */
static int probe(int file_fd)
{
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (fd < 0)
		return -errno;
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d", file_fd);
	/* A full backlog, or a socket of another type: there is somebody. */
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 || errno == EAGAIN ||
	    errno == EPROTOTYPE)
		return 1;
	return errno == ECONNREFUSED ? 0 : -errno;
}

/* Clears the way: 0 when the name may be free now. */
static int remove_stale(const struct kaiso_socket_file *file)
{
	CLEANUP_CLOSE int file_fd = openat(file->directory_fd, file->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat found, now;
	int r;

	if (file_fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(file_fd, &found) != 0)
		return -errno;
	if (!S_ISSOCK(found.st_mode))
		return -ENOTSOCK;
	r = probe(file_fd);
	if (r != 0)
		return r == 1 ? -EADDRINUSE : r;
	if (fstatat(file->directory_fd, file->name, &now, AT_SYMLINK_NOFOLLOW) != 0 ||
	    now.st_dev != found.st_dev || now.st_ino != found.st_ino)
		return 0;
	return unlinkat(file->directory_fd, file->name, 0) == 0 || errno == ENOENT ? 0 : -errno;
}

/* Binds, and makes way for what is stale. */
static int bind_file(struct kaiso_socket_file *file, const char *path)
{
	struct sockaddr_un address;
	int r = make_address(file, path, &address);

	if (r < 0)
		return r;
	for (int attempt = 0; attempt < BIND_ATTEMPTS; attempt++) {
		if (bind(file->fd, (struct sockaddr *)&address, sizeof(address)) == 0)
			return 0;
		if (errno != EADDRINUSE)
			return -errno;
		r = remove_stale(file);
		if (r < 0)
			return r;
	}
	return -EADDRINUSE;
}

static int listen_at(struct kaiso_socket_file *file, const char *path)
{
	struct stat made;
	int r = open_directory(file, path);

	if (r < 0)
		return r;
	file->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (file->fd < 0)
		return -errno;
	r = bind_file(file, path);
	if (r < 0)
		return r;
	if (fstatat(file->directory_fd, file->name, &made, AT_SYMLINK_NOFOLLOW) != 0)
		return -errno;
	file->device = made.st_dev;
	file->inode = made.st_ino;
	file->owner = getpid();
	return listen(file->fd, BACKLOG) == 0 ? 0 : -errno;
}

int kaiso_socket_file_open(struct kaiso_socket_file *file, const char *path)
{
	int r;

	*file = (struct kaiso_socket_file){ .fd = -1, .directory_fd = -1 };
	r = listen_at(file, path);
	if (r < 0)
		kaiso_socket_file_close(file);
	return r;
}

void kaiso_socket_file_close(struct kaiso_socket_file *file)
{
	struct stat now;

	if (file->owner == getpid() && file->directory_fd >= 0 &&
	    fstatat(file->directory_fd, file->name, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
	    now.st_dev == file->device && now.st_ino == file->inode)
		unlinkat(file->directory_fd, file->name, 0);
	cleanup_close(&file->directory_fd);
	cleanup_close(&file->fd);
	file->fd = file->directory_fd = -1;
}
