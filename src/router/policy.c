/*
 * Theory of operation
 *
 * From the services directory down to that of the service, each directory's DIRECTORY_OPTIONS is looked for by name.
 * Names begin at an anchor, at first the working directory; one that has grown long is opened and becomes the anchor of
 * what is below, so that a path costs its length and not the square of it. Where no directory has such a file, that is
 * all.
 *
 * A file that is there is merged over what its parents say, and the outcome remembered under the directory's path, with
 * the file's stamp and the parents' outcome: it holds while both are the same. The memory also tells a file that is gone
 * from one that never was. One mutex guards it, and is never held over a system call.
 *
 * A read lease is granted only when nobody has the file open for writing, and keeps those out who would open it: they
 * wait for the moment that the reading takes. The kernel tells the holder of such a lease by a signal, for which one is
 * chosen that is ignored unless somebody handles it.
 */
#include "router/policy.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/hash.h"
#include "base/list.h"
#include "base/macros.h"
#include "proto/path.h"
#include "router/description_file.h"

/* ---- one policy ------------------------------------------------------------------------------------ */

void policy_ref(struct policy *policy)
{
	if (policy)
		policy->references++;
}

/* Not by recursion: directories may lie hundreds deep. */
void policy_unref(struct policy *policy)
{
	while (policy && --policy->references == 0) {
		struct policy *below = policy->below;

		free(policy);
		policy = below;
	}
}

static bool policy_has_allowed(const struct policy *policy)
{
	for (size_t i = 0; i < policy->rule_count; i++) {
		if (policy->rules[i].is_allowed)
			return true;
	}
	return false;
}

bool policy_admits(const struct policy *policy, const union addr *client)
{
	struct in6_addr address = { .s6_addr = { [10] = 0xff, [11] = 0xff } };

	if (!policy || policy->rule_count == 0)
		return true;
	switch (client->sa.sa_family) {
	case AF_INET:
		memcpy(address.s6_addr + 12, &client->in.sin_addr, 4);
		break;
	case AF_INET6:
		address = client->in6.sin6_addr;
		break;
	default:
		return !policy_has_allowed(policy);
	}
	return access_is_allowed(policy->rules, policy->rule_count, &address);
}

/* What a text holds, counted before anything is allocated. */
struct outline {
	unsigned named;
	size_t text_size; /* of all copies with their NULs */
	size_t backends;
	size_t rules; /* of allow and deny */
};

static int outline_add_rules(struct outline *outline, const struct option_line *option,
			     struct description_error *error)
{
	struct description_text rest = option->value;
	struct access_rule rule;
	int r;

	while ((r = access_rule_next(&rest, option->key == OPTION_ALLOW, &rule, error)) > 0)
		outline->rules++;
	return r;
}

static int outline_add(struct outline *outline, const struct option_line *option,
		       struct description_error *error)
{
	outline->named |= 1u << option->key;
	switch (option->key) {
	case OPTION_BACKEND:
		outline->backends++;
		outline->text_size += option->value.length + 1;
		return 0;
	case OPTION_ABOUT:
		outline->text_size += option->value.length + 1;
		return 0;
	case OPTION_ALLOW:
	case OPTION_DENY:
		return outline_add_rules(outline, option, error);
	case OPTION_BALANCE:
	case OPTION_PROXY:
	case OPTION_MAX_SESSIONS:
	case OPTION_CONNECT_TIMEOUT:
	case OPTION_IDLE_TIMEOUT:
		return 0;
	}
	return 0;
}

static int outline_read(struct outline *outline, struct description_text text, unsigned first_line,
			struct description_error *error)
{
	struct options_cursor cursor = options_begin(text, first_line);
	struct option_line option;
	int r;

	while ((r = options_next(&cursor, &option, error)) > 0) {
		r = outline_add(outline, &option, error);
		if (r < 0)
			return r;
	}
	return r;
}

/* A policy while it is made: where its next text, backend and rule go. */
struct making {
	struct policy *policy;
	char *text;
	const char **backends;
	struct access_rule *rules;
};

