/*
 * The policies of the directories that a walk is inside (router/listing.h), so that each is looked up once, and by one
 * step from the one that it lies in.
 */
#ifndef KAISO_ROUTER_TRAIL_H
#define KAISO_ROUTER_TRAIL_H

#include <stddef.h>

#include "router/policy.h"

struct trail_step;

/* Begin with { .policies = ... }, borrowed. */
struct trail {
	struct policies *policies;
	struct trail_step *steps;
	size_t depth;
	size_t capacity;
};

void trail_deinit(struct trail *trail);

/*
 * The walk has entered a directory ("" the services directory; fd is open on it, maybe O_PATH): as
 * policies_find_directory(), whose errors leave the trail as it was, so it may be tried again. Where a directory is
 * not entered on the trail, nothing below may be asked for.
 */
int trail_enter(struct trail *trail, int fd, const char *directory, size_t length,
		struct description_error *error, char file[static POLICY_FILE_SIZE]);

/* After such an error: the walk goes on, as if that directory's file said nothing. */
int trail_enter_silent(struct trail *trail, const char *directory, size_t length);

/* The policy of the directory that was entered last; the same otherwise. */
struct policy *trail_last(const struct trail *trail);

/* The policy of the directory in which what has this path stands; borrowed until the next trail_enter(). NULL where
 * nothing is said. */
struct policy *trail_policy(struct trail *trail, const char *path, size_t length);

#endif
