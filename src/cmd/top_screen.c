/*
 * Theory of operation: from the top down, the router in a few lines, the services, the sessions, and a line for keys,
 * questions and messages. Both panes are tables of the same make: what there is no room for is left out, the least
 * important column first, and what room is left goes to names and graphs.
 */
#include "cmd/top_screen.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"
#include "base/quantity.h"

#define MARGIN 1 /* the mark of the selected row */
#define GAP 1
#define LEAST_ROWS 5
#define LEAST_COLUMNS 30

const char *top_screen_interval(uint64_t interval_ms, char text[static QUANTITY_SIZE])
{
	if (interval_ms % 1000 == 0 && interval_ms >= 60000 && interval_ms % 60000 == 0)
		snprintf(text, QUANTITY_SIZE, "%" PRIu64 "m", interval_ms / 60000);
	else if (interval_ms % 1000 == 0)
		snprintf(text, QUANTITY_SIZE, "%" PRIu64 "s", interval_ms / 1000);
	else
		snprintf(text, QUANTITY_SIZE, "%" PRIu64 "ms", interval_ms);
	return text;
}

/* ---- columns --------------------------------------------------------------------------------------- */

struct column {
	const char *title;
	enum top_column column;
	int width; /* at least */
	int rank;  /* the highest is left out first; 0 never */
	bool is_right;
	bool is_flexible; /* takes what room is left, with the others of its sort */
};

static const struct column service_columns[] = {
	{ "SERVICE", TOP_SERVICE, 15, 0, false, true },
	{ "KIND", TOP_KIND, 6, 8, false, false },
	{ "OPEN", TOP_OPEN, 4, 2, true, false },
	{ "TOTAL", TOP_TOTAL, 5, 6, true, false },
	{ "FAIL", TOP_FAILED, 4, 7, true, false },
	{ "SENT/s", TOP_SENT_RATE, 6, 1, true, false },
	{ "RECV/s", TOP_RECEIVED_RATE, 6, 1, true, false },
	{ "SENT", TOP_SENT, 4, 5, true, false },
	{ "RECV", TOP_RECEIVED, 4, 4, true, false },
	{ "TRAFFIC", TOP_TRAFFIC, 9, 3, false, true },
};

static const struct column session_columns[] = {
	{ "SESSION TO", TOP_SERVICE, 12, 0, false, true },
	{ "CLIENT", TOP_CLIENT, 15, 1, false, true },
	{ "ID", TOP_ID, 12, 9, false, false },
	{ "STATE", TOP_STATE, 8, 8, false, false },
	{ "AGE", TOP_AGE, 6, 3, true, false },
	{ "SENT/s", TOP_SENT_RATE, 6, 2, true, false },
	{ "RECV/s", TOP_RECEIVED_RATE, 6, 2, true, false },
	{ "SENT", TOP_SENT, 4, 5, true, false },
	{ "RECV", TOP_RECEIVED, 4, 4, true, false },
	{ "TRAFFIC", TOP_TRAFFIC, 9, 7, false, true },
};

/* What a pane has in some width. */
struct layout {
	const struct column *columns[TOP_COLUMN_COUNT];
	int places[TOP_COLUMN_COUNT]; /* where they begin */
	int widths[TOP_COLUMN_COUNT];
	size_t count;
};

static int layout_least(const struct layout *layout)
{
	int width = MARGIN - GAP;

	for (size_t i = 0; i < layout->count; i++)
		width += GAP + layout->columns[i]->width;
	return width;
}

/* Takes those of the highest rank out. False when there is none but rank 0. */
static bool layout_drop(struct layout *layout)
{
	size_t kept = 0;
	int highest = 0;

	for (size_t i = 0; i < layout->count; i++)
		highest = MAX(highest, layout->columns[i]->rank);
	for (size_t i = 0; i < layout->count && highest > 0; i++) {
		if (layout->columns[i]->rank < highest)
			layout->columns[kept++] = layout->columns[i];
	}
	if (highest > 0)
		layout->count = kept;
	return highest > 0;
}

