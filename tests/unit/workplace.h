/*
 * A directory for each test: made anew under /tmp, with an empty directory
 * "services" in it, and the working directory while the test runs.
 *
 * WORKPLACE_TEST(function) stands in a table where FIXTURE_TEST(function) would, and compares
 * the open descriptors too.
 */
#ifndef KAISO_UNIT_WORKPLACE_H
#define KAISO_UNIT_WORKPLACE_H

#include "fixture.h"

/* In the form of cmocka's setup and teardown functions; *state is left alone. A pair may also be called
 * within a test, teardown first, for a clean directory half-way. */
int workplace_setup(void **state);
int workplace_teardown(void **state);

/* A stream socket that nobody listens on. path is no longer than a socket address. */
void workplace_make_socket(const char *path);

/* Replaces what a file at path held before. */
void workplace_make_file(const char *path, const char *content);

/* One word makes one entry of services: "d:DIR", "s:SOCKET", "f:FILE" (which holds "host:80"), "p:FIFO",
 * "l:LINK>TARGET". */
void workplace_make(const char *word);

/* words ends with NULL. */
void workplace_make_all(const char *const *words);

#define WORKPLACE_TEST(function) \
	cmocka_unit_test_setup_teardown(function, workplace_setup, workplace_teardown)

#endif
