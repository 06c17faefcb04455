/*
 * Theory of operation: a step flushes what is held, or else reads once and
 * writes at once. Whatever the sink did not take is held (in the pipe it is in, or copied
 * to a stash) and nothing is read before it is gone.
 *
 * Two facts of the kernel shape the code:
 *  - splice() says EAGAIN for an empty source and for a full pipe alike. So a pipe
 *    is only ever filled when it is empty; then EAGAIN means "source empty".
 *  - with edge triggering, a recv() that brings less than was asked for has
 *    emptied the source, and the recv() that would say EAGAIN can be saved. Not so
 *    once the peer hung up: no further edge announces the end of file. Not so where the
 *    stream has a mark: urgent bytes of TCP (tcp(7)), a descriptor that a UNIX peer sent
 *    along (dropped, and told by MSG_CTRUNC). And not so for splice(), which stops early for
 *    reasons of its own, and at an urgent mark for ever.
 *
 * A pipe is empty whenever a way waits for its source, so it goes back to
 * the pool then: idle ways have none, whatever they did before.
 */
#include "net/relay.h"

#include <assert.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/macros.h"
#include "base/sandbox.h"

SANDBOX_CALLS("getsockopt", "pipe2", "recvfrom", "recvmsg", "sendto", "shutdown", "splice");

#define BULK_ENTER_BYTES (64u << 10)
#define BULK_LEAVE_BYTES (16u << 10)
#define PIPE_KEEP_MAX 16 /* idle pipes that a pool keeps open */
#define PIPE_RETRY_MS 1000

/* ---- pipes ---------------------------------------------------------------------------------------- */

int relay_pool_init(struct relay_pool *pool, unsigned pipe_limit)
{
	*pool = (struct relay_pool){ .buffer = malloc(RELAY_CHUNK_MAX), .pipe_limit = pipe_limit };
	return pool->buffer ? 0 : -ENOMEM;
}

static void pipe_free(struct relay_pool *pool, struct relay_pipe *pipe)
{
	close(pipe->read_fd);
	close(pipe->write_fd);
	free(pipe);
	pool->pipe_count--;
}

void relay_pool_deinit(struct relay_pool *pool)
{
	while (pool->free_pipes) {
		struct relay_pipe *pipe = pool->free_pipes;

		pool->free_pipes = pipe->next;
		pipe_free(pool, pipe);
	}
	free(pool->buffer);
	*pool = (struct relay_pool){ 0 };
}

/* Unprivileged users get large pipes only up to a share of memory (pipe(7), pipe-user-pages-soft), then those of
 * 64 KiB, then of a page. The copying way moves more at a time than those. */
static struct relay_pipe *pipe_new(struct relay_pool *pool)
{
	struct relay_pipe *pipe = malloc(sizeof(*pipe));
	int ends[2];

	if (!pipe)
		return NULL;
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
		free(pipe);
		return NULL;
	}
	*pipe = (struct relay_pipe){ .read_fd = ends[0], .write_fd = ends[1] };
	pool->pipe_count++;
	if (fcntl(pipe->write_fd, F_SETPIPE_SZ, RELAY_PIPE_SIZE) < RELAY_PIPE_SIZE) {
		pipe_free(pool, pipe);
		return NULL;
	}
	return pipe;
}

static struct relay_pipe *pool_take(struct relay_pool *pool)
{
	struct relay_pipe *pipe = pool->free_pipes;

	if (pipe) {
		pool->free_pipes = pipe->next;
		pool->free_count--;
		return pipe;
	}
	if (pool->pipe_count >= pool->pipe_limit || (pool->is_short && clock_now_ms() < pool->retry_ms))
		return NULL;
	pipe = pipe_new(pool);
	pool->is_short = !pipe;
	if (!pipe)
		pool->retry_ms = clock_now_ms() + PIPE_RETRY_MS;
	return pipe;
}

/* The pipe must be empty. */
static void pool_give(struct relay_pool *pool, struct relay_pipe *pipe)
{
	if (pool->free_count >= PIPE_KEEP_MAX) {
		pipe_free(pool, pipe);
		return;
	}
	pipe->next = pool->free_pipes;
	pool->free_pipes = pipe;
	pool->free_count++;
}

