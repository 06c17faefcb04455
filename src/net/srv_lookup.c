/*
 * c-ares may answer within ares_query(), and cannot take a query back. So what it answers is only stored by its callback;
 * a task goes on with it, and frees what was abandoned meanwhile.
 *
 * The addresses are asked of the resolver, some hosts at a time: a forwarder of a small network bears no 256 questions at
 * once (dnsmasq(8), dns-forward-max). One host whose name server is silent must not hold up the others: after a while
 * the answer goes without it, or with the addresses that it had, for a short time.
 */
#include "net/srv_lookup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "net/srv_records.h"

#define TYPE_SRV 33
#define CLASS_IN 1
#define HOSTS_AT_A_TIME 16
#define HOSTS_WAIT_MS 3000
#define KEEP_MIN_MS 1000
#define KEEP_MAX_MS 3600000
#define KEEP_INCOMPLETE_MS 5000 /* an answer in which hosts are missing or not asked for anew */

/* A host of the records; there is one for each name. */
struct host {
	struct srv_lookup *lookup;
	const char *name;
	struct resolve_query *query; /* under way */
	bool is_done;
	int error; /* when it is done: 0, and there are addresses */
	uint32_t ttl_s;
	unsigned count;
	union addr addresses[SRV_ADDRESSES_MAX];
};

struct srv_lookup {
	struct srv_place place;
	srv_lookup_done done; /* NULL: abandoned */
	void *context;
	struct dns_channel *channel;
	struct srv_answer *last;
	struct loop_task task; /* queued by each callback of c-ares and at the end */
	struct loop_timer timer;
	int error; /* of the records */
	struct srv_records *records;
	struct host *hosts;
	size_t host_count, host_next; /* how many there are, have been asked for */
	size_t hosts_asked, hosts_done;
	uint8_t record_hosts[SRV_TARGETS_MAX]; /* the index of the host of each record */
	char name[SRV_NAME_SIZE];
};

static void lookup_free(struct srv_lookup *lookup)
{
	for (size_t i = 0; i < lookup->host_next; i++) {
		if (lookup->hosts[i].query)
			resolve_cancel(lookup->hosts[i].query);
	}
	loop_timer_cancel(lookup->place.loop, &lookup->timer);
	srv_answer_unref(lookup->last);
	free(lookup->records);
	free(lookup->hosts);
	free(lookup);
}

/* The look-up is no more after that. */
static void lookup_finish(struct srv_lookup *lookup, const struct srv_outcome *outcome)
{
	srv_lookup_done done = lookup->done;
	void *context = lookup->context;

	lookup_free(lookup);
	done(context, outcome);
}

/* ---- the answer -------------------------------------------------------------------------------------- */

/* What a target gets its addresses from: just now, or what it had in the last answer. */
struct source {
	const union addr *addresses;
	unsigned count;
};

static struct source source_last(const struct srv_answer *last, const char *name)
{
	for (size_t i = 0; last && i < last->count; i++) {
		if (strcmp(last->targets[i].host, name) == 0)
			return (struct source){ last->targets[i].addresses, last->targets[i].address_count };
	}
	return (struct source){ 0 };
}

/* Empty when the host has none: it has none, or nobody knows. */
static struct source host_source(const struct srv_lookup *lookup, const struct host *host)
{
	if (host->is_done && (host->error == 0 || host->error == -ENOENT))
		return (struct source){ host->addresses, host->count };
	return source_last(lookup->last, host->name);
}

static void addr_set_port(union addr *addr, uint16_t port)
{
	if (addr->sa.sa_family == AF_INET6)
		addr->in6.sin6_port = htons(port);
	else
		addr->in.sin_port = htons(port);
}

/* Room for so much, in one piece. */
static struct srv_answer *answer_alloc(size_t targets, size_t addresses, size_t text)
{
	return malloc(sizeof(struct srv_answer) + targets * sizeof(struct srv_target) +
		      addresses * sizeof(union addr) + text);
}

static void target_fill(struct srv_target *target, const struct srv_record *record, struct source source,
			union addr *addresses, char *host)
{
	for (unsigned i = 0; i < source.count; i++) {
		addresses[i] = source.addresses[i];
		addr_set_port(&addresses[i], record->port);
	}
	*target = (struct srv_target){ .host = strcpy(host, record->host),
				       .port = record->port,
				       .priority = record->priority,
				       .weight = record->weight,
				       .address_count = source.count,
				       .addresses = addresses };
}

