/*
 * One direction of a relay between a writer and a reader that the test plays itself:
 *
 *	writer -> source [way] sink -> reader
 *
 * Every byte of the stream follows from its offset, so a byte that is lost, doubled or moved is seen
 * where the reader takes it. The way learns of its sockets through a real
 * edge-triggered epoll, just as in a session: a wake-up that it sleeps through is a stall here too.
 */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/macros.h"
#include "net/relay.h"

#define SKIPPED 77
#define PATIENCE_MS 5000

enum kind { UNIX, TCP };

static const enum kind kinds[] = { UNIX, TCP };
static const enum relay_mode modes[] = { RELAY_AUTO, RELAY_SPLICE, RELAY_COPY };

struct rig {
	int writer, source, sink, reader, epoll_fd;
	enum relay_mode mode;
	enum relay_outcome outcome; /* of the latest pump */
	struct relay_way way;
	uint32_t sink_events; /* watched for */
	uint64_t preloaded;
	uint64_t written; /* offsets in the stream; what is preloaded counts as written first */
	uint64_t read;
	bool has_tcp;
	bool has_ended; /* the reader saw the end */
	int read_error;
};

static struct relay_pool pool;

static int begin(void **state)
{
	return fixture_setup(state) == 0 && relay_pool_init(&pool, 64) == 0 ? 0 : -1;
}

static int end(void **state)
{
	relay_pool_deinit(&pool);
	return fixture_teardown(state);
}

/* ---- sockets -------------------------------------------------------------------------------------- */

