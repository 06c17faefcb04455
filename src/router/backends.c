/*
 * Theory of operation: two hash tables under one mutex, of the targets and of the services. An entry lives
 * while anybody holds it. A target that failed stays for a while after that, in the list of the idle, so that a service
 * that is forgotten between two clients does not forget which of its targets are dead.
 *
 * A target is well (failures is 0), or left out until retry_ms. What is over is no change of state: a target whose
 * time is over is still left out, but for the one client that becomes its trial (trial_of). Only the client's own word
 * or a success ends a trial, so that a word that comes late cannot end the trial of somebody else.
 *
 * A group's turn begins by chance: routers that start together, and services that are forgotten after each
 * client, would begin with the same target otherwise.
 */
#include "router/backends.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/macros.h"

struct backends_entry {
	struct backends *backends;
	struct backends_entry **bucket;
	struct backends_entry *next;
	uint64_t references;
	uint64_t sessions;
	const char *key; /* behind the struct that this is the head of */
	size_t key_length;
};

struct backend {
	struct backends_entry entry;
	struct list idle;
	unsigned failures; /* in a row; 0 when it is well */
	uint64_t retry_ms;
	const void *trial_of; /* a client; NULL: nobody tries it */
};

struct backend_group {
	struct backends_entry entry;
	uint64_t turn;
};

void backends_init(struct backends *backends)
{
	*backends = (struct backends){ .random = clock_now_us() };
	pthread_mutex_init(&backends->mutex, NULL);
	list_init(&backends->idle);
}

static void entry_free(struct backends_entry *entry)
{
	struct backends_entry **link = entry->bucket;

	while (*link != entry)
		link = &(*link)->next;
	*link = entry->next;
	entry->backends->entry_count--;
	free(entry);
}

void backends_deinit(struct backends *backends)
{
	for (size_t i = 0; i < BACKENDS_BUCKETS; i++) {
		while (backends->targets[i])
			entry_free(backends->targets[i]);
		while (backends->groups[i])
			entry_free(backends->groups[i]);
	}
	pthread_mutex_destroy(&backends->mutex);
}

/* Knuth's linear congruence (MMIX): nothing here is a secret. */
static uint64_t backends_random(struct backends *backends)
{
	backends->random = backends->random * 6364136223846793005u + 1442695040888963407u;
	return backends->random >> 33;
}

/* ---- entries -------------------------------------------------------------------------------------- */

/* size is that of the struct whose head an entry is; all of it is zero in a new one. NULL when out of memory. */
static struct backends_entry *entry_find(struct backends *backends, struct backends_entry *table[],
					 const char *key, size_t length, size_t size)
{
	struct backends_entry **bucket = &table[(hash_bytes(key, length) >> 32) % BACKENDS_BUCKETS];
	struct backends_entry *entry;

	for (entry = *bucket; entry; entry = entry->next) {
		if (entry->key_length == length && memcmp(entry->key, key, length) == 0)
			return entry;
	}
	entry = calloc(1, size + length);
	if (!entry)
		return NULL;
	memcpy((char *)entry + size, key, length);
	*entry = (struct backends_entry){ .backends = backends, .bucket = bucket, .next = *bucket };
	entry->key = (char *)entry + size;
	entry->key_length = length;
	*bucket = entry;
	backends->entry_count++;
	return entry;
}

static void entry_lock(struct backends_entry *entry)
{
	pthread_mutex_lock(&entry->backends->mutex);
}

static bool entry_is_used(const struct backends_entry *entry)
{
	return entry->references > 0 || entry->sessions > 0;
}

struct backend *backends_get(struct backends *backends, const char *target, size_t length)
{
	struct backend *backend;

	pthread_mutex_lock(&backends->mutex);
	backend = (struct backend *)entry_find(backends, backends->targets, target, length, sizeof(*backend));
	if (backend) {
		if (!entry_is_used(&backend->entry) && backend->failures > 0) { /* it was idle */
			list_remove(&backend->idle);
			backends->idle_count--;
		}
		backend->entry.references++;
	}
	pthread_mutex_unlock(&backends->mutex);
	return backend;
}

