/*
 * Theory of operation: totals are atomic counters. What is limited by address
 * lives in a hash table under a mutex, which is not touched at all while no such limit is set. An
 * address is remembered while it has sessions, or until its request budget is full
 * again; each look-up sweeps one bucket of those that need not be remembered any more.
 *
 * The request budget is a bucket of tokens (one request, one token) that fills at the
 * permitted rate and holds one second's worth.
 */
#include "router/limits.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

#define TOKEN 1000u /* a request, in thousandths: what one permitted request a second gains in 1000 ms */

struct limits_address {
	struct limits_address *next;
	unsigned char key[17]; /* family, then 4 or 8 bytes of the address */
	uint64_t sessions;
	uint64_t tokens;
	uint64_t refilled_ms;
};

void limits_init(struct limits *limits)
{
	pthread_mutex_init(&limits->mutex, NULL);
}

void limits_deinit(struct limits *limits)
{
	for (size_t i = 0; i < LIMITS_BUCKETS; i++) {
		while (limits->buckets[i]) {
			struct limits_address *address = limits->buckets[i];

			limits->buckets[i] = address->next;
			free(address);
		}
	}
	pthread_mutex_destroy(&limits->mutex);
}

/* ---- addresses ------------------------------------------------------------------------------------ */

static bool key_of(const union addr *client, unsigned char key[static 17])
{
	memset(key, 0, 17);
	key[0] = (unsigned char)client->sa.sa_family;
	if (client->sa.sa_family == AF_INET)
		memcpy(key + 1, &client->in.sin_addr, 4);
	else if (client->sa.sa_family == AF_INET6)
		memcpy(key + 1, &client->in6.sin6_addr, 8);
	else
		return false;
	return true;
}

static size_t key_bucket(const unsigned char key[static 17])
{
	return (hash_bytes(key, 17) >> 32) % LIMITS_BUCKETS;
}

static uint64_t tokens_max(const struct limits *limits)
{
	return limits->requests_per_second_per_address * TOKEN;
}

static void address_refill(const struct limits *limits, struct limits_address *address, uint64_t now_ms)
{
	uint64_t passed_ms = now_ms > address->refilled_ms ? now_ms - address->refilled_ms : 0;

	if (passed_ms > 1000)
		passed_ms = 1000; /* more would not fit the bucket anyway */
	address->tokens += passed_ms * limits->requests_per_second_per_address;
	if (address->tokens > tokens_max(limits))
		address->tokens = tokens_max(limits);
	address->refilled_ms = now_ms > address->refilled_ms ? now_ms : address->refilled_ms;
}

/* Frees what need not be remembered in the next bucket. */
static void limits_sweep(struct limits *limits, uint64_t now_ms)
{
	struct limits_address **link = &limits->buckets[limits->sweep_bucket++ % LIMITS_BUCKETS];

	while (*link) {
		struct limits_address *address = *link;

		if (now_ms > 0)
			address_refill(limits, address, now_ms);
		if (address->sessions > 0 || address->tokens < tokens_max(limits)) {
			link = &address->next;
			continue;
		}
		*link = address->next;
		free(address);
		limits->address_count--;
	}
}

/* The entry of an address, made when there is none; NULL when there is no room. */
static struct limits_address *limits_find(struct limits *limits, const unsigned char key[static 17])
{
	struct limits_address **bucket = &limits->buckets[key_bucket(key)];

	for (struct limits_address *address = *bucket; address; address = address->next) {
		if (memcmp(address->key, key, 17) == 0)
			return address;
	}
	if (limits->address_count >= LIMITS_ADDRESSES_MAX)
		return NULL;

	struct limits_address *address = calloc(1, sizeof(*address));

	if (!address)
		return NULL;
	memcpy(address->key, key, 17);
	address->tokens = tokens_max(limits);
	address->next = *bucket;
	*bucket = address;
	limits->address_count++;
	return address;
}

/* ---- sessions ------------------------------------------------------------------------------------- */

static enum limit address_begin_session(struct limits *limits, const union addr *client)
{
	enum limit limit = LIMIT_ADDRESS_SESSIONS;
	struct limits_address *address;
	unsigned char key[17];

	if (limits->sessions_per_address_max == 0 || !key_of(client, key))
		return LIMIT_NONE;
	pthread_mutex_lock(&limits->mutex);
	limits_sweep(limits, 0);
	address = limits_find(limits, key);
	if (address && address->sessions < limits->sessions_per_address_max) {
		address->sessions++;
		limit = LIMIT_NONE;
	}
	pthread_mutex_unlock(&limits->mutex);
	return limit;
}

enum limit limits_begin_session(struct limits *limits, const union addr *client)
{
	enum limit limit = LIMIT_SESSIONS;

	if (limits->sessions++ < limits->sessions_max)
		limit = address_begin_session(limits, client);
	if (limit != LIMIT_NONE)
		limits->sessions--;
	return limit;
}

enum limit limits_move_session(struct limits *limits, const union addr *client)
{
	return address_begin_session(limits, client);
}

void limits_restore_session(struct limits *limits, const union addr *client)
{
	struct limits_address *address;
	unsigned char key[17];

	limits->sessions++;
	if (limits->sessions_per_address_max == 0 || !key_of(client, key))
		return;
	pthread_mutex_lock(&limits->mutex);
	address = limits_find(limits, key);
	if (address)
		address->sessions++;
	pthread_mutex_unlock(&limits->mutex);
}

void limits_end_session(struct limits *limits, const union addr *client)
{
	struct limits_address *address;
	unsigned char key[17];

	limits->sessions--;
	if (limits->sessions_per_address_max == 0 || !key_of(client, key))
		return;
	pthread_mutex_lock(&limits->mutex);
	address = limits_find(limits, key);
	if (address && address->sessions > 0)
		address->sessions--;
	pthread_mutex_unlock(&limits->mutex);
}

enum limit limits_request(struct limits *limits, const union addr *client, uint64_t now_ms)
{
	enum limit limit = LIMIT_ADDRESS_REQUESTS;
	struct limits_address *address;
	unsigned char key[17];

	if (limits->requests_per_second_per_address == 0 || !key_of(client, key))
		return LIMIT_NONE;
	pthread_mutex_lock(&limits->mutex);
	limits_sweep(limits, now_ms);
	address = limits_find(limits, key);
	if (address) {
		address_refill(limits, address, now_ms);
		if (address->tokens >= TOKEN) {
			address->tokens -= TOKEN;
			limit = LIMIT_NONE;
		}
	}
	pthread_mutex_unlock(&limits->mutex);
	return limit;
}

/* ---- lists ---------------------------------------------------------------------------------------- */

enum limit limits_begin_list(struct limits *limits)
{
	if (limits->lists++ < limits->lists_max)
		return LIMIT_NONE;
	limits->lists--;
	return LIMIT_LISTS;
}

void limits_end_list(struct limits *limits)
{
	limits->lists--;
}

const char *limit_name(enum limit limit)
{
	switch (limit) {
	case LIMIT_NONE:
		return "none";
	case LIMIT_SESSIONS:
		return "max-sessions";
	case LIMIT_ADDRESS_SESSIONS:
		return "max-sessions-per-address";
	case LIMIT_ADDRESS_REQUESTS:
		return "max-requests-per-second";
	case LIMIT_LISTS:
		return "max-lists";
	case LIMIT_SERVICE_SESSIONS:
		return "max-sessions of the service";
	case LIMIT_DESCRIPTORS:
		return "descriptors";
	}
	return "unknown";
}
