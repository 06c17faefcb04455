/*
 * Theory of operation: each answer makes new rows, sorted by what they are known again by; one walk through the old and
 * the new ones side by side finds what each of them was before, which gives rates and hands the past on. What is shown
 * is an array of pointers into the rows, made anew for every answer, filter and order.
 */
#include "cmd/top_model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"

/* An answer may be late by so much before a session that is new in it counts as one that was left out before. */
#define LATE_SECONDS 1.0

/* ---- what is in an answer -------------------------------------------------------------------------- */

static const char *text_at(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static double real_at(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

static uint64_t number_at(const json_t *object, const char *key)
{
	json_int_t number = json_integer_value(json_object_get(object, key));

	return number > 0 ? (uint64_t)number : 0;
}

static uint64_t sum_of(const json_t *object)
{
	uint64_t sum = 0;
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)object, key, value) sum += (uint64_t)MAX(json_integer_value(value), 0);
	return sum;
}

static void read_row(struct top_row *row, enum top_pane pane, const json_t *object)
{
	*row = (struct top_row){
		.key = text_at(object, pane == TOP_SERVICES ? "service" : "id"),
		.service = text_at(object, "service"),
		.kind = text_at(object, "kind"),
		.client = text_at(object, "client"),
		.state = text_at(object, "state"),
		.target = text_at(object, "target"),
		.age = real_at(object, "seconds"),
		.open = number_at(object, "open"),
		.total = number_at(object, "sessions"),
		.failed = number_at(object, "failures"),
		.sent.bytes = number_at(object, "sent"),
		.received.bytes = number_at(object, "received"),
	};
}

static void read_router(struct top_router *router, const json_t *answer)
{
	const json_t *limits = json_object_get(answer, "limits");

	router->version = text_at(answer, "version");
	router->services_directory = text_at(answer, "services_directory");
	router->listeners = json_object_get(answer, "listeners");
	router->pid = number_at(answer, "pid");
	router->started = number_at(answer, "started");
	router->uptime = number_at(answer, "uptime_seconds");
	router->is_draining = json_is_true(json_object_get(answer, "draining"));
	router->threads = number_at(answer, "threads");
	router->open = number_at(answer, "open");
	router->sessions_max = number_at(limits, "sessions");
	router->total = sum_of(json_object_get(answer, "ended")) + router->open;
	router->refused = number_at(answer, "refused");
	router->untold = number_at(answer, "sessions_untold");
	router->sent.bytes = number_at(answer, "sent");
	router->received.bytes = number_at(answer, "received");
	router->descriptors = number_at(answer, "descriptors");
	router->descriptors_max = number_at(limits, "descriptors");
	router->resident_bytes = number_at(answer, "resident_bytes");
	router->cpu_seconds = real_at(answer, "cpu_seconds");
}

/* ---- rates and the past ---------------------------------------------------------------------------- */

static double rate(double now, double before, double seconds)
{
	return now > before && seconds > 0 ? (now - before) / seconds : 0;
}

static void way_update(struct top_way *way, uint64_t before, double seconds)
{
	way->rate = rate((double)way->bytes, (double)before, seconds);
}

static void history_add(struct top_history *history, double sample)
{
	if (history->count == TOP_HISTORY) {
		history->count--;
		memmove(history->samples, history->samples + 1, sizeof(float) * history->count);
	}
	history->samples[history->count++] = (float)sample;
}

/* before: the same one in the answer before, NULL when it was not there. */
static void row_update(struct top_row *row, const struct top_row *before, double seconds)
{
	if (before)
		row->history = before->history;
	/* One that is older than the time between the answers has been there all along, untold. */
	if (seconds <= 0 || (!before && row->age > seconds + LATE_SECONDS))
		return;
	way_update(&row->sent, before ? before->sent.bytes : 0, seconds);
	way_update(&row->received, before ? before->received.bytes : 0, seconds);
	history_add(&row->history, row->sent.rate + row->received.rate);
}

