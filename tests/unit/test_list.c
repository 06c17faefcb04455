/*
 * Lists: order, and what may be done twice.
 */
#include "fixture.h"

#include <string.h>

#include "base/list.h"
#include "base/macros.h"

struct letter {
	struct list link;
	char name;
};

/* Walks both ways, so that a link that was forgotten shows. */
static void assert_spells(const struct list *list, const char *expected)
{
	const struct list *link = list;
	size_t length = strlen(expected);

	for (size_t i = 0; i < length; i++) {
		assert_ptr_equal(link->next->previous, link);
		link = link->next;
		assert_ptr_not_equal(link, list);
		assert_int_equal(CONTAINER_OF(link, struct letter, link)->name, expected[i]);
	}
	assert_ptr_equal(link->next, list);
	assert_ptr_equal(list->previous, link);
	assert_int_equal(list_is_empty(list), length == 0);
}

static void letters_append(struct list *list, struct letter *letters, const char *names)
{
	for (size_t i = 0; names[i]; i++) {
		letters[i].name = names[i];
		list_init(&letters[i].link);
		list_append(list, &letters[i].link);
	}
}

static void test_members_keep_their_order(void **state)
{
	struct letter letters[4];
	struct list list;

	(void)state;
	list_init(&list);
	assert_spells(&list, "");
	letters_append(&list, letters, "abcd");
	assert_spells(&list, "abcd");
}

static void test_members_leave_from_anywhere_and_twice(void **state)
{
	struct letter letters[4];
	struct list list;

	(void)state;
	list_init(&list);
	letters_append(&list, letters, "abcd");
	list_remove(&letters[1].link);
	assert_spells(&list, "acd");
	list_remove(&letters[1].link);
	assert_true(list_is_empty(&letters[1].link));
	assert_spells(&list, "acd");
	list_remove(&letters[0].link);
	list_remove(&letters[3].link);
	assert_spells(&list, "c");
	list_remove(&letters[2].link);
	assert_spells(&list, "");
	list_append(&list, &letters[1].link);
	assert_spells(&list, "b");
}

static void test_splice_moves_all_to_the_end(void **state)
{
	struct letter letters[2], others[3];
	struct list list, source;

	(void)state;
	list_init(&list);
	list_init(&source);
	list_splice(&list, &source);
	assert_spells(&list, "");
	letters_append(&list, letters, "ab");
	list_splice(&list, &source);
	assert_spells(&list, "ab");
	letters_append(&source, others, "cde");
	list_splice(&list, &source);
	assert_spells(&list, "abcde");
	assert_spells(&source, "");
	list_splice(&source, &list);
	assert_spells(&source, "abcde");
	assert_spells(&list, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_members_keep_their_order),
		cmocka_unit_test(test_members_leave_from_anywhere_and_twice),
		cmocka_unit_test(test_splice_moves_all_to_the_end),
	};

	return FIXTURE_RUN(tests);
}
