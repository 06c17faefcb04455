/*
 * `kaiso expose`: services of a kaiso on plain ports and UNIX sockets.
 *
 * It is the router's server with listeners that know what their clients want: same relay,
 * same limits, same log, same signals.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"
#include "base/text.h"
#include "cmd/cmd.h"
#include "cmd/daemon.h"
#include "net/kaiso_address.h"
#include "proto/path.h"
#include "proto/request.h"
#include "router/upgrade.h"

static void print_help(void)
{
	fputs("Usage: kaiso expose [OPTIONS] KAISO SERVICE LISTEN [SERVICE LISTEN ...]\n"
	      "       kaiso-expose KAISO SERVICE LISTEN\n"
	      "\n"
	      "Offers services of a kaiso under addresses of their own, to clients that know nothing\n"
	      "of kaiso. Each client of LISTEN is connected to SERVICE.\n"
	      "\n"
	      "  KAISO    where the kaiso is: 127.0.0.1:37812, [::1]:37812, a name and a port,\n"
	      "           kaiso://HOST:PORT, or unix:PATH; without a port, 37812\n"
	      "  SERVICE  the path of a service there; '' or DIR/ offers the list\n"
	      "  LISTEN   127.0.0.1:8080, [::1]:8080, :8080 (all addresses), a name and a port, or\n"
	      "           unix:PATH; port 0 takes a free one, and the log says which\n"
	      "\n"
	      "Options:\n",
	      stdout);
	daemon_print_options(DAEMON_EXPOSE);
	fputs("\n"
	      "Examples:\n"
	      "  kaiso expose 127.0.0.1:37812 web 127.0.0.1:8080\n"
	      "  kaiso expose home.example:37812 git/forge unix:/tmp/forge   (curl --unix-socket)\n"
	      "  kaiso expose home.example db 127.0.0.1:5432 web 127.0.0.1:8080\n"
	      "\n"
	      "While the kaiso is away, clients are closed and the log says why; the next one is\n"
	      "tried anew. Signals: TERM and INT accept no more clients and let sessions end within\n"
	      "the drain timeout; a second one ends them at once. USR2 starts the program anew from\n"
	      "its file with every connection kept.\n"
	      "Exit status: 0 after a signal, 1 when it cannot run, 2 for a wrong command line.\n",
	      stdout);
}

/* What is behind each listener; LISTEN may be several sockets. */
struct exposed_services {
	struct listen_set listeners;
	const char *services[LISTEN_MAX];
};

/* Is it a service, or with '/' a directory to list, that a request line can carry with its CRLF? "" lists
 * all. */
static enum path_verdict service_verdict(const char *service, size_t length)
{
	if (length == 0)
		return PATH_OK;
	if (length > REQUEST_LINE_MAX - strlen("\r\n"))
		return PATH_TOO_LONG;
	return path_check(service, service[length - 1] == '/' ? length - 1 : length);
}

/* A path that no router accepts is told now, and not to each client. */
static int check_service(const char *service)
{
	size_t length = strlen(service);
	enum path_verdict verdict = service_verdict(service, length);

	if (verdict == PATH_OK)
		return 0;
	fputs("kaiso expose: no kaiso has a service '", stderr);
	text_write_visible(stderr, service, length);
	fprintf(stderr, "': %s\n", path_verdict_text(verdict));
	return EXIT_USAGE;
}

/* 0, or the exit status after a line in the log. */
static int listen_for(struct exposed_services *exposed, const char *service, const char *word)
{
	size_t before = exposed->listeners.count;
	char reason[LISTEN_REASON_SIZE];
	int r = listen_set_add(&exposed->listeners, word, reason, sizeof(reason));

	if (r < 0) {
		log_message(LOG_LEVEL_ERROR, "%s", reason);
		return daemon_listen_status(r);
	}
	for (size_t i = before; i < exposed->listeners.count; i++)
		exposed->services[i] = service;
	return 0;
}

/* ":PORT" is this host. */
static const char *host_of(const struct kaiso_address *kaiso)
{
	return kaiso->host[0] ? kaiso->host : KAISO_DEFAULT_HOST;
}

static int expose(struct daemon_settings *settings, const struct kaiso_address *kaiso, char **words,
		  int count)
{
	/* The caller's settings go on pointing here. */
	static struct exposed_services exposed;
	static struct router_exposure exposure;
	static char target[KAISO_ADDRESS_TEXT_SIZE];
	int status = 0;

	exposure = (struct router_exposure){ .host = kaiso->unix_path ? "" : host_of(kaiso),
					     .unix_path = kaiso->unix_path ? kaiso->unix_path : "",
					     .port = kaiso->port,
					     .target = kaiso_address_format(kaiso, target),
					     .services = exposed.services,
					     .proxy = settings->proxy };
	settings->router.services = NULL;
	settings->router.exposure = &exposure;
	if (upgrade_role() == UPGRADE_ASKED)
		return upgrade_answer();
	if (upgrade_role() == UPGRADE_TAKES)
		return daemon_take_over(settings, &exposed.listeners, exposed.services);
	for (int i = 0; i < count && status == 0; i += 2)
		status = listen_for(&exposed, words[i], words[i + 1]);
	if (status != 0) {
		listen_set_close(&exposed.listeners);
		return status;
	}
	return daemon_run(settings, &exposed.listeners);
}

/* KAISO and pairs of SERVICE and LISTEN. 0 or the exit status. */
static int check_words(char **words, int count, struct kaiso_address *kaiso)
{
	char reason[KAISO_ADDRESS_REASON_SIZE];

	if (count < 3 || count % 2 == 0) {
		fputs("kaiso expose: expected KAISO, then SERVICE and LISTEN, in pairs\n", stderr);
		return daemon_usage_error("kaiso expose");
	}
	if (kaiso_address_parse(words[0], kaiso, reason) < 0) {
		fprintf(stderr, "kaiso expose: %s\n", reason);
		return EXIT_USAGE;
	}
	if (kaiso->service[0]) {
		fprintf(stderr,
			"kaiso expose: '%s' names a service; write it as a word of its own, before LISTEN\n",
			words[0]);
		return EXIT_USAGE;
	}
	for (int i = 1; i < count; i += 2) {
		int status = check_service(words[i]);

		if (status != 0)
			return status;
	}
	return 0;
}

int cmd_expose(int argc, char **argv)
{
	static char name[] = "kaiso expose";
	static struct kaiso_address kaiso;
	struct daemon_settings settings = daemon_defaults();
	int status = daemon_parse(DAEMON_EXPOSE, name, argc, argv, &settings, print_help);

	if (status >= 0)
		return status;
	status = check_words(argv + optind, argc - optind, &kaiso);
	if (status != 0)
		return status;
	log_init(settings.log_level, settings.log_format);
	status = expose(&settings, &kaiso, argv + optind + 1, argc - optind - 1);
	log_deinit();
	return status;
}
