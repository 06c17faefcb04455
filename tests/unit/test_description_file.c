/*
 * Files of every kind and size, opened and read as service descriptions.
 */
#include "workplace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "router/description_file.h"

static void test_description_file(void **state)
{
	static char bytes[DESCRIPTION_FILE_BUFFER];
	struct stat status;
	int fd;

	(void)state;
	workplace_make_all((const char *const[]){ "f:f", "p:p", "d:d", "s:s", "l:l>f", "f:big", NULL });
	fd = description_file_open(AT_FDCWD, "services/l", &status);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(description_file_read(fd, bytes), 8);
		assert_memory_equal(bytes, "host:80\n", 8);
	}
	close(fd);

	assert_int_equal(description_file_open(AT_FDCWD, "services/none", &status), -ENOENT);
	assert_int_equal(description_file_open(AT_FDCWD, "services/d", &status), -EINVAL);
	assert_int_equal(description_file_open(AT_FDCWD, "services/p", &status), -EINVAL);
	assert_int_equal(description_file_open(AT_FDCWD, "services/s", &status), -EINVAL);
	assert_true(S_ISSOCK(status.st_mode));
	assert_int_equal(description_file_open(AT_FDCWD, "/dev/zero", &status), -EINVAL);
	assert_int_equal(description_file_open(AT_FDCWD, "services/f/x", &status), -ENOTDIR);
}

static void test_description_file_of_every_size(void **state)
{
	static char bytes[DESCRIPTION_FILE_BUFFER];
	struct stat status;
	int fd;

	(void)state;
	workplace_make_file("f", "");
	fd = description_file_open(AT_FDCWD, "f", &status);
	assert_int_equal(description_file_read(fd, bytes), 0);
	assert_int_equal(truncate("f", DESCRIPTION_SIZE_MAX), 0);
	assert_int_equal(description_file_read(fd, bytes), DESCRIPTION_SIZE_MAX);
	assert_int_equal(truncate("f", DESCRIPTION_SIZE_MAX + 1), 0);
	assert_int_equal(description_file_read(fd, bytes), -EFBIG);
	close(fd);
	assert_int_equal(description_file_open(AT_FDCWD, "f", &status), -EFBIG);
}

static void test_status_of_what_is_refused(void **state)
{
	struct stat status, expected;

	(void)state;
	workplace_make_all((const char *const[]){ "p:fifo", "l:to-fifo>fifo", "f:big", NULL });
	assert_int_equal(stat("services/fifo", &expected), 0);
	assert_int_equal(description_file_open(AT_FDCWD, "services/to-fifo", &status), -EINVAL);
	assert_true(S_ISFIFO(status.st_mode));
	assert_int_equal(status.st_ino, expected.st_ino);
	assert_int_equal(truncate("services/big", 1 << 20), 0);
	assert_int_equal(description_file_open(AT_FDCWD, "services/big", &status), -EFBIG);
	assert_int_equal(status.st_size, 1 << 20);
}

/* Whoever holds the other end of a FIFO, or serves a device, must not hear of it. */
static void test_nothing_but_regular_files_is_opened(void **state)
{
	int watcher = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	struct stat status;
	char events[4096];
	int fd;

	(void)state;
	workplace_make_all((const char *const[]){ "p:fifo", "f:f", NULL });
	assert_true(inotify_add_watch(watcher, "services/fifo", IN_OPEN) >= 0);
	assert_int_equal(description_file_open(AT_FDCWD, "services/fifo", &status), -EINVAL);
	assert_int_equal(read(watcher, events, sizeof(events)), -1);
	assert_int_equal(errno, EAGAIN);
	/* The watch would have told. */
	assert_true(inotify_add_watch(watcher, "services/f", IN_OPEN) >= 0);
	fd = description_file_open(AT_FDCWD, "services/f", &status);
	assert_true(read(watcher, events, sizeof(events)) > 0);
	close(fd);
	close(watcher);
}

static void test_relative_to_a_directory(void **state)
{
	int directory;
	struct stat status;
	int fd;

	(void)state;
	workplace_make_all((const char *const[]){ "d:d", "f:d/f", NULL });
	directory = open("services/d", O_PATH | O_DIRECTORY | O_CLOEXEC);
	fd = description_file_open(directory, "f", &status);
	assert_true(fd >= 0);
	assert_int_equal(status.st_size, 8);
	close(fd);
	assert_int_equal(description_file_open(directory, "services/d/f", &status), -ENOENT);
	close(directory);
}

/* As nobody, when the test is root's; a file without rights keeps everybody else out, the owner too. */
static void test_permission_denied(void **state)
{
	bool is_root = geteuid() == 0;
	struct stat status;
	int result;

	(void)state;
	workplace_make("f:f");
	assert_int_equal(chmod("services/f", 0), 0);
	if (is_root)
		assert_int_equal(seteuid(65534), 0);
	result = description_file_open(AT_FDCWD, "services/f", &status);
	if (is_root)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(result, -EACCES);
	assert_true(S_ISREG(status.st_mode));
}

/* One for the name, one for the content. */
static void test_no_descriptors_left(void **state)
{
	int lowest = open(".", O_PATH | O_CLOEXEC);
	struct rlimit before, scarce;
	struct stat status;
	int results[2];

	(void)state;
	workplace_make("f:f");
	close(lowest);
	getrlimit(RLIMIT_NOFILE, &before);
	scarce = before;
	for (unsigned i = 0; i < 2; i++) {
		scarce.rlim_cur = (rlim_t)lowest + i;
		setrlimit(RLIMIT_NOFILE, &scarce);
		results[i] = description_file_open(AT_FDCWD, "services/f", &status);
	}
	setrlimit(RLIMIT_NOFILE, &before);
	assert_int_equal(results[0], -EMFILE);
	assert_int_equal(results[1], -EMFILE);
}

/* The name may change hands while the file is open: what was opened is what is read. */
static void test_file_is_replaced_while_open(void **state)
{
	static char bytes[DESCRIPTION_FILE_BUFFER];
	struct stat status;
	int fd;

	(void)state;
	workplace_make("f:f");
	fd = description_file_open(AT_FDCWD, "services/f", &status);
	workplace_make_file("services/new", "other:81\n");
	assert_int_equal(rename("services/new", "services/f"), 0);
	assert_int_equal(lseek(fd, 4, SEEK_SET), 4);
	assert_int_equal(description_file_read(fd, bytes), 8);
	assert_memory_equal(bytes, "host:80\n", 8);
	close(fd);
	assert_int_equal(description_file_read(-1, bytes), -EBADF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		WORKPLACE_TEST(test_description_file),
		WORKPLACE_TEST(test_description_file_of_every_size),
		WORKPLACE_TEST(test_status_of_what_is_refused),
		WORKPLACE_TEST(test_nothing_but_regular_files_is_opened),
		WORKPLACE_TEST(test_relative_to_a_directory),
		WORKPLACE_TEST(test_permission_denied),
		WORKPLACE_TEST(test_no_descriptors_left),
		WORKPLACE_TEST(test_file_is_replaced_while_open),
	};

	return FIXTURE_RUN(tests);
}
