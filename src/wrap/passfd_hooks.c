/*
 * Theory of operation: each hook takes a duplicate of the descriptor that the call is about. When it is a
 * queue, its name says so, whoever made it and however it came there; the hook then answers the call
 * itself. In every other case the kernel goes on with the call as if nothing were. A duplicate is closed
 * before the hook returns: one that stays would keep a listener alive which the program has closed.
 *
 * A blocking accept() is parked as a waiter with the receiver, which gives the next client of that queue
 * straight to it. A call that a signal interrupts leaves a parked one behind that nobody waits for; giving
 * to it fails, and the client goes to the next. Stale ones are thrown out as new ones come.
 *
 * epoll keeps a registration by (open file, number). To move one, the listener and then the queue must
 * stand at the program's number in the table of whoever calls epoll_ctl(2): a child of our own, with a
 * table of its own.
 */
#include "wrap/passfd_hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "base/macros.h"
#include "wrap/passfd_places.h"
#include "wrap/passfd_queue.h"

/* Longer values exist for no option that is answered here. */
#define OPTION_SIZE 256
/* Old parked calls looked at when a new one comes. */
#define SWEEP_COUNT 4

struct parked {
	struct receiver_waiter waiter;
	struct list member;
	struct passfd_hooks *hooks;
	struct supervisor *supervisor;
	struct supervisor_call call;
	uint64_t queue_id;
	int flags;
	struct loop_timer timer; /* SO_RCVTIMEO of the listener (socket(7)) */
};

/* The queue that the call's first argument is, or a negative errno when it is none, or cannot be looked
 * at. */
static int take_queue(struct supervisor *supervisor, const struct supervisor_call *call,
		      struct queue_identity *identity)
{
	int fd = supervisor_take_fd(supervisor, call, (int)call->arguments[0]);

	if (fd >= 0 && !queue_recognize(fd, identity)) {
		close(fd);
		return -ENOTSOCK;
	}
	return fd;
}

/* Could the descriptor not be looked at for want of room? To go on then would be to listen unwrapped, or to
 * accept from a queue as if it were nothing: the program is told what its own limit would tell it. */
static bool is_exhausted(int fd)
{
	return fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM;
}

/* As the kernel does: *room is read, the address cut to it, its true length written back. */
static int write_address(struct supervisor *supervisor, const struct supervisor_call *call,
			 const union queue_address *address, socklen_t length)
{
	const uint64_t to = call->arguments[1], room_at = call->arguments[2];
	int32_t room;
	int r;

	if (to == 0)
		return 0;
	r = supervisor_read(supervisor, call, room_at, &room, sizeof(room));
	if (r < 0)
		return r;
	if (room < 0)
		return -EINVAL;
	r = supervisor_write(supervisor, call, to, address, MIN((size_t)room, (size_t)length));
	return r < 0 ? r : supervisor_write(supervisor, call, room_at, &length, sizeof(length));
}

/* ----------------------------------------------------------------- listen */

/* In the child. Its table is a copy, so that any number may be overwritten. */
static void move_registration(const struct epoll_registration *registration, int epoll_fd, int listener_fd,
			      int program_end)
{
	struct epoll_event event = { .events = registration->events, .data.u64 = registration->data };
	const int number = registration->fd;
	int epoll = fcntl(epoll_fd, F_DUPFD, number + 1);
	int listener = fcntl(listener_fd, F_DUPFD, number + 1);
	int queue = fcntl(program_end, F_DUPFD, number + 1);

	if (epoll < 0 || listener < 0 || queue < 0)
		return;
	if (dup2(listener, number) == number)
		epoll_ctl(epoll, EPOLL_CTL_DEL, number, &event);
	if (dup2(queue, number) == number)
		epoll_ctl(epoll, EPOLL_CTL_ADD, number, &event);
}

/* A child that sends no signal when it ends, so that nobody else waits for it by mistake (clone(2),
 * __WCLONE). */
static void move_registration_in_child(const struct epoll_registration *registration, int epoll_fd,
				       int listener_fd, int program_end)
{
	pid_t child = (pid_t)syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);

	if (child == 0) {
		move_registration(registration, epoll_fd, listener_fd, program_end);
		_exit(0);
	}
	while (child > 0 && waitpid(child, NULL, __WCLONE) < 0 && errno == EINTR)
		;
}

