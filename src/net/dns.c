/*
 * c-ares tells which of its sockets want which events (ARES_OPT_SOCK_STATE_CB), and when it
 * wants to be called again (ares_timeout()). Both are carried over to the loop here.
 *
 * A channel cannot read resolv.conf(5) again, nor take other servers while it has queries. So there is a new one after a
 * change. The old one is destroyed when its last query has ended, by a task: c-ares is still inside of it.
 */
#include "net/dns.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/macros.h"
#include "base/sandbox.h"

SANDBOX_CALLS("connect", "getpeername", "getsockname", "ioctl", "newfstatat", "recvfrom", "sendmmsg",
	      "sendto", "setsockopt", "socket", "stat", "statx");

#define RESOLV_CONF "/etc/resolv.conf"
#define LOOK_INTERVAL_MS 1000

/* What c-ares 1.18 does where nobody says otherwise ("options retrans:", "retry:"): 5 s for a lost packet, 75 s for a
 * silent server. Later ones have changed it to what is here: 2 s, and 14 s (2, 4, 8). */
#define ARES_DEFAULT_TIMEOUT_MS 5000
#define ARES_DEFAULT_TRIES 4
#define TIMEOUT_MS 2000
#define TRIES 3

#define RECORDS_UDP_SIZE 1232 /* what every path carries whole (DNS flag day 2020) */

/* One socket of c-ares; freed after the batch of events that saw it close. */
struct dns_socket {
	struct loop_watch watch;
	struct loop_task free_task;
	struct dns_channel *channel;
	struct dns_socket *next;
};

struct dns_channel {
	struct list link; /* of its dns */
	struct loop *loop;
	ares_channel ares;
	struct loop_timer timer;
	struct loop_task free_task;
	struct dns_socket *sockets;
	unsigned queries; /* under way */
	bool is_retired;
};

struct dns {
	struct loop *loop;
	const struct dns_servers *servers;
	enum dns_kind kind;
	struct dns_channel *current;
	struct list channels;    /* the current one, and retired ones */
	struct stat resolv_conf; /* as it was when the current channel read it */
	uint64_t look_ms;        /* when to look at it again */
};

/* ---- a channel on the loop -------------------------------------------------------------------------- */

/* Arms the timer for what c-ares wants to do next without an event. */
static void channel_update_timer(struct dns_channel *channel)
{
	struct timeval wait;
	uint64_t wait_ms;

	if (!ares_timeout(channel->ares, NULL, &wait)) {
		loop_timer_cancel(channel->loop, &channel->timer);
		return;
	}
	wait_ms = (uint64_t)wait.tv_sec * 1000 + (uint64_t)wait.tv_usec / 1000 + 1;
	loop_timer_set(channel->loop, &channel->timer, clock_now_ms() + wait_ms);
}

