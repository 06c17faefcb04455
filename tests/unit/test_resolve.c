/*
 * Names, in a network and with an /etc of the test's own: what the hosts file knows is
 * answered at once, everything else is asked of a name server that runs in the same loop and
 * answers by what the name says. Where namespaces cannot be had, numeric addresses and localhost remain.
 */
#include "fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/macros.h"
#include "net/resolve.h"

#define RCODE_SERVFAIL 2 /* RFC 1035 section 4.1.1 */
#define RCODE_NXDOMAIN 3
#define RCODE_REFUSED 5
#define TYPE_AAAA 28 /* RFC 3596 */
#define PENDING 1    /* no error that a query ends with */
#define PORT 4321
#define HOSTS                               \
	"127.0.0.1 localhost\n"             \
	"::1 localhost\n"                   \
	"192.0.2.11 host.test alias.test\n" \
	"2001:db8::11 host6.test\n"

static bool has_own_network;
static struct loop loop;
static struct resolver *resolver;

/* ---- a name server -------------------------------------------------------------------------------- */

#define HEADER_SIZE 12
#define MESSAGE_SIZE 512

static struct {
	struct loop_watch watch;
	unsigned queries;
} server;

/* What the server says to a name: records of either kind, or how it fails. */
static const struct zone_entry {
	const char *name;
	unsigned in_count, in6_count;
	int rcode;
	bool is_silent, is_truncated;
	int expected; /* what the asker is told; 0: all records, up to the limit */
} zone[] = {
	{ .name = "one.test", .in_count = 1 },
	{ .name = "six.test", .in6_count = 1 },
	{ .name = "both.test", .in_count = 2, .in6_count = 3 },
	{ .name = "many.test", .in_count = 20 },
	{ .name = "none.test", .expected = -ENOENT },
	{ .name = "absent.test", .rcode = RCODE_NXDOMAIN, .expected = -ENOENT },
	{ .name = "failing.test", .rcode = RCODE_SERVFAIL, .expected = -EHOSTUNREACH },
	{ .name = "refusing.test", .rcode = RCODE_REFUSED, .expected = -EHOSTUNREACH },
	{ .name = "silent.test", .is_silent = true, .expected = -ETIMEDOUT },
	/* Asked for over TCP then, where nobody listens. Last, since c-ares gives up everything that
	 * it asked of that server meanwhile. */
	{ .name = "large.test", .is_truncated = true, .expected = -EHOSTUNREACH },
};
#define ZONE_AT_ONCE (ARRAY_SIZE(zone) - 1)

static const struct zone_entry *zone_find(const char *name)
{
	static const struct zone_entry absent = { .rcode = RCODE_NXDOMAIN };

	for (size_t i = 0; i < ARRAY_SIZE(zone); i++) {
		if (!strcmp(zone[i].name, name))
			return &zone[i];
	}
	return &absent;
}

static size_t record_write(unsigned char *at, bool is_in6, unsigned number)
{
	/* The question's name, type, class IN, 60 s, and the address but for its last bytes. */
	static const unsigned char in[] = { 0xc0, HEADER_SIZE, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2 };
	static const unsigned char in6[] = { 0xc0, HEADER_SIZE, 0, TYPE_AAAA, 0,    1,    0,    0,
					     0,    60,          0, 16,        0x20, 0x01, 0x0d, 0xb8 };
	size_t length = is_in6 ? sizeof(in6) : sizeof(in);

	memcpy(at, is_in6 ? in6 : in, length);
	if (is_in6) {
		memset(at + length, 0, 11);
		length += 11;
	}
	at[length++] = (unsigned char)(100 + number);
	return length;
}

/* Reads the question's name, with dots. The offset behind the question. */
static size_t question_read(const unsigned char *message, char *name, bool *is_in6)
{
	size_t at = HEADER_SIZE;
	char *end = name;

	while (message[at] != 0) {
		end += sprintf(end, "%s%.*s", end == name ? "" : ".", message[at], message + at + 1);
		at += message[at] + 1u;
	}
	*is_in6 = message[at + 2] == TYPE_AAAA;
	return at + 5;
}

