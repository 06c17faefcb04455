/*
 * The commands that run another program (inject, passfd), and one inside the other:
 * `kaiso passfd … -- kaiso inject … -- PROGRAM` is one plan with two roles, and one supervisor.
 */
#ifndef KAISO_CMD_WRAP_H
#define KAISO_CMD_WRAP_H

#include "wrap/wrapper.h"

/*
 * Each reads its own words (argv[0] is the command's name as called: "inject" or "kaiso-inject"), adds its
 * role (in static storage) to the plan (inject within inject adds its routes to the one role), agrees on
 * the mode by wrap_plan_set_mode(), and points plan->program at the words that are left. -1 to go on, else
 * the exit status: --help, or a usage error that has been told.
 */
int inject_parse(int argc, char **argv, struct wrap_plan *plan);
int passfd_parse(int argc, char **argv, struct wrap_plan *plan);

/* Runs parse, then the parsers of the commands of this executable that follow in the program's words, then
 * the program. The exit status. */
int wrap_main(int argc, char **argv, const char *tool, int (*parse)(int, char **, struct wrap_plan *));

/* Takes the word of --mode. False, after a line on standard error, for a word that is none, or a mode
 * that contradicts the one that the outer command asked for. */
bool wrap_plan_set_mode(struct wrap_plan *plan, const char *word);

#endif