static const char *making_copy(struct making *making, const char *bytes, size_t length)
{
	char *copy = making->text;

	memcpy(copy, bytes, length);
	copy[length] = '\0';
	making->text += length + 1;
	return copy;
}

/* Everything is as below has it; NULL when out of memory. */
static struct policy *making_begin(struct making *making, struct policy *below, const struct outline *outline,
				   const char *source)
{
	const size_t rule_count = outline->rules + (below ? below->rule_count : 0);
	const size_t backends_size = outline->backends * sizeof(*making->backends);
	const size_t rules_size = rule_count * sizeof(*making->rules);
	struct policy *policy = calloc(1, sizeof(*policy) + backends_size + rules_size + outline->text_size +
						  strlen(source) + 1);

	if (!policy)
		return NULL;
	*making = (struct making){ .policy = policy, .backends = (void *)(policy + 1) };
	making->rules = (void *)((char *)making->backends + backends_size);
	making->text = (char *)making->rules + rules_size;
	if (below)
		memcpy((char *)policy + offsetof(struct policy, named),
		       (const char *)below + offsetof(struct policy, named),
		       sizeof(*policy) - offsetof(struct policy, named));
	else
		policy->about = "";
	policy_ref(below);
	policy->references = 1;
	policy->below = below;
	return policy;
}

static void making_add_rules(struct making *making, const struct option_line *option)
{
	struct description_text rest = option->value;
	struct description_error error;
	struct access_rule rule;

	while (access_rule_next(&rest, option->key == OPTION_ALLOW, &rule, &error) > 0)
		making->rules[making->policy->rule_count++] = rule;
}

static void making_add(struct making *making, const struct option_line *option)
{
	struct policy *policy = making->policy;

	switch (option->key) {
	case OPTION_ABOUT:
		policy->about = making_copy(making, option->value.start, option->value.length);
		break;
	case OPTION_BACKEND:
		making->backends[policy->backend_count++] =
			making_copy(making, option->value.start, option->value.length);
		break;
	case OPTION_BALANCE:
		policy->balance = (enum balance)option->number;
		break;
	case OPTION_ALLOW:
	case OPTION_DENY:
		making_add_rules(making, option);
		break;
	case OPTION_PROXY:
		policy->proxy = (enum proxy_version)option->number;
		break;
	case OPTION_MAX_SESSIONS:
		policy->max_sessions = option->number;
		break;
	case OPTION_CONNECT_TIMEOUT:
		policy->connect_timeout_ms = option->number;
		break;
	case OPTION_IDLE_TIMEOUT:
		policy->idle_timeout_ms = option->number;
		break;
	}
}

/* Lists that are named anew begin anew, and of allow and deny the one that is not named stays. */
static void making_begin_lists(struct making *making, unsigned named)
{
	struct policy *policy = making->policy;
	const size_t inherited = policy->rule_count;
	const struct access_rule *rules = policy->rules;

	if (named & (1u << OPTION_BACKEND)) {
		policy->backends = making->backends;
		policy->backend_count = 0;
	}
	if (!(named & (1u << OPTION_ALLOW | 1u << OPTION_DENY)))
		return;
	policy->rules = making->rules;
	policy->rule_count = 0;
	for (size_t i = 0; i < inherited; i++) {
		if (!(named & (1u << (rules[i].is_allowed ? OPTION_ALLOW : OPTION_DENY))))
			making->rules[policy->rule_count++] = rules[i];
	}
}

static void making_name_source(struct making *making, const char *source, unsigned named)
{
	const char *copy = making_copy(making, source, strlen(source));

	making->policy->named |= named;
	for (size_t key = 0; key < OPTION_COUNT; key++) {
		if (named & (1u << key))
			making->policy->sources[key] = copy;
	}
}

