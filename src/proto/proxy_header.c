/*
 * The header of the PROXY protocol: reading and writing both versions.
 *
 * Theory of operation: as with request lines the caller peeks, and asks again with more bytes as long as the answer
 * is 0; nothing is kept between calls. So that the answer is the same however the bytes arrive, each version is
 * read from left to right, as far as there is something to read, and the first thing that is wrong decides.
 *
 * A line of version 1 is words between single spaces. A word is whole when a space or the line's end stands behind
 * it; one that is not whole yet is refused when nothing could complete it.
 */
#include "proto/proxy_header.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"

/* Section 2.1. */
#define LINE_BYTES_MAX 107

/* Section 2.2: signature, version and command, family and protocol, length of the rest. */
#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define SIGNATURE_SIZE (sizeof(SIGNATURE) - 1)
#define FIXED_SIZE (SIGNATURE_SIZE + 4)

#define COMMAND_LOCAL 0x20
#define COMMAND_PROXY 0x21

#define FAMILY_UNSPEC 0x00
#define FAMILY_TCP4 0x11
#define FAMILY_UDP4 0x12
#define FAMILY_TCP6 0x21
#define FAMILY_UDP6 0x22
#define FAMILY_UNIX_STREAM 0x31
#define FAMILY_UNIX_DATAGRAM 0x32

#define IPV4_ENDS_SIZE (2 * 4 + 2 * 2)
#define IPV6_ENDS_SIZE (2 * 16 + 2 * 2)
#define UNIX_ENDS_SIZE (2 * 108)

#define TLV_HEAD_SIZE 3
#define TLV_CRC32C 0x03
#define TLV_NOOP 0x04
#define CRC32C_SIZE 4

/* All in network byte order; an IPv4 address is the first four bytes. */
struct end {
	uint8_t address[16];
	in_port_t port;
};

struct word {
	const char *start;
	size_t length;
	bool is_whole;
};

/* The words of a line, in their order. */
enum word_place {
	WORD_PROXY,
	WORD_PROTOCOL,
	WORD_SOURCE,
	WORD_DESTINATION,
	WORD_SOURCE_PORT,
	WORD_DESTINATION_PORT,
};

struct line {
	enum proxy_header_kind kind;
	int family;
	struct end ends[2];
};

static int refuse(struct proxy_header *header, int error, const char *reason)
{
	header->reason = reason;
	return error;
}

static void set_end(struct sockaddr_storage *storage, int family, const struct end *end)
{
	if (family == AF_INET) {
		struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = end->port };

		memcpy(&in.sin_addr, end->address, sizeof(in.sin_addr));
		memcpy(storage, &in, sizeof(in));
	} else {
		struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = end->port };

		memcpy(&in6.sin6_addr, end->address, sizeof(in6.sin6_addr));
		memcpy(storage, &in6, sizeof(in6));
	}
}

static void set_tcp(struct proxy_header *header, int family, const struct end ends[2])
{
	header->kind = PROXY_HEADER_TCP;
	set_end(&header->source, family, &ends[0]);
	set_end(&header->destination, family, &ends[1]);
}

/* The word is the literal, or can still become it. */
static bool word_fits(struct word word, const char *literal)
{
	size_t length = strlen(literal);

	if (word.is_whole ? word.length != length : word.length > length)
		return false;
	return memcmp(word.start, literal, word.length) == 0;
}

/* A word that is not whole may fit several of these; a whole one fits one. */
static const char *read_protocol(struct word word, struct line *line)
{
	line->kind = word_fits(word, "UNKNOWN") ? PROXY_HEADER_UNKNOWN : PROXY_HEADER_TCP;
	line->family = word_fits(word, "TCP4") ? AF_INET : AF_INET6;
	if (line->kind == PROXY_HEADER_TCP && line->family == AF_INET6 && !word_fits(word, "TCP6"))
		return "a protocol other than TCP4, TCP6 and UNKNOWN";
	return NULL;
}