/* Shares out what is left; the first column gets what cannot be shared. */
static void layout_place(struct layout *layout, int width)
{
	int left = width - layout_least(layout), flexible = 0, place = MARGIN;

	for (size_t i = 0; i < layout->count; i++)
		flexible += layout->columns[i]->is_flexible;
	for (size_t i = 0; i < layout->count; i++) {
		layout->places[i] = place;
		layout->widths[i] = layout->columns[i]->width;
		if (layout->columns[i]->is_flexible && flexible > 0)
			layout->widths[i] += left / flexible + (i == 0 ? left % flexible : 0);
		place += layout->widths[i] + GAP;
	}
}

static void layout_make(struct layout *layout, enum top_pane pane, int width)
{
	const struct column *columns = pane == TOP_SERVICES ? service_columns : session_columns;

	*layout = (struct layout){ 0 };
	layout->count = pane == TOP_SERVICES ? ARRAY_SIZE(service_columns) : ARRAY_SIZE(session_columns);
	for (size_t i = 0; i < layout->count; i++)
		layout->columns[i] = &columns[i];
	while (layout_least(layout) > width && layout_drop(layout))
		;
	layout_place(layout, width);
}

size_t top_screen_columns(enum top_pane pane, int width, enum top_column columns[static TOP_COLUMN_COUNT])
{
	struct layout layout;

	layout_make(&layout, pane, width);
	for (size_t i = 0; i < layout.count; i++)
		columns[i] = layout.columns[i]->column;
	return layout.count;
}

/* ---- rows of a table ------------------------------------------------------------------------------- */

/* What a number's cell says, in text; and how. */
static enum top_style number_cell(const struct top_row *row, enum top_column column,
				  char text[static QUANTITY_SIZE])
{
	double rate = column == TOP_SENT_RATE ? row->sent.rate : row->received.rate;

	if (column == TOP_AGE)
		quantity_age(row->age, text);
	else if (column == TOP_OPEN)
		quantity_count(row->open, text);
	else if (column == TOP_TOTAL)
		quantity_count(row->total, text);
	else if (column == TOP_FAILED)
		quantity_count(row->failed, text);
	else if (column == TOP_SENT)
		quantity_bytes((double)row->sent.bytes, text);
	else if (column == TOP_RECEIVED)
		quantity_bytes((double)row->received.bytes, text);
	else if (rate > 0)
		quantity_bytes(rate, text);
	else
		snprintf(text, QUANTITY_SIZE, "-");
	if (column == TOP_FAILED && row->failed > 0)
		return TOP_BAD;
	return strcmp(text, "0") == 0 || strcmp(text, "-") == 0 ? TOP_DIM : TOP_PLAIN;
}

static void draw_text_cell(struct top_page *page, int line, int place, int width, const struct top_row *row,
			   enum top_column column)
{
	const char *text = column == TOP_KIND   ? row->kind :
			   column == TOP_CLIENT ? row->client :
			   column == TOP_STATE  ? row->state :
			   column == TOP_ID     ? row->key :
						  row->service;
	char state[64];

	if (column == TOP_SERVICE && !text[0]) {
		snprintf(state, sizeof(state), "(%.60s)", row->state);
		top_page_put(page, line, place, width, TOP_DIM, state);
		return;
	}
	top_page_put(page, line, place, width, TOP_PLAIN, text[0] ? text : "-");
}

static void draw_row(struct top_page *page, int line, const struct layout *layout, const struct top_row *row)
{
	char text[QUANTITY_SIZE];

	for (size_t i = 0; i < layout->count; i++) {
		enum top_column column = layout->columns[i]->column;
		int place = layout->places[i], width = layout->widths[i];

		if (column == TOP_TRAFFIC) {
			top_page_put_graph(page, line, place, width, row->history.samples,
					   row->history.count);
		} else if (layout->columns[i]->is_right) {
			enum top_style style = number_cell(row, column, text);

			top_page_put_right(page, line, place, width, style, text);
		} else {
			draw_text_cell(page, line, place, width, row, column);
		}
	}
}

static const char *sort_mark(const struct top_page *page, const struct top_table *table)
{
	if (page->has_blocks)
		return table->is_reversed ? "\u25b2" : "\u25bc";
	return table->is_reversed ? "^" : "v";
}

