/*
 * What `kaiso top` makes of a router's answers: rates, the past, order, filter, and a selection that stays where it is.
 */
#include "fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "cmd/top_model.h"

#define TEXT_SIZE 4096

static struct top_model model;

static int begin(void **state)
{
	top_model_init(&model);
	return fixture_setup(state);
}

static int end(void **state)
{
	top_model_deinit(&model);
	return fixture_teardown(state);
}

/* services and sessions: what stands between their brackets. */
static int update_as(unsigned pid, unsigned started, const char *services, const char *sessions,
		     uint64_t now_ms)
{
	char text[TEXT_SIZE];
	json_t *answer;
	int r;

	snprintf(
		text, sizeof(text),
		"{\"version\":\"1.2\",\"pid\":%u,\"started\":%u,\"uptime_seconds\":7,\"draining\":true,"
		"\"listeners\":[{\"address\":\"127.0.0.1:80\"}],\"limits\":{\"sessions\":9,\"descriptors\":20},"
		"\"open\":2,\"refused\":3,\"sent\":%llu,\"received\":0,\"ended\":{\"done\":4,\"no-service\":1},"
		"\"cpu_seconds\":%.3f,\"services\":[%s],\"sessions\":[%s],\"sessions_untold\":5}",
		pid, started, (unsigned long long)now_ms * 3, (double)now_ms / 2000, services, sessions);
	answer = json_loads(text, 0, NULL);
	assert_non_null(answer);
	r = top_model_update(&model, answer, now_ms);
	json_decref(answer);
	return r;
}

static int update(const char *services, const char *sessions, uint64_t now_ms)
{
	return update_as(1, 1, services, sessions, now_ms);
}

#define SERVICE(name, open, sent, received)                                               \
	"{\"service\":\"" name "\",\"kind\":\"unix\",\"open\":" #open ",\"sessions\":10," \
	"\"failures\":2,\"sent\":" #sent ",\"received\":" #received "}"
#define SESSION(id, client, seconds, sent)                                                                \
	"{\"id\":\"" id "\",\"client\":\"" client "\",\"state\":\"relay\",\"service\":\"web\","           \
	"\"kind\":\"tcp\",\"target\":\"host:80\",\"sent\":" #sent ",\"received\":0,\"seconds\":" #seconds \
	"}"

static const struct top_table *services(void)
{
	return &model.tables[TOP_SERVICES];
}

/* The services shown, in their order, by their first letters. */
static const char *order(const struct top_table *table)
{
	static char text[64];

	assert_true(table->shown_count < sizeof(text));
	for (size_t i = 0; i < table->shown_count; i++)
		text[i] = table->shown[i]->key[0];
	text[table->shown_count] = '\0';
	return text;
}

static const struct top_row *row(const struct top_table *table, const char *key)
{
	for (size_t i = 0; i < table->count; i++) {
		if (strcmp(table->rows[i].key, key) == 0)
			return &table->rows[i];
	}
	fail_msg("no row %s", key);
	return NULL;
}

#define assert_near(value, expected) assert_true((value) > (expected)-0.001 && (value) < (expected) + 0.001)

/* ---- tests ----------------------------------------------------------------------------------------- */

static void test_router(void **state)
{
	(void)state;
	assert_int_equal(update("", "", 1000), TOP_SAME);
	assert_string_equal(model.router.version, "1.2");
	assert_true(model.router.is_draining);
	assert_int_equal(model.router.open, 2);
	assert_int_equal(model.router.total, 7);
	assert_int_equal(model.router.refused, 3);
	assert_int_equal(model.router.sessions_max, 9);
	assert_int_equal(model.router.untold, 5);
	assert_int_equal(json_array_size(model.router.listeners), 1);
	assert_false(model.has_rates);
	assert_int_equal(model.router.history.count, 0);
	assert_int_equal(update("", "", 3000), TOP_SAME);
	assert_true(model.has_rates);
	assert_near(model.router.sent.rate, 3000);
	assert_near(model.router.cpu_share, 0.5);
	assert_int_equal(model.router.history.count, 1);
}