static const char *read_address(struct word word, int family, struct end *end)
{
	const char *alphabet = family == AF_INET ? "0123456789." : "0123456789abcdefABCDEF:.";
	char text[INET6_ADDRSTRLEN] = "";
	bool is_right = word.length < sizeof(text);

	if (is_right) {
		memcpy(text, word.start, word.length);
		is_right = strspn(text, alphabet) == word.length;
	}
	if (is_right && word.is_whole)
		is_right = inet_pton(family, text, end->address) == 1;
	return is_right ? NULL : "an address that is none of its family";
}

static const char *read_port(struct word word, struct end *end)
{
	static const char *const wrong = "a port that is no number from 0 to 65535 without leading zeroes";
	unsigned port = 0;

	for (size_t i = 0; i < word.length; i++) {
		char digit = word.start[i];

		if (digit < '0' || digit > '9' || (i > 0 && port == 0))
			return wrong;
		port = port * 10 + (unsigned)(digit - '0');
		if (port > UINT16_MAX)
			return wrong;
	}
	end->port = htons((uint16_t)port);
	return word.is_whole && word.length == 0 ? wrong : NULL;
}

/* What is wrong with a word; NULL for nothing. */
static const char *read_word(enum word_place place, struct word word, struct line *line)
{
	switch (place) {
	case WORD_PROXY:
		return word_fits(word, "PROXY") ? NULL : "it begins like no version of the protocol";
	case WORD_PROTOCOL:
		return read_protocol(word, line);
	case WORD_SOURCE:
	case WORD_DESTINATION:
		return read_address(word, line->family, &line->ends[place - WORD_SOURCE]);
	case WORD_SOURCE_PORT:
	case WORD_DESTINATION_PORT:
		return read_port(word, &line->ends[place - WORD_SOURCE_PORT]);
	}
	return NULL;
}

/* Reads a line without its end, or as much of it as is there. */
static const char *read_line(const char *text, size_t length, bool is_ended, struct line *line)
{
	for (enum word_place place = WORD_PROXY;; place++) {
		const char *space = length > 0 ? memchr(text, ' ', length) : NULL;
		struct word word = { text, space ? (size_t)(space - text) : length, space || is_ended };
		const char *wrong = read_word(place, word, line);

		if (wrong || !word.is_whole)
			return wrong;
		if (place == WORD_PROTOCOL && line->kind == PROXY_HEADER_UNKNOWN)
			return NULL; /* the rest of it does not count */
		if (place == WORD_DESTINATION_PORT)
			return space ? "more words than a header has" : NULL;
		if (!space)
			return "fewer words than a header has";
		text += word.length + 1;
		length -= word.length + 1;
	}
}

static int parse_v1(const char *bytes, size_t length, struct proxy_header *header)
{
	size_t visible = MIN(length, LINE_BYTES_MAX - 1); /* in a line of that length the last one is LF */
	size_t end = 0;
	struct line line = { .kind = PROXY_HEADER_UNKNOWN };
	const char *wrong;

	while (end < visible && bytes[end] != '\r' && bytes[end] != '\n')
		end++;
	wrong = read_line(bytes, end, end < visible, &line);
	if (wrong)
		return refuse(header, -EINVAL, wrong);
	if (end == LINE_BYTES_MAX - 1)
		return refuse(header, -EINVAL, "a line of more than 107 bytes");
	if (end < visible && bytes[end] == '\n')
		return refuse(header, -EINVAL, "LF without CR");
	if (end + 1 < length && bytes[end + 1] != '\n')
		return refuse(header, -EINVAL, "CR without LF");
	if (end + 1 >= length)
		return 0;
	header->version = 1;
	header->kind = line.kind;
	if (line.kind == PROXY_HEADER_TCP)
		set_tcp(header, line.family, line.ends);
	return (int)end + 2;
}