static void draw_title(struct top_page *page, int line, const struct layout *layout,
		       const struct top_table *table, bool is_focus)
{
	enum top_style style = is_focus ? TOP_TITLE_FOCUS : TOP_TITLE;

	top_page_restyle(page, line, style);
	for (size_t i = 0; i < layout->count; i++) {
		const struct column *column = layout->columns[i];
		bool is_sorted = column->column == table->column;
		int place = layout->places[i], width = layout->widths[i], end = place + width;

		if (!column->is_right)
			end = place +
			      top_page_put(page, line, place, width, style + is_sorted, column->title);
		else if (end < page->columns || !is_sorted)
			top_page_put_right(page, line, place, width, style + is_sorted, column->title);
		else
			/* At the edge the mark has no gap behind it to stand in, but one before. */
			top_page_put_right(page, line, --end - width, width, style + is_sorted,
					   column->title);
		if (is_sorted)
			top_page_put(page, line, end, 1, style + is_sorted, sort_mark(page, table));
	}
}

/* So that the selected row is among those seen, and no room is left empty for nothing. */
static void scroll(struct top_table *table)
{
	size_t last_first = table->shown_count > table->height ? table->shown_count - table->height : 0;

	if (table->selected < table->first)
		table->first = table->selected;
	if (table->height > 0 && table->selected >= table->first + table->height)
		table->first = table->selected - table->height + 1;
	table->first = MIN(table->first, last_first);
}

static const char *text_of_nothing(enum top_pane pane, const struct top_model *model)
{
	if (model->filter[0])
		return pane == TOP_SERVICES ? "no service has the filter's text in it" :
					      "no session has the filter's text in it";
	return pane == TOP_SERVICES ? "no service was asked for yet" : "no session is open";
}

/* The title and so many rows beneath it. */
static void draw_table(struct top_page *page, int line, int rows, struct top_table *table,
		       const struct top_model *model, const struct top_view *view)
{
	bool is_focus = view->focus == table->pane && view->mode != TOP_PRINT;
	struct layout layout;

	table->height = (size_t)MAX(rows, 0);
	scroll(table);
	layout_make(&layout, table->pane, page->columns);
	draw_title(page, line, &layout, table, is_focus);
	for (int i = 0; i < rows && table->first + (size_t)i < table->shown_count; i++) {
		size_t place = table->first + (size_t)i;

		draw_row(page, line + 1 + i, &layout, table->shown[place]);
		if (is_focus && place == table->selected) {
			top_page_restyle(page, line + 1 + i, TOP_SELECTED);
			top_page_put(page, line + 1 + i, 0, 1, TOP_SELECTED, ">");
		}
	}
	if (table->shown_count == 0 && rows > 0)
		top_page_put(page, line + 1, MARGIN, page->columns, TOP_DIM,
			     text_of_nothing(table->pane, model));
}

/* ---- the router ------------------------------------------------------------------------------------ */

static void write_listeners(const struct top_router *router, char *text, size_t size)
{
	size_t count = json_array_size(router->listeners), length = 0;

	text[0] = '\0';
	for (size_t i = 0; i < count && length < size; i++) {
		const char *address =
			json_string_value(json_object_get(json_array_get(router->listeners, i), "address"));

		length += (size_t)snprintf(text + length, size - length, "%s%s", i > 0 ? " " : "",
					   address ? address : "");
	}
}

/* Who it is at the left, and how it goes at the right. */
static void draw_name(struct top_page *page, const struct top_model *model, const struct top_view *view)
{
	const struct top_router *router = &model->router;
	char text[TOP_LINE_SIZE], listeners[TOP_LINE_SIZE], age[QUANTITY_SIZE], every[QUANTITY_SIZE];
	int right, used;

	snprintf(text, sizeof(text), "%s%severy %s", view->trouble[0] ? "NO ROUTER  " : "",
		 router->is_draining ? "DRAINING  " :
		 view->is_paused     ? "PAUSED  " :
				       "",
		 top_screen_interval(view->interval_ms, every));
	right = top_page_put_right(page, 0, 0, page->columns,
				   view->trouble[0]                       ? TOP_BAD :
				   router->is_draining || view->is_paused ? TOP_WARNING :
									    TOP_PLAIN,
				   text);
	snprintf(text, sizeof(text), "kaiso %.100s", router->version);
	used = top_page_put(page, 0, 0, page->columns - right - 1, TOP_BOLD, text);
	write_listeners(router, listeners, sizeof(listeners));
	snprintf(text, sizeof(text), "  up %s  %.400s", quantity_age((double)router->uptime, age), listeners);
	top_page_put(page, 0, used, page->columns - right - 1 - used, TOP_PLAIN, text);
}

