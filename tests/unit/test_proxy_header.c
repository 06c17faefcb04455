/*
 * Headers of the PROXY protocol: what each says, whole and byte by byte, and what is written.
 *
 * The bytes are put together by hand from the specification (proxy-protocol.txt, sections 2.1 and 2.2), but for those
 * that HAProxy 2.6 has sent; a comment says which.
 */
#include "fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "proto/proxy_header.h"

#define BYTES(literal) (literal), sizeof(literal) - 1

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

/* 192.0.2.1:56324 to 198.51.100.7:443. */
#define ENDS4 "\xc0\x00\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb"
/* [2001:db8::1]:1 to [2001:db8::2:3]:65535. */
#define ENDS6                                                              \
	"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" \
	"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x03" \
	"\x00\x01\xff\xff"
#define ZEROES_36 "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
#define UNIX_ENDS ZEROES_36 ZEROES_36 ZEROES_36 ZEROES_36 ZEROES_36 ZEROES_36

struct header_case {
	const char *bytes;
	size_t length;
	enum proxy_header_kind kind;
	unsigned version;
	const char *source; /* as format_end() writes it; NULL where there is none */
	const char *destination;
	size_t tlv_length; /* at the end of the header */
};

static const struct header_case headers[] = {
	{ BYTES("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"), PROXY_HEADER_TCP, 1,
	  "192.168.0.1 56324", "192.168.0.11 443", 0 },
	{ BYTES("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"), PROXY_HEADER_TCP, 1,
	  "255.255.255.255 65535", "255.255.255.255 65535", 0 },
	{ BYTES("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n"), PROXY_HEADER_TCP, 1, "0.0.0.0 0", "0.0.0.0 0", 0 },
	{ BYTES("PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff FFFF:ffff:ffff:ffff:ffff:ffff:ffff:fffe 65535 "
		"65534\r\n"),
	  PROXY_HEADER_TCP, 1, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535",
	  "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe 65534", 0 },
	{ BYTES("PROXY TCP6 :: 2001:0DB8::0001 1 80\r\n"), PROXY_HEADER_TCP, 1, ":: 1", "2001:db8::1 80", 0 },
	{ BYTES("PROXY TCP6 ::ffff:c000:201 ::ffff:192.0.2.2 1 2\r\n"), PROXY_HEADER_TCP, 1,
	  "::ffff:192.0.2.1 1", "::ffff:192.0.2.2 2", 0 },
	{ BYTES("PROXY UNKNOWN\r\n"), PROXY_HEADER_UNKNOWN, 1, NULL, NULL, 0 },
	{ BYTES("PROXY UNKNOWN \r\n"), PROXY_HEADER_UNKNOWN, 1, NULL, NULL, 0 },
	{ BYTES("PROXY UNKNOWN  \0\xff anything\r\n"), PROXY_HEADER_UNKNOWN, 1, NULL, NULL, 0 },
	{ BYTES("PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
		"65535 65535\r\n"),
	  PROXY_HEADER_UNKNOWN, 1, NULL, NULL, 0 },

	{ BYTES(SIGNATURE "\x20\x00\x00\x00"), PROXY_HEADER_LOCAL, 2, NULL, NULL, 0 },
	/* The family of LOCAL is ignored, and so is what stands where addresses and TLVs would. */
	{ BYTES(SIGNATURE "\x20\xff\x00\x00"), PROXY_HEADER_LOCAL, 2, NULL, NULL, 0 },
	{ BYTES(SIGNATURE "\x20\x11\x00\x0c" ENDS4), PROXY_HEADER_LOCAL, 2, NULL, NULL, 0 },
	{ BYTES(SIGNATURE "\x20\x21\x00\x02zz"), PROXY_HEADER_LOCAL, 2, NULL, NULL, 0 },
	{ BYTES(SIGNATURE "\x21\x00\x00\x00"), PROXY_HEADER_UNKNOWN, 2, NULL, NULL, 0 },
	{ BYTES(SIGNATURE "\x21\x00\x00\x04\xe0\x00\x01x"), PROXY_HEADER_UNKNOWN, 2, NULL, NULL, 4 },
	{ BYTES(SIGNATURE "\x21\x11\x00\x0c" ENDS4), PROXY_HEADER_TCP, 2, "192.0.2.1 56324",
	  "198.51.100.7 443", 0 },
	{ BYTES(SIGNATURE "\x21\x12\x00\x0c" ENDS4), PROXY_HEADER_UNKNOWN, 2, NULL, NULL, 0 },
	{ BYTES(SIGNATURE "\x21\x21\x00\x24" ENDS6), PROXY_HEADER_TCP, 2, "2001:db8::1 1",
	  "2001:db8::2:3 65535", 0 },
	{ BYTES(SIGNATURE "\x21\x22\x00\x24" ENDS6), PROXY_HEADER_UNKNOWN, 2, NULL, NULL, 0 },
	{ BYTES(SIGNATURE "\x21\x31\x00\xd8" UNIX_ENDS), PROXY_HEADER_UNKNOWN, 2, NULL, NULL, 0 },
	{ BYTES(SIGNATURE "\x21\x32\x00\xdc" UNIX_ENDS "\x02\x00\x01h"), PROXY_HEADER_UNKNOWN, 2, NULL, NULL,
	  4 },
	/* An empty value, several TLVs, and a length that needs its first byte. */
	{ BYTES(SIGNATURE "\x21\x11\x00\x0f" ENDS4 "\x04\x00\x00"), PROXY_HEADER_TCP, 2, "192.0.2.1 56324",
	  "198.51.100.7 443", 3 },
	{ BYTES(SIGNATURE "\x21\x11\x00\x1a" ENDS4 "\x01\x00\x02h2\x02\x00\x03"
			  "abc\xff\x00\x00"),
	  PROXY_HEADER_TCP, 2, "192.0.2.1 56324", "198.51.100.7 443", 14 },
	{ BYTES(SIGNATURE "\x21\x11\x01\x0f" ENDS4 "\xe0\x01\x00" UNIX_ENDS ZEROES_36 "\0\0\0\0"),
	  PROXY_HEADER_TCP, 2, "192.0.2.1 56324", "198.51.100.7 443", 259 },
	/* HAProxy's, with its checksum. */
	{ BYTES(SIGNATURE "\x21\x11\x00\x13\x7f\x00\x00\x01\x7f\x00\x00\x01\xe2\x72\xaf\x49"
			  "\x03\x00\x04\xab\xf3\x1e\x59"),
	  PROXY_HEADER_TCP, 2, "127.0.0.1 57970", "127.0.0.1 44873", 7 },
	/* A checksum that does not come last. */
	{ BYTES(SIGNATURE "\x21\x00\x00\x0b\x03\x00\x04\x5c\x6b\xbe\xbf\xe0\x00\x01x"), PROXY_HEADER_UNKNOWN,
	  2, NULL, NULL, 11 },
};

