/*
 * How `kaiso top` looks: draws the model on a page of any size. Pure: top_terminal.h brings it to a terminal.
 */
#ifndef KAISO_CMD_TOP_SCREEN_H
#define KAISO_CMD_TOP_SCREEN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/quantity.h"
#include "cmd/top_model.h"
#include "cmd/top_page.h"

#define TOP_LINE_SIZE 512

enum top_mode {
	TOP_BROWSE,
	TOP_ASK_FILTER, /* a filter is being typed */
	TOP_ASK_CLOSE,  /* y or n */
	TOP_HELP,
	TOP_PRINT, /* for a pipe: nobody selects, and no keys are there */
};

/* What the person at the terminal has chosen, and is told. */
struct top_view {
	enum top_mode mode;
	enum top_pane focus;
	bool is_paused;
	uint64_t interval_ms;
	char trouble[TOP_LINE_SIZE]; /* why there is no news from the router; "": there is */
	char message[TOP_LINE_SIZE]; /* in the last row */
};

/* Draws over all of the page. Moves the tables' first rows so that selected ones are seen. */
void top_screen_draw(struct top_page *page, struct top_model *model, const struct top_view *view);

/* How many rows a page needs to hold everything, in TOP_PRINT. */
int top_screen_rows(const struct top_model *model);

/* The columns that a pane has in this width, from left to right. How many. */
size_t top_screen_columns(enum top_pane pane, int width, enum top_column columns[static TOP_COLUMN_COUNT]);

/* "500ms", "2s", "1m". */
const char *top_screen_interval(uint64_t interval_ms, char text[static QUANTITY_SIZE]);

#endif
