/*
 * Theory of operation: every connect(2) of the program stops (and sendto(2) and the like with MSG_FASTOPEN,
 * which connect as well). One to an address of no route goes on untouched. For the others the supervisor
 * begins the connection on a duplicate of the socket, with the line already in its queue (foreword.h). Then
 *
 *   a non-blocking caller   gets EINPROGRESS, as from connect(2) itself;
 *   a blocking caller       goes on into the real call, which waits for the connection that is under way and
 *                           says what became of it.
 *
 * Two kinds of caller wait here instead, in the loop, until the connection stands or has failed, and go on
 * into the real call then: those with SO_SNDTIMEO, to whom the real call would say EALREADY at the end of
 * their time; and those whose line could not be queued at once, since the program must not write before it.
 *
 * Signals: a task that waits here is not to be interrupted (supervisor.h), or its call would come again
 * after the handler, on a socket whose connection has been begun. Those that wait long are looked after
 * instead: one that has got a signal is sent back with EINTR, or with what the kernel restarts. Where the
 * kernel is too old for that, or passfd shares the supervisor, a task can be interrupted. Its call then
 * comes again, after a handler with SA_RESTART, and gets the answer that was lost: so lost answers are
 * remembered, by thread and socket.
 */
#include "wrap/inject.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/clock.h"
#include "base/macros.h"
#include "wrap/foreword.h"

/* How often it is asked whether a task still waits, and whether it has got a signal. */
#define WAIT_CHECK_MS 20

/* The kernel's own word to itself: after a signal, make the call again or say EINTR, as the handler has it
 * (include/linux/errno.h). It works here since the kernel looks for it behind seccomp. */
#define ERESTARTSYS 512
#define UNHEARD_MAX 64

/* A call that would connect, as it was made. */
struct attempt {
	struct inject *inject;
	struct supervisor *supervisor;
	const struct supervisor_call *call;
	const struct route *route;
	struct sockaddr_storage address;
	socklen_t address_length;
	int fd; /* our duplicate */
	ino_t socket;
	bool is_fastopen; /* sendto(2) and the like */
	bool is_nonblocking;
};

/* A task that is kept waiting for its connection. */
struct wait {
	struct list member;
	struct inject *inject;
	struct supervisor *supervisor;
	struct loop_watch watch; /* owns its descriptor */
	struct loop_timer timer;
	struct loop_task free_task;
	uint64_t id;
	pid_t tid;
	bool has_signal; /* at the last check */
	ino_t socket;
	uint64_t deadline_ms; /* UINT64_MAX: none */
	const char *rest;     /* of the route's line */
	size_t rest_length;
};

struct unheard {
	struct list member;
	pid_t tid;
	ino_t socket;
};

/* ---- answers that were lost ------------------------------------------------------------------------ */

static void remember_unheard(struct attempt *attempt)
{
	struct unheard *unheard = calloc(1, sizeof(*unheard));
	size_t count = 0;

	if (!unheard)
		return; /* the restarted call then says EALREADY, once */
	unheard->tid = attempt->call->tid;
	unheard->socket = attempt->socket;
	list_append(&attempt->inject->unheard, &unheard->member);
	for (struct list *at = attempt->inject->unheard.next; at != &attempt->inject->unheard; at = at->next)
		count++;
	if (count > UNHEARD_MAX) { /* tasks that never asked again */
		struct unheard *oldest = CONTAINER_OF(attempt->inject->unheard.next, struct unheard, member);

		list_remove(&oldest->member);
		free(oldest);
	}
}

static bool take_unheard(struct attempt *attempt)
{
	struct list *list = &attempt->inject->unheard;

	for (struct list *at = list->next; at != list; at = at->next) {
		struct unheard *unheard = CONTAINER_OF(at, struct unheard, member);

		if (unheard->tid == attempt->call->tid && unheard->socket == attempt->socket) {
			list_remove(at);
			free(unheard);
			return true;
		}
	}
	return false;
}

/* ---- waiting --------------------------------------------------------------------------------------- */

static void free_wait(struct loop_task *task)
{
	free(CONTAINER_OF(task, struct wait, free_task));
}

static void end_wait(struct wait *wait)
{
	struct loop *loop = supervisor_loop(wait->supervisor);

	loop_watch(loop, &wait->watch, 0);
	loop_timer_cancel(loop, &wait->timer);
	cleanup_close(&wait->watch.fd);
	wait->watch.fd = -1;
	list_remove(&wait->member);
	loop_defer(loop, &wait->free_task);
}

