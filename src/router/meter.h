/*
 * How much goes through a router, in a status line below its log (log.h), four times a second. For `kaiso expose
 * --progress`. Nothing is counted for it that is not counted anyway; where nobody would see the line, nothing is asked.
 */
#ifndef KAISO_ROUTER_METER_H
#define KAISO_ROUTER_METER_H

#include "router/report.h"

struct meter;

/* Draws on the first worker's loop from now on. NULL when out of memory. */
struct meter *meter_new(const struct report_source *source);

/* Once all threads have ended: the last line, which stays. */
void meter_finish(struct meter *meter);

/* NULL is taken. No report of the source may be under way any more (worker_do_jobs()). */
void meter_free(struct meter *meter);

#endif
