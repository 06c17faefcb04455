/*
 * Theory of operation: everything is made before the first client is accepted,
 * so that a start either succeeds whole or fails with one line. Signals come as
 * events of the first worker. The first TERM or INT has all workers accept
 * nobody any more and let their sessions end; the last one to have none left says so through
 * an eventfd, and then, or at a second signal, all are stopped. USR2 has all threads stand still, and the new
 * program go on in their place; when it cannot, they go on themselves.
 */
#include "router/server.h"

#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/notify.h"
#include "base/sandbox.h"
#include "router/confine.h"
#include "router/control.h"
#include "router/http.h"
#include "router/meter.h"
#include "router/upgrade.h"
#include "router/watchdog.h"
#include "router/worker.h"

SANDBOX_CALLS("eventfd2", "poll", "ppoll", "signalfd4");

/* Listeners, standard streams, and each thread's own: epoll, eventfd, spare, DNS, a receiver or two. */
#define DESCRIPTORS_BASE 24
#define DESCRIPTORS_PER_THREAD 8
#define SESSIONS_DEFAULT_MAX 32768
#define SESSIONS_DEFAULT_MIN 4
#define THREAD_RETRY_MS 100
#define STOP_MARGIN_MS 5000 /* from the end of the last session to the end of the program */

struct server {
	struct worker_shared shared;
	struct worker *workers;
	unsigned count;   /* of workers that are made */
	unsigned running; /* of threads that run, the calling one not counted */
	bool is_draining;
	bool must_upgrade;
	struct loop_watch signals;
	struct loop_watch idle;
	struct listen_set control_socket;
	struct control *control; /* NULL: none */
	struct listen_set http_sockets;
	struct http *http;   /* NULL: none */
	struct meter *meter; /* NULL: none */
	struct report_source source;
	struct watchdog watchdog;
};

uint64_t server_default_sessions(uint64_t descriptors, unsigned threads, unsigned max_pipes)
{
	uint64_t reserved =
		DESCRIPTORS_BASE + (uint64_t)threads * (DESCRIPTORS_PER_THREAD + 2 * (uint64_t)max_pipes);
	uint64_t sessions = descriptors > reserved ? (descriptors - reserved) / 2 : 0;

	return MAX(MIN(sessions, (uint64_t)SESSIONS_DEFAULT_MAX), (uint64_t)SESSIONS_DEFAULT_MIN);
}

/* A manager that gives less time than sessions have been given is asked for as much. */
static void notify_stopping(uint64_t drain_timeout_ms)
{
	char state[64] = "STOPPING=1";

	if (drain_timeout_ms > 0)
		snprintf(state, sizeof(state), "STOPPING=1\nEXTEND_TIMEOUT_USEC=%" PRIu64,
			 (drain_timeout_ms + STOP_MARGIN_MS) * 1000);
	notify_send(state);
}

/* ---- signals ---------------------------------------------------------------------------------------- */

static void server_stop(struct server *server)
{
	for (unsigned i = 0; i < server->count; i++)
		worker_stop(&server->workers[i]);
}

static void server_drain(struct server *server)
{
	struct log_line line;

	log_begin(&line, LOG_LEVEL_INFO, "draining");
	log_add_number(&line, "sessions", server->shared.limits.sessions);
	log_end(&line);
	notify_stopping(server->shared.options->drain_timeout_ms);
	server->is_draining = server->source.is_draining = true;
	for (unsigned i = 0; i < server->count; i++)
		worker_drain(&server->workers[i]);
	listen_set_shut(server->shared.listeners);
}

static void server_refuse_upgrade(struct server *server)
{
	log_message(LOG_LEVEL_WARNING, "no upgrade: the router is about to stop");
	if (server->control)
		control_upgrade_refused(server->control, "the router is about to stop");
	if (server->http)
		http_resume(server->http);
}

static void server_stop_to_upgrade(void *context)
{
	struct server *server = context;

	if (server->is_draining) {
		server_refuse_upgrade(server);
		return;
	}
	server->must_upgrade = true;
	loop_stop(&server->workers[0].loop);
}

/* Requests under way to --http are answered before. */
static void server_ask_upgrade(void *context)
{
	struct server *server = context;

	if (server->http)
		http_pause(server->http, server_stop_to_upgrade, server);
	else
		server_stop_to_upgrade(server);
}

static void server_ask_drain(void *context)
{
	struct server *server = context;

	if (!server->is_draining)
		server_drain(server);
}

