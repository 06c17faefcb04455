/*
 * Option files of directories: what they say together, and when they are believed. The clocks can be put forward, a
 * lease refused, a reading interrupted, and the looks at files counted.
 */
#include "workplace.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/macros.h"
#include "proto/path.h"
#include "router/description_file.h"
#include "router/policy.h"

/* ---- in place of the C library's, for the program under test too ---------------------------------------- */

static _Atomic int64_t clock_ahead_ms;
static _Atomic bool is_lease_refused;
static _Atomic unsigned looks;       /* fstatat(2) */
static _Atomic uint64_t look_bytes;  /* of their names */
static void (*before_reading)(void); /* once */
static _Atomic bool has_late_times;  /* of files, as they were: */
static struct timespec late_times[2];

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int r = (int)syscall(SYS_clock_gettime, clock, now);
	int64_t ms = clock_ahead_ms + now->tv_nsec / 1000000;

	now->tv_sec += ms / 1000;
	now->tv_nsec = now->tv_nsec % 1000000 + ms % 1000 * 1000000;
	return r;
}

int fcntl(int fd, int command, ...)
{
	va_list arguments;
	long argument;

	va_start(arguments, command);
	argument = va_arg(arguments, long);
	va_end(arguments);
	if (command == F_SETLEASE && is_lease_refused) {
		errno = EACCES;
		return -1;
	}
	return (int)syscall(SYS_fcntl, fd, command, argument);
}

int fstatat(int directory, const char *restrict name, struct stat *restrict status, int flags)
{
	static int (*real)(int, const char *, struct stat *, int);

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, sizeof(off_t) == 8 ? "fstatat64" : "fstatat");
	looks++;
	look_bytes += strlen(name);
	if (real(directory, name, status, flags) != 0)
		return -1;
	if (has_late_times && S_ISREG(status->st_mode)) {
		status->st_mtim = late_times[0];
		status->st_ctim = late_times[1];
	}
	return 0;
}

int fstat(int fd, struct stat *status)
{
	int r = fstatat(fd, "", status, AT_EMPTY_PATH);

	looks--;
	return r;
}

ssize_t pread(int fd, void *bytes, size_t size, off_t offset)
{
	void (*hook)(void) = before_reading;

	if (hook) {
		before_reading = NULL;
		hook();
	}
	return (ssize_t)syscall(SYS_pread64, fd, bytes, size, offset);
}

/* ---- helpers ---------------------------------------------------------------------------------------- */

static struct policies *policies;
static bool way_ends; /* the latest look came to something that is no directory */
static struct policy *found;
static struct description_error problem;
static char problem_file[POLICY_FILE_SIZE];

static int setup(void **state)
{
	clock_ahead_ms = 0;
	is_lease_refused = false;
	before_reading = NULL;
	if (workplace_setup(state) != 0)
		return -1;
	policies = policies_new("services");
	return policies ? 0 : -1;
}

static void begin_anew(void)
{
	policies_free(policies);
	policies = policies_new("services");
	assert_non_null(policies);
}

static int teardown(void **state)
{
	policy_unref(found);
	found = NULL;
	policies_free(policies);
	return workplace_teardown(state);
}

#define POLICY_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

static int find(const char *path)
{
	int r;

	policy_unref(found);
	r = policies_find(policies, path, strlen(path), &found, &problem, problem_file);

	way_ends = r == POLICY_WAY_ENDS;
	return way_ends ? 0 : r;
}

static void expect_about(const char *path, const char *about)
{
	int r = find(path);

	if (r != 0)
		fail_msg("%s: %s, %s: %s", path, strerror(-r), problem_file, problem.reason);
	assert_string_equal(found ? found->about : "(none)", about);
}

static void expect_none(const char *path)
{
	assert_int_equal(find(path), 0);
	assert_null(found);
}

static void pass_ms(int64_t ms)
{
	clock_ahead_ms += ms;
}

/* Nothing that was there before has changed of late. */
static void come_to_rest(void)
{
	pass_ms(3000);
}

static union addr client_of(const char *text)
{
	union addr client = { .sa.sa_family = AF_UNIX };

	if (strcmp(text, "unix") != 0)
		assert_int_equal(addr_parse_numeric(text, strlen(text), 1, &client), 0);
	return client;
}

static bool can_lease(void)
{
	CLEANUP_CLOSE int fd = open("services", O_RDONLY | O_CLOEXEC);
	CLEANUP_CLOSE int file = open("lease", O_RDONLY | O_CREAT | O_CLOEXEC, 0644);

	return fd >= 0 && file >= 0 && fcntl(file, F_SETLEASE, F_RDLCK) == 0;
}

