/*
 * Theory of operation: names are looked up once, by the command, and from then on only addresses count:
 * what a program resolves by itself, by whatever way, is compared with those. A table crosses exec(2) as
 * text in the environment, where the preload library reads it again.
 */
#include "wrap/routes.h"

#include <errno.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"

#define URL_SCHEME "kaiso://"
#define HOST_SIZE 256 /* a DNS name has 253 at most */

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

/* ---- from the command line ------------------------------------------------------------------------- */

/* RFC 1122 section 3.2.1.3; Linux connects the unspecified address of either family to this host. */
static void resolve_unspecified(union addr *address)
{
	if (address->sa.sa_family == AF_INET && address->in.sin_addr.s_addr == htonl(INADDR_ANY))
		address->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else if (address->sa.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&address->in6.sin6_addr))
		address->in6.sin6_addr = in6addr_loopback;
}

static int look_up(struct route *route, const char *host, uint16_t port,
		   char reason[static ROUTES_REASON_SIZE])
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	struct addrinfo *found;
	char service[8];
	int r;

	snprintf(service, sizeof(service), "%u", port);
	/* Without a host: the loopback addresses (getaddrinfo(3), no AI_PASSIVE). */
	r = getaddrinfo(*host ? host : NULL, service, &hints, &found);
	if (r != 0) {
		snprintf(reason, ROUTES_REASON_SIZE, "%.150s: %.100s", host, gai_strerror(r));
		return r == EAI_AGAIN ? -EAGAIN : r == EAI_MEMORY ? -ENOMEM : -ENOENT;
	}
	for (struct addrinfo *at = found; at && r == 0; at = at->ai_next) {
		union addr address;

		addr_from_sockaddr(&address, at->ai_addr, at->ai_addrlen);
		resolve_unspecified(&address);
		r = route_add_address(route, &address);
	}
	freeaddrinfo(found);
	if (r < 0)
		snprintf(reason, ROUTES_REASON_SIZE, "out of memory");
	return r;
}

static int hex_value(char digit)
{
	static const char digits[] = "0123456789abcdef";
	const char *at = digit ? strchr(digits, digit | 0x20) : NULL;

	return at ? (int)(at - digits) : -1;
}

/* RFC 3986 section 2.1, in place; false for a '%' without two digits. NUL cannot be written, by whatever
 * way. */
static bool decode_percents(char *text)
{
	char *to = text;

	for (const char *from = text; *from; to++) {
		*to = *from++;
		if (*to != '%')
			continue;
		if (hex_value(from[0]) < 0 || hex_value(from[1]) < 0)
			return false;
		*to = (char)(hex_value(from[0]) * 16 + hex_value(from[1]));
		if (*to == '\0')
			return false;
		from += 2;
	}
	*to = '\0';
	return true;
}

/* Cuts a URL into "HOST:PORT" and service, both for the caller to free. */
static int split_url(const char *url, char **kaiso, char **service, char reason[static ROUTES_REASON_SIZE])
{
	const char *host = url + strlen(URL_SCHEME);
	size_t length = strcspn(host, "/");
	const char *port = memrchr(host, ':', length);
	bool has_port = port && !memchr(port, ']', (size_t)(host + length - port));

	if (length == 0 || host[length] == '\0' || host[length + 1] == '\0') {
		snprintf(reason, ROUTES_REASON_SIZE, "'%.200s': expected kaiso://HOST[:PORT]/SERVICE", url);
		return -EINVAL;
	}
	if (has_port ? asprintf(kaiso, "%.*s", (int)length, host) < 0 :
		       asprintf(kaiso, "%.*s:%u", (int)length, host, ROUTES_DEFAULT_PORT) < 0)
		*kaiso = NULL;
	*service = strdup(host + length + 1);
	if (!*kaiso || !*service) {
		snprintf(reason, ROUTES_REASON_SIZE, "out of memory");
		return -ENOMEM;
	}
	if (!decode_percents(*service)) {
		snprintf(reason, ROUTES_REASON_SIZE, "'%.200s': a '%%' wants two hexadecimal digits", url);
		return -EINVAL;
	}
	return 0;
}

static int add_pair(struct routes *routes, const char *kaiso, const char *service,
		    char reason[static ROUTES_REASON_SIZE])
{
	struct route route = { 0 };
	char name[HOST_SIZE];
	const char *host;
	size_t host_length;
	uint16_t port;
	int r;

	if (addr_split(kaiso, 1, &host, &host_length, &port) < 0 || host_length >= sizeof(name)) {
		snprintf(reason, ROUTES_REASON_SIZE,
			 "'%.200s': expected HOST:PORT, an IPv6 address in brackets", kaiso);
		return -EINVAL;
	}
	memcpy(name, host, host_length);
	name[host_length] = '\0';
	r = route_set_line(&route, service, strlen(service));
	if (r < 0)
		snprintf(reason, ROUTES_REASON_SIZE,
			 "'%.150s': a service's name holds no control characters, and at most %d bytes",
			 service, ROUTES_LINE_MAX - 2);
	if (r == 0)
		r = look_up(&route, name, port, reason);
	if (r == 0)
		r = routes_take(routes, &route);
	route_free(&route);
	return r;
}

int routes_add(struct routes *routes, const char *kaiso, const char *service,
	       char reason[static ROUTES_REASON_SIZE])
{
	CLEANUP_FREE char *url_kaiso = NULL;
	CLEANUP_FREE char *url_service = NULL;
	int r;

	if (service)
		return add_pair(routes, kaiso, service, reason);
	r = strncmp(kaiso, URL_SCHEME, strlen(URL_SCHEME)) == 0 ? 0 : -EINVAL;
	if (r < 0)
		snprintf(reason, ROUTES_REASON_SIZE, "'%.200s' names no service", kaiso);
	else
		r = split_url(kaiso, &url_kaiso, &url_service, reason);
	return r < 0 ? r : add_pair(routes, url_kaiso, url_service, reason);
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
