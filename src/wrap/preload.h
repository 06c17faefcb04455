/*
 * The preload library: what its parts share.
 *
 * Each role's calls are defined in a file of its own (preload_inject.c, preload_passfd.c) under their
 * real names, exported by preload.map; the C library's own are in one table. The library is
 * active only for the roles whose variable is set in the environment when the program starts.
 *
 * Every function here is called by foreign programs, at any time, in any thread, between fork and exec and
 * in signal handlers: after the constructor nothing allocates, locks or prints, and errno is kept.
 */
#ifndef KAISO_WRAP_PRELOAD_H
#define KAISO_WRAP_PRELOAD_H

#include <spawn.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>

struct preload_calls {
	int (*connect)(int fd, const struct sockaddr *address, socklen_t length);
	ssize_t (*sendto)(int fd, const void *bytes, size_t length, int flags, const struct sockaddr *address,
			  socklen_t address_length);
	ssize_t (*sendmsg)(int fd, const struct msghdr *message, int flags);
	int (*sendmmsg)(int fd, struct mmsghdr *messages, unsigned count, int flags);
	int (*listen)(int fd, int backlog);
	int (*accept)(int fd, struct sockaddr *address, socklen_t *room);
	int (*accept4)(int fd, struct sockaddr *address, socklen_t *room, int flags);
	int (*getsockname)(int fd, struct sockaddr *address, socklen_t *room);
	int (*getsockopt)(int fd, int level, int option, void *value, socklen_t *length);
	int (*setsockopt)(int fd, int level, int option, const void *value, socklen_t length);
	int (*execve)(const char *path, char *const words[], char *const variables[]);
	int (*execvpe)(const char *file, char *const words[], char *const variables[]);
	int (*fexecve)(int fd, char *const words[], char *const variables[]);
	int (*execveat)(int directory, const char *path, char *const words[], char *const variables[],
			int flags);
	int (*posix_spawn)(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
			   const posix_spawnattr_t *attributes, char *const words[], char *const variables[]);
	int (*posix_spawnp)(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
			    const posix_spawnattr_t *attributes, char *const words[],
			    char *const variables[]);
};

/* The real calls. Filled before anything of the program runs; a call that comes even earlier (another
 * library's constructor) fills it itself: always get it by this function. */
const struct preload_calls *preload_calls(void);

/* Called once, by the constructor; each reads its variable. */
void preload_inject_init(void);
void preload_passfd_init(void);

/* For the constructor: from now on programs that are started load the library too, and find the variable.
 * With refuses, those that could not load it are not started at all. Each role calls it once. */
void preload_exec_keep(const char *name, const char *value, bool refuses);

/* A definition that takes the place of the C library's call of that name. It has a name of its own in C,
 * because the headers declare some calls with types that only they can have (transparent unions). */
#define PRELOAD_AS(name) __asm__(name) __attribute__((visibility("default")))
#define PRELOAD_EXPORT __attribute__((visibility("default")))

#endif
