/*
 * One direction of a relay by itself, between sockets that are written, read, shut and reset as the input says.
 *
 * Oracle: the sink gets what was put before the stream, then the stream without what was to be skipped, each byte
 * in its place; way->bytes counts it. The caller watches edge-triggered, so whoever is told to wait for the source
 * finds nothing left there, and whoever is told to wait for the sink finds no room. What was finished has passed
 * on all of the source.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/macros.h"
#include "descriptors.h"
#include "net/relay.h"

#define ENSURE(condition)                                                       \
	do {                                                                    \
		if (!(condition)) {                                             \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
			abort();                                                \
		}                                                               \
	} while (0)

#define STREAM_MAX (1u << 20)
#define SCRIPT_MAX 256
#define ROUNDS_MAX 5000

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static const uint8_t *script, *script_end;
static char stream[STREAM_MAX];

static struct {
	struct relay_pool pool;
	struct relay_way way;
	enum relay_mode mode;
	int writer, source, sink, reader; /* writer -> source, way, sink -> reader */
	bool is_source_tcp, is_sink_tcp;
	size_t preloaded, skipped, written, received;
	bool is_writer_reset, has_urgent, has_ended, is_reader_gone, has_failed;
	enum relay_outcome outcome;
	int watch; /* an epoll of source and sink */
} test;

static unsigned next_byte(void)
{
	return script < script_end ? *script++ : 0;
}

static size_t next_size(void)
{
	static const size_t sizes[] = { 1,     2,      100,    4095,   16383,  16384,  65535,  65536,
					65537, 131072, 262143, 262144, 262145, 524288, 600000, STREAM_MAX };

	return sizes[next_byte() % ARRAY_SIZE(sizes)];
}

/* ---- sockets ---------------------------------------------------------------------------------------------- */

static int tcp_listener(struct sockaddr_in *address)
{
	static int fd = -1;
	static struct sockaddr_in name = { .sin_family = AF_INET };
	socklen_t length = sizeof(name);

	if (fd < 0) {
		name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		ENSURE(fd >= 0 && bind(fd, (struct sockaddr *)&name, sizeof(name)) == 0);
		ENSURE(listen(fd, 16) == 0 && getsockname(fd, (struct sockaddr *)&name, &length) == 0);
	}
	*address = name;
	return fd;
}

static void make_pair(bool is_tcp, int *one, int *other)
{
	static const int on = 1;
	struct sockaddr_in address;
	int ends[2], listener;

	if (!is_tcp) {
		ENSURE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
		*one = ends[0];
		*other = ends[1];
	} else {
		listener = tcp_listener(&address);
		*one = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		ENSURE(*one >= 0 && connect(*one, (struct sockaddr *)&address, sizeof(address)) == 0);
		*other = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		ENSURE(*other >= 0 && fcntl(*one, F_SETFL, O_NONBLOCK) == 0);
		setsockopt(*one, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		setsockopt(*other, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	}
	setsockopt(*one, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on));
	setsockopt(*other, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on));
}

static void watch(int fd, uint32_t which)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET,
				     .data.u32 = which };

	ENSURE(epoll_ctl(test.watch, EPOLL_CTL_ADD, fd, &event) == 0);
}

/* ---- the way, as a session drives it ------------------------------------------------------------------------- */

static void take_events(void)
{
	struct epoll_event events[2];
	int count = epoll_wait(test.watch, events, 2, 0);

	for (int i = 0; i < count; i++) {
		uint32_t happened = events[i].events;

		if (events[i].data.u32 == 0 && (happened & ~(uint32_t)EPOLLOUT)) {
			relay_way_source_event(&test.way, happened);
			if (happened & EPOLLERR)
				relay_way_lose_source(&test.way);
		}
		if (events[i].data.u32 == 1 && (happened & (EPOLLOUT | EPOLLHUP | EPOLLERR)))
			relay_way_sink_event(&test.way);
	}
}