struct backend_group *backends_group(struct backends *backends, const char *path, size_t length)
{
	struct backend_group *group;

	pthread_mutex_lock(&backends->mutex);
	group = (struct backend_group *)entry_find(backends, backends->groups, path, length, sizeof(*group));
	if (group) {
		if (!entry_is_used(&group->entry)) /* new */
			group->turn = backends_random(backends);
		group->entry.references++;
	}
	pthread_mutex_unlock(&backends->mutex);
	return group;
}

/* Nobody holds the target any more, nor is its trial. */
static void backend_rest(struct backend *backend)
{
	struct backends *backends = backend->entry.backends;
	struct backend *oldest;

	if (backend->failures == 0) {
		entry_free(&backend->entry);
		return;
	}
	backend->trial_of = NULL;
	list_append(&backends->idle, &backend->idle);
	if (++backends->idle_count <= BACKENDS_IDLE_MAX)
		return;
	oldest = CONTAINER_OF(backends->idle.next, struct backend, idle);
	list_remove(&oldest->idle);
	backends->idle_count--;
	entry_free(&oldest->entry);
}

/* One less of its references or sessions; the mutex is taken here. */
static void backend_release(struct backend *backend, uint64_t *count)
{
	struct backends *backends = backend->entry.backends;

	entry_lock(&backend->entry);
	(*count)--;
	if (!entry_is_used(&backend->entry))
		backend_rest(backend);
	pthread_mutex_unlock(&backends->mutex);
}

static void group_release(struct backend_group *group, uint64_t *count)
{
	struct backends *backends = group->entry.backends;

	entry_lock(&group->entry);
	(*count)--;
	if (!entry_is_used(&group->entry))
		entry_free(&group->entry);
	pthread_mutex_unlock(&backends->mutex);
}

void backend_unref(struct backend *backend)
{
	if (backend)
		backend_release(backend, &backend->entry.references);
}

void backends_group_unref(struct backend_group *group)
{
	if (group)
		group_release(group, &group->entry.references);
}

/* ---- the order of targets ------------------------------------------------------------------------- */

static bool backend_is_candidate(const struct backend *backend, uint64_t now_ms)
{
	return backend->failures == 0 || (now_ms >= backend->retry_ms && !backend->trial_of);
}

bool backend_is_left_out(struct backend *backend, const void *client, uint64_t now_ms)
{
	bool is_left_out;

	entry_lock(&backend->entry);
	is_left_out = !backend_is_candidate(backend, now_ms) && backend->trial_of != client;
	pthread_mutex_unlock(&backend->entry.backends->mutex);
	return is_left_out;
}

static uint64_t rank_by_sessions(const struct backend *backend)
{
	return backend->entry.sessions;
}

/* The well ones before all others. */
static uint64_t rank_by_retry(const struct backend *backend)
{
	return backend->failures == 0 ? 0 : backend->retry_ms;
}

/* By insertion: stable, and there are few. */
static void order_sort(size_t order[], size_t count, struct backend *const targets[],
		       uint64_t (*rank)(const struct backend *backend))
{
	for (size_t i = 1; i < count; i++) {
		size_t moving = order[i], place = i;

		for (; place > 0 && rank(targets[order[place - 1]]) > rank(targets[moving]); place--)
			order[place] = order[place - 1];
		order[place] = moving;
	}
}

/* The candidates first, all as they are given. How many candidates there are. */
static size_t order_candidates(struct backend *const targets[], size_t count, uint64_t now_ms, size_t order[])
{
	size_t candidates = 0, placed;

	for (size_t i = 0; i < count; i++) {
		if (backend_is_candidate(targets[i], now_ms))
			order[candidates++] = i;
	}
	placed = candidates;
	for (size_t i = 0; i < count; i++) {
		if (!backend_is_candidate(targets[i], now_ms))
			order[placed++] = i;
	}
	return candidates;
}

static void order_rotate(size_t order[], size_t count, uint64_t steps)
{
	while (steps-- > 0) {
		size_t first = order[0];

		memmove(order, order + 1, (count - 1) * sizeof(order[0]));
		order[count - 1] = first;
	}
}

