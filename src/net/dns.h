/*
 * c-ares on the loop: channels to name servers for whoever asks them (net/resolve.h, net/srv.h).
 *
 * The servers are those given, else those of resolv.conf(5). That file is looked at again, at most once a second, when
 * something is asked: after a change new queries go over a new channel, while those under way end on theirs.
 * Not thread safe.
 */
#ifndef KAISO_NET_DNS_H
#define KAISO_NET_DNS_H

#include <ares.h>
#include <stddef.h>

#include "net/addr.h"
#include "net/loop.h"

#define DNS_SERVERS_MAX 8
#define DNS_PORT 53

/* With their ports, in the order in which to ask them. None: those of the system. */
struct dns_servers {
	size_t count;
	union addr addresses[DNS_SERVERS_MAX];
};

/* What is asked: addresses, or records, by what can carry large answers (EDNS). */
enum dns_kind { DNS_ADDRESSES, DNS_RECORDS };

struct dns;
struct dns_channel;

/* servers is borrowed for as long; NULL: those of the system. NULL when out of memory, or when c-ares cannot start. */
struct dns *dns_new(struct loop *loop, const struct dns_servers *servers, enum dns_kind kind);

/* Every query is answered within (ARES_EDESTRUCTION), every socket closed. What is left is freed by loop_run_out().
 * NULL is allowed. */
void dns_free(struct dns *dns);

/*
 * For one query: dns_query_begin(), then a function of c-ares on *ares, which may answer within, then dns_query_begun(),
 * whether or not it did. What it calls back calls dns_query_end(), once for each begin.
 */
struct dns_channel *dns_query_begin(struct dns *dns, ares_channel *ares);
void dns_query_begun(struct dns_channel *channel);
void dns_query_end(struct dns_channel *channel);

/* Of a status of c-ares: -ENOENT (no such name, or nothing for it; success as well: for whoever found nothing in it),
 * -ETIMEDOUT, -ENOMEM, -EBADMSG (the answer makes no sense), else -EHOSTUNREACH. */
int dns_error(int status);

#endif
