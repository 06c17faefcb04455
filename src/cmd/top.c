/*
 * Theory of operation: one loop waits for keys, for the router's answers and for the time of the next question. Nothing
 * in it waits for the router alone, so that keys work whatever it does. A connection that ends is made again: routers
 * are restarted and upgraded, and close a connection that is silent for long.
 *
 * Signals are let in only while the loop waits: one that ends the program is remembered, the terminal is put back, and
 * then it ends the program after all.
 */
#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/args.h"
#include "base/clock.h"
#include "base/macros.h"
#include "base/text.h"
#include "cmd/cmd.h"
#include "cmd/control_client.h"
#include "cmd/top_model.h"
#include "cmd/top_page.h"
#include "cmd/top_screen.h"
#include "cmd/top_terminal.h"

#define TOOL "kaiso top"
#define DEFAULT_INTERVAL_MS 1000
#define LEAST_INTERVAL_MS 100
#define LARGEST_INTERVAL_MS 3600000
#define DEFAULT_WIDTH 80
#define RETRY_MS 500 /* between attempts to reach a router that is not there */
#define MESSAGE_MS 5000
#define ID_SIZE 64

struct settings {
	const char *path; /* NULL: the usual places */
	uint64_t interval_ms;
	bool is_once;
};

enum asked { ASKED_NOTHING, ASKED_SESSIONS, ASKED_CLOSE };

struct top {
	struct top_model model;
	struct top_view view;
	struct top_page page;
	const struct settings *settings;
	struct control_client client;
	enum asked asked;
	uint64_t asked_ms;       /* when; or, with nothing asked, when to ask or to connect next */
	bool has_answered;       /* on this connection */
	char close_id[ID_SIZE];  /* of the session that a question is about, or "" */
	bool is_close_confirmed; /* to be closed as soon as nothing else is asked */
	uint64_t message_end_ms;
	bool is_ended;
};

static volatile sig_atomic_t ending_signal;

static int fail(const char *reason)
{
	fputs(TOOL ": ", stderr);
	text_write_visible(stderr, reason, strlen(reason));
	fputc('\n', stderr);
	return EXIT_RUNTIME;
}

/* ---- what is told ---------------------------------------------------------------------------------- */

static void tell(struct top *top, const char *text)
{
	snprintf(top->view.message, sizeof(top->view.message), "%s", text);
	top->message_end_ms = clock_now_ms() + MESSAGE_MS;
}

static const char *words_of(int error)
{
	switch (error) {
	case ECONNRESET:
		return "the router ended the connection";
	case ETIMEDOUT:
		return "the router does not answer";
	case EPROTO:
		return "what answers is no router of this version";
	default:
		return strerror(error);
	}
}

/* ---- the router ------------------------------------------------------------------------------------ */

/* Tries again: at once when all was well until now, since it may be there again already. */
static void lose(struct top *top, int error)
{
	control_client_close(&top->client);
	if (top->asked == ASKED_CLOSE)
		tell(top, "the router went away before it said whether the session is closed");
	if (!top->has_answered)
		snprintf(top->view.trouble, sizeof(top->view.trouble), "trying again: %s", words_of(error));
	top->asked_ms = clock_now_ms() + (top->has_answered ? 0 : RETRY_MS);
	top->asked = ASKED_NOTHING;
	top->has_answered = false;
}

static void connect_again(struct top *top)
{
	char reason[CONTROL_REASON_SIZE];

	top->asked_ms = clock_now_ms();
	if (control_client_open(&top->client, top->settings->path, reason, sizeof(reason)) == 0)
		return;
	snprintf(top->view.trouble, sizeof(top->view.trouble), "trying again: %.480s", reason);
	top->asked_ms += RETRY_MS;
}

static void ask(struct top *top, enum asked what, const char *line)
{
	int r = control_client_send(&top->client, line);

	top->asked_ms = clock_now_ms();
	if (r == 0)
		top->asked = what;
	else
		lose(top, -r);
}

