/*
 * The control socket, with operators who say anything, in pieces, many at a time, and leave at any moment; over a
 * router that has sessions with a service of an awkward name.
 *
 * Oracle: each whole line gets one line of JSON, in its order, and nothing else comes; the words get what they are for.
 * JSON is an object, whose strings are valid UTF-8. What waits for an upgrade is answered when that is refused. In the
 * end no descriptor is left.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>

#include "base/log.h"
#include "base/macros.h"
#include "descriptors.h"
#include "router/control.h"
#include "router/worker.h"

#define ENSURE(condition)                                                       \
	do {                                                                    \
		if (!(condition)) {                                             \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
			abort();                                                \
		}                                                               \
	} while (0)

#define OPERATORS 32
#define CLIENTS 4
#define SCRIPT_MAX 512
#define SAID_MAX 4096
#define ROUNDS_MAX 2000
#define SERVICE "a \"b\\\xff\xc3\xa9\xe2\x80\xa8"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static const uint8_t *script, *script_end;
static uint64_t clock_ms; /* 0: the true one */
static char place[] = "/tmp/kaiso-fuzz-control-XXXXXX";
static int service_fd;
static struct listen_set listeners, control_socket;

struct operator_ {
	int fd;
	char said[SAID_MAX]; /* by it, as far as it is not answered */
	size_t said_length;
	char heard[1 << 16]; /* of the answer that is not whole */
	size_t heard_length;
};

static struct {
	struct worker_shared shared;
	struct worker worker;
	struct report_source source;
	struct control *control;
	struct loop_task *no_tasks;
	struct operator_ operators[OPERATORS];
	int clients[CLIENTS];
	unsigned upgrades;
} test;

/* Nothing here takes its time from the world, and peers of this process are no loop. */
int clock_gettime(clockid_t id, struct timespec *now)
{
	if (clock_ms == 0 || id != CLOCK_MONOTONIC)
		return (int)syscall(SYS_clock_gettime, id, now);
	now->tv_sec = (time_t)(clock_ms / 1000);
	now->tv_nsec = (long)(clock_ms % 1000) * 1000000;
	return 0;
}

pid_t getpid(void)
{
	return 1;
}

static unsigned next_byte(void)
{
	return script < script_end ? *script++ : 0;
}

/* ---- the router --------------------------------------------------------------------------------------------- */

static void stop_loop(struct loop_task *task)
{
	(void)task;
	loop_stop(&test.worker.loop);
}

static void run_round(void)
{
	static struct loop_task stop = { .run = stop_loop };

	loop_defer(&test.worker.loop, &stop);
	loop_run(&test.worker.loop);
	loop_resume(&test.worker.loop);
}

static void run_until_rest(void)
{
	struct pollfd watched = { .fd = test.worker.loop.epoll_fd, .events = POLLIN };
	unsigned rounds = 0;

	do {
		ENSURE(rounds++ < ROUNDS_MAX);
		run_round();
	} while (test.worker.loop.tasks != test.no_tasks || poll(&watched, 1, 0) > 0);
}

static void on_drain(void *server)
{
	(void)server;
	test.source.is_draining = true;
}

static void on_upgrade(void *server)
{
	(void)server;
	test.upgrades++;
}

static void begin(void)
{
	static const struct router_options options = {
		.services = place, .threads = 1, .has_verbs = true, .max_sessions = 16, .max_lists = 4
	};
	const struct control_actions actions = { on_drain, on_upgrade, NULL };

	memset(&test, 0, sizeof(test));
	for (size_t i = 0; i < OPERATORS; i++)
		test.operators[i].fd = -1;
	for (size_t i = 0; i < CLIENTS; i++)
		test.clients[i] = -1;
	test.shared =
		(struct worker_shared){ .options = &options, .listeners = &listeners, .busy_workers = 1 };
	test.shared.limits.sessions_max = options.max_sessions;
	test.shared.limits.lists_max = options.max_lists;
	limits_init(&test.shared.limits);
	chains_init(&test.shared.chains);
	turns_init(&test.shared.turns);
	backends_init(&test.shared.backends);
	test.shared.policies = policies_new(place);
	test.shared.lister = lister_new(place, test.shared.policies);
	test.shared.idle_fd = eventfd(0, EFD_CLOEXEC);
	ENSURE(test.shared.lister && worker_init(&test.worker, &test.shared) == 0);
	test.no_tasks = test.worker.loop.tasks;
	ENSURE(worker_listen(&test.worker) == 0);
	test.source = (struct report_source){ .workers = &test.worker, .count = 1 };
	test.control = control_new(&test.source, &control_socket.listeners[0], &actions);
	ENSURE(test.control);
}

