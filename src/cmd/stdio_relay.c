/*
 * Theory of operation: a thread for each direction, with blocking reads and writes. The standard
 * streams may be files, which poll(2) calls ready always; pipes and terminals, which block a write that
 * is larger than their room although poll(2) said yes; or shared with other processes, so that they
 * must not be made non-blocking behind their backs. A thread that may block is right for all of them,
 * and back-pressure comes of itself.
 *
 * The other side's end does not tell whether it still wants our input, so the input goes on: to its
 * end, until the connection refuses it or is seen to be gone. Only people at a terminal are not made to
 * press Ctrl-D first.
 */
#include "cmd/stdio_relay.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/macros.h"

#define BUFFER_SIZE (128 * 1024)
#define LAST_WORD_MS 200

/* The direction from standard input, in a thread that may outlive the call: static. */
static struct upload {
	pthread_t thread;
	bool is_terminal; /* the input is one */
	/* Its own: the caller may close his, and the number lead elsewhere, while we wait for input. */
	int socket_fd;
	int done_fd; /* an eventfd: the thread has ended */
	struct stdio_relay_counts *counts;
	int read_error;
	int send_error;
	char buffer[BUFFER_SIZE];
} upload;

static char download_buffer[BUFFER_SIZE];

/* After a failed call on fd: may it be tried again? Waits where the descriptor is in non-blocking mode. */
static bool may_retry(int fd, short events)
{
	struct pollfd watched = { .fd = fd, .events = events };

	if (errno == EINTR)
		return true;
	if (errno != EAGAIN)
		return false;
	poll(&watched, 1, -1);
	return true;
}

static ssize_t read_some(int fd, char *buffer)
{
	ssize_t count;

	do {
		count = read(fd, buffer, BUFFER_SIZE);
	} while (count < 0 && may_retry(fd, POLLIN));
	return count < 0 ? -errno : count;
}

static ssize_t write_piece(int fd, bool is_socket, const char *bytes, size_t length)
{
	/* The other side's end must not kill us before its last bytes are out. */
	return is_socket ? send(fd, bytes, length, MSG_NOSIGNAL) : write(fd, bytes, length);
}

/* Each count has one writer, so it needs no locked addition. */
static void count_bytes(_Atomic uint64_t *total, size_t count)
{
	atomic_store_explicit(total, atomic_load_explicit(total, memory_order_relaxed) + count,
			      memory_order_relaxed);
}

/* 0 or an errno. total: counts what is written. */
static int write_all(int fd, bool is_socket, const char *bytes, size_t length, _Atomic uint64_t *total)
{
	while (length > 0) {
		ssize_t count = write_piece(fd, is_socket, bytes, length);

		if (count >= 0) {
			count_bytes(total, (size_t)count);
			bytes += count;
			length -= (size_t)count;
		} else if (!may_retry(fd, POLLOUT)) {
			return errno;
		}
	}
	return 0;
}

/* A terminal that has hung up answers EIO, which is its way to end. */
static int input_error(ssize_t count)
{
	bool is_hung_up = count == -EIO && upload.is_terminal;

	return count < 0 && !is_hung_up ? (int)-count : 0;
}

static void *upload_run(void *context)
{
	uint64_t one = 1;
	ssize_t count;

	(void)context;
	do {
		count = read_some(STDIN_FILENO, upload.buffer);
		if (count > 0)
			upload.send_error = write_all(upload.socket_fd, true, upload.buffer, (size_t)count,
						      &upload.counts->sent);
	} while (count > 0 && upload.send_error == 0);
	upload.read_error = input_error(count);
	if (upload.send_error == 0)
		shutdown(upload.socket_fd, SHUT_WR);
	if (write(upload.done_fd, &one, sizeof(one)) < 0)
		upload.read_error = errno; /* cannot happen: an eventfd takes one */
	return NULL;
}