/* The turn goes among those alone that are equally good: one that is left out would leave its share to its
 * neighbour otherwise. */
static void order_balance(struct backend_group *group, enum balance balance, struct backend *const targets[],
			  size_t order[], size_t candidates)
{
	size_t equals = candidates;

	if (balance == BALANCE_FIRST || candidates == 0)
		return;
	if (balance == BALANCE_LEAST_SESSIONS) {
		order_sort(order, candidates, targets, rank_by_sessions);
		equals = 1;
		while (equals < candidates &&
		       rank_by_sessions(targets[order[equals]]) == rank_by_sessions(targets[order[0]]))
			equals++;
	}
	order_rotate(order, equals, group->turn++ % equals);
}

struct backend *backends_order(struct backend_group *group, enum balance balance,
			       struct backend *const targets[], size_t count, const void *client,
			       uint64_t now_ms, size_t order[])
{
	struct backend *trial = NULL;
	size_t candidates, chosen;

	entry_lock(&group->entry);
	candidates = order_candidates(targets, count, now_ms, order);
	order_balance(group, balance, targets, order, candidates);
	chosen = candidates > 0 ? 1 : 0;
	if (chosen && targets[order[0]]->failures > 0) {
		trial = targets[order[0]];
		trial->trial_of = client;
	}
	order_sort(order + chosen, count - chosen, targets, rank_by_retry);
	pthread_mutex_unlock(&group->entry.backends->mutex);
	return trial;
}

/* ---- what came of it ------------------------------------------------------------------------------ */

bool backend_succeeded(struct backend *backend)
{
	bool was_left_out;

	entry_lock(&backend->entry);
	was_left_out = backend->failures > 0;
	backend->failures = 0;
	backend->trial_of = NULL;
	pthread_mutex_unlock(&backend->entry.backends->mutex);
	return was_left_out;
}

/* A little less by chance: targets that failed together are not tried together. */
static uint64_t pause_ms(struct backends *backends, unsigned failures)
{
	uint64_t pause_ms = BACKENDS_PAUSE_MIN_MS;

	while (--failures > 0 && pause_ms < BACKENDS_PAUSE_MAX_MS)
		pause_ms *= 2;
	pause_ms = MIN(pause_ms, BACKENDS_PAUSE_MAX_MS);
	return pause_ms - backends_random(backends) % (pause_ms / 8);
}

uint64_t backend_failed(struct backend *backend, const void *client, uint64_t now_ms)
{
	uint64_t left_out_ms = 0;

	entry_lock(&backend->entry);
	if (backend->trial_of == client)
		backend->trial_of = NULL;
	if (backend->failures == 0 || now_ms >= backend->retry_ms) {
		left_out_ms = pause_ms(backend->entry.backends, ++backend->failures);
		backend->retry_ms = now_ms + left_out_ms;
	}
	pthread_mutex_unlock(&backend->entry.backends->mutex);
	return left_out_ms;
}

void backend_untried(struct backend *backend, const void *client)
{
	entry_lock(&backend->entry);
	if (backend->trial_of == client)
		backend->trial_of = NULL;
	pthread_mutex_unlock(&backend->entry.backends->mutex);
}

/* ---- sessions ------------------------------------------------------------------------------------- */

void backend_begin_session(struct backend *backend)
{
	entry_lock(&backend->entry);
	backend->entry.sessions++;
	pthread_mutex_unlock(&backend->entry.backends->mutex);
}

void backend_end_session(struct backend *backend)
{
	backend_release(backend, &backend->entry.sessions);
}

bool backends_group_begin(struct backend_group *group, uint64_t max_sessions)
{
	bool may_begin;

	entry_lock(&group->entry);
	may_begin = max_sessions == 0 || group->entry.sessions < max_sessions;
	if (may_begin)
		group->entry.sessions++;
	pthread_mutex_unlock(&group->entry.backends->mutex);
	return may_begin;
}

void backends_group_end(struct backend_group *group)
{
	group_release(group, &group->entry.sessions);
}