static void test_rates(void **state)
{
	(void)state;
	update(SERVICE("a", 1, 100, 1000), SESSION("1-1", "c", 9, 50), 1000);
	assert_near(row(services(), "a")->sent.rate, 0);
	update(SERVICE("a", 1, 600, 1000), SESSION("1-1", "c", 10, 150), 1500);
	assert_near(row(services(), "a")->sent.rate, 1000);
	assert_near(row(services(), "a")->received.rate, 0);
	assert_near(row(&model.tables[TOP_SESSIONS], "1-1")->sent.rate, 200);
	assert_int_equal(row(services(), "a")->failed, 2);
	assert_int_equal(row(services(), "a")->total, 10);
}

/* A new session's bytes came since the last answer, unless it is older: then it was among those left out. */
static void test_rates_of_new_rows(void **state)
{
	const struct top_table *sessions = &model.tables[TOP_SESSIONS];

	(void)state;
	update("", "", 1000);
	update(SERVICE("new", 1, 400, 0), SESSION("new", "c", 1.5, 500) "," SESSION("old", "c", 60, 500),
	       3000);
	assert_near(row(services(), "new")->sent.rate, 200);
	assert_near(row(sessions, "new")->sent.rate, 250);
	assert_near(row(sessions, "old")->sent.rate, 0);
	assert_int_equal(row(sessions, "old")->history.count, 0);
}

/* A counter that went back, or an answer of no later time, is no rate. */
static void test_odd_answers(void **state)
{
	(void)state;
	update(SERVICE("a", 1, 1000, 0), "", 1000);
	update(SERVICE("a", 1, 10, 0), "", 2000);
	assert_near(row(services(), "a")->sent.rate, 0);
	update(SERVICE("a", 1, 1000, 0), "", 2000);
	assert_near(row(services(), "a")->sent.rate, 0);
	assert_int_equal(row(services(), "a")->history.count, 1);
}

static void test_no_answers(void **state)
{
	static const char *const texts[] = { "{}", "{\"services\":[]}", "{\"services\":{},\"sessions\":[]}",
					     "{\"error\":\"no\"}" };

	(void)state;
	update(SERVICE("a", 1, 1, 1), "", 1000);
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		json_t *answer = json_loads(texts[i], 0, NULL);

		assert_int_equal(top_model_update(&model, answer, 2000), -EPROTO);
		json_decref(answer);
		assert_string_equal(order(services()), "a");
	}
	/* Values of other types are none. */
	assert_int_equal(
		update("{\"service\":7,\"open\":\"x\",\"sent\":-5},[],null,{\"service\":\"z\"}", "3", 3000),
		TOP_SAME);
	assert_int_equal(services()->count, 4);
	assert_int_equal(row(services(), "")->sent.bytes, 0);
}

static void test_history(void **state)
{
	char text[256];

	(void)state;
	for (unsigned i = 0; i <= TOP_HISTORY + 5; i++) {
		snprintf(text, sizeof(text), "{\"service\":\"a\",\"sent\":%u,\"received\":0}",
			 i * (i + 1) / 2);
		update(text, "", 1000 + i * 1000);
	}
	assert_int_equal(row(services(), "a")->history.count, TOP_HISTORY);
	assert_near(row(services(), "a")->history.samples[0], 6);
	assert_near(row(services(), "a")->history.samples[TOP_HISTORY - 1], TOP_HISTORY + 5);
}

/* The past stays, but no rate is made of two routers' counters. */
static void test_other_router(void **state)
{
	(void)state;
	update_as(5, 1, SERVICE("a", 1, 0, 0), "", 1000);
	update_as(5, 1, SERVICE("a", 1, 500, 0), "", 2000);
	assert_int_equal(update_as(5, 2, SERVICE("a", 1, 9000, 0), "", 3000), TOP_UPGRADED);
	assert_false(model.has_rates);
	assert_near(row(services(), "a")->sent.rate, 0);
	assert_int_equal(row(services(), "a")->history.count, 1);
	assert_int_equal(update_as(6, 3, SERVICE("a", 1, 9900, 0), "", 4000), TOP_RESTARTED);
	assert_near(row(services(), "a")->sent.rate, 0);
	assert_int_equal(update_as(6, 3, SERVICE("a", 1, 9990, 0), "", 5000), TOP_SAME);
	assert_near(row(services(), "a")->sent.rate, 90);
}

