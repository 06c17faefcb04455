/*
 * Numbers, durations and sizes from any text.
 *
 * Oracles: strtoull() and the compiler's checked multiplication must come to the same
 * result wherever the word is well formed; terminated and counted text agree;
 * a refused word leaves the result alone.
 */
#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/args.h"

#define UNTOUCHED UINT64_C(0x5555555555555555)
#define YEARS_10_MS UINT64_C(315360000000)

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static void require(int holds)
{
	if (!holds)
		abort();
}

static void check_number(const char *text, uint64_t minimum, uint64_t maximum)
{
	uint64_t value = UNTOUCHED, counted = UNTOUCHED;
	int r = args_parse_number(text, minimum, maximum, &value);
	int expected = 0;
	unsigned long long reference;

	require(args_parse_number_n(text, strlen(text), minimum, maximum, &counted) == r);
	require(counted == value);
	errno = 0;
	reference = strtoull(text, NULL, 10);
	if (text[0] == '\0' || text[strspn(text, "0123456789")] != '\0')
		expected = -EINVAL;
	else if (errno == ERANGE || reference < minimum || reference > maximum)
		expected = -ERANGE;
	require(r == expected);
	require(value == (r == 0 ? reference : UNTOUCHED));
}

/* What a suffix multiplies with; 0 for an unknown one. */
static uint64_t duration_factor(const char *suffix)
{
	static const char *const suffixes[] = { "ms", "s", "m", "h", "d" };
	static const uint64_t factors[] = { 1, 1000, 60000, 3600000, 86400000 };

	for (size_t i = 0; i < sizeof(factors) / sizeof(factors[0]); i++)
		if (strcmp(suffix, suffixes[i]) == 0)
			return factors[i];
	return 0;
}

static uint64_t size_factor(const char *suffix)
{
	if (suffix[0] == '\0')
		return 1;
	if (suffix[1] != '\0')
		return 0;
	return suffix[0] == 'k' ? 1024 : suffix[0] == 'M' ? 1048576 : suffix[0] == 'G' ? 1073741824 : 0;
}

static void check_unit(const char *text, int r, uint64_t value, uint64_t factor, uint64_t limit)
{
	unsigned long long number;
	uint64_t product;

	if (!isdigit((unsigned char)text[0]) || factor == 0) {
		require(r == -EINVAL && value == UNTOUCHED);
		return;
	}
	errno = 0;
	number = strtoull(text, NULL, 10);
	if (errno == ERANGE || __builtin_mul_overflow(number, factor, &product) || product > limit)
		require(r == -ERANGE && value == UNTOUCHED);
	else
		require(r == 0 && value == product);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	char *text = malloc(size + 1);
	const char *suffix;
	uint64_t duration = UNTOUCHED, bytes = UNTOUCHED;
	int r;

	require(text != NULL);
	memcpy(text, input, size);
	text[size] = '\0';
	suffix = text + strspn(text, "0123456789");
	check_number(text, 0, UINT64_MAX);
	check_number(text, 1, 65535);
	r = args_parse_size(text, &bytes);
	check_unit(text, r, bytes, size_factor(suffix), UINT64_MAX);
	r = args_parse_duration_ms(text, &duration);
	if (strcmp(text, "0") == 0)
		require(r == 0 && duration == 0);
	else
		check_unit(text, r, duration, duration_factor(suffix), YEARS_10_MS);
	free(text);
	return 0;
}
