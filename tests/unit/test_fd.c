/*
 * Paths of any length, in a directory of the test's own; and what every program
 * does with its descriptors at start, in children.
 */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/macros.h"

#define DEPTH 45
#define COMPONENT_LENGTH 200

static char directory[64];
static char component[COMPONENT_LENGTH + 1];

/* DIRECTORY/ccc…/ccc…/… down to a file: two cuts at least are needed to get there. */
static int deep_fds[DEPTH + 1];
static char deep_path[sizeof(directory) + DEPTH * (COMPONENT_LENGTH + 1) + 16];

static void deep_tree_make(void)
{
	size_t length;

	memset(component, 'c', COMPONENT_LENGTH);
	strcpy(directory, "/tmp/test-fd-XXXXXX");
	assert_non_null(mkdtemp(directory));
	deep_fds[0] = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	length = (size_t)sprintf(deep_path, "%s", directory);
	for (int i = 0; i < DEPTH; i++) {
		assert_int_equal(mkdirat(deep_fds[i], component, 0700), 0);
		deep_fds[i + 1] = openat(deep_fds[i], component, O_PATH | O_DIRECTORY | O_CLOEXEC);
		assert_true(deep_fds[i + 1] >= 0);
		length += (size_t)sprintf(deep_path + length, "/%s", component);
	}
}

static void deep_tree_remove(void)
{
	for (int i = DEPTH; i > 0; i--) {
		close(deep_fds[i]);
		assert_int_equal(unlinkat(deep_fds[i - 1], component, AT_REMOVEDIR), 0);
	}
	close(deep_fds[0]);
	assert_int_equal(rmdir(directory), 0);
}

static void assert_opens(const char *path, int flags, const struct stat *expected)
{
	struct stat found;
	int fd = fd_open_path(path, flags);

	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fstat(fd, &found), 0);
	assert_int_equal(found.st_ino, expected->st_ino);
	assert_int_equal(found.st_dev, expected->st_dev);
	close(fd);
}

/* ---- fd_open_path --------------------------------------------------------------------------------- */

static void test_short_paths_are_as_with_open(void **state)
{
	struct stat null, root;

	(void)state;
	assert_int_equal(stat("/dev/null", &null), 0);
	assert_int_equal(stat("/", &root), 0);
	assert_opens("/dev/null", O_RDONLY, &null);
	assert_opens("/dev/../dev//null", O_PATH, &null);
	assert_opens("/", O_PATH | O_DIRECTORY, &root);
	assert_int_equal(fd_open_path("", O_RDONLY), -ENOENT);
	assert_int_equal(fd_open_path("/dev/null/x", O_RDONLY), -ENOTDIR);
	assert_int_equal(fd_open_path("/dev/null", O_RDONLY | O_DIRECTORY), -ENOTDIR);
	assert_int_equal(fd_open_path("/there is no such file", O_RDONLY), -ENOENT);
}

static void test_paths_beyond_the_systems_limit(void **state)
{
	size_t length;
	struct stat file;
	int fd, home = open(".", O_PATH | O_CLOEXEC);

	(void)state;
	deep_tree_make();
	length = strlen(deep_path);
	assert_true(length > 2 * PATH_MAX);
	fd = openat(deep_fds[DEPTH], "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_int_equal(fstat(fd, &file), 0);
	close(fd);

	strcpy(deep_path + length, "/file");
	assert_opens(deep_path, O_RDONLY, &file);
	strcpy(deep_path + length, "///./file");
	assert_opens(deep_path, O_PATH, &file);
	assert_int_equal(chdir("/tmp"), 0);
	assert_opens(deep_path + strlen("/tmp/"), O_RDONLY, &file);
	assert_int_equal(fchdir(home), 0);
	strcpy(deep_path + length, "/absent");
	assert_int_equal(fd_open_path(deep_path, O_RDONLY), -ENOENT);
	strcpy(deep_path + length, "/file/x");
	assert_int_equal(fd_open_path(deep_path, O_RDONLY), -ENOTDIR);
	deep_path[strlen(directory) + 1] = 'x';
	assert_int_equal(fd_open_path(deep_path, O_RDONLY), -ENOENT);

	assert_int_equal(unlinkat(deep_fds[DEPTH], "file", 0), 0);
	close(home);
	deep_tree_remove();
}

/* A cut at every place there is: around the limit, at a '/', before and behind it. */
static void test_paths_of_all_lengths_around_the_limit(void **state)
{
	char path[PATH_MAX + 300];
	struct stat null;

	(void)state;
	assert_int_equal(stat("/dev/null", &null), 0);
	for (size_t length = PATH_MAX - 12; length < PATH_MAX + 12; length++) {
		size_t slashes = length - strlen("dev/null");

		memset(path, '/', slashes);
		strcpy(path + slashes, "dev/null");
		assert_opens(path, O_RDONLY, &null);
		strcpy(path, "/dev");
		memset(path + strlen("/dev"), '/', length - strlen("/devnull"));
		strcpy(path + length - strlen("null"), "null");
		assert_opens(path, O_RDONLY, &null);
	}
}

static void test_slashes_at_the_end_of_a_long_path(void **state)
{
	char path[2 * PATH_MAX];
	struct stat root;

	(void)state;
	assert_int_equal(stat("/", &root), 0);
	for (size_t length = PATH_MAX - 2; length < PATH_MAX + 3; length++) {
		memset(path, '/', length);
		path[length] = '\0';
		assert_opens(path, O_PATH | O_DIRECTORY, &root);
	}
}

static void test_a_component_too_long_for_any_file(void **state)
{
	char path[2 * PATH_MAX];

	(void)state;
	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(fd_open_path(path, O_RDONLY), -ENAMETOOLONG);
	path[0] = '/';
	assert_int_equal(fd_open_path(path, O_RDONLY), -ENAMETOOLONG);
	memcpy(path, "/tmp/", 5);
	assert_int_equal(fd_open_path(path, O_RDONLY), -ENAMETOOLONG);
}

static void test_a_long_path_follows_links(void **state)
{
	char path[2 * PATH_MAX];
	struct stat null;

	(void)state;
	strcpy(directory, "/tmp/test-fd-XXXXXX");
	assert_non_null(mkdtemp(directory));
	assert_int_equal(stat("/dev/null", &null), 0);
	snprintf(path, sizeof(path), "%s/link", directory);
	assert_int_equal(symlink("/dev", path), 0);
	memset(path + strlen(path), '/', PATH_MAX);
	strcpy(path + PATH_MAX + 10, "null");
	assert_opens(path, O_RDONLY, &null);
	snprintf(path, sizeof(path), "%s/link", directory);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(directory), 0);
}

