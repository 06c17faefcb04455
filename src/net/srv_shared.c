#include "net/srv_shared.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "base/macros.h"
#include "base/sandbox.h"

SANDBOX_CALLS("futex");

struct srv_shared {
	struct list link;
	unsigned users;
	unsigned notes[SRV_NOTE_COUNT]; /* for how many it is so */
	struct srv_answer *answer;
	char name[];
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct list names = { &names, &names }; /* guarded by it, with all that is in it */

static struct srv_shared *shared_find(const char *name)
{
	for (struct list *link = names.next; link != &names; link = link->next) {
		struct srv_shared *shared = CONTAINER_OF(link, struct srv_shared, link);

		if (strcmp(shared->name, name) == 0)
			return shared;
	}
	return NULL;
}

static struct srv_shared *shared_add(const char *name)
{
	size_t size = strlen(name) + 1;
	struct srv_shared *shared = calloc(1, sizeof(*shared) + size);

	if (!shared)
		return NULL;
	memcpy(shared->name, name, size);
	list_append(&names, &shared->link);
	return shared;
}

struct srv_shared *srv_shared_get(const char *name)
{
	struct srv_shared *shared;

	pthread_mutex_lock(&mutex);
	shared = shared_find(name);
	if (!shared)
		shared = shared_add(name);
	if (shared)
		shared->users++;
	pthread_mutex_unlock(&mutex);
	return shared;
}

void srv_shared_put(struct srv_shared *shared)
{
	bool is_last;

	pthread_mutex_lock(&mutex);
	is_last = --shared->users == 0;
	if (is_last)
		list_remove(&shared->link);
	pthread_mutex_unlock(&mutex);
	if (!is_last)
		return;
	srv_answer_unref(shared->answer);
	free(shared);
}

void srv_shared_set_answer(struct srv_shared *shared, struct srv_answer *answer)
{
	struct srv_answer *old;

	if (answer)
		srv_answer_ref(answer);
	pthread_mutex_lock(&mutex);
	old = shared->answer;
	shared->answer = answer;
	pthread_mutex_unlock(&mutex);
	srv_answer_unref(old);
}

struct srv_answer *srv_shared_answer(struct srv_shared *shared)
{
	struct srv_answer *answer;

	pthread_mutex_lock(&mutex);
	answer = shared->answer;
	if (answer)
		srv_answer_ref(answer);
	pthread_mutex_unlock(&mutex);
	return answer;
}

bool srv_shared_note_begin(struct srv_shared *shared, enum srv_note note)
{
	bool is_first;

	pthread_mutex_lock(&mutex);
	is_first = shared->notes[note]++ == 0;
	pthread_mutex_unlock(&mutex);
	return is_first;
}

bool srv_shared_note_end(struct srv_shared *shared, enum srv_note note)
{
	bool is_last;

	pthread_mutex_lock(&mutex);
	is_last = --shared->notes[note] == 0;
	pthread_mutex_unlock(&mutex);
	return is_last;
}
