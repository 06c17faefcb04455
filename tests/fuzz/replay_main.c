/*
 * Feeds the committed seeds of a fuzz target to it, without libFuzzer: so any
 * compiler replays them, with and without sanitizers.
 *
 * Arguments are files and directories of files. Each input is copied to a
 * block of just its size, where a sanitizer sees the first byte read too far.
 * No seed at all is an error: it would be a test of nothing.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static unsigned replayed;

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(EXIT_FAILURE);
}

static void replay_file(int fd, size_t size, const char *name)
{
	uint8_t *bytes = malloc(size);
	size_t length = 0;

	if (!bytes && size > 0)
		die(name);
	while (length < size) {
		ssize_t count = read(fd, bytes + length, size - length);

		if (count <= 0)
			die(name);
		length += (size_t)count;
	}
	fprintf(stderr, "%s\n", name);
	LLVMFuzzerTestOneInput(bytes, size);
	free(bytes);
	replayed++;
}

static void replay(int parent, const char *name);

static void replay_directory(int fd, const char *name)
{
	DIR *directory = fdopendir(dup(fd));
	struct dirent *entry;

	if (!directory)
		die(name);
	while ((entry = readdir(directory))) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			replay(fd, entry->d_name);
	}
	closedir(directory);
}

static void replay(int parent, const char *name)
{
	int fd = openat(parent, name, O_RDONLY | O_CLOEXEC);
	struct stat status;

	if (fd < 0 || fstat(fd, &status) != 0)
		die(name);
	if (S_ISDIR(status.st_mode))
		replay_directory(fd, name);
	else
		replay_file(fd, (size_t)status.st_size, name);
	close(fd);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		replay(AT_FDCWD, argv[i]);
	fprintf(stderr, "%u inputs\n", replayed);
	return replayed > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
