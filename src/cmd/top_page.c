/*
 * Theory of operation: text.h makes a text harmless, then it is taken apart into characters, each of which the locale is
 * asked about: whether it has it, and how many columns it takes. wchar_t holds Unicode in any locale of glibc.
 */
#include "cmd/top_page.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "base/text.h"

#define CUT_MARK L'\u2026'
#define CUT_MARK_ASCII L'~'
#define SUBSTITUTE L'\ufffd'
#define SUBSTITUTE_ASCII L'?'
#define LEVELS 8

/* A text's characters: those that take no column of their own stand behind the one that they belong to. */
struct characters {
	wchar_t *text;
	size_t count;
};

/* ---- characters ------------------------------------------------------------------------------------ */

static bool has_character(wchar_t character)
{
	char bytes[MB_LEN_MAX];
	mbstate_t state = { 0 };

	return wcwidth(character) >= 0 && wcrtomb(bytes, character, &state) != (size_t)-1;
}

/* Unseen, these turn the writing round, or leave it to each terminal how wide something gets. */
static bool is_format(wchar_t character)
{
	static const struct {
		wchar_t first, last;
	} ranges[] = {
		{ 0xad, 0xad },     { 0x34f, 0x34f },   { 0x61c, 0x61c },     { 0x180b, 0x180f },
		{ 0x200b, 0x200f }, { 0x202a, 0x202e }, { 0x2060, 0x206f },   { 0xfe00, 0xfe0f },
		{ 0xfeff, 0xfeff }, { 0xfff9, 0xfffb }, { 0xe0000, 0xe0fff },
	};

	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		if (character >= ranges[i].first && character <= ranges[i].last)
			return true;
	}
	return false;
}

/* Of valid UTF-8. */
static size_t decode(const char *text, wchar_t *character)
{
	const unsigned char *bytes = (const unsigned char *)text;
	size_t length = bytes[0] < 0x80 ? 1 : bytes[0] < 0xe0 ? 2 : bytes[0] < 0xf0 ? 3 : 4;

	*character = length == 1 ? bytes[0] : bytes[0] & (0x7f >> length);
	for (size_t i = 1; i < length; i++)
		*character = *character << 6 | (bytes[i] & 0x3f);
	return length;
}

/* In place of an unwanted one: something of one column. */
static wchar_t shown_character(const struct top_page *page, wchar_t character)
{
	if (has_character(character) && !is_format(character))
		return character;
	return page->has_blocks ? SUBSTITUTE : SUBSTITUTE_ASCII;
}

/* False when out of memory. */
static bool characters_read(struct characters *characters, const struct top_page *page, const char *text)
{
	CLEANUP_FREE char *visible = NULL;
	size_t length = 0;
	FILE *stream = open_memstream(&visible, &length);

	*characters = (struct characters){ 0 };
	if (!stream)
		return false;
	text_write_visible(stream, text, strlen(text));
	if (fclose(stream) != 0)
		return false;
	characters->text = calloc(length + 1, sizeof(wchar_t));
	if (!characters->text)
		return false;
	for (size_t i = 0; i < length;) {
		wchar_t character;

		i += decode(visible + i, &character);
		characters->text[characters->count++] = shown_character(page, character);
	}
	return true;
}

static int characters_width(const struct characters *characters)
{
	int width = 0;

	for (size_t i = 0; i < characters->count && width < INT_MAX - 2; i++)
		width += wcwidth(characters->text[i]);
	return width;
}

/* ---- cells ----------------------------------------------------------------------------------------- */

int top_page_init(struct top_page *page, int rows, int columns)
{
	*page = (struct top_page){ .rows = MAX(rows, 0), .columns = MAX(columns, 0) };
	page->cells = calloc((size_t)page->rows * (size_t)page->columns + 1, sizeof(*page->cells));
	if (!page->cells)
		return -ENOMEM;
	page->has_blocks = has_character(L'\u2581') && wcwidth(L'\u2581') == 1 && has_character(SUBSTITUTE);
	for (int i = 0; i < page->rows * page->columns; i++)
		page->cells[i].text[0] = L' ';
	return 0;
}

void top_page_deinit(struct top_page *page)
{
	free(STEAL_PTR(page->cells));
}

struct top_cell *top_page_cell(const struct top_page *page, int row, int column)
{
	return &page->cells[row * page->columns + column];
}

static void set_cell(struct top_page *page, int row, int column, enum top_style style, wchar_t character)
{
	struct top_cell *cell = top_page_cell(page, row, column);

	*cell = (struct top_cell){ .text = { character }, .style = (uint8_t)style };
	if (wcwidth(character) == 2)
		cell[1] = (struct top_cell){ .style = (uint8_t)style };
}

