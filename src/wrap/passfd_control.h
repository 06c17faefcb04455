/*
 * How a program under preload talks to the receiver: one request, one reply, over an abstract UNIX
 * SEQPACKET socket whose name stands in the environment, with a secret beside it (names are public in
 * /proc/net/unix). A name reaches through chroot(2) and does not depend on inherited descriptors.
 *
 * Request: the secret, with the listener's descriptor. Reply: a result as of receiver_offer_take(), and
 * with 1 the program's end of the queue.
 */
#ifndef KAISO_WRAP_PASSFD_CONTROL_H
#define KAISO_WRAP_PASSFD_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "net/loop.h"
#include "wrap/passfd_receiver.h"

#define CONTROL_VARIABLE "KAISO_PASSFD"
#define CONTROL_NAME_LENGTH 29 /* "kaiso-passfd-" and 16 digits */
#define CONTROL_SECRET_LENGTH 32
/* "NAME:SECRET" */
#define CONTROL_WORD_SIZE (CONTROL_NAME_LENGTH + 1 + CONTROL_SECRET_LENGTH + 1)

/* ---- the receiver's side */

struct passfd_control {
	struct passfd_receiver *receiver;
	struct loop_watch watch;
	struct list connections;
	unsigned connection_count;
	char word[CONTROL_WORD_SIZE]; /* what the variable is to be */
};

/* 0 or a negative errno. */
int control_open(struct passfd_control *control, struct passfd_receiver *receiver);
void control_close(struct passfd_control *control);

/* ---- the program's side: libc only, no allocation */

struct control_reply {
	int32_t result;
};

/* Offers a listener, which stays the caller's. Waits for the reply. 1 and *program_end (close-on-exec), 0:
 * leave it, -ECONNREFUSED: the receiver is gone; another negative errno. */
int control_offer(const char *word, int listener_fd, int *program_end);

/* Is somebody there? */
bool control_is_alive(const char *word);

#endif
