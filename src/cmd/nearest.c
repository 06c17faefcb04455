/*
 * Theory of operation: a distance in slips of the fingers: one for each byte too many, missing, wrong,
 * or swapped with its neighbour (the "optimal string alignment" form of the Damerau-Levenshtein
 * distance); a wrong case costs nothing. A service of the same name in another directory is as near as
 * one slip.
 */
#include "cmd/nearest.h"

#include <stdbool.h>
#include <string.h>

#include "base/macros.h"
#include "base/text.h"

#define LENGTH_MAX 128
#define ENTRIES_MAX 10000

static char fold_case(char byte)
{
	return byte >= 'A' && byte <= 'Z' ? (char)(byte | 0x20) : byte;
}

/* One row of the table, for byte i of one (from 1); before and last are the rows above it. */
static void fill_row(const char *one, size_t i, const char *other, size_t other_length,
		     const unsigned *before, const unsigned *last, unsigned *row)
{
	row[0] = (unsigned)i;
	for (size_t k = 1; k <= other_length; k++) {
		bool is_same = fold_case(one[i - 1]) == fold_case(other[k - 1]);
		unsigned best = MIN(last[k], row[k - 1]) + 1;

		best = MIN(best, last[k - 1] + (is_same ? 0u : 1u));
		if (i > 1 && k > 1 && one[i - 1] == other[k - 2] && one[i - 2] == other[k - 1])
			best = MIN(best, before[k - 2] + 1);
		row[k] = best;
	}
}

/* Both at most LENGTH_MAX long. */
static size_t distance(struct client_text one, struct client_text other)
{
	unsigned rows[3][LENGTH_MAX + 1] = { 0 };

	for (size_t k = 0; k <= other.length; k++)
		rows[0][k] = (unsigned)k;
	for (size_t i = 1; i <= one.length; i++)
		fill_row(one.start, i, other.start, other.length, rows[(i + 1) % 3], rows[(i + 2) % 3],
			 rows[i % 3]);
	return rows[one.length % 3][other.length];
}

static struct client_text last_component(struct client_text path)
{
	const char *slash = memrchr(path.start, '/', path.length);
	size_t cut = slash ? (size_t)(slash - path.start) + 1 : 0;

	return (struct client_text){ path.start + cut, path.length - cut };
}

static bool is_equal(struct client_text one, struct client_text other)
{
	return one.length == other.length && memcmp(one.start, other.start, one.length) == 0;
}

/* SIZE_MAX for names that nobody would take for each other. */
static size_t judge(struct client_text wanted, struct client_text path)
{
	size_t limit = MAX(wanted.length / 3, (size_t)1);
	size_t slips;

	if (path.length > 0 && path.start[path.length - 1] == '/')
		path.length--; /* a mount: its '/' is no part of the name */
	if (path.length > LENGTH_MAX)
		return SIZE_MAX;
	if (is_equal(last_component(wanted), last_component(path)))
		return 1;
	if (path.length > wanted.length + limit || wanted.length > path.length + limit)
		return SIZE_MAX;
	slips = distance(wanted, path);
	return slips <= limit ? slips : SIZE_MAX;
}

/* The best so far, the nearest first. */
struct ranking {
	struct client_text wanted;
	struct client_text *names;
	size_t scores[NEAREST_MAX + 1];
	size_t count;
};

/* Sorted in; the last one falls out when there are too many. */
static void rank(struct ranking *ranking, struct client_text name)
{
	size_t score = judge(ranking->wanted, name), at;

	if (score == SIZE_MAX)
		return;
	for (at = ranking->count; at > 0 && ranking->scores[at - 1] > score; at--) {
		ranking->scores[at] = ranking->scores[at - 1];
		if (at < NEAREST_MAX)
			ranking->names[at] = ranking->names[at - 1];
	}
	ranking->scores[at] = score;
	if (at < NEAREST_MAX)
		ranking->names[at] = name;
	ranking->count = MIN(ranking->count + 1, (size_t)NEAREST_MAX);
}

size_t nearest_names(const struct client_list *list, const char *wanted,
		     struct client_text names[static NEAREST_MAX])
{
	struct ranking ranking = { .wanted = { wanted, strlen(wanted) }, .names = names };
	size_t position = 0;
	struct client_list_entry entry;

	for (size_t i = 0; i < ENTRIES_MAX && ranking.wanted.length <= LENGTH_MAX; i++) {
		if (!client_list_next(list, &position, &entry))
			break;
		rank(&ranking, entry.path);
	}
	return ranking.count;
}

/* Those that the entry before this one does not lie in: lists are sorted. */
static void rank_directories(struct ranking *ranking, struct client_text path, struct client_text before)
{
	for (size_t i = 0; i < path.length; i++) {
		bool is_told = before.length > i && memcmp(before.start, path.start, i + 1) == 0;

		if (path.start[i] == '/' && !is_told)
			rank(ranking, (struct client_text){ path.start, i });
	}
}

size_t nearest_directories(const struct client_list *list, const char *wanted,
			   struct client_text names[static NEAREST_MAX])
{
	struct ranking ranking = { .wanted = { wanted, strlen(wanted) }, .names = names };
	struct client_text before = { "", 0 };
	size_t position = 0;
	struct client_list_entry entry;

	for (size_t i = 0; i < ENTRIES_MAX && ranking.wanted.length <= LENGTH_MAX; i++) {
		if (!client_list_next(list, &position, &entry))
			break;
		rank_directories(&ranking, entry.path, before);
		before = entry.path;
	}
	for (size_t i = 0; i < ranking.count; i++)
		names[i].length++; /* the slash */
	return ranking.count;
}

void nearest_write(FILE *stream, const struct client_text *names, size_t count)
{
	fputs("; did you mean ", stream);
	for (size_t i = 0; i < count; i++) {
		fputs(i == 0 ? "'" : i + 1 < count ? ", '" : " or '", stream);
		text_write_visible(stream, names[i].start, names[i].length);
		fputc('\'', stream);
	}
	fputs("?\n", stream);
}
