/*
 * Descriptors over UNIX stream sockets, as a receiver sees them.
 */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/macros.h"
#include "net/fdpass.h"

#define SKIPPED 77

static void pair_open(int ends[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
}

static void pair_close(int ends[2])
{
	close(ends[0]);
	close(ends[1]);
}

/* Receives with room for more of everything; exactly one byte and one descriptor must come. The
 * descriptor. */
static int receive(int connection_fd, char expected)
{
	char bytes[8], control[CMSG_SPACE(4 * sizeof(int))] __attribute__((aligned(8)));
	struct iovec part = { .iov_base = bytes, .iov_len = sizeof(bytes) };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	struct cmsghdr *header;
	int fd;

	assert_int_equal(recvmsg(connection_fd, &message, MSG_CMSG_CLOEXEC), 1);
	assert_int_equal(bytes[0], expected);
	assert_int_equal(message.msg_flags & (MSG_CTRUNC | MSG_TRUNC), 0);
	header = CMSG_FIRSTHDR(&message);
	assert_non_null(header);
	assert_int_equal(header->cmsg_level, SOL_SOCKET);
	assert_int_equal(header->cmsg_type, SCM_RIGHTS);
	assert_int_equal(header->cmsg_len, CMSG_LEN(sizeof(int)));
	assert_null(CMSG_NXTHDR(&message, header));
	memcpy(&fd, CMSG_DATA(header), sizeof(fd));
	return fd;
}

/* A pipe knows its own bytes: the two ends belong together whatever their numbers are. */
static void assert_leads_to(int write_fd, int read_fd)
{
	char byte = 0;

	assert_int_equal(write(write_fd, "!", 1), 1);
	assert_int_equal(read(read_fd, &byte, 1), 1);
	assert_int_equal(byte, '!');
}

static void test_the_receiver_gets_the_byte_and_the_file(void **state)
{
	int connection[2], pipe_ends[2], received;

	(void)state;
	pair_open(connection);
	assert_int_equal(pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK), 0);
	assert_int_equal(fdpass_send(connection[0], '*', pipe_ends[1]), 0);
	assert_leads_to(pipe_ends[1], pipe_ends[0]);
	received = receive(connection[1], '*');
	assert_leads_to(received, pipe_ends[0]);
	close(received);
	pair_close(pipe_ends);
	pair_close(connection);
}

static void test_each_byte_comes_with_its_own_descriptor(void **state)
{
	int connection[2], pipes[3][2];

	(void)state;
	pair_open(connection);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(pipe2(pipes[i], O_CLOEXEC | O_NONBLOCK), 0);
		assert_int_equal(fdpass_send(connection[0], (char)('a' + i), pipes[i][1]), 0);
		close(pipes[i][1]);
	}
	for (int i = 0; i < 3; i++) {
		int received = receive(connection[1], (char)('a' + i));

		assert_leads_to(received, pipes[i][0]);
		close(received);
		close(pipes[i][0]);
	}
	pair_close(connection);
}

/* A byte that is sent and then the end: the receiver still gets it. */
static void test_a_closed_sender_has_still_sent(void **state)
{
	int connection[2], pipe_ends[2], received;
	char byte;

	(void)state;
	pair_open(connection);
	assert_int_equal(pipe2(pipe_ends, O_CLOEXEC), 0);
	assert_int_equal(fdpass_send(connection[0], '*', pipe_ends[1]), 0);
	close(connection[0]);
	close(pipe_ends[1]);
	received = receive(connection[1], '*');
	assert_leads_to(received, pipe_ends[0]);
	assert_int_equal(read(connection[1], &byte, 1), 0);
	close(received);
	close(pipe_ends[0]);
	close(connection[1]);
}

/* SIGPIPE is as it was at start: it would end this program. */
static void test_a_receiver_that_is_gone(void **state)
{
	int connection[2];

	(void)state;
	pair_open(connection);
	close(connection[1]);
	assert_int_equal(fdpass_send(connection[0], '*', STDIN_FILENO), -EPIPE);
	close(connection[0]);
}

static void test_what_is_no_descriptor_is_not_sent(void **state)
{
	int connection[2];
	char byte;

	(void)state;
	pair_open(connection);
	assert_int_equal(fdpass_send(connection[0], '*', -1), -EBADF);
	assert_int_equal(recv(connection[1], &byte, 1, 0), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(fdpass_send(-1, '*', connection[1]), -EBADF);
	pair_close(connection);
}

/* Never blocks, on a blocking connection neither. Fills until an error says stop, which is returned. */
static int send_until_refused(int connection_fd, int fd, int *sent)
{
	int r;

	for (*sent = 0; *sent < 100000; ++*sent) {
		r = fdpass_send(connection_fd, '*', fd);
		if (r != 0)
			return r;
	}
	return 0;
}

static void test_a_receiver_that_reads_nothing(void **state)
{
	int connection[2], sent, r, fd;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, connection), 0);
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	r = send_until_refused(connection[0], fd, &sent);
	assert_true(r == -EAGAIN || r == -ETOOMANYREFS);
	assert_true(sent > 0);
	for (int i = 0; i < sent; i++)
		close(receive(connection[1], '*'));
	/* Nothing of the one that was refused. */
	assert_int_equal(fdpass_send(connection[0], '+', fd), 0);
	close(receive(connection[1], '+'));
	close(fd);
	pair_close(connection);
}

/* An ordinary user may have only so many descriptors in flight as it may have open. */
static int send_too_many(void)
{
	struct rlimit limit = { .rlim_cur = 40, .rlim_max = 40 };
	int connection[2], sent, r;

	if (getuid() == 0 && setuid(30000 + (uid_t)getpid() % 30000) != 0) /* nobody else's share */
		return SKIPPED;
	if (setrlimit(RLIMIT_NOFILE, &limit) != 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, connection) != 0)
		return SKIPPED;
	r = send_until_refused(connection[0], connection[1], &sent);
	return r == -ETOOMANYREFS && sent > 0 && sent < 100 ? 0 : 1;
}

static void test_too_many_in_flight(void **state)
{
	pid_t child = fork();
	int status;

	(void)state;
	if (child == 0)
		_exit(send_too_many());
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == SKIPPED)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FIXTURE_TEST(test_the_receiver_gets_the_byte_and_the_file),
		FIXTURE_TEST(test_each_byte_comes_with_its_own_descriptor),
		FIXTURE_TEST(test_a_closed_sender_has_still_sent),
		FIXTURE_TEST(test_a_receiver_that_is_gone),
		FIXTURE_TEST(test_what_is_no_descriptor_is_not_sent),
		FIXTURE_TEST(test_a_receiver_that_reads_nothing),
		FIXTURE_TEST(test_too_many_in_flight),
	};

	return FIXTURE_RUN(tests);
}
