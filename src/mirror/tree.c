/*
 * Theory of operation: settle_entry() makes one name in one directory what the model says, and is all there is: a change
 * is settled by going down to the first name that is no directory, the whole by walking over what lies
 * in each directory and then over what the model has besides.
 *
 * The options of a directory (DIRECTORY_OPTIONS) come first and go last: they may keep clients out of what is below, which
 * must not be there for a moment without them.
 *
 * Between the look at a name and the rename over it a program of this host may make a socket there, and would lose it.
 * Names that a mirror has are not for others.
 */
#include "mirror/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/macros.h"
#include "proto/description.h"

/* One for the whole: there is one mirror at a time. */
#define PASSING_NAME TREE_MARK "-new"

/* Directories that others made inside each other are left alone beyond it. */
#define DEPTH_MAX (MODEL_DEPTH_MAX + 1)

/* A look at the stop descriptor each so many entries. */
#define STOP_EVERY 64

#define OPEN_DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)

/* Where a walk is, for the log. */
struct place {
	struct tree *tree;
	const struct model *model;
	unsigned depth;
	unsigned entries; /* met so far */
	bool is_stopped;
	size_t length;
	char path[PATH_LENGTH_MAX + 1];
};

static void settle_directory(struct place *place, int fd, struct model_node *node);

/* ---- where, and what went wrong ------------------------------------------------------------------ */

/* Returns what place_leave() takes to go back. A path that is too long is one that a foreigner made. */
static size_t place_enter(struct place *place, const char *name)
{
	size_t before = place->length, room = sizeof(place->path) - before;
	int length = snprintf(place->path + before, room, "%s%s", before > 0 ? "/" : "", name);

	place->length += MIN((size_t)length, room - 1);
	return before;
}

static void place_leave(struct place *place, size_t before)
{
	place->length = before;
	place->path[before] = '\0';
}

static void problem(struct place *place, const char *reason)
{
	struct tree *tree = place->tree;
	struct log_line line;
	uint32_t suppressed;

	tree->is_equal = false;
	tree->problems++;
	if (tree->is_quiet || !log_limiter_pass(&tree->limiter, clock_now_ms(), &suppressed))
		return;
	log_begin(&line, LOG_LEVEL_WARNING, "not mirrored");
	log_add_bytes(&line, "path", place->path, place->length);
	log_add_string(&line, "reason", reason);
	if (suppressed > 0)
		log_add_number(&line, "suppressed", suppressed);
	log_end(&line);
}

static void problem_errno(struct place *place)
{
	problem(place, strerror(errno));
}

/* ---- one entry ----------------------------------------------------------------------------------- */

static bool is_options(const char *name)
{
	return strcmp(name, DIRECTORY_OPTIONS) == 0;
}

static bool is_ours(const char *name)
{
	return name[0] != '.' || is_options(name);
}

/* What lies there: the type bits of its mode; 0 for nothing, and when it cannot be seen, which is told. */
static mode_t look(struct place *place, int directory_fd, const char *name)
{
	struct stat status;

	if (fstatat(directory_fd, name, &status, AT_SYMLINK_NOFOLLOW) == 0)
		return status.st_mode & S_IFMT;
	if (errno != ENOENT)
		problem_errno(place);
	return 0;
}

static void remove_file(struct place *place, int directory_fd, const char *name)
{
	if (unlinkat(directory_fd, name, 0) == 0)
		place->tree->removed++;
	else if (errno != ENOENT)
		problem_errno(place);
}

/* What is others' in it keeps a directory; that is no problem. */
static void remove_directory(struct place *place, int directory_fd, const char *name)
{
	CLEANUP_CLOSE int fd = openat(directory_fd, name, OPEN_DIRECTORY);

	if (fd < 0) {
		if (errno != ENOENT && errno != EACCES)
			problem_errno(place);
		return;
	}
	settle_directory(place, fd, NULL);
	if (unlinkat(directory_fd, name, AT_REMOVEDIR) != 0 && errno != ENOENT && errno != ENOTEMPTY &&
	    errno != EEXIST && errno != EBUSY)
		problem_errno(place);
}

static void remove_entry(struct place *place, int directory_fd, const char *name)
{
	mode_t type = look(place, directory_fd, name);

	if (S_ISREG(type))
		remove_file(place, directory_fd, name);
	else if (S_ISDIR(type))
		remove_directory(place, directory_fd, name);
}