/* What the specification does not allow: with the bytes of sound alone nothing is decided yet, with one more it is. */
struct refusal {
	const char *sound;
	size_t sound_length;
	const char *rest;
	size_t rest_length;
	int error;
	const char *reason; /* a part of it */
};

static const struct refusal refusals[] = {
	{ BYTES(""), BYTES("GET / HTTP/1.1\r\n\r\n"), -EINVAL, "no version" },
	{ BYTES(""), BYTES("proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n"), -EINVAL, "no version" },
	{ BYTES(""), BYTES(" PROXY UNKNOWN\r\n"), -EINVAL, "no version" },
	{ BYTES(""), BYTES("\n"), -EINVAL, "no version" },
	{ BYTES("P"), BYTES("OST / HTTP/1.1\r\n"), -EINVAL, "no version" },
	{ BYTES("PROXY"), BYTES("\r\n"), -EINVAL, "fewer words" },
	{ BYTES("PROXY"), BYTES("\tUNKNOWN\r\n"), -EINVAL, "no version" },
	{ BYTES("PROXY "), BYTES(" UNKNOWN\r\n"), -EINVAL, "a protocol" },
	{ BYTES("PROXY "), BYTES("\r\n"), -EINVAL, "a protocol" },
	{ BYTES("PROXY U"), BYTES("DP4 192.0.2.1 192.0.2.2 1 2\r\n"), -EINVAL, "a protocol" },
	{ BYTES("PROXY TCP"), BYTES(" 192.0.2.1 192.0.2.2 1 2\r\n"), -EINVAL, "a protocol" },
	{ BYTES("PROXY TCP"), BYTES("5 192.0.2.1 192.0.2.2 1 2\r\n"), -EINVAL, "a protocol" },
	{ BYTES("PROXY "), BYTES("tcp4 192.0.2.1 192.0.2.2 1 2\r\n"), -EINVAL, "a protocol" },
	{ BYTES("PROXY TCP4"), BYTES("6 192.0.2.1 192.0.2.2 1 2\r\n"), -EINVAL, "a protocol" },
	{ BYTES("PROXY UNKNOWN"), BYTES("S\r\n"), -EINVAL, "a protocol" },
	{ BYTES("PROXY UNKNOWN"), BYTES("\n"), -EINVAL, "LF without CR" },
	{ BYTES("PROXY UNKNOWN a"), BYTES("\nb\r\n"), -EINVAL, "LF without CR" },
	{ BYTES("PROXY UNKNOWN a\r"), BYTES("b\r\n"), -EINVAL, "CR without LF" },
	{ BYTES("PROXY UNKNOWN\r"), BYTES("\r\n"), -EINVAL, "CR without LF" },
	{ BYTES("PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
		"65535 65535"),
	  BYTES(" \r\n"), -EINVAL, "107" },

	{ BYTES("PROXY TCP4 "), BYTES(" 192.0.2.1 192.0.2.2 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP4 "), BYTES("localhost 192.0.2.2 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP4 "), BYTES("::1 ::1 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP4 192.0.2.1"), BYTES("\0 192.0.2.2 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP4 192.0.2.1"), BYTES("\t192.0.2.2 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP4 192.0.2.256"), BYTES(" 192.0.2.2 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP4 192.0.02.1"), BYTES(" 192.0.2.2 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP4 192.0.2"), BYTES(" 192.0.2.2 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP4 192.0.2.1.1"), BYTES(" 192.0.2.2 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2."), BYTES(" 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP4 192.0.2.1 "), BYTES(" 192.0.2.2 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP4 192.0.2.1 "), BYTES("\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP4 192.0.2.1"), BYTES("\r\n"), -EINVAL, "fewer words" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2"), BYTES("\r\n"), -EINVAL, "fewer words" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 1"), BYTES("\r\n"), -EINVAL, "fewer words" },
	{ BYTES("PROXY TCP6 192.0.2.1"), BYTES(" 192.0.2.2 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP6 1:2:3:4:5:6:7"), BYTES(" ::1 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP6 1::2::3"), BYTES(" ::1 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP6 12345::"), BYTES(" ::1 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP6 "), BYTES("[::1] ::1 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP6 fe80::1"), BYTES("%1 ::1 1 2\r\n"), -EINVAL, "an address" },
	{ BYTES("PROXY TCP6 ::0000000000000000000000000000000000000000000"), BYTES("0 ::1 1 2\r\n"), -EINVAL,
	  "an address" },

	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 "), BYTES(" 1 2\r\n"), -EINVAL, "a port" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 "), BYTES("-1 2\r\n"), -EINVAL, "a port" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 "), BYTES("+1 2\r\n"), -EINVAL, "a port" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 "), BYTES("http 2\r\n"), -EINVAL, "a port" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 0"), BYTES("1 2\r\n"), -EINVAL, "a port" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 0"), BYTES("0 2\r\n"), -EINVAL, "a port" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 6553"), BYTES("6 2\r\n"), -EINVAL, "a port" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 1 6553"), BYTES("6\r\n"), -EINVAL, "a port" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 1 10000"), BYTES("0000000000000000000\r\n"), -EINVAL,
	  "a port" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 1 "), BYTES(" 2\r\n"), -EINVAL, "a port" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 1 "), BYTES("\r\n"), -EINVAL, "a port" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 1 2"), BYTES(" \r\n"), -EINVAL, "more words" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 1 2"), BYTES(" 3\r\n"), -EINVAL, "more words" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 1 2"), BYTES("\nGET /\r\n"), -EINVAL, "LF without CR" },
	{ BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r"), BYTES("GET /\r\n"), -EINVAL, "CR without LF" },

	{ BYTES("\r\n"), BYTES("PROXY UNKNOWN\r\n"), -EINVAL, "no version" },
	{ BYTES("\r\n\r\n"), BYTES("\r\nQUIT\n"), -EINVAL, "no version" },
	{ BYTES("\r\n\r\n\0\r\nQUIT"), BYTES("\r\n"), -EINVAL, "no version" },
	{ BYTES(SIGNATURE), BYTES("\x11\x11\x00\x0c" ENDS4), -EINVAL, "version other than 2" },
	{ BYTES(SIGNATURE), BYTES("\x31\x11\x00\x0c" ENDS4), -EINVAL, "version other than 2" },
	{ BYTES(SIGNATURE), BYTES("\x01\x11\x00\x0c" ENDS4), -EINVAL, "version other than 2" },
	{ BYTES(SIGNATURE), BYTES("\x22\x11\x00\x0c" ENDS4), -EINVAL, "unknown command" },
	{ BYTES(SIGNATURE), BYTES("\x2f\x11\x00\x0c" ENDS4), -EINVAL, "unknown command" },
	{ BYTES(SIGNATURE "\x21"), BYTES("\x41\x00\x0c" ENDS4), -EINVAL, "family" },
	{ BYTES(SIGNATURE "\x21"), BYTES("\xf1\x00\x0c" ENDS4), -EINVAL, "family" },
	{ BYTES(SIGNATURE "\x21"), BYTES("\x13\x00\x0c" ENDS4), -EINVAL, "family" },
	{ BYTES(SIGNATURE "\x21"), BYTES("\x1f\x00\x0c" ENDS4), -EINVAL, "family" },
	/* Not among the seven pairs: how many bytes of addresses there are is not known. */
	{ BYTES(SIGNATURE "\x21"), BYTES("\x10\x00\x0c" ENDS4), -EINVAL, "family" },
	{ BYTES(SIGNATURE "\x21"), BYTES("\x01\x00\x00"), -EINVAL, "family" },
	{ BYTES(SIGNATURE "\x21\x11\x00"), BYTES("\x0b" ENDS4), -EINVAL, "shorter" },
	{ BYTES(SIGNATURE "\x21\x11\x00"), BYTES("\x00" ENDS4), -EINVAL, "shorter" },
	{ BYTES(SIGNATURE "\x21\x12\x00"), BYTES("\x0b" ENDS4), -EINVAL, "shorter" },
	{ BYTES(SIGNATURE "\x21\x21\x00"), BYTES("\x23" ENDS6), -EINVAL, "shorter" },
	{ BYTES(SIGNATURE "\x21\x22\x00"), BYTES("\x23" ENDS6), -EINVAL, "shorter" },
	{ BYTES(SIGNATURE "\x21\x31\x00"), BYTES("\xd7" UNIX_ENDS), -EINVAL, "shorter" },
	{ BYTES(SIGNATURE "\x21\x32\x00"), BYTES("\xd7" UNIX_ENDS), -EINVAL, "shorter" },
	/* 4097 bytes in all, and as many as there can be. */
	{ BYTES(SIGNATURE "\x21\x11\x0f"), BYTES("\xf1" ENDS4), -EMSGSIZE, "4096" },
	{ BYTES(SIGNATURE "\x21\x11\xff"), BYTES("\xff" ENDS4), -EMSGSIZE, "4096" },
	{ BYTES(SIGNATURE "\x20\x00\xff"), BYTES("\xff"), -EMSGSIZE, "4096" },

	{ BYTES(SIGNATURE "\x21\x11\x00"), BYTES("\x0d" ENDS4 "\x04"), -EINVAL, "beyond the header" },
	{ BYTES(SIGNATURE "\x21\x11\x00"), BYTES("\x0e" ENDS4 "\x04\x00"), -EINVAL, "beyond the header" },
	{ BYTES(SIGNATURE "\x21\x11\x00\x0f" ENDS4 "\x04\x00"), BYTES("\x01"), -EINVAL, "beyond the header" },
	{ BYTES(SIGNATURE "\x21\x11\x00\x10" ENDS4 "\x04\xff"), BYTES("\xff\x00"), -EINVAL,
	  "beyond the header" },
	{ BYTES(SIGNATURE "\x21\x11\x00\x13" ENDS4 "\x04\x00\x01x\x04\x00"), BYTES("\x01"), -EINVAL,
	  "beyond the header" },
	{ BYTES(SIGNATURE "\x21\x11\x00\x12" ENDS4 "\x04\x00"), BYTES("\x01x\x04\x00"), -EINVAL,
	  "beyond the header" },
	{ BYTES(SIGNATURE "\x21\x00\x00\x04\x04\x00"), BYTES("\x02x"), -EINVAL, "beyond the header" },

	{ BYTES(SIGNATURE "\x21\x11\x00\x13\x7f\x00\x00\x01\x7f\x00\x00\x01\xe2\x72\xaf\x49"
			  "\x03\x00\x04\xab\xf3\x1e"),
	  BYTES("\x58"), -EINVAL, "a wrong checksum" },
	{ BYTES(SIGNATURE "\x21\x11\x00\x13\x7f\x00\x00\x01\x7f\x00\x00\x01\xe2\x72\xaf\x4a"
			  "\x03\x00\x04\xab\xf3\x1e"),
	  BYTES("\x59"), -EINVAL, "a wrong checksum" },
	/* Its bytes in the other order. */
	{ BYTES(SIGNATURE "\x21\x11\x00\x13\x7f\x00\x00\x01\x7f\x00\x00\x01\xe2\x72\xaf\x49"
			  "\x03\x00\x04\x59\x1e\xf3"),
	  BYTES("\xab"), -EINVAL, "a wrong checksum" },
	{ BYTES(SIGNATURE "\x21\x11\x00\x12" ENDS4 "\x03\x00"), BYTES("\x03xyz"), -EINVAL, "another size" },
	{ BYTES(SIGNATURE "\x21\x11\x00\x14" ENDS4 "\x03\x00"), BYTES("\x05xyzuv"), -EINVAL, "another size" },
	{ BYTES(SIGNATURE "\x21\x00\x00\x0e\x03\x00\x04\x5c\x6b\xbe\xbf\x03\x00"),
	  BYTES("\x04\x5c\x6b\xbe\xbf"), -EINVAL, "second" },
};