/* Over the character before. Past what a cell holds, more are left out: names may have thousands. */
static void add_accent(struct top_page *page, int row, int column, wchar_t accent)
{
	struct top_cell *cell = top_page_cell(page, row, column);
	size_t length = wcsnlen(cell->text, TOP_CELL_SIZE);

	if (length == 0 && column > 0) {
		add_accent(page, row, column - 1, accent);
	} else if (length < TOP_CELL_SIZE - 1) {
		cell->text[length] = accent;
		cell->text[length + 1] = L'\0';
	}
}

/* The columns taken. */
static int put_characters(struct top_page *page, int row, int column, int width, enum top_style style,
			  const struct characters *characters)
{
	bool is_cut = characters_width(characters) > width;
	int room = is_cut ? width - 1 : width;
	int used = 0;

	for (size_t i = 0; i < characters->count; i++) {
		int taken = wcwidth(characters->text[i]);

		if (taken == 0 && used > 0)
			add_accent(page, row, column + used - 1, characters->text[i]);
		if (taken == 0)
			continue;
		if (used + taken > room)
			break;
		set_cell(page, row, column + used, style, characters->text[i]);
		used += taken;
	}
	if (is_cut)
		set_cell(page, row, column + used++, style, page->has_blocks ? CUT_MARK : CUT_MARK_ASCII);
	return used;
}

/* How much of this is on the page; 0 for nothing. */
static int clip(const struct top_page *page, int row, int column, int width)
{
	if (row < 0 || row >= page->rows || column < 0 || column >= page->columns)
		return 0;
	return MAX(MIN(width, page->columns - column), 0);
}

int top_page_put(struct top_page *page, int row, int column, int width, enum top_style style,
		 const char *text)
{
	struct characters characters;
	int used = 0;

	width = clip(page, row, column, width);
	if (width > 0 && characters_read(&characters, page, text)) {
		used = put_characters(page, row, column, width, style, &characters);
		free(characters.text);
	}
	return used;
}

int top_page_put_right(struct top_page *page, int row, int column, int width, enum top_style style,
		       const char *text)
{
	struct characters characters;
	int used = 0, free_width;

	width = clip(page, row, column, width);
	if (width > 0 && characters_read(&characters, page, text)) {
		free_width = MAX(width - characters_width(&characters), 0);
		used = put_characters(page, row, column + free_width, width - free_width, style, &characters);
		free(characters.text);
	}
	return used;
}

void top_page_restyle(struct top_page *page, int row, enum top_style style)
{
	if (row < 0 || row >= page->rows)
		return;
	for (int column = 0; column < page->columns; column++)
		top_page_cell(page, row, column)->style = (uint8_t)style;
}

/* ---- graphs ---------------------------------------------------------------------------------------- */

/* 0 for nothing at all; the least of something is 1. */
static int level_of(float sample, float largest)
{
	if (sample <= 0 || largest <= 0)
		return 0;
	return MIN(1 + (int)(sample / largest * LEVELS - 0.001F), LEVELS);
}

void top_page_put_graph(struct top_page *page, int row, int column, int width, const float *samples,
			unsigned count)
{
	static const wchar_t blocks[] = L" \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588";
	static const wchar_t ascii[] = L" .:-=+*#@";
	const wchar_t *levels = page->has_blocks ? blocks : ascii;
	float largest = 0;
	unsigned shown;

	width = clip(page, row, column, width);
	shown = MIN((unsigned)width, count);
	samples += count - shown;
	for (unsigned i = 0; i < shown; i++)
		largest = MAX(largest, samples[i]);
	for (unsigned i = 0; i < shown; i++)
		set_cell(page, row, column + width - (int)shown + (int)i, TOP_GRAPH,
			 levels[level_of(samples[i], largest)]);
}

/* ---- as text --------------------------------------------------------------------------------------- */

static int last_column(const struct top_page *page, int row)
{
	int column = page->columns - 1;

	while (column >= 0 && wcscmp(top_page_cell(page, row, column)->text, L" ") == 0)
		column--;
	return column;
}

void top_page_print(const struct top_page *page, FILE *stream)
{
	char bytes[MB_LEN_MAX];
	mbstate_t state = { 0 };

	for (int row = 0; row < page->rows; row++) {
		int last = last_column(page, row);

		for (int column = 0; column <= last; column++) {
			const wchar_t *text = top_page_cell(page, row, column)->text;

			for (; *text; text++) {
				size_t length = wcrtomb(bytes, *text, &state);

				if (length != (size_t)-1)
					fwrite(bytes, 1, length, stream);
			}
		}
		fputc('\n', stream);
	}
}