int policy_from_text(struct policy *below, const char *source, struct description_text text,
		     unsigned first_line, struct policy **policy, struct description_error *error)
{
	struct options_cursor cursor = options_begin(text, first_line);
	struct outline outline = { 0 };
	struct option_line option;
	struct making making;
	int r = outline_read(&outline, text, first_line, error);

	if (r < 0)
		return r;
	if (outline.named == 0) {
		policy_ref(below);
		*policy = below;
		return 0;
	}
	if (!making_begin(&making, below, &outline, source))
		return -ENOMEM;
	making_begin_lists(&making, outline.named);
	while (options_next(&cursor, &option, error) > 0)
		making_add(&making, &option);
	making_name_source(&making, source, outline.named);
	*policy = making.policy;
	return 0;
}

/* ---- one file -------------------------------------------------------------------------------------- */

#define SETTLED_MS 2000

struct policy_stamp policy_stamp_of(const struct stat *status)
{
	return (struct policy_stamp){ .device = status->st_dev,
				      .inode = status->st_ino,
				      .size = status->st_size,
				      .modified = status->st_mtim,
				      .changed = status->st_ctim };
}

static bool time_is_equal(struct timespec one, struct timespec other)
{
	return one.tv_sec == other.tv_sec && one.tv_nsec == other.tv_nsec;
}

bool policy_stamp_is_equal(const struct policy_stamp *one, const struct policy_stamp *other)
{
	return one->device == other->device && one->inode == other->inode && one->size == other->size &&
	       time_is_equal(one->modified, other->modified) && time_is_equal(one->changed, other->changed);
}

/* Has it been so for that long? A change that lies in the future was made before the clock was set back. */
static bool has_rested(struct timespec changed, int64_t rest_ms)
{
	struct timespec now;
	int64_t age_ms;

	if (clock_gettime(CLOCK_REALTIME, &now) != 0)
		return false;
	age_ms = (now.tv_sec - changed.tv_sec) * INT64_C(1000) + (now.tv_nsec - changed.tv_nsec) / 1000000;
	return age_ms >= rest_ms || age_ms <= -rest_ms;
}

bool policy_stamp_is_torn(const struct policy_stamp *known, const struct policy_stamp *stamp)
{
	return known->device == stamp->device && known->inode == stamp->inode && known->size != stamp->size &&
	       time_is_equal(known->changed, stamp->changed);
}

bool policy_stamp_is_settled(const struct policy_stamp *stamp)
{
	return has_rested(stamp->changed, SETTLED_MS);
}

/* 0 with a lease, which closing the descriptor gives back as well; or a negative errno, -EAGAIN when the file is open for
 * writing. SIGURG rather than the SIGIO that would end the process (fcntl(2), F_SETSIG). */
static int lease_take(int fd)
{
	return fcntl(fd, F_SETSIG, SIGURG) == 0 && fcntl(fd, F_SETLEASE, F_RDLCK) == 0 ? 0 : -errno;
}

/* Without a lease: whatever changes the file while it is read changes its time, which was not of late before. */
static ssize_t read_rested(int fd, const struct stat *status, char *bytes)
{
	const struct policy_stamp before = policy_stamp_of(status);
	struct policy_stamp after;
	struct stat now;
	ssize_t length;

	if (!has_rested(status->st_ctim, POLICY_REST_MS))
		return -EAGAIN;
	length = description_file_read(fd, bytes);
	if (fstat(fd, &now) != 0)
		return -errno;
	after = policy_stamp_of(&now);
	return policy_stamp_is_equal(&before, &after) ? length : -EAGAIN;
}

/* An empty file may have been made by somebody whose open(2) counts as one for writing only in a moment. */
static ssize_t read_leased(int fd, const struct stat *status, char *bytes)
{
	ssize_t length = description_file_read(fd, bytes);

	fcntl(fd, F_SETLEASE, F_UNLCK);
	return length == 0 && !has_rested(status->st_ctim, POLICY_REST_MS) ? -EAGAIN : length;
}

static ssize_t read_settled(int fd, const struct stat *status, char *bytes, bool *is_leased)
{
	int r = lease_take(fd);

	*is_leased = r == 0;
	if (r == -EAGAIN)
		return r;
	return r < 0 ? read_rested(fd, status, bytes) : read_leased(fd, status, bytes);
}

