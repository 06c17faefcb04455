/*
 * One message of bytes with at most one descriptor (SCM_RIGHTS, unix(7)), and the program's side of
 * the control socket that is made of them. libc only, no allocation, no lock.
 */
#ifndef KAISO_WRAP_PASSFD_MESSAGE_H
#define KAISO_WRAP_PASSFD_MESSAGE_H

#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

/* Sends the bytes, with fd unless it is -1; fd is kept. Never blocks. 0 or a negative errno. */
int message_send(int socket_fd, const void *bytes, size_t length, int fd);

/* The length of the message, 0 at the end, or a negative errno; *fd is -1 when there was not just one: several
 * are closed. */
ssize_t message_receive(int socket_fd, void *bytes, size_t size, int flags, int *fd);

/* The address that a word of CONTROL_VARIABLE names. Returns its length. */
socklen_t control_name(const char *word, struct sockaddr_un *name);

#endif
