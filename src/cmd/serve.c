/*
 * `kaiso serve`: from the command line to a running router.
 */
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/hint.h"
#include "base/macros.h"
#include "cmd/cmd.h"
#include "cmd/daemon.h"
#include "router/upgrade.h"

#define DEFAULT_PORT 37812
#define SERVICES_LENGTH_MAX 4000 /* a whole path of it and a service still fits two system calls */

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
	daemon_print_options(DAEMON_SERVE);
	fputs("\n"
	      "A service is a UNIX socket below the services directory, or a small file whose\n"
	      "first line says where it is: HOST:PORT, HOST:PORT SERVICE (of another kaiso),\n"
	      "SOCKET, or SOCKET passfd. Changes count from the next request on.\n"
	      "\n"
	      "Try it:  printf '\\n' | nc -N 127.0.0.1 37812          lists the services\n"
	      "         printf 'NAME\\n' | nc 127.0.0.1 37812         connects to one\n"
	      "\n"
	      "Signals: TERM and INT accept no more clients and let sessions end within the\n"
	      "drain timeout; a second one ends them at once. USR2 starts the program anew from its\n"
	      "file, in the same process and with every connection: an upgrade, refused with a line\n"
	      "in the log when the new one cannot. HUP changes nothing.\n"
	      "Exit status: 0 after a signal, 1 when it cannot run, 2 for a wrong command line.\n",
	      stdout);
}

static int check_services(const char *services)
{
	CLEANUP_CLOSE int fd = fd_open_path(services, O_PATH | O_DIRECTORY);
	int error = fd < 0 ? -fd : 0;
	char hint[HINT_SIZE];

	if (strlen(services) > SERVICES_LENGTH_MAX)
		error = ENAMETOOLONG;
	hint_for(error, services, R_OK | X_OK, hint);
	if (error != 0)
		log_message(LOG_LEVEL_ERROR, "services directory '%.256s': %s; %s", services, strerror(error),
			    *hint                 ? hint :
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

static int serve(struct daemon_settings *settings, char **words, int count)
{
	struct listen_set listeners = { 0 };
	char reason[LISTEN_REASON_SIZE];
	int r;

	if (upgrade_role() == UPGRADE_ASKED)
		return upgrade_answer();
	if (upgrade_role() == UPGRADE_TAKES)
		return daemon_take_over(settings, &listeners, NULL);
	if (check_services(settings->router.services) != 0)
		return EXIT_RUNTIME;
	r = listen_on(&listeners, words, count, reason, sizeof(reason));
	if (r == 0)
		return daemon_run(settings, &listeners);
	log_message(LOG_LEVEL_ERROR, "%s", reason);
	listen_set_close(&listeners);
	return daemon_listen_status(r);
}

int cmd_serve(int argc, char **argv)
{
	static char name[] = "kaiso serve";
	struct daemon_settings settings = daemon_defaults();
	int status = daemon_parse(DAEMON_SERVE, name, argc, argv, &settings, print_help);

	if (status >= 0)
		return status;
	log_init(settings.log_level, settings.log_format);
	status = serve(&settings, argv + optind, argc - optind);
	log_deinit();
	return status;
}
