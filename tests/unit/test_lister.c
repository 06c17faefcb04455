/*
 * The lister thread over a real directory, held up in on_done() where a test
 * needs to know what waits.
 */
#include "workplace.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/macros.h"
#include "router/lister.h"

static struct policies *policies;
static sem_t done;    /* posted at the end of each on_done() */
static sem_t entered; /* posted by on_done_hold() */
static sem_t release; /* awaited by it */
static struct lister_wish *done_order[64];
static size_t done_count;

static void on_done(struct lister_wish *wish)
{
	done_order[done_count++] = wish;
	sem_post(&done);
}

/* Keeps the lister's thread inside until it is released: meanwhile, wishes wait for sure. */
static void on_done_hold(struct lister_wish *wish)
{
	sem_post(&entered);
	sem_wait(&release);
	on_done(wish);
}

static struct lister_wish *wish_new(const char *directory, bool is_detailed)
{
	size_t length = strlen(directory);
	struct lister_wish *wish = calloc(1, sizeof(*wish));

	list_init(&wish->link);
	wish->on_done = on_done;
	wish->is_detailed = is_detailed;
	wish->directory_length = length;
	wish->result = 1;
	wish->directory = directory;
	return wish;
}

static void wish_free(struct lister_wish *wish)
{
	lister_text_unref(wish->text);
	free(wish);
}

static void end_lister(struct lister *lister)
{
	lister_free(lister);
	policies_free(policies);
}

/* Submits a wish and waits until it is done. */
static struct lister_wish *wish_for(struct lister *lister, const char *directory, bool is_detailed)
{
	struct lister_wish *wish = wish_new(directory, is_detailed);

	lister_submit(lister, wish);
	sem_wait(&done);
	return wish;
}

static void assert_text(const struct lister_wish *wish, const char *expected)
{
	assert_int_equal(wish->result, 0);
	assert_int_equal(wish->text->length, strlen(expected));
	assert_memory_equal(wish->text->bytes, expected, strlen(expected));
}

static struct lister *start_lister(void)
{
	struct lister *lister;

	policies = policies_new("services");
	assert_non_null(policies);
	lister = lister_new("services", policies);
	assert_non_null(lister);
	sem_init(&done, 0, 0);
	sem_init(&entered, 0, 0);
	sem_init(&release, 0, 0);
	done_count = 0;
	return lister;
}

static void test_lister_writes_lists(void **state)
{
	static const struct {
		const char *directory;
		bool is_detailed;
		int result;
		const char *text;
	} cases[] = {
		{ "", false, 0, "bad\r\nd/t\r\nk\r\np\r\ns\r\ntcp\r\nu\r\n\r\n" },
		{ "", true, 0,
		  "d/t\tunix\t\r\nk\tkaiso\t\r\np\tpassfd\t\r\n"
		  "s\tunix\t\r\ntcp\ttcp\t\r\nu\tunix\t\r\n\r\n" },
		{ "d", false, 0, "d/t\r\n\r\n" },
		{ "d", true, 0, "d/t\tunix\t\r\n\r\n" },
		{ "e", false, 0, "\r\n" },
		{ "e", true, 0, "\r\n" },
		{ "none", false, -ENOENT, NULL },
		{ "s", true, -ENOTDIR, NULL },
	};
	struct lister *lister = start_lister();

	(void)state;
	workplace_make_all(
		(const char *const[]){ "s:s", "f:tcp", "d:d", "s:d/t", "d:e", "p:fifo", "l:gone>x", NULL });
	workplace_make_file("services/bad", "host:99999\n");
	workplace_make_file("services/k", "host:80 far away\n");
	workplace_make_file("services/p", "s passfd\n");
	workplace_make_file("services/u", "s\n");
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct lister_wish *wish = wish_for(lister, cases[i].directory, cases[i].is_detailed);

		assert_int_equal(wish->result, cases[i].result);
		if (cases[i].text)
			assert_text(wish, cases[i].text);
		else
			assert_null(wish->text);
		wish_free(wish);
	}
	end_lister(lister);
}

static void test_lister_detailed_without_descriptors(void **state)
{
	struct lister *lister = start_lister();
	struct lister_wish *wish = wish_new("", true);
	struct rlimit before;
	struct rlimit scarce;
	int lowest = open(".", O_PATH | O_CLOEXEC);

	(void)state;
	workplace_make_all((const char *const[]){ "s:a", "f:tcp", NULL });
	getrlimit(RLIMIT_NOFILE, &before);
	scarce = before;
	/* Two: the directory, and the file's name, but not the file. */
	scarce.rlim_cur = (rlim_t)lowest + 2;
	close(lowest);
	setrlimit(RLIMIT_NOFILE, &scarce);
	lister_submit(lister, wish);
	sem_wait(&done);
	setrlimit(RLIMIT_NOFILE, &before);
	assert_int_equal(wish->result, -EMFILE);
	assert_null(wish->text);
	wish_free(wish);
	end_lister(lister);
}

