/*
 * From the words of a command line to routes: what names mean is settled here, once, before the program
 * starts.
 */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"
#include "net/kaiso_address.h"
#include "wrap/routes.h"

#define ADDRESSES_MAX 64 /* of one name */

/* How many addresses, at most ADDRESSES_MAX, or a negative errno with a reason. */
static int look_up(const char *host, uint16_t port, union addr addresses[static ADDRESSES_MAX],
		   char reason[static ROUTES_REASON_SIZE])
{
	const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	struct addrinfo *found;
	char service[8];
	int count = 0, r;

	snprintf(service, sizeof(service), "%u", port);
	/* Without a host: the loopback addresses (getaddrinfo(3), no AI_PASSIVE). */
	r = getaddrinfo(*host ? host : NULL, service, &hints, &found);
	if (r != 0) {
		snprintf(reason, ROUTES_REASON_SIZE, "%.150s: %.100s", host, gai_strerror(r));
		return r == EAI_AGAIN ? -EAGAIN : r == EAI_MEMORY ? -ENOMEM : -ENOENT;
	}
	for (struct addrinfo *at = found; at && count < ADDRESSES_MAX; at = at->ai_next)
		addr_from_sockaddr(&addresses[count++], at->ai_addr, at->ai_addrlen);
	freeaddrinfo(found);
	return count;
}

/* The service that is meant: the word, or what the URL names. NULL with a reason. */
static const char *find_service(const char *kaiso, const struct kaiso_address *address, const char *service,
				char reason[static ROUTES_REASON_SIZE])
{
	if (address->unix_path)
		snprintf(reason, ROUTES_REASON_SIZE,
			 "'%.200s': programs connect to a host and port, not to it", kaiso);
	else if (service && address->service[0])
		snprintf(reason, ROUTES_REASON_SIZE, "'%.150s' names a service, and so does '%.100s'", kaiso,
			 service);
	else if (service)
		return service;
	else if (!address->service[0])
		snprintf(reason, ROUTES_REASON_SIZE, "'%.200s' names no service", kaiso);
	else
		return address->service;
	return NULL;
}

int routes_add(struct routes *routes, const char *kaiso, const char *service,
	       char reason[static ROUTES_REASON_SIZE])
{
	union addr addresses[ADDRESSES_MAX];
	struct kaiso_address address;
	int count, r;

	r = kaiso_address_parse(kaiso, &address, reason);
	if (r < 0)
		return -EINVAL;
	service = find_service(kaiso, &address, service, reason);
	if (!service)
		return -EINVAL;
	count = look_up(address.host, address.port, addresses, reason);
	if (count < 0)
		return count;
	r = routes_add_addresses(routes, addresses, (size_t)count, service);
	if (r == -EINVAL)
		snprintf(reason, ROUTES_REASON_SIZE,
			 "'%.150s': a service's name holds no control characters, and at most %d bytes",
			 service, ROUTES_LINE_MAX - 2);
	else if (r < 0)
		snprintf(reason, ROUTES_REASON_SIZE, "out of memory");
	return r;
}
