/*
 * The walk over real directories, each built from a table in a directory of
 * its own.
 */
#include "workplace.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/macros.h"
#include "proto/path.h"
#include "router/listing.h"

/* What a walk has reported: a letter and the path, LF. */
struct report {
	char text[1 << 18];
	size_t length;
	size_t count;
	size_t truncated;
	int last_error;
	int stop_with;    /* what the visit returns */
	bool is_changing; /* what is reported may be gone already */
	size_t directories;
};

static const char kind_letters[] = {
	[LISTING_SOCKET] = 's',     [LISTING_DESCRIPTION] = 'f', [LISTING_DANGLING] = '!',
	[LISTING_CIRCLE] = 'o',     [LISTING_BAD_NAME] = 'b',    [LISTING_OTHER] = '?',
	[LISTING_UNREADABLE] = 'u', [LISTING_TRUNCATED] = 't',
};

static const char *skipped; /* a directory */

/* Every directory is told before what it holds; its path stands at the front of theirs. */
static int report_directory(struct report *report, const struct listing_entry *entry)
{
	struct stat status;

	assert_int_equal(fstat(entry->directory_fd, &status), 0);
	assert_true(S_ISDIR(status.st_mode));
	assert_string_equal(entry->name, ".");
	report->directories++;
	return skipped && strcmp(entry->path, skipped) == 0 ? LISTING_SKIP : 0;
}

static int report_visit(const struct listing_entry *entry, void *context)
{
	struct report *report = context;
	struct stat status;

	assert_int_equal(strlen(entry->path), entry->path_length);
	if (entry->kind == LISTING_DIRECTORY)
		return report_directory(report, entry);
	if (!report->is_changing)
		assert_int_equal(fstatat(entry->directory_fd, entry->name, &status, AT_SYMLINK_NOFOLLOW), 0);
	report->count++;
	report->truncated += entry->kind == LISTING_TRUNCATED;
	if (entry->error != 0)
		report->last_error = entry->error;
	if (report->length + entry->path_length + 3 < sizeof(report->text))
		report->length += (size_t)sprintf(report->text + report->length, "%c%s\n",
						  kind_letters[entry->kind], entry->path);
	return report->stop_with;
}

static struct report walk_report;

static int walk(const char *directory)
{
	memset(&walk_report, 0, sizeof(walk_report));
	return listing_walk("services", directory, strlen(directory), report_visit, &walk_report);
}

static void assert_walk(const char *directory, const char *expected)
{
	assert_int_equal(walk(directory), 0);
	assert_string_equal(walk_report.text, expected);
}

struct walk_case {
	const char *name;
	const char *entries[16];
	const char *directory;
	const char *expected;
};

