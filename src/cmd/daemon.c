/*
 * One table names every option, with its word for people, its default and where its
 * value goes; getopt_long(3), the help and the error messages are all made from it.
 */
#include "cmd/daemon.h"

#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/args.h"
#include "base/fd.h"
#include "base/macros.h"
#include "cmd/cmd.h"
#include "net/addr.h"
#include "net/dns.h"
#include "net/relay.h"
#include "router/http.h"
#include "router/server.h"
#include "router/upgrade.h"

#define DEFAULT_SERVICES "./services"
#define BUSY_POLL_MAX_US 1000
#define THREADS_MAX 256
#define THREADS_DEFAULT_MAX 4
#define PIPES_PER_THREAD_MAX 128
#define FRONTS_MAX 64
#define PIPE_SHARE 2 /* of what a user's pipes may hold we take one part in so many */

/* Takes the value of an option; -EINVAL or -ERANGE when it is none. */
typedef int (*option_parser)(const char *word, struct daemon_settings *settings, size_t offset);

static int parse_text(const char *word, struct daemon_settings *settings, size_t offset)
{
	if (word[0] == '\0')
		return -EINVAL;
	*(const char **)((char *)settings + offset) = word;
	return 0;
}

static int parse_duration(const char *word, struct daemon_settings *settings, size_t offset)
{
	return args_parse_duration_ms(word, (uint64_t *)((char *)settings + offset));
}

/* A limit: 0 means none. */
static int parse_limit(const char *word, struct daemon_settings *settings, size_t offset)
{
	return args_parse_number(word, 0, UINT32_MAX, (uint64_t *)((char *)settings + offset));
}

/* A limit that there has to be. */
static int parse_count(const char *word, struct daemon_settings *settings, size_t offset)
{
	return args_parse_number(word, 1, UINT32_MAX, (uint64_t *)((char *)settings + offset));
}

static int parse_unsigned(const char *word, uint64_t min, uint64_t max, unsigned *value)
{
	uint64_t number;
	int r = args_parse_number(word, min, max, &number);

	if (r == 0)
		*value = (unsigned)number;
	return r;
}

static int parse_threads(const char *word, struct daemon_settings *settings, size_t offset)
{
	return parse_unsigned(word, 1, THREADS_MAX, (unsigned *)((char *)settings + offset));
}

static int parse_busy_poll(const char *word, struct daemon_settings *settings, size_t offset)
{
	return parse_unsigned(word, 0, BUSY_POLL_MAX_US, (unsigned *)((char *)settings + offset));
}

static int parse_relay(const char *word, struct daemon_settings *settings, size_t offset)
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

static int parse_log_level(const char *word, struct daemon_settings *settings, size_t offset)
{
	return log_level_parse(word, (enum log_level *)((char *)settings + offset)) ? 0 : -EINVAL;
}

static int parse_log_format(const char *word, struct daemon_settings *settings, size_t offset)
{
	return log_format_parse(word, (enum log_format *)((char *)settings + offset)) ? 0 : -EINVAL;
}

static int parse_off(const char *word, struct daemon_settings *settings, size_t offset)
{
	(void)word;
	*(bool *)((char *)settings + offset) = false;
	return 0;
}

static int parse_on(const char *word, struct daemon_settings *settings, size_t offset)
{
	(void)word;
	*(bool *)((char *)settings + offset) = true;
	return 0;
}

/* May stand several times; what they name is kept as long as the program runs. */
static int parse_front(const char *word, struct daemon_settings *settings, size_t offset)
{
	static struct access_rule fronts[FRONTS_MAX];
	struct description_text rest = { word, strlen(word) };
	struct description_error error;
	struct access_rule rule;

	(void)offset;
	if (strcmp(word, "unix") == 0) {
		settings->router.has_unix_fronts = true;
		return 0;
	}
	if (access_rule_next(&rest, true, &rule, &error) != 1 || rest.length > 0 ||
	    settings->router.front_count == ARRAY_SIZE(fronts))
		return -EINVAL;
	fronts[settings->router.front_count++] = rule;
	settings->router.fronts = fronts;
	return 0;
}

static int parse_proxy(const char *word, struct daemon_settings *settings, size_t offset)
{
	enum proxy_version *version = (void *)((char *)settings + offset);

	if (strcmp(word, "v1") != 0 && strcmp(word, "v2") != 0)
		return -EINVAL;
	*version = word[1] == '1' ? PROXY_V1 : PROXY_V2;
	return 0;
}

