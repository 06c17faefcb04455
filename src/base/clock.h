/*
 * The clock that deadlines and durations are reckoned in.
 */
#ifndef KAISO_BASE_CLOCK_H
#define KAISO_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Microseconds since some moment in the past; never goes back
 * (CLOCK_MONOTONIC, clock_gettime(2)). Answered by the vDSO, no system call. */
static inline uint64_t clock_now_us(void)
{
	static _Thread_local struct timespec now; /* should it fail, the last answer counts */

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* The same in milliseconds. */
static inline uint64_t clock_now_ms(void)
{
	return clock_now_us() / 1000;
}

#endif
