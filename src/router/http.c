/*
 * Theory of operation: libmicrohttpd is driven by the first worker's loop. What it waits for is behind one epoll
 * descriptor, which the loop watches; connections are accepted here and given to it, so that they can be held back. A
 * request that needs a report is suspended until that is gathered.
 *
 * TCP_DEFER_ACCEPT has the kernel keep a connection until it has said something. So a connection that was accepted has
 * a request that is about to be answered, and an upgrade, which closes what was accepted, refuses nobody.
 */
#include "router/http.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/sandbox.h"
#include "router/http_host.h"
#include "router/http_library.h"
#include "router/http_page.h"
#include "router/metrics.h"

SANDBOX_CALLS("accept4", "recvfrom", "sendmsg", "sendto", "setsockopt", "shutdown"); /* the library's too */

#define ACCEPT_PAUSE_MS 100
#define HOST_SIZE 256
#define POLICY_NOTHING "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

struct http_listener {
	struct http *http;
	struct loop_watch watch;
};

struct http {
	const struct report_source *source;
	const struct http_library *library;
	struct loop *loop;
	struct MHD_Daemon *daemon;
	struct loop_watch events;       /* the daemon's */
	struct loop_timer timer;        /* the daemon's next deadline */
	struct loop_timer accept_timer; /* armed while nobody can be accepted */
	unsigned connections;
	unsigned requests; /* that are not answered in full */
	bool is_paused;
	bool is_stopped;
	void (*on_paused)(void *context); /* NULL: nobody waits for it */
	void *pause_context;
	struct loop_timer pause_timer;
	char name[HOST_SIZE]; /* how --http called this host */
	size_t listener_count;
	struct http_listener listeners[LISTEN_MAX];
};

enum http_want { HTTP_METRICS, HTTP_STATUS, HTTP_SESSIONS };

struct http_request {
	struct http *http;
	struct MHD_Connection *connection;
	enum http_want want;
	bool is_gathered;
	char *text; /* gathered; of malloc(3). NULL: out of memory */
	size_t length;
};

/* ---- answers --------------------------------------------------------------------------------------------- */

struct answer {
	unsigned status;
	const char *type;
	const char *policy; /* Content-Security-Policy */
	const char *text;
	size_t length;
	bool is_taken; /* text is of malloc(3), and free(3) is the library's business */
};

static enum MHD_Result answer_with(const struct http_request *request, const struct answer *answer)
{
	const struct http_library *library = request->http->library;
	const char *const headers[][2] = {
		{ "Content-Type", answer->type },
		{ "Content-Security-Policy", answer->policy },
		{ "X-Content-Type-Options", "nosniff" },
		{ "Cross-Origin-Resource-Policy", "same-origin" },
		{ "Referrer-Policy", "no-referrer" },
		{ "Cache-Control", "no-store" },
		{ "Allow", answer->status == MHD_HTTP_METHOD_NOT_ALLOWED ? "GET, HEAD" : NULL },
	};
	struct MHD_Response *response = library->create_response_from_buffer(
		answer->length, (void *)(uintptr_t)answer->text,
		answer->is_taken ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
	enum MHD_Result result = MHD_YES;

	if (!response) {
		if (answer->is_taken)
			free((void *)(uintptr_t)answer->text);
		return MHD_NO;
	}
	for (size_t i = 0; i < ARRAY_SIZE(headers) && result == MHD_YES; i++) {
		if (headers[i][1])
			result = library->add_response_header(response, headers[i][0], headers[i][1]);
	}
	if (result == MHD_YES)
		result = library->queue_response(request->connection, answer->status, response);
	library->destroy_response(response);
	return result;
}

static enum MHD_Result answer_text(const struct http_request *request, unsigned status, const char *text)
{
	return answer_with(request, &(struct answer){ .status = status,
						      .type = "text/plain; charset=utf-8",
						      .policy = POLICY_NOTHING,
						      .text = text,
						      .length = strlen(text) });
}

/* ---- reports ----------------------------------------------------------------------------------------------- */

static void http_run(struct http *http);

static void on_report(struct report *report)
{
	struct http_request *request = report->context;
	struct http *http = request->http;

	request->text = request->want == HTTP_METRICS ? metrics_of_report(report, &request->length) :
							report_to_json(report, &request->length);
	request->is_gathered = true;
	report_free(report);
	http->library->resume_connection(request->connection);
	if (!http->is_stopped)
		http_run(http);
}

static enum MHD_Result begin_report(struct http_request *request, enum http_want want)
{
	struct http *http = request->http;

