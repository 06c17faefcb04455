/*
 * A name is fresh while its last answer, or the last refusal, holds; then whoever asks is told by the next task. Else a
 * look-up is begun, unless one is under way, which all who ask for the name wait for. Who could have an expired answer
 * waits for STALE_WAIT_MS of the look-up and is then told that; and does not wait at all while look-ups fail.
 *
 * An answer in use is refreshed when three quarters of its time are over: by a timer when somebody has asked for it since
 * it came, else when somebody does. After a failure the timer goes on trying for as long as there is an earlier answer,
 * at growing intervals, so that the log tells the end of it. The one timer of a name is for the look-up under way, if
 * there is one, else for the next.
 */
#include "net/srv.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/list.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/sandbox.h"
#include "net/srv_lookup.h"
#include "net/srv_shared.h"

SANDBOX_CALLS("getrandom");

#define STALE_WAIT_MS 1000
#define NONE_MS \
	1000 /* for how long there is no such service, or DNS has failed with no earlier answer (RFC 9520) */
#define RETRY_MIN_MS 1000
#define RETRY_MAX_MS 30000
#define FAILING_MS \
	(2 * RETRY_MAX_MS) /* so long after a failure nobody waits for whether the next one comes */

struct srv_cache {
	struct srv_place place;
	struct list names; /* struct cached, from the one asked for last to the one asked for longest ago */
	size_t count;
	struct list answered; /* queries to be told */
	struct loop_task deliver_task;
	struct loop_task free_task;
	uint64_t random;
};

struct cached {
	struct list link;
	struct srv_cache *cache;
	struct srv_shared *shared;
	struct srv_answer *answer; /* the last good one, or NULL */
	uint64_t fresh_until_ms;   /* the answer is, or the error where it is not 0 */
	uint64_t refresh_ms;       /* when to look it up again */
	uint64_t failed_ms;        /* when the last look-up failed */
	unsigned failures;         /* in a row */
	int error;                 /* of the last look-up */
	bool is_asked;             /* since it ended */
	bool is_away, is_cut;      /* told by notes */
	struct loop_timer timer;
	struct srv_lookup *lookup; /* under way */
	uint64_t begun_ms;         /* when it was */
	struct list queries;       /* that wait for it */
	char name[];
};

struct srv_query {
	struct list link; /* of the name that it waits for, then of those to be told */
	srv_done done;
	void *context;
	int error;
	struct srv_answer *answer;
};

/* ---- answers ----------------------------------------------------------------------------------------- */

void srv_answer_ref(struct srv_answer *answer)
{
	answer->references++;
}

void srv_answer_unref(struct srv_answer *answer)
{
	if (answer && atomic_fetch_sub(&answer->references, 1) == 1)
		free(answer);
}

/* splitmix64: enough for a draw, and the same everywhere. */
static uint64_t random_next(uint64_t *random)
{
	uint64_t mixed = *random += 0x9e3779b97f4a7c15;

	mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
	mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
	return mixed ^ (mixed >> 31);
}

/* From 0 to below bound, which is small beside 2^32. */
static uint32_t random_below(uint64_t *random, uint32_t bound)
{
	return (uint32_t)((random_next(random) >> 32) * bound >> 32);
}

/*
 * One of the targets that order names from begin to end; where in it. The draw goes from 0 to the sum of their weights;
 * the first one counts that brings the running sum to it, those of weight 0 being first: they have a very small chance
 * beside others, and in which of them a draw of 0 ends is open.
 */
static size_t order_draw(const struct srv_answer *answer, uint64_t *random, const uint8_t *order,
			 size_t begin, size_t end)
{
	uint32_t sum = 0, draw;
	size_t zeros = 0;

	for (size_t i = begin; i < end; i++) {
		sum += answer->targets[order[i]].weight;
		zeros += answer->targets[order[i]].weight == 0;
	}
	draw = random_below(random, sum + 1);
	if (draw == 0 && zeros > 0)
		return begin + random_below(random, (uint32_t)zeros); /* they are the first */
	sum = 0;
	for (size_t i = begin; i < end; i++) {
		uint16_t weight = answer->targets[order[i]].weight;

		sum += weight;
		if (weight > 0 && sum >= draw)
			return i;
	}
	return begin; /* not reached */
}

