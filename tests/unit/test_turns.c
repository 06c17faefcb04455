/*
 * One holder a name at a time, in one thread and in several.
 */
#include "fixture.h"

#include <pthread.h>
#include <string.h>

#include "router/turns.h"

static void turn_init(struct turn *turn)
{
	list_init(&turn->link);
	turn->name = NULL;
}

static void test_one_at_a_time(void **state)
{
	struct turn first, second;
	struct turns turns;

	(void)state;
	turns_init(&turns);
	turn_init(&first);
	turn_init(&second);
	assert_true(turns_take(&turns, &first, "services/one"));
	assert_false(turns_take(&turns, &second, "services/one"));
	assert_false(turns_take(&turns, &second, "services/one"));
	turns_leave(&turns, &first);
	assert_true(turns_take(&turns, &second, "services/one"));
	assert_false(turns_take(&turns, &first, "services/one"));
	turns_leave(&turns, &second);
	turns_deinit(&turns);
}

/* Names count by what they say, not by where they stand. */
static void test_names(void **state)
{
	char copy[] = "one", longer[] = "one/more";
	struct turn first, second, third;
	struct turns turns;

	(void)state;
	turns_init(&turns);
	turn_init(&first);
	turn_init(&second);
	turn_init(&third);
	assert_true(turns_take(&turns, &first, "one"));
	assert_false(turns_take(&turns, &second, copy));
	assert_true(turns_take(&turns, &second, longer));
	assert_true(turns_take(&turns, &third, ""));
	turns_leave(&turns, &second);
	assert_false(turns_take(&turns, &second, "one"));
	assert_false(turns_take(&turns, &second, ""));
	turns_leave(&turns, &third);
	turns_leave(&turns, &first);
	turns_deinit(&turns);
}

/* Who was refused, or has left already, may leave all the same. */
static void test_leaving_twice(void **state)
{
	struct turn first, second;
	struct turns turns;

	(void)state;
	turns_init(&turns);
	turn_init(&first);
	turn_init(&second);
	assert_true(turns_take(&turns, &first, "one"));
	assert_false(turns_take(&turns, &second, "one"));
	turns_leave(&turns, &second);
	assert_false(turns_take(&turns, &second, "one"));
	turns_leave(&turns, &first);
	turns_leave(&turns, &first);
	assert_true(turns_take(&turns, &second, "one"));
	turns_leave(&turns, &second);
	turns_deinit(&turns);
}

enum { THREADS = 4, ROUNDS = 3000, NAMES = 2 };

struct queue {
	struct turns turns;
	_Atomic unsigned holders[NAMES];
	_Atomic unsigned taken;
	_Atomic unsigned mistakes;
};

static void *queue_main(void *context)
{
	static const char *const names[NAMES] = { "one", "other" };
	struct queue *queue = context;
	struct turn turn;

	turn_init(&turn);
	for (unsigned i = 0; i < ROUNDS; i++) {
		unsigned which = i % NAMES;

		if (!turns_take(&queue->turns, &turn, names[which]))
			continue;
		queue->taken++;
		if (++queue->holders[which] != 1)
			queue->mistakes++;
		queue->holders[which]--;
		turns_leave(&queue->turns, &turn);
	}
	return NULL;
}

static void test_threads(void **state)
{
	static struct queue queue;
	pthread_t threads[THREADS];

	(void)state;
	turns_init(&queue.turns);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, queue_main, &queue), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(queue.mistakes, 0);
	assert_true(queue.taken > 0);
	assert_true(list_is_empty(&queue.turns.taken));
	turns_deinit(&queue.turns);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FIXTURE_TEST(test_one_at_a_time),
		FIXTURE_TEST(test_names),
		FIXTURE_TEST(test_leaving_twice),
		FIXTURE_TEST(test_threads),
	};

	return FIXTURE_RUN(tests);
}
