/*
 * In a server under preload: listen() trades the listener for a queue, accept() takes clients from it, and
 * the calls that would give the trade away answer as the listener would.
 *
 * Every function makes the real call first and looks twice only where its result can come from a queue:
 * accept() of a queue fails with EINVAL, its name is a UNIX one, options of TCP are not supported. So other
 * descriptors cost nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/macros.h"
#include "wrap/passfd_control.h"
#include "wrap/passfd_places.h"
#include "wrap/passfd_queue.h"
#include "wrap/preload.h"

int passfd_listen(int fd, int backlog) PRELOAD_AS("listen");
int passfd_accept(int fd, struct sockaddr *address, socklen_t *room) PRELOAD_AS("accept");
int passfd_accept4(int fd, struct sockaddr *address, socklen_t *room, int flags) PRELOAD_AS("accept4");
int passfd_getsockname(int fd, struct sockaddr *address, socklen_t *room) PRELOAD_AS("getsockname");
int passfd_getsockopt(int fd, int level, int option, void *value, socklen_t *length) PRELOAD_AS("getsockopt");
int passfd_setsockopt(int fd, int level, int option, const void *value, socklen_t length)
	PRELOAD_AS("setsockopt");

static char control_word[CONTROL_WORD_SIZE]; /* empty: not active */

void preload_passfd_init(void)
{
	const char *word = getenv(CONTROL_VARIABLE);

	if (!word || strlen(word) != CONTROL_WORD_SIZE - 1)
		return;
	memcpy(control_word, word, sizeof(control_word));
	preload_exec_keep(CONTROL_VARIABLE, control_word, false);
}

static bool is_active(void)
{
	return control_word[0] != '\0';
}

/* errno from a negative one. */
static int fail(int error)
{
	errno = -error;
	return -1;
}

/* ----------------------------------------------------------------- listen */

/* Registrations by a number that is another file's now are left alone: those numbers are not ours to
 * touch. */
static bool is_at(const struct places *places, int fd)
{
	for (size_t i = 0; i < places->fd_count; i++)
		if (places->fds[i] == fd)
			return true;
	return false;
}

static void change_registrations(const struct places *places, int operation)
{
	for (size_t i = 0; i < places->registration_count; i++) {
		const struct epoll_registration *registration = &places->registrations[i];
		struct epoll_event event = { .events = registration->events, .data.u64 = registration->data };

		if (is_at(places, registration->fd))
			epoll_ctl(registration->epoll_fd, operation, registration->fd, &event);
	}
}

static int put_at(int program_end, int fd)
{
	const int flags = fcntl(fd, F_GETFD);

	return dup3(program_end, fd, flags >= 0 && (flags & FD_CLOEXEC) != 0 ? O_CLOEXEC : 0) < 0 ? -errno :
												    0;
}

/* Puts the queue wherever this process has the listener, and closes program_end. */
static int swap_take(int fd, int program_end)
{
	struct places places;
	int r;

	places_find(0, fd, &places);
	change_registrations(&places, EPOLL_CTL_DEL);
	for (size_t i = 0; i < places.fd_count; i++)
		if (places.fds[i] != fd)
			put_at(program_end, places.fds[i]);
	r = put_at(program_end, fd);
	change_registrations(&places, EPOLL_CTL_ADD);
	close(program_end);
	return r;
}

/* fd listens. Whatever goes wrong here, it still serves plain clients. */
static int trade(int fd)
{
	int saved_errno = errno;
	int program_end = -1;
	int r = control_offer(control_word, fd, &program_end);

	errno = saved_errno;
	return r == 1 ? swap_take(fd, program_end) : 0;
}

int passfd_listen(int fd, int backlog)
{
	struct queue_identity identity;
	int saved_errno = errno;
	int r;

	if (!is_active())
		return preload_calls()->listen(fd, backlog);
	if (queue_recognize(fd, NULL)) {
		errno = saved_errno;
		return 0; /* a second listen() changes the backlog, which here is the queue's */
	}
	r = preload_calls()->listen(fd, backlog);
	if (r != 0 || queue_identity_of_listener(fd, &identity) < 0)
		return r;
	errno = saved_errno;
	r = trade(fd);
	return r < 0 ? fail(r) : 0;
}

/* ----------------------------------------------------------------- accept */

/*
 * The end of a queue: shut down by the program itself, or nobody is left to fill it. In the latter case
 * the listener would be ready for ever, and the server would turn in circles: it ends with the receiver.
 */
