/*
 * Socket addresses: parsing "ADDR:PORT", printing, comparing.
 *
 * IPv4 addresses that come as IPv6 (::ffff:a.b.c.d, RFC 4291 section 2.5.5.2)
 * are turned into plain IPv4 by addr_normalize(), which the functions that
 * fill an address call, so that logs and limits see one form.
 *
 * Nothing here allocates or looks up names.
 */
#ifndef KAISO_NET_ADDR_H
#define KAISO_NET_ADDR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* IPv4, IPv6 or "unix": large enough for the internet families only; a UNIX peer has no
 * address here (family AF_UNIX alone). */
union addr {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

/* The two ends of a connection, seen from one of them. */
struct addr_ends {
	union addr local;
	union addr peer;
};

/* "[xxxx:...%scope]:65535" and "unix" fit. */
#define ADDR_TEXT_SIZE 80

/* What connect(2) and bind(2) want as length; for a UNIX or unknown address that of the family alone. */
socklen_t addr_length(const union addr *addr);

/* Keeps of a socket address what union addr can hold, v4-mapped turned into IPv4.
 * length as the kernel gave it. What is of no known family, or shorter than its family
 * demands, becomes AF_UNSPEC. The IPv6 flow label is not kept. */
void addr_from_sockaddr(union addr *addr, const struct sockaddr *sa, socklen_t length);

/* Turns a v4-mapped IPv6 address into IPv4, port kept; leaves all others as they are. */
void addr_normalize(union addr *addr);

/* A numeric address without a port, IPv4 or IPv6 (brackets not included; "%scope", an interface's
 * name or number, understood on link-local addresses, the only ones that need it). The result is
 * normalized. 0, or -EINVAL when the text is no address. */
int addr_parse_numeric(const char *text, size_t length, uint16_t port, union addr *addr);

/* "192.0.2.1:80", "[2001:db8::1]:80", "[fe80::1%2]:80" (the scope as a number: no system call),
 * "unix", or "unknown" for AF_UNSPEC. Returns text, terminated. */
const char *addr_format(const union addr *addr, char text[static ADDR_TEXT_SIZE]);

/* Same family, address, port (and scope). Two UNIX addresses are therefore always equal: where
 * equality is to mean "the same peer", ask for the family first. */
bool addr_is_equal(const union addr *one, const union addr *other);

/* As an IPv6 address, an IPv4 one in its mapped form. False for all others. */
bool addr_to_in6(const union addr *addr, struct in6_addr *address);

/* Splits "HOST:PORT", "[HOST]:PORT", ":PORT" (host empty): points host into text; what HOST is made of
 * is not looked at, but that it holds no colon outside of brackets, and no bracket.
 * Port range port_minimum..65535. Results are written on success only.
 * 0, -EINVAL (no colon, empty port, an IPv6 address without brackets), -ERANGE (port). */
int addr_split(const char *text, uint16_t port_minimum, const char **host, size_t *host_length,
	       uint16_t *port);

/* Of a connected socket (getsockname(2), getpeername(2)). 0 or a negative errno; -ENOTCONN after a reset. */
int addr_ends_of(int fd, struct addr_ends *ends);

#endif
