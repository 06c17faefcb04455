/*
 * Standard input and output joined to a connection, for programs that do nothing else.
 */
#ifndef KAISO_CMD_STDIO_RELAY_H
#define KAISO_CMD_STDIO_RELAY_H

#include <stdint.h>

enum stdio_relay_end {
	STDIO_RELAY_DONE,   /* both directions ended; or the other side did, and the input is a terminal */
	STDIO_RELAY_RESET,  /* the other side ended the connection by a reset */
	STDIO_RELAY_UNSENT, /* the other side ended before it took all the input */
	STDIO_RELAY_INPUT_ERROR,  /* standard input cannot be read: error */
	STDIO_RELAY_OUTPUT_ERROR, /* standard output cannot be written: error, EPIPE among them */
};

/* What has been moved so far, for whoever watches from another thread. */
struct stdio_relay_counts {
	_Atomic uint64_t sent; /* bytes */
	_Atomic uint64_t received;
};

struct stdio_relay_result {
	enum stdio_relay_end end;
	int error;         /* an errno */
	uint64_t received; /* bytes from the other side */
};

/*
 * Copies standard input to the socket and the socket to standard output; the end of either is passed on
 * while the other direction goes on. Blocks until the end; the socket is put into blocking mode.
 * Descriptors 0 and 1 may be anything, in either mode; 1 is closed (and /dev/null put there) when the
 * other side ends. A thread with a descriptor of its own may be left that waits for input, and counts what it
 * sends then: leave the program soon, and call this once only.
 */
struct stdio_relay_result stdio_relay(int socket_fd, struct stdio_relay_counts *counts);

#endif
