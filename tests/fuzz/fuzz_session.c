/*
 * Whole sessions: a worker of the router as it is, with clients and services that do what the input says. The input is
 * a script: a head of options, then steps that connect, write, read, half-close, reset, accept, hand over, let time
 * pass, run out of descriptors, or change the process (as an upgrade does). After the script everybody reads and
 * writes what is left, and leaves.
 *
 * Oracle: every peer sends a stream of its own, whose bytes tell the sender and the place. So what arrives is seen
 * to be the other's bytes, whole and in order, and behind exactly the lines that go before. A clean end comes only
 * behind the last byte of a peer that ended cleanly, where the socket's kind can tell (unix(7) has no reset for bytes
 * that were read). Where nobody cut anything, everything arrives. In the end no session, descriptor or limit is left,
 * and the loop comes to rest whenever nobody does anything.
 *
 * The clock stands still but for the script. Peers are of this very process, so getpid() lies, or the router would
 * see a loop in each; the script can have it tell the truth.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>

#include "base/fields.h"
#include "base/log.h"
#include "base/macros.h"
#include "descriptors.h"
#include "router/session_image.h"
#include "router/worker.h"

/* For whoever looks into a finding. */
static void tell_peers(void);

#define ENSURE(condition)                                                       \
	do {                                                                    \
		if (!(condition)) {                                             \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
			tell_peers();                                           \
			abort();                                                \
		}                                                               \
	} while (0)

#define CLIENTS 4
#define PEERS (2 * CLIENTS) /* clients, then what they reach */
#define STREAM_MAX (1u << 20)
#define HEAD_MAX 16384
#define RECEIVERS 4
#define REMOTE "name/of"
#define ROUNDS_MAX 4000 /* in which the loop has to come to rest */
#define IDLE_MS 30000u
#define PATIENCE_MS 4000 /* of the script's time; beyond, timeouts may have cut somebody off */
#define SCRIPT_MAX 512
#define AGED_S 3 /* files are at rest then, and libFuzzer, which uses our clock, is not impatient yet */

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

/* ---- the script ------------------------------------------------------------------------------------- */

static const uint8_t *script, *script_end;

static unsigned next_byte(void)
{
	return script < script_end ? *script++ : 0;
}

/* ---- the clock, and who we are ------------------------------------------------------------------------ */

static uint64_t clock_ms; /* 0: the true one */
static bool is_young;     /* the files of the directory were made just now */
static bool is_own;

int clock_gettime(clockid_t id, struct timespec *now)
{
	if (clock_ms == 0 || (id != CLOCK_MONOTONIC && id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE))
		return (int)syscall(SYS_clock_gettime, id, now);
	if (id == CLOCK_MONOTONIC) {
		now->tv_sec = (time_t)(clock_ms / 1000);
		now->tv_nsec = (long)(clock_ms % 1000) * 1000000;
		return 0;
	}
	syscall(SYS_clock_gettime, id, now);
	now->tv_sec += is_young ? 0 : AGED_S;
	return 0;
}

pid_t getpid(void)
{
	return is_own ? (pid_t)syscall(SYS_getpid) : 1;
}

/* ---- the place: services and who listens there ---------------------------------------------------------- */

enum door { DOOR_PLAIN, DOOR_FULL, DOOR_TCP, DOOR_KAISO, DOOR_RECEIVER, DOOR_KNOCK, DOORS };

static char place[] = "/tmp/kaiso-fuzz-XXXXXX";
static int doors[DOORS];
static uint16_t ports[DOORS];
static struct listen_set listeners;
static struct sockaddr_in router_tcp;
static struct sockaddr_un router_unix;

static struct sockaddr_un unix_name(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", place, name);
	return address;
}

static int unix_socket(const char *name, int type, int backlog)
{
	struct sockaddr_un address = unix_name(name);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	ENSURE(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
	ENSURE(backlog < 0 || listen(fd, backlog) == 0);
	return fd;
}

static int tcp_listener(uint16_t *port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	ENSURE(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && listen(fd, 64) == 0);
	ENSURE(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
	*port = ntohs(address.sin_port);
	return fd;
}

/* The target, and a port behind it unless it is 0. */
static void make_file(const char *name, const char *target, uint16_t port)
{
	char path[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", place, name);
	file = fopen(path, "w");
	ENSURE(file);
	fputs(target, file);
	if (port > 0)
		fprintf(file, "%u", port);
	fclose(file);
}

/* "127.0.0.1:PORT" and what follows it. */
static void make_tcp_file(const char *name, uint16_t port, const char *rest)
{
	char target[256];

	snprintf(target, sizeof(target), "127.0.0.1:%u%s", port, rest);
	make_file(name, target, 0);
}

static void make_directory(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", place, name);
	ENSURE(mkdir(path, 0700) == 0);
}

static void make_link(const char *name, const char *target)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", place, name);
	ENSURE(symlink(target, path) == 0);
}

static void remove_directory(int parent, const char *name)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY);
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	while (directory && (entry = readdir(directory))) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
		    unlinkat(fd, entry->d_name, 0) != 0)
			remove_directory(fd, entry->d_name);
	}
	if (directory)
		closedir(directory);
	unlinkat(parent, name, AT_REMOVEDIR);
}

static void remove_place(void)
{
	remove_directory(AT_FDCWD, place);
}

static void make_listeners(void)
{
	char reason[LISTEN_REASON_SIZE], word[256];
	socklen_t length = sizeof(router_tcp);

	ENSURE(listen_set_add(&listeners, "127.0.0.1:0", reason, sizeof(reason)) == 0);
	ENSURE(getsockname(listeners.listeners[0].fd, (struct sockaddr *)&router_tcp, &length) == 0);
	snprintf(word, sizeof(word), "unix:%s/router", place);
	ENSURE(listen_set_add(&listeners, word, reason, sizeof(reason)) == 0);
	router_unix = unix_name("router");
}

