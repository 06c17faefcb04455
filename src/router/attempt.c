#include "router/attempt.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"
#include "router/catalog.h"

static_assert(ATTEMPT_TARGETS_MAX <= 64, "attempt->busy has a bit for each");

/* ---- which is next --------------------------------------------------------------------------------- */

static void attempt_order(struct attempt *attempt, uint64_t now_ms)
{
	const struct service *service = attempt->service;
	struct backend *targets[ATTEMPT_TARGETS_MAX];
	size_t order[ATTEMPT_TARGETS_MAX] = { 0 };
	enum balance balance = service->policy ? service->policy->balance : BALANCE_FIRST;

	for (size_t i = 0; i < service->target_count; i++)
		targets[i] = service->targets[i].backend;
	if (service->target_count > 1)
		backends_order(service->group, balance, targets, service->target_count, attempt->client,
			       now_ms, order);
	for (size_t i = 0; i < service->target_count; i++)
		attempt->order[i] = (uint8_t)order[i];
	attempt->next = 0;
}

/* In a further round: one that is left out has had its client. */
static bool attempt_passes_over(const struct attempt *attempt, size_t index, uint64_t now_ms)
{
	struct backend *backend = attempt->service->targets[index].backend;

	return attempt->round > 0 && backend && !(attempt->was_busy >> index & 1) &&
	       backend_is_left_out(backend, attempt->client, now_ms);
}

static bool attempt_next_target(struct attempt *attempt, uint64_t now_ms)
{
	const struct service *service = attempt->service;

	while (attempt->next < service->target_count &&
	       attempt_passes_over(attempt, attempt->order[attempt->next], now_ms))
		attempt->next++;
	if (attempt->next == service->target_count)
		return false;
	attempt->target = &attempt->service->targets[attempt->order[attempt->next++]];
	attempt->backend = attempt->target->backend;
	attempt->is_trying = true;
	if (attempt->backend)
		backend_begin_session(attempt->backend);
	attempt->has_session = attempt->backend != NULL;
	return true;
}

static void attempt_leave_target(struct attempt *attempt)
{
	if (attempt->has_session)
		backend_end_session(attempt->backend);
	attempt->has_session = false;
	srv_answer_unref(attempt->answer);
	attempt->answer = NULL;
	backend_unref(attempt->host);
	attempt->host = NULL;
}

void attempt_begin(struct attempt *attempt, struct backends *backends, struct service *service,
		   const void *client, uint64_t now_ms, uint64_t deadline_ms)
{
	*attempt = (struct attempt){
		.backends = backends, .service = service, .client = client, .deadline_ms = deadline_ms
	};
	attempt_order(attempt, now_ms);
	attempt_next_target(attempt, now_ms);
}

void attempt_restore(struct attempt *attempt, struct backends *backends, struct service *service)
{
	const char *key = target_key(service->targets);
	struct backend *backend = backends_get(backends, key, strlen(key));

	*attempt = (struct attempt){ .backends = backends,
				     .service = service,
				     .deadline_ms = UINT64_MAX,
				     .target = service->targets,
				     .backend = backend,
				     .next = 1,
				     .has_session = backend != NULL };
	if (backend)
		backend_begin_session(backend);
	backend_unref(backend); /* the session keeps it */
}

void attempt_end(struct attempt *attempt)
{
	if (attempt->is_trying && attempt->backend)
		backend_untried(attempt->backend, attempt->client);
	if (attempt->is_trying && attempt->host)
		backend_untried(attempt->host, attempt->client);
	attempt->is_trying = false;
	attempt_leave_target(attempt);
}

/* ---- the hosts of DNS ------------------------------------------------------------------------------ */

bool attempt_wants_answer(const struct attempt *attempt)
{
	return attempt->target->is_srv && !attempt->answer;
}

const struct srv_target *attempt_host(const struct attempt *attempt)
{
	return attempt->answer ? &attempt->answer->targets[attempt->hosts[attempt->host_next - 1]] : NULL;
}

/* How the host is doing: a reference, or NULL when out of memory, which is as if it did well. */
static struct backend *attempt_backend_of(const struct attempt *attempt, const struct srv_target *host)
{
	char text[SRV_NAME_SIZE + 8];
	int length = snprintf(text, sizeof(text), "%s:%u", host->host, (unsigned)host->port);

	return backends_get(attempt->backends, text, (size_t)length);
}

