/*
 * Where a router is: from the words that kaiso.h lists to socket addresses.
 *
 * What the library's files share with each other begins with kaiso_ as well, for the sake of those who
 * link it statically; the shared library hides it.
 */
#ifndef KAISO_LIB_ADDRESSES_H
#define KAISO_LIB_ADDRESSES_H

#include <stddef.h>
#include <sys/socket.h>

#define KAISO_ADDRESSES_MAX 8 /* of one host name; the others are not tried */

struct kaiso_addresses {
	size_t count; /* at least 1 once it is looked up */
	struct sockaddr_storage addresses[KAISO_ADDRESSES_MAX];
	socklen_t lengths[KAISO_ADDRESSES_MAX];
};

/*
 * Looks up router, or when it is NULL what $KAISO or the default says. Blocks for host names. With service
 * not NULL it gets the SERVICE of a URL, terminated, of at most service_size bytes; "" when there is none. 0
 * or a negative errno, of those in kaiso.h.
 */
int kaiso_addresses_lookup(const char *router, struct kaiso_addresses *address, char *service,
			   size_t service_size);

#endif