/* Services with several targets, of which some refuse or have no room, and what a directory says of all below it. */
static void make_choices(void)
{
	char text[256];

	make_file("services/choice", "nowhere\nbackend dead\nbackend plain\n", 0);
	snprintf(text, sizeof(text),
		 "plain\nbackend 127.0.0.1:%u\nbackend 127.0.0.1:1\nbackend 127.0.0.1:%u " REMOTE
		 "\nbalance round-robin\nmax-sessions 2\n",
		 ports[DOOR_TCP], ports[DOOR_KAISO]);
	make_file("services/turns", text, 0);
	snprintf(text, sizeof(text),
		 "../receiver passfd:%u\nbackend ../receiver passfd:1\nbackend 127.0.0.1:%u\n",
		 ports[DOOR_KNOCK], ports[DOOR_TCP]);
	make_file("services/handed", text, 0);
	make_file("services/knocked", "../receiver passfd:1\nbackend ../receiver passfd\nbackend plain\n", 0);
	make_file("services/busy", "full\nbackend full\nbackend dead\nconnect-timeout 20s\n", 0);
	make_directory("services/e");
	unix_socket("services/e/dead", SOCK_STREAM, -1);
	make_file("services/e/to", "full\nbackend plain\nconnect-timeout 0\n", 0);
	snprintf(
		text, sizeof(text),
		"about what is below\nbackend plain\nbalance least-sessions\nmax-sessions 2\nidle-timeout %ums\ndeny 192.0.2.1\n",
		IDLE_MS);
	make_file("services/e/.kaiso", text, 0);
}

static void make_services(void)
{
	make_directory("services");
	make_directory("services/d");
	make_directory("services/.hidden");
	doors[DOOR_PLAIN] = unix_socket("services/plain", SOCK_STREAM, 16);
	doors[DOOR_FULL] = unix_socket("services/full", SOCK_STREAM, 0);
	doors[DOOR_TCP] = tcp_listener(&ports[DOOR_TCP]);
	doors[DOOR_KAISO] = tcp_listener(&ports[DOOR_KAISO]);
	doors[DOOR_RECEIVER] = unix_socket("receiver", SOCK_STREAM, 16);
	doors[DOOR_KNOCK] = tcp_listener(&ports[DOOR_KNOCK]);
	unix_socket("services/dead", SOCK_STREAM, -1);
	unix_socket("services/datagram", SOCK_DGRAM, -1);
	make_tcp_file("services/tcp", ports[DOOR_TCP], "\n");
	make_tcp_file("services/kaiso", ports[DOOR_KAISO], " " REMOTE "\r\n");
	make_file("services/described", "plain", 0);
	make_file("services/pass", "../receiver passfd\n", 0);
	make_file("services/knock", "../receiver passfd:", ports[DOOR_KNOCK]);
	make_file("services/closed", "127.0.0.1:1\n", 0);
	make_tcp_file("services/self", ntohs(router_tcp.sin_port), " self\n");
	make_tcp_file("services/round", ntohs(router_tcp.sin_port), " plain\n");
	make_file("services/bad", "nonsense passfd:0\n", 0);
	make_choices();
	make_link("services/d/inner", "../plain");
	make_link("services/d/to", "../tcp");
	make_link("services/nowhere", "nothing");
	make_file("services/.hidden/x", "plain", 0);
}

/* Changed just now. */
static void make_young(void)
{
	static const char *const names[] = { "services/dead", "services/pass", "services/tcp" };
	char path[256];

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", place, names[i]);
		ENSURE(chmod(path, 0600) == 0);
	}
}

/* The log is written as ever, and read by nobody. */
static void init_log(void)
{
	int saved = dup(STDERR_FILENO), nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);

	dup2(nowhere, STDERR_FILENO);
	log_init(LOG_LEVEL_DEBUG, LOG_FORMAT_JSON);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(nowhere);
}

static uint8_t streams[PEERS][STREAM_MAX];

static void make_streams(void)
{
	for (unsigned peer = 0; peer < PEERS; peer++) {
		for (uint32_t i = 0; i < STREAM_MAX; i++)
			streams[peer][i] = (uint8_t)(peer << 5 | (i * 2654435761u >> 17 & 31));
	}
}

static void make_list_texts(void);

static void init_once(void)
{
	static bool is_done;

	if (is_done)
		return;
	is_done = true;
	signal(SIGPIPE, SIG_IGN);
	ENSURE(mkdtemp(place));
	atexit(remove_place);
	make_listeners();
	make_services();
	init_log();
	make_streams();
	make_list_texts();
}

/* ---- the router ----------------------------------------------------------------------------------------- */

static struct router_options options;
static struct router_exposure exposure;
static struct worker_shared shared;
static struct worker worker;
static struct loop_task *no_tasks; /* the end of the loop's list */
static char services[256];
static bool is_disturbed; /* somebody may have been refused or cut by the router, and rightly */
static bool may_idle;

static void stop_loop(struct loop_task *task)
{
	(void)task;
	loop_stop(&worker.loop);
}

/* One round of the loop, which does not sleep. */
static void run_round(void)
{
	static struct loop_task stop = { .run = stop_loop };

	loop_defer(&worker.loop, &stop);
	loop_run(&worker.loop);
	loop_resume(&worker.loop);
}

static bool is_readable(int fd, int timeout_ms)
{
	struct pollfd watched = { .fd = fd, .events = POLLIN };
	int count;

	do {
		count = poll(&watched, 1, timeout_ms);
	} while (count < 0 && errno == EINTR); /* libFuzzer's alarm */
	return count == 1;
}

static bool is_at_rest(void)
{
	return worker.loop.tasks == no_tasks && !is_readable(worker.loop.epoll_fd, 0);
}

/* The lister is a thread: lists that it is at will come. */
static void await_lists(void)
{
	while (shared.limits.lists > 0) {
		ENSURE(is_readable(worker.wake.fd, 8000));
		run_round();
	}
}

static void run_until_rest(void)
{
	unsigned rounds = 0;

	do {
		ENSURE(rounds++ < ROUNDS_MAX);
		run_round();
		await_lists();
	} while (!is_at_rest());
}