ssize_t policy_read_settled(int fd, const struct stat *status, char *bytes)
{
	bool is_leased;

	return read_settled(fd, status, bytes, &is_leased);
}

/* ---- what is remembered ---------------------------------------------------------------------------- */

#define BUCKETS 1024

/* A directory that has, or had, a file. */
struct node {
	struct node *next; /* in its bucket */
	struct list used;
	uint64_t hash; /* of its path */
	struct policy_stamp stamp;
	bool is_settled;           /* what follows can be trusted while the stamp is the same */
	uint64_t seen_since_ms;    /* the file with this stamp */
	uint64_t missing_since_ms; /* 0: it was there at the last look */
	struct policy *below;      /* what its parents said then; one reference */
	struct policy *policy;     /* the outcome; one reference */
	size_t length;
	char directory[];
};

struct policies {
	const char *services;
	_Atomic size_t count; /* of nodes; read without the mutex, too */
	pthread_mutex_t mutex;
	struct list used; /* nodes, that used last at the end */
	struct node *buckets[BUCKETS];
};

struct policies *policies_new(const char *services)
{
	struct policies *policies = calloc(1, sizeof(*policies));

	if (!policies)
		return NULL;
	policies->services = services;
	list_init(&policies->used);
	pthread_mutex_init(&policies->mutex, NULL);
	return policies;
}

static struct node **policies_link(struct policies *policies, uint64_t hash, const char *directory,
				   size_t length)
{
	struct node **link = &policies->buckets[hash % BUCKETS];

	while (*link && ((*link)->hash != hash || (*link)->length != length ||
			 memcmp((*link)->directory, directory, length) != 0))
		link = &(*link)->next;
	return link;
}

static void policies_remove(struct policies *policies, struct node *node)
{
	*policies_link(policies, node->hash, node->directory, node->length) = node->next;
	list_remove(&node->used);
	policies->count--;
	policy_unref(node->below);
	policy_unref(node->policy);
	free(node);
}

void policies_free(struct policies *policies)
{
	if (!policies)
		return;
	while (!list_is_empty(&policies->used))
		policies_remove(policies, CONTAINER_OF(policies->used.next, struct node, used));
	pthread_mutex_destroy(&policies->mutex);
	free(policies);
}

/* NULL when out of memory. The mutex is held. */
static struct node *policies_add(struct policies *policies, uint64_t hash, const char *directory,
				 size_t length)
{
	struct node **bucket = &policies->buckets[hash % BUCKETS];
	struct node *node;

	if (policies->count == POLICY_FILES_MAX)
		policies_remove(policies, CONTAINER_OF(policies->used.next, struct node, used));
	node = calloc(1, sizeof(*node) + length);
	if (!node)
		return NULL;
	node->hash = hash;
	node->length = length;
	memcpy(node->directory, directory, length);
	node->next = *bucket;
	*bucket = node;
	list_append(&policies->used, &node->used);
	policies->count++;
	return node;
}

static void policies_touch(struct policies *policies, struct node *node)
{
	list_remove(&node->used);
	list_append(&policies->used, &node->used);
}

/* ---- one look -------------------------------------------------------------------------------------- */

/* A name longer than that becomes the anchor of what is below it. */
#define PIECE_MAX 256

struct look {
	struct policies *policies;
	const char *path; /* of which the first length bytes name the directory that is looked at */
	size_t length;
	uint64_t hash; /* of them */
	int anchor;    /* AT_FDCWD, or a descriptor that is closed when the look goes on from it */
	char name[PIECE_MAX + 1 + NAME_MAX + sizeof("/" DIRECTORY_OPTIONS)]; /* from the anchor on */
	size_t name_length;
	struct policy *policy; /* what the directories say so far; one reference */
	struct description_error *error;
	char *file; /* POLICY_FILE_SIZE */
};

/* What a step returns besides 0 and errors: there is no such directory, and so nothing below it. */
#define LOOK_ENDS POLICY_WAY_ENDS

/* Of what named the directory. EACCES does not say that there is none: some systems judge each file by its name; nor does
 * ELOOP: what cannot be looked at may hold what keeps the client out. */