static void tcp_pair(int ends[2])
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	socklen_t length = sizeof(address);

	assert_int_equal(bind(listener, (struct sockaddr *)&address, length), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &length), 0);
	ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(ends[0], (struct sockaddr *)&address, length), 0);
	ends[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	assert_true(ends[1] >= 0);
	assert_int_equal(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
	for (int i = 0; i < 2; i++)
		setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	close(listener);
}

static void pair_open(enum kind kind, int ends[2])
{
	if (kind == TCP)
		tcp_pair(ends);
	else
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
}

static void wait_for(int fd, short events)
{
	struct pollfd poll_fd = { .fd = fd, .events = events };

	assert_int_equal(poll(&poll_fd, 1, PATIENCE_MS), 1);
}

/* Closes with a reset. A UNIX socket does that when bytes lie unread in it. */
static void close_with_reset(enum kind kind, int *fd, int peer_fd)
{
	struct linger linger = { .l_onoff = 1, .l_linger = 0 };

	if (kind == TCP)
		setsockopt(*fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	else
		assert_true(send(peer_fd, "?", 1, 0) == 1 || errno == EAGAIN);
	close(STEAL_FD(*fd));
	wait_for(peer_fd, POLLIN | POLLRDHUP);
}

/* ---- the rig -------------------------------------------------------------------------------------- */

static char pattern(uint64_t offset)
{
	return (char)((offset * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

static void fill(char *bytes, uint64_t offset, size_t length)
{
	for (size_t i = 0; i < length; i++)
		bytes[i] = pattern(offset + i);
}

static void rig_watch(struct rig *rig, int operation, int fd, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.fd = fd };

	assert_int_equal(epoll_ctl(rig->epoll_fd, operation, fd, &event), 0);
}

static void rig_open(struct rig *rig, enum kind source_kind, enum kind sink_kind, enum relay_mode mode)
{
	int ends[2];

	*rig = (struct rig){ .mode = mode, .epoll_fd = epoll_create1(EPOLL_CLOEXEC) };
	rig->has_tcp = source_kind == TCP || sink_kind == TCP;
	pair_open(source_kind, ends);
	rig->writer = ends[0];
	rig->source = ends[1];
	pair_open(sink_kind, ends);
	rig->sink = ends[0];
	rig->reader = ends[1];
	relay_way_init(&rig->way, source_kind == TCP);
	rig_watch(rig, EPOLL_CTL_ADD, rig->source, EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET);
	rig_watch(rig, EPOLL_CTL_ADD, rig->sink, EPOLLET);
}

static void rig_close(struct rig *rig)
{
	relay_way_deinit(&rig->way, &pool);
	cleanup_close(&rig->writer);
	cleanup_close(&rig->source);
	cleanup_close(&rig->sink);
	cleanup_close(&rig->reader);
	cleanup_close(&rig->epoll_fd);
}

static void rig_preload(struct rig *rig, size_t length)
{
	char bytes[4096];

	assert_true(length <= sizeof(bytes));
	fill(bytes, 0, length);
	assert_true(relay_way_preload(&rig->way, bytes, length));
	rig->preloaded = rig->written = length;
}

/* As much of length as the kernel takes. */
static size_t rig_write(struct rig *rig, size_t length)
{
	char bytes[64 << 10];
	size_t done = 0;

	while (done < length) {
		size_t piece = MIN(sizeof(bytes), length - done);
		ssize_t sent;

		fill(bytes, rig->written, piece);
		sent = send(rig->writer, bytes, piece, MSG_NOSIGNAL);
		if (sent < 0) {
			assert_int_equal(errno, EAGAIN);
			break;
		}
		rig->written += (uint64_t)sent;
		done += (size_t)sent;
	}
	return done;
}

static size_t rig_read(struct rig *rig, size_t length)
{
	char bytes[64 << 10], expected[64 << 10];
	size_t done = 0;

	while (done < length && !rig->has_ended && !rig->read_error) {
		ssize_t received = recv(rig->reader, bytes, MIN(sizeof(bytes), length - done), 0);

		if (received < 0 && errno == EAGAIN)
			break;
		if (received < 0)
			rig->read_error = errno;
		rig->has_ended = received == 0;
		if (received <= 0)
			break;
		fill(expected, rig->read, (size_t)received);
		assert_memory_equal(bytes, expected, (size_t)received);
		rig->read += (uint64_t)received;
		done += (size_t)received;
	}
	return done;
}

/* Tells the way what epoll saw within wait_ms; false for nothing. */
static bool rig_collect(struct rig *rig, int wait_ms)
{
	struct epoll_event events[2];
	int count = epoll_wait(rig->epoll_fd, events, 2, wait_ms);

	for (int i = 0; i < count; i++) {
		if (events[i].data.fd == rig->source)
			relay_way_source_event(&rig->way, events[i].events);
		else
			relay_way_sink_event(&rig->way);
	}
	return count > 0;
}

static void rig_check(const struct rig *rig)
{
	const struct relay_way *way = &rig->way;
	uint64_t passed = way->bytes + rig->preloaded;

	assert_true(passed + way->held_bytes <= rig->written);
	assert_true(rig->read <= passed);
	assert_true(way->held_bytes <= (way->is_spliced ? RELAY_PIPE_SIZE : RELAY_CHUNK_MAX));
	assert_true(pool.pipe_count <= pool.pipe_limit);
	switch (rig->outcome) {
	case RELAY_WAITS_FOR_SOURCE:
		assert_int_equal(way->held_bytes, 0);
		assert_false(way->is_spliced);
		break;
	case RELAY_WAITS_FOR_SINK:
		assert_true(way->held_bytes > 0);
		assert_true(way->is_blocked);
		break;
	case RELAY_FINISHED:
		assert_int_equal(way->held_bytes, 0);
		assert_true(way->eof_sent);
		break;
	case RELAY_HAS_MORE:
	case RELAY_SOURCE_LOST:
	case RELAY_SINK_LOST:
	case RELAY_NO_MEMORY:
		break;
	}
}

static enum relay_outcome rig_pump(struct rig *rig)
{
	uint32_t sink_events;

	rig->outcome = relay_way_pump(&rig->way, rig->source, rig->sink, rig->mode, &pool);
	rig_check(rig);
	sink_events = EPOLLET | (rig->outcome == RELAY_WAITS_FOR_SINK ? EPOLLOUT : 0u);
	if (sink_events != rig->sink_events)
		rig_watch(rig, EPOLL_CTL_MOD, rig->sink, sink_events);
	rig->sink_events = sink_events;
	return rig->outcome;
}

/* Goes on as a session does, without a reader, until it ends or there is nothing left but to wait. */
static enum relay_outcome rig_settle(struct rig *rig)
{
	bool goes_on;

	do {
		rig_pump(rig);
		goes_on = rig->outcome <= RELAY_HAS_MORE;
	} while (goes_on && (rig_collect(rig, 0) || rig->outcome == RELAY_HAS_MORE));
	return rig->outcome;
}

static void rig_pump_until(struct rig *rig, enum relay_outcome outcome)
{
	while (rig_settle(rig) != outcome)
		assert_true(rig_collect(rig, PATIENCE_MS));
}

/* Waits until the way or the reader has something to do. */
static void rig_wait(const struct rig *rig)
{
	struct pollfd poll_fds[] = { { .fd = rig->epoll_fd, .events = POLLIN },
				     { .fd = rig->reader, .events = POLLIN } };

	assert_true(poll(poll_fds, ARRAY_SIZE(poll_fds), PATIENCE_MS) > 0);
}

/* Reads everything; both sides go on until the reader has seen the end. */
static void rig_drain(struct rig *rig)
{
	rig_settle(rig);
	while (!rig->has_ended) {
		bool is_moving = rig_read(rig, SIZE_MAX) > 0 || rig->has_ended;

		assert_int_equal(rig->read_error, 0);
		if (!is_moving)
			rig_wait(rig);
		rig_collect(rig, 0);
		rig_settle(rig);
	}
	assert_int_equal(rig->outcome, RELAY_FINISHED);
	assert_int_equal(rig->read, rig->written);
	assert_int_equal(rig->way.bytes, rig->written - rig->preloaded);
}

/* Acknowledgements of TCP make room a little later. */
static bool rig_gets_room(const struct rig *rig)
{
	struct pollfd poll_fds[] = { { .fd = rig->epoll_fd, .events = POLLIN },
				     { .fd = rig->writer, .events = POLLOUT } };

	return rig->has_tcp && poll(poll_fds, ARRAY_SIZE(poll_fds), 20) > 0;
}

/* Writes until neither the source nor the sink takes more. */
static void rig_stuff(struct rig *rig)
{
	size_t written;

	do {
		rig_collect(rig, 0);
		rig_settle(rig);
		written = rig_write(rig, 256 << 10);
	} while (written > 0 || rig_gets_room(rig) || rig->outcome != RELAY_WAITS_FOR_SINK);
}

static void assert_all_pipes_are_back(void)
{
	assert_int_equal(pool.pipe_count, pool.free_count);
}

/* Runs a test for each pair of sockets and each mode. */
static void for_each_rig(void (*test)(struct rig *, enum kind source_kind, enum kind sink_kind))
{
	struct rig rig;

	for (size_t i = 0; i < ARRAY_SIZE(kinds) * ARRAY_SIZE(kinds) * ARRAY_SIZE(modes); i++) {
		enum kind source_kind = kinds[i & 1], sink_kind = kinds[i >> 1 & 1];

		rig_open(&rig, source_kind, sink_kind, modes[i >> 2]);
		test(&rig, source_kind, sink_kind);
		rig_close(&rig);
		assert_all_pipes_are_back();
	}
}

/* ---- streams of random schedules ------------------------------------------------------------------ */

static uint64_t random_state;

/* xorshift64, so that a failure comes back. */
static uint64_t random_below(uint64_t bound)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state % bound;
}

static size_t random_length(void)
{
	static const size_t bounds[] = { 20, 3000, 40000, 200000 };

	return 1 + (size_t)random_below(bounds[random_below(ARRAY_SIZE(bounds))]);
}

struct schedule {
	uint64_t total;
	unsigned reads_of_16; /* how many of 16 acts are the reader's; the rest is shared by the others */
	bool has_shut;
};

static void schedule_random(struct schedule *schedule, struct rig *rig)
{
	static const unsigned limits[] = { 0, 1, 64 };
	unsigned limit = limits[random_below(ARRAY_SIZE(limits))];
	int size = 4096;

	*schedule = (struct schedule){ .reads_of_16 = 1 + (unsigned)random_below(12) };
	pool.pipe_limit = MAX(limit, pool.pipe_count);
	if (random_below(3) == 0)
		setsockopt(rig->sink, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (random_below(2) == 0)
		rig_preload(rig, 1 + (size_t)random_below(3000));
	schedule->total = rig->written + random_below(random_below(4) == 0 ? 5000 : 1500000);
}

static bool schedule_write(struct schedule *schedule, struct rig *rig)
{
	size_t length = random_length();

	if (rig->written < schedule->total)
		return rig_write(rig, MIN(length, schedule->total - rig->written)) > 0;
	if (schedule->has_shut)
		return false;
	schedule->has_shut = true;
	return shutdown(rig->writer, SHUT_WR) == 0;
}

/* The way is pumped when it was told to, and now and then for nothing, which must do no harm. */
static bool schedule_relay(struct rig *rig, int wait_ms)
{
	bool is_due = rig_collect(rig, wait_ms) || rig->outcome == RELAY_HAS_MORE;

	if (is_due || random_below(8) == 0)
		rig_pump(rig);
	return is_due;
}

static void schedule_run(struct schedule *schedule, struct rig *rig)
{
	int idle = 0;

	rig_pump(rig);
	while (!rig->has_ended) {
		unsigned act = (unsigned)random_below(16);
		bool has_moved;

		if (act < schedule->reads_of_16)
			has_moved = rig_read(rig, random_length()) > 0 || rig->has_ended;
		else if (act & 1)
			has_moved = schedule_write(schedule, rig);
		else
			has_moved = schedule_relay(rig, idle > 300 ? 20 : 0);
		assert_int_equal(rig->read_error, 0);
		idle = has_moved ? 0 : idle + 1;
		if (idle > 3000)
			fail_msg("stalled at %llu of %llu bytes", (unsigned long long)rig->read,
				 (unsigned long long)schedule->total);
	}
}

static void stream_of_a_random_schedule(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	struct schedule schedule;

	(void)source_kind;
	(void)sink_kind;
	schedule_random(&schedule, rig);
	schedule_run(&schedule, rig);
	assert_int_equal(rig->outcome, RELAY_FINISHED);
	assert_int_equal(rig->read, schedule.total);
	assert_int_equal(rig->way.bytes, schedule.total - rig->preloaded);
	assert_all_pipes_are_back();
}

static void test_bytes_in_are_bytes_out_for_random_schedules(void **state)
{
	(void)state;
	random_state = 0xfeed;
	for (int run = 0; run < 5; run++)
		for_each_rig(stream_of_a_random_schedule);
}

/* ---- ends ----------------------------------------------------------------------------------------- */

/* The end of one direction is no end of the other, which goes on through a way of its own. */
static void half_close(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	struct relay_way back;
	char answer[8] = "";

	(void)source_kind;
	(void)sink_kind;
	rig_write(rig, 1000);
	assert_int_equal(shutdown(rig->writer, SHUT_WR), 0);
	rig_drain(rig);
	assert_int_equal(rig_pump(rig), RELAY_FINISHED);

	relay_way_init(&back, sink_kind == TCP);
	assert_int_equal(relay_way_pump(&back, rig->sink, rig->source, rig->mode, &pool),
			 RELAY_WAITS_FOR_SOURCE);
	assert_int_equal(send(rig->reader, "answer", 6, MSG_NOSIGNAL), 6);
	assert_int_equal(shutdown(rig->reader, SHUT_WR), 0);
	wait_for(rig->sink, POLLHUP);
	relay_way_source_event(&back, EPOLLIN | EPOLLRDHUP);
	assert_int_equal(relay_way_pump(&back, rig->sink, rig->source, rig->mode, &pool), RELAY_FINISHED);
	wait_for(rig->writer, POLLIN);
	assert_int_equal(recv(rig->writer, answer, sizeof(answer), MSG_WAITALL), 6);
	assert_string_equal(answer, "answer");
	assert_int_equal(back.bytes, 6);
	relay_way_deinit(&back, &pool);
}

static void test_half_close(void **state)
{
	(void)state;
	for_each_rig(half_close);
}

/* The line of a request, which was only looked at: neither passed on nor counted. */
static void skip_then_pass_on(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	static const char line[RELAY_SKIP_MAX] = "";

	(void)source_kind;
	(void)sink_kind;
	assert_int_equal(send(rig->writer, line, sizeof(line), MSG_NOSIGNAL), sizeof(line));
	relay_way_skip(&rig->way, sizeof(line));
	rig_write(rig, 1000);
	assert_int_equal(shutdown(rig->writer, SHUT_WR), 0);
	rig_drain(rig);
}

static void test_skipped_bytes_are_not_passed_on(void **state)
{
	(void)state;
	for_each_rig(skip_then_pass_on);
}

static void skip_all_there_is(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	(void)source_kind;
	(void)sink_kind;
	assert_int_equal(send(rig->writer, "line\r\n", 6, MSG_NOSIGNAL), 6);
	relay_way_skip(&rig->way, 6);
	wait_for(rig->source, POLLIN);
	assert_int_equal(rig_settle(rig), RELAY_WAITS_FOR_SOURCE);
	rig_write(rig, 300000);
	assert_int_equal(shutdown(rig->writer, SHUT_WR), 0);
	rig_drain(rig);
}

static void test_nothing_behind_the_skipped_bytes_yet(void **state)
{
	(void)state;
	for_each_rig(skip_all_there_is);
}

static void end_of_the_last_way(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	(void)source_kind;
	(void)sink_kind;
	rig->way.is_last = true;
	assert_int_equal(shutdown(rig->writer, SHUT_WR), 0);
	rig_pump_until(rig, RELAY_FINISHED);
	rig_read(rig, 1);
	assert_false(rig->has_ended);
	cleanup_close(&rig->sink);
	wait_for(rig->reader, POLLIN);
	rig_read(rig, 1);
	assert_true(rig->has_ended);
}

static void test_the_last_end_is_left_to_the_caller(void **state)
{
	(void)state;
	for_each_rig(end_of_the_last_way);
}

static void end_behind_full_buffers(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	(void)source_kind;
	(void)sink_kind;
	rig_stuff(rig);
	assert_int_equal(shutdown(rig->writer, SHUT_WR), 0);
	assert_int_equal(rig_settle(rig), RELAY_WAITS_FOR_SINK);
	assert_false(rig->way.eof_sent);
	rig_drain(rig);
}

static void test_the_end_behind_full_buffers(void **state)
{
	(void)state;
	for_each_rig(end_behind_full_buffers);
}

/* Somebody else was told of the reset, as a splice(2) into that socket may be without telling its caller; and no event
 * has come yet. */
static void reset_that_was_told_already(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	int error = 0;
	socklen_t length = sizeof(error);

	(void)sink_kind;
	if (source_kind != TCP)
		return;
	rig_write(rig, 1000);
	close_with_reset(TCP, &rig->writer, rig->source);
	assert_int_equal(getsockopt(rig->source, SOL_SOCKET, SO_ERROR, &error, &length), 0);
	assert_int_equal(error, ECONNRESET);
	rig_pump(rig);
	rig->way.is_readable = true;
	assert_int_equal(rig_pump(rig), RELAY_SOURCE_LOST);
	assert_false(rig->way.eof_sent);
}

static void test_a_reset_that_was_told_already(void **state)
{
	(void)state;
	for_each_rig(reset_that_was_told_already);
}

/* A read that brings less than asked for has emptied the source, but for the end that was
 * announced with it. */
static void end_behind_a_short_read(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	(void)source_kind;
	(void)sink_kind;
	rig_pump(rig);
	rig_write(rig, 10);
	shutdown(rig->writer, SHUT_WR);
	wait_for(rig->source, POLLRDHUP);
	rig_drain(rig);
}

static void test_the_end_behind_a_short_read(void **state)
{
	(void)state;
	for_each_rig(end_behind_a_short_read);
}

static void nothing_but_an_end(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	(void)source_kind;
	(void)sink_kind;
	shutdown(rig->writer, SHUT_WR);
	rig_drain(rig);
	assert_int_equal(rig->way.bytes, 0);
}

static void test_nothing_but_an_end(void **state)
{
	(void)state;
	for_each_rig(nothing_but_an_end);
}

/* ---- preloaded bytes ------------------------------------------------------------------------------ */

static void preload_goes_first(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	(void)source_kind;
	(void)sink_kind;
	rig_preload(rig, 4096);
	assert_int_equal((int64_t)rig->way.bytes, -4096);
	rig_write(rig, 10000);
	shutdown(rig->writer, SHUT_WR);
	rig_drain(rig);
	assert_int_equal(rig->way.bytes, 10000);
}

static void test_preloaded_bytes_go_first_and_are_not_counted(void **state)
{
	(void)state;
	for_each_rig(preload_goes_first);
}

/* The sink's buffer is full to begin with. */
static void preload_waits(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	char bytes[4096];
	uint64_t stuffed = 0;
	int size = 16384;

	(void)source_kind;
	/* Of a size that does not grow by itself. */
	setsockopt(rig->reader, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	setsockopt(rig->sink, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	do {
		ssize_t sent;

		fill(bytes, stuffed, sizeof(bytes));
		while ((sent = send(rig->sink, bytes, sizeof(bytes), 0)) > 0) {
			stuffed += (uint64_t)sent;
			fill(bytes, stuffed, sizeof(bytes));
		}
		assert_int_equal(errno, EAGAIN);
	} while (sink_kind == TCP && poll(&(struct pollfd){ .fd = rig->sink, .events = POLLOUT }, 1, 50) > 0);
	fill(bytes, stuffed, sizeof(bytes));
	assert_true(relay_way_preload(&rig->way, bytes, sizeof(bytes)));
	rig->preloaded = rig->written = stuffed + sizeof(bytes);
	rig_write(rig, 100);
	assert_int_equal(rig_settle(rig), RELAY_WAITS_FOR_SINK);
	shutdown(rig->writer, SHUT_WR);
	rig_drain(rig);
	assert_int_equal(rig->way.bytes, 100);
}

static void test_preloaded_bytes_wait_for_a_full_sink(void **state)
{
	(void)state;
	for_each_rig(preload_waits);
}

static void test_preloading_nothing_holds_nothing(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, UNIX, UNIX, RELAY_COPY);
	rig_preload(&rig, 0);
	assert_null(rig.way.stash);
	rig_write(&rig, 1);
	shutdown(rig.writer, SHUT_WR);
	rig_drain(&rig);
	rig_close(&rig);
}

/* ---- back-pressure -------------------------------------------------------------------------------- */

static int unread(int fd)
{
	int length = -1;

	assert_int_equal(ioctl(fd, FIONREAD, &length), 0);
	return length;
}

static void full_sink_stops_reading(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	uint64_t passed;
	uint32_t held;
	int waiting;

	(void)source_kind;
	(void)sink_kind;
	rig_stuff(rig);
	waiting = unread(rig->source);
	held = rig->way.held_bytes;
	passed = rig->way.bytes;
	assert_true(waiting > 0);
	for (int i = 0; i < 3; i++) {
		relay_way_source_event(&rig->way, EPOLLIN);
		assert_int_equal(rig_pump(rig), RELAY_WAITS_FOR_SINK);
		assert_int_equal(unread(rig->source), waiting);
		assert_int_equal(rig->way.held_bytes, held);
		assert_int_equal(rig->way.bytes, passed);
	}
	/* A wake-up for nothing: it looks, and waits again. */
	relay_way_sink_event(&rig->way);
	rig_stuff(rig);
	shutdown(rig->writer, SHUT_WR);
	rig_drain(rig);
}

static void test_a_sink_that_is_not_read_stops_the_reading(void **state)
{
	(void)state;
	for_each_rig(full_sink_stops_reading);
}

/* ---- losses --------------------------------------------------------------------------------------- */

static void lost_sink(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	(void)source_kind;
	close_with_reset(sink_kind, &rig->reader, rig->sink);
	/* More than once: what was sent before the reset was known may have been taken. */
	rig_write(rig, 100000);
	wait_for(rig->source, POLLIN);
	rig_pump_until(rig, RELAY_SINK_LOST);
	/* A UNIX socket says EPIPE, whatever its peer had left unread. */
	assert_int_equal(rig->way.is_sink_reset, sink_kind == TCP);
}

static void test_a_sink_that_is_gone(void **state)
{
	(void)state;
	for_each_rig(lost_sink);
}

static void sink_lost_while_full(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	(void)source_kind;
	rig_stuff(rig);
	close_with_reset(sink_kind, &rig->reader, rig->sink);
	while (rig->outcome == RELAY_WAITS_FOR_SINK) {
		assert_true(rig_collect(rig, PATIENCE_MS));
		rig_pump(rig);
	}
	assert_int_equal(rig->outcome, RELAY_SINK_LOST);
	relay_way_break(&rig->way, &pool);
	assert_true(rig->way.is_broken);
	assert_int_equal(rig->way.held_bytes, 0);
	/* What was in the pipe was never to be seen by another way. */
	assert_all_pipes_are_back();
	relay_way_source_event(&rig->way, EPOLLIN);
	assert_int_equal(rig_pump(rig), RELAY_FINISHED);
}

static void test_a_sink_that_goes_while_it_is_full(void **state)
{
	(void)state;
	for_each_rig(sink_lost_while_full);
}

/* What it sent before its reset is passed on. */
static void lost_source(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	(void)sink_kind;
	rig_write(rig, 5000);
	wait_for(rig->source, POLLIN);
	close_with_reset(source_kind, &rig->writer, rig->source);
	rig_pump_until(rig, RELAY_SOURCE_LOST);
	wait_for(rig->reader, POLLIN);
	while (rig_read(rig, SIZE_MAX) > 0)
		;
	assert_int_equal(rig->read, 5000);
	assert_int_equal(rig->way.bytes, 5000);
	assert_false(rig->has_ended);
	assert_false(rig->way.eof_sent);
}

static void test_a_source_that_is_reset(void **state)
{
	(void)state;
	for_each_rig(lost_source);
}

/* The kernel tells a reset once; a caller that has heard it on another way passes it on. */
static void source_known_to_be_lost(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	(void)source_kind;
	(void)sink_kind;
	rig_write(rig, 5000);
	shutdown(rig->writer, SHUT_WR);
	wait_for(rig->source, POLLRDHUP);
	relay_way_lose_source(&rig->way);
	rig_pump_until(rig, RELAY_SOURCE_LOST);
	wait_for(rig->reader, POLLIN);
	while (rig_read(rig, SIZE_MAX) > 0)
		;
	assert_int_equal(rig->read, 5000);
	assert_false(rig->has_ended);
	assert_false(rig->way.eof_sent);
}

static void test_a_source_whose_reset_was_told_elsewhere(void **state)
{
	(void)state;
	for_each_rig(source_known_to_be_lost);
}

static void broken_way(struct rig *rig, enum kind source_kind, enum kind sink_kind)
{
	(void)source_kind;
	(void)sink_kind;
	rig_write(rig, 1000);
	relay_way_break(&rig->way, &pool);
	assert_int_equal(rig_pump(rig), RELAY_FINISHED);
	wait_for(rig->source, POLLIN);
	assert_int_equal(unread(rig->source), 1000);
	assert_int_equal(rig_read(rig, 1), 0);
	assert_false(rig->has_ended);
	relay_way_break(&rig->way, &pool);
	assert_int_equal(rig_pump(rig), RELAY_FINISHED);
}

static void test_a_broken_way_moves_nothing(void **state)
{
	(void)state;
	for_each_rig(broken_way);
}

/* ---- streams with marks in them ------------------------------------------------------------------- */

/* A read stops short of a byte sent with MSG_OOB, although more lies behind it, and no edge
 * tells. The caller has SO_OOBINLINE set, so that the byte is one of the stream. */
static void rig_write_urgent(struct rig *rig)
{
	char byte = pattern(rig->written);

	assert_int_equal(send(rig->writer, &byte, 1, MSG_OOB | MSG_NOSIGNAL), 1);
	rig->written++;
}

static void rig_open_for_urgent(struct rig *rig, enum relay_mode mode)
{
	int on = 1, size = 100000;

	rig_open(rig, TCP, UNIX, mode);
	setsockopt(rig->writer, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	setsockopt(rig->source, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	setsockopt(rig->source, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on));
	rig_pump(rig);
}

static void test_bytes_behind_urgent_ones_are_not_forgotten(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		struct rig rig;

		rig_open_for_urgent(&rig, modes[i]);
		rig_write(&rig, 100);
		rig_write_urgent(&rig);
		rig_write(&rig, 100);
		while (unread(rig.source) < 201)
			wait_for(rig.source, POLLIN);
		rig_collect(&rig, PATIENCE_MS);
		rig_settle(&rig);
		rig_read(&rig, SIZE_MAX);
		assert_int_equal(rig.read, 201);
		shutdown(rig.writer, SHUT_WR);
		rig_drain(&rig);
		rig_close(&rig);
	}
}

/* Urgent bytes in the midst of what is spliced, behind a sink that is full. */
static void test_urgent_bytes_in_a_bulk_stream(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		struct rig rig;

		rig_open_for_urgent(&rig, modes[i]);
		for (int round = 0; round < 5; round++) {
			rig_stuff(&rig);
			/* Room for some more, but still behind what was held up. */
			while (poll(&(struct pollfd){ .fd = rig.writer, .events = POLLOUT }, 1, 2) == 0) {
				rig_read(&rig, 50000);
				rig_collect(&rig, 0);
				rig_settle(&rig);
			}
			rig_write_urgent(&rig);
			rig_write(&rig, 1000);
		}
		shutdown(rig.writer, SHUT_WR);
		rig_drain(&rig);
		rig_close(&rig);
	}
}

/* A read stops behind a byte that came with a descriptor, which nobody here wants. */
static void test_bytes_behind_a_descriptor_are_not_forgotten(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		struct rig rig;
		char byte = pattern(0), control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
		struct iovec part = { .iov_base = &byte, .iov_len = 1 };
		struct msghdr message = { .msg_iov = &part,
					  .msg_iovlen = 1,
					  .msg_control = control,
					  .msg_controllen = sizeof(control) };

		rig_open(&rig, UNIX, UNIX, modes[i]);
		rig_pump(&rig);
		*CMSG_FIRSTHDR(&message) = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
							     .cmsg_type = SCM_RIGHTS,
							     .cmsg_len = CMSG_LEN(sizeof(int)) };
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &rig.writer, sizeof(int));
		assert_int_equal(sendmsg(rig.writer, &message, 0), 1);
		rig.written++;
		rig_write(&rig, 100);
		rig_collect(&rig, PATIENCE_MS);
		rig_settle(&rig);
		rig_read(&rig, SIZE_MAX);
		assert_int_equal(rig.read, 101);
		shutdown(rig.writer, SHUT_WR);
		rig_drain(&rig);
		rig_close(&rig);
	}
}

/* ---- pipes ---------------------------------------------------------------------------------------- */

static void test_without_pipes_splicing_copies(void **state)
{
	struct rig rig;

	(void)state;
	pool.pipe_limit = 0;
	rig_open(&rig, TCP, TCP, RELAY_SPLICE);
	rig_stuff(&rig);
	assert_false(rig.way.is_spliced);
	assert_int_equal(pool.pipe_count, 0);
	shutdown(rig.writer, SHUT_WR);
	rig_drain(&rig);
	rig_close(&rig);
}

/* Two ways and one pipe: the second copies while the first holds it, and has it afterwards. */
static void test_a_pipe_goes_from_way_to_way(void **state)
{
	struct rig first, second;

	(void)state;
	pool.pipe_limit = 1;
	rig_open(&first, UNIX, UNIX, RELAY_SPLICE);
	rig_open(&second, UNIX, UNIX, RELAY_SPLICE);
	rig_stuff(&first);
	assert_true(first.way.is_spliced);
	assert_int_equal(pool.pipe_count, 1);
	assert_int_equal(pool.free_count, 0);
	rig_stuff(&second);
	assert_false(second.way.is_spliced);
	assert_int_equal(pool.pipe_count, 1);

	shutdown(first.writer, SHUT_WR);
	rig_drain(&first);
	assert_int_equal(pool.free_count, 1);
	while (rig_read(&second, SIZE_MAX) > 0 || rig_collect(&second, 0))
		rig_settle(&second);
	rig_stuff(&second);
	assert_true(second.way.is_spliced);
	shutdown(second.writer, SHUT_WR);
	rig_drain(&second);
	rig_close(&first);
	rig_close(&second);
	assert_int_equal(pool.free_count, 1);
}

static void test_pipes_are_back_whenever_a_way_waits_for_its_source(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, UNIX, TCP, RELAY_SPLICE);
	assert_int_equal(rig_settle(&rig), RELAY_WAITS_FOR_SOURCE);
	for (int i = 0; i < 20; i++) {
		rig_write(&rig, 1 + (size_t)i * 3000);
		rig_collect(&rig, PATIENCE_MS);
		assert_int_equal(rig_settle(&rig), RELAY_WAITS_FOR_SOURCE);
		assert_int_equal(pool.pipe_count, 1);
		assert_int_equal(pool.free_count, 1);
		rig_read(&rig, SIZE_MAX);
	}
	shutdown(rig.writer, SHUT_WR);
	rig_drain(&rig);
	rig_close(&rig);
}

