/*
 * Theory of operation: the state is fields (base/fields.h) behind a magic word. It names descriptors by number. They
 * lose their close-on-exec flag right before execve(2), and get it back in the new program, or here if execve()
 * fails.
 *
 * The variable KAISO_UPGRADE says "ask:FD" or "take:FD"; FD is the memfd. The program's file is opened once, so what
 * was asked is what is started, whatever is put in its place meanwhile.
 */
#include "router/upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fields.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/sandbox.h"
#include "router/session_image.h"

SANDBOX_CALLS("dup2", "dup3", "execveat", "getcwd", "kill", "memfd_create", "pipe2", "poll", "ppoll", "prctl",
	      "wait4");

#define VARIABLE "KAISO_UPGRADE"
#define MAGIC UPGRADE_MAGIC
#define ANSWER_MS 5000 /* for the whole of the asking: sessions stand still meanwhile */
#define ANSWER_BEGIN "kaiso "
#define ANSWER_END " takes over\n"
#define ANSWER ANSWER_BEGIN KAISO_VERSION ANSWER_END
#define ANSWER_SIZE 4096
#define STATE_MAX (UINT64_C(1) << 31)

enum listener_tag {
	LISTENER_FD, /* number */
	LISTENER_IS_INHERITED,
	LISTENER_UNIX_PATH, /* text */
	LISTENER_UNIX_DEVICE,
	LISTENER_UNIX_INODE,
	LISTENER_SERVICE, /* text: what it exposes */
	LISTENER_TAGS,
};

struct listener_image {
	uint64_t numbers[LISTENER_TAGS];
	struct image_bytes texts[LISTENER_TAGS];
};

static struct {
	int argc;
	char **argv;
	char *program; /* absolute path */
	enum upgrade_role role;
	int state_fd;
	char *state; /* ASKED, TAKES: the whole */
	size_t length;
	uint64_t sandbox; /* upgrade_sandbox() */
	char previous_version[64];
} upgrade = { .state_fd = -1 };

enum upgrade_role upgrade_role(void)
{
	return upgrade.role;
}

const char *upgrade_previous_version(void)
{
	return upgrade.previous_version;
}

const char *upgrade_program(void)
{
	return upgrade.program;
}

uint64_t upgrade_sandbox(void)
{
	return upgrade.sandbox;
}

void upgrade_set_sandbox(uint64_t revision)
{
	upgrade.sandbox = revision;
}

/* ---- the state, read --------------------------------------------------------------------------------- */

typedef int (*field_visitor)(const struct field *field, void *context);

/* Every field behind the magic word, until the visitor says other than 0. */
static int state_walk(const char *bytes, size_t length, field_visitor visit, void *context)
{
	struct fields_reader reader = { bytes + strlen(MAGIC), bytes + length };
	struct field field;
	int r;

	if (length < strlen(MAGIC) || memcmp(bytes, MAGIC, strlen(MAGIC)) != 0)
		return -EPROTO;
	while ((r = fields_next(&reader, &field)) > 0) {
		r = visit(&field, context);
		if (r != 0)
			return r;
	}
	return r;
}

static bool listener_tag_is_text(uint16_t tag)
{
	return tag == LISTENER_UNIX_PATH || tag == LISTENER_SERVICE;
}

static int listener_image_read(struct listener_image *image, const struct field *whole)
{
	struct fields_reader reader = { whole->bytes, whole->bytes + whole->length };
	struct field field;
	int r;

	*image = (struct listener_image){ 0 };
	while ((r = fields_next(&reader, &field)) > 0) {
		if (field.tag >= LISTENER_TAGS)
			return -ENOTSUP;
		if (listener_tag_is_text(field.tag))
			image->texts[field.tag] = (struct image_bytes){ field.bytes, field.length };
		else if (field_number(&field, &image->numbers[field.tag]) != 0)
			return -EPROTO;
	}
	return r == 0 && image->numbers[LISTENER_FD] > INT32_MAX ? -EPROTO : r;
}

struct state_check {
	size_t sessions;
	size_t listeners;
	size_t lists;
	bool has_ended;
};

static int check_session(const struct field *field, struct state_check *check)
{
	struct session_image image;
	int r = session_image_read(&image, field);

	if (r == 0 && image.numbers[IMAGE_LIST_TEXT] > check->lists)
		r = -EPROTO;
	check->sessions++;
	return r;
}

