/*
 * A queue of clients: the SEQPACKET socket pair that stands where a program's listener was.
 *
 * The program holds one end under its listener's number, the receiver the other. Each message is one
 * client: its address as bytes, its socket as the one descriptor. So whatever waits for the listener (poll,
 * epoll, select, a blocking accept) waits for a client, and every process that inherits the end shares the
 * queue.
 *
 * The program's end carries all that is to be known about the listener that it replaced in its own
 * (abstract) name, so nobody keeps a table of descriptors: dup, fork, exec and SCM_RIGHTS need no care.
 *
 * libc only, no allocation, no lock: this runs in the program under preload, and in the supervisor.
 */
#ifndef KAISO_WRAP_PASSFD_QUEUE_H
#define KAISO_WRAP_PASSFD_QUEUE_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

union queue_address {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_un un;
	struct sockaddr_storage storage;
};

/* What a listener was, as its queue remembers it. */
struct queue_identity {
	uint64_t id;      /* random; names the queue for the receiver */
	bool is_v6only;   /* IPV6_V6ONLY */
	bool is_reusable; /* SO_REUSEPORT */
	socklen_t length;
	union queue_address address; /* getsockname(2) of the listener */
};

/*
 * Reads the identity of a listener, but for its id. 0, or a negative errno: -ENOTSOCK, -EBADF, -EPROTOTYPE
 * for what is no stream socket of the families that are served (IPv4 and IPv6 with TCP, UNIX).
 */
int queue_identity_of_listener(int listener_fd, struct queue_identity *identity);

/* Makes the pair, both ends close-on-exec: *program_end blocking, *receiver_end not. Writes identity->id. */
int queue_open(struct queue_identity *identity, int *program_end, int *receiver_end);

/* Is the descriptor a program's end? identity may be NULL, when that is all there is to know. */
bool queue_recognize(int fd, struct queue_identity *identity);

/* The same from what getsockname(2) said of it, all of the name. */
bool queue_name_is_ours(const struct sockaddr_un *name, socklen_t length);

/*
 * Puts a client into the queue. address: its peer, in the form that the listener's family demands. Does not
 * block, keeps fd. 0; -EAGAIN: full; -ETOOMANYREFS: see fdpass.h; -EPIPE: nobody holds the other end any
 * more.
 */
int queue_send(int receiver_end, int client_fd, const struct sockaddr *address, socklen_t length);

/*
 * Takes a client out: its descriptor. flags of accept4(2). MSG_DONTWAIT in receive_flags, or it waits as
 * the descriptor does. Negative errno: -EAGAIN, -EINTR, -EMFILE (the client stays in the queue),
 * -ECONNABORTED (client lost between two threads at the limit of descriptors), -EPIPE: the receiver is
 * gone, or the end was shut down.
 */
int queue_receive(int program_end, int flags, int receive_flags, union queue_address *address,
		  socklen_t *length);

/* Writes the address as accept(2) and getsockname(2) do: cut to the room, *room the true length. Nothing
 * for NULL. */
void queue_copy_address(const union queue_address *address, socklen_t length, void *to, socklen_t *room);

/* getsockopt(2) on the listener that the queue replaced: true when the answer is in bytes, *length long (at
 * most what it was); false: the queue's own answer is right. */
bool queue_get_option(const struct queue_identity *identity, int level, int option, void *bytes,
		      socklen_t *length);

/* setsockopt(2) on it: true when the option is one of TCP or its like, to succeed without effect. */
bool queue_takes_option(int level, int option);

#endif
