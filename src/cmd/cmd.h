/*
 * The commands of the program: one function and one file each.
 */
#ifndef KAISO_CMD_CMD_H
#define KAISO_CMD_CMD_H

/* Exit statuses. */
#define EXIT_RUNTIME 1 /* what was asked for could not be done; a line on standard error says why */
#define EXIT_USAGE 2   /* the command line makes no sense */
/* Of clients of a router, by what it answers: */
#define EXIT_NOT_FOUND 3   /* no such service, or directory */
#define EXIT_DENIED 4      /* there is one, but not for this client */
#define EXIT_UNAVAILABLE 5 /* it cannot be reached at the moment, or at all */

/* Each takes the arguments with its own name as argv[0], and returns the exit status. */
int cmd_serve(int argc, char **argv);
int cmd_expose(int argc, char **argv);
int cmd_ls(int argc, char **argv);
int cmd_connect(int argc, char **argv);
int cmd_inject(int argc, char **argv);
int cmd_passfd(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_mirror(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_close(int argc, char **argv);
int cmd_drain(int argc, char **argv);
int cmd_upgrade(int argc, char **argv);

#endif