/* "192.0.2.1 80". */
static void format_end(const struct sockaddr_storage *end, char text[static 64])
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)end;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)end;
	bool is_ipv4 = end->ss_family == AF_INET;
	const void *address = is_ipv4 ? (const void *)&in->sin_addr : (const void *)&in6->sin6_addr;
	char word[INET6_ADDRSTRLEN];

	assert_non_null(inet_ntop(end->ss_family, address, word, sizeof(word)));
	snprintf(text, 64, "%s %u", word, ntohs(is_ipv4 ? in->sin_port : in6->sin6_port));
}

/* From "192.0.2.1 80"; "unix" and NULL are ends of other families. */
static struct sockaddr_storage make_end(const char *text)
{
	struct sockaddr_storage end = { .ss_family = AF_UNSPEC };
	struct sockaddr_in in = { .sin_family = AF_INET };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };
	char word[INET6_ADDRSTRLEN];
	unsigned port;

	if (!text)
		return end;
	if (strcmp(text, "unix") == 0) {
		end.ss_family = AF_UNIX;
		return end;
	}
	assert_int_equal(sscanf(text, "%45s %u", word, &port), 2);
	in.sin_port = in6.sin6_port = htons((uint16_t)port);
	if (inet_pton(AF_INET, word, &in.sin_addr) == 1) {
		memcpy(&end, &in, sizeof(in));
	} else {
		assert_int_equal(inet_pton(AF_INET6, word, &in6.sin6_addr), 1);
		memcpy(&end, &in6, sizeof(in6));
	}
	return end;
}

