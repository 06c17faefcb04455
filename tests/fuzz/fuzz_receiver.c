/*
 * Those who take clients from routers: the receiver of `kaiso passfd` (wrap/passfd_receiver.h), with the control
 * socket by which a program under preload offers its listeners (wrap/passfd_control.h), and libkaiso's. Whoever may
 * connect to SOCKET, or for the control socket is in the same network namespace, says what the input says: bytes,
 * with any number of descriptors of any kind.
 *
 * Oracle: what the server gets are the very sockets that were sent as the protocol has it, each once, in blocking
 * mode; all of them, when they were sent before anything else over that connection. No descriptor stays open that
 * nobody asked for. Who does not know the secret gets no answer.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/macros.h"
#include "descriptors.h"
#include "lib/kaiso.h"
#include "wrap/passfd_control.h"
#include "wrap/passfd_message.h"
#include "wrap/passfd_queue.h"
#include "wrap/passfd_receiver.h"

#define ENSURE(condition)                                                       \
	do {                                                                    \
		if (!(condition)) {                                             \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
			abort();                                                \
		}                                                               \
	} while (0)

#define PEERS 4
#define SCRIPT_MAX 256
#define CLIENTS_MAX 64
#define QUEUES_MAX SCRIPT_MAX /* more than a script can make */
#define DESCRIPTORS_MAX 12
#define ROUNDS 8

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static const uint8_t *script, *script_end;
static uint64_t clock_ms; /* 0: the true one */
static char path[] = "/tmp/kaiso-fuzz-receiver-XXXXXX/socket";
static struct sockaddr_un socket_name;

struct peer {
	int fd;
	bool is_control;
	bool is_spoiled; /* it said what is not the protocol */
};

/* A client that was sent as it should be. */
struct client {
	int far; /* its own end */
	uint64_t cookie;
	bool is_sure; /* to arrive */
	bool has_arrived;
};

static struct {
	bool is_library;
	struct loop loop;
	struct passfd_receiver receiver;
	struct passfd_control control;
	struct kaiso_receiver *library;
	struct peer peers[PEERS];
	struct client clients[CLIENTS_MAX];
	size_t client_count;
	int queues[QUEUES_MAX];
	size_t queue_count;
} test;

int clock_gettime(clockid_t id, struct timespec *now)
{
	if (clock_ms == 0 || id != CLOCK_MONOTONIC)
		return (int)syscall(SYS_clock_gettime, id, now);
	now->tv_sec = (time_t)(clock_ms / 1000);
	now->tv_nsec = (long)(clock_ms % 1000) * 1000000;
	return 0;
}

static unsigned next_byte(void)
{
	return script < script_end ? *script++ : 0;
}

/* ---- the receivers ------------------------------------------------------------------------------------------ */

static void stop_loop(struct loop_task *task)
{
	(void)task;
	loop_stop(&test.loop);
}

static void run_rounds(unsigned count)
{
	static struct loop_task stop = { .run = stop_loop };

	for (unsigned i = 0; i < count && !test.is_library; i++) {
		loop_defer(&test.loop, &stop);
		loop_run(&test.loop);
		loop_resume(&test.loop);
	}
}

/* On a port that the kernel chooses. One address after the other: of a single one, the ports of connections
 * that are over would run out, as each comes back after a minute alone. */
static int listener_new(void)
{
	static uint32_t count;
	struct sockaddr_in name = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ENSURE(fd >= 0);
	name.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (count++ & 0xffff));
	ENSURE(bind(fd, (struct sockaddr *)&name, sizeof(name)) == 0);
	ENSURE(listen(fd, 4) == 0);
	return fd;
}

static void offer_listener(bool is_unix)
{
	int listener, end;

	if (test.is_library || test.queue_count == QUEUES_MAX)
		return;
	if (is_unix) {
		static const struct sockaddr_un any = { .sun_family = AF_UNIX };

		listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		ENSURE(listener >= 0 &&
		       bind(listener, (const struct sockaddr *)&any, sizeof(sa_family_t)) == 0 &&
		       listen(listener, 4) == 0);
	} else {
		listener = listener_new();
	}
	if (receiver_offer_take(&test.receiver, listener, &end) == 1)
		test.queues[test.queue_count++] = end;
	else
		close(listener);
}

static void begin(unsigned kind)
{
	static struct receiver_options options;
	char reason[LISTEN_REASON_SIZE];

	memset(&test, 0, sizeof(test));
	for (size_t i = 0; i < PEERS; i++)
		test.peers[i].fd = -1;
	test.is_library = kind & 1;
	if (test.is_library) {
		ENSURE(kaiso_listen(path, SOCK_NONBLOCK, &test.library) == 0);
		return;
	}
	options = (struct receiver_options){ .socket_path = path,
					     .refuses_plain = kind & 2,
					     .silence_ms = kind & 4 ? RECEIVER_SILENCE_MS : 0 };
	ENSURE(loop_init(&test.loop) == 0);
	ENSURE(receiver_open(&test.receiver, &test.loop, &options, reason, sizeof(reason)) == 0);
	ENSURE(control_open(&test.control, &test.receiver) == 0);
}

