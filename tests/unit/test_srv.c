/*
 * Service names, with a name server that runs in the same loop and says what the test wants, and a clock that the test
 * can put forward.
 */
#include "fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/macros.h"
#include "dns_message.h"
#include "net/srv.h"

#define NAME "_http._tcp.example.test"
#define PENDING 1 /* no error that a query ends with */
#define QUERY_SIZE 512
#define UDP_SIZE 1232

static uint64_t clock_ahead_ms;

/* In place of the C library's, for the program under test too, and for c-ares. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
	int r = (int)syscall(SYS_clock_gettime, clock, now);

	now->tv_sec += (time_t)(clock_ahead_ms / 1000);
	now->tv_nsec += (long)(clock_ahead_ms % 1000) * 1000000;
	if (now->tv_nsec >= 1000000000) {
		now->tv_sec++;
		now->tv_nsec -= 1000000000;
	}
	return r;
}

static struct loop loop;
static struct resolver *resolver;
static struct srv_cache *cache;
static struct dns_servers servers;

/* ---- the name server ---------------------------------------------------------------------------------- */

struct zone_target {
	unsigned priority, weight, port;
	const char *host;
};

/* What it says; hosts are hN.test, whose address is 127.0.0.N, save for those named here. */
static struct {
	struct zone_target targets[300];
	size_t count;
	unsigned ttl, host_ttl;
	int rcode, host_rcode;
	bool is_silent, is_old; /* it knows nothing of EDNS */
	const char *silent_host, *absent_host;
	void (*spoil)(struct dns_message *answer); /* before it is sent */
	bool says_right_after;                     /* what was spoiled is sent, then the right one */
} zone;

static struct {
	struct loop_watch udp, tcp, stream;
	unsigned services, hosts, over_tcp; /* queries for */
} server;

static void host_answer(struct dns_message *answer, const char *name, unsigned type)
{
	unsigned number = 0;

	zone.host_rcode = zone.absent_host && !strcmp(name, zone.absent_host) ? DNS_NXDOMAIN : 0;
	answer->bytes[3] |= (uint8_t)zone.host_rcode;
	if (type == DNS_A && zone.host_rcode == 0 && sscanf(name, "h%u.test", &number) == 1)
		dns_message_record(answer, name, DNS_A, zone.host_ttl,
				   (const uint8_t[]){ 127, 0, 0, (uint8_t)number }, 4);
}

static void service_answer(struct dns_message *answer, const char *name)
{
	answer->bytes[3] |= (uint8_t)zone.rcode;
	for (size_t i = 0; i < zone.count && zone.rcode == 0; i++)
		dns_message_srv(answer, name, zone.ttl, zone.targets[i].priority, zone.targets[i].weight,
				zone.targets[i].port, zone.targets[i].host);
}

/* False: nothing is said to that. */
static bool server_make(const uint8_t *query, size_t length, struct dns_message *answer, bool is_spoiled)
{
	char name[256];
	unsigned type;

	dns_question_read(query, length, name, &type);
	if (zone.is_silent || (zone.silent_host && !strcmp(name, zone.silent_host)))
		return false;
	dns_message_begin(answer, name, type);
	memcpy(answer->bytes, query, 2);
	if (zone.is_old && query[11] > 0)
		answer->bytes[3] |= DNS_FORMERR;
	else if (type == DNS_SRV)
		service_answer(answer, name);
	else
		host_answer(answer, name, type);
	if (is_spoiled && type == DNS_SRV)
		zone.spoil(answer);
	return true;
}

static void server_count(const uint8_t *query, size_t length)
{
	char name[256];
	unsigned type;

	dns_question_read(query, length, name, &type);
	if (type == DNS_SRV)
		server.services++;
	else
		server.hosts++;
}

