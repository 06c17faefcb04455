/*
 * The descriptor check around unit tests.
 *
 * /proc/self/fd is read once before and once after. A group and one of its
 * tests may be under way at once, so the earlier pictures form a small stack.
 * Descriptors that are open on both sides count as the same, whatever they lead to.
 */
#include "fixture.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FD_MAX 4096
#define DEPTH_MAX 2

struct picture {
	bool is_open[FD_MAX];
};

static struct picture earlier[DEPTH_MAX];
static unsigned depth;
static int failures;

static void picture_take(struct picture *picture)
{
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;

	if (!directory) {
		perror("/proc/self/fd");
		abort();
	}
	memset(picture, 0, sizeof(*picture));
	while ((entry = readdir(directory))) {
		long fd = strtol(entry->d_name, NULL, 10);

		if (entry->d_name[0] != '.' && fd != dirfd(directory) && fd < FD_MAX)
			picture->is_open[fd] = true;
	}
	closedir(directory);
}

static void difference_print(int fd, bool is_open)
{
	char link[64], target[256];
	ssize_t length;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, target, sizeof(target) - 1);
	target[length > 0 ? length : 0] = '\0';
	if (is_open)
		fprintf(stderr, "# descriptor %d was left open: %s\n", fd, target);
	else
		fprintf(stderr, "# descriptor %d was closed, and is not the test's own\n", fd);
}

int fixture_setup(void **state)
{
	(void)state;
	if (depth == DEPTH_MAX)
		abort();
	picture_take(&earlier[depth++]);
	return 0;
}

int fixture_teardown(void **state)
{
	struct picture now, *before = &earlier[--depth];
	int differences = 0;

	(void)state;
	picture_take(&now);
	for (int fd = 0; fd < FD_MAX; fd++) {
		if (now.is_open[fd] == before->is_open[fd])
			continue;
		difference_print(fd, now.is_open[fd]);
		differences++;
	}
	failures += differences > 0;
	return differences ? -1 : 0;
}

int fixture_failures(void)
{
	return failures;
}
