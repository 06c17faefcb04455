/*
 * What etcd answers, and what it is asked: texts that an etcd 3.4 has written, and some that none would.
 */
#include "fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "mirror/etcd_json.h"

#define HEADER \
	"\"header\":{\"cluster_id\":\"324952591200643719\",\"member_id\":\"3\",\"revision\":\"9\",\"raft_term\":\"2\"}"

/* All pairs, one a line: key=value@revision, -key@revision when it is gone. */
struct pairs {
	char text[512];
	size_t length;
	int result; /* of each visit */
};

static int note_pair(const struct etcd_pair *pair, void *context)
{
	struct pairs *pairs = context;

	pairs->length += (size_t)snprintf(pairs->text + pairs->length, sizeof(pairs->text) - pairs->length,
					  "%s%.*s=%.*s@%llu\n", pair->is_deleted ? "-" : "",
					  (int)pair->key.length, pair->key.start, (int)pair->value.length,
					  pair->value.start, (unsigned long long)pair->revision);
	return pairs->result;
}

struct page_case {
	const char *text;
	int result;
	const char *pairs;
	bool has_more;
};

static const struct page_case page_cases[] = {
	{ "{" HEADER "}", 0, "", false },
	{ "{" HEADER ",\"kvs\":[{\"key\":\"L2svYQ==\",\"create_revision\":\"2\",\"mod_revision\":\"2\","
	  "\"version\":\"1\",\"value\":\"aGVsbG8=\"}],\"more\":true,\"count\":\"2\"}",
	  0, "/k/a=hello@2\n", true },
	/* An empty value is left out; a member may be an unknown one. */
	{ "{" HEADER ",\"kvs\":[{\"key\":\"YWI=\",\"mod_revision\":3,\"new\":[]},{\"key\":\"YWJj\"}]}", 0,
	  "ab=@3\nabc=@0\n", false },

	{ "", -EBADMSG, "", false },
	{ "[]", -EBADMSG, "", false },
	{ "{}", -EBADMSG, "", false },
	{ "{" HEADER "} {", -EBADMSG, "", false },
	{ "{\"header\":{\"revision\":\"0\"}}", -EBADMSG, "", false },
	{ "{\"header\":{\"revision\":\"-1\"}}", -EBADMSG, "", false },
	{ "{\"header\":{\"revision\":-1}}", -EBADMSG, "", false },
	{ "{\"header\":{\"revision\":\"99999999999999999999\"}}", -EBADMSG, "", false },
	{ "{" HEADER ",\"more\":1}", -EBADMSG, "", false },
	{ "{" HEADER ",\"more\":true}", -EBADMSG, "", true },
	{ "{" HEADER ",\"kvs\":{}}", -EBADMSG, "", false },
	{ "{" HEADER ",\"kvs\":[{\"key\":1}]}", -EBADMSG, "", false },
	/* No base64: too short, a byte that is no digit, padding inside. */
	{ "{" HEADER ",\"kvs\":[{\"key\":\"YWI\"}]}", -EBADMSG, "", false },
	{ "{" HEADER ",\"kvs\":[{\"key\":\"YW-_\"}]}", -EBADMSG, "", false },
	{ "{" HEADER ",\"kvs\":[{\"key\":\"YQ==YQ==\"}]}", -EBADMSG, "", false },
	{ "{" HEADER ",\"kvs\":[{\"key\":\"====\"}]}", -EBADMSG, "", false },
	{ "{" HEADER ",\"kvs\":[{\"key\":\"YW\\u0000J\"}]}", -EBADMSG, "", false },
};

static void test_pages(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(page_cases); i++) {
		const struct page_case *test = &page_cases[i];
		struct pairs pairs = { 0 };
		struct etcd_page page;
		int r = etcd_json_read_page(test->text, strlen(test->text), &page, note_pair, &pairs);

		if (r != test->result)
			print_error("%s\n", test->text);
		assert_int_equal(r, test->result);
		assert_string_equal(pairs.text, test->pairs);
		assert_int_equal(page.has_more, test->has_more);
		if (r == 0) {
			assert_int_equal(page.header.revision, 9);
			assert_int_equal(page.header.cluster, 324952591200643719);
		}
	}
}

static void test_visit_ends_the_reading(void **state)
{
	static const char text[] = "{" HEADER ",\"kvs\":[{\"key\":\"YWI=\"},{\"key\":\"YWJj\"}]}";
	struct pairs pairs = { .result = -ENOSPC };
	struct etcd_page page;

	(void)state;
	assert_int_equal(etcd_json_read_page(text, strlen(text), &page, note_pair, &pairs), -ENOSPC);
	assert_string_equal(pairs.text, "ab=@0\n");
}

static struct etcd_report read_report(const char *text, int expected, struct pairs *pairs)
{
	struct etcd_report report;
	int r = etcd_json_read_report(text, strlen(text), &report, note_pair, pairs);

	if (r != expected)
		print_error("%s\n", text);
	assert_int_equal(r, expected);
	return report;
}