static void test_dirty_pipes_are_closed(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, UNIX, UNIX, RELAY_SPLICE);
	rig_stuff(&rig);
	assert_true(rig.way.is_spliced);
	assert_int_equal(pool.pipe_count, 1);
	relay_way_break(&rig.way, &pool);
	assert_int_equal(pool.pipe_count, 0);
	rig_close(&rig);

	rig_open(&rig, UNIX, UNIX, RELAY_SPLICE);
	rig_stuff(&rig);
	assert_int_equal(pool.pipe_count, 1);
	rig_close(&rig);
	assert_int_equal(pool.pipe_count, 0);
	assert_int_equal(pool.free_count, 0);
}

/* After a rush most of the pipes go; some are kept for the next. */
static void test_a_pool_keeps_few_idle_pipes(void **state)
{
	static struct rig rigs[30];
	unsigned kept;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rigs); i++) {
		rig_open(&rigs[i], UNIX, UNIX, RELAY_SPLICE);
		rig_stuff(&rigs[i]);
	}
	assert_int_equal(pool.pipe_count, ARRAY_SIZE(rigs));
	assert_int_equal(pool.free_count, 0);
	for (size_t i = 0; i < ARRAY_SIZE(rigs); i++) {
		shutdown(rigs[i].writer, SHUT_WR);
		rig_drain(&rigs[i]);
		rig_close(&rigs[i]);
	}
	assert_all_pipes_are_back();
	kept = pool.free_count;
	assert_true(kept > 0 && kept < ARRAY_SIZE(rigs));
}

