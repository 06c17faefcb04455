/*
 * What option lines say of services: those of a description, and those of the hidden DIRECTORY_OPTIONS files of the
 * directories that it lies in, of which the nearest that names a key wins.
 *
 * A struct policy is the outcome for one directory, or for one service: immutable, with references, so that a session
 * keeps what it began with. policies is the memory of those of directories. It is shared by all threads and thread
 * safe; nothing in it is believed without a look at the file (stat(2)), so a change counts from the next request on.
 *
 * A file that somebody is writing is not read: what is missing in it yet may be what would refuse the client. Such is a
 * file that somebody has open for writing (a read lease, fcntl(2) F_SETLEASE, tells; the file's owner may ask for it, and
 * who has CAP_LEASE), and for whom that is not permitted, one that has changed less than POLICY_REST_MS ago and is not
 * known in this state. The same for a file that was there and is gone: some editors rename the old one and then write
 * the new one, so its being gone counts once its directory has rested for POLICY_REST_MS, or it has been away for as
 * long. That it was there is known from an earlier look, of POLICY_FILES_MAX files; what nobody has asked for since the
 * router started is not.
 */
#ifndef KAISO_ROUTER_POLICY_H
#define KAISO_ROUTER_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

#include "net/addr.h"
#include "proto/description.h"
#include "proto/options.h"

#define POLICY_REST_MS 200
#define POLICY_FILES_MAX \
	4096 /* that are remembered; beyond, those that were not asked for longest are forgotten */

/* Immutable; every text is terminated and lives as long as the policy. */
struct policy {
	_Atomic unsigned references;
	struct policy *below; /* one reference: texts and rules may be its own */
	unsigned named;       /* which keys anybody has named, a bit each (1u << OPTION_...) */
	enum balance balance;
	enum proxy_version proxy;
	uint64_t max_sessions;       /* 0: no limit */
	uint64_t connect_timeout_ms; /* 0: none; valid only where it is named */
	uint64_t idle_timeout_ms;    /* the same */
	const char *about;           /* "" where it is not named */
	const char *const *backends; /* further targets, as written */
	size_t backend_count;
	const struct access_rule *rules; /* allow and deny, each from the nearest file that names it */
	size_t rule_count;
	const char *sources
		[OPTION_COUNT]; /* of a named key: the path of the file that named it, for `kaiso check -v` */
};

static inline bool policy_names(const struct policy *policy, enum option_key key)
{
	return policy && (policy->named & (1u << key));
}

/* One reference more; one back. NULL is allowed. */
void policy_ref(struct policy *policy);
void policy_unref(struct policy *policy);

/* May this client see and open what the policy is for? Clients without an IP address (of UNIX listeners) are what no
 * rule names: refused where anything is allowed, else let in. NULL lets everybody in. */
bool policy_admits(const struct policy *policy, const union addr *client);

/*
 * What the option lines of a file say, over what the directory says that it lies in (NULL for nothing): a new
 * policy with one reference in *policy. first_line: where the text begins in the file (2 for a description). source
 * is the file's path, for people. 0; -EINVAL with *error; or -ENOMEM. Without any option line it is below itself, with
 * one reference more, or NULL.
 */
int policy_from_text(struct policy *below, const char *source, struct description_text text,
		     unsigned first_line, struct policy **policy, struct description_error *error);

/* What tells whether a file is still the one that was read. */
struct policy_stamp {
	uint64_t device;
	uint64_t inode;
	int64_t size;
	struct timespec modified;
	struct timespec changed;
};

struct policy_stamp policy_stamp_of(const struct stat *status);
bool policy_stamp_is_equal(const struct policy_stamp *one, const struct policy_stamp *other);

/* Has a file whose stamp was settled another size at the same time, which cannot be? Some file systems cut a file off first (open(2) with
 * O_TRUNC), and set its times a moment later. */
bool policy_stamp_is_torn(const struct policy_stamp *known, const struct policy_stamp *stamp);

/* Ask it right after the reading: a file changed twice within one tick of the clock may look unchanged, so its stamp
 * counts only when it had been at rest for a while (2 s). */
bool policy_stamp_is_settled(const struct policy_stamp *stamp);

struct policies;

/* services is borrowed. NULL when out of memory. */
struct policies *policies_new(const char *services);
void policies_free(struct policies *policies);

/*
 * The policy of the directory in which the service of a path stands (path_check() accepts it; "a/b" stands in "a").
 * Returns 0 with one reference in *policy, or NULL there when no file says anything, which costs one stat(2) a directory
 * and no lock; or
 *   POLICY_WAY_ENDS  the same, but something on the way is no directory: nothing lies at the path itself
 *   -EINVAL   a file says what cannot be: *error, and its path in file (terminated), which the caller logs
 *   -EAGAIN   a file is being written: ask again in a moment; file says which
 *   another negative errno: it cannot be looked at; file says which
 * A directory that is not there has no file. Blocks only on the file system.
 */
#define POLICY_WAY_ENDS 1
#define POLICY_FILE_SIZE 4200
int policies_find(struct policies *policies, const char *path, size_t length, struct policy **policy,
		  struct description_error *error, char file[static POLICY_FILE_SIZE]);

/* The same for what lies directly in a directory ("" for the services directory itself). */
int policies_find_directory(struct policies *policies, const char *directory, size_t length,
			    struct policy **policy, struct description_error *error,
			    char file[static POLICY_FILE_SIZE]);

/* The same for a directory that is open (fd, maybe O_PATH), when above is what is said of the one that it lies in. */
int policies_find_below(struct policies *policies, struct policy *above, int fd, const char *directory,
			size_t length, struct policy **policy, struct description_error *error,
			char file[static POLICY_FILE_SIZE]);

/*
 * Reads a description's or an option file whole, and in one state: fd is open for reading; status is that of
 * fstat(2). Returns as description_file_read(), or -EAGAIN when somebody is writing it.
 */
ssize_t policy_read_settled(int fd, const struct stat *status, char *bytes);

#endif
