/*
 * Receivers of every kind, played by the test at the other end of a pair of
 * sockets. The clock is the test's: it stands still but for what is added.
 */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/macros.h"
#include "net/fdpass.h"
#include "router/handover.h"

static uint64_t clock_ms;

/* In place of the C library's, for the program under test too. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
	(void)clock;
	*now = (struct timespec){ .tv_sec = (time_t)(clock_ms / 1000),
				  .tv_nsec = (long)(clock_ms % 1000 * 1000000) };
	return 0;
}

static struct loop loop;
static struct receiver receiver;
static const struct stat socket_file = { .st_dev = 8, .st_ino = 15 };

static int receiver_setup(void **state)
{
	clock_ms = 1000000;
	if (fixture_setup(state) != 0 || loop_init(&loop) != 0)
		return -1;
	receiver_init(&receiver, &loop);
	return 0;
}

static int receiver_teardown(void **state)
{
	receiver_deinit(&receiver);
	loop_deinit(&loop);
	return fixture_teardown(state);
}

static void stop(struct loop_timer *timer)
{
	(void)timer;
	loop_stop(&loop);
}

/* Lets the loop deal with all that is pending, so many milliseconds later. */
static void run_after(unsigned ms)
{
	struct loop_timer timer = { .on_expire = stop };

	clock_ms += ms;
	loop.is_stopping = false;
	assert_int_equal(loop_timer_set(&loop, &timer, clock_ms), 0);
	assert_int_equal(loop_run(&loop), 0);
}

/* ---- the other ends -------------------------------------------------------------------------------- */

struct pair {
	int router;   /* what the router has of it */
	int opposite; /* and the receiver, or the client */
};

static struct pair pair_new(void)
{
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
	return (struct pair){ ends[0], ends[1] };
}

/* A client that says so many bytes before the router has it. */
static struct pair client_new(const char *word)
{
	struct pair client = pair_new();

	assert_int_equal(write(client.opposite, word, strlen(word)), strlen(word));
	return client;
}

static void pair_close(struct pair *pair)
{
	close(pair->router);
	close(pair->opposite);
}

/* Takes one message as a receiver does: '*' and a descriptor, which is returned; -1 at the end of the
 * connection; a negative errno. */
static int take(int fd)
{
	union {
		char bytes[CMSG_SPACE(4 * sizeof(int))];
		struct cmsghdr align;
	} control;
	char byte = 0;
	struct iovec piece = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};
	struct cmsghdr *header;
	ssize_t received = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	int client;

	if (received <= 0)
		return received == 0 ? -1 : -errno;
	assert_int_equal(byte, '*');
	header = CMSG_FIRSTHDR(&message);
	assert_non_null(header);
	assert_int_equal(header->cmsg_type, SCM_RIGHTS);
	assert_int_equal(header->cmsg_len, CMSG_LEN(sizeof(int)));
	memcpy(&client, CMSG_DATA(header), sizeof(client));
	return client;
}

static void assert_takes(int fd, const char *word)
{
	char text[16] = "";
	int client = take(fd);

	assert_true(client >= 0);
	assert_int_equal(read(client, text, sizeof(text)), strlen(word));
	assert_string_equal(text, word);
	close(client);
}

static void assert_ended(int fd)
{
	assert_int_equal(take(fd), -1);
}

static void assert_open(int fd)
{
	assert_int_equal(take(fd), -EAGAIN);
}

static void greet(int fd, char byte)
{
	assert_int_equal(send(fd, &byte, 1, MSG_NOSIGNAL), 1);
}

/* Sends one client over a new connection, as the first; the receiver's end of it. */
static int send_first(const char *word, const struct stat *file)
{
	struct pair connection = pair_new();
	struct pair client = client_new(word);

	assert_int_equal(receiver_send_first_take(&receiver, connection.router, client.router, file), 0);
	/* It is still the caller's. */
	pair_close(&client);
	return connection.opposite;
}

static int send_next(const char *word)
{
	struct pair client = client_new(word);
	int r = receiver_send(&receiver, client.router);

	assert_int_not_equal(fcntl(client.router, F_GETFD), -1);
	pair_close(&client);
	return r;
}

/* A receiver that has greeted and taken a first client. */
static int lasting_new(void)
{
	int fd = send_first("first", &socket_file);

	greet(fd, '+');
	run_after(0);
	assert_true(receiver_is_lasting(&receiver));
	assert_takes(fd, "first");
	return fd;
}

/* ---- one client a connection ----------------------------------------------------------------------- */

