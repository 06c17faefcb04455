/*
 * The router as a whole: workers, the lister, signals, start and end.
 */
#ifndef KAISO_ROUTER_SERVER_H
#define KAISO_ROUTER_SERVER_H

#include "net/listen.h"
#include "router/options.h"

/*
 * Runs a router on these listeners until it is told to end (SIGTERM, SIGINT). The calling thread becomes
 * the first worker. Both arguments are borrowed; the listeners are shut by then, but for listen_set_close().
 * SIGTERM, SIGINT, SIGHUP are blocked from then on and read from a signalfd(2); SIGPIPE is ignored.
 * Returns the exit status: 0, or 1 after a line in the log that says what went wrong.
 */
int server_run(const struct router_options *options, struct listen_set *listeners);

/* How many sessions there may be with this many descriptors, when the operator does not say. */
uint64_t server_default_sessions(uint64_t descriptors, unsigned threads, unsigned max_pipes);

#endif
