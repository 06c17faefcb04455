/*
 * `kaiso mirror`: a services directory that is fed by an etcd cluster. Only its options are here.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/args.h"
#include "base/log.h"
#include "base/macros.h"
#include "cmd/cmd.h"
#include "mirror/mirror.h"

#define ENDPOINTS_MAX 32
#define PASSWORD_MAX 1024

/* Options and what the words of the command line become; static, for mirror_run() borrows all of it. */
struct settings {
	struct mirror_options mirror;
	const char *endpoints[ENDPOINTS_MAX];
	char *urls[ENDPOINTS_MAX]; /* on the heap: those of endpoints that had no scheme */
	const char *password_file;
	char password[PASSWORD_MAX + 1];
	enum log_level log_level;
	enum log_format log_format;
};

static void print_help(void)
{
	fputs("Usage: kaiso mirror [OPTIONS] ENDPOINT[,ENDPOINT...] PREFIX DIRECTORY\n"
	      "\n"
	      "Keeps a services directory, or a directory in one, equal to the keys of an etcd cluster that\n"
	      "begin with PREFIX, so that the routers of many hosts serve the same names. The key PREFIX and\n"
	      "PATH is the file DIRECTORY/PATH, a service description; its value is what stands in it.\n"
	      "\n"
	      "  ENDPOINT   a member of the cluster: http://HOST:PORT, https://HOST:PORT, or HOST:PORT for the\n"
	      "             former; when one fails the next is asked\n"
	      "  PREFIX     what the keys begin with, mostly with a slash at its end: /kaiso/\n"
	      "  DIRECTORY  it is the mirror's: empty, not there yet, or used by it before. What is removed\n"
	      "             from the cluster is removed from it, and so are files that others put there;\n"
	      "             sockets and hidden files (but .kaiso) are left alone\n"
	      "\n"
	      "Options:\n"
	      "  --once                   make the directory equal and exit\n"
	      "  --timeout DURATION       what says nothing for so long is asked whether it is still there,\n"
	      "                           and what does not answer for so long is away (default: 10s)\n"
	      "  --check DURATION         look so often whether somebody else changed the directory, and put\n"
	      "                           it right; 0: never (default: 1m)\n"
	      "  --cacert FILE            certificates (PEM) that vouch for https:// endpoints (default: the\n"
	      "                           system's)\n"
	      "  --cert FILE              a certificate of ours (PEM), for endpoints that ask for one\n"
	      "  --key FILE               its key\n"
	      "  --user NAME              who we are to etcd, with --password-file\n"
	      "  --password-file FILE     its first line is the password\n"
	      "  --max-services N         take no more keys (default: 1000000)\n"
	      "  --max-memory SIZE        for names and descriptions, about: 64M, 1G (default: 512M)\n"
	      "  --no-fsync               do not wait for the disk: after a crash of the system files may be\n"
	      "                           empty until the mirror has run again\n"
	      "  --log-level LEVEL        error, warning, info (default) or debug\n"
	      "  --log-format FORMAT      logfmt (default) or json\n"
	      "  -h, --help               print this help\n"
	      "  --version                print the version\n"
	      "\n"
	      "While etcd is away the directory stays as it is. Signals: TERM and INT end it.\n"
	      "Exit status: 0 after a signal, or with --once when all is equal; 1 when it cannot run, or with\n"
	      "--once when etcd is away; 2 for a wrong command line.\n"
	      "\n"
	      "Example:\n"
	      "  etcdctl put /kaiso/web 10.0.0.7:8080\n"
	      "  kaiso mirror etcd1:2379,etcd2:2379,etcd3:2379 /kaiso/ /etc/kaiso/services/cluster\n",
	      stdout);
}

static int usage_error(void)
{
	fputs("Try `kaiso mirror --help`.\n", stderr);
	return EXIT_USAGE;
}

static int value_error(const char *option, const char *word, const char *expected)
{
	fprintf(stderr, "kaiso mirror: --%s '%s': expected %s\n", option, word, expected);
	return usage_error();
}

/* ---- options --------------------------------------------------------------------------------------- */

enum {
	OPTION_ONCE = 256,
	OPTION_TIMEOUT,
	OPTION_CHECK,
	OPTION_CACERT,
	OPTION_CERT,
	OPTION_KEY,
	OPTION_USER,
	OPTION_PASSWORD_FILE,
	OPTION_MAX_SERVICES,
	OPTION_MAX_MEMORY,
	OPTION_NO_FSYNC,
	OPTION_LOG_LEVEL,
	OPTION_LOG_FORMAT,
	OPTION_VERSION,
};