/* ---- one direction -------------------------------------------------------------------------------- */

void relay_way_init(struct relay_way *way, bool is_tcp)
{
	*way = (struct relay_way){ .chunk_log2 = (unsigned)__builtin_ctz(RELAY_CHUNK_FIRST),
				   .is_tcp = is_tcp,
				   .is_readable = true };
}

/* Forgets what is held. A pipe with bytes in it cannot be lent again. */
static void way_drop_held(struct relay_way *way, struct relay_pool *pool)
{
	if (way->held_bytes > 0 && way->is_spliced)
		pipe_free(pool, way->pipe);
	else if (way->held_bytes > 0)
		free(way->stash);
	way->held_bytes = 0;
	way->pipe = NULL;
	way->is_spliced = false;
}

void relay_way_deinit(struct relay_way *way, struct relay_pool *pool)
{
	way_drop_held(way, pool);
}

void relay_way_source_event(struct relay_way *way, uint32_t events)
{
	way->is_readable = true;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		way->has_hung_up = true;
	if (events & EPOLLPRI)
		way->has_urgent = true;
}

void relay_way_sink_event(struct relay_way *way)
{
	way->is_blocked = false;
}

/* Keeps bytes for the sink. */
static bool way_stash(struct relay_way *way, const char *bytes, size_t length)
{
	struct relay_stash *stash = malloc(sizeof(*stash) + length);

	if (!stash)
		return false;
	stash->offset = 0;
	memcpy(stash->bytes, bytes, length);
	way->stash = stash;
	way->held_bytes = (uint32_t)length;
	return true;
}

bool relay_way_preload(struct relay_way *way, const char *bytes, size_t length)
{
	way->bytes -= length;
	if (length == 0)
		return true;
	return way_stash(way, bytes, length);
}

bool relay_way_hold_pipe_take(struct relay_way *way, struct relay_pool *pool, int read_fd, int write_fd,
			      uint32_t length)
{
	struct relay_pipe *pipe = malloc(sizeof(*pipe));

	if (!pipe) {
		close(read_fd);
		close(write_fd);
		return false;
	}
	*pipe = (struct relay_pipe){ .read_fd = read_fd, .write_fd = write_fd };
	pool->pipe_count++;
	way->pipe = pipe;
	way->is_spliced = true;
	way->held_bytes = length;
	return true;
}

void relay_way_skip(struct relay_way *way, size_t length)
{
	assert(length <= RELAY_SKIP_MAX);
	way->skip_bytes = length & RELAY_SKIP_MAX; /* for the compiler, which knows no range */
}

void relay_way_lose_source(struct relay_way *way)
{
	way->is_source_lost = true;
	way->is_readable = true;
	way->has_hung_up = true;
}

void relay_way_break(struct relay_way *way, struct relay_pool *pool)
{
	way_drop_held(way, pool);
	way->is_broken = true;
	way->is_blocked = false;
	way->eof_sent = true;
}

/* A step's own outcomes, beside the public ones: go on with the next step. */
#define STEP_AGAIN ((enum relay_outcome) - 1)

static enum relay_outcome way_source_error(struct relay_way *way)
{
	if (errno == EINTR)
		return STEP_AGAIN;
	if (errno != EAGAIN)
		return RELAY_SOURCE_LOST;
	way->is_readable = false;
	return RELAY_WAITS_FOR_SOURCE;
}

/* Does this error of a write say that nobody reads any more? */
static bool error_is_loss(int error)
{
	switch (error) {
	case EPIPE:
	case ECONNRESET:
	case ENOTCONN:
	case ETIMEDOUT:
	case EHOSTUNREACH:
	case ENETUNREACH:
	case ENETDOWN:
		return true;
	default:
		return false;
	}
}

/* Else the system did not do it (ENOBUFS, ENOMEM): the sink is there, and would wait for the rest for ever. */
static enum relay_outcome way_lose_sink(struct relay_way *way, int error)
{
	way->is_sink_reset = error == ECONNRESET;
	return error_is_loss(error) ? RELAY_SINK_LOST : RELAY_NO_MEMORY;
}

