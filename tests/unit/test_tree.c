/*
 * A directory that is made equal to a model: whatever lies there before, and never anything outside of it.
 */
#include "workplace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/macros.h"
#include "mirror/tree.h"

#define SOURCE "/k/"

struct scene {
	struct tree tree;
	struct model model;
};

static void scene_init(struct scene *scene)
{
	char reason[TREE_REASON_SIZE];

	memset(scene, 0, sizeof(*scene));
	assert_int_equal(model_init(&scene->model, 1000, 1 << 20), 0);
	assert_int_equal(tree_open(&scene->tree, "services/m", SOURCE, reason), 0);
}

static void scene_deinit(struct scene *scene)
{
	tree_close(&scene->tree);
	model_deinit(&scene->model);
}

/* A put or, with value NULL, a removal, as a watch brings it. */
static void change(struct scene *scene, const char *path, const char *value)
{
	if (value)
		assert_int_equal(model_put(&scene->model, path, strlen(path), value, strlen(value)), 0);
	else
		model_remove(&scene->model, path, strlen(path));
	tree_settle(&scene->tree, &scene->model, path, strlen(path));
}

static char *read_text(const char *path)
{
	static char text[4096];
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
	ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (length < 0)
		return NULL;
	text[length] = '\0';
	return text;
}

static void check_file(const char *path, const char *content)
{
	char *text = read_text(path);

	if (!text)
		print_error("%s is not there\n", path);
	assert_non_null(text);
	assert_string_equal(text, content);
}

static bool exists(const char *path)
{
	struct stat status;

	return lstat(path, &status) == 0;
}

static void test_changes(void **state)
{
	struct scene scene;

	(void)state;
	scene_init(&scene);
	change(&scene, "web", "one:1");
	change(&scene, "a/b/c", "two:2");
	check_file("services/m/web", "one:1");
	check_file("services/m/a/b/c", "two:2");
	change(&scene, "web", "three:3");
	check_file("services/m/web", "three:3");
	change(&scene, "web", NULL);
	change(&scene, "a/b/c", NULL);
	assert_false(exists("services/m/web"));
	assert_false(exists("services/m/a"));
	change(&scene, "a/.kaiso", "about it");
	check_file("services/m/a/.kaiso", "about it");
	change(&scene, "a/.kaiso", NULL);
	assert_false(exists("services/m/a"));
	change(&scene, "empty", "");
	check_file("services/m/empty", "");
	assert_int_equal(scene.tree.problems, 0);
	scene_deinit(&scene);
}

static void test_file_and_directory_of_one_name(void **state)
{
	struct scene scene;

	(void)state;
	scene_init(&scene);
	change(&scene, "a", "file:1");
	check_file("services/m/a", "file:1");
	change(&scene, "a/b", "below:1");
	check_file("services/m/a/b", "below:1");
	change(&scene, "a", "other:2");
	check_file("services/m/a/b", "below:1");
	change(&scene, "a/b", NULL);
	check_file("services/m/a", "other:2");
	assert_int_equal(scene.tree.problems, 0);
	scene_deinit(&scene);
}

/* What was there before, from whoever: of a mirror that was killed, by hand, in the way. */
static void test_settle_all(void **state)
{
	static const char *const words[] = {
		"f:m/gone",           "f:m/same",    "d:m/was",
		"f:m/was/directory",  "f:m/now",     "d:m/old",
		"d:m/old/x",          "f:m/old/x/y", "s:m/sock",
		"d:m/local",          "s:m/local/s", "f:m/local/f",
		"l:m/link>../canary", "d:m/empty",   "d:m/empty/e",
		"f:m/.hidden",        "d:m/d",       "f:m/d/.kaiso",
		"l:m/dir>../outside", NULL,
	};
	struct scene scene;

	(void)state;
	scene_init(&scene);
	workplace_make_all(words);
	workplace_make_file("services/m/" TREE_MARK "-new", "half");
	workplace_make_file("services/m/d/" TREE_MARK "-new", "half");
	workplace_make_all((const char *const[]){ "f:canary", "d:outside", "f:outside/f", NULL });
	model_put(&scene.model, "same", 4, "host:80\n", 8);
	model_put(&scene.model, "was", 3, "file:1", 6);
	model_put(&scene.model, "now/directory", 13, "file:2", 6);
	model_put(&scene.model, "deep/er/f", 9, "file:3", 6);
	assert_int_equal(tree_settle_all(&scene.tree, &scene.model), 0);
	assert_int_equal(scene.tree.problems, 0);
	assert_int_equal(scene.tree.written, 3);
	check_file("services/m/same", "host:80\n");
	check_file("services/m/was", "file:1");
	check_file("services/m/now/directory", "file:2");
	check_file("services/m/deep/er/f", "file:3");
	for (const char *const *gone =
		     (const char *const[]){ "gone", "old", "local/f", "empty", "d", TREE_MARK "-new", NULL };
	     *gone; gone++) {
		char path[64];

		snprintf(path, sizeof(path), "services/m/%s", *gone);
		assert_false(exists(path));
	}
	assert_true(exists("services/m/sock") && exists("services/m/local/s") && exists("services/m/link"));
	assert_true(exists("services/m/dir") && exists("services/m/" TREE_MARK));
	check_file("services/m/.hidden", "host:80\n");
	check_file("services/canary", "host:80\n");
	check_file("services/outside/f", "host:80\n");
	/* And then there is nothing to be done. */
	assert_int_equal(tree_settle_all(&scene.tree, &scene.model), 0);
	assert_int_equal(scene.tree.written, 3);
	scene_deinit(&scene);
}

