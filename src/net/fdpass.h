/*
 * Handing an open socket to another program (SCM_RIGHTS, unix(7)).
 */
#ifndef KAISO_NET_FDPASS_H
#define KAISO_NET_FDPASS_H

/*
 * Sends one byte with one descriptor over a connected UNIX stream socket. Does not block, keeps fd. 0, or a
 * negative errno: -EAGAIN (buffer full) and -ETOOMANYREFS (too many descriptors of this user in flight) may
 * pass; -EPIPE, -ECONNRESET: the receiver is gone.
 *
 * The open file is shared from then on: fd must have been taken out of any epoll before, closing it is not
 * enough.
 */
int fdpass_send(int connection_fd, char byte, int fd);

#endif