static void server_on_udp(struct loop_watch *watch, uint32_t events)
{
	static struct dns_message answer;
	uint8_t query[QUERY_SIZE];
	struct sockaddr_in asker;
	socklen_t asker_length = sizeof(asker);
	ssize_t length =
		recvfrom(watch->fd, query, sizeof(query), 0, (struct sockaddr *)&asker, &asker_length);

	(void)events;
	if (length <= 0)
		return;
	server_count(query, (size_t)length);
	for (int i = zone.spoil && zone.says_right_after ? 0 : 1; i < 2; i++) {
		if (!server_make(query, (size_t)length, &answer,
				 zone.spoil && (i == 0 || !zone.says_right_after)))
			return;
		if (answer.length > UDP_SIZE) {
			answer.bytes[2] |= 2; /* truncated */
			answer.length = UDP_SIZE;
		}
		sendto(watch->fd, answer.bytes, answer.length, 0, (struct sockaddr *)&asker, asker_length);
	}
}

static void server_on_stream(struct loop_watch *watch, uint32_t events)
{
	static struct dns_message answer;
	uint8_t query[2 + QUERY_SIZE], size[2];
	ssize_t length = recv(watch->fd, query, sizeof(query), 0);

	(void)events;
	if (length <= 2) {
		loop_watch(&loop, watch, 0);
		close(watch->fd);
		watch->fd = -1;
		return;
	}
	server_count(query + 2, (size_t)length - 2);
	server.over_tcp++;
	if (!server_make(query + 2, (size_t)length - 2, &answer, zone.spoil))
		return;
	size[0] = (uint8_t)(answer.length >> 8);
	size[1] = (uint8_t)answer.length;
	assert_int_equal(send(watch->fd, size, 2, 0), 2);
	assert_int_equal(send(watch->fd, answer.bytes, answer.length, 0), answer.length);
}

static void server_on_tcp(struct loop_watch *watch, uint32_t events)
{
	(void)events;
	assert_int_equal(server.stream.fd, -1);
	server.stream = (struct loop_watch){ .on_events = server_on_stream };
	server.stream.fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC);
	assert_int_equal(loop_watch(&loop, &server.stream, EPOLLIN), 0);
}

/* One port of both kinds; which the kernel gives for one may be taken in the other. */
static bool server_bind(void)
{
	struct sockaddr_in *address = &servers.addresses[0].in;
	socklen_t length = sizeof(*address);

	*address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	server.udp.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	server.tcp.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(server.udp.fd, (struct sockaddr *)address, length) == 0 &&
	    getsockname(server.udp.fd, (struct sockaddr *)address, &length) == 0 &&
	    bind(server.tcp.fd, (struct sockaddr *)address, length) == 0)
		return true;
	close(server.udp.fd);
	close(server.tcp.fd);
	return false;
}

static void server_open(void)
{
	unsigned tries = 0;

	memset(&server, 0, sizeof(server));
	server.udp = (struct loop_watch){ .on_events = server_on_udp };
	server.tcp = (struct loop_watch){ .on_events = server_on_tcp };
	server.stream.fd = -1;
	servers.count = 1;
	while (!server_bind())
		assert_true(++tries < 100);
	assert_int_equal(listen(server.tcp.fd, 8), 0);
	assert_int_equal(loop_watch(&loop, &server.udp, EPOLLIN), 0);
	assert_int_equal(loop_watch(&loop, &server.tcp, EPOLLIN), 0);
}

static void server_close(void)
{
	struct loop_watch *watches[] = { &server.udp, &server.tcp, &server.stream };

	for (size_t i = 0; i < ARRAY_SIZE(watches); i++) {
		loop_watch(&loop, watches[i], 0);
		cleanup_close(&watches[i]->fd);
		watches[i]->fd = -1;
	}
}

/* ---- an asker ------------------------------------------------------------------------------------------ */

struct asker {
	int error;
	struct srv_answer *answer; /* a reference */
	struct srv_query *query;
};

static unsigned answers_missing;
static struct asker asker;

static void asker_on_done(void *context, int error, struct srv_answer *answer)
{
	struct asker *told = context;

	assert_int_equal(told->error, PENDING);
	assert_true(answer ? error == 0 && answer->count > 0 : error < 0);
	told->error = error;
	told->answer = answer;
	if (answer)
		srv_answer_ref(answer);
	if (--answers_missing == 0)
		loop_stop(&loop);
}

static void asker_forget(struct asker *told)
{
	srv_answer_unref(told->answer);
	*told = (struct asker){ .error = PENDING };
}