/* The task goes on into the real call, which knows what became of the connection. */
static void finish_wait(struct wait *wait)
{
	struct supervisor *supervisor = wait->supervisor;
	uint64_t id = wait->id;

	end_wait(wait); /* first: the program may close its socket at once, and then it must be closed */
	supervisor_continue(supervisor, id);
}

static void on_socket(struct loop_watch *watch, uint32_t events)
{
	struct wait *wait = CONTAINER_OF(watch, struct wait, watch);
	int sent = 0;

	if (wait->rest_length > 0 && !(events & (EPOLLERR | EPOLLHUP)))
		sent = foreword_send(watch->fd, wait->rest, wait->rest_length);
	if (sent > 0) {
		wait->rest += sent;
		wait->rest_length -= (size_t)sent;
	}
	if (sent < 0 || wait->rest_length == 0 || (events & (EPOLLERR | EPOLLHUP)))
		finish_wait(wait);
}

/* Without the rest of its line the connection must not be used. */
static void break_off(struct wait *wait, int error)
{
	struct supervisor *supervisor = wait->supervisor;
	uint64_t id = wait->id;

	if (wait->rest_length > 0)
		foreword_undo(wait->watch.fd);
	end_wait(wait);
	supervisor_return(supervisor, id, error);
}

static void arm_wait(struct wait *wait)
{
	struct loop *loop = supervisor_loop(wait->supervisor);

	loop_timer_set(loop, &wait->timer, MIN(clock_now_ms() + WAIT_CHECK_MS, wait->deadline_ms));
}

/* Twice in a row: a signal for the process may be another thread's to take. */
static bool is_interrupted(struct wait *wait)
{
	bool had_signal = wait->has_signal;

	wait->has_signal = supervisor_has_signal(wait->tid);
	return had_signal && wait->has_signal;
}

static void on_check(struct loop_timer *timer)
{
	struct wait *wait = CONTAINER_OF(timer, struct wait, timer);

	/* socket(7), signal(7): with SO_SNDTIMEO connect(2) says EINPROGRESS when the time is over, and is
	 * never restarted after a signal. One whose line is not out yet has to begin anew. */
	if (clock_now_ms() >= wait->deadline_ms)
		break_off(wait, wait->rest_length > 0 ? -ETIMEDOUT : -EINPROGRESS);
	else if (!supervisor_is_waiting(wait->supervisor, wait->id))
		break_off(wait, -EINTR); /* nobody hears it */
	else if (is_interrupted(wait))
		break_off(wait, wait->rest_length > 0 ? -ERESTARTSYS : -EINTR);
	else
		arm_wait(wait);
}

/* The call is answered when the connection stands, with rest sent, or has failed. */
static enum supervisor_verdict begin_wait(struct attempt *attempt, const char *rest, size_t rest_length,
					  int timeout_ms, int64_t *result)
{
	struct wait *wait = calloc(1, sizeof(*wait));

	*result = -ENOBUFS;
	if (!wait)
		return SUPERVISOR_RETURN;
	*wait = (struct wait){
		.inject = attempt->inject,
		.supervisor = attempt->supervisor,
		.watch = { .on_events = on_socket, .fd = STEAL_FD(attempt->fd) },
		.timer = { .on_expire = on_check },
		.free_task = { .run = free_wait },
		.id = attempt->call->id,
		.tid = attempt->call->tid,
		.socket = attempt->socket,
		.deadline_ms = timeout_ms < 0 ? UINT64_MAX : clock_now_ms() + (uint64_t)timeout_ms,
		.rest = rest,
		.rest_length = rest_length,
	};
	list_append(&attempt->inject->waits, &wait->member);
	arm_wait(wait);
	if (loop_watch(supervisor_loop(wait->supervisor), &wait->watch, EPOLLOUT) < 0)
		break_off(wait, -ENOBUFS);
	return SUPERVISOR_LATER;
}

static struct wait *find_wait(const struct attempt *attempt)
{
	struct list *list = &attempt->inject->waits;

	for (struct list *at = list->next; at != list; at = at->next) {
		struct wait *wait = CONTAINER_OF(at, struct wait, member);

		if (wait->tid == attempt->call->tid && wait->socket == attempt->socket)
			return wait;
	}
	return NULL;
}

/* ---- the calls ------------------------------------------------------------------------------------- */

/* A connection has been begun before. Mostly that is the program's own business. */
static enum supervisor_verdict repeat(struct attempt *attempt, int64_t *result)
{
	struct wait *wait = find_wait(attempt);

