/*
 * Theory of operation
 *
 * The walk keeps a stack of levels, one for each directory it is inside, from
 * the services directory down. Entering a directory reads all its names at
 * once and sorts them; after that its descriptor only serves to look at
 * entries. So beyond LISTING_DESCRIPTORS_MAX levels a descriptor is closed on
 * the way down, and opened again on the way up, if the directory is still the
 * same. The levels' device and inode numbers tell a circle. Types come from
 * the directory itself where it knows them: a plain service costs no system call.
 */
#include "router/listing.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/macros.h"
#include "base/sandbox.h"
#include "proto/path.h"

SANDBOX_CALLS("getdents64");

/* ---- the names of one directory ------------------------------------------------------------------ */

/* Each name is stored behind a byte that holds its d_type, all in one block: a hundred thousand of them
 * would be as many allocations otherwise. The block moves while it grows, so nothing points into it
 * before all names are there. */
struct names {
	char *bytes;
	size_t length;
	size_t size;
	const char **sorted; /* into bytes */
	size_t count;
};

static void names_deinit(struct names *names)
{
	free(names->sorted);
	free(names->bytes);
}

static int names_add(struct names *names, unsigned char type, const char *name)
{
	size_t name_size = strlen(name) + 1;

	if (names->size - names->length < 1 + name_size) {
		size_t size = MAX(2 * names->size, names->length + 1 + name_size + 256);
		char *bytes = realloc(names->bytes, size);

		if (!bytes)
			return -ENOMEM;
		names->bytes = bytes;
		names->size = size;
	}
	names->bytes[names->length] = (char)type;
	memcpy(names->bytes + names->length + 1, name, name_size);
	names->length += 1 + name_size;
	names->count++;
	return 0;
}

/* strcmp() compares as unsigned bytes, whatever the locale. */
static int names_compare(const void *left, const void *right)
{
	return strcmp(*(const char *const *)left, *(const char *const *)right);
}

/* Without memory, no names are left: a part of them would pass for all. */
static int names_sort(struct names *names)
{
	const char *name;

	if (names->count == 0)
		return 0;
	name = names->bytes + 1;
	names->sorted = malloc(names->count * sizeof(*names->sorted));
	if (!names->sorted) {
		names->count = 0;
		return -ENOMEM;
	}
	for (size_t i = 0; i < names->count; i++) {
		names->sorted[i] = name;
		name += strlen(name) + 2;
	}
	qsort(names->sorted, names->count, sizeof(*names->sorted), names_compare);
	return 0;
}

/* ---- the walk ------------------------------------------------------------------------------------ */

/* Room for a path that is too long by one whole name; the kernel takes no name of PATH_MAX bytes. */
#define WALK_PATH_SIZE (PATH_LENGTH_MAX + 1 + PATH_MAX)

/* A directory that the walk is inside. Owns its descriptor and its names until walk_pop(). */
struct level {
	int fd; /* -1 while closed */
	dev_t device;
	ino_t inode;
	size_t path_length; /* so many bytes of the walk's path name it */
	bool is_linked;     /* a link led to it, or to a directory that it lies in */
	struct names names;
	size_t next; /* the name to be visited next */
};

/* A directory that links led to, so many times. */
struct linked {
	dev_t device;
	ino_t inode;
	unsigned count;
};

/* Lives on the heap for the length of listing_walk(): the lister's stack is small. */
struct walk {
	listing_visit visit;
	void *context;
	struct level *levels;
	size_t depth; /* levels in use */
	size_t capacity;
	size_t base;       /* the level where listing began; those before it are only there to tell circles */
	size_t names_left; /* of LISTING_ENTRIES_MAX */
	void *linked;      /* tsearch(3) tree of struct linked: the directories entered through links */
	bool is_truncated; /* told already */
	size_t path_length;
	char path[WALK_PATH_SIZE];
	char buffer[32768] __attribute__((aligned(__alignof__(struct dirent64))));
};

/* Valid until the next push, which may move the levels. */
static struct level *walk_top(struct walk *walk)
{
	return &walk->levels[walk->depth - 1];
}

/* Every entry goes through here; the walk's path names it. */
static int walk_report(struct walk *walk, enum listing_entry_kind kind, int directory_fd, const char *name,
		       int error)
{
	struct listing_entry entry = {
		.kind = kind,
		.path = walk->path,
		.path_length = walk->path_length,
		.directory_fd = directory_fd,
		.name = name,
		.error = error,
	};

	return walk->visit(&entry, walk->context);
}

const char *listing_truncated_text(int error)
{
	if (error == ENAMETOOLONG)
		return "path too long";
	return error == EMLINK ? "too many links to one directory" : "too many entries";
}

