/*
 * A session as numbers and texts: what one process writes down and another makes the same session from
 * (upgrade.h). Memory, timers and descriptors of epoll are not in it; sockets and pipes are, by number, since
 * they stay open across execve(2).
 *
 * Numbers and texts that are zero or empty are not written. Later versions append to both enums and never
 * reorder; a version that reads one it does not know refuses the whole (-ENOTSUP).
 */
#ifndef KAISO_ROUTER_SESSION_IMAGE_H
#define KAISO_ROUTER_SESSION_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/fields.h"

/* Of one direction, struct relay_way: behind IMAGE_UP and IMAGE_DOWN. Descriptors count from 1, 0 for none. */
enum image_way_number {
	WAY_BYTES,
	WAY_SKIP,
	WAY_FLAGS, /* enum image_way_flag */
	WAY_PIPE_READ,
	WAY_PIPE_WRITE,
	WAY_PIPE_HELD, /* bytes in the pipe */
	WAY_NUMBERS,
};

enum image_way_flag {
	WAY_IS_TCP = 1 << 0,
	WAY_IS_BULK = 1 << 1,
	WAY_HAS_HUNG_UP = 1 << 2,
	WAY_HAS_URGENT = 1 << 3,
	WAY_IS_SOURCE_LOST = 1 << 4,
	WAY_IS_SINK_RESET = 1 << 5,
	WAY_EOF_SEEN = 1 << 6,
	WAY_EOF_SENT = 1 << 7,
	WAY_IS_BROKEN = 1 << 8,
	WAY_FLAGS_ALL = (1 << 9) - 1,
};

enum image_number {
	IMAGE_STATE,  /* enum session_state */
	IMAGE_WORKER, /* which one it was on */
	IMAGE_STARTED_MS,
	IMAGE_CLIENT,      /* descriptors count from 1, 0 for none */
	IMAGE_BACKEND,     /* the same */
	IMAGE_TIMER_MS,    /* when its timer is due, 0 for never; the clock goes on across execve(2) */
	IMAGE_DEADLINE_MS, /* DIAL, HANDOVER: of the whole, UINT64_MAX for none */
	IMAGE_FLAGS,       /* enum image_flag */
	IMAGE_REFUSAL,
	IMAGE_LIMIT,
	IMAGE_RETRY_SHIFT,
	IMAGE_LISTENER, /* exposed: whose service, from 1; else 0 */
	IMAGE_SERVICE,  /* 1 and its enum service_kind; 0 for none */
	IMAGE_PORT,
	IMAGE_KNOCK_PORT,
	IMAGE_LIST_TEXT, /* REPLY: which list is being sent, from 1 in the order in which lists stand; else 0 */
	IMAGE_LIST_SENT,       /* how much of it is */
	IMAGE_IDLE_TIMEOUT_MS, /* RELAY: of its service's own options, and 1; 0 for none of its own */
	IMAGE_FILE_LENGTH,     /* so many bytes of IMAGE_PATH name its file; 0 for all of them */
	IMAGE_PROXY,           /* DIAL, VERDICT: the enum proxy_version that its service is told by */
	IMAGE_COMMON_NUMBERS,
	IMAGE_UP = 32, /* WAY_NUMBERS of them */
	IMAGE_DOWN = 48,
	IMAGE_NUMBERS = IMAGE_DOWN + WAY_NUMBERS,
};

enum image_flag {
	IMAGE_WANTS_VERDICT = 1 << 0,
	IMAGE_HAS_LISTED = 1 << 1,
	IMAGE_IS_CLIENT_LOST = 1 << 2,
	IMAGE_IS_BACKEND_GONE = 1 << 3,
	IMAGE_HAS_VERDICT = 1 << 4,
	IMAGE_IS_EXPOSED = 1 << 5,
	IMAGE_HAS_KNOCKED = 1 << 6,
	IMAGE_IS_DETACHED = 1 << 7,
	IMAGE_IS_RESETTING = 1 << 8,
	IMAGE_HAS_TURN = 1 << 9,
	IMAGE_HAS_CHAIN = 1 << 10,
	IMAGE_WANTS_LIST = 1 << 11,    /* REPLY: the list is to be made, of IMAGE_DIRECTORY */
	IMAGE_IS_DETAILED = 1 << 12,   /* that list, in the form for tools */
	IMAGE_IS_SRV = 1 << 13,        /* IMAGE_HOST is a name that SRV is asked for */
	IMAGE_HAS_CHOICE = 1 << 14,    /* of several targets: in DIAL, HANDOVER they are looked up anew */
	IMAGE_WANTS_HEADER = 1 << 15,  /* REQUEST: of the PROXY protocol */
	IMAGE_HAS_ORIGIN = 1 << 16,    /* IMAGE_DESTINATION and IMAGE_TLVS are from that */
	IMAGE_WANTS_DETAILS = 1 << 17, /* from behind a mount: a list in the form for tools */
	IMAGE_IS_COUNTED = 1 << 18,    /* by the service's own max-sessions */
	IMAGE_IS_FRONT = 1 << 19,      /* it has named no client of its own */
	IMAGE_FLAGS_ALL = (1 << 20) - 1,
};

enum image_text {
	IMAGE_PEER,   /* a socket address */
	IMAGE_PATH,   /* of the service, and what else is known of it */
	IMAGE_TARGET, /* empty also for none */
	IMAGE_HOST,
	IMAGE_REMOTE,
	IMAGE_SOCKET,
	IMAGE_UP_HELD,   /* bytes that the backend has not taken yet */
	IMAGE_DOWN_HELD, /* and the client */
	IMAGE_REPLY,     /* REPLY: what is still to be sent of a short one */
	IMAGE_DIRECTORY,
	IMAGE_DESTINATION, /* a socket address: where the client of a front end had connected to */
	IMAGE_TLVS,        /* what the front end said more */
	IMAGE_TEXTS,
};

struct image_bytes {
	const char *bytes; /* borrowed; not terminated */
	size_t length;
};

struct lister_text;

struct session_image {
	uint64_t numbers[IMAGE_NUMBERS];
	struct image_bytes texts[IMAGE_TEXTS];
	struct lister_text
		*list; /* IMAGE_LIST_TEXT; borrowed. Sessions share it, so it is written down apart */
};

#define IMAGE_DESCRIPTORS 6

/* The descriptors that an image names, into fds; how many. */
size_t session_image_descriptors(const struct session_image *image, int fds[static IMAGE_DESCRIPTORS]);

/* One field, with the image's own fields in it. */
void session_image_write(const struct session_image *image, struct fields_writer *writer, uint16_t tag);

/* From such a field, which the image then borrows from. 0; -ENOTSUP: of a later version; -EPROTO: no session
 * looks like this. What is 0 here, session_restore() can work with. */
int session_image_read(struct session_image *image, const struct field *field);

#endif
