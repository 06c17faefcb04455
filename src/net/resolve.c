/*
 * c-ares tells which of its sockets want which events (ARES_OPT_SOCK_STATE_CB), and when it
 * wants to be called again (ares_timeout()). Both are carried over to the loop here.
 *
 * c-ares may answer inside ares_getaddrinfo() (a name in /etc/hosts, an error). So an
 * answer is only stored by its callback and delivered by a task of the loop:
 * callers never see their own callback before resolve_start() has returned.
 *
 * c-ares cannot take back a single query. A cancelled one is marked, and freed when its answer comes.
 */
#include "net/resolve.h"

#include <ares.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/macros.h"

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
};

struct resolve_query {
	struct resolver *resolver;
	struct loop_task deliver_task;
	resolve_done done; /* NULL: cancelled */
	void *context;
	bool is_answered;
	int error;
	size_t count;
	union addr addresses[RESOLVE_ADDRESSES_MAX];
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
	if (ares_init_options(&resolver->channel, &options, ARES_OPT_SOCK_STATE_CB) != ARES_SUCCESS) {
		free(resolver);
		return NULL;
	}
	return resolver;
}

void resolver_free(struct resolver *resolver)
{
	if (!resolver)
		return;
	ares_destroy(resolver->channel); /* answers every query with ARES_EDESTRUCTION, closes every socket */
	loop_timer_cancel(resolver->loop, &resolver->timer);
	free(resolver);
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

static void query_deliver(struct loop_task *task)
{
	struct resolve_query *query = CONTAINER_OF(task, struct resolve_query, deliver_task);

	if (query->done)
		query->done(query->context, query->error, query->addresses, query->count);
	free(query);
}

static void query_on_answer(void *context, int status, int timeouts, struct ares_addrinfo *answer)
{
	struct resolve_query *query = context;

	(void)timeouts;
	query->is_answered = true;
	if (answer) {
		for (struct ares_addrinfo_node *node = answer->nodes;
		     node && query->count < RESOLVE_ADDRESSES_MAX; node = node->ai_next)
			addr_from_sockaddr(&query->addresses[query->count++], node->ai_addr,
					   node->ai_addrlen);
		ares_freeaddrinfo(answer);
	}
	query->error = query->count ? 0 : error_from_ares(status);
	if (status == ARES_EDESTRUCTION)
		free(query); /* the resolver goes, and the loop with it */
	else
		loop_defer(query->resolver->loop, &query->deliver_task);
}

struct resolve_query *resolve_start(struct resolver *resolver, const char *host, uint16_t port,
				    resolve_done done, void *context)
{
	static const struct ares_addrinfo_hints hints = { .ai_flags = ARES_AI_NUMERICSERV,
							  .ai_family = AF_UNSPEC,
							  .ai_socktype = SOCK_STREAM };
	struct resolve_query *query = calloc(1, sizeof(*query));
	char service[6];

	if (!query)
		return NULL;
	*query = (struct resolve_query){ .resolver = resolver, .done = done, .context = context };
	query->deliver_task.run = query_deliver;
	snprintf(service, sizeof(service), "%u", (unsigned)port);
	ares_getaddrinfo(resolver->channel, host, service, &hints, query_on_answer, query);
	resolver_update_timer(resolver);
	return query;
}

void resolve_cancel(struct resolve_query *query)
{
	query->done = NULL;
}
