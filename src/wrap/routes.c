/*
 * Theory of operation: names are looked up once, by the command (routes_words.c), and from then on only
 * addresses count: what a program resolves by itself, by whatever way, is compared with those. A table
 * crosses exec(2) as text in the environment, where the preload library reads it again.
 */
#include "wrap/routes.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"

/* ---- a route --------------------------------------------------------------------------------------- */

static void route_free(struct route *route)
{
	free(route->addresses);
	free(route->line);
}

static int route_set_line(struct route *route, const char *service, size_t length)
{
	if (length + 2 > ROUTES_LINE_MAX)
		return -EINVAL;
	for (size_t i = 0; i < length; i++) {
		if ((unsigned char)service[i] < 0x20 || service[i] == 0x7f)
			return -EINVAL;
	}
	route->line = malloc(length + 2);
	if (!route->line)
		return -ENOMEM;
	memcpy(route->line, service, length);
	memcpy(route->line + length, "\r\n", 2);
	route->line_length = length + 2;
	return 0;
}

static bool route_has(const struct route *route, const union addr *address)
{
	for (size_t i = 0; i < route->address_count; i++) {
		if (addr_is_equal(&route->addresses[i], address))
			return true;
	}
	return false;
}

static int route_add_address(struct route *route, const union addr *address)
{
	union addr *grown;

	if (route_has(route, address))
		return 0;
	grown = reallocarray(route->addresses, route->address_count + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	route->addresses = grown;
	route->addresses[route->address_count++] = *address;
	return 0;
}

/* The route is the table's from then on. */
static int routes_take(struct routes *routes, struct route *route)
{
	struct route *grown = reallocarray(routes->routes, routes->count + 1, sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	routes->routes = grown;
	routes->routes[routes->count++] = *route;
	*route = (struct route){ 0 };
	return 0;
}

int routes_prepend(struct routes *routes, struct routes *earlier)
{
	struct route *grown =
		reallocarray(earlier->routes, earlier->count + routes->count + 1, sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	if (routes->count > 0)
		memcpy(grown + earlier->count, routes->routes, routes->count * sizeof(*grown));
	free(routes->routes);
	routes->routes = grown;
	routes->count += earlier->count;
	*earlier = (struct routes){ 0 };
	return 0;
}

void routes_free(struct routes *routes)
{
	for (size_t i = 0; i < routes->count; i++)
		route_free(&routes->routes[i]);
	free(routes->routes);
	*routes = (struct routes){ 0 };
}

/* RFC 1122 section 3.2.1.3; Linux connects the unspecified address of either family to this host. */
static void resolve_unspecified(union addr *address)
{
	if (address->sa.sa_family == AF_INET && address->in.sin_addr.s_addr == htonl(INADDR_ANY))
		address->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else if (address->sa.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&address->in6.sin6_addr))
		address->in6.sin6_addr = in6addr_loopback;
}

int routes_add_addresses(struct routes *routes, const union addr *addresses, size_t count,
			 const char *service)
{
	struct route route = { 0 };
	int r = route_set_line(&route, service, strlen(service));

	for (size_t i = 0; i < count && r == 0; i++) {
		union addr address = addresses[i];

		resolve_unspecified(&address);
		r = route_add_address(&route, &address);
	}
	if (r == 0)
		r = routes_take(routes, &route);
	route_free(&route);
	return r;
}

/* ---- in the program -------------------------------------------------------------------------------- */

const struct route *routes_find(const struct routes *routes, const struct sockaddr *sa, socklen_t length)
{
	union addr address;

	addr_from_sockaddr(&address, sa, length);
	if (address.sa.sa_family != AF_INET && address.sa.sa_family != AF_INET6)
		return NULL;
	resolve_unspecified(&address);
	/* Only link-local addresses have a scope that means anything; programs leave all kinds of things
	 * there. */
	if (address.sa.sa_family == AF_INET6 && !IN6_IS_ADDR_LINKLOCAL(&address.in6.sin6_addr))
		address.in6.sin6_scope_id = 0;
	for (size_t i = 0; i < routes->count; i++) {
		if (route_has(&routes->routes[i], &address))
			return &routes->routes[i];
	}
	return NULL;
}

/* ---- across exec(2) -------------------------------------------------------------------------------- */

char *routes_format(const struct routes *routes)
{
	char *text = NULL;
	size_t size;
	FILE *stream = open_memstream(&text, &size);
	bool failed = !stream;

	for (size_t i = 0; stream && i < routes->count; i++) {
		const struct route *route = &routes->routes[i];
		char address[ADDR_TEXT_SIZE];

		for (size_t j = 0; j < route->address_count; j++)
			fprintf(stream, "%s%s", j > 0 ? "," : "", addr_format(&route->addresses[j], address));
		fprintf(stream, " %.*s\n", (int)route->line_length - 2, route->line);
	}
	if (stream)
		failed = ferror(stream) | fclose(stream);
	if (failed) {
		free(text);
		return NULL;
	}
	return text;
}

static int parse_address(const char *text, size_t length, union addr *address)
{
	char word[ADDR_TEXT_SIZE];
	const char *host;
	size_t host_length;
	uint16_t port;

	if (length >= sizeof(word))
		return -EINVAL;
	memcpy(word, text, length);
	word[length] = '\0';
	if (addr_split(word, 1, &host, &host_length, &port) < 0)
		return -EINVAL;
	return addr_parse_numeric(host, host_length, port, address);
}

static int parse_line(struct route *route, const char *line, size_t length)
{
	const char *blank = memchr(line, ' ', length);
	const char *at = line;

	if (!blank)
		return -EINVAL;
	while (at < blank) {
		const char *comma = memchr(at, ',', (size_t)(blank - at));
		const char *end = comma ? comma : blank;
		union addr address;
		int r = parse_address(at, (size_t)(end - at), &address);

		if (r == 0)
			r = route_add_address(route, &address);
		if (r < 0)
			return r;
		at = comma ? comma + 1 : blank;
	}
	return route_set_line(route, blank + 1, length - (size_t)(blank + 1 - line));
}

int routes_parse(struct routes *routes, const char *text)
{
	while (*text) {
		size_t length = strcspn(text, "\n");
		struct route route = { 0 };
		int r = parse_line(&route, text, length);

		if (r == 0)
			r = routes_take(routes, &route);
		route_free(&route);
		if (r < 0)
			return r;
		text += length + (text[length] == '\n');
	}
	return 0;
}
