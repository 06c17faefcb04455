/*
 * Theory of operation: the list is kept as the router sent it and walked anew for every question: how
 * wide the columns are, and then what stands in them. The order is the router's, which is sorted. Names
 * are bytes: a terminal and JSON get them escaped, a pipe as they are.
 */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/args.h"
#include "base/macros.h"
#include "base/text.h"
#include "cmd/client_words.h"
#include "cmd/cmd.h"
#include "cmd/nearest.h"
#include "net/client.h"
#include "net/kaiso_address.h"
#include "proto/path.h"

#define TOOL "kaiso ls"
#define DEFAULT_TIMEOUT_MS 10000
#define NEAREST_TIMEOUT_MS 3000
#define DEFAULT_WIDTH 80
#define COLUMN_GAP 2
#define UNKNOWN_KIND "-"

struct settings {
	bool is_long;
	bool is_json;
	uint64_t timeout_ms;
	struct kaiso_address address;
	char directory[PATH_LENGTH_MAX + 2]; /* "", or "DIR/" */
};

/* ---- one name a line, or JSON ----------------------------------------------------------------------- */

static struct client_text kind_shown(const struct client_list_entry *entry)
{
	static const struct client_text unknown = { UNKNOWN_KIND, sizeof(UNKNOWN_KIND) - 1 };

	return entry->kind.length > 0 ? entry->kind : unknown;
}

static void print_lines(const struct client_list *list, bool is_long)
{
	struct client_list_entry entry;
	size_t position = 0;

	while (client_list_next(list, &position, &entry)) {
		text_write_plain(stdout, entry.path.start, entry.path.length);
		if (is_long) {
			struct client_text kind = kind_shown(&entry);

			putchar('\t');
			text_write_plain(stdout, kind.start, kind.length);
			putchar('\t');
			text_write_plain(stdout, entry.about.start, entry.about.length);
		}
		putchar('\n');
	}
}

static void print_json_entry(const struct client_list_entry *entry)
{
	fputs("  {\"path\": ", stdout);
	text_write_json(stdout, entry->path.start, entry->path.length);
	fputs(", \"kind\": ", stdout);
	if (entry->kind.length > 0)
		text_write_json(stdout, entry->kind.start, entry->kind.length);
	else
		fputs("null", stdout);
	fputs(", \"about\": ", stdout);
	text_write_json(stdout, entry->about.start, entry->about.length);
	putchar('}');
}

static void print_json(const struct client_list *list)
{
	struct client_list_entry entry;
	size_t position = 0;
	const char *before = "[\n";

	while (client_list_next(list, &position, &entry)) {
		fputs(before, stdout);
		print_json_entry(&entry);
		before = ",\n";
	}
	fputs(position == 0 || *before == '[' ? "[]\n" : "\n]\n", stdout);
}

/* ---- on a terminal ---------------------------------------------------------------------------------- */

static size_t text_width(struct client_text text)
{
	return text_write_visible(NULL, text.start, text.length);
}

/* Pads to width, and a gap behind it. */
static void print_cell(struct client_text text, size_t width)
{
	size_t used = text_write_visible(stdout, text.start, text.length);

	printf("%*s", (int)(width - used + COLUMN_GAP), "");
}

/* The last column is not padded, so a long line of people's words does not make all of them long. */
static void print_table(const struct client_list *list)
{
	struct client_list_entry entry;
	size_t path_width = 0, kind_width = 0;
	size_t position = 0;

	while (client_list_next(list, &position, &entry)) {
		path_width = MAX(path_width, text_width(entry.path));
		kind_width = MAX(kind_width, text_width(kind_shown(&entry)));
	}
	for (position = 0; client_list_next(list, &position, &entry);) {
		print_cell(entry.path, path_width);
		if (entry.about.length > 0) {
			print_cell(kind_shown(&entry), kind_width);
			text_write_visible(stdout, entry.about.start, entry.about.length);
		} else {
			struct client_text kind = kind_shown(&entry);

			text_write_visible(stdout, kind.start, kind.length);
		}
		putchar('\n');
	}
}

struct name {
	struct client_text text;
	size_t width;
};

/* Names in columns, filled from top to bottom as ls(1) does. */
struct grid {
	struct name *names;
	size_t count;
	size_t rows;
	size_t columns;
	size_t *widths; /* of the columns */
};

static size_t terminal_width(void)
{
	const char *word = getenv("COLUMNS");
	struct winsize size;
	uint64_t columns;

	if (word && args_parse_number(word, 1, UINT16_MAX, &columns) == 0)
		return (size_t)columns;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
		return size.ws_col;
	return DEFAULT_WIDTH;
}

/* Lays the names out in so many rows; false when they are wider than the terminal then. */
static bool grid_fits(struct grid *grid, size_t rows, size_t available)
{
	size_t used = 0;

	grid->rows = rows;
	grid->columns = (grid->count + rows - 1) / rows;
	for (size_t column = 0; column < grid->columns; column++) {
		size_t width = 0;

		for (size_t i = column * rows; i < MIN((column + 1) * rows, grid->count); i++)
			width = MAX(width, grid->names[i].width);
		grid->widths[column] = width;
		used += width + (column > 0 ? COLUMN_GAP : 0);
		if (used > available)
			return grid->columns == 1;
	}
	return true;
}

