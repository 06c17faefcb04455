/*
 * Theory of operation: files are known by device and inode, in a table of chains, and in a list in the order of their
 * last use. When the table is full, the one that was used longest ago makes room, unless this list has used it already:
 * a list of more files than fit would else throw out each one just before the next list asks for it.
 */
#include "router/summaries.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/list.h"
#include "base/macros.h"
#include "proto/options.h"
#include "router/description_file.h"
#include "router/listing.h"

#define BUCKETS 16384

/* A summary with its texts behind it. */
struct known {
	struct known *next; /* in its bucket */
	struct list used;
	uint64_t round; /* the list that used it last */
	struct policy_stamp stamp;
	bool is_settled;
	struct summary summary;
	size_t size;
	char text[];
};

struct summaries {
	struct known *buckets[BUCKETS];
	struct list used; /* that used last at the end */
	size_t count;
	size_t bytes;
	uint64_t round;
	struct known *passing; /* the one found last, where there was no room for it */
	char buffer[DESCRIPTION_FILE_BUFFER];
};

struct summaries *summaries_new(void)
{
	struct summaries *summaries = calloc(1, sizeof(*summaries));

	if (summaries)
		list_init(&summaries->used);
	return summaries;
}

static struct known **summaries_bucket(struct summaries *summaries, const struct policy_stamp *stamp)
{
	return &summaries->buckets[(stamp->inode * 31 + stamp->device) % BUCKETS];
}

static struct known *summaries_recall(struct summaries *summaries, const struct policy_stamp *stamp)
{
	struct known *known = *summaries_bucket(summaries, stamp);

	while (known && (known->stamp.inode != stamp->inode || known->stamp.device != stamp->device))
		known = known->next;
	return known;
}

static void summaries_forget(struct summaries *summaries, struct known *known)
{
	struct known **link = summaries_bucket(summaries, &known->stamp);

	while (*link != known)
		link = &(*link)->next;
	*link = known->next;
	list_remove(&known->used);
	summaries->count--;
	summaries->bytes -= known->size;
	free(known);
}

void summaries_free(struct summaries *summaries)
{
	if (!summaries)
		return;
	while (!list_is_empty(&summaries->used))
		summaries_forget(summaries, CONTAINER_OF(summaries->used.next, struct known, used));
	free(summaries->passing);
	free(summaries);
}

void summaries_begin(struct summaries *summaries)
{
	summaries->round++;
}

static bool summaries_make_room(struct summaries *summaries, size_t size)
{
	while (summaries->count >= SUMMARIES_MAX || summaries->bytes + size > SUMMARIES_BYTES_MAX) {
		struct known *oldest = CONTAINER_OF(summaries->used.next, struct known, used);

		if (list_is_empty(&summaries->used) || oldest->round == summaries->round)
			return false;
		summaries_forget(summaries, oldest);
	}
	return true;
}

static void summaries_use(struct summaries *summaries, struct known *known)
{
	list_remove(&known->used);
	list_append(&summaries->used, &known->used);
	known->round = summaries->round;
}

/* In place of what was known of the file. */
static void summaries_remember_take(struct summaries *summaries, struct known *known)
{
	struct known *old = summaries_recall(summaries, &known->stamp);
	struct known **bucket = summaries_bucket(summaries, &known->stamp);

	if (old)
		summaries_forget(summaries, old);
	if (!summaries_make_room(summaries, known->size)) {
		summaries->passing = known;
		return;
	}
	known->next = *bucket;
	*bucket = known;
	summaries->count++;
	summaries->bytes += known->size;
	summaries_use(summaries, known);
}

/* ---- one file -------------------------------------------------------------------------------------- */

static struct description_text about_of(struct description_text options, bool *has_rules)
{
	struct options_cursor cursor = options_begin(options, 2);
	struct description_text about = { NULL, 0 };
	struct description_error error;
	struct option_line option;