/* Draws until all from begin to end have their place; those not drawn yet stay in order of their weight. */
static void order_draw_all(const struct srv_answer *answer, uint64_t *random, uint8_t *order, size_t begin,
			   size_t end)
{
	for (; begin + 1 < end; begin++) {
		size_t drawn = order_draw(answer, random, order, begin, end);
		uint8_t target = order[drawn];

		memmove(order + begin + 1, order + begin, drawn - begin);
		order[begin] = target;
	}
}

void srv_order(const struct srv_answer *answer, uint64_t *random, uint8_t order[static SRV_TARGETS_MAX])
{
	size_t begin = 0;

	for (size_t i = 0; i < answer->count; i++)
		order[i] = (uint8_t)i;
	while (begin < answer->count) {
		size_t end = begin + 1;

		while (end < answer->count &&
		       answer->targets[end].priority == answer->targets[begin].priority)
			end++;
		order_draw_all(answer, random, order, begin, end);
		begin = end;
	}
}

/* ---- telling ----------------------------------------------------------------------------------------- */

static void query_free(struct srv_query *query)
{
	list_remove(&query->link);
	srv_answer_unref(query->answer);
	free(query);
}

void srv_cancel(struct srv_query *query)
{
	query_free(query);
}

/* One that is told may cancel others, and ask anew: that is for the next round. */
static void cache_deliver(struct loop_task *task)
{
	struct srv_cache *cache = CONTAINER_OF(task, struct srv_cache, deliver_task);
	struct list told;

	list_init(&told);
	list_splice(&told, &cache->answered);
	while (!list_is_empty(&told)) {
		struct srv_query *query = CONTAINER_OF(told.next, struct srv_query, link);

		list_remove(&query->link);
		query->done(query->context, query->error, query->answer);
		query_free(query);
	}
}

/* Has the query told, by the next task, this answer, or that there is none. */
static void query_answer(struct srv_cache *cache, struct srv_query *query, int error,
			 struct srv_answer *answer)
{
	list_remove(&query->link);
	list_append(&cache->answered, &query->link);
	query->error = answer ? 0 : error;
	query->answer = answer;
	if (answer)
		srv_answer_ref(answer);
	loop_defer(cache->place.loop, &cache->deliver_task);
}

static void cached_answer_all(struct cached *cached, int error, struct srv_answer *answer)
{
	while (!list_is_empty(&cached->queries))
		query_answer(cached->cache, CONTAINER_OF(cached->queries.next, struct srv_query, link), error,
			     answer);
}

/* ---- what the log tells ------------------------------------------------------------------------------- */

static void cached_log(const struct cached *cached, enum log_level level, const char *message, int error)
{
	struct log_line line;

	log_begin(&line, level, message);
	log_add_string(&line, "name", cached->name);
	if (error < 0)
		log_add_string(&line, "error", strerror(-error));
	log_end(&line);
}

static void cached_note_away(struct cached *cached, bool is_away)
{
	if (is_away == cached->is_away)
		return;
	cached->is_away = is_away;
	if (is_away && srv_shared_note_begin(cached->shared, SRV_NOTE_AWAY))
		cached_log(cached, LOG_LEVEL_WARNING,
			   "service name cannot be looked up; its last answer goes on", cached->error);
	if (!is_away && srv_shared_note_end(cached->shared, SRV_NOTE_AWAY))
		cached_log(cached, LOG_LEVEL_INFO, "service name can be looked up again", 0);
}

static void cached_note_cut(struct cached *cached, bool is_cut)
{
	if (is_cut == cached->is_cut)
		return;
	cached->is_cut = is_cut;
	if (is_cut && srv_shared_note_begin(cached->shared, SRV_NOTE_CUT))
		cached_log(cached, LOG_LEVEL_WARNING,
			   "service name has too many targets; the last ones are left out", 0);
	if (!is_cut)
		srv_shared_note_end(cached->shared, SRV_NOTE_CUT);
}

/* ---- names ------------------------------------------------------------------------------------------- */

/* Nobody waits for it any more. */
static void cached_free(struct cached *cached)
{
	list_remove(&cached->link);
	cached->cache->count--;
	loop_timer_cancel(cached->cache->place.loop, &cached->timer);
	if (cached->lookup)
		srv_lookup_abandon(cached->lookup);
	if (cached->is_away)
		srv_shared_note_end(cached->shared, SRV_NOTE_AWAY);
	if (cached->is_cut)
		srv_shared_note_end(cached->shared, SRV_NOTE_CUT);
	srv_shared_put(cached->shared);
	srv_answer_unref(cached->answer);
	free(cached);
}

