/*
 * Theory of operation: the router is asked with ".kaiso/open", so its reason is known before a byte of
 * input is sent; then the connection is joined to the standard streams, or handed to ssh. Towards a
 * router without words for tools the only hint is a connection that ended without a byte: then the list
 * is asked whether there is such a service at all.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/macros.h"
#include "base/text.h"
#include "cmd/client_words.h"
#include "cmd/cmd.h"
#include "cmd/connect_meter.h"
#include "cmd/nearest.h"
#include "cmd/stdio_relay.h"
#include "net/client.h"
#include "net/fdpass.h"
#include "net/kaiso_address.h"
#include "proto/path.h"
#include "proto/reply.h"

#define TOOL "kaiso connect"
#define DEFAULT_TIMEOUT_MS 20000
#define LIST_TIMEOUT_MS 3000

struct settings {
	bool is_fdpass;
	bool has_progress;
	uint64_t timeout_ms;
	struct kaiso_address address;
	const char *service;
};

/* ---- reasons ---------------------------------------------------------------------------------------- */

struct refusal {
	enum reply_code code;
	int status;
	const char *way_out;
};

static const struct refusal refusals[] = {
	{ REPLY_NOT_FOUND, EXIT_NOT_FOUND, NULL }, /* told with the names that there are */
	{ REPLY_DENIED, EXIT_DENIED, "ask whoever runs the router to allow it" },
	{ REPLY_UNAVAILABLE, EXIT_UNAVAILABLE, "is its server running?" },
	{ REPLY_TIMEOUT, EXIT_UNAVAILABLE, "is its server overloaded, or its host down?" },
	{ REPLY_LIMIT, EXIT_UNAVAILABLE, "try again later" },
	{ REPLY_INVALID, EXIT_UNAVAILABLE, "`kaiso check`, run beside the router, finds the mistake" },
	{ REPLY_LOOP, EXIT_UNAVAILABLE, "its description has to lead somewhere else" },
};

/* NULL for a code that only later routers know. */
static const struct refusal *find_refusal(const char *code)
{
	for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
		if (strcmp(reply_code_name(refusals[i].code), code) == 0)
			return &refusals[i];
	}
	return NULL;
}

static bool has_service(const struct client_list *list, const char *service)
{
	struct client_list_entry entry;
	size_t position = 0;
	size_t length = strlen(service);

	while (client_list_next(list, &position, &entry)) {
		if (entry.path.length == length && memcmp(entry.path.start, service, length) == 0)
			return true;
	}
	return false;
}

/* The mount in the list that the service would lie in, with its '/'; empty for none. */
static struct client_text find_mount(const struct client_list *list, const char *service)
{
	struct client_list_entry entry;
	size_t position = 0;

	while (client_list_next(list, &position, &entry)) {
		if (entry.path.length > 0 && entry.path.start[entry.path.length - 1] == '/' &&
		    strncmp(entry.path.start, service, entry.path.length) == 0)
			return entry.path;
	}
	return (struct client_text){ "", 0 };
}

/* What there is, is not known: where to look for it. */
static void say_where_to_look(const struct settings *settings, struct client_text mount)
{
	char text[KAISO_ADDRESS_TEXT_SIZE];

	fprintf(stderr, "; `kaiso ls %s", kaiso_address_format(&settings->address, text));
	if (mount.length > 0) {
		fputs(" '", stderr);
		text_write_visible(stderr, mount.start, mount.length);
		fputc('\'', stderr);
	}
	fputs("` lists what there is\n", stderr);
}

/* The rest of the line: names that are like it, or where to look for one. list: NULL when it could not be had. */
static void say_nearest(const struct settings *settings, const struct client_list *list)
{
	struct client_text names[NEAREST_MAX], mount = { "", 0 };
	size_t count = 0;

	if (list && has_service(list, settings->service)) {
		fputs("; it is in the list, but leads to another router, which has no such service\n",
		      stderr);
		return;
	}
	if (list)
		mount = find_mount(list, settings->service);
	if (list && mount.length == 0)
		count = nearest_names(list, settings->service, names);
	if (count == 0)
		say_where_to_look(settings, mount);
	else
		nearest_write(stderr, names, count);
}