	*has_rules = false;
	while (options_next(&cursor, &option, &error) > 0) {
		if (option.key == OPTION_ABOUT)
			about = option.value;
		if (option.key == OPTION_ALLOW || option.key == OPTION_DENY)
			*has_rules = true;
	}
	return about;
}

/* NULL when out of memory. description is NULL for one that is invalid. */
static struct known *known_new(const struct description *description, const struct stat *status)
{
	struct description_text about = { NULL, 0 }, options = { NULL, 0 };
	bool has_rules = false;
	struct known *known;
	size_t size;

	if (description)
		about = about_of(description->options, &has_rules);
	if (has_rules)
		options = description->options;
	size = sizeof(*known) + about.length + 1 + options.length;
	known = calloc(1, size);
	if (!known)
		return NULL;
	known->size = size;
	list_init(&known->used);
	known->stamp = policy_stamp_of(status);
	known->is_settled = policy_stamp_is_settled(&known->stamp);
	known->summary.is_valid = description;
	if (!description)
		return known;
	known->summary.kind = description->kind;
	if (about.start)
		known->summary.about = memcpy(known->text, about.start, about.length);
	known->summary.has_rules = has_rules;
	known->summary.options = (struct description_text){ known->text + about.length + 1, options.length };
	if (has_rules)
		memcpy(known->text + about.length + 1, options.start, options.length);
	return known;
}

/* What cannot be read is invalid to a list, unless the cause is not in the file. */
static int read_result(ssize_t length)
{
	if (length == -EAGAIN || length == -ENOENT ||
	    (length < 0 && listing_error_is_exhaustion((int)-length)))
		return (int)length;
	return 0;
}

static int summaries_read(struct summaries *summaries, int directory_fd, const char *name,
			  struct known **known)
{
	struct description_error error;
	struct description description;
	struct stat status = { 0 };
	CLEANUP_CLOSE int fd = description_file_open(directory_fd, name, &status);
	ssize_t length = fd < 0 ? fd : policy_read_settled(fd, &status, summaries->buffer);
	int r = read_result(length);
	bool is_valid = r == 0 && length >= 0 &&
			description_parse(summaries->buffer, (size_t)length, &description, &error) == 0;

	if (r < 0)
		return r;
	*known = known_new(is_valid ? &description : NULL, &status);
	if (!*known)
		return -ENOMEM;
	/* What could not be read may be permitted without a change of the stamp. */
	if (length < 0)
		(*known)->is_settled = false;
	return 0;
}

int summaries_find(struct summaries *summaries, int directory_fd, const char *name,
		   const struct summary **summary)
{
	struct policy_stamp stamp;
	struct known *known;
	struct stat status;
	int r;

	free(STEAL_PTR(summaries->passing));
	if (fstatat(directory_fd, name, &status, 0) != 0)
		return listing_error_is_exhaustion(errno) ? -errno : -ENOENT;
	stamp = policy_stamp_of(&status);
	known = summaries_recall(summaries, &stamp);
	if (known && known->is_settled && policy_stamp_is_equal(&known->stamp, &stamp)) {
		summaries_use(summaries, known);
		*summary = &known->summary;
		return 0;
	}
	if (known && known->is_settled && policy_stamp_is_torn(&known->stamp, &stamp))
		return -EAGAIN;
	r = summaries_read(summaries, directory_fd, name, &known);
	if (r < 0)
		return r;
	*summary = &known->summary;
	summaries_remember_take(summaries, known);
	return 0;
}

int summary_admits(const struct summary *summary, struct policy *directory, const union addr *client)
{
	struct description_error error;
	struct policy *policy;
	bool is_admitted;
	int r;

	if (!summary->is_valid || !summary->has_rules)
		return policy_admits(directory, client);
	r = policy_from_text(directory, "", summary->options, 2, &policy, &error);
	if (r < 0)
		return r == -ENOMEM ? r : 0;
	is_admitted = policy_admits(policy, client);
	policy_unref(policy);
	return is_admitted;
}
