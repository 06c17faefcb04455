/*
 * The names of a mirror in memory: which paths it may have, what is a file and what a directory, and its bounds.
 */
#include "fixture.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"
#include "mirror/model.h"

static void put(struct model *model, const char *path, const char *value)
{
	assert_int_equal(model_put(model, path, strlen(path), value, strlen(value)), 0);
}

static void drop(struct model *model, const char *path)
{
	model_remove(model, path, strlen(path));
}

static struct model_node *find(const struct model *model, const char *path)
{
	struct model_node *node = model->root;

	while (*path != '\0' && node) {
		size_t length = strcspn(path, "/");

		node = model_child(model, node, path, length);
		path += length + (path[length] == '/');
	}
	return node;
}

static void check_kind(const struct model *model, const char *path, enum model_kind kind)
{
	assert_int_equal(model_kind(find(model, path)), kind);
}

static void test_path_check(void **state)
{
	static const struct {
		const char *path;
		enum path_verdict verdict;
	} cases[] = {
		{ "a", PATH_OK },
		{ "a/b c", PATH_OK },
		{ ".kaiso", PATH_OK },
		{ "a/.kaiso", PATH_OK },
		{ "", PATH_EMPTY },
		{ "/a", PATH_LEADING_SLASH },
		{ "/.kaiso", PATH_LEADING_SLASH },
		{ "a/", PATH_EMPTY_COMPONENT },
		{ "a//.kaiso", PATH_EMPTY_COMPONENT },
		{ ".kaiso/a", PATH_HIDDEN },
		{ ".kaiso/.kaiso", PATH_HIDDEN },
		{ ".kaisox", PATH_HIDDEN },
		{ ".kaiso-mirror", PATH_HIDDEN },
		{ "../.kaiso", PATH_HIDDEN },
		{ "a/../.kaiso", PATH_HIDDEN },
		{ "..", PATH_HIDDEN },
		{ "a\n", PATH_CONTROL_BYTE },
		{ "a\n/.kaiso", PATH_CONTROL_BYTE },
	};
	char deep[2 * MODEL_DEPTH_MAX + 1], long_name[MODEL_NAME_MAX + 1];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(model_path_check(cases[i].path, strlen(cases[i].path)), cases[i].verdict);
	for (size_t i = 0; i < sizeof(deep); i++)
		deep[i] = i % 2 ? '/' : 'd';
	assert_int_equal(model_path_check(deep, sizeof(deep) - 2), PATH_OK);
	assert_int_equal(model_path_check(deep, sizeof(deep)), PATH_TOO_LONG);
	memset(long_name, 'n', sizeof(long_name));
	assert_int_equal(model_path_check(long_name, MODEL_NAME_MAX), PATH_OK);
	assert_int_equal(model_path_check(long_name, sizeof(long_name)), PATH_TOO_LONG);
	assert_int_equal(model_path_check("a\0b", 3), PATH_CONTROL_BYTE);
}

static void test_files_and_directories(void **state)
{
	struct model model;

	(void)state;
	assert_int_equal(model_init(&model, 100, 1 << 20), 0);
	check_kind(&model, "", MODEL_DIRECTORY);
	check_kind(&model, "a", MODEL_NOTHING);
	put(&model, "a", "one");
	check_kind(&model, "a", MODEL_FILE);
	put(&model, "a/b/c", "two");
	check_kind(&model, "a", MODEL_DIRECTORY);
	check_kind(&model, "a/b", MODEL_DIRECTORY);
	check_kind(&model, "a/b/c", MODEL_FILE);
	/* Names that begin with others, and order, are no matter. */
	put(&model, "a/b/cc", "");
	check_kind(&model, "a/b/cc", MODEL_FILE);
	assert_int_equal(model.keys, 3);
	drop(&model, "a/b");
	drop(&model, "a/x/y");
	assert_int_equal(model.keys, 3);
	drop(&model, "a/b/c");
	drop(&model, "a/b/cc");
	check_kind(&model, "a", MODEL_FILE);
	assert_null(find(&model, "a/b"));
	assert_memory_equal(find(&model, "a")->value, "one", 3);
	put(&model, "a", "other");
	assert_int_equal(find(&model, "a")->value_length, 5);
	drop(&model, "a");
	assert_null(find(&model, "a"));
	assert_int_equal(model.keys, 0);
	assert_int_equal(model.bytes, 0);
	model_deinit(&model);
}

static void test_bounds(void **state)
{
	struct model model;
	char value[1000] = { 0 };

	(void)state;
	assert_int_equal(model_init(&model, 2, 4000), 0);
	put(&model, "a", "1");
	put(&model, "b", "2");
	assert_int_equal(model_put(&model, "c/d", 3, "3", 1), -ENOSPC);
	assert_null(find(&model, "c"));
	put(&model, "b", "3");
	drop(&model, "a");
	put(&model, "c", "3");
	assert_int_equal(model_put(&model, "c", 1, value, sizeof(value)), 0);
	model.max_bytes = 1000;
	/* What was there is gone: it is not what etcd has. */
	assert_int_equal(model_put(&model, "c", 1, value, sizeof(value)), -ENOSPC);
	assert_null(find(&model, "c"));
	model_deinit(&model);
}

static void test_many(void **state)
{
	struct model model;
	char path[32];

	(void)state;
	assert_int_equal(model_init(&model, 100000, 64 << 20), 0);
	for (unsigned i = 0; i < 20000; i++) {
		snprintf(path, sizeof(path), "%u/%u", i % 97, i);
		put(&model, path, path);
	}
	assert_int_equal(model.keys, 20000);
	for (unsigned i = 0; i < 20000; i++) {
		snprintf(path, sizeof(path), "%u/%u", i % 97, i);
		assert_string_equal(find(&model, path)->name, strchr(path, '/') + 1);
		if (i % 2)
			drop(&model, path);
	}
	assert_int_equal(model.keys, 10000);
	model_deinit(&model);
	assert_null(model.root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_path_check),
		cmocka_unit_test(test_files_and_directories),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_many),
	};

	return FIXTURE_RUN(tests);
}
