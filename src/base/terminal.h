/*
 * What a program has to know about a terminal before it writes there unasked.
 */
#ifndef KAISO_BASE_TERMINAL_H
#define KAISO_BASE_TERMINAL_H

#include <stdbool.h>

/* How wide it is at this moment, 80 where it does not tell; 0: fd is no terminal. One system call, which never waits. */
int terminal_columns(int fd);

/* False while another job is in the terminal's foreground: then the lines on it are somebody else's, and to write may
 * stop the process (tostop in stty(1)). A terminal that does not control this process is nobody's job's: true. */
bool terminal_is_ours(int fd);

#endif
