/*
 * Theory of operation: a UNIX connect is decided at once, save for a full
 * backlog, which only time cures (no event tells). A TCP dial goes through its
 * addresses one after the other; each gets an equal share of the time that is left,
 * so one host that does not answer leaves time for the next. on_done is always called from the
 * loop, never from within dial_start_*(): an error at once is told by a timer that is due.
 */
#include "net/dial.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/macros.h"
#include "base/sandbox.h"
#include "net/listen.h"

SANDBOX_CALLS("connect", "getsockopt", "setsockopt", "socket");

#define UNIX_RETRY_FIRST_MS 1
#define UNIX_RETRY_LAST_MS 50
#define UNIX_JUST_MADE_MS 200
#define ATTEMPT_MIN_MS 250

/* ---- UNIX sockets --------------------------------------------------------------------------------- */

static int unix_connect(const char *path, size_t length)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	memcpy(address.sun_path, path, length + 1);
	if (connect(fd, (struct sockaddr *)&address,
		    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1)) != 0)
		return -errno;
	return STEAL_FD(fd);
}

int dial_unix_at(int socket_file_fd)
{
	char path[32];
	int length = snprintf(path, sizeof(path), "/proc/self/fd/%d", socket_file_fd);

	return unix_connect(path, (size_t)length);
}

/* A server's socket is there from bind() on, and refuses until listen(): for a moment after it was made,
 * "nobody listens" may only mean "not yet". */
static bool is_just_made(const char *path)
{
	struct timespec now = { 0 };
	struct stat status;
	int64_t age_ms;

	if (stat(path, &status) != 0 || !S_ISSOCK(status.st_mode))
		return false;
	clock_gettime(CLOCK_REALTIME, &now);
	age_ms = (int64_t)(now.tv_sec - status.st_ctim.tv_sec) * 1000 +
		 (now.tv_nsec - status.st_ctim.tv_nsec) / 1000000;
	return age_ms >= 0 && age_ms < UNIX_JUST_MADE_MS;
}