static void test_silent_receiver_that_closes(void **state)
{
	int fd = send_first("one", &socket_file);

	(void)state;
	assert_int_equal(receiver.state, RECEIVER_ASKED);
	assert_false(receiver_is_lasting(&receiver));
	assert_takes(fd, "one");
	assert_open(fd);
	close(fd);
	run_after(0);
	assert_int_equal(receiver.state, RECEIVER_UNKNOWN);
	assert_int_equal(receiver.watch.fd, -1);
}

static void test_silent_receiver_that_waits_for_the_end(void **state)
{
	int fd = send_first("one", &socket_file);

	(void)state;
	assert_takes(fd, "one");
	run_after(RECEIVER_GREETING_MS - 1);
	assert_open(fd);
	run_after(1);
	assert_ended(fd);
	assert_int_equal(receiver.state, RECEIVER_UNKNOWN);
	close(fd);
}

static void test_silent_receiver_is_asked_again_after_a_while(void **state)
{
	int fd = send_first("one", &socket_file);

	(void)state;
	run_after(RECEIVER_GREETING_MS);
	close(fd);
	run_after(RECEIVER_ASK_AGAIN_MS - 1);
	fd = send_first("two", &socket_file);
	assert_takes(fd, "two");
	assert_ended(fd);
	close(fd);
	run_after(1);
	fd = send_first("three", &socket_file);
	assert_takes(fd, "three");
	assert_open(fd);
	assert_int_equal(receiver.state, RECEIVER_ASKED);
	close(fd);
}

/* What the router has sent is there even when it has closed already. */
static void test_client_is_taken_after_the_end(void **state)
{
	int fd = send_first("one", &socket_file);

	(void)state;
	run_after(RECEIVER_GREETING_MS);
	assert_takes(fd, "one");
	assert_ended(fd);
	close(fd);
}

static void test_unknown_socket_file_keeps_nothing(void **state)
{
	int fd = send_first("one", NULL);

	(void)state;
	assert_int_equal(receiver.state, RECEIVER_UNKNOWN);
	assert_takes(fd, "one");
	assert_ended(fd);
	close(fd);
}

static void test_another_greeting_is_none(void **state)
{
	int fd = send_first("one", &socket_file);

	(void)state;
	greet(fd, 'x');
	run_after(0);
	assert_int_equal(receiver.state, RECEIVER_UNKNOWN);
	assert_takes(fd, "one");
	/* The router did not read the rest, if any: that may arrive as a reset. */
	assert_true(take(fd) < 0);
	close(fd);
}