/* Names that are being looked up stay, however many they are. */
static void cache_make_room(struct srv_cache *cache)
{
	struct list *link = cache->names.previous;

	while (cache->count >= SRV_NAMES_MAX && link != &cache->names) {
		struct cached *cached = CONTAINER_OF(link, struct cached, link);

		link = link->previous;
		if (!cached->lookup)
			cached_free(cached);
	}
}

static void cached_on_timer(struct loop_timer *timer);

static struct cached *cached_new(struct srv_cache *cache, const char *name)
{
	size_t size = strlen(name) + 1;
	struct cached *cached = calloc(1, sizeof(*cached) + size);

	if (!cached)
		return NULL;
	cached->shared = srv_shared_get(name);
	if (!cached->shared) {
		free(cached);
		return NULL;
	}
	cache_make_room(cache);
	cached->cache = cache;
	cached->timer.on_expire = cached_on_timer;
	list_init(&cached->link);
	list_init(&cached->queries);
	memcpy(cached->name, name, size);
	cache->count++;
	return cached;
}

/* Found or made, and first in the list. */
static struct cached *cache_get(struct srv_cache *cache, const char *name)
{
	struct list *link = cache->names.next;
	struct cached *cached;

	while (link != &cache->names && strcmp(CONTAINER_OF(link, struct cached, link)->name, name) != 0)
		link = link->next;
	cached = link != &cache->names ? CONTAINER_OF(link, struct cached, link) : cached_new(cache, name);
	if (!cached)
		return NULL;
	list_remove(&cached->link);
	list_append(cache->names.next, &cached->link); /* a list's place before its first member */
	return cached;
}

/* ---- look-ups ---------------------------------------------------------------------------------------- */

static void cached_on_looked_up(void *context, const struct srv_outcome *outcome);

/* A timer that there is no memory for is made up for by whoever asks next. */
static void cached_set_timer(struct cached *cached, uint64_t at_ms)
{
	loop_timer_set(cached->cache->place.loop, &cached->timer, at_ms);
}

/* Another thread may have asked later than this one. */
static void cached_take_shared(struct cached *cached)
{
	struct srv_answer *answer = srv_shared_answer(cached->shared);

	if (!answer)
		return;
	srv_answer_unref(cached->answer);
	cached->answer = answer;
}

static void cached_look_up(struct cached *cached)
{
	cached_take_shared(cached);
	cached->begun_ms = clock_now_ms();
	loop_timer_cancel(cached->cache->place.loop, &cached->timer);
	cached->lookup = srv_lookup_start(&cached->cache->place, cached->name, cached->answer,
					  cached_on_looked_up, cached);
	if (!cached->lookup)
		cached_on_looked_up(cached, &(struct srv_outcome){ .error = -ENOMEM });
}

static void cached_take_answer(struct cached *cached, const struct srv_outcome *outcome, uint64_t now_ms)
{
	srv_answer_unref(cached->answer);
	cached->answer = outcome->answer;
	srv_shared_set_answer(cached->shared, outcome->answer);
	cached->fresh_until_ms = now_ms + outcome->keep_ms;
	cached->refresh_ms = now_ms + outcome->keep_ms / 4 * 3;
	if (outcome->keep_ms > 0)
		cached_set_timer(cached, cached->refresh_ms);
}

static void cached_take_refusal(struct cached *cached, uint64_t now_ms)
{
	srv_answer_unref(STEAL_PTR(cached->answer));
	srv_shared_set_answer(cached->shared, NULL);
	cached->fresh_until_ms = cached->refresh_ms = now_ms + NONE_MS;
}

static void cached_take_failure(struct cached *cached, uint64_t now_ms)
{
	uint64_t pause_ms = RETRY_MIN_MS << MIN(cached->failures, 5u);

	cached->failures++;
	cached->failed_ms = now_ms;
	if (cached->answer) {
		cached->refresh_ms = now_ms + MIN(pause_ms, (uint64_t)RETRY_MAX_MS);
		cached_set_timer(cached, cached->refresh_ms);
	} else {
		cached->fresh_until_ms = cached->refresh_ms = now_ms + NONE_MS;
	}
}