static void router_update(struct top_router *router, const struct top_router *before, double seconds)
{
	router->history = before->history;
	if (seconds <= 0)
		return;
	way_update(&router->sent, before->sent.bytes, seconds);
	way_update(&router->received, before->received.bytes, seconds);
	router->total_rate = rate((double)router->total, (double)before->total, seconds);
	router->cpu_share = rate(router->cpu_seconds, before->cpu_seconds, seconds);
	history_add(&router->history, router->sent.rate + router->received.rate);
}

/* ---- rows ------------------------------------------------------------------------------------------ */

static int compare_keys(const struct top_row *row, const char *key, unsigned twin)
{
	int order = strcmp(row->key, key);

	return order ? order : (row->twin > twin) - (row->twin < twin);
}

static int compare_rows(const void *left, const void *right)
{
	const struct top_row *row = right;

	return compare_keys(left, row->key, row->twin);
}

/* Rows of the same key get their numbers; before, twin is the place in the answer, which keeps their order. */
static void number_twins(struct top_row *rows, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		bool is_twin = i > 0 && strcmp(rows[i].key, rows[i - 1].key) == 0;

		rows[i].twin = is_twin ? rows[i - 1].twin + 1 : 0;
	}
}

/* Room for one more than there are, so that nothing is allocated with no size. */
static struct top_row *read_rows(enum top_pane pane, const json_t *array, size_t *count)
{
	struct top_row *rows = calloc(json_array_size(array) + 1, sizeof(*rows));

	if (!rows)
		return NULL;
	*count = json_array_size(array);
	for (size_t i = 0; i < *count; i++) {
		read_row(&rows[i], pane, json_array_get(array, i));
		rows[i].twin = (unsigned)i;
	}
	if (*count > 1)
		qsort(rows, *count, sizeof(*rows), compare_rows);
	number_twins(rows, *count);
	return rows;
}

/* Both are sorted the same way. */
static void rows_update(struct top_row *rows, size_t count, const struct top_table *before, double seconds)
{
	const struct top_row *old = before->rows, *end = before->rows + before->count;

	for (size_t i = 0; i < count; i++) {
		while (old < end && compare_rows(old, &rows[i]) < 0)
			old++;
		row_update(&rows[i], old < end && compare_rows(old, &rows[i]) == 0 ? old : NULL, seconds);
	}
}

/* ---- the order ------------------------------------------------------------------------------------- */

static int compare_numbers(double left, double right)
{
	return (left < right) - (left > right); /* the largest first */
}

static double number_of(const struct top_row *row, enum top_column column)
{
	switch (column) {
	case TOP_AGE:
		return row->age;
	case TOP_OPEN:
		return (double)row->open;
	case TOP_TOTAL:
		return (double)row->total;
	case TOP_FAILED:
		return (double)row->failed;
	case TOP_SENT_RATE:
		return row->sent.rate;
	case TOP_RECEIVED_RATE:
		return row->received.rate;
	case TOP_SENT:
		return (double)row->sent.bytes;
	case TOP_RECEIVED:
		return (double)row->received.bytes;
	case TOP_TRAFFIC:
		return row->sent.rate + row->received.rate;
	case TOP_SERVICE:
	case TOP_KIND:
	case TOP_CLIENT:
	case TOP_STATE:
	case TOP_ID:
	case TOP_COLUMN_COUNT:
		break;
	}
	return 0;
}

/* NULL for a column of numbers. */
static const char *text_of(const struct top_row *row, enum top_column column)
{
	switch (column) {
	case TOP_SERVICE:
		return row->service;
	case TOP_KIND:
		return row->kind;
	case TOP_CLIENT:
		return row->client;
	case TOP_STATE:
		return row->state;
	case TOP_ID:
		return row->key;
	case TOP_AGE:
	case TOP_OPEN:
	case TOP_TOTAL:
	case TOP_FAILED:
	case TOP_SENT_RATE:
	case TOP_RECEIVED_RATE:
	case TOP_SENT:
	case TOP_RECEIVED:
	case TOP_TRAFFIC:
	case TOP_COLUMN_COUNT:
		break;
	}
	return NULL;
}