/* What there is to ask at the moment, if anything. */
static void ask_next(struct top *top)
{
	char line[ID_SIZE + 8];

	if (top->is_close_confirmed) {
		snprintf(line, sizeof(line), "close %s", top->close_id);
		top->is_close_confirmed = false;
		ask(top, ASKED_CLOSE, line);
	} else if (!top->view.is_paused && clock_now_ms() >= top->asked_ms) {
		ask(top, ASKED_SESSIONS, "sessions");
	}
}

static void tell_outcome(struct top *top, int outcome)
{
	char text[TOP_LINE_SIZE];

	if (outcome == TOP_RESTARTED)
		snprintf(text, sizeof(text), "another router answers now: kaiso %.100s, process %llu",
			 top->model.router.version, (unsigned long long)top->model.router.pid);
	else if (outcome == TOP_UPGRADED)
		snprintf(text, sizeof(text), "the router was upgraded: kaiso %.100s",
			 top->model.router.version);
	else if (top->view.trouble[0])
		snprintf(text, sizeof(text), "the router answers again");
	else
		return;
	tell(top, text);
}

static void take_sessions(struct top *top, json_t *answer)
{
	const char *error = json_string_value(json_object_get(answer, "error"));
	int r = error ? -EREMOTEIO : top_model_update(&top->model, answer, clock_now_ms());

	/* The intervals are from question to question, however long answers take. */
	top->asked_ms = MAX(top->asked_ms + top->view.interval_ms, clock_now_ms());
	if (r >= 0)
		tell_outcome(top, r);
	snprintf(top->view.trouble, sizeof(top->view.trouble), "%.200s%s", error ? error : "",
		 r < 0 && !error ? words_of(-r) : "");
}

static void take_closed(struct top *top, const json_t *answer)
{
	const char *error = json_string_value(json_object_get(answer, "error"));
	char text[TOP_LINE_SIZE];

	snprintf(text, sizeof(text), "session %s: %.200s", top->close_id, error ? error : "closed");
	tell(top, text);
	top->close_id[0] = '\0';
	top->asked_ms = clock_now_ms(); /* and seen to be gone, at once */
}

/* Without a question it can only be the end. */
static void receive(struct top *top)
{
	json_t *answer = control_client_receive(&top->client);
	enum asked asked = top->asked;

	if (!answer && errno == EAGAIN && asked != ASKED_NOTHING)
		return; /* there is more to come */
	if (!answer || asked == ASKED_NOTHING) {
		lose(top, answer ? EPROTO : errno);
		json_decref(answer);
		return;
	}
	top->asked = ASKED_NOTHING;
	top->has_answered = true;
	if (asked == ASKED_CLOSE)
		take_closed(top, answer);
	else if (!top->view.is_paused)
		take_sessions(top, answer);
	json_decref(answer);
}

/* Does what is due. */
static void step(struct top *top)
{
	uint64_t now_ms = clock_now_ms();

	if (top->view.message[0] && top->view.mode != TOP_ASK_CLOSE && now_ms >= top->message_end_ms)
		top->view.message[0] = '\0';
	if (top->asked != ASKED_NOTHING && now_ms >= top->asked_ms + CONTROL_TIMEOUT_MS) {
		top->has_answered = false;
		lose(top, ETIMEDOUT);
	}
	if (top->client.fd < 0 && now_ms >= top->asked_ms &&
	    (!top->view.is_paused || top->is_close_confirmed))
		connect_again(top);
	if (top->client.fd >= 0 && top->asked == ASKED_NOTHING)
		ask_next(top);
}

/* ---- keys ------------------------------------------------------------------------------------------ */

static struct top_table *focused(struct top *top)
{
	return &top->model.tables[top->view.focus];
}

