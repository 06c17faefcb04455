/*
 * Theory of operation: a client's lines are taken one at a time; the next one is looked at when the answer to the one
 * before is out. An answer that has to be gathered (report.h) finds its client by its number, since the client may have
 * left meanwhile.
 */
#include "router/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/macros.h"
#include "base/sandbox.h"

SANDBOX_CALLS("accept4", "recvfrom", "sendto");

#define ACCEPT_PAUSE_MS 100

struct control_client {
	struct control *control;
	struct loop_watch watch;
	struct loop_timer timer;
	struct loop_task task; /* more lines may be here; or, closed: to be freed */
	bool is_closed;
	bool is_waiting;   /* for an answer */
	bool is_upgrading; /* for that one */
	char line[CONTROL_LINE_MAX];
	size_t line_length;
	char *answer; /* of malloc(3); NULL for none */
	size_t answer_length;
	size_t answer_sent;
};

struct control {
	const struct report_source *source;
	struct control_actions actions;
	struct loop *loop;
	struct loop_watch listener;
	struct loop_timer accept_timer; /* armed while nobody can be accepted */
	struct control_client *clients[CONTROL_CLIENTS_MAX];
	unsigned count;
};

static void client_run(struct control_client *client);

static void control_pause_accepting(struct control *control)
{
	loop_timer_set(control->loop, &control->accept_timer, control->loop->now_ms + ACCEPT_PAUSE_MS);
}

/* Those for whom there is no place wait in the backlog. */
static void control_watch_listener(struct control *control)
{
	bool may_accept = control->count < CONTROL_CLIENTS_MAX && !control->accept_timer.position;

	if (loop_watch(control->loop, &control->listener, may_accept ? EPOLLIN : 0) != 0)
		control_pause_accepting(control);
}

/* ---- clients ------------------------------------------------------------------------------------------- */

static void client_close(struct control_client *client)
{
	struct control *control = client->control;

	if (client->is_closed)
		return;
	client->is_closed = true;
	loop_watch(control->loop, &client->watch, 0);
	loop_timer_cancel(control->loop, &client->timer);
	close(STEAL_FD(client->watch.fd));
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		if (control->clients[i] == client)
			control->clients[i] = NULL;
	}
	control->count--;
	control_watch_listener(control);
	if (!client->is_waiting || client->is_upgrading)
		loop_defer(control->loop, &client->task);
}

static void client_on_task(struct loop_task *task)
{
	struct control_client *client = CONTAINER_OF(task, struct control_client, task);

	if (!client->is_closed) {
		client_run(client);
		return;
	}
	free(client->answer);
	free(client);
}

static void client_on_timer(struct loop_timer *timer)
{
	client_close(CONTAINER_OF(timer, struct control_client, timer));
}

