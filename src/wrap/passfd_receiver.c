/*
 * Theory of operation: there are sources of clients and queues for them. A source reads one client at a
 * time and delivers it; when no queue takes it, the source holds it and is not watched until a queue has
 * room again (wake). That is the back-pressure: routers feel it as a full connection, plain clients as a
 * full backlog.
 *
 * At the limit of descriptors recvmsg(2) loses what it cannot place (MSG_CTRUNC). It does not come to that:
 * a source holds at most one client, and there are at most so many sources and queues that all of it fits
 * the limit.
 *
 * Which listener is the server's is decided once one is offered: the one that was asked for, or the first
 * TCP port. A UNIX listener is served at SOCKET only when no TCP one has come after a moment.
 */
#include "wrap/passfd_receiver.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/macros.h"

#define CLIENT_BYTE '*'
#define GREETING_BYTE '+'
/* Clients that one source may deliver before the others get their turn. */
#define SOURCE_TURN 16
/* Descriptors in one message at most. More than one is more than the protocol has, but each is a client. */
#define MESSAGE_CLIENTS_MAX 64
/* Descriptors kept back for queues, the supervisor's work and the C library. */
#define DESCRIPTOR_RESERVE 64
#define RETRY_MS 20

enum source_kind {
	SOURCE_ROUTER,   /* a connection on SOCKET */
	SOURCE_LISTENER, /* the program's listener */
	SOURCE_SOCKET,   /* the program's listener, which is SOCKET itself */
};

struct client {
	int fd; /* -1: none */
	union queue_address address;
	socklen_t length;
};

struct source {
	struct list member; /* of routers, listeners, or the graveyard */
	struct passfd_receiver *receiver;
	enum source_kind kind;
	struct loop_watch watch; /* watch.fd is owned; -1: freed soon */
	struct client held;
	struct loop_timer silence; /* ROUTER: until its first client */
	bool is_closed_to_plain;   /* LISTENER */
	bool is_nonblocking;       /* LISTENER, SOCKET: as the program had it, before we set it ourselves */
	uint64_t cookie;           /* LISTENER, SOCKET: the same for all descriptors of one socket */
	unsigned queue_count;      /* LISTENER, SOCKET: queues that stand for it */
};

struct queue {
	struct list member; /* of queues, or the graveyard */
	struct passfd_receiver *receiver;
	struct loop_watch watch; /* our end, owned; -1: freed soon */
	struct source *listener;
	uint64_t id;
	sa_family_t family;
	bool is_full;
	uint64_t usable_at_ms; /* UNIX: when it may have routers' clients */
	struct list waiters;
};

/* The member itself may be removed meanwhile. NOLINTBEGIN(bugprone-macro-parentheses): not around a name that
 * is declared. */
#define EACH_MEMBER(each, head)                                                         \
	for (struct list *each = (head)->next, *each_next = each->next; each != (head); \
	     each = each_next, each_next = each->next)
/* NOLINTEND(bugprone-macro-parentheses) */

static void wake_later(struct passfd_receiver *receiver)
{
	loop_defer(receiver->loop, &receiver->wake);
}

static void retry_at(struct passfd_receiver *receiver, uint64_t at_ms)
{
	if (receiver->retry.position == 0)
		loop_timer_set(receiver->loop, &receiver->retry, at_ms);
}

static void retry_soon(struct passfd_receiver *receiver)
{
	retry_at(receiver, receiver->loop->now_ms + RETRY_MS);
}

/* -------------------------------------------------------------- the ends */

/* For sources and queues alike: both begin with their list member. */
static void bury(struct passfd_receiver *receiver, struct list *member, struct loop_watch *watch)
{
	loop_watch(receiver->loop, watch, 0);
	close(watch->fd);
	watch->fd = -1;
	list_remove(member);
	list_append(&receiver->graveyard, member);
	loop_defer(receiver->loop, &receiver->bury);
}

static void bury_run(struct loop_task *task)
{
	struct passfd_receiver *receiver = CONTAINER_OF(task, struct passfd_receiver, bury);

	EACH_MEMBER(member, &receiver->graveyard)
	{
		list_remove(member);
		free(member);
	}
}