static void assert_end(const struct sockaddr_storage *end, const char *expected)
{
	static const struct sockaddr_storage none;
	char text[64];

	if (!expected) {
		assert_memory_equal(end, &none, sizeof(none));
		return;
	}
	format_end(end, text);
	assert_string_equal(text, expected);
}

/* Parses the first length bytes out of storage that ends with them; TLVs then point where bytes has them. */
static int parse_piece(const char *bytes, size_t length, struct proxy_header *header)
{
	char *piece = malloc(length + 1);
	int result;

	assert_non_null(piece);
	memcpy(piece + 1, bytes, length);
	memset(header, 0x55, sizeof(*header));
	result = proxy_header_parse(piece + 1, length, header);
	if (header->tlvs)
		header->tlvs = (const uint8_t *)bytes + (header->tlvs - (const uint8_t *)(piece + 1));
	free(piece);
	return result;
}

static void assert_nothing(const struct proxy_header *header, const char *reason)
{
	const struct proxy_header nothing = { .reason = header->reason };

	assert_memory_equal(header, &nothing, sizeof(nothing));
	if (!reason)
		assert_null(header->reason);
	else if (!header->reason || !strstr(header->reason, reason))
		fail_msg("\"%s\" where \"%s\" was expected", header->reason ? header->reason : "", reason);
}