static void ask_for(struct asker *told, const char *name)
{
	asker_forget(told);
	told->query = srv_start(cache, name, asker_on_done, told);
	assert_non_null(told->query);
	assert_int_equal(told->error, PENDING);
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

/* Long enough for a question and its answer, in time that really goes by. */
static void run_a_while(void)
{
	struct loop_timer timer = { .on_expire = on_pause_end };

	loop_timer_set(&loop, &timer, clock_now_ms() + 20);
	loop.is_stopping = false;
	assert_int_equal(loop_run(&loop), 0);
	loop_timer_cancel(&loop, &timer);
}

/* Time goes by at once; then everybody does what it is time for. */
static void advance(uint64_t wait_ms)
{
	clock_ahead_ms += wait_ms;
	run_a_while();
}

/* Asks, and waits for the answer. */
static int ask(void)
{
	ask_for(&asker, NAME);
	run();
	return asker.error;
}

/* "host:port@address ..." of all targets. */
static const char *answer_text(const struct srv_answer *answer)
{
	static char text[16384];
	size_t length = 0;

	text[0] = '\0';
	for (size_t i = 0; i < answer->count; i++) {
		const struct srv_target *target = &answer->targets[i];

		length += (size_t)sprintf(text + length, "%s%s:%u", i ? " " : "", target->host, target->port);
		for (unsigned j = 0; j < target->address_count; j++) {
			char address[ADDR_TEXT_SIZE];

			length += (size_t)sprintf(text + length, "@%s",
						  addr_format(&target->addresses[j], address));
		}
	}
	return text;
}

static void assert_answer(const char *expected)
{
	assert_int_equal(asker.error, 0);
	assert_string_equal(answer_text(asker.answer), expected);
}

#define ONE "h1.test:81@127.0.0.1:81"
#define TWO "h2.test:82@127.0.0.2:82"

static void zone_set(size_t count, const struct zone_target *targets)
{
	memcpy(zone.targets, targets, count * sizeof(*targets));
	zone.count = count;
}

static void zone_set_one(const char *host, unsigned port)
{
	zone_set(1, &(struct zone_target){ 1, 1, port, host });
}

static void zone_set_two(void)
{
	zone_set(2, (struct zone_target[]){ { 2, 1, 82, "h2.test" }, { 1, 1, 81, "h1.test" } });
}

static int begin(void **state)
{
	memset(&zone, 0, sizeof(zone));
	zone.ttl = zone.host_ttl = 100;
	zone_set_one("h1.test", 81);
	asker = (struct asker){ .error = PENDING };
	answers_missing = 0;
	if (fixture_setup(state) != 0 || loop_init(&loop) != 0)
		return -1;
	loop.catch_up_end_ms = 0;
	server_open();
	resolver = resolver_new(&loop, &servers);
	cache = resolver ? srv_cache_new(&loop, resolver) : NULL;
	return cache ? 0 : -1;
}

static int end(void **state)
{
	asker_forget(&asker);
	srv_cache_free(cache);
	resolver_free(resolver);
	server_close();
	loop_run_out(&loop);
	assert_int_equal(loop.heap_length, 0);
	loop_deinit(&loop);
	return fixture_teardown(state);
}

/* ---- answers ------------------------------------------------------------------------------------------- */

static void test_answer(void **state)
{
	(void)state;
	zone_set_two();
	assert_int_equal(ask(), 0);
	assert_answer(ONE " " TWO);
	assert_int_equal(asker.answer->targets[1].priority, 2);
	assert_int_equal(asker.answer->targets[1].weight, 1);
	assert_false(srv_answer_is_stale(asker.answer));
	assert_in_range(asker.answer->expires_ms - clock_now_ms(), 99000, 100000);
}

static void test_answer_is_kept(void **state)
{
	struct srv_answer *first;

	(void)state;
	ask();
	first = asker.answer;
	srv_answer_ref(first);
	for (const char *const *name =
		     (const char *const[]){ NAME, NAME ".", "_HTTP._tcp.Example.test", NULL };
	     *name; name++) {
		ask_for(&asker, *name);
		run();
		assert_ptr_equal(asker.answer, first);
	}
	srv_answer_unref(first);
	assert_int_equal(server.services, 1);
	assert_int_equal(server.hosts, 2); /* both kinds of addresses */
}

static void test_look_up_is_shared(void **state)
{
	static struct asker askers[100];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(askers); i++)
		ask_for(&askers[i], NAME);
	run();
	for (size_t i = 0; i < ARRAY_SIZE(askers); i++) {
		assert_ptr_equal(askers[i].answer, askers[0].answer);
		if (i > 0)
			asker_forget(&askers[i]);
	}
	asker_forget(&askers[0]);
	assert_int_equal(server.services, 1);
}