/* Small messages are copied, a rush is spliced, and afterwards it is copied again: seen by the
 * pipe that is made, and by the mark. */
static void test_auto_splices_what_comes_in_bulk(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, TCP, UNIX, RELAY_AUTO);
	for (int i = 0; i < 50; i++) {
		rig_write(&rig, 1000);
		rig_collect(&rig, PATIENCE_MS);
		assert_int_equal(rig_settle(&rig), RELAY_WAITS_FOR_SOURCE);
		rig_read(&rig, SIZE_MAX);
	}
	assert_int_equal(pool.pipe_count, 0);
	rig_stuff(&rig);
	assert_int_equal(pool.pipe_count, 1);
	while (rig_read(&rig, SIZE_MAX) > 0 || rig_collect(&rig, 0))
		rig_settle(&rig);
	for (int i = 0; i < 3; i++) {
		rig_write(&rig, 1000);
		rig_collect(&rig, PATIENCE_MS);
		rig_settle(&rig);
	}
	assert_false(rig.way.is_bulk);
	shutdown(rig.writer, SHUT_WR);
	rig_drain(&rig);
	rig_close(&rig);
}

static void test_auto_copies_whatever_comes_by_unix_sockets(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, UNIX, UNIX, RELAY_AUTO);
	rig_stuff(&rig);
	assert_int_equal(pool.pipe_count, 0);
	shutdown(rig.writer, SHUT_WR);
	rig_drain(&rig);
	rig_close(&rig);
}