	request->want = want;
	if (!report_begin(http->source, want == HTTP_SESSIONS, on_report, request))
		return MHD_NO;
	http->library->suspend_connection(request->connection);
	return MHD_YES;
}

static enum MHD_Result answer_report(struct http_request *request)
{
	bool is_metrics = request->want == HTTP_METRICS;
	char *text = STEAL_PTR(request->text);

	if (!text)
		return MHD_NO;
	return answer_with(request,
			   &(struct answer){ .status = MHD_HTTP_OK,
					     .type = is_metrics ? METRICS_CONTENT_TYPE : "application/json",
					     .policy = POLICY_NOTHING,
					     .text = text,
					     .length = request->length,
					     .is_taken = true });
}

/* ---- requests ---------------------------------------------------------------------------------------------- */

struct host_check {
	const char *name;
	bool is_foreign;
};

/* A second Host header would be a try to have one looked at and the other meant. */
static enum MHD_Result check_header(void *context, enum MHD_ValueKind kind, const char *key,
				    const char *value)
{
	struct host_check *check = context;

	(void)kind;
	if (strcasecmp(key, "Host") == 0 && !http_host_is_ours(value ? value : "", check->name))
		check->is_foreign = true;
	return MHD_YES;
}

static bool is_foreign(const struct http_request *request)
{
	struct host_check check = { .name = request->http->name };

	request->http->library->get_connection_values(request->connection, MHD_HEADER_KIND, check_header,
						      &check);
	return check.is_foreign;
}

static enum MHD_Result check_argument(void *wants_sessions, enum MHD_ValueKind kind, const char *key,
				      const char *value)
{
	(void)kind;
	(void)value;
	if (strcmp(key, "sessions") == 0)
		*(bool *)wants_sessions = true;
	return MHD_YES;
}

static bool wants_sessions(const struct http_request *request)
{
	bool wanted = false;

	request->http->library->get_connection_values(request->connection, MHD_GET_ARGUMENT_KIND,
						      check_argument, &wanted);
	return wanted;
}

static enum MHD_Result answer_page(const struct http_request *request)
{
	return answer_with(request, &(struct answer){ .status = MHD_HTTP_OK,
						      .type = "text/html; charset=utf-8",
						      .policy = http_page_policy,
						      .text = http_page,
						      .length = http_page_length });
}

static enum MHD_Result answer_health(const struct http_request *request)
{
	if (request->http->source->is_draining)
		return answer_text(request, MHD_HTTP_SERVICE_UNAVAILABLE, "draining\n");
	return answer_text(request, MHD_HTTP_OK, "ok\n");
}

static enum MHD_Result answer_path(struct http_request *request, const char *path)
{
	if (strcmp(path, "/") == 0)
		return answer_page(request);
	if (strcmp(path, "/healthz") == 0)
		return answer_health(request);
	if (strcmp(path, "/metrics") == 0)
		return begin_report(request, HTTP_METRICS);
	if (strcmp(path, "/status.json") == 0)
		return begin_report(request, wants_sessions(request) ? HTTP_SESSIONS : HTTP_STATUS);
	return answer_text(request, MHD_HTTP_NOT_FOUND,
			   "There are /, /healthz, /metrics and /status.json.\n");
}

static struct http_request *request_new(struct http *http, struct MHD_Connection *connection)
{
	struct http_request *request = calloc(1, sizeof(*request));

	if (!request)
		return NULL;
	request->http = http;
	request->connection = connection;
	http->requests++;
	return request;
}

/* Called once the headers are there; then, as long as nothing is queued, again: for the body, which none may have, for
 * its end, and after each suspension. */
static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *path,
				  const char *method, const char *version, const char *body,
				  size_t *body_length, void **memory)
{
	struct http_request *request = *memory;

	(void)version;
	(void)body;
	if (!request) {
		request = *memory = request_new(context, connection);
		if (!request)
			return MHD_NO;
		if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
			return answer_text(request, MHD_HTTP_METHOD_NOT_ALLOWED, "Only GET and HEAD.\n");
		if (is_foreign(request))
			return answer_text(request, MHD_HTTP_MISDIRECTED_REQUEST,
					   "This server is reached by its address, by localhost, or by the "
					   "name that stands in --http.\n");
		return MHD_YES;
	}
	if (*body_length > 0)
		return MHD_NO;
	return request->is_gathered ? answer_report(request) : answer_path(request, path);
}

