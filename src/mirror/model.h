/*
 * The names that a mirror holds, in memory: what its directory is to be equal to.
 *
 * A path that is a key and a directory of others at the same time is a directory; as soon as nothing is below it any
 * more, it is the file. Paths and values are copied. Pure: no system call but for memory.
 */
#ifndef KAISO_MIRROR_MODEL_H
#define KAISO_MIRROR_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "proto/path.h"

/* So deep a path may go: a directory is held open at each step. */
#define MODEL_DEPTH_MAX 64

/* A name that file systems take (NAME_MAX, <linux/limits.h>). */
#define MODEL_NAME_MAX 255

enum model_kind { MODEL_NOTHING, MODEL_FILE, MODEL_DIRECTORY };

/* Read them, do not write them. */
struct model_node {
	struct list siblings;
	struct list children;
	struct model_node *parent;
	char *value; /* NULL: it is no key */
	size_t value_length;
	size_t keys_below;
	unsigned mark; /* the caller's */
	unsigned name_length;
	const char *name; /* terminated; lies behind the node */
};

struct model {
	struct model_node *root; /* its name is "" */
	void *index;             /* tsearch(3): by parent and name */
	size_t keys;
	size_t bytes;    /* what all of it takes, about */
	size_t max_keys; /* bounds: the caller's */
	size_t max_bytes;
};

/* 0 or -ENOMEM. */
int model_init(struct model *model, size_t max_keys, size_t max_bytes);
void model_deinit(struct model *model);

/* May a mirror have this path? As path_check(), but that its last component may be DIRECTORY_OPTIONS, no component may
 * be longer than MODEL_NAME_MAX, and there are at most MODEL_DEPTH_MAX of them (PATH_TOO_LONG both). */
enum path_verdict model_path_check(const char *path, size_t length);

/* Both want a path that the check accepts. Put: 0; -ENOSPC when a bound is reached, then a value that was there before is
 * gone; -ENOMEM. Remove: of what is not there too. Nodes that nothing is at and below are freed. */
int model_put(struct model *model, const char *path, size_t path_length, const char *value,
	      size_t value_length);
void model_remove(struct model *model, const char *path, size_t path_length);

/* NULL when there is none; parent may be NULL. */
struct model_node *model_child(const struct model *model, struct model_node *parent, const char *name,
			       size_t name_length);

/* What is to be there; node may be NULL. */
enum model_kind model_kind(const struct model_node *node);

#endif