/* As few rows as the width allows. The number of columns is tried, of which there are few. */
static void grid_lay_out(struct grid *grid, size_t available)
{
	size_t columns = MIN(grid->count, available / (1 + COLUMN_GAP) + 1);

	while (!grid_fits(grid, (grid->count + columns - 1) / columns, available) && columns > 1)
		columns--;
}

static void grid_print(const struct grid *grid)
{
	for (size_t row = 0; row < grid->rows; row++) {
		for (size_t i = row; i < grid->count; i += grid->rows) {
			const struct client_text *text = &grid->names[i].text;

			if (i + grid->rows < grid->count)
				print_cell(*text, grid->widths[i / grid->rows]);
			else
				text_write_visible(stdout, text->start, text->length);
		}
		putchar('\n');
	}
}

/* 0 or -ENOMEM. */
static int grid_add(struct grid *grid, struct client_text text)
{
	/* Doubled whenever the count is a power of two. */
	if ((grid->count & (grid->count - 1)) == 0) {
		struct name *grown =
			reallocarray(grid->names, MAX(grid->count * 2, (size_t)1), sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		grid->names = grown;
	}
	grid->names[grid->count++] = (struct name){ .text = text, .width = text_width(text) };
	return 0;
}

static int print_grid(const struct client_list *list)
{
	struct client_list_entry entry;
	struct grid grid = { 0 };
	size_t position = 0;
	size_t available = terminal_width();
	int r = 0;

	while (r == 0 && client_list_next(list, &position, &entry))
		r = grid_add(&grid, entry.path);
	grid.widths = calloc(available / (1 + COLUMN_GAP) + 2, sizeof(*grid.widths));
	if (!grid.widths)
		r = -ENOMEM;
	if (r == 0 && grid.count > 0) {
		grid_lay_out(&grid, available);
		grid_print(&grid);
	}
	free(grid.names);
	free(grid.widths);
	return r;
}

/* ---- the command ------------------------------------------------------------------------------------ */

/* 0 or a negative errno. */
static int print_list(const struct settings *settings, const struct client_list *list)
{
	bool is_terminal = isatty(STDOUT_FILENO);
	int r = 0;

	if (settings->is_json)
		print_json(list);
	else if (!is_terminal)
		print_lines(list, settings->is_long);
	else if (settings->is_long)
		print_table(list);
	else
		r = print_grid(list);
	if (fflush(stdout) != 0)
		r = -errno;
	return r;
}

/* The rest of the line: a second question, which must not keep anybody waiting for long. */
static void say_nearest(const struct settings *settings)
{
	char wanted[sizeof(settings->directory)];
	struct client_text names[NEAREST_MAX];
	struct client_list list;
	struct client client;
	size_t count = 0;

	snprintf(wanted, sizeof(wanted), "%.*s", (int)strlen(settings->directory) - 1, settings->directory);
	client_init(&client, &settings->address, NEAREST_TIMEOUT_MS);
	if (client_list(&client, "", false, &list) == 0)
		count = nearest_directories(&list, wanted, names);
	client_hang_up(&client);
	if (count > 0)
		nearest_write(stderr, names, count);
	else
		fputs("; `kaiso ls` without it lists all\n", stderr);
	client_list_deinit(&list);
}

static int say_no_directory(const struct settings *settings)
{
	char text[KAISO_ADDRESS_TEXT_SIZE];

	fputs(TOOL ": no directory '", stderr);
	text_write_visible(stderr, settings->directory, strlen(settings->directory));
	fprintf(stderr, "' at %s", kaiso_address_format(&settings->address, text));
	say_nearest(settings);
	return EXIT_NOT_FOUND;
}

static int say_no_mounted(const struct settings *settings)
{
	char text[KAISO_ADDRESS_TEXT_SIZE];

	fputs(TOOL ": '", stderr);
	text_write_visible(stderr, settings->directory, strlen(settings->directory));
	fprintf(stderr, "' at %s is a mount, and the kaiso behind it gives no list; is it running?\n",
		kaiso_address_format(&settings->address, text));
	return EXIT_RUNTIME;
}

static int list_services(const struct settings *settings)
{
	struct client_list list;
	struct client client;
	int status = 0, r;

	client_init(&client, &settings->address, settings->timeout_ms);
	r = client_list(&client, settings->directory, settings->is_long || settings->is_json, &list);
	client_hang_up(&client);
	if (r == CLIENT_NO_DIRECTORY) {
		status = say_no_directory(settings);
	} else if (r == CLIENT_NO_MOUNTED) {
		status = say_no_mounted(settings);
	} else if (r != 0) {
		client_words_say_failure(TOOL, &client, r);
		status = EXIT_RUNTIME;
	} else {
		r = print_list(settings, &list);
		/* A reader that has seen enough is no failure to tell of. */
		if (r < 0 && r != -EPIPE)
			fprintf(stderr, TOOL ": standard output: %s\n", strerror(-r));
		status = r < 0 ? EXIT_RUNTIME : 0;
	}
	client_list_deinit(&list);
	return status;
}

static void print_help(void)
{
	fputs("Usage: kaiso ls [-l] [--json] [KAISO] [DIR/]\n"
	      "\n"
	      "Lists the services of a router, or those below DIR/, in the order of their names.\n"
	      "\n" CLIENT_WORDS_KAISO_HELP
	      "A single word is DIR/ when it ends in '/' and holds no ':', else it is KAISO. Behind\n"
	      "KAISO, and in a URL, the '/' at the end of DIR may be left out.\n"
	      "\n"
	      "Options:\n"
	      "  -l, --long          the kind of each service (unix, tcp, kaiso, passfd, ...; '-' when\n"
	      "                      the router does not tell) and what its description says about it\n"
	      "  --json              an array of objects with path, kind (or null) and about\n"
	      "  --timeout DURATION  how long all of it may take (default: 10s; 0: no limit)\n"
	      "  -h, --help          print this help\n"
	      "\n"
	      "On a terminal names stand in columns; elsewhere one a line, with -l separated by tabs.\n"
	      "Control characters, and on a terminal bytes that are no UTF-8, are shown as \\xHH. In\n"
	      "JSON a byte HH that is no UTF-8 is \\udcHH (Python: os.fsencode() restores it).\n"
	      "\n"
	      "Exit status: 0 listed, 1 no router or no list from it, 2 wrong usage, 3 no such DIR/.\n"
	      "\n"
	      "Examples:\n"
	      "  kaiso ls -l\n"
	      "  kaiso ls example.org web/\n"
	      "  kaiso ls --json kaiso://example.org/web/ | jq -r '.[].path'\n",
	      stdout);
}

static int usage_error(void)
{
	fputs("Try `kaiso ls --help`.\n", stderr);
	return EXIT_USAGE;
}

static bool is_directory_word(const char *word)
{
	size_t length = strlen(word);

	return length > 0 && word[length - 1] == '/' && !strchr(word, ':');
}

/* Takes "DIR/", "DIR", or "" and "/" for everything. 0 or EXIT_USAGE. */
static int take_directory(const char *word, struct settings *settings)
{
	size_t length = strlen(word);
	enum path_verdict verdict;

	if (length > 0 && word[length - 1] == '/')
		length--;
	if (length == 0)
		return 0;
	verdict = path_check(word, length);
	if (verdict == PATH_OK) {
		snprintf(settings->directory, sizeof(settings->directory), "%.*s/", (int)length, word);
		return 0;
	}
	fputs(TOOL ": directory '", stderr);
	text_write_visible(stderr, word, MIN(strlen(word), (size_t)100));
	fprintf(stderr, "' %s; no router lists that\n", path_verdict_text(verdict));
	return usage_error();
}

/* [KAISO] [DIR/] */
static int take_words(char **words, int count, struct settings *settings)
{
	bool is_directory = count == 1 && is_directory_word(words[0]);
	const char *kaiso = count > 0 && !is_directory ? words[0] : NULL;
	const char *directory = is_directory ? words[0] : count == 2 ? words[1] : NULL;
	int status;

	if (count > 2) {
		fprintf(stderr, TOOL ": more words than KAISO and DIR/\n");
		return usage_error();
	}
	status = client_words_parse(TOOL, kaiso, &settings->address);
	if (status != 0)
		return usage_error();
	if (kaiso && directory && settings->address.service[0]) {
		fprintf(stderr, TOOL ": DIR/ is named twice, in the URL and behind it\n");
		return usage_error();
	}
	return take_directory(directory ? directory : settings->address.service, settings);
}

int cmd_ls(int argc, char **argv)
{
	static const struct option options[] = {
		{ "long", no_argument, NULL, 'l' },
		{ "json", no_argument, NULL, 'j' },
		{ "timeout", required_argument, NULL, 't' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	static char name[] = TOOL;
	struct settings settings = { .timeout_ms = DEFAULT_TIMEOUT_MS };
	int option, status;

	argv[0] = name; /* getopt_long() begins its messages with it */
	optind = 0;     /* and starts anew, whatever was parsed before */
	while ((option = getopt_long(argc, argv, "lh", options, NULL)) != -1) {
		if (option == 'h') {
			print_help();
			return 0;
		}
		if (option == '?')
			return usage_error();
		if (option == 't' && client_words_parse_timeout(TOOL, optarg, &settings.timeout_ms) != 0)
			return usage_error();
		settings.is_long |= option == 'l';
		settings.is_json |= option == 'j';
	}
	status = take_words(argv + optind, argc - optind, &settings);
	return status != 0 ? status : list_services(&settings);
}
