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
#include <stdbool.h>
#include <string.h>

#include "base/args.h"
#include "proto/options.h"
#include "proto/path.h"
#include "proto/request.h"
#include "proto/words.h"

#define HOST_NAME_MAX_BYTES 253 /* RFC 1035 section 2.3.4, in the dotted form */
#define SRV_LABEL_MAX 63
#define SOCKET_PATH_MAX 4095 /* PATH_MAX less the NUL that the kernel wants */

#define COLON_HINT "; a socket whose name holds a colon is written ./a:b"

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
	const char *percent = words_find(text, '%');
	char address[INET6_ADDRSTRLEN];
	struct in6_addr binary;

	if (percent)
		text = words_make(text.start, percent);
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
	char excerpt[WORDS_EXCERPT_SIZE];
	uint64_t number;

	if (text.length == 0)
		return words_refuse(error, 1, "no port behind the colon%s", hint);
	if (!is_digits(text))
		return words_refuse(error, 1, "port %s is not a number%s", words_excerpt(excerpt, text),
				    hint);
	if (args_parse_number_n(text.start, text.length, 1, UINT16_MAX, &number) != 0)
		return words_refuse(error, 1, "port %s is not between 1 and 65535",
				    words_excerpt(excerpt, text));
	*port = (uint16_t)number;
	return 0;
}

/* "[ADDRESS]:PORT", "[ADDRESS%SCOPE]:PORT". */
static int parse_bracketed(struct description_text field, struct description *description,
			   struct description_error *error)
{
	const char *bracket = words_find(field, ']');
	char excerpt[WORDS_EXCERPT_SIZE];
	const char *percent;

	if (!bracket)
		return words_refuse(error, 1,
				    "no ']' behind the address; an IPv6 target is written [::1]:80");
	description->host = words_make(field.start + 1, bracket);
	if (!is_ipv6(description->host))
		return words_refuse(error, 1, "%s is not an IPv6 address",
				    words_excerpt(excerpt, description->host));
	percent = words_find(description->host, '%');
	/* Interfaces may be called almost anything; these bytes are what real ones use. */
	if (percent && !is_name(words_make(percent + 1, bracket)))
		return words_refuse(error, 1, "the scope behind '%%' is not the name of an interface");
	if (description->host.length > HOST_NAME_MAX_BYTES)
		return words_refuse(error, 1, "the host is longer than %d bytes", HOST_NAME_MAX_BYTES);
	if (bracket + 1 == words_end(field) || bracket[1] != ':')
		return words_refuse(error, 1, "no ':PORT' right behind ']'");
	return parse_port(words_make(bracket + 2, words_end(field)), "", &description->port, error);
}

/* "NAME:PORT", where NAME may be an IPv4 address. The field holds a colon. */
static int parse_named(struct description_text field, struct description *description,
		       struct description_error *error)
{
	const char *colon = words_find_last(field, ':');
	char excerpt[WORDS_EXCERPT_SIZE];

	description->host = words_make(field.start, colon);
	if (words_find(description->host, ':')) {
		/* "::1:80" is an address as a whole as well; with eight groups only the host is. */
		if (is_ipv6(field) || is_ipv6(description->host))
			return words_refuse(error, 1, "an IPv6 address needs brackets: [::1]:80");
		return words_refuse(error, 1, "more than one colon" COLON_HINT);
	}
	if (description->host.length == 0)
		return words_refuse(error, 1, "no host before '%s'", words_excerpt(excerpt, field));
	if (!is_name(description->host))
		return words_refuse(error, 1, "%s is not the name of a host" COLON_HINT,
				    words_excerpt(excerpt, description->host));
	if (description->host.length > HOST_NAME_MAX_BYTES)
		return words_refuse(error, 1, "the host is longer than %d bytes", HOST_NAME_MAX_BYTES);
	return parse_port(words_make(colon + 1, words_end(field)), COLON_HINT, &description->port, error);
}

/* ---- targets --------------------------------------------------------------------------------------- */

/* What follows HOST:PORT. Better found here, with file and line, than by the router that would words_refuse it. */
static int parse_service(struct description_text service, struct description *description,
			 struct description_error *error)
{
	const bool is_mount = service.start[service.length - 1] == '/';
	enum path_verdict verdict = PATH_OK;