static void assert_header(const struct header_case *expected, const struct proxy_header *header)
{
	assert_int_equal(header->kind, expected->kind);
	assert_int_equal(header->version, expected->version);
	assert_end(&header->source, expected->source);
	assert_end(&header->destination, expected->destination);
	assert_int_equal(header->tlv_length, expected->tlv_length);
	if (expected->tlv_length > 0)
		assert_ptr_equal(header->tlvs, expected->bytes + expected->length - expected->tlv_length);
	else
		assert_null(header->tlvs);
	assert_null(header->reason);
}

static void a_header_says_the_same_however_it_arrives(void **state)
{
	static const char behind[] = "\r\nPROXY UNKNOWN\r\n" SIGNATURE;
	char longer[1024];
	struct proxy_header header;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
		const struct header_case *expected = &headers[i];
		struct header_case moved = *expected;

		for (size_t length = 0; length < expected->length; length++) {
			if (parse_piece(expected->bytes, length, &header) != 0)
				fail_msg("header %zu: decided after %zu bytes: %s", i, length, header.reason);
			assert_nothing(&header, NULL);
		}
		if (parse_piece(expected->bytes, expected->length, &header) != (int)expected->length)
			fail_msg("header %zu: %s", i, header.reason);
		assert_header(expected, &header);

		memcpy(longer, expected->bytes, expected->length);
		memcpy(longer + expected->length, behind, sizeof(behind));
		moved.bytes = longer;
		for (size_t more = 1; more <= sizeof(behind); more++) {
			assert_int_equal(proxy_header_parse(longer, expected->length + more, &header),
					 expected->length);
			assert_header(&moved, &header);
		}
	}
}