static void server_answer(struct loop_watch *watch, uint32_t events)
{
	unsigned char message[2 * MESSAGE_SIZE] = { 0 };
	struct sockaddr_in asker;
	socklen_t asker_length = sizeof(asker);
	const struct zone_entry *entry;
	char name[256] = "";
	unsigned count;
	size_t length;
	bool is_in6;

	(void)events;
	if (recvfrom(watch->fd, message, MESSAGE_SIZE, 0, (struct sockaddr *)&asker, &asker_length) <= 0)
		return;
	server.queries++;
	length = question_read(message, name, &is_in6);
	entry = zone_find(name);
	if (entry->is_silent)
		return;
	count = is_in6 ? entry->in6_count : entry->in_count;
	message[2] = (unsigned char)(0x84 | (entry->is_truncated ? 2 : 0));
	message[3] = (unsigned char)(0x80 | entry->rcode);
	message[7] = (unsigned char)count;
	memset(message + 8, 0, 4);
	for (unsigned i = 0; i < count; i++)
		length += record_write(message + length, is_in6, i);
	sendto(watch->fd, message, length, 0, (struct sockaddr *)&asker, asker_length);
}

static void server_open(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_port = htons(53),
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	server.queries = 0;
	server.watch = (struct loop_watch){ .on_events = server_answer };
	server.watch.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(server.watch.fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(loop_watch(&loop, &server.watch, EPOLLIN), 0);
}

static void server_close(void)
{
	loop_watch(&loop, &server.watch, 0);
	cleanup_close(&server.watch.fd);
	server.watch.fd = -1;
}

/* ---- an asker ------------------------------------------------------------------------------------- */

struct asker {
	int error;
	size_t count;
	union addr addresses[RESOLVE_ADDRESSES_MAX];
	struct resolve_query *query;
};

static unsigned answers_missing;

static void asker_on_done(void *context, int error, const union addr *addresses, size_t count, uint32_t ttl_s)
{
	struct asker *asker = context;

	(void)ttl_s;
	assert_int_equal(asker->error, PENDING);
	assert_true(count <= RESOLVE_ADDRESSES_MAX);
	assert_true(count > 0 ? error == 0 : error < 0);
	asker->error = error;
	asker->count = count;
	memcpy(asker->addresses, addresses, count * sizeof(*addresses));
	if (--answers_missing == 0)
		loop_stop(&loop);
}

static void ask(struct asker *asker, const char *host)
{
	*asker = (struct asker){ .error = PENDING };
	asker->query = resolve_start(resolver, host, PORT, asker_on_done, asker);
	assert_non_null(asker->query);
	assert_int_equal(asker->error, PENDING);
	answers_missing++;
}

static void run(void)
{
	loop.is_stopping = false;
	assert_int_equal(loop_run(&loop), 0);
	assert_int_equal(answers_missing, 0);
}

static void on_pause_end(struct loop_timer *timer)
{
	(void)timer;
	loop_stop(&loop);
}

static void run_for(uint64_t wait_ms)
{
	struct loop_timer timer = { .on_expire = on_pause_end };

	loop_timer_set(&loop, &timer, clock_now_ms() + wait_ms);
	loop.is_stopping = false;
	assert_int_equal(loop_run(&loop), 0);
}

static void assert_answers(const char *host, const char *expected)
{
	char text[ADDR_TEXT_SIZE];
	struct asker asker;

	ask(&asker, host);
	run();
	assert_int_equal(asker.error, 0);
	assert_int_equal(asker.count, 1);
	assert_string_equal(addr_format(&asker.addresses[0], text), expected);
}

static int begin(void **state)
{
	answers_missing = 0;
	if (fixture_setup(state) != 0 || loop_init(&loop) != 0)
		return -1;
	resolver = resolver_new(&loop, NULL);
	server.watch.fd = -1;
	if (has_own_network)
		server_open();
	return resolver ? 0 : -1;
}

static int end(void **state)
{
	resolver_free(resolver);
	server_close();
	loop_run_out(&loop);
	loop_deinit(&loop);
	return fixture_teardown(state);
}

/* ---- without a name server ------------------------------------------------------------------------ */

static void test_numeric_addresses(void **state)
{
	(void)state;
	assert_answers("192.0.2.1", "192.0.2.1:4321");
	assert_answers("2001:db8::1", "[2001:db8::1]:4321");
	assert_answers("::ffff:192.0.2.1", "192.0.2.1:4321");
	assert_int_equal(server.queries, 0);
}

static void test_localhost(void **state)
{
	struct asker asker;
	char text[ADDR_TEXT_SIZE];

	(void)state;
	ask(&asker, "localhost");
	run();
	assert_int_equal(asker.error, 0);
	assert_true(asker.count == 1 || asker.count == 2);
	for (size_t i = 0; i < asker.count; i++) {
		addr_format(&asker.addresses[i], text);
		assert_true(!strcmp(text, "127.0.0.1:4321") || !strcmp(text, "[::1]:4321"));
	}
	assert_int_equal(server.queries, 0);
}

static void test_hosts_file(void **state)
{
	(void)state;
	if (!has_own_network)
		skip();
	assert_answers("host.test", "192.0.2.11:4321");
	assert_answers("alias.test", "192.0.2.11:4321");
	assert_answers("host6.test", "[2001:db8::11]:4321");
	assert_int_equal(server.queries, 0);
}

static void test_words_that_are_no_names(void **state)
{
	char label[80], long_name[400];
	struct asker asker;

	(void)state;
	memset(label, 'a', sizeof(label));
	strcpy(label + 70, ".test");
	memset(long_name, 'a', sizeof(long_name));
	for (size_t i = 50; i < sizeof(long_name); i += 50)
		long_name[i] = '.';
	long_name[sizeof(long_name) - 1] = '\0';
	const char *names[] = { label, long_name, "a..test", "1.2.3.999", "a b.test" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (!has_own_network && i > 2)
			break; /* these may be asked for */
		ask(&asker, names[i]);
		run();
		if (asker.error != -ENOENT)
			print_error("%s: %d\n", names[i], asker.error);
		assert_int_equal(asker.error, -ENOENT);
		assert_int_equal(asker.count, 0);
	}
}

/* Answered before resolve_start() has returned, but not told yet. */
static void test_an_answer_that_is_cancelled(void **state)
{
	struct asker asker, other;

	(void)state;
	ask(&asker, "localhost");
	resolve_cancel(asker.query);
	answers_missing--;
	ask(&other, "localhost");
	run();
	assert_int_equal(asker.error, PENDING);
	assert_int_equal(other.error, 0);
}

static void test_an_answer_whose_resolver_goes(void **state)
{
	struct asker asker;

	(void)state;
	ask(&asker, "localhost");
	resolver_free(STEAL_PTR(resolver));
	loop_run_out(&loop);
	assert_int_equal(asker.error, PENDING);
}

static void ask_again(void *context, int error, const union addr *addresses, size_t count, uint32_t ttl_s)
{
	(void)error;
	(void)addresses;
	(void)count;
	(void)ttl_s;
	ask(context, "localhost");
}

static void test_a_callback_may_ask_again(void **state)
{
	struct asker asker;

	(void)state;
	assert_non_null(resolve_start(resolver, "localhost", PORT, ask_again, &asker));
	run();
	assert_int_equal(asker.error, 0);
}

/* ---- with a name server --------------------------------------------------------------------------- */

static void assert_as_in_zone(const struct asker *asker, const struct zone_entry *entry)
{
	size_t count = MIN(entry->in_count + entry->in6_count, RESOLVE_ADDRESSES_MAX);

	if (asker->error != entry->expected || asker->count != count)
		print_error("%s: %d, %zu addresses\n", entry->name, asker->error, asker->count);
	assert_int_equal(asker->error, entry->expected);
	assert_int_equal(asker->count, count);
	for (size_t i = 0; i < asker->count; i++) {
		bool is_in6 = asker->addresses[i].sa.sa_family == AF_INET6;

		assert_true(is_in6 || asker->addresses[i].sa.sa_family == AF_INET);
		assert_int_equal(
			ntohs(is_in6 ? asker->addresses[i].in6.sin6_port : asker->addresses[i].in.sin_port),
			PORT);
		for (size_t j = 0; j < i; j++)
			assert_false(addr_is_equal(&asker->addresses[i], &asker->addresses[j]));
	}
}

static void test_answers_of_a_name_server(void **state)
{
	struct asker asker;

	(void)state;
	if (!has_own_network)
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(zone); i++) {
		ask(&asker, zone[i].name);
		run();
		assert_as_in_zone(&asker, &zone[i]);
	}
	assert_true(server.queries > ARRAY_SIZE(zone));
}

