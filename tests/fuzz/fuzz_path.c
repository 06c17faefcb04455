/*
 * Any bytes as a service path, against a second opinion that is written as a
 * byte-wise state machine, where path_check() goes by components.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/path.h"

#define ENSURE(condition)         \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length);

/* Nothing that could climb, hide, break a line or stand for two names of the same thing. */
static bool is_harmless(const uint8_t *path, size_t length)
{
	uint8_t before = '/';

	if (length == 0 || length > 4095)
		return false;
	for (size_t i = 0; i < length; i++) {
		if (path[i] < 32 || path[i] == 127)
			return false;
		if (before == '/' && (path[i] == '/' || path[i] == '.'))
			return false;
		before = path[i];
	}
	return before != '/';
}

/* A verdict other than PATH_OK must name a fault that is there. */
static bool is_true(enum path_verdict verdict, const uint8_t *path, size_t length)
{
	bool is_seen = false;

	switch (verdict) {
	case PATH_OK:
		return is_harmless(path, length);
	case PATH_EMPTY:
		return length == 0;
	case PATH_TOO_LONG:
		return length > 4095;
	case PATH_LEADING_SLASH:
		return path[0] == '/';
	case PATH_EMPTY_COMPONENT:
		for (size_t i = 1; i < length; i++)
			is_seen |= path[i] == '/' && path[i - 1] == '/';
		return is_seen || path[length - 1] == '/';
	case PATH_HIDDEN:
		for (size_t i = 0; i < length; i++)
			is_seen |= path[i] == '.' && (i == 0 || path[i - 1] == '/');
		return is_seen;
	case PATH_CONTROL_BYTE:
		for (size_t i = 0; i < length; i++)
			is_seen |= path[i] < 32 || path[i] == 127;
		return is_seen;
	}
	return false;
}

/* Whatever a list shows, component by component, can be asked for as a whole. */
static void check_components(const char *path, size_t length, bool is_accepted)
{
	bool are_accepted = length <= PATH_LENGTH_MAX;
	size_t start = 0;

	for (size_t i = 0; i <= length; i++) {
		if (i < length && path[i] != '/')
			continue;
		are_accepted &= path_check_component(path + start, i - start) == PATH_OK;
		start = i + 1;
	}
	ENSURE(are_accepted == is_accepted);
}

/* What a client may name, it may name below another directory too. */
static void check_nested(const char *path, size_t length, enum path_verdict verdict)
{
	char *nested = malloc(length + 2);

	ENSURE(nested);
	nested[0] = 'd';
	nested[1] = '/';
	memcpy(nested + 2, path, length);
	if (verdict == PATH_OK && length + 2 <= PATH_LENGTH_MAX)
		ENSURE(path_check(nested, length + 2) == PATH_OK);
	else
		ENSURE(path_check(nested, length + 2) != PATH_OK);
	free(nested);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length)
{
	const char *path = (const char *)input;
	enum path_verdict verdict = path_check(path, length);

	ENSURE((verdict == PATH_OK) == is_harmless(input, length));
	ENSURE(is_true(verdict, input, length));
	ENSURE(path_verdict_text(verdict)[0] != '\0');
	check_components(path, length, verdict == PATH_OK);
	check_nested(path, length, verdict);
	return 0;
}