static void test_words_that_are_no_names(void **state)
{
	(void)state;
	for (const char *const *name = (const char *const[]){ "", ".", "a..b", "a b", "a/b", NULL }; *name;
	     name++) {
		ask_for(&asker, *name);
		run();
		assert_int_equal(asker.error, -ENOENT);
	}
	assert_int_equal(server.services, 0);
}

static void test_there_is_none(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++) {
		zone.rcode = i == 0 ? DNS_NXDOMAIN : 0;
		zone_set_one("", 0); /* "." */
		zone.count = i == 2 ? 1 : 0;
		server.services = 0;
		assert_int_equal(ask(), -ENOENT);
		assert_int_equal(ask(), -ENOENT);
		assert_int_equal(server.services, 1);
		advance(5000);
	}
	assert_int_equal(server.services, 1); /* nobody has asked */
	zone_set_one("h1.test", 81);
	assert_int_equal(ask(), 0);
	assert_answer(ONE);
}

/* That is an answer like any other: the earlier one does not go on. */
static void test_there_is_none_any_more(void **state)
{
	(void)state;
	assert_int_equal(ask(), 0);
	zone.rcode = DNS_NXDOMAIN;
	advance(101000);
	assert_int_equal(ask(), -ENOENT);
}

/* ---- time ---------------------------------------------------------------------------------------------- */

static void test_refreshed_while_in_use(void **state)
{
	(void)state;
	ask();
	ask();
	zone_set_one("h2.test", 82);
	advance(74000);
	assert_int_equal(server.services, 1);
	advance(2000);
	assert_int_equal(server.services, 2);
	assert_int_equal(ask(), 0);
	assert_answer(TWO);
	assert_int_equal(server.services, 2);
}

static void test_not_refreshed_when_unused(void **state)
{
	(void)state;
	ask();
	advance(76000);
	advance(500000);
	assert_int_equal(server.services, 1);
	zone_set_one("h2.test", 82);
	ask();
	assert_answer(TWO);
}

/* Asked for in its last quarter: the answer at hand, and a look-up behind it. */
static void test_refreshed_late(void **state)
{
	(void)state;
	ask();
	advance(90000);
	zone_set_one("h2.test", 82);
	ask();
	assert_answer(ONE);
	run_a_while();
	assert_int_equal(server.services, 2);
	ask();
	assert_answer(TWO);
}

static void test_no_time_to_live(void **state)
{
	struct asker other = { .error = PENDING };

	(void)state;
	zone.ttl = 0;
	for (unsigned i = 1; i < 5; i++) {
		ask_for(&other, NAME);
		ask();
		assert_answer(ONE);
		assert_ptr_equal(other.answer, asker.answer);
		assert_false(srv_answer_is_stale(asker.answer));
		assert_int_equal(server.services, i);
	}
	asker_forget(&other);
}

static void test_time_is_bounded(void **state)
{
	(void)state;
	zone.ttl = zone.host_ttl = 1000000;
	ask();
	assert_in_range(asker.answer->expires_ms - clock_now_ms(), 3599000, 3600000);
}

static void test_hosts_bound_the_time(void **state)
{
	(void)state;
	for (unsigned ttl = 0; ttl <= 20; ttl += 20) {
		zone.host_ttl = ttl;
		ask();
		assert_in_range(asker.answer->expires_ms - clock_now_ms(), ttl ? 19000 : 900,
				ttl ? 20000 : 1000);
		advance(101000);
	}
}

/* ---- while DNS is away ---------------------------------------------------------------------------------- */

