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

static inline uint64_t hash_bytes(const void *bytes, size_t length)
{
	const unsigned char *byte = bytes;
	uint64_t hash = 0xcbf29ce484222325u;

	for (size_t i = 0; i < length; i++)
		hash = (hash ^ byte[i]) * 0x100000001b3u;
	return hash;
}

#endif