static int on_end(void)
{
	static volatile sig_atomic_t has_asked;
	static const char text[] = "kaiso passfd: the receiver is gone; the server ends with it\n";

	if (control_is_alive(control_word))
		return fail(-EINVAL);
	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0) {
		/* nobody reads it */
	}
	kill(getpid(), has_asked ? SIGKILL : SIGTERM); /* it may have no ear for the first */
	has_asked = 1;
	return fail(-EINVAL);
}

static int accept_from_queue(int fd, struct sockaddr *address, socklen_t *room, int flags)
{
	union queue_address peer;
	socklen_t length;
	int client_fd = queue_receive(fd, flags, 0, &peer, &length);

	if (client_fd == -EPIPE)
		return on_end();
	if (client_fd < 0)
		return fail(client_fd);
	if (address)
		queue_copy_address(&peer, length, address, room);
	return client_fd;
}

int passfd_accept4(int fd, struct sockaddr *address, socklen_t *room, int flags)
{
	int saved_errno = errno;
	int client_fd = preload_calls()->accept4(fd, address, room, flags);

	if (client_fd >= 0 || errno != EINVAL || !is_active() ||
	    (flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) != 0)
		return client_fd;
	if (!queue_recognize(fd, NULL))
		return fail(-EINVAL);
	errno = saved_errno;
	return accept_from_queue(fd, address, room, flags);
}

int passfd_accept(int fd, struct sockaddr *address, socklen_t *room)
{
	int saved_errno = errno;
	int client_fd = preload_calls()->accept(fd, address, room);

	if (client_fd >= 0 || errno != EINVAL || !is_active())
		return client_fd;
	if (!queue_recognize(fd, NULL))
		return fail(-EINVAL);
	errno = saved_errno;
	return accept_from_queue(fd, address, room, 0);
}

/* ------------------------------------------------- what it looks like */

int passfd_getsockname(int fd, struct sockaddr *address, socklen_t *room)
{
	struct queue_identity identity;
	int saved_errno = errno;
	const socklen_t asked = room ? *room : 0;
	int r = preload_calls()->getsockname(fd, address, room);

	/* The true length is told even where the room is too small. Only UNIX sockets have names of such
	 * length. */
	if (r != 0 || !is_active() || !room || *room <= sizeof(struct sockaddr_in6))
		return r;
	if (queue_recognize(fd, &identity)) {
		*room = asked;
		queue_copy_address(&identity.address, identity.length, address, room);
	}
	errno = saved_errno;
	return 0;
}

/* Options whose answer from a queue is a wrong one. */
static bool is_telltale(int level, int option)
{
	return level == SOL_SOCKET && (option == SO_TYPE || option == SO_DOMAIN || option == SO_PROTOCOL ||
				       option == SO_ACCEPTCONN || option == SO_REUSEPORT);
}

/* Which of the answers a queue may have given: spares other sockets a second look. */
static bool may_be_queue(int option, const void *value, socklen_t length)
{
	int number = 0;

	memcpy(&number, value, MIN((size_t)length, sizeof(number)));
	switch (option) {
	case SO_TYPE:
		return number == SOCK_SEQPACKET;
	case SO_DOMAIN:
		return number == AF_UNIX;
	default: /* options are numbers, no enum */
		return number == 0;
	}
}

/* r, error: what the real call said. */
static bool is_doubtful(int r, int error, int level, int option, const void *value, const socklen_t *length)
{
	if (!is_active() || !length)
		return false;
	if (r != 0)
		return error == EOPNOTSUPP || error == ENOPROTOOPT;
	return is_telltale(level, option) && may_be_queue(option, value, *length);
}

int passfd_getsockopt(int fd, int level, int option, void *value, socklen_t *length)
{
	struct queue_identity identity;
	int saved_errno = errno;
	const socklen_t asked = length ? *length : 0;
	int r = preload_calls()->getsockopt(fd, level, option, value, length);
	const int error = r == 0 ? saved_errno : errno;

	if (is_doubtful(r, error, level, option, value, length) && queue_recognize(fd, &identity)) {
		socklen_t room = asked;

		if (queue_get_option(&identity, level, option, value, &room)) {
			*length = room;
			errno = saved_errno;
			return 0;
		}
	}
	errno = error;
	return r;
}

int passfd_setsockopt(int fd, int level, int option, const void *value, socklen_t length)
{
	int saved_errno = errno;
	int r = preload_calls()->setsockopt(fd, level, option, value, length);
	const int error = errno;

	if (r == 0 || !is_active() || (error != EOPNOTSUPP && error != ENOPROTOOPT))
		return r;
	if (!queue_takes_option(level, option) || !queue_recognize(fd, NULL))
		return fail(-error);
	errno = saved_errno;
	return 0;
}