/* ---- what texts say --------------------------------------------------------------------------------- */

static void print_rules(FILE *out, const struct policy *policy)
{
	for (size_t i = 0; i < policy->rule_count; i++) {
		char text[INET6_ADDRSTRLEN];

		inet_ntop(AF_INET6, &policy->rules[i].address, text, sizeof(text));
		fprintf(out, "%c%s/%u ", policy->rules[i].is_allowed ? '+' : '-', text,
			policy->rules[i].bits);
	}
}

/* Everything that is named, in the order of the keys, with where it comes from. */
static void print_policy(const struct policy *policy, char *text, size_t size)
{
	FILE *out = fmemopen(text, size, "w");

	assert_non_null(out);
	if (policy_names(policy, OPTION_ABOUT))
		fprintf(out, "about=%s(%s) ", policy->about, policy->sources[OPTION_ABOUT]);
	if (policy_names(policy, OPTION_BACKEND)) {
		fprintf(out, "backends(%s)=", policy->sources[OPTION_BACKEND]);
		for (size_t i = 0; i < policy->backend_count; i++)
			fprintf(out, "%s,", policy->backends[i]);
		fputc(' ', out);
	}
	if (policy_names(policy, OPTION_BALANCE))
		fprintf(out, "balance=%s(%s) ", balance_name(policy->balance),
			policy->sources[OPTION_BALANCE]);
	if (policy)
		print_rules(out, policy);
	if (policy_names(policy, OPTION_PROXY))
		fprintf(out, "proxy=%s(%s) ", proxy_version_name(policy->proxy),
			policy->sources[OPTION_PROXY]);
	if (policy_names(policy, OPTION_MAX_SESSIONS))
		fprintf(out, "max=%ju(%s) ", (uintmax_t)policy->max_sessions,
			policy->sources[OPTION_MAX_SESSIONS]);
	if (policy_names(policy, OPTION_CONNECT_TIMEOUT))
		fprintf(out, "connect=%ju(%s) ", (uintmax_t)policy->connect_timeout_ms,
			policy->sources[OPTION_CONNECT_TIMEOUT]);
	if (policy_names(policy, OPTION_IDLE_TIMEOUT))
		fprintf(out, "idle=%ju(%s) ", (uintmax_t)policy->idle_timeout_ms,
			policy->sources[OPTION_IDLE_TIMEOUT]);
	fputc('\0', out);
	fclose(out);
}

static const struct {
	const char *texts[3]; /* from the services directory down */
	const char *outcome;
} merges[] = {
	{ { "" }, "" },
	{ { "# nothing\n\n", "\n" }, "" },
	{ { "about x y" }, "about=x y(0) " },
	{ { "about x", "", "about z\n" }, "about=z(2) " },
	{ { "about x", "balance round-robin", "proxy v1" },
	  "about=x(0) balance=round-robin(1) proxy=v1(2) " },
	{ { "max-sessions 5\nproxy v2", "max-sessions 0\nproxy none" }, "proxy=none(1) max=0(1) " },
	{ { "connect-timeout 1s\nidle-timeout 2m", "idle-timeout 0" }, "connect=1000(0) idle=0(1) " },
	{ { "backend a\nbackend b", "", "about t" }, "about=t(2) backends(0)=a,b, " },
	{ { "backend a\nbackend b", "backend c" }, "backends(1)=c, " },
	{ { "backend a", "backend b\nbackend c\nbackend d" }, "backends(1)=b,c,d, " },
	{ { "allow 192.0.2.1 2001:db8::/32\nallow ::1" }, "+::ffff:192.0.2.1/128 +2001:db8::/32 +::1/128 " },
	{ { "allow 192.0.2.1\ndeny 192.0.2.2", "allow 192.0.2.3\nallow 192.0.2.4" },
	  "-::ffff:192.0.2.2/128 +::ffff:192.0.2.3/128 +::ffff:192.0.2.4/128 " },
	{ { "allow 192.0.2.1\ndeny 192.0.2.2", "deny 192.0.2.3" },
	  "+::ffff:192.0.2.1/128 -::ffff:192.0.2.3/128 " },
	{ { "allow ::1\ndeny ::2", "about x", "allow ::3\ndeny ::4" }, "about=x(1) +::3/128 -::4/128 " },
};