static void test_many_queries_at_once(void **state)
{
	static struct asker askers[100];

	(void)state;
	if (!has_own_network)
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(askers); i++)
		ask(&askers[i], zone[i % ZONE_AT_ONCE].name);
	run();
	for (size_t i = 0; i < ARRAY_SIZE(askers); i++)
		assert_as_in_zone(&askers[i], &zone[i % ZONE_AT_ONCE]);
}

/* Whoever asks for the same while the answer is awaited: each is told, with its own port, and one that
 * is told may give up another. */
static void on_done_cancel_next(void *context, int error, const union addr *addresses, size_t count,
				uint32_t ttl_s)
{
	struct asker *asker = context;

	asker_on_done(context, error, addresses, count, ttl_s);
	resolve_cancel(asker[1].query);
}

static void test_queries_for_the_same_host(void **state)
{
	struct asker askers[5];

	(void)state;
	if (!has_own_network)
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(askers); i++) {
		askers[i] = (struct asker){ .error = PENDING };
		askers[i].query = resolve_start(resolver, "one.test", (uint16_t)(PORT + i),
						i == 2 ? on_done_cancel_next : asker_on_done, &askers[i]);
	}
	resolve_cancel(askers[0].query);
	answers_missing = 3;
	run();
	for (size_t i = 0; i < ARRAY_SIZE(askers); i++) {
		bool is_told = i != 0 && i != 3;

		assert_int_equal(askers[i].error, is_told ? 0 : PENDING);
		if (is_told)
			assert_int_equal(ntohs(askers[i].addresses[0].in.sin_port), PORT + i);
	}
	assert_answers("one.test", "192.0.2.100:4321");
}

