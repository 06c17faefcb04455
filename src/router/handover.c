/*
 * Theory of operation: nobody knows beforehand whether a receiver greets, and
 * nobody shall wait to find out. So the first client is sent at once, and the
 * connection it went over is kept open for a moment (ASKED). A greeting makes it the lasting one. An
 * end or silence means a receiver for one client at a time: the connection is closed, and for some
 * seconds the clients after it get theirs closed right away, as such receivers
 * expect. Clients that come while the first greeting is awaited are served that way too.
 */
#include "router/handover.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/macros.h"
#include "base/sandbox.h"
#include "net/fdpass.h"

SANDBOX_CALLS("ioctl", "recvfrom", "sendmsg");

#define CLIENT_BYTE '*'
#define GREETING_BYTE '+'

static void receiver_forget(struct receiver *receiver)
{
	loop_watch(receiver->loop, &receiver->watch, 0);
	loop_timer_cancel(receiver->loop, &receiver->timer);
	cleanup_close(&receiver->watch.fd);
	receiver->watch.fd = -1;
	receiver->state = RECEIVER_UNKNOWN;
}

/* It did not greet: do not ask again for a while. */
static void receiver_is_silent(struct receiver *receiver)
{
	receiver_forget(receiver);
	receiver->ask_again_ms = receiver->loop->now_ms + RECEIVER_ASK_AGAIN_MS;
}

static void receiver_on_timer(struct loop_timer *timer)
{
	receiver_is_silent(CONTAINER_OF(timer, struct receiver, timer));
}

static void receiver_greeted(struct receiver *receiver)
{
	receiver->state = RECEIVER_LASTING;
	loop_timer_cancel(receiver->loop, &receiver->timer);
}

static void receiver_on_events(struct loop_watch *watch, uint32_t events)
{
	struct receiver *receiver = CONTAINER_OF(watch, struct receiver, watch);
	char bytes[256];
	ssize_t received =
		recv(watch->fd, bytes, receiver->state == RECEIVER_ASKED ? 1 : sizeof(bytes), MSG_DONTWAIT);

	(void)events;
	if (received < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (receiver->state == RECEIVER_ASKED && received == 1 && bytes[0] == GREETING_BYTE)
		receiver_greeted(receiver);
	else if (receiver->state == RECEIVER_ASKED)
		receiver_is_silent(receiver);
	else if (received <= 0)
		receiver_forget(receiver); /* what a lasting one says further is of no interest, its end is */
}

void receiver_init(struct receiver *receiver, struct loop *loop)
{
	*receiver = (struct receiver){ .loop = loop, .state = RECEIVER_UNKNOWN };
	receiver->watch = (struct loop_watch){ .on_events = receiver_on_events, .fd = -1 };
	receiver->timer.on_expire = receiver_on_timer;
}

void receiver_deinit(struct receiver *receiver)
{
	receiver_forget(receiver);
}

void receiver_give_up(struct receiver *receiver)
{
	receiver_forget(receiver);
}

void receiver_check(struct receiver *receiver, const struct stat *socket_file)
{
	if (receiver->watch.fd >= 0 && (!socket_file || socket_file->st_dev != receiver->device ||
					socket_file->st_ino != receiver->inode))
		receiver_forget(receiver);
}

bool receiver_is_full(const struct receiver *receiver)
{
	struct pollfd connection = { .fd = receiver->watch.fd, .events = POLLOUT };

	return poll(&connection, 1, 0) == 0;
}

int receiver_send(struct receiver *receiver, int client_fd)
{
	int r = fdpass_send(receiver->watch.fd, CLIENT_BYTE, client_fd);

	if (r == -ETOOMANYREFS)
		return -EAGAIN;
	if (r == -EPIPE || r == -ECONNRESET || r == -ENOTCONN) {
		receiver_forget(receiver);
		return -EPIPE;
	}
	return r;
}

int receiver_send_first_take(struct receiver *receiver, int connection_fd, int client_fd,
			     const struct stat *socket_file)
{
	int r = fdpass_send(connection_fd, CLIENT_BYTE, client_fd);

	if (r == -ETOOMANYREFS)
		return -EAGAIN;
	if (r < 0)
		return r;
	if (!socket_file || receiver->state != RECEIVER_UNKNOWN ||
	    receiver->loop->now_ms < receiver->ask_again_ms) {
		close(connection_fd);
		return 0;
	}
	receiver->watch.fd = connection_fd;
	receiver->device = socket_file->st_dev;
	receiver->inode = socket_file->st_ino;
	receiver->state = RECEIVER_ASKED;
	if (loop_watch(receiver->loop, &receiver->watch, EPOLLIN | EPOLLRDHUP) != 0 ||
	    loop_timer_set(receiver->loop, &receiver->timer, receiver->loop->now_ms + RECEIVER_GREETING_MS) !=
		    0)
		receiver_is_silent(receiver);
	return 0;
}
