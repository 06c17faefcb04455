#include "router/session_image.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "net/relay.h"
#include "proto/options.h"
#include "proto/proxy_header.h"
#include "proto/request.h"
#include "router/catalog.h"
#include "router/limits.h"
#include "router/reason.h"
#include "router/session.h"

#define TEXT_TAG 0x100 /* numbers have tags below it */
#define HELD_MAX (1u << 30)

static_assert(IMAGE_COMMON_NUMBERS <= IMAGE_UP && IMAGE_UP + WAY_NUMBERS <= IMAGE_DOWN &&
		      IMAGE_NUMBERS <= TEXT_TAG,
	      "tags overlap");

size_t session_image_descriptors(const struct session_image *image, int fds[static IMAGE_DESCRIPTORS])
{
	static const int numbers[IMAGE_DESCRIPTORS] = {
		IMAGE_CLIENT,
		IMAGE_BACKEND,
		IMAGE_UP + WAY_PIPE_READ,
		IMAGE_UP + WAY_PIPE_WRITE,
		IMAGE_DOWN + WAY_PIPE_READ,
		IMAGE_DOWN + WAY_PIPE_WRITE,
	};
	size_t count = 0;

	for (size_t i = 0; i < IMAGE_DESCRIPTORS; i++) {
		if (image->numbers[numbers[i]] > 0)
			fds[count++] = (int)image->numbers[numbers[i]] - 1;
	}
	return count;
}

/* ---- writing --------------------------------------------------------------------------------------- */

void session_image_write(const struct session_image *image, struct fields_writer *writer, uint16_t tag)
{
	struct fields_writer own = { 0 };

	for (int i = 0; i < IMAGE_NUMBERS; i++) {
		if (image->numbers[i] != 0)
			fields_put_number(&own, (uint16_t)i, image->numbers[i]);
	}
	for (int i = 0; i < IMAGE_TEXTS; i++) {
		if (image->texts[i].length > 0)
			fields_put(&own, (uint16_t)(TEXT_TAG + i), image->texts[i].bytes,
				   image->texts[i].length);
	}
	fields_put(writer, tag, own.bytes, own.length);
	writer->has_failed = writer->has_failed || own.has_failed;
	free(own.bytes);
}

/* ---- reading --------------------------------------------------------------------------------------- */

static bool is_descriptor(uint64_t number)
{
	return number <= INT32_MAX;
}

/* Texts that become C strings. */
static bool text_is_string(const struct image_bytes *text)
{
	return text->length == 0 || memchr(text->bytes, '\0', text->length) == NULL;
}

static bool way_is_possible(const uint64_t *way, const struct image_bytes *held)
{
	bool has_pipe = way[WAY_PIPE_READ] && way[WAY_PIPE_WRITE];

	return way[WAY_SKIP] <= RELAY_SKIP_MAX && way[WAY_FLAGS] <= WAY_FLAGS_ALL &&
	       is_descriptor(way[WAY_PIPE_READ]) && is_descriptor(way[WAY_PIPE_WRITE]) &&
	       way[WAY_PIPE_HELD] <= HELD_MAX && held->length <= HELD_MAX &&
	       has_pipe == (way[WAY_PIPE_HELD] > 0) && !(has_pipe && held->length > 0) &&
	       (!way[WAY_PIPE_READ] == !way[WAY_PIPE_WRITE]);
}

static bool service_is_possible(const struct session_image *image)
{
	const uint64_t *numbers = image->numbers;

	for (int text = IMAGE_PATH; text <= IMAGE_SOCKET; text++) {
		if (!text_is_string(&image->texts[text]))
			return false;
	}
	return numbers[IMAGE_SERVICE] <= SERVICE_SRV + 1 && numbers[IMAGE_PORT] <= UINT16_MAX &&
	       numbers[IMAGE_KNOCK_PORT] <= UINT16_MAX &&
	       image->texts[IMAGE_PATH].length <= REQUEST_LINE_MAX &&
	       numbers[IMAGE_FILE_LENGTH] <= image->texts[IMAGE_PATH].length &&
	       image->texts[IMAGE_REMOTE].length <= REQUEST_LINE_MAX &&
	       (numbers[IMAGE_SERVICE] > 0 || !(numbers[IMAGE_FLAGS] & IMAGE_IS_COUNTED));
}

