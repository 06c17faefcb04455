/*
 * Which connections are meant for a kaiso, and the line that goes first on them.
 */
#ifndef KAISO_WRAP_ROUTES_H
#define KAISO_WRAP_ROUTES_H

#include <stddef.h>

#include "net/addr.h"

#define ROUTES_DEFAULT_PORT 37812
/* A service's line with its CRLF (the protocol, "On the wire"). */
#define ROUTES_LINE_MAX 4096
#define ROUTES_REASON_SIZE 256

struct route {
	union addr *addresses; /* normalized */
	size_t address_count;
	char *line; /* not terminated */
	size_t line_length;
};

/* Zeroed storage is an empty table. Earlier routes win. */
struct routes {
	struct route *routes;
	size_t count;
};

/*
 * Adds every address of kaiso: "HOST:PORT" (looked up: may block), ":PORT" for the loopback addresses, or,
 * with service NULL, "kaiso://HOST[:PORT]/SERVICE" with %XX in SERVICE. 0, or -EINVAL (the words are
 * wrong), -ENOENT (no such host), -EAGAIN (the name cannot be looked up now), -ENOMEM, with a line for
 * people in reason.
 */
int routes_add(struct routes *routes, const char *kaiso, const char *service,
	       char reason[static ROUTES_REASON_SIZE]);

/* Moves all routes of earlier before those of routes, and leaves it empty. 0 or -ENOMEM. */
int routes_prepend(struct routes *routes, struct routes *earlier);

void routes_free(struct routes *routes);

/* Pure, safe in signal handlers: the route of an address as a program gives it to connect(2), or NULL. The
 * unspecified address leads to this host, as the kernel has it. */
const struct route *routes_find(const struct routes *routes, const struct sockaddr *address,
				socklen_t length);

/* A text for the environment, "ADDR:PORT[,ADDR:PORT…] SERVICE" a line; for the caller to free, NULL when
 * out of memory. */
char *routes_format(const struct routes *routes);

/* Adds the routes of such a text. 0, -EINVAL, -ENOMEM. */
int routes_parse(struct routes *routes, const char *text);

#endif