static void test_watch(void **state)
{
	struct pairs pairs = { 0 };
	struct etcd_report report = read_report("{\"result\":{" HEADER ",\"created\":true}}", 0, &pairs);

	(void)state;
	assert_true(report.is_created && !report.is_canceled && !report.has_failed);
	assert_int_equal(report.header.revision, 9);
	assert_int_equal(report.last_revision, 0);

	report = read_report(
		"{\"result\":{" HEADER
		",\"events\":[{\"kv\":{\"key\":\"L2svYg==\",\"mod_revision\":\"7\",\"value\":\"aGk=\"}},"
		"{\"type\":\"DELETE\",\"kv\":{\"key\":\"L2svYQ==\",\"mod_revision\":\"8\"}},"
		"{\"type\":\"PUT\",\"kv\":{\"key\":\"L2svYQ==\",\"mod_revision\":\"8\"}}],\"fragment\":true}}",
		0, &pairs);
	assert_string_equal(pairs.text, "/k/b=hi@7\n-/k/a=@8\n/k/a=@8\n");
	assert_int_equal(report.last_revision, 8);
	assert_true(report.is_fragment);

	report = read_report("{\"result\":{" HEADER ",\"canceled\":true,\"compact_revision\":\"4\"}}", 0,
			     &pairs);
	assert_true(report.is_canceled);
	assert_int_equal(report.compact_revision, 4);

	report = read_report("{\"result\":{" HEADER ",\"canceled\":true,\"cancel_reason\":\"no\\u001b\"}}", 0,
			     &pairs);
	assert_string_equal(report.error.reason, "no?");
}

static void test_watch_that_fails(void **state)
{
	struct pairs pairs = { 0 };
	struct etcd_report report = read_report(
		"{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":\"etcdserver: no leader\","
		"\"http_status\":\"Service Unavailable\"}}",
		0, &pairs);

	(void)state;
	assert_true(report.has_failed);
	assert_int_equal(report.error.code, 14);
	assert_string_equal(report.error.reason, "etcdserver: no leader");

	report = read_report("{\"error\":\"nonono\",\"code\":11}", 0, &pairs);
	assert_true(report.has_failed);
	assert_int_equal(report.error.code, ETCD_CODE_OUT_OF_RANGE);
	assert_string_equal(report.error.reason, "nonono");

	read_report("", -EBADMSG, &pairs);
	read_report("{}", -EBADMSG, &pairs);
	read_report("{\"result\":[]}", -EBADMSG, &pairs);
	read_report("{\"result\":{\"created\":\"true\"}}", -EBADMSG, &pairs);
	read_report("{\"result\":{\"events\":1}}", -EBADMSG, &pairs);
	read_report("{\"result\":{\"events\":[{\"type\":\"MOVE\",\"kv\":{}}]}}", -EBADMSG, &pairs);
	read_report("{\"result\":{\"events\":[{\"type\":1,\"kv\":{}}]}}", -EBADMSG, &pairs);
	assert_string_equal(pairs.text, "");
}

static void test_errors(void **state)
{
	static const char text[] =
		"{\"error\":\"etcdserver: mvcc: required revision has been compacted\","
		"\"message\":\"etcdserver: mvcc: required revision has been compacted\",\"code\":11}";
	struct etcd_error error;

	(void)state;
	etcd_json_read_error(text, strlen(text), &error);
	assert_int_equal(error.code, ETCD_CODE_OUT_OF_RANGE);
	assert_string_equal(error.reason, "etcdserver: mvcc: required revision has been compacted");
	etcd_json_read_error("Not Found", 9, &error);
	assert_int_equal(error.code, 0);
	assert_string_equal(error.reason, "");
}

static void check_token(const char *text, const char *expected)
{
	CLEANUP_FREE char *token = etcd_json_read_token(text, strlen(text));

	if (expected)
		assert_string_equal(token, expected);
	else
		assert_null(token);
}

/* It goes into a header as it is. */
static void test_tokens(void **state)
{
	(void)state;
	check_token("{" HEADER ",\"token\":\"abc.12\"}", "abc.12");
	check_token("{" HEADER "}", NULL);
	check_token("{\"token\":\"\"}", NULL);
	check_token("{\"token\":1}", NULL);
	check_token("{\"token\":\"abc\\r\\nX: y\"}", NULL);
	check_token("{\"token\":\"a b\"}", NULL);
	check_token("no", NULL);
}

static void check_text(char *text, const char *expected)
{
	assert_string_equal(text, expected);
	free(text);
}

static void test_requests(void **state)
{
	struct etcd_bytes prefix = { "/k/", 3 }, next = { "/k/a\0", 5 }, none = { "", 0 },
			  high = { "a\xff\xff", 3 };

	(void)state;
	check_text(etcd_json_range(prefix, prefix, 10, 0),
		   "{\"key\":\"L2sv\",\"range_end\":\"L2sw\",\"limit\":10,\"revision\":0}");
	check_text(etcd_json_range(prefix, next, 10, 7),
		   "{\"key\":\"L2svYQA=\",\"range_end\":\"L2sw\",\"limit\":10,\"revision\":7}");
	/* "\0" is the first of all keys, and as an end behind the last one. */
	check_text(etcd_json_range(none, none, 1, 0),
		   "{\"key\":\"AA==\",\"range_end\":\"AA==\",\"limit\":1,\"revision\":0}");
	check_text(etcd_json_range(high, high, 1, 0),
		   "{\"key\":\"Yf//\",\"range_end\":\"Yg==\",\"limit\":1,\"revision\":0}");
	check_text(etcd_json_watch(prefix, 8),
		   "{\"create_request\":{\"key\":\"L2sv\",\"range_end\":\"L2sw\","
		   "\"start_revision\":8,\"fragment\":true,\"progress_notify\":true}}");
	check_text(etcd_json_authenticate("me", "a\"b"), "{\"name\":\"me\",\"password\":\"a\\\"b\"}");
	assert_null(etcd_json_authenticate("me", "\xff"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pages),    cmocka_unit_test(test_visit_ends_the_reading),
		cmocka_unit_test(test_watch),    cmocka_unit_test(test_watch_that_fails),
		cmocka_unit_test(test_errors),   cmocka_unit_test(test_tokens),
		cmocka_unit_test(test_requests),
	};

	return FIXTURE_RUN(tests);
}
