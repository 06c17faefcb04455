/*
 * Service paths: components separated by '/' (the protocol, "Paths").
 *
 * Pure text. A path is bytes with a length, not terminated, and may hold
 * anything but what path_check() refuses.
 */
#ifndef KAISO_PROTO_PATH_H
#define KAISO_PROTO_PATH_H

#include <stdbool.h>
#include <stddef.h>

/* Longest path that a request line can carry: 4096 bytes less the shortest terminator, LF. */
#define PATH_LENGTH_MAX 4095

/* The hidden file of a directory that holds options for what is below it. */
#define DIRECTORY_OPTIONS ".kaiso"

enum path_verdict {
	PATH_OK,
	PATH_EMPTY,    /* no byte at all */
	PATH_TOO_LONG, /* more than PATH_LENGTH_MAX bytes */
	PATH_LEADING_SLASH,
	PATH_EMPTY_COMPONENT, /* "a//b", or a '/' at the end */
	PATH_HIDDEN,          /* a component that begins with '.', so "." and ".." too */
	PATH_CONTROL_BYTE,    /* below 0x20, or 0x7F */
};

/* Whether a client may name this path. A path that ends in '/' is refused here: strip the one
 * '/' that asks for a directory first. */
enum path_verdict path_check(const char *path, size_t length);

/* One file name as a directory holds it: may a list show it? (PATH_OK, or why not.) The name
 * must hold no '/'. */
enum path_verdict path_check_component(const char *name, size_t length);

/* A few words for logs and `kaiso check`, static. */
const char *path_verdict_text(enum path_verdict verdict);

#endif
