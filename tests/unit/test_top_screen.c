/*
 * What `kaiso top` looks like: texts of any sort in cells, numbers in few characters, and whole screens in many sizes.
 */
#include "fixture.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "cmd/top_model.h"
#include "cmd/top_page.h"
#include "cmd/top_screen.h"

#define UTF8 "C.UTF-8"
#define ASCII "C"

static void begin_page(struct top_page *page, const char *locale, int rows, int columns)
{
	assert_non_null(setlocale(LC_CTYPE, locale));
	assert_int_equal(top_page_init(page, rows, columns), 0);
	assert_int_equal(page->has_blocks, strcmp(locale, UTF8) == 0);
}

/* As printed; the caller's to free. */
static char *printed(const struct top_page *page)
{
	char *text = NULL;
	size_t length;
	FILE *stream = open_memstream(&text, &length);

	top_page_print(page, stream);
	fclose(stream);
	return text;
}

/* ---- texts ----------------------------------------------------------------------------------------- */

struct text_case {
	const char *locale;
	int width;
	const char *text;
	const char *shown;
	int columns;
};

static const struct text_case text_cases[] = {
	{ UTF8, 10, "", "", 0 },
	{ UTF8, 10, "plain", "plain", 5 },
	{ UTF8, 5, "exact", "exact", 5 },
	{ UTF8, 4, "exact", "exa\u2026", 4 },
	{ UTF8, 1, "exact", "\u2026", 1 },
	{ UTF8, 0, "exact", "", 0 },
	{ ASCII, 4, "exact", "exa~", 4 },
	/* control characters, and bytes that are no UTF-8 */
	{ UTF8, 20, "a\x1b[2J\n\x7f", "a\\x1b[2J\\x0a\\x7f", 16 },
	{ UTF8, 20,
	  "\xc2\x9b"
	  "1m",
	  "\\xc2\\x9b1m", 10 },
	{ UTF8, 20, "\xff\xc3", "\\xff\\xc3", 8 },
	{ ASCII, 20, "\x1b]0;x\x07", "\\x1b]0;x\\x07", 12 },
	/* two columns wide; never cut in two */
	{ UTF8, 6, "\u65e5\u672c\u8a9e", "\u65e5\u672c\u8a9e", 6 },
	{ UTF8, 5, "\u65e5\u672c\u8a9e", "\u65e5\u672c\u2026", 5 },
	{ UTF8, 4, "\u65e5\u672c\u8a9e", "\u65e5\u2026", 3 },
	{ ASCII, 6, "\u65e5\u672c\u8a9e", "???", 3 },
	/* accents stand over what is before them, and only so many of them */
	{ UTF8, 3, "e\u0301a", "e\u0301a", 2 },
	{ UTF8, 3, "\u0301a", "a", 1 },
	{ UTF8, 3, "e\u0301\u0301\u0301\u0301\u0301", "e\u0301\u0301", 1 },
	{ UTF8, 4, "\u65e5\u0301x", "\u65e5\u0301x", 3 },
	/* what turns the writing round, or has no width to rely on */
	{ UTF8, 9, "a\u202eb\u200dc\ufeff",
	  "a\ufffd"
	  "b\ufffd"
	  "c\ufffd",
	  6 },
	{ ASCII, 9, "a\u202eb", "a?b", 3 },
	{ UTF8, 9, "\ufffe", "\ufffd", 1 },
	{ ASCII, 9, "n\u00e9e", "n?e", 3 },
};

static void test_texts(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(text_cases); i++) {
		const struct text_case *one = &text_cases[i];
		struct top_page page;
		char expected[64], *text;

		begin_page(&page, one->locale, 1, 24);
		assert_int_equal(top_page_put(&page, 0, 2, one->width, TOP_PLAIN, one->text), one->columns);
		snprintf(expected, sizeof(expected), "%s%s\n", one->columns > 0 ? "  " : "", one->shown);
		text = printed(&page);
		assert_string_equal(text, expected);
		free(text);
		/* Nothing to the left or right of where it may be. */
		assert_int_equal(top_page_cell(&page, 0, 1)->text[0], L' ');
		for (int column = 2 + one->columns; column < 24; column++)
			assert_int_equal(top_page_cell(&page, 0, column)->text[0], L' ');
		top_page_deinit(&page);
	}
}

