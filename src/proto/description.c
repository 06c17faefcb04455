/*
 * Service descriptions: from the bytes of a file to a target.
 *
 * Theory of operation: the file is judged in three passes. Its size and a NUL
 * byte concern the file as a whole; then the first line is read as a target;
 * then each further line as an option. The first fault wins and is told
 * with its line, for the log and for whoever wrote the file.
 *
 * A colon in the first field decides between a network target and a socket,
 * and never does a network target with a fault become a socket: a mistyped port
 * must not end as a file name that just is not there. Whoever means a socket
 * with a colon in its name says so with "./". All of a socket's line is its
 * name, inner blanks included, but for "passfd" as the last field.
 *
 * Reasons quote the file through an excerpt, so that they stay short and
 * printable whatever the file holds.
 */
#include "proto/description.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/macros.h"
#include "proto/path.h"
#include "proto/request.h"

#define HOST_NAME_MAX_BYTES 253 /* RFC 1035 section 2.3.4, in the dotted form */
#define SOCKET_PATH_MAX 4095    /* PATH_MAX less the NUL that the kernel wants */
#define EXCERPT_SIZE 40

#define COLON_HINT "; a socket whose name holds a colon is written ./a:b"

/* ---- text ------------------------------------------------------------------------------------------ */

static struct description_text text_make(const char *start, const char *end)
{
	return (struct description_text){ start, (size_t)(end - start) };
}

static const char *text_end(struct description_text text)
{
	return text.start + text.length;
}

/* Where byte stands first, or NULL; memchr() wants a buffer even for no bytes at all. */
static const char *text_find(struct description_text text, char byte)
{
	return text.length > 0 ? memchr(text.start, byte, text.length) : NULL;
}

static const char *text_find_last(struct description_text text, char byte)
{
	for (size_t i = text.length; i > 0; i--) {
		if (text.start[i - 1] == byte)
			return text.start + i - 1;
	}
	return NULL;
}

static bool text_begins(struct description_text text, const char *word)
{
	size_t length = strlen(word);

	return text.length >= length && memcmp(text.start, word, length) == 0;
}

static bool text_is(struct description_text text, const char *word)
{
	return text.length == strlen(word) && text_begins(text, word);
}

static bool is_blank(char byte)
{
	return byte == ' ' || byte == '\t';
}

static struct description_text text_trim_start(struct description_text text)
{
	while (text.length > 0 && is_blank(text.start[0])) {
		text.start++;
		text.length--;
	}
	return text;
}

static struct description_text text_trim_end(struct description_text text)
{
	while (text.length > 0 && is_blank(text.start[text.length - 1]))
		text.length--;
	return text;
}

/* Up to the first blank. */
static struct description_text text_first_field(struct description_text text)
{
	size_t length = 0;

	while (length < text.length && !is_blank(text.start[length]))
		length++;
	return (struct description_text){ text.start, length };
}

/* From behind the last blank. */
static struct description_text text_last_field(struct description_text text)
{
	size_t length = 0;

	while (length < text.length && !is_blank(text.start[text.length - length - 1]))
		length++;
	return (struct description_text){ text_end(text) - length, length };
}

/*
 * Takes the next line off the front of rest, without its end and the blanks before that. A CR
 * counts as part of a line's end only where a LF follows.
 */
static struct description_text text_take_line(struct description_text *rest)
{
	const char *lf = text_find(*rest, '\n');
	struct description_text line = *rest;

	if (!lf) {
		*rest = text_make(text_end(*rest), text_end(*rest));
		return text_trim_end(line);
	}
	line = text_make(rest->start, lf);
	*rest = text_make(lf + 1, text_end(*rest));
	if (line.length > 0 && lf[-1] == '\r')
		line.length--;
	return text_trim_end(line);
}

/* ---- reasons --------------------------------------------------------------------------------------- */