/* Bytes that are no UTF-8 all look alike: the router's order tells rows of one name apart. */
static void test_twins(void **state)
{
	(void)state;
	update(SERVICE("?", 1, 0, 0) "," SERVICE("?", 2, 0, 0), "", 1000);
	update(SERVICE("?", 1, 100, 0) "," SERVICE("?", 2, 700, 0), "", 2000);
	assert_int_equal(services()->rows[0].open, 1);
	assert_near(services()->rows[0].sent.rate, 100);
	assert_near(services()->rows[1].sent.rate, 700);
	top_table_move(&model.tables[TOP_SERVICES], 1);
	assert_int_equal(top_table_selected(services())->open, 1);
	update(SERVICE("?", 1, 900, 0) "," SERVICE("?", 2, 701, 0), "", 3000);
	assert_int_equal(top_table_selected(services())->open, 1);
	assert_int_equal(services()->selected, 0);
}

static void test_order(void **state)
{
	struct top_table *table = &model.tables[TOP_SERVICES];

	(void)state;
	update(SERVICE("c", 1, 0, 0) "," SERVICE("a", 3, 0, 5) "," SERVICE("b", 2, 0, 9), "", 1000);
	assert_string_equal(order(table), "abc"); /* no rates yet: by name */
	update(SERVICE("c", 1, 0, 0) "," SERVICE("a", 3, 0, 15) "," SERVICE("b", 2, 0, 29), "", 2000);
	assert_string_equal(order(table), "bac");
	top_table_sort(table, TOP_OPEN);
	assert_string_equal(order(table), "abc");
	top_table_reverse(table);
	assert_string_equal(order(table), "cba");
	top_table_sort(table, TOP_SERVICE);
	assert_string_equal(order(table), "cba");
	top_table_reverse(table);
	assert_string_equal(order(table), "abc");
	top_table_sort(table, TOP_FAILED); /* all the same */
	assert_string_equal(order(table), "abc");
}

static void test_sort_next(void **state)
{
	static const enum top_column columns[] = { TOP_SERVICE, TOP_OPEN, TOP_TRAFFIC };
	struct top_table *table = &model.tables[TOP_SERVICES];

	(void)state;
	assert_int_equal(table->column, TOP_TRAFFIC);
	top_table_sort_next(table, columns, ARRAY_SIZE(columns));
	assert_int_equal(table->column, TOP_SERVICE);
	top_table_sort_next(table, columns, ARRAY_SIZE(columns));
	assert_int_equal(table->column, TOP_OPEN);
	top_table_sort(table, TOP_KIND); /* one that is not shown */
	top_table_sort_next(table, columns, ARRAY_SIZE(columns));
	assert_int_equal(table->column, TOP_SERVICE);
}

static void test_filter(void **state)
{
	(void)state;
	update(SERVICE("web/a", 1, 0, 0) "," SERVICE("git", 1, 0, 0),
	       SESSION("1-a", "10.0.0.1:5", 1, 0) "," SESSION("2-b", "10.0.0.2:5", 1, 0), 1000);
	top_model_filter(&model, "WEB");
	assert_string_equal(order(services()), "w");
	assert_int_equal(model.tables[TOP_SESSIONS].shown_count, 2);
	top_model_filter(&model, "0.2:");
	assert_string_equal(order(services()), "");
	assert_null(top_table_selected(services()));
	assert_string_equal(order(&model.tables[TOP_SESSIONS]), "2");
	/* It stays with what comes. */
	update("", SESSION("3-c", "10.0.0.2:9", 1, 0) "," SESSION("4-d", "10.0.0.1:9", 1, 0), 2000);
	assert_string_equal(order(&model.tables[TOP_SESSIONS]), "3");
	top_model_filter(&model, "");
	assert_int_equal(model.tables[TOP_SESSIONS].shown_count, 2);
}

