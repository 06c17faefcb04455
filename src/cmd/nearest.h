/*
 * "Did you mean": the names in a list that are most like one that is not in it.
 */
#ifndef KAISO_CMD_NEAREST_H
#define KAISO_CMD_NEAREST_H

#include <stddef.h>
#include <stdio.h>

#include "net/client.h"

#define NEAREST_MAX 3

/* Fills names (which point into the list) with the nearest first; returns how many there are, 0 when
 * none is near. Looks at a bounded number of entries, so its time is bounded whatever the list. */
size_t nearest_names(const struct client_list *list, const char *wanted,
		     struct client_text names[static NEAREST_MAX]);

/* The same for the directories that services lie in; wanted has no slash at its end, names have one. */
size_t nearest_directories(const struct client_list *list, const char *wanted,
			   struct client_text names[static NEAREST_MAX]);

/* "; did you mean 'NAME' or 'NAME'?", with the line's end. At least one name. */
void nearest_write(FILE *stream, const struct client_text *names, size_t count);

#endif