static void draw_sessions_line(struct top_page *page, int line, const struct top_router *router)
{
	char text[TOP_LINE_SIZE], limit[64] = "";

	if (router->sessions_max > 0)
		snprintf(limit, sizeof(limit), " of at most %" PRIu64, router->sessions_max);
	snprintf(text, sizeof(text),
		 "sessions  %" PRIu64 " open%s  %" PRIu64 " in all  %.1f/s new  %" PRIu64 " refused",
		 router->open, limit, router->total, router->total_rate, router->refused);
	top_page_put(page, line, 0, page->columns, TOP_PLAIN, text);
}

static void draw_traffic_line(struct top_page *page, int line, const struct top_router *router)
{
	char text[TOP_LINE_SIZE];
	char numbers[4][QUANTITY_SIZE];
	int used;

	snprintf(text, sizeof(text), "traffic   sent %4s %4s/s  received %4s %4s/s",
		 quantity_bytes((double)router->sent.bytes, numbers[0]),
		 quantity_bytes(router->sent.rate, numbers[1]),
		 quantity_bytes((double)router->received.bytes, numbers[2]),
		 quantity_bytes(router->received.rate, numbers[3]));
	used = top_page_put(page, line, 0, page->columns, TOP_PLAIN, text) + 2;
	top_page_put_graph(page, line, used, page->columns - used, router->history.samples,
			   router->history.count);
}

static void draw_process_line(struct top_page *page, int line, const struct top_router *router)
{
	char text[TOP_LINE_SIZE];
	char memory[QUANTITY_SIZE];

	snprintf(text, sizeof(text),
		 "process   %" PRIu64 "  %.0f%% of a processor  %" PRIu64 " threads  %s memory  %" PRIu64
		 "/%" PRIu64 " descriptors",
		 router->pid, router->cpu_share * 100, router->threads,
		 quantity_bytes((double)router->resident_bytes, memory), router->descriptors,
		 router->descriptors_max);
	top_page_put(page, line, 0, page->columns, TOP_PLAIN, text);
}

/* How many lines it takes. */
static int draw_router(struct top_page *page, const struct top_model *model, const struct top_view *view)
{
	bool is_print = view->mode == TOP_PRINT;
	int line = 1;

	draw_name(page, model, view);
	if (is_print || page->rows >= 8)
		draw_sessions_line(page, line++, &model->router);
	if (is_print || page->rows >= 12)
		draw_traffic_line(page, line++, &model->router);
	if (is_print || page->rows >= 20)
		draw_process_line(page, line++, &model->router);
	return line;
}

/* ---- the last line, and help ----------------------------------------------------------------------- */

/* Which of how many rows is selected, at the right. The columns taken. */
static int draw_position(struct top_page *page, int line, const struct top_table *table,
			 const struct top_model *model)
{
	char text[TOP_LINE_SIZE], untold[64] = "";

	if (table->pane == TOP_SESSIONS && model->router.untold > 0)
		snprintf(untold, sizeof(untold), " and %" PRIu64, model->router.untold);
	snprintf(text, sizeof(text), "  %zu/%zu%s", MIN(table->selected + 1, table->shown_count),
		 table->shown_count, untold);
	return top_page_put_right(page, line, 0, page->columns, TOP_DIM, text);
}

