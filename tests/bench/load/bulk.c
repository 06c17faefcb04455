/*
 * Streams at full speed: so many bytes each, up, down, or both ways at once.
 */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#define STREAMS_MAX 1024

static struct flow flows[STREAMS_MAX];

static struct order order_of(const char *direction, uint64_t bytes)
{
	struct order order = { .kind = ORDER_BULK, .is_verified = is_verified };

	order.to_server = strcmp(direction, "down") == 0 ? 0 : bytes;
	order.to_client = strcmp(direction, "up") == 0 ? 0 : bytes;
	return order;
}

static void flow_begin(struct flow *flow, const struct place *place, const char *line,
		       const struct order *order, int epoll_fd)
{
	struct epoll_event event = { .data.ptr = flow };

	*flow = (struct flow){ .fd = place_ask(place, line, order, sizeof(*order)),
			       .is_verified = is_verified,
			       .to_send = order->to_server,
			       .to_receive = order->to_client ? order->to_client : 1 };
	event.events = flow_interest(flow);
	epoll_ctl(epoll_fd, EPOLL_CTL_ADD, flow->fd, &event);
}

/* True when it was the flow's last move. */
static bool flow_go_on(struct flow *flow, uint32_t events, int epoll_fd)
{
	uint32_t before = flow_interest(flow);
	struct epoll_event event = { .data.ptr = flow };

	if (!flow_move(flow, events)) {
		errno = EPIPE;
		fail("the connection broke");
	}
	event.events = flow_interest(flow);
	if (event.events != before)
		epoll_ctl(epoll_fd, event.events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL, flow->fd, &event);
	return before != 0 && event.events == 0;
}

void bulk(const char *const *words)
{
	struct place place = place_parse(words[0]);
	int streams = atoi(words[3]), left = streams, epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	uint64_t bytes = strtoull(words[4], NULL, 10) / (uint64_t)streams, total = 0, start = now_ns();
	struct order order = order_of(words[2], bytes);
	struct epoll_event events[64];

	if (streams < 1 || streams > STREAMS_MAX) {
		errno = EINVAL;
		fail("streams");
	}
	for (int i = 0; i < streams; i++)
		flow_begin(&flows[i], &place, words[1], &order, epoll_fd);
	while (left > 0) {
		int count = epoll_wait(epoll_fd, events, 64, -1);

		for (int i = 0; i < count; i++)
			left -= flow_go_on(events[i].data.ptr, events[i].events, epoll_fd);
	}
	total = (order.to_server + order.to_client) * (uint64_t)streams;
	printf("{\"bytes\": %llu, \"seconds\": %.6f}\n", (unsigned long long)total,
	       (double)(now_ns() - start) / 1e9);
}