static short ready_now(int fd, short events)
{
	struct pollfd watched = { .fd = fd, .events = events };

	return poll(&watched, 1, 0) > 0 ? watched.revents : 0;
}

/* What the outcome says must be so: nobody else moves anything meanwhile. TCP may, by itself: then an edge comes. */
static void check_outcome(void)
{
	switch (test.outcome) {
	case RELAY_WAITS_FOR_SOURCE:
		ENSURE(test.way.held_bytes == 0 && !test.way.is_readable);
		ENSURE(!ready_now(test.source, POLLIN) || ready_now(test.watch, POLLIN));
		break;
	case RELAY_WAITS_FOR_SINK:
		ENSURE(test.way.held_bytes > 0 && test.way.is_blocked);
		break;
	case RELAY_HAS_MORE:
		break;
	case RELAY_FINISHED:
		ENSURE(test.has_ended && !test.is_writer_reset && test.way.held_bytes == 0);
		ENSURE(test.way.bytes == test.written - test.skipped);
		break;
	case RELAY_SOURCE_LOST:
		ENSURE(test.is_writer_reset && test.way.held_bytes == 0);
		break;
	case RELAY_SINK_LOST:
		ENSURE(test.is_reader_gone);
		break;
	case RELAY_NO_MEMORY:
		abort();
	}
}

static void pump(void)
{
	take_events();
	if (test.outcome >= RELAY_FINISHED)
		return;
	test.outcome = relay_way_pump(&test.way, test.source, test.sink, test.mode, &test.pool);
	ENSURE(test.way.held_bytes <= MAX(RELAY_CHUNK_MAX, RELAY_PIPE_SIZE));
	check_outcome();
}

/* ---- both ends ------------------------------------------------------------------------------------------------- */

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
	memcpy(CMSG_DATA(header), &test.watch, sizeof(int));
	return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void write_some(size_t length, unsigned manner)
{
	ssize_t sent;

	length = MIN(length, STREAM_MAX - test.written);
	if (test.writer < 0 || test.has_ended || length == 0)
		return;
	if (manner == 1 && !test.is_source_tcp)
		sent = send_with_descriptor(test.writer, stream + test.written, length);
	else
		sent = send(test.writer, stream + test.written, length,
			    MSG_DONTWAIT | MSG_NOSIGNAL | (manner == 2 ? MSG_OOB : 0));
	test.written += sent > 0 ? (size_t)sent : 0;
}

/* True when something came, or the end did. */
static bool read_some(size_t limit)
{
	static char bytes[STREAM_MAX];
	ssize_t count;

	if (test.reader < 0)
		return false;
	count = recv(test.reader, bytes, MIN(limit, sizeof(bytes)), MSG_DONTWAIT);
	if (count <= 0)
		return false;
	for (size_t i = 0; i < (size_t)count;) {
		size_t at = test.received + i;
		size_t length = (size_t)count - i;

		if (at < test.preloaded) {
			ENSURE(bytes[i] == '!');
			i++;
			continue;
		}
		at += test.skipped - test.preloaded;
		ENSURE(at + length <= test.written && memcmp(bytes + i, stream + at, length) == 0);
		i += length;
	}
	test.received += (size_t)count;
	return true;
}