static void draw_foot(struct top_page *page, const struct top_model *model, const struct top_view *view)
{
	static const char keys[] = "? help  q quit  Tab pane  s sort  / filter  c close  p pause";
	int line = page->rows - 1, width = page->columns, used = 0;
	char text[TOP_LINE_SIZE];

	if (view->mode == TOP_ASK_FILTER) {
		used = top_page_put(page, line, 0, page->columns, TOP_BOLD, "filter: ");
		used += top_page_put(page, line, used, page->columns - used, TOP_PLAIN, model->filter);
		top_page_put(page, line, used, page->columns - used, TOP_SELECTED, " ");
		top_page_put(page, line, used + 1, page->columns - used - 1, TOP_DIM,
			     "  Enter keeps it, Esc clears it");
	} else if (view->message[0]) {
		top_page_put(page, line, 0, page->columns,
			     view->mode == TOP_ASK_CLOSE ? TOP_WARNING : TOP_BOLD, view->message);
	} else if (view->trouble[0]) {
		top_page_put(page, line, 0, page->columns, TOP_BAD, view->trouble);
	} else if (model->filter[0]) {
		width -= draw_position(page, line, &model->tables[view->focus], model);
		snprintf(text, sizeof(text), "filter: %s", model->filter);
		used = top_page_put(page, line, 0, width, TOP_WARNING, text);
		top_page_put(page, line, used, width - used, TOP_DIM, "  / changes it, Esc clears it");
	} else {
		width -= draw_position(page, line, &model->tables[view->focus], model);
		top_page_put(page, line, 0, width, TOP_DIM, keys);
	}
}

static void draw_help(struct top_page *page)
{
	static const char *const lines[] = {
		"kaiso top: keys",
		"",
		"q                   quit",
		"Tab                 the other pane",
		"Up Down  j k        select",
		"s                   sort by the next column",
		"r  S                the other way round",
		"/                   show rows with this text only; Esc: all",
		"c  Delete           close the selected session",
		"p  Space            pause",
		"+ -                 longer or shorter intervals",
		"PgUp PgDn           a pane's height further",
		"Home  g             the top row, whatever comes there",
		"End  G              the last row",
		"Ctrl-L              draw everything again",
		"",
		"SENT is from clients to services, RECV from services to clients. K is 1024.",
		"TRAFFIC is both, over time; each graph reaches the top at its own largest.",
	};

	for (int i = 0; i < (int)ARRAY_SIZE(lines); i++)
		top_page_put(page, i, 1, page->columns, i == 0 ? TOP_BOLD : TOP_PLAIN, lines[i]);
	/* Last, so that it is seen on a small screen too. */
	top_page_restyle(page, page->rows - 1, TOP_PLAIN);
	for (int column = 0; column < page->columns; column++)
		top_page_put(page, page->rows - 1, column, 1, TOP_PLAIN, " ");
	top_page_put(page, page->rows - 1, 1, page->columns, TOP_DIM, "Any key goes back.");
}

/* ---- all of it ------------------------------------------------------------------------------------- */

/* Each pane gets what it needs, and half of the rows at least if it needs them. */
static int service_rows(const struct top_model *model, int rows)
{
	int services = (int)MAX(model->tables[TOP_SERVICES].shown_count, 1U);
	int sessions = (int)MAX(model->tables[TOP_SESSIONS].shown_count, 1U);

	return MIN(services, MAX(rows / 2, rows - sessions));
}

static void draw_panes(struct top_page *page, struct top_model *model, const struct top_view *view)
{
	int line = draw_router(page, model, view);
	int foot = view->mode == TOP_PRINT ? 0 : 1;
	int rows = page->rows - line - foot - 2;
	int services = service_rows(model, rows);

	draw_table(page, line, services, &model->tables[TOP_SERVICES], model, view);
	draw_table(page, line + 1 + services, rows - services, &model->tables[TOP_SESSIONS], model, view);
	if (foot > 0)
		draw_foot(page, model, view);
}

int top_screen_rows(const struct top_model *model)
{
	size_t rows = 0;

	for (unsigned pane = 0; pane < TOP_PANE_COUNT; pane++)
		rows += 1 + MAX(model->tables[pane].shown_count, 1U);
	return 4 + (int)rows;
}

static void page_clear(struct top_page *page)
{
	for (int i = 0; i < page->rows * page->columns; i++)
		page->cells[i] = (struct top_cell){ .text = { L' ' } };
}

void top_screen_draw(struct top_page *page, struct top_model *model, const struct top_view *view)
{
	page_clear(page);
	if (view->mode != TOP_PRINT && (page->rows < LEAST_ROWS || page->columns < LEAST_COLUMNS))
		top_page_put(page, 0, 0, page->columns, TOP_PLAIN, "too small");
	else if (view->mode == TOP_HELP)
		draw_help(page);
	else
		draw_panes(page, model, view);
}