static void channel_on_timer(struct loop_timer *timer)
{
	struct dns_channel *channel = CONTAINER_OF(timer, struct dns_channel, timer);

	ares_process_fd(channel->ares, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	channel_update_timer(channel);
}

static void channel_on_socket(struct loop_watch *watch, uint32_t events)
{
	struct dns_channel *channel = CONTAINER_OF(watch, struct dns_socket, watch)->channel;
	bool is_readable = events & (EPOLLIN | EPOLLERR | EPOLLHUP);
	bool is_writable = events & (EPOLLOUT | EPOLLERR | EPOLLHUP);

	ares_process_fd(channel->ares, is_readable ? watch->fd : ARES_SOCKET_BAD,
			is_writable ? watch->fd : ARES_SOCKET_BAD);
	channel_update_timer(channel);
}

static void socket_free(struct loop_task *task)
{
	free(CONTAINER_OF(task, struct dns_socket, free_task));
}

static struct dns_socket **channel_find_socket(struct dns_channel *channel, int fd)
{
	struct dns_socket **link = &channel->sockets;

	while (*link && (*link)->watch.fd != fd)
		link = &(*link)->next;
	return link;
}

/* A socket that cannot be watched for want of memory is left to c-ares' own time limit. */
static void channel_on_socket_state(void *context, ares_socket_t fd, int is_reading, int is_writing)
{
	struct dns_channel *channel = context;
	struct dns_socket **link = channel_find_socket(channel, fd);
	struct dns_socket *socket = *link;

	if (!socket && (is_reading || is_writing)) {
		socket = calloc(1, sizeof(*socket));
		if (!socket)
			return;
		socket->watch = (struct loop_watch){ .on_events = channel_on_socket, .fd = fd };
		socket->free_task.run = socket_free;
		socket->channel = channel;
		*link = socket;
	}
	if (!socket)
		return;
	loop_watch(channel->loop, &socket->watch, (is_reading ? EPOLLIN : 0u) | (is_writing ? EPOLLOUT : 0u));
	if (!is_reading && !is_writing) {
		*link = socket->next;
		loop_defer(channel->loop, &socket->free_task);
	}
}

/* ---- its life ---------------------------------------------------------------------------------------- */

/* Answers every query, closes every socket. */
static void channel_shut(struct dns_channel *channel)
{
	if (!channel->ares)
		return;
	ares_destroy(STEAL_PTR(channel->ares));
	loop_timer_cancel(channel->loop, &channel->timer);
}

static void channel_free(struct loop_task *task)
{
	struct dns_channel *channel = CONTAINER_OF(task, struct dns_channel, free_task);

	list_remove(&channel->link);
	channel_shut(channel);
	free(channel);
}

static int ares_begin(struct dns_channel *channel, enum dns_kind kind, bool is_hasty)
{
	struct ares_options options = { .sock_state_cb = channel_on_socket_state,
					.sock_state_cb_data = channel,
					.flags = ARES_FLAG_EDNS,
					.ednspsz = RECORDS_UDP_SIZE,
					.timeout = TIMEOUT_MS,
					.tries = TRIES };
	int mask = ARES_OPT_SOCK_STATE_CB;

	if (kind == DNS_RECORDS)
		mask |= ARES_OPT_FLAGS | ARES_OPT_EDNSPSZ;
	if (is_hasty)
		mask |= ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES;
	return ares_init_options(&channel->ares, &options, mask);
}

/* Did nobody decide how long to wait for an answer? */
static bool has_default_times(ares_channel ares)
{
	struct ares_options options;
	int mask;
	bool is_default = ares_save_options(ares, &options, &mask) == ARES_SUCCESS &&
			  options.timeout == ARES_DEFAULT_TIMEOUT_MS && options.tries == ARES_DEFAULT_TRIES;

	ares_destroy_options(&options);
	return is_default;
}

static int ares_use_servers(ares_channel ares, const struct dns_servers *servers)
{
	struct ares_addr_port_node nodes[DNS_SERVERS_MAX] = { 0 };

	for (size_t i = 0; i < servers->count; i++) {
		const union addr *address = &servers->addresses[i];

		nodes[i].next = i + 1 < servers->count ? &nodes[i + 1] : NULL;
		nodes[i].family = address->sa.sa_family;
		if (nodes[i].family == AF_INET6)
			memcpy(&nodes[i].addr.addr6, &address->in6.sin6_addr, sizeof(address->in6.sin6_addr));
		else
			nodes[i].addr.addr4 = address->in.sin_addr;
		/* sin_port and sin6_port have the same place. */
		nodes[i].udp_port = nodes[i].tcp_port = ntohs(address->in.sin_port);
	}
	return ares_set_servers_ports(ares, nodes);
}

static int channel_init(struct dns_channel *channel, const struct dns *dns)
{
	int status = ares_begin(channel, dns->kind, false);

	if (status == ARES_SUCCESS && has_default_times(channel->ares)) {
		ares_destroy(channel->ares);
		status = ares_begin(channel, dns->kind, true);
	}
	if (status != ARES_SUCCESS)
		return status;
	if (dns->servers && dns->servers->count > 0)
		status = ares_use_servers(channel->ares, dns->servers);
	if (status != ARES_SUCCESS)
		ares_destroy(channel->ares);
	return status;
}

/* The current channel from now on; when it cannot be made, that one goes on. */
static bool dns_new_channel(struct dns *dns)
{
	struct dns_channel *channel = calloc(1, sizeof(*channel)), *old = dns->current;

	if (!channel)
		return false;
	channel->loop = dns->loop;
	channel->timer.on_expire = channel_on_timer;
	channel->free_task.run = channel_free;
	if (channel_init(channel, dns) != ARES_SUCCESS) {
		free(channel);
		return false;
	}
	list_append(&dns->channels, &channel->link);
	dns->current = channel;
	if (old)
		old->is_retired = true;
	if (old && old->queries == 0)
		loop_defer(dns->loop, &old->free_task);
	return true;
}

/* ---- resolv.conf -------------------------------------------------------------------------------------- */

/* What of a file changes with its content; all 0 when it cannot be looked at. */
static struct stat resolv_conf_look(void)
{
	struct stat status;

	if (stat(RESOLV_CONF, &status) != 0)
		memset(&status, 0, sizeof(status));
	return status;
}

static bool is_same_file(const struct stat *one, const struct stat *other)
{
	return one->st_dev == other->st_dev && one->st_ino == other->st_ino &&
	       one->st_size == other->st_size && one->st_mtim.tv_sec == other->st_mtim.tv_sec &&
	       one->st_mtim.tv_nsec == other->st_mtim.tv_nsec;
}

static void dns_look(struct dns *dns)
{
	uint64_t now_ms = clock_now_ms();
	struct stat resolv_conf;

	if (now_ms < dns->look_ms)
		return;
	dns->look_ms = now_ms + LOOK_INTERVAL_MS;
	resolv_conf = resolv_conf_look();
	if (!is_same_file(&resolv_conf, &dns->resolv_conf) && dns_new_channel(dns))
		dns->resolv_conf = resolv_conf;
}

/* ---- queries ------------------------------------------------------------------------------------------ */

struct dns_channel *dns_query_begin(struct dns *dns, ares_channel *ares)
{
	dns_look(dns);
	dns->current->queries++;
	*ares = dns->current->ares;
	return dns->current;
}

void dns_query_begun(struct dns_channel *channel)
{
	channel_update_timer(channel);
}

void dns_query_end(struct dns_channel *channel)
{
	if (--channel->queries == 0 && channel->is_retired)
		loop_defer(channel->loop, &channel->free_task);
}

int dns_error(int status)
{
	switch (status) {
	case ARES_SUCCESS:
	case ARES_ENODATA:
	case ARES_ENOTFOUND:
	case ARES_EBADNAME:
		return -ENOENT;
	case ARES_ETIMEOUT:
		return -ETIMEDOUT;
	case ARES_ENOMEM:
		return -ENOMEM;
	case ARES_EBADRESP:
	case ARES_EFORMERR:
		return -EBADMSG;
	default:
		return -EHOSTUNREACH;
	}
}

/* ---- life ---------------------------------------------------------------------------------------------- */

struct dns *dns_new(struct loop *loop, const struct dns_servers *servers, enum dns_kind kind)
{
	struct dns *dns = calloc(1, sizeof(*dns));

	if (!dns)
		return NULL;
	*dns = (struct dns){ .loop = loop, .servers = servers, .kind = kind };
	list_init(&dns->channels);
	dns->resolv_conf = resolv_conf_look();
	dns->look_ms = clock_now_ms() + LOOK_INTERVAL_MS;
	if (!dns_new_channel(dns)) {
		free(dns);
		return NULL;
	}
	return dns;
}

void dns_free(struct dns *dns)
{
	if (!dns)
		return;
	while (!list_is_empty(&dns->channels)) {
		struct dns_channel *channel = CONTAINER_OF(dns->channels.next, struct dns_channel, link);

		list_remove(&channel->link);
		channel_shut(channel);
		loop_defer(dns->loop, &channel->free_task);
	}
	free(dns);
}
