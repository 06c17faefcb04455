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
 *
 * The lister is one thread. Wishes queue under its mutex; the thread takes the
 * first and all that ask for the same, walks without the mutex, and answers
 * them. A wish that comes meanwhile stays queued, and so sees what changed.
 *
 * All texts that somebody holds are in one list. It holds no reference itself;
 * a text that equals one in it joins that one and is dropped. Equal is
 * decided by hash and length under the lock, and byte by byte outside it:
 * event loops take the same lock to let go of a text, and must not wait.
 */
#include "router/listing.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "proto/path.h"
#include "router/description_file.h"

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
	struct names names;
	size_t next; /* the name to be visited next */
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

/* The process, not the entry, is at fault: such an error ends the walk. */
static bool error_is_exhaustion(int error)
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
	if (error_is_exhaustion(error))
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

/* Enters the directory that the top level holds under name and the walk's path names already. */
static int walk_enter(struct walk *walk, const char *name)
{
	size_t parent = walk->depth - 1;
	int parent_fd = walk->levels[parent].fd;
	CLEANUP_CLOSE int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat status;
	bool is_complete;
	int result;

	if (fd < 0 || fstat(fd, &status) < 0)
		return walk_report_error(walk, parent_fd, name, errno);
	/* Asked of the open directory, not of its name, which may have come to mean another. */
	if (walk_is_inside(walk, &status))
		return walk_report(walk, LISTING_CIRCLE, parent_fd, name, 0);
	if (walk->names_left == 0)
		return walk_report_truncated(walk, parent_fd, name);

	result = walk_push_take(walk, fd, &status);
	if (result < 0)
		return result;
	fd = -1;
	result = walk_read_names(walk, &is_complete);
	if (result < 0)
		result = walk_report_error(walk, parent_fd, name, -result);
	if (result == 0 && !is_complete)
		result = walk_report_truncated(walk, parent_fd, name);
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

	if (error_is_exhaustion(error))
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
		return walk_enter(walk, name);
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
	return result;
}

/* ---- texts --------------------------------------------------------------------------------------- */

/* Not the lister's, for a text may outlive it. The mutex guards the list and all reference counts, and is
 * held for no more than a look along the list: as many texts as slow readers hold, which limits bound. */
static pthread_mutex_t texts_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct list texts_held = { &texts_held, &texts_held };

void listing_text_unref(struct listing_text *text)
{
	bool is_last;

	if (!text)
		return;
	pthread_mutex_lock(&texts_mutex);
	is_last = --text->references == 0;
	if (is_last)
		list_remove(&text->link);
	pthread_mutex_unlock(&texts_mutex);
	if (is_last)
		free(text);
}

/* The caller holds a reference already. */
static void text_add_references(struct listing_text *text, unsigned count)
{
	pthread_mutex_lock(&texts_mutex);
	text->references += count;
	pthread_mutex_unlock(&texts_mutex);
}

/* FNV-1a, taken eight bytes at a time: it need only tell lists apart, and equals are compared in full. */
static uint64_t text_hash(const char *bytes, size_t length)
{
	uint64_t hash = 0xcbf29ce484222325u;
	uint64_t word;

	for (; length >= sizeof(word); bytes += sizeof(word), length -= sizeof(word)) {
		memcpy(&word, bytes, sizeof(word));
		hash = (hash ^ word) * 0x100000001b3u;
		hash ^= hash >> 32;
	}
	for (; length > 0; bytes++, length--)
		hash = (hash ^ (unsigned char)*bytes) * 0x100000001b3u;
	return hash;
}

/* Finds a held text that is in all likelihood the same and takes a reference to it, so that it stays
 * while the two are compared. */
static struct listing_text *text_find_twin(const struct listing_text *text)
{
	struct listing_text *twin = NULL;

	pthread_mutex_lock(&texts_mutex);
	for (struct list *link = texts_held.next; link != &texts_held && !twin; link = link->next) {
		struct listing_text *held = CONTAINER_OF(link, struct listing_text, link);

		if (held->hash == text->hash && held->length == text->length)
			twin = held;
	}
	if (twin)
		twin->references++;
	pthread_mutex_unlock(&texts_mutex);
	return twin;
}

/* Makes a finished text known, with so many references; or frees it and returns the one it equals, with
 * so many more. */
static struct listing_text *text_publish_take(struct listing_text *text, unsigned references)
{
	struct listing_text *twin;

	text->hash = text_hash(text->bytes, text->length);
	twin = text_find_twin(text);
	if (twin && memcmp(twin->bytes, text->bytes, text->length) == 0) {
		free(text);
		text_add_references(twin, references - 1);
		return twin;
	}
	listing_text_unref(twin);

	pthread_mutex_lock(&texts_mutex);
	text->references = references;
	list_append(&texts_held, &text->link);
	pthread_mutex_unlock(&texts_mutex);
	return text;
}

/* ---- writing a list ------------------------------------------------------------------------------ */

