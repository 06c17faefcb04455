/*
 * Where a process keeps a socket: its descriptors, and its registrations with epoll(7).
 *
 * A registration belongs to the open file, not to the number, so it does not come along when another file
 * is put at the number: it has to be taken off the old file and made again for the new one.
 *
 * libc only, no allocation, no lock.
 */
#ifndef KAISO_WRAP_PASSFD_PLACES_H
#define KAISO_WRAP_PASSFD_PLACES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PLACES_MAX 32

struct epoll_registration {
	int epoll_fd; /* numbers in that process */
	int fd;
	uint32_t events;
	uint64_t data;
};

struct places {
	size_t fd_count;
	int fds[PLACES_MAX];
	size_t registration_count;
	struct epoll_registration registrations[PLACES_MAX];
};

/*
 * Reads from /proc where the process has the socket (proc(5): fd, and in fdinfo "tfd:", of Linux 5.8 with
 * its inode). pid 0 is the calling process. What is beyond PLACES_MAX, or cannot be read, is left out.
 * socket_fd: the caller's own descriptor of it.
 */
void places_find(pid_t pid, int socket_fd, struct places *places);

/* FD_CLOEXEC of a process's descriptor, as O_CLOEXEC or 0 (fdinfo, "flags:"). */
int places_close_on_exec(pid_t pid, int fd);

#endif