	if (wait && wait->rest_length > 0) {
		wait->id = attempt->call->id; /* after a signal with SA_RESTART: it waits on */
		return SUPERVISOR_LATER;
	}
	if (wait) {
		/* signal(7): with SO_SNDTIMEO connect(2) is never restarted. */
		end_wait(wait);
		*result = -EINTR;
		return SUPERVISOR_RETURN;
	}
	if (take_unheard(attempt)) {
		*result = -EINPROGRESS;
		return SUPERVISOR_RETURN;
	}
	return SUPERVISOR_CONTINUE;
}

/* The line is queued. */
static enum supervisor_verdict answer_begun(struct attempt *attempt, int64_t *result)
{
	int timeout_ms;

	if (attempt->is_nonblocking) {
		/* Ours must be closed before the program can close its own. */
		cleanup_close(&attempt->fd);
		attempt->fd = -1;
		if (supervisor_return(attempt->supervisor, attempt->call->id, -EINPROGRESS) < 0)
			remember_unheard(attempt);
		return SUPERVISOR_LATER;
	}
	timeout_ms = foreword_timeout_ms(attempt->fd);
	if (timeout_ms < 0)
		return SUPERVISOR_CONTINUE;
	return begin_wait(attempt, NULL, 0, timeout_ms, result);
}

static enum supervisor_verdict begin(struct attempt *attempt, int64_t *result)
{
	const struct route *route = attempt->route;
	const struct sockaddr *address = (const struct sockaddr *)&attempt->address;
	int timeout_ms = attempt->is_nonblocking ? -1 : foreword_timeout_ms(attempt->fd);
	int r = foreword_begin(attempt->fd, address, attempt->address_length, route->line,
			       route->line_length);

	if (r == -EOPNOTSUPP && !attempt->is_fastopen) {
		r = foreword_connect(attempt->fd, address, attempt->address_length);
		if (r == -EINPROGRESS)
			r = 0;
	}
	if (r == (int)route->line_length)
		return answer_begun(attempt, result);
	if (r >= 0)
		return begin_wait(attempt, route->line + r, route->line_length - (size_t)r, timeout_ms,
				  result);
	/* Another thread was quicker: then this call is a second one. */
	if (r == -EALREADY || r == -EISCONN)
		return SUPERVISOR_CONTINUE;
	*result = r;
	return SUPERVISOR_RETURN;
}

/* Has the attempt's address and length been read: is there a route, and does the socket take one? */
static enum supervisor_verdict judge(struct attempt *attempt, int64_t *result)
{
	struct stat status;

	attempt->route = routes_find(&attempt->inject->routes, (const struct sockaddr *)&attempt->address,
				     attempt->address_length);
	if (!attempt->route)
		return SUPERVISOR_NOT_MINE;
	attempt->fd =
		supervisor_take_fd(attempt->supervisor, attempt->call, (int)attempt->call->arguments[0]);
	if (attempt->fd == -EBADF)
		return SUPERVISOR_CONTINUE;
	if (attempt->fd < 0) {
		/* Never without its line: the program is told that it cannot connect. */
		*result = attempt->fd == -EPERM ? -EACCES : -ENOBUFS;
		return SUPERVISOR_RETURN;
	}
	if (!foreword_is_tcp(attempt->fd) || fstat(attempt->fd, &status) != 0)
		return SUPERVISOR_NOT_MINE;
	attempt->socket = status.st_ino;
	attempt->is_nonblocking |= foreword_is_nonblocking(attempt->fd);
	return foreword_is_due(attempt->fd) ? begin(attempt, result) : repeat(attempt, result);
}

/* A bad address the kernel refuses itself. But what nobody may look at could be meant for the kaiso. */
static enum supervisor_verdict judge_unreadable(int error, int64_t *result)
{
	*result = -EACCES;
	return error == -EPERM ? SUPERVISOR_RETURN : SUPERVISOR_NOT_MINE;
}

static enum supervisor_verdict try_attempt(struct attempt *attempt, uint64_t address, uint64_t length,
					   int64_t *result)
{
	enum supervisor_verdict verdict;
	int r;

	/* What the kernel refuses, it shall refuse itself. */
	if (address == 0 || length < sizeof(sa_family_t) || length > sizeof(attempt->address))
		return SUPERVISOR_NOT_MINE;
	attempt->fd = -1;
	attempt->address_length = (socklen_t)length;
	r = supervisor_read(attempt->supervisor, attempt->call, address, &attempt->address, length);
	if (r < 0)
		return judge_unreadable(r, result);
	verdict = judge(attempt, result);
	cleanup_close(&attempt->fd);
	return verdict;
}

