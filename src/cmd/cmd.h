/*
 * The commands of the program: one function and one file each.
 */
#ifndef KAISO_CMD_CMD_H
#define KAISO_CMD_CMD_H

/* Exit statuses. */
#define EXIT_RUNTIME 1 /* what was asked for could not be done; a line on standard error says why */
#define EXIT_USAGE 2   /* the command line makes no sense */

/* Each takes the arguments with its own name as argv[0], and returns the exit status. */
int cmd_serve(int argc, char **argv);
int cmd_expose(int argc, char **argv);
int cmd_check(int argc, char **argv);

#endif