/* Opens it, and makes it when it is not there; -1 when it cannot be had, which is told. */
static int make_directory(struct place *place, int directory_fd, const char *name)
{
	mode_t type = look(place, directory_fd, name);
	int fd;

	if (S_ISREG(type))
		remove_file(place, directory_fd, name);
	else if (type != 0 && !S_ISDIR(type)) {
		problem(place, "its name is taken by something that is no mirror's");
		return -1;
	}
	if (!S_ISDIR(type) && mkdirat(directory_fd, name, 0777) != 0 && errno != EEXIST) {
		problem_errno(place);
		return -1;
	}
	fd = openat(directory_fd, name, OPEN_DIRECTORY);
	if (fd < 0)
		problem_errno(place);
	return fd;
}

/* Does a file that is there hold just that? */
static bool has_content(int directory_fd, const char *name, const char *bytes, size_t length)
{
	CLEANUP_CLOSE int fd = openat(directory_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	char chunk[4096];
	struct stat status;
	size_t at = 0;

	if (fd < 0 || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || (size_t)status.st_size != length)
		return false;
	while (at < length) {
		ssize_t got = read(fd, chunk, MIN(sizeof(chunk), length - at));

		if (got <= 0 || memcmp(chunk, bytes + at, (size_t)got) != 0)
			return false;
		at += (size_t)got;
	}
	return true;
}

/* A new file under the passing name; one that a mirror left behind when it was killed is replaced. */
static int open_passing(int directory_fd)
{
	int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	int fd = openat(directory_fd, PASSING_NAME, flags, 0666);

	if (fd < 0 && errno == EEXIST && unlinkat(directory_fd, PASSING_NAME, 0) == 0)
		fd = openat(directory_fd, PASSING_NAME, flags, 0666);
	return fd;
}

static int write_whole(int fd, const char *bytes, size_t length, bool has_sync)
{
	while (length > 0) {
		ssize_t written = write(fd, bytes, length);

		if (written < 0 && errno != EINTR)
			return -1;
		if (written > 0) {
			bytes += written;
			length -= (size_t)written;
		}
	}
	return has_sync ? fdatasync(fd) : 0;
}

/* 0, or -1 with errno set and nothing changed. */
static int replace_file(int directory_fd, const char *name, const char *bytes, size_t length, bool has_sync)
{
	CLEANUP_CLOSE int fd = open_passing(directory_fd);
	int error;

	if (fd < 0)
		return -1;
	if (write_whole(fd, bytes, length, has_sync) == 0 &&
	    renameat(directory_fd, PASSING_NAME, directory_fd, name) == 0)
		return 0;
	error = errno;
	unlinkat(directory_fd, PASSING_NAME, 0);
	errno = error;
	return -1;
}

static void make_file(struct place *place, int directory_fd, const char *name, const struct model_node *node)
{
	mode_t type = look(place, directory_fd, name);

	if (S_ISREG(type) && has_content(directory_fd, name, node->value, node->value_length))
		return;
	if (S_ISDIR(type)) {
		remove_directory(place, directory_fd, name);
		type = look(place, directory_fd, name);
	}
	if (type != 0 && !S_ISREG(type)) {
		problem(place, "its name is taken by something that is no mirror's");
		return;
	}
	if (replace_file(directory_fd, name, node->value, node->value_length, place->tree->has_sync) == 0)
		place->tree->written++;
	else
		problem_errno(place);
}

/* node: NULL when the model has nothing of that name. */
static void settle_entry(struct place *place, int directory_fd, const char *name, struct model_node *node)
{
	CLEANUP_CLOSE int fd = -1;
	size_t before = place_enter(place, name);

	switch (model_kind(node)) {
	case MODEL_NOTHING:
		remove_entry(place, directory_fd, name);
		break;
	case MODEL_FILE:
		make_file(place, directory_fd, name, node);
		break;
	case MODEL_DIRECTORY:
		fd = make_directory(place, directory_fd, name);
		if (fd >= 0)
			settle_directory(place, fd, node);
		break;
	}
	place_leave(place, before);
}

/* Before anything else in a directory: they may say who is kept out of the rest. False when they cannot be had: then
 * nothing is changed there. */
static bool put_options(struct place *place, int fd, struct model_node *node)
{
	struct model_node *options =
		model_child(place->model, node, DIRECTORY_OPTIONS, strlen(DIRECTORY_OPTIONS));
	uint64_t problems = place->tree->problems;

	if (model_kind(options) == MODEL_FILE)
		settle_entry(place, fd, DIRECTORY_OPTIONS, options);
	return place->tree->problems == problems;
}

/* And behind everything else. */
static void remove_options(struct place *place, int fd, struct model_node *node)
{
	struct model_node *options =
		model_child(place->model, node, DIRECTORY_OPTIONS, strlen(DIRECTORY_OPTIONS));

	if (model_kind(options) == MODEL_NOTHING)
		settle_entry(place, fd, DIRECTORY_OPTIONS, NULL);
}

/* ---- all of it ----------------------------------------------------------------------------------- */

/* A stream over the directory, which leaves the caller's descriptor alone. */
static DIR *open_stream(int directory_fd)
{
	CLEANUP_CLOSE int fd = openat(directory_fd, ".", OPEN_DIRECTORY);
	DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;

	if (stream)
		steal_fd(&fd);
	return stream;
}

/* A walk over many files may take minutes. */
static bool is_stopped(struct place *place)
{
	struct pollfd stop = { .fd = place->tree->stop_fd, .events = POLLIN };

	if (!place->is_stopped && place->entries++ % STOP_EVERY == 0)
		place->is_stopped = poll(&stop, 1, 0) > 0;
	return place->is_stopped;
}

static void settle_found(struct place *place, int fd, const char *name, struct model_node *node)
{
	struct model_node *child;

	if (strcmp(name, PASSING_NAME) == 0)
		unlinkat(fd, PASSING_NAME, 0);
	if (!is_ours(name))
		return;
	child = model_child(place->model, node, name, strlen(name));
	if (child)
		child->mark = place->tree->walk;
	if (!is_options(name))
		settle_entry(place, fd, name, child);
}

/* What is renamed meanwhile may be met twice, and is then equal. */
static void settle_all_found(struct place *place, int fd, struct model_node *node)
{
	DIR *stream = open_stream(fd);
	struct dirent *entry;

	if (!stream) {
		problem_errno(place);
		return;
	}
	while ((errno = 0, entry = readdir(stream)) && !is_stopped(place))
		settle_found(place, fd, entry->d_name, node);
	if (errno != 0)
		problem_errno(place);
	closedir(stream);
}

static void settle_missing(struct place *place, int fd, struct model_node *node)
{
	for (struct list *one = node->children.next; one != &node->children && !is_stopped(place);
	     one = one->next) {
		struct model_node *child = CONTAINER_OF(one, struct model_node, siblings);

		if (child->mark != place->tree->walk && !is_options(child->name))
			settle_entry(place, fd, child->name, child);
	}
}

/* node: NULL when there is to be nothing. */
static void settle_directory(struct place *place, int fd, struct model_node *node)
{
	if (place->depth == DEPTH_MAX || !put_options(place, fd, node))
		return;
	place->depth++;
	settle_all_found(place, fd, node);
	if (node)
		settle_missing(place, fd, node);
	if (!place->is_stopped)
		remove_options(place, fd, node);
	place->depth--;
}

int tree_settle_all(struct tree *tree, const struct model *model)
{
	struct place place = { .tree = tree, .model = model };
	struct stat status;

	tree->is_equal = true;
	tree->walk++;
	settle_directory(&place, tree->fd, model->root);
	if (fstat(tree->fd, &status) == 0 && status.st_nlink == 0)
		return -ENOENT;
	return place.is_stopped ? -ECANCELED : 0;
}

/* ---- one path ------------------------------------------------------------------------------------ */

/* Goes down as long as the model has directories: the first other entry holds all that can be different. */
void tree_settle(struct tree *tree, const struct model *model, const char *path, size_t path_length)
{
	struct place place = { .tree = tree, .model = model };
	CLEANUP_CLOSE int fd = openat(tree->fd, ".", OPEN_DIRECTORY);
	struct model_node *node = model->root;
	const char *end = path + path_length;
	char name[MODEL_NAME_MAX + 1];

	if (fd < 0)
		problem_errno(&place);
	while (fd >= 0 && path < end && put_options(&place, fd, node)) {
		const char *slash = memchr(path, '/', (size_t)(end - path));
		size_t length = (size_t)((slash ? slash : end) - path);
		int below_fd;

		memcpy(name, path, length);
		name[length] = '\0';
		node = model_child(model, node, name, length);
		if (model_kind(node) != MODEL_DIRECTORY) {
			settle_entry(&place, fd, name, node);
			return;
		}
		place_enter(&place, name);
		below_fd = make_directory(&place, fd, name);
		close(fd);
		fd = below_fd;
		path = slash ? slash + 1 : end;
	}
}

/* ---- the directory itself ------------------------------------------------------------------------ */

/* On the heap, terminated. */
static char *mark_text(const char *source)
{
	char *text;

	return asprintf(&text, "kaiso mirror of\n%s\n", source) < 0 ? NULL : text;
}

/* 1: nothing is in it; 0: something is, but what a mirror left there that was killed before it had its mark. */
static int is_empty(int directory_fd)
{
	DIR *stream = open_stream(directory_fd);
	struct dirent *entry;
	int result = 1;

	if (!stream)
		return -errno;
	while ((entry = readdir(stream))) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
		    strcmp(entry->d_name, PASSING_NAME) != 0)
			result = 0;
	}
	closedir(stream);
	return result;
}

