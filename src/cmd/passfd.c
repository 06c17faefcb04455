/*
 * `kaiso passfd`, and kaiso-passfd in the form of the first kaiso: words to a role.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/macros.h"
#include "cmd/cmd.h"
#include "cmd/wrap.h"
#include "wrap/passfd.h"
#include "wrap/passfd_trace.h"

#define TOOL "kaiso passfd"
#define LINK_TOOL "kaiso-passfd"

enum passfd_option { OPTION_LISTEN = 256, OPTION_NO_TCP, OPTION_MODE, OPTION_SILENCE };

static const struct option long_options[] = {
	{ "listen", required_argument, NULL, OPTION_LISTEN },
	{ "no-tcp", no_argument, NULL, OPTION_NO_TCP },
	{ "mode", required_argument, NULL, OPTION_MODE },
	{ "silence-timeout", required_argument, NULL, OPTION_SILENCE },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static void print_help(void)
{
	fputs("Usage: kaiso passfd [OPTIONS] SOCKET [--] PROGRAM [ARGUMENT ...]\n"
	      "       kaiso-passfd FD SOCKET PROGRAM [ARGUMENT ...]\n"
	      "\n"
	      "Runs a server so that it receives the clients' own sockets from a router, and bytes\n"
	      "no longer go through the router. Describe the service as\n"
	      "  SOCKET passfd\n"
	      "in the services directory. Clients of the program's own port are served as before.\n"
	      "\n"
	      "SOCKET is made by this command, replaces a stale one, and is removed when the\n"
	      "program ends. \"\" means: the program listens on a UNIX socket, and that is SOCKET.\n"
	      "\n"
	      "Options:\n"
	      "  --listen [ADDR:]PORT       which of the program's ports is the server's\n"
	      "                             (default: the first that it listens on)\n"
	      "  --no-tcp                   close the program's port: clients come by SOCKET only\n"
	      "  --mode MODE                seccomp (any program), preload (dynamic programs, less\n"
	      "                             overhead), or auto (default): seccomp where it is allowed\n"
	      "  --silence-timeout DURATION close connections on SOCKET that bring no client for so\n"
	      "                             long (default: 30s; 0: never)\n"
	      "  --help                     print this help\n"
	      "\n"
	      "kaiso-passfd takes what its first version took; FD is not needed any more. With FD 0\n"
	      "nothing is wrapped: each socket, bind and accept call is printed with its result.\n"
	      "\n"
	      "Exit status: the program's own; 126 when it cannot be wrapped, 127 when there is none.\n"
	      "\n"
	      "Try it:  kaiso passfd services/.web -- python3 -m http.server 8000 &\n"
	      "         echo '.web passfd' >services/web\n",
	      stdout);
}

static int usage_error(const char *tool)
{
	fprintf(stderr, "%s: `%s --help` tells how it is used\n", tool, tool);
	return EXIT_USAGE;
}

/* PORT, or ADDR:PORT with a numeric address; an empty ADDR is any. */
static int parse_listen(const char *word, struct receiver_options *options)
{
	const char *host;
	size_t host_length;
	uint64_t port;
	uint16_t split_port;

	if (args_parse_number(word, 1, UINT16_MAX, &port) == 0) {
		options->port = (uint16_t)port;
		return 0;
	}
	if (addr_split(word, 1, &host, &host_length, &split_port) < 0)
		return -EINVAL;
	if (host_length > 0 && addr_parse_numeric(host, host_length, split_port, &options->address) < 0)
		return -EINVAL;
	options->has_address = host_length > 0;
	options->port = split_port;
	return 0;
}