/* One more name server: "ADDR", "ADDR:PORT", "[ADDR]:PORT", or an IPv6 address alone. */
static int parse_dns(const char *word, struct daemon_settings *settings, size_t offset)
{
	struct dns_servers *servers = (struct dns_servers *)((char *)settings + offset);
	const char *host = word;
	size_t length = strlen(word);
	uint16_t port = DNS_PORT;
	union addr *server = &servers->addresses[servers->count];

	if (servers->count == DNS_SERVERS_MAX)
		return -E2BIG;
	if (addr_parse_numeric(word, length, port, server) != 0) {
		if (length > 2 && word[0] == '[' && word[length - 1] == ']') {
			host = word + 1;
			length -= 2;
		} else if (addr_split(word, 1, &host, &length, &port) != 0) {
			return -EINVAL;
		}
		if (addr_parse_numeric(host, length, port, server) != 0)
			return -EINVAL;
	}
	/* c-ares knows no scopes. */
	if (server->sa.sa_family == AF_INET6 && server->in6.sin6_scope_id != 0)
		return -EINVAL;
	servers->count++;
	return 0;
}

struct option_entry {
	int commands; /* enum daemon_command, or both */
	const char *name;
	const char *argument; /* NULL: takes none */
	option_parser parse;
	size_t offset;
	const char *values; /* what it may be, for errors */
	const char *help;   /* lines after the first are indented by the printer */
};

#define AT(member) offsetof(struct daemon_settings, member)
#define A_DURATION "a number with a unit: 500ms, 10s, 5m, 2h, 1d (ten years at most), or 0 for none"
#define A_LIMIT "a number from 0 (no limit) to 4294967295"
#define A_COUNT "a number from 1 to 4294967295"
#define A_RELAY "auto, splice or copy"