static void test_lister_long_list(void **state)
{
	struct lister *lister = start_lister();
	struct lister_wish *wish;
	char path[64];

	(void)state;
	for (int i = 0; i < 1000; i++) {
		snprintf(path, sizeof(path), "services/%03d-with-a-name", i);
		workplace_make_file(path, "");
	}
	wish = wish_for(lister, "", false);
	assert_int_equal(wish->text->length, 1000 * strlen("000-with-a-name\r\n") + 2);
	assert_memory_equal(wish->text->bytes + wish->text->length - 9, "-name\r\n\r\n", 9);
	wish_free(wish);
	end_lister(lister);
}

static struct lister_wish *wish_of(const char *client, const char *directory, bool is_detailed)
{
	struct lister_wish *wish = wish_new(directory, is_detailed);

	if (*client)
		assert_int_equal(addr_parse_numeric(client, strlen(client), 80, &wish->client), 0);
	return wish;
}

static void make_services_with_rules(void)
{
	workplace_make_all((const char *const[]){ "s:a", "d:b", "s:b/c", "d:b/d", "s:b/d/e", "d:open",
						  "s:open/s", "d:open/bad", "s:open/bad/s", NULL });
	workplace_make_file("services/b/.kaiso", "deny 192.0.2.0/24\nabout for\tmost\n");
	workplace_make_file("services/b/d/.kaiso", "allow 192.0.2.1 ::1\n");
	workplace_make_file("services/open/bad/.kaiso", "nonsense\n");
	workplace_make_file("services/m", "host:80 far/\nabout a mount\n");
	workplace_make_file("services/one", "host:80\nallow 192.0.2.9\nabout one's own\n");
	workplace_make_file("services/v", "srv:_x._tcp.example.org\n");
	workplace_make_file("services/b/w", "host:80\nallow 192.0.2.9\ndeny ::2\nabout w\n");
}

static void test_lister_leaves_out_what_the_client_may_not_open(void **state)
{
	static const struct {
		const char *client;
		const char *directory;
		bool is_detailed;
		int result;
		const char *text;
	} cases[] = {
		{ "192.0.2.1", "", false, 0, "a\r\nb/d/e\r\nm/\r\nopen/s\r\nv\r\n\r\n" },
		{ "192.0.2.2", "", false, 0, "a\r\nm/\r\nopen/s\r\nv\r\n\r\n" },
		{ "192.0.2.9", "", false, 0, "a\r\nb/w\r\nm/\r\none\r\nopen/s\r\nv\r\n\r\n" },
		{ "::1", "", false, 0, "a\r\nb/c\r\nb/d/e\r\nm/\r\nopen/s\r\nv\r\n\r\n" },
		{ "", "", false, 0, "a\r\nb/c\r\nm/\r\nopen/s\r\nv\r\n\r\n" },
		{ "192.0.2.9", "", true, 0,
		  "a\tunix\t\r\nb/w\ttcp\tw\r\nm/\tmount\ta mount\r\none\ttcp\tone's own\r\n"
		  "open/s\tunix\t\r\nv\tsrv\t\r\n\r\n" },
		{ "192.0.2.1", "b", true, 0, "b/d/e\tunix\tfor most\r\n\r\n" },
		{ "192.0.2.1", "b/d", true, 0, "b/d/e\tunix\tfor most\r\n\r\n" },
		/* As if they were not there. */
		{ "192.0.2.2", "b", false, -ENOENT, NULL },
		{ "192.0.2.2", "b/d", true, -ENOENT, NULL },
		{ "::1", "open/bad", false, -ENOENT, NULL },
	};
	struct lister *lister = start_lister();

	(void)state;
	make_services_with_rules();
	for (size_t i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
		const size_t number = i % ARRAY_SIZE(cases);
		struct lister_wish *wish =
			wish_of(cases[number].client, cases[number].directory, cases[number].is_detailed);

		lister_submit(lister, wish);
		sem_wait(&done);
		assert_int_equal(wish->result, cases[number].result);
		if (cases[number].text)
			assert_text(wish, cases[number].text);
		wish_free(wish);
	}
	end_lister(lister);
}