/* Sends what there is of the answer. False when the client is gone. */
static bool client_flush(struct control_client *client)
{
	ssize_t sent;

	while (client->answer_sent < client->answer_length) {
		sent = send(client->watch.fd, client->answer + client->answer_sent,
			    client->answer_length - client->answer_sent, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return errno == EAGAIN;
		client->answer_sent += (size_t)sent;
	}
	free(STEAL_PTR(client->answer));
	client->answer_length = client->answer_sent = 0;
	return true;
}

/* Takes the text, of malloc(3); its end is replaced by a line's. */
static void client_answer_take(struct control_client *client, char *text, size_t length)
{
	if (!text) {
		client_close(client);
		return;
	}
	text[length] = '\n';
	client->answer = text;
	client->answer_length = length + 1;
	loop_defer(client->control->loop, &client->task);
}

/* One key, and a text as its value, or true. */
static void client_answer(struct control_client *client, const char *key, const char *text)
{
	struct json json;
	size_t length;
	char *answer;

	json_begin(&json);
	json_open(&json, '{');
	json_key(&json, key);
	if (text)
		json_string(&json, text);
	else
		json_bool(&json, true);
	json_close(&json, '}');
	answer = json_take(&json, &length);
	client_answer_take(client, answer, length);
}

/* ---- what can be asked --------------------------------------------------------------------------------- */

static void on_report(struct report *report)
{
	struct control_client *client = report->context;
	size_t length;
	char *text;

	client->is_waiting = false;
	if (client->is_closed) {
		loop_defer(client->control->loop, &client->task);
	} else {
		text = report_to_json(report, &length);
		client_answer_take(client, text, length);
	}
	report_free(report);
}

static void client_report(struct control_client *client, bool wants_sessions)
{
	client->is_waiting = report_begin(client->control->source, wants_sessions, on_report, client);
	if (!client->is_waiting)
		client_answer(client, "error", strerror(ENOMEM));
}

/* A session to be closed: every worker looks among its own. */
struct closing {
	struct worker_tour tour;
	struct control_client *client;
	char id[SESSION_ID_SIZE];
	bool is_found;
};

static void closing_on_done(struct worker_tour *tour)
{
	struct closing *closing = CONTAINER_OF(tour, struct closing, tour);
	struct control_client *client = closing->client;

	client->is_waiting = false;
	if (client->is_closed)
		loop_defer(client->control->loop, &client->task);
	else if (closing->is_found)
		client_answer(client, "closed", NULL);
	else
		client_answer(client, "error", "no such session is open");
	free(closing);
}

static void closing_on_worker(struct worker_tour *tour, struct worker *worker)
{
	struct closing *closing = CONTAINER_OF(tour, struct closing, tour);
	char id[SESSION_ID_SIZE];

	for (struct list *link = worker->sessions.next; link != &worker->sessions && !closing->is_found;
	     link = link->next) {
		struct session *session = CONTAINER_OF(link, struct session, link);

		if (session->state == SESSION_ENDED || strcmp(session_id(session, id), closing->id) != 0)
			continue;
		session_end(session, SESSION_CLOSED);
		closing->is_found = true;
	}
}

static void client_close_session(struct control_client *client, const char *id)
{
	const struct report_source *source = client->control->source;
	struct closing *closing = calloc(1, sizeof(*closing));

	if (!closing) {
		client_answer(client, "error", strerror(ENOMEM));
		return;
	}
	snprintf(closing->id, sizeof(closing->id), "%.*s", SESSION_ID_SIZE - 1, id);
	closing->client = client;
	closing->tour = (struct worker_tour){ .workers = source->workers,
					      .count = source->count,
					      .visit = closing_on_worker,
					      .done = closing_on_done };
	client->is_waiting = true;
	worker_tour_begin(&closing->tour);
}

static void client_upgrade(struct control_client *client)
{
	client->is_waiting = client->is_upgrading = true;
	client->control->actions.upgrade(client->control->actions.server);
}

static void client_take_line(struct control_client *client, const char *line)
{
	if (strcmp(line, "status") == 0) {
		client_report(client, false);
	} else if (strcmp(line, "sessions") == 0) {
		client_report(client, true);
	} else if (strncmp(line, "close ", strlen("close ")) == 0) {
		client_close_session(client, line + strlen("close "));
	} else if (strcmp(line, "drain") == 0) {
		client->control->actions.drain(client->control->actions.server);
		client_answer(client, "draining", NULL);
	} else if (strcmp(line, "upgrade") == 0) {
		client_upgrade(client);
	} else {
		client_answer(client, "error",
			      "unknown command: there are status, sessions, close ID, drain and upgrade");
	}
}

/* ---- lines ----------------------------------------------------------------------------------------------- */

/* Takes a whole line out of what was received. */
static bool client_next_line(struct control_client *client, char line[static CONTROL_LINE_MAX])
{
	char *end = memchr(client->line, '\n', client->line_length);
	size_t length = end ? (size_t)(end - client->line) : 0;

	if (!end)
		return false;
	memcpy(line, client->line, length);
	line[length] = '\0';
	if (length > 0 && line[length - 1] == '\r')
		line[length - 1] = '\0';
	client->line_length -= length + 1;
	memmove(client->line, end + 1, client->line_length);
	return true;
}

/* False when there is nothing to wait for any more. */
static bool client_receive(struct control_client *client)
{
	ssize_t received;

	received = recv(client->watch.fd, client->line + client->line_length,
			sizeof(client->line) - client->line_length, MSG_DONTWAIT);
	if (received > 0)
		client->line_length += (size_t)received;
	return received > 0 || (received < 0 && (errno == EAGAIN || errno == EINTR));
}

/* Level-triggered: what is not wanted at the moment is not watched. EPOLLPRI never comes, but a hang-up does: a client
 * that only ends its questions still gets its answer. */
static void client_watch(struct control_client *client)
{
	struct loop *loop = client->control->loop;
	uint32_t events = client->answer ? EPOLLOUT : client->is_waiting ? EPOLLPRI : EPOLLIN;

	if (loop_watch(loop, &client->watch, events) != 0 ||
	    loop_timer_set(loop, &client->timer, loop->now_ms + CONTROL_SILENCE_MS) != 0)
		client_close(client);
}

static void client_run(struct control_client *client)
{
	char line[CONTROL_LINE_MAX];

	if (client->is_closed)
		return;
	if (!client_flush(client)) {
		client_close(client);
		return;
	}
	if (!client->answer && !client->is_waiting) {
		if (client_next_line(client, line))
			client_take_line(client, line);
		else if (client->line_length == sizeof(client->line)) /* no line is that long */
			client_close(client);
	}
	if (!client->is_closed)
		client_watch(client);
}

static void client_on_events(struct loop_watch *watch, uint32_t events)
{
	struct control_client *client = CONTAINER_OF(watch, struct control_client, watch);

	if (events & (EPOLLHUP | EPOLLERR) || (events & EPOLLIN && !client_receive(client)))
		client_close(client);
	else
		client_run(client);
}

/* ---- the listener ---------------------------------------------------------------------------------------- */

static void control_admit(struct control *control, int fd)
{
	struct control_client *client = calloc(1, sizeof(*client));
	unsigned place = 0;

	if (!client) {
		close(fd);
		return;
	}
	while (control->clients[place])
		place++;
	control->clients[place] = client;
	control->count++;
	client->control = control;
	client->watch = (struct loop_watch){ .on_events = client_on_events, .fd = fd };
	client->timer.on_expire = client_on_timer;
	client->task.run = client_on_task;
	client_watch(client);
}

static void control_on_listener(struct loop_watch *watch, uint32_t events)
{
	struct control *control = CONTAINER_OF(watch, struct control, listener);
	int fd;

	(void)events;
	if (control->count == CONTROL_CLIENTS_MAX) {
		control_watch_listener(control);
		return;
	}
	fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd >= 0)
		control_admit(control, fd);
	else if (errno != EAGAIN)
		control_pause_accepting(control);
	control_watch_listener(control);
}