/* With the targets whose hosts have addresses. NULL when out of memory, or when none has (*count is 0 then). */
static struct srv_answer *answer_make(const struct srv_lookup *lookup, size_t *count)
{
	struct source sources[SRV_TARGETS_MAX];
	size_t addresses = 0, text = 0;
	struct srv_answer *answer;
	struct srv_target *target;
	union addr *address;
	char *host;

	*count = 0;
	for (size_t i = 0; i < lookup->records->count; i++) {
		sources[i] = host_source(lookup, &lookup->hosts[lookup->record_hosts[i]]);
		*count += sources[i].count > 0;
		addresses += sources[i].count;
		text += strlen(lookup->records->records[i].host) + 1;
	}
	answer = *count > 0 ? answer_alloc(*count, addresses, text) : NULL;
	if (!answer)
		return NULL;
	target = (struct srv_target *)(answer + 1);
	address = (union addr *)(target + *count);
	host = (char *)(address + addresses);
	*answer = (struct srv_answer){ .references = 1, .count = *count, .targets = target };
	for (size_t i = 0; i < lookup->records->count; i++) {
		if (sources[i].count == 0)
			continue;
		target_fill(target++, &lookup->records->records[i], sources[i], address, host);
		address += sources[i].count;
		host += strlen(host) + 1;
	}
	return answer;
}

/* Hosts that nothing says a time of (/etc/hosts) hold for the least one. */
static uint64_t keep_ms(const struct srv_lookup *lookup)
{
	uint64_t keep = (uint64_t)lookup->records->ttl_s * 1000;

	if (keep == 0)
		return 0;
	for (size_t i = 0; i < lookup->host_count; i++) {
		const struct host *host = &lookup->hosts[i];
		bool is_good = host->is_done && host->error == 0;

		keep = MIN(keep, is_good ? (uint64_t)host->ttl_s * 1000 : KEEP_INCOMPLETE_MS);
	}
	return MIN(MAX(keep, (uint64_t)KEEP_MIN_MS), (uint64_t)KEEP_MAX_MS);
}

/* Why there is no target: that no host has an address, if that is all. */
static int hosts_error(const struct srv_lookup *lookup)
{
	int error = -ENOENT;

	for (size_t i = 0; i < lookup->host_count; i++) {
		if (lookup->hosts[i].error != -ENOENT)
			error = lookup->hosts[i].error;
	}
	return error;
}

static void lookup_answer(struct srv_lookup *lookup)
{
	struct srv_outcome outcome = { .keep_ms = keep_ms(lookup), .is_cut = lookup->records->is_cut };
	size_t count;

	outcome.answer = answer_make(lookup, &count);
	if (outcome.answer)
		outcome.answer->expires_ms = clock_now_ms() + MAX(outcome.keep_ms, (uint64_t)KEEP_MIN_MS);
	else
		outcome.error = count > 0 ? -ENOMEM : hosts_error(lookup);
	lookup_finish(lookup, &outcome);
}

/* ---- the hosts --------------------------------------------------------------------------------------- */

static void hosts_ask(struct srv_lookup *lookup);

static void host_done(struct host *host, int error)
{
	host->is_done = true;
	host->error = error;
	host->lookup->hosts_done++;
}

static void host_on_addresses(void *context, int error, const union addr *addresses, size_t count,
			      uint32_t ttl_s)
{
	struct host *host = context;
	struct srv_lookup *lookup = host->lookup;

	host->query = NULL;
	host->ttl_s = ttl_s;
	host->count = (unsigned)MIN(count, (size_t)SRV_ADDRESSES_MAX);
	memcpy(host->addresses, addresses, host->count * sizeof(*addresses));
	host_done(host, error);
	lookup->hosts_asked--;
	hosts_ask(lookup);
}

/* The names in records are whole ones: with a dot at their end no search list applies. c-ares knows localhost only
 * without it. */
static struct resolve_query *host_ask(struct host *host)
{
	char name[SRV_NAME_SIZE + 1];
	size_t length = strlen(host->name);

	memcpy(name, host->name, length + 1);
	if (strcmp(name, "localhost") != 0)
		memcpy(name + length, ".", sizeof("."));
	return resolve_start(host->lookup->place.resolver, name, 0, host_on_addresses, host);
}

