/*
 * Theory of operation: a URL is taken apart first, into what stands for
 * HOST:PORT in the other forms and a service. The rest is split at the last
 * colon outside of brackets, and getaddrinfo(3) has its say; for numeric
 * addresses it asks nobody.
 */
#include "lib/addresses.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

#include "lib/kaiso.h"

#define DEFAULT_PORT "37812"
#define URL_PREFIX "kaiso://"
#define UNIX_PREFIX "unix:"
#define PORT_SIZE 6

static int hex_value(char digit)
{
	static const char digits[] = "0123456789abcdef";
	const char *found = digit != '\0' ? strchr(digits, digit | 0x20) : NULL;

	/* The bit that makes letters small makes digits of control bytes too. */
	return found && (digit >= 'A' || (digit >= '0' && digit <= '9')) ? (int)(found - digits) : -1;
}

/* RFC 3986 section 2.1. A byte of 0 could not be told from the end. */
static int decode_service(const char *encoded, char *service, size_t size)
{
	size_t length = 0;

	for (const char *at = encoded; *at != '\0'; at++) {
		int byte = (unsigned char)*at;

		if (byte == '%') {
			int high = hex_value(at[1]), low = high < 0 ? -1 : hex_value(at[2]);

			if (low < 0 || high + low == 0)
				return -EINVAL;
			byte = high * 16 + low;
			at += 2;
		}
		if (length + 1 >= size)
			return -ENAMETOOLONG;
		service[length++] = (char)byte;
	}
	service[length] = '\0';
	return 0;
}

static int lookup_unix(const char *path, struct kaiso_addresses *address)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&address->addresses[0];
	size_t length = strlen(path);

	if (length == 0)
		return -EINVAL;
	if (length >= sizeof(un->sun_path))
		return -ENAMETOOLONG;
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, path, length + 1);
	address->lengths[0] = sizeof(*un);
	address->count = 1;
	return 0;
}

static int error_of_lookup(int error)
{
	if (error == EAI_SYSTEM)
		return -errno;
	return error == EAI_MEMORY ? -ENOMEM : -EADDRNOTAVAIL;
}

/* host may be NULL for this host's loopback addresses. */
static int lookup_host(const char *host, const char *port, struct kaiso_addresses *address)
{
	const struct addrinfo hints = { .ai_family = AF_UNSPEC,
					.ai_socktype = SOCK_STREAM,
					.ai_flags = AI_NUMERICSERV };
	struct addrinfo *list;
	int error = getaddrinfo(host, port, &hints, &list);

	if (error != 0)
		return error_of_lookup(error);
	for (const struct addrinfo *info = list; info && address->count < KAISO_ADDRESSES_MAX;
	     info = info->ai_next) {
		if (info->ai_addrlen > sizeof(address->addresses[0]))
			continue;
		memcpy(&address->addresses[address->count], info->ai_addr, info->ai_addrlen);
		address->lengths[address->count++] = info->ai_addrlen;
	}
	freeaddrinfo(list);
	return address->count > 0 ? 0 : -EADDRNOTAVAIL;
}

/* 1 to 65535, digits only. */
static int is_port(const char *word)
{
	size_t digits = strspn(word, "0123456789");

	return digits > 0 && digits < PORT_SIZE && word[digits] == '\0' && atoi(word) > 0 &&
	       atoi(word) <= 65535;
}

/* Cuts "HOST:PORT" in two. */
static int split(char *word, char **host, const char **port)
{
	char *colon = strrchr(word, ':');

	*host = word;
	*port = DEFAULT_PORT;
	if (word[0] == '[') {
		char *bracket = strchr(word, ']');

		if (!bracket || bracket == word + 1 || (bracket[1] != '\0' && bracket[1] != ':'))
			return -EINVAL;
		*host = word + 1;
		*bracket = '\0';
		colon = bracket[1] == ':' ? bracket + 1 : NULL;
	}
	if (colon) {
		*colon = '\0';
		*port = colon + 1;
	}
	return is_port(*port) && (word[0] == '[' || !strchr(word, ':')) ? 0 : -EINVAL;
}

static int lookup_word(const char *word, size_t length, struct kaiso_addresses *address)
{
	char copy[NI_MAXHOST + PORT_SIZE + 2];
	const char *port;
	char *host;
	int r;

	if (length == 0 || length >= sizeof(copy))
		return -EINVAL;
	memcpy(copy, word, length);
	copy[length] = '\0';
	r = split(copy, &host, &port);
	return r < 0 ? r : lookup_host(*host == '\0' ? NULL : host, port, address);
}

static const char *default_router(void)
{
	const char *word = getenv("KAISO");

	return word && *word != '\0' ? word : KAISO_DEFAULT_ROUTER;
}

int kaiso_addresses_lookup(const char *router, struct kaiso_addresses *address, char *service,
			   size_t service_size)
{
	const char *word = router ? router : default_router();
	size_t length;

	memset(address, 0, sizeof(*address));
	if (service)
		service[0] = '\0';
	if (strncmp(word, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0)
		return lookup_unix(word + strlen(UNIX_PREFIX), address);
	/* RFC 3986 section 3.1: in whatever case. */
	if (strncasecmp(word, URL_PREFIX, strlen(URL_PREFIX)) != 0)
		return lookup_word(word, strlen(word), address);
	word += strlen(URL_PREFIX);
	if (strpbrk(word, "?#"))
		return -EINVAL;
	length = strcspn(word, "/");
	if (service && word[length] == '/') {
		int r = decode_service(word + length + 1, service, service_size);

		if (r < 0)
			return r;
	}
	return lookup_word(word, length, address);
}