static int put_mark(struct tree *tree, const char *text, char reason[TREE_REASON_SIZE])
{
	int r = is_empty(tree->fd);

	if (r == 0) {
		snprintf(
			reason, TREE_REASON_SIZE,
			"it is not empty, and no mirror (it has no " TREE_MARK
			"): a mirror would remove what is in it; name an empty one, or one that is not there yet");
		return -ENOTEMPTY;
	}
	if (r > 0)
		r = replace_file(tree->fd, TREE_MARK, text, strlen(text), tree->has_sync) == 0 ? 0 : -errno;
	if (r < 0)
		snprintf(reason, TREE_REASON_SIZE, "%s", strerror(-r));
	return r;
}

static int check_mark(struct tree *tree, const char *source, char reason[TREE_REASON_SIZE])
{
	CLEANUP_FREE char *text = mark_text(source);
	struct stat status;

	if (!text)
		return -ENOMEM;
	if (fstatat(tree->fd, TREE_MARK, &status, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT)
		return put_mark(tree, text, reason);
	if (has_content(tree->fd, TREE_MARK, text, strlen(text)))
		return 0;
	snprintf(reason, TREE_REASON_SIZE,
		 "its " TREE_MARK
		 " says that it is the mirror of another prefix, or cannot be read; remove that file and the "
		 "others, or name another directory");
	return -EEXIST;
}

static int take_directory(struct tree *tree, const char *directory, const char *source,
			  char reason[TREE_REASON_SIZE])
{
	if (mkdir(directory, 0777) != 0 && errno != EEXIST) {
		int error = errno;

		snprintf(reason, TREE_REASON_SIZE, "%s", strerror(error));
		return -error;
	}
	tree->fd = fd_open_path(directory, O_RDONLY | O_DIRECTORY);
	if (tree->fd < 0) {
		snprintf(reason, TREE_REASON_SIZE, "%s", strerror(-tree->fd));
		return tree->fd;
	}
	if (flock(tree->fd, LOCK_EX | LOCK_NB) != 0) {
		int error = errno == EWOULDBLOCK ? EBUSY : errno;

		snprintf(reason, TREE_REASON_SIZE, "%s",
			 error == EBUSY ? "another kaiso mirror has it" : strerror(error));
		return -error;
	}
	return check_mark(tree, source, reason);
}

int tree_open(struct tree *tree, const char *directory, const char *source, char reason[TREE_REASON_SIZE])
{
	int r;

	*tree = (struct tree){ .fd = -1, .stop_fd = -1 };
	snprintf(reason, TREE_REASON_SIZE, "%s", strerror(ENOMEM));
	r = take_directory(tree, directory, source, reason);
	if (r < 0)
		tree_close(tree);
	return r;
}

void tree_close(struct tree *tree)
{
	cleanup_close(&tree->fd);
	tree->fd = -1;
}