static int directory_result(int error)
{
	return error == -ENOENT || error == -ENOTDIR ? LOOK_ENDS : error;
}

static void look_name_file(struct look *look)
{
	snprintf(look->file, POLICY_FILE_SIZE, "%s/%.*s%s" DIRECTORY_OPTIONS, look->policies->services,
		 (int)look->length, look->path, look->length > 0 ? "/" : "");
}

static int look_invalid(const struct look *look, const char *reason)
{
	*look->error = (struct description_error){ .line = 0 };
	snprintf(look->error->reason, sizeof(look->error->reason), "%s", reason);
	return -EINVAL;
}

static struct node *look_recall(const struct look *look)
{
	return *policies_link(look->policies, look->hash, look->path, look->length);
}

/* Remembers that the file is there, and what it was read as: NULL with an error. */
static void look_remember(struct look *look, const struct stat *status, bool is_read, struct policy *outcome)
{
	const struct policy_stamp stamp = policy_stamp_of(status);
	struct policies *policies = look->policies;
	struct node *node;

	pthread_mutex_lock(&policies->mutex);
	node = look_recall(look);
	if (!node)
		node = policies_add(policies, look->hash, look->path, look->length);
	if (node) {
		policies_touch(policies, node);
		node->missing_since_ms = 0;
		if (!policy_stamp_is_equal(&node->stamp, &stamp))
			node->seen_since_ms = clock_now_ms();
		node->stamp = stamp;
		node->is_settled = is_read && policy_stamp_is_settled(&node->stamp);
		policy_ref(outcome);
		policy_unref(node->policy);
		node->policy = outcome;
		policy_ref(look->policy);
		policy_unref(node->below);
		node->below = look->policy;
	}
	pthread_mutex_unlock(&policies->mutex);
}

/* Is what is remembered still so? Then it is what the directories say so far. */
static bool look_known(struct look *look, const struct stat *status)
{
	const struct policy_stamp stamp = policy_stamp_of(status);
	struct policies *policies = look->policies;
	struct node *node;
	bool is_known;

	pthread_mutex_lock(&policies->mutex);
	node = look_recall(look);
	is_known = node && node->is_settled && node->below == look->policy &&
		   policy_stamp_is_equal(&node->stamp, &stamp);
	if (is_known) {
		policies_touch(policies, node);
		node->missing_since_ms = 0;
		policy_ref(node->policy);
		policy_unref(look->policy);
		look->policy = node->policy;
	}
	pthread_mutex_unlock(&policies->mutex);
	return is_known;
}

static int look_merge(struct look *look, const char *bytes, size_t length, struct policy **outcome)
{
	const struct description_text text = { bytes, length };

	if (memchr(bytes, '\0', length))
		return look_invalid(look, "a NUL byte");
	return policy_from_text(look->policy, look->file, text, 1, outcome, look->error);
}

enum look_trust { LOOK_TRUSTS, LOOK_WAITS, LOOK_DISREGARDS };

/* May a file be believed that is at rest by its time alone? Not one that has been cut off a moment ago (LOOK_DISREGARDS:
 * its stamp means nothing, either), and so an empty one only when it stays that. */
static enum look_trust look_trusts(struct look *look, const struct stat *status)
{
	const struct policy_stamp stamp = policy_stamp_of(status);
	struct policies *policies = look->policies;
	enum look_trust trust = status->st_size > 0 ? LOOK_TRUSTS : LOOK_WAITS;
	struct node *node;

	pthread_mutex_lock(&policies->mutex);
	node = look_recall(look);
	if (node && node->is_settled && policy_stamp_is_torn(&node->stamp, &stamp)) {
		node->missing_since_ms = 0;
		trust = LOOK_DISREGARDS;
	} else if (node && policy_stamp_is_equal(&node->stamp, &stamp) &&
		   clock_now_ms() - node->seen_since_ms >= POLICY_REST_MS) {
		trust = LOOK_TRUSTS;
	}
	pthread_mutex_unlock(&policies->mutex);
	return trust;
}

