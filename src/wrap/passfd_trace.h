/*
 * Shows what a server does with sockets: the first kaiso's way to find the descriptor of its listener.
 */
#ifndef KAISO_WRAP_PASSFD_TRACE_H
#define KAISO_WRAP_PASSFD_TRACE_H

/*
 * Runs the program (words, NULL at the end) and writes a line on standard error for each socket, bind and
 * accept call of it and its descendants, with its result: "socket IPv4 TCP 0 = 3", "bind 3 = 0", "accept 3
 * = 4". Blocks until the program ends. Its exit status, 128 and the signal's number, 127, 126, or 1 when it
 * cannot be traced.
 */
int trace_run(const char *tool, char **program);

#endif