static void test_last_answer_goes_on(void **state)
{
	static const unsigned pauses_ms[] = { 1000, 2000, 4000, 8000, 16000, 30000, 30000 };
	unsigned queries;

	(void)state;
	ask();
	zone.rcode = DNS_SERVFAIL;
	advance(101000);
	ask();
	assert_answer(ONE);
	assert_true(srv_answer_is_stale(asker.answer));
	for (size_t i = 0; i < ARRAY_SIZE(pauses_ms); i++) {
		queries = server.services;
		advance(pauses_ms[i] - 300);
		assert_int_equal(server.services, queries);
		advance(400);
		assert_true(server.services > queries);
		ask();
		assert_answer(ONE);
	}
	zone.rcode = 0;
	zone_set_one("h2.test", 82);
	advance(30000);
	ask();
	assert_answer(TWO);
	assert_false(srv_answer_is_stale(asker.answer));
}

/* Before it expires, nobody notices. */
static void test_failure_while_fresh(void **state)
{
	(void)state;
	ask();
	ask();
	zone.rcode = DNS_REFUSED;
	advance(76000);
	assert_true(server.services > 1);
	ask();
	assert_answer(ONE);
	assert_false(srv_answer_is_stale(asker.answer));
	zone.rcode = 0;
	zone_set_one("h2.test", 82);
	advance(1000);
	ask();
	assert_answer(TWO);
}

static void test_silence_is_waited_for_a_moment(void **state)
{
	uint64_t begun_ms;

	(void)state;
	ask();
	zone.is_silent = true;
	advance(101000);
	begun_ms = clock_now_ms();
	ask();
	assert_answer(ONE);
	assert_in_range(clock_now_ms() - begun_ms, 900, 2500);
	assert_int_equal(server.services, 2);
	/* Whoever comes later, while the same look-up goes on, does not wait. */
	begun_ms = clock_now_ms();
	ask();
	assert_answer(ONE);
	assert_in_range(clock_now_ms() - begun_ms, 0, 500);
	assert_int_equal(server.services, 2);
}

static void test_silence_without_an_earlier_answer(void **state)
{
	(void)state;
	zone.is_silent = true;
	ask_for(&asker, NAME);
	run_a_while();
	assert_int_equal(server.services, 1);
	advance(2000);
	assert_int_equal(server.services, 2);
	advance(4000);
	assert_int_equal(server.services, 3);
	assert_int_equal(asker.error, PENDING);
	advance(8000);
	assert_int_equal(asker.error, -ETIMEDOUT);
	/* The next one does not wait as long for the same. */
	ask();
	assert_int_equal(asker.error, -ETIMEDOUT);
	assert_int_equal(server.services, 3);
	zone.is_silent = false;
	advance(1000);
	ask();
	assert_answer(ONE);
}

static void test_failure_without_an_earlier_answer(void **state)
{
	(void)state;
	zone.rcode = DNS_SERVFAIL;
	assert_int_equal(ask(), -EHOSTUNREACH);
	zone.rcode = 0;
	assert_int_equal(ask(), -EHOSTUNREACH);
	advance(1000);
	assert_int_equal(ask(), 0);
}

static void test_nobody_is_there(void **state)
{
	(void)state;
	ask();
	server_close();
	advance(101000);
	ask();
	assert_answer(ONE);
	ask_for(&asker, "other.test");
	run();
	assert_int_equal(asker.error, -EHOSTUNREACH);
}

/* Another thread has asked for the name, this one has not: it is not without an answer either. */
static void test_caches_share_the_last_answer(void **state)
{
	struct srv_cache *first = cache;

	(void)state;
	ask();
	cache = srv_cache_new(&loop, resolver);
	zone.rcode = DNS_SERVFAIL;
	ask();
	assert_answer(ONE);
	/* What one of them learns, the other has when it cannot learn it. */
	zone.rcode = 0;
	zone_set_one("h2.test", 82);
	advance(101000);
	ask();
	assert_answer(TWO);
	zone.rcode = DNS_SERVFAIL;
	srv_cache_free(cache);
	cache = first;
	ask();
	assert_answer(TWO);
}

/* ---- hosts ---------------------------------------------------------------------------------------------- */

static void test_host_is_absent(void **state)
{
	(void)state;
	zone_set_two();
	zone.absent_host = "h1.test";
	ask();
	assert_answer(TWO);
	assert_in_range(asker.answer->expires_ms - clock_now_ms(), 4000, 5000); /* it may come soon */
	zone_set_one("h1.test", 81);
	advance(5000);
	assert_int_equal(ask(), -ENOENT);
}

