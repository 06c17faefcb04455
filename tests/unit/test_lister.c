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
#include <unistd.h>

#include "base/log.h"
#include "base/macros.h"
#include "router/lister.h"

static sem_t done;    /* posted at the end of each on_done() */
static sem_t entered; /* posted by on_done_hold() */
static sem_t release; /* awaited by it */
static struct lister_wish *done_order[16];
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
	struct lister *lister = lister_new("services");

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
	lister_free(lister);
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
	lister_free(lister);
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
	lister_free(lister);
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
	lister_free(lister);
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
	lister_free(lister);
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
	lister_free(lister);
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
	lister_free(lister);
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
		WORKPLACE_TEST(test_lister_answer_is_no_older_than_its_wish),
		WORKPLACE_TEST(test_lister_equal_texts_are_one),
		WORKPLACE_TEST(test_lister_ends_while_wishes_wait),
	};

	log_init(LOG_LEVEL_ERROR, LOG_FORMAT_LOGFMT);
	return FIXTURE_RUN(tests);
}