static void http_check_pause(struct http *http)
{
	if (http->is_paused && http->on_paused && http->requests == 0)
		loop_timer_set(http->loop, &http->pause_timer, http->loop->now_ms); /* it is armed already */
}

static void on_completed(void *context, struct MHD_Connection *connection, void **memory,
			 enum MHD_RequestTerminationCode code)
{
	struct http *http = context;
	struct http_request *request = STEAL_PTR(*memory);

	(void)connection;
	(void)code;
	if (!request)
		return;
	free(request->text);
	free(request);
	http->requests--;
	http_check_pause(http);
}

/* ---- connections --------------------------------------------------------------------------------------------- */

static void http_pause_accepting(struct http *http)
{
	loop_timer_set(http->loop, &http->accept_timer, http->loop->now_ms + ACCEPT_PAUSE_MS);
}

/* Listens while there may be more connections. */
static void http_watch_listeners(struct http *http)
{
	bool may_accept = !http->is_paused && http->connections < HTTP_CONNECTIONS_MAX &&
			  !http->accept_timer.position;

	for (size_t i = 0; i < http->listener_count; i++) {
		if (loop_watch(http->loop, &http->listeners[i].watch, may_accept ? EPOLLIN : 0) != 0)
			http_pause_accepting(http);
	}
}

static void on_connection(void *context, struct MHD_Connection *connection, void **memory,
			  enum MHD_ConnectionNotificationCode code)
{
	struct http *http = context;

	(void)connection;
	(void)memory;
	if (code == MHD_CONNECTION_NOTIFY_STARTED)
		http->connections++;
	else
		http->connections--;
	http_watch_listeners(http);
}

static void on_accept_timer(struct loop_timer *timer)
{
	http_watch_listeners(CONTAINER_OF(timer, struct http, accept_timer));
}

static void on_listener(struct loop_watch *watch, uint32_t events)
{
	struct http *http = CONTAINER_OF(watch, struct http_listener, watch)->http;
	struct sockaddr_storage address;
	socklen_t length = sizeof(address);
	int fd = accept4(watch->fd, (struct sockaddr *)&address, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)events;
	if (fd >= 0) {
		/* Closes what it does not take. */
		http->library->add_connection(http->daemon, fd, (struct sockaddr *)&address, length);
		http_run(http);
	} else if (errno != EAGAIN) {
		http_pause_accepting(http);
		http_watch_listeners(http);
	}
}

/* ---- the library ----------------------------------------------------------------------------------------------- */

static void http_run(struct http *http)
{
	unsigned MHD_LONG_LONG wait_ms;

	http->library->run(http->daemon);
	if (http->library->get_timeout(http->daemon, &wait_ms) == MHD_YES)
		loop_timer_set(http->loop, &http->timer, http->loop->now_ms + wait_ms);
	else
		loop_timer_cancel(http->loop, &http->timer);
}

static void on_events(struct loop_watch *watch, uint32_t events)
{
	(void)events;
	http_run(CONTAINER_OF(watch, struct http, events));
}

static void on_timer(struct loop_timer *timer)
{
	http_run(CONTAINER_OF(timer, struct http, timer));
}

/* What it has to say is about connections that broke off. */
__attribute__((format(printf, 2, 0))) static void on_log(void *context, const char *format, va_list arguments)
{
	char text[256];

	(void)context;
	vsnprintf(text, sizeof(text), format, arguments);
	text[strcspn(text, "\n")] = '\0';
	log_message(LOG_LEVEL_DEBUG, "http: %s", text);
}

/* Escapes (%2F) stay as they are: no path or query of ours has any. */
static size_t unescape_nothing(void *context, struct MHD_Connection *connection, char *text)
{
	(void)context;
	(void)connection;
	return strlen(text);
}

static struct MHD_Daemon *daemon_start(struct http *http)
{
	/* TURBO: a new connection is read at once, without another look at epoll. */
	unsigned flags = MHD_USE_EPOLL | MHD_USE_TURBO | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME |
			 MHD_USE_ERROR_LOG;