static void test_host_is_silent(void **state)
{
	(void)state;
	zone_set_two();
	zone.silent_host = "h1.test";
	ask_for(&asker, NAME);
	run_a_while();
	assert_int_equal(asker.error, PENDING);
	advance(3000);
	assert_answer(TWO);
	zone.silent_host = NULL;
	advance(20000); /* c-ares has asked again */
	ask();
	assert_answer(ONE " " TWO);
	/* It keeps the address that it had. */
	zone.silent_host = "h1.test";
	zone_set(2, (struct zone_target[]){ { 1, 1, 91, "h1.test" }, { 1, 1, 83, "h3.test" } });
	advance(101000);
	ask_for(&asker, NAME);
	run_a_while();
	advance(1000);
	assert_answer(ONE " " TWO); /* nobody waits that long for the new one */
	advance(2000);
	ask();
	assert_answer("h1.test:91@127.0.0.1:91 h3.test:83@127.0.0.3:83");
}

static void test_many_targets(void **state)
{
	static char hosts[300][16];

	(void)state;
	for (unsigned i = 0; i < 300; i++) {
		sprintf(hosts[i], "h%u.test", 1 + i % 200);
		zone.targets[i] = (struct zone_target){ i, 1, 1 + i, hosts[i] };
	}
	zone.count = 100;
	assert_int_equal(ask(), 0);
	assert_int_equal(asker.answer->count, 100);
	assert_int_equal(server.over_tcp, 1);
	for (unsigned i = 0; i < 100; i++) {
		const struct srv_target *target = &asker.answer->targets[i];

		assert_int_equal(target->port, 1 + i);
		assert_int_equal(target->address_count, 1);
		assert_int_equal(ntohl(target->addresses[0].in.sin_addr.s_addr), INADDR_LOOPBACK + i % 200);
		assert_int_equal(ntohs(target->addresses[0].in.sin_port), 1 + i);
	}
	zone.count = 300;
	advance(101000);
	assert_int_equal(ask(), 0);
	assert_int_equal(asker.answer->count, SRV_TARGETS_MAX);
}

static void test_server_of_old(void **state)
{
	(void)state;
	zone.is_old = true;
	assert_int_equal(ask(), 0);
	assert_answer(ONE);
	assert_int_equal(server.services, 2);
}

/* ---- hostile answers ------------------------------------------------------------------------------------ */

static void spoil_id(struct dns_message *answer)
{
	answer->bytes[1] ^= 1;
}

static void spoil_question(struct dns_message *answer)
{
	answer->bytes[13] ^= 2;
}

static void spoil_response(struct dns_message *answer)
{
	answer->bytes[2] = 0;
}

static void spoil_record(struct dns_message *answer)
{
	answer->bytes[answer->length - 1] = 'x';
}

static void spoil_length(struct dns_message *answer)
{
	answer->length = 5;
}

static void spoil_count(struct dns_message *answer)
{
	dns_message_set_count(answer, 65535);
}

/* What is meant for somebody else, or nobody, is not heard: the right one comes behind it. */
static void test_answers_that_are_not_ours(void **state)
{
	void (*const spoils[])(struct dns_message *) = { spoil_id, spoil_question, spoil_length };

	(void)state;
	zone.ttl = 0;
	zone.says_right_after = true;
	for (size_t i = 0; i < ARRAY_SIZE(spoils); i++) {
		zone.spoil = spoils[i];
		assert_int_equal(ask(), 0);
		assert_answer(ONE);
	}
}

static void test_answers_without_sense(void **state)
{
	void (*const spoils[])(struct dns_message *) = { spoil_response, spoil_record, spoil_count };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(spoils); i++) {
		zone.spoil = spoils[i];
		assert_int_equal(ask(), -EBADMSG);
		advance(1000);
	}
	/* They do no harm to what was there. */
	zone.spoil = NULL;
	assert_int_equal(ask(), 0);
	zone.spoil = spoil_record;
	advance(101000);
	ask();
	assert_answer(ONE);
}

/* ---- queries that are given up ---------------------------------------------------------------------------- */

