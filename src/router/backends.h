/*
 * The targets of services that have several, and the sessions of services that are limited: in which order
 * a new client tries the targets, which of them are left out because they failed, and how many sessions
 * each has. Shared by all threads; thread safe, and waits for nothing but its own mutex.
 *
 * A target is known by its text, a group (a service) by its path: whoever names the same gets the same.
 * Both are remembered while they have references or sessions; targets that failed, of those without any,
 * up to BACKENDS_IDLE_MAX. Times are clock_now_ms()'s.
 *
 * Health is passive: a target that failed is left out for 1 s, twice as long each time that it fails again, up to
 * 60 s, each pause up to an eighth shorter by chance. When that time is over, one client whose first choice it would
 * be tries it (its trial); what comes of that decides for the others.
 */
#ifndef KAISO_ROUTER_BACKENDS_H
#define KAISO_ROUTER_BACKENDS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "proto/options.h"

#define BACKENDS_BUCKETS 2048
#define BACKENDS_IDLE_MAX 4096 /* failed targets without reference and session; the oldest are forgotten */
#define BACKENDS_PAUSE_MIN_MS 1000
#define BACKENDS_PAUSE_MAX_MS 60000

struct backend;       /* a target */
struct backend_group; /* a service */
struct backends_entry;

struct backends {
	pthread_mutex_t mutex; /* guards all that follows, and all targets and groups */
	struct backends_entry *targets[BACKENDS_BUCKETS];
	struct backends_entry *groups[BACKENDS_BUCKETS];
	struct list idle; /* of the targets, oldest first */
	size_t idle_count;
	size_t entry_count; /* targets and groups in all */
	uint64_t random;
};

void backends_init(struct backends *backends);

/* Nobody may use a target or a group any more. */
void backends_deinit(struct backends *backends);

/* The target of that text, the group of that path, with one reference more; NULL when out of memory. The bytes are
 * copied. */
struct backend *backends_get(struct backends *backends, const char *target, size_t length);
struct backend_group *backends_group(struct backends *backends, const char *path, size_t length);

/* Gives a reference back; NULL is allowed. Whoever has none any more may still end the sessions that it began, and do
 * nothing else; a trial is over with the last reference. */
void backend_unref(struct backend *backend);
void backends_group_unref(struct backend_group *group);

/*
 * In which order a new client tries its targets: order[] gets the numbers 0 to count - 1 (count may be 0).
 *   BALANCE_FIRST           as they are given
 *   BALANCE_ROUND_ROBIN     as they are given, but beginning with the next one for each client
 *   BALANCE_LEAST_SESSIONS  fewest sessions first; those that have equally few take turns
 * Those that are left out come last, the one first that may be tried again soonest.
 *
 * client is any address but NULL that tells the new client from others at the same time; it is only compared. When the
 * client is the trial of order[0], that target is returned, else NULL: until the client says by one of the functions
 * below what came of it, the target stays left out for all others.
 */
struct backend *backends_order(struct backend_group *group, enum balance balance,
			       struct backend *const targets[], size_t count, const void *client,
			       uint64_t now_ms, size_t order[]);

/* Has it failed, so that this client is not among those that may try it now? */
bool backend_is_left_out(struct backend *backend, const void *client, uint64_t now_ms);

/* A connection to the target stands: it is no longer left out. True: it was. */
bool backend_succeeded(struct backend *backend);

/* The target refused, or did not answer in time. For how many milliseconds it is left out from now on; 0: this
 * failure changes nothing, since it is left out by an earlier one and its time is not over. */
uint64_t backend_failed(struct backend *backend, const void *client, uint64_t now_ms);

/* The client will not try the target any more: another one answered, or the client is gone. Its trial, if
 * it is one, passes to the next; harmless if not. */
void backend_untried(struct backend *backend, const void *client);

/* A session that is on its way to the target or established. Best begun before the connection is, so that clients at
 * the same time see each other; each that began must end. */
void backend_begin_session(struct backend *backend);
void backend_end_session(struct backend *backend);

/* A session of the service; false: it has max_sessions already (0: no limit). Each that began must end. */
bool backends_group_begin(struct backend_group *group, uint64_t max_sessions);
void backends_group_end(struct backend_group *group);

#endif