/* Uses up an ordinary user's share of pipe memory. The number of the pipe that came out small, or
 * -1 when there is no such limit. */
static int hog_pipes(int fds[][2], int count_max)
{
	for (int i = 0; i < count_max; i++) {
		if (pipe2(fds[i], O_CLOEXEC) != 0)
			return -1;
		fcntl(fds[i][1], F_SETPIPE_SZ, RELAY_PIPE_SIZE);
		if (fcntl(fds[i][1], F_GETPIPE_SZ) < (int)RELAY_CHUNK_FIRST)
			return i;
	}
	return -1;
}

static int pass_some(struct rig *rig)
{
	rig_open(rig, UNIX, UNIX, RELAY_SPLICE);
	rig_write(rig, 50000);
	if (rig_settle(rig) != RELAY_WAITS_FOR_SOURCE || rig_read(rig, SIZE_MAX) != 50000)
		return -1;
	rig_close(rig);
	return 0;
}

static int relay_with_small_pipes(void)
{
	static int fds[1500][2];
	struct rlimit limit = { .rlim_cur = 4000, .rlim_max = 4000 };
	struct rig rig;
	int count;

	setrlimit(RLIMIT_NOFILE, &limit);
	if (getuid() == 0 && setuid(30000 + (uid_t)getpid() % 30000) != 0) /* nobody else's share */
		return SKIPPED;
	count = hog_pipes(fds, ARRAY_SIZE(fds));
	if (count < 0)
		return SKIPPED;
	if (pass_some(&rig) != 0)
		return 1;
	if (pool.pipe_count != 0 || !pool.is_short)
		return 2;
	for (int i = 0; i <= count; i++) {
		close(fds[i][0]);
		close(fds[i][1]);
	}
	/* It does not ask again at every read, but after a while it does. */
	if (pass_some(&rig) != 0 || pool.pipe_count != 0)
		return 3;
	pool.retry_ms = 0;
	return pass_some(&rig) == 0 && pool.pipe_count == 1 && !pool.is_short ? 0 : 4;
}