bool listing_error_is_exhaustion(int error)
{
	return error == EMFILE || error == ENFILE || error == ENOMEM;
}

/* What the walk was about to look at is gone, or has become something else: a file where a directory was
 * (ENOTDIR), a link to itself (ELOOP). */
static bool error_is_change(int error)
{
	return error == ENOENT || error == ENOTDIR || error == ELOOP;
}

/* An entry could not be looked at; the walk goes on if it can. */
static int walk_report_error(struct walk *walk, int directory_fd, const char *name, int error)
{
	if (listing_error_is_exhaustion(error))
		return -error;
	if (error_is_change(error))
		return 0;
	return walk_report(walk, LISTING_UNREADABLE, directory_fd, name, error);
}

/* Makes the walk's path that of a name in the directory which its first directory_length bytes name. */
static void walk_path_append(struct walk *walk, size_t directory_length, const char *name, size_t name_length)
{
	size_t length = directory_length;

	if (length > 0)
		walk->path[length++] = '/';
	memcpy(walk->path + length, name, name_length);
	walk->path_length = length + name_length;
	walk->path[walk->path_length] = '\0';
}

/* By device and inode, since links and bind mounts give one directory many paths. */
static bool walk_is_inside(const struct walk *walk, const struct stat *directory)
{
	for (size_t i = 0; i < walk->depth; i++)
		if (walk->levels[i].inode == directory->st_ino && walk->levels[i].device == directory->st_dev)
			return true;
	return false;
}

static int linked_compare(const void *left, const void *right)
{
	const struct linked *one = left, *other = right;

	if (one->inode != other->inode)
		return one->inode < other->inode ? -1 : 1;
	if (one->device != other->device)
		return one->device < other->device ? -1 : 1;
	return 0;
}

/* Counts one more link to this directory: 0, -EMLINK when they are too many, -ENOMEM. */
static int walk_count_link(struct walk *walk, const struct stat *directory)
{
	struct linked *fresh = malloc(sizeof(*fresh));
	struct linked **found;

	if (!fresh)
		return -ENOMEM;
	*fresh = (struct linked){ .device = directory->st_dev, .inode = directory->st_ino };
	found = tsearch(fresh, &walk->linked, linked_compare);
	if (!found || *found != fresh)
		free(fresh);
	if (!found)
		return -ENOMEM;
	return ++(*found)->count > LISTING_LINKS_MAX ? -EMLINK : 0;
}

/* Adds the level of the directory that the walk's path names. The descriptor is the walk's from then on. */
static int walk_push_take(struct walk *walk, int fd, const struct stat *status)
{
	if (walk->depth == walk->capacity) {
		size_t capacity = MAX(2 * walk->capacity, (size_t)8);
		struct level *levels = realloc(walk->levels, capacity * sizeof(*levels));

		if (!levels)
			return -ENOMEM;
		walk->levels = levels;
		walk->capacity = capacity;
	}
	walk->levels[walk->depth++] = (struct level){
		.fd = fd,
		.device = status->st_dev,
		.inode = status->st_ino,
		.path_length = walk->path_length,
	};
	return 0;
}

static void level_close(struct level *level)
{
	if (level->fd >= 0)
		close(level->fd);
	level->fd = -1;
}

static void walk_pop(struct walk *walk)
{
	struct level *level = walk_top(walk);

	level_close(level);
	names_deinit(&level->names);
	walk->depth--;
}

/* Takes over what getdents64(2) has put into the buffer. *is_complete turns false when a name is one
 * too many. */
static int walk_take_names(struct walk *walk, size_t length, struct names *names, bool *is_complete)
{
	for (size_t offset = 0; offset < length;) {
		const struct dirent64 *file = (const void *)(walk->buffer + offset);
		int result;

		offset += file->d_reclen;
		/* "." and ".." are hidden names too. */
		if (file->d_name[0] == '.' || strlen(file->d_name) >= PATH_MAX)
			continue;
		if (walk->names_left == 0) {
			*is_complete = false;
			return 0;
		}
		walk->names_left--;
		result = names_add(names, file->d_type, file->d_name);
		if (result < 0)
			return result;
	}
	return 0;
}

/* Reads and sorts the names of the top level. An error leaves those that were read, in order. */
static int walk_read_names(struct walk *walk, bool *is_complete)
{
	struct level *level = walk_top(walk);
	int result = 0;
	int sorted;

	*is_complete = true;
	while (result == 0 && *is_complete) {
		ssize_t length = getdents64(level->fd, walk->buffer, sizeof(walk->buffer));

		if (length == 0 || (length < 0 && errno == ENOENT)) /* the end, or a directory just removed */
			break;
		result = length < 0 ? -errno :
				      walk_take_names(walk, (size_t)length, &level->names, is_complete);
	}
	sorted = names_sort(&level->names);
	return sorted < 0 ? sorted : result;
}