static int check_field(const struct field *field, void *context)
{
	struct state_check *check = context;
	struct listener_image listener;
	uint64_t number;

	if (check->has_ended)
		return -EPROTO;
	switch (field->tag) {
	case STATE_VERSION:
	case STATE_PROGRAM:
		return memchr(field->bytes, '\0', field->length) ? -EPROTO : 0;
	case STATE_COUNTER:
		return field->length == 2 * sizeof(uint64_t) ? 0 : -EPROTO;
	case STATE_REFUSED:
	case STATE_LOG_OWED:
		return field_number(field, &number);
	case STATE_LOG_TAIL:
		return field->length <= LOG_LINE_SIZE ? 0 : -EPROTO;
	case STATE_SANDBOX:
		return field_number(field, &upgrade.sandbox);
	case STATE_LISTENER:
		return ++check->listeners > LISTEN_MAX ? -EPROTO : listener_image_read(&listener, field);
	case STATE_CONTROL:
	case STATE_HTTP:
		return listener_image_read(&listener, field);
	case STATE_LIST:
		check->lists++;
		return 0;
	case STATE_STATS:
	case STATE_SERVICE:
		return 0; /* what does not fit is left out */
	case STATE_SESSION:
		return check_session(field, check);
	case STATE_END:
		check->has_ended = true;
		return field_number(field, &number) != 0 || number != check->sessions ? -EPROTO : 0;
	default:
		return -ENOTSUP;
	}
}

int upgrade_check_state(const char *bytes, size_t length, size_t *sessions)
{
	struct state_check check = { 0 };
	int r = state_walk(bytes, length, check_field, &check);

	*sessions = check.sessions;
	return r == 0 && !check.has_ended ? -EPROTO : r;
}

/* ---- taking over --------------------------------------------------------------------------------------- */

static char *text_copy(const char *bytes, size_t length)
{
	char *text = malloc(length + 1);

	if (!text)
		return NULL;
	if (length > 0)
		memcpy(text, bytes, length);
	text[length] = '\0';
	return text;
}

static int state_load(int fd)
{
	struct stat status;
	size_t done = 0;

	if (fstat(fd, &status) != 0)
		return -errno;
	upgrade.length = (size_t)status.st_size;
	upgrade.state = malloc(upgrade.length + 1);
	if (!upgrade.state)
		return -ENOMEM;
	while (done < upgrade.length) {
		ssize_t count = pread(fd, upgrade.state + done, upgrade.length - done, (off_t)done);

		if (count <= 0)
			return count < 0 ? -errno : -EPROTO;
		done += (size_t)count;
	}
	return 0;
}

/* The path by which this program was started. */
static char *program_path(void)
{
	const char *name = (const char *)getauxval(AT_EXECFN);
	char directory[PATH_MAX], *path = NULL;

	if (!name)
		return NULL;
	if (name[0] == '/')
		return strdup(name);
	if (!getcwd(directory, sizeof(directory)) || asprintf(&path, "%s/%s", directory, name) < 0)
		return NULL;
	return path;
}

void upgrade_begin(int argc, char **argv)
{
	const char *word = getenv(VARIABLE);

	upgrade.argc = argc;
	upgrade.argv = calloc((size_t)argc + 1, sizeof(*argv));
	for (int i = 0; upgrade.argv && i < argc; i++)
		upgrade.argv[i] = argv[i];
	upgrade.program = program_path();
	if (!word)
		return;
	if (sscanf(word, "ask:%d", &upgrade.state_fd) == 1)
		upgrade.role = UPGRADE_ASKED;
	else if (sscanf(word, "take:%d", &upgrade.state_fd) == 1)
		upgrade.role = UPGRADE_TAKES;
	unsetenv(VARIABLE);
	if (upgrade.role == UPGRADE_NONE)
		return;
	fcntl(upgrade.state_fd, F_SETFD, FD_CLOEXEC);
	/* execveat(2) leaves the descriptor's number as the name that ps(1) shows. */
	prctl(PR_SET_NAME, "kaiso");
}