static void test_pipes_that_the_system_makes_small_are_not_used(void **state)
{
	pid_t child = fork();
	int status;

	(void)state;
	if (child == 0)
		_exit(relay_with_small_pipes());
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == SKIPPED)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

static int relay_without_descriptors(void)
{
	struct rlimit limit = { 0 };
	struct rig rig;

	rig_open(&rig, UNIX, UNIX, RELAY_SPLICE);
	limit.rlim_cur = limit.rlim_max = (rlim_t)rig.reader + 1;
	if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
		return 1;
	rig_write(&rig, 50000);
	return rig_settle(&rig) == RELAY_WAITS_FOR_SOURCE && rig_read(&rig, SIZE_MAX) == 50000 ? 0 : 2;
}

static void test_without_descriptors_splicing_copies(void **state)
{
	pid_t child = fork();
	int status;

	(void)state;
	if (child == 0)
		_exit(relay_without_descriptors());
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- the budget ----------------------------------------------------------------------------------- */

/* Chunks of 1, 2, 4 … bytes: sixteen steps leave most of it in the source. */
static void test_a_call_ends_when_its_budget_is_used_up(void **state)
{
	const uint64_t first = (1u << RELAY_BUDGET) - 1;
	struct rig rig;

	(void)state;
	rig_open(&rig, UNIX, UNIX, RELAY_COPY);
	rig.way.chunk_log2 = 0;
	assert_int_equal(rig_write(&rig, 100000), 100000);
	assert_int_equal(rig_pump(&rig), RELAY_HAS_MORE);
	assert_int_equal(rig.way.bytes, first);
	assert_int_equal(unread(rig.source), 100000 - first);
	assert_int_equal(rig_pump(&rig), RELAY_WAITS_FOR_SOURCE);
	assert_int_equal(rig.way.bytes, 100000);
	rig_read(&rig, SIZE_MAX);
	assert_int_equal(rig.read, 100000);
	rig_close(&rig);
}

/* Files stand in for a source and a sink that are faster than any way. */
static void test_the_budget_holds_for_splicing_too(void **state)
{
	struct relay_way way;
	int source = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	int sink = open("/dev/null", O_WRONLY | O_CLOEXEC);
	uint64_t before = 0;

	(void)state;
	relay_way_init(&way, false);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(relay_way_pump(&way, source, sink, RELAY_SPLICE, &pool), RELAY_HAS_MORE);
		assert_true(way.bytes > before);
		assert_true(way.bytes - before <= (uint64_t)RELAY_BUDGET * RELAY_PIPE_SIZE);
		before = way.bytes;
	}
	relay_way_deinit(&way, &pool);
	close(source);
	close(sink);
}