/* Once is enough: from then on every further directory is incomplete. */
static int walk_report_truncated(struct walk *walk, int directory_fd, const char *name)
{
	if (walk->is_truncated)
		return 0;
	walk->is_truncated = true;
	return walk_report(walk, LISTING_TRUNCATED, directory_fd, name, E2BIG);
}

/* Right after the names of the top level were read; the walk's path still names it. */
static int walk_report_directory(struct walk *walk)
{
	int result = walk_report(walk, LISTING_DIRECTORY, walk_top(walk)->fd, ".", 0);
	struct level *level = walk_top(walk);

	if (result != LISTING_SKIP)
		return result;
	level->next = level->names.count;
	return 0;
}

/* Enters the directory that the top level holds under name and the walk's path names already. */
static int walk_enter(struct walk *walk, const char *name, bool is_link)
{
	size_t parent = walk->depth - 1;
	int parent_fd = walk->levels[parent].fd;
	CLEANUP_CLOSE int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat status;
	bool is_complete, is_linked;
	int result;

	if (fd < 0 || fstat(fd, &status) < 0)
		return walk_report_error(walk, parent_fd, name, errno);
	/* Asked of the open directory, not of its name, which may have come to mean another. */
	if (walk_is_inside(walk, &status))
		return walk_report(walk, LISTING_CIRCLE, parent_fd, name, 0);
	if (walk->names_left == 0)
		return walk_report_truncated(walk, parent_fd, name);
	is_linked = walk->levels[parent].is_linked;
	result = is_link && is_linked ? walk_count_link(walk, &status) : 0;
	if (result == -EMLINK)
		return walk_report(walk, LISTING_TRUNCATED, parent_fd, name, EMLINK);

	if (result == 0)
		result = walk_push_take(walk, fd, &status);
	if (result < 0)
		return result;
	fd = -1;
	walk_top(walk)->is_linked = is_link || is_linked;
	result = walk_read_names(walk, &is_complete);
	if (result < 0)
		result = walk_report_error(walk, parent_fd, name, -result);
	if (result == 0 && !is_complete)
		result = walk_report_truncated(walk, parent_fd, name);
	if (result == 0)
		result = walk_report_directory(walk);
	if (parent - walk->base >= LISTING_DESCRIPTORS_MAX)
		level_close(&walk->levels[parent]);
	return result;
}

/* Back at the top level, whose descriptor was closed on the way down. A directory that is no longer the
 * same, or not to be reached any more, has no further entries. */
