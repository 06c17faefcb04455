/*
 * The table of works, and what all of them use.
 */
#include "load.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

bool is_verified;
char buffer[BUFFER_BYTES];

static const struct work {
	const char *name;
	const char *words;
	int count; /* of words */
	void (*run)(const char *const *words);
} works[] = {
	{ "bulk", "PLACE LINE up|down|both STREAMS BYTES", 5, bulk },
	{ "ping-pong", "PLACE LINE CLIENTS BYTES MILLISECONDS", 5, ping_pong },
	{ "connections", "PLACE LINE CLIENTS MILLISECONDS", 4, connections },
	{ "idle", "PLACE LINE COUNT", 3, idle },
	{ "lists", "PLACE MILLISECONDS", 2, lists },
	{ "calls", "COUNT", 1, calls },
	{ "elsewhere", "PLACE COUNT", 2, elsewhere },
};

void fail(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int usage(void)
{
	fputs("usage: load serve PLACE ...\n       load receive SOCKET\n", stderr);
	for (size_t i = 0; i < sizeof(works) / sizeof(*works); i++)
		fprintf(stderr, "       load [--verify] %s %s\n", works[i].name, works[i].words);
	return 2;
}

static void raise_descriptor_limit(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv)
{
	const char *const *words = (const char *const *)argv + 1;
	int count = argc - 1;

	signal(SIGPIPE, SIG_IGN);
	raise_descriptor_limit();
	if (count > 1 && strcmp(words[0], "--verify") == 0) {
		is_verified = true;
		words++;
		count--;
	}
	if (count >= 2 && strcmp(words[0], "serve") == 0)
		serve(words + 1, count - 1);
	if (count == 2 && strcmp(words[0], "receive") == 0)
		serve_receiver(words[1]);
	for (size_t i = 0; count > 0 && i < sizeof(works) / sizeof(*works); i++) {
		if (strcmp(words[0], works[i].name) == 0 && count - 1 == works[i].count) {
			works[i].run(words + 1);
			return 0;
		}
	}
	return usage();
}
