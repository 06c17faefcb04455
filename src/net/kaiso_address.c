/*
 * Theory of operation: a URL is cut into "HOST[:PORT]" and a service; from there on both notations
 * share one parser, which adds the default port where there is none and leaves brackets and ports to
 * addr_split(). What could smuggle a second line into a request (a control byte, written plain or as
 * %0A) is refused here, so that no caller has to think of it.
 */
#include "net/kaiso_address.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "net/addr.h"

#define URL_SCHEME "kaiso://"
#define UNIX_PREFIX "unix:"
#define WORD_SHOWN_MAX 100

static bool is_control(char byte)
{
	return (unsigned char)byte < 0x20 || byte == 0x7f;
}

static void replace_controls(char *text)
{
	for (; *text != '\0'; text++) {
		if (is_control(*text))
			*text = '?';
	}
}

static int complain(char reason[static KAISO_ADDRESS_REASON_SIZE], int error, const char *word,
		    const char *what)
{
	bool is_long = strlen(word) > WORD_SHOWN_MAX;

	snprintf(reason, KAISO_ADDRESS_REASON_SIZE, "'%.*s%s': %s", WORD_SHOWN_MAX, word,
		 is_long ? "..." : "", what);
	replace_controls(reason);
	return error;
}

bool kaiso_address_is_url(const char *word)
{
	return strncasecmp(word, URL_SCHEME, strlen(URL_SCHEME)) == 0;
}

/* ---- HOST:PORT -------------------------------------------------------------------------------------- */

/* Names that could be no host's: better refused here than looked up. */
static bool is_name_valid(const char *host)
{
	for (const char *at = host; *at != '\0'; at++) {
		if (is_control(*at) || strchr(" /\\@%?#\"'<>", *at))
			return false;
	}
	/* With its port, it would be read as a UNIX socket; "unix." is the same host. */
	if (strcmp(host, "unix") == 0)
		return false;
	/* The resolver would take a number alone for an IPv4 address of a forgotten form. */
	return *host == '\0' || host[strspn(host, "0123456789")] != '\0';
}

static int take_host(const char *host, size_t length, bool is_bracketed, struct kaiso_address *address)
{
	union addr numeric;

	if (length >= sizeof(address->host) || memchr(host, '\0', length))
		return -EINVAL;
	memcpy(address->host, host, length);
	address->host[length] = '\0';
	if (is_bracketed)
		return addr_parse_numeric(host, length, 0, &numeric);
	return is_name_valid(address->host) ? 0 : -EINVAL;
}

/* text is "HOST", "HOST:PORT" and so on. 0, -EINVAL, -ERANGE. */
static int parse_authority(const char *text, struct kaiso_address *address)
{
	const char *after = text[0] == '[' ? strchr(text, ']') : text;
	char with_port[KAISO_HOST_SIZE + sizeof("[]:65535")];
	const char *host;
	size_t length;
	int r;

	if (!after || text[0] == '\0')
		return -EINVAL;
	if (strchr(after, ':'))
		r = snprintf(with_port, sizeof(with_port), "%s", text);
	else
		r = snprintf(with_port, sizeof(with_port), "%s:%d", text, KAISO_DEFAULT_PORT);
	if (r < 0 || (size_t)r >= sizeof(with_port))
		return -EINVAL;
	r = addr_split(with_port, 1, &host, &length, &address->port);
	return r < 0 ? r : take_host(host, length, text[0] == '[', address);
}

static int parse_host(const char *text, const char *word, struct kaiso_address *address,
		      char reason[static KAISO_ADDRESS_REASON_SIZE])
{
	int r = parse_authority(text, address);

	if (r == -ERANGE)
		return complain(reason, r, word, "a port is a number from 1 to 65535");
	if (r < 0 && text[0] != '\0' && text[strspn(text, "0123456789")] == '\0')
		return complain(reason, r, word,
				"no host; a port of this host is written with a colon, :PORT");
	if (r < 0 && text[0] != '[' && strchr(text, ':') != strrchr(text, ':'))
		return complain(reason, r, word, "an IPv6 address stands in brackets, as [::1]:37812");
	if (r < 0)
		return complain(reason, r, word,
				"no address of a router; expected HOST, HOST:PORT, [IPV6]:PORT, unix:PATH "
				"or kaiso://HOST:PORT/SERVICE");
	return 0;
}

/* ---- URLs ------------------------------------------------------------------------------------------- */