static void test_nearest_file_that_names_a_key_wins(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(merges); i++) {
		struct policy *policy = NULL;
		char text[1024];

		for (size_t level = 0; level < 3 && merges[i].texts[level]; level++) {
			const char *said = merges[i].texts[level];
			const char source[] = { (char)('0' + level), '\0' };
			struct policy *below = policy;

			assert_int_equal(policy_from_text(below, source,
							  (struct description_text){ said, strlen(said) }, 1,
							  &policy, &problem),
					 0);
			policy_unref(below);
		}
		print_policy(policy, text, sizeof(text));
		assert_string_equal(text, merges[i].outcome);
		policy_unref(policy);
	}
}

static void test_text_without_options_is_what_is_below_it(void **state)
{
	const struct description_text text = { "about x", 7 }, none = { "# about y", 9 };
	struct policy *policy, *same;

	(void)state;
	assert_int_equal(policy_from_text(NULL, "s", none, 1, &policy, &problem), 0);
	assert_null(policy);
	assert_int_equal(policy_from_text(NULL, "s", text, 1, &policy, &problem), 0);
	assert_int_equal(policy_from_text(policy, "s", none, 1, &same, &problem), 0);
	assert_ptr_equal(policy, same);
	policy_unref(policy);
	assert_string_equal(same->about, "x");
	policy_unref(same);
}

static const struct {
	const char *text;
	unsigned line;
} invalids[] = {
	{ "about", 7 },           { "\nabout x\nabuot x", 9 },
	{ "balance best", 7 },    { "# x\nallow 192.0.2.1\ndeny 192.0.2.300", 9 },
	{ "max-sessions -1", 7 },
};

static void test_invalid_text_says_where(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(invalids); i++) {
		const struct description_text text = { invalids[i].text, strlen(invalids[i].text) };
		struct policy *policy = NULL;

		assert_int_equal(policy_from_text(NULL, "s", text, 7, &policy, &problem), -EINVAL);
		assert_null(policy);
		assert_int_equal(problem.line, invalids[i].line);
		assert_string_not_equal(problem.reason, "");
	}
}

static const struct {
	const char *text;
	const char *client;
	bool may;
} admissions[] = {
	{ "about x", "192.0.2.1", true },
	{ "about x", "unix", true },
	{ "deny 192.0.2.0/24", "192.0.2.1", false },
	{ "deny 192.0.2.0/24", "192.0.3.1", true },
	{ "deny 192.0.2.0/24", "::1", true },
	{ "deny 192.0.2.0/24", "unix", true },
	{ "allow 192.0.2.0/24", "192.0.2.1", true },
	{ "allow 192.0.2.0/24", "192.0.3.1", false },
	{ "allow 192.0.2.0/24", "::1", false },
	{ "allow 192.0.2.0/24", "unix", false },
	{ "allow ::/0", "unix", false },
	{ "allow ::/0", "192.0.2.1", true },
	{ "deny ::/0\nallow 192.0.2.1", "192.0.2.1", true },
	{ "deny 192.0.2.1\nallow 192.0.2.0/24", "192.0.2.1", false },
	{ "deny fe80::/10", "fe80::1%1", false },
	{ "deny ::ffff:192.0.2.1", "192.0.2.1", false },
};

static void test_clients_are_judged_by_their_address(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(admissions); i++) {
		const struct description_text text = { admissions[i].text, strlen(admissions[i].text) };
		const union addr client = client_of(admissions[i].client);
		struct policy *policy;

		assert_int_equal(policy_from_text(NULL, "s", text, 1, &policy, &problem), 0);
		if (policy_admits(policy, &client) != admissions[i].may)
			fail_msg("%s: %s", admissions[i].text, admissions[i].client);
		policy_unref(policy);
	}
}

/* ---- files ------------------------------------------------------------------------------------------ */

static void make_options(const char *directory, const char *text)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "services/%s/.kaiso", directory);
	workplace_make_file(path, text);
}

static void test_without_any_file_nothing_is_said(void **state)
{
	(void)state;
	workplace_make("d:a");
	workplace_make("d:a/b");
	expect_none("x");
	expect_none("a/x");
	expect_none("a/b/x");
	expect_none("nowhere/at/all");
}

