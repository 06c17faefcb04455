/*
 * `kaiso connect --progress`: what goes through, on standard error while it is a terminal, and in a last line.
 */
#ifndef KAISO_CMD_CONNECT_METER_H
#define KAISO_CMD_CONNECT_METER_H

#include "cmd/stdio_relay.h"

/*
 * To be called before other threads are made: from now on SIGINT, SIGTERM, SIGHUP and SIGPIPE wait until the last line is
 * written. counts must live as long as the program. 0, or a negative errno, and then nothing is shown.
 */
int connect_meter_start(const struct stdio_relay_counts *counts);

/* Writes the last line. Signals that came meanwhile end the program here. Does nothing when none was started. */
void connect_meter_end(void);

#endif