int upgrade_answer(void)
{
	size_t sessions = 0;
	int r = state_load(upgrade.state_fd);

	if (r == 0)
		r = upgrade_check_state(upgrade.state, upgrade.length, &sessions);
	if (r == -ENOTSUP)
		printf("version " KAISO_VERSION
		       " is older than the running one, and does not know all of its state\n");
	else if (r == 0 && upgrade.sandbox > 0 && upgrade.sandbox < SANDBOX_NEEDS)
		r = -EPERM;
	if (r == -EPERM)
		printf("version " KAISO_VERSION
		       " needs system calls that the running one has given up: restart it\n");
	else if (r < 0 && r != -ENOTSUP)
		printf("version " KAISO_VERSION
		       " cannot read the state of the running one: %s (at session %zu of it)\n",
		       strerror(-r), sessions);
	else if (r == 0)
		fputs(ANSWER, stdout);
	return r < 0 ? 1 : 0;
}

struct listeners_taker {
	struct listen_set *listeners;
	const char **services;
};

static int add_listener(struct listen_set *set, const struct listener_image *image)
{
	const struct image_bytes *path = &image->texts[LISTENER_UNIX_PATH];
	struct listener *listener;

	if (set->count == LISTEN_MAX)
		return -EPROTO;
	listener = &set->listeners[set->count++];
	*listener = (struct listener){ .fd = (int)image->numbers[LISTENER_FD],
				       .is_inherited = image->numbers[LISTENER_IS_INHERITED] != 0,
				       .unix_device = image->numbers[LISTENER_UNIX_DEVICE],
				       .unix_inode = image->numbers[LISTENER_UNIX_INODE] };
	if (path->length > 0)
		listener->unix_path = text_copy(path->bytes, path->length);
	return fcntl(listener->fd, F_SETFD, FD_CLOEXEC) < 0 ? -errno : 0;
}

struct others_taker {
	struct listen_set *listeners;
	enum state_tag kind;
};

static int take_other(const struct field *field, void *context)
{
	struct others_taker *taker = context;
	struct listener_image image;
	int r;

	if (field->tag != taker->kind)
		return 0;
	r = listener_image_read(&image, field);
	return r < 0 ? r : add_listener(taker->listeners, &image);
}

int upgrade_take_others(struct listen_set *listeners, enum state_tag kind)
{
	struct others_taker taker = { listeners, kind };

	return state_walk(upgrade.state, upgrade.length, take_other, &taker);
}

static int take_listener(const struct field *field, void *context)
{
	struct listeners_taker *taker = context;
	struct listener_image image;
	const struct image_bytes *service = &image.texts[LISTENER_SERVICE];
	uint64_t dropped;
	int r;

	if (field->tag == STATE_VERSION)
		snprintf(upgrade.previous_version, sizeof(upgrade.previous_version), "%.*s",
			 (int)MIN(field->length, sizeof(upgrade.previous_version)), field->bytes);
	if (field->tag == STATE_PROGRAM) {
		free(upgrade.program);
		upgrade.program = text_copy(field->bytes, field->length);
	}
	if (field->tag == STATE_LOG_TAIL)
		log_owe_tail(field->bytes, field->length);
	if (field->tag == STATE_LOG_OWED && field_number(field, &dropped) == 0)
		log_owe_dropped(dropped);
	if (field->tag != STATE_LISTENER)
		return 0;
	r = listener_image_read(&image, field);
	if (r < 0)
		return r;
	if (taker->services && taker->listeners->count < LISTEN_MAX) {
		taker->services[taker->listeners->count] = text_copy(service->bytes, service->length);
		if (!taker->services[taker->listeners->count])
			return -ENOMEM;
	}
	return add_listener(taker->listeners, &image);
}

int upgrade_take_listeners(struct listen_set *listeners, const char **services)
{
	struct listeners_taker taker = { listeners, services };
	size_t sessions;
	int r = state_load(upgrade.state_fd);

	if (r == 0)
		r = upgrade_check_state(upgrade.state, upgrade.length, &sessions);
	return r < 0 ? r : state_walk(upgrade.state, upgrade.length, take_listener, &taker);
}

struct sessions_taker {
	struct worker *workers;
	unsigned count;
	struct lister_text **lists;
	size_t list_count;
	size_t sessions;
	size_t lost;
};

