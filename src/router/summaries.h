/*
 * What lists need to know of descriptions, so that each need not be opened, read and parsed for every list.
 *
 * Not thread safe. What is remembered is bounded, and believed only while the file looks the same (fstatat(2)).
 */
#ifndef KAISO_ROUTER_SUMMARIES_H
#define KAISO_ROUTER_SUMMARIES_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/description.h"
#include "router/policy.h"

/* Bounds of what is remembered: files, and bytes in all. */
#define SUMMARIES_MAX 65536
#define SUMMARIES_BYTES_MAX (32u << 20)

struct summary {
	bool is_valid; /* a description that can be read; else nothing of the rest means anything */
	enum description_kind kind;
	const char *about;               /* terminated; NULL where the file names none */
	bool has_rules;                  /* it names allow or deny */
	struct description_text options; /* where has_rules: its option lines */
};

struct summaries;

/* NULL when out of memory. */
struct summaries *summaries_new(void);
void summaries_free(struct summaries *summaries);

/* What is looked at from now on belongs to one more list. */
void summaries_begin(struct summaries *summaries);

/* Of the file of that name in a directory: 0 and *summary, which stays until the next call; -EAGAIN, somebody is writing
 * it; -ENOENT, it is gone; or another negative errno, when the process is out of something. */
int summaries_find(struct summaries *summaries, int directory_fd, const char *name,
		   const struct summary **summary);

/* May this client list and open what the summary is of, in a directory of that policy (NULL for none)? 1, 0, or
 * -ENOMEM. */
int summary_admits(const struct summary *summary, struct policy *directory, const union addr *client);

#endif