static void test_places(void **state)
{
	struct top_page page;
	char *text;

	(void)state;
	begin_page(&page, UTF8, 2, 8);
	top_page_put(&page, 1, 6, 100, TOP_PLAIN, "abc");
	top_page_put(&page, -1, 0, 5, TOP_PLAIN, "no");
	top_page_put(&page, 2, 0, 5, TOP_PLAIN, "no");
	top_page_put(&page, 0, 8, 5, TOP_PLAIN, "no");
	top_page_put(&page, 0, -1, 5, TOP_PLAIN, "no");
	assert_int_equal(top_page_put_right(&page, 0, 1, 5, TOP_BAD, "\u65e5x"), 3);
	top_page_restyle(&page, 7, TOP_BAD);
	text = printed(&page);
	assert_string_equal(text, "   \u65e5x\n      a\u2026\n");
	assert_int_equal(top_page_cell(&page, 0, 3)->style, TOP_BAD);
	assert_int_equal(top_page_cell(&page, 0, 2)->style, TOP_PLAIN);
	free(text);
	top_page_deinit(&page);
}

static void test_graph(void **state)
{
	static const float samples[] = { 900, 0, 1, 50, 100 };
	struct top_page page;
	char *text;

	(void)state;
	begin_page(&page, UTF8, 2, 8);
	top_page_put_graph(&page, 0, 0, 6, samples + 1, 4);
	top_page_put_graph(&page, 1, 0, 4, samples, 5); /* only the newest, and measured by them */
	text = printed(&page);
	assert_string_equal(text, "   \u2581\u2584\u2588\n \u2581\u2584\u2588\n");
	free(text);
	top_page_deinit(&page);
	begin_page(&page, ASCII, 1, 8);
	top_page_put_graph(&page, 0, 0, 8, samples + 1, 4);
	text = printed(&page);
	assert_string_equal(text, "     .=@\n");
	free(text);
	top_page_deinit(&page);
}

/* ---- numbers --------------------------------------------------------------------------------------- */

static void test_interval(void **state)
{
	char text[QUANTITY_SIZE];

	(void)state;
	assert_string_equal(top_screen_interval(250, text), "250ms");
	assert_string_equal(top_screen_interval(2000, text), "2s");
	assert_string_equal(top_screen_interval(60000, text), "1m");
}

/* ---- whole screens --------------------------------------------------------------------------------- */

/* So many services and sessions, with names of all sorts. */
static void fill(struct top_model *model, unsigned count, uint64_t now_ms)
{
	static const char *const names[] = { "web", "git/forge", "\u65e5\u672c\u8a9e", "evil\x1b[2J",
					     "e\u0301" };
	json_t *services = json_array(), *sessions = json_array(), *answer;

	for (unsigned i = 0; i < count; i++) {
		char name[64], id[32];

		snprintf(name, sizeof(name), "%s-%u", names[i % ARRAY_SIZE(names)], i);
		snprintf(id, sizeof(id), "%u-abc", i);
		json_array_append_new(services,
				      json_pack("{ss ss si si si sI sI}", "service", name, "kind", "passfd",
						"open", 1, "sessions", 12345, "failures", i % 2, "sent",
						(json_int_t)(now_ms * i), "received", (json_int_t)now_ms));
		json_array_append_new(sessions, json_pack("{ss ss ss ss sI sI sf}", "id", id, "client",
							  "[2001:db8::1]:65535", "state", "handover",
							  "service", name, "sent", (json_int_t)now_ms,
							  "received", (json_int_t)0, "seconds", 99.5));
	}
	answer = json_pack("{ss si si si sb s[{ss}] s{si} si si so so si}", "version", "9.8.7", "pid", 4,
			   "started", 5, "uptime_seconds", 61, "draining", 0, "listeners", "address",
			   "127.0.0.1:80", "limits", "sessions", 100, "open", (int)count, "refused", 0,
			   "services", services, "sessions", sessions, "sessions_untold", 0);
	assert_int_equal(top_model_update(model, answer, now_ms), TOP_SAME);
	json_decref(answer);
}

static void assert_seen(const struct top_page *page, const char *part, bool is_expected)
{
	char *text = printed(page);

	if ((strstr(text, part) != NULL) != is_expected)
		fail_msg("%s is %s in:\n%s", part, is_expected ? "not" : "still", text);
	free(text);
}

/* All modes in all sizes, those too small for anything included: a sanitizer sees what goes wrong. */
static void test_sizes(void **state)
{
	struct top_model model;
	struct top_page page;

	(void)state;
	top_model_init(&model);
	for (unsigned count = 0; count <= 20; count += 20) {
		fill(&model, count, 1000 + count * 100);
		for (int rows = 0; rows < 34; rows += 1 + rows / 5) {
			for (int columns = 0; columns < 150; columns += 1 + columns / 8) {
				struct top_view view = { .interval_ms = 1000,
							 .focus = rows % 2 ? TOP_SESSIONS : 0 };

				begin_page(&page, columns % 3 ? UTF8 : ASCII, rows, columns);
				for (unsigned mode = TOP_BROWSE; mode <= TOP_PRINT; mode++) {
					view.mode = (enum top_mode)mode;
					top_screen_draw(&page, &model, &view);
				}
				top_page_deinit(&page);
			}
		}
	}
	top_model_deinit(&model);
}

