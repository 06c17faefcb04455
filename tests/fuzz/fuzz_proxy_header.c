/*
 * Any bytes as what a sender sends ahead of a connection, and any TLVs and ends as what a header is to be written from.
 *
 * Oracles beyond crashes: a header fed in pieces means what it means whole, never more before its last byte, and what stands
 * behind it never matters; an error stays; what is handed out lies inside the header; what was parsed and is written
 * again parses to the same ends and TLVs, and once more to the very same bytes.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "proto/proxy_header.h"

#define ENSURE(condition)         \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)

/* In longer ones the pieces that are tried are those near both ends. */
#define PIECES_MAX 128

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length);

/* Parses a copy that ends where the bytes do, so that a look behind them is an error. */
static int parse_copy(const uint8_t *bytes, size_t length, struct proxy_header *header)
{
	uint8_t *copy = malloc(MAX(length, 1));
	int result;

	ENSURE(copy);
	memcpy(copy, bytes, length);
	result = proxy_header_parse(copy, length, header);
	if (header->tlvs) {
		ENSURE(header->tlvs > copy && header->tlvs + header->tlv_length == copy + result);
		header->tlvs = bytes + (header->tlvs - copy);
	}
	free(copy);
	return result;
}

static bool is_zero(const struct sockaddr_storage *end)
{
	static const struct sockaddr_storage none;

	return memcmp(end, &none, sizeof(none)) == 0;
}

static void check_fields(const struct proxy_header *header, int result)
{
	sa_family_t family = header->source.ss_family;
	bool is_tcp = result > 0 && header->kind == PROXY_HEADER_TCP;

	ENSURE((result < 0) == (header->reason != NULL));
	ENSURE(result > 0 ? header->version == 1 || header->version == 2 : header->version == 0);
	ENSURE((header->tlvs != NULL) == (header->tlv_length > 0));
	ENSURE(header->tlv_length == 0 || (header->version == 2 && header->kind != PROXY_HEADER_LOCAL));
	ENSURE(is_tcp == !is_zero(&header->source) && is_tcp == !is_zero(&header->destination));
	ENSURE(!is_tcp || family == AF_INET || family == AF_INET6);
	ENSURE(family == header->destination.ss_family);
}

/* The length is known without the parser: by the first CRLF, or by the length that stands there. */
static void check_length(const uint8_t *bytes, size_t length, int result)
{
	const uint8_t *end;

	if (result == 0)
		ENSURE(length < PROXY_HEADER_MAX && (length == 0 || bytes[0] != 'P' || length < 107));
	if (result <= 0)
		return;
	if (bytes[0] == '\r') {
		ENSURE(result == 16 + bytes[14] * 256 + bytes[15] && result <= PROXY_HEADER_MAX);
		return;
	}
	end = memchr(bytes, '\n', length);
	ENSURE(end && end + 1 - bytes == result && end[-1] == '\r' && result <= 107);
}

static bool is_same(const struct proxy_header *one, const struct proxy_header *other)
{
	return one->kind == other->kind && one->version == other->version && one->tlvs == other->tlvs &&
	       one->tlv_length == other->tlv_length && one->reason == other->reason &&
	       memcmp(&one->source, &other->source, sizeof(one->source)) == 0 &&
	       memcmp(&one->destination, &other->destination, sizeof(one->destination)) == 0;
}

/* Nothing until it is whole, or until it is refused; from then on the same for ever. */
static void check_pieces(const uint8_t *bytes, size_t length, int whole, const struct proxy_header *header)
{
	bool is_decided = false;

	for (size_t piece = 0; piece <= length; piece++) {
		struct proxy_header part;
		int result;

		bool is_near_end = piece + PIECES_MAX >= length || (int)piece == whole ||
				   (int)piece + 1 == whole;

		if (piece > PIECES_MAX && !is_near_end)
			continue;
		result = parse_copy(bytes, piece, &part);
		check_fields(&part, result);
		if (result == 0) {
			ENSURE(!is_decided);
			continue;
		}
		is_decided = true;
		ENSURE(result == whole && is_same(&part, header));
		ENSURE(result < 0 || piece >= (size_t)result);
	}
	ENSURE(is_decided == (whole != 0));
}

/* As IPv6, v4-mapped: the form in which equal ends are equal. */
static void normalize(const struct sockaddr_storage *end, uint8_t normal[18])
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)end;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)end;

	memset(normal, 0, 18);
	if (end->ss_family == AF_INET) {
		normal[10] = normal[11] = 0xff;
		memcpy(normal + 12, &in->sin_addr, 4);
		memcpy(normal + 16, &in->sin_port, 2);
	} else if (end->ss_family == AF_INET6) {
		memcpy(normal, &in6->sin6_addr, 16);
		memcpy(normal + 16, &in6->sin6_port, 2);
	}
}

