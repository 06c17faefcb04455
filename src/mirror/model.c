/*
 * Theory of operation: a node for each component, in one balanced tree ordered by parent and name. Whoever writes to etcd
 * chooses the names, so it is no hash table, which chosen names could make slow. A node knows how many keys
 * are below it; that alone says whether it is a directory.
 */
#include "mirror/model.h"

#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"

/* What tsearch(3) and malloc(3) need beside a node and a value. */
#define NODE_OVERHEAD 64

static size_t node_cost(size_t name_length)
{
	return sizeof(struct model_node) + name_length + 1 + NODE_OVERHEAD;
}

static int compare_nodes(const void *one, const void *other)
{
	const struct model_node *x = one, *y = other;
	int order;

	if (x->parent != y->parent)
		return (uintptr_t)x->parent < (uintptr_t)y->parent ? -1 : 1;
	order = memcmp(x->name, y->name, MIN(x->name_length, y->name_length));
	if (order != 0)
		return order;
	return x->name_length < y->name_length ? -1 : x->name_length > y->name_length;
}

static struct model_node *node_new(struct model_node *parent, const char *name, size_t name_length)
{
	struct model_node *node = calloc(1, sizeof(*node) + name_length + 1);
	char *copy;

	if (!node)
		return NULL;
	copy = (char *)(node + 1);
	memcpy(copy, name, name_length);
	node->name = copy;
	list_init(&node->siblings);
	list_init(&node->children);
	node->parent = parent;
	node->name_length = (unsigned)name_length;
	return node;
}

static void node_free(void *node)
{
	free(((struct model_node *)node)->value);
	free(node);
}

int model_init(struct model *model, size_t max_keys, size_t max_bytes)
{
	*model =
		(struct model){ .root = node_new(NULL, "", 0), .max_keys = max_keys, .max_bytes = max_bytes };
	return model->root ? 0 : -ENOMEM;
}

void model_deinit(struct model *model)
{
	tdestroy(model->index, node_free);
	free(model->root);
	*model = (struct model){ 0 };
}

/* ---- paths --------------------------------------------------------------------------------------- */

/* path_check() without the bounds of its own: it has no empty component. */
static enum path_verdict check_bounds(const char *path, size_t length)
{
	size_t depth = 1, name_length = 0;

	for (size_t i = 0; i < length; i++) {
		name_length = path[i] == '/' ? 0 : name_length + 1;
		depth += path[i] == '/';
		if (name_length > MODEL_NAME_MAX || depth > MODEL_DEPTH_MAX)
			return PATH_TOO_LONG;
	}
	return PATH_OK;
}

enum path_verdict model_path_check(const char *path, size_t length)
{
	static const char options[] = "/" DIRECTORY_OPTIONS;
	size_t options_length = sizeof(options) - 1;
	enum path_verdict verdict;

	if (length == options_length - 1 && memcmp(path, options + 1, length) == 0)
		return PATH_OK;
	if (length > PATH_LENGTH_MAX)
		return PATH_TOO_LONG;
	if (length > options_length && memcmp(path + length - options_length, options, options_length) == 0)
		verdict = path_check(path, length - options_length);
	else if (length > PATH_LENGTH_MAX - options_length) /* what guards it has to find room beside it */
		verdict = PATH_TOO_LONG;
	else
		verdict = path_check(path, length);
	return verdict == PATH_OK ? check_bounds(path, length) : verdict;
}

/* Takes the first component off a path; 0 when there is none any more. */
static size_t next_name(const char **path, size_t *length, const char **name)
{
	const char *slash = memchr(*path, '/', *length);
	size_t name_length = slash ? (size_t)(slash - *path) : *length;
	size_t taken = slash ? name_length + 1 : name_length;

	*name = *path;
	*path += taken;
	*length -= taken;
	return name_length;
}

/* ---- nodes --------------------------------------------------------------------------------------- */

struct model_node *model_child(const struct model *model, struct model_node *parent, const char *name,
			       size_t name_length)
{
	struct model_node wanted = { .parent = parent, .name = name, .name_length = (unsigned)name_length };
	void *found;

	if (!parent || name_length > MODEL_NAME_MAX)
		return NULL;
	found = tfind(&wanted, &model->index, compare_nodes);
	return found ? *(struct model_node **)found : NULL;
}

enum model_kind model_kind(const struct model_node *node)
{
	if (!node)
		return MODEL_NOTHING;
	if (!node->parent || node->keys_below > 0)
		return MODEL_DIRECTORY;
	return node->value ? MODEL_FILE : MODEL_NOTHING;
}

static struct model_node *add_child(struct model *model, struct model_node *parent, const char *name,
				    size_t name_length)
{
	struct model_node *child = model_child(model, parent, name, name_length);

	if (child)
		return child;
	child = node_new(parent, name, name_length);
	if (!child)
		return NULL;
	if (!tsearch(child, &model->index, compare_nodes)) {
		node_free(child);
		return NULL;
	}
	list_append(&parent->children, &child->siblings);
	model->bytes += node_cost(name_length);
	return child;
}

/* Frees it, and what is above it, as long as nothing is there and below. */
static void prune(struct model *model, struct model_node *node)
{
	while (node->parent && !node->value && list_is_empty(&node->children)) {
		struct model_node *parent = node->parent;

		tdelete(node, &model->index, compare_nodes);
		list_remove(&node->siblings);
		model->bytes -= node_cost(node->name_length);
		node_free(node);
		node = parent;
	}
}

static void count_key(struct model *model, struct model_node *node, bool is_added)
{
	for (struct model_node *above = node->parent; above; above = above->parent)
		above->keys_below += is_added ? 1 : (size_t)-1;
	model->keys += is_added ? 1 : (size_t)-1;
}

static void drop_value(struct model *model, struct model_node *node)
{
	if (!node->value)
		return;
	model->bytes -= node->value_length;
	free(STEAL_PTR(node->value));
	count_key(model, node, false);
}

static int set_value(struct model *model, struct model_node *node, const char *value, size_t value_length)
{
	drop_value(model, node);
	if (model->keys >= model->max_keys || model->bytes > model->max_bytes ||
	    value_length > model->max_bytes - model->bytes)
		return -ENOSPC;
	/* A byte more, so that an empty one is there too. */
	node->value = malloc(value_length + 1);
	if (!node->value)
		return -ENOMEM;
	memcpy(node->value, value, value_length);
	node->value_length = value_length;
	model->bytes += value_length;
	count_key(model, node, true);
	return 0;
}

int model_put(struct model *model, const char *path, size_t path_length, const char *value,
	      size_t value_length)
{
	struct model_node *node = model->root;
	const char *name;
	int r;

	while (path_length > 0) {
		size_t name_length = next_name(&path, &path_length, &name);
		struct model_node *child = add_child(model, node, name, name_length);

		if (!child) {
			prune(model, node);
			return -ENOMEM;
		}
		node = child;
	}
	r = set_value(model, node, value, value_length);
	if (r < 0)
		prune(model, node);
	return r;
}

void model_remove(struct model *model, const char *path, size_t path_length)
{
	struct model_node *node = model->root;
	const char *name;

	while (path_length > 0 && node) {
		size_t name_length = next_name(&path, &path_length, &name);

		node = model_child(model, node, name, name_length);
	}
	if (!node)
		return;
	drop_value(model, node);
	prune(model, node);
}