static void test_long_filter(void **state)
{
	char text[200];

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	top_model_filter(&model, text);
	assert_int_equal(strlen(model.filter), TOP_FILTER_SIZE - 1);
	top_model_filter(&model, model.filter); /* from itself */
	assert_int_equal(strlen(model.filter), TOP_FILTER_SIZE - 1);
}

/* Untouched, it is on the top row; moved, it stays with its row until that has gone. */
static void test_selection(void **state)
{
	struct top_table *table = &model.tables[TOP_SERVICES];

	(void)state;
	update(SERVICE("a", 1, 0, 0) "," SERVICE("b", 1, 0, 0) "," SERVICE("c", 1, 0, 0), "", 1000);
	assert_string_equal(top_table_selected(table)->key, "a");
	update(SERVICE("a", 1, 0, 0) "," SERVICE("b", 1, 0, 0) "," SERVICE("c", 1, 9, 0), "", 2000);
	assert_string_equal(top_table_selected(table)->key, "c");
	top_table_move(table, 1);
	assert_string_equal(top_table_selected(table)->key, "a");
	update(SERVICE("a", 1, 0, 0) "," SERVICE("b", 1, 9, 0) "," SERVICE("c", 1, 9, 0), "", 3000);
	assert_string_equal(order(table), "bac");
	update(SERVICE("a", 1, 0, 0) "," SERVICE("b", 1, 18, 0) "," SERVICE("c", 1, 28, 0), "", 4000);
	assert_string_equal(order(table), "cba");
	assert_string_equal(top_table_selected(table)->key, "a");
	top_table_reverse(table);
	assert_string_equal(top_table_selected(table)->key, "a");
	assert_int_equal(table->selected, 0);
	top_table_reverse(table);
	update(SERVICE("b", 1, 18, 0) "," SERVICE("c", 1, 28, 0), "", 5000);
	assert_int_equal(table->selected, 1);
	assert_string_equal(top_table_selected(table)->key, "c");
	/* What took its place is held from now on. */
	update(SERVICE("b", 1, 18, 0) "," SERVICE("c", 1, 99, 0), "", 6000);
	assert_string_equal(top_table_selected(table)->key, "c");
	assert_int_equal(table->selected, 0);
	top_table_move(table, 1);
	top_table_release(table);
	assert_string_equal(top_table_selected(table)->key, "c");
	update(SERVICE("b", 1, 99, 0) "," SERVICE("c", 1, 99, 0), "", 7000);
	assert_string_equal(top_table_selected(table)->key, "b");
}

static void test_selection_at_the_ends(void **state)
{
	struct top_table *table = &model.tables[TOP_SERVICES];

	(void)state;
	top_table_move(table, 5);
	assert_null(top_table_selected(table));
	top_table_reverse(table);
	top_table_release(table);
	update(SERVICE("a", 1, 0, 0) "," SERVICE("b", 1, 0, 0), "", 1000);
	top_table_move(table, 100);
	assert_int_equal(table->selected, 1);
	top_table_move(table, -100);
	assert_int_equal(table->selected, 0);
	update("", "", 2000);
	assert_null(top_table_selected(table));
	update(SERVICE("a", 1, 0, 0), "", 3000);
	assert_string_equal(top_table_selected(table)->key, "a");
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, begin, end)
	static const struct CMUnitTest tests[] = {
		TEST(test_router),
		TEST(test_rates),
		TEST(test_rates_of_new_rows),
		TEST(test_odd_answers),
		TEST(test_no_answers),
		TEST(test_history),
		TEST(test_other_router),
		TEST(test_twins),
		TEST(test_order),
		TEST(test_sort_next),
		TEST(test_filter),
		TEST(test_long_filter),
		TEST(test_selection),
		TEST(test_selection_at_the_ends),
	};

	return FIXTURE_RUN(tests);
}