static bool is_same_end(const struct sockaddr_storage *one, const struct sockaddr_storage *other)
{
	uint8_t first[18], second[18];

	normalize(one, first);
	normalize(other, second);
	return memcmp(first, second, sizeof(first)) == 0;
}

/* Puts what may be passed on of whole TLVs into kept; returns how much that is. */
static size_t keep_tlvs(const uint8_t *tlvs, size_t length, uint8_t *kept)
{
	size_t count = 0;

	for (size_t at = 0; at < length;) {
		size_t size = 3U + tlvs[at + 1] * 256U + tlvs[at + 2];

		ENSURE(at + size <= length);
		if (tlvs[at] != 3 && tlvs[at] != 4) {
			memcpy(kept + count, tlvs + at, size);
			count += size;
		}
		at += size;
	}
	return count;
}

static int write_header(unsigned version, const struct proxy_header *header, uint8_t *out, size_t size)
{
	return proxy_header_write(version, (const struct sockaddr *)&header->source,
				  (const struct sockaddr *)&header->destination, header->tlvs,
				  header->tlv_length, out, size);
}

static void check_written(unsigned version, const struct proxy_header *header)
{
	static uint8_t out[PROXY_HEADER_MAX], again_out[PROXY_HEADER_MAX], kept[PROXY_HEADER_MAX];
	bool is_tcp = header->kind == PROXY_HEADER_TCP;
	size_t tlv_length = version == 2 && is_tcp ? keep_tlvs(header->tlvs, header->tlv_length, kept) : 0;
	int length = write_header(version, header, out, sizeof(out));
	struct proxy_header again;

	if (length == -EMSGSIZE) {
		ENSURE(version == 2 && 16 + 36 + tlv_length > PROXY_HEADER_MAX);
		return;
	}
	ENSURE(length > 0 && proxy_header_parse(out, (size_t)length, &again) == length);
	ENSURE(again.version == version && (again.kind == PROXY_HEADER_TCP) == is_tcp);
	ENSURE(is_same_end(&again.source, &header->source) &&
	       is_same_end(&again.destination, &header->destination));
	ENSURE(again.tlv_length == tlv_length);
	ENSURE(tlv_length == 0 || memcmp(again.tlvs, kept, tlv_length) == 0);
	ENSURE(write_header(version, header, again_out, (size_t)length - 1) == -EMSGSIZE);
	ENSURE(write_header(version, &again, again_out, (size_t)length) == length);
	ENSURE(memcmp(out, again_out, (size_t)length) == 0);
}

/* As a router passes it on: with real ends where the header told of none. */
static void check_passed_on(struct proxy_header header)
{
	struct sockaddr_in6 real = { .sin6_family = AF_INET6,
				     .sin6_port = 1,
				     .sin6_addr = IN6ADDR_LOOPBACK_INIT };

	if (header.kind != PROXY_HEADER_TCP) {
		memcpy(&header.source, &real, sizeof(real));
		memcpy(&header.destination, &real, sizeof(real));
		header.kind = PROXY_HEADER_TCP;
	}
	check_written(1, &header);
	check_written(2, &header);
}

/* Families, ends and TLVs of the input's choice. */
static void check_any_write(const uint8_t *input, size_t length)
{
	static const sa_family_t families[4] = { AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC };
	struct proxy_header header = { .kind = PROXY_HEADER_UNKNOWN }, again;
	uint8_t out[PROXY_HEADER_MAX];
	int result;

	if (length < 1 + 2 * 26)
		return;
	memcpy((char *)&header.source + 2, input + 1, 26);
	memcpy((char *)&header.destination + 2, input + 27, 26);
	header.source.ss_family = families[input[0] & 3];
	header.destination.ss_family = families[input[0] >> 2 & 3];
	header.tlvs = input + 53;
	header.tlv_length = length - 53;
	for (unsigned version = 1; version <= 2; version++) {
		result = write_header(version, &header, out, sizeof(out));
		ENSURE(version == 2 || result > 0);
		if (result > 0)
			ENSURE(proxy_header_parse(out, (size_t)result, &again) == result);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length)
{
	struct proxy_header header;
	int result = parse_copy(input, length, &header);

	check_fields(&header, result);
	check_length(input, length, result);
	check_pieces(input, length, result, &header);
	if (result > 0) {
		check_written(1, &header);
		check_written(2, &header);
		check_passed_on(header);
	}
	check_any_write(input, length);
	return 0;
}
