/*
 * What an operator asks of a running router through its control socket: `kaiso status`, `close`, `drain` and
 * `upgrade`. (`kaiso top` has a file of its own.)
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/macros.h"
#include "base/text.h"
#include "cmd/cmd.h"
#include "cmd/control_client.h"

#define COME_BACK_MS 10000 /* for the next program to answer */
#define AGE_MAX 86400e9

struct settings {
	const char *tool;
	const char *control;
	bool is_json;
	bool wants_sessions;
	bool must_wait;
};

/* ---- asking ------------------------------------------------------------------------------------------ */

static int say_reason(const struct settings *settings, const char *reason)
{
	fprintf(stderr, "%s: ", settings->tool);
	text_write_visible(stderr, reason, strlen(reason));
	fputc('\n', stderr);
	return EXIT_RUNTIME;
}

static int connect_control(const struct settings *settings, struct control_client *client)
{
	char reason[CONTROL_REASON_SIZE];

	if (control_client_open(client, settings->control, reason, sizeof(reason)) == 0)
		return 0;
	return say_reason(settings, reason);
}

static const char *failure_words(int error)
{
	if (error == ECONNRESET)
		return "the router ended the connection";
	if (error == EPROTO)
		return "what answers there is no kaiso of this version";
	return strerror(error);
}

/* NULL, with a line on standard error, when the answer is none or an error. */
static json_t *ask(const struct settings *settings, struct control_client *client, const char *line)
{
	json_t *answer = control_client_ask(client, line);
	const char *error = json_string_value(json_object_get(answer, "error"));

	if (!answer)
		say_reason(settings, failure_words(errno));
	else if (error)
		say_reason(settings, error);
	if (!error)
		return answer;
	json_decref(answer);
	return NULL;
}

/* ---- status ------------------------------------------------------------------------------------------ */

static uint64_t number_of(const json_t *object, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(object, key));
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "-";
}

/* Bytes as people read them, in 8 columns: "512 B", "1.4 GiB". */
static const char *format_bytes(uint64_t bytes, char text[static 16])
{
	static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double value = (double)bytes / 1024;
	size_t unit = 0;

	if (bytes < 1024) {
		snprintf(text, 16, "%" PRIu64 " B", bytes);
		return text;
	}
	while (value >= 1000 && unit + 1 < ARRAY_SIZE(units)) {
		value /= 1024;
		unit++;
	}
	snprintf(text, 16, "%.1f %s", value, units[unit]);
	return text;
}

static const char *format_time(uint64_t seconds, char text[static 32])
{
	if (seconds < 60)
		snprintf(text, 32, "%" PRIu64 "s", seconds);
	else if (seconds < 3600)
		snprintf(text, 32, "%" PRIu64 "m%02" PRIu64 "s", seconds / 60, seconds % 60);
	else if (seconds < 86400)
		snprintf(text, 32, "%" PRIu64 "h%02" PRIu64 "m", seconds / 3600, seconds / 60 % 60);
	else
		snprintf(text, 32, "%" PRIu64 "d%02" PRIu64 "h", seconds / 86400, seconds / 3600 % 24);
	return text;
}

/* At least so many columns wide. */
static void print_padded(const char *text, size_t width)
{
	size_t columns = text_write_visible(stdout, text, strlen(text));

	for (; columns < width; columns++)
		putchar(' ');
}

static size_t widest(const json_t *array, const char *key, size_t least)
{
	const json_t *entry;
	size_t i;

	json_array_foreach(array, i, entry)
	{
		const char *text = text_of(entry, key);
		size_t columns = text_write_visible(NULL, text, strlen(text));

		least = MAX(least, columns);
	}
	return least;
}

static void print_router(const json_t *status)
{
	const json_t *listener, *listeners = json_object_get(status, "listeners");
	const char *services = text_of(status, "services_directory");
	char uptime[32];
	size_t i;

	fputs("kaiso ", stdout);
	print_padded(text_of(status, "version"), 0);
	printf(", process %" PRIu64 ", for %s%s\n", number_of(status, "pid"),
	       format_time(number_of(status, "uptime_seconds"), uptime),
	       json_is_true(json_object_get(status, "draining")) ? ", draining" : "");
	json_array_foreach(listeners, i, listener)
	{
		fputs(i == 0 ? "listens on  " : "            ", stdout);
		print_padded(text_of(listener, "address"), 0);
		if (json_object_get(listener, "service")) {
			fputs(" for ", stdout);
			print_padded(text_of(listener, "service"), 0);
		}
		putchar('\n');
	}
	fputs("services    ", stdout);
	print_padded(json_object_get(status, "kaiso") ? text_of(status, "kaiso") : services, 0);
	putchar('\n');
}