static void cached_on_looked_up(void *context, const struct srv_outcome *outcome)
{
	struct cached *cached = context;
	uint64_t now_ms = clock_now_ms();

	cached->lookup = NULL;
	cached->is_asked = false;
	cached->error = outcome->error;
	loop_timer_cancel(cached->cache->place.loop, &cached->timer);
	if (outcome->error == 0)
		cached_take_answer(cached, outcome, now_ms);
	else if (outcome->error == -ENOENT)
		cached_take_refusal(cached, now_ms);
	else
		cached_take_failure(cached, now_ms);
	if (outcome->error == 0 || outcome->error == -ENOENT)
		cached->failures = 0;
	cached_note_away(cached, cached->failures > 0 && cached->answer);
	if (outcome->error == 0)
		cached_note_cut(cached, outcome->is_cut);
	cached_answer_all(cached, cached->error, cached->answer);
}

static void cached_on_timer(struct loop_timer *timer)
{
	struct cached *cached = CONTAINER_OF(timer, struct cached, timer);

	if (cached->lookup)
		cached_answer_all(cached, 0, cached->answer); /* they have waited long enough */
	else if (cached->is_asked || cached->failures > 0)
		cached_look_up(cached);
}

/* ---- asking ------------------------------------------------------------------------------------------ */

/* Is there an expired answer that the asker is to have now? */
static bool is_to_have_stale(const struct cached *cached, uint64_t now_ms)
{
	if (!cached->answer)
		return false;
	return !cached->lookup || now_ms >= cached->begun_ms + STALE_WAIT_MS ||
	       (cached->failures > 0 && now_ms < cached->failed_ms + FAILING_MS);
}

/* Has the query told, at once or when there is an answer. */
static void cached_ask(struct cached *cached, struct srv_query *query)
{
	uint64_t now_ms = clock_now_ms();

	if (!cached->lookup && now_ms >= cached->refresh_ms)
		cached_look_up(cached); /* may fail at once */
	cached->is_asked = true;
	if (now_ms < cached->fresh_until_ms || is_to_have_stale(cached, now_ms)) {
		query_answer(cached->cache, query, cached->error, cached->answer);
		return;
	}
	list_append(&cached->queries, &query->link);
	if (cached->answer && !cached->timer.position)
		cached_set_timer(cached, cached->begun_ms + STALE_WAIT_MS);
}

struct srv_query *srv_start(struct srv_cache *cache, const char *name, srv_done done, void *context)
{
	struct srv_query *query = calloc(1, sizeof(*query));
	char normal[SRV_NAME_SIZE];
	struct cached *cached;

	if (!query)
		return NULL;
	list_init(&query->link);
	query->done = done;
	query->context = context;
	if (!srv_name_read(name, normal)) {
		query_answer(cache, query, -ENOENT, NULL);
		return query;
	}
	cached = cache_get(cache, normal);
	if (!cached) {
		free(query);
		return NULL;
	}
	cached_ask(cached, query);
	return query;
}

/* ---- life -------------------------------------------------------------------------------------------- */

uint64_t *srv_cache_random(struct srv_cache *cache)
{
	return &cache->random;
}

/* Behind deliver_task, which may be queued. */
static void cache_free(struct loop_task *task)
{
	free(CONTAINER_OF(task, struct srv_cache, free_task));
}

struct srv_cache *srv_cache_new(struct loop *loop, struct resolver *resolver)
{
	struct srv_cache *cache = calloc(1, sizeof(*cache));
	struct dns *dns = cache ? dns_new(loop, resolver_servers(resolver), DNS_RECORDS) : NULL;

	if (!dns) {
		free(cache);
		return NULL;
	}
	cache->place = (struct srv_place){ .loop = loop, .dns = dns, .resolver = resolver };
	cache->deliver_task.run = cache_deliver;
	cache->free_task.run = cache_free;
	list_init(&cache->names);
	list_init(&cache->answered);
	/* Only so that routers differ: nobody gains by a guess. */
	if (getrandom(&cache->random, sizeof(cache->random), GRND_NONBLOCK) < 0)
		cache->random = clock_now_us();
	return cache;
}

static void queries_free(struct list *queries)
{
	while (!list_is_empty(queries))
		query_free(CONTAINER_OF(queries->next, struct srv_query, link));
}

void srv_cache_free(struct srv_cache *cache)
{
	if (!cache)
		return;
	while (!list_is_empty(&cache->names)) {
		struct cached *cached = CONTAINER_OF(cache->names.next, struct cached, link);

		queries_free(&cached->queries);
		cached_free(cached);
	}
	queries_free(&cache->answered);
	dns_free(cache->place.dns); /* look-ups under way are answered, and free themselves */
	loop_defer(cache->place.loop, &cache->free_task);
}