	if (is_mount)
		service.length--;
	/* It goes out with CRLF, and has to fit a line like everybody's. */
	if (!is_mount || service.length > 0)
		verdict = path_check(service.start, service.length);
	if (verdict == PATH_OK && service.length > REQUEST_LINE_MAX - 2)
		verdict = PATH_TOO_LONG;
	if (verdict != PATH_OK)
		return words_refuse(error, 1, "no router accepts the service path: %s",
				    path_verdict_text(verdict));
	description->kind = is_mount            ? DESCRIPTION_MOUNT :
			    description->is_srv ? DESCRIPTION_SRV :
						  DESCRIPTION_KAISO;
	description->service = service;
	return 0;
}

/* Of "srv:NAME". Labels have 63 bytes at most (RFC 1035, section 2.3.4). */
static int parse_srv_name(struct description_text name, struct description *description,
			  struct description_error *error)
{
	size_t label = 0;

	if (!is_name(name))
		return words_refuse(error, 1, "no name behind 'srv:' that DNS could have" COLON_HINT);
	for (size_t i = 0; i < name.length; i++) {
		label = name.start[i] == '.' ? 0 : label + 1;
		if (label > SRV_LABEL_MAX)
			return words_refuse(error, 1, "a part of the name is longer than %d bytes",
					    SRV_LABEL_MAX);
		if (label == 0 && (i == 0 || name.start[i - 1] == '.'))
			return words_refuse(error, 1, "an empty part in the name behind 'srv:'");
	}
	if (name.length > HOST_NAME_MAX_BYTES)
		return words_refuse(error, 1, "the name is longer than %d bytes", HOST_NAME_MAX_BYTES);
	description->is_srv = true;
	description->host = name;
	return 0;
}

/* A line whose first field holds a colon. */
static int parse_network(struct description_text line, struct description_text field,
			 struct description *description, struct description_error *error)
{
	struct description_text service = words_trim_start(words_make(words_end(field), words_end(line)));
	int result;

	/* A host may well be called srv: digits behind the colon are its port. */
	if (words_begins(field, "srv:") && field.length > strlen("srv:") &&
	    !is_digits(words_make(field.start + strlen("srv:"), words_end(field))))
		result = parse_srv_name(words_make(field.start + strlen("srv:"), words_end(field)),
					description, error);
	else if (field.start[0] == '[')
		result = parse_bracketed(field, description, error);
	else
		result = parse_named(field, description, error);
	if (result != 0)
		return result;
	if (service.length > 0)
		return parse_service(service, description, error);
	description->kind = description->is_srv ? DESCRIPTION_SRV : DESCRIPTION_TCP;
	return 0;
}

/* "passfd" or "passfd:PORT" as the last field of a line that names a socket before it. */
static int parse_handover(struct description_text line, struct description_text field,
			  struct description *description, struct description_error *error)
{
	description->kind = DESCRIPTION_PASSFD;
	description->socket = words_trim_end(words_make(line.start, field.start));
	if (words_is(field, "passfd"))
		return 0;
	return parse_port(words_make(field.start + strlen("passfd:"), words_end(field)), "",
			  &description->knock_port, error);
}

static int parse_socket(struct description_text line, struct description *description,
			struct description_error *error)
{
	struct description_text last = words_last_field(line);
	bool is_alone = last.start == line.start;
	int result;

	/* Where the path leads is the operator's choice: ".." and hidden names are fine here. */
	description->kind = DESCRIPTION_UNIX;
	description->socket = line;
	/* A line of nothing but "passfd" is a socket of that name. */
	if (!is_alone && (words_is(last, "passfd") || words_begins(last, "passfd:"))) {
		result = parse_handover(line, last, description, error);
		if (result != 0)
			return result;
	}
	if (description->socket.length > SOCKET_PATH_MAX)
		return words_refuse(error, 1, "the socket path is longer than %d bytes", SOCKET_PATH_MAX);
	return 0;
}