static void server_on_signal(struct loop_watch *watch, uint32_t events)
{
	struct server *server = CONTAINER_OF(watch, struct server, signals);
	struct signalfd_siginfo info;

	(void)events;
	if (read(watch->fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGUSR2)
		server_ask_upgrade(server);
	else if (info.ssi_signo == SIGHUP)
		log_message(LOG_LEVEL_INFO,
			    "nothing to reload: what there is to know is looked up for every client");
	else if (server->is_draining)
		server_stop(server);
	else
		server_drain(server);
}

static void server_on_idle(struct loop_watch *watch, uint32_t events)
{
	(void)events;
	server_stop(CONTAINER_OF(watch, struct server, idle));
}

/* Before any thread is made, so that all inherit the mask. */
static int server_take_signals(struct server *server)
{
	sigset_t taken;
	int r;

	sigemptyset(&taken);
	sigaddset(&taken, SIGTERM);
	sigaddset(&taken, SIGINT);
	sigaddset(&taken, SIGHUP);
	sigaddset(&taken, SIGUSR2);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_DFL); /* ignored, as it may be inherited, a child's status could not be had */
	r = pthread_sigmask(SIG_BLOCK, &taken, NULL);
	if (r != 0)
		return -r;
	server->signals.fd = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
	server->idle.fd = server->shared.idle_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return server->signals.fd < 0 || server->idle.fd < 0 ? -errno : 0;
}

/* ---- start and end ------------------------------------------------------------------------------------ */

static void *worker_main(void *argument)
{
	struct worker *worker = argument;
	int r = loop_run(&worker->loop);

	if (r < 0)
		log_message(LOG_LEVEL_ERROR, "a thread's event loop failed: %s", strerror(-r));
	return NULL;
}

static int server_make_workers(struct server *server)
{
	const struct router_options *options = server->shared.options;
	int r = 0;

	server->workers = calloc(options->threads, sizeof(*server->workers));
	if (!server->workers)
		return -ENOMEM;
	while (r == 0 && server->count < options->threads) {
		r = worker_init(&server->workers[server->count], &server->shared);
		if (r == 0)
			r = worker_listen(&server->workers[server->count++]);
	}
	if (r == 0)
		r = loop_watch(&server->workers[0].loop, &server->signals, EPOLLIN);
	if (r == 0)
		r = loop_watch(&server->workers[0].loop, &server->idle, EPOLLIN);
	return r;
}

static int server_start_threads(struct server *server)
{
	server->shared.busy_workers = server->count;
	while (server->running + 1 < server->count) {
		struct worker *worker = &server->workers[server->running + 1];
		int r = pthread_create(&worker->thread, NULL, worker_main, worker);

		if (r != 0)
			return -r;
		server->running++;
	}
	return 0;
}

/* As many as there were a moment ago: sessions wait for them, so it is tried until it succeeds. */
static void server_start_threads_again(struct server *server)
{
	int r = server_start_threads(server);

	if (r < 0)
		log_message(LOG_LEVEL_ERROR, "cannot start the threads again, trying on: %s", strerror(-r));
	while (r < 0) {
		poll(NULL, 0, THREAD_RETRY_MS);
		r = server_start_threads(server);
	}
}

/* ---- upgrade ------------------------------------------------------------------------------------------ */

static void notify_reloading(void)
{
	char state[64];

	/* Type=notify-reload wants to know when (sd_notify(3)). */
	snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, clock_now_us());
	notify_send(state);
}

/* All threads stand still, as they are. */
static void server_halt(struct server *server)
{
	for (unsigned i = 1; i <= server->running; i++)
		worker_halt(&server->workers[i]);
	for (unsigned i = 1; i <= server->running; i++)
		pthread_join(server->workers[i].thread, NULL);
	server->running = 0;
}

/* Returns when this program is to go on. */
static void server_upgrade(struct server *server)
{
	char reason[UPGRADE_REASON_SIZE];
	struct log_line line;

	server->must_upgrade = false;
	if (server->is_draining) { /* told so in the meantime */
		server_refuse_upgrade(server);
		loop_resume(&server->workers[0].loop);
		return;
	}
	notify_reloading();
	server_halt(server);
	if (server->meter)
		log_set_status(""); /* the next program begins one of its own */
	upgrade_run(server->workers, server->count, reason, sizeof(reason));
	log_begin(&line, LOG_LEVEL_ERROR, "cannot upgrade; the running version goes on");
	log_add_string(&line, "reason", reason);
	log_end(&line);
	notify_send("READY=1");
	if (server->control)
		control_upgrade_refused(server->control, reason);
	for (unsigned i = 0; i < server->count; i++)
		worker_resume(&server->workers[i]);
	if (server->http)
		http_resume(server->http);
	server_start_threads_again(server);
}