static void start_worker(void)
{
	ENSURE(worker_init(&worker, &shared) == 0);
	no_tasks = worker.loop.tasks;
	ENSURE(worker_listen(&worker) == 0);
}

/* The head of the script. All zero: a router as it is by default. */
static void read_options(void)
{
	static const unsigned pipes[] = { 8, 1, 0, 8 }, sessions[] = { 64, 1, 2, 64 };
	unsigned flags = next_byte(), modes = next_byte(), limits = next_byte();

	options = (struct router_options){ .services = services,
					   .threads = 1,
					   .has_verbs = !(flags & 1),
					   .relay_up = (enum relay_mode)(modes % 3),
					   .relay_down = (enum relay_mode)(modes / 3 % 3),
					   .max_pipes = pipes[modes / 9 % 4],
					   .request_timeout_ms = limits & 4 ? 0 : 60000,
					   .connect_timeout_ms = limits & 8 ? 0 : 10000,
					   .idle_timeout_ms = flags & 8 ? IDLE_MS : 0,
					   .keepalive_ms = limits & 16 ? 2000 : 0,
					   .drain_timeout_ms = limits & 32 ? 0 : 5000,
					   .max_sessions = sessions[limits & 3],
					   .max_requests_per_second = flags & 16 ? 2 : 0,
					   .max_sessions_per_address = limits & 64 ? 2 : 0,
					   .max_lists = flags & 32 ? 1 : 16 };
	is_young = flags & 2;
	if (is_young)
		make_young();
	is_own = flags & 4;
	may_idle = flags & 8;
	is_disturbed = (flags & 52) || (limits & (3 | 64));
	if (flags & 64) {
		static const char *const remotes[] = { REMOTE, "d/" };
		static char path[256];

		snprintf(path, sizeof(path), "%s/services/plain", place);
		exposure = (struct router_exposure){ .host = flags & 128 ? "" : "127.0.0.1",
						     .unix_path = flags & 128 ? path : "",
						     .port = ports[DOOR_KAISO],
						     .target = "target",
						     .services = remotes };
		options.exposure = &exposure;
	}
}

static void start_router(void)
{
	snprintf(services, sizeof(services), "%s/services", place);
	shared = (struct worker_shared){ .options = &options, .listeners = &listeners, .busy_workers = 1 };
	shared.limits.sessions_max = options.max_sessions;
	shared.limits.sessions_per_address_max = options.max_sessions_per_address;
	shared.limits.requests_per_second_per_address = options.max_requests_per_second;
	shared.limits.lists_max = options.max_lists;
	limits_init(&shared.limits);
	chains_init(&shared.chains);
	turns_init(&shared.turns);
	backends_init(&shared.backends);
	shared.policies = policies_new(services);
	shared.lister = lister_new(services, shared.policies);
	ENSURE(shared.policies && shared.lister);
	shared.idle_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	start_worker();
}

static void end_router(void)
{
	lister_free(shared.lister);
	worker_deinit(&worker);
	ENSURE(shared.limits.sessions == 0 && shared.limits.lists == 0 && chains_is_empty(&shared.chains));
	ENSURE(list_is_empty(&shared.turns.taken));
	/* No service, and no session that counts: only what is known of targets that failed. */
	ENSURE(shared.backends.entry_count == shared.backends.idle_count);
	close(shared.idle_fd);
	policies_free(shared.policies);
	backends_deinit(&shared.backends);
	turns_deinit(&shared.turns);
	chains_deinit(&shared.chains);
	limits_deinit(&shared.limits);
}

/* ---- from one process to the next, within one ------------------------------------------------------------- */

#define MOVED_MAX 16

struct moved {
	struct fields_writer written;
	struct lister_text *list;
};

static void duplicate(uint64_t *number)
{
	if (*number == 0)
		return;
	*number = (uint64_t)fcntl((int)*number - 1, F_DUPFD_CLOEXEC, 0) + 1;
	ENSURE(*number > 0);
}

/* Writes the session down, and takes its descriptors away from it. Those of pipes are the pool's: duplicated. */
static bool move_out(struct session *session, struct moved *moved)
{
	struct session_image image;

	*moved = (struct moved){ 0 };
	if (!session_image_of(session, &image))
		return false;
	for (unsigned way = IMAGE_UP; way <= IMAGE_DOWN; way += IMAGE_DOWN - IMAGE_UP) {
		duplicate(&image.numbers[way + WAY_PIPE_READ]);
		duplicate(&image.numbers[way + WAY_PIPE_WRITE]);
	}
	image.numbers[IMAGE_LIST_TEXT] = image.list != NULL;
	session_image_write(&image, &moved->written, 1);
	ENSURE(!moved->written.has_failed);
	moved->list = image.list;
	if (moved->list)
		lister_text_ref(moved->list);
	loop_watch(&worker.loop, &session->client, 0);
	loop_watch(&worker.loop, &session->backend, 0);
	session->client.fd = -1;
	session->backend.fd = -1;
	return true;
}

static void move_in(struct moved *moved)
{
	struct fields_reader reader = { moved->written.bytes, moved->written.bytes + moved->written.length };
	struct session_image image;
	struct field field;

	ENSURE(fields_next(&reader, &field) == 1);
	ENSURE(session_image_read(&image, &field) == 0);
	image.list = moved->list;
	ENSURE(session_restore_take(&worker, &image) == 0);
	lister_text_unref(moved->list);
	free(moved->written.bytes);
}

static void move_process(void)
{
	struct moved moved[MOVED_MAX];
	size_t count = 0;

	if (worker.is_draining)
		return; /* nor does the server upgrade then */
	for (struct list *link = worker.sessions.next; link != &worker.sessions; link = link->next) {
		if (count == MOVED_MAX)
			return;
		count++;
	}
	count = 0;
	for (struct list *link = worker.sessions.next; link != &worker.sessions; link = link->next)
		count += move_out(CONTAINER_OF(link, struct session, link), &moved[count]);
	lister_free(shared.lister);
	worker_deinit(&worker);
	shared.lister = lister_new(services, shared.policies);
	ENSURE(shared.lister);
	start_worker();
	for (size_t i = 0; i < count; i++)
		move_in(&moved[i]);
	worker_go_on(&worker);
}