/* Faults that a first line can have whatever kind of target it means. */
static int check_first_line(struct description_text line, struct description_error *error)
{
	if (line.length == 0)
		return words_refuse(error, 1, "the first line is blank; it must hold the target");
	if (words_is_blank(line.start[0]))
		return words_refuse(
			error, 1, "the first line begins with a blank; a socket named so is written ./NAME");
	if (line.start[0] == '#')
		return words_refuse(error, 1,
				    "the first line is a comment; a socket named so is written ./NAME");
	for (size_t i = 0; i < line.length; i++) {
		unsigned char byte = (unsigned char)line.start[i];

		/* A tab is a blank. */
		if ((byte < 0x20 && byte != '\t') || byte == 0x7f)
			return words_refuse(error, 1, "the first line holds a control byte (0x%02x)", byte);
	}
	return 0;
}

/* Decides which kind of target the line means, by its first field. */
static int parse_target(struct description_text line, struct description *description,
			struct description_error *error)
{
	struct description_text field = words_first_field(line);
	bool is_path = words_begins(field, "/") || words_begins(field, "./") || words_begins(field, "../");

	/* What the kind of target does not have is empty, yet never NULL. */
	*description = (struct description){
		.target = line,
		.host = words_make(line.start, line.start),
		.service = words_make(line.start, line.start),
		.socket = words_make(line.start, line.start),
		.options = words_make(words_end(line), words_end(line)),
	};
	if (!is_path && words_find(field, ':'))
		return parse_network(line, field, description, error);
	return parse_socket(line, description, error);
}

/* ---- the file -------------------------------------------------------------------------------------- */

static int check_bytes(struct description_text file, struct description_error *error)
{
	const char *nul;
	unsigned line = 1;

	if (file.length > DESCRIPTION_SIZE_MAX)
		return words_refuse(error, 0, "larger than %d bytes", DESCRIPTION_SIZE_MAX);
	nul = words_find(file, '\0');
	if (!nul)
		return 0;
	/* The file may be something else altogether: the line still helps to find what crept in. */
	for (const char *byte = file.start; byte < nul; byte++)
		line += *byte == '\n';
	return words_refuse(error, line, "a NUL byte");
}

int description_parse_target(struct description_text target, unsigned line, struct description *description,
			     struct description_error *error)
{
	struct description parsed;
	int result = parse_target(words_trim_end(target), &parsed, error);

	if (result != 0)
		error->line = line;
	else
		*description = parsed;
	return result;
}

/* All targets are mounts, or none is: what a path asks for may not depend on which of them answers. */
static int check_backend(const struct description *first, const struct option_line *option, unsigned line,
			 struct description_error *error)
{
	struct description backend;
	int result = description_parse_target(option->value, line, &backend, error);

	if (result == 0 && (backend.kind == DESCRIPTION_MOUNT) != (first->kind == DESCRIPTION_MOUNT))
		return words_refuse(error, line, "a mount beside a target that is none");
	return result;
}

/* A socket that is handed over has bytes of its client in it, and nothing can be put before those. */
static int check_proxy(const struct description *first, const struct option_line *option, unsigned line,
		       struct description_error *error)
{
	if (first->kind != DESCRIPTION_PASSFD || option->number == PROXY_NONE)
		return 0;
	return words_refuse(
		error, line,
		"no header of the PROXY protocol can be sent ahead of a socket that is handed over (passfd)");
}

static int check_options(const struct description *description, struct description_error *error)
{
	struct options_cursor cursor = options_begin(description->options, 2);
	struct option_line option;
	int result;

	while ((result = options_next(&cursor, &option, error)) > 0) {
		if (option.key == OPTION_BACKEND)
			result = check_backend(description, &option, cursor.line, error);
		if (option.key == OPTION_PROXY)
			result = check_proxy(description, &option, cursor.line, error);
		if (result < 0)
			return result;
	}
	return result;
}

/* Parses into a local first, because a fault in a late line must leave the caller's description alone. */
int description_parse(const char *bytes, size_t length, struct description *description,
		      struct description_error *error)
{
	struct description_text rest = { length > 0 ? bytes : "", length };
	struct description_text first;
	struct description parsed;
	int result = check_bytes(rest, error);

	if (result != 0)
		return result;
	first = words_take_line(&rest);
	result = check_first_line(first, error);
	if (result == 0)
		result = parse_target(first, &parsed, error);
	if (result != 0)
		return result;
	parsed.options = rest;
	result = check_options(&parsed, error);
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
	case DESCRIPTION_MOUNT:
		return "mount";
	case DESCRIPTION_SRV:
		return "srv";
	}
	return "unknown";
}