static enum relay_outcome way_sink_error(struct relay_way *way)
{
	if (errno == EINTR)
		return STEP_AGAIN;
	if (errno != EAGAIN)
		return way_lose_sink(way, errno);
	way->is_blocked = true;
	return RELAY_WAITS_FOR_SINK;
}

/* Half-close: the source's end becomes the sink's. A sink that is gone already fails here, harmlessly; any other
 * would wait for ever for an end that it was not told. */
static enum relay_outcome way_finish(struct relay_way *way, int sink_fd)
{
	if (!way->is_last && shutdown(sink_fd, SHUT_WR) != 0 && errno != ENOTCONN)
		return way_lose_sink(way, errno);
	way->eof_sent = true;
	return RELAY_FINISHED;
}

static enum relay_outcome way_flush_pipe(struct relay_way *way, int sink_fd, struct relay_pool *pool)
{
	ssize_t moved = splice(way->pipe->read_fd, NULL, sink_fd, NULL, way->held_bytes,
			       SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

	if (moved == 0)
		return RELAY_SINK_LOST;
	if (moved < 0)
		return way_sink_error(way);
	way->bytes += (uint64_t)moved;
	way->held_bytes -= (uint32_t)moved;
	if (way->held_bytes > 0)
		return STEP_AGAIN;
	pool_give(pool, way->pipe);
	way->pipe = NULL;
	way->is_spliced = false;
	return STEP_AGAIN;
}

static enum relay_outcome way_flush_stash(struct relay_way *way, int sink_fd)
{
	ssize_t sent = send(sink_fd, way->stash->bytes + way->stash->offset, way->held_bytes,
			    MSG_NOSIGNAL | MSG_DONTWAIT);

	if (sent < 0)
		return way_sink_error(way);
	way->bytes += (uint64_t)sent;
	way->held_bytes -= (uint32_t)sent;
	way->stash->offset += (uint32_t)sent;
	if (way->held_bytes > 0)
		return STEP_AGAIN;
	free(way->stash);
	way->stash = NULL;
	return STEP_AGAIN;
}

static enum relay_outcome way_flush(struct relay_way *way, int sink_fd, struct relay_pool *pool)
{
	return way->is_spliced ? way_flush_pipe(way, sink_fd, pool) : way_flush_stash(way, sink_fd);
}

/* Keeps what a short write left over; the source is read in smaller pieces from now on. */
static enum relay_outcome way_hold(struct relay_way *way, const char *bytes, size_t length)
{
	if (!way_stash(way, bytes, length))
		return RELAY_NO_MEMORY;
	way->is_blocked = true;
	if (1u << way->chunk_log2 > RELAY_CHUNK_MIN)
		way->chunk_log2--;
	return RELAY_WAITS_FOR_SINK;
}

static enum relay_outcome way_send(struct relay_way *way, int sink_fd, const char *bytes, size_t length)
{
	ssize_t sent;