/* However many clients come and go. */
static void test_a_silent_name_server_is_not_flooded(void **state)
{
	struct asker asker;

	(void)state;
	if (!has_own_network)
		skip();
	for (int i = 0; i < 50; i++) {
		ask(&asker, "silent.test");
		answers_missing--;
		resolve_cancel(asker.query);
	}
	ask(&asker, "silent.test");
	run();
	assert_int_equal(asker.error, -ETIMEDOUT);
	assert_true(server.queries <= 4); /* of either kind, and perhaps once more */
}

static void test_no_name_server(void **state)
{
	struct asker asker;

	(void)state;
	if (!has_own_network)
		skip();
	server_close();
	ask(&asker, "one.test");
	run();
	/* c-ares misses one of two refusals, and waits. */
	assert_true(asker.error == -EHOSTUNREACH || asker.error == -ETIMEDOUT);
	/* The same resolver finds one that has come back. */
	server_open();
	assert_answers("one.test", "192.0.2.100:4321");
}

/* In place, as whoever writes it does: the file covers that of the system. */
static void resolv_conf_write(const char *text)
{
	FILE *file = fopen("/etc/resolv.conf", "we");

	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

/* Noticed at the next question, at most a second later; a query under way ends where it was asked. */
static void test_resolv_conf_changes(void **state)
{
	struct asker silent, other;

	(void)state;
	if (!has_own_network)
		skip();
	assert_answers("one.test", "192.0.2.100:4321");
	run_for(900);
	ask(&silent, "silent.test");
	resolv_conf_write("nameserver 127.0.0.2\n"); /* nobody is there */
	run_for(110);
	ask(&other, "one.test");
	run();
	assert_int_equal(silent.error, -ETIMEDOUT);
	assert_true(other.error == -EHOSTUNREACH || other.error == -ETIMEDOUT);
	resolv_conf_write("nameserver 127.0.0.1\n");
	run_for(1000);
	assert_answers("one.test", "192.0.2.100:4321");
}

/* Then the file does not matter. */
static void test_servers_that_are_given(void **state)
{
	struct dns_servers given = { .count = 1 };

	(void)state;
	if (!has_own_network)
		skip();
	resolv_conf_write("nameserver 127.0.0.2\n");
	assert_int_equal(addr_parse_numeric("127.0.0.1", strlen("127.0.0.1"), DNS_PORT, &given.addresses[0]),
			 0);
	resolver_free(resolver);
	resolver = resolver_new(&loop, &given);
	assert_answers("one.test", "192.0.2.100:4321");
	resolv_conf_write("nameserver 127.0.0.1\n");
	resolver_free(STEAL_PTR(resolver)); /* it has borrowed them */
}

static void test_queries_that_are_cancelled(void **state)
{
	struct asker answered, silent, other;

	(void)state;
	if (!has_own_network)
		skip();
	ask(&answered, "one.test");
	ask(&silent, "silent.test");
	resolve_cancel(answered.query);
	resolve_cancel(silent.query);
	answers_missing -= 2;
	ask(&other, "one.test");
	run();
	run_for(500); /* silent.test is given up meanwhile */
	assert_int_equal(answered.error, PENDING);
	assert_int_equal(silent.error, PENDING);
	assert_int_equal(other.error, 0);
	assert_int_equal(loop.heap_length, 0);
}

static void test_queries_whose_resolver_goes(void **state)
{
	struct asker askers[2 * ARRAY_SIZE(zone)];

	(void)state;
	if (!has_own_network)
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(askers); i++)
		ask(&askers[i], zone[i % ARRAY_SIZE(zone)].name);
	for (size_t i = 0; i < ARRAY_SIZE(zone); i++)
		resolve_cancel(askers[i].query);
	resolver_free(STEAL_PTR(resolver));
	assert_int_equal(loop.heap_length, 0);
	run_for(20);
	for (size_t i = 0; i < ARRAY_SIZE(askers); i++)
		assert_int_equal(askers[i].error, PENDING);
}

