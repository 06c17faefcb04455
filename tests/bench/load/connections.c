/*
 * Many connections: short ones, idle ones, and the small works that the tools are measured with.
 */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

/* An echo of one byte. */
static const char one_echo[2] = { ORDER_ECHO, 'x' };

static void expect_echo(int fd)
{
	char byte = 0;
	ssize_t length = recv(fd, &byte, 1, 0);

	if (length != 1 || byte != one_echo[1]) {
		errno = length < 0 ? errno : EPIPE;
		fail("no answer");
	}
}

static void begin_short(const struct place *place, const char *line, int epoll_fd)
{
	struct epoll_event event = { .events = EPOLLIN };

	event.data.fd = place_ask(place, line, one_echo, sizeof(one_echo));
	epoll_ctl(epoll_fd, EPOLL_CTL_ADD, event.data.fd, &event);
}

/* Connect, one echo, close; so many at a time. */
void connections(const char *const *words)
{
	struct place place = place_parse(words[0]);
	int clients = atoi(words[2]), open = 0, epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	uint64_t start = now_ns(), end = start + strtoull(words[3], NULL, 10) * 1000000, done = 0;
	struct epoll_event events[64];

	for (; open < clients; open++)
		begin_short(&place, words[1], epoll_fd);
	while (open > 0) {
		int count = epoll_wait(epoll_fd, events, 64, -1);

		for (int i = 0; i < count; i++) {
			expect_echo(events[i].data.fd);
			close(events[i].data.fd);
			done++;
			if (now_ns() < end)
				begin_short(&place, words[1], epoll_fd);
			else
				open--;
		}
	}
	printf("{\"count\": %llu, \"seconds\": %.6f}\n", (unsigned long long)done,
	       (double)(now_ns() - start) / 1e9);
}

/* Connections that had one echo and wait; until the end of standard input. */
void idle(const char *const *words)
{
	struct place place = place_parse(words[0]);
	int count = atoi(words[2]);
	char end;

	for (int i = 0; i < count; i++)
		expect_echo(place_ask(&place, words[1], one_echo, sizeof(one_echo)));
	printf("{\"count\": %d}\n", count);
	fflush(stdout);
	while (read(STDIN_FILENO, &end, 1) > 0)
		;
}

/* Asks for the list of a kaiso and reads it, again and again on one connection. A list ends with an empty line. */
void lists(const char *const *words)
{
	struct place place = place_parse(words[0]);
	uint64_t end = now_ns() + strtoull(words[1], NULL, 10) * 1000000, bytes = 0;
	int fd = place_dial(&place), done = 0;

	for (; now_ns() < end; done++) {
		char last[4] = "";

		if (send(fd, "\n", 1, MSG_NOSIGNAL) != 1)
			fail("send");
		while (memcmp(last, "\r\n\r\n", 4) != 0) {
			ssize_t length = recv(fd, buffer, sizeof(buffer), 0);

			if (length <= 0)
				fail("the list");
			bytes += (uint64_t)length;
			if (length < 4)
				memmove(last, last + length, 4 - (size_t)length);
			memcpy(length < 4 ? last + 4 - length : last,
			       length < 4 ? buffer : buffer + length - 4, length < 4 ? (size_t)length : 4);
		}
	}
	printf("{\"count\": %d, \"bytes\": %llu}\n", done, (unsigned long long)bytes);
}

/* A system call that nobody is interested in. */
void calls(const char *const *words)
{
	long count = atol(words[0]);
	uint64_t start = now_ns();

	for (long i = 0; i < count; i++)
		syscall(SYS_getppid);
	printf("{\"seconds\": %.6f}\n", (double)(now_ns() - start) / 1e9);
}

/* Connect and close. */
void elsewhere(const char *const *words)
{
	struct place place = place_parse(words[0]);
	long count = atol(words[1]);
	uint64_t start = now_ns();

	for (long i = 0; i < count; i++)
		close(place_dial_plainly(&place));
	printf("{\"seconds\": %.6f}\n", (double)(now_ns() - start) / 1e9);
}