static void test_cancelled(void **state)
{
	struct asker other = { .error = PENDING };

	(void)state;
	ask_for(&other, NAME);
	ask_for(&asker, NAME);
	srv_cancel(other.query);
	answers_missing--;
	run();
	assert_answer(ONE);
	assert_int_equal(other.error, PENDING);
	ask_for(&other, NAME); /* is to be told from the cache */
	srv_cancel(other.query);
	answers_missing--;
	run_a_while();
	assert_int_equal(other.error, PENDING);
}

static void on_done_cancel_next(void *context, int error, struct srv_answer *answer)
{
	struct asker *told = context;

	asker_on_done(context, error, answer);
	srv_cancel(told[1].query);
	ask_for(&told[1], NAME); /* and anew */
	srv_cancel(told[1].query);
	answers_missing--;
}

static void test_cancelled_within(void **state)
{
	struct asker askers[3] = { { .error = PENDING }, { .error = PENDING }, { .error = PENDING } };

	(void)state;
	for (size_t i = 0; i < 3; i++)
		askers[i].query =
			srv_start(cache, NAME, i == 0 ? on_done_cancel_next : asker_on_done, &askers[i]);
	answers_missing = 2;
	run();
	assert_int_equal(askers[0].error, 0);
	assert_int_equal(askers[1].error, PENDING);
	assert_int_equal(askers[2].error, 0);
	asker_forget(&askers[0]);
	asker_forget(&askers[2]);
}

/* With look-ups in each of their parts; end() frees what there is. */
static void test_cache_goes(void **state)
{
	struct asker askers[4] = { 0 };

	(void)state;
	ask_for(&askers[0], NAME);
	run();
	asker_forget(&askers[0]);
	zone.silent_host = "h2.test";
	zone_set_one("h2.test", 82);
	ask_for(&askers[1], "hosts.test");
	run_a_while();
	zone.is_silent = true;
	ask_for(&askers[2], "records.test");
	run_a_while();
	ask_for(&askers[3], NAME);
	srv_cache_free(STEAL_PTR(cache));
	run_a_while();
	for (size_t i = 1; i < 4; i++)
		assert_int_equal(askers[i].error, PENDING);
}

static void test_no_cache_is_freed_harmlessly(void **state)
{
	(void)state;
	srv_cache_free(NULL);
	srv_answer_unref(NULL);
}

static void test_names_are_bounded(void **state)
{
	char name[32];

	(void)state;
	for (unsigned i = 0; i <= SRV_NAMES_MAX; i++) {
		ask();
		sprintf(name, "n%u.test", i);
		ask_for(&asker, name);
		run();
		assert_int_equal(asker.error, 0);
	}
	assert_int_equal(server.services, SRV_NAMES_MAX + 2);
	ask(); /* was asked for all the time */
	assert_int_equal(server.services, SRV_NAMES_MAX + 2);
	ask_for(&asker, "n0.test"); /* longest ago */
	run();
	assert_int_equal(server.services, SRV_NAMES_MAX + 3);
}

/* ---- the order ------------------------------------------------------------------------------------------ */

#define DRAWS 100000

/* Which target comes first, how often. */
static void draw_first(const struct srv_answer *answer, unsigned counts[SRV_TARGETS_MAX])
{
	uint64_t random = 42;
	uint8_t order[SRV_TARGETS_MAX];

	memset(counts, 0, SRV_TARGETS_MAX * sizeof(*counts));
	for (unsigned i = 0; i < DRAWS; i++) {
		bool is_there[SRV_TARGETS_MAX] = { false };

		srv_order(answer, &random, order);
		for (size_t j = 0; j < answer->count; j++) {
			assert_true(order[j] < answer->count && !is_there[order[j]]);
			is_there[order[j]] = true;
			assert_true(j == 0 || answer->targets[order[j]].priority >=
						      answer->targets[order[j - 1]].priority);
		}
		counts[order[0]]++;
	}
}

