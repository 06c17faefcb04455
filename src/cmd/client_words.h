/*
 * What the commands that ask a router as its clients (ls, connect) have in common: how KAISO is read,
 * and what is said when nothing comes of it.
 */
#ifndef KAISO_CMD_CLIENT_WORDS_H
#define KAISO_CMD_CLIENT_WORDS_H

#include "net/client.h"
#include "net/kaiso_address.h"

/* For the help: what KAISO may be. */
#define CLIENT_WORDS_KAISO_HELP                                                                \
	"KAISO is where the router is (default: $KAISO, else 127.0.0.1:37812):\n"              \
	"  HOST, HOST:PORT, [IPV6]:PORT   port 37812 when none is given; :PORT is this host\n" \
	"  unix:PATH                      a UNIX socket\n"                                     \
	"  kaiso://HOST[:PORT]/NAME       names both; in NAME, %XX is a byte\n"

/* Reads KAISO, word NULL for the default. 0, or EXIT_USAGE after a line on standard error. */
int client_words_parse(const char *tool, const char *word, struct kaiso_address *address);

/* Reads the value of --timeout. The same. */
int client_words_parse_timeout(const char *tool, const char *word, uint64_t *timeout_ms);

/* One line on standard error for what client.h returned: CLIENT_CLOSED or a negative errno. */
void client_words_say_failure(const char *tool, const struct client *client, int result);

#endif
