/*
 * Bytes from elsewhere made fit to be shown: on a terminal, in a pipe, in JSON.
 *
 * Texts have a length and need not be terminated or valid UTF-8.
 */
#ifndef KAISO_BASE_TEXT_H
#define KAISO_BASE_TEXT_H

#include <stddef.h>
#include <stdio.h>

/*
 * Writes text for eyes: control characters (C0, DEL, C1, Unicode's line ends) and bytes that are no
 * UTF-8 become \xHH, so that no terminal obeys them. With stream NULL nothing is written. Returns the
 * columns taken: one for each character, which is right for most scripts.
 */
size_t text_write_visible(FILE *stream, const char *text, size_t length);

/* Writes text for programs: only the bytes below 0x20 and 0x7F become \xHH; no service's name holds them. */
void text_write_plain(FILE *stream, const char *text, size_t length);

/*
 * Writes text as a JSON string with its quotes (RFC 8259), control characters escaped. A byte 0xHH that
 * is no UTF-8 becomes the lone surrogate \udcHH, as in Python's "surrogateescape": os.fsencode() gives
 * the bytes back.
 */
void text_write_json(FILE *stream, const char *text, size_t length);

/* The same for parsers that take no lone surrogates, and for pages: a byte that is no UTF-8 becomes U+FFFD, and "<" is
 * escaped. */
void text_write_strict_json(FILE *stream, const char *text, size_t length);

#endif