/* In the order of server.c. */
static void end(void)
{
	for (size_t i = 0; i < CLIENTS; i++)
		cleanup_close(&test.clients[i]);
	lister_free(test.shared.lister);
	worker_do_jobs(&test.worker);
	worker_do_jobs(&test.worker);
	control_free(test.control);
	worker_deinit(&test.worker);
	close(test.shared.idle_fd);
	policies_free(test.shared.policies);
	backends_deinit(&test.shared.backends);
	turns_deinit(&test.shared.turns);
	chains_deinit(&test.shared.chains);
	limits_deinit(&test.shared.limits);
	for (size_t i = 0; i < OPERATORS; i++)
		cleanup_close(&test.operators[i].fd);
}

/* ---- answers ------------------------------------------------------------------------------------------------- */

static bool is_hex(char byte)
{
	return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F');
}

/* Behind the closing quote of a string that begins here. */
static const char *skip_string(const char *at, const char *end_)
{
	for (at++; at < end_ && *at != '"'; at++) {
		ENSURE((unsigned char)*at >= 0x20);
		if (*at != '\\')
			continue;
		ENSURE(++at < end_);
		if (*at == 'u') {
			ENSURE(end_ - at > 4 && is_hex(at[1]) && is_hex(at[2]) && is_hex(at[3]) &&
			       is_hex(at[4]));
			at += 4;
		} else {
			ENSURE(strchr("\"\\/bfnrt", *at));
		}
	}
	ENSURE(at < end_);
	return at + 1;
}

/* Valid UTF-8, but for what is looked at elsewhere: overlong forms and surrogates (fuzz target log). */
static void check_sequences(const unsigned char *at, const unsigned char *end_)
{
	while (at < end_) {
		unsigned more = *at < 0x80 ? 0 : *at >= 0xf0 ? 3 : *at >= 0xe0 ? 2 : 1;

		ENSURE(*at < 0x80 || (*at >= 0xc2 && *at <= 0xf4));
		for (at++; more > 0; more--, at++)
			ENSURE(at < end_ && (*at & 0xc0) == 0x80);
	}
}

static void check_json(const char *line, const char *end_)
{
	static const char words[] = "{}[]:,.-+0123456789eE truefalsn";
	unsigned depth = 0;

	ENSURE(line < end_ && *line == '{');
	check_sequences((const unsigned char *)line, (const unsigned char *)end_);
	for (const char *at = line; at < end_;) {
		if (*at == '"') {
			at = skip_string(at, end_);
			continue;
		}
		ENSURE(*at != '\0' && strchr(words, *at));
		depth += *at == '{' || *at == '[';
		depth -= *at == '}' || *at == ']';
		at++;
		ENSURE(depth > 0 || at == end_);
	}
	ENSURE(depth == 0);
}

static bool begins(const char *line, const char *start)
{
	return strncmp(line, start, strlen(start)) == 0;
}