/* Names that the others have: each is a problem until it is free. */
static void test_names_that_are_taken(void **state)
{
	struct scene scene;

	(void)state;
	scene_init(&scene);
	workplace_make_all((const char *const[]){ "s:m/sock", "l:m/link>../outside", "d:outside", "d:m/d",
						  "s:m/d/s", "p:m/fifo", NULL });
	assert_int_equal(tree_settle_all(&scene.tree, &scene.model), 0);
	assert_true(scene.tree.is_equal);
	change(&scene, "sock", "file:1");
	assert_false(scene.tree.is_equal);
	change(&scene, "link/f", "file:1");
	change(&scene, "d", "file:1");
	change(&scene, "fifo", "file:1");
	assert_int_equal(scene.tree.problems, 4);
	assert_false(exists("services/outside/f"));
	assert_int_equal(tree_settle_all(&scene.tree, &scene.model), 0);
	assert_int_equal(scene.tree.problems, 8);
	assert_int_equal(unlink("services/m/sock"), 0);
	assert_int_equal(unlink("services/m/link"), 0);
	assert_int_equal(unlink("services/m/d/s"), 0);
	assert_int_equal(unlink("services/m/fifo"), 0);
	assert_int_equal(tree_settle_all(&scene.tree, &scene.model), 0);
	assert_true(scene.tree.is_equal);
	check_file("services/m/sock", "file:1");
	check_file("services/m/link/f", "file:1");
	check_file("services/m/d", "file:1");
	check_file("services/m/fifo", "file:1");
	scene_deinit(&scene);
}

/* A link to the file it writes to is replaced, not written through. */
static void test_passing_name_is_a_link(void **state)
{
	struct scene scene;

	(void)state;
	scene_init(&scene);
	workplace_make_all((const char *const[]){ "f:canary", NULL });
	assert_int_equal(symlink("../canary", "services/m/" TREE_MARK "-new"), 0);
	change(&scene, "web", "one:1");
	check_file("services/m/web", "one:1");
	check_file("services/canary", "host:80\n");
	scene_deinit(&scene);
}

/* Others may nest directories as deep as they like. */
static void test_deep_directories_of_others(void **state)
{
	CLEANUP_CLOSE int fd = -1;
	struct scene scene;

	(void)state;
	scene_init(&scene);
	fd = open("services/m", O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < 300; i++) {
		int below;

		assert_int_equal(mkdirat(fd, "deep", 0755), 0);
		below = openat(fd, "deep", O_PATH | O_DIRECTORY | O_CLOEXEC);
		assert_true(below >= 0);
		close(fd);
		fd = below;
	}
	assert_int_equal(tree_settle_all(&scene.tree, &scene.model), 0);
	assert_int_equal(scene.tree.problems, 0);
	assert_true(exists("services/m/deep"));
	scene_deinit(&scene);
}

static void check_open(const char *directory, const char *source, int expected)
{
	char reason[TREE_REASON_SIZE] = "";
	struct tree tree = { 0 };

	assert_int_equal(tree_open(&tree, directory, source, reason), expected);
	if (expected < 0)
		assert_true(reason[0] != '\0');
	tree_close(&tree);
}

static void test_whose_directory(void **state)
{
	struct scene scene;

	(void)state;
	workplace_make_all((const char *const[]){ "d:hand", "f:hand/made", "d:empty", "f:file", NULL });
	check_open("services/hand", SOURCE, -ENOTEMPTY);
	check_file("services/hand/made", "host:80\n");
	check_open("services/empty", SOURCE, 0);
	check_open("services/empty", SOURCE, 0);
	check_open("services/empty", "/other/", -EEXIST);
	check_open("services/file", SOURCE, -ENOTDIR);
	check_open("services/none/none", SOURCE, -ENOENT);
	/* A mark cannot be made by pointing to another one. */
	workplace_make_all((const char *const[]){ "d:linked", "f:linked/made",
						  "l:linked/" TREE_MARK ">../empty/" TREE_MARK, NULL });
	check_open("services/linked", SOURCE, -EEXIST);
	scene_init(&scene);
	check_open("services/m", SOURCE, -EBUSY);
	scene_deinit(&scene);
	check_open("services/m", SOURCE, 0);
}

static void test_directory_is_removed(void **state)
{
	struct scene scene;

	(void)state;
	scene_init(&scene);
	assert_int_equal(unlink("services/m/" TREE_MARK), 0);
	assert_int_equal(rmdir("services/m"), 0);
	assert_int_equal(tree_settle_all(&scene.tree, &scene.model), -ENOENT);
	scene_deinit(&scene);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		WORKPLACE_TEST(test_changes),
		WORKPLACE_TEST(test_file_and_directory_of_one_name),
		WORKPLACE_TEST(test_settle_all),
		WORKPLACE_TEST(test_names_that_are_taken),
		WORKPLACE_TEST(test_passing_name_is_a_link),
		WORKPLACE_TEST(test_deep_directories_of_others),
		WORKPLACE_TEST(test_whose_directory),
		WORKPLACE_TEST(test_directory_is_removed),
	};

	return FIXTURE_RUN(tests);
}
