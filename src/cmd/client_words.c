/*
 * Theory of operation: a failure is told in one line, TOOL: WHAT: WHY; WAY OUT. Words that came from
 * elsewhere pass kaiso_address_format() or text.h first, so that no terminal obeys them.
 */
#include "cmd/client_words.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/args.h"
#include "base/hint.h"
#include "base/text.h"
#include "cmd/cmd.h"

int client_words_parse(const char *tool, const char *word, struct kaiso_address *address)
{
	char reason[KAISO_ADDRESS_REASON_SIZE];
	int r = word ? kaiso_address_parse(word, address, reason) : kaiso_address_default(address, reason);

	if (r == 0)
		return 0;
	fprintf(stderr, "%s: %s\n", tool, reason);
	return EXIT_USAGE;
}

int client_words_parse_timeout(const char *tool, const char *word, uint64_t *timeout_ms)
{
	if (args_parse_duration_ms(word, timeout_ms) == 0)
		return 0;
	fprintf(stderr, "%s: --timeout '", tool);
	text_write_visible(stderr, word, strlen(word));
	fputs("': expected a number with a unit: 500ms, 10s, 5m, or 0 for none\n", stderr);
	return EXIT_USAGE;
}

/* No connection came about. */
static void say_unreachable(const struct kaiso_address *address, const char *text, int error)
{
	bool is_unknown = error == ENOENT && !address->unix_path;
	char hint[HINT_SIZE];

	hint_for(error, address->unix_path, W_OK, hint);
	if (is_unknown)
		fprintf(stderr, "no host of the name '%s'; is it spelt right?\n", address->host);
	else if (error == ECONNREFUSED || error == ENOENT)
		fprintf(stderr,
			"no router at %s (%s%s%s); `kaiso serve %s` starts one, KAISO or $KAISO names another\n",
			text, strerror(error), *hint ? ": " : "", hint, text);
	else if (error == ETIMEDOUT)
		fprintf(stderr, "%s does not answer; --timeout allows more time\n", text);
	else
		fprintf(stderr, "cannot connect to %s: %s%s%s\n", text, strerror(error), *hint ? "; " : "",
			hint);
}

void client_words_say_failure(const char *tool, const struct client *client, int result)
{
	char text[KAISO_ADDRESS_TEXT_SIZE];
	int error = result < 0 ? -result : 0;

	kaiso_address_format(client->address, text);
	fprintf(stderr, "%s: ", tool);
	if (result < 0 && !client->is_reached)
		say_unreachable(client->address, text, error);
	else if (result == CLIENT_CLOSED)
		fprintf(stderr,
			"%s closes the connection without a word; it has too many clients, or is no kaiso\n",
			text);
	else if (error == ETIMEDOUT)
		fprintf(stderr, "%s takes too long to answer; is it a kaiso? --timeout allows more time\n",
			text);
	else if (error == EPROTO)
		fprintf(stderr, "what answers at %s is no kaiso; name another by KAISO or $KAISO\n", text);
	else if (error == ECONNABORTED)
		fprintf(stderr, "the list of %s ended half-way; try again\n", text);
	else if (error == EFBIG)
		fprintf(stderr, "%s sends more than %u MiB: that is no list\n", text, CLIENT_LIST_MAX >> 20);
	else
		fprintf(stderr, "%s: %s\n", text, strerror(error));
}
