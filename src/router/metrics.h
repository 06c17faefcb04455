/*
 * A report as Prometheus reads it: the text format, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats).
 *
 * Counters never fall, not by an upgrade either; when that was, process_start_time_seconds tells. There are as many values by service as STATS_SERVICES_MAX permits, whatever
 * clients ask for: only services that were found have any.
 */
#ifndef KAISO_ROUTER_METRICS_H
#define KAISO_ROUTER_METRICS_H

#include <stddef.h>
#include <stdio.h>

#include "router/report.h"

#define METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* Of malloc(3), terminated; NULL when out of memory. */
char *metrics_of_report(const struct report *report, size_t *length);

/* Any bytes as a label's value, without the quotes around it: control characters and bytes that are no UTF-8 as \xHH,
 * and the backslash of it doubled, as is every other. */
void metrics_write_label(FILE *stream, const char *text, size_t length);

#endif
