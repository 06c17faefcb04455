/*
 * `kaiso serve`: from the command line to a running router.
 *
 * One table names every option, with its word for people, its default and where its
 * value goes; getopt_long(3), the help and the error messages are all made from it.
 */
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/args.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/macros.h"
#include "cmd/cmd.h"
#include "net/listen.h"
#include "router/options.h"
#include "router/server.h"

#define DEFAULT_PORT 37812
#define DEFAULT_SERVICES "./services"
#define SERVICES_LENGTH_MAX 4000 /* a whole path of it and a service still fits two system calls */
#define THREADS_MAX 256
#define THREADS_DEFAULT_MAX 4
#define PIPES_PER_THREAD_MAX 128

struct settings {
	struct router_options router;
	enum log_level log_level;
	enum log_format log_format;
};

/* Takes the value of an option; -EINVAL or -ERANGE when it is none. */
typedef int (*option_parser)(const char *word, struct settings *settings, size_t offset);

static int parse_directory(const char *word, struct settings *settings, size_t offset)
{
	if (word[0] == '\0')
		return -EINVAL;
	*(const char **)((char *)settings + offset) = word;
	return 0;
}

static int parse_duration(const char *word, struct settings *settings, size_t offset)
{
	return args_parse_duration_ms(word, (uint64_t *)((char *)settings + offset));
}

/* A limit: 0 means none. */
static int parse_limit(const char *word, struct settings *settings, size_t offset)
{
	return args_parse_number(word, 0, UINT32_MAX, (uint64_t *)((char *)settings + offset));
}

/* A limit that there has to be. */
static int parse_count(const char *word, struct settings *settings, size_t offset)
{
	return args_parse_number(word, 1, UINT32_MAX, (uint64_t *)((char *)settings + offset));
}

static int parse_threads(const char *word, struct settings *settings, size_t offset)
{
	uint64_t threads;
	int r = args_parse_number(word, 1, THREADS_MAX, &threads);

	if (r == 0)
		*(unsigned *)((char *)settings + offset) = (unsigned)threads;
	return r;
}

