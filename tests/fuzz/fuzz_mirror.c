/*
 * Any bytes as what etcd says to a mirror, and what lies in its directory besides.
 *
 * Each line is one thing that happens: "{…" is an answer, taken as a line of a watch and as a page; "+PATH=VALUE" and
 * "-PATH" are changes, which come as an answer too; "lNAME", "sNAME", "fNAME" and "dNAME" are a link out of
 * the directory, a socket, a file and a directory that somebody else makes there; "!" looks at everything anew.
 *
 * Beyond crashes: nothing outside of the directory is touched; no file holds anything but the whole value of its key, nor
 * exists without one; every key that can be a file is one, already before everything is looked at; to do it all
 * twice changes nothing.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "mirror/etcd_json.h"
#include "mirror/intake.h"
#include "mirror/tree.h"

#define PREFIX "/k/"
#define KEYS_MAX 64
#define LINES_MAX 48
#define CANARY "nobody touches this"

#define ENSURE(condition)         \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length);

/* A plain idea of what there is: the last value of each key that was fit to be a file. */
struct key {
	char *path;
	size_t path_length;
	char *value;
	size_t value_length;
};

struct world {
	struct intake intake;
	struct model model;
	struct tree tree;
	struct key keys[KEYS_MAX];
	size_t count;
	bool has_foreign;  /* somebody else has put something there */
	bool has_obstacle; /* that a mirror leaves alone */
	bool is_full;      /* more keys than the plain idea has room for */
};

/* The working directory while an input runs: canary, outside/ and the mirror's own m/. */
static char root[64];
static int home_fd; /* libFuzzer's */

/* ---- the plain idea ------------------------------------------------------------------------------- */

static bool is_name(const char *name, size_t length, bool is_last)
{
	if (length == 0 || length > 255)
		return false;
	if (name[0] == '.')
		return is_last && length == 6 && memcmp(name, ".kaiso", 6) == 0;
	for (size_t i = 0; i < length; i++) {
		if ((unsigned char)name[i] < ' ' || name[i] == 0x7f)
			return false;
	}
	return true;
}

static bool is_path(const char *path, size_t length)
{
	const char *end = path + length;
	int depth = 0;

	if (length > 4095)
		return false;
	for (;;) {
		const char *slash = length > 0 ? memchr(path, '/', (size_t)(end - path)) : NULL;

		if (!is_name(path, (size_t)((slash ? slash : end) - path), !slash) || ++depth > 64)
			return false;
		if (!slash)
			return true;
		path = slash + 1;
	}
}

static struct key *find_key(struct world *world, const char *path, size_t length)
{
	for (size_t i = 0; i < world->count; i++) {
		if (world->keys[i].path_length == length && memcmp(world->keys[i].path, path, length) == 0)
			return &world->keys[i];
	}
	return NULL;
}

static void remove_key(struct world *world, struct key *key)
{
	free(key->path);
	free(key->value);
	*key = world->keys[--world->count];
}

static char *copy(const char *bytes, size_t length)
{
	char *copied = malloc(length + 1);

	ENSURE(copied);
	memcpy(copied, bytes, length);
	copied[length] = '\0';
	return copied;
}

static void note(struct world *world, const struct etcd_pair *pair)
{
	const char *path = pair->key.start + strlen(PREFIX);
	size_t length = pair->key.length - strlen(PREFIX);
	struct key *key;

	if (pair->key.length < strlen(PREFIX) || memcmp(pair->key.start, PREFIX, strlen(PREFIX)) != 0 ||
	    !is_path(path, length))
		return;
	key = find_key(world, path, length);
	if (key)
		remove_key(world, key);
	if (pair->is_deleted || pair->value.length > 65536)
		return;
	world->is_full = world->is_full || world->count == KEYS_MAX;
	if (world->is_full)
		return;
	world->keys[world->count++] = (struct key){ copy(path, length), length,
						    copy(pair->value.start, pair->value.length),
						    pair->value.length };
}

/* Is no other key below it? */
static bool is_file(struct world *world, const struct key *key)
{
	for (size_t i = 0; i < world->count; i++) {
		const struct key *other = &world->keys[i];

		if (other->path_length > key->path_length && other->path[key->path_length] == '/' &&
		    memcmp(other->path, key->path, key->path_length) == 0)
			return false;
	}
	return true;
}

/* ---- what lies there ------------------------------------------------------------------------------ */