static size_t read_u16(const uint8_t *bytes)
{
	return (size_t)(bytes[0] << 8 | bytes[1]);
}

static void write_u16(uint8_t *bytes, size_t number)
{
	bytes[0] = (uint8_t)(number >> 8);
	bytes[1] = (uint8_t)number;
}

/* How many bytes of addresses stand in front of the TLVs; -1 for a family and protocol that must not be. */
static int ends_size(uint8_t family)
{
	switch (family) {
	case FAMILY_UNSPEC:
		return 0;
	case FAMILY_TCP4:
	case FAMILY_UDP4:
		return IPV4_ENDS_SIZE;
	case FAMILY_TCP6:
	case FAMILY_UDP6:
		return IPV6_ENDS_SIZE;
	case FAMILY_UNIX_STREAM:
	case FAMILY_UNIX_DATAGRAM:
		return UNIX_ENDS_SIZE;
	}
	return -1;
}

/* The size of the TLV that begins at a place of a list; -1 when it does not fit in front of the list's end. */
static int tlv_size(const uint8_t *list, size_t at, size_t end)
{
	size_t size = TLV_HEAD_SIZE;

	if (size <= end - at)
		size += read_u16(list + at + 1);
	return size <= end - at ? (int)size : -1;
}

/* RFC 4960, appendix B, bit by bit: few headers have one. The four bytes at the field count as zeroes. */
static uint32_t crc32c(const uint8_t *bytes, size_t length, size_t field)
{
	uint32_t crc = UINT32_MAX;

	for (size_t i = 0; i < length; i++) {
		bool is_field = i >= field && i < field + CRC32C_SIZE;

		crc ^= is_field ? 0 : bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

static bool checksum_is_right(const uint8_t *header, size_t length, size_t field)
{
	uint32_t written;

	memcpy(&written, header + field, sizeof(written));
	return ntohl(written) == crc32c(header, length, field);
}

/* Looks at the TLVs from first on, as far as seen reaches. *checksum becomes the place of its value when there is one. */
static const char *check_tlvs(const uint8_t *header, size_t first, size_t length, size_t seen,
			      size_t *checksum)
{
	int size;

	for (size_t at = first; at < length; at += (size_t)size) {
		if (at + TLV_HEAD_SIZE > seen && at + TLV_HEAD_SIZE <= length)
			return NULL;
		size = tlv_size(header, at, length);
		if (size < 0)
			return "a TLV that reaches beyond the header";
		if (header[at] != TLV_CRC32C)
			continue;
		if (size != TLV_HEAD_SIZE + CRC32C_SIZE || *checksum != 0)
			return "a checksum of another size, or a second one";
		*checksum = at + TLV_HEAD_SIZE;
	}
	return NULL;
}

static void read_ends(const uint8_t *at, size_t address_size, struct proxy_header *header)
{
	struct end ends[2] = { 0 };

	for (int i = 0; i < 2; i++) {
		memcpy(ends[i].address, at + (size_t)i * address_size, address_size);
		memcpy(&ends[i].port, at + 2 * address_size + 2 * i, sizeof(ends[i].port));
	}
	set_tcp(header, address_size == 4 ? AF_INET : AF_INET6, ends);
}

/* Reads a header with the command PROXY, of which the fixed part is there. */
static int parse_proxied(const uint8_t *bytes, size_t length, size_t seen, struct proxy_header *header)
{
	uint8_t family = bytes[SIGNATURE_SIZE + 1];
	size_t first = FIXED_SIZE + (size_t)ends_size(family);
	size_t checksum = 0;
	const char *wrong = "shorter than its addresses";

	if (first <= length)
		wrong = check_tlvs(bytes, first, length, seen, &checksum);
	if (wrong)
		return refuse(header, -EINVAL, wrong);
	if (seen < length)
		return 0;
	if (checksum != 0 && !checksum_is_right(bytes, length, checksum))
		return refuse(header, -EINVAL, "a wrong checksum");
	header->kind = PROXY_HEADER_UNKNOWN;
	header->tlv_length = length - first;
	header->tlvs = header->tlv_length > 0 ? bytes + first : NULL;
	if (family == FAMILY_TCP4 || family == FAMILY_TCP6)
		read_ends(bytes + FIXED_SIZE, family == FAMILY_TCP4 ? 4 : 16, header);
	return (int)length;
}

static int parse_v2(const uint8_t *bytes, size_t seen, struct proxy_header *header)
{
	uint8_t command = seen > SIGNATURE_SIZE ? bytes[SIGNATURE_SIZE] : COMMAND_PROXY;
	uint8_t family = seen > SIGNATURE_SIZE + 1 ? bytes[SIGNATURE_SIZE + 1] : FAMILY_UNSPEC;
	size_t length;

	if (memcmp(bytes, SIGNATURE, MIN(seen, SIGNATURE_SIZE)) != 0)
		return refuse(header, -EINVAL, "it begins like no version of the protocol");
	if (command != COMMAND_LOCAL && command != COMMAND_PROXY)
		return refuse(header, -EINVAL, "a version other than 2, or an unknown command");
	if (command == COMMAND_PROXY && ends_size(family) < 0)
		return refuse(header, -EINVAL, "an unknown address family or protocol");
	if (seen < FIXED_SIZE)
		return 0;
	length = FIXED_SIZE + read_u16(bytes + SIGNATURE_SIZE + 2);
	if (length > PROXY_HEADER_MAX)
		return refuse(header, -EMSGSIZE, "longer than 4096 bytes");
	header->version = 2;
	if (command == COMMAND_PROXY)
		return parse_proxied(bytes, length, seen, header);
	header->kind = PROXY_HEADER_LOCAL;
	return seen < length ? 0 : (int)length;
}

int proxy_header_parse(const void *bytes, size_t length, struct proxy_header *header)
{
	int result = 0;

	*header = (struct proxy_header){ 0 };
	if (length > 0 && *(const char *)bytes == SIGNATURE[0])
		result = parse_v2(bytes, length, header);
	else if (length > 0)
		result = parse_v1(bytes, length, header);
	if (result <= 0)
		*header = (struct proxy_header){ .reason = header->reason };
	return result;
}

/* RFC 4291, section 2.5.5.2. */
static const uint8_t mapped_prefix[12] = { [10] = 0xff, [11] = 0xff };

static bool end_is_mapped(const struct end *end)
{
	return memcmp(end->address, mapped_prefix, sizeof(mapped_prefix)) == 0;
}

/* Makes any end IPv6, an IPv4 one v4-mapped. False for other families. */
static bool end_from(const struct sockaddr *sa, struct end *end)
{
	struct sockaddr_in in;
	struct sockaddr_in6 in6;

	if (sa->sa_family == AF_INET) {
		memcpy(&in, sa, sizeof(in));
		memcpy(end->address, mapped_prefix, sizeof(mapped_prefix));
		memcpy(end->address + sizeof(mapped_prefix), &in.sin_addr, sizeof(in.sin_addr));
		end->port = in.sin_port;
	} else if (sa->sa_family == AF_INET6) {
		memcpy(&in6, sa, sizeof(in6));
		memcpy(end->address, &in6.sin6_addr, sizeof(in6.sin6_addr));
		end->port = in6.sin6_port;
	}
	return sa->sa_family == AF_INET || sa->sa_family == AF_INET6;
}

/* inet_ntop(3) writes some addresses with an IPv4 tail, which the specification does not know. */
static void format_ipv6(const uint8_t *address, char text[static INET6_ADDRSTRLEN])
{
	inet_ntop(AF_INET6, address, text, INET6_ADDRSTRLEN);
	if (strchr(text, '.'))
		snprintf(text, INET6_ADDRSTRLEN, "::%s%zx:%zx", read_u16(address + 10) != 0 ? "ffff:" : "",
			 read_u16(address + 12), read_u16(address + 14));
}

/* Without ends: UNKNOWN. */
static int write_v1(const struct end *ends, bool is_ipv4, void *out, size_t limit)
{
	char text[2][INET6_ADDRSTRLEN], line[160] = "PROXY UNKNOWN\r\n";
	size_t length;

	for (int i = 0; ends && i < 2; i++) {
		if (is_ipv4)
			inet_ntop(AF_INET, ends[i].address + sizeof(mapped_prefix), text[i], sizeof(text[i]));
		else
			format_ipv6(ends[i].address, text[i]);
	}
	if (ends)
		snprintf(line, sizeof(line), "PROXY TCP%c %s %s %u %u\r\n", is_ipv4 ? '4' : '6', text[0],
			 text[1], ntohs(ends[0].port), ntohs(ends[1].port));
	length = strlen(line);
	if (length > limit)
		return -EMSGSIZE;
	memcpy(out, line, length);
	return (int)length;
}

/* Adds to the header of length bytes the TLVs that may be passed on. Returns its new length. */
static int append_tlvs(uint8_t *out, int length, size_t limit, const uint8_t *tlvs, size_t tlv_length)
{
	int size;

	for (size_t at = 0; at < tlv_length; at += (size_t)size) {
		size = tlv_size(tlvs, at, tlv_length);
		if (size < 0)
			return -EINVAL;
		if (tlvs[at] == TLV_CRC32C || tlvs[at] == TLV_NOOP)
			continue;
		if ((size_t)size > limit - (size_t)length)
			return -EMSGSIZE;
		memcpy(out + length, tlvs + at, (size_t)size);
		length += size;
	}
	return length;
}

/* Without ends: LOCAL, and no TLVs. */
static int write_v2(const struct end *ends, bool is_ipv4, const uint8_t *tlvs, size_t tlv_length,
		    uint8_t *out, size_t limit)
{
	size_t skipped = is_ipv4 ? sizeof(mapped_prefix) : 0;
	size_t address_size = sizeof(ends->address) - skipped;
	size_t size = ends ? 2 * (address_size + sizeof(ends->port)) : 0;
	uint8_t *at = out + FIXED_SIZE;
	int length = (int)(FIXED_SIZE + size);

	if (limit < FIXED_SIZE + size)
		return -EMSGSIZE;
	memcpy(out, SIGNATURE, SIGNATURE_SIZE);
	out[SIGNATURE_SIZE] = ends ? COMMAND_PROXY : COMMAND_LOCAL;
	out[SIGNATURE_SIZE + 1] = !ends ? FAMILY_UNSPEC : is_ipv4 ? FAMILY_TCP4 : FAMILY_TCP6;
	for (size_t i = 0; ends && i < 2; i++) {
		memcpy(at + i * address_size, ends[i].address + skipped, address_size);
		memcpy(at + 2 * address_size + i * sizeof(ends->port), &ends[i].port, sizeof(ends->port));
	}
	if (ends)
		length = append_tlvs(out, length, limit, tlvs, tlv_length);
	if (length > 0)
		write_u16(out + SIGNATURE_SIZE + 2, (size_t)length - FIXED_SIZE);
	return length;
}

int proxy_header_write(unsigned version, const struct sockaddr *source, const struct sockaddr *destination,
		       const uint8_t *tlvs, size_t tlv_length, void *out, size_t out_size)
{
	size_t limit = MIN(out_size, PROXY_HEADER_MAX);
	struct end both[2],
		*ends = end_from(source, &both[0]) && end_from(destination, &both[1]) ? both : NULL;
	bool is_ipv4 = ends && end_is_mapped(&ends[0]) && end_is_mapped(&ends[1]);

	if (version == 1)
		return write_v1(ends, is_ipv4, out, limit);
	return write_v2(ends, is_ipv4, tlvs, tlv_length, out, limit);
}
