/*
 * Theory of operation: every worker waits on the same listening sockets with
 * EPOLLEXCLUSIVE, so a new client wakes one of them, and keeps what it accepted. The server and
 * the lister leave messages in the mailbox and wake the worker through an eventfd.
 *
 * When descriptors run out, a client cannot even be refused without one. So each worker
 * keeps a spare, gives it up to accept and close the client, and takes it back. When that
 * fails as well (another thread was faster), accepting pauses; nothing spins meanwhile.
 */
#include "router/worker.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/sandbox.h"

SANDBOX_CALLS("accept", "accept4", "eventfd2");

/* At a time; then sessions that have long begun get their turn. */
#define ACCEPT_BATCH 4u
#define MAIL_BATCH 4u
#define ACCEPT_FAILURES_MAX 64u /* one after the other: then it is more than single clients that are gone */
#define ACCEPT_PAUSE_MS 100
#define PEERS_CHECK_MIN_MS 1000

static void worker_on_wake(struct loop_watch *watch, uint32_t events);
static void worker_on_accept_timer(struct loop_timer *timer);
static void worker_on_drain_timer(struct loop_timer *timer);
static void worker_on_peers_timer(struct loop_timer *timer);

/* ---- life ------------------------------------------------------------------------------------------ */

static int spare_open(void)
{
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static int worker_init_parts(struct worker *worker)
{
	const struct router_options *options = worker->shared->options;
	int r;

	r = loop_init(&worker->loop);
	worker->loop.busy_poll_us = options->busy_poll_us;
	if (r == 0)
		r = relay_pool_init(&worker->pool, options->max_pipes);
	if (r == 0)
		r = catalog_init(&worker->catalog, &worker->loop, options->services ? options->services : "",
				 worker->shared->policies, &worker->shared->backends);
	if (r < 0)
		return r;
	worker->listeners = calloc(LISTEN_MAX, sizeof(*worker->listeners));
	worker->spare_fd = spare_open();
	worker->wake.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!worker->listeners)
		return -ENOMEM;
	if (worker->spare_fd < 0 || worker->wake.fd < 0)
		return -errno;
	/* Each wake-up is an edge, so that nobody has to read what was counted (epoll(7)). */
	return loop_watch(&worker->loop, &worker->wake, EPOLLIN | EPOLLET);
}

int worker_init(struct worker *worker, struct worker_shared *shared)
{
	int r;

	*worker = (struct worker){ .shared = shared, .spare_fd = -1 };
	worker->loop.epoll_fd = -1;
	worker->wake = (struct loop_watch){ .on_events = worker_on_wake, .fd = -1 };
	worker->drain_timer.on_expire = worker_on_drain_timer;
	worker->peers_timer.on_expire = worker_on_peers_timer;
	worker->accept_timer.on_expire = worker_on_accept_timer;
	list_init(&worker->sessions);
	list_init(&worker->mailbox);
	list_init(&worker->jobs);
	pthread_mutex_init(&worker->mailbox_mutex, NULL);
	r = worker_init_parts(worker);
	if (r < 0)
		worker_deinit(worker);
	return r;
}

static void worker_end_sessions(struct worker *worker)
{
	for (struct list *link = worker->sessions.next; link != &worker->sessions; link = link->next)
		session_end(CONTAINER_OF(link, struct session, link), SESSION_SHUTDOWN);
}

/* False when that many have been taken, and there are more. */
static bool worker_empty_mailbox(struct worker *worker, unsigned most)
{
	for (unsigned i = 0; i < most; i++) {
		struct lister_wish *wish = NULL;

		pthread_mutex_lock(&worker->mailbox_mutex);
		if (!list_is_empty(&worker->mailbox)) {
			wish = CONTAINER_OF(worker->mailbox.next, struct lister_wish, link);
			list_remove(&wish->link);
		}
		pthread_mutex_unlock(&worker->mailbox_mutex);
		if (!wish)
			return true;
		session_wish_done(wish);
	}
	return false;
}

void worker_deinit(struct worker *worker)
{
	worker_end_sessions(worker);
	worker_empty_mailbox(worker, UINT_MAX);
	srv_cache_free(worker->srv);
	resolver_free(worker->resolver);
	if (worker->loop.epoll_fd >= 0) {
		loop_run_out(&worker->loop); /* the sessions, then what they referred to */
		for (size_t i = 0; worker->listeners && i < LISTEN_MAX; i++)
			service_unref(worker->listeners[i].service);
		if (worker->catalog.buffer)
			catalog_deinit(&worker->catalog);
		loop_run_out(&worker->loop);
		loop_deinit(&worker->loop);
	}
	stats_deinit(&worker->stats);
	relay_pool_deinit(&worker->pool);
	cleanup_close(&worker->wake.fd);
	cleanup_close(&worker->spare_fd);
	free(worker->listeners);
	pthread_mutex_destroy(&worker->mailbox_mutex);
}