/* Of all of them, whatever happens. 0 or a negative errno. */
static int image_set_flags(const struct session_image *image, int flags)
{
	int fds[IMAGE_DESCRIPTORS], r = 0;
	size_t count = session_image_descriptors(image, fds);

	for (size_t i = 0; i < count; i++) {
		if (fcntl(fds[i], F_SETFD, flags) < 0)
			r = -errno;
	}
	return r;
}

static int take_list(const struct field *field, struct sessions_taker *taker)
{
	/* NOLINTNEXTLINE(bugprone-sizeof-expression): pointers are what it holds */
	struct lister_text **lists = reallocarray(taker->lists, taker->list_count + 1, sizeof(*taker->lists));

	if (!lists)
		return -ENOMEM;
	taker->lists = lists;
	lists[taker->list_count++] = lister_text_restored(field->bytes, field->length);
	return 0;
}

static void take_session(const struct field *field, struct sessions_taker *taker)
{
	struct session_image image;
	uint64_t list;

	if (session_image_read(&image, field) != 0)
		return; /* not after the check */
	image_set_flags(&image, FD_CLOEXEC);
	list = image.numbers[IMAGE_LIST_TEXT];
	if (list > 0 && list <= taker->list_count)
		image.list = taker->lists[list - 1];
	taker->sessions++;
	if (session_restore_take(&taker->workers[image.numbers[IMAGE_WORKER] % taker->count], &image) != 0)
		taker->lost++;
}

static int take_field(const struct field *field, void *context)
{
	struct sessions_taker *taker = context;
	struct worker *first = &taker->workers[0];
	uint64_t counter[2];

	switch (field->tag) {
	case STATE_COUNTER:
		memcpy(counter, field->bytes, sizeof(counter));
		if (counter[0] < SESSION_REASON_COUNT)
			first->reason_counts[counter[0]] += counter[1];
		return 0;
	case STATE_REFUSED:
		return field_number(field, &first->refused_count);
	case STATE_STATS:
		stats_take_totals(&first->stats, field);
		return 0;
	case STATE_SERVICE:
		stats_take_service(&first->stats, field);
		return 0;
	case STATE_LIST:
		return take_list(field, taker);
	case STATE_SESSION:
		take_session(field, taker);
		return 0;
	default:
		return 0;
	}
}

size_t upgrade_take_sessions(struct worker *workers, unsigned count, size_t *lost)
{
	struct sessions_taker taker = { .workers = workers, .count = count };
	int r = state_walk(upgrade.state, upgrade.length, take_field, &taker);

	if (r < 0)
		log_message(LOG_LEVEL_ERROR, "sessions were lost on the way: %s", strerror(-r));
	for (size_t i = 0; i < taker.list_count; i++)
		lister_text_unref(taker.lists[i]);
	free(taker.lists);
	for (unsigned i = 0; i < count; i++)
		worker_go_on(&workers[i]);
	free(STEAL_PTR(upgrade.state));
	cleanup_close(&upgrade.state_fd);
	*lost = taker.lost;
	return taker.sessions;
}

/* ---- the state, written -------------------------------------------------------------------------------- */

static void write_text(struct fields_writer *writer, uint16_t tag, const char *text)
{
	fields_put(writer, tag, text, strlen(text));
}

/* service: what it exposes, or NULL. */
static void write_listener(struct fields_writer *writer, enum state_tag tag, const struct listener *listener,
			   const char *service)
{
	struct fields_writer own = { 0 };

	fields_put_number(&own, LISTENER_FD, (uint64_t)listener->fd);
	fields_put_number(&own, LISTENER_IS_INHERITED, listener->is_inherited);
	if (listener->unix_path) {
		write_text(&own, LISTENER_UNIX_PATH, listener->unix_path);
		fields_put_number(&own, LISTENER_UNIX_DEVICE, listener->unix_device);
		fields_put_number(&own, LISTENER_UNIX_INODE, listener->unix_inode);
	}
	if (service)
		write_text(&own, LISTENER_SERVICE, service);
	fields_put(writer, (uint16_t)tag, own.bytes, own.length);
	writer->has_failed = writer->has_failed || own.has_failed;
	free(own.bytes);
}