static void change_interval(struct top *top, int direction)
{
	static const uint64_t steps[] = { 100, 250, 500, 1000, 2000, 5000, 10000, 30000, 60000 };
	uint64_t interval = top->view.interval_ms;

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		uint64_t one = steps[direction > 0 ? i : ARRAY_SIZE(steps) - 1 - i];

		if (direction > 0 ? one > interval : one < interval) {
			top->view.interval_ms = one;
			break;
		}
	}
	if (top->asked == ASKED_NOTHING)
		top->asked_ms = MIN(top->asked_ms, clock_now_ms() + top->view.interval_ms);
}

static void sort_next(struct top *top)
{
	enum top_column columns[TOP_COLUMN_COUNT];
	size_t count = top_screen_columns(top->view.focus, top->page.columns, columns);

	top_table_sort_next(focused(top), columns, count);
}

static void ask_close(struct top *top)
{
	const struct top_row *row = top_table_selected(&top->model.tables[TOP_SESSIONS]);
	char text[TOP_LINE_SIZE];

	if (top->view.focus != TOP_SESSIONS || !row) {
		tell(top,
		     row ? "it is sessions that can be closed: Tab goes to them" : "no session to be closed");
		return;
	}
	if (top->is_close_confirmed || top->asked == ASKED_CLOSE)
		return;
	snprintf(top->close_id, sizeof(top->close_id), "%s", row->key);
	snprintf(text, sizeof(text), "Close session %s of %.100s to %.200s? y/n", top->close_id, row->client,
		 row->service[0] ? row->service : "no service yet");
	tell(top, text);
	top->view.mode = TOP_ASK_CLOSE;
}

static void take_close_answer(struct top *top, wchar_t character)
{
	top->view.mode = TOP_BROWSE;
	top->view.message[0] = '\0';
	top->is_close_confirmed = character == L'y' || character == L'Y';
	if (!top->is_close_confirmed)
		tell(top, "not closed");
}

static void toggle_pause(struct top *top)
{
	top->view.is_paused = !top->view.is_paused;
	top->asked_ms = MIN(top->asked_ms, clock_now_ms());
}

static void take_character(struct top *top, wchar_t character)
{
	switch (character) {
	case L'q':
	case L'Q':
		top->is_ended = true;
		break;
	case L'j':
		top_table_move(focused(top), 1);
		break;
	case L'k':
		top_table_move(focused(top), -1);
		break;
	case L'g':
		top_table_release(focused(top));
		break;
	case L'G':
		top_table_move(focused(top), (long)focused(top)->shown_count);
		break;
	case L's':
		sort_next(top);
		break;
	case L'S':
	case L'r':
		top_table_reverse(focused(top));
		break;
	case L'/':
		top->view.mode = TOP_ASK_FILTER;
		break;
	case L'c':
		ask_close(top);
		break;
	case L'p':
	case L' ':
		toggle_pause(top);
		break;
	case L'+':
	case L'-':
		change_interval(top, character == L'+' ? 1 : -1);
		break;
	case L'h':
	case L'?':
		top->view.mode = TOP_HELP;
		break;
	default:
		break;
	}
}

static void browse(struct top *top, enum top_key key, wchar_t character)
{
	struct top_table *table = focused(top);
	long page = MAX((long)table->height - 1, 1);

	switch (key) {
	case TOP_KEY_CHARACTER:
		take_character(top, character);
		break;
	case TOP_KEY_UP:
		top_table_move(table, -1);
		break;
	case TOP_KEY_DOWN:
		top_table_move(table, 1);
		break;
	case TOP_KEY_PAGE_UP:
		top_table_move(table, -page);
		break;
	case TOP_KEY_PAGE_DOWN:
		top_table_move(table, page);
		break;
	case TOP_KEY_HOME:
		top_table_release(table);
		break;
	case TOP_KEY_END:
		top_table_move(table, (long)table->shown_count);
		break;
	case TOP_KEY_TAB:
		top->view.focus = top->view.focus == TOP_SERVICES ? TOP_SESSIONS : TOP_SERVICES;
		break;
	case TOP_KEY_ESCAPE:
		top_model_filter(&top->model, "");
		break;
	case TOP_KEY_DELETE:
		ask_close(top);
		break;
	case TOP_KEY_NONE:
	case TOP_KEY_ENTER:
	case TOP_KEY_BACKSPACE:
	case TOP_KEY_RESIZE:
	case TOP_KEY_OTHER:
		break;
	}
}