static void say_service(const char *what, const struct settings *settings)
{
	char text[KAISO_ADDRESS_TEXT_SIZE];

	fprintf(stderr, TOOL ": %s '", what);
	text_write_visible(stderr, settings->service, strlen(settings->service));
	fprintf(stderr, "' at %s", kaiso_address_format(&settings->address, text));
}

/* list: NULL when it could not be had. */
static int say_not_found(const struct settings *settings, const char *code, const struct client_list *list)
{
	say_service("no service", settings);
	fprintf(stderr, " (%s)", code);
	say_nearest(settings, list);
	return EXIT_NOT_FOUND;
}

/* A second question, which must not keep anybody waiting for long. */
static int ask_list(const struct settings *settings, struct client_list *list)
{
	struct client client;
	int r;

	client_init(&client, &settings->address, LIST_TIMEOUT_MS);
	r = client_list(&client, "", false, list);
	client_hang_up(&client);
	return r;
}

static int say_refusal(const struct settings *settings, const struct client *client)
{
	const struct refusal *refusal = find_refusal(client->code);

	if (refusal && refusal->code == REPLY_NOT_FOUND) {
		struct client_list list;
		int r = ask_list(settings, &list);
		int status = say_not_found(settings, client->code, r == 0 ? &list : NULL);

		client_list_deinit(&list);
		return status;
	}
	say_service("service", settings);
	fputs(": ", stderr);
	text_write_visible(stderr, client->text, strlen(client->text));
	fputs(" (", stderr);
	text_write_visible(stderr, client->code, strlen(client->code));
	fprintf(stderr, "); %s\n", refusal ? refusal->way_out : "the router's log may say more");
	return refusal ? refusal->status : EXIT_UNAVAILABLE;
}

/* A silent router ended the connection and not a byte had come: a service with nothing to say, or none?
 * The exit status after a line on standard error; 0, and not a word, when nothing speaks against the
 * former. */
static int explain_silence(const struct settings *settings)
{
	struct client_list list;
	int status = 0, r;

	/* The first kaiso opens hidden names as well, and lists none of them. */
	if (path_check(settings->service, strlen(settings->service)) != PATH_OK)
		return 0;
	r = ask_list(settings, &list);
	if (r == CLIENT_CLOSED) {
		struct client client = { .address = &settings->address, .is_reached = true };

		client_words_say_failure(TOOL, &client, r);
		status = EXIT_UNAVAILABLE;
	} else if (r == 0 && !has_service(&list, settings->service) &&
		   find_mount(&list, settings->service).length == 0) {
		status = say_not_found(settings, "it is not in the router's list", &list);
	}
	client_list_deinit(&list);
	return status;
}

/* ---- the connection --------------------------------------------------------------------------------- */

static int say_relay_end(const struct settings *settings, const struct stdio_relay_result *result)
{
	switch (result->end) {
	case STDIO_RELAY_DONE:
		return 0;
	case STDIO_RELAY_RESET:
		say_service("service", settings);
		fprintf(stderr, ": the connection was cut off: %s\n", strerror(result->error));
		return EXIT_RUNTIME;
	case STDIO_RELAY_UNSENT:
		say_service("service", settings);
		fputs(": it ended before it took all of the input\n", stderr);
		return EXIT_RUNTIME;
	case STDIO_RELAY_INPUT_ERROR:
		fprintf(stderr, TOOL ": standard input: %s\n", strerror(result->error));
		return EXIT_RUNTIME;
	case STDIO_RELAY_OUTPUT_ERROR:
		/* A reader that has seen enough is no failure to tell of. */
		if (result->error != EPIPE)
			fprintf(stderr, TOOL ": standard output: %s\n", strerror(result->error));
		return EXIT_RUNTIME;
	}
	return EXIT_RUNTIME;
}

