/*
 * Theory of operation: ncurses finds out by itself what has changed on the screen, so each page is put there whole.
 * Styles become attributes, and colours where the terminal has them and $NO_COLOR is not set (no-color.org).
 */
#include "cmd/top_terminal.h"

#include <curses.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <term.h>
#include <unistd.h>

#include "base/macros.h"

/* <term.h> takes these words for itself. */
#undef columns
#undef lines

#define ESCAPE_DELAY_MS 50 /* what comes later belongs to no key */
#define ESCAPE 0x1b
#define REDRAW 0x0c /* Ctrl-L */

/* Pairs of colours; 0 is the terminal's own. */
enum { PAIR_FOCUS = 1, PAIR_GRAPH, PAIR_WARNING, PAIR_BAD };

static const struct {
	attr_t attributes;
	attr_t coloured; /* in their place */
	short pair;
} styles[TOP_STYLE_COUNT] = {
	[TOP_PLAIN] = { A_NORMAL, A_NORMAL, 0 },
	[TOP_DIM] = { A_DIM, A_DIM, 0 },
	[TOP_BOLD] = { A_BOLD, A_BOLD, 0 },
	[TOP_TITLE] = { A_UNDERLINE, A_UNDERLINE, 0 },
	[TOP_TITLE_SORTED] = { A_UNDERLINE | A_BOLD, A_UNDERLINE | A_BOLD, 0 },
	[TOP_TITLE_FOCUS] = { A_REVERSE, A_NORMAL, PAIR_FOCUS },
	[TOP_TITLE_FOCUS_SORTED] = { A_REVERSE | A_BOLD, A_BOLD, PAIR_FOCUS },
	[TOP_SELECTED] = { A_REVERSE, A_REVERSE, 0 },
	[TOP_GRAPH] = { A_NORMAL, A_NORMAL, PAIR_GRAPH },
	[TOP_WARNING] = { A_BOLD, A_BOLD, PAIR_WARNING },
	[TOP_BAD] = { A_BOLD, A_BOLD, PAIR_BAD },
};

static SCREEN *screen;
static bool has_colours;

static int say(char *reason, size_t reason_size, const char *text)
{
	const char *name = getenv("TERM");

	snprintf(reason, reason_size, "TERM is '%.64s': %s; -b prints one screen as text", name ? name : "",
		 text);
	return -1;
}

/* newterm() would do with terminals that can only write line after line. */
static int check_terminal(char *reason, size_t reason_size)
{
	bool is_able;
	int result;

	if (!isatty(STDIN_FILENO)) {
		snprintf(reason, reason_size, "standard input is no terminal; -b prints one screen as text");
		return -1;
	}
	if (setupterm(NULL, STDOUT_FILENO, &result) != OK)
		return say(reason, reason_size, "no such terminal is known here");
	is_able = cursor_address && clear_screen;
	del_curterm(cur_term); /* newterm() has one of its own */
	return is_able ? 0 : say(reason, reason_size, "that terminal cannot move its cursor");
}

static void begin_colours(void)
{
	const char *unwanted = getenv("NO_COLOR");

	if (unwanted && unwanted[0])
		return;
	has_colours = has_colors() && start_color() == OK && COLORS >= 8;
	if (!has_colours)
		return;
	use_default_colors();
	init_pair(PAIR_FOCUS, COLOR_BLACK, COLOR_CYAN);
	init_pair(PAIR_GRAPH, COLOR_GREEN, -1);
	init_pair(PAIR_WARNING, COLOR_YELLOW, -1);
	init_pair(PAIR_BAD, COLOR_RED, -1);
}

int top_terminal_begin(char *reason, size_t reason_size)
{
	if (check_terminal(reason, reason_size) != 0)
		return -1;
	screen = newterm(NULL, stdout, stdin);
	if (!screen)
		return say(reason, reason_size, "that terminal cannot be used");
	cbreak();
	noecho();
	nonl();
	keypad(stdscr, TRUE);
	nodelay(stdscr, TRUE);
	set_escdelay(ESCAPE_DELAY_MS);
	curs_set(0);
	begin_colours();
	return 0;
}

void top_terminal_end(void)
{
	if (!screen)
		return;
	/* Terminals that have no second screen keep what is there, and are written on from here. */
	move(LINES - 1, 0);
	clrtoeol();
	refresh();
	endwin();
	delscreen(STEAL_PTR(screen));
}

void top_terminal_size(int *rows, int *columns)
{
	getmaxyx(stdscr, *rows, *columns);
}

/* The last cell of the last row is drawn, and then said to be an error: the cursor has nowhere to go. */
static void show_cell(int row, int column, const struct top_cell *cell)
{
	cchar_t character;
	attr_t attributes = has_colours ? styles[cell->style].coloured : styles[cell->style].attributes;

	if (!cell->text[0])
		return;
	if (setcchar(&character, cell->text, attributes, has_colours ? styles[cell->style].pair : 0, NULL) ==
	    OK)
		mvadd_wch(row, column, &character);
}

void top_terminal_show(const struct top_page *page)
{
	erase();
	for (int row = 0; row < page->rows; row++) {
		for (int column = 0; column < page->columns; column++)
			show_cell(row, column, top_page_cell(page, row, column));
	}
	refresh();
}

static enum top_key function_key(wint_t code)
{
	static const struct {
		wint_t code;
		enum top_key key;
	} keys[] = {
		{ KEY_UP, TOP_KEY_UP },
		{ KEY_DOWN, TOP_KEY_DOWN },
		{ KEY_PPAGE, TOP_KEY_PAGE_UP },
		{ KEY_NPAGE, TOP_KEY_PAGE_DOWN },
		{ KEY_HOME, TOP_KEY_HOME },
		{ KEY_END, TOP_KEY_END },
		{ KEY_BTAB, TOP_KEY_TAB },
		{ KEY_ENTER, TOP_KEY_ENTER },
		{ KEY_BACKSPACE, TOP_KEY_BACKSPACE },
		{ KEY_DC, TOP_KEY_DELETE },
		{ KEY_RESIZE, TOP_KEY_RESIZE },
	};

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		if (keys[i].code == code)
			return keys[i].key;
	}
	return TOP_KEY_OTHER;
}

static enum top_key control_key(wint_t code)
{
	switch (code) {
	case '\t':
		return TOP_KEY_TAB;
	case '\r':
	case '\n':
		return TOP_KEY_ENTER;
	case REDRAW:
		clearok(stdscr, TRUE); /* something else has written there */
		return TOP_KEY_RESIZE;
	case ESCAPE:
		return TOP_KEY_ESCAPE;
	case '\b':
	case 0x7f:
		return TOP_KEY_BACKSPACE;
	default:
		return code < 0x20 ? TOP_KEY_OTHER : TOP_KEY_CHARACTER;
	}
}

enum top_key top_terminal_key(wchar_t *character)
{
	wint_t code;
	int kind = get_wch(&code);

	if (kind == KEY_CODE_YES)
		return function_key(code);
	if (kind != OK)
		return TOP_KEY_NONE;
	*character = (wchar_t)code;
	return control_key(code);
}