/* Asks for as many as may be, and ends the look-up after the last. */
static void hosts_ask(struct srv_lookup *lookup)
{
	while (lookup->hosts_asked < HOSTS_AT_A_TIME && lookup->host_next < lookup->host_count) {
		struct host *host = &lookup->hosts[lookup->host_next++];

		host->query = host_ask(host);
		if (host->query)
			lookup->hosts_asked++;
		else
			host_done(host, -ENOMEM);
	}
	if (lookup->hosts_done == lookup->host_count)
		lookup_answer(lookup);
}

/* Those that are known will do, if there are any. */
static void lookup_on_timer(struct loop_timer *timer)
{
	struct srv_lookup *lookup = CONTAINER_OF(timer, struct srv_lookup, timer);
	bool has_any = false;

	for (size_t i = 0; i < lookup->host_count; i++)
		has_any = has_any || host_source(lookup, &lookup->hosts[i]).count > 0;
	if (has_any)
		lookup_answer(lookup);
}

static size_t host_find(const struct srv_lookup *lookup, const char *name)
{
	size_t i = 0;

	while (i < lookup->host_count && strcmp(lookup->hosts[i].name, name) != 0)
		i++;
	return i;
}

static int hosts_begin(struct srv_lookup *lookup)
{
	const struct srv_records *records = lookup->records;

	lookup->hosts = calloc(records->count, sizeof(*lookup->hosts));
	if (!lookup->hosts)
		return -ENOMEM;
	for (size_t i = 0; i < records->count; i++) {
		const char *name = records->records[i].host;
		size_t found = host_find(lookup, name);

		if (found == lookup->host_count)
			lookup->hosts[lookup->host_count++] = (struct host){ .lookup = lookup, .name = name };
		lookup->record_hosts[i] = (uint8_t)found;
	}
	return loop_timer_set(lookup->place.loop, &lookup->timer, clock_now_ms() + HOSTS_WAIT_MS);
}

/* ---- the records ------------------------------------------------------------------------------------- */

static void lookup_on_task(struct loop_task *task)
{
	struct srv_lookup *lookup = CONTAINER_OF(task, struct srv_lookup, task);

	if (!lookup->done) {
		lookup_free(lookup);
		return;
	}
	if (lookup->error == 0)
		lookup->error = hosts_begin(lookup);
	if (lookup->error == 0)
		hosts_ask(lookup);
	else
		lookup_finish(lookup, &(struct srv_outcome){ .error = lookup->error });
}

static void lookup_on_records(void *context, int status, int timeouts, unsigned char *message, int length)
{
	struct srv_lookup *lookup = context;

	(void)timeouts;
	if (status == ARES_SUCCESS)
		lookup->error = srv_records_parse(message, (size_t)length, lookup->name, &lookup->records);
	else
		lookup->error = dns_error(status);
	dns_query_end(STEAL_PTR(lookup->channel));
	loop_defer(lookup->place.loop, &lookup->task);
}

struct srv_lookup *srv_lookup_start(const struct srv_place *place, const char *name, struct srv_answer *last,
				    srv_lookup_done done, void *context)
{
	struct srv_lookup *lookup = calloc(1, sizeof(*lookup));
	struct dns_channel *channel;
	ares_channel ares;

	if (!lookup)
		return NULL;
	lookup->place = *place;
	lookup->done = done;
	lookup->context = context;
	lookup->task.run = lookup_on_task;
	lookup->timer.on_expire = lookup_on_timer;
	strncpy(lookup->name, name, sizeof(lookup->name) - 1);
	if (last)
		srv_answer_ref(last);
	lookup->last = last;
	channel = lookup->channel = dns_query_begin(place->dns, &ares);
	ares_query(ares, name, CLASS_IN, TYPE_SRV, lookup_on_records, lookup);
	dns_query_begun(channel);
	return lookup;
}

void srv_lookup_abandon(struct srv_lookup *lookup)
{
	lookup->done = NULL;
	for (size_t i = 0; i < lookup->host_next; i++) {
		if (lookup->hosts[i].query)
			resolve_cancel(STEAL_PTR(lookup->hosts[i].query));
	}
	loop_timer_cancel(lookup->place.loop, &lookup->timer);
	if (!lookup->channel)
		loop_defer(lookup->place.loop, &lookup->task);
}