/* A meter that cannot be had is no reason to fail. */
static struct stdio_relay_result relay_bytes(const struct settings *settings, int socket_fd)
{
	static struct stdio_relay_counts counts; /* a thread may be left that counts */
	struct stdio_relay_result result;
	int r = settings->has_progress ? connect_meter_start(&counts) : 0;

	if (r < 0)
		fprintf(stderr, TOOL ": no progress is shown: %s\n", strerror(-r));
	result = stdio_relay(socket_fd, &counts);
	connect_meter_end();
	return result;
}

static int relay(const struct settings *settings, const struct client *client)
{
	struct stdio_relay_result result = relay_bytes(settings, client->fd);
	bool is_ended = result.end == STDIO_RELAY_DONE || result.end == STDIO_RELAY_RESET ||
			result.end == STDIO_RELAY_UNSENT;

	if (client->is_silent && is_ended && result.received == 0) {
		int status = explain_silence(settings);

		if (status != 0)
			return status;
	}
	return say_relay_end(settings, &result);
}

/* Whoever gets the socket expects it as socket(2) makes it: in blocking mode. */
static int hand_over(const struct client *client)
{
	int flags = fcntl(client->fd, F_GETFL);
	int r;

	if (flags >= 0)
		fcntl(client->fd, F_SETFL, flags & ~O_NONBLOCK);
	r = fdpass_send(STDOUT_FILENO, '\0', client->fd);
	if (r == 0)
		return 0;
	fprintf(stderr, TOOL ": cannot send the connection over standard output: %s\n", strerror(-r));
	return EXIT_RUNTIME;
}

static int connect_service(const struct settings *settings)
{
	struct client client;
	int status, r;

	client_init(&client, &settings->address, settings->timeout_ms);
	r = client_open(&client, settings->service);
	if (r == 0) {
		status = settings->is_fdpass ? hand_over(&client) : relay(settings, &client);
	} else if (r == CLIENT_REFUSED) {
		status = say_refusal(settings, &client);
	} else {
		client_words_say_failure(TOOL, &client, r);
		status = r == CLIENT_CLOSED ? EXIT_UNAVAILABLE : EXIT_RUNTIME;
	}
	client_hang_up(&client);
	return status;
}

/* ---- the command line ------------------------------------------------------------------------------- */

static void print_help(void)
{
	fputs("Usage: kaiso connect [--fdpass | --progress] [KAISO] SERVICE\n"
	      "       kaiso connect [--fdpass | --progress] kaiso://HOST[:PORT]/SERVICE\n"
	      "\n"
	      "Connects standard input and output with a service. The end of input is passed on, and\n"
	      "what the service still sends is printed; it ends when both directions have, or, when\n"
	      "the input is a terminal, as soon as the service does.\n"
	      "\n" CLIENT_WORDS_KAISO_HELP "A single word is SERVICE, or a URL that names both.\n"
	      "\n"
	      "Options:\n"
	      "  --fdpass            send the connected socket itself over standard output, which has\n"
	      "                      to be a UNIX socket, and leave: for ssh, see below\n"
	      "  --progress          how many bytes have gone each way and how fast, on standard error\n"
	      "                      while that is a terminal and standard output none, and in a last\n"
	      "                      line in any case; in the terminal's background, nothing\n"
	      "  --timeout DURATION  how long it may take to be connected (default: 20s; 0: no limit)\n"
	      "  -h, --help          print this help\n"
	      "\n"
	      "Exit status: 0 done, 1 no router or a connection that broke, 2 wrong usage, 3 no such\n"
	      "service, 4 denied, 5 unavailable. The first kaiso gives no reasons: there, 3 means that\n"
	      "the service ended without a byte and is not in the list.\n"
	      "\n"
	      "Examples:\n"
	      "  printf 'GET / HTTP/1.0\\r\\n\\r\\n' | kaiso connect web\n"
	      "  tar c . | kaiso connect example.org:37812 backup\n"
	      "\n"
	      "In ~/.ssh/config, for a service of the name 'ssh' (without a process that copies):\n"
	      "  Host box\n"
	      "      ProxyCommand kaiso connect --fdpass example.org ssh\n"
	      "      ProxyUseFdpass yes\n",
	      stdout);
}

