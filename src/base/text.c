/*
 * Theory of operation: all three writers walk the text character by character and differ only in what
 * they put in place of one. A byte that begins no valid UTF-8 sequence counts as a character of its
 * own, so that nothing is lost and the next one is found again right behind it.
 */
#include "base/text.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

struct character {
	size_t length; /* in bytes, at least 1 */
	uint32_t code;
	bool is_valid; /* false: one byte that is no UTF-8, and its value in code */
};

/* How many bytes a sequence has that begins with this one; 0 when none does (RFC 3629). */
static size_t sequence_length(unsigned char first)
{
	if (first < 0x80)
		return 1;
	if (first < 0xc2 || first > 0xf4)
		return 0;
	return first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

/* Overlong forms, surrogates and what lies above U+10FFFF are no characters. */
static bool is_code_valid(uint32_t code, size_t length)
{
	static const uint32_t smallest[] = { 0, 0, 0x80, 0x800, 0x10000 };

	return code >= smallest[length] && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
}

static struct character next_character(const char *text, size_t length)
{
	const unsigned char *bytes = (const unsigned char *)text;
	struct character character = { .length = 1, .code = bytes[0] };
	size_t count = sequence_length(bytes[0]);
	uint32_t code = count > 1 ? bytes[0] & (0x7fu >> count) : bytes[0];

	if (count == 0 || count > length)
		return character;
	for (size_t i = 1; i < count; i++) {
		if ((bytes[i] & 0xc0) != 0x80)
			return character;
		code = code << 6 | (bytes[i] & 0x3f);
	}
	if (!is_code_valid(code, count))
		return character;
	return (struct character){ .length = count, .code = code, .is_valid = true };
}

static bool is_control(uint32_t code)
{
	return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0x2028 || code == 0x2029;
}

static void write_hex(FILE *stream, const char *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		fprintf(stream, "\\x%02x", (unsigned char)bytes[i]);
}

size_t text_write_visible(FILE *stream, const char *text, size_t length)
{
	size_t columns = 0;

	while (length > 0) {
		struct character character = next_character(text, length);
		bool is_escaped = !character.is_valid || is_control(character.code);

		columns += is_escaped ? character.length * strlen("\\xHH") : 1;
		if (stream && is_escaped)
			write_hex(stream, text, character.length);
		else if (stream)
			fwrite(text, 1, character.length, stream);
		text += character.length;
		length -= character.length;
	}
	return columns;
}

void text_write_plain(FILE *stream, const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		unsigned char byte = (unsigned char)text[i];

		if (byte < 0x20 || byte == 0x7f)
			write_hex(stream, text + i, 1);
		else
			fputc(byte, stream);
	}
}

static void write_json(FILE *stream, const char *text, size_t length, bool is_strict)
{
	fputc('"', stream);
	while (length > 0) {
		struct character character = next_character(text, length);

		if (!character.is_valid && is_strict)
			fputs(REPLACEMENT, stream);
		else if (!character.is_valid)
			fprintf(stream, "\\udc%02" PRIx32, character.code);
		else if (is_control(character.code) || (is_strict && character.code == '<'))
			fprintf(stream, "\\u%04" PRIx32, character.code);
		else if (character.code == '"' || character.code == '\\')
			fprintf(stream, "\\%c", (int)character.code);
		else
			fwrite(text, 1, character.length, stream);
		text += character.length;
		length -= character.length;
	}
	fputc('"', stream);
}

void text_write_json(FILE *stream, const char *text, size_t length)
{
	write_json(stream, text, length, false);
}

void text_write_strict_json(FILE *stream, const char *text, size_t length)
{
	write_json(stream, text, length, true);
}