/* Writes the beginning of text as printable ASCII; what else it holds becomes '?'. Returns excerpt. */
static const char *excerpt_make(char excerpt[static EXCERPT_SIZE], struct description_text text)
{
	size_t shown = MIN(text.length, (size_t)EXCERPT_SIZE - 1);

	for (size_t i = 0; i < shown; i++)
		excerpt[i] = text.start[i] >= 0x20 && text.start[i] < 0x7f ? text.start[i] : '?';
	if (shown < text.length)
		memcpy(excerpt + shown - 3, "...", 3);
	excerpt[shown] = '\0';
	return excerpt;
}

/* Fills in *error and returns what the parser is to return. */
PRINTF_LIKE(3, 4)
static int refuse(struct description_error *error, unsigned line, const char *format, ...)
{
	va_list arguments;

	error->line = line;
	va_start(arguments, format);
	vsnprintf(error->reason, sizeof(error->reason), format, arguments);
	va_end(arguments);
	return -EINVAL;
}

/* ---- HOST:PORT ------------------------------------------------------------------------------------- */

/* At least one, and nothing else: no sign, no blank. */
static bool is_digits(struct description_text text)
{
	for (size_t i = 0; i < text.length; i++) {
		if (text.start[i] < '0' || text.start[i] > '9')
			return false;
	}
	return text.length > 0;
}

/* Letters, digits, '-', '.' and '_' (which DNS allows and which names of machines do have). */
static bool is_name(struct description_text text)
{
	for (size_t i = 0; i < text.length; i++) {
		unsigned char byte = (unsigned char)text.start[i];

		if (byte >= 0x80 || (!isalnum(byte) && byte != '-' && byte != '.' && byte != '_'))
			return false;
	}
	return text.length > 0;
}

/*
 * Is the text, up to a '%' that begins a scope, an IPv6 address? inet_pton() only reads text: whether
 * this machine has such a scope, or IPv6 at all, shows when the service is opened.
 */
static bool is_ipv6(struct description_text text)
{
	const char *percent = text_find(text, '%');
	char address[INET6_ADDRSTRLEN];
	struct in6_addr binary;

	if (percent)
		text = text_make(text.start, percent);
	if (text.length >= sizeof(address))
		return false;
	memcpy(address, text.start, text.length);
	address[text.length] = '\0';
	return inet_pton(AF_INET6, address, &binary) == 1;
}

/* hint follows the reason where the colon before text may be part of a name. */
static int parse_port(struct description_text text, const char *hint, uint16_t *port,
		      struct description_error *error)
{
	char excerpt[EXCERPT_SIZE];
	uint64_t number;

	if (text.length == 0)
		return refuse(error, 1, "no port behind the colon%s", hint);
	if (!is_digits(text))
		return refuse(error, 1, "port %s is not a number%s", excerpt_make(excerpt, text), hint);
	if (args_parse_number_n(text.start, text.length, 1, UINT16_MAX, &number) != 0)
		return refuse(error, 1, "port %s is not between 1 and 65535", excerpt_make(excerpt, text));
	*port = (uint16_t)number;
	return 0;
}

/* "[ADDRESS]:PORT", "[ADDRESS%SCOPE]:PORT". */
static int parse_bracketed(struct description_text field, struct description *description,
			   struct description_error *error)
{
	const char *bracket = text_find(field, ']');
	char excerpt[EXCERPT_SIZE];
	const char *percent;

	if (!bracket)
		return refuse(error, 1, "no ']' behind the address; an IPv6 target is written [::1]:80");
	description->host = text_make(field.start + 1, bracket);
	if (!is_ipv6(description->host))
		return refuse(error, 1, "%s is not an IPv6 address",
			      excerpt_make(excerpt, description->host));
	percent = text_find(description->host, '%');
	/* Interfaces may be called almost anything; these bytes are what real ones use. */
	if (percent && !is_name(text_make(percent + 1, bracket)))
		return refuse(error, 1, "the scope behind '%%' is not the name of an interface");
	if (description->host.length > HOST_NAME_MAX_BYTES)
		return refuse(error, 1, "the host is longer than %d bytes", HOST_NAME_MAX_BYTES);
	if (bracket + 1 == text_end(field) || bracket[1] != ':')
		return refuse(error, 1, "no ':PORT' right behind ']'");
	return parse_port(text_make(bracket + 2, text_end(field)), "", &description->port, error);
}