/* What changes counts from the next list on, however well the lister knows the files. */
static void test_lister_notices_changes_of_descriptions(void **state)
{
	const struct timespec old[2] = { { .tv_sec = 1 }, { .tv_sec = 1 } };
	struct lister *lister = start_lister();
	struct lister_wish *wish;

	(void)state;
	for (int i = 0; i < 3; i++) {
		workplace_make_file("services/x", "host:80\nabout one\n");
		utimensat(AT_FDCWD, "services/x", old, 0);
		wish = wish_for(lister, "", true);
		assert_text(wish, "x\ttcp\tone\r\n\r\n");
		wish_free(wish);
		workplace_make_file("services/x", "host:80\nabout two\n");
		utimensat(AT_FDCWD, "services/x", old, 0);
		wish = wish_for(lister, "", true);
		assert_text(wish, "x\ttcp\ttwo\r\n\r\n");
		wish_free(wish);
	}
	end_lister(lister);
}

/* A list is not held up for long by somebody who writes. */
static void test_lister_leaves_out_what_is_being_written(void **state)
{
	struct lister *lister = start_lister();
	struct lister_wish *wish;
	int fds[2];

	(void)state;
	workplace_make_all((const char *const[]){ "s:a", "d:b", "s:b/c", NULL });
	workplace_make_file("services/b/.kaiso", "about x\n");
	workplace_make_file("services/f", "host:80\n");
	fds[0] = open("services/f", O_RDONLY | O_CLOEXEC);
	if (fcntl(fds[0], F_SETLEASE, F_RDLCK) != 0) {
		print_message("no lease can be had here\n");
		close(fds[0]);
		end_lister(lister);
		skip();
	}
	close(fds[0]);
	fds[0] = open("services/b/.kaiso", O_WRONLY | O_CLOEXEC);
	fds[1] = open("services/f", O_WRONLY | O_CLOEXEC);
	wish = wish_for(lister, "", false);
	assert_text(wish, "a\r\n\r\n");
	wish_free(wish);
	close(fds[0]);
	close(fds[1]);
	wish = wish_for(lister, "", false);
	assert_text(wish, "a\r\nb/c\r\nf\r\n\r\n");
	wish_free(wish);
	end_lister(lister);
}

/* Holds the lister's thread with a first wish and submits the others, which therefore wait together. */
static struct lister_wish *submit_held(struct lister *lister, struct lister_wish **wishes, size_t count)
{
	struct lister_wish *first = wish_new("", false);

	first->on_done = on_done_hold;
	lister_submit(lister, first);
	sem_wait(&entered);
	for (size_t i = 0; i < count; i++)
		lister_submit(lister, wishes[i]);
	return first;
}

/* Same wishes are answered by one walk: together, before one that came between them. */
static void test_lister_same_wishes_share_a_walk(void **state)
{
	struct lister *lister = start_lister();
	struct lister_wish *wishes[] = {
		wish_new("d", false), wish_new("", false),  wish_new("d", false),
		wish_new("d", true),  wish_new("d", false),
	};
	static const int order[] = { 0, 2, 4, 1, 3 };
	struct lister_wish *first;

	(void)state;
	workplace_make_all((const char *const[]){ "d:d", "s:d/s", "s:t", NULL });
	first = submit_held(lister, wishes, ARRAY_SIZE(wishes));
	sem_post(&release);
	for (size_t i = 0; i < 1 + ARRAY_SIZE(wishes); i++)
		sem_wait(&done);
	assert_ptr_equal(done_order[0], first);
	for (size_t i = 0; i < ARRAY_SIZE(wishes); i++)
		assert_ptr_equal(done_order[1 + i], wishes[order[i]]);
	assert_ptr_equal(wishes[0]->text, wishes[2]->text);
	assert_ptr_equal(wishes[0]->text, wishes[4]->text);
	assert_int_equal(wishes[0]->text->references, 3);
	wish_free(first);
	for (size_t i = 0; i < ARRAY_SIZE(wishes); i++)
		wish_free(wishes[i]);
	end_lister(lister);
}

