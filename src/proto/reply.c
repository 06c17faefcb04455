/*
 * What a router answers to ".kaiso/open" when it cannot connect the client.
 *
 * Theory of operation: the code is for programs and never changes; the text
 * behind it is for people and says no more than the code does, so that nothing
 * about the services directory leaks to those who may not see it.
 */
#include "proto/reply.h"

#include <stdio.h>

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

size_t reply_format_error(char *line, size_t size, enum reply_code code)
{
	int wanted = snprintf(line, size, "-%s %s\r\n", reply_code_name(code), reply_code_text(code));

	/* snprintf() tells what it would have written, not what it wrote. */
	if (wanted < 0 || size == 0)
		return 0;
	return MIN((size_t)wanted, size - 1);
}
