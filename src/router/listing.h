/*
 * Walking the services directory: every entry there is, in the order of lists.
 *
 * For the lists that clients ask for (router/lister.h), and for `kaiso check`.
 */
#ifndef KAISO_ROUTER_LISTING_H
#define KAISO_ROUTER_LISTING_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

/* Bound of one walk; what lies beyond is left out and reported. Names count when they are read, listed or
 * not, so this bounds memory and time too: of links that lead into each other crosswise, for one. Depth
 * has no bound but the length of a path (PATH_LENGTH_MAX). */
#define LISTING_ENTRIES_MAX 1000000

/* How often one walk enters the same directory through links that stand below another link: a bound for
 * directories that link to each other crosswise. Links that stand in the services directory itself, or in
 * plain directories below it, are all followed. */
#define LISTING_LINKS_MAX 16

/* Directories that one walk keeps open while it is in deeper ones; beyond, they are closed, and
 * opened again when the walk comes back to them. */
#define LISTING_DESCRIPTORS_MAX 16

enum listing_entry_kind {
	LISTING_SOCKET,      /* a UNIX socket file (the type shows on connecting only), or a link to one */
	LISTING_DESCRIPTION, /* a regular file, or a link to one */
	LISTING_DANGLING,    /* a link that leads nowhere: reported, never listed */
	LISTING_CIRCLE,      /* a linked or bind-mounted directory that contains itself: not entered */
	LISTING_BAD_NAME,    /* a name with control bytes: reported, never listed */
	LISTING_OTHER,       /* neither socket, regular file nor directory: reported, never listed */
	LISTING_UNREADABLE,  /* a directory or link that cannot be read, or not to its end: reported */
	LISTING_TRUNCATED,   /* a bound was reached here: reported */
	LISTING_DIRECTORY,   /* a directory was entered, the first one too: reported before what it holds */
};

struct listing_entry {
	enum listing_entry_kind kind;
	const char *path; /* from the services directory on; terminated; valid during the call only */
	size_t path_length;
	int directory_fd; /* borrowed, maybe O_PATH: the directory that holds the entry, and */
	const char *
		name; /* its name therein, for openat(2); "." where the walk began. DIRECTORY: itself, and "." */
	/* UNREADABLE: an errno. TRUNCATED: ENAMETOOLONG, no request line can carry the path; E2BIG,
	 * LISTING_ENTRIES_MAX names were read, told once, of the first directory that is incomplete;
	 * EMLINK, the directory was entered through LISTING_LINKS_MAX links before.
	 * Else 0. */
	int error;
};

/* What a visit of a LISTING_DIRECTORY may return: nothing below it is visited. */
#define LISTING_SKIP INT_MAX

/* Called for each entry, depth first, the names of a directory in byte order (a directory's content
 * stands where its name sorts; bytes compared unsigned). Hidden ones are never reported. A result
 * other than 0 stops the walk and is returned by listing_walk(). */
typedef int (*listing_visit)(const struct listing_entry *entry, void *context);

/*
 * Walks what lies below directory ("" for all; a path that path_check() accepts) of the services directory.
 * Linked directories are followed unless the walk is inside them already (device and inode), within
 * LISTING_LINKS_MAX. "Inside" counts from the services directory, so that the list of a directory is that
 * part of the whole list; a directory that the whole list would not show (a circle leads there) is -ENOENT.
 * What vanishes during the walk is passed over in silence.
 *
 * Blocks on the file system. 0; -ENOENT or -ENOTDIR when there is no such directory, another negative errno
 * when it cannot be read; -EMFILE, -ENFILE or -ENOMEM when the process ran out of something, at whatever
 * point, for a list with holes in it would pass for the whole; or what visit returned.
 */
int listing_walk(const char *services, const char *directory, size_t directory_length, listing_visit visit,
		 void *context);

/* What the error of a LISTING_TRUNCATED entry means, in a few words. Static. */
const char *listing_truncated_text(int error);

/* Is it the process, rather than the entry, that is at fault? Such an errno (positive) ends a walk. */
bool listing_error_is_exhaustion(int error);

#endif