static void what_is_wrong_is_refused_by_its_first_byte(void **state)
{
	struct proxy_header header;
	char bytes[512];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
		const struct refusal *refusal = &refusals[i];
		size_t whole = refusal->sound_length + refusal->rest_length;

		memcpy(bytes, refusal->sound, refusal->sound_length);
		memcpy(bytes + refusal->sound_length, refusal->rest, refusal->rest_length);
		for (size_t length = 0; length <= whole; length++) {
			bool is_sound = length <= refusal->sound_length;
			int result = parse_piece(bytes, length, &header);

			if (result != (is_sound ? 0 : refusal->error))
				fail_msg("refusal %zu, \"%s\": %d after %zu bytes", i, refusal->sound, result,
					 length);
			assert_nothing(&header, is_sound ? NULL : refusal->reason);
		}
	}
}

static void nothing_sent_yet_is_incomplete(void **state)
{
	struct proxy_header header;

	(void)state;
	assert_int_equal(proxy_header_parse(NULL, 0, &header), 0);
	assert_nothing(&header, NULL);
}

/* No other byte can begin either version. */
static void the_first_byte_tells_a_stranger(void **state)
{
	struct proxy_header header;

	(void)state;
	for (int byte = 0; byte < 256; byte++) {
		char first = (char)byte;
		bool is_known = byte == 'P' || byte == '\r';

		assert_int_equal(parse_piece(&first, 1, &header), is_known ? 0 : -EINVAL);
	}
}

static void a_header_of_4096_bytes_is_the_longest(void **state)
{
	static char sent[PROXY_HEADER_MAX + 1];
	struct proxy_header header;

	(void)state;
	/* One TLV of 4096 - 16 - 12 bytes, 4065 = 0x0fe1 of them its value. */
	memcpy(sent, BYTES(SIGNATURE "\x21\x11\x0f\xf0" ENDS4 "\xe0\x0f\xe1"));
	assert_int_equal(parse_piece(sent, PROXY_HEADER_MAX - 1, &header), 0);
	assert_int_equal(parse_piece(sent, PROXY_HEADER_MAX + 1, &header), PROXY_HEADER_MAX);
	assert_int_equal(header.tlv_length, PROXY_HEADER_MAX - 16 - 12);
}

