/*
 * System calls that must not come back to the preload library's own functions of the same name, which see
 * a queue as the listener that it replaced. Results and errno as of the C library's.
 */
#ifndef KAISO_WRAP_PASSFD_CALLS_H
#define KAISO_WRAP_PASSFD_CALLS_H

#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline int call_getsockname(int fd, struct sockaddr *address, socklen_t *length)
{
	return (int)syscall(SYS_getsockname, fd, address, length);
}

static inline int call_getsockopt(int fd, int level, int option, void *value, socklen_t *length)
{
	return (int)syscall(SYS_getsockopt, fd, level, option, value, length);
}

static inline int call_connect(int fd, const struct sockaddr *address, socklen_t length)
{
	return (int)syscall(SYS_connect, fd, address, length);
}

static inline ssize_t call_sendmsg(int fd, const struct msghdr *message, int flags)
{
	return syscall(SYS_sendmsg, fd, message, flags);
}

#endif
