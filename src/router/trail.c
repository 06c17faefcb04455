/*
 * A walk is depth first, so the directories that it is inside are those on the way to what it reports: a step whose path
 * is longer than that of the directory in question has been left.
 */
#include "router/trail.h"

#include <stdlib.h>
#include <string.h>

#include "base/macros.h"

struct trail_step {
	size_t length;         /* of the directory's path */
	struct policy *policy; /* a reference */
};

/* How long the path of the directory is in which that stands. */
static size_t parent_length(const char *path, size_t length)
{
	const char *slash = memrchr(path, '/', length);

	return slash ? (size_t)(slash - path) : 0;
}

static void trail_leave_to(struct trail *trail, size_t length)
{
	while (trail->depth > 0 && trail->steps[trail->depth - 1].length > length)
		policy_unref(trail->steps[--trail->depth].policy);
}

void trail_deinit(struct trail *trail)
{
	while (trail->depth > 0)
		policy_unref(trail->steps[--trail->depth].policy);
	free(trail->steps);
	*trail = (struct trail){ .policies = trail->policies };
}

static int trail_reserve(struct trail *trail)
{
	const size_t capacity = MAX(2 * trail->capacity, (size_t)8);
	struct trail_step *steps;

	if (trail->depth < trail->capacity)
		return 0;
	steps = realloc(trail->steps, capacity * sizeof(*steps));
	if (!steps)
		return -ENOMEM;
	trail->steps = steps;
	trail->capacity = capacity;
	return 0;
}

int trail_enter(struct trail *trail, int fd, const char *directory, size_t length,
		struct description_error *error, char file[static POLICY_FILE_SIZE])
{
	struct policy *policy;
	int r = trail_reserve(trail);

	if (r < 0) {
		*file = '\0';
		return r;
	}
	trail_leave_to(trail, parent_length(directory, length));
	if (trail->depth == 0)
		r = policies_find_directory(trail->policies, directory, length, &policy, error, file);
	else
		r = policies_find_below(trail->policies, trail->steps[trail->depth - 1].policy, fd, directory,
					length, &policy, error, file);
	if (r == 0)
		trail->steps[trail->depth++] = (struct trail_step){ .length = length, .policy = policy };
	return r;
}

int trail_enter_silent(struct trail *trail, const char *directory, size_t length)
{
	struct policy *policy;
	int r = trail_reserve(trail);

	if (r < 0)
		return r;
	policy = trail_policy(trail, directory, length);
	if (length == 0)
		policy = NULL;
	policy_ref(policy);
	trail->steps[trail->depth++] = (struct trail_step){ .length = length, .policy = policy };
	return 0;
}

struct policy *trail_last(const struct trail *trail)
{
	return trail->depth > 0 ? trail->steps[trail->depth - 1].policy : NULL;
}

struct policy *trail_policy(struct trail *trail, const char *path, size_t length)
{
	trail_leave_to(trail, parent_length(path, length));
	return trail_last(trail);
}
