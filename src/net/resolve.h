/*
 * Host names to addresses without blocking the loop (c-ares; /etc/hosts and
 * /etc/resolv.conf as the system has them, or with name servers that are given; order by RFC 6724).
 *
 * One resolver a loop, made when the first name is asked for. Not thread safe.
 */
#ifndef KAISO_NET_RESOLVE_H
#define KAISO_NET_RESOLVE_H

#include <stddef.h>
#include <stdint.h>

#include "net/addr.h"
#include "net/dns.h"
#include "net/loop.h"

#define RESOLVE_ADDRESSES_MAX 16

struct resolver;
struct resolve_query;

/*
 * count addresses (1 to RESOLVE_ADDRESSES_MAX, valid during the call), or count 0 and a negative errno:
 * -ENOENT (no such name, or no address), -ETIMEDOUT, -EHOSTUNREACH (no name server answered), -EBADMSG (what it said
 * makes no sense), -ENOMEM. ttl_s: for how many seconds the addresses hold; 0 where nothing says so (/etc/hosts), and
 * UINT32_MAX for a numeric address.
 */
typedef void (*resolve_done)(void *context, int error, const union addr *addresses, size_t count,
			     uint32_t ttl_s);

/* servers: the name servers to ask, borrowed for as long; NULL, or none: those of the system. NULL when out of memory,
 * or when c-ares cannot start. */
struct resolver *resolver_new(struct loop *loop, const struct dns_servers *servers);

/* Those that it was made with. */
const struct dns_servers *resolver_servers(const struct resolver *resolver);

/* Queries under way are dropped without a call. What is left of them is freed by loop_run_out(). */
void resolver_free(struct resolver *resolver);

/*
 * Asks for the addresses of a host name (terminated), with port filled in.
 * done is called once, never before this returns, unless the query is cancelled first.
 * NULL when out of memory.
 */
struct resolve_query *resolve_start(struct resolver *resolver, const char *host, uint16_t port,
				    resolve_done done, void *context);

/* The query is forgotten: done is not called any more, and the handle is no longer valid. */
void resolve_cancel(struct resolve_query *query);

#endif