static void control_on_accept_timer(struct loop_timer *timer)
{
	control_watch_listener(CONTAINER_OF(timer, struct control, accept_timer));
}

void control_upgrade_refused(struct control *control, const char *reason)
{
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		struct control_client *client = control->clients[i];

		if (!client || !client->is_upgrading)
			continue;
		client->is_waiting = client->is_upgrading = false;
		client_answer(client, "error", reason);
	}
}

struct control *control_new(const struct report_source *source, const struct listener *listener,
			    const struct control_actions *actions)
{
	struct control *control = calloc(1, sizeof(*control));

	if (!control)
		return NULL;
	control->source = source;
	control->actions = *actions;
	control->loop = &source->workers[0].loop;
	control->listener = (struct loop_watch){ .on_events = control_on_listener, .fd = listener->fd };
	control->accept_timer.on_expire = control_on_accept_timer;
	if (loop_watch(control->loop, &control->listener, EPOLLIN) != 0) {
		free(control);
		return NULL;
	}
	return control;
}

void control_free(struct control *control)
{
	if (!control)
		return;
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		if (control->clients[i])
			client_close(control->clients[i]);
	}
	loop_watch(control->loop, &control->listener, 0);
	loop_timer_cancel(control->loop, &control->accept_timer);
	loop_run_out(control->loop);
	free(control);
}

/* ---- its place ------------------------------------------------------------------------------------------- */

char *control_default_path(void)
{
	const char *runtime = getenv("RUNTIME_DIRECTORY"), *user = getenv("XDG_RUNTIME_DIR");
	char *path = NULL;

	/* Several are separated by colons (systemd.exec(5)): the first. */
	if (runtime && runtime[0] == '/')
		return asprintf(&path, "%.*s/control", (int)strcspn(runtime, ":"), runtime) < 0 ? NULL : path;
	if (!user || user[0] != '/' || asprintf(&path, "%s/kaiso", user) < 0)
		return NULL;
	if (mkdir(path, 0700) != 0 && errno != EEXIST) {
		free(path);
		return NULL;
	}
	free(path);
	return asprintf(&path, "%s/kaiso/control", user) < 0 ? NULL : path;
}

int control_listen(struct listen_set *set, const char *path, char *reason, size_t reason_size)
{
	mode_t mask = umask(0177);
	char *word = NULL;
	int r = -ENOMEM;

	if (asprintf(&word, "unix:%s", path) >= 0)
		r = listen_set_add(set, word, reason, reason_size);
	umask(mask);
	free(word);
	return r;
}
