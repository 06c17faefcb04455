/*
 * Lists what a kaiso router offers, or talks to one of its services: standard input goes there, and what the
 * service answers to standard output.
 *
 *	cc -o client client.c $(pkg-config --cflags --libs kaiso)
 *	KAISO=router.example:37812 ./client
 *	echo hello | KAISO=router.example:37812 ./client echo
 */
#include <kaiso.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

static int print_entry(const struct kaiso_entry *entry, void *userdata)
{
	(void)userdata;
	printf("%s\t%s\t%s\n", entry->path, entry->kind, entry->about);
	return 0;
}

/* Moves what is there from one descriptor to the other. 0 at the end, or after an error. */
static int move(int from, int to)
{
	char bytes[65536];
	ssize_t count = read(from, bytes, sizeof(bytes));

	for (ssize_t at = 0, written; at < count; at += written)
		if ((written = write(to, bytes + at, (size_t)(count - at))) < 0)
			return 0;
	return count > 0;
}

static void talk(int service)
{
	struct pollfd ends[] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = service, .events = POLLIN } };

	while (poll(ends, 2, -1) >= 0) {
		if (ends[0].revents != 0 && !move(STDIN_FILENO, service)) {
			shutdown(service, SHUT_WR); /* the service may still answer */
			ends[0].fd = -1;
		}
		if (ends[1].revents != 0 && !move(service, STDOUT_FILENO))
			return;
	}
}

int main(int argc, char **argv)
{
	int r = argc > 1 ? kaiso_dial(NULL, argv[1], 10000) : kaiso_list(NULL, NULL, 10000, print_entry, NULL);

	if (r < 0) {
		fprintf(stderr, "client: %s\n", kaiso_strerror(r));
		return 1;
	}
	if (argc > 1)
		talk(r);
	return 0;
}