static const struct walk_case walk_cases[] = {
	{ "empty", { NULL }, "", "" },
	{ "one of each", { "s:socket", "f:file", "p:fifo", "d:directory" }, "", "?fifo\nffile\nssocket\n" },
	{ "byte order, unsigned, by plain names",
	  { "s:b", "s:B", "s:\xc3\xa4", "s:\xff", "s:a b", "d:a", "s:a/z", "s:a-", "s:a!", "s:~", "s:10",
	    "s:9" },
	  "",
	  "s10\ns9\nsB\nsa/z\nsa b\nsa!\nsa-\nsb\ns~\ns\xc3\xa4\ns\xff\n" },
	{ "hidden at every depth",
	  { "s:.a", "d:.b", "s:.b/c", "d:d", "s:d/.e", "d:d/.f", "s:d/.f/g", "s:d/h" },
	  "",
	  "sd/h\n" },
	{ "nested", { "d:a", "d:a/b", "d:a/b/c", "s:a/b/c/s", "s:a/t", "d:e" }, "", "sa/b/c/s\nsa/t\n" },
	{ "below a directory", { "d:a", "d:a/b", "s:a/b/s", "s:a/t", "s:z" }, "a", "sa/b/s\nsa/t\n" },
	{ "below a nested one", { "d:a", "d:a/b", "s:a/b/s", "s:a/t", "s:z" }, "a/b", "sa/b/s\n" },
	{ "links inside, to hidden ones too",
	  { "d:.h", "s:.h/s", "s:s", "f:f", "l:a>s", "l:b>f", "l:c>.h", "l:d>.h/s", "l:e>a" },
	  "",
	  "sa\nfb\nsc/s\nsd\nse\nff\nss\n" },
	{ "links outside", { "d:../out", "s:../out/s", "l:a>../out", "l:b>../out/s" }, "", "sa/s\nsb\n" },
	{ "a linked directory asked for", { "d:../out", "s:../out/s", "l:a>../out" }, "a", "sa/s\n" },
	{ "dangling", { "l:a>nowhere", "l:b>b", "f:f", "l:c>f/x", "s:d" }, "", "!a\n!b\n!c\nsd\nff\n" },
	{ "control bytes",
	  { "s:a\nb", "s:a\rb", "s:a\x7f", "s:\x01", "d:x\ty", "s:x\ty/z", "s:\xc2\x80" },
	  "",
	  "b\x01\nba\nb\nba\rb\nba\x7f\nbx\ty\ns\xc2\x80\n" },
	{ "a circle of one", { "s:s", "l:self>." }, "", "ss\noself\n" },
	{ "a circle of two",
	  { "d:a", "d:b", "s:a/s", "s:b/t", "l:a/x>../b", "l:b/y>../a" },
	  "",
	  "sa/s\nsa/x/t\noa/x/y\nsb/t\nsb/y/s\nob/y/x\n" },
	{ "a circle of three",
	  { "d:a", "d:b", "d:c", "s:c/s", "l:a/x>../b", "l:b/x>../c", "l:c/x>../a" },
	  "",
	  "sa/x/x/s\noa/x/x/x\nsb/x/s\nob/x/x/x\nsc/s\noc/x/x/x\n" },
	{ "a circle through the services directory",
	  { "d:a", "s:a/s", "l:a/up>..", "s:z" },
	  "",
	  "sa/s\noa/up\nsz\n" },
	{ "the same circle from within", { "d:a", "s:a/s", "l:a/up>..", "s:z" }, "a", "sa/s\noa/up\n" },
	{ "twice the same directory is no circle", { "d:a", "s:a/s", "l:b>a" }, "", "sa/s\nsb/s\n" },
};

static void test_walk_finds_what_is_there(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(walk_cases); i++) {
		print_message("# %s\n", walk_cases[i].name);
		workplace_make_all(walk_cases[i].entries);
		assert_walk(walk_cases[i].directory, walk_cases[i].expected);
		assert_int_equal(workplace_teardown(state), 0);
		assert_int_equal(workplace_setup(state), 0);
	}
}

static void test_walk_without_directory(void **state)
{
	(void)state;
	workplace_make_all((const char *const[]){ "f:f", "l:gone>nowhere", NULL });
	assert_int_equal(walk("nowhere"), -ENOENT);
	assert_int_equal(walk("gone"), -ENOENT);
	assert_int_equal(walk("f"), -ENOTDIR);
	assert_int_equal(walk("f/x"), -ENOTDIR);
	assert_int_equal(walk_report.count, 0);
	assert_int_equal(listing_walk("none", "", 0, report_visit, &walk_report), -ENOENT);
	assert_int_equal(listing_walk("services/f", "", 0, report_visit, &walk_report), -ENOTDIR);
}

static void test_walk_directory_is_not_terminated(void **state)
{
	(void)state;
	workplace_make_all((const char *const[]){ "d:a", "s:a/s", NULL });
	memset(&walk_report, 0, sizeof(walk_report));
	assert_int_equal(listing_walk("services", "abc", 1, report_visit, &walk_report), 0);
	assert_string_equal(walk_report.text, "sa/s\n");
}

