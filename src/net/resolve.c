/*
 * c-ares tells which of its sockets want which events (ARES_OPT_SOCK_STATE_CB), and when it
 * wants to be called again (ares_timeout()). Both are carried over to the loop here.
 *
 * c-ares may answer inside ares_getaddrinfo() (a name in /etc/hosts, an error). So an
 * answer is only stored by its callback and delivered by a task of the loop:
 * callers never see their own callback before resolve_start() has returned.
 *
 * Queries for the same host share one look-up, and a look-up goes on when its queries are
 * cancelled (c-ares cannot take back a single one). So however many clients come and go while a name
 * server is silent, there are no more look-ups than hosts that services name.
 */
#include "net/resolve.h"

#include <ares.h>
#include <netdb.h>
#include <string.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/macros.h"
#include "base/sandbox.h"

SANDBOX_CALLS("connect", "getpeername", "getsockname", "ioctl", "recvfrom", "sendmmsg", "sendto",
	      "setsockopt", "socket");

/* One socket of c-ares; freed after the batch of events that saw it close. */
struct resolver_socket {
	struct loop_watch watch;
	struct loop_task free_task;
	struct resolver *resolver;
	struct resolver_socket *next;
};

struct resolver {
	struct loop *loop;
	ares_channel channel;
	struct loop_timer timer;
	struct resolver_socket *sockets;
	struct list lookups;  /* that are not answered yet */
	struct list answered; /* but not told yet */
};

/* One host that is being asked for; freed when it was answered and all were told. */
struct lookup {
	struct list link;
	struct resolver *resolver;
	struct loop_task deliver_task;
	struct list queries;
	int error;
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

/* Arms the timer for what c-ares wants to do next without an event. */
static void resolver_update_timer(struct resolver *resolver)
{
	struct timeval wait;
	uint64_t wait_ms;

	if (!ares_timeout(resolver->channel, NULL, &wait)) {
		loop_timer_cancel(resolver->loop, &resolver->timer);
		return;
	}
	wait_ms = (uint64_t)wait.tv_sec * 1000 + (uint64_t)wait.tv_usec / 1000 + 1;
	loop_timer_set(resolver->loop, &resolver->timer, clock_now_ms() + wait_ms);
}

static void resolver_on_timer(struct loop_timer *timer)
{
	struct resolver *resolver = CONTAINER_OF(timer, struct resolver, timer);

	ares_process_fd(resolver->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	resolver_update_timer(resolver);
}

static void resolver_on_socket(struct loop_watch *watch, uint32_t events)
{
	struct resolver *resolver = CONTAINER_OF(watch, struct resolver_socket, watch)->resolver;
	bool is_readable = events & (EPOLLIN | EPOLLERR | EPOLLHUP);
	bool is_writable = events & (EPOLLOUT | EPOLLERR | EPOLLHUP);

	ares_process_fd(resolver->channel, is_readable ? watch->fd : ARES_SOCKET_BAD,
			is_writable ? watch->fd : ARES_SOCKET_BAD);
	resolver_update_timer(resolver);
}

static void socket_free(struct loop_task *task)
{
	free(CONTAINER_OF(task, struct resolver_socket, free_task));
}

static struct resolver_socket **resolver_find_socket(struct resolver *resolver, int fd)
{
	struct resolver_socket **link = &resolver->sockets;

	while (*link && (*link)->watch.fd != fd)
		link = &(*link)->next;
	return link;
}

/* A socket that cannot be watched for want of memory is left to c-ares' own time limit. */
static void resolver_on_socket_state(void *context, ares_socket_t fd, int is_reading, int is_writing)
{
	struct resolver *resolver = context;
	struct resolver_socket **link = resolver_find_socket(resolver, fd);
	struct resolver_socket *socket = *link;

	if (!socket && (is_reading || is_writing)) {
		socket = calloc(1, sizeof(*socket));
		if (!socket)
			return;
		socket->watch = (struct loop_watch){ .on_events = resolver_on_socket, .fd = fd };
		socket->free_task.run = socket_free;
		socket->resolver = resolver;
		*link = socket;
	}
	if (!socket)
		return;
	loop_watch(resolver->loop, &socket->watch,
		   (is_reading ? EPOLLIN : 0u) | (is_writing ? EPOLLOUT : 0u));
	if (!is_reading && !is_writing) {
		*link = socket->next;
		loop_defer(resolver->loop, &socket->free_task);
	}
}

struct resolver *resolver_new(struct loop *loop)
{
	struct resolver *resolver = calloc(1, sizeof(*resolver));
	struct ares_options options = { .sock_state_cb = resolver_on_socket_state,
					.sock_state_cb_data = resolver };

	if (!resolver)
		return NULL;
	resolver->loop = loop;
	resolver->timer.on_expire = resolver_on_timer;
	list_init(&resolver->lookups);
	list_init(&resolver->answered);
	if (ares_init_options(&resolver->channel, &options, ARES_OPT_SOCK_STATE_CB) != ARES_SUCCESS) {
		free(resolver);
		return NULL;
	}
	return resolver;
}

/* ---- queries -------------------------------------------------------------------------------------- */

static int error_from_ares(int status)
{
	switch (status) {
	case ARES_SUCCESS:
	case ARES_ENODATA:
	case ARES_ENOTFOUND:
	case ARES_EBADNAME:
		return -ENOENT; /* success as well: without a usable address */
	case ARES_ETIMEOUT:
		return -ETIMEDOUT;
	case ARES_ENOMEM:
		return -ENOMEM;
	default:
		return -EHOSTUNREACH;
	}
}

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
		query->done(query->context, lookup->error, lookup->addresses, lookup->count);
		free(query);
	}
	free(lookup);
}

/* Those who ask from now on begin a look-up of their own. */
static void lookup_on_answer(void *context, int status, int timeouts, struct ares_addrinfo *answer)
{
	struct lookup *lookup = context;

	(void)timeouts;
	list_remove(&lookup->link);
	list_append(&lookup->resolver->answered, &lookup->link);
	if (answer) {
		for (struct ares_addrinfo_node *node = answer->nodes;
		     node && lookup->count < RESOLVE_ADDRESSES_MAX; node = node->ai_next)
			addr_from_sockaddr(&lookup->addresses[lookup->count++], node->ai_addr,
					   node->ai_addrlen);
		ares_freeaddrinfo(answer);
	}
	lookup->error = lookup->count ? 0 : error_from_ares(status);
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

	/* c-ares would ask the name server for a number first. */
	if (addr_parse_numeric(lookup->host, strlen(lookup->host), 0, &lookup->addresses[0]) == 0) {
		lookup->count = 1;
		list_append(&resolver->answered, &lookup->link);
		loop_defer(resolver->loop, &lookup->deliver_task);
		return;
	}
	list_append(&resolver->lookups, &lookup->link);
	ares_getaddrinfo(resolver->channel, lookup->host, NULL, &hints, lookup_on_answer, lookup);
	resolver_update_timer(resolver);
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
	ares_destroy(resolver->channel); /* answers every look-up, closes every socket */
	/* Nobody is told any more; the look-ups free themselves, as the loop runs out. */
	while (!list_is_empty(&resolver->answered)) {
		struct lookup *lookup = CONTAINER_OF(resolver->answered.next, struct lookup, link);

		list_remove(&lookup->link);
		while (!list_is_empty(&lookup->queries))
			resolve_cancel(CONTAINER_OF(lookup->queries.next, struct resolve_query, link));
	}
	loop_timer_cancel(resolver->loop, &resolver->timer);
	free(resolver);
}
