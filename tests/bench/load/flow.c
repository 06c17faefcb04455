/*
 * Bulk: one connection that has so much to send and so much to receive. Both the clients and the server.
 */
#include "load.h"

#include <errno.h>
#include <sys/epoll.h>

#define PUMPS_AN_EVENT 8

bool flow_is_done(const struct flow *flow)
{
	return flow->sent == flow->to_send && flow->received == flow->to_receive;
}

uint32_t flow_interest(const struct flow *flow)
{
	return (flow->received < flow->to_receive ? (uint32_t)EPOLLIN : 0) |
	       (flow->sent < flow->to_send ? (uint32_t)EPOLLOUT : 0);
}

static size_t piece_of(uint64_t whole, uint64_t done)
{
	return whole - done < BUFFER_BYTES ? (size_t)(whole - done) : BUFFER_BYTES;
}

static bool flow_receive(struct flow *flow)
{
	for (int i = 0; i < PUMPS_AN_EVENT && flow->received < flow->to_receive; i++) {
		ssize_t length =
			recv(flow->fd, buffer, piece_of(flow->to_receive, flow->received), MSG_DONTWAIT);

		if (length < 0 && errno == EAGAIN)
			return true;
		if (length <= 0)
			return false;
		if (flow->is_verified && !pattern_matches(buffer, (size_t)length, flow->received)) {
			errno = EBADMSG;
			fail("a wrong byte");
		}
		flow->received += (uint64_t)length;
	}
	return true;
}

static bool flow_send(struct flow *flow)
{
	for (int i = 0; i < PUMPS_AN_EVENT && flow->sent < flow->to_send; i++) {
		size_t piece = piece_of(flow->to_send, flow->sent);
		ssize_t length;

		if (flow->is_verified)
			pattern_fill(buffer, piece, flow->sent);
		length = send(flow->fd, buffer, piece, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (length < 0 && errno == EAGAIN)
			return true;
		if (length <= 0)
			return false;
		flow->sent += (uint64_t)length;
	}
	return true;
}

bool flow_move(struct flow *flow, uint32_t events)
{
	if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !flow_receive(flow))
		return false;
	return !(events & (EPOLLOUT | EPOLLERR)) || flow_send(flow);
}