static int compare_shown(const void *left, const void *right, void *context)
{
	const struct top_row *row = *(struct top_row *const *)left, *other = *(struct top_row *const *)right;
	const struct top_table *table = context;
	const char *text = text_of(row, table->column);
	int order = text ? strcmp(text, text_of(other, table->column)) :
			   compare_numbers(number_of(row, table->column), number_of(other, table->column));

	if (table->is_reversed)
		order = -order;
	/* Equals stand still from one answer to the next. */
	return order ? order : compare_rows(row, other);
}

static bool contains(const char *text, const char *part)
{
	return strcasestr(text, part) != NULL;
}

static bool passes(const struct top_row *row, const char *filter)
{
	return !filter[0] || contains(row->service, filter) || contains(row->kind, filter) ||
	       contains(row->client, filter) || contains(row->state, filter) ||
	       contains(row->target, filter) || contains(row->key, filter);
}

/* Finds the held row; when it has gone, what came into its place is held. */
static void find_selected(struct top_table *table)
{
	size_t last = table->shown_count > 0 ? table->shown_count - 1 : 0;

	if (!table->is_held) {
		table->selected = 0;
		return;
	}
	for (size_t i = 0; table->held_key && i < table->shown_count; i++) {
		if (compare_keys(table->shown[i], table->held_key, table->held_twin) == 0) {
			table->selected = i;
			return;
		}
	}
	table->selected = MIN(table->selected, last);
	free(STEAL_PTR(table->held_key));
}

/* Remembers which one it is, by a copy: the rows are soon others. Out of memory, the place alone is kept. */
static void hold_selected(struct top_table *table)
{
	const struct top_row *row = top_table_selected(table);

	free(STEAL_PTR(table->held_key));
	if (!table->is_held || !row)
		return;
	table->held_key = strdup(row->key);
	table->held_twin = row->twin;
}

static void table_show(struct top_table *table, const char *filter)
{
	table->shown_count = 0;
	for (size_t i = 0; i < table->count; i++) {
		if (passes(&table->rows[i], filter))
			table->shown[table->shown_count++] = &table->rows[i];
	}
	if (table->shown_count > 1) /* else there may be no memory for it at all */
		qsort_r(table->shown, table->shown_count, sizeof(struct top_row *), compare_shown, table);
	find_selected(table);
	if (!table->held_key)
		hold_selected(table);
}

static void table_sort_again(struct top_table *table)
{
	if (table->shown_count > 1) /* else there may be no memory for it at all */
		qsort_r(table->shown, table->shown_count, sizeof(struct top_row *), compare_shown, table);
	find_selected(table);
}

/* ---- the model ------------------------------------------------------------------------------------- */

void top_model_init(struct top_model *model)
{
	*model = (struct top_model){ .router = { .version = "", .services_directory = "" } };
	for (unsigned pane = 0; pane < TOP_PANE_COUNT; pane++) {
		model->tables[pane].pane = (enum top_pane)pane;
		model->tables[pane].column = TOP_TRAFFIC;
	}
}

void top_model_deinit(struct top_model *model)
{
	for (unsigned pane = 0; pane < TOP_PANE_COUNT; pane++) {
		free(STEAL_PTR(model->tables[pane].rows));
		free(STEAL_PTR(model->tables[pane].shown));
		free(STEAL_PTR(model->tables[pane].held_key));
	}
	json_decref(STEAL_PTR(model->answer));
}

/* One table's new rows. */
struct fresh {
	struct top_row *rows;
	struct top_row **shown;
	size_t count;
};

