/*
 * Listening sockets: from a word of the command line, or inherited.
 *
 * Everything here may block for a moment (name lookup) and is for the start of
 * a program only. All sockets are close-on-exec and non-blocking; those of TCP carry
 * SO_REUSEADDR, IPV6_V6ONLY, and TCP_NODELAY, SO_OOBINLINE, SO_KEEPALIVE, TCP_KEEPIDLE,
 * TCP_KEEPINTVL, TCP_KEEPCNT, which accepted sockets inherit (Linux), so that no system call
 * per connection is needed.
 *
 * A function that fails leaves the set as it was, and one line for people in
 * reason: "cannot listen on X: WHY; WAY OUT". It holds no control bytes and is
 * cut to reason_size, which LISTEN_REASON_SIZE suffices for.
 */
#ifndef KAISO_NET_LISTEN_H
#define KAISO_NET_LISTEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "net/addr.h"

#define LISTEN_MAX 64 /* sockets in one set */
#define LISTEN_TEXT_SIZE 4200
#define LISTEN_REASON_SIZE 1024

#define LISTEN_KEEPALIVE_MS 120000 /* what listeners are made with */

struct listener {
	int fd;
	bool is_inherited; /* shared with the service manager, which goes on listening */
	/* Of a socket file that we made, absolute; removed by listen_set_close(). Else NULL. */
	char *unix_path;
	/* Which file that is: another that has taken its place since is not removed. */
	dev_t unix_device;
	ino_t unix_inode;
};

/* Zeroed storage is an empty set. It owns the descriptors and paths; unix_path is of malloc(3). */
struct listen_set {
	size_t count;
	struct listener listeners[LISTEN_MAX];
};

/*
 * Adds what word names:
 *   ADDR:PORT, [ADDR]:PORT   that address
 *   NAME:PORT                every address that NAME has here
 *   :PORT                    all addresses: one IPv4 and one IPv6 socket with the same port
 *   unix:PATH                a UNIX socket, PATH of any length (its last component at most 255 bytes);
 *                            a stale socket file (nobody answers) is replaced, one that is alive,
 *                            or no socket at all, is left alone: -EADDRINUSE, -ENOTSOCK
 * Port 0 takes a free one, the same for all sockets of the word. Where the host has no IPv6, :PORT
 * and NAME go without. 0, or a negative errno: -EINVAL and -ERANGE for what is no such word or port,
 * -ENOSPC for more than LISTEN_MAX sockets, -EADDRNOTAVAIL also for an unknown NAME, or what the system says.
 */
int listen_set_add(struct listen_set *set, const char *word, char *reason, size_t reason_size);

/* Adds 127.0.0.1:port and [::1]:port, the latter only where there is IPv6. Port 0 as above. */
int listen_set_add_loopback(struct listen_set *set, uint16_t port, char *reason, size_t reason_size);

/* Adds the sockets that a service manager passed ($LISTEN_FDS, $LISTEN_PID: sd_listen_fds(3)) and clears
 * those variables. Returns how many, or -EINVAL when a variable makes no sense or a descriptor is no
 * listening stream socket, -ENOSPC when they are too many; the descriptors are then left open. */
int listen_set_inherit(struct listen_set *set, char *reason, size_t reason_size);

/* "127.0.0.1:37812", "[::1]:37812", "unix:/run/x": the address as it is now; an abstract UNIX socket's
 * name begins with '@'. Returns text, terminated. */
const char *listen_format(const struct listener *listener, char text[static LISTEN_TEXT_SIZE]);

/* Has our own sockets refuse new clients from now on and removes their socket files, though the
 * descriptors stay open (other threads may still watch them). Inherited ones are left alone. */
void listen_set_shut(struct listen_set *set);

/* Closes all and removes the socket files that listen_set_add() made. The set is then empty. */
void listen_set_close(struct listen_set *set);

/*
 * Has the kernel end a connection on which nothing moves when its peer has not been heard of for that time: half of it
 * in silence, then probes (tcp(7)). In whole seconds, two at least; 0: never. A listener gives it to what it accepts.
 * Errors are ignored (a UNIX socket has no such thing). Bytes under way hold the probes back: session_check_peers().
 */
void listen_set_keepalive(int fd, uint64_t limit_ms);

#endif