static void print_totals(const json_t *status)
{
	json_t *limits = json_object_get(status, "limits"), *ended = json_object_get(status, "ended");
	char sent[16], received[16], memory[16];
	uint64_t total = 0;

	for (void *at = json_object_iter(ended); at; at = json_object_iter_next(ended, at))
		total += (uint64_t)json_integer_value(json_object_iter_value(at));
	printf("sessions    %" PRIu64 " open of at most %" PRIu64 ", %" PRIu64 " ended, %" PRIu64
	       " refused\n",
	       number_of(status, "open"), number_of(limits, "sessions"), total, number_of(status, "refused"));
	printf("bytes       %s from clients, %s to them\n", format_bytes(number_of(status, "sent"), sent),
	       format_bytes(number_of(status, "received"), received));
	printf("process     %" PRIu64 " of %" PRIu64 " descriptors, %s, %.1f s of processor time, %" PRIu64
	       " threads\n",
	       number_of(status, "descriptors"), number_of(limits, "descriptors"),
	       format_bytes(number_of(status, "resident_bytes"), memory),
	       json_number_value(json_object_get(status, "cpu_seconds")), number_of(status, "threads"));
	if (number_of(status, "log_lines_dropped") > 0)
		printf("log         %" PRIu64 " lines dropped\n", number_of(status, "log_lines_dropped"));
	if (total == 0)
		return;
	fputs("ended       ", stdout);
	for (void *at = json_object_iter(ended); at; at = json_object_iter_next(ended, at)) {
		fputs(at == json_object_iter(ended) ? "" : ", ", stdout);
		print_padded(json_object_iter_key(at), 0);
		printf(" %" JSON_INTEGER_FORMAT, json_integer_value(json_object_iter_value(at)));
	}
	putchar('\n');
}

static void print_services(const json_t *services)
{
	size_t width = widest(services, "service", strlen("SERVICE")), i;
	char sent[16], received[16];
	const json_t *entry;

	if (json_array_size(services) == 0)
		return;
	printf("\n%-*s  KIND    OPEN  SESSIONS  FAILURES        SENT    RECEIVED\n", (int)width, "SERVICE");
	json_array_foreach(services, i, entry)
	{
		print_padded(text_of(entry, "service"), width);
		fputs("  ", stdout);
		print_padded(text_of(entry, "kind"), 6);
		printf(" %5" PRIu64 " %9" PRIu64 " %9" PRIu64 "  %10s  %10s\n", number_of(entry, "open"),
		       number_of(entry, "sessions"), number_of(entry, "failures"),
		       format_bytes(number_of(entry, "sent"), sent),
		       format_bytes(number_of(entry, "received"), received));
	}
}

static void print_sessions(const json_t *status)
{
	const json_t *entry, *sessions = json_object_get(status, "sessions");
	size_t id = widest(sessions, "id", strlen("ID")),
	       client = widest(sessions, "client", strlen("CLIENT")), i;
	char sent[16], received[16], age[32];

	printf("\n%-*s  %-*s  STATE        AGE        SENT    RECEIVED  SERVICE\n", (int)id, "ID",
	       (int)client, "CLIENT");
	json_array_foreach(sessions, i, entry)
	{
		double seconds = MIN(MAX(json_number_value(json_object_get(entry, "seconds")), 0), AGE_MAX);

		print_padded(text_of(entry, "id"), id);
		fputs("  ", stdout);
		print_padded(text_of(entry, "client"), client);
		fputs("  ", stdout);
		print_padded(text_of(entry, "state"), 8);
		printf("  %6s  %10s  %10s  ", format_time((uint64_t)seconds, age),
		       format_bytes(number_of(entry, "sent"), sent),
		       format_bytes(number_of(entry, "received"), received));
		print_padded(text_of(entry, "service"), 0);
		putchar('\n');
	}
	if (number_of(status, "sessions_untold") > 0)
		printf("and %" PRIu64 " more\n", number_of(status, "sessions_untold"));
}

static int run_status(const struct settings *settings)
{
	struct control_client client;
	int status = connect_control(settings, &client);
	json_t *answer;

	if (status != 0)
		return status;
	answer = ask(settings, &client, settings->wants_sessions ? "sessions" : "status");
	control_client_close(&client);
	if (!answer)
		return EXIT_RUNTIME;
	if (settings->is_json) {
		json_dumpf(answer, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII); /* no name moves a cursor */
		putchar('\n');
	} else {
		print_router(answer);
		print_totals(answer);
		print_services(json_object_get(answer, "services"));
		if (settings->wants_sessions)
			print_sessions(answer);
	}
	json_decref(answer);
	return 0;
}