/* False when out of memory. */
static bool fresh_read(struct fresh *fresh, enum top_pane pane, const json_t *answer)
{
	const json_t *array = json_object_get(answer, pane == TOP_SERVICES ? "services" : "sessions");

	fresh->rows = read_rows(pane, array, &fresh->count);
	fresh->shown = calloc(json_array_size(array) + 1, sizeof(struct top_row *));
	return fresh->rows && fresh->shown;
}

static void table_replace(struct top_table *table, const struct fresh *fresh, double seconds)
{
	rows_update(fresh->rows, fresh->count, table, seconds);
	free(table->rows);
	free(table->shown);
	table->rows = fresh->rows;
	table->shown = fresh->shown;
	table->count = fresh->count;
}

static void model_replace(struct top_model *model, const struct fresh *fresh, json_t *answer, double seconds)
{
	struct top_router before = model->router;

	for (unsigned pane = 0; pane < TOP_PANE_COUNT; pane++) {
		table_replace(&model->tables[pane], &fresh[pane], seconds);
		table_show(&model->tables[pane], model->filter);
	}
	read_router(&model->router, answer);
	router_update(&model->router, &before, seconds);
	/* Rows and router have pointed into the old one until now. */
	json_decref(model->answer);
	model->answer = json_incref(answer);
}

static int compare_routers(const struct top_model *model, const json_t *answer)
{
	if (!model->answer)
		return TOP_SAME;
	if (number_at(answer, "pid") != model->router.pid)
		return TOP_RESTARTED;
	return number_at(answer, "started") == model->router.started ? TOP_SAME : TOP_UPGRADED;
}

int top_model_update(struct top_model *model, json_t *answer, uint64_t now_ms)
{
	struct fresh fresh[TOP_PANE_COUNT] = { { 0 } };
	double seconds = 0;
	int outcome;

	if (!json_is_array(json_object_get(answer, "services")) ||
	    !json_is_array(json_object_get(answer, "sessions")))
		return -EPROTO;
	for (unsigned pane = 0; pane < TOP_PANE_COUNT; pane++) {
		if (fresh_read(&fresh[pane], (enum top_pane)pane, answer))
			continue;
		for (unsigned i = 0; i <= pane; i++) {
			free(fresh[i].rows);
			free(fresh[i].shown);
		}
		return -ENOMEM;
	}
	outcome = compare_routers(model, answer);
	if (model->answer && outcome == TOP_SAME)
		seconds = (double)(now_ms - model->answered_ms) / 1000;
	model_replace(model, fresh, answer, seconds);
	model->answered_ms = now_ms;
	model->has_rates = seconds > 0;
	return outcome;
}

void top_model_filter(struct top_model *model, const char *text)
{
	size_t length = strnlen(text, sizeof(model->filter) - 1);

	memmove(model->filter, text, length); /* it may be the same text */
	model->filter[length] = '\0';
	for (unsigned pane = 0; pane < TOP_PANE_COUNT; pane++) {
		if (model->tables[pane].rows)
			table_show(&model->tables[pane], model->filter);
	}
}

void top_table_sort(struct top_table *table, enum top_column column)
{
	table->column = column;
	table_sort_again(table);
}

void top_table_reverse(struct top_table *table)
{
	table->is_reversed = !table->is_reversed;
	table_sort_again(table);
}

void top_table_sort_next(struct top_table *table, const enum top_column *columns, size_t count)
{
	size_t i = 0;

	while (i < count && columns[i] != table->column)
		i++;
	if (count > 0)
		top_table_sort(table, columns[i < count ? (i + 1) % count : 0]);
}

void top_table_move(struct top_table *table, long rows)
{
	long last = (long)table->shown_count - 1, wanted = (long)table->selected + rows;

	table->is_held = true;
	table->selected = (size_t)MAX(MIN(wanted, last), 0);
	hold_selected(table);
}

void top_table_release(struct top_table *table)
{
	table->is_held = false;
	table->selected = 0;
	hold_selected(table);
}

const struct top_row *top_table_selected(const struct top_table *table)
{
	return table->selected < table->shown_count ? table->shown[table->selected] : NULL;
}
