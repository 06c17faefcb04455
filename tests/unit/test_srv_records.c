/*
 * Answers of name servers, as they are and as they must not be.
 */
#include "fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "dns_message.h"
#include "net/srv_records.h"

#define NAME "_http._tcp.example.test"
#define QUESTION_AT 12

static struct dns_message message;
static struct srv_records *records;

static void begin(void)
{
	dns_message_begin(&message, NAME, DNS_SRV);
}

/* A copy of just its size, where a sanitizer sees the first byte read too far. */
static int parse_length(size_t length)
{
	uint8_t *copy = malloc(length ? length : 1);
	int r;

	assert_non_null(copy);
	memcpy(copy, message.bytes, length);
	free(records);
	records = NULL;
	r = srv_records_parse(copy, length, NAME, &records);
	free(copy);
	assert_true(r == 0 ? records && records->count > 0 : !records);
	return r;
}

static int parse(void)
{
	return parse_length(message.length);
}

static void assert_record(size_t index, unsigned priority, unsigned weight, unsigned port, const char *host)
{
	const struct srv_record *record = &records->records[index];

	assert_true(index < records->count);
	assert_int_equal(record->priority, priority);
	assert_int_equal(record->weight, weight);
	assert_int_equal(record->port, port);
	assert_string_equal(record->host, host);
}

/* ---- what is right ----------------------------------------------------------------------------------- */

static void test_records_in_order(void **state)
{
	(void)state;
	begin();
	dns_message_srv(&message, NAME, 60, 20, 0, 80, "c.test");
	dns_message_srv(&message, NAME, 30, 10, 5, 81, "B.Test");
	dns_message_srv(&message, NAME, 60, 10, 5, 80, "b.test");
	dns_message_srv(&message, NAME, 60, 10, 5, 80, "a.test");
	dns_message_srv(&message, NAME, 60, 10, 5, 80, "A.test"); /* once is enough */
	dns_message_srv(&message, NAME, 60, 10, 0, 65535, "z.test");
	assert_int_equal(parse(), 0);
	assert_int_equal(records->count, 5);
	assert_int_equal(records->ttl_s, 30);
	assert_false(records->is_cut);
	assert_record(0, 10, 0, 65535, "z.test");
	assert_record(1, 10, 5, 80, "a.test");
	assert_record(2, 10, 5, 80, "b.test");
	assert_record(3, 10, 5, 81, "b.test");
	assert_record(4, 20, 0, 80, "c.test");
}

static void test_names_are_compressed(void **state)
{
	(void)state;
	begin();
	/* Owner: the question's name; host: "web" and what stands behind its first two labels. */
	dns_message_add(&message, "\xc0\x0c\0\x21\0\1\0\0\0\x3c\0\x0c\0\1\0\2\0\x50\3web\xc0\x17", 24);
	dns_message_set_count(&message, 1);
	assert_int_equal(message.bytes[0x17], strlen("example"));
	assert_int_equal(parse(), 0);
	assert_record(0, 1, 2, 80, "web.example.test");
	assert_int_equal(records->ttl_s, 60);
}

static void test_aliases(void **state)
{
	(void)state;
	begin();
	dns_message_cname(&message, NAME, 50, "x.test");
	dns_message_srv(&message, "y.test", 60, 1, 1, 80, "a.test");
	dns_message_cname(&message, "X.test", 7, "Y.test");
	dns_message_srv(&message, "other.test", 1, 1, 1, 81, "b.test");
	assert_int_equal(parse(), 0);
	assert_int_equal(records->count, 1);
	assert_record(0, 1, 1, 80, "a.test");
	assert_int_equal(records->ttl_s, 7);
}

static void test_aliases_that_lead_nowhere(void **state)
{
	(void)state;
	begin();
	dns_message_cname(&message, NAME, 50, "x.test");
	assert_int_equal(parse(), -ENOENT);
	dns_message_cname(&message, "x.test", 50, NAME);
	assert_int_equal(parse(), -EBADMSG);
}

static void test_nothing_there(void **state)
{
	(void)state;
	begin();
	assert_int_equal(parse(), -ENOENT);
	message.bytes[3] |= DNS_NXDOMAIN;
	assert_int_equal(parse(), -ENOENT);
}

/* RFC 2782: "." says that the service is decidedly not available. */
static void test_not_available(void **state)
{
	(void)state;
	begin();
	dns_message_srv(&message, NAME, 60, 0, 0, 0, "");
	assert_int_equal(parse(), -ENOENT);
	dns_message_srv(&message, NAME, 60, 0, 0, 80, "a.test");
	assert_int_equal(parse(), 0);
	assert_int_equal(records->count, 1);
}

