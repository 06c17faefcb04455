/*
 * libkaiso: speak to a kaiso router, and receive clients from one.
 *
 *   kaiso_dial()     a connection to a service, through a router
 *   kaiso_list()     the services that a router offers
 *   kaiso_accept()   the clients of a service that is described as "SOCKET passfd", each on its own socket,
 *                    as accept4(2) would give it
 *
 * kaiso-protocol(7) has the protocol. Compiles as C89 and as C++. Needs Linux 3.9 and nothing but the C
 * library:
 *
 *	cc server.c $(pkg-config --cflags --libs kaiso)
 *
 * Errors: functions return a negative errno value and leave errno itself unspecified; the values that a
 * caller may want to tell apart are named below, any other is the system's own. kaiso_strerror() puts them
 * into words.
 *
 * Time: in milliseconds, by the monotonic clock; a negative timeout waits for ever, and 0 does not wait.
 *
 * Text: terminated strings of bytes, borrowed for the time of the call.
 *
 * Signals: no function sends SIGPIPE or changes a handler. None may be called from a signal handler.
 *
 * Threads: all functions may be called from many threads at once. One dialer is for one thread at a time; one
 * receiver may be used by any number of them, but freed only when nobody uses it any more.
 *
 * Descriptors: all that the library opens are close-on-exec.
 */
#ifndef KAISO_H
#define KAISO_H

#include <sys/socket.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The router that is meant when neither the caller nor $KAISO names one. */
#define KAISO_DEFAULT_ROUTER "127.0.0.1:37812"

/* The longest service path in bytes, without the terminator. */
#define KAISO_SERVICE_MAX 4082

/* The version of the library in use, as in "0.1.0". Static. */
const char *kaiso_version(void);

/* What an error of this library means, for people. Takes the value with or without its sign. Like
 * strerror(3): to be read at once, not to be freed. */
const char *kaiso_strerror(int error);

/*
 * ---- Dialling
 *
 * router is one of
 *
 *	HOST:PORT  [IPV6]:PORT  HOST       a name or address; the port is 37812 when none is given
 *	:PORT                              this host
 *	unix:PATH                          a UNIX socket
 *	kaiso://HOST[:PORT][/SERVICE]      the same as a URL; %XX is a byte of SERVICE, %3F and %23 are '?' and '#'
 *
 * or NULL for what $KAISO says in the same forms, or KAISO_DEFAULT_ROUTER where that is unset or empty.
 * service is a path as the router lists it, or NULL for the SERVICE of the URL.
 *
 * The router is asked for a verdict (".kaiso/open"), so the reason of a failure is known. A router that does
 * not know this word ends the connection over it; then a second connection is made with the plain line. From
 * such a router success and failure look the same: a service that is not there shows as the end of file at
 * the first read.
 *
 * What the service sends is untouched: exactly the verdict is consumed.
 *
 * Errors, of kaiso_dial() and kaiso_dial_step() alike:
 *
 *	-ENOENT          there is no such service, or none that this client may see
 *	-EACCES          the router denies it; or this user may not connect to the router's UNIX socket
 *	-EHOSTDOWN       nobody answers behind the service
 *	-ETIMEDOUT       the service did not answer the router in time; or timeout_ms is over
 *	-EBUSY           the router has too many clients at the moment
 *	-EBADMSG         the service is described wrongly
 *	-ELOOP           the service leads back to itself
 *	-EREMOTEIO       the router gives a reason that this version does not know
 *	-EPROTO          who answers there is no kaiso router
 *	-ECONNRESET      the router ended the connection
 *	-ECONNREFUSED    no router is there; other values of connect(2) likewise
 *	-EADDRNOTAVAIL   the router's host name is not known
 *	-EINVAL          router has none of the forms above; or service is empty, ends in '/' or holds a control
 *	                 byte; or it is NULL, and there is no URL that names one
 *	-ENAMETOOLONG    service is longer than KAISO_SERVICE_MAX, or the PATH of a UNIX socket than 107 bytes
 *
 * Neither function sets any socket option; TCP_NODELAY, for one, is the caller's choice.
 */

