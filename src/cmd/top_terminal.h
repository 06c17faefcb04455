/*
 * The terminal of `kaiso top`: full-screen while it is begun, as it was before once it is ended.
 */
#ifndef KAISO_CMD_TOP_TERMINAL_H
#define KAISO_CMD_TOP_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <wchar.h>

#include "cmd/top_page.h"

enum top_key {
	TOP_KEY_NONE, /* no more at the moment */
	TOP_KEY_CHARACTER,
	TOP_KEY_UP,
	TOP_KEY_DOWN,
	TOP_KEY_PAGE_UP,
	TOP_KEY_PAGE_DOWN,
	TOP_KEY_HOME,
	TOP_KEY_END,
	TOP_KEY_TAB,
	TOP_KEY_ENTER,
	TOP_KEY_ESCAPE,
	TOP_KEY_BACKSPACE,
	TOP_KEY_DELETE,
	TOP_KEY_RESIZE, /* everything is to be drawn again */
	TOP_KEY_OTHER,
};

/* 0, or -1 with a line for people in reason: the terminal cannot do it, or is none. */
int top_terminal_begin(char *reason, size_t reason_size);

/* May be ended again. */
void top_terminal_end(void);

void top_terminal_size(int *rows, int *columns);
void top_terminal_show(const struct top_page *page);

/* Does not wait. character: that of TOP_KEY_CHARACTER. */
enum top_key top_terminal_key(wchar_t *character);

#endif