enum {
	/* What a visit of the lister returns, besides errors, to end the walk. */
	DRAFT_FULL = 1,
	DRAFT_SIZE_FIRST = 4096,
};

struct lister {
	const char *services;
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	struct list waiting;      /* under the mutex */
	_Atomic bool is_stopping; /* written under the mutex, read by the walk without it */
	struct log_limiter limiter;
	char description[DESCRIPTION_FILE_BUFFER];
};

/* A text being written: the listing_text itself, grown by doubling, so that it need not be copied when it
 * is finished. */
struct draft {
	struct lister *lister;
	bool is_detailed;
	struct listing_text *text;
	size_t size; /* of its bytes */
};

/* The first call makes the text. On failure what was written stays. */
static int draft_resize(struct draft *draft, size_t size)
{
	struct listing_text *text = realloc(draft->text, sizeof(*text) + size);

	if (!text)
		return -ENOMEM;
	if (!draft->text)
		text->length = 0;
	draft->text = text;
	draft->size = size;
	return 0;
}

/* Makes room for length bytes and the CRLF that ends the list. */
static int draft_reserve(struct draft *draft, size_t length)
{
	size_t needed = draft->text->length + length + 2;

	if (needed > LISTING_TEXT_MAX)
		return DRAFT_FULL;
	if (needed <= draft->size)
		return 0;
	return draft_resize(draft, MIN(MAX(2 * draft->size, needed), (size_t)LISTING_TEXT_MAX));
}

/* Call draft_reserve() first. */
static void draft_append(struct draft *draft, const char *bytes, size_t length)
{
	memcpy(draft->text->bytes + draft->text->length, bytes, length);
	draft->text->length += length;
}

static void log_truncated(struct lister *lister, const char *bound, const char *path, size_t path_length)
{
	uint32_t suppressed;
	struct log_line line;

	if (!log_limiter_pass(&lister->limiter, clock_now_ms(), &suppressed))
		return;
	log_begin(&line, LOG_LEVEL_WARNING, "list is incomplete");
	log_add_string(&line, "reason", bound);
	log_add_bytes(&line, "path", path, path_length);
	if (suppressed > 0)
		log_add_number(&line, "suppressed", suppressed);
	log_end(&line);
}

/* Finds the kind of an entry for a detailed list. *kind stays as it is when the description cannot be read
 * or is invalid: clients that asked for it would be refused. */
static int find_kind(struct lister *lister, const struct listing_entry *entry, const char **kind)
{
	struct description_error error;
	struct description description;
	struct stat status;
	ssize_t length;
	int fd;

	if (entry->kind == LISTING_SOCKET) {
		*kind = description_kind_name(DESCRIPTION_UNIX);
		return 0;
	}
	fd = description_file_open(entry->directory_fd, entry->name, &status);
	if (fd < 0)
		return error_is_exhaustion(-fd) ? fd : 0;
	length = description_file_read(fd, lister->description);
	close(fd);
	if (length >= 0 && description_parse(lister->description, (size_t)length, &description, &error) == 0)
		*kind = description_kind_name(description.kind);
	return 0;
}

/* A path holds no control bytes, so tabs and line ends are safe separators. */
static int draft_add_entry(struct draft *draft, const struct listing_entry *entry)
{
	const char *kind = NULL;
	size_t kind_length = 0;
	int result;

	if (draft->is_detailed) {
		result = find_kind(draft->lister, entry, &kind);
		if (result < 0 || !kind)
			return result;
		kind_length = strlen(kind);
	}
	result = draft_reserve(draft, entry->path_length + kind_length + strlen("\t\t\r\n"));
	if (result == DRAFT_FULL)
		log_truncated(draft->lister, "text too long", entry->path, entry->path_length);
	if (result != 0)
		return result;

	draft_append(draft, entry->path, entry->path_length);
	if (kind) {
		draft_append(draft, "\t", 1);
		draft_append(draft, kind, kind_length);
		draft_append(draft, "\t", 1); /* and an empty "about" */
	}
	draft_append(draft, "\r\n", 2);
	return 0;
}

static int draft_visit(const struct listing_entry *entry, void *context)
{
	struct draft *draft = context;

	if (draft->lister->is_stopping)
		return -ECANCELED;
	switch (entry->kind) {
	case LISTING_SOCKET:
	case LISTING_DESCRIPTION:
		return draft_add_entry(draft, entry);
	case LISTING_TRUNCATED:
		log_truncated(draft->lister,
			      entry->error == ENAMETOOLONG ? "path too long" : "too many entries",
			      entry->path, entry->path_length);
		return 0;
	case LISTING_DANGLING:
	case LISTING_CIRCLE:
	case LISTING_BAD_NAME:
	case LISTING_OTHER:
	case LISTING_UNREADABLE:
		/* Left out in silence: they would be logged anew for every list. `kaiso check` tells them. */
		return 0;
	}
	return 0;
}