static void test_files_say_it_for_all_below(void **state)
{
	(void)state;
	workplace_make("d:a");
	workplace_make("d:a/b");
	workplace_make("d:a/b/c");
	workplace_make("d:d");
	make_options("a", "about a\nproxy v1\n");
	make_options("a/b/c", "about c\n");
	for (unsigned round = 0; round < 3; round++) {
		expect_none("x");
		expect_none("d/x");
		expect_about("a/x", "a");
		expect_about("a/b/x", "a");
		assert_string_equal(found->sources[OPTION_ABOUT], "services/a/.kaiso");
		expect_about("a/b/c/x", "c");
		assert_int_equal(found->proxy, PROXY_V1);
		assert_string_equal(found->sources[OPTION_ABOUT], "services/a/b/c/.kaiso");
		assert_string_equal(found->sources[OPTION_PROXY], "services/a/.kaiso");
		come_to_rest();
	}
	make_options("", "about top\nmax-sessions 7\n");
	expect_about("x", "top");
	expect_about("a/b/c/x", "c");
	assert_int_equal(found->max_sessions, 7);
	assert_string_equal(found->sources[OPTION_MAX_SESSIONS], "services/.kaiso");
	policy_unref(found);
	assert_int_equal(policies_find_directory(policies, "a/b", 3, &found, &problem, problem_file), 0);
	assert_string_equal(found->about, "a");
}

static void test_change_counts_from_the_next_look(void **state)
{
	(void)state;
	workplace_make("d:a");
	make_options("", "about one\n");
	make_options("a", "proxy v2\n");
	for (int i = 0; i < 2; i++) {
		expect_about("a/x", "one");
		make_options("", "about two\n");
		expect_about("a/x", "two");
		assert_int_equal(found->proxy, PROXY_V2);
		workplace_make_file("services/new", "about one\n");
		assert_int_equal(rename("services/new", "services/.kaiso"), 0);
		expect_about("a/x", "one");
		come_to_rest();
		expect_about("a/x", "one");
		expect_about("a/x", "one");
	}
}

static bool was_read;

static void note_reading(void)
{
	was_read = true;
}

/* What is remembered holds while nothing has changed: not even the file is opened. But one that had just been changed
 * may have been changed again, and look the same. */
static void test_settled_file_is_not_read_again(void **state)
{
	struct policy *first;

	(void)state;
	make_options("", "about one\n");
	expect_about("x", "one");
	was_read = false;
	before_reading = note_reading;
	expect_about("x", "one");
	assert_true(was_read);
	come_to_rest();
	expect_about("x", "one");
	first = found;
	before_reading = abort;
	expect_about("x", "one");
	assert_ptr_equal(found, first);
	before_reading = NULL;
}

static void test_what_cannot_be_read_is_an_error(void **state)
{
	(void)state;
	workplace_make("d:a");
	make_options("a", "about a\nbogus\n");
	assert_int_equal(find("a/x"), -EINVAL);
	assert_null(found);
	assert_int_equal(problem.line, 2);
	assert_string_equal(problem_file, "services/a/.kaiso");
	expect_none("x");

	workplace_make("d:.kaiso");
	assert_int_equal(find("x"), -EINVAL);
	assert_string_equal(problem.reason, "not a regular file");
	assert_string_equal(problem_file, "services/.kaiso");
	assert_int_equal(rmdir("services/.kaiso"), 0);

	workplace_make("p:.kaiso");
	assert_int_equal(find("x"), -EINVAL);
	assert_int_equal(unlink("services/.kaiso"), 0);

	workplace_make("l:.kaiso>nowhere");
	assert_int_equal(find("x"), -EINVAL);
	assert_int_equal(unlink("services/.kaiso"), 0);

	workplace_make("l:.kaiso>.kaiso");
	assert_int_equal(find("x"), -ELOOP);
	assert_int_equal(unlink("services/.kaiso"), 0);

	make_options("", "");
	assert_int_equal(truncate("services/.kaiso", DESCRIPTION_SIZE_MAX + 1), 0);
	assert_int_equal(find("x"), -EINVAL);
	assert_int_equal(truncate("services/.kaiso", DESCRIPTION_SIZE_MAX), 0);
	assert_int_equal(find("x"), -EINVAL); /* NULs */
	assert_int_equal(truncate("services/.kaiso", 0), 0);
	assert_int_equal(find("x"), -EAGAIN); /* it may have been made only now */
	pass_ms(POLICY_REST_MS);
	expect_none("x");
}

static void test_file_without_permission_is_an_error(void **state)
{
	(void)state;
	if (geteuid() == 0)
		skip(); /* who may read everything */
	make_options("", "about x\n");
	assert_int_equal(chmod("services/.kaiso", 0), 0);
	assert_int_equal(find("x"), -EACCES);
}

