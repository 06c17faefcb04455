/*
 * Lists of services: walking the services directory, off the event loops.
 *
 * One thread walks; the loops only hand it requests and send what comes back.
 * So neither a hundred thousand entries nor a slow file system holds up a
 * session. Requests for the same list that wait together share one walk and one
 * text; a walk that began before a request came is never its answer. A finished
 * text that equals one which somebody still holds is dropped in favour of that
 * one, so slow readers of an unchanged directory hold one text together. Texts
 * that nobody holds are not kept.
 */
#ifndef KAISO_ROUTER_LISTING_H
#define KAISO_ROUTER_LISTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

/* Bounds of one walk; what lies beyond is left out, and the log says so. Names count when they are
 * read, listed or not, so this bounds memory and time too: of links that lead into each other
 * crosswise, for one. Depth has no bound but the length of a path (PATH_LENGTH_MAX). */
#define LISTING_ENTRIES_MAX 1000000
#define LISTING_TEXT_MAX (128u << 20)

/* Directories that one walk keeps open while it is in deeper ones; beyond, they are closed, and
 * opened again when the walk comes back to them. */
#define LISTING_DESCRIPTORS_MAX 16

/* A finished list, shared and immutable. text ends with the empty line (CRLF). */
struct listing_text {
	_Atomic unsigned references; /* changed by listing.c alone */
	uint64_t hash;
	struct list link; /* all texts that somebody holds */
	size_t length;
	char bytes[];
};

/* Gives one reference back; the last one frees the text. NULL is allowed. Thread safe; never waits
 * for a walk. */
void listing_text_unref(struct listing_text *text);

/* ---- walking, also used by `kaiso check` ------------------------------------------------------- */

enum listing_entry_kind {
	LISTING_SOCKET,      /* a UNIX socket file (the type shows on connecting only), or a link to one */
	LISTING_DESCRIPTION, /* a regular file, or a link to one */
	LISTING_DANGLING,    /* a link that leads nowhere: reported, never listed */
	LISTING_CIRCLE,      /* a linked or bind-mounted directory that contains itself: not entered */
	LISTING_BAD_NAME,    /* a name with control bytes: reported, never listed */
	LISTING_OTHER,       /* neither socket, regular file nor directory: reported, never listed */
	LISTING_UNREADABLE,  /* a directory or link that cannot be read, or not to its end: reported */
	LISTING_TRUNCATED,   /* a bound was reached here: reported */
};

struct listing_entry {
	enum listing_entry_kind kind;
	const char *path; /* from the services directory on; terminated; valid during the call only */
	size_t path_length;
	int directory_fd; /* borrowed, maybe O_PATH: the directory that holds the entry, and */
	const char *name; /* its name therein, for openat(2); "." where the walk began */
	/* UNREADABLE: an errno. TRUNCATED: ENAMETOOLONG, no request line can carry the path; E2BIG,
	 * LISTING_ENTRIES_MAX names were read, told once, of the first directory that is incomplete.
	 * Else 0. */
	int error;
};

/* Called for each entry, depth first, the names of a directory in byte order (a directory's content
 * stands where its name sorts; bytes compared unsigned). Hidden ones are never reported. A result
 * other than 0 stops the walk and is returned by listing_walk(). */
typedef int (*listing_visit)(const struct listing_entry *entry, void *context);

/*
 * Walks what lies below directory ("" for all; a path that path_check() accepts) of the services
 * directory. Linked directories are followed unless the walk is inside them already (device and
 * inode). "Inside" counts from the services directory, so that the list of a directory is that part
 * of the whole list; the directory asked for is itself always entered. What vanishes during the walk
 * is passed over in silence.
 *
 * Blocks on the file system. 0; -ENOENT or -ENOTDIR when there is no such directory, another negative
 * errno when it cannot be read; -EMFILE, -ENFILE or -ENOMEM when the process ran out of something, at
 * whatever point, for a list with holes in it would pass for the whole; or what visit returned.
 */
int listing_walk(const char *services, const char *directory, size_t directory_length, listing_visit visit,
		 void *context);

/* ---- the lister thread ------------------------------------------------------------------------- */

struct lister;

/*
 * One wish for a list, in the caller's storage, untouched by the caller until it is done.
 * on_done() is called on the LISTER's thread, once, and must only hand the wish back to its loop;
 * then result says: 0 with text set (one reference, the wisher's); else text is NULL: -ENOENT (no
 * such directory), -ENOMEM, -ECANCELED, or another negative errno of listing_walk().
 * The wish belongs to the wisher again once on_done() was called.
 */
struct listing_wish {
	struct list link;
	void (*on_done)(struct listing_wish *wish);
	bool is_detailed; /* the ".kaiso/list" form: path TAB kind TAB about CRLF */
	size_t directory_length;
	int result;
	struct listing_text *text;
	const char *directory; /* terminated; "" for all; borrowed until the wish is done */
};

/* Starts the thread (all signals blocked in it). services is borrowed for the lister's life, and looked
 * up anew for every walk. NULL when out of resources (errno). */
struct lister *lister_new(const char *services);

/* Ends the thread. Wishes not answered yet are answered with -ECANCELED, also those of the walk under
 * way, which stops at its next entry; waits for that. Nothing may be submitted any more. NULL is
 * allowed. */
void lister_free(struct lister *lister);

/* Thread safe, never blocks on the file system. */
void lister_submit(struct lister *lister, struct listing_wish *wish);

#endif