static void source_close(struct source *source)
{
	struct passfd_receiver *receiver = source->receiver;

	if (source->watch.fd < 0)
		return;
	loop_timer_cancel(receiver->loop, &source->silence);
	cleanup_close(&source->held.fd);
	source->held.fd = -1;
	if (source->kind == SOURCE_ROUTER) {
		receiver->router_count--;
		wake_later(receiver); /* there is room for another connection */
	}
	bury(receiver, &source->member, &source->watch);
}

static bool has_tcp_queue(const struct passfd_receiver *receiver)
{
	EACH_MEMBER(member, &receiver->queues)
	{
		if (CONTAINER_OF(member, struct queue, member)->family != AF_UNIX)
			return true;
	}
	return false;
}

static void queue_close(struct queue *queue)
{
	struct passfd_receiver *receiver = queue->receiver;

	if (queue->watch.fd < 0)
		return;
	while (!list_is_empty(&queue->waiters)) {
		struct receiver_waiter *waiter =
			CONTAINER_OF(queue->waiters.next, struct receiver_waiter, member);

		list_remove(&waiter->member);
		waiter->give(waiter, -1, NULL, 0);
	}
	if (--queue->listener->queue_count == 0)
		source_close(queue->listener);
	receiver->queue_count--;
	bury(receiver, &queue->member, &queue->watch);
	if (!has_tcp_queue(receiver))
		receiver->port = 0; /* the program may go on to another port */
	if (receiver->is_program_ended && receiver->queue_count == 0)
		loop_defer(receiver->loop, &receiver->shut);
}

/* ------------------------------------------------------------- delivering */

/* The address as accept(2) on a listener of that family would give it. */
static socklen_t address_for(sa_family_t family, const struct client *client, union queue_address *address)
{
	const sa_family_t own = client->address.sa.sa_family;

	memset(address, 0, sizeof(*address));
	if (own == family ||
	    (own != AF_UNIX && family == AF_INET && !IN6_IS_ADDR_V4MAPPED(&client->address.in6.sin6_addr))) {
		memcpy(address, &client->address, client->length);
		return client->length;
	}
	address->sa.sa_family = family;
	if (family == AF_UNIX)
		return sizeof(sa_family_t);
	if (own == AF_INET6) {
		address->in.sin_port = client->address.in6.sin6_port;
		memcpy(&address->in.sin_addr, &client->address.in6.sin6_addr.s6_addr[12], 4);
		return sizeof(address->in);
	}
	/* A client of a router's UNIX socket has no address, and programs with a TCP listener do not expect
	 * that: it is on this host, so it comes from the loopback, port 0. */
	if (family == AF_INET) {
		address->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		return sizeof(address->in);
	}
	address->in6.sin6_addr = in6addr_loopback;
	if (own == AF_INET) { /* RFC 4291, 2.5.5.2, as a listener for both families has it */
		address->in6.sin6_addr = (struct in6_addr){ .s6_addr = { [10] = 0xff, [11] = 0xff } };
		memcpy(&address->in6.sin6_addr.s6_addr[12], &client->address.in.sin_addr, 4);
		address->in6.sin6_port = client->address.in.sin_port;
	}
	return sizeof(address->in6);
}

static int queue_give(struct queue *queue, const struct client *client)
{
	union queue_address address;
	socklen_t length = address_for(queue->family, client, &address);

	while (!list_is_empty(&queue->waiters)) {
		struct receiver_waiter *waiter =
			CONTAINER_OF(queue->waiters.next, struct receiver_waiter, member);

		list_remove(&waiter->member);
		if (waiter->give(waiter, client->fd, &address.sa, length) == 0)
			return 0;
	}
	return queue_send(queue->watch.fd, client->fd, &address.sa, length);
}

/* Which queues a router's client may go to: those of its family if there are any. */
static sa_family_t choose_family(struct passfd_receiver *receiver, const struct client *client)
{
	const sa_family_t own = client->address.sa.sa_family;
	sa_family_t chosen = AF_UNSPEC;

	EACH_MEMBER(member, &receiver->queues)
	{
		const struct queue *queue = CONTAINER_OF(member, struct queue, member);

		/* A UNIX listener beside a TCP one is not the server's. */
		if (queue->family == AF_UNIX && queue->listener->kind != SOURCE_SOCKET &&
		    has_tcp_queue(receiver))
			continue;
		if (queue->family == own)
			return own;
		if (chosen == AF_UNSPEC || queue->family == AF_INET6)
			chosen = queue->family;
	}
	return chosen;
}