static void test_link_to_a_file_is_followed(void **state)
{
	(void)state;
	workplace_make("l:.kaiso>../options");
	workplace_make_file("options", "about linked\n");
	come_to_rest();
	expect_about("x", "linked");
	expect_about("x", "linked");
	workplace_make_file("options", "about new\n");
	expect_about("x", "new");
	workplace_make("d:real");
	workplace_make("l:a>real");
	make_options("real", "about real\n");
	expect_about("a/x", "real");
}

/* As mounts have it: what is below a file is asked for elsewhere. */
static void test_what_is_below_a_file_has_the_files_directory(void **state)
{
	(void)state;
	workplace_make("d:a");
	workplace_make("f:a/mount");
	make_options("a", "about a\n");
	expect_about("a/mount/b/c", "a");
	assert_true(way_ends);
	expect_about("a/mount", "a");
	assert_false(way_ends);
}

/* ---- while it is edited ------------------------------------------------------------------------------ */

static void test_file_that_is_open_for_writing_is_waited_for(void **state)
{
	int fd;

	(void)state;
	if (!can_lease())
		skip();
	make_options("", "about old\ndeny 192.0.2.1\n");
	come_to_rest();
	expect_about("x", "old");

	fd = open("services/.kaiso", O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	expect_about("x", "old"); /* nothing is written yet */
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(find("x"), -EAGAIN);
	assert_null(found);
	assert_string_equal(problem_file, "services/.kaiso");
	assert_int_equal(write(fd, "about new\n", 10), 10);
	come_to_rest();
	assert_int_equal(find("x"), -EAGAIN);
	assert_int_equal(write(fd, "deny 192.0.2.1\n", 15), 15);
	close(fd);
	expect_about("x", "new");
	assert_int_equal(found->rule_count, 1);
}

static const char *const dances[][2] = { { "about new\n", NULL }, { "", "about new\n" } };

static void test_file_that_is_moved_away_and_written_anew_is_waited_for(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(dances); i++) {
		workplace_make("d:a");
		make_options("a", "about old\n");
		come_to_rest();
		expect_about("a/x", "old");
		assert_int_equal(rename("services/a/.kaiso", "services/a/.kaiso~"), 0);
		/* The directory has changed just now, by the clock that is ahead it has not. */
		clock_ahead_ms = 0;
		assert_int_equal(find("a/x"), -EAGAIN);
		expect_none("x");
		for (size_t j = 0; j < 2 && dances[i][j]; j++)
			make_options("a", dances[i][j]);
		expect_about("a/x", "new");
		assert_int_equal(
			unlink("services/a/.kaiso~") | unlink("services/a/.kaiso") | rmdir("services/a"), 0);
		begin_anew();
	}
}

static void test_file_that_is_gone_for_good_counts_as_gone(void **state)
{
	(void)state;
	make_options("", "about old\n");
	expect_about("x", "old");
	assert_int_equal(unlink("services/.kaiso"), 0);
	assert_int_equal(find("x"), -EAGAIN);
	assert_string_equal(problem_file, "services/.kaiso");
	pass_ms(POLICY_REST_MS / 2);
	assert_int_equal(find("x"), -EAGAIN);
	pass_ms(POLICY_REST_MS / 2);
	expect_none("x");
	/* And is forgotten. */
	workplace_make_file("services/other", "");
	expect_none("x");
}

/* Long gone at the first look that misses it. */
static void test_file_in_a_directory_at_rest_is_gone_at_once(void **state)
{
	(void)state;
	make_options("", "about old\n");
	expect_about("x", "old");
	assert_int_equal(unlink("services/.kaiso"), 0);
	come_to_rest();
	expect_none("x");
}

static void test_file_is_gone_though_its_directory_never_rests(void **state)
{
	(void)state;
	make_options("", "about old\n");
	expect_about("x", "old");
	assert_int_equal(unlink("services/.kaiso"), 0);
	assert_int_equal(find("x"), -EAGAIN);
	/* The clock that files have stays behind, so the directory is as of now all the time. */
	pass_ms(POLICY_REST_MS);
	workplace_make_file("services/other", "");
	expect_none("x");
}

static void test_invalid_file_that_is_gone_is_waited_for(void **state)
{
	(void)state;
	make_options("", "bogus\n");
	assert_int_equal(find("x"), -EINVAL);
	assert_int_equal(unlink("services/.kaiso"), 0);
	assert_int_equal(find("x"), -EAGAIN);
}

static void test_directory_that_is_gone_has_no_file(void **state)
{
	(void)state;
	workplace_make("d:a");
	make_options("a", "about old\n");
	expect_about("a/x", "old");
	assert_int_equal(rename("services/a", "services/b"), 0);
	expect_none("a/x");
	expect_about("b/x", "old");
}

