/*
 * What a browser says that it asks for (DNS rebinding).
 *
 * Oracles: what is accepted is spelled without a letter that a name elsewhere would need, or is one of the two names;
 * capitals change nothing; nor does another port.
 */
#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "router/http_host.h"

#define NAME "home.example"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static void require(int holds)
{
	if (!holds)
		abort();
}

static int begins_with_name(const char *host, const char *name)
{
	size_t length = strlen(name);

	return strncasecmp(host, name, length) == 0 && (host[length] == ':' || host[length] == '\0');
}

static void check_accepted(const char *host)
{
	if (begins_with_name(host, "localhost") || begins_with_name(host, NAME))
		return;
	require(strspn(host, "0123456789abcdefABCDEF.:[]") == strlen(host));
	require(host[0] == '[' || isdigit((unsigned char)host[0]));
}

/* host has room for a port behind it. */
static void check_port(char *host, int is_ours)
{
	const char *end = host[0] == '[' ? strchr(host, ']') : host;

	if (!end || strchr(end, ':'))
		return;
	strcat(host, ":9090");
	require(http_host_is_ours(host, NAME) == is_ours);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	char *host = malloc(size + 1), *changed = malloc(size + sizeof(":9090"));
	int is_ours;

	require(host && changed);
	memcpy(host, input, size);
	host[size] = '\0';
	is_ours = http_host_is_ours(host, NAME);
	if (is_ours)
		check_accepted(host);
	require(!http_host_is_ours(host, NULL) || is_ours);
	strcpy(changed, host);
	for (char *byte = changed; *byte; byte++)
		*byte = (char)toupper((unsigned char)*byte);
	require(http_host_is_ours(changed, NAME) == is_ours);
	check_port(changed, is_ours);
	free(host);
	free(changed);
	return 0;
}