/* Of the filter, which is UTF-8: its last character. */
static void cut_character(char *text)
{
	size_t length = strlen(text);

	while (length > 0 && ((unsigned char)text[length - 1] & 0xc0) == 0x80)
		length--;
	text[length > 0 ? length - 1 : 0] = '\0';
}

static void add_character(char *text, size_t size, wchar_t character)
{
	char bytes[5] = "";
	size_t used = strlen(text);
	size_t length = character < 0x80 ? 1 : character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;

	for (size_t i = length - 1; i > 0; i--) {
		bytes[i] = (char)(0x80 | (character & 0x3f));
		character >>= 6;
	}
	bytes[0] = (char)(length == 1 ? character : (0xf00 >> length & 0xff) | character);
	if (used + length < size)
		memcpy(text + used, bytes, length + 1);
}

/* What is typed counts at once. */
static void edit_filter(struct top *top, enum top_key key, wchar_t character)
{
	char text[TOP_FILTER_SIZE];

	snprintf(text, sizeof(text), "%s", top->model.filter);
	if (key == TOP_KEY_CHARACTER)
		add_character(text, sizeof(text), character);
	else if (key == TOP_KEY_BACKSPACE)
		cut_character(text);
	else if (key == TOP_KEY_ESCAPE)
		text[0] = '\0';
	if (key == TOP_KEY_ESCAPE || key == TOP_KEY_ENTER)
		top->view.mode = TOP_BROWSE;
	top_model_filter(&top->model, text);
}

static void take_key(struct top *top, enum top_key key, wchar_t character)
{
	if (key == TOP_KEY_RESIZE)
		return;
	switch (top->view.mode) {
	case TOP_BROWSE:
		top->view.message[0] = '\0';
		browse(top, key, character);
		break;
	case TOP_ASK_FILTER:
		edit_filter(top, key, character);
		break;
	case TOP_ASK_CLOSE:
		take_close_answer(top, key == TOP_KEY_CHARACTER ? character : L'n');
		break;
	case TOP_HELP:
		top->view.mode = TOP_BROWSE;
		break;
	case TOP_PRINT:
		break;
	}
}

/* ---- the live screen ------------------------------------------------------------------------------- */

static void on_ending_signal(int number)
{
	ending_signal = number;
}

/* Until waiting, all of these are kept out; waiting has the mask that was there before. */
static void take_signals(sigset_t *before)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
	struct sigaction action = { .sa_handler = on_ending_signal };
	sigset_t blocked;

	sigemptyset(&blocked);
	sigaddset(&blocked, SIGWINCH);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		sigaction(numbers[i], &action, NULL);
		sigaddset(&blocked, numbers[i]);
	}
	sigprocmask(SIG_BLOCK, &blocked, before);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		sigdelset(before, numbers[i]);
	sigdelset(before, SIGWINCH);
}

/* Ends the program by it, as who sent it expects. */
static void obey_signal(const sigset_t *mask)
{
	if (!ending_signal)
		return;
	signal(ending_signal, SIG_DFL);
	raise(ending_signal);
	sigprocmask(SIG_SETMASK, mask, NULL);
}

static void show(struct top *top)
{
	int rows, columns;

	top_terminal_size(&rows, &columns);
	if (rows != top->page.rows || columns != top->page.columns) {
		top_page_deinit(&top->page);
		if (top_page_init(&top->page, rows, columns) != 0) {
			top->is_ended = true;
			return;
		}
	}
	top_screen_draw(&top->page, &top->model, &top->view);
	top_terminal_show(&top->page);
}

