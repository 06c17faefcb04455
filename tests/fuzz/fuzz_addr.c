/*
 * Addresses from text that anyone may have written.
 *
 * Oracles: what is accepted comes back the same after being printed and read
 * again; a split host lies inside its text and holds no bracket; a raw socket
 * address of any length is taken without a look beyond its end.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net/addr.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static void require(int holds)
{
	if (!holds)
		abort();
}

/* Prints an address, splits and reads what was printed. */
static void check_round_trip(const union addr *addr)
{
	char text[ADDR_TEXT_SIZE];
	union addr again;
	const char *host;
	size_t host_length;
	uint16_t port;

	addr_format(addr, text);
	require(strlen(text) < ADDR_TEXT_SIZE);
	require(addr_split(text, 0, &host, &host_length, &port) == 0);
	require(addr_parse_numeric(host, host_length, port, &again) == 0);
	require(addr_is_equal(addr, &again));
	require(memcmp(addr, &again, sizeof(again)) == 0);
}

static void check_split(const char *text)
{
	const char *host;
	size_t length;
	uint16_t port;
	union addr addr;

	if (addr_split(text, 1, &host, &length, &port) < 0)
		return;
	require(port != 0);
	require(host >= text && host + length < text + strlen(text));
	require(memchr(host, '[', length) == NULL && memchr(host, ']', length) == NULL);
	if (addr_parse_numeric(host, length, port, &addr) == 0)
		check_round_trip(&addr);
}

static void check_raw(const uint8_t *input, size_t size)
{
	struct sockaddr *raw = malloc(size);
	char text[ADDR_TEXT_SIZE];
	union addr addr;

	require(raw != NULL || size == 0);
	if (size > 0)
		memcpy(raw, input, size);
	addr_from_sockaddr(&addr, raw, (socklen_t)size);
	require(strlen(addr_format(&addr, text)) < ADDR_TEXT_SIZE);
	require(addr_is_equal(&addr, &addr));
	free(raw);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	/* Exactly as long as the input, so that the sanitizer sees a byte too many. */
	char *text = malloc(size + 1);
	char *part = malloc(size + (size == 0));
	union addr addr;

	require(text != NULL && part != NULL);
	memcpy(part, input, size);
	memcpy(text, input, size);
	text[size] = '\0';
	if (addr_parse_numeric(part, size, 80, &addr) == 0)
		check_round_trip(&addr);
	check_split(text);
	check_raw(input, size);
	free(part);
	free(text);
	return 0;
}
