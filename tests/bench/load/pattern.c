/*
 * Every byte follows from its offset, so one that is lost, doubled or out of place is seen.
 */
#include "load.h"

#include <string.h>

/* The finaliser of SplitMix64. */
static uint64_t pattern_word(uint64_t index)
{
	uint64_t word = (index + 1) * 0x9e3779b97f4a7c15u;

	word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
	word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
	return word ^ (word >> 31);
}

void pattern_fill(char *bytes, size_t length, uint64_t offset)
{
	for (size_t done = 0; done < length;) {
		uint64_t word = pattern_word((offset + done) / sizeof(word));
		size_t skip = (offset + done) % sizeof(word);
		size_t part = sizeof(word) - skip < length - done ? sizeof(word) - skip : length - done;

		memcpy(bytes + done, (const char *)&word + skip, part);
		done += part;
	}
}

bool pattern_matches(const char *bytes, size_t length, uint64_t offset)
{
	static char expected[BUFFER_BYTES];

	pattern_fill(expected, length, offset);
	return memcmp(bytes, expected, length) == 0;
}
