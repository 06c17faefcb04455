/*
 * The catalog: from a path to the service behind it, asked of the file system
 * at every request.
 *
 * One a thread. It remembers services that were asked for, so that a
 * description is not read and parsed again while its file is unchanged, and a session costs only a
 * reference to its service. What is remembered is bounded, and never trusted without a look: a socket is
 * connected by its path each time, and a description's file is compared (stat(2)) before its content is used.
 */
#ifndef KAISO_ROUTER_CATALOG_H
#define KAISO_ROUTER_CATALOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/list.h"
#include "net/addr.h"
#include "net/loop.h"
#include "proto/description.h"
#include "router/backends.h"
#include "router/handover.h"
#include "router/policy.h"
#include "router/turns.h"

#define CATALOG_BUCKETS 1024
#define CATALOG_UNUSED_MAX 1024 /* services without a session that are remembered, as long as they have */
#define CATALOG_UNUSED_BYTES_MAX \
	(2u << 20) /* in all: what lies in a mount has the names that clients give it */

enum service_kind {
	SERVICE_UNKNOWN, /* nothing usable lies there; only named in logs */
	SERVICE_SOCKET,  /* a UNIX socket at the path itself */
	SERVICE_UNIX,    /* a description: SOCKET */
	SERVICE_TCP,     /* HOST:PORT */
	SERVICE_KAISO,   /* HOST:PORT SERVICE */
	SERVICE_PASSFD,  /* SOCKET passfd, SOCKET passfd:PORT */
	SERVICE_MOUNT,   /* HOST:PORT SERVICE/ */
	SERVICE_SRV,     /* srv:NAME, srv:NAME SERVICE */
};

/* What tells whether a description's file is still the one that was read. */
struct service_stamp {
	uint64_t device;
	uint64_t inode;
	int64_t size;
	struct timespec modified;
	struct timespec changed;
};

/* One of the places where a service is to be had. The texts are terminated and live as long as the service. */
struct target {
	enum service_kind kind;
	bool is_srv;   /* SRV, MOUNT: host is a name that SRV is asked for */
	bool asks;     /* KAISO, MOUNT, SRV with a SERVICE: the router there is sent the line `remote` */
	uint16_t port; /* TCP, KAISO, MOUNT */
	uint16_t knock_port;      /* PASSFD, 0 for none */
	union addr address;       /* TCP, KAISO, MOUNT with a numeric host; else its family is AF_UNSPEC */
	uint64_t plain_until_ms;  /* that router did not know ".kaiso/open"; not asked again before */
	struct receiver receiver; /* PASSFD */
	struct turn turn;         /* PASSFD with a knock: taken by one session at a time */
	struct backend *backend;  /* how it is doing; NULL where there is no other */
	const char *socket_path;  /* SOCKET, UNIX, PASSFD: to be connected */
	const char *host;         /* the others, as a rule; else "" */
	const char *remote;
	const char *text; /* for logs: "unix" for SOCKET, else as described; NULL for UNKNOWN */
};

/* Immutable but for its place in memory, its stamp, its loop, and what its targets learn. The texts live as long
 * as the service. */
struct service {
	struct catalog *catalog;
	struct service *next; /* in its bucket */
	struct list unused;   /* in the catalog's list while references is 0 */
	struct loop_task free_task;
	unsigned references;
	bool is_remembered; /* in its bucket */
	bool is_settled;    /* its file was not being changed when it was read: the stamp can be trusted */
	bool has_choice;    /* several targets, or hosts that DNS has: see attempt.h */
	bool has_handover;  /* one of its targets is a PASSFD */
	enum service_kind kind; /* the first target's */
	uint64_t hash;          /* of the path */
	struct service_stamp stamp;
	uint64_t loop_until_ms;      /* exposed: its kaiso turned out to be its own listener */
	struct policy *directory;    /* what it was made under; NULL for none */
	struct policy *policy;       /* that, and its own option lines; NULL for none */
	struct backend_group *group; /* where there is a choice */
	size_t path_length;
	size_t file_length;  /* so many bytes of the path name its file; fewer for a MOUNT */
	size_t size;         /* of the whole, with its texts */
	const char *path;    /* as the client says it, terminated */
	const char *options; /* its option lines, as they stand in its file */
	size_t target_count; /* 1 or more */
	struct target targets[];
};