/* line: what was said, terminated by its LF; answer the same. */
static void check_answer(const char *line, size_t length, const char *answer)
{
	char word[CONTROL_LINE_MAX];

	ENSURE(length < sizeof(word));
	memcpy(word, line, length);
	word[length] = '\0';
	if (length > 0 && word[length - 1] == '\r')
		word[length - 1] = '\0';
	if (strcmp(word, "status") == 0 || strcmp(word, "sessions") == 0)
		ENSURE(!begins(answer, "{\"error\""));
	else if (strcmp(word, "drain") == 0)
		ENSURE(begins(answer, "{\"draining\":true}"));
	else if (begins(word, "close "))
		ENSURE(begins(answer, "{\"closed\":true}") || begins(answer, "{\"error\":"));
	else
		ENSURE(begins(answer, "{\"error\":"));
}

/* Each answer is to the oldest line that has none. */
static void operator_take_answers(struct operator_ *operator_)
{
	char *newline;

	while ((newline = memchr(operator_->heard, '\n', operator_->heard_length))) {
		size_t length = (size_t)(newline - operator_->heard);
		const char *said = memchr(operator_->said, '\n', operator_->said_length);

		ENSURE(said);
		check_json(operator_->heard, newline);
		check_answer(operator_->said, (size_t)(said - operator_->said), operator_->heard);
		operator_->said_length -= (size_t)(said + 1 - operator_->said);
		memmove(operator_->said, said + 1, operator_->said_length);
		operator_->heard_length -= length + 1;
		memmove(operator_->heard, newline + 1, operator_->heard_length);
	}
}

static bool operator_read(struct operator_ *operator_)
{
	ssize_t count;

	if (operator_->fd < 0)
		return false;
	ENSURE(operator_->heard_length < sizeof(operator_->heard));
	count = recv(operator_->fd, operator_->heard + operator_->heard_length,
		     sizeof(operator_->heard) - operator_->heard_length, MSG_DONTWAIT);
	if (count <= 0)
		return false;
	operator_->heard_length += (size_t)count;
	operator_take_answers(operator_);
	return true;
}

/* ---- the script ---------------------------------------------------------------------------------------------- */

static int unix_connect(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", place, name);
	ENSURE(fd >= 0);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		close(STEAL_FD(fd));
	return fd;
}

/* A line is one of at most CONTROL_LINE_MAX bytes with its end; behind a longer one nothing is heard any more. */
static void operator_say(struct operator_ *operator_, const char *bytes, size_t length)
{
	ssize_t sent;

	if (operator_->fd < 0 || length > SAID_MAX - operator_->said_length)
		return;
	sent = send(operator_->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent <= 0)
		return;
	memcpy(operator_->said + operator_->said_length, bytes, (size_t)sent);
	operator_->said_length += (size_t)sent;
}

static void say_word(struct operator_ *operator_, unsigned which)
{
	static const char *const words[] = { "status\n",  "sessions\n", "close 1\n", "drain\r\n",
					     "upgrade\n", "hello\n",    "\n",        "status" };

	operator_say(operator_, words[which % ARRAY_SIZE(words)], strlen(words[which % ARRAY_SIZE(words)]));
}

static void say_anything(struct operator_ *operator_)
{
	char bytes[256];
	unsigned length = next_byte();

	for (unsigned i = 0; i < length; i++)
		bytes[i] = (char)next_byte();
	operator_say(operator_, bytes, length);
}

/* The name of one of the sessions, as `sessions` would tell it. */
static void say_close(struct operator_ *operator_)
{
	char id[SESSION_ID_SIZE], line[64];

	if (list_is_empty(&test.worker.sessions))
		return;
	session_id(CONTAINER_OF(test.worker.sessions.next, struct session, link), id);
	operator_say(operator_, line, (size_t)snprintf(line, sizeof(line), "close %s\n", id));
}

static void refuse_upgrade(void)
{
	char reason[64];
	unsigned length = next_byte() % sizeof(reason);

	for (unsigned i = 0; i < length; i++)
		reason[i] = (char)next_byte();
	reason[length] = '\0';
	control_upgrade_refused(test.control, reason);
}