/* ---- peers ---------------------------------------------------------------------------------------------- */

struct peer {
	int fd;
	bool is_used;
	bool is_tcp;
	bool is_handed; /* it is a client's own socket, handed over */
	bool is_router; /* it is asked for a service first, by one word or another */
	bool is_raw;    /* it said something of its own: what comes back is anything */
	bool has_asked; /* for a service, or for nothing that is: no line may follow */
	bool may_stream;
	bool has_oob;
	bool has_shut;   /* its sending direction, by shutdown() */
	bool has_ended;  /* the same, or by close() */
	bool is_aborted; /* a reset, or bytes left unread */
	bool reads_no_more;
	struct peer *other; /* whose stream this one gets; NULL: not known yet */

	char head[HEAD_MAX]; /* goes before the stream */
	size_t head_length, head_sent;
	size_t stream_length, stream_sent;

	char expected[HEAD_MAX]; /* comes before the other's stream */
	size_t expected_length, expected_got;
	bool awaits_verdict; /* then "+" or a refusal */
	bool is_refused;
	char verdict[4];
	size_t verdict_length;
	size_t received;
	bool has_failed; /* a write; so the kernel has told of a reset, which it does only once */
	bool is_over;    /* what it receives */
	bool has_clean_end;
};

static struct peer peers[PEERS];
static int receivers[RECEIVERS];
static char received_bytes[256 << 10];

static unsigned peer_id(const struct peer *peer)
{
	return (unsigned)(peer - peers);
}

static bool is_client(const struct peer *peer)
{
	return peer_id(peer) < CLIENTS;
}

static void peer_append(struct peer *peer, const char *bytes, size_t length)
{
	if (length > HEAD_MAX - peer->head_length || peer->has_ended)
		return;
	memcpy(peer->head + peer->head_length, bytes, length);
	peer->head_length += length;
}

static void peer_expect(struct peer *peer, const char *bytes, size_t length)
{
	if (length > HEAD_MAX - peer->expected_length) {
		peer->is_raw = true;
		return;
	}
	memcpy(peer->expected + peer->expected_length, bytes, length);
	peer->expected_length += length;
}

static void peer_link(struct peer *peer, struct peer *other)
{
	ENSURE(is_client(peer) != is_client(other) && other->is_used);
	ENSURE(!peer->other || peer->other == other);
	ENSURE(!other->other || other->other == peer);
	peer->other = other;
	other->other = peer;
}

/* A service peer where the other end has none yet. NULL: all are used. */
static struct peer *peer_new(unsigned from, unsigned to, int fd)
{
	int type = 0;
	socklen_t length = sizeof(type);

	for (unsigned i = from; i < to; i++) {
		if (peers[i].is_used)
			continue;
		peers[i].is_used = true;
		peers[i].fd = fd;
		getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &type, &length);
		peers[i].is_tcp = type == AF_INET;
		return &peers[i];
	}
	close(fd);
	return NULL;
}

/* ---- what a peer receives ---------------------------------------------------------------------------------- */

static size_t take_expected(struct peer *peer, const char *bytes, size_t length)
{
	size_t count = MIN(length, peer->expected_length - peer->expected_got);

	ENSURE(memcmp(bytes, peer->expected + peer->expected_got, count) == 0);
	peer->expected_got += count;
	return count;
}

static size_t take_verdict(struct peer *peer, const char *bytes, size_t length)
{
	size_t taken = 0;

	if (peer->is_refused)
		return length;
	while (taken < length && peer->awaits_verdict && !peer->is_refused) {
		peer->verdict[peer->verdict_length++] = bytes[taken++];
		if (peer->verdict[0] == '-') {
			peer->is_refused = true;
			return length;
		}
		if (peer->verdict_length == strlen("+\r\n")) {
			ENSURE(memcmp(peer->verdict, "+\r\n", 3) == 0);
			peer->awaits_verdict = false;
		}
	}
	return taken;
}

/* A router learns from the first byte how it is asked. */
static void expect_line(struct peer *peer, char first)
{
	if (first == '.')
		peer_expect(peer, ".kaiso/open " REMOTE "\r\n", strlen(".kaiso/open " REMOTE "\r\n"));
	else if (first == 'd')
		peer_expect(peer, "d/\r\n", strlen("d/\r\n"));
	else
		peer_expect(peer, REMOTE "\r\n", strlen(REMOTE "\r\n"));
	peer->may_stream = first != '.';
}

static void take_stream(struct peer *peer, const char *bytes, size_t length)
{
	struct peer *sender = &peers[(uint8_t)bytes[0] >> 5];

	if (sender->has_oob && (peer->is_handed || sender->is_handed)) {
		peer->is_raw = true; /* urgent bytes stay apart, as with accept() */
		return;
	}
	peer_link(peer, sender);
	ENSURE(peer->received + length <= sender->stream_sent);
	ENSURE(memcmp(bytes, streams[peer_id(sender)] + peer->received, length) == 0);
	peer->received += length;
}

/* Of somebody who is not known yet, anything may come when there is one who says anything. */
static bool may_be_anything(const struct peer *peer)
{
	for (size_t i = 0; i < PEERS && !peer->other; i++) {
		if (peers[i].is_raw && is_client(&peers[i]) != is_client(peer))
			return true;
	}
	return false;
}

static void peer_take(struct peer *peer, const char *bytes, size_t length)
{
	size_t taken;

	peer->is_raw = peer->is_raw || may_be_anything(peer);
	if (peer->is_raw || (peer->other && peer->other->is_raw))
		return;
	if (peer->is_router && peer->expected_length == 0)
		expect_line(peer, bytes[0]);
	taken = take_expected(peer, bytes, length);
	if (taken < length && (peer->awaits_verdict || peer->is_refused))
		taken += take_verdict(peer, bytes + taken, length - taken);
	if (taken < length)
		take_stream(peer, bytes + taken, length - taken);
}

