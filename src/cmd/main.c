/*
 * The program: finds the command by its name and runs it.
 *
 * A first word that holds a colon is an address to listen on: `kaiso ADDR:PORT` is `kaiso serve ADDR:PORT`.
 * Called by one of its other names (kaiso-expose and so on), the name is the command.
 */
#include <libgen.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/macros.h"
#include "cmd/cmd.h"
#include "router/upgrade.h"

#define LINK_PREFIX "kaiso-"

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary;
};

static const struct command commands[] = {
	{ "serve", cmd_serve, "run a router: many services on one port" },
	{ "expose", cmd_expose, "offer one service of a kaiso on a plain port" },
	{ "ls", cmd_ls, "list the services of a router" },
	{ "connect", cmd_connect, "connect standard input and output, or ssh, with a service" },
	{ "inject", cmd_inject, "run a client program whose connections to a kaiso name a service" },
	{ "passfd", cmd_passfd, "run a server program that is given the clients' own sockets" },
	{ "check", cmd_check, "find everything wrong in a services directory" },
	{ "mirror", cmd_mirror, "keep a services directory equal to the keys of an etcd" },
	{ "status", cmd_status, "show what a running router does" },
	{ "top", cmd_top, "watch a running router" },
	{ "close", cmd_close, "end sessions of a running router" },
	{ "drain", cmd_drain, "have a running router end once its sessions have" },
	{ "upgrade", cmd_upgrade, "have a running router go on as its new version" },
};

static void print_usage(FILE *stream)
{
	fputs("Usage: kaiso COMMAND [OPTIONS] ...\n"
	      "       kaiso ADDR:PORT          the same as `kaiso serve ADDR:PORT`\n"
	      "\n"
	      "Many services behind one port: a client sends an empty line and gets the list of\n"
	      "services, or a line with a service's path and is connected to it. Services are\n"
	      "UNIX sockets, or small description files, in a services directory.\n"
	      "\n"
	      "Commands:\n",
	      stream);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(stream, "  %-10s %s\n", commands[i].name, commands[i].summary);
	fputs("\n"
	      "  kaiso COMMAND --help tells more about each.\n"
	      "  kaiso --version prints the version.\n",
	      stream);
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		if (strcmp(name, commands[i].name) == 0)
			return &commands[i];
	}
	return NULL;
}

static int run_named(const char *name, int argc, char **argv)
{
	const struct command *command = find_command(name);

	if (command)
		return command->run(argc, argv);
	if (name[0] == '-')
		fprintf(stderr, "kaiso: unknown option '%s'; options follow a command, see `kaiso --help`\n",
			name);
	else
		fprintf(stderr, "kaiso: unknown command '%s'; `kaiso --help` lists the commands\n", name);
	return EXIT_USAGE;
}

/* "kaiso-NAME", a link to the program, is `kaiso NAME`. */
static int run_link(const char *program, int argc, char **argv)
{
	const struct command *command = find_command(program + strlen(LINK_PREFIX));

	if (command)
		return command->run(argc, argv);
	fprintf(stderr, "kaiso: %s is not part of version %s\n", program, KAISO_VERSION);
	return EXIT_RUNTIME;
}

static int run(int argc, char **argv)
{
	const char *program = argc > 0 ? basename(argv[0]) : "kaiso";

	if (strncmp(program, LINK_PREFIX, strlen(LINK_PREFIX)) == 0)
		return run_link(program, argc, argv);
	if (argc < 2) {
		print_usage(stderr);
		return EXIT_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
		print_usage(stdout);
		return 0;
	}
	if (strcmp(argv[1], "--version") == 0) {
		puts("kaiso " KAISO_VERSION);
		return 0;
	}
	if (argv[1][0] != '-' && strchr(argv[1], ':'))
		return cmd_serve(argc, argv);
	return run_named(argv[1], argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
	int status;

	fd_fill_standard_streams();
	upgrade_begin(argc, argv);
	status = run(argc, argv);
	/* Output that did not reach its reader (a full disk) is a failure. A reader that left early is not
	 * told. */
	if (fflush(stdout) != 0 && status == 0) {
		perror("kaiso: cannot write to standard output");
		status = EXIT_RUNTIME;
	}
	return status;
}