static void test_80x24(void **state)
{
	struct top_view view = { .interval_ms = 2000 };
	struct top_model model;
	struct top_page page;

	(void)state;
	top_model_init(&model);
	fill(&model, 20, 1000);
	fill(&model, 20, 2000);
	begin_page(&page, UTF8, 24, 80);
	top_screen_draw(&page, &model, &view);
	assert_seen(&page, "kaiso 9.8.7  up 1m01s  127.0.0.1:80", true);
	assert_seen(&page, "every 2s\n", true);
	assert_seen(&page, "\n>e\u0301-19 ", true);
	assert_seen(&page, "evil\\x1b[2J-18", true);
	assert_seen(&page, " 1/20\n", true);
	assert_seen(&page, "web-0", true);
	/* The selected one is always among those that there is room for. */
	assert_int_equal(model.tables[TOP_SERVICES].height, 8);
	top_table_move(&model.tables[TOP_SERVICES], 19);
	top_screen_draw(&page, &model, &view);
	assert_seen(&page, "\n>web-0 ", true);
	assert_int_equal(model.tables[TOP_SERVICES].first, 12);
	top_table_move(&model.tables[TOP_SERVICES], -9);
	top_screen_draw(&page, &model, &view);
	assert_int_equal(model.tables[TOP_SERVICES].first, 10);
	/* What is filtered out leaves its room to the others. */
	top_model_filter(&model, "forge-1");
	top_screen_draw(&page, &model, &view);
	assert_int_equal(model.tables[TOP_SERVICES].first, 0);
	assert_seen(&page, "web-", false);
	assert_seen(&page, "\nfilter: forge-1", true);
	top_model_filter(&model, "nothing has this");
	top_screen_draw(&page, &model, &view);
	assert_seen(&page, "no service has the filter's text in it", true);
	top_page_deinit(&page);
	top_model_deinit(&model);
}

static void test_states(void **state)
{
	struct top_view view = { .interval_ms = 2000, .is_paused = true };
	struct top_model model;
	struct top_page page;

	(void)state;
	top_model_init(&model);
	fill(&model, 0, 1000);
	begin_page(&page, UTF8, 24, 80);
	top_screen_draw(&page, &model, &view);
	assert_seen(&page, "PAUSED  every 2s\n", true);
	assert_seen(&page, "no service was asked for yet", true);
	model.router.is_draining = true;
	snprintf(view.trouble, sizeof(view.trouble), "gone\x1b[0m");
	top_screen_draw(&page, &model, &view);
	assert_seen(&page, "NO ROUTER  DRAINING  every 2s\n", true);
	assert_seen(&page, "\ngone\\x1b[0m\n", true);
	top_page_deinit(&page);
	top_model_deinit(&model);
}

/* On paper there is room for everything, and nobody to select or to press keys. */
static void test_print(void **state)
{
	struct top_view view = { .interval_ms = 1000, .mode = TOP_PRINT };
	struct top_model model;
	struct top_page page;

	(void)state;
	top_model_init(&model);
	fill(&model, 20, 1000);
	begin_page(&page, ASCII, top_screen_rows(&model), 80);
	top_screen_draw(&page, &model, &view);
	assert_int_equal(model.tables[TOP_SERVICES].height, 20);
	assert_int_equal(model.tables[TOP_SESSIONS].height, 20);
	assert_seen(&page, ">", false);
	assert_seen(&page, "quit", false);
	assert_seen(&page, "git/forge-16", true);
	top_page_deinit(&page);
	top_model_deinit(&model);
}

/* The least important columns are left out first; what is always there is the name. */
static void test_columns(void **state)
{
	enum top_column columns[TOP_COLUMN_COUNT];
	size_t before = 0;

	(void)state;
	for (int width = 0; width < 200; width++) {
		size_t count = top_screen_columns(TOP_SESSIONS, width, columns);

		assert_true(count >= before && count >= 1);
		assert_int_equal(columns[0], TOP_SERVICE);
		before = count;
	}
	assert_int_equal(before, 10);
	assert_int_equal(top_screen_columns(TOP_SERVICES, 80, columns), 10);
	assert_int_equal(top_screen_columns(TOP_SESSIONS, 80, columns), 9);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		FIXTURE_TEST(test_texts),    FIXTURE_TEST(test_places), FIXTURE_TEST(test_graph),
		FIXTURE_TEST(test_interval), FIXTURE_TEST(test_sizes),  FIXTURE_TEST(test_80x24),
		FIXTURE_TEST(test_states),   FIXTURE_TEST(test_print),  FIXTURE_TEST(test_columns),
	};

	return FIXTURE_RUN(tests);
}