/* The first worker's loop, until the end. */
static int server_loop(struct server *server)
{
	int r;

	do {
		r = loop_run(&server->workers[0].loop);
		if (r == 0 && server->must_upgrade)
			server_upgrade(server);
	} while (r == 0 && !server->workers[0].loop.is_stopping);
	return r;
}

/* From the program before this one. */
static void server_take_sessions(struct server *server)
{
	size_t lost, sessions = upgrade_take_sessions(server->workers, server->count, &lost);
	struct log_line line;

	log_begin(&line, LOG_LEVEL_INFO, "upgraded");
	log_add_string(&line, "version", KAISO_VERSION);
	log_add_string(&line, "previous", upgrade_previous_version());
	log_add_number(&line, "sessions", sessions);
	if (lost > 0)
		log_add_number(&line, "lost", lost);
	log_end(&line);
}

/* ---- control ------------------------------------------------------------------------------------------ */

/* Before the sandbox, which permits no new sockets' files. A path that was asked for must be had; the default one is
 * a convenience. */
static int server_take_control(struct server *server)
{
	const char *path = server->shared.options->control;
	CLEANUP_FREE char *usual = path ? NULL : control_default_path();
	char reason[LISTEN_REASON_SIZE];
	int r;

	if (upgrade_role() == UPGRADE_TAKES)
		return upgrade_take_others(&server->control_socket, STATE_CONTROL);
	if (!path && !usual)
		return 0;
	if (path && strcmp(path, "none") == 0)
		return 0;
	r = control_listen(&server->control_socket, path ? path : usual, reason, sizeof(reason));
	if (r < 0)
		log_message(path ? LOG_LEVEL_ERROR : LOG_LEVEL_WARNING, "no control socket: %s%s", reason,
			    path ? "" : "; --control names another place, or none");
	return path ? r : 0;
}

static int server_start_control(struct server *server)
{
	const struct control_actions actions = { server_ask_drain, server_ask_upgrade, server };

	server->source.workers = server->workers;
	server->source.count = server->count;
	clock_gettime(CLOCK_REALTIME, &server->source.started);
	if (server->control_socket.count == 0)
		return 0;
	server->control = control_new(&server->source, &server->control_socket.listeners[0], &actions);
	return server->control ? 0 : -ENOMEM;
}

/* ---- HTTP --------------------------------------------------------------------------------------------- */

/* Before the sandbox, which permits no new listeners. */
static int server_take_http(struct server *server)
{
	const char *word = server->shared.options->http;
	char reason[LISTEN_REASON_SIZE];
	int r;

	server->shared.http = &server->http_sockets;
	if (upgrade_role() == UPGRADE_TAKES)
		return upgrade_take_others(&server->http_sockets, STATE_HTTP);
	if (!word)
		return 0;
	r = http_listen(&server->http_sockets, word, reason, sizeof(reason));
	if (r < 0)
		log_message(LOG_LEVEL_ERROR, "no --http: %s", reason);
	return r;
}

/* A router that goes on behind an upgrade goes on without it rather than not at all. */
static int server_start_http(struct server *server)
{
	if (server->http_sockets.count == 0)
		return 0;
	server->http = http_new(&server->source, &server->http_sockets, server->shared.options->http);
	if (server->http)
		return 0;
	listen_set_close(&server->http_sockets);
	return upgrade_role() == UPGRADE_TAKES ? 0 : -ENOTSUP;
}

/* It is no reason not to start. */
static void server_start_meter(struct server *server)
{
	if (server->shared.options->has_progress)
		server->meter = meter_new(&server->source);
}

static int server_init(struct server *server, const struct router_options *options,
		       struct listen_set *listeners)
{
	struct limits *limits = &server->shared.limits;
	int r;

	server->shared.options = options;
	server->shared.listeners = listeners;
	server->signals = (struct loop_watch){ .on_events = server_on_signal, .fd = -1 };
	server->idle = (struct loop_watch){ .on_events = server_on_idle, .fd = -1 };
	limits_init(limits);
	limits->sessions_max = options->max_sessions;
	limits->sessions_per_address_max = options->max_sessions_per_address;
	limits->requests_per_second_per_address = options->max_requests_per_second;
	limits->lists_max = options->max_lists;
	chains_init(&server->shared.chains);
	turns_init(&server->shared.turns);
	backends_init(&server->shared.backends);
	r = server_take_signals(server);
	if (r < 0)
		return r;
	server->shared.control = &server->control_socket;
	r = server_take_control(server);
	if (r == 0)
		r = server_take_http(server);
	if (r == 0)
		r = confine(options, listeners, &server->control_socket);
	if (r < 0)
		return r;
	if (options->services) {
		server->shared.policies = policies_new(options->services);
		if (!server->shared.policies)
			return -ENOMEM;
		server->shared.lister = lister_new(options->services, server->shared.policies);
		if (!server->shared.lister)
			return -errno;
	}
	r = server_make_workers(server);
	if (r < 0)
		return r;
	r = server_start_control(server);
	if (r == 0)
		r = server_start_http(server);
	if (r < 0)
		return r;
	server_start_meter(server);
	if (upgrade_role() == UPGRADE_TAKES)
		server_take_sessions(server);
	r = watchdog_start(&server->watchdog, server->workers, server->count);
	if (r < 0)
		return r;
	if (upgrade_role() != UPGRADE_TAKES)
		return server_start_threads(server);
	server_start_threads_again(server);
	return 0;
}