/* Walks and writes the list that wish asks for. On success *text is a draft, the caller's to publish. */
static int lister_write(struct lister *lister, const struct listing_wish *wish, struct listing_text **text)
{
	struct draft draft = { .lister = lister, .is_detailed = wish->is_detailed };
	int result = draft_resize(&draft, DRAFT_SIZE_FIRST);

	if (result < 0)
		return result;
	result = listing_walk(lister->services, wish->directory, wish->directory_length, draft_visit, &draft);
	if (result < 0) {
		free(draft.text);
		return result;
	}
	draft_append(&draft, "\r\n", 2);
	/* What doubling took too much goes back; when even that fails, the text is as good as it is. */
	(void)draft_resize(&draft, draft.text->length);
	*text = draft.text;
	return 0;
}

/* ---- the lister thread --------------------------------------------------------------------------- */

static bool wishes_are_same(const struct listing_wish *wish, const struct listing_wish *other)
{
	return wish->is_detailed == other->is_detailed && wish->directory_length == other->directory_length &&
	       memcmp(wish->directory, other->directory, wish->directory_length) == 0;
}

/* Moves the first waiting wish and all that ask for the same into batch. The mutex is held. */
static unsigned lister_take_batch(struct lister *lister, struct list *batch)
{
	const struct listing_wish *first = CONTAINER_OF(lister->waiting.next, struct listing_wish, link);
	struct list *next;
	unsigned count = 0;

	for (struct list *link = lister->waiting.next; link != &lister->waiting; link = next) {
		struct listing_wish *wish = CONTAINER_OF(link, struct listing_wish, link);

		next = link->next;
		if (!wishes_are_same(first, wish))
			continue;
		list_remove(link);
		list_append(batch, link);
		count++;
	}
	return count;
}

/* Gives every wish in the list its result, and one reference to text if there is one. */
static void wishes_finish(struct list *wishes, int result, struct listing_text *text)
{
	while (!list_is_empty(wishes)) {
		struct listing_wish *wish = CONTAINER_OF(wishes->next, struct listing_wish, link);

		/* Its owner may free it as soon as it is told. */
		list_remove(&wish->link);
		wish->result = result;
		wish->text = text;
		wish->on_done(wish);
	}
}

/* The one walk for a batch of count wishes that ask for the same. */
static void lister_answer(struct lister *lister, struct list *batch, unsigned count)
{
	const struct listing_wish *first = CONTAINER_OF(batch->next, struct listing_wish, link);
	struct listing_text *text = NULL;
	int result = lister_write(lister, first, &text);

	if (result == 0)
		text = text_publish_take(text, count);
	wishes_finish(batch, result, text);
}

static void *lister_main(void *context)
{
	struct lister *lister = context;
	struct list batch;
	unsigned count;

	pthread_mutex_lock(&lister->mutex);
	while (!lister->is_stopping) {
		if (list_is_empty(&lister->waiting)) {
			pthread_cond_wait(&lister->changed, &lister->mutex);
			continue;
		}
		list_init(&batch);
		count = lister_take_batch(lister, &batch);
		pthread_mutex_unlock(&lister->mutex);
		lister_answer(lister, &batch, count);
		pthread_mutex_lock(&lister->mutex);
	}
	pthread_mutex_unlock(&lister->mutex);
	/* Nobody submits any more, so the list is this thread's alone. */
	wishes_finish(&lister->waiting, -ECANCELED, NULL);
	return NULL;
}

/* All signals stay blocked in the thread: they belong to the loops. Returns 0 or an errno. */
static int lister_start(struct lister *lister)
{
	pthread_attr_t attributes;
	sigset_t all;
	sigset_t before;
	int error = pthread_attr_init(&attributes);

	if (error != 0)
		return error;
	/* Nothing here is large on the stack; a log line is the largest. */
	pthread_attr_setstacksize(&attributes, 256 << 10);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&lister->thread, &attributes, lister_main, lister);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return error;
}

struct lister *lister_new(const char *services)
{
	struct lister *lister = calloc(1, sizeof(*lister));
	int error;

	if (!lister)
		return NULL;
	lister->services = services;
	list_init(&lister->waiting);
	pthread_mutex_init(&lister->mutex, NULL);
	pthread_cond_init(&lister->changed, NULL);
	error = lister_start(lister);
	if (error == 0)
		return lister;
	pthread_cond_destroy(&lister->changed);
	pthread_mutex_destroy(&lister->mutex);
	free(lister);
	errno = error;
	return NULL;
}

void lister_free(struct lister *lister)
{
	if (!lister)
		return;
	pthread_mutex_lock(&lister->mutex);
	lister->is_stopping = true;
	pthread_cond_signal(&lister->changed);
	pthread_mutex_unlock(&lister->mutex);
	pthread_join(lister->thread, NULL);
	pthread_cond_destroy(&lister->changed);
	pthread_mutex_destroy(&lister->mutex);
	free(lister);
}

void lister_submit(struct lister *lister, struct listing_wish *wish)
{
	pthread_mutex_lock(&lister->mutex);
	list_append(&lister->waiting, &wish->link);
	pthread_cond_signal(&lister->changed);
	pthread_mutex_unlock(&lister->mutex);
}