static void test_walk_services_is_a_link(void **state)
{
	(void)state;
	workplace_make_all((const char *const[]){ "s:s", NULL });
	assert_int_equal(symlink("services", "link"), 0);
	memset(&walk_report, 0, sizeof(walk_report));
	assert_int_equal(listing_walk("link", "", 0, report_visit, &walk_report), 0);
	assert_string_equal(walk_report.text, "ss\n");
}

static void test_walk_stops_when_told(void **state)
{
	(void)state;
	workplace_make_all((const char *const[]){ "s:a", "d:b", "s:b/c", "s:d", NULL });
	memset(&walk_report, 0, sizeof(walk_report));
	walk_report.stop_with = 7;
	assert_int_equal(listing_walk("services", "", 0, report_visit, &walk_report), 7);
	assert_string_equal(walk_report.text, "sa\n");
}

/* Goes into count directories, each inside the one before; returns the innermost's descriptor. */
static int make_deep(const char *start, const char *name, int count)
{
	int fd = open(start, O_PATH | O_CLOEXEC);

	for (int i = 0; i < count; i++) {
		int parent = fd;

		assert_int_equal(mkdirat(parent, name, 0755), 0);
		fd = openat(parent, name, O_PATH | O_CLOEXEC);
		assert_true(fd >= 0);
		close(parent);
	}
	return fd;
}

