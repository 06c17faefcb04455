/*
 * Where a router is, from words that anyone may have written.
 *
 * Oracles: what is accepted names a host and a port, or a path inside the word; what is printed is free
 * of control bytes and means the same when it is read again; no service holds a byte that would end a
 * request line; what is refused has one line of a reason.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net/kaiso_address.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static void require(int holds)
{
	if (!holds)
		abort();
}

static void require_one_line(const char *text)
{
	for (; *text != '\0'; text++)
		require((unsigned char)*text >= 0x20 && *text != 0x7f);
}

/* Not for UNIX paths: those are cut when they are long. */
static void check_round_trip(const struct kaiso_address *address, const char *text)
{
	static struct kaiso_address again;
	char reason[KAISO_ADDRESS_REASON_SIZE];

	require(kaiso_address_parse(text, &again, reason) == 0);
	require(strcmp(again.host, address->host) == 0 && again.port == address->port);
	require(again.service[0] == '\0' && !again.unix_path);
}

static void check_accepted(const char *word, const struct kaiso_address *address)
{
	char text[KAISO_ADDRESS_TEXT_SIZE];

	kaiso_address_format(address, text);
	require(strlen(text) < sizeof(text));
	require_one_line(text);
	require(strlen(address->service) < sizeof(address->service));
	require_one_line(address->service);
	require(address->service[0] == '\0' || kaiso_address_is_url(word));
	if (address->unix_path) {
		require(address->unix_path > word && address->unix_path < word + strlen(word));
		return;
	}
	require(address->port != 0);
	require_one_line(address->host);
	require(!strpbrk(address->host, " /[]@?#"));
	check_round_trip(address, text);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	static struct kaiso_address address;
	char reason[KAISO_ADDRESS_REASON_SIZE];
	char *word = malloc(size + 1);
	int r;

	require(word != NULL);
	memcpy(word, input, size);
	word[size] = '\0';
	memset(reason, 'x', sizeof(reason));
	r = kaiso_address_parse(word, &address, reason);
	if (r == 0) {
		check_accepted(word, &address);
	} else {
		require(memchr(reason, '\0', sizeof(reason)) != NULL && reason[0] != '\0');
		require_one_line(reason);
	}
	free(word);
	return 0;
}
