/*
 * Tells a service manager how the program fares: sd_notify(3) without libsystemd.
 */
#ifndef KAISO_BASE_NOTIFY_H
#define KAISO_BASE_NOTIFY_H

#include <stdint.h>

/*
 * Sends state ("READY=1", "STOPPING=1", lines separated by LF) to
 * $NOTIFY_SOCKET, an absolute path or an abstract "@name", of at most 108
 * bytes. Does not block.
 *
 * 0 when sent, or when the variable is not set or empty; else a negative
 * errno: -EAFNOSUPPORT for any other form of address, -ENAMETOOLONG, -EAGAIN
 * when the manager's queue is full, or what sendto(2) says.
 */
int notify_send(const char *state);

/*
 * How often at least the manager wants to hear "WATCHDOG=1", in milliseconds, rounded down but at least 1: from
 * $WATCHDOG_USEC, when $WATCHDOG_PID names this process or nobody. 0: it does not, or the variables make no sense.
 */
uint64_t notify_watchdog_ms(void);

#endif