static enum supervisor_verdict on_connect(struct supervisor *supervisor, const struct supervisor_call *call,
					  int64_t *result, void *context)
{
	struct attempt attempt = { .inject = context, .supervisor = supervisor, .call = call };

	return try_attempt(&attempt, call->arguments[1], (uint32_t)call->arguments[2], result);
}

static enum supervisor_verdict on_sendto(struct supervisor *supervisor, const struct supervisor_call *call,
					 int64_t *result, void *context)
{
	struct attempt attempt = { .inject = context, .supervisor = supervisor, .call = call };

	attempt.is_fastopen = true;
	attempt.is_nonblocking = call->arguments[3] & MSG_DONTWAIT;
	return try_attempt(&attempt, call->arguments[4], (uint32_t)call->arguments[5], result);
}

/* sendmsg(2), and of sendmmsg(2) the first message, which is the one that connects. */
static enum supervisor_verdict on_message(struct supervisor *supervisor, const struct supervisor_call *call,
					  uint64_t flags, int64_t *result, struct inject *inject)
{
	struct attempt attempt = { .inject = inject, .supervisor = supervisor, .call = call };
	struct msghdr message;

	int r = supervisor_read(supervisor, call, call->arguments[1], &message, sizeof(message));

	if (r < 0)
		return judge_unreadable(r, result);
	attempt.is_fastopen = true;
	attempt.is_nonblocking = flags & MSG_DONTWAIT;
	return try_attempt(&attempt, (uint64_t)(uintptr_t)message.msg_name, message.msg_namelen, result);
}

static enum supervisor_verdict on_sendmsg(struct supervisor *supervisor, const struct supervisor_call *call,
					  int64_t *result, void *context)
{
	return on_message(supervisor, call, call->arguments[2], result, context);
}

static enum supervisor_verdict on_sendmmsg(struct supervisor *supervisor, const struct supervisor_call *call,
					   int64_t *result, void *context)
{
	return on_message(supervisor, call, call->arguments[3], result, context);
}

static const struct supervisor_hook hooks[] = {
	{ .number = SYS_connect, .run = on_connect },
	{ .number = SYS_sendto, .flags_argument = 3, .flags_any = MSG_FASTOPEN, .run = on_sendto },
	{ .number = SYS_sendmsg, .flags_argument = 2, .flags_any = MSG_FASTOPEN, .run = on_sendmsg },
	{ .number = SYS_sendmmsg, .flags_argument = 3, .flags_any = MSG_FASTOPEN, .run = on_sendmmsg },
};

/* ---- the role -------------------------------------------------------------------------------------- */

/* Under seccomp the library of an outer inject must not add a line of its own: its routes are among ours.
 * An empty variable says so, to it (preload_exec.c) and to the programs that load it. */
static int prepare(struct wrap_role *role, enum wrap_mode mode)
{
	struct inject *inject = CONTAINER_OF(role, struct inject, role);
	CLEANUP_FREE char *text = NULL;

	if (mode == WRAP_SECCOMP) {
		if (!getenv(INJECT_VARIABLE))
			return 0;
		return setenv(INJECT_VARIABLE, "", 1) == 0 ? 0 : -errno;
	}
	text = routes_format(&inject->routes);
	if (!text)
		return -ENOMEM;
	return setenv(INJECT_VARIABLE, text, 1) == 0 ? 0 : -errno;
}

static void stop(struct wrap_role *role, struct supervisor *supervisor)
{
	struct inject *inject = CONTAINER_OF(role, struct inject, role);

	(void)supervisor;
	while (!list_is_empty(&inject->waits))
		end_wait(CONTAINER_OF(inject->waits.next, struct wait, member));
	while (!list_is_empty(&inject->unheard)) {
		struct unheard *unheard = CONTAINER_OF(inject->unheard.next, struct unheard, member);

		list_remove(&unheard->member);
		free(unheard);
	}
}

void inject_init(struct inject *inject)
{
	*inject = (struct inject){
		.role = { .hooks = { .hooks = hooks, .count = ARRAY_SIZE(hooks), .context = inject },
			  .prepare = prepare,
			  .stop = stop }
	};
	list_init(&inject->waits);
	list_init(&inject->unheard);
}

void inject_deinit(struct inject *inject)
{
	routes_free(&inject->routes);
}
