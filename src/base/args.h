/*
 * Words of the command line to values. Nothing here prints: a parser returns
 * 0 or -EINVAL (no such value) or -ERANGE (outside the range), and the caller
 * names the option. Leading and trailing blanks, signs and trailing junk are
 * refused. Results are written on success only.
 */
#ifndef KAISO_BASE_ARGS_H
#define KAISO_BASE_ARGS_H

#include <stddef.h>
#include <stdint.h>

/* Decimal digits only, minimum <= value <= maximum. */
int args_parse_number(const char *word, uint64_t minimum, uint64_t maximum, uint64_t *value);

/* The same for text that is not terminated. */
int args_parse_number_n(const char *text, size_t length, uint64_t minimum, uint64_t maximum, uint64_t *value);

/* A number with a unit ms, s, m, h or d ("500ms", "10s", "5m"), or 0 alone for "none";
 * a number without a unit other than 0 is -EINVAL. At most 10 years. */
int args_parse_duration_ms(const char *word, uint64_t *milliseconds);

/* A number of bytes, with an optional suffix k, M or G for powers of 1024. */
int args_parse_size(const char *word, uint64_t *bytes);

#endif