static int walk_reopen_top(struct walk *walk)
{
	struct level *level = walk_top(walk);
	/* The deepest level whose descriptor always stays open; from there the path is shortest. */
	const struct level *anchor = &walk->levels[walk->base + LISTING_DESCRIPTORS_MAX - 1];
	const char *path = walk->path + anchor->path_length + 1;
	struct stat status;

	walk->path_length = level->path_length;
	walk->path[walk->path_length] = '\0';
	level->fd = openat(anchor->fd, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (level->fd < 0 || fstat(level->fd, &status) < 0) {
		level->next = level->names.count;
		/* More links on the way than the kernel follows at once: the way was there, so tell it. */
		if (errno == ELOOP)
			return walk_report(walk, LISTING_UNREADABLE, anchor->fd, path, errno);
		return walk_report_error(walk, anchor->fd, path, errno);
	}
	if (status.st_ino != level->inode || status.st_dev != level->device)
		level->next = level->names.count;
	return 0;
}

/* A link that cannot be followed: it leads nowhere, may not be followed, or has just been removed. ENOENT
 * says the first and the last alike, so a second look tells whether the link itself is there. */
static int walk_report_link(struct walk *walk, int directory_fd, const char *name, int error)
{
	struct stat status;

	if (listing_error_is_exhaustion(error))
		return -error;
	if (!error_is_change(error) && error != ENAMETOOLONG)
		return walk_report(walk, LISTING_UNREADABLE, directory_fd, name, error);
	if (fstatat(directory_fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISLNK(status.st_mode))
		return 0;
	return walk_report(walk, LISTING_DANGLING, directory_fd, name, 0);
}

/* Visits one name of the top level. type is what the directory says of it. A link's is of no use, and some
 * file systems never say: both need a closer look. */
static int walk_visit(struct walk *walk, const char *name, unsigned char type)
{
	const struct level *level = walk_top(walk);
	size_t name_length = strlen(name);
	const bool is_link = type != DT_DIR; /* or may be one, for all the directory says */
	struct stat status;

	walk_path_append(walk, level->path_length, name, name_length);
	if (path_check_component(name, name_length) == PATH_CONTROL_BYTE)
		return walk_report(walk, LISTING_BAD_NAME, level->fd, name, 0);
	if (walk->path_length > PATH_LENGTH_MAX)
		return walk_report(walk, LISTING_TRUNCATED, level->fd, name, ENAMETOOLONG);

	if (type == DT_LNK || type == DT_UNKNOWN) {
		if (fstatat(level->fd, name, &status, 0) < 0)
			return walk_report_link(walk, level->fd, name, errno);
		type = (unsigned char)IFTODT(status.st_mode);
	}
	switch (type) {
	case DT_DIR:
		return walk_enter(walk, name, is_link);
	case DT_SOCK:
		return walk_report(walk, LISTING_SOCKET, level->fd, name, 0);
	case DT_REG:
		return walk_report(walk, LISTING_DESCRIPTION, level->fd, name, 0);
	default:
		return walk_report(walk, LISTING_OTHER, level->fd, name, 0);
	}
}

/* Visits all that lies below the base level, and returns to the level before it. */
static int walk_run(struct walk *walk)
{
	int result = 0;

	while (result == 0 && walk->depth > walk->base) {
		struct level *level = walk_top(walk);
		const char *name;

		if (level->next == level->names.count) {
			walk_pop(walk);
		} else if (level->fd < 0) {
			result = walk_reopen_top(walk);
		} else {
			name = level->names.sorted[level->next++];
			result = walk_visit(walk, name, (unsigned char)name[-1]);
		}
	}
	return result;
}

/* Adds the level of a directory on the way to where the listing begins; only its identity is kept. */
static int walk_pass(struct walk *walk, const char *name)
{
	int parent_fd = walk->depth > 0 ? walk_top(walk)->fd : AT_FDCWD;
	CLEANUP_CLOSE int fd = openat(parent_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct stat status;
	int result;

	if (fd < 0 || fstat(fd, &status) < 0)
		return -errno;
	if (walk_is_inside(walk, &status))
		return -ENOENT;
	result = walk_push_take(walk, fd, &status);
	if (result < 0)
		return result;
	fd = -1;
	if (walk->depth > 1)
		level_close(&walk->levels[walk->depth - 2]);
	return 0;
}

/* Goes from the services directory to the one where the listing begins, component by component: the
 * whole may be longer than the kernel takes at once, and circles are told by all the directories on
 * the way. */
static int walk_descend(struct walk *walk, const char *services, const char *directory, size_t length)
{
	int result = walk_pass(walk, services);

	while (result == 0 && length > 0) {
		const char *slash = memchr(directory, '/', length);
		size_t name_length = slash ? (size_t)(slash - directory) : length;
		size_t parent_length = walk->path_length;

		if (parent_length + 1 + name_length > PATH_LENGTH_MAX + 1)
			return -ENAMETOOLONG;
		walk_path_append(walk, parent_length, directory, name_length);
		result = walk_pass(walk, walk->path + walk->path_length - name_length);
		directory += name_length + (slash ? 1 : 0);
		length -= name_length + (slash ? 1 : 0);
	}
	return result;
}

/* Opens the base level for reading and reads its names; here, errors are the whole walk's. */
static int walk_begin(struct walk *walk)
{
	struct level *level = walk_top(walk);
	bool is_complete;
	int result;
	int fd;

	walk->base = walk->depth - 1;
	fd = openat(level->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	level_close(level);
	level->fd = fd;
	result = walk_read_names(walk, &is_complete);
	if (result == 0 && !is_complete)
		result = walk_report_truncated(walk, fd, ".");
	if (result == 0)
		result = walk_report_directory(walk);
	return result;
}

int listing_walk(const char *services, const char *directory, size_t directory_length, listing_visit visit,
		 void *context)
{
	CLEANUP_FREE struct walk *walk = malloc(sizeof(*walk));
	int result;

	if (!walk)
		return -ENOMEM;
	/* Not calloc(): the big arrays are written before they are read. */
	memset(walk, 0, offsetof(struct walk, path) + 1);
	walk->visit = visit;
	walk->context = context;
	walk->names_left = LISTING_ENTRIES_MAX;

	result = walk_descend(walk, services, directory, directory_length);
	if (result == 0)
		result = walk_begin(walk);
	if (result == 0)
		result = walk_run(walk);
	while (walk->depth > 0)
		walk_pop(walk);
	free(walk->levels);
	tdestroy(walk->linked, free);
	return result;
}