static void test_no_resolver_is_freed_harmlessly(void **state)
{
	(void)state;
	resolver_free(NULL);
}

/* ---- the test's own network ----------------------------------------------------------------------- */

static bool file_write(const char *path, const char *text)
{
	CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

/* Covers a file of /etc for this program alone. */
static bool file_cover(const char *path, const char *text)
{
	char own[] = "/tmp/test-resolve-XXXXXX";
	int fd = mkstemp(own);
	bool is_covered;

	if (fd < 0)
		return false;
	close(fd);
	is_covered = chmod(own, 0644) == 0 && file_write(own, text) &&
		     mount(own, path, NULL, MS_BIND, NULL) == 0;
	unlink(own);
	return is_covered;
}

/* As root, or as root of a namespace of one's own. */
static bool namespaces_enter(void)
{
	char uid_map[32], gid_map[32];

	if (unshare(CLONE_NEWNET | CLONE_NEWNS) == 0)
		return true;
	snprintf(uid_map, sizeof(uid_map), "0 %u 1", getuid());
	snprintf(gid_map, sizeof(gid_map), "0 %u 1", getgid());
	return unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS) == 0 &&
	       file_write("/proc/self/setgroups", "deny") && file_write("/proc/self/uid_map", uid_map) &&
	       file_write("/proc/self/gid_map", gid_map);
}

static bool network_make(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	CLEANUP_CLOSE int fd = -1;

	if (!namespaces_enter() || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
		return false;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) != 0)
		return false;
	/* retrans and retry are c-ares' own: it gives up after one wait of that many milliseconds */
	setenv("RES_OPTIONS", "retrans:200 retry:1", 1);
	setenv("LOCALDOMAIN", "test", 1);
	return file_cover("/etc/hosts", HOSTS) && file_cover("/etc/resolv.conf", "nameserver 127.0.0.1\n");
}

#define RESOLVE_TEST(function) cmocka_unit_test_setup_teardown(function, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		RESOLVE_TEST(test_numeric_addresses),
		RESOLVE_TEST(test_localhost),
		RESOLVE_TEST(test_hosts_file),
		RESOLVE_TEST(test_words_that_are_no_names),
		RESOLVE_TEST(test_an_answer_that_is_cancelled),
		RESOLVE_TEST(test_an_answer_whose_resolver_goes),
		RESOLVE_TEST(test_a_callback_may_ask_again),
		RESOLVE_TEST(test_answers_of_a_name_server),
		RESOLVE_TEST(test_many_queries_at_once),
		RESOLVE_TEST(test_queries_for_the_same_host),
		RESOLVE_TEST(test_a_silent_name_server_is_not_flooded),
		RESOLVE_TEST(test_no_name_server),
		RESOLVE_TEST(test_resolv_conf_changes),
		RESOLVE_TEST(test_servers_that_are_given),
		RESOLVE_TEST(test_queries_that_are_cancelled),
		RESOLVE_TEST(test_queries_whose_resolver_goes),
		RESOLVE_TEST(test_no_resolver_is_freed_harmlessly),
	};

	has_own_network = network_make();
	return FIXTURE_RUN(tests);
}
