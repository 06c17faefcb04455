/*
 * `kaiso inject`: from the command line to a program whose connections to a kaiso name a service.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "cmd/cmd.h"
#include "cmd/wrap.h"
#include "wrap/inject.h"

#define OPTION_MODE 256
#define OPTION_ROUTE 257
#define OPTION_VERSION 258

static const struct option options[] = {
	{ "mode", required_argument, NULL, OPTION_MODE },
	{ "route", required_argument, NULL, OPTION_ROUTE },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, OPTION_VERSION },
	{ 0 },
};

static void print_help(void)
{
	fputs("Usage: kaiso inject [OPTIONS] KAISO SERVICE [--] PROGRAM [ARGUMENT ...]\n"
	      "       kaiso inject [OPTIONS] kaiso://HOST[:PORT]/SERVICE [--] PROGRAM [ARGUMENT ...]\n"
	      "\n"
	      "Runs any client program so that its connections to the kaiso at KAISO name SERVICE:\n"
	      "the program behaves as if the service itself listened there. Connections to other\n"
	      "addresses are left alone.\n"
	      "\n"
	      "KAISO is HOST:PORT, an IPv6 address in brackets, port 37812 when none is given; a name\n"
	      "stands for all its addresses.\n"
	      "\n"
	      "Options:\n"
	      "  --route KAISO=SERVICE          one more kaiso, or the same one under another address;\n"
	      "                                 may stand several times\n"
	      "  --mode MODE                    how: seccomp (every program, also a static one),\n"
	      "                                 preload (only programs linked dynamically), or auto\n"
	      "                                 (default): seccomp where the system permits it\n"
	      "  --help                         print this help\n"
	      "  --version                      print the version\n"
	      "\n"
	      "Try it:  kaiso inject 127.0.0.1:37812 web curl http://127.0.0.1:37812/\n"
	      "\n"
	      "Exit status: the program's, and a signal that ends it ends kaiso the same way; 126 when\n"
	      "the program cannot be run or cannot be wrapped (32-bit, set-uid, static under preload),\n"
	      "127 when there is none, 1 when KAISO cannot be looked up, 2 for a wrong command line.\n",
	      stdout);
}

static int usage_error(const char *tool, const char *message)
{
	if (message)
		fprintf(stderr, "%s: %s\n", tool, message);
	fputs("Try `kaiso inject --help`.\n", stderr);
	return EXIT_USAGE;
}

/* -1, or the exit status after a line on standard error. service NULL: kaiso is a URL. */
static int add_route(struct routes *routes, const char *tool, const char *kaiso, const char *service)
{
	char reason[ROUTES_REASON_SIZE];
	int r = routes_add(routes, kaiso, service, reason);

	if (r == 0)
		return -1;
	fprintf(stderr, "%s: %s\n", tool, reason);
	return r == -EINVAL ? EXIT_USAGE : EXIT_RUNTIME;
}

/* "KAISO=SERVICE", or a URL, which may hold a '=' in its service. */
static int add_route_option(struct routes *routes, const char *tool, char *word)
{
	char *equals = strchr(word, '=');

	if (strncmp(word, "kaiso://", strlen("kaiso://")) == 0)
		return add_route(routes, tool, word, NULL);
	if (!equals)
		return usage_error(tool, "--route: expected KAISO=SERVICE");
	*equals = '\0';
	return add_route(routes, tool, word, equals + 1);
}

static int take_option(int chosen, struct routes *routes, struct wrap_plan *plan)
{
	if (chosen == 'h') {
		print_help();
		return 0;
	}
	if (chosen == OPTION_VERSION) {
		puts("kaiso " KAISO_VERSION);
		return 0;
	}
	if (chosen == OPTION_MODE)
		return wrap_plan_set_mode(plan, optarg) ? -1 : usage_error(plan->tool, NULL);
	if (chosen == OPTION_ROUTE)
		return add_route_option(routes, plan->tool, optarg);
	return usage_error(plan->tool, NULL);
}

/* KAISO SERVICE, or a URL, and then the program; a "--" may stand between. */
static int take_words(int count, char **words, struct routes *routes, struct wrap_plan *plan)
{
	bool is_url = count > 0 && strncmp(words[0], "kaiso://", strlen("kaiso://")) == 0;
	int taken = is_url ? 1 : 2;
	int status;

	if (count < taken)
		return usage_error(plan->tool, "expected KAISO SERVICE PROGRAM");
	status = add_route(routes, plan->tool, words[0], is_url ? NULL : words[1]);
	if (status >= 0)
		return status;
	if (count > taken && strcmp(words[taken], "--") == 0)
		taken++;
	if (count == taken)
		return usage_error(plan->tool, "expected a program to run");
	plan->program = words + taken;
	return -1;
}

/* Everything that the words say; -1 to go on. */
static int read_words(int argc, char **argv, struct routes *routes, struct wrap_plan *plan)
{
	static char name[] = "kaiso inject";
	int chosen, status = -1;

	argv[0] = name; /* getopt's own messages begin with it */
	optind = 0;
	while (status < 0 && (chosen = getopt_long(argc, argv, "+h", options, NULL)) != -1)
		status = take_option(chosen, routes, plan);
	return status < 0 ? take_words(argc - optind, argv + optind, routes, plan) : status;
}

/* One role, however many commands there are; the routes of inner ones go first. */
static int add_role(struct routes *routes, struct wrap_plan *plan)
{
	static struct inject inject;
	const char *outer = getenv(INJECT_VARIABLE);

	if (!inject.role.prepare) {
		inject_init(&inject);
		plan->roles[plan->role_count++] = &inject.role;
		/* The preload library of an inject around this one would add its lines as well: we take
		 * them over. */
		if (outer && routes_parse(&inject.routes, outer) < 0) {
			fprintf(stderr, "%s: $" INJECT_VARIABLE " is broken\n", plan->tool);
			return EXIT_RUNTIME;
		}
	}
	return routes_prepend(&inject.routes, routes) < 0 ? EXIT_RUNTIME : -1;
}

int inject_parse(int argc, char **argv, struct wrap_plan *plan)
{
	struct routes routes = { 0 };
	int status = read_words(argc, argv, &routes, plan);

	if (status < 0)
		status = add_role(&routes, plan);
	routes_free(&routes);
	return status;
}

int cmd_inject(int argc, char **argv)
{
	return wrap_main(argc, argv, "kaiso inject", inject_parse);
}