static int look_open_error(const struct look *look, int error, bool is_link)
{
	switch (error) {
	case -EINVAL:
		return look_invalid(look, "not a regular file");
	case -EFBIG:
		return look_invalid(look, "longer than 64 KiB");
	case -ENOENT:
		/* It was there a moment ago. */
		return is_link ? look_invalid(look, "a link that leads nowhere") : -EAGAIN;
	default:
		return error;
	}
}

/* Reads the file: what it says over the parents is what the directories say so far. */
static int look_read(struct look *look, struct stat *status, bool is_link)
{
	CLEANUP_FREE char *bytes = malloc(DESCRIPTION_FILE_BUFFER);
	CLEANUP_CLOSE int fd = description_file_open(look->anchor, look->name, status);
	enum look_trust trust = LOOK_TRUSTS;
	struct policy *outcome = NULL;
	bool is_leased = false;
	ssize_t length = fd;
	int r;

	if (!bytes)
		return -ENOMEM;
	look_name_file(look);
	if (fd >= 0)
		length = read_settled(fd, status, bytes, &is_leased);
	if (length >= 0 && !is_leased)
		trust = look_trusts(look, status);
	if (trust == LOOK_DISREGARDS)
		return -EAGAIN;
	if (trust == LOOK_WAITS)
		length = -EAGAIN;
	r = length < 0 ? look_open_error(look, (int)length, is_link) :
			 look_merge(look, bytes, (size_t)length, &outcome);
	look_remember(look, status, r == 0, outcome);
	if (r == 0) {
		policy_unref(look->policy);
		look->policy = outcome;
	}
	return r;
}

/* Since when has the file been away, 0 for no time at all: nobody has seen it. */
static uint64_t look_missing_since(struct look *look)
{
	struct policies *policies = look->policies;
	uint64_t since_ms = 0;
	struct node *node;

	pthread_mutex_lock(&policies->mutex);
	node = look_recall(look);
	if (node && node->missing_since_ms == 0)
		node->missing_since_ms = clock_now_ms();
	if (node)
		since_ms = node->missing_since_ms;
	pthread_mutex_unlock(&policies->mutex);
	return since_ms;
}

/* Unless somebody has found it again. */
static void look_forget(struct look *look)
{
	struct policies *policies = look->policies;
	struct node *node;

	pthread_mutex_lock(&policies->mutex);
	node = look_recall(look);
	if (node && node->missing_since_ms > 0)
		policies_remove(policies, node);
	pthread_mutex_unlock(&policies->mutex);
}

/* There is no file. Was there one a moment ago? A directory in which much happens never rests, so being away for as long
 * as that counts, too. */
static int look_missing(struct look *look)
{
	uint64_t since_ms = look->policies->count > 0 ? look_missing_since(look) : 0;
	struct stat directory;

	if (since_ms == 0)
		return 0;
	look->name[look->name_length] = '\0';
	if (fstatat(look->anchor, look->name_length > 0 ? look->name : ".", &directory, 0) != 0)
		return directory_result(-errno);
	if (!has_rested(directory.st_ctim, POLICY_REST_MS) && clock_now_ms() - since_ms < POLICY_REST_MS)
		return -EAGAIN;
	look_forget(look);
	return 0;
}

