/*
 * Theory of operation: a key without the prefix is a path. One that is no path for a service is refused, and so is a
 * value that no description can be; what no router understands is let pass and told of, as `kaiso check` would.
 */
#include "mirror/intake.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "proto/description.h"
#include "proto/options.h"

static void warn(struct intake *intake, const char *message, const struct etcd_pair *pair, const char *reason)
{
	struct log_line line;
	uint32_t suppressed;

	/* Each is told once. */
	if (pair->revision <= intake->told_revision ||
	    !log_limiter_pass(&intake->limiter, clock_now_ms(), &suppressed))
		return;
	log_begin(&line, LOG_LEVEL_WARNING, message);
	log_add_bytes(&line, "key", pair->key.start, pair->key.length);
	log_add_string(&line, "reason", reason);
	if (suppressed > 0)
		log_add_number(&line, "suppressed", suppressed);
	log_end(&line);
}

/* The key without the prefix. False when it has none: etcd said something that it was not asked. */
static bool path_of(const struct intake *intake, const struct etcd_pair *pair, struct etcd_bytes *path)
{
	size_t length = intake->prefix.length;

	if (pair->key.length < length || memcmp(pair->key.start, intake->prefix.start, length) != 0)
		return false;
	*path = (struct etcd_bytes){ pair->key.start + length, pair->key.length - length };
	return true;
}

bool intake_is_options(struct etcd_bytes path)
{
	size_t length = strlen(DIRECTORY_OPTIONS);

	return path.length >= length &&
	       memcmp(path.start + path.length - length, DIRECTORY_OPTIONS, length) == 0 &&
	       (path.length == length || path.start[path.length - length - 1] == '/');
}

static int check_options(struct description_text text, unsigned line, struct description_error *error)
{
	struct options_cursor cursor = options_begin(text, line);
	struct option_line option;
	int r;

	while ((r = options_next(&cursor, &option, error)) > 0)
		continue;
	return r;
}

/* What no router understands is written all the same: it refuses that one, and says so to its clients. */
static void check_value(struct intake *intake, const struct etcd_pair *pair, struct etcd_bytes path)
{
	struct description_error error;
	struct description description;
	struct description_text text = { pair->value.start, pair->value.length };
	char reason[sizeof(error.reason) + 32];
	int r;

	if (intake_is_options(path)) {
		r = check_options(text, 1, &error);
	} else {
		r = description_parse(text.start, text.length, &description, &error);
		if (r == 0)
			r = check_options(description.options, 2, &error);
	}
	if (r == 0)
		return;
	snprintf(reason, sizeof(reason), "line %u: %s", error.line, error.reason);
	warn(intake, "invalid description", pair, reason);
}

/* Options that cannot be had must not be no options, which might let clients in: this is none that a router accepts, so it
 * lets nobody in. */
static const struct etcd_bytes no_options = { "too-long\n", sizeof("too-long\n") - 1 };

static struct etcd_bytes value_of(struct intake *intake, const struct etcd_pair *pair, struct etcd_bytes path)
{
	if (!intake_is_options(path) || pair->value.length <= DESCRIPTION_SIZE_MAX)
		return pair->value;
	warn(intake, "invalid description", pair, "too long: nobody is let in");
	return no_options;
}

/* Why a key cannot be a file; NULL when it can. */
static const char *refusal(const struct etcd_pair *pair, struct etcd_bytes path)
{
	enum path_verdict verdict = model_path_check(path.start, path.length);

	if (verdict == PATH_LEADING_SLASH)
		return "behind the prefix it begins with a slash: should the prefix end with it?";
	if (verdict != PATH_OK)
		return path_verdict_text(verdict);
	if (pair->value.length > DESCRIPTION_SIZE_MAX && !intake_is_options(path))
		return "its value is too long for a description";
	return NULL;
}

/* A directory of that name wins. */
static void warn_if_hidden(struct intake *intake, const struct model *model, const struct etcd_pair *pair,
			   struct etcd_bytes path)
{
	struct model_node *node = model->root;
	const char *name = path.start, *end = path.start + path.length;

	while (node && name < end) {
		const char *slash = memchr(name, '/', (size_t)(end - name));
		size_t length = (size_t)((slash ? slash : end) - name);

		node = model_child(model, node, name, length);
		if (node && node->value && node->keys_below > 0) {
			if (slash)
				warn(intake, "hides a service", pair, "a key above it becomes a directory");
			else
				warn(intake, "not mirrored", pair, "keys are below it: it is a directory");
			return;
		}
		name = slash ? slash + 1 : end;
	}
}

/* 1: it is in the model, or there was no room for it; 0: it is refused; -ENOMEM; -ENOSPC. */
static int take_put(struct intake *intake, struct model *model, const struct etcd_pair *pair,
		    struct etcd_bytes path, bool *is_left_out)
{
	const char *reason = refusal(pair, path);
	struct etcd_bytes value;
	int r;

	if (reason) {
		warn(intake, "not mirrored", pair, reason);
		return 0;
	}
	value = value_of(intake, pair, path);
	r = model_put(model, path.start, path.length, value.start, value.length);
	*is_left_out = r == -ENOSPC && !intake_is_options(path);
	if (r == -ENOSPC)
		warn(intake, "not mirrored", pair,
		     "there are too many services, or they take too much memory");
	if (r < 0)
		return *is_left_out ? 1 : r;
	check_value(intake, pair, path);
	warn_if_hidden(intake, model, pair, path);
	return 1;
}

int intake_pair(struct intake *intake, struct model *model, const struct etcd_pair *pair,
		struct etcd_bytes *path, bool *is_left_out)
{
	int r = 0;

	*is_left_out = false;
	if (!path_of(intake, pair, path))
		return 0;
	if (!pair->is_deleted)
		r = take_put(intake, model, pair, *path, is_left_out);
	if (r != 0 || model_path_check(path->start, path->length) != PATH_OK)
		return r;
	/* It is gone; or it has a value that is refused, and may have had another one. */
	model_remove(model, path->start, path->length);
	return 1;
}
