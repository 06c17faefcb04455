/*
 * What a running router writes down for the next program: fields, images of sessions, and the whole. That sessions
 * go on from it is the integration tests' part.
 */
#include "fixture.h"

#include <stdlib.h>
#include <string.h>

#include "base/fields.h"
#include "base/macros.h"
#include "router/catalog.h"
#include "router/session.h"
#include "router/session_image.h"
#include "router/upgrade.h"

/* ---- fields ---------------------------------------------------------------------------------------- */

static void test_fields_come_back(void **state)
{
	struct fields_writer writer = { 0 };
	struct fields_reader reader;
	struct field field;
	uint64_t number;

	(void)state;
	fields_put_number(&writer, 1, UINT64_MAX);
	fields_put(&writer, 65535, "hello", 5);
	fields_put(&writer, 3, NULL, 0);
	assert_false(writer.has_failed);
	reader = (struct fields_reader){ writer.bytes, writer.bytes + writer.length };
	assert_int_equal(fields_next(&reader, &field), 1);
	assert_int_equal(field.tag, 1);
	assert_int_equal(field_number(&field, &number), 0);
	assert_true(number == UINT64_MAX);
	assert_int_equal(fields_next(&reader, &field), 1);
	assert_int_equal(field.tag, 65535);
	assert_int_equal(field.length, 5);
	assert_memory_equal(field.bytes, "hello", 5);
	assert_int_equal(field_number(&field, &number), -EPROTO);
	assert_int_equal(fields_next(&reader, &field), 1);
	assert_int_equal(field.length, 0);
	assert_int_equal(fields_next(&reader, &field), 0);
	free(writer.bytes);
}

/* Whatever is missing at the end is noticed, unless it is a whole field. */
static void test_fields_cut_short(void **state)
{
	struct fields_writer writer = { 0 };

	(void)state;
	fields_put(&writer, 7, "hello", 5);
	for (size_t length = 1; length < writer.length; length++) {
		char *copy = malloc(length);
		struct fields_reader reader = { copy, copy + length };
		struct field field;

		assert_non_null(copy);
		memcpy(copy, writer.bytes, length);
		assert_int_equal(fields_next(&reader, &field), -EPROTO);
		free(copy);
	}
	free(writer.bytes);
}

/* ---- sessions -------------------------------------------------------------------------------------- */

static struct session_image relay_image(void)
{
	struct session_image image = { 0 };

	image.numbers[IMAGE_STATE] = SESSION_RELAY;
	image.numbers[IMAGE_CLIENT] = 11;
	image.numbers[IMAGE_BACKEND] = 12;
	image.numbers[IMAGE_SERVICE] = SERVICE_TCP + 1;
	image.numbers[IMAGE_PORT] = 80;
	image.numbers[IMAGE_UP + WAY_BYTES] = 1000;
	image.texts[IMAGE_PATH] = (struct image_bytes){ "foo", 3 };
	image.texts[IMAGE_HOST] = (struct image_bytes){ "localhost", 9 };
	image.texts[IMAGE_DOWN_HELD] = (struct image_bytes){ "\0x", 2 };
	return image;
}

/* Reads back what it writes; *bytes keeps what the result borrows from. */
static int read_back(const struct session_image *image, struct session_image *result, char **bytes)
{
	struct fields_writer writer = { 0 };
	struct fields_reader reader;
	struct field field;

	session_image_write(image, &writer, 9);
	assert_false(writer.has_failed);
	reader = (struct fields_reader){ writer.bytes, writer.bytes + writer.length };
	assert_int_equal(fields_next(&reader, &field), 1);
	assert_int_equal(field.tag, 9);
	assert_int_equal(fields_next(&reader, &(struct field){ 0 }), 0);
	*bytes = writer.bytes;
	return session_image_read(result, &field);
}

static void test_session_comes_back(void **state)
{
	struct session_image image = relay_image(), result;
	char *bytes;

	(void)state;
	assert_int_equal(read_back(&image, &result, &bytes), 0);
	assert_memory_equal(result.numbers, image.numbers, sizeof(image.numbers));
	for (int i = 0; i < IMAGE_TEXTS; i++) {
		assert_int_equal(result.texts[i].length, image.texts[i].length);
		if (image.texts[i].length > 0)
			assert_memory_equal(result.texts[i].bytes, image.texts[i].bytes,
					    image.texts[i].length);
	}
	free(bytes);
}

