/*
 * Which connections are meant for a kaiso, and the line that goes first on them.
 */
#ifndef KAISO_WRAP_ROUTES_H
#define KAISO_WRAP_ROUTES_H

#include <stddef.h>

#include "net/addr.h"

/* A service's line with its CRLF (the protocol, "On the wire"). */
#define ROUTES_LINE_MAX 4096
#define ROUTES_REASON_SIZE 320

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
 * Adds every address of kaiso (net/kaiso_address.h; looked up: may block; a UNIX socket is none that a
 * program connects to by address). With service NULL, kaiso is a URL that names one. 0, or -EINVAL (the
 * words are wrong), -ENOENT (no such host), -EAGAIN (the name cannot be looked up now), -ENOMEM, with a
 * line for people in reason. In routes_words.c, which the preload library does without.
 */
int routes_add(struct routes *routes, const char *kaiso, const char *service,
	       char reason[static ROUTES_REASON_SIZE]);

/* Adds one route: these addresses (normalized) lead to service. 0, -EINVAL (control bytes, or longer than a
 * line), -ENOMEM. */
int routes_add_addresses(struct routes *routes, const union addr *addresses, size_t count,
			 const char *service);

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
