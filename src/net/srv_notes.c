#include "net/srv_notes.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "base/macros.h"
#include "base/sandbox.h"

SANDBOX_CALLS("futex");

struct note {
	struct list link;
	enum srv_note kind;
	unsigned count;
	char name[];
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct list notes = { &notes, &notes }; /* guarded by it: few, and looked at when something changes */

static struct note *note_find(enum srv_note kind, const char *name)
{
	for (struct list *link = notes.next; link != &notes; link = link->next) {
		struct note *note = CONTAINER_OF(link, struct note, link);

		if (note->kind == kind && strcmp(note->name, name) == 0)
			return note;
	}
	return NULL;
}

static struct note *note_add(enum srv_note kind, const char *name)
{
	size_t size = strlen(name) + 1;
	struct note *note = calloc(1, sizeof(*note) + size);

	if (!note)
		return NULL;
	note->kind = kind;
	memcpy(note->name, name, size);
	list_append(&notes, &note->link);
	return note;
}

bool srv_note_begin(enum srv_note kind, const char *name)
{
	bool is_first = true;
	struct note *note;

	pthread_mutex_lock(&mutex);
	note = note_find(kind, name);
	if (!note)
		note = note_add(kind, name);
	if (note)
		is_first = note->count++ == 0;
	pthread_mutex_unlock(&mutex);
	return is_first;
}

bool srv_note_end(enum srv_note kind, const char *name)
{
	bool is_last = true;
	struct note *note;

	pthread_mutex_lock(&mutex);
	note = note_find(kind, name);
	if (note)
		is_last = --note->count == 0;
	if (note && is_last) {
		list_remove(&note->link);
		free(note);
	}
	pthread_mutex_unlock(&mutex);
	return is_last;
}