/* Where rules had a say, one address's list is not another's. */
static void test_lister_wishes_of_one_address_share_a_walk(void **state)
{
	struct lister *lister = start_lister();
	struct lister_wish *wishes[] = {
		wish_of("192.0.2.1", "b", false), wish_of("192.0.2.2", "b", false),
		wish_of("192.0.2.1", "b", false), wish_of("::1", "b", false),
		wish_of("::1", "", false),        wish_of("192.0.2.2", "open", false),
		wish_of("::1", "open", false),
	};
	static const int order[] = { 0, 2, 1, 3, 4, 5, 6 };
	struct lister_wish *first = wish_new("open", false);

	(void)state;
	make_services_with_rules();
	assert_int_equal(unlink("services/open/bad/.kaiso"), 0);
	first->on_done = on_done_hold;
	lister_submit(lister, first);
	sem_wait(&entered);
	for (size_t i = 0; i < ARRAY_SIZE(wishes); i++)
		lister_submit(lister, wishes[i]);
	sem_post(&release);
	for (size_t i = 0; i < 1 + ARRAY_SIZE(wishes); i++)
		sem_wait(&done);
	for (size_t i = 0; i < ARRAY_SIZE(wishes); i++)
		assert_ptr_equal(done_order[1 + i], wishes[order[i]]);
	assert_text(wishes[0], "b/d/e\r\n\r\n");
	assert_ptr_equal(wishes[0]->text, wishes[2]->text);
	assert_int_equal(wishes[1]->result, -ENOENT);
	assert_text(wishes[3], "b/c\r\nb/d/e\r\n\r\n");
	assert_ptr_equal(wishes[5]->text, wishes[6]->text);
	wish_free(first);
	for (size_t i = 0; i < ARRAY_SIZE(wishes); i++)
		wish_free(wishes[i]);
	end_lister(lister);
}

static void test_lister_answer_is_no_older_than_its_wish(void **state)
{
	struct lister *lister = start_lister();
	struct lister_wish *later = wish_new("", false);
	struct lister_wish *first = submit_held(lister, NULL, 0);

	(void)state;
	workplace_make("s:new");
	lister_submit(lister, later);
	sem_post(&release);
	sem_wait(&done);
	sem_wait(&done);
	assert_text(first, "\r\n");
	assert_text(later, "new\r\n\r\n");
	wish_free(first);
	wish_free(later);
	end_lister(lister);
}

static void test_lister_equal_texts_are_one(void **state)
{
	struct lister *lister = start_lister();
	struct lister_wish *first;
	struct lister_wish *same;
	struct lister_wish *detailed;
	struct lister_wish *changed;

	(void)state;
	workplace_make("s:s");
	first = wish_for(lister, "", false);
	detailed = wish_for(lister, "", true);
	same = wish_for(lister, "", false);
	assert_ptr_equal(first->text, same->text);
	assert_ptr_not_equal(first->text, detailed->text);
	assert_int_equal(first->text->references, 2);
	workplace_make("s:t");
	changed = wish_for(lister, "", false);
	assert_ptr_not_equal(first->text, changed->text);
	assert_text(first, "s\r\n\r\n");
	assert_text(changed, "s\r\nt\r\n\r\n");

	/* A text outlives its lister. */
	end_lister(lister);
	wish_free(first);
	assert_text(same, "s\r\n\r\n");
	wish_free(same);
	wish_free(detailed);
	wish_free(changed);
	lister_text_unref(NULL);
}

static void test_lister_ends_while_wishes_wait(void **state)
{
	struct lister *lister = start_lister();
	struct lister_wish *wishes[] = { wish_new("", false), wish_new("", true), wish_new("d", false) };
	struct lister_wish *first = submit_held(lister, wishes, ARRAY_SIZE(wishes));

	(void)state;
	workplace_make("d:d");
	/* From here on the thread and this one race, so any of them may still be answered. */
	sem_post(&release);
	end_lister(lister);
	assert_int_equal(done_count, 1 + ARRAY_SIZE(wishes));
	assert_text(first, "\r\n");
	wish_free(first);
	for (size_t i = 0; i < ARRAY_SIZE(wishes); i++) {
		assert_true(wishes[i]->result == 0 || wishes[i]->result == -ECANCELED);
		assert_true((wishes[i]->result == 0) == (wishes[i]->text != NULL));
		wish_free(wishes[i]);
	}
	lister_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		WORKPLACE_TEST(test_lister_writes_lists),
		WORKPLACE_TEST(test_lister_detailed_without_descriptors),
		WORKPLACE_TEST(test_lister_long_list),
		WORKPLACE_TEST(test_lister_same_wishes_share_a_walk),
		WORKPLACE_TEST(test_lister_leaves_out_what_the_client_may_not_open),
		WORKPLACE_TEST(test_lister_notices_changes_of_descriptions),
		WORKPLACE_TEST(test_lister_leaves_out_what_is_being_written),
		WORKPLACE_TEST(test_lister_wishes_of_one_address_share_a_walk),
		WORKPLACE_TEST(test_lister_answer_is_no_older_than_its_wish),
		WORKPLACE_TEST(test_lister_equal_texts_are_one),
		WORKPLACE_TEST(test_lister_ends_while_wishes_wait),
	};

	log_init(LOG_LEVEL_ERROR, LOG_FORMAT_LOGFMT);
	return FIXTURE_RUN(tests);
}
