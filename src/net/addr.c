/*
 * Socket addresses of the internet families, and the one word "unix".
 *
 * Text is handled by inet_pton(3) and inet_ntop(3), which know exactly one
 * notation for each family ("127.1" and "0x7f000001" are names, not
 * addresses); what they lack is done here: brackets, ports, scopes, and text
 * that is not terminated.
 *
 * Scopes are printed as numbers. A name would cost three system calls for
 * each log line about a link-local client, and an ioctl that a sandbox forbids.
 */
#include "net/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/macros.h"
#include "base/sandbox.h"

SANDBOX_CALLS("getpeername", "getsockname");

/* The longest is an IPv4-embedding IPv6 address, "%", and an interface's name. */
#define NUMERIC_SIZE (INET6_ADDRSTRLEN + IF_NAMESIZE)

socklen_t addr_length(const union addr *addr)
{
	if (addr->sa.sa_family == AF_INET)
		return sizeof(addr->in);
	if (addr->sa.sa_family == AF_INET6)
		return sizeof(addr->in6);
	return sizeof(addr->sa.sa_family);
}

bool addr_to_in6(const union addr *addr, struct in6_addr *address)
{
	if (addr->sa.sa_family == AF_INET6) {
		*address = addr->in6.sin6_addr;
		return true;
	}
	*address = (struct in6_addr){ .s6_addr = { [10] = 0xff, [11] = 0xff } };
	memcpy(&address->s6_addr[12], &addr->in.sin_addr, sizeof(addr->in.sin_addr));
	return addr->sa.sa_family == AF_INET;
}

void addr_normalize(union addr *addr)
{
	struct sockaddr_in plain = { .sin_family = AF_INET };

	if (addr->sa.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&addr->in6.sin6_addr))
		return;
	plain.sin_port = addr->in6.sin6_port;
	memcpy(&plain.sin_addr, &addr->in6.sin6_addr.s6_addr[12], sizeof(plain.sin_addr));
	memset(addr, 0, sizeof(*addr));
	addr->in = plain;
}

void addr_from_sockaddr(union addr *addr, const struct sockaddr *sa, socklen_t length)
{
	sa_family_t family = AF_UNSPEC;

	memset(addr, 0, sizeof(*addr));
	addr->sa.sa_family = AF_UNSPEC;
	/* The kernel's buffer need not be aligned for any family's struct, nor as long: copy, never cast. */
	if (length >= sizeof(family))
		memcpy(&family, sa, sizeof(family));
	if (family == AF_UNIX) {
		addr->sa.sa_family = AF_UNIX;
	} else if (family == AF_INET && length >= sizeof(addr->in)) {
		memcpy(&addr->in, sa, sizeof(addr->in));
		memset(addr->in.sin_zero, 0, sizeof(addr->in.sin_zero));
	} else if (family == AF_INET6 && length >= sizeof(addr->in6)) {
		memcpy(&addr->in6, sa, sizeof(addr->in6));
		addr->in6.sin6_flowinfo = 0;
		addr_normalize(addr);
	}
}

/* An interface's number or name to its number; 0 when there is none such. */
static uint32_t parse_scope(const char *word)
{
	uint64_t number;

	if (args_parse_number(word, 1, UINT32_MAX, &number) == 0)
		return (uint32_t)number;
	return if_nametoindex(word);
}

/* RFC 4007 section 11: an address, and after '%' the zone. Cuts word in two. */
static int parse_ipv6(char *word, struct sockaddr_in6 *in6)
{
	char *percent = strchr(word, '%');

	if (percent != NULL)
		*percent = '\0';
	in6->sin6_family = AF_INET6;
	if (inet_pton(AF_INET6, word, &in6->sin6_addr) != 1)
		return -EINVAL;
	if (percent == NULL)
		return 0;
	/* The kernel reports other addresses without a scope: with one they would never compare equal. */
	if (!IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr) && !IN6_IS_ADDR_MC_LINKLOCAL(&in6->sin6_addr))
		return -EINVAL;
	in6->sin6_scope_id = parse_scope(percent + 1);
	return in6->sin6_scope_id != 0 ? 0 : -EINVAL;
}

