/*
 * An echo server that a kaiso router hands its clients to: it tells each the address it comes from, and sends
 * back whatever comes. Each client is on its own connection, the router out of it.
 *
 *	cc -o server server.c $(pkg-config --cflags --libs kaiso)
 *	./server /run/echo.sock
 *
 * and in the router's services directory a file "echo" that says "/run/echo.sock passfd".
 */
#include <errno.h>
#include <kaiso.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

static void *serve(void *argument)
{
	int client = (int)(intptr_t)argument;
	char bytes[65536];
	ssize_t count, written = 0;

	while (written >= 0 && (count = read(client, bytes, sizeof(bytes))) > 0)
		for (ssize_t at = 0; at < count && written >= 0; at += written)
			written = write(client, bytes + at, (size_t)(count - at));
	close(client);
	return NULL;
}

static void start(int client, const struct sockaddr *peer, socklen_t length)
{
	char host[NI_MAXHOST] = "", port[NI_MAXSERV] = "";
	pthread_t thread;

	getnameinfo(peer, length, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
	dprintf(client, "%s %s\n", host, port);
	if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)client) == 0)
		pthread_detach(thread);
	else
		close(client);
}

int main(int argc, char **argv)
{
	struct kaiso_receiver *receiver;
	int client, r = argc == 2 ? kaiso_listen(argv[1], 0, &receiver) : -EINVAL;

	signal(SIGPIPE, SIG_IGN); /* a client that leaves must not end the server */
	while (r == 0) {
		struct sockaddr_storage peer;
		socklen_t length = sizeof(peer);

		client = kaiso_accept(receiver, (struct sockaddr *)&peer, &length, SOCK_CLOEXEC);
		if (client >= 0)
			start(client, (struct sockaddr *)&peer, length);
		else if (client == -EMFILE || client == -ENFILE)
			usleep(10000); /* nobody is lost: they wait */
		else if (client != -EINTR)
			r = client;
	}
	fprintf(stderr, "server: %s\n", kaiso_strerror(r));
	return 1;
}
