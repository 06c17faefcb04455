/*
 * What the threads share of a service name, each of which asks for itself: the last good answer of any of them, so that
 * none is without while DNS is away; and what the log is to tell once for all. Thread safe.
 */
#ifndef KAISO_NET_SRV_SHARED_H
#define KAISO_NET_SRV_SHARED_H

#include <stdbool.h>

#include "net/srv.h"

enum srv_note { SRV_NOTE_AWAY, SRV_NOTE_CUT };
#define SRV_NOTE_COUNT (SRV_NOTE_CUT + 1)

struct srv_shared;

/* Of a name; for as long as anybody has it. NULL when out of memory. */
struct srv_shared *srv_shared_get(const char *name);
void srv_shared_put(struct srv_shared *shared);

/* The answer is the last good one from now on (one reference more); NULL: there is no such service. */
void srv_shared_set_answer(struct srv_shared *shared, struct srv_answer *answer);

/* The last good one with a reference, or NULL. */
struct srv_answer *srv_shared_answer(struct srv_shared *shared);

/* One more for whom it is so. Is it the first? */
bool srv_shared_note_begin(struct srv_shared *shared, enum srv_note note);

/* One less. Was it the last? */
bool srv_shared_note_end(struct srv_shared *shared, enum srv_note note);

#endif