static bool is_for(struct queue *queue, const struct source *source, sa_family_t family)
{
	struct passfd_receiver *receiver = queue->receiver;

	if (queue->is_full)
		return false;
	if (source->kind != SOURCE_ROUTER)
		return queue->listener == source;
	if (queue->family != family)
		return false;
	if (queue->usable_at_ms > receiver->loop->now_ms) {
		retry_at(receiver, queue->usable_at_ms);
		return false;
	}
	return true;
}

/* One attempt: 1 delivered, 0 the queue cannot take it now. */
static int offer_to(struct queue *queue, const struct client *client)
{
	struct passfd_receiver *receiver = queue->receiver;
	int r = queue_give(queue, client);

	if (r == 0) {
		list_remove(&queue->member);
		list_append(&receiver->queues, &queue->member);
		return 1;
	}
	if (r == -EAGAIN) {
		queue->is_full = true;
		loop_watch(receiver->loop, &queue->watch, EPOLLIN | EPOLLRDHUP | EPOLLOUT);
	} else if (r == -EPIPE) {
		queue_close(queue);
	} else {
		retry_soon(receiver); /* -ETOOMANYREFS, -ENOMEM, -ENOBUFS */
	}
	return 0;
}

/* 0: delivered, or -EAGAIN. A client keeps its descriptor: the caller closes it. */
static int deliver(struct source *source, const struct client *client)
{
	struct passfd_receiver *receiver = source->receiver;
	const sa_family_t family = choose_family(receiver, client);

	EACH_MEMBER(member, &receiver->queues)
	{
		struct queue *queue = CONTAINER_OF(member, struct queue, member);

		if (is_for(queue, source, family) && offer_to(queue, client) == 1)
			return 0;
	}
	return -EAGAIN;
}

/* ---------------------------------------------------------------- sources */

static void source_hold(struct source *source, struct client *client)
{
	if (source->watch.fd < 0) { /* its last queue has just gone */
		close(client->fd);
		return;
	}
	source->held = *client;
	loop_watch(source->receiver->loop, &source->watch, 0);
}

/* Takes the client. False when the source has to wait now, or is gone. */
static bool source_deliver_take(struct source *source, struct client *client)
{
	if (deliver(source, client) == 0) {
		close(client->fd);
		return source->watch.fd >= 0;
	}
	source_hold(source, client);
	return false;
}

static void source_wake(struct source *source)
{
	struct client client = source->held;

	if (client.fd >= 0) {
		source->held.fd = -1;
		if (!source_deliver_take(source, &client))
			return;
	}
	if (!source->is_closed_to_plain)
		loop_watch(source->receiver->loop, &source->watch, EPOLLIN);
}

static struct source *source_new_take(struct passfd_receiver *receiver, enum source_kind kind, int fd,
				      void (*on_events)(struct loop_watch *, uint32_t))
{
	struct source *source = calloc(1, sizeof(*source));

	if (!source)
		return NULL;
	list_init(&source->member);
	source->receiver = receiver;
	source->kind = kind;
	source->held.fd = -1;
	source->watch = (struct loop_watch){ .fd = fd, .on_events = on_events };
	return source;
}

/* -------------------------------------------------------------- of routers */