static void test_order_by_weight(void **state)
{
	static const struct srv_target targets[] = { { .priority = 1, .weight = 10 },
						     { .priority = 1, .weight = 30 },
						     { .priority = 1, .weight = 60 },
						     { .priority = 2, .weight = 1000 } };
	struct srv_answer answer = { .count = ARRAY_SIZE(targets), .targets = targets };
	unsigned counts[SRV_TARGETS_MAX];

	(void)state;
	draw_first(&answer, counts);
	assert_in_range(counts[0], DRAWS * 10 / 100, DRAWS * 12 / 100); /* draws 0 and 1 to 10 of 101 */
	assert_in_range(counts[1], DRAWS * 29 / 100, DRAWS * 31 / 100);
	assert_in_range(counts[2], DRAWS * 58 / 100, DRAWS * 61 / 100);
	assert_int_equal(counts[3], 0);
}

static void test_order_without_weight(void **state)
{
	struct srv_target targets[SRV_TARGETS_MAX];
	struct srv_answer answer = { .count = 4, .targets = targets };
	unsigned counts[SRV_TARGETS_MAX];

	(void)state;
	memset(targets, 0, sizeof(targets));
	draw_first(&answer, counts);
	for (size_t i = 0; i < 4; i++)
		assert_in_range(counts[i], DRAWS * 24 / 100, DRAWS * 26 / 100);
	targets[3].weight = 99; /* beside it the others have a very small chance */
	draw_first(&answer, counts);
	for (size_t i = 0; i < 3; i++)
		assert_in_range(counts[i], DRAWS / 400, DRAWS / 250);
	assert_in_range(counts[3], DRAWS * 98 / 100, DRAWS * 995 / 1000);
}

static void test_order_of_heavy_targets(void **state)
{
	struct srv_target targets[SRV_TARGETS_MAX];
	struct srv_answer answer = { .count = SRV_TARGETS_MAX, .targets = targets };
	uint8_t one[SRV_TARGETS_MAX], other[SRV_TARGETS_MAX];
	uint64_t random = 7, same = 7;
	bool is_first[SRV_TARGETS_MAX] = { false };
	unsigned firsts = 0;

	(void)state;
	memset(targets, 0, sizeof(targets));
	for (size_t i = 0; i < SRV_TARGETS_MAX; i++)
		targets[i].weight = UINT16_MAX;
	for (unsigned i = 0; i < 10000; i++) {
		srv_order(&answer, &random, one);
		srv_order(&answer, &same, other);
		assert_memory_equal(one, other, sizeof(one));
		firsts += !is_first[one[0]];
		is_first[one[0]] = true;
	}
	assert_int_equal(firsts, SRV_TARGETS_MAX);
}

#define SRV_TEST(function) cmocka_unit_test_setup_teardown(function, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SRV_TEST(test_answer),
		SRV_TEST(test_answer_is_kept),
		SRV_TEST(test_look_up_is_shared),
		SRV_TEST(test_words_that_are_no_names),
		SRV_TEST(test_there_is_none),
		SRV_TEST(test_there_is_none_any_more),
		SRV_TEST(test_refreshed_while_in_use),
		SRV_TEST(test_not_refreshed_when_unused),
		SRV_TEST(test_refreshed_late),
		SRV_TEST(test_no_time_to_live),
		SRV_TEST(test_time_is_bounded),
		SRV_TEST(test_hosts_bound_the_time),
		SRV_TEST(test_last_answer_goes_on),
		SRV_TEST(test_failure_while_fresh),
		SRV_TEST(test_silence_is_waited_for_a_moment),
		SRV_TEST(test_silence_without_an_earlier_answer),
		SRV_TEST(test_failure_without_an_earlier_answer),
		SRV_TEST(test_nobody_is_there),
		SRV_TEST(test_caches_share_the_last_answer),
		SRV_TEST(test_host_is_absent),
		SRV_TEST(test_host_is_silent),
		SRV_TEST(test_many_targets),
		SRV_TEST(test_server_of_old),
		SRV_TEST(test_answers_that_are_not_ours),
		SRV_TEST(test_answers_without_sense),
		SRV_TEST(test_cancelled),
		SRV_TEST(test_cancelled_within),
		SRV_TEST(test_cache_goes),
		SRV_TEST(test_no_cache_is_freed_harmlessly),
		SRV_TEST(test_names_are_bounded),
		SRV_TEST(test_order_by_weight),
		SRV_TEST(test_order_without_weight),
		SRV_TEST(test_order_of_heavy_targets),
	};

	return FIXTURE_RUN(tests);
}