/* What each state needs. */
static bool state_is_possible(const struct session_image *image)
{
	const uint64_t *numbers = image->numbers;

	switch (numbers[IMAGE_STATE]) {
	case SESSION_REQUEST:
	case SESSION_REPLY:
		return numbers[IMAGE_BACKEND] == 0;
	case SESSION_DIAL:
		return numbers[IMAGE_SERVICE] > SERVICE_UNKNOWN + 1 &&
		       (numbers[IMAGE_BACKEND] == 0 || numbers[IMAGE_SERVICE] == SERVICE_PASSFD + 1);
	case SESSION_HANDOVER:
		return numbers[IMAGE_SERVICE] > SERVICE_UNKNOWN + 1;
	case SESSION_VERDICT:
	case SESSION_RELAY:
		return numbers[IMAGE_SERVICE] > SERVICE_UNKNOWN + 1 && numbers[IMAGE_BACKEND] != 0;
	default:
		return false;
	}
}

static bool image_is_possible(const struct session_image *image)
{
	const uint64_t *numbers = image->numbers;

	return numbers[IMAGE_CLIENT] != 0 && is_descriptor(numbers[IMAGE_CLIENT]) &&
	       is_descriptor(numbers[IMAGE_BACKEND]) && numbers[IMAGE_FLAGS] <= IMAGE_FLAGS_ALL &&
	       numbers[IMAGE_REFUSAL] < SESSION_REASON_COUNT && numbers[IMAGE_LIMIT] <= LIMIT_DESCRIPTORS &&
	       numbers[IMAGE_RETRY_SHIFT] <= 7 && numbers[IMAGE_PROXY] <= PROXY_V2 &&
	       text_is_string(&image->texts[IMAGE_DIRECTORY]) &&
	       image->texts[IMAGE_DIRECTORY].length <= REQUEST_LINE_MAX &&
	       image->texts[IMAGE_TLVS].length <= PROXY_HEADER_MAX &&
	       way_is_possible(numbers + IMAGE_UP, &image->texts[IMAGE_UP_HELD]) &&
	       way_is_possible(numbers + IMAGE_DOWN, &image->texts[IMAGE_DOWN_HELD]) &&
	       service_is_possible(image) && state_is_possible(image);
}

static bool number_is_known(uint16_t tag)
{
	return tag < IMAGE_COMMON_NUMBERS || (tag >= IMAGE_UP && tag < IMAGE_UP + WAY_NUMBERS) ||
	       (tag >= IMAGE_DOWN && tag < IMAGE_DOWN + WAY_NUMBERS);
}

static int image_take(struct session_image *image, const struct field *field)
{
	if (number_is_known(field->tag))
		return field_number(field, &image->numbers[field->tag]);
	if (field->tag < TEXT_TAG || field->tag >= TEXT_TAG + IMAGE_TEXTS)
		return -ENOTSUP;
	image->texts[field->tag - TEXT_TAG] = (struct image_bytes){ field->bytes, field->length };
	return 0;
}

int session_image_read(struct session_image *image, const struct field *field)
{
	struct fields_reader reader = { field->bytes, field->bytes + field->length };
	struct field part;
	int r;

	*image = (struct session_image){ 0 };
	for (int text = 0; text < IMAGE_TEXTS; text++)
		image->texts[text].bytes = "";
	while ((r = fields_next(&reader, &part)) > 0) {
		r = image_take(image, &part);
		if (r < 0)
			break;
	}
	if (r == 0 && !image_is_possible(image))
		return -EPROTO;
	return r;
}