static const struct option options[] = {
	{ "once", no_argument, NULL, OPTION_ONCE },
	{ "timeout", required_argument, NULL, OPTION_TIMEOUT },
	{ "check", required_argument, NULL, OPTION_CHECK },
	{ "cacert", required_argument, NULL, OPTION_CACERT },
	{ "cert", required_argument, NULL, OPTION_CERT },
	{ "key", required_argument, NULL, OPTION_KEY },
	{ "user", required_argument, NULL, OPTION_USER },
	{ "password-file", required_argument, NULL, OPTION_PASSWORD_FILE },
	{ "max-services", required_argument, NULL, OPTION_MAX_SERVICES },
	{ "max-memory", required_argument, NULL, OPTION_MAX_MEMORY },
	{ "no-fsync", no_argument, NULL, OPTION_NO_FSYNC },
	{ "log-level", required_argument, NULL, OPTION_LOG_LEVEL },
	{ "log-format", required_argument, NULL, OPTION_LOG_FORMAT },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, OPTION_VERSION },
	{ NULL, 0, NULL, 0 },
};

/* -1 to go on, or the exit status. */
static int take_number(int chosen, const char *word, struct mirror_options *mirror)
{
	switch (chosen) {
	case OPTION_TIMEOUT:
		if (args_parse_duration_ms(word, &mirror->etcd.timeout_ms) != 0 ||
		    mirror->etcd.timeout_ms == 0)
			return value_error("timeout", word, "a number with a unit: 500ms, 10s, 5m");
		return -1;
	case OPTION_CHECK:
		if (args_parse_duration_ms(word, &mirror->check_ms) != 0)
			return value_error("check", word,
					   "a number with a unit: 500ms, 10s, 5m, or 0 for never");
		return -1;
	case OPTION_MAX_SERVICES:
		if (args_parse_number(word, 1, UINT32_MAX, &mirror->max_services) != 0)
			return value_error("max-services", word, "a number from 1 to 4294967295");
		return -1;
	default:
		if (args_parse_size(word, &mirror->max_bytes) != 0 || mirror->max_bytes == 0)
			return value_error("max-memory", word, "a number of bytes: 65536, 64k, 64M, 1G");
		return -1;
	}
}

static int take_log_option(int chosen, const char *word, struct settings *settings)
{
	if (chosen == OPTION_LOG_LEVEL && !log_level_parse(word, &settings->log_level))
		return value_error("log-level", word, "error, warning, info or debug");
	if (chosen == OPTION_LOG_FORMAT && !log_format_parse(word, &settings->log_format))
		return value_error("log-format", word, "logfmt or json");
	return -1;
}

/* Where the word of a text option goes; NULL: it is no such option. */
static const char **text_of(int chosen, struct settings *settings)
{
	struct etcd_options *etcd = &settings->mirror.etcd;

	switch (chosen) {
	case OPTION_CACERT:
		return &etcd->ca_file;
	case OPTION_CERT:
		return &etcd->certificate_file;
	case OPTION_KEY:
		return &etcd->key_file;
	case OPTION_USER:
		return &etcd->user;
	case OPTION_PASSWORD_FILE:
		return &settings->password_file;
	default:
		return NULL;
	}
}

static int take_option(int chosen, struct settings *settings)
{
	const char **text = text_of(chosen, settings);

	if (text) {
		*text = optarg;
		return -1;
	}
	switch (chosen) {
	case OPTION_ONCE:
		settings->mirror.is_once = true;
		return -1;
	case OPTION_NO_FSYNC:
		settings->mirror.has_sync = false;
		return -1;
	case OPTION_TIMEOUT:
	case OPTION_CHECK:
	case OPTION_MAX_SERVICES:
	case OPTION_MAX_MEMORY:
		return take_number(chosen, optarg, &settings->mirror);
	case OPTION_LOG_LEVEL:
	case OPTION_LOG_FORMAT:
		return take_log_option(chosen, optarg, settings);
	case OPTION_VERSION:
		puts("kaiso " KAISO_VERSION);
		return 0;
	case 'h':
		print_help();
		return 0;
	default:
		return usage_error();
	}
}

/* ---- endpoints ------------------------------------------------------------------------------------- */

static bool begins_with(const char *text, const char *with)
{
	return strncmp(text, with, strlen(with)) == 0;
}

