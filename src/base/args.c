/*
 * Numbers, durations and sizes as people write them.
 *
 * Everything comes down to one digit reader that never leaves its text and
 * tells "no number" from "too large": the whole word is judged before the
 * range is, so that "99999999999999999999x" is a wrong word, not a large one.
 * Units are tables; a product cannot overflow because the number in front of a
 * unit is held against the limit divided by that unit.
 */
#include "base/args.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/macros.h"

#define DURATION_MAX_MS (UINT64_C(3650) * 24 * 3600 * 1000)

struct unit {
	const char *suffix;
	uint64_t factor;
};

static const struct unit duration_units[] = {
	{ "ms", 1 }, { "s", 1000 }, { "m", 60 * 1000 }, { "h", 3600 * 1000 }, { "d", 24 * 3600 * 1000 },
};

static const struct unit size_units[] = {
	{ "", 1 },
	{ "k", UINT64_C(1) << 10 },
	{ "M", UINT64_C(1) << 20 },
	{ "G", UINT64_C(1) << 30 },
};

/* isdigit() asks the locale and is undefined for negative char. */
static bool is_digit(char byte)
{
	return byte >= '0' && byte <= '9';
}

static size_t count_digits(const char *text, size_t length)
{
	size_t count = 0;

	while (count < length && is_digit(text[count]))
		count++;
	return count;
}

int args_parse_number_n(const char *text, size_t length, uint64_t minimum, uint64_t maximum, uint64_t *value)
{
	uint64_t number = 0;

	if (length == 0 || count_digits(text, length) != length)
		return -EINVAL;
	for (size_t i = 0; i < length; i++) {
		unsigned int digit = (unsigned int)(text[i] - '0');

		if (number > (UINT64_MAX - digit) / 10)
			return -ERANGE;
		number = number * 10 + digit;
	}
	if (number < minimum || number > maximum)
		return -ERANGE;
	*value = number;
	return 0;
}

int args_parse_number(const char *word, uint64_t minimum, uint64_t maximum, uint64_t *value)
{
	return args_parse_number_n(word, strlen(word), minimum, maximum, value);
}

/* Digits and one suffix of the table; the product is at most limit. */
static int parse_with_unit(const char *word, const struct unit *units, size_t unit_count, uint64_t limit,
			   uint64_t *value)
{
	size_t digits = count_digits(word, strlen(word));
	uint64_t number;
	int r;

	for (size_t i = 0; i < unit_count; i++) {
		if (strcmp(word + digits, units[i].suffix) != 0)
			continue;
		r = args_parse_number_n(word, digits, 0, limit / units[i].factor, &number);
		if (r == 0)
			*value = number * units[i].factor;
		return r;
	}
	return -EINVAL;
}

int args_parse_duration_ms(const char *word, uint64_t *milliseconds)
{
	/* Only nothing is the same in every unit. */
	if (strcmp(word, "0") == 0) {
		*milliseconds = 0;
		return 0;
	}
	return parse_with_unit(word, duration_units, ARRAY_SIZE(duration_units), DURATION_MAX_MS,
			       milliseconds);
}

int args_parse_size(const char *word, uint64_t *bytes)
{
	return parse_with_unit(word, size_units, ARRAY_SIZE(size_units), UINT64_MAX, bytes);
}
