/*
 * Connections to services: UNIX sockets, and TCP by address or name.
 *
 * Sockets are non-blocking and close-on-exec; TCP ones have TCP_NODELAY and keepalive.
 */
#ifndef KAISO_NET_DIAL_H
#define KAISO_NET_DIAL_H

#include <stddef.h>
#include <stdint.h>

#include "net/addr.h"
#include "net/loop.h"
#include "net/resolve.h"

/*
 * Connects to the UNIX stream socket at path (terminated, any length, relative to the working directory).
 * Done at once, never blocks: a connected descriptor, or a negative errno:
 *   -ENOENT, -ENOTDIR, -ELOOP  nothing there
 *   -ECONNREFUSED              nobody listens, or what lies there is no socket
 *   -EAGAIN                    its backlog is full (unix(7)), or it refuses but was made a moment ago, and may be about
 *                              to listen: try again later
 *   -EACCES                    no permission
 *   -EPROTOTYPE                a socket, but not a stream one
 *   -EMFILE, -ENFILE, -ENOMEM  out of resources
 */
int dial_unix(const char *path);

/* The same through a descriptor (O_PATH) of the socket file: what was looked at is what is connected. */
int dial_unix_at(int socket_file_fd);

/*
 * A connection that takes time. Storage is the caller's; it must stay where it is until on_done was called
 * or dial_cancel() was. on_done gets a descriptor, which is the callee's from then on, or a negative errno:
 * -ETIMEDOUT when the deadline passed or an address did not answer in its share of the time, else that of
 * the last address, or of the name's lookup.
 */
struct dial {
	struct loop *loop;
	struct loop_watch watch;
	struct loop_timer timer;
	void (*on_done)(struct dial *dial, int result);
	void *context;              /* the caller's */
	struct loop_task free_task; /* the caller's: a dial may still be named by an event when it is over */
	uint64_t begun_ms;
	uint64_t deadline_ms; /* UINT64_MAX for none */
	uint64_t
		keepalive_ms; /* of TCP: listen_set_keepalive(); dial_init() has a default, the caller may change it */
	struct resolve_query *query;
	const char *unix_path;
	unsigned retry_ms;
	int last_error;
	size_t address_count;
	size_t address_next;
	union addr addresses[RESOLVE_ADDRESSES_MAX];
};

void dial_init(struct dial *dial, struct loop *loop, uint64_t deadline_ms,
	       void (*on_done)(struct dial *, int));

/* Addresses in turn, each with its share of the time left. on_done is called later, never from within. 0,
 * or -EINVAL for no address. count is at most RESOLVE_ADDRESSES_MAX. */
int dial_start_addresses(struct dial *dial, const union addr *addresses, size_t count);

/* A host name (terminated). 0, or -ENOMEM, also for no resolver. */
int dial_start_host(struct dial *dial, struct resolver *resolver, const char *host, uint16_t port);

/* Tries dial_unix(path) again and again while it says -EAGAIN. path is borrowed until the end. 0 or
 * -ENOMEM. */
int dial_start_unix_retry(struct dial *dial, const char *path);

/* Gives up; on_done is not called. Harmless on one that is done. */
void dial_cancel(struct dial *dial);

#endif
