/*
 * What is to be told once for all threads: that something is so with a service name, and that it no longer is. Each
 * thread has its own answers, and notices by itself. Thread safe.
 */
#ifndef KAISO_NET_SRV_NOTES_H
#define KAISO_NET_SRV_NOTES_H

#include <stdbool.h>

enum srv_note { SRV_NOTE_AWAY, SRV_NOTE_CUT };

/* One more for whom it is so, or one who has no memory for that. Is it the first? */
bool srv_note_begin(enum srv_note note, const char *name);

/* One less. Was it the last? */
bool srv_note_end(enum srv_note note, const char *name);

#endif