/* libcurl judges the rest; but that a scheme of another kind, or a line end, comes so far is nothing we want. */
static int take_endpoint(struct settings *settings, const char *word)
{
	struct etcd_options *etcd = &settings->mirror.etcd;
	size_t number = etcd->endpoint_count;

	for (const char *byte = word; *byte; byte++) {
		if (*byte <= ' ' || *byte > '~') {
			fputs("kaiso mirror: an ENDPOINT is of printable ASCII\n", stderr);
			return usage_error();
		}
	}
	/* The log names endpoints, and everybody sees the words of a command. */
	if (strchr(word, '@')) {
		fputs("kaiso mirror: no user or password in an ENDPOINT: see --user and --password-file\n",
		      stderr);
		return usage_error();
	}
	if (number == ENDPOINTS_MAX) {
		fprintf(stderr, "kaiso mirror: there may be %d ENDPOINTs at most\n", ENDPOINTS_MAX);
		return usage_error();
	}
	settings->endpoints[number] = word;
	if (!begins_with(word, "http://") && !begins_with(word, "https://")) {
		if (*word == '\0' || strstr(word, "://")) {
			fprintf(stderr,
				"kaiso mirror: ENDPOINT '%s': expected http://HOST:PORT, https://HOST:PORT or HOST:PORT\n",
				word);
			return usage_error();
		}
		if (asprintf(&settings->urls[number], "http://%s", word) < 0)
			return EXIT_RUNTIME;
		settings->endpoints[number] = settings->urls[number];
	}
	etcd->endpoint_count++;
	return -1;
}

static int take_endpoints(struct settings *settings, char *words)
{
	int status = -1;

	settings->mirror.etcd.endpoints = settings->endpoints;
	while (status < 0 && words)
		status = take_endpoint(settings, strsep(&words, ","));
	return status;
}

/* A secret, or the wish for one, must not go over the wire in plain text because of a word that was left out. */
static int check_encryption(const struct settings *settings)
{
	const struct etcd_options *etcd = &settings->mirror.etcd;

	if (!etcd->ca_file && !etcd->certificate_file && !etcd->key_file)
		return -1;
	for (size_t i = 0; i < etcd->endpoint_count; i++) {
		if (!begins_with(etcd->endpoints[i], "https://")) {
			fprintf(stderr,
				"kaiso mirror: --cacert, --cert and --key are for https:// endpoints, and '%s' is none\n",
				etcd->endpoints[i]);
			return usage_error();
		}
	}
	return -1;
}

/* ---- the password ------------------------------------------------------------------------------------ */

static int read_password(struct settings *settings)
{
	FILE *file = fopen(settings->password_file, "re");
	bool is_read = file && fgets(settings->password, sizeof(settings->password), file);

	if (!is_read)
		fprintf(stderr, "kaiso mirror: --password-file '%s': %s\n", settings->password_file,
			file && !ferror(file) ? "it is empty" : strerror(errno));
	if (file)
		fclose(file);
	settings->password[strcspn(settings->password, "\r\n")] = '\0';
	settings->mirror.etcd.password = settings->password;
	return is_read ? -1 : EXIT_RUNTIME;
}

static int take_password(struct settings *settings)
{
	if (!settings->mirror.etcd.user != !settings->password_file) {
		fputs("kaiso mirror: --user and --password-file go together\n", stderr);
		return usage_error();
	}
	return settings->password_file ? read_password(settings) : -1;
}

/* ---- the command ------------------------------------------------------------------------------------- */

static int take_words(struct settings *settings, int count, char **words)
{
	int status;

	if (count != 3 || words[2][0] == '\0') {
		fputs("kaiso mirror: expected ENDPOINT, PREFIX and DIRECTORY\n", stderr);
		return usage_error();
	}
	settings->mirror.prefix = words[1];
	settings->mirror.directory = words[2];
	status = take_endpoints(settings, words[0]);
	if (status < 0)
		status = check_encryption(settings);
	return status < 0 ? take_password(settings) : status;
}

int cmd_mirror(int argc, char **argv)
{
	static char name[] = "kaiso mirror";
	static struct settings settings = {
		.mirror = { .etcd = { .timeout_ms = 10000 },
			    .max_services = 1000000,
			    .max_bytes = 512u << 20,
			    .check_ms = 60000,
			    .has_sync = true },
		.log_level = LOG_LEVEL_INFO,
		.log_format = LOG_FORMAT_LOGFMT,
	};
	int status = -1, chosen;

	argv[0] = name; /* getopt_long(3) begins its messages with it */
	optind = 0;
	while (status < 0 && (chosen = getopt_long(argc, argv, "h", options, NULL)) != -1)
		status = take_option(chosen, &settings);
	if (status < 0)
		status = take_words(&settings, argc - optind, argv + optind);
	if (status < 0) {
		log_init(settings.log_level, settings.log_format);
		status = mirror_run(&settings.mirror) == 0 ? 0 : EXIT_RUNTIME;
		log_deinit();
	}
	for (size_t i = 0; i < ARRAY_SIZE(settings.urls); i++)
		free(settings.urls[i]);
	return status;
}