/* What the peer learns at the end of the stream that it receives. */
static void peer_over(struct peer *peer, bool is_clean)
{
	peer->is_over = true;
	peer->has_clean_end = is_clean && !peer->has_failed;
}

/* True when something came. */
static bool peer_read(struct peer *peer, size_t limit)
{
	bool has_moved = false;

	while (peer->fd >= 0 && !peer->is_over && limit > 0) {
		ssize_t count =
			recv(peer->fd, received_bytes, MIN(limit, sizeof(received_bytes)), MSG_DONTWAIT);

		if (count < 0 && (errno == EAGAIN || errno == ENOTCONN))
			return has_moved;
		has_moved = true;
		if (count <= 0) {
			peer_over(peer, count == 0);
			return true;
		}
		peer_take(peer, received_bytes, (size_t)count);
		limit -= (size_t)count;
	}
	return has_moved;
}

/* ---- what a peer sends ------------------------------------------------------------------------------------- */

enum manner { MANNER_PLAIN, MANNER_URGENT, MANNER_WITH_DESCRIPTOR };

static ssize_t send_with_descriptor(int fd, const void *bytes, size_t length)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec part = { .iov_base = (void *)bytes, .iov_len = length };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &shared.idle_fd, sizeof(int));
	return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static ssize_t peer_send_part(struct peer *peer, const void *bytes, size_t length, enum manner manner)
{
	if (manner == MANNER_WITH_DESCRIPTOR && !peer->is_tcp)
		return send_with_descriptor(peer->fd, bytes, length);
	/* A request with an urgent mark inside is never seen whole by MSG_PEEK: its client waits for the timeout. */
	if (manner != MANNER_URGENT || peer->head_sent < peer->head_length)
		return send(peer->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
	peer->has_oob = true;
	return send(peer->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_OOB);
}

/* True when something went. Head and stream go in one piece where they can: a line with what follows it. */
static bool peer_write(struct peer *peer, size_t limit, enum manner manner)
{
	size_t head = MIN(limit, peer->head_length - peer->head_sent);
	size_t stream = MIN(limit - head, peer->stream_length - peer->stream_sent);
	static char bytes[HEAD_MAX + STREAM_MAX];
	ssize_t sent;

	if (peer->fd < 0 || peer->has_ended || head + stream == 0)
		return false;
	memcpy(bytes, peer->head + peer->head_sent, head);
	memcpy(bytes + head, streams[peer_id(peer)] + peer->stream_sent, stream);
	sent = peer_send_part(peer, bytes, head + stream, manner);
	peer->has_failed = peer->has_failed || (sent < 0 && errno != EAGAIN);
	if (sent <= 0)
		return false;
	peer->head_sent += MIN((size_t)sent, head);
	peer->stream_sent += (size_t)sent - MIN((size_t)sent, head);
	return true;
}

static void peer_say_no_more(struct peer *peer)
{
	peer->has_ended = true;
	peer->is_raw = peer->is_raw ||
		       peer->head_length > peer->head_sent; /* a line is unfinished, or not said */
	peer->head_length = peer->head_sent;
	peer->stream_length = peer->stream_sent;
}

static void peer_shut(struct peer *peer, bool is_reading)
{
	if (peer->fd < 0)
		return;
	if (is_reading) {
		peer->reads_no_more = true;
		shutdown(peer->fd, SHUT_RD);
		return;
	}
	peer_say_no_more(peer);
	peer->has_shut = true;
	shutdown(peer->fd, SHUT_WR);
}

static void peer_close(struct peer *peer, bool is_reset)
{
	static const struct linger reset = { .l_onoff = 1, .l_linger = 0 };
	int unread = 0;

	if (peer->fd < 0)
		return;
	ioctl(peer->fd, FIONREAD, &unread);
	if (is_reset && peer->is_tcp)
		setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	peer->is_aborted = (is_reset && peer->is_tcp) || unread > 0;
	peer_say_no_more(peer);
	close(STEAL_FD(peer->fd));
}

/* ---- lines -------------------------------------------------------------------------------------------------- */

#define LINE_ALL 8 /* the list of everything */

static const struct line {
	const char *text;
	bool is_list;
} lines[] = {
	{ "plain", false },   { "tcp", false },         { "kaiso", false },     { "pass", false },
	{ "knock", false },   { "described", false },   { "full", false },      { "d/inner", false },
	{ "", true },         { "d/", true },           { "round", false },     { "self", false },
	{ "dead", false },    { "closed", false },      { "bad", false },       { "datagram", false },
	{ "nothing", false }, { "nowhere", false },     { ".hidden/x", false }, { "d", false },
	{ "nothing/", true }, { "../receiver", false }, { "d/to", false },      { "choice", false },
	{ "turns", false },   { "handed", false },      { "knocked", false },   { "busy", false },
	{ "e/dead", false },  { "e/to", false },        { "e/", true },
};

static char list_texts[ARRAY_SIZE(lines)][2][2048]; /* plain, with kinds; "" for none */

struct waiting_wish {
	struct lister_wish wish;
	sem_t is_done;
};

static void wish_is_done(struct lister_wish *wish)
{
	sem_post(&CONTAINER_OF(wish, struct waiting_wish, wish)->is_done);
}

/* A list is to be what listing it once gave: what that should be is test_listing.c's affair. */
static void make_list_text(struct lister *lister, const char *directory, bool is_detailed, char text[2048])
{
	struct waiting_wish waiting = { .wish = { .on_done = wish_is_done,
						  .is_detailed = is_detailed,
						  .directory = directory,
						  .directory_length = strlen(directory) } };

	sem_init(&waiting.is_done, 0, 0);
	list_init(&waiting.wish.link);
	lister_submit(lister, &waiting.wish);
	while (sem_wait(&waiting.is_done) != 0)
		;
	sem_destroy(&waiting.is_done);
	if (!waiting.wish.text)
		return;
	ENSURE(waiting.wish.text->length < 2048);
	memcpy(text, waiting.wish.text->bytes, waiting.wish.text->length);
	lister_text_unref(waiting.wish.text);
}

static void make_list_texts(void)
{
	char path[256];
	struct policies *policies;
	struct lister *lister;

	snprintf(path, sizeof(path), "%s/services", place);
	policies = policies_new(path);
	lister = lister_new(path, policies);
	ENSURE(policies && lister);
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		for (int is_detailed = 0; is_detailed < 2 && lines[i].is_list; is_detailed++)
			make_list_text(lister, lines[i].text, is_detailed, list_texts[i][is_detailed]);
	}
	lister_free(lister);
	policies_free(policies);
	ENSURE(strstr(list_texts[LINE_ALL][0], "d/inner\r\n") && strstr(list_texts[LINE_ALL][1], "\tunix\t"));
}