static int unix_dial_path(const char *path, size_t length)
{
	if (length < sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return unix_connect(path, length);

	CLEANUP_CLOSE int file = fd_open_path(path, O_PATH);

	return file < 0 ? file : dial_unix_at(file);
}

int dial_unix(const char *path)
{
	size_t length = strlen(path);
	int fd;

	if (length == 0)
		return -ENOENT; /* to the kernel it would be an abstract name (unix(7)) */
	fd = unix_dial_path(path, length);
	return fd == -ECONNREFUSED && is_just_made(path) ? -EAGAIN : fd;
}

/* ---- dials that take time ------------------------------------------------------------------------- */

static void dial_on_timer(struct loop_timer *timer);
static void dial_on_connected(struct loop_watch *watch, uint32_t events);

void dial_init(struct dial *dial, struct loop *loop, uint64_t deadline_ms,
	       void (*on_done)(struct dial *, int))
{
	*dial = (struct dial){ .loop = loop,
			       .on_done = on_done,
			       .begun_ms = loop->now_ms,
			       .deadline_ms = deadline_ms,
			       .keepalive_ms = LISTEN_KEEPALIVE_MS };
	dial->watch = (struct loop_watch){ .on_events = dial_on_connected, .fd = -1 };
	dial->timer.on_expire = dial_on_timer;
}

/* Takes the attempt under way out of the loop; its descriptor is the caller's. */
static int dial_take_fd(struct dial *dial)
{
	loop_watch(dial->loop, &dial->watch, 0);
	return STEAL_FD(dial->watch.fd);
}

void dial_cancel(struct dial *dial)
{
	CLEANUP_CLOSE int fd = dial_take_fd(dial);

	loop_timer_cancel(dial->loop, &dial->timer);
	if (dial->query)
		resolve_cancel(STEAL_PTR(dial->query));
}

static void dial_finish(struct dial *dial, int result)
{
	dial_cancel(dial);
	dial->on_done(dial, result);
}

/* When the attempt on the current address ends: an equal share of what is left, but not a hasty one. */
static uint64_t dial_attempt_deadline(const struct dial *dial)
{
	uint64_t now_ms = clock_now_ms();
	uint64_t left_ms, share_ms;

	if (dial->deadline_ms == UINT64_MAX)
		return UINT64_MAX;
	left_ms = dial->deadline_ms > now_ms ? dial->deadline_ms - now_ms : 0;
	share_ms = left_ms / (dial->address_count - dial->address_next + 1);
	return now_ms + MIN(left_ms, MAX(share_ms, ATTEMPT_MIN_MS));
}

/* Begins a connection to one address. 0: under way; else a negative errno. */
static int dial_attempt(struct dial *dial, const union addr *address)
{
	CLEANUP_CLOSE int fd = socket(address->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	uint64_t deadline_ms;
	int on = 1, r;

	if (fd < 0)
		return -errno;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	listen_set_keepalive(fd, dial->keepalive_ms);
	if (connect(fd, &address->sa, addr_length(address)) != 0 && errno != EINPROGRESS)
		return -errno;
	dial->watch.fd = fd;
	r = loop_watch(dial->loop, &dial->watch, EPOLLOUT);
	if (r < 0) {
		dial->watch.fd = -1;
		return r;
	}
	STEAL_FD(fd);
	deadline_ms = dial_attempt_deadline(dial);
	if (deadline_ms == UINT64_MAX)
		return 0;
	return loop_timer_set(dial->loop, &dial->timer, deadline_ms);
}

/* Ends the attempt under way. */
static void dial_drop_attempt(struct dial *dial, int error)
{
	CLEANUP_CLOSE int fd = dial_take_fd(dial);

	loop_timer_cancel(dial->loop, &dial->timer);
	/* That somebody did not answer says more than what another address said. */
	if (dial->last_error != -ETIMEDOUT)
		dial->last_error = error;
}

/* Begins with the next address that can be tried at all; false when none is left. */
static bool dial_try_next(struct dial *dial)
{
	while (dial->address_next < dial->address_count) {
		int r = dial_attempt(dial, &dial->addresses[dial->address_next++]);

		if (r == 0)
			return true;
		dial_drop_attempt(dial, r);
	}
	return false;
}

static void dial_next_address(struct dial *dial)
{
	if (!dial_try_next(dial))
		dial_finish(dial, dial->last_error);
}

/* What became of the attempt: 0 or a negative errno. A port of our own range that nobody listens on can be
 * connected to itself (simultaneous open, RFC 9293 section 3.5); that is no service. */
static int dial_outcome(struct dial *dial)
{
	struct addr_ends ends;
	socklen_t length = sizeof(int);
	int error = 0, r;

	if (getsockopt(dial->watch.fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0)
		return -errno;
	if (error != 0)
		return -error;
	r = addr_ends_of(dial->watch.fd, &ends);
	if (r < 0)
		return r;
	return addr_is_equal(&ends.local, &ends.peer) ? -ECONNREFUSED : 0;
}

static void dial_on_connected(struct loop_watch *watch, uint32_t events)
{
	struct dial *dial = CONTAINER_OF(watch, struct dial, watch);
	int r = dial_outcome(dial);

	(void)events;
	if (r == 0) {
		dial_finish(dial, dial_take_fd(dial));
	} else {
		dial_drop_attempt(dial, r);
		dial_next_address(dial);
	}
}

static void dial_retry_unix(struct dial *dial)
{
	int fd = dial_unix(dial->unix_path);

	if (fd != -EAGAIN) {
		dial_finish(dial, fd);
		return;
	}
	dial->retry_ms = MIN(dial->retry_ms * 2, UNIX_RETRY_LAST_MS);
	if (loop_timer_set(dial->loop, &dial->timer,
			   MIN(clock_now_ms() + dial->retry_ms, dial->deadline_ms)) != 0)
		dial_finish(dial, -ENOMEM);
}

static void dial_on_timer(struct loop_timer *timer)
{
	struct dial *dial = CONTAINER_OF(timer, struct dial, timer);

	if (clock_now_ms() >= dial->deadline_ms) {
		dial_finish(dial, -ETIMEDOUT);
	} else if (dial->unix_path) {
		dial_retry_unix(dial);
	} else if (dial->watch.fd >= 0) {
		dial_drop_attempt(dial, -ETIMEDOUT); /* this address had its share */
		dial_next_address(dial);
	} else {
		dial_next_address(dial);
	}
}

/* The first attempt; when all fail at once, the timer tells so from the loop. */
static int dial_begin(struct dial *dial)
{
	return dial_try_next(dial) ? 0 : loop_timer_set(dial->loop, &dial->timer, 0);
}

int dial_start_unix_retry(struct dial *dial, const char *path)
{
	dial->unix_path = path;
	dial->retry_ms = UNIX_RETRY_FIRST_MS;
	return loop_timer_set(dial->loop, &dial->timer, clock_now_ms() + dial->retry_ms);
}

int dial_start_addresses(struct dial *dial, const union addr *addresses, size_t count)
{
	if (count == 0)
		return -EINVAL;
	dial->address_count = MIN(count, (size_t)RESOLVE_ADDRESSES_MAX);
	memcpy(dial->addresses, addresses, dial->address_count * sizeof(*addresses));
	return dial_begin(dial);
}

static void dial_on_resolved(void *context, int error, const union addr *addresses, size_t count,
			     uint32_t ttl_s)
{
	struct dial *dial = context;

	(void)ttl_s;
	dial->query = NULL;
	if (count == 0) {
		dial_finish(dial, error);
		return;
	}
	dial->address_count = count;
	memcpy(dial->addresses, addresses, count * sizeof(*addresses));
	dial_next_address(dial);
}

int dial_start_host(struct dial *dial, struct resolver *resolver, const char *host, uint16_t port)
{
	if (resolver)
		dial->query = resolve_start(resolver, host, port, dial_on_resolved, dial);
	if (!dial->query)
		return -ENOMEM;
	if (dial->deadline_ms == UINT64_MAX)
		return 0;
	return loop_timer_set(dial->loop, &dial->timer, dial->deadline_ms);
}