struct resolver *worker_resolver(struct worker *worker)
{
	if (!worker->resolver)
		worker->resolver = resolver_new(&worker->loop, &worker->shared->options->dns);
	return worker->resolver;
}

struct srv_cache *worker_srv(struct worker *worker)
{
	struct resolver *resolver = worker_resolver(worker);

	if (!worker->srv && resolver)
		worker->srv = srv_cache_new(&worker->loop, resolver);
	return worker->srv;
}

/* ---- peers that are gone ------------------------------------------------------------------------------ */

static uint64_t worker_peers_interval_ms(const struct worker *worker)
{
	return MAX(worker->shared->options->keepalive_ms / 2, PEERS_CHECK_MIN_MS);
}

static int worker_arm_peers_timer(struct worker *worker)
{
	if (worker->shared->options->keepalive_ms == 0)
		return 0;
	return loop_timer_set(&worker->loop, &worker->peers_timer,
			      clock_now_ms() + worker_peers_interval_ms(worker));
}

static void worker_on_peers_timer(struct loop_timer *timer)
{
	struct worker *worker = CONTAINER_OF(timer, struct worker, peers_timer);

	for (struct list *link = worker->sessions.next; link != &worker->sessions; link = link->next)
		session_check_peers(CONTAINER_OF(link, struct session, link),
				    worker_peers_interval_ms(worker));
	worker_arm_peers_timer(worker); /* there was a place for it in the heap */
}

/* ---- accepting ------------------------------------------------------------------------------------- */

static int worker_watch_listeners(struct worker *worker, uint32_t events)
{
	for (size_t i = 0; i < worker->shared->listeners->count; i++) {
		int r = loop_watch(&worker->loop, &worker->listeners[i].watch, events);

		if (r < 0)
			return r;
	}
	return 0;
}

static void worker_pause_accepting(struct worker *worker)
{
	worker_watch_listeners(worker, 0);
	loop_timer_set(&worker->loop, &worker->accept_timer, worker->loop.now_ms + ACCEPT_PAUSE_MS);
}

static void worker_on_accept_timer(struct loop_timer *timer)
{
	struct worker *worker = CONTAINER_OF(timer, struct worker, accept_timer);

	if (worker->is_draining)
		return;
	if (worker_watch_listeners(worker, EPOLLIN | EPOLLEXCLUSIVE) != 0)
		worker_pause_accepting(worker);
}

static int worker_accept(int listener_fd, union addr *peer)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof(address);
	int fd = accept4(listener_fd, (struct sockaddr *)&address, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd >= 0)
		addr_from_sockaddr(peer, (struct sockaddr *)&address, length);
	return fd < 0 ? -errno : fd;
}

/* A client that never becomes a session has its line all the same; a flood of them is counted. */
static void worker_log_refused(struct worker *worker, const union addr *peer, enum limit limit)
{
	static struct log_limiter limiter;
	char text[ADDR_TEXT_SIZE];
	struct log_line line;
	uint32_t suppressed;

	if (!log_limiter_pass(&limiter, worker->loop.now_ms, &suppressed))
		return;
	log_begin(&line, LOG_LEVEL_WARNING, "session");
	log_add_string(&line, "client", addr_format(peer, text));
	log_add_string(&line, "reason", "limit");
	log_add_string(&line, "limit", limit_name(limit));
	if (suppressed > 0)
		log_add_number(&line, "suppressed", suppressed);
	log_end(&line);
}

static void worker_refuse(struct worker *worker, int client_fd, const union addr *peer, enum limit limit)
{
	close(client_fd);
	worker->refused_count++;
	worker_log_refused(worker, peer, limit);
}

/* No descriptor is free: the spare one serves to close a client that waits. False: not even that. */
static bool worker_shed(struct worker *worker, int listener_fd)
{
	union addr peer;
	int fd;

	if (worker->spare_fd < 0)
		worker->spare_fd = spare_open();
	if (worker->spare_fd < 0)
		return false;
	close(worker->spare_fd);
	fd = worker_accept(listener_fd, &peer);
	if (fd >= 0)
		worker_refuse(worker, fd, &peer, LIMIT_DESCRIPTORS);
	worker->spare_fd = spare_open();
	return fd >= 0 || fd == -EAGAIN;
}

