/*
 * Moves bytes between two connected stream sockets, each direction by itself.
 *
 * A relay_way is one direction: a source and a sink, both non-blocking and
 * borrowed. Bytes move by recv/send through the thread's buffer, or by splice
 * through a pipe (splice(2)), which copies nothing. RELAY_AUTO begins with the former and
 * goes to the latter while a TCP source brings much at a time.
 *
 * Between calls a way holds no memory and no pipe unless its sink would not take
 * what was read; then it reads no more until the sink does. That is the back-pressure,
 * and it bounds the memory of a way by RELAY_CHUNK_MAX (copy) or RELAY_PIPE_SIZE (splice, in the kernel).
 *
 * The caller watches the descriptors edge-triggered and tells what it saw: relay_way_source_event(). Not
 * thread safe; a pool belongs to one thread. Nothing blocks.
 */
#ifndef KAISO_NET_RELAY_H
#define KAISO_NET_RELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RELAY_CHUNK_MIN (16u << 10)
#define RELAY_CHUNK_FIRST (64u << 10)
#define RELAY_CHUNK_MAX (256u << 10)
#define RELAY_PIPE_SIZE (512 << 10)

#define RELAY_SKIP_BITS 13
#define RELAY_SKIP_MAX ((1u << RELAY_SKIP_BITS) - 1)

/* RELAY_AUTO splices bulk that comes by TCP and copies everything else: bulk out of a UNIX socket costs its receiver
 * more when it is spliced than the copy would have cost (doc/performance.md). */
enum relay_mode { RELAY_AUTO, RELAY_SPLICE, RELAY_COPY };

struct relay_pipe {
	struct relay_pipe *next; /* in the pool */
	int read_fd;
	int write_fd;
};

/* What the ways of one thread share: one buffer, and pipes that are lent out. */
struct relay_pool {
	char *buffer; /* RELAY_CHUNK_MAX bytes */
	struct relay_pipe *free_pipes;
	unsigned free_count;
	unsigned pipe_count; /* lent and free */
	unsigned pipe_limit;
	bool is_short; /* the kernel refuses larger pipes, or any: copy until retry_ms */
	uint64_t retry_ms;
};

/* pipe_limit: how many pipes (two descriptors each) the pool may have at a time. 0 or -ENOMEM. */
int relay_pool_init(struct relay_pool *pool, unsigned pipe_limit);

/* All pipes must be back. */
void relay_pool_deinit(struct relay_pool *pool);

struct relay_stash {
	uint32_t offset;
	char bytes[];
};

struct relay_way {
	uint64_t bytes;                    /* handed to the sink's kernel buffer so far */
	union {                            /* what the sink has not taken yet: held_bytes of it */
		struct relay_pipe *pipe;   /* is_spliced */
		struct relay_stash *stash; /* else */
	};
	uint32_t held_bytes;
	uint32_t chunk_log2 : 5;
	uint32_t skip_bytes : RELAY_SKIP_BITS; /* of the source, which are not for the sink */
	bool is_tcp : 1;      /* the source is: RELAY_AUTO splices, and recv(2) tells all there is to know */
	bool is_last : 1;     /* its end is the end: the caller closes the sink, which tells it as well */
	bool is_bulk : 1;     /* the source brought much at a time: splice */
	bool is_spliced : 1;  /* the held bytes are in a pipe */
	bool is_readable : 1; /* the source may have more than was read */
	bool has_hung_up : 1; /* the source announced its end: read until it comes */
	bool has_urgent : 1;  /* the source sent urgent bytes (EPOLLPRI): reads stop at their mark */
	bool is_blocked : 1;  /* the sink would not take more: wait for EPOLLOUT */
	bool is_source_lost : 1; /* the source's end is none: it was reset */
	bool is_sink_reset : 1;  /* SINK_LOST was a reset */
	bool eof_seen : 1;       /* the source has ended */
	bool eof_sent : 1;       /* and the sink was told; the way is finished */
	bool is_broken : 1;      /* the sink is gone; set by the caller through relay_way_break() */
	bool is_unanswered : 1;  /* the caller's: the sink had not answered when it looked */
};

enum relay_outcome {
	RELAY_WAITS_FOR_SOURCE,
	RELAY_WAITS_FOR_SINK, /* watch the sink for EPOLLOUT */
	RELAY_HAS_MORE,       /* the budget of one call is used up: call again soon */
	RELAY_FINISHED,       /* the source ended and all of it was passed on, with its end */
	RELAY_SOURCE_LOST,    /* the source was reset or failed; what it had sent before was passed on */
	RELAY_SINK_LOST, /* the sink takes nothing any more (EPIPE, ECONNRESET); what is held is lost with it */
	RELAY_NO_MEMORY, /* the rest of a short write could not be kept, or the system could not write */
};

/* A way begins readable: the first pump looks. is_tcp: the source is a TCP socket. */
void relay_way_init(struct relay_way *way, bool is_tcp);

/* Gives back what the way holds. */
void relay_way_deinit(struct relay_way *way, struct relay_pool *pool);

/* Of way->bytes, what was the source's own. */
uint64_t relay_way_payload(const struct relay_way *way);

/* The source's descriptor had events (EPOLLIN, EPOLLPRI, EPOLLRDHUP, EPOLLHUP, EPOLLERR). The source needs
 * SO_OOBINLINE (socket(7)) before the first byte is looked at, or urgent bytes are lost: those of TCP, and
 * those of UNIX sockets (Linux 5.15). */
void relay_way_source_event(struct relay_way *way, uint32_t events);

/* The sink's descriptor had events (EPOLLOUT, EPOLLHUP, EPOLLERR): it may take more. */
void relay_way_sink_event(struct relay_way *way);

/* Has bytes of the caller's own go to the sink before anything of the source; they are counted from below
 * zero, so that way->bytes ends as what the source sent. Before the first pump, once. False when out of
 * memory. */
bool relay_way_preload(struct relay_way *way, const char *bytes, size_t length);

/* Has the way hold length bytes that are in a pipe already. Takes the pipe's ends. Instead of the above. False when
 * out of memory: then the ends are closed. */
bool relay_way_hold_pipe_take(struct relay_way *way, struct relay_pool *pool, int read_fd, int write_fd,
			      uint32_t length);

/* The next bytes of the source, at most RELAY_SKIP_MAX, are dropped and not counted. They are there already. */
void relay_way_skip(struct relay_way *way, size_t length);

/* The source was reset: its end of file, when it comes, is RELAY_SOURCE_LOST. For callers that know by
 * other means, since the kernel tells a reset only once, to whichever call comes first. */
void relay_way_lose_source(struct relay_way *way);

/* The sink takes nothing any more: drops what is held and counts the way as finished. */
void relay_way_break(struct relay_way *way, struct relay_pool *pool);

/* Moves what can be moved now, in at most RELAY_BUDGET steps. With RELAY_SPLICE and no pipe to be had it
 * copies. */
#define RELAY_BUDGET 16
enum relay_outcome relay_way_pump(struct relay_way *way, int source_fd, int sink_fd, enum relay_mode mode,
				  struct relay_pool *pool);

#endif