/* One number that no session has, each. */
static void test_sessions_that_cannot_be(void **state)
{
	static const struct {
		int number;
		uint64_t value;
	} wrong[] = {
		{ IMAGE_STATE, SESSION_ENDED },
		{ IMAGE_STATE, SESSION_LOOKUP },
		{ IMAGE_STATE, 100 },
		{ IMAGE_STATE, SESSION_REQUEST }, /* with a backend */
		{ IMAGE_STATE, SESSION_DIAL },    /* the same */
		{ IMAGE_CLIENT, 0 },
		{ IMAGE_CLIENT, UINT64_C(1) << 31 },
		{ IMAGE_BACKEND, 0 },
		{ IMAGE_FLAGS, IMAGE_FLAGS_ALL + 1 },
		{ IMAGE_REFUSAL, SESSION_REASON_COUNT },
		{ IMAGE_LIMIT, 100 },
		{ IMAGE_RETRY_SHIFT, 8 },
		{ IMAGE_PROXY, PROXY_V2 + 1 },
		{ IMAGE_SERVICE, 0 },
		{ IMAGE_SERVICE, SERVICE_UNKNOWN + 1 },
		{ IMAGE_SERVICE, SERVICE_SRV + 2 },
		{ IMAGE_PORT, 65536 },
		{ IMAGE_UP + WAY_SKIP, RELAY_SKIP_MAX + 1 },
		{ IMAGE_UP + WAY_FLAGS, WAY_FLAGS_ALL + 1 },
		{ IMAGE_UP + WAY_PIPE_READ, 20 },  /* without the other end */
		{ IMAGE_DOWN + WAY_PIPE_HELD, 5 }, /* without a pipe */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct session_image image = relay_image(), result;
		char *bytes;

		image.numbers[wrong[i].number] = wrong[i].value;
		assert_int_equal(read_back(&image, &result, &bytes), -EPROTO);
		free(bytes);
	}
}

static void test_sessions_with_texts_that_cannot_be(void **state)
{
	static const int strings[] = { IMAGE_PATH,   IMAGE_TARGET, IMAGE_HOST,
				       IMAGE_REMOTE, IMAGE_SOCKET, IMAGE_DIRECTORY };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(strings); i++) {
		struct session_image image = relay_image(), result;
		char *bytes;

		image.texts[strings[i]] = (struct image_bytes){ "a\0b", 3 };
		assert_int_equal(read_back(&image, &result, &bytes), -EPROTO);
		free(bytes);
	}
}

/* ---- the whole ------------------------------------------------------------------------------------- */

/* A state of these sessions, ended by that count. */
static struct fields_writer whole(size_t sessions, uint64_t count)
{
	struct fields_writer writer = { 0 };
	struct session_image image = relay_image();

	fields_put(&writer, STATE_VERSION, "1.2.3", 5);
	fields_put_number(&writer, STATE_REFUSED, 4);
	for (size_t i = 0; i < sessions; i++)
		session_image_write(&image, &writer, STATE_SESSION);
	fields_put_number(&writer, STATE_END, count);
	return writer;
}

static int check(struct fields_writer *writer, size_t *sessions)
{
	size_t length = strlen(UPGRADE_MAGIC) + writer->length;
	char *bytes = malloc(length);
	int r;

	assert_non_null(bytes);
	memcpy(bytes, UPGRADE_MAGIC, strlen(UPGRADE_MAGIC));
	memcpy(bytes + strlen(UPGRADE_MAGIC), writer->bytes, writer->length);
	r = upgrade_check_state(bytes, length, sessions);
	free(bytes);
	free(writer->bytes);
	return r;
}

static void test_whole_states(void **state)
{
	struct fields_writer writer = whole(3, 3);
	size_t sessions;

	(void)state;
	assert_int_equal(check(&writer, &sessions), 0);
	assert_int_equal(sessions, 3);
	writer = whole(0, 0);
	assert_int_equal(check(&writer, &sessions), 0);
	assert_int_equal(sessions, 0);
}

static void test_states_that_are_not_whole(void **state)
{
	struct fields_writer writer = whole(3, 2);
	size_t sessions;

	(void)state;
	assert_int_equal(check(&writer, &sessions), -EPROTO);
	writer = whole(2, 2);
	fields_put(&writer, STATE_VERSION, "behind the end", 14);
	assert_int_equal(check(&writer, &sessions), -EPROTO);
	writer = (struct fields_writer){ 0 };
	fields_put(&writer, STATE_VERSION, "no end", 6);
	assert_int_equal(check(&writer, &sessions), -EPROTO);
	assert_int_equal(upgrade_check_state("kaiso upgrade 2\n", 16, &sessions), -EPROTO);
	assert_int_equal(upgrade_check_state("kaiso", 5, &sessions), -EPROTO);
}

/* What a later version says must not be passed over. */
static void test_states_of_later_versions(void **state)
{
	struct fields_writer writer = { 0 }, session = { 0 };
	size_t sessions;

	(void)state;
	fields_put(&writer, STATE_TAGS, "new", 3);
	assert_int_equal(check(&writer, &sessions), -ENOTSUP);
	writer = (struct fields_writer){ 0 };
	fields_put_number(&session, IMAGE_COMMON_NUMBERS, 1);
	fields_put(&writer, STATE_SESSION, session.bytes, session.length);
	assert_int_equal(check(&writer, &sessions), -ENOTSUP);
	free(session.bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FIXTURE_TEST(test_fields_come_back),
		FIXTURE_TEST(test_fields_cut_short),
		FIXTURE_TEST(test_session_comes_back),
		FIXTURE_TEST(test_sessions_that_cannot_be),
		FIXTURE_TEST(test_sessions_with_texts_that_cannot_be),
		FIXTURE_TEST(test_whole_states),
		FIXTURE_TEST(test_states_that_are_not_whole),
		FIXTURE_TEST(test_states_of_later_versions),
	};

	return FIXTURE_RUN(tests);
}