static void test_without_a_lease_a_file_must_have_rested(void **state)
{
	(void)state;
	is_lease_refused = true;
	make_options("", "about old\n");
	assert_int_equal(find("x"), -EAGAIN);
	pass_ms(POLICY_REST_MS);
	expect_about("x", "old");
	clock_ahead_ms = 0;
	make_options("", "about newer\n");
	assert_int_equal(find("x"), -EAGAIN);
	pass_ms(POLICY_REST_MS);
	expect_about("x", "newer");
	come_to_rest();
	expect_about("x", "newer");
	/* A clock that was set back holds nobody up for long. */
	clock_ahead_ms = -3600 * 1000;
	begin_anew();
	expect_about("x", "newer");
}

/* open(2) with O_TRUNC, on file systems that set the times last. */
static void test_without_a_lease_a_file_that_is_being_cut_off_is_waited_for(void **state)
{
	struct stat status;

	(void)state;
	is_lease_refused = true;
	make_options("", "about old\n");
	come_to_rest();
	expect_about("x", "old");
	assert_int_equal(fstatat(AT_FDCWD, "services/.kaiso", &status, 0), 0);
	late_times[0] = status.st_mtim;
	late_times[1] = status.st_ctim;
	assert_int_equal(truncate("services/.kaiso", 0), 0);
	has_late_times = true;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(find("x"), -EAGAIN);
		pass_ms(POLICY_REST_MS);
	}
	/* To whoever does not know it, an empty file is one when it stays that. */
	begin_anew();
	assert_int_equal(find("x"), -EAGAIN);
	pass_ms(POLICY_REST_MS / 2);
	assert_int_equal(find("x"), -EAGAIN);
	pass_ms(POLICY_REST_MS / 2);
	expect_none("x");
	has_late_times = false;
}

static void write_more(void)
{
	FILE *file = fopen("services/.kaiso", "ae");

	assert_non_null(file);
	fputs("proxy v1\n", file);
	fclose(file);
}

static void test_without_a_lease_a_change_while_reading_is_noticed(void **state)
{
	(void)state;
	is_lease_refused = true;
	make_options("", "about old\n");
	pass_ms(POLICY_REST_MS);
	before_reading = write_more;
	assert_int_equal(find("x"), -EAGAIN);
	pass_ms(POLICY_REST_MS);
	expect_about("x", "old");
	assert_int_equal(found->proxy, PROXY_V1);
}

static pthread_t writer;
static _Atomic int writer_fd;

static void *writer_main(void *context)
{
	(void)context;
	writer_fd = open("services/.kaiso", O_WRONLY | O_TRUNC | O_CLOEXEC);
	return NULL;
}

/* It blocks as long as the file is read, which is now. */
static void start_writer(void)
{
	const struct timespec moment = { .tv_nsec = 50000000 };

	writer_fd = -1;
	assert_int_equal(pthread_create(&writer, NULL, writer_main, NULL), 0);
	nanosleep(&moment, NULL);
	assert_int_equal(writer_fd, -1);
}

static void test_writer_that_comes_while_it_is_read_waits_and_goes_on(void **state)
{
	(void)state;
	if (!can_lease())
		skip();
	make_options("", "about old\n");
	before_reading = start_writer;
	expect_about("x", "old");
	assert_int_equal(pthread_join(writer, NULL), 0);
	assert_true(writer_fd >= 0);
	assert_int_equal(find("x"), -EAGAIN);
	assert_int_equal(write(writer_fd, "about new\n", 10), 10);
	close(writer_fd);
	expect_about("x", "new");
}

static void test_description_is_read_in_one_state(void **state)
{
	static char bytes[DESCRIPTION_FILE_BUFFER];
	struct stat status;
	int fd, writing;

	(void)state;
	workplace_make("f:x");
	fd = description_file_open(AT_FDCWD, "services/x", &status);
	assert_true(fd >= 0);
	if (can_lease()) {
		writing = open("services/x", O_WRONLY | O_CLOEXEC);
		assert_int_equal(policy_read_settled(fd, &status, bytes), -EAGAIN);
		close(writing);
		assert_int_equal(policy_read_settled(fd, &status, bytes), 8);
		/* The lease is given back, so nobody waits. */
		writing = open("services/x", O_WRONLY | O_NONBLOCK | O_CLOEXEC);
		assert_true(writing >= 0);
		close(writing);
	}
	is_lease_refused = true;
	assert_int_equal(policy_read_settled(fd, &status, bytes), -EAGAIN);
	pass_ms(POLICY_REST_MS);
	assert_int_equal(policy_read_settled(fd, &status, bytes), 8);
	close(fd);
}