/* "NAME:PORT", where NAME may be an IPv4 address. The field holds a colon. */
static int parse_named(struct description_text field, struct description *description,
		       struct description_error *error)
{
	const char *colon = text_find_last(field, ':');
	char excerpt[EXCERPT_SIZE];

	description->host = text_make(field.start, colon);
	if (text_find(description->host, ':')) {
		/* "::1:80" is an address as a whole as well; with eight groups only the host is. */
		if (is_ipv6(field) || is_ipv6(description->host))
			return refuse(error, 1, "an IPv6 address needs brackets: [::1]:80");
		return refuse(error, 1, "more than one colon" COLON_HINT);
	}
	if (description->host.length == 0)
		return refuse(error, 1, "no host before '%s'", excerpt_make(excerpt, field));
	if (!is_name(description->host))
		return refuse(error, 1, "%s is not the name of a host" COLON_HINT,
			      excerpt_make(excerpt, description->host));
	if (description->host.length > HOST_NAME_MAX_BYTES)
		return refuse(error, 1, "the host is longer than %d bytes", HOST_NAME_MAX_BYTES);
	return parse_port(text_make(colon + 1, text_end(field)), COLON_HINT, &description->port, error);
}

/* ---- targets --------------------------------------------------------------------------------------- */

/* What follows HOST:PORT. Better found here, with file and line, than by the router that would refuse it. */
static int parse_service(struct description_text service, struct description *description,
			 struct description_error *error)
{
	enum path_verdict verdict;

	if (service.start[service.length - 1] == '/')
		return refuse(error, 1, "mounts (a path that ends in '/') are not supported by this version");
	/* It goes out with CRLF, and has to fit a line like everybody's. */
	verdict = path_check(service.start, service.length);
	if (verdict == PATH_OK && service.length > REQUEST_LINE_MAX - 2)
		verdict = PATH_TOO_LONG;
	if (verdict != PATH_OK)
		return refuse(error, 1, "no router accepts the service path: %s", path_verdict_text(verdict));
	description->kind = DESCRIPTION_KAISO;
	description->service = service;
	return 0;
}

/* A line whose first field holds a colon. */
static int parse_network(struct description_text line, struct description_text field,
			 struct description *description, struct description_error *error)
{
	struct description_text service = text_trim_start(text_make(text_end(field), text_end(line)));
	int result;

	/* A host may well be called srv: digits behind the colon are its port. */
	if (text_begins(field, "srv:") && field.length > strlen("srv:") &&
	    !is_digits(text_make(field.start + strlen("srv:"), text_end(field))))
		return refuse(error, 1, "srv: targets are not supported by this version");
	result = field.start[0] == '[' ? parse_bracketed(field, description, error) :
					 parse_named(field, description, error);
	if (result != 0)
		return result;
	if (service.length > 0)
		return parse_service(service, description, error);
	description->kind = DESCRIPTION_TCP;
	return 0;
}

/* "passfd" or "passfd:PORT" as the last field of a line that names a socket before it. */
static int parse_handover(struct description_text line, struct description_text field,
			  struct description *description, struct description_error *error)
{
	description->kind = DESCRIPTION_PASSFD;
	description->socket = text_trim_end(text_make(line.start, field.start));
	if (text_is(field, "passfd"))
		return 0;
	return parse_port(text_make(field.start + strlen("passfd:"), text_end(field)), "",
			  &description->knock_port, error);
}

static int parse_socket(struct description_text line, struct description *description,
			struct description_error *error)
{
	struct description_text last = text_last_field(line);
	bool is_alone = last.start == line.start;
	int result;