/* Fills in who it is. False when it is no client (any more): a stream socket whose peer has an address. */
static bool client_look(struct client *client)
{
	int type = 0;
	socklen_t length = sizeof(type);
	int flags = fcntl(client->fd, F_GETFL);

	if (getsockopt(client->fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0 || type != SOCK_STREAM)
		return false;
	client->length = sizeof(client->address);
	/* A client that was reset meanwhile has no peer: the program does not hear of it, as with a real
	 * backlog. */
	if (getpeername(client->fd, &client->address.sa, &client->length) != 0)
		return false;
	if (client->address.sa.sa_family == AF_UNIX)
		client->length = sizeof(sa_family_t);
	/* The first kaiso's router hands over what it reads without blocking. accept(2) never gives that. */
	if ((flags & O_NONBLOCK) != 0)
		fcntl(client->fd, F_SETFL, flags & ~O_NONBLOCK);
	return client->address.sa.sa_family == AF_INET || client->address.sa.sa_family == AF_INET6 ||
	       client->address.sa.sa_family == AF_UNIX;
}

union message_control {
	struct cmsghdr header; /* for its alignment */
	char bytes[CMSG_SPACE(sizeof(int) * MESSAGE_CLIENTS_MAX)];
};

static size_t descriptors_in(struct msghdr *message, int fds[static MESSAGE_CLIENTS_MAX])
{
	size_t count = 0;

	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(header), count * sizeof(int));
	}
	return count;
}

/*
 * One message. 1 and *fd, 0: nothing to be read now, or a negative errno: it is over. What is no "*" with one
 * descriptor is not the protocol: all is closed, truncated messages too.
 */
