/*
 * Lists of services, written by a thread of its own, off the event loops.
 *
 * One thread walks; the loops only hand it requests and send what comes back.
 * So neither a hundred thousand entries nor a slow file system holds up a
 * session. Requests for the same list that wait together share one walk and one
 * text; a walk that began before a request came is never its answer. A finished
 * text that equals one which somebody still holds is dropped in favour of that
 * one, so slow readers of an unchanged directory hold one text together. Texts
 * that nobody holds are not kept.
 *
 * Left out is what the client may not open, and what cannot be judged because its rules are invalid or are just being
 * written. A list that rules had a say in is shared only by wishes of the same address.
 */
#ifndef KAISO_ROUTER_LISTER_H
#define KAISO_ROUTER_LISTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "net/addr.h"
#include "router/policy.h"

/* No list is longer; what would be is left out, and the log says so. */
#define LISTER_TEXT_MAX (128u << 20)

/* Nor are there more bytes of lists at a time, of all that clients have not taken yet. */
#define LISTER_TEXTS_MAX (256u << 20)

/* A finished list, shared and immutable. text ends with the empty line (CRLF). */
struct lister_text {
	_Atomic unsigned references; /* changed by lister.c alone */
	uint64_t hash;
	struct list link; /* all texts that somebody holds */
	size_t length;
	char bytes[];
};

/* Gives one reference back; the last one frees the text. NULL is allowed. Thread safe; never waits
 * for a walk. */
void lister_text_unref(struct lister_text *text);

/* One reference more. */
void lister_text_ref(struct lister_text *text);

/* A text as another process had made it, with one reference. NULL when out of memory, or over LISTER_TEXTS_MAX. */
struct lister_text *lister_text_restored(const char *bytes, size_t length);

struct lister;

/*
 * One wish for a list, in the caller's storage, untouched by the caller until it is done, save
 * is_cancelled. on_done() is called on the LISTER's thread, once, and must only hand the wish back to its
 * loop; then result says: 0 with text set (one reference, the wisher's); else text is NULL: -ENOENT (no
 * such directory, or none of which this client may see anything), -ENOBUFS (LISTER_TEXTS_MAX), -ENOMEM, -ECANCELED, or another negative errno of
 * listing_walk(). The wish belongs to the wisher again once on_done() was called.
 */
struct lister_wish {
	struct list link;
	void (*on_done)(struct lister_wish *wish);
	_Atomic bool is_cancelled; /* set by the wisher: nobody wants it any more, so it need not be made */
	bool is_detailed;          /* the ".kaiso/list" form: path TAB kind TAB about CRLF */
	union addr client;         /* who asks; AF_UNSPEC or AF_UNIX: nobody whom a rule could name */
	size_t directory_length;
	int result;
	struct lister_text *text;
	const char *directory; /* terminated; "" for all; borrowed until the wish is done */
};

/* Starts the thread (all signals blocked in it). services and policies are borrowed for the lister's life, and the
 * former looked up anew for every walk. NULL when out of resources (errno). */
struct lister *lister_new(const char *services, struct policies *policies);

/* Ends the thread. Wishes not answered yet are answered with -ECANCELED, also those of the walk under
 * way, which stops at its next entry; waits for that. Nothing may be submitted any more. NULL is
 * allowed. */
void lister_free(struct lister *lister);

/* Thread safe, never blocks on the file system. */
void lister_submit(struct lister *lister, struct lister_wish *wish);

#endif