static void write_listeners(struct fields_writer *writer, const struct worker_shared *shared)
{
	const struct router_exposure *exposure = shared->options->exposure;

	for (size_t i = 0; i < shared->listeners->count; i++)
		write_listener(writer, STATE_LISTENER, &shared->listeners->listeners[i],
			       exposure ? exposure->services[i] : NULL);
	for (size_t i = 0; i < shared->control->count; i++)
		write_listener(writer, STATE_CONTROL, &shared->control->listeners[i], NULL);
	for (size_t i = 0; i < shared->http->count; i++)
		write_listener(writer, STATE_HTTP, &shared->http->listeners[i], NULL);
}

static void write_log(struct fields_writer *writer)
{
	struct log_owed owed;

	log_get_owed(&owed);
	if (owed.tail_length > 0)
		fields_put(writer, STATE_LOG_TAIL, owed.tail, owed.tail_length);
	if (owed.dropped > 0)
		fields_put_number(writer, STATE_LOG_OWED, owed.dropped);
}

static void write_counters(struct fields_writer *writer, const struct worker *workers, unsigned count)
{
	uint64_t refused = 0;

	for (unsigned i = 0; i < count; i++) {
		refused += workers[i].refused_count;
		stats_write(&workers[i].stats, writer, STATE_STATS, STATE_SERVICE);
	}
	fields_put_number(writer, STATE_REFUSED, refused);
	for (unsigned reason = 0; reason < SESSION_REASON_COUNT; reason++) {
		uint64_t counter[2] = { reason, 0 };

		for (unsigned i = 0; i < count; i++)
			counter[1] += workers[i].reason_counts[reason];
		if (counter[1] > 0)
			fields_put(writer, STATE_COUNTER, counter, sizeof(counter));
	}
}

/* The lists that have been written already: few, however many send them. */
struct written_lists {
	struct lister_text **lists;
	size_t count;
};

/* Its number; written down when it was not. 0 when out of memory. */
static uint64_t write_list(struct fields_writer *writer, struct written_lists *written,
			   struct lister_text *list)
{
	struct lister_text **lists;

	for (size_t i = 0; i < written->count; i++) {
		if (written->lists[i] == list)
			return i + 1;
	}
	/* NOLINTNEXTLINE(bugprone-sizeof-expression): pointers are what it holds */
	lists = reallocarray(written->lists, written->count + 1, sizeof(*lists));
	if (!lists)
		return 0;
	written->lists = lists;
	lists[written->count++] = list;
	fields_put(writer, STATE_LIST, list->bytes, list->length);
	return written->count;
}

typedef int (*session_visitor)(const struct session_image *image, void *context);

static int each_session(struct worker *workers, unsigned count, session_visitor visit, void *context)
{
	struct session_image image;
	int r = 0;

	for (unsigned i = 0; i < count; i++) {
		struct list *sessions = &workers[i].sessions;

		for (struct list *link = sessions->next; link != sessions && r == 0; link = link->next) {
			if (!session_image_of(CONTAINER_OF(link, struct session, link), &image))
				continue;
			image.numbers[IMAGE_WORKER] = i;
			r = visit(&image, context);
		}
	}
	return r;
}

struct session_writing {
	struct fields_writer *writer;
	struct written_lists lists;
	uint64_t count;
};

static int write_session(const struct session_image *image, void *context)
{
	struct session_writing *writing = context;
	struct session_image copy = *image;

	if (copy.list) {
		copy.numbers[IMAGE_LIST_TEXT] = write_list(writing->writer, &writing->lists, copy.list);
		if (copy.numbers[IMAGE_LIST_TEXT] == 0)
			return -ENOMEM;
	}
	session_image_write(&copy, writing->writer, STATE_SESSION);
	writing->count++;
	return writing->writer->length > STATE_MAX ? -EFBIG : 0;
}

static int write_state(struct fields_writer *writer, struct worker *workers, unsigned count)
{
	struct session_writing writing = { .writer = writer };
	int r;

	write_text(writer, STATE_VERSION, KAISO_VERSION);
	write_text(writer, STATE_PROGRAM, upgrade.program);
	if (upgrade.sandbox > 0)
		fields_put_number(writer, STATE_SANDBOX, upgrade.sandbox);
	write_log(writer);
	write_counters(writer, workers, count);
	write_listeners(writer, workers[0].shared);
	r = each_session(workers, count, write_session, &writing);
	free(writing.lists.lists);
	fields_put_number(writer, STATE_END, writing.count);
	if (r == 0 && writer->has_failed)
		r = -ENOMEM;
	return r;
}