static void end_writer(bool is_reset)
{
	static const struct linger reset = { .l_onoff = 1, .l_linger = 0 };

	if (test.writer < 0)
		return;
	if (!is_reset) {
		shutdown(test.writer, SHUT_WR);
	} else if (test.is_source_tcp) {
		setsockopt(test.writer, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(STEAL_FD(test.writer));
		test.is_writer_reset = true;
	}
	test.has_ended = test.has_ended || !is_reset || test.is_writer_reset;
}

static void end_reader(bool is_half)
{
	if (test.reader < 0 || (is_half && test.is_sink_tcp)) /* TCP has no such half */
		return;
	test.is_reader_gone = true;
	if (is_half)
		shutdown(test.reader, SHUT_RD);
	else
		close(STEAL_FD(test.reader));
}

/* ---- the script -------------------------------------------------------------------------------------------------- */

static void take_step(unsigned byte)
{
	switch (byte % 8) {
	case 0:
	case 1:
		pump();
		break;
	case 2:
	case 3:
		write_some(next_size(), byte >> 3 & 3);
		break;
	case 4:
	case 5:
		read_some(next_size());
		break;
	case 6:
		if (byte >> 3 >= 16)
			end_writer(byte >> 3 >= 24);
		break;
	default:
		if (byte >> 3 >= 24)
			end_reader(byte >> 3 >= 28);
		break;
	}
}

/* Bytes of the source that are dropped are there before the first pump; so are those that go before. */
static void begin(void)
{
	static const unsigned limits[] = { 4, 1, 0, 4 };
	unsigned kinds = next_byte(), first = next_byte(), skip = next_byte();

	memset(&test, 0, sizeof(test));
	test.mode = (enum relay_mode)(kinds >> 2 & 3) % 3;
	test.is_source_tcp = kinds & 1;
	test.is_sink_tcp = kinds & 2;
	make_pair(test.is_source_tcp, &test.writer, &test.source);
	make_pair(test.is_sink_tcp, &test.sink, &test.reader);
	ENSURE(relay_pool_init(&test.pool, limits[kinds >> 4 & 3]) == 0);
	relay_way_init(&test.way, test.is_source_tcp);
	test.watch = epoll_create1(EPOLL_CLOEXEC);
	watch(test.source, 0);
	watch(test.sink, 1);
	test.skipped = skip * 16;
	write_some(test.skipped, 0);
	ENSURE(test.written == test.skipped);
	relay_way_skip(&test.way, test.skipped);
	if (first > 0) {
		char before[256];

		memset(before, '!', sizeof(before));
		test.preloaded = first;
		ENSURE(relay_way_preload(&test.way, before, first));
	}
}

/* All that is under way arrives, and then the end. */
static void finish(void)
{
	unsigned waits = 0, rounds = 0;

	end_writer(false);
	for (;;) {
		bool has_moved;

		ENSURE(rounds++ < ROUNDS_MAX);
		pump();
		has_moved = test.outcome == RELAY_HAS_MORE;
		while (read_some(STREAM_MAX))
			has_moved = true;
		if (has_moved)
			continue;
		if (test.outcome >= RELAY_FINISHED &&
		    (test.outcome != RELAY_FINISHED || test.reader < 0 ||
		     test.received == test.preloaded + test.written - test.skipped))
			break;
		if (test.is_reader_gone)
			break; /* what the sink has taken is all that can be known */
		ENSURE(waits++ < 1000);
		poll(NULL, 0, waits < 50 ? 0 : 3);
	}
	if (test.reader >= 0 && !test.is_reader_gone)
		ENSURE((int64_t)test.way.bytes == (int64_t)(test.received - test.preloaded));
}

static void end(void)
{
	relay_way_deinit(&test.way, &test.pool);
	ENSURE(test.pool.pipe_count == test.pool.free_count);
	relay_pool_deinit(&test.pool);
	cleanup_close(&test.writer);
	close(test.source);
	close(test.sink);
	cleanup_close(&test.reader);
	close(test.watch);
}

static void make_stream(void)
{
	if (stream[1] != '\0')
		return;
	signal(SIGPIPE, SIG_IGN);
	for (uint32_t i = 0; i < STREAM_MAX; i++)
		stream[i] = (char)(i * 2654435761u >> 17 | 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	struct sockaddr_in address;
	size_t descriptors;

	if (size > SCRIPT_MAX)
		return 0;
	make_stream();
	tcp_listener(&address);
	descriptors = count_descriptors();
	script = input;
	script_end = input + size;
	begin();
	while (script < script_end)
		take_step(next_byte());
	finish();
	end();
	ENSURE(count_descriptors() == descriptors);
	return 0;
}
