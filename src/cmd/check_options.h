/*
 * What `kaiso check` says of option lines: those that are valid and yet cannot be meant, and, for -v, what all of them
 * come to for a service.
 */
#ifndef KAISO_CMD_CHECK_OPTIONS_H
#define KAISO_CMD_CHECK_OPTIONS_H

#include <stdio.h>

#include "proto/description.h"
#include "router/policy.h"

/* Is called with a reason, terminated printable ASCII, that stands until it returns. */
struct check_options_listener {
	void (*say)(void *context, unsigned line, const char *reason);
	void *context;
};

/* Looks for such lines in a valid text, whose first line has that number in its file. first: the target of the
 * description that the text is of, and policy what its lines come to; both NULL for those of a directory. */
void check_options(struct description_text text, unsigned first_line, const struct description_text *first,
		   const struct policy *policy, const struct check_options_listener *listener);

/* Prints, for every key that a policy names, a line for each of its values: TAB key TAB value TAB file LF. write is
 * used for what may hold anything. */
void check_options_print(FILE *stream, const struct policy *policy,
			 void (*write)(FILE *stream, const char *bytes, size_t length));

#endif
