/*
 * A connection to a router, made and given its line without ever blocking.
 */
#ifndef KAISO_LIB_CONNECTION_H
#define KAISO_LIB_CONNECTION_H

#include <stddef.h>
#include <stdint.h>

#include "lib/addresses.h"

#define KAISO_LINE_MAX 4096 /* with its terminator */

struct kaiso_connection {
	struct kaiso_addresses address;
	size_t next;  /* which of them is tried when this one fails */
	int fd;       /* owned; -1 for none */
	short events; /* what to wait for on fd (poll(2)) */
	size_t length, sent;
	char line[KAISO_LINE_MAX + 1];
};

/* Looks up the router as kaiso_addresses_lookup() does. 0 or a negative errno; there is nothing to be freed
 * yet. */
int kaiso_connection_init(struct kaiso_connection *connection, const char *router, char *service,
			  size_t service_size);

/* The words, CRLF behind them, are what is to be sent; begins anew with the first address, or when one has
 * been reached, with that one. 0 or -ENAMETOOLONG. */
int kaiso_connection_restart(struct kaiso_connection *connection, const char *verb, const char *path);

/* 0: the line is sent. -EAGAIN: wait for events on fd. Another negative errno: no address can be reached. */
int kaiso_connection_step(struct kaiso_connection *connection);

/* Waits for what kaiso_connection_step(), or the reader after it, asked for. 0, or -ETIMEDOUT. Signals do not
 * end it. */
int kaiso_connection_wait(const struct kaiso_connection *connection, int64_t deadline_ms);

/* Closes it. May be called more than once. */
void kaiso_connection_close(struct kaiso_connection *connection);

/* The socket, which is the caller's from then on. */
int kaiso_connection_steal(struct kaiso_connection *connection);

/* By CLOCK_MONOTONIC; the deadline of a negative timeout is INT64_MAX. */
int64_t kaiso_now_ms(void);
int64_t kaiso_deadline_ms(int timeout_ms);

#endif
