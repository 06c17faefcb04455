/*
 * Many short connections to an echo service: `short_connections HOST PORT THREADS COUNT`.
 *
 * Each sends a message of its own, of 0 to 20000 bytes, as soon as its mode allows, ends its direction, and
 * must get the message back, whole and nothing else. Every other one is non-blocking. Says how many were
 * right.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MESSAGE_MAX 20000

static struct sockaddr_in target;
static int per_thread;
static _Atomic int right;

static uint32_t next_random(uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8;
}

static void await(int fd, short events)
{
	struct pollfd watched = { .fd = fd, .events = events };

	poll(&watched, 1, 20000);
}

static int dial(int is_nonblocking)
{
	int fd = socket(AF_INET, SOCK_STREAM | (is_nonblocking ? SOCK_NONBLOCK : 0), 0);
	int error = 0;
	socklen_t length = sizeof(error);

	if (connect(fd, (struct sockaddr *)&target, sizeof(target)) != 0) {
		if (errno != EINPROGRESS)
			error = errno;
		await(fd, POLLOUT);
		if (error == 0)
			getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
	}
	if (error == 0)
		return fd;
	printf("connect: %s\n", strerror(error));
	close(fd);
	return -1;
}

static int send_all(int fd, const char *bytes, size_t length)
{
	while (length > 0) {
		ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);

		if (sent < 0 && errno != EAGAIN)
			return -1;
		if (sent < 0)
			await(fd, POLLOUT);
		else
			bytes += sent, length -= (size_t)sent;
	}
	return 0;
}

static size_t receive_all(int fd, char *bytes, size_t room)
{
	size_t length = 0;

	for (;;) {
		ssize_t got = recv(fd, bytes + length, room - length, 0);

		if (got < 0 && errno == EAGAIN)
			await(fd, POLLIN);
		else if (got <= 0)
			return got < 0 ? (size_t)-1 : length;
		else
			length += (size_t)got;
	}
}

static void converse(uint32_t *state, int is_nonblocking)
{
	char message[MESSAGE_MAX], answer[MESSAGE_MAX + 100];
	size_t length = next_random(state) % (MESSAGE_MAX + 1);
	size_t got;
	int fd;

	if (length % 3 == 0)
		length %= 100;
	for (size_t i = 0; i < length; i++)
		message[i] = (char)next_random(state);
	fd = dial(is_nonblocking);
	if (fd < 0)
		return;
	if (send_all(fd, message, length) == 0 && shutdown(fd, SHUT_WR) == 0) {
		got = receive_all(fd, answer, sizeof(answer));
		if (got == length && memcmp(message, answer, length) == 0)
			right++;
		else
			printf("sent %zu, got %zd\n", length, (ssize_t)got);
	}
	close(fd);
}

static void *run(void *argument)
{
	uint32_t state = (uint32_t)(uintptr_t)argument * 7919u;

	for (int i = 0; i < per_thread; i++)
		converse(&state, i % 2);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[64];
	int count = argc == 5 ? atoi(argv[3]) : 0;

	if (count < 1 || count > 64)
		return 2;
	target.sin_family = AF_INET;
	target.sin_port = htons((uint16_t)atoi(argv[2]));
	inet_pton(AF_INET, argv[1], &target.sin_addr);
	per_thread = atoi(argv[4]) / count;
	for (int i = 0; i < count; i++)
		pthread_create(&threads[i], NULL, run, (void *)(uintptr_t)(i + 1));
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	printf("%d right\n", right);
	return 0;
}