static int router_receive(int connection_fd, int *fd)
{
	union message_control control;
	int fds[MESSAGE_CLIENTS_MAX];
	char byte = 0;
	struct iovec part = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};
	ssize_t received = recvmsg(connection_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	size_t count;

	if (received < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	count = descriptors_in(&message, fds);
	if (received == 1 && byte == CLIENT_BYTE && count == 1 && (message.msg_flags & MSG_CTRUNC) == 0) {
		*fd = fds[0];
		return 1;
	}
	while (count > 0)
		close(fds[--count]);
	return received == 0 ? -EPIPE : -EPROTO;
}

static void router_on_events(struct loop_watch *watch, uint32_t events)
{
	struct source *router = CONTAINER_OF(watch, struct source, watch);
	bool goes_on = watch->fd >= 0;

	(void)events;
	for (int turn = 0; goes_on && turn < SOURCE_TURN; turn++) {
		struct client client = { .fd = -1 };
		int r = router_receive(watch->fd, &client.fd);

		if (r < 0)
			source_close(router);
		if (r <= 0)
			return;
		loop_timer_cancel(router->receiver->loop, &router->silence);
		if (client_look(&client))
			goes_on = source_deliver_take(router, &client);
		else
			close(client.fd);
	}
}

static void router_on_silence(struct loop_timer *timer)
{
	source_close(CONTAINER_OF(timer, struct source, silence));
}

/* Takes fd in any case. */
static void router_add(struct passfd_receiver *receiver, int fd)
{
	static const char greeting = GREETING_BYTE;
	struct source *router = source_new_take(receiver, SOURCE_ROUTER, fd, router_on_events);

	if (!router || loop_watch(receiver->loop, &router->watch, EPOLLIN) != 0) {
		free(router);
		close(fd);
		return;
	}
	/* A router of the first kind may have sent its client and left: what it sent is there all the
	 * same. */
	send(fd, &greeting, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	list_append(&receiver->routers, &router->member);
	receiver->router_count++;
	router->silence.on_expire = router_on_silence;
	if (receiver->options->silence_ms > 0)
		loop_timer_set(receiver->loop, &router->silence,
			       receiver->loop->now_ms + receiver->options->silence_ms);
}

/* Accepts what waits at SOCKET, as long as there is room. */
static void accept_routers(struct passfd_receiver *receiver, struct loop_watch *watch)
{
	while (receiver->router_count < receiver->router_limit) {
		int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			router_add(receiver, fd);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno == EAGAIN)
			return;
		retry_soon(receiver);
		break;
	}
	loop_watch(receiver->loop, watch, 0); /* until wake */
}

static void socket_on_events(struct loop_watch *watch, uint32_t events)
{
	(void)events;
	if (watch->fd >= 0)
		accept_routers(CONTAINER_OF(watch, struct passfd_receiver, socket_watch), watch);
}

/* -------------------------------------------- of the program's listeners */

static void listener_on_events(struct loop_watch *watch, uint32_t events)
{
	struct source *listener = CONTAINER_OF(watch, struct source, watch);
	bool goes_on = watch->fd >= 0;

	(void)events;
	if (goes_on && listener->kind == SOURCE_SOCKET) {
		accept_routers(listener->receiver, watch);
		return;
	}
	for (int turn = 0; goes_on && turn < SOURCE_TURN; turn++) {
		struct client client = { .length = sizeof(client.address) };

		client.fd = accept4(watch->fd, &client.address.sa, &client.length, SOCK_CLOEXEC);
		if (client.fd < 0 &&
		    (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
			loop_watch(listener->receiver->loop, watch, 0);
			retry_soon(listener->receiver);
		}
		if (client.fd < 0)
			return;
		goes_on = source_deliver_take(listener, &client);
	}
}

static uint64_t cookie_of(int fd)
{
	uint64_t cookie = 0;
	socklen_t length = sizeof(cookie);

	getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length);
	return cookie;
}

/* Processes that share a socket from before listen() each offer it when they listen. */
static struct source *listener_find(const struct passfd_receiver *receiver, int fd)
{
	const uint64_t cookie = cookie_of(fd);

	EACH_MEMBER(member, &receiver->listeners)
	{
		struct source *listener = CONTAINER_OF(member, struct source, member);

		if (listener->cookie == cookie)
			return listener;
	}
	return NULL;
}

/* The listener behind the descriptor, known already or new; takes the descriptor in both cases. NULL: no
 * memory. */
static struct source *listener_get_take(struct passfd_receiver *receiver, int fd, bool is_unix)
{
	const bool is_socket = is_unix && receiver->options->socket_path[0] == '\0';
	struct source *listener = listener_find(receiver, fd);

	if (listener) {
		close(fd);
		return listener;
	}
	listener = source_new_take(receiver, is_socket ? SOURCE_SOCKET : SOURCE_LISTENER, fd,
				   listener_on_events);
	if (!listener)
		return NULL;
	listener->cookie = cookie_of(fd);
	listener->is_closed_to_plain = receiver->options->refuses_plain && !is_unix;
	list_append(&receiver->listeners, &listener->member);
	listener->is_nonblocking = (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0;
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	source_wake(listener);
	return listener;
}

/* ----------------------------------------------------------------- queues */

static void queue_on_events(struct loop_watch *watch, uint32_t events)
{
	struct queue *queue = CONTAINER_OF(watch, struct queue, watch);
	char byte;

	if (watch->fd < 0)
		return;
	/* Nobody sends anything on a listener; should somebody, it is thrown away. */
	if ((events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0 ||
	    ((events & EPOLLIN) != 0 && recv(watch->fd, &byte, 1, MSG_DONTWAIT) == 0)) {
		queue_close(queue);
		return;
	}
	if ((events & EPOLLOUT) != 0) {
		queue->is_full = false;
		loop_watch(queue->receiver->loop, watch, EPOLLIN | EPOLLRDHUP);
		wake_later(queue->receiver);
	}
}

static struct queue *queue_find(struct passfd_receiver *receiver, uint64_t id)
{
	EACH_MEMBER(member, &receiver->queues)
	{
		struct queue *queue = CONTAINER_OF(member, struct queue, member);

		if (queue->id == id)
			return queue;
	}
	return NULL;
}

static int queue_add_take(struct passfd_receiver *receiver, struct source *listener,
			  const struct queue_identity *identity, int receiver_end)
{
	struct queue *queue = calloc(1, sizeof(*queue));

	if (!queue)
		return -ENOMEM;
	list_init(&queue->waiters);
	queue->receiver = receiver;
	queue->listener = listener;
	queue->id = identity->id;
	queue->family = identity->address.sa.sa_family;
	if (queue->family == AF_UNIX && listener->kind != SOURCE_SOCKET)
		queue->usable_at_ms = receiver->loop->now_ms + RECEIVER_UNIX_GRACE_MS;
	queue->watch = (struct loop_watch){ .fd = receiver_end, .on_events = queue_on_events };
	if (loop_watch(receiver->loop, &queue->watch, EPOLLIN | EPOLLRDHUP) != 0) {
		free(queue);
		return -ENOMEM;
	}
	list_append(&receiver->queues, &queue->member);
	listener->queue_count++;
	receiver->queue_count++;
	receiver->had_queue = true;
	wake_later(receiver);
	return 0;
}

static uint16_t port_of(const struct queue_identity *identity)
{
	return ntohs(identity->address.in.sin_port); /* sin6_port is at the same place */
}

static bool is_wanted_tcp(const struct passfd_receiver *receiver, const struct queue_identity *identity)
{
	const struct receiver_options *options = receiver->options;
	union addr bound, wanted = options->address;

	if (options->socket_path[0] == '\0')
		return false;
	if (options->port == 0)
		return receiver->port == 0 || receiver->port == port_of(identity);
	if (options->port != port_of(identity))
		return false;
	addr_from_sockaddr(&bound, &identity->address.sa, identity->length);
	wanted.in.sin_port = identity->address.in.sin_port;
	return !options->has_address || addr_is_equal(&bound, &wanted);
}

static bool is_wanted(const struct passfd_receiver *receiver, const struct queue_identity *identity,
		      int listener_fd)
{
	if (receiver->is_shut || receiver->queue_count >= RECEIVER_QUEUES_MAX)
		return false;
	if (identity->address.sa.sa_family != AF_UNIX)
		return is_wanted_tcp(receiver, identity);
	return receiver->options->port == 0 &&
	       (receiver->queue_count == 0 || listener_find(receiver, listener_fd) != NULL);
}

/* O_NONBLOCK belongs to the open file: where other processes have offered the listener before, it is ours
 * already. */
static void copy_mode(const struct source *known, int listener_fd, int program_end)
{
	const bool is_nonblocking = known ? known->is_nonblocking :
					    (fcntl(listener_fd, F_GETFL) & O_NONBLOCK) != 0;
	struct timeval timeout;
	socklen_t length = sizeof(timeout);

	if (is_nonblocking)
		fcntl(program_end, F_SETFL, O_NONBLOCK);
	if (getsockopt(listener_fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, &length) == 0)
		setsockopt(program_end, SOL_SOCKET, SO_RCVTIMEO, &timeout, length);
}

int receiver_offer_take(struct passfd_receiver *receiver, int listener_fd, int *program_end)
{
	struct queue_identity identity;
	struct source *listener;
	int receiver_end, end, r;

	if (queue_identity_of_listener(listener_fd, &identity) < 0 ||
	    !is_wanted(receiver, &identity, listener_fd))
		return 0;
	r = queue_open(&identity, &end, &receiver_end);
	if (r < 0)
		return r;
	copy_mode(listener_find(receiver, listener_fd), listener_fd, end);
	if (receiver->options->refuses_plain && identity.address.sa.sa_family != AF_UNIX)
		shutdown(listener_fd, SHUT_RD); /* stops listening, keeps the port */
	listener = listener_get_take(receiver, listener_fd, identity.address.sa.sa_family == AF_UNIX);
	r = listener ? queue_add_take(receiver, listener, &identity, receiver_end) : -ENOMEM;
	if (r < 0) {
		close(end);
		close(receiver_end);
		return r;
	}
	if (identity.address.sa.sa_family != AF_UNIX)
		receiver->port = port_of(&identity);
	*program_end = end;
	return 1;
}

int receiver_wait(struct passfd_receiver *receiver, uint64_t queue_id, struct receiver_waiter *waiter)
{
	struct queue *queue = queue_find(receiver, queue_id);

	if (!queue)
		return -ENOENT;
	list_append(&queue->waiters, &waiter->member);
	return 0;
}

void receiver_wait_cancel(struct receiver_waiter *waiter)
{
	list_remove(&waiter->member);
}

int receiver_requeue(struct passfd_receiver *receiver, uint64_t queue_id, int client_fd,
		     const struct sockaddr *address, socklen_t length)
{
	struct queue *queue = queue_find(receiver, queue_id);

	return queue ? queue_send(queue->watch.fd, client_fd, address, length) : -ENOENT;
}

/* ------------------------------------------------------------------- life */

static void wake_sources(struct list *sources)
{
	EACH_MEMBER(member, sources)
	source_wake(CONTAINER_OF(member, struct source, member));
}

static void wake_run(struct loop_task *task)
{
	struct passfd_receiver *receiver = CONTAINER_OF(task, struct passfd_receiver, wake);

	wake_sources(&receiver->routers);
	wake_sources(&receiver->listeners);
	if (receiver->socket_watch.fd >= 0 && receiver->router_count < receiver->router_limit)
		loop_watch(receiver->loop, &receiver->socket_watch, EPOLLIN);
}

static void retry_run(struct loop_timer *timer)
{
	wake_run(&CONTAINER_OF(timer, struct passfd_receiver, retry)->wake);
}

static void shut_run(struct loop_task *task)
{
	receiver_shut(CONTAINER_OF(task, struct passfd_receiver, shut));
}

/* Each connection may hold a client: two descriptors. */
static unsigned router_limit(void)
{
	struct rlimit limit = { .rlim_cur = 1024 };
	rlim_t free_descriptors;

	getrlimit(RLIMIT_NOFILE, &limit);
	free_descriptors = limit.rlim_cur > 2 * DESCRIPTOR_RESERVE ? limit.rlim_cur - DESCRIPTOR_RESERVE :
								     limit.rlim_cur / 2;
	return (unsigned)MAX(MIN(free_descriptors / 2, (rlim_t)RECEIVER_CONNECTIONS_MAX), (rlim_t)1);
}

static int open_socket(struct passfd_receiver *receiver, char *reason, size_t reason_size)
{
	int r;

	if (receiver->options->socket_path[0] == '\0')
		return 0;
	CLEANUP_FREE char *word = NULL;
	if (asprintf(&word, "unix:%s", receiver->options->socket_path) < 0) {
		word = NULL;
		return -ENOMEM;
	}
	r = listen_set_add(&receiver->sockets, word, reason, reason_size);
	if (r < 0)
		return r;
	receiver->socket_watch.fd = receiver->sockets.listeners[0].fd;
	return loop_watch(receiver->loop, &receiver->socket_watch, EPOLLIN);
}

int receiver_open(struct passfd_receiver *receiver, struct loop *loop, const struct receiver_options *options,
		  char *reason, size_t reason_size)
{
	*receiver = (struct passfd_receiver){ .loop = loop, .options = options };
	list_init(&receiver->routers);
	list_init(&receiver->listeners);
	list_init(&receiver->queues);
	list_init(&receiver->graveyard);
	receiver->router_limit = router_limit();
	receiver->socket_watch = (struct loop_watch){ .fd = -1, .on_events = socket_on_events };
	receiver->retry.on_expire = retry_run;
	receiver->wake.run = wake_run;
	receiver->bury.run = bury_run;
	receiver->shut.run = shut_run;
	if (reason_size > 0)
		reason[0] = '\0';
	return open_socket(receiver, reason, reason_size);
}

static void close_sources(struct list *sources)
{
	while (!list_is_empty(sources))
		source_close(CONTAINER_OF(sources->next, struct source, member));
}

void receiver_shut(struct passfd_receiver *receiver)
{
	if (receiver->is_shut)
		return;
	receiver->is_shut = true;
	loop_timer_cancel(receiver->loop, &receiver->retry);
	if (receiver->socket_watch.fd >= 0)
		loop_watch(receiver->loop, &receiver->socket_watch, 0);
	receiver->socket_watch.fd = -1;
	listen_set_close(&receiver->sockets);
	while (!list_is_empty(&receiver->queues))
		queue_close(CONTAINER_OF(receiver->queues.next, struct queue, member));
	close_sources(&receiver->routers);
	close_sources(&receiver->listeners);
}

/* The events of queues that ended with the program have not come round yet: ask. */
void receiver_program_ended(struct passfd_receiver *receiver)
{
	receiver->is_program_ended = true;
	EACH_MEMBER(member, &receiver->queues)
	{
		struct queue *queue = CONTAINER_OF(member, struct queue, member);
		struct pollfd end = { .fd = queue->watch.fd, .events = POLLRDHUP };

		if (poll(&end, 1, 0) == 1)
			queue_close(queue);
	}
	if (receiver->had_queue && receiver->queue_count == 0)
		receiver_shut(receiver);
}

void receiver_close(struct passfd_receiver *receiver)
{
	receiver_shut(receiver);
	loop_run_out(receiver->loop);
}