/* ---- many, deep, and at once -------------------------------------------------------------------------- */

static void test_look_costs_one_stat_a_directory(void **state)
{
	(void)state;
	workplace_make("d:a");
	workplace_make("d:a/b");
	looks = 0;
	expect_none("a/b/x");
	assert_int_equal(looks, 3);
	make_options("a", "about a\n");
	come_to_rest();
	expect_about("a/b/x", "a");
	looks = 0;
	expect_about("a/b/x", "a");
	assert_int_equal(looks, 3);
}

/* As deep as a request can name: 2047 directories. */
static size_t make_deep(char path[static PATH_LENGTH_MAX + 1])
{
	size_t length = 0;
	int fd = open("services", O_PATH | O_CLOEXEC);

	while (length + 2 < PATH_LENGTH_MAX) {
		int next;

		assert_int_equal(mkdirat(fd, "a", 0755), 0);
		next = openat(fd, "a", O_PATH | O_CLOEXEC);
		assert_true(next >= 0);
		close(fd);
		fd = next;
		memcpy(path + length, "a/", 3);
		length += 2;
	}
	memcpy(path + length, "x", 2);
	assert_int_equal(fchdir(fd), 0);
	close(fd);
	workplace_make_file(".kaiso", "about deep\n");
	return length + 1;
}

static void test_depth_does_not_cost_its_square(void **state)
{
	CLEANUP_CLOSE int before = open(".", O_PATH | O_CLOEXEC);
	char path[PATH_LENGTH_MAX + 1];
	size_t length = make_deep(path);

	(void)state;
	assert_int_equal(fchdir(before), 0);
	assert_int_equal(length, PATH_LENGTH_MAX);
	looks = 0;
	look_bytes = 0;
	expect_about(path, "deep");
	assert_int_equal(looks, 1 + PATH_LENGTH_MAX / 2);
	assert_true(look_bytes < (uint64_t)looks * 512);
}

static void test_path_to_nowhere_is_not_followed_to_its_end(void **state)
{
	char path[PATH_LENGTH_MAX + 1];

	(void)state;
	for (size_t i = 0; i < PATH_LENGTH_MAX; i++)
		path[i] = i % 2 ? '/' : 'n';
	path[PATH_LENGTH_MAX] = '\0';
	looks = 0;
	expect_none(path);
	assert_true(looks < 200);
}

static void test_long_names_of_services_and_directories(void **state)
{
	static char services[PATH_LENGTH_MAX + 600], name[NAME_MAX + 2];
	CLEANUP_CLOSE int before = open(".", O_PATH | O_CLOEXEC);

	(void)state;
	memset(name, 'n', NAME_MAX);
	strcpy(services, ".");
	while (strlen(services) < PATH_LENGTH_MAX) {
		assert_int_equal(mkdir(name, 0755), 0);
		assert_int_equal(chdir(name), 0);
		strcat(services, "/");
		strcat(services, name);
	}
	workplace_make_file(".kaiso", "about here\n");
	assert_int_equal(mkdir("a", 0755), 0);
	assert_int_equal(mkdir(name, 0755), 0);
	assert_int_equal(fchdir(before), 0);
	policies_free(policies);
	policies = policies_new(services);
	expect_about("x", "here");
	expect_about("a/x", "here");
	strcpy(name + NAME_MAX - 2, "/x");
	expect_about(name, "here");
	memset(name, 'n', NAME_MAX + 1);
	name[NAME_MAX + 1] = '\0';
	expect_about(name, "here");
}

static void test_memory_is_bounded(void **state)
{
	char path[64];

	(void)state;
	for (unsigned i = 0; i < POLICY_FILES_MAX + 10; i++) {
		snprintf(path, sizeof(path), "services/%u", i);
		assert_int_equal(mkdir(path, 0755), 0);
		snprintf(path, sizeof(path), "%u", i);
		make_options(path, "about it\n");
		strcat(path, "/x");
		expect_about(path, "it");
	}
	/* What was used last is known to have been there. */
	snprintf(path, sizeof(path), "services/%u/.kaiso", POLICY_FILES_MAX + 9);
	assert_int_equal(unlink(path), 0);
	snprintf(path, sizeof(path), "%u/x", POLICY_FILES_MAX + 9);
	assert_int_equal(find(path), -EAGAIN);
	assert_int_equal(unlink("services/0/.kaiso"), 0);
	expect_none("0/x");
}