	/* Where the path leads is the operator's choice: ".." and hidden names are fine here. */
	description->kind = DESCRIPTION_UNIX;
	description->socket = line;
	/* A line of nothing but "passfd" is a socket of that name. */
	if (!is_alone && (text_is(last, "passfd") || text_begins(last, "passfd:"))) {
		result = parse_handover(line, last, description, error);
		if (result != 0)
			return result;
	}
	if (description->socket.length > SOCKET_PATH_MAX)
		return refuse(error, 1, "the socket path is longer than %d bytes", SOCKET_PATH_MAX);
	return 0;
}

/* Faults that a first line can have whatever kind of target it means. */
static int check_first_line(struct description_text line, struct description_error *error)
{
	if (line.length == 0)
		return refuse(error, 1, "the first line is blank; it must hold the target");
	if (is_blank(line.start[0]))
		return refuse(error, 1,
			      "the first line begins with a blank; a socket named so is written ./NAME");
	if (line.start[0] == '#')
		return refuse(error, 1, "the first line is a comment; a socket named so is written ./NAME");
	for (size_t i = 0; i < line.length; i++) {
		unsigned char byte = (unsigned char)line.start[i];

		/* A tab is a blank. */
		if ((byte < 0x20 && byte != '\t') || byte == 0x7f)
			return refuse(error, 1, "the first line holds a control byte (0x%02x)", byte);
	}
	return 0;
}

/* Decides which kind of target the line means, by its first field. */
static int parse_target(struct description_text line, struct description *description,
			struct description_error *error)
{
	struct description_text field = text_first_field(line);
	bool is_path = text_begins(field, "/") || text_begins(field, "./") || text_begins(field, "../");
	int result = check_first_line(line, error);

	if (result != 0)
		return result;
	/* What the kind of target does not have is empty, yet never NULL. */
	*description = (struct description){
		.target = line,
		.host = text_make(line.start, line.start),
		.service = text_make(line.start, line.start),
		.socket = text_make(line.start, line.start),
	};
	if (!is_path && text_find(field, ':'))
		return parse_network(line, field, description, error);
	return parse_socket(line, description, error);
}

/* ---- the file -------------------------------------------------------------------------------------- */

/* One line after the first. This version knows no option, so that only blank lines and comments pass. */
static int description_parse_option(struct description_text line, unsigned number,
				    struct description_error *error)
{
	struct description_text option = text_trim_start(line);
	char excerpt[EXCERPT_SIZE];

	if (option.length == 0 || option.start[0] == '#')
		return 0;
	return refuse(error, number, "option lines are not supported by this version: %s",
		      excerpt_make(excerpt, text_first_field(option)));
}

static int check_bytes(struct description_text file, struct description_error *error)
{
	const char *nul;
	unsigned line = 1;

	if (file.length > DESCRIPTION_SIZE_MAX)
		return refuse(error, 0, "larger than %d bytes", DESCRIPTION_SIZE_MAX);
	nul = text_find(file, '\0');
	if (!nul)
		return 0;
	/* The file may be something else altogether: the line still helps to find what crept in. */
	for (const char *byte = file.start; byte < nul; byte++)
		line += *byte == '\n';
	return refuse(error, line, "a NUL byte");
}

/* Parses into a local first, because a fault in a late line must leave the caller's description alone. */
int description_parse(const char *bytes, size_t length, struct description *description,
		      struct description_error *error)
{
	struct description_text rest = { length > 0 ? bytes : "", length };
	struct description parsed;
	int result = check_bytes(rest, error);

	if (result != 0)
		return result;
	result = parse_target(text_take_line(&rest), &parsed, error);
	for (unsigned number = 2; result == 0 && rest.length > 0; number++)
		result = description_parse_option(text_take_line(&rest), number, error);
	if (result == 0)
		*description = parsed;
	return result;
}

const char *description_kind_name(enum description_kind kind)
{
	switch (kind) {
	case DESCRIPTION_TCP:
		return "tcp";
	case DESCRIPTION_KAISO:
		return "kaiso";
	case DESCRIPTION_UNIX:
		return "unix";
	case DESCRIPTION_PASSFD:
		return "passfd";
	}
	return "unknown";
}
