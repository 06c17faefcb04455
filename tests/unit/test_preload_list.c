/*
 * Is a library on the list already? By whole elements.
 */
#include "fixture.h"

#include "base/macros.h"
#include "wrap/preload_list.h"

static void test_whole_elements(void **state)
{
	static const struct {
		const char *list;
		bool has;
	} cases[] = {
		{ "", false },
		{ "/lib/ours.so", true },
		{ "/lib/ours.so:/lib/other.so", true },
		{ "/lib/other.so:/lib/ours.so", true },
		{ "/lib/other.so /lib/ours.so /lib/more.so", true },
		{ "/lib/ours.so.bak", false },
		{ "/usr/lib/ours.so", false },
		{ "/lib/ours.s", false },
		{ "::/lib/ours.so", true },
		{ ": :", false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		if (preload_list_has(cases[i].list, "/lib/ours.so") != cases[i].has)
			fail_msg("'%s'", cases[i].list);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { FIXTURE_TEST(test_whole_elements) };

	return FIXTURE_RUN(tests);
}