static void test_records_that_are_left_out(void **state)
{
	(void)state;
	begin();
	dns_message_srv(&message, NAME, 60, 0, 0, 0, "zero.test");
	dns_message_srv(&message, NAME, 60, 0, 0, 80, "a b.test");
	dns_message_srv(&message, NAME, 60, 0, 0, 80, "a\n.test");
	dns_message_srv(&message, NAME, 60, 0, 0, 80, "\xc3\xa4.test");
	dns_message_record(&message, NAME, DNS_A, 60, "\x7f\0\0\1", 4);
	assert_int_equal(parse(), -EBADMSG);
	dns_message_srv(&message, NAME, 60, 0, 0, 80, "good_name-1.test");
	assert_int_equal(parse(), 0);
	assert_int_equal(records->count, 1);
	assert_record(0, 0, 0, 80, "good_name-1.test");
}

static void test_times(void **state)
{
	(void)state;
	begin();
	dns_message_srv(&message, NAME, 0x7fffffff, 0, 0, 80, "a.test");
	assert_int_equal(parse(), 0);
	assert_int_equal(records->ttl_s, 0x7fffffff);
	dns_message_srv(&message, NAME, 0x80000000, 0, 0, 80, "b.test");
	assert_int_equal(parse(), 0);
	assert_int_equal(records->ttl_s, 0);
}

/* Those with the lowest numbers count, wherever they stand. */
static void test_too_many(void **state)
{
	char host[16];

	(void)state;
	begin();
	for (unsigned i = 0; i < 1000; i++) {
		sprintf(host, "h%u.test", i);
		dns_message_srv(&message, NAME, 60, 1000 - i, 0, 80, host);
	}
	assert_int_equal(parse(), 0);
	assert_true(records->is_cut);
	assert_int_equal(records->count, SRV_TARGETS_MAX);
	for (unsigned i = 0; i < SRV_TARGETS_MAX; i++) {
		sprintf(host, "h%u.test", 999 - i);
		assert_record(i, 1 + i, 0, 80, host);
	}
}

/* ---- what is wrong ----------------------------------------------------------------------------------- */

static void test_cut_short_anywhere(void **state)
{
	(void)state;
	begin();
	dns_message_cname(&message, NAME, 60, "x.test");
	dns_message_srv(&message, "x.test", 60, 1, 1, 80, "a.test");
	assert_int_equal(parse(), 0);
	for (size_t length = 0; length < message.length; length++)
		assert_int_equal(parse_length(length), -EBADMSG);
}

static void test_wrong_header(void **state)
{
	static const struct {
		size_t at;
		uint8_t byte;
	} changes[] = {
		{ 2, 0x04 },                 /* no answer */
		{ 2, 0x94 },                 /* another operation */
		{ 2, 0x86 },                 /* truncated */
		{ 3, 0x80 | DNS_SERVFAIL },  /* no answer */
		{ 3, 0x8f },                 /* nobody knows what */
		{ 5, 0 },                    /* no question */
		{ 5, 2 },                    /* two */
		{ 7, 2 },                    /* a record less than it says */
		{ QUESTION_AT, 0 },          /* another question */
		{ QUESTION_AT + 1, 'x' },    /* another question */
		{ QUESTION_AT + 26, DNS_A }, /* of another type */
		{ QUESTION_AT + 28, 3 },     /* of another class */
		{ QUESTION_AT, 0xc0 },       /* a name that leads to itself */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		begin();
		dns_message_srv(&message, NAME, 60, 1, 1, 80, "a.test");
		assert_int_equal(parse(), 0);
		assert_int_not_equal(message.bytes[changes[i].at], changes[i].byte);
		message.bytes[changes[i].at] = changes[i].byte;
		assert_int_equal(parse(), -EBADMSG);
	}
}

/* A record whose data is what is given. */
static int parse_data(const void *bytes, size_t size)
{
	begin();
	dns_message_record(&message, NAME, DNS_SRV, 60, bytes, size);
	return parse();
}

static void test_wrong_data(void **state)
{
	(void)state;
	assert_int_equal(parse_data("\0\1\0\1\0\x50\1a\0", 9), 0);
	assert_int_equal(parse_data("\0\1\0\1\0\x50\1a\0\0", 10), -EBADMSG); /* a byte more */
	assert_int_equal(parse_data("\0\1\0\1\0\x50\1a", 8), -EBADMSG);      /* a byte less */
	assert_int_equal(parse_data("", 0), -EBADMSG);
	assert_int_equal(parse_data("\0\1\0\1\0\x50\x41", 7), -EBADMSG); /* a kind of label that is none */
	assert_int_equal(parse_data("\0\1\0\1\0\x50\x80", 7), -EBADMSG);
}