/* Those that are left out go behind the others. */
static void attempt_sort_hosts(struct attempt *attempt, uint64_t now_ms)
{
	const struct srv_answer *answer = attempt->answer;
	struct backend *hosts[SRV_TARGETS_MAX];
	uint8_t drawn[SRV_TARGETS_MAX];
	size_t order[SRV_TARGETS_MAX];
	bool is_whole = true;

	memcpy(drawn, attempt->hosts, sizeof(drawn));
	for (size_t i = 0; i < answer->count; i++) {
		hosts[i] = attempt_backend_of(attempt, &answer->targets[drawn[i]]);
		is_whole = is_whole && hosts[i];
	}
	if (is_whole) {
		backends_order(attempt->service->group, BALANCE_FIRST, hosts, answer->count, attempt->client,
			       now_ms, order);
		for (size_t i = 0; i < answer->count; i++)
			attempt->hosts[i] = drawn[order[i]];
		/* Its trial may have begun, which needs a reference to go on. */
		attempt->host = hosts[order[0]];
		hosts[order[0]] = NULL;
	}
	for (size_t i = 0; i < answer->count; i++)
		backend_unref(hosts[i]);
}

void attempt_take_answer(struct attempt *attempt, struct srv_answer *answer, uint64_t *random,
			 uint64_t now_ms)
{
	srv_answer_ref(answer);
	attempt->answer = answer;
	srv_order(answer, random, attempt->hosts);
	attempt->host_next = 1;
	attempt_sort_hosts(attempt, now_ms);
}

static bool attempt_next_host(struct attempt *attempt)
{
	if (!attempt->answer || attempt->host_next == attempt->answer->count)
		return false;
	backend_unref(attempt->host);
	attempt->host_next++;
	attempt->host = attempt_backend_of(attempt, attempt_host(attempt));
	attempt->is_trying = true;
	return true;
}

/* ---- what came of it ------------------------------------------------------------------------------- */

uint64_t attempt_deadline_ms(const struct attempt *attempt, uint64_t now_ms)
{
	size_t left = attempt->service->target_count - attempt->next + 1;

	if (attempt->answer)
		left += attempt->answer->count - attempt->host_next;
	if (attempt->deadline_ms == UINT64_MAX || attempt->deadline_ms <= now_ms)
		return attempt->deadline_ms;
	return now_ms + (attempt->deadline_ms - now_ms + left - 1) / left;
}

void attempt_succeeded(struct attempt *attempt)
{
	attempt->is_trying = false;
	if (attempt->backend)
		backend_succeeded(attempt->backend);
	if (attempt->host)
		backend_succeeded(attempt->host);
}

/* It has no room, or the router has none. */
static bool error_is_not_its(int error)
{
	return error == -EAGAIN || error == -EMFILE || error == -ENFILE || error == -ENOMEM ||
	       error == -ENOBUFS;
}

/* What was reached has been judged, though it did not help. */
static void attempt_judge(const struct attempt *attempt, struct backend *backend, int error, uint64_t now_ms)
{
	if (!backend || !attempt->is_trying)
		return;
	if (error_is_not_its(error))
		backend_untried(backend, attempt->client);
	else
		backend_failed(backend, attempt->client, now_ms);
}

bool attempt_failed(struct attempt *attempt, int error, uint64_t now_ms)
{
	if (error == -EAGAIN)
		attempt->busy |= UINT64_C(1) << (attempt->target - attempt->service->targets);
	if (error != -EAGAIN || attempt->last_error == 0)
		attempt->last_error = error;
	if (attempt->answer)
		attempt_judge(attempt, attempt->host, error, now_ms);
	if (attempt->deadline_ms > now_ms && attempt_next_host(attempt))
		return true;
	attempt_judge(attempt, attempt->backend, error, now_ms);
	attempt->is_trying = false;
	attempt_leave_target(attempt);
	return attempt->deadline_ms > now_ms && attempt_next_target(attempt, now_ms);
}

bool attempt_again(struct attempt *attempt, uint64_t now_ms)
{
	if (!attempt->busy || attempt->deadline_ms <= now_ms)
		return false;
	attempt->was_busy = attempt->busy;
	attempt->busy = 0;
	attempt->round++;
	attempt->last_error = 0;
	attempt_order(attempt, now_ms);
	return attempt_next_target(attempt, now_ms);
}