static void make_file_at(int fd, const char *name)
{
	close(openat(fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
}

/* Every level has an entry before and one behind the next: the walk must find its way back. */
static void test_walk_deeper_than_it_keeps_open(void **state)
{
	enum { DEPTH = 20 * LISTING_DESCRIPTORS_MAX };
	static char expected[sizeof(walk_report.text)];
	char path[2 * DEPTH + 2];
	size_t length = 0;
	int fd = open("services", O_PATH | O_CLOEXEC);

	(void)state;
	for (int i = 0; i <= DEPTH; i++) {
		int inner;

		make_file_at(fd, "a");
		make_file_at(fd, "z");
		mkdirat(fd, "m", 0755);
		inner = openat(fd, "m", O_PATH | O_CLOEXEC);
		close(fd);
		fd = inner;
	}
	close(fd);
	for (int i = 0; i <= 2 * DEPTH + 1; i++) {
		int depth = i <= DEPTH ? i : 2 * DEPTH + 1 - i;

		for (int j = 0; j < depth; j++)
			memcpy(path + 2 * j, "m/", 2);
		path[2 * depth] = '\0';
		length += (size_t)sprintf(expected + length, "f%s%c\n", path, i <= DEPTH ? 'a' : 'z');
	}
	assert_int_equal(walk(""), 0);
	assert_int_equal(walk_report.count, 2 * (DEPTH + 1));
	assert_memory_equal(walk_report.text, expected, walk_report.length);
}

static void test_walk_paths_longer_than_a_line(void **state)
{
	char name[251];
	int fd;

	(void)state;
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	fd = make_deep("services", name, 16); /* 16 * 251 = 4016 with the last '/' */
	name[79] = '\0';
	make_file_at(fd, name); /* 4095 bytes */
	name[79] = 'n';
	name[80] = '\0';
	make_file_at(fd, name); /* 4096 */
	close(fd);

	assert_int_equal(walk(""), 0);
	assert_int_equal(walk_report.count, 2);
	assert_int_equal(walk_report.truncated, 1);
	assert_int_equal(walk_report.last_error, ENAMETOOLONG);
	assert_int_equal(walk_report.text[0], 'f');
	assert_int_equal(strcspn(walk_report.text, "\n"), 1 + PATH_LENGTH_MAX);
}

static void test_walk_services_and_directory_longer_than_path_max(void **state)
{
	static char services[3200] = "services";
	static char directory[3200];
	char name[201];
	size_t length = 0;
	int fd;

	(void)state;
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	fd = make_deep("services", name, 30);
	make_file_at(fd, "f");
	close(fd);
	for (int i = 0; i < 15; i++) {
		strcat(strcat(services, "/"), name);
		length += (size_t)sprintf(directory + length, "%s%s", i ? "/" : "", name);
	}
	memset(&walk_report, 0, sizeof(walk_report));
	assert_int_equal(listing_walk(services, directory, length, report_visit, &walk_report), 0);
	assert_int_equal(walk_report.count, 1);
	assert_int_equal(walk_report.length, length + strlen("f/f\n"));
}

static void test_walk_many_entries_in_order(void **state)
{
	char path[64];
	char previous[16] = "";
	const char *line;

	(void)state;
	for (unsigned i = 0; i < 1000; i++) {
		snprintf(path, sizeof(path), "services/%04u", i * 7919 % 1000);
		workplace_make_file(path, "");
	}
	assert_int_equal(walk(""), 0);
	assert_int_equal(walk_report.count, 1000);
	line = walk_report.text;
	for (int i = 0; i < 1000; i++, line += 6) {
		assert_true(strncmp(previous, line, 5) < 0);
		memcpy(previous, line, 5);
	}
}

/* The whole list does not show what lies behind a circle, so it is no list of its own either. */
static void test_walk_of_a_circle_itself(void **state)
{
	(void)state;
	workplace_make("d:a");
	workplace_make("l:a/up>..");
	assert_int_equal(walk("a/up"), -ENOENT);
	assert_int_equal(walk("a/up/a"), -ENOENT);
}

/* Twelve directories that link to each other crosswise have more than a thousand million paths; each is entered by its own
 * name, by the links in plain directories, and by LISTING_LINKS_MAX links below links; none holds more than twelve entries. */
static void test_walk_of_branching_links_is_bounded(void **state)
{
	char word[64];

	(void)state;
	for (int i = 0; i < 12; i++) {
		snprintf(word, sizeof(word), "d:%c", 'a' + i);
		workplace_make(word);
		for (int j = 0; j < 12; j++) {
			snprintf(word, sizeof(word), "l:%c/%c>../%c", 'a' + i, 'a' + j, 'a' + j);
			workplace_make(word);
		}
	}
	assert_int_equal(walk(""), 0);
	assert_in_range(walk_report.count, 1, 12 * (1 + 12 + LISTING_LINKS_MAX) * 12);
	assert_true(walk_report.truncated > 0);
	assert_int_equal(walk_report.last_error, EMLINK);
}

/* The first entry reported does this to the directory. */
static void test_walk_tells_directories_and_skips(void **state)
{
	(void)state;
	workplace_make_all(
		(const char *const[]){ "s:a", "d:b", "s:b/c", "d:b/d", "s:b/d/e", "l:l>b", "s:z", NULL });
	assert_walk("", "sa\nsb/c\nsb/d/e\nsl/c\nsl/d/e\nsz\n");
	assert_int_equal(walk_report.directories, 5);
	assert_walk("b/d", "sb/d/e\n");
	assert_int_equal(walk_report.directories, 1);
	skipped = "b";
	assert_walk("", "sa\nsl/c\nsl/d/e\nsz\n");
	skipped = "";
	assert_walk("", "");
	skipped = "b/d";
	assert_walk("b", "sb/c\n");
	skipped = NULL;
}

static const char *change_command;

static int change_visit(const struct listing_entry *entry, void *context)
{
	int result = report_visit(entry, context);

	if (entry->kind == LISTING_DIRECTORY)
		return result;
	walk_report.is_changing = true;
	if (change_command) {
		assert_int_equal(system(change_command), 0);
		change_command = NULL;
	}
	return result;
}

static void assert_walk_while(const char *command, const char *expected)
{
	change_command = command;
	memset(&walk_report, 0, sizeof(walk_report));
	assert_int_equal(listing_walk("services", "", 0, change_visit, &walk_report), 0);
	assert_string_equal(walk_report.text, expected);
}

static void test_walk_of_what_vanishes(void **state)
{
	(void)state;
	workplace_make_all(
		(const char *const[]){ "s:a", "d:b", "s:b/c", "l:d>a", "d:e", "s:e/f", "s:z", NULL });
	assert_walk_while("rm -r services/b; touch services/b", "sa\nsd\nse/f\nsz\n");
	assert_walk_while("rm -r services/e services/d", "sa\nfb\nsz\n");
	assert_walk_while("rm -r services", "sa\nfb\nsz\n");
}

static void test_walk_of_a_way_back_that_vanishes(void **state)
{
	int depth = LISTING_DESCRIPTORS_MAX + 4;
	char command[128] = "cd services; rm -r ";
	int fd = make_deep("services", "d", depth);

	(void)state;
	make_file_at(fd, "a");
	close(fd);
	for (int i = 0; i < depth - 1; i++)
		strcat(command, "d/");
	change_command = strcat(command, "d");
	memset(&walk_report, 0, sizeof(walk_report));
	workplace_make("s:z");
	assert_int_equal(listing_walk("services", "", 0, change_visit, &walk_report), 0);
	assert_int_equal(walk_report.count, 2);
}

static void test_walk_of_what_may_not_be_read(void **state)
{
	bool is_root = geteuid() == 0;
	int result;

	(void)state;
	workplace_make_all((const char *const[]){ "s:a", "d:b", "s:b/c", "l:d>b/c", "s:z", NULL });
	assert_int_equal(chmod("services/b", 0), 0);
	if (is_root)
		assert_int_equal(seteuid(65534), 0);
	result = walk("");
	assert_int_equal(walk("b"), -EACCES);
	walk("");
	if (is_root)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(chmod("services/b", 0755), 0);
	assert_int_equal(result, 0);
	assert_string_equal(walk_report.text, "sa\nub\nud\nsz\n");
	assert_int_equal(walk_report.last_error, EACCES);
}

/* A list with holes must not pass for the whole. */
static void test_walk_without_descriptors(void **state)
{
	struct rlimit before;
	struct rlimit scarce;
	int result;
	int fd = make_deep("services", "d", 8);

	(void)state;
	getrlimit(RLIMIT_NOFILE, &before);
	scarce = before;
	scarce.rlim_cur = (rlim_t)fd + 4;
	close(fd);
	setrlimit(RLIMIT_NOFILE, &scarce);
	result = walk("");
	setrlimit(RLIMIT_NOFILE, &before);
	assert_int_equal(result, -EMFILE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		WORKPLACE_TEST(test_walk_finds_what_is_there),
		WORKPLACE_TEST(test_walk_without_directory),
		WORKPLACE_TEST(test_walk_directory_is_not_terminated),
		WORKPLACE_TEST(test_walk_services_is_a_link),
		WORKPLACE_TEST(test_walk_stops_when_told),
		WORKPLACE_TEST(test_walk_deeper_than_it_keeps_open),
		WORKPLACE_TEST(test_walk_paths_longer_than_a_line),
		WORKPLACE_TEST(test_walk_services_and_directory_longer_than_path_max),
		WORKPLACE_TEST(test_walk_many_entries_in_order),
		WORKPLACE_TEST(test_walk_of_a_circle_itself),
		WORKPLACE_TEST(test_walk_of_branching_links_is_bounded),
		WORKPLACE_TEST(test_walk_tells_directories_and_skips),
		WORKPLACE_TEST(test_walk_of_what_vanishes),
		WORKPLACE_TEST(test_walk_of_a_way_back_that_vanishes),
		WORKPLACE_TEST(test_walk_of_what_may_not_be_read),
		WORKPLACE_TEST(test_walk_without_descriptors),
	};

	return FIXTURE_RUN(tests);
}