static void use_client(unsigned how)
{
	int *client = &test.clients[how & 3];

	if (how & 4) {
		cleanup_close(client);
		*client = -1;
		return;
	}
	if (*client < 0)
		*client = unix_connect("router");
	if (*client >= 0 &&
	    send(*client, SERVICE "\r\nhello", strlen(SERVICE "\r\nhello"), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return; /* it was closed */
}

static void take_step(unsigned byte)
{
	struct operator_ *operator_ = &test.operators[byte >> 3];

	switch (byte & 7) {
	case 0:
		if (operator_->fd < 0) {
			*operator_ = (struct operator_){ .fd = unix_connect("control") };
			break;
		}
		run_round();
		break;
	case 1:
		say_word(operator_, next_byte());
		break;
	case 2:
		say_anything(operator_);
		break;
	case 3:
		operator_read(operator_);
		break;
	case 4:
		if (operator_->fd >= 0 && byte & 128)
			close(STEAL_FD(operator_->fd));
		else if (operator_->fd >= 0)
			shutdown(operator_->fd, SHUT_WR); /* what was said before is answered all the same */
		break;
	case 5:
		say_close(operator_);
		break;
	case 6:
		if (byte & 128)
			refuse_upgrade();
		else
			use_client(byte >> 3);
		break;
	default:
		run_until_rest();
		break;
	}
}

static void move_all(void)
{
	bool has_moved;

	do {
		has_moved = false;
		run_until_rest();
		control_upgrade_refused(test.control, "no");
		for (size_t i = 0; i < OPERATORS; i++)
			has_moved |= operator_read(&test.operators[i]);
	} while (has_moved || test.worker.loop.tasks != test.no_tasks);
}

/* Does it wait for an answer, and may? */
static bool operator_waits(const struct operator_ *operator_)
{
	const char *newline = memchr(operator_->said, '\n', operator_->said_length);

	return newline && newline - operator_->said < CONTROL_LINE_MAX;
}

/* Who has been answered leaves, for there may be others waiting for a place; in the end nobody waits. */
static void finish(void)
{
	bool has_left;

	do {
		move_all();
		has_left = false;
		for (size_t i = 0; i < OPERATORS; i++) {
			if (test.operators[i].fd < 0 || operator_waits(&test.operators[i]))
				continue;
			close(STEAL_FD(test.operators[i].fd));
			has_left = true;
		}
	} while (has_left);
	for (size_t i = 0; i < OPERATORS; i++)
		ENSURE(test.operators[i].fd < 0);
}

static void remove_place(void)
{
	static const char *const names[] = { "router", "control", SERVICE };
	char path[256];

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", place, names[i]);
		unlink(path);
	}
	rmdir(place);
}

static void init_once(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char reason[LISTEN_REASON_SIZE], path[256];

	if (service_fd > 0)
		return;
	signal(SIGPIPE, SIG_IGN);
	ENSURE(mkdtemp(place));
	atexit(remove_place);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", place, SERVICE);
	service_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ENSURE(service_fd > 0 && bind(service_fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
	       listen(service_fd, 16) == 0);
	snprintf(path, sizeof(path), "unix:%s/router", place);
	ENSURE(listen_set_add(&listeners, path, reason, sizeof(reason)) == 0);
	snprintf(path, sizeof(path), "%s/control", place);
	ENSURE(control_listen(&control_socket, path, reason, sizeof(reason)) == 0);
}

/* What waits in the backlogs for nobody. */
static void empty_backlogs(void)
{
	const int fds[] = { service_fd, listeners.listeners[0].fd, control_socket.listeners[0].fd };

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		int fd;

		while ((fd = accept(fds[i], NULL, NULL)) >= 0)
			close(fd);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	size_t descriptors;

	init_once();
	if (size > SCRIPT_MAX)
		return 0;
	script = input;
	script_end = input + size;
	descriptors = count_descriptors();
	clock_ms = 1000000;
	begin();
	while (script < script_end)
		take_step(next_byte());
	finish();
	end();
	empty_backlogs();
	clock_ms = 0;
	ENSURE(count_descriptors() == descriptors);
	return 0;
}