static void move_registrations(struct supervisor *supervisor, const struct supervisor_call *call,
			       const struct places *places, int listener_fd, int program_end)
{
	for (size_t i = 0; i < places->registration_count; i++) {
		const struct epoll_registration *registration = &places->registrations[i];
		int epoll_fd = supervisor_take_fd(supervisor, call, registration->epoll_fd);

		if (epoll_fd < 0)
			continue;
		move_registration_in_child(registration, epoll_fd, listener_fd, program_end);
		close(epoll_fd);
	}
}

/* Puts the queue wherever the process has the listener. 0, or the error of the number that the call is
 * about. */
static int swap(struct supervisor *supervisor, const struct supervisor_call *call, int listener_fd,
		int program_end)
{
	const int number = (int)call->arguments[0];
	pid_t pid = supervisor_process_of(call->tid);
	struct places places = { .fd_count = 0 };
	int r;

	if (pid > 0)
		places_find(pid, listener_fd, &places);
	move_registrations(supervisor, call, &places, listener_fd, program_end);
	for (size_t i = 0; i < places.fd_count; i++) {
		if (places.fds[i] != number)
			supervisor_give_fd(supervisor, call, program_end, places.fds[i],
					   places_close_on_exec(pid, places.fds[i]));
	}
	r = supervisor_give_fd(supervisor, call, program_end, number, places_close_on_exec(pid, number));
	return r < 0 ? r : 0;
}

/* listen(2) through our duplicate is the program's own, on the same socket. */
static int64_t listen_for(struct passfd_hooks *hooks, struct supervisor *supervisor,
			  const struct supervisor_call *call, int listener_fd)
{
	CLEANUP_CLOSE int offered_fd = -1;
	CLEANUP_CLOSE int program_end = -1;
	int r;

	if (listen(listener_fd, (int)call->arguments[1]) != 0)
		return -errno;
	offered_fd = fcntl(listener_fd, F_DUPFD_CLOEXEC, 0);
	if (offered_fd < 0)
		return 0; /* it listens, for plain clients at least */
	r = receiver_offer_take(hooks->receiver, offered_fd, &program_end);
	if (r <= 0)
		return 0;
	STEAL_FD(offered_fd);
	return swap(supervisor, call, listener_fd, program_end);
}

static enum supervisor_verdict hook_listen(struct supervisor *supervisor, const struct supervisor_call *call,
					   int64_t *result, void *context)
{
	CLEANUP_CLOSE int fd = supervisor_take_fd(supervisor, call, (int)call->arguments[0]);
	struct queue_identity identity;

	if (is_exhausted(fd)) {
		*result = fd;
		return SUPERVISOR_RETURN;
	}
	if (fd < 0)
		return SUPERVISOR_CONTINUE;
	if (queue_recognize(fd, NULL)) {
		*result = 0; /* a second listen() changes the backlog, which here is the queue's */
		return SUPERVISOR_RETURN;
	}
	if (queue_identity_of_listener(fd, &identity) < 0)
		return SUPERVISOR_CONTINUE;
	*result = listen_for(context, supervisor, call, fd);
	return SUPERVISOR_RETURN;
}

/* ----------------------------------------------------------------- accept */

/* Answers the call with the client. 0: done, the call is answered (maybe by an error of its own making);
 * -ESRCH: nobody waits any more; -EMFILE: the program has no room. */
static int finish_accept(struct supervisor *supervisor, const struct supervisor_call *call, int flags,
			 int client_fd, const union queue_address *address, socklen_t length)
{
	int r;

	if ((flags & SOCK_NONBLOCK) != 0)
		fcntl(client_fd, F_SETFL, O_RDWR | O_NONBLOCK);
	r = write_address(supervisor, call, address, length);
	if (r == -EFAULT || r == -EINVAL) /* the client is lost then, as with accept(2) */
		return supervisor_return(supervisor, call->id, r);
	if (r < 0)
		return r;
	return supervisor_return_fd(supervisor, call->id, client_fd,
				    (flags & SOCK_CLOEXEC) != 0 ? O_CLOEXEC : 0);
}

static void parked_free(struct parked *parked)
{
	receiver_wait_cancel(&parked->waiter);
	loop_timer_cancel(supervisor_loop(parked->supervisor), &parked->timer);
	list_remove(&parked->member);
	free(parked);
}

