/*
 * Lines and words of description files and option lines, and what is told of their faults.
 *
 * Pure text, no allocation. Blanks are spaces and tabs.
 */
#ifndef KAISO_PROTO_WORDS_H
#define KAISO_PROTO_WORDS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/macros.h"
#include "proto/description.h"

#define WORDS_EXCERPT_SIZE 40

struct description_text words_make(const char *start, const char *end);
const char *words_end(struct description_text text);

/* Where byte stands first, last; NULL for nowhere. */
const char *words_find(struct description_text text, char byte);
const char *words_find_last(struct description_text text, char byte);

bool words_begins(struct description_text text, const char *word);
bool words_is(struct description_text text, const char *word);
bool words_is_blank(char byte);

struct description_text words_trim_start(struct description_text text);
struct description_text words_trim_end(struct description_text text);

/* Up to the first blank; from behind the last one. */
struct description_text words_first_field(struct description_text text);
struct description_text words_last_field(struct description_text text);

/* Takes the next line off the front of rest, without its end and the blanks before that. A CR counts as part of
 * a line's end only where a LF follows. */
struct description_text words_take_line(struct description_text *rest);

/* Writes the beginning of text as printable ASCII; what else it holds becomes '?'. Returns excerpt. */
const char *words_excerpt(char excerpt[static WORDS_EXCERPT_SIZE], struct description_text text);

/* Fills in *error and returns what a parser is to return: -EINVAL. */
PRINTF_LIKE(3, 4)
int words_refuse(struct description_error *error, unsigned line, const char *format, ...);

#endif
