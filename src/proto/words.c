#include "proto/words.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"

struct description_text words_make(const char *start, const char *end)
{
	return (struct description_text){ start, (size_t)(end - start) };
}

const char *words_end(struct description_text text)
{
	return text.start + text.length;
}

/* memchr() wants a buffer even for no bytes at all. */
const char *words_find(struct description_text text, char byte)
{
	return text.length > 0 ? memchr(text.start, byte, text.length) : NULL;
}

const char *words_find_last(struct description_text text, char byte)
{
	for (size_t i = text.length; i > 0; i--) {
		if (text.start[i - 1] == byte)
			return text.start + i - 1;
	}
	return NULL;
}

bool words_begins(struct description_text text, const char *word)
{
	size_t length = strlen(word);

	return text.length >= length && memcmp(text.start, word, length) == 0;
}

bool words_is(struct description_text text, const char *word)
{
	return text.length == strlen(word) && words_begins(text, word);
}

bool words_is_blank(char byte)
{
	return byte == ' ' || byte == '\t';
}

struct description_text words_trim_start(struct description_text text)
{
	while (text.length > 0 && words_is_blank(text.start[0])) {
		text.start++;
		text.length--;
	}
	return text;
}

struct description_text words_trim_end(struct description_text text)
{
	while (text.length > 0 && words_is_blank(text.start[text.length - 1]))
		text.length--;
	return text;
}

struct description_text words_first_field(struct description_text text)
{
	size_t length = 0;

	while (length < text.length && !words_is_blank(text.start[length]))
		length++;
	return (struct description_text){ text.start, length };
}

struct description_text words_last_field(struct description_text text)
{
	size_t length = 0;

	while (length < text.length && !words_is_blank(text.start[text.length - length - 1]))
		length++;
	return (struct description_text){ words_end(text) - length, length };
}

struct description_text words_take_line(struct description_text *rest)
{
	const char *lf = words_find(*rest, '\n');
	struct description_text line = *rest;

	if (!lf) {
		*rest = words_make(words_end(*rest), words_end(*rest));
		return words_trim_end(line);
	}
	line = words_make(rest->start, lf);
	*rest = words_make(lf + 1, words_end(*rest));
	if (line.length > 0 && lf[-1] == '\r')
		line.length--;
	return words_trim_end(line);
}

const char *words_excerpt(char excerpt[static WORDS_EXCERPT_SIZE], struct description_text text)
{
	size_t shown = MIN(text.length, (size_t)WORDS_EXCERPT_SIZE - 1);

	for (size_t i = 0; i < shown; i++)
		excerpt[i] = text.start[i] >= 0x20 && text.start[i] < 0x7f ? text.start[i] : '?';
	if (shown < text.length)
		memcpy(excerpt + shown - 3, "...", 3);
	excerpt[shown] = '\0';
	return excerpt;
}

int words_refuse(struct description_error *error, unsigned line, const char *format, ...)
{
	va_list arguments;

	error->line = line;
	va_start(arguments, format);
	vsnprintf(error->reason, sizeof(error->reason), format, arguments);
	va_end(arguments);
	return -EINVAL;
}