#define RELAY_TEST(function) cmocka_unit_test_setup_teardown(function, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		RELAY_TEST(test_bytes_in_are_bytes_out_for_random_schedules),
		RELAY_TEST(test_half_close),
		RELAY_TEST(test_skipped_bytes_are_not_passed_on),
		RELAY_TEST(test_nothing_behind_the_skipped_bytes_yet),
		RELAY_TEST(test_the_last_end_is_left_to_the_caller),
		RELAY_TEST(test_the_end_behind_full_buffers),
		RELAY_TEST(test_the_end_behind_a_short_read),
		RELAY_TEST(test_a_reset_that_was_told_already),
		RELAY_TEST(test_nothing_but_an_end),
		RELAY_TEST(test_preloaded_bytes_go_first_and_are_not_counted),
		RELAY_TEST(test_preloaded_bytes_wait_for_a_full_sink),
		RELAY_TEST(test_preloading_nothing_holds_nothing),
		RELAY_TEST(test_a_sink_that_is_not_read_stops_the_reading),
		RELAY_TEST(test_a_sink_that_is_gone),
		RELAY_TEST(test_a_sink_that_goes_while_it_is_full),
		RELAY_TEST(test_a_source_that_is_reset),
		RELAY_TEST(test_a_source_whose_reset_was_told_elsewhere),
		RELAY_TEST(test_a_broken_way_moves_nothing),
		RELAY_TEST(test_bytes_behind_urgent_ones_are_not_forgotten),
		RELAY_TEST(test_urgent_bytes_in_a_bulk_stream),
		RELAY_TEST(test_bytes_behind_a_descriptor_are_not_forgotten),
		RELAY_TEST(test_without_pipes_splicing_copies),
		RELAY_TEST(test_a_pipe_goes_from_way_to_way),
		RELAY_TEST(test_pipes_are_back_whenever_a_way_waits_for_its_source),
		RELAY_TEST(test_dirty_pipes_are_closed),
		RELAY_TEST(test_a_pool_keeps_few_idle_pipes),
		RELAY_TEST(test_auto_splices_what_comes_in_bulk),
		RELAY_TEST(test_auto_copies_whatever_comes_by_unix_sockets),
		RELAY_TEST(test_pipes_that_the_system_makes_small_are_not_used),
		RELAY_TEST(test_without_descriptors_splicing_copies),
		RELAY_TEST(test_a_call_ends_when_its_budget_is_used_up),
		RELAY_TEST(test_the_budget_holds_for_splicing_too),
	};

	signal(SIGPIPE, SIG_IGN); /* splice(2) knows no MSG_NOSIGNAL; the router ignores it too */
	return FIXTURE_RUN(tests);
}