static struct timespec time_until(uint64_t end_ms)
{
	uint64_t now_ms = clock_now_ms(), left_ms = end_ms > now_ms ? end_ms - now_ms : 0;

	return (struct timespec){ .tv_sec = (time_t)(left_ms / 1000),
				  .tv_nsec = (long)(left_ms % 1000) * 1000000 };
}

static uint64_t next_step_ms(const struct top *top)
{
	uint64_t next_ms = top->asked_ms;

	if (top->asked != ASKED_NOTHING)
		next_ms += CONTROL_TIMEOUT_MS;
	else if (top->view.is_paused)
		next_ms = clock_now_ms() + LARGEST_INTERVAL_MS;
	if (top->view.message[0])
		next_ms = MIN(next_ms, top->message_end_ms);
	return top->is_close_confirmed && top->asked == ASKED_NOTHING ? top->asked_ms : next_ms;
}

static void wait_and_take(struct top *top, const sigset_t *mask)
{
	struct pollfd waiting[] = { { .fd = STDIN_FILENO, .events = POLLIN },
				    { .fd = top->client.fd, .events = POLLIN } };
	struct timespec timeout = time_until(next_step_ms(top));
	wchar_t character = L'\0';
	enum top_key key;
	int count = ppoll(waiting, ARRAY_SIZE(waiting), &timeout, mask);

	/* Also after a signal: a change of size comes as a key. */
	while ((key = top_terminal_key(&character)) != TOP_KEY_NONE)
		take_key(top, key, character);
	if (count > 0 && waiting[0].revents & (POLLHUP | POLLERR | POLLNVAL))
		top->is_ended = true; /* the terminal has gone */
	if (count > 0 && waiting[1].revents)
		receive(top);
}

static int run_live(struct top *top)
{
	char reason[TOP_LINE_SIZE];
	sigset_t mask;

	if (top_terminal_begin(reason, sizeof(reason)) != 0)
		return fail(reason);
	take_signals(&mask);
	while (!top->is_ended && !ending_signal) {
		step(top);
		show(top);
		wait_and_take(top, &mask);
	}
	top_terminal_end();
	obey_signal(&mask);
	return 0;
}

/* ---- one screen as text ---------------------------------------------------------------------------- */

static int width_of_output(void)
{
	const char *word = getenv("COLUMNS");
	struct winsize size;
	uint64_t columns;

	if (word && args_parse_number(word, 1, INT16_MAX, &columns) == 0)
		return (int)columns;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
		return size.ws_col;
	return DEFAULT_WIDTH;
}

/* One answer, on a connection of its own: the other may be as far off as a router allows no silence. */
static int take_one(struct top *top)
{
	char reason[CONTROL_REASON_SIZE];
	json_t *answer;
	int r = control_client_open(&top->client, top->settings->path, reason, sizeof(reason));

	if (r < 0)
		return fail(reason);
	answer = control_client_ask(&top->client, "sessions");
	r = answer ? top_model_update(&top->model, answer, clock_now_ms()) : -errno;
	json_decref(answer);
	control_client_close(&top->client);
	return r < 0 ? fail(words_of(-r)) : 0;
}

/* Two answers, since rates are between them. */
static int run_once(struct top *top)
{
	struct timespec interval = { .tv_sec = (time_t)(top->settings->interval_ms / 1000),
				     .tv_nsec = (long)(top->settings->interval_ms % 1000) * 1000000 };
	int status = take_one(top);

	if (status != 0)
		return status;
	nanosleep(&interval, NULL);
	status = take_one(top);
	if (status != 0)
		return status;
	top->view.mode = TOP_PRINT;
	if (top_page_init(&top->page, top_screen_rows(&top->model), width_of_output()) != 0)
		return fail(strerror(ENOMEM));
	top_screen_draw(&top->page, &top->model, &top->view);
	top_page_print(&top->page, stdout);
	return 0;
}

