/*
 * The receiver of a wrapped server: takes clients from routers and from the
 * server's own listeners, and puts them into the queues that the server reads.
 *
 *   SOCKET -> connections of routers ("*" and a descriptor each)  \
 *                                                                  > queues -> the program's accept()
 *   the program's own listeners (plain clients)                   /
 *
 * A router's client goes to the queues in turn, those of its own address family first; a plain client to
 * the queues of the listener that it came to. When they are all full, or there is none yet, the
 * source stops being read with that one client in hand, until there is room.
 *
 * Runs on a loop of its owner and never blocks. Knows nothing of the way in which the program's
 * calls are caught: whoever does that offers listeners and takes the program's ends of queues.
 */
#ifndef KAISO_WRAP_PASSFD_RECEIVER_H
#define KAISO_WRAP_PASSFD_RECEIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "net/addr.h"
#include "net/listen.h"
#include "net/loop.h"
#include "wrap/passfd_queue.h"

#define RECEIVER_QUEUES_MAX 256
#define RECEIVER_CONNECTIONS_MAX 1024
/* A program that opens a UNIX listener may go on to open its TCP one, which is then the one that is meant. */
#define RECEIVER_UNIX_GRACE_MS 400
#define RECEIVER_SILENCE_MS 30000

struct receiver_options {
	const char *socket_path; /* "": the program's own UNIX listener is SOCKET */
	/* Which TCP listener is the server's; port 0: the first one. */
	uint16_t port;
	bool has_address; /* only on this address, IPv4 or IPv6; its port is not looked at */
	union addr address;
	bool refuses_plain; /* the program's TCP listener is closed to plain clients */
	uint64_t
		silence_ms; /* how long a connection on SOCKET may stay without a first client; 0: for ever */
};

/* Somebody who waits for a client of one queue, before those who read it: a blocking accept() under
 * seccomp. */
struct receiver_waiter {
	struct list member;
	/* Gives the client, which stays the giver's. 0, or a negative errno: nobody waits there any more,
	 * the client is given to somebody else. client_fd -1: the queue is gone. The waiter is in no list
	 * any more. */
	int (*give)(struct receiver_waiter *waiter, int client_fd, const struct sockaddr *address,
		    socklen_t length);
};

struct passfd_receiver {
	struct loop *loop;
	const struct receiver_options *options;
	struct listen_set sockets; /* SOCKET */
	struct loop_watch socket_watch;
	struct loop_timer retry; /* the kernel's limits, and the grace of UNIX listeners */
	struct loop_task wake;   /* gives what sources hold to queues that have room */
	struct list routers;     /* connections on SOCKET */
	unsigned router_count;
	unsigned router_limit;
	struct list listeners; /* of the program */
	struct list queues;    /* in the order of their turns */
	unsigned queue_count;
	uint16_t port; /* of the TCP listener that was taken; 0: none */
	bool is_shut;
	bool had_queue;
	bool is_program_ended;
	struct list graveyard; /* sources and queues to be freed after the batch */
	struct loop_task bury;
	struct loop_task shut;
};

/* Opens SOCKET. 0, or a negative errno and a line for people in reason (LISTEN_REASON_SIZE). options is
 * borrowed. */
int receiver_open(struct passfd_receiver *receiver, struct loop *loop, const struct receiver_options *options,
		  char *reason, size_t reason_size);

/* Removes SOCKET and closes the program's listeners and queues. May be called again. */
void receiver_shut(struct passfd_receiver *receiver);

/* The program itself has ended. As soon as no descendant of it holds a queue that it had, the receiver
 * shuts. */
void receiver_program_ended(struct passfd_receiver *receiver);

/* The same as receiver_shut(), and frees all; after loop_run() has returned. */
void receiver_close(struct passfd_receiver *receiver);

/*
 * A listener of the program, listening. 1: it is served from now on, listener_fd is consumed, and
 * *program_end (the caller's) shall take its place in the program, blocking or not as it was. 0: it is not
 * the one that is meant, leave it as it is. Or a negative errno.
 */
int receiver_offer_take(struct passfd_receiver *receiver, int listener_fd, int *program_end);

/* Lets somebody wait for a client of the queue. 0, or -ENOENT: no such queue. */
int receiver_wait(struct passfd_receiver *receiver, uint64_t queue_id, struct receiver_waiter *waiter);
void receiver_wait_cancel(struct receiver_waiter *waiter);

/* Puts a client back that was taken out of a queue for nothing; at its end. -ENOENT, or as queue_send(). */
int receiver_requeue(struct passfd_receiver *receiver, uint64_t queue_id, int client_fd,
		     const struct sockaddr *address, socklen_t length);

#endif
