/*
 * A client of a router that may wait: dials, asks, and reads the answer, all within one deadline.
 *
 * Questions are put in the words for tools (".kaiso/open", ".kaiso/list") first. A router that knows
 * none of them, as the first kaiso, closes the connection; then a new one is made and the plain forms
 * are used.
 *
 * Not for programs with an event loop: every function here blocks, up to the deadline.
 */
#ifndef KAISO_NET_CLIENT_H
#define KAISO_NET_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/kaiso_address.h"

#define CLIENT_LIST_MAX (256u << 20) /* bytes of a list; what is longer is no list */

/* Positive outcomes. */
enum {
	CLIENT_REFUSED = 1,  /* the router said why: code and text */
	CLIENT_CLOSED,       /* it closed the connection without a word */
	CLIENT_NO_DIRECTORY, /* nothing is listed below that directory */
	CLIENT_NO_MOUNTED,   /* it is a mount, and the router behind it gives no list */
};

struct client {
	const struct kaiso_address *address; /* borrowed */
	uint64_t deadline_ms;                /* of clock_now_ms(); UINT64_MAX for none */
	int fd;                              /* non-blocking; -1 for none */
	bool is_reached;                     /* a connection came about, so an error is not the network's */
	bool is_silent; /* no words for tools there: nothing tells success from failure */
	char code[16];  /* CLIENT_REFUSED: "not-found" and so on */
	char text[128]; /* and the words for people; any bytes, terminated */
};

/* timeout_ms: for everything that is asked with it, 0 for no limit. */
void client_init(struct client *client, const struct kaiso_address *address, uint64_t timeout_ms);

/* Closes the connection; the client may ask again, with a new one. */
void client_hang_up(struct client *client);

/*
 * Asks for a service (terminated, no control bytes). 0: client->fd is connected with it, and nothing of
 * what the service has sent is read yet; or, with is_silent, the line is sent and the rest will show.
 * Else CLIENT_REFUSED, CLIENT_CLOSED, or a negative errno: those of dial.h while is_reached is false;
 * then -ETIMEDOUT, -ECONNRESET, or -EPROTO (what answers is no kaiso). The descriptor belongs to the
 * client until it is taken out of it.
 */
int client_open(struct client *client, const char *service);

/* Bytes inside a list; not terminated. */
struct client_text {
	const char *start;
	size_t length;
};

struct client_list_entry {
	struct client_text path;
	struct client_text kind; /* empty when the router does not tell */
	struct client_text about;
};

struct client_list {
	char *bytes; /* of malloc(3) */
	size_t length;
	size_t capacity;
	bool is_detailed;
	const char *prefix; /* what is shown of a whole list begins with it; the caller's text, or "" */
};

/*
 * Asks for the list of a directory ("d/", borrowed as long as the list lives) or of everything (""),
 * with kinds and abouts where the router knows them if is_detailed. Where the directory lies behind a mount, paths
 * are those of the router there. list need not be initialized; client_list_deinit() is for it, whatever the
 * result: 0, CLIENT_NO_DIRECTORY, CLIENT_NO_MOUNTED, CLIENT_CLOSED, or a negative errno as above,
 * -ECONNABORTED for a list that ends half-way, -EFBIG, or -ENOMEM.
 */
int client_list(struct client *client, const char *directory, bool is_detailed, struct client_list *list);

/* The entry at *position (0 for the first), which is moved on to the next; false when there is none left. */
bool client_list_next(const struct client_list *list, size_t *position, struct client_list_entry *entry);

void client_list_deinit(struct client_list *list);

#endif
