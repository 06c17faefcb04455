/*
 * The receiver's side of the control socket. A connection is one request; who has not made it after
 * a moment, or does not know the secret, is dropped.
 */
#include "wrap/passfd_control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/macros.h"
#include "wrap/passfd_message.h"

#define CONNECTIONS_MAX 64
#define REQUEST_MS 5000

struct connection {
	struct list member;
	struct passfd_control *control;
	struct loop_watch watch;
	struct loop_timer timer;
	struct loop_task bury;
};

static void connection_free(struct loop_task *task)
{
	free(CONTAINER_OF(task, struct connection, bury));
}

static void connection_close(struct connection *connection)
{
	struct loop *loop = connection->control->receiver->loop;

	if (connection->watch.fd < 0)
		return;
	loop_watch(loop, &connection->watch, 0);
	loop_timer_cancel(loop, &connection->timer);
	close(connection->watch.fd);
	connection->watch.fd = -1;
	list_remove(&connection->member);
	connection->control->connection_count--;
	connection->bury.run = connection_free;
	loop_defer(loop, &connection->bury);
}

static void connection_on_timer(struct loop_timer *timer)
{
	connection_close(CONTAINER_OF(timer, struct connection, timer));
}

/* Without haste: a secret that is compared byte by byte tells how much of it was right. */
static bool knows_secret(const struct passfd_control *control, const char *bytes, size_t length)
{
	const char *secret = control->word + CONTROL_NAME_LENGTH + 1;
	unsigned char difference = 0;

	if (length != CONTROL_SECRET_LENGTH)
		return false;
	for (size_t i = 0; i < length; i++)
		difference |= (unsigned char)(bytes[i] ^ secret[i]);
	return difference == 0;
}

static void answer_take(struct connection *connection, int listener_fd)
{
	struct control_reply reply;
	CLEANUP_CLOSE int program_end = -1;

	reply.result = receiver_offer_take(connection->control->receiver, listener_fd, &program_end);
	if (reply.result != 1)
		close(listener_fd);
	message_send(connection->watch.fd, &reply, sizeof(reply), program_end);
}

static void connection_on_events(struct loop_watch *watch, uint32_t events)
{
	struct connection *connection = CONTAINER_OF(watch, struct connection, watch);
	char bytes[CONTROL_SECRET_LENGTH + 1];
	int listener_fd = -1;
	ssize_t length;

	(void)events;
	if (watch->fd < 0)
		return;
	length = message_receive(watch->fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_CMSG_CLOEXEC,
				 &listener_fd);
	if (length == -EAGAIN || length == -EINTR)
		return;
	if (length > 0 && listener_fd >= 0 && knows_secret(connection->control, bytes, (size_t)length))
		answer_take(connection, listener_fd);
	else
		cleanup_close(&listener_fd);
	connection_close(connection);
}

/* Takes fd in any case. */
static void connection_add(struct passfd_control *control, int fd)
{
	struct loop *loop = control->receiver->loop;
	struct connection *connection = calloc(1, sizeof(*connection));

	if (connection)
		connection->watch = (struct loop_watch){ .fd = fd, .on_events = connection_on_events };
	if (!connection || control->connection_count >= CONNECTIONS_MAX ||
	    loop_watch(loop, &connection->watch, EPOLLIN) != 0) {
		free(connection);
		close(fd);
		return;
	}
	connection->control = control;
	connection->timer.on_expire = connection_on_timer;
	list_append(&control->connections, &connection->member);
	control->connection_count++;
	loop_timer_set(loop, &connection->timer, loop->now_ms + REQUEST_MS);
}

/* The abstract name is open to every user of this network namespace. A program may have become another user
 * before it listens; but those others never get all the places. */
static bool is_own_user(int fd)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.uid == geteuid();
}

static void control_on_events(struct loop_watch *watch, uint32_t events)
{
	struct passfd_control *control = CONTAINER_OF(watch, struct passfd_control, watch);
	int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0)
		return;
	if (control->connection_count < CONNECTIONS_MAX / 2 || is_own_user(fd))
		connection_add(control, fd);
	else
		close(fd);
}

static int choose_word(char word[static CONTROL_WORD_SIZE])
{
	uint64_t random[3];

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return -EAGAIN;
	snprintf(word, CONTROL_WORD_SIZE, "kaiso-passfd-%016llx:%016llx%016llx",
		 (unsigned long long)random[0], (unsigned long long)random[1], (unsigned long long)random[2]);
	return 0;
}

int control_open(struct passfd_control *control, struct passfd_receiver *receiver)
{
	struct sockaddr_un name;
	CLEANUP_CLOSE int fd = -1;
	socklen_t length;
	int r;

	*control = (struct passfd_control){ .receiver = receiver };
	control->watch = (struct loop_watch){ .fd = -1, .on_events = control_on_events };
	list_init(&control->connections);
	r = choose_word(control->word);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	length = control_name(control->word, &name);
	if (bind(fd, (struct sockaddr *)&name, length) != 0 || listen(fd, CONNECTIONS_MAX) != 0)
		return -errno;
	control->watch.fd = fd;
	r = loop_watch(receiver->loop, &control->watch, EPOLLIN);
	if (r < 0)
		control->watch.fd = -1;
	else
		STEAL_FD(fd);
	return r;
}

void control_close(struct passfd_control *control)
{
	if (control->watch.fd < 0)
		return;
	loop_watch(control->receiver->loop, &control->watch, 0);
	cleanup_close(&control->watch.fd);
	control->watch.fd = -1;
	while (!list_is_empty(&control->connections))
		connection_close(CONTAINER_OF(control->connections.next, struct connection, member));
}
