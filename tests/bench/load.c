/*
 * The load of the benchmarks: small clients and a small server, each one mode of this program.
 *
 *   load serve ADDR:PORT               answers each byte with itself, one client after the other; a client that
 *                                      sends 'D' is sent zeros until it leaves, one that sends 'U' is read to its end
 *   load receive SOCKET                the same server, for clients that a router hands over (kaiso_accept())
 *   load connect ADDR:PORT LINE COUNT CLIENTS
 *                                      COUNT times in each of so many processes: connect, LINE, one byte there and
 *                                      back, close
 *   load pull ADDR:PORT LINE MEGABYTES one connection, that much received
 *   load calls COUNT                   COUNT times a system call that nobody is interested in
 *   load elsewhere ADDR:PORT COUNT     COUNT times connect and close
 *
 * All print one number: seconds. LINE may be empty. IPv4 only: the place is the loopback.
 */
#include <arpa/inet.h>
#include <kaiso.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static struct sockaddr_in address_of(const char *word)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	const char *colon = strrchr(word, ':');
	char host[64];

	if (!colon || colon - word >= (long)sizeof(host))
		fail(word);
	memcpy(host, word, (size_t)(colon - word));
	host[colon - word] = '\0';
	address.sin_port = htons((uint16_t)atoi(colon + 1));
	if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
		fail(word);
	return address;
}

static int dial(const struct sockaddr_in *address)
{
	static const int on = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0)
		fail("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

/* ---- the server -------------------------------------------------------------------------------------- */

static char bulk[1 << 17];

static void serve_client(int fd)
{
	char byte;

	while (read(fd, &byte, 1) == 1) {
		if (byte == 'D') {
			while (send(fd, bulk, sizeof(bulk), MSG_NOSIGNAL) > 0)
				;
		} else if (byte == 'U') {
			while (read(fd, bulk, sizeof(bulk)) > 0)
				;
		} else if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1) {
			break;
		}
	}
	close(fd);
}

static void serve(const char *word)
{
	static const int on = 1;
	struct sockaddr_in address = address_of(word);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) != 0 ||
	    listen(listener, 4096) != 0)
		fail("listen");
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			fail("accept");
		serve_client(fd);
	}
}

static void receive(const char *path)
{
	struct kaiso_receiver *receiver;
	int fd = 0, r = kaiso_listen(path, 0, &receiver);

	while (r == 0 && (fd = kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		serve_client(fd);
	fprintf(stderr, "load: %s: %s\n", path, kaiso_strerror(r < 0 ? r : fd));
	exit(1);
}

/* ---- the clients --------------------------------------------------------------------------------------- */

static void send_first(int fd, const char *line, char byte)
{
	char first[4200];
	int length = *line ? snprintf(first, sizeof(first) - 1, "%s\r\n", line) : 0;

	first[length] = byte;
	if (send(fd, first, (size_t)length + 1, MSG_NOSIGNAL) != length + 1)
		fail("send");
}

static void connect_often(const char *word, const char *line, long count)
{
	struct sockaddr_in address = address_of(word);
	char byte;

	for (long i = 0; i < count; i++) {
		int fd = dial(&address);

		send_first(fd, line, 'x');
		if (read(fd, &byte, 1) != 1)
			fail("no answer");
		close(fd);
	}
}

static void connect_in_parallel(const char *word, const char *line, long count, long clients)
{
	int status;

	for (long i = 0; i < clients; i++) {
		pid_t pid = fork();

		if (pid < 0)
			fail("fork");
		if (pid == 0) {
			connect_often(word, line, count);
			_exit(0);
		}
	}
	while (wait(&status) > 0) {
		if (status != 0)
			exit(1);
	}
}

static void pull(const char *word, const char *line, long megabytes)
{
	struct sockaddr_in address = address_of(word);
	long left = megabytes << 20;
	int fd = dial(&address);

	send_first(fd, line, 'D');
	while (left > 0) {
		ssize_t received = read(fd, bulk, sizeof(bulk));

		if (received <= 0)
			fail("read");
		left -= received;
	}
	close(fd);
}

static void elsewhere(const char *word, long count)
{
	struct sockaddr_in address = address_of(word);

	for (long i = 0; i < count; i++)
		close(dial(&address));
}

static void calls(long count)
{
	for (long i = 0; i < count; i++)
		syscall(SYS_getppid);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	double start;

	signal(SIGPIPE, SIG_IGN);
	if (argc == 3 && strcmp(mode, "serve") == 0)
		serve(argv[2]);
	if (argc == 3 && strcmp(mode, "receive") == 0)
		receive(argv[2]);
	start = now();
	if (argc == 6 && strcmp(mode, "connect") == 0)
		connect_in_parallel(argv[2], argv[3], atol(argv[4]), atol(argv[5]));
	else if (argc == 5 && strcmp(mode, "pull") == 0)
		pull(argv[2], argv[3], atol(argv[4]));
	else if (argc == 3 && strcmp(mode, "calls") == 0)
		calls(atol(argv[2]));
	else if (argc == 4 && strcmp(mode, "elsewhere") == 0)
		elsewhere(argv[2], atol(argv[3]));
	else {
		fputs("usage: load serve|receive|connect|pull|calls|elsewhere ...\n", stderr);
		return 2;
	}
	printf("%.6f\n", now() - start);
	return 0;
}