static void client_ask_list(struct peer *client, unsigned index, bool is_verb, const char *end)
{
	char line[256];
	const char *text = list_texts[index][is_verb && options.has_verbs];
	int length;

	if (is_verb && lines[index].text[0] == '\0')
		length = snprintf(line, sizeof(line), ".kaiso/list%s", end);
	else
		length = snprintf(line, sizeof(line), "%s%s%s", is_verb ? ".kaiso/list " : "",
				  lines[index].text, end);
	peer_append(client, line, (size_t)length);
	client->has_asked = text[0] == '\0' || (is_verb && !options.has_verbs);
	if (!client->has_asked)
		peer_expect(client, text, strlen(text));
}

static void client_ask_service(struct peer *client, unsigned index, bool is_verb, const char *end)
{
	char line[256];
	int length =
		snprintf(line, sizeof(line), "%s%s%s", is_verb ? ".kaiso/open " : "", lines[index].text, end);

	peer_append(client, line, (size_t)length);
	may_idle = may_idle || strncmp(lines[index].text, "e/", 2) == 0;
	client->has_asked = true;
	client->may_stream = true;
	client->awaits_verdict = is_verb && options.has_verbs;
}

static void client_ask(struct peer *client, unsigned index, bool is_verb, const char *end)
{
	static const char version[] = "kaiso " KAISO_VERSION "\r\n";

	if (client->has_asked || client->has_ended || options.exposure)
		return;
	if (index >= ARRAY_SIZE(lines)) {
		peer_append(client, ".kaiso/version", strlen(".kaiso/version"));
		peer_append(client, end, strlen(end));
		client->has_asked = !options.has_verbs;
		if (options.has_verbs)
			peer_expect(client, version, strlen(version));
	} else if (lines[index].is_list) {
		client_ask_list(client, index, is_verb, end);
	} else {
		client_ask_service(client, index, is_verb, end);
	}
}

/* What a service answers to ".kaiso/open", once it was asked so. */
static void service_reply(struct peer *service, unsigned index)
{
	static const char *const replies[] = { "+\r\n",    "+\n",           "-not-found no such service\r\n",
					       "-limit\n", "-new-code\r\n", "hello\r\n",
					       "\n",       "-\r\n" };
	const char *reply = replies[index % ARRAY_SIZE(replies)];

	if (service->expected[0] != '.' || service->expected_got < service->expected_length ||
	    service->head_length > 0)
		return;
	peer_append(service, reply, strlen(reply));
	service->may_stream = reply[0] == '+';
}

/* ---- steps of the script -------------------------------------------------------------------------------- */

static unsigned elapsed_ms;
static bool is_starved;

static void advance_clock(unsigned ms)
{
	clock_ms += ms;
	elapsed_ms += ms;
	if (elapsed_ms >= PATIENCE_MS)
		is_disturbed = true;
}

/* Not smaller: a window that holds no whole segment opens by TCP's timers alone, which takes real time. */
static void make_small(int fd, bool is_unix)
{
	int size = is_unix ? 4096 : 64 << 10;

	setsockopt(fd, SOL_SOCKET, is_unix ? SO_SNDBUF : SO_RCVBUF, &size, sizeof(size));
}

