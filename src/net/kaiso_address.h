/*
 * KAISO: where a router is, in the words of a command line, of $KAISO, or of a URL.
 *
 *   HOST:PORT, [ADDR]:PORT   a name or an IPv4 address; an IPv6 address in brackets
 *   HOST, [ADDR]             the same with the default port
 *   :PORT                    this host, by its loopback addresses
 *   unix:PATH                a UNIX socket, PATH of any length
 *   kaiso://HOST[:PORT][/SERVICE]
 *                            may name a service (or a directory, "SERVICE/") too, in which %XX is a byte;
 *                            '?' and '#' are written %3F and %23, since a URL gives them another meaning
 *
 * Pure text: no name is looked up.
 */
#ifndef KAISO_NET_KAISO_ADDRESS_H
#define KAISO_NET_KAISO_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

#define KAISO_DEFAULT_PORT 37812
#define KAISO_DEFAULT_HOST "127.0.0.1"
#define KAISO_VARIABLE "KAISO"

#define KAISO_HOST_SIZE 256     /* a DNS name has 253 bytes at most */
#define KAISO_SERVICE_SIZE 4096 /* a request line less its LF, and a NUL */
#define KAISO_ADDRESS_TEXT_SIZE 320
#define KAISO_ADDRESS_REASON_SIZE 320

/* All texts are terminated. */
struct kaiso_address {
	const char *unix_path; /* in the word that was parsed, which must live as long; NULL: TCP */
	uint16_t port;
	char host[KAISO_HOST_SIZE];       /* IPv6 without its brackets; "" for this host */
	char service[KAISO_SERVICE_SIZE]; /* from a URL, decoded, no control bytes; "" when it names none */
};

/* Does the word begin with "kaiso://" (in whatever case, RFC 3986 section 3.1)? */
bool kaiso_address_is_url(const char *word);

/* 0; -EINVAL (no such address) or -ERANGE (the port), with one line for people in reason, free of
 * control bytes, and *address is not to be used. */
int kaiso_address_parse(const char *word, struct kaiso_address *address,
			char reason[static KAISO_ADDRESS_REASON_SIZE]);

/* The same for $KAISO; where that is empty or not set, the default router. */
int kaiso_address_default(struct kaiso_address *address, char reason[static KAISO_ADDRESS_REASON_SIZE]);

/* "host:80", "[::1]:80", ":80", "unix:PATH": for messages, and without the service. Control bytes
 * become '?', and a path that is too long for the text is cut and marked with "...". Returns text. */
const char *kaiso_address_format(const struct kaiso_address *address,
				 char text[static KAISO_ADDRESS_TEXT_SIZE]);

#endif