/* ---- the command ----------------------------------------------------------------------------------- */

static void print_help(void)
{
	fputs("Usage: kaiso top [-b] [--interval DURATION] [--control PATH]\n"
	      "\n"
	      "Shows what a running router does, and goes on showing it: its services and sessions, how\n"
	      "much they carry, and how that was over time. h lists the keys, q quits.\n"
	      "\n"
	      "Options:\n"
	      "  -b, --once      print one screen as text, with everything in it, and end; as when\n"
	      "                  standard output is no terminal\n"
	      "  --interval DURATION\n"
	      "                  how often the router is asked (default: 1s; 100ms at least)\n" CONTROL_PLACES_HELP
	      "  -h, --help      print this help\n"
	      "\n"
	      "No colours are used when the terminal has none or $NO_COLOR is set, and no characters\n"
	      "that the locale has none for.\n"
	      "\n"
	      "Exit status: 0 left by q, or printed, 1 no router, or no terminal for it, 2 wrong usage.\n",
	      stdout);
}

static int usage_error(void)
{
	fputs("Try `kaiso top --help`.\n", stderr);
	return EXIT_USAGE;
}

static int parse_interval(const char *word, uint64_t *interval_ms)
{
	if (args_parse_duration_ms(word, interval_ms) == 0 && *interval_ms >= LEAST_INTERVAL_MS &&
	    *interval_ms <= LARGEST_INTERVAL_MS)
		return 0;
	fputs(TOOL ": --interval '", stderr);
	text_write_visible(stderr, word, strlen(word));
	fputs("': expected a number with a unit, from 100ms to 1h\n", stderr);
	return usage_error();
}

/* -1 to go on, else the exit status. */
static int parse(int argc, char **argv, struct settings *settings)
{
	static const struct option options[] = {
		{ "once", no_argument, NULL, 'b' },
		{ "interval", required_argument, NULL, 'i' },
		{ "control", required_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	static char name[] = TOOL;
	int option;

	argv[0] = name; /* getopt_long() begins its messages with it */
	optind = 0;     /* and starts anew, whatever was parsed before */
	while ((option = getopt_long(argc, argv, "bh", options, NULL)) != -1) {
		if (option == 'h') {
			print_help();
			return 0;
		}
		if (option == '?')
			return usage_error();
		if (option == 'i' && parse_interval(optarg, &settings->interval_ms) != 0)
			return EXIT_USAGE;
		if (option == 'c')
			settings->path = optarg;
		settings->is_once |= option == 'b';
	}
	if (optind < argc) {
		fputs(TOOL ": it takes no words\n", stderr);
		return usage_error();
	}
	return -1;
}

/* The first answer is waited for: without a router there is nothing to show. */
static int run(struct top *top)
{
	int status;

	top->client.fd = -1;
	top->view.interval_ms = top->settings->interval_ms;
	top_model_init(&top->model);
	if (top->settings->is_once) {
		status = run_once(top);
	} else {
		status = take_one(top);
		top->asked_ms = clock_now_ms() + top->settings->interval_ms;
		top->has_answered = true;
		if (status == 0)
			status = run_live(top);
	}
	control_client_close(&top->client);
	top_model_deinit(&top->model);
	top_page_deinit(&top->page);
	return status;
}

int cmd_top(int argc, char **argv)
{
	struct settings settings = { .interval_ms = DEFAULT_INTERVAL_MS };
	struct top top = { .settings = &settings };
	int status = parse(argc, argv, &settings);

	if (status >= 0)
		return status;
	setlocale(LC_CTYPE, ""); /* of characters, and nothing else: numbers stay as they are */
	settings.is_once |= !isatty(STDOUT_FILENO);
	return run(&top);
}