static void open_client(bool is_unix, bool is_small)
{
	const struct sockaddr *address = is_unix ? (const struct sockaddr *)&router_unix :
						   (const struct sockaddr *)&router_tcp;
	int fd = socket(is_unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct peer *client;

	if (fd < 0)
		return;
	if (is_small)
		make_small(fd, is_unix);
	if (connect(fd, address, is_unix ? sizeof(router_unix) : sizeof(router_tcp)) != 0 &&
	    errno != EINPROGRESS) {
		close(fd);
		return;
	}
	client = peer_new(0, CLIENTS, fd);
	if (client)
		client->may_stream = options.exposure != NULL;
}

static void new_service(enum door door, int fd)
{
	struct peer *service = peer_new(CLIENTS, PEERS, fd);

	if (!service)
		return;
	service->is_router = options.exposure || door == DOOR_KAISO;
	service->may_stream = !service->is_router;
}

static bool accept_at(enum door door)
{
	int fd = accept4(doors[door], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return false;
	if (door == DOOR_RECEIVER) {
		for (size_t i = 0; i < RECEIVERS; i++) {
			if (receivers[i] < 0) {
				receivers[i] = fd;
				return true;
			}
		}
	}
	if (door == DOOR_RECEIVER || door == DOOR_KNOCK)
		close(fd);
	else
		new_service(door, fd);
	return true;
}

/* A client of the router becomes the receiver's. */
static void take_client(int fd)
{
	struct peer *service;

	ENSURE(!(fcntl(fd, F_GETFL) & O_NONBLOCK));
	service = peer_new(CLIENTS, PEERS, fd);
	if (!service)
		return;
	service->is_handed = true;
	service->may_stream = true;
}

/* One client, as the protocol has it: '*' with one descriptor. False when there is none. */
static bool receive_client(int *receiver)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	char byte;
	struct iovec part = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};
	ssize_t count = recvmsg(*receiver, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *header;
	int fd;

	if (count <= 0) {
		if (count == 0)
			close(STEAL_FD(*receiver));
		return count == 0;
	}
	ENSURE(byte == '*');
	header = CMSG_FIRSTHDR(&message);
	if (!header) { /* no descriptor was free here */
		ENSURE(is_starved);
		return true;
	}
	memcpy(&fd, CMSG_DATA(header), sizeof(fd));
	take_client(fd);
	return true;
}

static void use_receiver(unsigned which, unsigned action)
{
	int *receiver = &receivers[which % RECEIVERS];

	if (*receiver < 0)
		return;
	if (action == 0)
		send(*receiver, "+", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	else if (action == 1)
		receive_client(receiver);
	else if (action == 2)
		close(STEAL_FD(*receiver));
	else
		send(*receiver, "?+", 2, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Bytes that are no line of ours; what comes back is anything. */
static void say_anything(struct peer *peer)
{
	unsigned length = next_byte() & 63;

	while (length-- > 0) {
		char byte = (char)next_byte();

		peer_append(peer, &byte, 1);
	}
	peer->is_raw = true;
	peer->may_stream = peer->is_used;
}

static void set_descriptors(rlim_t limit)
{
	struct rlimit descriptors;

	ENSURE(getrlimit(RLIMIT_NOFILE, &descriptors) == 0);
	descriptors.rlim_cur = MIN(limit, descriptors.rlim_max);
	ENSURE(setrlimit(RLIMIT_NOFILE, &descriptors) == 0);
}

static rlim_t descriptors_limit;

static void starve(unsigned left)
{
	int next;

	set_descriptors(descriptors_limit);
	is_starved = left < 8;
	if (!is_starved)
		return;
	is_disturbed = true;
	next = dup(STDIN_FILENO);
	ENSURE(next >= 0);
	close(next);
	set_descriptors((rlim_t)next + left);
}

static void drain(bool is_stop)
{
	is_disturbed = true;
	if (is_stop)
		worker_stop(&worker);
	else
		worker_drain(&worker);
}

static void queue_stream(struct peer *peer, size_t size)
{
	if (peer->is_used && peer->may_stream && !peer->has_ended)
		peer->stream_length += MIN(size, STREAM_MAX - peer->stream_length);
}

static void ask_or_reply(struct peer *peer, unsigned which)
{
	if (!peer->is_used)
		return;
	if (is_client(peer))
		client_ask(peer, which % 64 % (ARRAY_SIZE(lines) + 1), which & 64,
			   which & 128 ? "\n" : "\r\n");
	else
		service_reply(peer, which);
}

static size_t next_size(void)
{
	static const size_t sizes[] = { 1,     2,     3,     7,     100,    1000,   4095,   4096,
					16384, 65535, 65536, 65537, 131072, 262144, 500000, STREAM_MAX };

	return sizes[next_byte() % ARRAY_SIZE(sizes)];
}

enum step {
	STEP_ROUNDS,
	STEP_CONNECT,
	STEP_ASK,
	STEP_QUEUE,
	STEP_WRITE,
	STEP_READ,
	STEP_SHUT,
	STEP_CLOSE,
	STEP_ACCEPT,
	STEP_RECEIVER,
	STEP_CLOCK,
	STEP_ANYTHING,
	STEP_STARVE,
	STEP_MOVE,
	STEP_REST,
	STEP_DRAIN,
};

/* Of one byte: what (4 bits), who (2), client or service (1), how (1). */
static void take_step(unsigned byte)
{
	static const unsigned clock_steps[] = { 1,   2,   5,    10,   20,   50,   100,   200,
						500, 999, 1500, 2100, 5001, 9999, 30001, 61000 };
	unsigned high = byte >> 4;
	bool flag = byte & 128;
	struct peer *peer = &peers[(byte >> 4 & 3) + (byte & 64 ? CLIENTS : 0)];

	switch ((enum step)(byte & 15)) {
	case STEP_ROUNDS:
		for (unsigned i = 0; i <= high; i++)
			run_round();
		break;
	case STEP_CONNECT:
		open_client(high & 1, high & 2);
		break;
	case STEP_ASK:
		ask_or_reply(peer, next_byte());
		break;
	case STEP_QUEUE:
		queue_stream(peer, next_size());
		if (!flag)
			peer_write(peer, SIZE_MAX, MANNER_PLAIN);
		break;
	case STEP_WRITE:
		peer_write(peer, next_size(), flag ? (enum manner)(next_byte() % 3) : MANNER_PLAIN);
		break;
	case STEP_READ:
		peer_read(peer, next_size());
		break;
	case STEP_SHUT:
		peer_shut(peer, flag);
		break;
	case STEP_CLOSE:
		peer_close(peer, flag);
		break;
	case STEP_ACCEPT:
		accept_at((enum door)(high % DOORS));
		break;
	case STEP_RECEIVER:
		use_receiver(high & 3, high >> 2);
		break;
	case STEP_CLOCK:
		advance_clock(clock_steps[high]);
		break;
	case STEP_ANYTHING:
		say_anything(peer);
		break;
	case STEP_STARVE:
		starve(high);
		break;
	case STEP_MOVE:
		if (!is_starved)
			move_process();
		break;
	case STEP_REST:
		run_until_rest();
		break;
	case STEP_DRAIN:
		if (high >= 12)
			drain(high == 15);
		break;
	}
}

/* ---- the end -------------------------------------------------------------------------------------------- */

static bool is_cut(const struct peer *peer)
{
	return peer->fd < 0 || peer->reads_no_more;
}

/* Whether what a peer received is all that the other sent is to be judged. */
static bool is_judged(const struct peer *peer)
{
	const struct peer *from = peer->other;

	return from && !peer->is_raw && !from->is_raw &&
	       !(from->has_oob && (peer->is_handed || from->is_handed));
}

/* No clean end but behind the last byte. */
static void check_end(const struct peer *peer)
{
	const struct peer *from = peer->other;
	bool is_direct;

	if (!is_judged(peer) || !peer->has_clean_end || peer->reads_no_more ||
	    (may_idle && elapsed_ms + PATIENCE_MS >= IDLE_MS))
		return;
	ENSURE(from->has_ended || is_disturbed);
	is_direct = !is_cut(peer) && !is_cut(from);
	if (!peer->is_tcp && (!is_direct || is_disturbed))
		return; /* it cannot tell */
	ENSURE(peer->received == from->stream_sent);
	ENSURE(!from->is_aborted || from->has_shut);
}

/* Has everything arrived that must? */
static bool is_served(const struct peer *peer)
{
	const struct peer *from = peer->other;

	if (!is_judged(peer) || is_cut(peer) || is_cut(from))
		return true;
	return from->stream_sent == from->stream_length && peer->received == from->stream_sent &&
	       (!from->has_ended || peer->is_over);
}

/* Lists and versions, of one who has not asked for a service yet. */
static bool is_answered(const struct peer *client)
{
	if (client->is_raw || client->has_asked || is_cut(client))
		return true;
	return client->expected_got == client->expected_length && client->head_sent == client->head_length;
}

static bool all_are_served(void)
{
	for (size_t i = 0; i < PEERS && !is_disturbed; i++) {
		if (peers[i].is_used && !is_served(&peers[i]))
			return false;
		if (peers[i].is_used && is_client(&peers[i]) && !is_answered(&peers[i]))
			return false;
	}
	return true;
}

/* Everybody reads and writes what there is; true when something moved. */
static bool move_all(void)
{
	bool has_moved = false;

	for (unsigned door = 0; door < DOORS; door++)
		has_moved |= accept_at((enum door)door);
	for (size_t i = 0; i < RECEIVERS; i++)
		has_moved |= receivers[i] >= 0 && receive_client(&receivers[i]);
	for (size_t i = 0; i < PEERS; i++) {
		has_moved |= peer_write(&peers[i], SIZE_MAX, MANNER_PLAIN);
		has_moved |= peer_read(&peers[i], SIZE_MAX);
	}
	return has_moved;
}

static void tell_peers(void)
{
	for (size_t i = 0; i < PEERS; i++) {
		const struct peer *peer = &peers[i];

		if (peer->is_used)
			fprintf(stderr,
				"peer %zu: other %d, head %zu/%zu, sent %zu/%zu%s, expected %zu/%zu, received %zu, %s%s\n",
				i, peer->other ? (int)peer_id(peer->other) : -1, peer->head_sent,
				peer->head_length, peer->stream_sent, peer->stream_length,
				peer->has_ended ? " and ended" : "", peer->expected_got,
				peer->expected_length, peer->received,
				!peer->is_over      ? "open" :
				peer->has_clean_end ? "end" :
						      "reset",
				peer->is_raw ? ", raw" : "");
	}
}

/* The kernel may take its time: a window that was closed opens by a timer of TCP's. */
static void let_all_be_served(void)
{
	unsigned waits = 0;

	for (;;) {
		run_until_rest();
		if (move_all())
			continue;
		if (all_are_served())
			return;
		ENSURE(waits < 1000); /* somebody waits for bytes, or for an end, that should have come */
		poll(NULL, 0, waits++ < 50 ? 0 : 3);
		clock_ms += 5;
	}
}

/* One client and one service that said nothing are each other's. */
static void link_lone_pair(void)
{
	struct peer *client = &peers[0], *service = &peers[CLIENTS];

	if (client->is_used && service->is_used && !peers[1].is_used && !peers[CLIENTS + 1].is_used &&
	    !client->other && !client->is_refused && !service->is_router && !is_disturbed &&
	    !is_cut(client) && !is_cut(service))
		peer_link(client, service);
}

/* Who waits at a router that accepts nobody any more. */
static void refuse_clients(void)
{
	for (size_t i = 0; i < listeners.count; i++) {
		int fd;

		while ((fd = accept(listeners.listeners[i].fd, NULL, NULL)) >= 0)
			close(fd);
	}
}

static void end_all_sessions(void)
{
	for (unsigned round = 0; !list_is_empty(&worker.sessions); round++) {
		ENSURE(round < 2000);
		for (size_t i = 0; i < PEERS; i++)
			peer_close(&peers[i], false);
		for (size_t i = 0; i < RECEIVERS; i++) {
			if (receivers[i] >= 0)
				close(STEAL_FD(receivers[i]));
		}
		if (worker.is_draining)
			refuse_clients();
		move_all();
		run_until_rest();
		clock_ms += 20;
	}
}

static void finish(void)
{
	starve(15);
	is_young = false;
	link_lone_pair();
	let_all_be_served();
	for (size_t i = 0; i < PEERS; i++) {
		if (peers[i].is_used)
			peer_shut(&peers[i], false);
	}
	let_all_be_served();
	for (size_t i = 0; i < PEERS; i++)
		check_end(&peers[i]);
	end_all_sessions();
	ENSURE(shared.limits.sessions == 0 && shared.limits.lists == 0);
	ENSURE(!worker.is_draining || shared.busy_workers == 0);
}

static void close_rest(void)
{
	for (unsigned door = 0; door < DOORS; door++) {
		while (accept_at((enum door)door))
			;
	}
	refuse_clients();
	for (size_t i = 0; i < PEERS; i++)
		peer_close(&peers[i], false);
	for (size_t i = 0; i < RECEIVERS; i++) {
		if (receivers[i] >= 0)
			close(STEAL_FD(receivers[i]));
	}
}

static void init_peers(void)
{
	struct rlimit descriptors;

	memset(peers, 0, sizeof(peers));
	for (size_t i = 0; i < PEERS; i++)
		peers[i].fd = -1;
	for (size_t i = 0; i < RECEIVERS; i++)
		receivers[i] = -1;
	elapsed_ms = 0;
	ENSURE(getrlimit(RLIMIT_NOFILE, &descriptors) == 0);
	descriptors_limit = descriptors.rlim_cur;
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
	read_options();
	init_peers();
	start_router();
	while (script < script_end)
		take_step(next_byte());
	finish();
	end_router();
	close_rest();
	clock_ms = 0;
	ENSURE(count_descriptors() == descriptors);
	return 0;
}
