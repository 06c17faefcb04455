/*
 * The header of the PROXY protocol: what a proxy sends ahead of a connection, so that who is behind it learns whose
 * connection it is.
 *
 * The specification is HAProxy's doc/proxy-protocol.txt, versions 1 (a line of text) and 2 (binary), in its
 * edition of 2026/04/27; what matters here is the same in that of 2020/03/05. Numbers in parentheses are its sections.
 *
 * A receiver must know from its configuration that a header comes, and never guess (2): who reads one from strangers
 * believes whatever they say (5).
 *
 * Pure text, no allocation: the results point into the caller's bytes.
 */
#ifndef KAISO_PROTO_PROXY_HEADER_H
#define KAISO_PROTO_PROXY_HEADER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* Bytes of the longest header that is read or written. The specification has room for 16 + 65535 in version 2 (2.2),
 * and means all of a header to fit into one TCP segment (2). */
#define PROXY_HEADER_MAX 4096

/* Whose connection it is. */
enum proxy_header_kind {
	/* The sender's own, such as a health check: its real ends count (2.2, LOCAL). Whatever else such a header
	 * holds, family and TLVs too, is skipped: a receiver must discard it. */
	PROXY_HEADER_LOCAL,
	/* Another's, of whom the header tells nothing that is of use here: the real ends count. In version 1 UNKNOWN,
	 * whatever stands behind it (2.1); in version 2 UNSPEC, UDP and UNIX sockets (2.2: of the seven pairs listed
	 * there, those that a receiver does not implement are UNSPEC to it, and that it may accept). */
	PROXY_HEADER_UNKNOWN,
	/* TCP from source to destination. */
	PROXY_HEADER_TCP,
};

struct proxy_header {
	enum proxy_header_kind kind;
	unsigned version; /* 1 or 2 */
	/* TCP: both AF_INET or both AF_INET6 (v4-mapped addresses stay as they came); others: zeroed, AF_UNSPEC. */
	struct sockaddr_storage source;
	struct sockaddr_storage destination;
	/* Version 2: the TLVs (2.2), one behind the other and whole, into the caller's bytes; NULL and 0 for none.
	 * What is in them was not looked at, but for the checksum. */
	const uint8_t *tlvs;
	size_t tlv_length;
	const char *reason; /* why it was refused; static, NULL when it was not */
};

/*
 * Looks at the first length bytes that a sender has sent; bytes may be NULL when there are none. *header is always
 * filled in: zeroes but for the reason when the result is not above 0.
 *
 *   > 0       the length of the whole header: the bytes to consume
 *   0         it is not whole yet: read more. At most PROXY_HEADER_MAX bytes are needed to know.
 *   -EINVAL   it is no header, or a malformed one: end the connection (2.1, 2.2)
 *   -EMSGSIZE a header of version 2 that says that it is longer than PROXY_HEADER_MAX
 *
 * A result other than 0 stays the same whatever follows. Errors are told as soon as a byte shows them; but an address
 * of version 1 that has the right characters in a wrong order when it has ended, and a wrong checksum when the
 * header is whole.
 *
 * Version 1 (2.1): one space between words; ports without a sign and leading zeroes; addresses as inet_pton(3) takes
 * them, in the family that the line names (::ffff:192.0.2.1 too, which the specification does not know and
 * inet_ntop(3) writes); CR and LF only together, and only at the end; at most 107 bytes.
 *
 * Version 2 (2.2): the commands LOCAL and PROXY. With PROXY, one of the seven pairs of family and protocol that the
 * specification lists, and bytes enough for their addresses; what follows must be whole TLVs; a checksum among them
 * (2.2.3: CRC32c of the whole header with zeroes in its place, in network byte order as HAProxy has it) must be
 * the only one, and right.
 */
int proxy_header_parse(const void *bytes, size_t length, struct proxy_header *header);

/*
 * Writes the header for a client's connection from source to destination; version is 1 or 2. An end of AF_INET or
 * AF_INET6 is a whole socket address of its family; of any other the family alone is read. tlvs are for version 2,
 * and may be those of a header that was received; out must not overlap with them. Returns the length, -EMSGSIZE when
 * that would be more than out_size or PROXY_HEADER_MAX, or -EINVAL when tlvs are no whole TLVs.
 *
 * Both ends are of one family (2.1, 2.2): IPv4 when both are, be it v4-mapped; otherwise IPv6, an IPv4 one v4-mapped.
 * Version 1 has no dots in an IPv6 address (2.1).
 *
 * When an end is of another family, version 1 says UNKNOWN, which is what it has for that (2.1), and version 2 says
 * LOCAL, the only header without addresses that every receiver must accept. PROXY with UNSPEC it may refuse (2.2), and
 * HAProxy does, which itself sends LOCAL then. LOCAL goes without TLVs, its length zero (2.2).
 *
 * Of the TLVs, a checksum is not passed on, which would be wrong, nor NOOP (2.2.4), which says nothing.
 */
int proxy_header_write(unsigned version, const struct sockaddr *source, const struct sockaddr *destination,
		       const uint8_t *tlvs, size_t tlv_length, void *out, size_t out_size);

#endif
