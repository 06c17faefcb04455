/*
 * Service descriptions: the small files in a services directory (the protocol,
 * "Service descriptions").
 *
 * The first line is a target; those after it are options (proto/options.h). Blanks are spaces and tabs.
 *
 * Pure text, no allocation: the results point into the caller's bytes.
 */
#ifndef KAISO_PROTO_DESCRIPTION_H
#define KAISO_PROTO_DESCRIPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DESCRIPTION_SIZE_MAX 65536

enum description_kind {
	DESCRIPTION_TCP,    /* HOST:PORT */
	DESCRIPTION_KAISO,  /* HOST:PORT SERVICE */
	DESCRIPTION_UNIX,   /* SOCKET */
	DESCRIPTION_PASSFD, /* SOCKET passfd, SOCKET passfd:PORT */
	DESCRIPTION_MOUNT,  /* HOST:PORT SERVICE/, HOST:PORT /, srv:NAME SERVICE/, srv:NAME / */
	DESCRIPTION_SRV,    /* srv:NAME, srv:NAME SERVICE */
};

/* Text inside the parsed bytes; not terminated. */
struct description_text {
	const char *start;
	size_t length;
};

struct description {
	enum description_kind kind;
	bool is_srv;                    /* SRV, MOUNT: host is a name that SRV is asked for */
	struct description_text target; /* the whole first line without trailing blanks, for logs */
	struct description_text
		host;  /* TCP, KAISO, MOUNT, SRV: a name or an address, IPv6 without its brackets */
	uint16_t port; /* TCP, KAISO, MOUNT: 1 to 65535; 0 where is_srv */
	struct description_text
		service; /* KAISO, SRV: the path to ask for; MOUNT: what goes before it, without the '/' */
	struct description_text socket;  /* UNIX, PASSFD: relative to the services directory, or absolute */
	uint16_t knock_port;             /* PASSFD: 1 to 65535, 0 for none */
	struct description_text options; /* the lines behind the first; options_begin(options, 2) */
};

/* Why a description is invalid: the line (from 1; 0 when it is the file as a whole) and a reason. */
struct description_error {
	unsigned line;
	char reason[160];
};

/* 0 with *description filled in, or -EINVAL with *error filled in; the other one is left alone.
 * Texts that a kind does not have are empty, never NULL. bytes may be NULL when length is 0. A reason is
 * terminated printable ASCII, whatever the file holds. */
int description_parse(const char *bytes, size_t length, struct description *description,
		      struct description_error *error);

/* One target, such as that of a backend option in that line of its file. Blanks behind it do no harm, and no control
 * byte may be in it. As description_parse(). */
int description_parse_target(struct description_text target, unsigned line, struct description *description,
			     struct description_error *error);

/* "tcp", "kaiso", "unix", "passfd", "mount", "srv": the word that detailed lists use. Static. */
const char *description_kind_name(enum description_kind kind);

#endif
