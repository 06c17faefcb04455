/*
 * Service paths: what a client may name.
 *
 * Theory of operation: a path is judged component by component, from left to
 * right, and the first fault is the verdict. No component that survives can
 * climb ("..") or reach what the operator hid, so whoever opens an accepted
 * path below a directory needs no second look at its text. Lists show a name
 * by the same rule, path_check_component(): whatever is shown can be asked for.
 */
#include "proto/path.h"

#include <string.h>

static bool is_control(char byte)
{
	/* Plain char may be signed: UTF-8 bytes must not count as below 0x20. */
	unsigned char value = (unsigned char)byte;

	return value < 0x20 || value == 0x7f;
}

enum path_verdict path_check_component(const char *name, size_t length)
{
	if (length == 0)
		return PATH_EMPTY;
	if (length > PATH_LENGTH_MAX)
		return PATH_TOO_LONG;
	/* "." and ".." are among the hidden names. */
	if (name[0] == '.')
		return PATH_HIDDEN;
	for (size_t i = 0; i < length; i++) {
		if (is_control(name[i]))
			return PATH_CONTROL_BYTE;
	}
	return PATH_OK;
}

enum path_verdict path_check(const char *path, size_t length)
{
	const char *component = path;

	if (length == 0)
		return PATH_EMPTY;
	if (length > PATH_LENGTH_MAX)
		return PATH_TOO_LONG;
	if (path[0] == '/')
		return PATH_LEADING_SLASH;
	/* A '/' at the end leaves one more component, an empty one. */
	for (;;) {
		size_t left = length - (size_t)(component - path);
		const char *slash = memchr(component, '/', left);
		enum path_verdict verdict =
			path_check_component(component, slash ? (size_t)(slash - component) : left);

		/* The path as a whole is not empty, so this is about one of its components. */
		if (verdict == PATH_EMPTY)
			return PATH_EMPTY_COMPONENT;
		if (verdict != PATH_OK || !slash)
			return verdict;
		component = slash + 1;
	}
}

const char *path_verdict_text(enum path_verdict verdict)
{
	switch (verdict) {
	case PATH_OK:
		return "fine";
	case PATH_EMPTY:
		return "empty";
	case PATH_TOO_LONG:
		return "too long";
	case PATH_LEADING_SLASH:
		return "begins with a slash";
	case PATH_EMPTY_COMPONENT:
		return "has an empty component";
	case PATH_HIDDEN:
		return "has a component that begins with a dot";
	case PATH_CONTROL_BYTE:
		return "holds a control byte";
	}
	return "unknown";
}
