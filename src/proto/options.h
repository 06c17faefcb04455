/*
 * Option lines: "key value", in service descriptions behind the first line, and in the
 * hidden file DIRECTORY_OPTIONS (proto/path.h) of a directory for everything at and below it (the protocol,
 * "Service descriptions").
 *
 * Blank lines and lines whose first byte behind blanks is '#' are comments. A key is a word; its value is the
 * rest of the line without the blanks at its ends. Keys other than OPTION_BACKEND, OPTION_ALLOW and OPTION_DENY
 * may stand once in a file.
 *
 * Pure text, no allocation: the results point into the caller's bytes.
 */
#ifndef KAISO_PROTO_OPTIONS_H
#define KAISO_PROTO_OPTIONS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/description.h"

#define OPTIONS_BACKENDS_MAX 63 /* backend lines of a file; with the first line 64 targets */

enum option_key {
	OPTION_ABOUT,           /* about TEXT: printable, any UTF-8 */
	OPTION_BACKEND,         /* backend TARGET */
	OPTION_BALANCE,         /* balance first, round-robin, least-sessions */
	OPTION_ALLOW,           /* allow ADDRESS[/BITS] ... */
	OPTION_DENY,            /* deny ADDRESS[/BITS] ... */
	OPTION_PROXY,           /* proxy v1, v2; none where a directory says otherwise */
	OPTION_MAX_SESSIONS,    /* max-sessions N; 0 for no limit */
	OPTION_CONNECT_TIMEOUT, /* connect-timeout DURATION; 0 for none */
	OPTION_IDLE_TIMEOUT,    /* idle-timeout DURATION; 0 for none */
};
#define OPTION_COUNT (OPTION_IDLE_TIMEOUT + 1)

enum balance {
	BALANCE_FIRST, /* in the order in which they stand */
	BALANCE_ROUND_ROBIN,
	BALANCE_LEAST_SESSIONS,
};

/* The version of the PROXY protocol's header. */
enum proxy_version { PROXY_NONE, PROXY_V1, PROXY_V2 };

/* One option. number is the value of those that are one: MAX_SESSIONS, the timeouts in milliseconds, enum balance,
 * enum proxy_version. */
struct option_line {
	enum option_key key;
	struct description_text value;
	uint64_t number;
};

/* What is left to be read, and what was read: begin with options_begin(). */
struct options_cursor {
	struct description_text rest;
	unsigned line;     /* the number of the line that was read last */
	unsigned seen;     /* keys that have stood there, a bit each */
	unsigned backends; /* how many of them */
};

/* first_line: the number that the first line of text has in its file. */
struct options_cursor options_begin(struct description_text text, unsigned first_line);

/* 1: *option is the next one; 0: there is none any more; -EINVAL: *error says why and where. The text may hold
 * anything; a control byte other than a tab makes a line invalid. */
int options_next(struct options_cursor *cursor, struct option_line *option, struct description_error *error);

/* An IPv6 address, or an IPv4 one in its mapped form (RFC 4291, section 2.5.5.2), and how many of the 128 bits count. */
struct access_rule {
	struct in6_addr address; /* bits that do not count are 0 */
	uint8_t bits;
	bool is_allowed;
};

/* Takes the next address off the front of an ALLOW's or DENY's value: 1, 0 for none any more, or -EINVAL with a reason. */
int access_rule_next(struct description_text *value, bool is_allowed, struct access_rule *rule,
		     struct description_error *error);

/* Who may: of the rules that the address falls under, the one with the most bits decides, and among equals the one that
 * denies. Where none does, the address may unless any rule allows. */
bool access_is_allowed(const struct access_rule *rules, size_t count, const struct in6_addr *address);

/* The word of the key. Static. */
const char *option_key_name(enum option_key key);

/* Words of their values. Static. */
const char *balance_name(enum balance balance);
const char *proxy_version_name(enum proxy_version version);

#endif