/*
 * Connects to a service. Blocks for at most timeout_ms, the lookup of a host name not counted (getaddrinfo(3)
 * knows no limit); numeric addresses need none. Interrupting signals do not end it. The host's addresses are
 * tried in turn.
 *
 * A connected stream socket in blocking mode, owned by the caller; or a negative errno.
 */
int kaiso_dial(const char *router, const char *service, int timeout_ms);

/*
 * The same for event loops.
 *
 *	struct kaiso_dialer *dialer;
 *	int fd = kaiso_dial_start("router:37812", "web", 5000, &dialer);
 *
 *	if (fd < 0)
 *		fail(fd);
 *	... whenever kaiso_dialer_fd(dialer) is readable:
 *	fd = kaiso_dial_step(dialer);
 *	if (fd == -EAGAIN)
 *		wait on;
 *	kaiso_dialer_free(dialer);
 */
struct kaiso_dialer;

/* Starts. Blocks only where a host name has to be looked up: give a numeric address where that matters. 0,
 * and *dialer is the caller's, to be freed with kaiso_dialer_free(); or a negative errno, and there is
 * nothing to free. */
int kaiso_dial_start(const char *router, const char *service, int timeout_ms, struct kaiso_dialer **dialer);

/* The descriptor to wait for: readable (POLLIN, EPOLLIN) when kaiso_dial_step() has something to do, the end
 * of the time included, so no timer is needed. It is the same until kaiso_dialer_free(), which closes it.
 * Wait for it with level triggering, and do nothing else with it. */
int kaiso_dialer_fd(const struct kaiso_dialer *dialer);

/*
 * Goes on as far as is possible without blocking; may be called at any time. -EAGAIN: wait for the descriptor
 * and call again. Else it is over: the connected stream socket, in NON-BLOCKING mode and the caller's, or a
 * negative errno. A further call is -EBADF.
 */
int kaiso_dial_step(struct kaiso_dialer *dialer);

/* Also gives up what is under way. Leaves the socket that kaiso_dial_step() gave alone. NULL is allowed. */
void kaiso_dialer_free(struct kaiso_dialer *dialer);

/*
 * ---- Listing
 */

/* A service. Members may be added at the end in later versions. */
struct kaiso_entry {
	const char *path; /* what kaiso_dial() takes; a mount, another router's services, ends in '/' */
	const char *
		kind; /* "unix", "tcp", "kaiso", "passfd", "mount", "srv"; "" when the router does not tell */
	const char *about; /* a line for people; "" for none */
};

/* Called for each service in the router's order. The entry and its text live until it returns. 0 to go on;
 * any other value ends the list, and kaiso_list() returns it. */
typedef int kaiso_list_callback(const struct kaiso_entry *entry, void *userdata);

/*
 * Lists what lies below directory (with or without a '/' at its end), or everything when it is NULL or "".
 * router is as for kaiso_dial(); the SERVICE of a URL is not looked at. Blocks, for at most timeout_ms in
 * all, the lookup of a host name and the callbacks not counted in.
 *
 * 0 when the list was complete; what the callback returned; or a negative errno as of kaiso_dial(): -ENOENT
 * when there is no such directory, -ECONNRESET when the list was cut short. Services may have been told by
 * then.
 */
int kaiso_list(const char *router, const char *directory, int timeout_ms, kaiso_list_callback *callback,
	       void *userdata);

