#include "router/http_host.h"

#include <string.h>
#include <strings.h>

#include "net/addr.h"

static bool is_port(const char *text)
{
	size_t length = strspn(text, "0123456789");

	return length <= 5 && text[length] == '\0';
}

static bool is_name(const char *host, size_t length, const char *name)
{
	return name && length > 0 && strlen(name) == length && strncasecmp(host, name, length) == 0;
}

/* A host in brackets is an IPv6 address, without an interface: RFC 3986 knows none. */
static bool is_bracketed_address(const char *host)
{
	const char *end = strchr(host, ']');
	union addr addr;

	if (!end || addr_parse_numeric(host + 1, (size_t)(end - host - 1), 0, &addr) != 0)
		return false;
	if (!memchr(host, ':', (size_t)(end - host)) || memchr(host, '%', (size_t)(end - host)))
		return false;
	return end[1] == '\0' || (end[1] == ':' && is_port(end + 2));
}

bool http_host_is_ours(const char *host, const char *name)
{
	size_t length = strcspn(host, ":");
	union addr addr;

	if (host[0] == '[')
		return is_bracketed_address(host);
	if (host[length] == ':' && !is_port(host + length + 1))
		return false;
	return is_name(host, length, "localhost") || is_name(host, length, name) ||
	       addr_parse_numeric(host, length, 0, &addr) == 0;
}
