/*
 * The service: one thread, epoll, level-triggered. A connection says what it wants with its first bytes.
 */
#include "load.h"

#include <errno.h>
#include <kaiso.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum kind { LISTENER, RECEIVER, NEW_CLIENT, ECHO_CLIENT, BULK_CLIENT };

struct endpoint {
	enum kind kind;
	int fd;
	uint32_t events;
	struct flow flow;                /* BULK_CLIENT */
	struct kaiso_receiver *receiver; /* RECEIVER */
};

static int epoll_fd;

static void endpoint_watch(struct endpoint *endpoint, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = endpoint };

	if (events == endpoint->events)
		return;
	if (epoll_ctl(epoll_fd, endpoint->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, endpoint->fd, &event) != 0)
		fail("epoll_ctl");
	endpoint->events = events;
}

static struct endpoint *endpoint_new(enum kind kind, int fd)
{
	struct endpoint *endpoint = calloc(1, sizeof(*endpoint));

	if (!endpoint)
		fail("calloc");
	endpoint->kind = kind;
	endpoint->fd = fd;
	endpoint_watch(endpoint, EPOLLIN);
	return endpoint;
}

/* Out of the epoll first: a router that has handed it over may have it open a moment longer. */
static void endpoint_end(struct endpoint *endpoint)
{
	epoll_ctl(epoll_fd, EPOLL_CTL_DEL, endpoint->fd, NULL);
	close(endpoint->fd);
	free(endpoint);
}

static void send_whole(int fd, const char *bytes, size_t length)
{
	while (length > 0) {
		ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
		struct pollfd full = { .fd = fd, .events = POLLOUT };

		if (sent < 0 && errno != EAGAIN)
			return; /* the client has gone; reading will tell */
		if (sent < 0) {
			poll(&full, 1, -1);
			continue;
		}
		bytes += sent;
		length -= (size_t)sent;
	}
}

static void on_echo(struct endpoint *client)
{
	ssize_t length = recv(client->fd, buffer, sizeof(buffer), MSG_DONTWAIT);

	if (length < 0 && errno == EAGAIN)
		return;
	if (length <= 0)
		endpoint_end(client);
	else
		send_whole(client->fd, buffer, (size_t)length);
}

static void on_bulk(struct endpoint *client, uint32_t events)
{
	if (!flow_move(&client->flow, events)) {
		endpoint_end(client);
		return;
	}
	/* The client closes when it has all; until then there is nothing to wait for but that. */
	if (!flow_is_done(&client->flow)) {
		endpoint_watch(client, flow_interest(&client->flow));
	} else {
		pattern_fill(buffer, 1, 0);
		if (client->flow.to_send == 0)
			send_whole(client->fd, buffer, 1);
		client->kind = ECHO_CLIENT;
		endpoint_watch(client, EPOLLIN);
	}
}

/* The order is small and comes in one piece. */
static void on_new(struct endpoint *client)
{
	struct order order = { .kind = 0 };
	ssize_t length = recv(client->fd, &order, sizeof(order), MSG_PEEK | MSG_DONTWAIT);

	if (length < 0 && errno == EAGAIN)
		return;
	if (length > 0 && order.kind == ORDER_ECHO) {
		client->kind = ECHO_CLIENT;
		length = recv(client->fd, buffer, sizeof(buffer), MSG_DONTWAIT);
		send_whole(client->fd, buffer + 1, (size_t)length - 1);
		return;
	}
	if (length < (ssize_t)sizeof(order) || order.kind != ORDER_BULK) {
		endpoint_end(client);
		return;
	}
	recv(client->fd, &order, sizeof(order), MSG_DONTWAIT);
	client->kind = BULK_CLIENT;
	client->flow = (struct flow){ .fd = client->fd,
				      .is_verified = order.is_verified,
				      .to_send = order.to_client,
				      .to_receive = order.to_server };
	endpoint_watch(client, flow_interest(&client->flow));
}

static int next_client(struct endpoint *source)
{
	int fd;

	if (source->kind == LISTENER)
		return accept4(source->fd, NULL, NULL, SOCK_CLOEXEC);
	fd = kaiso_accept(source->receiver, NULL, NULL, SOCK_CLOEXEC);
	errno = fd < 0 ? -fd : 0;
	return fd;
}

static void on_source(struct endpoint *source)
{
	int fd = next_client(source);

	if (fd >= 0)
		on_new(endpoint_new(NEW_CLIENT, fd));
	else if (errno != EAGAIN && errno != ECONNABORTED)
		fail("accept");
}

static void on_event(struct endpoint *endpoint, uint32_t events)
{
	switch (endpoint->kind) {
	case LISTENER:
	case RECEIVER:
		on_source(endpoint);
		break;
	case NEW_CLIENT:
		on_new(endpoint);
		break;
	case ECHO_CLIENT:
		on_echo(endpoint);
		break;
	case BULK_CLIENT:
		on_bulk(endpoint, events);
		break;
	}
}

static void run(void)
{
	struct epoll_event events[64];

	for (;;) {
		int count = epoll_wait(epoll_fd, events, 64, -1);

		for (int i = 0; i < count; i++)
			on_event(events[i].data.ptr, events[i].events);
	}
}

void serve(const char *const *places, int count)
{
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	for (int i = 0; i < count; i++) {
		struct place place = place_parse(places[i]);

		endpoint_new(LISTENER, place_listen(&place));
	}
	run();
}

void serve_receiver(const char *socket_path)
{
	struct kaiso_receiver *receiver;
	int r = kaiso_listen(socket_path, SOCK_NONBLOCK, &receiver);

	if (r < 0) {
		errno = -r;
		fail(socket_path);
	}
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	endpoint_new(RECEIVER, kaiso_receiver_fd(receiver))->receiver = receiver;
	run();
}