static void test_greeting_too_late(void **state)
{
	int fd = send_first("one", &socket_file);
	char greeting = '+';

	(void)state;
	run_after(RECEIVER_GREETING_MS);
	assert_int_equal(send(fd, &greeting, 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	assert_takes(fd, "one");
	assert_ended(fd);
	assert_int_equal(receiver.state, RECEIVER_UNKNOWN);
	close(fd);
}

/* ---- a lasting connection -------------------------------------------------------------------------- */

static void test_lasting_receiver(void **state)
{
	int fd = lasting_new();

	(void)state;
	run_after(10 * RECEIVER_GREETING_MS);
	assert_int_equal(send_next("two"), 0);
	assert_int_equal(send_next("three"), 0);
	assert_takes(fd, "two");
	assert_int_equal(send_next("four"), 0);
	assert_takes(fd, "three");
	assert_takes(fd, "four");
	assert_open(fd);
	assert_true(receiver_is_lasting(&receiver));
	receiver_deinit(&receiver);
	assert_ended(fd);
	close(fd);
}

static void test_greeting_before_the_first_client(void **state)
{
	struct pair connection = pair_new();
	struct pair client = client_new("one");

	(void)state;
	greet(connection.opposite, '+');
	assert_int_equal(receiver_send_first_take(&receiver, connection.router, client.router, &socket_file),
			 0);
	pair_close(&client);
	assert_false(receiver_is_lasting(&receiver));
	run_after(0);
	assert_true(receiver_is_lasting(&receiver));
	assert_takes(connection.opposite, "one");
	close(connection.opposite);
}

static void test_greeting_at_the_last_moment(void **state)
{
	int fd = send_first("one", &socket_file);

	(void)state;
	run_after(RECEIVER_GREETING_MS - 1);
	greet(fd, '+');
	run_after(0);
	assert_true(receiver_is_lasting(&receiver));
	run_after(RECEIVER_GREETING_MS);
	assert_takes(fd, "one");
	assert_open(fd);
	close(fd);
}

/* Nobody waits for the greeting: who comes meanwhile gets a connection that is closed at once. */
static void test_clients_while_the_greeting_is_awaited(void **state)
{
	int first = send_first("one", &socket_file);
	int second = send_first("two", &socket_file);

	(void)state;
	assert_takes(second, "two");
	assert_ended(second);
	close(second);
	assert_int_equal(receiver.state, RECEIVER_ASKED);
	greet(first, '+');
	run_after(0);
	assert_true(receiver_is_lasting(&receiver));
	/* So does one whose connection was under way when another's became the lasting one. */
	second = send_first("three", &socket_file);
	assert_takes(second, "three");
	assert_ended(second);
	close(second);
	assert_int_equal(send_next("four"), 0);
	assert_takes(first, "one");
	assert_takes(first, "four");
	close(first);
}

static void test_further_words_of_a_lasting_receiver(void **state)
{
	int fd = lasting_new();

	(void)state;
	for (const char *byte = "+x*"; *byte; byte++) {
		greet(fd, *byte);
		run_after(0);
		assert_true(receiver_is_lasting(&receiver));
	}
	assert_int_equal(send_next("two"), 0);
	assert_takes(fd, "two");
	close(fd);
}

/* ---- the end of a lasting connection --------------------------------------------------------------- */

static void test_end_is_noticed(void **state)
{
	int fd = lasting_new();

	(void)state;
	close(fd);
	run_after(0);
	assert_int_equal(receiver.state, RECEIVER_UNKNOWN);
	assert_int_equal(receiver.watch.fd, -1);
	/* Who had greeted is asked again at once. */
	close(lasting_new());
}

static void test_end_with_clients_unread(void **state)
{
	int fd = lasting_new();

	(void)state;
	assert_int_equal(send_next("two"), 0);
	close(fd); /* a reset, since something lay unread */
	run_after(0);
	assert_int_equal(receiver.state, RECEIVER_UNKNOWN);
}

static void test_end_found_while_sending(void **state)
{
	int fd = lasting_new();

	(void)state;
	close(fd);
	assert_int_equal(send_next("two"), -EPIPE);
	assert_int_equal(receiver.state, RECEIVER_UNKNOWN);
	assert_int_equal(receiver.watch.fd, -1);
	run_after(0);
	fd = lasting_new();
	assert_int_equal(send_next("two"), 0);
	assert_takes(fd, "two");
	close(fd);
}

/* A receiver that stops talking might go on taking clients; the router cannot know, so it counts as gone. */
static void test_half_an_end(void **state)
{
	int fd = lasting_new();

	(void)state;
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	run_after(0);
	assert_int_equal(receiver.state, RECEIVER_UNKNOWN);
	assert_ended(fd);
	close(fd);
}

static void test_first_client_to_a_receiver_that_is_gone(void **state)
{
	struct pair connection = pair_new();
	struct pair client = client_new("one");

	(void)state;
	close(connection.opposite);
	assert_int_equal(receiver_send_first_take(&receiver, connection.router, client.router, &socket_file),
			 -EPIPE);
	assert_int_equal(receiver.state, RECEIVER_UNKNOWN);
	/* Not consumed. */
	assert_int_equal(close(connection.router), 0);
	pair_close(&client);
}

/* ---- queues ---------------------------------------------------------------------------------------- */

static void test_full_queue(void **state)
{
	struct pair client = client_new("");
	unsigned sent = 0, taken = 0;
	int fd = lasting_new();
	int r, passed;

	(void)state;
	while ((r = receiver_send(&receiver, client.router)) == 0)
		assert_true(++sent < 100000);
	assert_int_equal(r, -EAGAIN);
	assert_true(receiver_is_lasting(&receiver));
	run_after(0);
	while ((passed = take(fd)) >= 0) {
		close(passed);
		taken++;
	}
	assert_int_equal(passed, -EAGAIN);
	assert_int_equal(taken, sent);
	assert_int_equal(receiver_send(&receiver, client.router), 0);
	close(take(fd));
	pair_close(&client);
	close(fd);
}

static void test_full_queue_of_a_new_connection(void **state)
{
	struct pair connection = pair_new();
	struct pair client = client_new("");

	(void)state;
	while (fdpass_send(connection.router, '*', client.router) == 0)
		continue;
	assert_int_equal(receiver_send_first_take(&receiver, connection.router, client.router, &socket_file),
			 -EAGAIN);
	assert_int_equal(receiver.state, RECEIVER_UNKNOWN);
	pair_close(&connection);
	pair_close(&client);
}

/* The system lets a user without rights have no more descriptors in flight than he may have open (unix(7),
 * ETOOMANYREFS): that passes too. In a child, as nobody. */
static int send_too_many(void)
{
	struct rlimit limit = { .rlim_cur = 64, .rlim_max = 64 };
	struct pair connection = pair_new(), client = client_new("");
	int r = 0;

	if (setrlimit(RLIMIT_NOFILE, &limit) != 0 ||
	    (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)))
		return 1;
	for (int i = 0; i < 64 && r == 0; i++)
		r = fdpass_send(connection.router, '*', client.router);
	if (r == 0)
		r = fdpass_send(connection.router, '*', client.router);
	if (r == 0)
		r = fdpass_send(connection.router, '*', client.router);
	if (r != -ETOOMANYREFS)
		return 2;
	r = receiver_send_first_take(&receiver, connection.router, client.router, &socket_file);
	return r == -EAGAIN ? 0 : 3;
}

static void test_too_many_in_flight(void **state)
{
	pid_t child = fork();
	int status;

	(void)state;
	if (child == 0)
		_exit(send_too_many());
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

/* ---- another socket at the path -------------------------------------------------------------------- */

static void test_check(void **state)
{
	struct stat other = socket_file;
	int fd = lasting_new();

	(void)state;
	receiver_check(&receiver, &socket_file);
	assert_true(receiver_is_lasting(&receiver));
	other.st_ino++;
	receiver_check(&receiver, &other);
	assert_int_equal(receiver.state, RECEIVER_UNKNOWN);
	assert_ended(fd);
	close(fd);

	fd = lasting_new();
	other = socket_file;
	other.st_dev++;
	receiver_check(&receiver, &other);
	assert_ended(fd);
	close(fd);

	fd = lasting_new();
	receiver_check(&receiver, NULL);
	assert_ended(fd);
	close(fd);
	receiver_check(&receiver, NULL);
	receiver_check(&receiver, &socket_file);
	assert_int_equal(receiver.state, RECEIVER_UNKNOWN);
}

/* The new one may greet although the old one did not get to it. */
static void test_check_while_the_greeting_is_awaited(void **state)
{
	struct stat other = { .st_dev = 1, .st_ino = 2 };
	int fd = send_first("one", &socket_file);

	(void)state;
	receiver_check(&receiver, &other);
	assert_int_equal(receiver.state, RECEIVER_UNKNOWN);
	assert_takes(fd, "one");
	assert_ended(fd);
	close(fd);
	fd = send_first("two", &other);
	assert_int_equal(receiver.state, RECEIVER_ASKED);
	greet(fd, '+');
	run_after(0);
	assert_true(receiver_is_lasting(&receiver));
	receiver_check(&receiver, &other);
	assert_true(receiver_is_lasting(&receiver));
	close(fd);
}

static void test_deinit_while_the_greeting_is_awaited(void **state)
{
	int fd = send_first("one", &socket_file);

	(void)state;
	receiver_deinit(&receiver);
	assert_takes(fd, "one");
	assert_ended(fd);
	run_after(RECEIVER_GREETING_MS); /* no timer is left */
	close(fd);
}

#define RECEIVER_TEST(function) cmocka_unit_test_setup_teardown(function, receiver_setup, receiver_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		RECEIVER_TEST(test_silent_receiver_that_closes),
		RECEIVER_TEST(test_silent_receiver_that_waits_for_the_end),
		RECEIVER_TEST(test_silent_receiver_is_asked_again_after_a_while),
		RECEIVER_TEST(test_client_is_taken_after_the_end),
		RECEIVER_TEST(test_unknown_socket_file_keeps_nothing),
		RECEIVER_TEST(test_another_greeting_is_none),
		RECEIVER_TEST(test_greeting_too_late),
		RECEIVER_TEST(test_lasting_receiver),
		RECEIVER_TEST(test_greeting_before_the_first_client),
		RECEIVER_TEST(test_greeting_at_the_last_moment),
		RECEIVER_TEST(test_clients_while_the_greeting_is_awaited),
		RECEIVER_TEST(test_further_words_of_a_lasting_receiver),
		RECEIVER_TEST(test_end_is_noticed),
		RECEIVER_TEST(test_end_with_clients_unread),
		RECEIVER_TEST(test_end_found_while_sending),
		RECEIVER_TEST(test_half_an_end),
		RECEIVER_TEST(test_first_client_to_a_receiver_that_is_gone),
		RECEIVER_TEST(test_full_queue),
		RECEIVER_TEST(test_full_queue_of_a_new_connection),
		RECEIVER_TEST(test_too_many_in_flight),
		RECEIVER_TEST(test_check),
		RECEIVER_TEST(test_check_while_the_greeting_is_awaited),
		RECEIVER_TEST(test_deinit_while_the_greeting_is_awaited),
	};

	return FIXTURE_RUN(tests);
}
