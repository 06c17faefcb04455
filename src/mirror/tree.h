/*
 * A directory that is kept equal to a model (mirror/model.h).
 *
 * It belongs to the mirror: its regular files are removed when the model does not have them, save hidden ones, of which
 * only DIRECTORY_OPTIONS is a mirror's. What is neither a regular file nor a directory is left alone, wherever it is:
 * sockets that programs of this host make there. Directories without anything in them are removed.
 *
 * No link is followed below the directory, and nothing outside of it is touched. A file gets its content under a hidden
 * name first, and is then renamed: nobody sees a part of one.
 *
 * Everything here blocks on the file system, and logs what it could not do.
 */
#ifndef KAISO_MIRROR_TREE_H
#define KAISO_MIRROR_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"
#include "mirror/model.h"

/* The file that says that the directory is a mirror's, and of what. */
#define TREE_MARK ".kaiso-mirror"

struct tree {
	int fd;           /* the directory, locked */
	int stop_fd;      /* the caller's: tree_settle_all() ends early when it is readable; -1: none */
	bool has_sync;    /* the caller's: have each file on the disk before it gets its name */
	bool is_equal;    /* to the model, as far as is known; else tree_settle_all() is worth a try */
	bool is_quiet;    /* the caller's: what cannot be done was told before */
	unsigned walk;    /* number of the last one */
	uint64_t written; /* files, since it was opened */
	uint64_t removed;
	uint64_t problems; /* what could not be done, since it was opened */
	struct log_limiter limiter;
};

#define TREE_REASON_SIZE 256

/*
 * Takes a directory: one that is empty, or is there not yet, or has the mark of the same source (any bytes). At most one
 * process has it. Sets all of *tree. 0; or a negative errno with a reason for people: -EBUSY, another one has it; -ENOTEMPTY, it has something
 * in it and is no mirror; -EEXIST, it is the mirror of another source.
 */
int tree_open(struct tree *tree, const char *directory, const char *source, char reason[TREE_REASON_SIZE]);
void tree_close(struct tree *tree);

/* Makes one path equal, and the directories above it. */
void tree_settle(struct tree *tree, const struct model *model, const char *path, size_t path_length);

/* Makes all of it equal: compares each file. 0; -ENOENT, the directory itself was removed; -ECANCELED, stop_fd. */
int tree_settle_all(struct tree *tree, const struct model *model);

#endif
