/*
 * Descriptors: opening by path, and what every program does with them at start.
 */
#ifndef KAISO_BASE_FD_H
#define KAISO_BASE_FD_H

#include <stdint.h>

/*
 * Opens path, relative to the working directory, with flags (O_CLOEXEC is added; no O_CREAT).
 * Unlike open(2) it takes a path of any length: one that exceeds PATH_MAX is walked in pieces. Follows links.
 * A descriptor that the caller owns, or a negative errno.
 */
int fd_open_path(const char *path, int flags);

/* Puts /dev/null on each of the descriptors 0, 1 and 2 that is closed, so that no socket ever
 * becomes a standard stream. For the first lines of main(). */
void fd_fill_standard_streams(void);

/* Raises the soft limit of descriptors to the hard one (RLIMIT_NOFILE, getrlimit(2)) and
 * returns the limit in force. */
uint64_t fd_raise_limit(void);

/* Adds one to an eventfd(2) that does not block. What passes is tried again, for some tenths of a second at most:
 * whoever waits would never hear of it otherwise. 0, or a negative errno. */
int fd_raise_event(int event_fd);

#endif
