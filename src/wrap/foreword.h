/*
 * Giving a fresh TCP socket a line that goes before everything its program will send, without waiting.
 *
 * Used by the supervisor on duplicates of the program's sockets, and by the preload library within the
 * program: plain system calls, no state, safe in signal handlers, errno kept.
 */
#ifndef KAISO_WRAP_FOREWORD_H
#define KAISO_WRAP_FOREWORD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

/* Is it a TCP or MPTCP socket? */
bool foreword_is_tcp(int fd);

/* Has no connection been begun on it, or has the last one ended? A second connect(2) on a socket sends
 * nothing. */
bool foreword_is_due(int fd);

bool foreword_is_nonblocking(int fd);

/*
 * Begins the connection with the line in its send queue; does not block, whatever the socket's mode. What
 * connect(2) then says of it is right, but that it is no longer the first to be asked: -EALREADY where the
 * first one says -EINPROGRESS.
 *   line_length    all of it is queued
 *   0 … less       begun, and so much is queued (a line that is longer than a segment): the rest must
 *                  follow, as soon as the connection stands and before the program writes
 *   -EOPNOTSUPP    the system forbids Fast Open (sysctl net.ipv4.tcp_fastopen without bit 1), or does not
 *                  know it: nothing has happened; connect first, then send the line
 *   other          what connect(2) would have said
 */
int foreword_begin(int fd, const struct sockaddr *address, socklen_t length, const char *line,
		   size_t line_length);

/* connect(2) that does not wait, whatever the socket's mode: 0 or -EINPROGRESS when begun, or another
 * negative errno. */
int foreword_connect(int fd, const struct sockaddr *address, socklen_t length);

/* Sends what it can of the rest; does not block. How much (perhaps 0), or a negative errno: the connection
 * is gone. */
int foreword_send(int fd, const char *rest, size_t length);

/* Blocks until the connection stands and all of the rest is sent, or there is none: connect(2) then tells.
 * Goes on after signals. */
void foreword_finish(int fd, const char *rest, size_t length);

/* Takes the socket back to before connect(2). What has been sent of the line is lost with the connection. */
void foreword_undo(int fd);

/* SO_SNDTIMEO in milliseconds (socket(7)), which bounds connect(2) on Linux; -1 when there is none. */
int foreword_timeout_ms(int fd);

#endif
