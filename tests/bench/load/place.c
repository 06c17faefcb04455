/*
 * Where to listen or to connect: TCP over the loopback, or a UNIX socket.
 */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const int on = 1;

struct place place_parse(const char *word)
{
	struct place place = { .length = sizeof(place.in) };
	const char *colon = strrchr(word, ':');
	char host[INET_ADDRSTRLEN] = "";

	if (strncmp(word, "unix:", strlen("unix:")) == 0) {
		place.un.sun_family = AF_UNIX;
		strncpy(place.un.sun_path, word + strlen("unix:"), sizeof(place.un.sun_path) - 1);
		place.length = sizeof(place.un);
		return place;
	}
	place.in.sin_family = AF_INET;
	if (colon && (size_t)(colon - word) < sizeof(host))
		memcpy(host, word, (size_t)(colon - word));
	if (!colon || inet_pton(AF_INET, host, &place.in.sin_addr) != 1) {
		errno = EINVAL;
		fail(word);
	}
	place.in.sin_port = htons((uint16_t)atoi(colon + 1));
	return place;
}

int place_listen(const struct place *place)
{
	int fd = socket(place->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (fd < 0 || bind(fd, &place->sa, place->length) != 0 || listen(fd, 4096) != 0)
		fail("listen");
	return fd;
}

static void bind_own_address(int fd)
{
	uint32_t pid = (uint32_t)getpid();
	struct sockaddr_in own = { .sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(0x7f010001u + (pid % 0xfffff) * 2) };

	setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
	if (bind(fd, (const struct sockaddr *)&own, sizeof(own)) != 0)
		fail("bind");
}

static int place_socket(const struct place *place)
{
	int fd = socket(place->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		fail("socket");
	return fd;
}

static int place_connect(const struct place *place, int fd)
{
	if (connect(fd, &place->sa, place->length) != 0)
		fail("connect");
	return fd;
}

int place_dial_plainly(const struct place *place)
{
	return place_connect(place, place_socket(place));
}

int place_dial(const struct place *place)
{
	int fd = place_socket(place);

	if (place->sa.sa_family == AF_INET) {
		bind_own_address(fd);
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	}
	return place_connect(place, fd);
}

int place_ask(const struct place *place, const char *line, const void *bytes, size_t length)
{
	char first[4200];
	size_t line_length = *line ? (size_t)snprintf(first, sizeof(first) - 64, "%s\r\n", line) : 0;
	int fd = place_dial(place);

	memcpy(first + line_length, bytes, length);
	if (send(fd, first, line_length + length, MSG_NOSIGNAL) != (ssize_t)(line_length + length))
		fail("send");
	return fd;
}