static int parked_give(struct receiver_waiter *waiter, int client_fd, const struct sockaddr *sa,
		       socklen_t length)
{
	struct parked *parked = CONTAINER_OF(waiter, struct parked, waiter);
	union queue_address address = { .sa = { .sa_family = AF_UNSPEC } };
	int r;

	if (client_fd < 0) {
		r = supervisor_return(parked->supervisor, parked->call.id, -EINVAL);
	} else {
		memcpy(&address, sa, length);
		r = finish_accept(parked->supervisor, &parked->call, parked->flags, client_fd, &address,
				  length);
		if (r < 0 && r != -ESRCH)
			supervisor_return(parked->supervisor, parked->call.id, r);
	}
	parked_free(parked);
	if (r < 0 && client_fd >= 0) /* for the next one it has to be as it was */
		fcntl(client_fd, F_SETFL, O_RDWR);
	return r;
}

static void parked_on_timer(struct loop_timer *timer)
{
	struct parked *parked = CONTAINER_OF(timer, struct parked, timer);

	supervisor_return(parked->supervisor, parked->call.id, -EAGAIN);
	parked_free(parked);
}

static void sweep_parked(struct passfd_hooks *hooks, pid_t tid)
{
	struct list *member = hooks->parked.next;

	for (int count = 0; member != &hooks->parked; count++) {
		struct parked *parked = CONTAINER_OF(member, struct parked, member);

		member = member->next;
		if (parked->call.tid == tid ||
		    (count < SWEEP_COUNT && !supervisor_is_waiting(parked->supervisor, parked->call.id)))
			parked_free(parked);
	}
}

static uint64_t receive_timeout_ms(int fd)
{
	struct timeval timeout = { .tv_sec = 0 };
	socklen_t length = sizeof(timeout);

	getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, &length);
	return (uint64_t)timeout.tv_sec * 1000 + (uint64_t)timeout.tv_usec / 1000;
}

/* 0, or the error that the call is to have. */
static int park(struct passfd_hooks *hooks, struct supervisor *supervisor, const struct supervisor_call *call,
		int queue_fd, uint64_t queue_id, int flags)
{
	struct loop *loop = supervisor_loop(supervisor);
	uint64_t timeout_ms = receive_timeout_ms(queue_fd);
	struct parked *parked;

	sweep_parked(hooks, call->tid);
	parked = calloc(1, sizeof(*parked));
	if (!parked)
		return -ENOMEM;
	parked->waiter.give = parked_give;
	parked->hooks = hooks;
	parked->supervisor = supervisor;
	parked->call = *call;
	parked->queue_id = queue_id;
	parked->flags = flags;
	parked->timer.on_expire = parked_on_timer;
	list_init(&parked->waiter.member);
	if (receiver_wait(hooks->receiver, queue_id, &parked->waiter) < 0) {
		free(parked);
		return -EINVAL;
	}
	list_append(&hooks->parked, &parked->member);
	if (timeout_ms > 0)
		loop_timer_set(loop, &parked->timer, loop->now_ms + timeout_ms);
	return 0;
}

/* A client is there, but it could not be given: back into the queue with it. */
static void give_back(struct passfd_hooks *hooks, uint64_t queue_id, int client_fd,
		      const union queue_address *address, socklen_t length)
{
	fcntl(client_fd, F_SETFL, O_RDWR);
	receiver_requeue(hooks->receiver, queue_id, client_fd, &address->sa, length);
}

static enum supervisor_verdict accept_from(struct passfd_hooks *hooks, struct supervisor *supervisor,
					   const struct supervisor_call *call, int queue_fd,
					   const struct queue_identity *identity, int flags, int64_t *result)
{
	union queue_address address;
	socklen_t length;
	CLEANUP_CLOSE int client_fd = queue_receive(queue_fd, SOCK_CLOEXEC, MSG_DONTWAIT, &address, &length);
	int r = client_fd;

	if (r >= 0) {
		r = finish_accept(supervisor, call, flags, client_fd, &address, length);
		if (r == 0)
			return SUPERVISOR_LATER;
		give_back(hooks, identity->id, client_fd, &address, length);
	} else if (r == -EAGAIN && (fcntl(queue_fd, F_GETFL) & O_NONBLOCK) == 0) {
		r = park(hooks, supervisor, call, queue_fd, identity->id, flags);
		if (r == 0)
			return SUPERVISOR_LATER;
	}
	*result = r == -EPIPE ? -EINVAL : r;
	return SUPERVISOR_RETURN;
}