/* Is it one of --proxy-from? Then the client is who it says. */
static bool worker_is_front(const struct worker *worker, const union addr *peer)
{
	const struct router_options *options = worker->shared->options;
	struct in6_addr address;

	if (peer->sa.sa_family == AF_UNIX)
		return options->has_unix_fronts;
	if (options->front_count == 0)
		return false;
	addr_to_in6(peer, &address);
	return access_is_allowed(options->fronts, options->front_count, &address);
}

static void worker_admit(struct worker_listener *listener, int client_fd, const union addr *peer)
{
	static const union addr nobody = { .sa = { .sa_family = AF_UNIX } };
	struct worker *worker = listener->worker;
	const bool is_front = worker_is_front(worker, peer);
	enum limit limit = limits_begin_session(&worker->shared->limits, is_front ? &nobody : peer);

	/* Lost to another thread, while it was given up: not to be missed the next time. */
	if (worker->spare_fd < 0)
		worker->spare_fd = spare_open();
	if (limit != LIMIT_NONE) {
		worker_refuse(worker, client_fd, peer, limit);
	} else if (session_new_take(worker, client_fd, peer, is_front, listener->service) != 0) {
		limits_end_session(&worker->shared->limits, is_front ? &nobody : peer);
		close(client_fd);
	}
}

/* True while there may be more to accept. */
static bool worker_accept_one(struct worker_listener *listener)
{
	struct worker *worker = listener->worker;
	union addr peer;
	int fd = worker_accept(listener->watch.fd, &peer);

	if (fd >= 0) {
		listener->failures = 0;
		worker_admit(listener, fd, &peer);
		return true;
	}
	if (fd != -EAGAIN && ++listener->failures == ACCEPT_FAILURES_MAX) {
		listener->failures = 0;
		worker_pause_accepting(worker);
		return false;
	}
	switch (-fd) {
	case EAGAIN:
	case EINVAL: /* shut down for the end */
		return false;
	case EMFILE:
	case ENFILE:
		if (worker_shed(worker, listener->watch.fd))
			return false;
		worker_pause_accepting(worker);
		return false;
	case ENOBUFS:
	case ENOMEM:
		worker_pause_accepting(worker);
		return false;
	default: /* this client has gone already; accept(2) names the errors of its network */
		return true;
	}
}

static void worker_on_listener(struct loop_watch *watch, uint32_t events)
{
	struct worker_listener *listener = CONTAINER_OF(watch, struct worker_listener, watch);

	(void)events;
	for (unsigned i = 0; i < listener->batch; i++) {
		if (!worker_accept_one(listener)) {
			listener->batch = MAX(i, 1);
			return;
		}
	}
	listener->batch = MIN(listener->batch * 2, ACCEPT_BATCH);
}

int worker_listen(struct worker *worker)
{
	const struct router_exposure *exposure = worker->shared->options->exposure;

	for (size_t i = 0; i < worker->shared->listeners->count; i++) {
		if (exposure) {
			worker->listeners[i].service =
				catalog_exposed(&worker->catalog, exposure, exposure->services[i]);
			if (!worker->listeners[i].service)
				return -ENOMEM;
		}
		worker->listeners[i].worker = worker;
		worker->listeners[i].batch = 1;
		worker->listeners[i].watch =
			(struct loop_watch){ .on_events = worker_on_listener,
					     .fd = worker->shared->listeners->listeners[i].fd };
	}
	if (worker_arm_peers_timer(worker) != 0)
		return -ENOMEM;
	return worker_watch_listeners(worker, EPOLLIN | EPOLLEXCLUSIVE);
}

/* ---- messages from other threads --------------------------------------------------------------------- */

static void worker_wake(struct worker *worker)
{
	int r = fd_raise_event(worker->wake.fd);

	if (r < 0)
		log_message(LOG_LEVEL_ERROR, "cannot wake a thread: %s", strerror(-r));
}

void worker_post(struct worker *worker, struct lister_wish *wish)
{
	pthread_mutex_lock(&worker->mailbox_mutex);
	list_append(&worker->mailbox, &wish->link);
	pthread_mutex_unlock(&worker->mailbox_mutex);
	worker_wake(worker);
}

void worker_run(struct worker *worker, struct worker_job *job)
{
	pthread_mutex_lock(&worker->mailbox_mutex);
	list_append(&worker->jobs, &job->link);
	pthread_mutex_unlock(&worker->mailbox_mutex);
	worker_wake(worker);
}