static int hex_value(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	digit |= 0x20;
	return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* RFC 3986 section 2.1. NULL, or what is wrong. */
static const char *decode_service(const char *text, char service[static KAISO_SERVICE_SIZE])
{
	size_t length = 0;

	for (; *text != '\0'; text++) {
		char byte = *text;

		if (byte == '%') {
			int high = hex_value(text[1]);
			int low = high < 0 ? -1 : hex_value(text[2]);

			if (low < 0)
				return "a '%' is followed by two hexadecimal digits";
			byte = (char)(high * 16 + low);
			text += 2;
		}
		if (is_control(byte))
			return "no service's name holds a control byte";
		if (length + 1 >= KAISO_SERVICE_SIZE)
			return "the service's name is longer than a request can be";
		service[length++] = byte;
	}
	service[length] = '\0';
	return NULL;
}

/* RFC 6874: the '%' before the zone of an IPv6 address is "%25" in a URL; many write it plain. */
static int copy_authority(const char *text, size_t length, char *copy, size_t size)
{
	size_t to = 0;

	for (size_t from = 0; from < length; from++) {
		if (to + 1 >= size)
			return -EINVAL;
		copy[to++] = text[from];
		if (strncmp(text + from, "%25", 3) == 0)
			from += 2;
	}
	copy[to] = '\0';
	return 0;
}

static int parse_url(const char *url, struct kaiso_address *address,
		     char reason[static KAISO_ADDRESS_REASON_SIZE])
{
	const char *text = url + strlen(URL_SCHEME);
	size_t length = strcspn(text, "/");
	char authority[KAISO_HOST_SIZE + sizeof("[]:65535")];
	const char *fault;

	if (strpbrk(text, "?#"))
		return complain(reason, -EINVAL, url,
				"a '?' or '#' of a service's name is written %3F or %23");
	if (length == 0 || copy_authority(text, length, authority, sizeof(authority)) < 0)
		return complain(reason, -EINVAL, url, "expected kaiso://HOST:PORT/SERVICE");
	fault = text[length] == '\0' ? NULL : decode_service(text + length + 1, address->service);
	if (fault)
		return complain(reason, -EINVAL, url, fault);
	return parse_host(authority, url, address, reason);
}

/* ---- all of them ------------------------------------------------------------------------------------ */

int kaiso_address_parse(const char *word, struct kaiso_address *address,
			char reason[static KAISO_ADDRESS_REASON_SIZE])
{
	address->unix_path = NULL;
	address->port = 0;
	address->host[0] = '\0';
	address->service[0] = '\0';
	if (kaiso_address_is_url(word))
		return parse_url(word, address, reason);
	if (strncmp(word, UNIX_PREFIX, strlen(UNIX_PREFIX)) != 0)
		return parse_host(word, word, address, reason);
	if (word[strlen(UNIX_PREFIX)] == '\0')
		return complain(reason, -EINVAL, word, "the path of the socket is missing");
	address->unix_path = word + strlen(UNIX_PREFIX);
	return 0;
}

int kaiso_address_default(struct kaiso_address *address, char reason[static KAISO_ADDRESS_REASON_SIZE])
{
	char why[KAISO_ADDRESS_REASON_SIZE];
	const char *word = getenv(KAISO_VARIABLE);
	int r;

	if (!word || *word == '\0')
		return kaiso_address_parse(KAISO_DEFAULT_HOST, address, reason);
	r = kaiso_address_parse(word, address, why);
	if (r < 0)
		snprintf(reason, KAISO_ADDRESS_REASON_SIZE, "$" KAISO_VARIABLE " is %.*s",
			 KAISO_ADDRESS_REASON_SIZE - 16, why);
	return r;
}

const char *kaiso_address_format(const struct kaiso_address *address,
				 char text[static KAISO_ADDRESS_TEXT_SIZE])
{
	static const char cut[] = "...";
	int length;

	if (address->unix_path)
		length = snprintf(text, KAISO_ADDRESS_TEXT_SIZE, UNIX_PREFIX "%s", address->unix_path);
	else
		length = snprintf(text, KAISO_ADDRESS_TEXT_SIZE,
				  strchr(address->host, ':') ? "[%s]:%u" : "%s:%u", address->host,
				  address->port);
	if (length >= KAISO_ADDRESS_TEXT_SIZE)
		memcpy(text + KAISO_ADDRESS_TEXT_SIZE - sizeof(cut), cut, sizeof(cut));
	replace_controls(text);
	return text;
}