static enum supervisor_verdict hook_accept(struct supervisor *supervisor, const struct supervisor_call *call,
					   int64_t *result, void *context)
{
	const int flags = call->number == SYS_accept4 ? (int)call->arguments[3] : 0;
	struct queue_identity identity;
	CLEANUP_CLOSE int fd = take_queue(supervisor, call, &identity);

	if (is_exhausted(fd)) {
		*result = fd;
		return SUPERVISOR_RETURN;
	}
	if (fd < 0 || (flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) != 0)
		return SUPERVISOR_CONTINUE; /* the kernel says EINVAL to both: no listener, no such flag */
	return accept_from(context, supervisor, call, fd, &identity, flags, result);
}

/* ------------------------------------------------- what it looks like */

static enum supervisor_verdict hook_getsockname(struct supervisor *supervisor,
						const struct supervisor_call *call, int64_t *result,
						void *context)
{
	struct queue_identity identity;
	CLEANUP_CLOSE int fd = take_queue(supervisor, call, &identity);

	(void)context;
	if (fd < 0 || call->arguments[1] == 0)
		return SUPERVISOR_CONTINUE;
	*result = write_address(supervisor, call, &identity.address, identity.length);
	return SUPERVISOR_RETURN;
}

static enum supervisor_verdict hook_getsockopt(struct supervisor *supervisor,
					       const struct supervisor_call *call, int64_t *result,
					       void *context)
{
	struct queue_identity identity;
	CLEANUP_CLOSE int fd = take_queue(supervisor, call, &identity);
	unsigned char bytes[OPTION_SIZE];
	socklen_t length;

	(void)context;
	if (fd < 0)
		return SUPERVISOR_CONTINUE;
	*result = supervisor_read(supervisor, call, call->arguments[4], &length, sizeof(length));
	if (*result < 0)
		return SUPERVISOR_RETURN;
	length = MIN(length, (socklen_t)sizeof(bytes));
	if (!queue_get_option(&identity, (int)call->arguments[1], (int)call->arguments[2], bytes, &length))
		return SUPERVISOR_CONTINUE;
	*result = supervisor_write(supervisor, call, call->arguments[3], bytes, length);
	if (*result == 0)
		*result = supervisor_write(supervisor, call, call->arguments[4], &length, sizeof(length));
	return SUPERVISOR_RETURN;
}

static enum supervisor_verdict hook_setsockopt(struct supervisor *supervisor,
					       const struct supervisor_call *call, int64_t *result,
					       void *context)
{
	CLEANUP_CLOSE int fd = -1;

	(void)context;
	if (!queue_takes_option((int)call->arguments[1], (int)call->arguments[2]))
		return SUPERVISOR_CONTINUE;
	fd = take_queue(supervisor, call, NULL);
	if (fd < 0)
		return SUPERVISOR_CONTINUE;
	*result = 0;
	return SUPERVISOR_RETURN;
}

/* Only these stop: others, SO_ERROR foremost, are many, and right on a queue too. */
static const uint32_t get_options[] = { SO_TYPE, SO_DOMAIN, SO_PROTOCOL, SO_ACCEPTCONN, SO_REUSEPORT };
static const uint32_t internet_levels[] = { IPPROTO_TCP, IPPROTO_IP, IPPROTO_IPV6 };

#define WHEN(argument, list) .values_argument = (argument), .values = (list), .value_count = ARRAY_SIZE(list)

static const struct supervisor_hook hooked_calls[] = {
	{ .number = SYS_listen, .run = hook_listen },
	{ .number = SYS_accept, .run = hook_accept },
	{ .number = SYS_accept4, .run = hook_accept },
	{ .number = SYS_getsockname, .run = hook_getsockname },
	{ .number = SYS_getsockopt, .run = hook_getsockopt, WHEN(2, get_options) },
	{ .number = SYS_getsockopt, .run = hook_getsockopt, WHEN(1, internet_levels) },
	{ .number = SYS_setsockopt, .run = hook_setsockopt, WHEN(1, internet_levels) },
};

void passfd_hooks_init(struct passfd_hooks *hooks, struct passfd_receiver *receiver)
{
	hooks->receiver = receiver;
	hooks->calls = (struct supervisor_hooks){
		.hooks = hooked_calls,
		.count = ARRAY_SIZE(hooked_calls),
		.context = hooks,
		.is_interruptible = true, /* accept() may wait for ever, and signals end that */
	};
	list_init(&hooks->parked);
}

void passfd_hooks_deinit(struct passfd_hooks *hooks)
{
	while (!list_is_empty(&hooks->parked))
		parked_free(CONTAINER_OF(hooks->parked.next, struct parked, member));
}