static const struct option_entry entries[] = {
	{ DAEMON_SERVE, "services", "DIR", parse_text, AT(router.services), "a directory",
	  "the services directory (default: $KAISO_SERVICES, else ./services)" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "threads", "N", parse_threads, AT(router.threads),
	  "a number from 1 to 256",
	  "threads that serve clients (default: one for each processor, at most 4)" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "busy-poll", "MICROSECONDS", parse_busy_poll, AT(router.busy_poll_us),
	  "a number from 0 to 1000",
	  "look out for so long before sleeping: answers come sooner where each\nthread has a processor to itself, later elsewhere (default: 0)" },
	{ DAEMON_SERVE, "request-timeout", "DURATION", parse_duration, AT(router.request_timeout_ms),
	  A_DURATION,
	  "time to a complete request line, and for a client to take a list, with\na second more for each 16 KiB (default: 60s)" },
	{ DAEMON_EXPOSE, "request-timeout", "DURATION", parse_duration, AT(router.request_timeout_ms),
	  A_DURATION, "time for a front end (--proxy-from) to a complete header (default: 60s)" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "connect-timeout", "DURATION", parse_duration,
	  AT(router.connect_timeout_ms), A_DURATION,
	  "time to reach a service, all its addresses together (default: 10s)" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "idle-timeout", "DURATION", parse_duration,
	  AT(router.idle_timeout_ms), A_DURATION,
	  "end sessions in which nothing moves for so long (default: 0, never)" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "keepalive", "DURATION", parse_duration, AT(router.keepalive_ms),
	  A_DURATION,
	  "end sessions whose client or service does not answer for so long (at most half\nas long again), though it is asked: its host is gone; whole seconds, 2s at least;\n0: none (default: 2m)" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "drain-timeout", "DURATION", parse_duration,
	  AT(router.drain_timeout_ms), A_DURATION,
	  "time that sessions get to end after SIGTERM; 0: for ever (default: 10s)" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "max-sessions", "N", parse_count, AT(router.max_sessions), A_COUNT,
	  "clients at a time (default: what the limit of descriptors permits, at most 32768)" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "max-sessions-per-address", "N", parse_limit,
	  AT(router.max_sessions_per_address), A_LIMIT,
	  "clients at a time from one IPv4 address or IPv6 /64 (default: 0, no limit)" },
	{ DAEMON_SERVE, "max-requests-per-second", "N", parse_limit, AT(router.max_requests_per_second),
	  A_LIMIT, "request lines a second from one IPv4 address or IPv6 /64 (default: 0, no limit)" },
	{ DAEMON_SERVE, "max-lists", "N", parse_count, AT(router.max_lists), A_COUNT,
	  "lists that are being made at a time (default: 256)" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "proxy-from", "ADDRESS[/BITS]", parse_front, 0,
	  "an address, or a network such as 192.0.2.0/24 or 2001:db8::/32, or unix; 64 of them at most",
	  "whose connections begin with a header of the PROXY protocol (v1 or v2), which says whose they\nare: front ends such as HAProxy, "
	  "or another kaiso; unix: clients of UNIX\nsockets; may be given several times (default: nobody's)" },
	{ DAEMON_EXPOSE, "proxy", "VERSION", parse_proxy, AT(proxy), "v1 or v2",
	  "tell the kaiso by a header of the PROXY protocol, v1 or v2, whose connection it is:\nfor one with --proxy-from (default: none)" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "relay-up", "MODE", parse_relay, AT(router.relay_up), A_RELAY,
	  "how bytes move from clients to services: splice, copy, or auto: bulk from TCP\nspliced, everything else copied (default: auto)" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "relay-down", "MODE", parse_relay, AT(router.relay_down), A_RELAY,
	  "the same from services to clients (default: auto)" },
	{ DAEMON_SERVE, "no-verbs", NULL, parse_off, AT(router.has_verbs), NULL,
	  "do not answer .kaiso/version, .kaiso/list and .kaiso/open" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "control", "PATH", parse_text, AT(router.control),
	  "the path of a UNIX socket, or none",
	  "where `kaiso status` and its like find this router, or none (default: control in\n$RUNTIME_DIRECTORY, else in $XDG_RUNTIME_DIR/kaiso, else none)" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "http", "ADDR:PORT", parse_text, AT(router.http),
	  "an address and a port",
	  "a status page, /status.json, /metrics for Prometheus and /healthz, for whoever can\nreach the address: best a loopback one (default: none)" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "dns", "ADDR[:PORT]", parse_dns, AT(router.dns),
	  "the address of a name server, perhaps with a port, at most eight times",
	  "a name server to ask for names and for srv: targets, port 53 if none is given; several\ntimes: the next ones when it is silent (default: those of /etc/resolv.conf)" },
	{ DAEMON_EXPOSE, "progress", NULL, parse_on, AT(router.has_progress), NULL,
	  "below the log on a terminal: how many clients there are, and what they move; without a\nterminal the log is all there is, and in the background nothing is shown" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "user", "USER[:GROUP]", parse_text, AT(router.user),
	  "a user's name or number, perhaps with a group",
	  "become that user once the addresses are taken (only root can); a UNIX socket then\nstays behind at the end where that user may not remove it" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "no-sandbox", NULL, parse_off, AT(router.has_sandbox), NULL,
	  "keep all rights and system calls: for debugging" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "log-level", "LEVEL", parse_log_level, AT(log_level),
	  "error, warning, info or debug", "error, warning, info (default) or debug" },
	{ DAEMON_SERVE | DAEMON_EXPOSE, "log-format", "FORMAT", parse_log_format, AT(log_format),
	  "logfmt or json", "logfmt (default) or json" },
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

void daemon_print_options(enum daemon_command command)
{
	for (size_t i = 0; i < ARRAY_SIZE(entries); i++) {
		if (entries[i].commands & (int)command)
			print_option(entries[i].name, entries[i].argument, entries[i].help);
	}
	print_option("help", NULL, "print this help");
	print_option("version", NULL, "print the version");
}

static unsigned default_threads(void)
{
	cpu_set_t usable;

	if (sched_getaffinity(0, sizeof(usable), &usable) != 0)
		return 1;
	return (unsigned)MIN(MAX(CPU_COUNT(&usable), 1), THREADS_DEFAULT_MAX);
}

struct daemon_settings daemon_defaults(void)
{
	const char *services = getenv("KAISO_SERVICES");

	return (struct daemon_settings){
		.router = { .services = services && *services ? services : DEFAULT_SERVICES,
			    .threads = default_threads(),
			    .has_verbs = true,
			    .has_sandbox = true,
			    .relay_up = RELAY_AUTO,
			    .relay_down = RELAY_AUTO,
			    .request_timeout_ms = 60000,
			    .connect_timeout_ms = 10000,
			    .keepalive_ms = LISTEN_KEEPALIVE_MS,
			    .drain_timeout_ms = 10000,
			    .max_lists = 256 },
		.log_level = LOG_LEVEL_INFO,
		.log_format = LOG_FORMAT_LOGFMT,
	};
}

static void make_getopt_table(enum daemon_command command,
			      struct option options[static ARRAY_SIZE(entries) + 3])
{
	size_t count = 0;

	for (size_t i = 0; i < ARRAY_SIZE(entries); i++) {
		if (entries[i].commands & (int)command)
			options[count++] =
				(struct option){ entries[i].name,
						 entries[i].argument ? required_argument : no_argument, NULL,
						 OPTION_FIRST + (int)i };
	}
	options[count++] = (struct option){ "help", no_argument, NULL, OPTION_HELP };
	options[count++] = (struct option){ "version", no_argument, NULL, OPTION_VERSION };
	options[count] = (struct option){ 0 };
}

int daemon_usage_error(const char *name)
{
	fprintf(stderr, "Try `%s --help`.\n", name);
	return EXIT_USAGE;
}

static int take_option(const char *name, const struct option_entry *entry, const char *word,
		       struct daemon_settings *settings)
{
	if (entry->parse(word, settings, entry->offset) == 0)
		return -1;
	fprintf(stderr, "%s: --%s '%s': expected %s\n", name, entry->name, word, entry->values);
	return daemon_usage_error(name);
}

int daemon_parse(enum daemon_command command, char *name, int argc, char **argv,
		 struct daemon_settings *settings, void (*print_help)(void))
{
	struct option options[ARRAY_SIZE(entries) + 3];
	int chosen, status = -1;

	make_getopt_table(command, options);
	argv[0] = name;
	optind = 0; /* starts anew, whatever was parsed before */
	while (status < 0 && (chosen = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (chosen == OPTION_HELP) {
			print_help();
			status = 0;
		} else if (chosen == OPTION_VERSION) {
			puts("kaiso " KAISO_VERSION);
			status = 0;
		} else if (chosen >= OPTION_FIRST) {
			status = take_option(name, &entries[chosen - OPTION_FIRST], optarg, settings);
		} else {
			status = daemon_usage_error(name);
		}
	}
	return status;
}

int daemon_listen_status(int error)
{
	return error == -EINVAL || error == -ERANGE ? EXIT_USAGE : EXIT_RUNTIME;
}

/* How many pipes the process may have. An unprivileged user's pipes may hold so many pages altogether
 * (pipe(7), pipe-user-pages-soft), 0 for any; what goes beyond is tiny, for all programs of that user. */
static uint64_t pipes_allowed(uint64_t descriptors)
{
	CLEANUP_CLOSE int fd = open("/proc/sys/fs/pipe-user-pages-soft", O_RDONLY | O_CLOEXEC);
	char text[24];
	ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
	uint64_t pages = 16384, share;

	if (length > 0) {
		text[length] = '\0';
		pages = strtoull(text, NULL, 10);
	}
	share = pages ? pages * (uint64_t)sysconf(_SC_PAGESIZE) / PIPE_SHARE / RELAY_PIPE_SIZE : UINT64_MAX;
	return MIN(share, descriptors / 16);
}

int daemon_run(struct daemon_settings *settings, struct listen_set *listeners)
{
	struct router_options *router = &settings->router;
	uint64_t descriptors = fd_raise_limit(), reserved = router->http ? HTTP_DESCRIPTORS_MAX : 0;
	int status;

	router->max_pipes =
		(unsigned)MIN(pipes_allowed(descriptors) / router->threads, (uint64_t)PIPES_PER_THREAD_MAX);
	if (router->max_sessions == 0)
		router->max_sessions = server_default_sessions(descriptors - MIN(descriptors, reserved),
							       router->threads, router->max_pipes);
	for (size_t i = 0; i < listeners->count; i++)
		listen_set_keepalive(listeners->listeners[i].fd, router->keepalive_ms);
	status = server_run(router, listeners);
	listen_set_close(listeners);
	return status;
}

int daemon_take_over(struct daemon_settings *settings, struct listen_set *listeners, const char **services)
{
	int r = upgrade_take_listeners(listeners, services);

	if (r == 0)
		return daemon_run(settings, listeners);
	log_message(LOG_LEVEL_ERROR, "cannot take over: %s", strerror(-r));
	return EXIT_RUNTIME;
}
