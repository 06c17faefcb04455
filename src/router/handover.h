/*
 * The receiver of a service's clients: a program that listens on a UNIX socket
 * and takes the clients' own sockets (the protocol, "Handing over").
 *
 * A receiver that greets with '+' takes any number of clients on one
 * connection; that connection is kept. One that sends nothing gets a connection of its own
 * for each client. Belongs to one thread's loop.
 */
#ifndef KAISO_ROUTER_HANDOVER_H
#define KAISO_ROUTER_HANDOVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "net/loop.h"

/* How long a connection stays open after its client was sent, for a greeting to come. */
#define RECEIVER_GREETING_MS 100
/* How long a receiver that did not greet is taken for one that never does. */
#define RECEIVER_ASK_AGAIN_MS 2000

enum receiver_state {
	RECEIVER_UNKNOWN, /* no connection is kept */
	RECEIVER_ASKED,   /* one is, its greeting may still come: not used for further clients */
	RECEIVER_LASTING, /* one is, and it takes further clients */
};

struct receiver {
	struct loop *loop;
	enum receiver_state state;
	struct loop_watch watch; /* watch.fd: the connection kept, owned; -1 for none */
	struct loop_timer timer; /* ASKED: when to stop waiting for the greeting */
	uint64_t ask_again_ms;
	dev_t device; /* the socket file that the connection kept was made to */
	ino_t inode;
};

/* Storage must outlive the batch of events in which receiver_deinit() is called (loop_defer()). */
void receiver_init(struct receiver *receiver, struct loop *loop);
void receiver_deinit(struct receiver *receiver);

/* Lets go of a connection that was made to another socket file than the one that lies there now (NULL:
 * none). */
void receiver_check(struct receiver *receiver, const struct stat *socket_file);

static inline bool receiver_is_lasting(const struct receiver *receiver)
{
	return receiver->state == RECEIVER_LASTING;
}

/* Lets go of a lasting connection whose queue stays full: what is in it stays the receiver's, and the next
 * client finds out by a connection of its own whether anybody else accepts there. */
void receiver_give_up(struct receiver *receiver);

/* Would receiver_send() say -EAGAIN? For those who have to say something to the client first. */
bool receiver_is_full(const struct receiver *receiver);

/*
 * Sends a client over the lasting connection. client_fd is kept, and must not be watched any more. 0;
 * -EAGAIN: its queue is full, try again soon; -EPIPE: it is gone, and this receiver is RECEIVER_UNKNOWN
 * now: connect anew; another negative errno.
 */
int receiver_send(struct receiver *receiver, int client_fd);

/*
 * Sends a client over a connection just made. On success the connection is consumed: kept when the receiver
 * may turn out to be a lasting one, else closed. Otherwise a negative errno as above, the connection still
 * the caller's. socket_file: what lay at the path right before it was connected; NULL when that is not
 * known: then it is not kept.
 */
int receiver_send_first_take(struct receiver *receiver, int connection_fd, int client_fd,
			     const struct stat *socket_file);

#endif