/* 0 or an errno. */
static int upload_start(int socket_fd)
{
	CLEANUP_CLOSE int own_fd = fcntl(socket_fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	CLEANUP_CLOSE int done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int r;

	if (own_fd < 0 || done_fd < 0)
		return errno;
	upload.socket_fd = own_fd;
	upload.done_fd = done_fd;
	r = pthread_create(&upload.thread, NULL, upload_run, NULL);
	if (r != 0)
		return r;
	STEAL_FD(own_fd);
	STEAL_FD(done_fd);
	return 0;
}

/* From the socket to standard output, to the end. */
static void download_run(int socket_fd, struct stdio_relay_counts *counts, struct stdio_relay_result *result)
{
	ssize_t count;

	while ((count = read_some(socket_fd, download_buffer)) > 0) {
		result->received += (uint64_t)count;
		result->error =
			write_all(STDOUT_FILENO, false, download_buffer, (size_t)count, &counts->received);
		if (result->error != 0) {
			result->end = STDIO_RELAY_OUTPUT_ERROR;
			return;
		}
	}
	if (count < 0) {
		result->end = STDIO_RELAY_RESET;
		result->error = (int)-count;
	}
}

static bool is_same_file(int one_fd, int other_fd)
{
	struct stat one, other;

	return fstat(one_fd, &one) == 0 && fstat(other_fd, &other) == 0 && one.st_dev == other.st_dev &&
	       one.st_ino == other.st_ino;
}

/* Tells whoever reads our output that there will be no more, while the input goes on. */
static void end_output(void)
{
	CLEANUP_CLOSE int null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

	/* One socket for both directions stays open by its other descriptor. */
	if (is_same_file(STDIN_FILENO, STDOUT_FILENO))
		shutdown(STDOUT_FILENO, SHUT_WR);
	if (null_fd < 0 || dup2(null_fd, STDOUT_FILENO) < 0)
		close(STDOUT_FILENO);
}

/* True when the upload has ended, false when it never will: the connection is gone, and it waits for
 * input. */
static bool upload_wait(void)
{
	struct pollfd watched[] = { { .fd = upload.done_fd, .events = POLLIN },
				    { .fd = upload.socket_fd, .events = 0 } };

	while (poll(watched, ARRAY_SIZE(watched), -1) < 0 && errno == EINTR)
		;
	/* Input that was being sent fails now, and says so. */
	if (!watched[0].revents)
		poll(watched, 1, LAST_WORD_MS);
	return watched[0].revents != 0;
}

static void upload_finish(struct stdio_relay_result *result)
{
	if (!upload_wait()) {
		pthread_detach(upload.thread);
		return;
	}
	pthread_join(upload.thread, NULL);
	close(upload.done_fd);
	close(upload.socket_fd);
	if (result->end != STDIO_RELAY_DONE)
		return;
	if (upload.send_error != 0)
		result->end = STDIO_RELAY_UNSENT;
	else if (upload.read_error != 0)
		result->end = STDIO_RELAY_INPUT_ERROR;
	result->error = upload.send_error != 0 ? upload.send_error : upload.read_error;
}

struct stdio_relay_result stdio_relay(int socket_fd, struct stdio_relay_counts *counts)
{
	struct stdio_relay_result result = { .end = STDIO_RELAY_DONE };
	int flags = fcntl(socket_fd, F_GETFL);

	if (flags >= 0)
		fcntl(socket_fd, F_SETFL, flags & ~O_NONBLOCK);
	upload.counts = counts;
	upload.is_terminal = isatty(STDIN_FILENO);
	result.error = upload_start(socket_fd);
	if (result.error != 0) {
		result.end = STDIO_RELAY_INPUT_ERROR;
		return result;
	}
	download_run(socket_fd, counts, &result);
	if (result.end == STDIO_RELAY_DONE && !upload.is_terminal) {
		end_output();
		upload_finish(&result);
	} else {
		pthread_detach(upload.thread);
	}
	return result;
}
