/*
 * Any bytes as a router's answer to ".kaiso/open", against a second opinion that looks at the line's words.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "proto/reply.h"

#define ENSURE(condition)         \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static int is_refusal_of(const char *line, size_t length, const char *name)
{
	size_t name_length = strlen(name);

	return length >= 1 + name_length && memcmp(line + 1, name, name_length) == 0 &&
	       (length == 1 + name_length || line[1 + name_length] == ' ');
}

static void check_code(const char *line, size_t length, enum reply_code code)
{
	ENSURE(code <= REPLY_LOOP);
	for (unsigned i = 0; i <= REPLY_LOOP; i++) {
		if (is_refusal_of(line, length, reply_code_name((enum reply_code)i))) {
			ENSURE(code == i);
			return;
		}
	}
	ENSURE(code == REPLY_UNAVAILABLE);
}

/* What is written is read again, cut or whole. */
static void check_format(enum reply_code code, size_t size)
{
	char whole[REPLY_LINE_MAX], *cut = malloc(size);
	size_t length = reply_format_error(whole, sizeof(whole), code);
	enum reply_code again;

	ENSURE(cut && length > 2 && length == strlen(whole) && strcmp(whole + length - 2, "\r\n") == 0);
	ENSURE(reply_parse(whole, length - 2, &again) == 1 && again == code);
	ENSURE(reply_format_error(cut, size, code) == MIN(length, size - 1));
	ENSURE(memcmp(cut, whole, MIN(length, size - 1)) == 0 && cut[MIN(length, size - 1)] == '\0');
	free(cut);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	char *line = calloc(MAX(size, 1), 1);
	enum reply_code code = REPLY_DENIED;
	int r;

	ENSURE(line);
	if (size > 0)
		memcpy(line, input, size);
	r = reply_parse(line, size, &code);
	ENSURE((r == 0) == (size == 1 && line[0] == '+'));
	ENSURE((r == 1) == (size >= 2 && line[0] == '-'));
	ENSURE(r == 0 || r == 1 || r == -EINVAL);
	if (r == 1)
		check_code(line, size, code);
	if (r == 1)
		check_format(code, 1 + size % REPLY_LINE_MAX);
	free(line);
	return 0;
}
