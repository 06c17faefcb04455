/*
 * The load of the benchmarks: one program that is the clients or the server, in one thread, so that what is
 * measured is the way between them. A failure ends it with exit status 1 and a word on standard error.
 *
 * What the first bytes of a connection ask the server for:
 *
 *   E             every byte that follows comes back
 *   struct order  so many bytes are taken and so many sent (bulk); when only taken, one byte of the pattern says that all came
 *
 * Bytes are arbitrary, or follow a pattern that both sides check (is_verified).
 */
#ifndef KAISO_BENCH_LOAD_H
#define KAISO_BENCH_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <netinet/in.h>

#define BUFFER_BYTES (128u << 10)
#define ORDER_ECHO 'E'
#define ORDER_BULK 'B'

/* ---- main.c ---- */
_Noreturn void fail(const char *what); /* with the word for errno */
uint64_t now_ns(void);
extern bool is_verified;
extern char buffer[BUFFER_BYTES];

/* ---- place.c: where to listen or to connect ---- */
struct place {
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_un un;
	};
	socklen_t length;
};

/* "A.B.C.D:PORT" or "unix:PATH". */
struct place place_parse(const char *word);

/* Blocking sockets. Clients of a TCP place come from an address of 127/8 that this process has for itself: no
 * TIME-WAIT of another run is in the way of their ports. */
int place_listen(const struct place *place);
int place_dial(const struct place *place);

/* With no option set and from any address. */
int place_dial_plainly(const struct place *place);

/* Connects, and sends LINE CR LF (nothing when line is empty) and the bytes behind it in one piece. */
int place_ask(const struct place *place, const char *line, const void *bytes, size_t length);

/* ---- pattern.c: bytes that tell where they belong ---- */
void pattern_fill(char *bytes, size_t length, uint64_t offset);
bool pattern_matches(const char *bytes, size_t length, uint64_t offset);

/* ---- flow.c: bulk on one connection, both ways ---- */
struct order {
	char kind; /* ORDER_BULK */
	bool is_verified;
	uint64_t to_server;
	uint64_t to_client;
};

struct flow {
	int fd;
	bool is_verified;
	uint64_t to_send, sent;
	uint64_t to_receive, received;
};

bool flow_is_done(const struct flow *flow);

/* What epoll is to wait for. */
uint32_t flow_interest(const struct flow *flow);

/* Moves what can be moved now, without blocking. False: the connection broke before its time. */
bool flow_move(struct flow *flow, uint32_t events);

/* ---- the works; each prints one line of JSON ---- */
void serve(const char *const *places, int count); /* serve.c; until it is ended by a signal */
void serve_receiver(const char *socket_path);     /* serve.c: the same for clients that a router hands over */
void bulk(const char *const *words);              /* bulk.c: PLACE LINE up|down|both STREAMS BYTES */
void ping_pong(const char *const *words);         /* ping_pong.c: PLACE LINE CLIENTS BYTES MILLISECONDS */
void connections(const char *const *words);       /* connections.c: PLACE LINE CLIENTS MILLISECONDS */
void idle(const char *const *words);              /* connections.c: PLACE LINE COUNT */
void lists(const char *const *words);             /* connections.c: PLACE MILLISECONDS */
void calls(const char *const *words);             /* connections.c: COUNT */
void elsewhere(const char *const *words);         /* connections.c: PLACE COUNT */

#endif
