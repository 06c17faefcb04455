/*
 * The preload library: what its parts share.
 *
 * Each role's calls are defined in a file of its own (preload_inject.c, preload_passfd.c) under their
 * real names, exported by preload.map; the C library's own are in one table. The library is
 * active only for the roles whose variable is set in the environment when the program starts.
 *
 * Every function here is called by foreign programs, at any time, in any thread, between fork and exec and in signal
 * handlers: after the constructor nothing allocates, locks or prints, and errno is kept.
 */
#ifndef KAISO_WRAP_PRELOAD_H
#define KAISO_WRAP_PRELOAD_H

#include <sys/socket.h>
#include <sys/types.h>

struct preload_calls {
	int (*connect)(int fd, const struct sockaddr *address, socklen_t length);
	ssize_t (*sendto)(int fd, const void *bytes, size_t length, int flags, const struct sockaddr *address,
			  socklen_t address_length);
	ssize_t (*sendmsg)(int fd, const struct msghdr *message, int flags);
	int (*sendmmsg)(int fd, struct mmsghdr *messages, unsigned count, int flags);
};

/* The real calls. Filled before anything of the program runs; a call that comes even earlier (another
 * library's constructor) fills it itself: always get it by this function. */
const struct preload_calls *preload_calls(void);

/* Called once, by the constructor; each reads its variable. */
void preload_inject_init(void);
void preload_passfd_init(void);

#define PRELOAD_EXPORT __attribute__((visibility("default")))

#endif