/* ---- at start ------------------------------------------------------------------------------------- */

static int run_in_child(int (*function)(void))
{
	pid_t child = fork();
	int status;

	if (child == 0)
		_exit(function());
	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static bool is_null(int fd)
{
	struct stat found;

	return fstat(fd, &found) == 0 && S_ISCHR(found.st_mode) && found.st_rdev == makedev(1, 3);
}

static int fill_closed_streams(void)
{
	int pipe_ends[2];
	struct stat before, after;

	if (pipe(pipe_ends) != 0 || dup2(pipe_ends[1], STDOUT_FILENO) < 0 ||
	    fstat(STDOUT_FILENO, &before) != 0)
		return 1;
	close_range(3, ~0u, 0);
	close(STDIN_FILENO);
	close(STDERR_FILENO);
	fd_fill_standard_streams();
	if (!is_null(STDIN_FILENO) || !is_null(STDERR_FILENO))
		return 2;
	if (fstat(STDOUT_FILENO, &after) != 0 || after.st_ino != before.st_ino)
		return 3;
	/* A program that is started from here keeps them. */
	if (fcntl(STDIN_FILENO, F_GETFD) != 0 || fcntl(STDERR_FILENO, F_GETFD) != 0)
		return 4;
	return fcntl(3, F_GETFD) == -1 && errno == EBADF ? 0 : 5;
}

static int fill_with_all_closed(void)
{
	close_range(0, ~0u, 0);
	fd_fill_standard_streams();
	for (int fd = 0; fd < 3; fd++) {
		if (!is_null(fd) || (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR)
			return 1;
	}
	return fcntl(3, F_GETFD) == -1 ? 0 : 2;
}

static void test_closed_standard_streams_are_filled(void **state)
{
	(void)state;
	assert_int_equal(run_in_child(fill_closed_streams), 0);
	assert_int_equal(run_in_child(fill_with_all_closed), 0);
}

static void test_open_standard_streams_stay(void **state)
{
	struct stat before[3], after;

	(void)state;
	for (int fd = 0; fd < 3; fd++)
		assert_int_equal(fstat(fd, &before[fd]), 0);
	fd_fill_standard_streams();
	for (int fd = 0; fd < 3; fd++) {
		assert_int_equal(fstat(fd, &after), 0);
		assert_int_equal(after.st_ino, before[fd].st_ino);
	}
}

static int raise_low_limit(void)
{
	struct rlimit limit = { .rlim_cur = 32, .rlim_max = 200 };

	if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
		return 1;
	/* The second time there is nothing to do. */
	if (fd_raise_limit() != 200 || fd_raise_limit() != 200)
		return 2;
	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return 3;
	return limit.rlim_cur == 200 && limit.rlim_max == 200 ? 0 : 4;
}

static void test_limit_is_raised_to_the_hard_one(void **state)
{
	(void)state;
	assert_int_equal(run_in_child(raise_low_limit), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FIXTURE_TEST(test_short_paths_are_as_with_open),
		FIXTURE_TEST(test_paths_beyond_the_systems_limit),
		FIXTURE_TEST(test_paths_of_all_lengths_around_the_limit),
		FIXTURE_TEST(test_slashes_at_the_end_of_a_long_path),
		FIXTURE_TEST(test_a_component_too_long_for_any_file),
		FIXTURE_TEST(test_a_long_path_follows_links),
		FIXTURE_TEST(test_closed_standard_streams_are_filled),
		FIXTURE_TEST(test_open_standard_streams_stay),
		FIXTURE_TEST(test_limit_is_raised_to_the_hard_one),
	};

	return FIXTURE_RUN(tests);
}
