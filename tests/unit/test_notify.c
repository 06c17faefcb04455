/*
 * Messages to a service manager that this program plays itself.
 */
#include "fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/notify.h"

/* Binds a datagram socket to the bytes of name, a leading '@' being the abstract mark. */
static int manager_open(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	assert_true(strlen(name) <= sizeof(address.sun_path));
	memcpy(address.sun_path, name, strlen(name));
	if (name[0] == '@')
		address.sun_path[0] = '\0';
	assert_int_equal(bind(fd, (struct sockaddr *)&address, length), 0);
	return fd;
}

static void assert_receives(int fd, const char *expected)
{
	char message[256];
	ssize_t length = recv(fd, message, sizeof(message) - 1, 0);

	assert_true(length >= 0);
	message[length] = '\0';
	assert_string_equal(message, expected);
}

static void test_without_a_manager_nothing_happens(void **state)
{
	(void)state;
	unsetenv("NOTIFY_SOCKET");
	assert_int_equal(notify_send("READY=1"), 0);
	setenv("NOTIFY_SOCKET", "", 1);
	assert_int_equal(notify_send("READY=1"), 0);
}

static void test_path(void **state)
{
	char directory[] = "/tmp/test-notify-XXXXXX";
	char path[64];
	int fd;

	(void)state;
	assert_non_null(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/manager", directory);
	fd = manager_open(path);
	setenv("NOTIFY_SOCKET", path, 1);
	assert_int_equal(notify_send("READY=1\nSTATUS=2 sockets"), 0);
	assert_receives(fd, "READY=1\nSTATUS=2 sockets");
	assert_int_equal(notify_send("STOPPING=1"), 0);
	assert_receives(fd, "STOPPING=1");
	close(fd);
	assert_int_equal(notify_send("READY=1"), -ECONNREFUSED);
	unlink(path);
	assert_int_equal(notify_send("READY=1"), -ENOENT);
	rmdir(directory);
}

/* A name of this process's own, filled up to length bytes. */
static void check_abstract(size_t length)
{
	char name[128];
	int fd;

	memset(name, 'n', sizeof(name));
	name[snprintf(name, sizeof(name), "@test-notify-%d", (int)getpid())] = 'n';
	name[length] = '\0';
	fd = manager_open(name);
	setenv("NOTIFY_SOCKET", name, 1);
	assert_int_equal(notify_send("READY=1"), 0);
	assert_receives(fd, "READY=1");
	close(fd);
}

static void test_abstract_name(void **state)
{
	(void)state;
	check_abstract(24);
}

static void test_abstract_name_that_fills_the_address(void **state)
{
	(void)state;
	check_abstract(108);
}

static void test_addresses_that_are_none(void **state)
{
	char name[110] = "/";

	(void)state;
	setenv("NOTIFY_SOCKET", "vsock:2:1234", 1);
	assert_int_equal(notify_send("READY=1"), -EAFNOSUPPORT);
	setenv("NOTIFY_SOCKET", "relative/path", 1);
	assert_int_equal(notify_send("READY=1"), -EAFNOSUPPORT);
	memset(name + 1, 'n', 108);
	setenv("NOTIFY_SOCKET", name, 1);
	assert_int_equal(notify_send("READY=1"), -ENAMETOOLONG);
}

static void test_full_queue_does_not_block(void **state)
{
	char name[64];
	int fd, r = 0;

	(void)state;
	snprintf(name, sizeof(name), "@test-notify-full-%d", (int)getpid());
	fd = manager_open(name);
	setenv("NOTIFY_SOCKET", name, 1);
	for (int i = 0; i < 100000 && r == 0; i++)
		r = notify_send("WATCHDOG=1");
	assert_int_equal(r, -EAGAIN);
	close(fd);
}

/* What $WATCHDOG_USEC and $WATCHDOG_PID ask for; NULL: not set. */
static uint64_t watchdog_with(const char *interval, const char *process)
{
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
	if (interval)
		setenv("WATCHDOG_USEC", interval, 1);
	if (process)
		setenv("WATCHDOG_PID", process, 1);
	return notify_watchdog_ms();
}

static void test_watchdog(void **state)
{
	char own[16], other[16];

	(void)state;
	snprintf(own, sizeof(own), "%d", (int)getpid());
	snprintf(other, sizeof(other), "%d", (int)getppid());
	assert_int_equal(watchdog_with(NULL, NULL), 0);
	assert_int_equal(watchdog_with(NULL, own), 0);
	assert_int_equal(watchdog_with("30000000", NULL), 30000);
	assert_int_equal(watchdog_with("30000000", own), 30000);
	assert_int_equal(watchdog_with("1999", own), 1);
	assert_int_equal(watchdog_with("1", own), 1);
	assert_int_equal(watchdog_with("30000000", other), 0);
	assert_int_equal(watchdog_with("30000000", "0"), 0);
	assert_int_equal(watchdog_with("30000000", ""), 0);
	assert_int_equal(watchdog_with("30000000", "self"), 0);
	assert_int_equal(watchdog_with("0", own), 0);
	assert_int_equal(watchdog_with("", own), 0);
	assert_int_equal(watchdog_with("-1", own), 0);
	assert_int_equal(watchdog_with("1s", own), 0);
	assert_int_equal(watchdog_with("99999999999999999999", own), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FIXTURE_TEST(test_without_a_manager_nothing_happens),
		FIXTURE_TEST(test_path),
		FIXTURE_TEST(test_abstract_name),
		FIXTURE_TEST(test_abstract_name_that_fills_the_address),
		FIXTURE_TEST(test_addresses_that_are_none),
		FIXTURE_TEST(test_full_queue_does_not_block),
		FIXTURE_TEST(test_watchdog),
	};

	return FIXTURE_RUN(tests);
}
