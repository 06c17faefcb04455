/*
 * What a router answers to ".kaiso/open" when it cannot connect the client.
 *
 * Theory of operation: the code is for programs and never changes; the text
 * behind it is for people and says no more than the code does, so that nothing
 * about the services directory leaks to those who may not see it.
 */
#include "proto/reply.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"

const char *reply_code_name(enum reply_code code)
{
	switch (code) {
	case REPLY_NOT_FOUND:
		return "not-found";
	case REPLY_DENIED:
		return "denied";
	case REPLY_UNAVAILABLE:
		return "unavailable";
	case REPLY_TIMEOUT:
		return "timeout";
	case REPLY_LIMIT:
		return "limit";
	case REPLY_INVALID:
		return "invalid";
	case REPLY_LOOP:
		return "loop";
	}
	return "unknown";
}

static const char *reply_code_text(enum reply_code code)
{
	switch (code) {
	case REPLY_NOT_FOUND:
		return "no such service";
	case REPLY_DENIED:
		return "not open to this address";
	case REPLY_UNAVAILABLE:
		return "nothing answers behind this service";
	case REPLY_TIMEOUT:
		return "the service did not answer in time";
	case REPLY_LIMIT:
		return "too many clients at the moment";
	case REPLY_INVALID:
		return "the service is described wrongly";
	case REPLY_LOOP:
		return "the service leads back to itself";
	}
	return "no reason known";
}

int reply_parse(const char *line, size_t length, enum reply_code *code)
{
	size_t word_length;
	const char *blank;

	if (length == 1 && line[0] == '+')
		return 0;
	if (length < 2 || line[0] != '-')
		return -EINVAL;
	blank = memchr(line + 1, ' ', length - 1);
	word_length = blank ? (size_t)(blank - line - 1) : length - 1;
	*code = REPLY_UNAVAILABLE;
	for (unsigned i = 0; i <= REPLY_LOOP; i++) {
		const char *name = reply_code_name((enum reply_code)i);

		if (strlen(name) == word_length && memcmp(name, line + 1, word_length) == 0)
			*code = (enum reply_code)i;
	}
	return 1;
}

size_t reply_format_error(char *line, size_t size, enum reply_code code)
{
	int wanted = snprintf(line, size, "-%s %s\r\n", reply_code_name(code), reply_code_text(code));

	/* snprintf() tells what it would have written, not what it wrote. */
	if (wanted < 0 || size == 0)
		return 0;
	return MIN((size_t)wanted, size - 1);
}