struct written_case {
	unsigned version;
	const char *source;
	const char *destination;
	const char *tlvs;
	size_t tlv_length;
	const char *bytes;
	size_t length;
};

static const struct written_case written[] = {
	{ 1, "192.168.0.1 56324", "192.168.0.11 443", BYTES(""),
	  BYTES("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n") },
	{ 1, "::ffff:192.0.2.1 0", "192.0.2.2 65535", BYTES(""),
	  BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 0 65535\r\n") },
	{ 1, "2001:db8::1 1", "2001:db8::2:3 65535", BYTES(""),
	  BYTES("PROXY TCP6 2001:db8::1 2001:db8::2:3 1 65535\r\n") },
	{ 1, "192.0.2.1 1", "2001:db8::1 2", BYTES(""),
	  BYTES("PROXY TCP6 ::ffff:c000:201 2001:db8::1 1 2\r\n") },
	{ 1, "::1 1", "::ffff:192.0.2.1 2", BYTES(""), BYTES("PROXY TCP6 ::1 ::ffff:c000:201 1 2\r\n") },
	/* inet_ntop(3) writes this one with an IPv4 tail too. */
	{ 1, "::c000:201 1", ":: 2", BYTES(""), BYTES("PROXY TCP6 ::c000:201 :: 1 2\r\n") },
	{ 1, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535",
	  BYTES(""),
	  BYTES("PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
		"65535 65535\r\n") },
	{ 1, "unix", "unix", BYTES(""), BYTES("PROXY UNKNOWN\r\n") },
	{ 1, "192.0.2.1 1", NULL, BYTES(""), BYTES("PROXY UNKNOWN\r\n") },
	{ 1, "unix", "2001:db8::1 2", BYTES(""), BYTES("PROXY UNKNOWN\r\n") },
	/* TLVs have no place in it. */
	{ 1, "192.0.2.1 1", "192.0.2.2 2", BYTES("\x02\x00\x01h"),
	  BYTES("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n") },

	{ 2, "192.0.2.1 56324", "198.51.100.7 443", BYTES(""), BYTES(SIGNATURE "\x21\x11\x00\x0c" ENDS4) },
	{ 2, "::ffff:192.0.2.1 56324", "::ffff:198.51.100.7 443", BYTES(""),
	  BYTES(SIGNATURE "\x21\x11\x00\x0c" ENDS4) },
	{ 2, "2001:db8::1 1", "2001:db8::2:3 65535", BYTES(""), BYTES(SIGNATURE "\x21\x21\x00\x24" ENDS6) },
	{ 2, "2001:db8::1 1", "192.0.2.1 2", BYTES(""),
	  BYTES(SIGNATURE
		"\x21\x21\x00\x24\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01\x00\x01\x00\x02") },
	{ 2, "unix", "unix", BYTES(""), BYTES(SIGNATURE "\x20\x00\x00\x00") },
	{ 2, NULL, "192.0.2.1 2", BYTES("\x02\x00\x01h"), BYTES(SIGNATURE "\x20\x00\x00\x00") },
	{ 2, "192.0.2.1 56324", "198.51.100.7 443", BYTES("\x01\x00\x02h2\xff\x00\x00"),
	  BYTES(SIGNATURE "\x21\x11\x00\x14" ENDS4 "\x01\x00\x02h2\xff\x00\x00") },
	/* Without checksum and NOOP, wherever they stand. */
	{ 2, "192.0.2.1 56324", "198.51.100.7 443",
	  BYTES("\x03\x00\x04"
		"abcd\x01\x00\x02h2\x04\x00\x00\x02\x00\x01h\x04\x00\x01\x03\x03\x00\x04wxyz"),
	  BYTES(SIGNATURE "\x21\x11\x00\x15" ENDS4 "\x01\x00\x02h2\x02\x00\x01h") },
};

static int write_case(const struct written_case *expected, void *out, size_t out_size)
{
	struct sockaddr_storage source = make_end(expected->source);
	struct sockaddr_storage destination = make_end(expected->destination);

	return proxy_header_write(expected->version, (struct sockaddr *)&source,
				  (struct sockaddr *)&destination, (const uint8_t *)expected->tlvs,
				  expected->tlv_length, out, out_size);
}

static void headers_are_written_byte_for_byte(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(written); i++) {
		const struct written_case *expected = &written[i];

		/* Of every size: what does not fit is refused, and not a byte behind the size is written. */
		for (size_t size = 0; size <= expected->length; size++) {
			char *out = malloc(size + 1);
			int length;

			assert_non_null(out);
			out[size] = 'x';
			length = write_case(expected, out, size);
			if (length != (size < expected->length ? -EMSGSIZE : (int)expected->length))
				fail_msg("header %zu: %d in %zu bytes", i, length, size);
			assert_int_equal(out[size], 'x');
			if (length > 0)
				assert_memory_equal(out, expected->bytes, expected->length);
			free(out);
		}
	}
}