	return http->library->start_daemon(
		flags, 0, NULL, NULL, on_request, http, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
		MHD_OPTION_UNESCAPE_CALLBACK, unescape_nothing, NULL, MHD_OPTION_CONNECTION_LIMIT,
		(unsigned)HTTP_CONNECTIONS_MAX, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
		(unsigned)HTTP_CONNECTIONS_PER_ADDRESS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
		(unsigned)HTTP_SILENCE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_MEMORY_MAX,
		MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_NOTIFY_COMPLETED, on_completed, http,
		MHD_OPTION_NOTIFY_CONNECTION, on_connection, http, MHD_OPTION_END);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static void on_pause_timer(struct loop_timer *timer)
{
	struct http *http = CONTAINER_OF(timer, struct http, pause_timer);
	void (*on_paused)(void *context) = STEAL_PTR(http->on_paused);

	if (on_paused)
		on_paused(http->pause_context);
}

void http_pause(struct http *http, void (*on_paused)(void *context), void *context)
{
	bool is_pausing = http->on_paused != NULL;

	http->is_paused = true;
	http->on_paused = on_paused;
	http->pause_context = context;
	if (is_pausing) /* asked for again: its end stays where it is */
		return;
	http_watch_listeners(http);
	if (loop_timer_set(http->loop, &http->pause_timer,
			   http->loop->now_ms + (http->requests > 0 ? HTTP_PAUSE_MS : 0)) != 0)
		on_pause_timer(&http->pause_timer);
}

void http_resume(struct http *http)
{
	http->is_paused = false;
	http_watch_listeners(http);
}

static int http_watch(struct http *http, const struct listen_set *listeners)
{
	int silence_s = HTTP_SILENCE_S;

	for (size_t i = 0; i < listeners->count; i++) {
		struct http_listener *listener = &http->listeners[http->listener_count++];

		listener->http = http;
		listener->watch =
			(struct loop_watch){ .on_events = on_listener, .fd = listeners->listeners[i].fd };
		setsockopt(listener->watch.fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &silence_s, sizeof(silence_s));
	}
	http_watch_listeners(http);
	return loop_watch(http->loop, &http->events, EPOLLIN);
}

static struct http *explain(struct http *http, const char *reason)
{
	log_message(LOG_LEVEL_ERROR, "no --http: %s", reason);
	free(http);
	return NULL;
}

struct http *http_new(const struct report_source *source, const struct listen_set *listeners,
		      const char *word)
{
	struct http *http = calloc(1, sizeof(*http));
	const union MHD_DaemonInfo *info;
	char reason[256];

	if (!http)
		return explain(http, strerror(ENOMEM));
	http->source = source;
	http->loop = &source->workers[0].loop;
	http->library = http_library_load(reason, sizeof(reason));
	if (!http->library)
		return explain(http, reason);
	snprintf(http->name, sizeof(http->name), "%.*s", (int)(strrchr(word, ':') - word), word);
	http->timer.on_expire = on_timer;
	http->accept_timer.on_expire = on_accept_timer;
	http->pause_timer.on_expire = on_pause_timer;
	http->daemon = daemon_start(http);
	info = http->daemon ? http->library->get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
	if (!info)
		return explain(http, "libmicrohttpd does not start");
	http->events = (struct loop_watch){ .on_events = on_events, .fd = info->epoll_fd };
	if (http_watch(http, listeners) != 0) {
		http_free(http);
		return explain(NULL, strerror(errno));
	}
	return http;
}

void http_stop(struct http *http)
{
	if (http)
		http->is_stopped = true;
}

/* The library aborts when a request still waits for a report. */
void http_free(struct http *http)
{
	if (!http)
		return;
	http->is_paused = true;
	http_watch_listeners(http);
	loop_watch(http->loop, &http->events, 0);
	http->library->stop_daemon(http->daemon);
	loop_timer_cancel(http->loop, &http->timer);
	loop_timer_cancel(http->loop, &http->accept_timer);
	loop_timer_cancel(http->loop, &http->pause_timer);
	free(http);
}

/* ---- its place --------------------------------------------------------------------------------------------------- */

static bool is_loopback(const struct listener *listener)
{
	char text[LISTEN_TEXT_SIZE];

	listen_format(listener, text);
	return strncmp(text, "127.", 4) == 0 || strncmp(text, "[::1]", 5) == 0;
}

int http_listen(struct listen_set *set, const char *word, char *reason, size_t reason_size)
{
	int r;

	if (strncmp(word, "unix:", 5) == 0) {
		snprintf(reason, reason_size, "cannot listen on %.200s: --http takes ADDR:PORT", word);
		return -EINVAL;
	}
	r = listen_set_add(set, word, reason, reason_size);
	if (r < 0)
		return r;
	for (size_t i = 0; i < set->count; i++) {
		char text[LISTEN_TEXT_SIZE];

		if (!is_loopback(&set->listeners[i]))
			log_message(
				LOG_LEVEL_WARNING,
				"other hosts can reach %s (--http), and see which clients use which services",
				listen_format(&set->listeners[i], text));
	}
	return 0;
}