/* -1, or the exit status. */
static int take_option(int chosen, const char *word, struct receiver_options *options, struct wrap_plan *plan)
{
	switch (chosen) {
	case OPTION_LISTEN:
		if (parse_listen(word, options) == 0)
			return -1;
		fprintf(stderr,
			TOOL ": --listen '%s': must be a port, or an address and a port: 8000, [::1]:8000\n",
			word);
		return EXIT_USAGE;
	case OPTION_NO_TCP:
		options->refuses_plain = true;
		return -1;
	case OPTION_MODE:
		return wrap_plan_set_mode(plan, word) ? -1 : EXIT_USAGE;
	case OPTION_SILENCE:
		if (args_parse_duration_ms(word, &options->silence_ms) == 0)
			return -1;
		fprintf(stderr,
			TOOL ": --silence-timeout '%s': must be a number with a unit: 500ms, 10s, 5m, or 0\n",
			word);
		return EXIT_USAGE;
	case 'h':
		print_help();
		return 0;
	default: /* getopt_long() has told */
		return usage_error(TOOL);
	}
}

static int parse_options(int argc, char **argv, struct receiver_options *options, struct wrap_plan *plan)
{
	static char tool[] = TOOL;
	char *name = argv[0];
	int status = -1;
	int chosen;

	argv[0] = tool; /* begins getopt's own messages */
	optind = 0;     /* anew (getopt(3)): another command's words may have been read before */
	while (status < 0 && (chosen = getopt_long(argc, argv, "+h", long_options, NULL)) != -1)
		status = take_option(chosen, optarg, options, plan);
	argv[0] = name;
	return status;
}

static int check_program(const char *tool, char **words)
{
	if (words[0] != NULL && words[0][0] != '\0')
		return -1;
	fprintf(stderr, "%s: no program named\n", tool);
	return usage_error(tool);
}

/* FD SOCKET PROGRAM … */
static int parse_first_form(int argc, char **argv, struct receiver_options *options, struct wrap_plan *plan)
{
	uint64_t fd;

	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		print_help();
		return 0;
	}
	if (argc < 4 || args_parse_number(argv[1], 0, INT32_MAX, &fd) < 0) {
		fputs(LINK_TOOL ": expected FD SOCKET PROGRAM; FD is a number, and SOCKET may be \"\"\n",
		      stderr);
		return usage_error(LINK_TOOL);
	}
	options->socket_path = argv[2];
	plan->program = argv + 3;
	if (fd == 0)
		return trace_run(LINK_TOOL, plan->program);
	return check_program(LINK_TOOL, plan->program);
}

static int parse_form(int argc, char **argv, struct receiver_options *options, struct wrap_plan *plan)
{
	int status = parse_options(argc, argv, options, plan);

	if (status >= 0)
		return status;
	if (optind == argc) {
		fputs(TOOL ": no SOCKET named\n", stderr);
		return usage_error(TOOL);
	}
	options->socket_path = argv[optind++];
	if (optind < argc && strcmp(argv[optind], "--") == 0)
		optind++;
	plan->program = argv + optind;
	return check_program(TOOL, plan->program);
}

/* By that name, with or without a path. */
static bool is_called(const char *word, const char *name)
{
	const char *slash = strrchr(word, '/');

	return strcmp(slash ? slash + 1 : word, name) == 0;
}

int passfd_parse(int argc, char **argv, struct wrap_plan *plan)
{
	static struct passfd passfd;
	const bool is_first_form = is_called(argv[0], LINK_TOOL);
	int status;

	passfd_init(&passfd, is_first_form ? LINK_TOOL : TOOL);
	status = is_first_form ? parse_first_form(argc, argv, &passfd.options, plan) :
				 parse_form(argc, argv, &passfd.options, plan);
	if (status >= 0)
		return status;
	if (plan->role_count == SUPERVISOR_ROLES_MAX ||
	    (plan->role_count == 1 && plan->roles[0] == &passfd.role)) {
		fputs(TOOL ": it cannot be wrapped twice in the same way\n", stderr);
		return EXIT_USAGE;
	}
	plan->roles[plan->role_count++] = &passfd.role;
	return -1;
}

int cmd_passfd(int argc, char **argv)
{
	return wrap_main(argc, argv, is_called(argv[0], LINK_TOOL) ? LINK_TOOL : TOOL, passfd_parse);
}
