/*
 * Files of every kind and size, opened and read as service descriptions.
 */
#include "workplace.h"

#include <errno.h>
#include <fcntl.h>
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		WORKPLACE_TEST(test_description_file),
		WORKPLACE_TEST(test_description_file_of_every_size),
	};

	return FIXTURE_RUN(tests);
}
