/*
 * The directory that a test works in, and what it fills it with. cmocka's
 * assertions serve for what must not fail on the way.
 */
#include "workplace.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* The working directory of every test; "services" lies in it. */
static char workplace[] = "/tmp/kaiso-unit-XXXXXX";

int workplace_setup(void **state)
{
	if (fixture_setup(state) != 0)
		return -1;
	strcpy(strrchr(workplace, '-'), "-XXXXXX");
	return mkdtemp(workplace) && chmod(workplace, 0755) == 0 && chdir(workplace) == 0 &&
			       mkdir("services", 0755) == 0 ?
		       0 :
		       -1;
}

int workplace_teardown(void **state)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", workplace);
	if (chdir("/") != 0 || system(command) != 0)
		return -1;
	return fixture_teardown(state);
}

void workplace_make_socket(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, path);
	assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
}

void workplace_make_file(const char *path, const char *content)
{
	FILE *file = fopen(path, "we");

	assert_non_null(file);
	fputs(content, file);
	fclose(file);
}

void workplace_make(const char *word)
{
	char path[PATH_MAX];
	char *target;

	snprintf(path, sizeof(path), "services/%s", word + 2);
	target = strchr(path, '>');
	if (target)
		*target++ = '\0';
	switch (word[0]) {
	case 'd':
		assert_int_equal(mkdir(path, 0755), 0);
		return;
	case 's':
		workplace_make_socket(path);
		return;
	case 'f':
		workplace_make_file(path, "host:80\n");
		return;
	case 'p':
		assert_int_equal(mkfifo(path, 0644), 0);
		return;
	case 'l':
		assert_int_equal(symlink(target, path), 0);
		return;
	default:
		fail();
	}
}

void workplace_make_all(const char *const *words)
{
	for (; *words; words++)
		workplace_make(*words);
}
