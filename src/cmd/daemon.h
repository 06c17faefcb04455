/*
 * What `kaiso serve` and `kaiso expose` have in common: their options, and the way from there to a running
 * server.
 */
#ifndef KAISO_CMD_DAEMON_H
#define KAISO_CMD_DAEMON_H

#include "base/log.h"
#include "net/listen.h"
#include "router/options.h"

/* Whose options: an option may be of one command or of both. */
enum daemon_command { DAEMON_SERVE = 1, DAEMON_EXPOSE = 2 };

struct daemon_settings {
	struct router_options router;
	enum proxy_version proxy; /* for router_exposure */
	enum log_level log_level;
	enum log_format log_format;
};

/* What holds without any option; router.services from $KAISO_SERVICES, else ./services. */
struct daemon_settings daemon_defaults(void);

/*
 * Takes the options from the command line; words that follow are at argv[optind]. argv[0] becomes name
 * ("kaiso serve"), for getopt_long(3)'s own messages. print_help is called for --help. -1 to go on, else
 * the exit status: --help, --version, or an error that has been told.
 */
int daemon_parse(enum daemon_command command, char *name, int argc, char **argv,
		 struct daemon_settings *settings, void (*print_help)(void));

/* The lines of --help about the command's options. */
void daemon_print_options(enum daemon_command command);

/* Tells on standard error how to get help; EXIT_USAGE. */
int daemon_usage_error(const char *name);

/* Runs a server on these listeners, with the limits that the system permits; closes them. The exit status. */
int daemon_run(struct daemon_settings *settings, struct listen_set *listeners);

/* The same on the listeners, and with the sessions, of the program that this process was before (upgrade.h). services:
 * as upgrade_take_listeners() has it. */
int daemon_take_over(struct daemon_settings *settings, struct listen_set *listeners, const char **services);

/* The exit status for an error of listen_set_add(): is it the word that makes no sense, or the system that
 * refuses? */
int daemon_listen_status(int error);

#endif