struct catalog {
	struct loop *loop;
	const char *services; /* borrowed, as are the next two */
	struct policies *policies;
	struct backends *backends;
	struct service *buckets[CATALOG_BUCKETS];
	struct list unused; /* oldest first */
	size_t unused_count;
	size_t unused_bytes;
	char *buffer; /* for reading descriptions and building paths */
};

/* services, and what all threads share, are borrowed for the catalog's life. policies may be NULL when there is no
 * services directory. 0 or -ENOMEM. */
int catalog_init(struct catalog *catalog, struct loop *loop, const char *services, struct policies *policies,
		 struct backends *backends);

/* No service may be referenced any more. What it frees is freed by loop_run_out(). */
void catalog_deinit(struct catalog *catalog);

/* Why a service cannot be opened, for the log: what is invalid, and in which file ("" for the description's own). */
struct catalog_problem {
	struct description_error error;
	char file[POLICY_FILE_SIZE];
};

/*
 * Finds the service at a path that path_check() accepts, for a client of that address, and connects to it where
 * that is the way to look. A path may end in one '/' as well: then it is found only where it leads into a mount.
 * *service gets a reference (SERVICE_UNKNOWN on errors; NULL when out of memory). Returns
 *   0                       found. *connection: for SOCKET and UNIX without a choice what dial_unix() said, a descriptor
 *                           (the caller's) or a negative errno; -1 and meaningless for all others
 *   -ENOENT                 nothing there, or nothing that is a service
 *   -EPERM                  this client may not have it (allow, deny): to the client as if nothing was there
 *   -EINVAL                 an invalid description or file of options: *problem says why
 *   -EAGAIN                 a file is being written: ask again in a moment; *problem says which
 *   another negative errno  it cannot be looked at: -EACCES, -EMFILE, -ENOMEM, -EIO...
 * Blocks only on the file system.
 */
int catalog_open(struct catalog *catalog, const char *path, size_t length, const union addr *client,
		 struct service **service, int *connection, struct catalog_problem *problem);

struct router_exposure;

/* A SERVICE_KAISO with one reference, which stands in no directory: a service of the kaiso that is exposed.
 * NULL when out of memory. */
struct service *catalog_exposed(struct catalog *catalog, const struct router_exposure *exposure,
				const char *remote);

struct session_image;

/* A service with one reference and one target as the image of one of its sessions names it, whatever has become of it in the
 * directory. NULL when out of memory. */
struct service *catalog_restored(struct catalog *catalog, const struct session_image *image);

/* What makes an image name this service and that target of it. The image borrows from it. */
void service_image_of(const struct service *service, const struct target *target,
		      struct session_image *image);

/* A SERVICE_UNKNOWN with one reference, for the log line of a path that is refused as such. NULL when out
 * of memory. */
struct service *catalog_unknown(struct catalog *catalog, const char *path, size_t length);

/* "unix", "tcp", "kaiso", "passfd", "mount", "srv", or NULL for SERVICE_UNKNOWN. Static. */
const char *service_kind_name(enum service_kind kind);

/* What its sessions share: those of a mount, whatever they ask for in it. A reference; NULL when out of memory. */
struct backend_group *service_group(const struct service *service, struct backends *backends);

/* service->hash of a path. */
uint64_t catalog_path_hash(const char *path, size_t length);

/* By which it is known how the target is doing (backends.h). Lives as long as the target. */
const char *target_key(const struct target *target);

/* One reference more. */
void service_ref(struct service *service);

/* Gives a reference back; NULL is allowed. */
void service_unref(struct service *service);

#endif