/* Has all threads end; what they counted can be read then. */
static void server_join(struct server *server)
{
	server_stop(server);
	for (unsigned i = 1; i <= server->running; i++)
		pthread_join(server->workers[i].thread, NULL);
}

/* The lister goes first: it still answers what it has, into the workers' mailboxes. */
static void server_free(struct server *server)
{
	if (server->shared.lister)
		lister_free(server->shared.lister);
	http_stop(server->http);
	for (unsigned i = 0; i < server->count; i++)
		worker_do_jobs(&server->workers[i]);
	if (server->count > 0)
		worker_do_jobs(&server->workers[0]); /* the last of others' may have left one */
	meter_free(server->meter);
	control_free(server->control);
	listen_set_close(&server->control_socket);
	http_free(server->http);
	listen_set_close(&server->http_sockets);
	for (unsigned i = 0; i < server->count; i++)
		worker_deinit(&server->workers[i]);
	free(server->workers);
	cleanup_close(&server->signals.fd);
	cleanup_close(&server->idle.fd);
	policies_free(server->shared.policies);
	backends_deinit(&server->shared.backends);
	turns_deinit(&server->shared.turns);
	chains_deinit(&server->shared.chains);
	limits_deinit(&server->shared.limits);
	free(server);
}

static void server_log_ready(const struct server *server)
{
	const struct listen_set *listeners = server->shared.listeners;
	static char texts[LISTEN_MAX][LISTEN_TEXT_SIZE];
	const char *addresses[LISTEN_MAX];
	struct log_line line;

	for (size_t i = 0; i < listeners->count; i++)
		addresses[i] = listen_format(&listeners->listeners[i], texts[i]);
	log_begin(&line, LOG_LEVEL_INFO, "ready");
	log_add_list(&line, "listen", addresses, listeners->count);
	log_add_string(&line, "services", server->shared.options->services);
	for (size_t i = 0; i < server->http_sockets.count; i++)
		addresses[i] = listen_format(&server->http_sockets.listeners[i], texts[i]);
	if (server->http_sockets.count > 0)
		log_add_list(&line, "http", addresses, server->http_sockets.count);
	if (server->shared.options->exposure)
		log_add_string(&line, "kaiso", server->shared.options->exposure->target);
	log_add_number(&line, "threads", server->count);
	log_add_number(&line, "max-sessions", server->shared.options->max_sessions);
	log_add_string(&line, "version", KAISO_VERSION);
	log_end(&line);
}

static void server_log_stopped(const struct server *server)
{
	struct log_line line;
	uint64_t refused = 0;

	log_begin(&line, LOG_LEVEL_INFO, "stopped");
	for (unsigned i = 0; i < server->count; i++)
		refused += server->workers[i].refused_count;
	log_add_number(&line, "refused", refused);
	for (unsigned reason = 0; reason < SESSION_REASON_COUNT; reason++) {
		uint64_t sessions = 0;

		for (unsigned i = 0; i < server->count; i++)
			sessions += server->workers[i].reason_counts[reason];
		if (sessions > 0)
			log_add_number(&line, session_reason_name((enum session_reason)reason), sessions);
	}
	log_end(&line);
}

int server_run(const struct router_options *options, struct listen_set *listeners)
{
	struct server *server = calloc(1, sizeof(*server));
	int r;

	if (!server) {
		log_message(LOG_LEVEL_ERROR, "cannot start: %s", strerror(ENOMEM));
		return 1;
	}
	r = server_init(server, options, listeners);
	if (r < 0) {
		log_message(LOG_LEVEL_ERROR, "cannot start: %s", strerror(-r));
	} else {
		if (upgrade_role() == UPGRADE_NONE)
			server_log_ready(server);
		notify_send("READY=1");
		r = server_loop(server);
		if (r < 0)
			log_message(LOG_LEVEL_ERROR, "the event loop failed: %s", strerror(-r));
	}
	server_join(server);
	if (r == 0)
		server_log_stopped(server);
	if (server->meter)
		meter_finish(server->meter);
	server_free(server);
	return r < 0 ? 1 : 0;
}