/* ---- close, drain, upgrade --------------------------------------------------------------------------- */

static int run_close(const struct settings *settings, char **ids, int count)
{
	struct control_client client;
	int status = connect_control(settings, &client);

	for (int i = 0; status == 0 && i < count; i++) {
		CLEANUP_FREE char *line = NULL;
		json_t *answer = NULL;

		if (strpbrk(ids[i], "\r\n") || strlen(ids[i]) > 64) {
			status = say_reason(settings, "no such session is open");
			break;
		}
		if (asprintf(&line, "close %s", ids[i]) >= 0)
			answer = ask(settings, &client, line);
		if (!answer)
			status = EXIT_RUNTIME;
		json_decref(answer);
	}
	control_client_close(&client);
	return status;
}

static int run_drain(const struct settings *settings)
{
	struct control_client client;
	int status = connect_control(settings, &client);
	struct pollfd waiting;
	json_t *answer;
	char byte;

	if (status != 0)
		return status;
	answer = ask(settings, &client, "drain");
	if (!answer)
		status = EXIT_RUNTIME;
	json_decref(answer);
	waiting = (struct pollfd){ .fd = client.fd, .events = POLLIN };
	/* The socket closes when the router ends, and for one that says nothing for a minute: then it is asked again. */
	while (status == 0 && settings->must_wait) {
		if (poll(&waiting, 1, 20000) == 0)
			json_decref(control_client_ask(&client, "status"));
		else if (read(client.fd, &byte, 1) <= 0)
			break;
	}
	control_client_close(&client);
	return status;
}

/* The version that answers; NULL when none does. A new reference. */
static json_t *ask_version(const struct settings *settings)
{
	uint64_t end_ms = clock_now_ms() + COME_BACK_MS;
	char reason[CONTROL_REASON_SIZE];
	struct control_client client;
	json_t *answer = NULL;

	while (!answer && clock_now_ms() < end_ms) {
		if (control_client_open(&client, settings->control, reason, sizeof(reason)) == 0) {
			answer = control_client_ask(&client, "status");
			control_client_close(&client);
		} else {
			poll(NULL, 0, 50);
		}
	}
	return answer;
}

static void print_upgraded(const json_t *before, const json_t *after)
{
	fputs("version ", stdout);
	print_padded(text_of(after, "version"), 0);
	printf(" goes on with %" PRIu64 " session%s (before: version ", number_of(after, "open"),
	       number_of(after, "open") == 1 ? "" : "s");
	print_padded(text_of(before, "version"), 0);
	fputs(")\n", stdout);
}

static int run_upgrade(const struct settings *settings)
{
	struct control_client client;
	int status = connect_control(settings, &client);
	json_t *before, *answer, *after;
	const char *error;

	if (status != 0)
		return status;
	before = ask(settings, &client, "status");
	if (!before) {
		control_client_close(&client);
		return EXIT_RUNTIME;
	}
	answer = control_client_ask(&client, "upgrade");
	control_client_close(&client);
	error = json_string_value(json_object_get(answer, "error"));
	after = error || (!answer && errno != ECONNRESET) ? NULL : ask_version(settings);
	if (!after)
		status = say_reason(settings, error ? error : "the router does not answer; see its log");
	else if (number_of(before, "pid") != number_of(after, "pid"))
		status = say_reason(settings,
				    "it ended, and another router answers in its place; see its log");
	else
		print_upgraded(before, after);
	json_decref(before);
	json_decref(answer);
	json_decref(after);
	return status;
}

/* ---- command lines ----------------------------------------------------------------------------------- */

static void print_status_help(void)
{
	fputs("Usage: kaiso status [--sessions] [--json] [--control PATH]\n"
	      "\n"
	      "Shows what a running router does: its listeners, its limits, how many sessions it has and\n"
	      "had, and each service that was asked for.\n"
	      "\n"
	      "Options:\n"
	      "  --sessions      show each open session as well, at most 1000 of each thread\n"
	      "  --json          print everything as JSON\n" CONTROL_PLACES_HELP
	      "  -h, --help      print this help\n"
	      "\n"
	      "Exit status: 0; 1 no router, or no answer; 2 wrong usage.\n",
	      stdout);
}

static void print_close_help(void)
{
	fputs("Usage: kaiso close [--control PATH] SESSION...\n"
	      "\n"
	      "Ends sessions of a running router, both sides by a reset. SESSION is what stands under ID in\n"
	      "`kaiso status --sessions`.\n"
	      "\n"
	      "Options:\n" CONTROL_PLACES_HELP "  -h, --help      print this help\n"
	      "\n"
	      "Exit status: 0; 1 no router, or no such session; 2 wrong usage.\n",
	      stdout);
}

