/*
 * c-ares may answer inside ares_getaddrinfo() (a name in /etc/hosts, an error). So an
 * answer is only stored by its callback and delivered by a task of the loop:
 * callers never see their own callback before resolve_start() has returned.
 *
 * Queries for the same host share one look-up, and a look-up goes on when its queries are
 * cancelled (c-ares cannot take back a single one). So however many clients come and go while a name
 * server is silent, there are no more look-ups than hosts that services name.
 */
#include "net/resolve.h"

#include <netdb.h>
#include <string.h>

#include "base/list.h"
#include "base/macros.h"

struct resolver {
	struct loop *loop;
	const struct dns_servers *servers;
	struct dns *dns;
	struct list lookups;  /* that are not answered yet */
	struct list answered; /* but not told yet */
};

/* One host that is being asked for; freed when it was answered and all were told. */
struct lookup {
	struct list link;
	struct resolver *resolver;
	struct dns_channel *channel; /* of an answer that is awaited */
	struct loop_task deliver_task;
	struct list queries;
	int error;
	uint32_t ttl_s;
	size_t count;
	union addr addresses[RESOLVE_ADDRESSES_MAX];
	char host[];
};

struct resolve_query {
	struct list link; /* of its look-up, until it is told */
	uint16_t port;
	resolve_done done;
	void *context;
};

struct resolver *resolver_new(struct loop *loop, const struct dns_servers *servers)
{
	struct resolver *resolver = calloc(1, sizeof(*resolver));

	if (!resolver)
		return NULL;
	resolver->loop = loop;
	resolver->servers = servers;
	list_init(&resolver->lookups);
	list_init(&resolver->answered);
	resolver->dns = dns_new(loop, servers, DNS_ADDRESSES);
	if (!resolver->dns) {
		free(resolver);
		return NULL;
	}
	return resolver;
}

const struct dns_servers *resolver_servers(const struct resolver *resolver)
{
	return resolver->servers;
}

/* ---- queries -------------------------------------------------------------------------------------- */

static void addr_set_port(union addr *addr, uint16_t port)
{
	if (addr->sa.sa_family == AF_INET6)
		addr->in6.sin6_port = htons(port);
	else
		addr->in.sin_port = htons(port);
}

/* A query may cancel others of the same look-up while it is told, so the first is taken each time. */
static void lookup_deliver(struct loop_task *task)
{
	struct lookup *lookup = CONTAINER_OF(task, struct lookup, deliver_task);

	list_remove(&lookup->link);
	while (!list_is_empty(&lookup->queries)) {
		struct resolve_query *query = CONTAINER_OF(lookup->queries.next, struct resolve_query, link);

		list_remove(&query->link);
		for (size_t i = 0; i < lookup->count; i++)
			addr_set_port(&lookup->addresses[i], query->port);
		query->done(query->context, lookup->error, lookup->addresses, lookup->count, lookup->ttl_s);
		free(query);
	}
	free(lookup);
}

static void lookup_take_answer(struct lookup *lookup, const struct ares_addrinfo *answer)
{
	lookup->ttl_s = UINT32_MAX;
	for (const struct ares_addrinfo_node *node = answer->nodes;
	     node && lookup->count < RESOLVE_ADDRESSES_MAX; node = node->ai_next) {
		addr_from_sockaddr(&lookup->addresses[lookup->count++], node->ai_addr, node->ai_addrlen);
		lookup->ttl_s = MIN(lookup->ttl_s, (uint32_t)MAX(node->ai_ttl, 0));
	}
	for (const struct ares_addrinfo_cname *cname = answer->cnames; cname; cname = cname->next)
		lookup->ttl_s = MIN(lookup->ttl_s, (uint32_t)MAX(cname->ttl, 0));
}

/* Those who ask from now on begin a look-up of their own. */
static void lookup_on_answer(void *context, int status, int timeouts, struct ares_addrinfo *answer)
{
	struct lookup *lookup = context;

	(void)timeouts;
	list_remove(&lookup->link);
	list_append(&lookup->resolver->answered, &lookup->link);
	dns_query_end(lookup->channel);
	if (answer) {
		lookup_take_answer(lookup, answer);
		ares_freeaddrinfo(answer);
	}
	lookup->error = lookup->count ? 0 : dns_error(status);
	loop_defer(lookup->resolver->loop, &lookup->deliver_task);
}

static struct lookup *lookup_find(struct resolver *resolver, const char *host)
{
	for (struct list *link = resolver->lookups.next; link != &resolver->lookups; link = link->next) {
		struct lookup *lookup = CONTAINER_OF(link, struct lookup, link);

		if (strcmp(lookup->host, host) == 0)
			return lookup;
	}
	return NULL;
}

static struct lookup *lookup_new(struct resolver *resolver, const char *host)
{
	size_t host_size = strlen(host) + 1;
	struct lookup *lookup = calloc(1, sizeof(*lookup) + host_size);

	if (!lookup)
		return NULL;
	lookup->resolver = resolver;
	lookup->deliver_task.run = lookup_deliver;
	list_init(&lookup->link);
	list_init(&lookup->queries);
	memcpy(lookup->host, host, host_size);
	return lookup;
}

/* c-ares may answer at once: the queries must be on the look-up by then. */
static void lookup_start(struct lookup *lookup)
{
	static const struct ares_addrinfo_hints hints = { .ai_family = AF_UNSPEC,
							  .ai_socktype = SOCK_STREAM };
	struct resolver *resolver = lookup->resolver;
	struct dns_channel *channel;
	ares_channel ares;

	/* c-ares would ask the name server for a number first. */
	if (addr_parse_numeric(lookup->host, strlen(lookup->host), 0, &lookup->addresses[0]) == 0) {
		lookup->count = 1;
		lookup->ttl_s = UINT32_MAX;
		list_append(&resolver->answered, &lookup->link);
		loop_defer(resolver->loop, &lookup->deliver_task);
		return;
	}
	list_append(&resolver->lookups, &lookup->link);
	channel = lookup->channel = dns_query_begin(resolver->dns, &ares);
	ares_getaddrinfo(ares, lookup->host, NULL, &hints, lookup_on_answer, lookup);
	dns_query_begun(channel);
}

struct resolve_query *resolve_start(struct resolver *resolver, const char *host, uint16_t port,
				    resolve_done done, void *context)
{
	struct lookup *under_way = lookup_find(resolver, host);
	struct lookup *lookup = under_way ? under_way : lookup_new(resolver, host);
	struct resolve_query *query = lookup ? malloc(sizeof(*query)) : NULL;

	if (!query) {
		if (!under_way)
			free(lookup);
		return NULL;
	}
	*query = (struct resolve_query){ .port = port, .done = done, .context = context };
	list_append(&lookup->queries, &query->link);
	if (!under_way)
		lookup_start(lookup);
	return query;
}

void resolve_cancel(struct resolve_query *query)
{
	list_remove(&query->link);
	free(query);
}

void resolver_free(struct resolver *resolver)
{
	if (!resolver)
		return;
	dns_free(resolver->dns); /* answers every look-up */
	/* Nobody is told any more; the look-ups free themselves, as the loop runs out. */
	while (!list_is_empty(&resolver->answered)) {
		struct lookup *lookup = CONTAINER_OF(resolver->answered.next, struct lookup, link);

		list_remove(&lookup->link);
		while (!list_is_empty(&lookup->queries))
			resolve_cancel(CONTAINER_OF(lookup->queries.next, struct resolve_query, link));
	}
	free(resolver);
}