static void what_is_written_is_what_a_receiver_sees(void **state)
{
	struct proxy_header header;
	char out[PROXY_HEADER_MAX];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(written); i++) {
		int length = write_case(&written[i], out, sizeof(out));

		assert_int_equal(proxy_header_parse(out, (size_t)length, &header), length);
		assert_int_equal(header.version, written[i].version);
	}
	for (size_t i = 0; i < ARRAY_SIZE(headers); i++) {
		struct header_case expected = headers[i];
		int length;

		/* Those whose TLVs stay as they are. */
		if (expected.kind != PROXY_HEADER_TCP || expected.tlv_length == 3 || expected.tlv_length == 7)
			continue;
		assert_int_not_equal(proxy_header_parse(expected.bytes, expected.length, &header), 0);
		length = proxy_header_write(2, (struct sockaddr *)&header.source,
					    (struct sockaddr *)&header.destination, header.tlvs,
					    header.tlv_length, out, sizeof(out));
		expected.version = 2;
		expected.bytes = out;
		expected.length = (size_t)length;
		if (strncmp(headers[i].bytes, "PROXY TCP6 ::ffff:", 18) == 0) {
			expected.source = "192.0.2.1 1";
			expected.destination = "192.0.2.2 2";
		}
		assert_int_equal(proxy_header_parse(out, (size_t)length, &header), length);
		assert_header(&expected, &header);
	}
}

static void tlvs_that_are_cut_short_are_not_written(void **state)
{
	static const struct written_case cut[] = {
		{ 2, "192.0.2.1 1", "192.0.2.2 2", BYTES("\x01"), NULL, 0 },
		{ 2, "192.0.2.1 1", "192.0.2.2 2", BYTES("\x01\x00"), NULL, 0 },
		{ 2, "192.0.2.1 1", "192.0.2.2 2", BYTES("\x01\x00\x01"), NULL, 0 },
		{ 2, "192.0.2.1 1", "192.0.2.2 2", BYTES("\x01\x00\x01h\x02\x00"), NULL, 0 },
		{ 2, "192.0.2.1 1", "192.0.2.2 2", BYTES("\x04\x01\x00h"), NULL, 0 },
	};
	char out[PROXY_HEADER_MAX];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cut); i++)
		assert_int_equal(write_case(&cut[i], out, sizeof(out)), -EINVAL);
}

/* However much room there is. */
static void no_header_is_written_that_is_too_long_to_be_read(void **state)
{
	static char tlvs[PROXY_HEADER_MAX] = { "\xe0\x0f\xe1" }, out[2 * PROXY_HEADER_MAX];
	struct written_case most = { 2, "192.0.2.1 1", "192.0.2.2 2", tlvs, 4068, NULL, 0 };

	(void)state;
	assert_int_equal(write_case(&most, out, sizeof(out)), PROXY_HEADER_MAX);
	most.source = "2001:db8::1 1";
	assert_int_equal(write_case(&most, out, sizeof(out)), -EMSGSIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_header_says_the_same_however_it_arrives),
		cmocka_unit_test(what_is_wrong_is_refused_by_its_first_byte),
		cmocka_unit_test(nothing_sent_yet_is_incomplete),
		cmocka_unit_test(the_first_byte_tells_a_stranger),
		cmocka_unit_test(a_header_of_4096_bytes_is_the_longest),
		cmocka_unit_test(headers_are_written_byte_for_byte),
		cmocka_unit_test(what_is_written_is_what_a_receiver_sees),
		cmocka_unit_test(tlvs_that_are_cut_short_are_not_written),
		cmocka_unit_test(no_header_is_written_that_is_too_long_to_be_read),
	};

	return FIXTURE_RUN(tests);
}
