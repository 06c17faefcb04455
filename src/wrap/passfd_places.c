/*
 * /proc/PID/fd is read with getdents64(2) into a buffer on the stack: opendir(3) allocates, and this also
 * runs inside programs that may be anywhere in their own start.
 */
#include "wrap/passfd_places.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/macros.h"

#define PROC_PATH_SIZE 320 /* with the longest name that a directory can hold */
#define DIRECTORY_BUFFER_SIZE 2048
#define LINE_SIZE 256

/* "/proc/self/KIND" or "/proc/self/KIND/FD". */
static void proc_path(char path[static PROC_PATH_SIZE], pid_t pid, const char *kind, const char *fd)
{
	if (pid == 0)
		snprintf(path, PROC_PATH_SIZE, "/proc/self/%s/%s", kind, fd);
	else
		snprintf(path, PROC_PATH_SIZE, "/proc/%d/%s/%s", pid, kind, fd);
}

/* Reads lines one by one without stdio; a line that is too long is given in pieces. */
struct line_reader {
	int fd;
	size_t used;
	size_t filled;
	char bytes[LINE_SIZE];
	char line[LINE_SIZE];
};

static bool read_line(struct line_reader *reader)
{
	size_t length = 0;

	while (length < LINE_SIZE - 1) {
		if (reader->used == reader->filled) {
			ssize_t got = read(reader->fd, reader->bytes, sizeof(reader->bytes));

			if (got <= 0)
				break;
			reader->used = 0;
			reader->filled = (size_t)got;
		}
		reader->line[length] = reader->bytes[reader->used++];
		if (reader->line[length++] == '\n')
			break;
	}
	reader->line[length] = '\0';
	return length > 0;
}

/* "tfd: 5 events: 19 data: 5 pos:0 ino:1a2b sdev:8" (fs/eventpoll.c, ep_show_fdinfo). */
static bool parse_registration(const char *line, struct epoll_registration *registration, ino_t inode)
{
	unsigned long long data, found_inode;
	long long position;
	unsigned events;
	int fd;

	if (sscanf(line, "tfd: %d events: %x data: %llx pos:%lli ino:%llx", &fd, &events, &data, &position,
		   &found_inode) != 5)
		return false;
	registration->fd = fd;
	registration->events = events;
	registration->data = data;
	return found_inode == inode;
}

static void find_registrations(pid_t pid, const char *name, ino_t inode, struct places *places)
{
	char path[PROC_PATH_SIZE];
	struct line_reader reader = { .used = 0 };

	proc_path(path, pid, "fdinfo", name);
	reader.fd = open(path, O_RDONLY | O_CLOEXEC);
	if (reader.fd < 0)
		return;
	while (places->registration_count < PLACES_MAX && read_line(&reader)) {
		struct epoll_registration *next = &places->registrations[places->registration_count];

		next->epoll_fd = atoi(name);
		if (parse_registration(reader.line, next, inode))
			places->registration_count++;
	}
	close(reader.fd);
}

/* One entry of /proc/PID/fd. */
static void look_at(pid_t pid, const char *name, ino_t inode, struct places *places)
{
	char path[PROC_PATH_SIZE], target[64], wanted[64];
	ssize_t length;

	proc_path(path, pid, "fd", name);
	length = readlink(path, target, sizeof(target) - 1);
	if (length < 0)
		return;
	target[length] = '\0';
	snprintf(wanted, sizeof(wanted), "socket:[%llu]", (unsigned long long)inode);
	if (strcmp(target, "anon_inode:[eventpoll]") == 0)
		find_registrations(pid, name, inode, places);
	else if (strcmp(target, wanted) == 0 && places->fd_count < PLACES_MAX)
		places->fds[places->fd_count++] = atoi(name);
}

void places_find(pid_t pid, int socket_fd, struct places *places)
{
	char path[PROC_PATH_SIZE];
	_Alignas(struct dirent64) char entries[DIRECTORY_BUFFER_SIZE];
	CLEANUP_CLOSE int directory = -1;
	struct stat status;
	long filled;

	memset(places, 0, sizeof(*places));
	proc_path(path, pid, "fd", "");
	directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (directory < 0 || fstat(socket_fd, &status) != 0)
		return;
	while ((filled = syscall(SYS_getdents64, directory, entries, sizeof(entries))) > 0) {
		for (long at = 0; at < filled;) {
			const struct dirent64 *entry = (const struct dirent64 *)(entries + at);

			if (entry->d_name[0] != '.')
				look_at(pid, entry->d_name, status.st_ino, places);
			at += entry->d_reclen;
		}
	}
}

int places_close_on_exec(pid_t pid, int fd)
{
	char path[PROC_PATH_SIZE], name[16];
	struct line_reader reader = { .used = 0 };
	unsigned flags = 0;

	snprintf(name, sizeof(name), "%d", fd);
	proc_path(path, pid, "fdinfo", name);
	reader.fd = open(path, O_RDONLY | O_CLOEXEC);
	if (reader.fd < 0)
		return 0;
	while (read_line(&reader) && sscanf(reader.line, "flags: %o", &flags) != 1)
		;
	close(reader.fd);
	return (flags & O_CLOEXEC) != 0 ? O_CLOEXEC : 0;
}