/*
 * ---- Receiving clients
 *
 *	struct kaiso_receiver *receiver;
 *	int client, r = kaiso_listen("/run/web.sock", 0, &receiver);
 *
 *	while (r == 0 && (client = kaiso_accept(receiver, NULL, NULL, SOCK_CLOEXEC)) >= 0)
 *		serve(client);
 *
 * with a service description in the router's directory that says "/run/web.sock passfd". The client and the
 * server then speak to each other directly; the router is out of it.
 *
 * The receiver greets the routers that connect, so that each of their threads keeps one connection for all
 * clients to come; routers that hand over one client a connection are served as well. A connection that stays
 * silent delays nobody; there may be at most 256 at a time, beyond that the oldest of those that never
 * brought a client is closed.
 *
 * Clients that wait in the receiver when it is freed, or its process ends, are closed with it, like those in
 * the backlog of any listener.
 *
 * fork(2): one process receives. Another one that has the receiver through fork() may only call
 * kaiso_receiver_free(), and should: as long as it has the descriptors open, the routers take the receiver
 * for alive. Servers of several processes call kaiso_listen_on() in each of them, with a listener that they
 * share.
 */
struct kaiso_receiver;

/*
 * Listens on a new UNIX socket at path, with the permissions that the umask leaves. A socket file that nobody
 * listens on any more is replaced; a live one never is (-EADDRINUSE), nor anything that is no socket
 * (-ENOTSOCK). A path of more than 107 bytes is possible when its last component has at most 80 (else
 * -ENAMETOOLONG). Does not block.
 *
 * flags: 0, or SOCK_NONBLOCK for a kaiso_accept() that does not wait.
 * 0, and *receiver is the caller's, to be freed with kaiso_receiver_free(); or a negative errno.
 */
int kaiso_listen(const char *path, int flags, struct kaiso_receiver **receiver);

/*
 * The same with a listening UNIX stream socket that is there already: from a service manager
 * (sd_listen_fds(3)), or shared by several processes. listener_fd is put into non-blocking mode (for
 * everybody who shares it) and is owned by the receiver on success, which closes it in the end and leaves its
 * file alone. -EINVAL: it is no such socket.
 */
int kaiso_listen_on(int listener_fd, int flags, struct kaiso_receiver **receiver);

/* The descriptor to wait for: readable (POLLIN, EPOLLIN) when kaiso_accept() has something to do, though that
 * need not be a client: use SOCK_NONBLOCK in event loops. The same until kaiso_receiver_free(), which closes
 * it. Wait for it with level triggering, and do nothing else with it. */
int kaiso_receiver_fd(const struct kaiso_receiver *receiver);

/*
 * The next client's own socket, as accept4(2) would have given it: connected, in blocking mode or with
 * SOCK_NONBLOCK in non-blocking mode, close-on-exec with SOCK_CLOEXEC, with all that the client sent unread
 * in it. It is the caller's. peer and *peer_length are filled as by accept4(2), cut to the length given; both
 * may be NULL. The family is that of the router's listener: AF_INET, AF_INET6 or AF_UNIX (then without a
 * name).
 *
 * Clients that were reset while they waited are left out.
 *
 * The router closes its own copy of the socket right after it has sent it, which may be a moment after you have it.
 * So take a client out of an epoll (EPOLL_CTL_DEL) before you close it; close() alone might leave it there for
 * that moment (epoll(7), question 6).
 *
 * A descriptor, or a negative errno:
 *
 *	-EAGAIN            SOCK_NONBLOCK receivers only: there is none now
 *	-EINTR             a signal handler ran while it waited, whatever SA_RESTART says; call again
 *	-EMFILE, -ENFILE   no descriptor is free. No client is lost: they wait as in the backlog of a listener
 *	-EINVAL            unknown flags
 *
 * and -ENOMEM, -ENOBUFS, which pass too. What a stray connection sends is never an error.
 */
int kaiso_accept(struct kaiso_receiver *receiver, struct sockaddr *peer, socklen_t *peer_length, int flags);

/* Stops listening, removes the socket file that kaiso_listen() made (when it is still that one, and the
 * process the same), and closes everything but the clients that kaiso_accept() gave. NULL is allowed. */
void kaiso_receiver_free(struct kaiso_receiver *receiver);

#ifdef __cplusplus
}
#endif

#endif
