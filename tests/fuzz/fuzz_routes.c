/*
 * The table of routes as a wrapped program finds it in its environment, where anybody may have written it.
 *
 * Oracle: what is taken comes back the same after being written and read again; each address leads to the first
 * route that has it, however a program writes it down; no line holds a byte that would end it early.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wrap/routes.h"

#define ENSURE(condition)                                                       \
	do {                                                                    \
		if (!(condition)) {                                             \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
			abort();                                                \
		}                                                               \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static bool route_has(const struct route *route, const union addr *address)
{
	for (size_t i = 0; i < route->address_count; i++) {
		if (addr_is_equal(&route->addresses[i], address))
			return true;
	}
	return false;
}

/* The first that has it, found without the table's own search. */
static const struct route *first_with(const struct routes *routes, const union addr *address)
{
	for (size_t i = 0; i < routes->count; i++) {
		if (route_has(&routes->routes[i], address))
			return &routes->routes[i];
	}
	return NULL;
}

static bool is_unspecified(const union addr *address)
{
	return (address->sa.sa_family == AF_INET && address->in.sin_addr.s_addr == htonl(INADDR_ANY)) ||
	       (address->sa.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&address->in6.sin6_addr));
}

/* A scope means something for link-local addresses only; a table that others wrote may have it elsewhere. */
static bool has_idle_scope(const union addr *address)
{
	return address->sa.sa_family == AF_INET6 && address->in6.sin6_scope_id != 0 &&
	       !IN6_IS_ADDR_LINKLOCAL(&address->in6.sin6_addr);
}

static void check_route(const struct routes *routes, const struct route *route)
{
	ENSURE(route->line_length >= 2 && route->line_length <= ROUTES_LINE_MAX);
	ENSURE(memcmp(route->line + route->line_length - 2, "\r\n", 2) == 0);
	for (size_t i = 0; i < route->line_length - 2; i++)
		ENSURE((unsigned char)route->line[i] >= 0x20 && route->line[i] != 0x7f);
	for (size_t i = 0; i < route->address_count; i++) {
		const union addr *address = &route->addresses[i];

		if (!is_unspecified(address) && !has_idle_scope(address))
			ENSURE(routes_find(routes, &address->sa, addr_length(address)) ==
			       first_with(routes, address));
	}
}

static void ensure_same(const struct routes *one, const struct routes *other)
{
	ENSURE(one->count == other->count);
	for (size_t i = 0; i < one->count; i++) {
		const struct route *route = &one->routes[i], *twin = &other->routes[i];

		ENSURE(route->line_length == twin->line_length &&
		       route->address_count == twin->address_count);
		ENSURE(memcmp(route->line, twin->line, route->line_length) == 0);
		for (size_t j = 0; j < route->address_count; j++)
			ENSURE(addr_is_equal(&route->addresses[j], &twin->addresses[j]));
	}
}

/* What a program gives to connect(2) is any bytes, too. */
static void check_raw(const struct routes *routes, const uint8_t *input, size_t size)
{
	struct sockaddr *address = malloc(size + 1);
	const struct route *route;

	ENSURE(address);
	memcpy(address, input, size);
	route = routes_find(routes, address, (socklen_t)size);
	ENSURE(!route || (route >= routes->routes && route < routes->routes + routes->count));
	free(address);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	struct routes routes = { 0 }, again = { 0 }, none = { 0 };
	char *text = malloc(size + 1), *written;
	int r;

	ENSURE(text);
	memcpy(text, input, size);
	text[size] = '\0';
	r = routes_parse(&routes, text);
	ENSURE(r == 0 || r == -EINVAL);
	for (size_t i = 0; i < routes.count; i++)
		check_route(&routes, &routes.routes[i]);
	check_raw(&routes, input, size);
	written = routes_format(&routes);
	ENSURE(written && routes_parse(&again, written) == 0);
	ensure_same(&routes, &again);
	ENSURE(routes_prepend(&none, &again) == 0 && again.count == 0);
	ensure_same(&routes, &none);
	free(written);
	routes_free(&routes);
	routes_free(&none);
	free(text);
	return 0;
}