static void print_drain_help(void)
{
	fputs("Usage: kaiso drain [--wait] [--control PATH]\n"
	      "\n"
	      "Has a running router accept no more clients, and end when its sessions have, or when its\n"
	      "drain timeout is over: the same as SIGTERM.\n"
	      "\n"
	      "Options:\n"
	      "  --wait          return when the router has ended\n" CONTROL_PLACES_HELP
	      "  -h, --help      print this help\n"
	      "\n"
	      "Exit status: 0; 1 no router, or no answer; 2 wrong usage.\n",
	      stdout);
}

static void print_upgrade_help(void)
{
	fputs("Usage: kaiso upgrade [--control PATH]\n"
	      "\n"
	      "Has a running router go on as the program that lies in its place now, with every connection\n"
	      "kept: the same as SIGUSR2. Tells which version goes on, or why the running one does.\n"
	      "\n"
	      "Options:\n" CONTROL_PLACES_HELP "  -h, --help      print this help\n"
	      "\n"
	      "Exit status: 0 upgraded; 1 not, or no router; 2 wrong usage.\n",
	      stdout);
}

static int usage_error(const struct settings *settings)
{
	fprintf(stderr, "Try `%s --help`.\n", settings->tool);
	return EXIT_USAGE;
}

/* Reads the options. -1, or the exit status. */
static int parse(struct settings *settings, const struct option *options, int argc, char **argv,
		 void (*print_help)(void))
{
	int option;

	argv[0] = (char *)settings->tool; /* getopt_long() begins its messages with it */
	optind = 0;                       /* and starts anew, whatever was parsed before */
	while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (option) {
		case 'c':
			settings->control = optarg;
			break;
		case 'j':
			settings->is_json = true;
			break;
		case 's':
			settings->wants_sessions = true;
			break;
		case 'w':
			settings->must_wait = true;
			break;
		case 'h':
			print_help();
			return 0;
		default:
			return usage_error(settings);
		}
	}
	return -1;
}

static int refuse_words(const struct settings *settings, int argc, char **argv)
{
	if (optind == argc)
		return 0;
	fprintf(stderr, "%s: unexpected argument '%s'\n", settings->tool, argv[optind]);
	return usage_error(settings);
}

#define CONTROL_OPTION                                  \
	{                                               \
		"control", required_argument, NULL, 'c' \
	}
#define HELP_OPTION                            \
	{                                      \
		"help", no_argument, NULL, 'h' \
	}

int cmd_status(int argc, char **argv)
{
	static const struct option options[] = { CONTROL_OPTION,
						 { "json", no_argument, NULL, 'j' },
						 { "sessions", no_argument, NULL, 's' },
						 HELP_OPTION,
						 { 0 } };
	struct settings settings = { .tool = "kaiso status" };
	int status = parse(&settings, options, argc, argv, print_status_help);

	if (status >= 0)
		return status;
	status = refuse_words(&settings, argc, argv);
	return status ? status : run_status(&settings);
}

int cmd_close(int argc, char **argv)
{
	static const struct option options[] = { CONTROL_OPTION, HELP_OPTION, { 0 } };
	struct settings settings = { .tool = "kaiso close" };
	int status = parse(&settings, options, argc, argv, print_close_help);

	if (status >= 0)
		return status;
	if (optind == argc) {
		fputs("kaiso close: which session? `kaiso status --sessions` shows them\n", stderr);
		return usage_error(&settings);
	}
	return run_close(&settings, argv + optind, argc - optind);
}

int cmd_drain(int argc, char **argv)
{
	static const struct option options[] = {
		CONTROL_OPTION, { "wait", no_argument, NULL, 'w' }, HELP_OPTION, { 0 }
	};
	struct settings settings = { .tool = "kaiso drain" };
	int status = parse(&settings, options, argc, argv, print_drain_help);

	if (status >= 0)
		return status;
	status = refuse_words(&settings, argc, argv);
	return status ? status : run_drain(&settings);
}

int cmd_upgrade(int argc, char **argv)
{
	static const struct option options[] = { CONTROL_OPTION, HELP_OPTION, { 0 } };
	struct settings settings = { .tool = "kaiso upgrade" };
	int status = parse(&settings, options, argc, argv, print_upgrade_help);

	if (status >= 0)
		return status;
	status = refuse_words(&settings, argc, argv);
	return status ? status : run_upgrade(&settings);
}