	do {
		sent = send(sink_fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (sent < 0 && errno == EINTR);
	if (sent < 0 && errno != EAGAIN)
		return way_lose_sink(way, errno);
	if (sent < 0)
		sent = 0;
	way->bytes += (uint64_t)sent;
	if ((size_t)sent < length)
		return way_hold(way, bytes + sent, length - (size_t)sent);
	return STEP_AGAIN;
}

/* Like recv(), and says whether a UNIX source has stopped at a descriptor that its peer sent along. */
static ssize_t way_receive(const struct relay_way *way, int source_fd, char *buffer, size_t length,
			   bool *is_cut)
{
	struct iovec part = { .iov_base = buffer, .iov_len = length };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	ssize_t received;

	*is_cut = false;
	if (way->is_tcp)
		return recv(source_fd, buffer, length, MSG_DONTWAIT);
	received = recvmsg(source_fd, &message, MSG_DONTWAIT);
	*is_cut = received >= 0 && (message.msg_flags & MSG_CTRUNC);
	return received;
}

/* Is this end of file what is left of a reset? The kernel tells of a reset once, and a splice(2) into the socket that
 * had moved something before keeps it to itself (splice_to_socket() of Linux 6.5). A connection that is closed though
 * nobody here has ended it was reset. Where its end was announced before, it was an end. */
static bool way_end_is_reset(const struct relay_way *way, int source_fd)
{
	struct tcp_info info;
	socklen_t length = sizeof(info);

	return way->is_tcp && !way->is_last && !way->has_hung_up &&
	       getsockopt(source_fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
	       info.tcpi_state == TCP_CLOSE;
}

static enum relay_outcome way_copy(struct relay_way *way, int source_fd, int sink_fd, struct relay_pool *pool)
{
	size_t chunk = (size_t)1 << way->chunk_log2, skipped;
	bool is_cut;
	ssize_t received = way_receive(way, source_fd, pool->buffer, chunk, &is_cut);

	if (received < 0)
		return way_source_error(way);
	if (received == 0) {
		way->eof_seen = true;
		way->is_source_lost = way->is_source_lost || way_end_is_reset(way, source_fd);
		return STEP_AGAIN;
	}
	way->is_bulk = (size_t)received >= BULK_ENTER_BYTES;
	if ((size_t)received < chunk)
		way->is_readable = way->has_hung_up || way->has_urgent || is_cut;
	else if (chunk < RELAY_CHUNK_MAX)
		way->chunk_log2++;
	skipped = MIN((size_t)received, way->skip_bytes);
	relay_way_skip(way, way->skip_bytes - skipped);
	if ((size_t)received == skipped)
		return STEP_AGAIN;
	return way_send(way, sink_fd, pool->buffer + skipped, (size_t)received - skipped);
}

static enum relay_outcome way_splice(struct relay_way *way, int source_fd, int sink_fd,
				     struct relay_pipe *pipe, struct relay_pool *pool)
{
	ssize_t moved = splice(source_fd, NULL, pipe->write_fd, NULL, RELAY_PIPE_SIZE,
			       SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

	if (moved <= 0)
		pool_give(pool, pipe);
	if (moved < 0)
		return way_source_error(way);
	/* The end; or, behind a FIN that has come, an urgent mark. Only recv(2) tells the two apart. */
	if (moved == 0)
		return way_copy(way, source_fd, sink_fd, pool);
	way->pipe = pipe;
	way->is_spliced = true;
	way->held_bytes = (uint32_t)moved;
	way->is_bulk = moved >= (ssize_t)BULK_LEAVE_BYTES;
	return way_flush(way, sink_fd, pool);
}

static bool way_is_spliced(const struct relay_way *way, enum relay_mode mode)
{
	if (way->has_urgent || way->skip_bytes > 0)
		return false;
	return mode == RELAY_SPLICE || (mode == RELAY_AUTO && way->is_bulk && way->is_tcp);
}

static enum relay_outcome way_step(struct relay_way *way, int source_fd, int sink_fd, enum relay_mode mode,
				   struct relay_pool *pool)
{
	struct relay_pipe *pipe = NULL;

	if (way->held_bytes > 0)
		return way_flush(way, sink_fd, pool);
	if (way->eof_seen)
		return way->is_source_lost ? RELAY_SOURCE_LOST : way_finish(way, sink_fd);
	if (!way->is_readable)
		return RELAY_WAITS_FOR_SOURCE;
	if (way_is_spliced(way, mode))
		pipe = pool_take(pool);
	return pipe ? way_splice(way, source_fd, sink_fd, pipe, pool) :
		      way_copy(way, source_fd, sink_fd, pool);
}

enum relay_outcome relay_way_pump(struct relay_way *way, int source_fd, int sink_fd, enum relay_mode mode,
				  struct relay_pool *pool)
{
	if (way->eof_sent)
		return RELAY_FINISHED;
	if (way->is_blocked)
		return RELAY_WAITS_FOR_SINK;
	for (int step = 0; step < RELAY_BUDGET; step++) {
		enum relay_outcome outcome = way_step(way, source_fd, sink_fd, mode, pool);

		if (outcome != STEP_AGAIN)
			return outcome;
	}
	return RELAY_HAS_MORE;
}

uint64_t relay_way_payload(const struct relay_way *way)
{
	return (int64_t)way->bytes > 0 ? way->bytes : 0; /* what was preloaded counts from below zero */
}