int addr_parse_numeric(const char *text, size_t length, uint16_t port, union addr *addr)
{
	char word[NUMERIC_SIZE];
	union addr parsed;

	if (length == 0 || length >= sizeof(word) || memchr(text, '\0', length) != NULL)
		return -EINVAL;
	memcpy(word, text, length);
	word[length] = '\0';
	memset(&parsed, 0, sizeof(parsed));
	if (inet_pton(AF_INET, word, &parsed.in.sin_addr) == 1) {
		parsed.in.sin_family = AF_INET;
		parsed.in.sin_port = htons(port);
	} else {
		memset(&parsed, 0, sizeof(parsed));
		if (parse_ipv6(word, &parsed.in6) < 0)
			return -EINVAL;
		parsed.in6.sin6_port = htons(port);
		addr_normalize(&parsed);
	}
	*addr = parsed;
	return 0;
}

/* An IPv6 address goes in brackets, RFC 3986 section 3.2.2, so that its port can be told from it. */
const char *addr_format(const union addr *addr, char text[static ADDR_TEXT_SIZE])
{
	char numeric[INET6_ADDRSTRLEN];
	char scope[16] = "";

	switch (addr->sa.sa_family) {
	case AF_INET:
		inet_ntop(AF_INET, &addr->in.sin_addr, numeric, sizeof(numeric));
		snprintf(text, ADDR_TEXT_SIZE, "%s:%u", numeric, ntohs(addr->in.sin_port));
		break;
	case AF_INET6:
		inet_ntop(AF_INET6, &addr->in6.sin6_addr, numeric, sizeof(numeric));
		if (addr->in6.sin6_scope_id != 0)
			snprintf(scope, sizeof(scope), "%%%u", addr->in6.sin6_scope_id);
		snprintf(text, ADDR_TEXT_SIZE, "[%s%s]:%u", numeric, scope, ntohs(addr->in6.sin6_port));
		break;
	case AF_UNIX:
		snprintf(text, ADDR_TEXT_SIZE, "unix");
		break;
	default:
		/* sa_family_t is a number, no enum: any value can come from outside. */
		snprintf(text, ADDR_TEXT_SIZE, "unknown");
		break;
	}
	return text;
}

/* Field by field: padding and the flow label are not part of who somebody is. */
bool addr_is_equal(const union addr *one, const union addr *other)
{
	if (one->sa.sa_family != other->sa.sa_family)
		return false;
	if (one->sa.sa_family == AF_INET)
		return one->in.sin_port == other->in.sin_port &&
		       one->in.sin_addr.s_addr == other->in.sin_addr.s_addr;
	if (one->sa.sa_family == AF_INET6)
		return one->in6.sin6_port == other->in6.sin6_port &&
		       one->in6.sin6_scope_id == other->in6.sin6_scope_id &&
		       IN6_ARE_ADDR_EQUAL(&one->in6.sin6_addr, &other->in6.sin6_addr);
	return true;
}

/* Takes the brackets off, or refuses what needs them and has none. */
static int strip_brackets(const char **host, size_t *length)
{
	if (*length > 0 && **host == '[') {
		/* "[]" is no address, and ":PORT" is how to say "any". */
		if (*length < 3 || (*host)[*length - 1] != ']')
			return -EINVAL;
		*host += 1;
		*length -= 2;
	} else if (memchr(*host, ':', *length) != NULL) {
		return -EINVAL;
	}
	if (memchr(*host, '[', *length) != NULL || memchr(*host, ']', *length) != NULL)
		return -EINVAL;
	return 0;
}

int addr_split(const char *text, uint16_t port_minimum, const char **host, size_t *host_length,
	       uint16_t *port)
{
	const char *colon = strrchr(text, ':');
	const char *name = text;
	size_t name_length;
	uint64_t number;
	int r;

	if (colon == NULL)
		return -EINVAL;
	name_length = (size_t)(colon - text);
	r = strip_brackets(&name, &name_length);
	if (r < 0)
		return r;
	r = args_parse_number(colon + 1, port_minimum, UINT16_MAX, &number);
	if (r < 0)
		return r;
	*host = name;
	*host_length = name_length;
	*port = (uint16_t)number;
	return 0;
}

int addr_ends_of(int fd, struct addr_ends *ends)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof(address);

	if (getsockname(fd, (struct sockaddr *)&address, &length) != 0)
		return -errno;
	addr_from_sockaddr(&ends->local, (struct sockaddr *)&address, length);
	length = sizeof(address);
	if (getpeername(fd, (struct sockaddr *)&address, &length) != 0)
		return -errno;
	addr_from_sockaddr(&ends->peer, (struct sockaddr *)&address, length);
	return 0;
}
