/*
 * A hash for tables: 64 bit FNV-1a (draft-eastlake-fnv), byte by byte.
 *
 * Quick on short texts and free of state. It has no key, so whoever chooses the bytes can choose
 * collisions too: use it where that costs no more than a slower look-up in a bounded table.
 */
#ifndef KAISO_BASE_HASH_H
#define KAISO_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* Of what hash is of, with these bytes behind it. */
static inline uint64_t hash_more(uint64_t hash, const void *bytes, size_t length)
{
	const unsigned char *byte = bytes;

	for (size_t i = 0; i < length; i++)
		hash = (hash ^ byte[i]) * 0x100000001b3u;
	return hash;
}

static inline uint64_t hash_bytes(const void *bytes, size_t length)
{
	return hash_more(0xcbf29ce484222325u, bytes, length);
}

#endif
