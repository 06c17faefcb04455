/*
 * The other end of a router's control socket (router/control.h), for commands: blocks, within a deadline.
 */
#ifndef KAISO_CMD_CONTROL_CLIENT_H
#define KAISO_CMD_CONTROL_CLIENT_H

#include <jansson.h>
#include <stddef.h>

#define CONTROL_REASON_SIZE 768
#define CONTROL_TIMEOUT_MS 10000
#define CONTROL_PLACES_HELP                                                                         \
	"  --control PATH  the router's control socket (default: $KAISO_CONTROL, else control in\n" \
	"                  $XDG_RUNTIME_DIR/kaiso or /run/kaiso)\n"

struct control_client {
	int fd; /* -1: closed */
	char *buffer;
	size_t length;
	size_t capacity;
};

/*
 * Connects with the socket at path; NULL: $KAISO_CONTROL, else the first of $XDG_RUNTIME_DIR/kaiso/control and
 * /run/kaiso/control where a router answers. 0, or a negative errno with a line for people in reason.
 */
int control_client_open(struct control_client *client, const char *path, char *reason, size_t reason_size);

/* Asks a line, without its end. The answer, a new reference (json_decref()); or NULL with errno: ECONNRESET when the
 * router ended the connection, ETIMEDOUT, EPROTO for what is no answer, ENOMEM. Then the client is of no more use. */
json_t *control_client_ask(struct control_client *client, const char *line);

/* Its two halves, for who has something else to do meanwhile: fd is readable when the answer comes, or the end. The
 * second takes what has come and waits for nothing: EAGAIN when the answer is not whole yet. */
int control_client_send(struct control_client *client, const char *line); /* 0 or a negative errno */
json_t *control_client_receive(struct control_client *client);

/* May be closed again. */
void control_client_close(struct control_client *client);

#endif