static void tour_on_worker(struct worker *worker, struct worker_job *job)
{
	struct worker_tour *tour = CONTAINER_OF(job, struct worker_tour, job);

	tour->visit(tour, worker);
	worker_tour_begin(tour);
}

static void tour_on_done(struct worker *worker, struct worker_job *job)
{
	struct worker_tour *tour = CONTAINER_OF(job, struct worker_tour, job);

	(void)worker;
	tour->done(tour);
}

void worker_tour_begin(struct worker_tour *tour)
{
	bool is_done = tour->next == tour->count;

	tour->job.run = is_done ? tour_on_done : tour_on_worker;
	worker_run(&tour->workers[is_done ? 0 : tour->next++], &tour->job);
}

void worker_do_jobs(struct worker *worker)
{
	struct list jobs;

	list_init(&jobs);
	pthread_mutex_lock(&worker->mailbox_mutex);
	list_splice(&jobs, &worker->jobs);
	pthread_mutex_unlock(&worker->mailbox_mutex);
	while (!list_is_empty(&jobs)) {
		struct worker_job *job = CONTAINER_OF(jobs.next, struct worker_job, link);

		list_remove(&job->link);
		job->run(worker, job);
	}
}

void worker_drain(struct worker *worker)
{
	pthread_mutex_lock(&worker->mailbox_mutex);
	worker->must_drain = true;
	pthread_mutex_unlock(&worker->mailbox_mutex);
	worker_wake(worker);
}

void worker_stop(struct worker *worker)
{
	pthread_mutex_lock(&worker->mailbox_mutex);
	worker->must_stop = true;
	pthread_mutex_unlock(&worker->mailbox_mutex);
	worker_wake(worker);
}

void worker_halt(struct worker *worker)
{
	pthread_mutex_lock(&worker->mailbox_mutex);
	worker->must_halt = true;
	pthread_mutex_unlock(&worker->mailbox_mutex);
	worker_wake(worker);
}

void worker_go_on(struct worker *worker)
{
	worker->loop.now_ms = clock_now_ms();
	for (struct list *link = worker->sessions.next; link != &worker->sessions; link = link->next)
		session_go_on(CONTAINER_OF(link, struct session, link));
}

void worker_resume(struct worker *worker)
{
	worker->must_halt = false;
	loop_resume(&worker->loop);
}

void worker_ask(struct worker *worker, unsigned question)
{
	worker->asked = question;
	worker_wake(worker);
}

/* ---- the end ------------------------------------------------------------------------------------------ */

void worker_session_gone(struct worker *worker)
{
	int r;

	if (!worker->is_draining || worker->is_done || !list_is_empty(&worker->sessions))
		return;
	worker->is_done = true;
	r = --worker->shared->busy_workers == 0 ? fd_raise_event(worker->shared->idle_fd) : 0;
	if (r < 0)
		log_message(LOG_LEVEL_ERROR, "cannot tell that the last session has ended: %s", strerror(-r));
}

static void worker_on_drain_timer(struct loop_timer *timer)
{
	worker_end_sessions(CONTAINER_OF(timer, struct worker, drain_timer));
}

static void worker_begin_drain(struct worker *worker)
{
	uint64_t timeout_ms = worker->shared->options->drain_timeout_ms;

	worker->is_draining = true;
	worker_watch_listeners(worker, 0);
	if (timeout_ms > 0 &&
	    loop_timer_set(&worker->loop, &worker->drain_timer, worker->loop.now_ms + timeout_ms) != 0)
		worker_end_sessions(worker);
	for (struct list *link = worker->sessions.next; link != &worker->sessions; link = link->next)
		session_drain(CONTAINER_OF(link, struct session, link));
	worker_session_gone(worker);
}

static void worker_on_wake(struct loop_watch *watch, uint32_t events)
{
	struct worker *worker = CONTAINER_OF(watch, struct worker, wake);
	bool must_drain, must_stop, must_halt;

	(void)events;
	worker->answered = worker->asked;
	pthread_mutex_lock(&worker->mailbox_mutex);
	must_drain = worker->must_drain;
	must_stop = worker->must_stop;
	must_halt = worker->must_halt;
	pthread_mutex_unlock(&worker->mailbox_mutex);
	if (!worker_empty_mailbox(worker, MAIL_BATCH))
		worker_wake(worker);
	worker_do_jobs(worker);
	if (must_drain && !worker->is_draining)
		worker_begin_drain(worker);
	if (must_stop)
		worker_end_sessions(worker);
	if (must_stop || must_halt)
		loop_stop(&worker->loop);
}