/* ---- what is sent ---------------------------------------------------------------------------------------------- */

static uint64_t cookie_of(int fd)
{
	uint64_t cookie = 0;
	socklen_t length = sizeof(cookie);

	ENSURE(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) == 0);
	return cookie;
}

/* A connected pair, the near end of which is to be sent. */
static void client_pair(bool is_tcp, int ends[2])
{
	struct sockaddr_in name;
	socklen_t length = sizeof(name);
	int listener;

	if (!is_tcp) {
		ENSURE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
		return;
	}
	listener = listener_new();
	ENSURE(getsockname(listener, (struct sockaddr *)&name, &length) == 0);
	ends[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ENSURE(ends[1] >= 0);
	/* The fuzzer's alarm may interrupt. */
	while (connect(ends[1], (struct sockaddr *)&name, sizeof(name)) != 0 && errno != EISCONN) {
		ENSURE(errno == EINTR || errno == EALREADY);
		usleep(10000);
	}
	ends[0] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	ENSURE(ends[0] >= 0);
	close(listener);
}

/* What is no client. */
static int junk(unsigned kind)
{
	switch (kind % 6) {
	case 0:
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	case 1:
		return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	case 2:
		return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	case 3:
		return epoll_create1(EPOLL_CLOEXEC);
	case 4:
		return listener_new();
	default:
		return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	}
}

static ssize_t send_all(int socket_fd, const char *bytes, size_t length, const int *fds, size_t count)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
	} control = { 0 };
	struct iovec part = { .iov_base = (void *)bytes, .iov_len = length };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (count > 0) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(count * sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
	}
	return sendmsg(socket_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void send_client(struct peer *peer, bool is_tcp)
{
	struct client *client = &test.clients[test.client_count];
	int ends[2];

	if (test.client_count == CLIENTS_MAX)
		return;
	client_pair(is_tcp, ends);
	if (send_all(peer->fd, "*", 1, ends, 1) == 1) {
		*client = (struct client){ ends[1], cookie_of(ends[0]),
					   !peer->is_control && !peer->is_spoiled, false };
		test.client_count++;
		peer->is_spoiled |= peer->is_control;
	} else {
		close(ends[1]);
	}
	close(ends[0]);
}

/* What goes to the control socket most often, and other bytes. */
static size_t choose_bytes(unsigned kind, char bytes[64])
{
	const char *secret = test.control.word + CONTROL_NAME_LENGTH + 1;
	size_t length = kind & 7;

	memset(bytes, kind & 8 ? '*' : '+', 64);
	if (kind < 16 || test.is_library)
		return length;
	memcpy(bytes, secret, CONTROL_SECRET_LENGTH);
	if (kind & 1)
		bytes[kind >> 4] ^= 1;
	return CONTROL_SECRET_LENGTH + (kind & 2 ? 1 : 0) - (kind & 4 ? 1 : 0);
}

static void send_anything(struct peer *peer, unsigned kind, unsigned count, unsigned descriptor)
{
	char bytes[64];
	size_t length = choose_bytes(kind, bytes);
	int fds[DESCRIPTORS_MAX];

	for (unsigned i = 0; i < count; i++) {
		fds[i] = junk(descriptor + i);
		ENSURE(fds[i] >= 0);
	}
	if (send_all(peer->fd, bytes, length, fds, count) > 0)
		peer->is_spoiled = true;
	while (count > 0)
		close(fds[--count]);
}

static void peer_connect(struct peer *peer, bool is_control)
{
	struct sockaddr_un name = socket_name;
	socklen_t length = sizeof(name);
	bool is_packet = is_control && !test.is_library;

	if (peer->fd >= 0)
		return;
	if (is_packet)
		length = control_name(test.control.word, &name);
	*peer = (struct peer){ .is_control = is_packet };
	peer->fd =
		socket(AF_UNIX, (is_packet ? SOCK_SEQPACKET : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ENSURE(peer->fd >= 0);
	if (connect(peer->fd, (struct sockaddr *)&name, length) != 0)
		close(STEAL_FD(peer->fd));
}

/* A reply is one to the secret, with the program's end, which is read like the others from now on. */
static void peer_read(struct peer *peer)
{
	struct control_reply reply;
	ssize_t length;
	int fd;

	if (peer->fd < 0)
		return;
	length = message_receive(peer->fd, &reply, sizeof(reply), MSG_DONTWAIT | MSG_CMSG_CLOEXEC, &fd);
	/* Who sent more than was read is told so once, before what it was answered. */
	if (length < 0)
		length = message_receive(peer->fd, &reply, sizeof(reply), MSG_DONTWAIT | MSG_CMSG_CLOEXEC,
					 &fd);
	if (peer->is_control && length > 0)
		ENSURE(length == sizeof(reply) && (reply.result == 1) == (fd >= 0));
	if (fd >= 0 && peer->is_control && test.queue_count < QUEUES_MAX)
		test.queues[test.queue_count++] = STEAL_FD(fd);
	if (!peer->is_control)
		ENSURE(fd < 0 && (length <= 0 || *(char *)&reply == '+'));
	cleanup_close(&fd);
}

/* What was answered is not lost: clients may be in that queue already. */
static void peer_close(struct peer *peer)
{
	if (peer->fd < 0)
		return;
	run_rounds(ROUNDS); /* who has just connected is accepted, and answered */
	peer_read(peer);
	close(STEAL_FD(peer->fd));
}

/* ---- what arrives ------------------------------------------------------------------------------------------------- */

static void client_arrived(int fd)
{
	uint64_t cookie = cookie_of(fd);

	ENSURE(!(fcntl(fd, F_GETFL) & O_NONBLOCK) && (fcntl(fd, F_GETFD) & FD_CLOEXEC));
	for (size_t i = 0; i < test.client_count; i++) {
		if (test.clients[i].cookie != cookie)
			continue;
		ENSURE(!test.clients[i].has_arrived);
		test.clients[i].has_arrived = true;
		close(fd);
		return;
	}
	fputs("a client that nobody sent\n", stderr);
	abort();
}

/* True when a client came. */
static bool accept_client(void)
{
	union queue_address address;
	socklen_t length = sizeof(address);

	if (test.is_library) {
		int fd = kaiso_accept(test.library, &address.sa, &length, SOCK_CLOEXEC);

		ENSURE(fd >= 0 || fd == -EAGAIN);
		if (fd >= 0)
			client_arrived(fd);
		return fd >= 0;
	}
	for (size_t i = 0; i < test.queue_count; i++) {
		int fd = queue_receive(test.queues[i], SOCK_CLOEXEC, MSG_DONTWAIT, &address, &length);

		ENSURE(fd >= 0 || fd == -EAGAIN || fd == -EPIPE);
		if (fd >= 0) {
			client_arrived(fd);
			return true;
		}
	}
	return false;
}

/* ---- the script ------------------------------------------------------------------------------------------------------ */

static void take_step(unsigned byte)
{
	struct peer *peer = &test.peers[byte >> 3 & 3];
	unsigned how = byte >> 5;

	switch (byte & 7) {
	case 0:
		run_rounds(1 + how);
		break;
	case 1:
		peer_connect(peer, how & 1);
		break;
	case 2:
		if (peer->fd >= 0)
			send_client(peer, how & 1);
		break;
	case 3:
		if (peer->fd >= 0) {
			unsigned kind = next_byte(), count = next_byte() % (DESCRIPTORS_MAX + 1);

			send_anything(peer, kind, count, how);
		}
		break;
	case 4:
		peer_close(peer);
		break;
	case 5:
		accept_client();
		break;
	case 6:
		clock_ms += UINT64_C(1) << (how * 2);
		break;
	default:
		if (how < 4)
			peer_read(peer);
		else
			offer_listener(how & 1);
		break;
	}
}

/* Everything that was sent has come, once somebody takes it. */
static void finish(void)
{
	offer_listener(false);
	run_rounds(ROUNDS);
	for (size_t i = 0; i < PEERS; i++)
		peer_read(&test.peers[i]);
	do {
		clock_ms += RECEIVER_UNIX_GRACE_MS;
		run_rounds(ROUNDS);
	} while (accept_client());
	for (size_t i = 0; i < test.client_count; i++)
		ENSURE(test.clients[i].has_arrived || !test.clients[i].is_sure);
}

static void end(void)
{
	for (size_t i = 0; i < PEERS; i++)
		cleanup_close(&test.peers[i].fd);
	for (size_t i = 0; i < test.client_count; i++)
		close(test.clients[i].far);
	for (size_t i = 0; i < test.queue_count; i++)
		close(test.queues[i]);
	if (test.is_library) {
		kaiso_receiver_free(test.library);
		return;
	}
	run_rounds(ROUNDS);
	control_close(&test.control);
	receiver_close(&test.receiver);
	loop_run_out(&test.loop);
	loop_deinit(&test.loop);
}

static void remove_directory(void)
{
	*strrchr(path, '/') = '\0';
	rmdir(path);
}

static void init_once(void)
{
	char *slash = strrchr(path, '/');

	if (socket_name.sun_family == AF_UNIX)
		return;
	signal(SIGPIPE, SIG_IGN);
	*slash = '\0';
	ENSURE(mkdtemp(path));
	*slash = '/';
	atexit(remove_directory);
	socket_name.sun_family = AF_UNIX;
	memcpy(socket_name.sun_path, path, sizeof(path));
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	size_t descriptors;

	init_once();
	if (size > SCRIPT_MAX)
		return 0;
	script = input;
	script_end = input + size;
	descriptors = count_descriptors();
	clock_ms = 1000000;
	begin(next_byte());
	while (script < script_end)
		take_step(next_byte());
	finish();
	end();
	clock_ms = 0;
	ENSURE(count_descriptors() == descriptors);
	return 0;
}