static int look_at_directory(struct look *look)
{
	struct stat status;
	bool is_link;
	int r;

	memcpy(look->name + look->name_length, "/" DIRECTORY_OPTIONS, sizeof("/" DIRECTORY_OPTIONS));
	if (look->name_length == 0) /* what the anchor itself holds */
		memcpy(look->name, DIRECTORY_OPTIONS, sizeof(DIRECTORY_OPTIONS));
	r = fstatat(look->anchor, look->name, &status, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : -errno;
	if (r == -ENOENT)
		return look_missing(look);
	if (r < 0)
		return directory_result(r);
	is_link = S_ISLNK(status.st_mode);
	/* When that fails, so does the reading, which has the words for it. */
	if (is_link && fstatat(look->anchor, look->name, &status, 0) != 0)
		return look_read(look, &status, is_link);
	return look_known(look, &status) ? 0 : look_read(look, &status, is_link);
}

static int look_set_anchor(struct look *look, int fd)
{
	if (look->anchor >= 0)
		close(look->anchor);
	look->anchor = fd;
	look->name_length = 0;
	return fd < 0 ? directory_result(-errno) : 0;
}

static int look_begin(struct look *look)
{
	const char *services = look->policies->services;
	int fd;

	if (strlen(services) <= PIECE_MAX) {
		look->name_length = strlen(services);
		memcpy(look->name, services, look->name_length);
		return 0;
	}
	fd = fd_open_path(services, O_PATH | O_DIRECTORY);
	errno = fd < 0 ? -fd : 0;
	return look_set_anchor(look, fd);
}

/* Goes into the next directory on the way. */
static int look_enter(struct look *look, size_t end)
{
	const char *start = look->path + look->length + (look->length > 0);
	const char *slash = memchr(start, '/', (size_t)(look->path + end - start));
	const size_t length = (size_t)((slash ? slash : look->path + end) - start);
	int r = 0;

	if (length > NAME_MAX)
		return LOOK_ENDS;
	if (look->name_length > PIECE_MAX) {
		look->name[look->name_length] = '\0';
		r = look_set_anchor(look, openat(look->anchor, look->name, O_PATH | O_DIRECTORY | O_CLOEXEC));
	}
	if (r != 0)
		return r;
	if (look->name_length > 0)
		look->name[look->name_length++] = '/';
	memcpy(look->name + look->name_length, start, length);
	look->name_length += length;
	look->hash = hash_more(look->hash, look->path + look->length,
			       (size_t)(start + length - look->path) - look->length);
	look->length = (size_t)(start + length - look->path);
	return 0;
}

/* From the services directory to the one that the first end bytes of the path name. */
static int look_along(struct look *look, size_t end)
{
	int r = look_begin(look);

	if (r == 0)
		r = look_at_directory(look);
	while (r == 0 && look->length < end) {
		r = look_enter(look, end);
		if (r == 0)
			r = look_at_directory(look);
	}
	return r;
}

static int look_end(struct look *look, int r, struct policy **policy)
{
	if (r < 0) {
		look_name_file(look);
		policy_unref(look->policy);
		look->policy = NULL;
	}
	*policy = look->policy;
	return r;
}

static int policies_look(struct policies *policies, const char *directory, size_t length,
			 struct policy **policy, struct description_error *error,
			 char file[static POLICY_FILE_SIZE])
{
	struct look look = {
		.policies = policies,
		.path = directory,
		.hash = hash_bytes("", 0),
		.anchor = AT_FDCWD,
		.error = error,
		.file = file,
	};
	int r = look_along(&look, length);

	if (look.anchor >= 0)
		close(look.anchor);
	return look_end(&look, r, policy);
}

int policies_find_directory(struct policies *policies, const char *directory, size_t length,
			    struct policy **policy, struct description_error *error,
			    char file[static POLICY_FILE_SIZE])
{
	int r = policies_look(policies, directory, length, policy, error, file);

	return r == LOOK_ENDS ? 0 : r;
}

int policies_find_below(struct policies *policies, struct policy *above, int fd, const char *directory,
			size_t length, struct policy **policy, struct description_error *error,
			char file[static POLICY_FILE_SIZE])
{
	struct look look = {
		.policies = policies,
		.path = directory,
		.length = length,
		.hash = hash_bytes(directory, length),
		.anchor = fd,
		.policy = above,
		.error = error,
		.file = file,
	};
	int r;

	policy_ref(above);
	r = look_at_directory(&look);
	return look_end(&look, r == LOOK_ENDS ? 0 : r, policy);
}

int policies_find(struct policies *policies, const char *path, size_t length, struct policy **policy,
		  struct description_error *error, char file[static POLICY_FILE_SIZE])
{
	const char *slash = memrchr(path, '/', length);

	return policies_look(policies, path, slash ? (size_t)(slash - path) : 0, policy, error, file);
}
