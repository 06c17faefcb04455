/*
 * A rectangle of character cells that texts are put into, for a terminal or a pipe to show. Nothing gets into it that a
 * terminal would obey, and no character that the locale has none for.
 *
 * Rows and columns count from 0; what lies outside is left out.
 */
#ifndef KAISO_CMD_TOP_PAGE_H
#define KAISO_CMD_TOP_PAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <wchar.h>

/* A character and what is written over it (accents), terminated. */
#define TOP_CELL_SIZE 4

enum top_style {
	TOP_PLAIN,
	TOP_DIM,
	TOP_BOLD,
	TOP_TITLE,
	TOP_TITLE_SORTED,
	TOP_TITLE_FOCUS,
	TOP_TITLE_FOCUS_SORTED,
	TOP_SELECTED,
	TOP_GRAPH,
	TOP_WARNING,
	TOP_BAD,
	TOP_STYLE_COUNT
};

struct top_cell {
	wchar_t text[TOP_CELL_SIZE]; /* empty: the right half of a wide character */
	uint8_t style;               /* enum top_style */
};

struct top_page {
	int rows;
	int columns;
	bool has_blocks; /* the locale has the characters that graphs are drawn with */
	struct top_cell *cells;
};

/* Blank. 0 or -ENOMEM. */
int top_page_init(struct top_page *page, int rows, int columns);
void top_page_deinit(struct top_page *page);

struct top_cell *top_page_cell(const struct top_page *page, int row, int column);

/*
 * Puts UTF-8 of any sort there. Control characters and bytes that are no UTF-8 become \xHH; what takes more than width
 * columns is cut, with a mark. Returns the columns taken.
 */
int top_page_put(struct top_page *page, int row, int column, int width, enum top_style style,
		 const char *text);

/* The same, but ending before column + width. */
int top_page_put_right(struct top_page *page, int row, int column, int width, enum top_style style,
		       const char *text);

/* All of this row. */
void top_page_restyle(struct top_page *page, int row, enum top_style style);

/* A graph of the samples, the newest last and at the right; the largest reaches the top of its row. */
void top_page_put_graph(struct top_page *page, int row, int column, int width, const float *samples,
			unsigned count);

/* As text in the locale's encoding, without styles, nor blanks at the ends of rows. */
void top_page_print(const struct top_page *page, FILE *stream);

#endif