static _Atomic bool is_over;
static _Atomic unsigned answers, admitted;

static void *looker_main(void *context)
{
	const union addr client = client_of("192.0.2.1");
	char file[POLICY_FILE_SIZE];
	struct description_error error;

	while (!is_over) {
		struct policy *policy;
		int r = policies_find(context, "a/b/x", 5, &policy, &error, file);

		if (r == 0 && policy_admits(policy, &client))
			admitted++;
		answers += r == 0;
		policy_unref(policy);
		if (r != 0 && r != -EAGAIN)
			is_over = true;
	}
	return NULL;
}

/* In two pieces, the one that refuses last. */
static void write_slowly(const char *path, const char *first)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_true(write(fd, first, strlen(first)) > 0);
	sched_yield();
	assert_true(write(fd, "deny 192.0.2.0/24\n", 18) == 18);
	close(fd);
}

static void edit(unsigned round)
{
	const char *first = round % 2 ? "about an odd one\n" : "about even\n";

	switch (round % 3) {
	case 0:
		write_slowly("services/a/.kaiso", first);
		break;
	case 1:
		write_slowly("services/a/new", first);
		assert_int_equal(rename("services/a/new", "services/a/.kaiso"), 0);
		break;
	case 2:
		assert_int_equal(rename("services/a/.kaiso", "services/a/.kaiso~"), 0);
		write_slowly("services/a/.kaiso", first);
		break;
	}
}

static void test_edits_let_nobody_in_whom_all_versions_refuse(void **state)
{
	const struct timespec moment = { .tv_nsec = 500000 };
	pthread_t threads[4];
	unsigned round;

	(void)state;
	if (!can_lease())
		skip();
	workplace_make("d:a");
	workplace_make("d:a/b");
	make_options("a/b", "about below\n");
	edit(0);
	expect_about("a/b/x", "below");
	is_over = false;
	answers = admitted = 0;
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, looker_main, policies), 0);
	for (round = 0; round < 300 && !is_over; round++) {
		edit(round);
		nanosleep(&moment, NULL);
	}
	assert_false(is_over);
	is_over = true;
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_int_equal(admitted, 0);
	assert_true(answers > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FIXTURE_TEST(test_nearest_file_that_names_a_key_wins),
		FIXTURE_TEST(test_text_without_options_is_what_is_below_it),
		FIXTURE_TEST(test_invalid_text_says_where),
		FIXTURE_TEST(test_clients_are_judged_by_their_address),
		POLICY_TEST(test_without_any_file_nothing_is_said),
		POLICY_TEST(test_files_say_it_for_all_below),
		POLICY_TEST(test_change_counts_from_the_next_look),
		POLICY_TEST(test_settled_file_is_not_read_again),
		POLICY_TEST(test_what_cannot_be_read_is_an_error),
		POLICY_TEST(test_file_without_permission_is_an_error),
		POLICY_TEST(test_link_to_a_file_is_followed),
		POLICY_TEST(test_what_is_below_a_file_has_the_files_directory),
		POLICY_TEST(test_file_that_is_open_for_writing_is_waited_for),
		POLICY_TEST(test_file_that_is_moved_away_and_written_anew_is_waited_for),
		POLICY_TEST(test_file_that_is_gone_for_good_counts_as_gone),
		POLICY_TEST(test_file_in_a_directory_at_rest_is_gone_at_once),
		POLICY_TEST(test_file_is_gone_though_its_directory_never_rests),
		POLICY_TEST(test_invalid_file_that_is_gone_is_waited_for),
		POLICY_TEST(test_directory_that_is_gone_has_no_file),
		POLICY_TEST(test_without_a_lease_a_file_must_have_rested),
		POLICY_TEST(test_without_a_lease_a_file_that_is_being_cut_off_is_waited_for),
		POLICY_TEST(test_without_a_lease_a_change_while_reading_is_noticed),
		POLICY_TEST(test_writer_that_comes_while_it_is_read_waits_and_goes_on),
		POLICY_TEST(test_description_is_read_in_one_state),
		POLICY_TEST(test_look_costs_one_stat_a_directory),
		POLICY_TEST(test_depth_does_not_cost_its_square),
		POLICY_TEST(test_path_to_nowhere_is_not_followed_to_its_end),
		POLICY_TEST(test_long_names_of_services_and_directories),
		POLICY_TEST(test_memory_is_bounded),
		POLICY_TEST(test_edits_let_nobody_in_whom_all_versions_refuse),
	};

	return FIXTURE_RUN(tests);
}