static void check_file(struct world *world, int directory_fd, const char *name, const char *path,
		       bool is_whole)
{
	struct key *key = find_key(world, path, strlen(path));
	int fd = openat(directory_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct stat status;
	char *content;

	ENSURE(fd >= 0 && fstat(fd, &status) == 0);
	/* What somebody else put there may still be there. */
	if (is_whole || !world->has_foreign) {
		ENSURE(key && is_file(world, key));
		ENSURE((size_t)status.st_size == key->value_length);
		content = malloc(key->value_length + 1);
		ENSURE(content && read(fd, content, key->value_length + 1) == (ssize_t)key->value_length);
		ENSURE(memcmp(content, key->value, key->value_length) == 0);
		free(content);
	}
	close(fd);
}

/* How many files of keys there are. */
static size_t check_directory(struct world *world, int fd, const char *path, bool is_whole)
{
	DIR *stream = fdopendir(fd);
	struct dirent *entry;
	size_t files = 0;

	ENSURE(stream);
	while ((entry = readdir(stream))) {
		char below[8192];
		struct stat status;

		if (entry->d_name[0] == '.' && strcmp(entry->d_name, ".kaiso") != 0) {
			ENSURE(strcmp(entry->d_name, TREE_MARK "-new") != 0);
			continue;
		}
		snprintf(below, sizeof(below), "%s%s%s", path, *path ? "/" : "", entry->d_name);
		ENSURE(fstatat(dirfd(stream), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0);
		if (S_ISDIR(status.st_mode)) {
			files += check_directory(world,
						 openat(dirfd(stream), entry->d_name,
							O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC),
						 below, is_whole);
		} else if (S_ISREG(status.st_mode)) {
			check_file(world, dirfd(stream), entry->d_name, below, is_whole);
			files++;
		} else {
			ENSURE(world->has_obstacle);
		}
	}
	closedir(stream);
	return files;
}

static void check_equal(struct world *world, bool is_whole)
{
	size_t files, expected = 0;

	if (world->is_full)
		return;
	files = check_directory(world, open("m", O_RDONLY | O_DIRECTORY | O_CLOEXEC), "", is_whole);
	for (size_t i = 0; i < world->count; i++)
		expected += is_file(world, &world->keys[i]);
	if (!world->has_obstacle && (is_whole || !world->has_foreign))
		ENSURE(files == expected && world->tree.is_equal);
}

static void settle_all(struct world *world)
{
	uint64_t written, removed;

	ENSURE(tree_settle_all(&world->tree, &world->model) == 0);
	written = world->tree.written;
	removed = world->tree.removed;
	check_equal(world, true);
	ENSURE(tree_settle_all(&world->tree, &world->model) == 0);
	ENSURE(world->tree.written == written && world->tree.removed == removed);
}

static void check_outside(void)
{
	char text[64] = "";
	int fd = open("canary", O_RDONLY | O_NOFOLLOW | O_CLOEXEC), entries = 0;
	DIR *stream = opendir(".");

	ENSURE(fd >= 0 && read(fd, text, sizeof(text) - 1) == (ssize_t)strlen(CANARY));
	ENSURE(strcmp(text, CANARY) == 0 && stream);
	close(fd);
	while (readdir(stream))
		entries++;
	closedir(stream);
	ENSURE(entries == 5); /* itself, its parent, canary, outside, m */
	ENSURE(rmdir("outside") == 0 && mkdir("outside", 0755) == 0);
}

/* ---- what happens --------------------------------------------------------------------------------- */

static int take(const struct etcd_pair *pair, void *context)
{
	struct world *world = context;
	struct etcd_bytes path;
	bool is_left_out;
	int r = intake_pair(&world->intake, &world->model, pair, &path, &is_left_out);

	ENSURE(r >= 0 && !is_left_out);
	note(world, pair);
	if (r > 0)
		tree_settle(&world->tree, &world->model, path.start, path.length);
	return 0;
}

static void answer(struct world *world, const char *text, size_t length)
{
	struct etcd_report report;
	struct etcd_page page;
	struct etcd_error error;
	int r = etcd_json_read_report(text, length, &report, take, world);

	ENSURE(r == 0 || r == -EBADMSG);
	r = etcd_json_read_page(text, length, &page, take, world);
	ENSURE(r == -EBADMSG || (r == 0 && page.header.revision > 0));
	etcd_json_read_error(text, length, &error);
	for (const char *byte = error.reason; *byte; byte++)
		ENSURE(*byte >= ' ' && *byte <= '~');
	free(etcd_json_read_token(text, length));
}

static void write_base64(FILE *stream, const char *bytes, size_t length)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < length; i += 3) {
		unsigned group = 0;

		for (size_t j = i; j < i + 3; j++)
			group = group << 8 | (j < length ? (unsigned char)bytes[j] : 0);
		for (size_t j = 0; j < 4; j++)
			fputc(i + j <= length ? digits[group >> (18 - 6 * j) & 63] : '=', stream);
	}
}