/* Pointers to themselves, to each other, and to what comes behind. */
static void test_names_without_end(void **state)
{
	uint8_t data[] = "\0\1\0\1\0\x50\1a\xc0\0";
	size_t at;

	(void)state;
	parse_data(data, 10);
	at = message.length - 4;
	for (size_t target = at; target < message.length + 2; target++) {
		data[8] = (uint8_t)(0xc0 | target >> 8);
		data[9] = (uint8_t)target;
		assert_int_equal(parse_data(data, 10), -EBADMSG);
	}
}

static void test_names_that_are_too_long(void **state)
{
	uint8_t data[6 + 300] = "\0\1\0\1\0\x50";
	size_t length;

	(void)state;
	for (size_t labels = 1; labels <= 130; labels++) {
		length = 6;
		for (size_t i = 0; i < labels; i++) {
			data[length++] = 1;
			data[length++] = 'a';
		}
		data[length++] = 0;
		assert_int_equal(parse_data(data, length), labels <= 127 ? 0 : -EBADMSG);
	}
}

/* A hostile server fills a message with records whose owners are long chains of pointers: none is the name that is looked
 * for, and each has to be read. */
static void test_costly_names(void **state)
{
	size_t last = QUESTION_AT, begun;

	(void)state;
	begin();
	dns_message_record(&message, "", 99, 0, NULL, 0);
	begun = message.length;
	for (unsigned i = 0; i < 110; i++) {
		size_t at = message.length;

		dns_message_add(&message, "\1a", 2);
		dns_message_number(&message, 2, 0xc000 | (uint32_t)last);
		last = at;
	}
	message.bytes[begun - 2] = (uint8_t)((message.length - begun) >> 8);
	message.bytes[begun - 1] = (uint8_t)(message.length - begun);
	while (message.length < sizeof(message.bytes) - 20) {
		dns_message_number(&message, 2, 0xc000 | (uint32_t)last);
		dns_message_add(&message, "\0\x21\0\1\0\0\0\1\0\7\0\1\0\1\0\x50\0", 17);
		dns_message_set_count(&message, dns_message_count(&message) + 1);
	}
	assert_int_equal(parse(), -ENOENT);
}

/* ---- names in text ------------------------------------------------------------------------------------ */

static void test_names_in_text(void **state)
{
	char name[SRV_NAME_SIZE], text[300];

	(void)state;
	assert_true(srv_name_read("_HTTP._tcp.Example.test.", name));
	assert_string_equal(name, "_http._tcp.example.test");
	assert_true(srv_name_read("a", name));
	memset(text, 'a', sizeof(text));
	for (size_t i = 63; i < 253; i += 64)
		text[i] = '.';
	text[253] = '\0';
	assert_true(srv_name_read(text, name));
	assert_string_equal(name, text);
	strcpy(text + 253, "b");
	assert_false(srv_name_read(text, name));
	strcpy(text + 253, ".");
	assert_true(srv_name_read(text, name));
	text[63] = 'a';
	assert_false(srv_name_read(text, name));
	for (const char *const *word = (const char *const[]){ "", ".", "..", "a..b", ".a", "a b", "a\n",
							      "a/b", "\xc3\xa4", "a:1", NULL };
	     *word; word++)
		assert_false(srv_name_read(*word, name));
}

static int end(void **state)
{
	free(STEAL_PTR(records));
	return fixture_teardown(state);
}

#define RECORDS_TEST(function) cmocka_unit_test_setup_teardown(function, fixture_setup, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		RECORDS_TEST(test_records_in_order),
		RECORDS_TEST(test_names_are_compressed),
		RECORDS_TEST(test_aliases),
		RECORDS_TEST(test_aliases_that_lead_nowhere),
		RECORDS_TEST(test_nothing_there),
		RECORDS_TEST(test_not_available),
		RECORDS_TEST(test_records_that_are_left_out),
		RECORDS_TEST(test_times),
		RECORDS_TEST(test_too_many),
		RECORDS_TEST(test_cut_short_anywhere),
		RECORDS_TEST(test_wrong_header),
		RECORDS_TEST(test_wrong_data),
		RECORDS_TEST(test_names_without_end),
		RECORDS_TEST(test_names_that_are_too_long),
		RECORDS_TEST(test_costly_names),
		RECORDS_TEST(test_names_in_text),
	};

	return FIXTURE_RUN(tests);
}