static int parse_relay(const char *word, struct settings *settings, size_t offset)
{
	static const char *const words[] = {
		[RELAY_AUTO] = "auto", [RELAY_SPLICE] = "splice", [RELAY_COPY] = "copy"
	};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (strcmp(word, words[i]) == 0) {
			*(enum relay_mode *)((char *)settings + offset) = (enum relay_mode)i;
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_log_level(const char *word, struct settings *settings, size_t offset)
{
	return log_level_parse(word, (enum log_level *)((char *)settings + offset)) ? 0 : -EINVAL;
}

static int parse_log_format(const char *word, struct settings *settings, size_t offset)
{
	return log_format_parse(word, (enum log_format *)((char *)settings + offset)) ? 0 : -EINVAL;
}

static int parse_off(const char *word, struct settings *settings, size_t offset)
{
	(void)word;
	*(bool *)((char *)settings + offset) = false;
	return 0;
}

struct option_entry {
	const char *name;
	const char *argument; /* NULL: takes none */
	option_parser parse;
	size_t offset;
	const char *values; /* what it may be, for errors */
	const char *help;   /* lines after the first are indented by the printer */
};

#define AT(member) offsetof(struct settings, member)
#define A_DURATION "a number with a unit: 500ms, 10s, 5m, 2h, 1d (ten years at most), or 0 for none"
#define A_LIMIT "a number from 0 (no limit) to 4294967295"
#define A_COUNT "a number from 1 to 4294967295"
#define A_RELAY "auto, splice or copy"

static const struct option_entry entries[] = {
	{ "services", "DIR", parse_directory, AT(router.services), "a directory",
	  "the services directory (default: $KAISO_SERVICES, else ./services)" },
	{ "threads", "N", parse_threads, AT(router.threads), "a number from 1 to 256",
	  "threads that serve clients (default: one for each processor, at most 4)" },
	{ "request-timeout", "DURATION", parse_duration, AT(router.request_timeout_ms), A_DURATION,
	  "time to a complete request line, and for a client to take a list, with\na second more for each 16 KiB (default: 60s)" },
	{ "connect-timeout", "DURATION", parse_duration, AT(router.connect_timeout_ms), A_DURATION,
	  "time to reach a service, all its addresses together (default: 10s)" },
	{ "idle-timeout", "DURATION", parse_duration, AT(router.idle_timeout_ms), A_DURATION,
	  "end sessions in which nothing moves for so long (default: 0, never)" },
	{ "drain-timeout", "DURATION", parse_duration, AT(router.drain_timeout_ms), A_DURATION,
	  "time that sessions get to end after SIGTERM (default: 10s)" },
	{ "max-sessions", "N", parse_count, AT(router.max_sessions), A_COUNT,
	  "clients at a time (default: what the limit of descriptors permits, at most 32768)" },
	{ "max-sessions-per-address", "N", parse_limit, AT(router.max_sessions_per_address), A_LIMIT,
	  "clients at a time from one IPv4 address or IPv6 /64 (default: 0, no limit)" },
	{ "max-requests-per-second", "N", parse_limit, AT(router.max_requests_per_second), A_LIMIT,
	  "request lines a second from one IPv4 address or IPv6 /64 (default: 0, no limit)" },
	{ "max-lists", "N", parse_count, AT(router.max_lists), A_COUNT,
	  "lists that are being made at a time (default: 256)" },
	{ "relay-up", "MODE", parse_relay, AT(router.relay_up), A_RELAY,
	  "how bytes move from TCP clients to services: auto, splice or copy (default: auto)" },
	{ "relay-down", "MODE", parse_relay, AT(router.relay_down), A_RELAY,
	  "the same from services to clients (default: auto)" },
	{ "no-verbs", NULL, parse_off, AT(router.has_verbs), NULL,
	  "do not answer .kaiso/version, .kaiso/list and .kaiso/open" },
	{ "log-level", "LEVEL", parse_log_level, AT(log_level), "error, warning, info or debug",
	  "error, warning, info (default) or debug" },
	{ "log-format", "FORMAT", parse_log_format, AT(log_format), "logfmt or json",
	  "logfmt (default) or json" },
};

#define OPTION_HELP 'h'
#define OPTION_VERSION 'V'
#define OPTION_FIRST 256 /* entries[i] has this plus i */

static void print_option(const char *name, const char *argument, const char *help)
{
	char left[40];

	snprintf(left, sizeof(left), "--%s%s%s", name, argument ? " " : "", argument ? argument : "");
	printf("  %-30s ", left);
	for (; *help; help++) {
		if (*help == '\n')
			printf("\n%33s", "");
		else
			putchar(*help);
	}
	putchar('\n');
}

static void print_help(void)
{
	fputs("Usage: kaiso serve [OPTIONS] [ADDR:PORT ...]\n"
	      "\n"
	      "Runs a router: clients of ADDR:PORT name a service and are connected to it.\n"
	      "\n"
	      "Listens on every word given, else on the sockets that a service manager passed\n"
	      "(LISTEN_FDS), else on port 37812 of both loopback addresses. A word is\n"
	      "  127.0.0.1:37812, [::1]:37812   an address and a port; port 0 takes a free one\n"
	      "  :37812                         all addresses, IPv4 and IPv6\n"
	      "  example.org:37812              every address that the name has here\n"
	      "  unix:/run/kaiso.sock           a UNIX socket\n"
	      "\n"
	      "Options:\n",
	      stdout);
	for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
		print_option(entries[i].name, entries[i].argument, entries[i].help);
	print_option("help", NULL, "print this help");
	print_option("version", NULL, "print the version");
	fputs("\n"
	      "A service is a UNIX socket below the services directory, or a small file whose\n"
	      "first line says where it is: HOST:PORT, HOST:PORT SERVICE (of another kaiso),\n"
	      "SOCKET, or SOCKET passfd. Changes count from the next request on.\n"
	      "\n"
	      "Try it:  printf '\\n' | nc -N 127.0.0.1 37812          lists the services\n"
	      "         printf 'NAME\\n' | nc 127.0.0.1 37812         connects to one\n"
	      "\n"
	      "Signals: TERM and INT accept no more clients and let sessions end within the\n"
	      "drain timeout; a second one ends them at once. HUP changes nothing.\n"
	      "Exit status: 0 after a signal, 1 when it cannot run, 2 for a wrong command line.\n",
	      stdout);
}

static unsigned default_threads(void)
{
	cpu_set_t usable;

	if (sched_getaffinity(0, sizeof(usable), &usable) != 0)
		return 1;
	return (unsigned)MIN(MAX(CPU_COUNT(&usable), 1), THREADS_DEFAULT_MAX);
}

static struct settings default_settings(void)
{
	const char *services = getenv("KAISO_SERVICES");

	return (struct settings){
		.router = { .services = services && *services ? services : DEFAULT_SERVICES,
			    .threads = default_threads(),
			    .has_verbs = true,
			    .relay_up = RELAY_AUTO,
			    .relay_down = RELAY_AUTO,
			    .request_timeout_ms = 60000,
			    .connect_timeout_ms = 10000,
			    .drain_timeout_ms = 10000,
			    .max_lists = 256 },
		.log_level = LOG_LEVEL_INFO,
		.log_format = LOG_FORMAT_LOGFMT,
	};
}

static void make_getopt_table(struct option options[static ARRAY_SIZE(entries) + 3])
{
	for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
		options[i] = (struct option){ entries[i].name,
					      entries[i].argument ? required_argument : no_argument, NULL,
					      OPTION_FIRST + (int)i };
	options[ARRAY_SIZE(entries)] = (struct option){ "help", no_argument, NULL, OPTION_HELP };
	options[ARRAY_SIZE(entries) + 1] = (struct option){ "version", no_argument, NULL, OPTION_VERSION };
	options[ARRAY_SIZE(entries) + 2] = (struct option){ 0 };
}

static int usage_error(void)
{
	fputs("Try `kaiso serve --help`.\n", stderr);
	return EXIT_USAGE;
}

static int take_option(const struct option_entry *entry, const char *word, struct settings *settings)
{
	if (entry->parse(word, settings, entry->offset) == 0)
		return -1;
	fprintf(stderr, "kaiso serve: --%s '%s': expected %s\n", entry->name, word, entry->values);
	return usage_error();
}

/* The exit status when the program is to end already, else -1. */
static int parse_options(int argc, char **argv, struct settings *settings)
{
	struct option options[ARRAY_SIZE(entries) + 3];
	static char name[] = "kaiso serve";
	int chosen, status = -1;

	make_getopt_table(options);
	argv[0] = name; /* getopt's own messages begin with it */
	optind = 0;
	while (status < 0 && (chosen = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (chosen == OPTION_HELP) {
			print_help();
			status = 0;
		} else if (chosen == OPTION_VERSION) {
			puts("kaiso " KAISO_VERSION);
			status = 0;
		} else if (chosen >= OPTION_FIRST) {
			status = take_option(&entries[chosen - OPTION_FIRST], optarg, settings);
		} else {
			status = usage_error();
		}
	}
	return status;
}

static int check_services(const char *services)
{
	CLEANUP_CLOSE int fd = fd_open_path(services, O_PATH | O_DIRECTORY);
	int error = fd < 0 ? -fd : 0;

	if (strlen(services) > SERVICES_LENGTH_MAX)
		error = ENAMETOOLONG;
	if (error != 0)
		log_message(LOG_LEVEL_ERROR, "services directory '%.256s': %s; %s", services, strerror(error),
			    error == ENAMETOOLONG ? "change to a directory nearer to it, or make a link" :
						    "create it, or name another with --services");
	return error;
}

/* 0, or a negative errno with a line in reason. */
static int listen_on(struct listen_set *listeners, char **words, int count, char *reason, size_t reason_size)
{
	int r = listen_set_inherit(listeners, reason, reason_size);

	if (r < 0)
		return -EBADF; /* the service manager's mistake, not the command line's */
	if (count == 0 && r == 0)
		return listen_set_add_loopback(listeners, DEFAULT_PORT, reason, reason_size);
	for (int i = 0; i < count; i++) {
		r = listen_set_add(listeners, words[i], reason, reason_size);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Is the error about the word itself, or about the system? */
static int listen_exit_status(int error)
{
	return error == -EINVAL || error == -ERANGE ? EXIT_USAGE : EXIT_RUNTIME;
}

static int serve(struct settings *settings, char **words, int count)
{
	struct router_options *router = &settings->router;
	struct listen_set listeners = { 0 };
	char reason[LISTEN_REASON_SIZE];
	uint64_t descriptors = fd_raise_limit();
	int r, status;

	router->max_pipes = (unsigned)MIN(descriptors / 16 / router->threads, (uint64_t)PIPES_PER_THREAD_MAX);
	if (router->max_sessions == 0)
		router->max_sessions =
			server_default_sessions(descriptors, router->threads, router->max_pipes);
	if (check_services(router->services) != 0)
		return EXIT_RUNTIME;
	r = listen_on(&listeners, words, count, reason, sizeof(reason));
	if (r < 0)
		log_message(LOG_LEVEL_ERROR, "%s", reason);
	status = r < 0 ? listen_exit_status(r) : server_run(router, &listeners);
	listen_set_close(&listeners);
	return status;
}

int cmd_serve(int argc, char **argv)
{
	struct settings settings = default_settings();
	int status = parse_options(argc, argv, &settings);

	if (status >= 0)
		return status;
	log_init(settings.log_level, settings.log_format);
	status = serve(&settings, argv + optind, argc - optind);
	log_deinit();
	return status;
}