static int usage_error(const char *message)
{
	if (message)
		fprintf(stderr, TOOL ": %s\n", message);
	fputs("Try `kaiso connect --help`.\n", stderr);
	return EXIT_USAGE;
}

/* The kinds of names that would break a request line, whatever the router. */
static enum path_verdict check_line(const char *service, size_t length)
{
	if (length > PATH_LENGTH_MAX)
		return PATH_TOO_LONG;
	for (size_t i = 0; i < length; i++) {
		if ((unsigned char)service[i] < 0x20 || service[i] == 0x7f)
			return PATH_CONTROL_BYTE;
	}
	return PATH_OK;
}

/* 0 or EXIT_USAGE. What else a router would refuse is left to it: the first kaiso opens hidden names. */
static int check_service(const char *service)
{
	size_t length = strlen(service);
	enum path_verdict verdict = check_line(service, length);

	if (length == 0)
		return usage_error("expected the name of a service");
	if (service[length - 1] == '/')
		return usage_error("what ends in '/' is a directory; `kaiso ls` lists it");
	if (verdict == PATH_OK)
		return 0;
	fputs(TOOL ": service '", stderr);
	text_write_visible(stderr, service, MIN(length, (size_t)100));
	fprintf(stderr, "' %s: no client can ask for it\n", path_verdict_text(verdict));
	return usage_error(NULL);
}

/* KAISO SERVICE, SERVICE, a URL, or nothing where $KAISO is a URL. */
static int take_words(char **words, int count, struct settings *settings)
{
	bool has_kaiso = count == 2 || (count == 1 && kaiso_address_is_url(words[0]));
	const char *service = count > 0 && (count == 2 || !has_kaiso) ? words[count - 1] : NULL;

	if (count > 2)
		return usage_error("more words than KAISO and SERVICE");
	if (client_words_parse(TOOL, has_kaiso ? words[0] : NULL, &settings->address) != 0)
		return usage_error(NULL);
	if (has_kaiso && service && settings->address.service[0])
		return usage_error("SERVICE is named twice, in the URL and behind it");
	settings->service = service ? service : settings->address.service;
	return check_service(settings->service);
}

static bool is_unix_socket(int fd)
{
	int domain = 0;
	socklen_t length = sizeof(domain);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_UNIX;
}

int cmd_connect(int argc, char **argv)
{
	static const struct option options[] = {
		{ "fdpass", no_argument, NULL, 'f' },
		{ "progress", no_argument, NULL, 'p' },
		{ "timeout", required_argument, NULL, 't' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	static char name[] = TOOL;
	struct settings settings = { .timeout_ms = DEFAULT_TIMEOUT_MS };
	int option, status;

	argv[0] = name; /* getopt_long() begins its messages with it */
	optind = 0;     /* and starts anew, whatever was parsed before */
	while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (option == 'h') {
			print_help();
			return 0;
		}
		if (option == '?')
			return usage_error(NULL);
		if (option == 't' && client_words_parse_timeout(TOOL, optarg, &settings.timeout_ms) != 0)
			return usage_error(NULL);
		settings.is_fdpass |= option == 'f';
		settings.has_progress |= option == 'p';
	}
	status = take_words(argv + optind, argc - optind, &settings);
	if (status != 0)
		return status;
	if (settings.is_fdpass && settings.has_progress)
		return usage_error("--progress: with --fdpass the bytes go past this program");
	if (settings.is_fdpass && !is_unix_socket(STDOUT_FILENO))
		return usage_error(
			"--fdpass: standard output is no UNIX socket; in ssh, set ProxyUseFdpass yes");
	return connect_service(&settings);
}