/* ---- going over -------------------------------------------------------------------------------------- */

static int explain(char *reason, size_t size, int error, const char *what)
{
	snprintf(reason, size, "%s: %s", what, strerror(-error));
	return error;
}

static int write_all(int fd, const char *bytes, size_t length)
{
	while (length > 0) {
		ssize_t count = write(fd, bytes, length);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return -errno;
		bytes += count;
		length -= (size_t)count;
	}
	return 0;
}

/* A memfd with the whole state, which nobody can change any more; or a negative errno. */
static int state_file(struct worker *workers, unsigned count)
{
	struct fields_writer writer = { 0 };
	CLEANUP_CLOSE int fd = memfd_create("kaiso-upgrade", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r;

	if (fd < 0)
		return -errno;
	r = write_all(fd, MAGIC, strlen(MAGIC));
	if (r == 0)
		r = write_state(&writer, workers, count);
	if (r == 0)
		r = write_all(fd, writer.bytes, writer.length);
	if (r == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0)
		r = -errno;
	free(writer.bytes);
	return r < 0 ? r : STEAL_FD(fd);
}

/* The environment with the variable set so; its strings are borrowed but for the first. NULL when out of memory. */
static char **environment_with(const char *role, int state_fd)
{
	size_t count = 0;
	char **result;

	while (environ[count])
		count++;
	result = calloc(count + 2, sizeof(*result));
	if (!result || asprintf(&result[0], VARIABLE "=%s:%d", role, state_fd) < 0) {
		free(result);
		return NULL;
	}
	memcpy(result + 1, environ, count * sizeof(*result));
	return result;
}

static void environment_free(char **environment)
{
	if (environment)
		free(environment[0]);
	free(environment);
}

/* In the child: nothing here may take a lock that a thread of the parent had. */
_Noreturn static void child_ask(int program_fd, int state_fd, int answer_fd, char **environment)
{
	const char *why;

	dup2(answer_fd, STDOUT_FILENO);
	dup2(answer_fd, STDERR_FILENO);
	fcntl(state_fd, F_SETFD, 0);
	fexecve(program_fd, upgrade.argv, environment);
	why = errno == EACCES && upgrade.sandbox > 0 ?
		      "Permission denied; within the sandbox only what lies where the running one does can be, so "
		      "restart it if this has another directory" :
		      strerrordesc_np(errno);
	if (write(STDOUT_FILENO, "it cannot be run: ", 18) < 0 || write(STDOUT_FILENO, why, strlen(why)) < 0)
		_exit(126);
	_exit(126);
}

/* What the child says, until it closes its output or the time is over. Terminated; its length. */
static size_t read_answer(int fd, char *answer, size_t size, uint64_t end_ms)
{
	size_t length = 0;

	while (length < size - 1) {
		struct pollfd waiting = { .fd = fd, .events = POLLIN };
		uint64_t now_ms = clock_now_ms();
		ssize_t count;

		if (now_ms >= end_ms || poll(&waiting, 1, (int)(end_ms - now_ms)) == 0)
			break;
		count = read(fd, answer + length, size - 1 - length);
		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			break;
		length += (size_t)count;
	}
	answer[length] = '\0';
	return length;
}

/* A child that goes on is killed. Its exit status, or -1. */
static int reap(pid_t child, uint64_t end_ms)
{
	int status;
	pid_t found;

	while ((found = waitpid(child, &status, WNOHANG)) == 0) {
		if (clock_now_ms() >= end_ms) {
			kill(child, SIGKILL);
			waitpid(child, &status, 0);
			return -1;
		}
		poll(NULL, 0, 1);
	}
	return found == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The last line: the dynamic linker and sanitizers may have something to say before. */
static const char *last_line(const char *answer, size_t length)
{
	while (length > 1 && answer[length - 2] != '\n')
		length--;
	return length > 0 ? answer + length - 1 : answer;
}

static bool is_consent(const char *line)
{
	size_t length = strlen(line);

	return length > strlen(ANSWER) - strlen(KAISO_VERSION) &&
	       strncmp(line, ANSWER_BEGIN, strlen(ANSWER_BEGIN)) == 0 &&
	       strcmp(line + length - strlen(ANSWER_END), ANSWER_END) == 0;
}

static void explain_refusal(char *reason, size_t size, int status, char *answer)
{
	if (status < 0)
		snprintf(reason, size, "%s gave no answer in time", upgrade.program);
	else if (status == 0 || answer[0] == '\0')
		snprintf(reason, size, "%s is no kaiso that can be upgraded to", upgrade.program);
	else
		snprintf(reason, size, "%s: %s", upgrade.program, answer);
	if (reason[strlen(reason) - 1] == '\n')
		reason[strlen(reason) - 1] = '\0';
}

/* 0 when the program says that it can take over. */
static int ask(int program_fd, int state_fd, char *reason, size_t reason_size)
{
	char **environment = environment_with("ask", state_fd);
	uint64_t end_ms = clock_now_ms() + ANSWER_MS;
	char answer[ANSWER_SIZE];
	int ends[2], status;
	size_t length;
	pid_t child;

	if (!environment)
		return explain(reason, reason_size, -ENOMEM, "the new program cannot be asked");
	if (pipe2(ends, O_CLOEXEC) != 0) {
		environment_free(environment);
		return explain(reason, reason_size, -errno, "the new program cannot be asked");
	}
	child = fork();
	if (child == 0)
		child_ask(program_fd, state_fd, ends[1], environment);
	close(ends[1]);
	environment_free(environment);
	if (child < 0) {
		close(ends[0]);
		return explain(reason, reason_size, -errno, "the new program cannot be asked");
	}
	length = read_answer(ends[0], answer, sizeof(answer), end_ms);
	close(ends[0]);
	status = reap(child, end_ms);
	if (status == 0 && is_consent(last_line(answer, length)))
		return 0;
	explain_refusal(reason, reason_size, status, answer);
	return -ENOEXEC;
}

struct flags_setting {
	int flags;
	int error; /* of one that could not be set */
};

static int set_flags(const struct session_image *image, void *context)
{
	struct flags_setting *setting = context;
	int r = image_set_flags(image, setting->flags);

	if (r < 0)
		setting->error = r;
	return 0;
}

static void set_listeners_flags(const struct listen_set *set, struct flags_setting *setting)
{
	for (size_t i = 0; i < set->count; i++) {
		if (fcntl(set->listeners[i].fd, F_SETFD, setting->flags) < 0)
			setting->error = -errno;
	}
}

/* Whether all that is taken over survives execve(2). 0, or a negative errno: then something of it does not. */
static int keep_descriptors(struct worker *workers, unsigned count, int state_fd, bool are_kept)
{
	const struct worker_shared *shared = workers[0].shared;
	struct flags_setting setting = { .flags = are_kept ? 0 : FD_CLOEXEC };

	set_listeners_flags(shared->listeners, &setting);
	set_listeners_flags(shared->control, &setting);
	set_listeners_flags(shared->http, &setting);
	if (fcntl(state_fd, F_SETFD, setting.flags) < 0)
		setting.error = -errno;
	each_session(workers, count, set_flags, &setting);
	return setting.error;
}

int upgrade_run(struct worker *workers, unsigned count, char *reason, size_t reason_size)
{
	CLEANUP_CLOSE int program_fd = -1, state_fd = -1;
	char **environment;
	int r;

	if (!upgrade.program || !upgrade.argv)
		return explain(reason, reason_size, -ENOENT, "the program's own path is not known");
	program_fd = open(upgrade.program, O_PATH | O_CLOEXEC);
	if (program_fd < 0)
		return explain(reason, reason_size, -errno, upgrade.program);
	state_fd = state_file(workers, count);
	if (state_fd < 0)
		return explain(reason, reason_size, state_fd, "the state cannot be written down");
	r = ask(program_fd, state_fd, reason, reason_size);
	if (r < 0)
		return r;
	environment = environment_with("take", state_fd);
	if (!environment)
		return explain(reason, reason_size, -ENOMEM, "the new program cannot be started");
	r = keep_descriptors(workers, count, state_fd, true);
	if (r == 0) {
		fexecve(program_fd, upgrade.argv, environment);
		r = -errno;
	}
	explain(reason, reason_size, r, "the new program cannot be started");
	keep_descriptors(workers, count, state_fd, false);
	environment_free(environment);
	return r;
}
