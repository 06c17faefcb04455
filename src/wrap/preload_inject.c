/*
 * Theory of operation: connect(2) to the address of a route first has the connection begun with the line in
 * its queue (foreword.h). A non-blocking caller then gets EINPROGRESS; a blocking one goes on into the real
 * call, which waits. Where Fast Open is forbidden, or a line is too long for one segment, the call waits
 * until the line is sent, even for a non-blocking caller, since the program must not write before.
 *
 * The routes are read from the environment by the constructor, and never change.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/macros.h"
#include "wrap/foreword.h"
#include "wrap/preload.h"
#include "wrap/routes.h"

int inject_connect(int fd, const struct sockaddr *address, socklen_t length) PRELOAD_AS("connect");
ssize_t inject_sendto(int fd, const void *bytes, size_t length, int flags, const struct sockaddr *address,
		      socklen_t address_length) PRELOAD_AS("sendto");
ssize_t inject_sendmsg(int fd, const struct msghdr *message, int flags) PRELOAD_AS("sendmsg");
int inject_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) PRELOAD_AS("sendmmsg");

static struct routes routes;

/* The same as INJECT_VARIABLE of inject.h, which brings the supervisor's world along. */
#define VARIABLE "KAISO_INJECT"

void preload_inject_init(void)
{
	const char *text = getenv(VARIABLE);

	/* Without its routes the program must not run at all: it would run unwrapped. */
	if (text && routes_parse(&routes, text) < 0)
		abort();
	if (routes.count > 0)
		preload_exec_keep(VARIABLE, text, true);
}

/* Whether the kernel could read it: connect(2) says EFAULT where this library would crash. With a HOW that
 * is wrong, sigprocmask(2) reads its 8 bytes, says so, and does nothing else. */
static bool is_readable(const void *bytes)
{
	int saved_errno = errno;
	bool is_fault = syscall(SYS_rt_sigprocmask, ~0, bytes, NULL, 8) != 0 && errno == EFAULT;

	errno = saved_errno;
	return !is_fault;
}

/* An address that a program gives, long enough to be of a family with routes. */
static const struct route *find_route(const struct sockaddr *address, socklen_t length)
{
	if (routes.count == 0 || !address || length < sizeof(struct sockaddr_in) ||
	    length > sizeof(struct sockaddr_storage))
		return NULL;
	if (!is_readable(address) ||
	    !is_readable((const char *)address + MIN(length, sizeof(struct sockaddr_in6)) - 8))
		return NULL;
	return routes_find(&routes, address, length);
}

static int fail(int error)
{
	errno = -error;
	return -1;
}

enum begun {
	BEGUN_NOT,  /* nothing of ours: the real call does all */
	BEGUN_FAST, /* under way, the line is queued */
	BEGUN_REST, /* to be connected, or under way, and a rest of the line has to follow */
	BEGUN_DONE, /* it stands, or has failed: the real call says it at once */
};

struct beginning {
	const struct route *route;
	size_t queued; /* so much of the route's line */
};

/* One of enum begun, or a negative errno that the call has to give. */
static int begin(int fd, const struct sockaddr *address, socklen_t length, struct beginning *beginning)
{
	const struct route *route = find_route(address, length);
	int r;

	if (!route || !foreword_is_tcp(fd) || !foreword_is_due(fd))
		return BEGUN_NOT;
	*beginning = (struct beginning){ .route = route };
	r = foreword_begin(fd, address, length, route->line, route->line_length);
	if (r == (int)route->line_length)
		return BEGUN_FAST;
	if (r == -EALREADY || r == -EISCONN)
		return BEGUN_NOT; /* another thread was quicker */
	if (r >= 0)
		beginning->queued = (size_t)r;
	return r >= 0 ? BEGUN_REST : r;
}

/* Waits for the connection and sends the rest, whatever signals come. Where there is no connection, the
 * real call, which comes next, says why. */
static int finish(int fd, const struct beginning *beginning)
{
	const struct route *route = beginning->route;

	foreword_finish(fd, route->line + beginning->queued, route->line_length - beginning->queued);
	return BEGUN_DONE;
}

/* A blocking caller waits in the real call, as it would without us. One that does not get its connection
 * there, because of a signal or of SO_SNDTIMEO, must not use it later: it would do so without its line. */
static int connect_and_finish(int fd, const struct sockaddr *address, socklen_t length,
			      const struct beginning *beginning)
{
	int r = preload_calls()->connect(fd, address, length);

	if (r == 0) {
		finish(fd, beginning);
		return 0;
	}
	if (errno == EINPROGRESS || errno == EALREADY)
		errno = ETIMEDOUT;
	if (errno == EINTR || errno == ETIMEDOUT)
		foreword_undo(fd);
	return r;
}

int inject_connect(int fd, const struct sockaddr *address, socklen_t length)
{
	struct beginning beginning;
	int begun = begin(fd, address, length, &beginning);
	bool is_nonblocking = begun != BEGUN_NOT && foreword_is_nonblocking(fd);
	int r;

	if (begun == -EOPNOTSUPP) {
		/* No Fast Open here. */
		r = is_nonblocking ? foreword_connect(fd, address, length) : 0;
		begun = r == 0 || r == -EINPROGRESS ? BEGUN_REST : r;
	}
	if (begun < 0)
		return fail(begun);
	if (begun == BEGUN_FAST && is_nonblocking)
		return fail(-EINPROGRESS);
	if (begun == BEGUN_REST && !is_nonblocking)
		return connect_and_finish(fd, address, length, &beginning);
	if (begun == BEGUN_REST)
		finish(fd, &beginning);
	r = preload_calls()->connect(fd, address, length);
	/* The time of SO_SNDTIMEO is over. The kernel means this to be the second call, the program means
	 * it to be the first. */
	if (r < 0 && errno == EALREADY && begun == BEGUN_FAST)
		errno = EINPROGRESS;
	return r;
}

/* For the calls that connect and send at once: 0 to go on into the real one, or -1 with errno. */
static int begin_fastopen(int fd, const struct sockaddr *address, socklen_t length, int flags)
{
	struct beginning beginning;
	int begun = begin(fd, address, length, &beginning);

	if (begun < 0)
		return fail(begun);
	/* tcp(7): without a cookie the connection begins, and the data has to be sent again. */
	if (begun == BEGUN_FAST && ((flags & MSG_DONTWAIT) || foreword_is_nonblocking(fd)))
		return fail(-EINPROGRESS);
	if (begun == BEGUN_REST)
		finish(fd, &beginning);
	return 0;
}

ssize_t inject_sendto(int fd, const void *bytes, size_t length, int flags, const struct sockaddr *address,
		      socklen_t address_length)
{
	if ((flags & MSG_FASTOPEN) && begin_fastopen(fd, address, address_length, flags) < 0)
		return -1;
	return preload_calls()->sendto(fd, bytes, length, flags, address, address_length);
}

ssize_t inject_sendmsg(int fd, const struct msghdr *message, int flags)
{
	if ((flags & MSG_FASTOPEN) && begin_fastopen(fd, message->msg_name, message->msg_namelen, flags) < 0)
		return -1;
	return preload_calls()->sendmsg(fd, message, flags);
}

int inject_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
	if ((flags & MSG_FASTOPEN) && count > 0 &&
	    begin_fastopen(fd, messages[0].msg_hdr.msg_name, messages[0].msg_hdr.msg_namelen, flags) < 0)
		return -1;
	return preload_calls()->sendmmsg(fd, messages, count, flags);
}
