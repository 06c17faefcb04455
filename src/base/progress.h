/*
 * How far something has come that moves bytes both ways, in one line for people. Numbers as quantity.h has them.
 *
 * Plain computing: who owns it says what time it is.
 */
#ifndef KAISO_BASE_PROGRESS_H
#define KAISO_BASE_PROGRESS_H

#include <stddef.h>
#include <stdint.h>

#define PROGRESS_INTERVAL_MS 250
#define PROGRESS_SAMPLES 9 /* rates are those of the last two seconds */
#define PROGRESS_LINE_SIZE 160

struct progress_sample {
	uint64_t at_ms; /* of clock_now_ms() */
	uint64_t sent;
	uint64_t received;
};

struct progress {
	struct progress_sample first;
	struct progress_sample samples[PROGRESS_SAMPLES]; /* a ring */
	size_t count;                                     /* of samples ever added */
};

/* first: what had been moved before. */
void progress_begin(struct progress *progress, struct progress_sample first);

/* How things stand now; to be called every PROGRESS_INTERVAL_MS. */
void progress_add(struct progress *progress, struct progress_sample sample);

/*
 * "1m05s  WHAT  sent 12M 3.1M/s  received 4.0K 340/s" as the last sample has it, what may be "". In fewer columns than
 * that takes the rates are left out, and then whole parts from the end on. Terminated, without a line's end.
 */
void progress_line(const struct progress *progress, const char *what, int columns,
		   char line[static PROGRESS_LINE_SIZE]);

/* "sent 12M (199K/s), received 4.0K (63/s) in 1m05s": all of it, with the mean of the rates. */
void progress_summary(const struct progress *progress, struct progress_sample last,
		      char line[static PROGRESS_LINE_SIZE]);

#endif