/* "PATH=VALUE" or "PATH" behind its sign. */
static void change(struct world *world, const char *line, size_t length)
{
	bool is_deleted = line[0] == '-';
	const char *value = is_deleted ? NULL : memchr(line, '=', length);
	size_t path_length = value ? (size_t)(value - line) - 1 : length - 1, text_length;
	char *key = malloc(strlen(PREFIX) + path_length + 1), *text;
	FILE *stream = open_memstream(&text, &text_length);

	ENSURE(key && stream);
	memcpy(key, PREFIX, strlen(PREFIX));
	memcpy(key + strlen(PREFIX), line + 1, path_length);
	fprintf(stream, "{\"result\":{\"events\":[{%s\"kv\":{\"key\":\"",
		is_deleted ? "\"type\":\"DELETE\"," : "");
	write_base64(stream, key, strlen(PREFIX) + path_length);
	fputs("\",\"value\":\"", stream);
	if (value)
		write_base64(stream, value + 1, length - path_length - 2);
	fputs("\"}}]}}", stream);
	ENSURE(fclose(stream) == 0);
	answer(world, text, text_length);
	free(text);
	free(key);
}

static void make_socket(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	ENSURE(fd >= 0);
	if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) != 0)
		ENSURE(errno == EADDRINUSE || errno == ENOENT || errno == ENOTDIR);
	close(fd);
}

/* Somebody else's doing, in the directory or in one below it, with one letter for a name. */
static void interfere(struct world *world, const char *line, size_t length)
{
	bool is_below = length >= 4 && line[2] == '/';
	char path[8] = { 'm', '/', length > 1 ? line[1] : 'a' };
	struct stat status;

	if (length > 1 && (line[1] < 'a' || line[1] > 'z'))
		return;
	if (is_below &&
	    (line[3] < 'a' || line[3] > 'z' || lstat(path, &status) != 0 || !S_ISDIR(status.st_mode)))
		return;
	if (is_below) {
		path[3] = '/';
		path[4] = line[3];
	}
	world->has_foreign = true;
	world->has_obstacle = world->has_obstacle || line[0] == 'l' || line[0] == 's';
	if (line[0] == 'l')
		ENSURE(symlink(is_below ? "../../outside" : "../outside", path) == 0 || errno == EEXIST);
	else if (line[0] == 's')
		make_socket(path);
	else if (line[0] == 'd')
		ENSURE(mkdir(path, 0755) == 0 || errno == EEXIST);
	else
		close(open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
}

static void happen(struct world *world, const char *line, size_t length)
{
	switch (length > 0 ? line[0] : '\0') {
	case '{':
		answer(world, line, length);
		break;
	case '+':
	case '-':
		change(world, line, length);
		break;
	case 'l':
	case 's':
	case 'f':
	case 'd':
		interfere(world, line, length);
		break;
	case '!':
		settle_all(world);
		break;
	default:
		break;
	}
	check_equal(world, false);
}

/* ---- life ----------------------------------------------------------------------------------------- */

static void remove_root(void)
{
	char command[96];

	snprintf(command, sizeof(command), "rm -rf %s", root);
	ENSURE(chdir("/") == 0 && system(command) == 0);
}

static void make_root(void)
{
	const char *where = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	int fd;

	snprintf(root, sizeof(root), "%s/kaiso-fuzz-XXXXXX", where);
	home_fd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	ENSURE(home_fd >= 0 && mkdtemp(root) && chdir(root) == 0 && mkdir("outside", 0755) == 0);
	fd = open("canary", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	ENSURE(fd >= 0 && write(fd, CANARY, strlen(CANARY)) == (ssize_t)strlen(CANARY));
	close(fd);
	atexit(remove_root);
}

/* The directory for the next input; with sockets and links in it, only others can empty it. */
static void empty_directory(struct world *world)
{
	struct tree *tree = &world->tree;
	struct model nothing;

	ENSURE(model_init(&nothing, 1, 4096) == 0 && tree_settle_all(tree, &nothing) == 0);
	model_deinit(&nothing);
	if (world->has_obstacle)
		ENSURE(system("rm -rf m/*") == 0);
	while (world->count > 0)
		remove_key(world, &world->keys[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length)
{
	struct world world = { .intake = { .prefix = { PREFIX, strlen(PREFIX) } } };
	const char *line = (const char *)input, *end = line + length;
	char reason[TREE_REASON_SIZE];

	if (!*root)
		make_root();
	ENSURE(chdir(root) == 0);
	ENSURE(model_init(&world.model, 100000, 1 << 28) == 0);
	ENSURE(tree_open(&world.tree, "m", PREFIX, reason) == 0);
	world.tree.is_quiet = true;
	ENSURE(tree_settle_all(&world.tree, &world.model) == 0);
	for (int i = 0; i < LINES_MAX && line < end; i++) {
		const char *newline = memchr(line, '\n', (size_t)(end - line));

		happen(&world, line, (size_t)((newline ? newline : end) - line));
		line = newline ? newline + 1 : end;
	}
	settle_all(&world);
	check_outside();
	empty_directory(&world);
	tree_close(&world.tree);
	model_deinit(&world.model);
	ENSURE(fchdir(home_fd) == 0);
	return 0;
}
