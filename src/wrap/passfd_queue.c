/*
 * The name of a queue is "\0kaiso-passfd/ID/F/ADDRESS": ID 16 hexadecimal digits, F the family (4, 6, u)
 * and the letters o (IPV6_V6ONLY) and r (SO_REUSEPORT), ADDRESS the listener's, hexadecimal for IPv4 and
 * IPv6, the plain bytes for UNIX. An abstract name may hold any byte but is shown in /proc/net/unix, one
 * line a socket: hence the digits. A UNIX path that does not fit goes on in the name of the receiver's end,
 * "\0kaiso-passfd-more/ID/REST", which the program's end sees as its peer.
 *
 * bind(2) works on the ends of a socket pair as on any socket without a name (unix(7)).
 */
#include "wrap/passfd_queue.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "wrap/passfd_calls.h"
#include "wrap/passfd_message.h"

#define NAME_PREFIX "kaiso-passfd/"
#define MORE_PREFIX "kaiso-passfd-more/"
#define ID_DIGITS 16
#define PATH_ROOM sizeof(((struct sockaddr_un *)NULL)->sun_path)

static int option_of(int fd, int level, int option)
{
	int value = 0;
	socklen_t length = sizeof(value);

	return call_getsockopt(fd, level, option, &value, &length) == 0 ? value : -errno;
}

int queue_identity_of_listener(int listener_fd, struct queue_identity *identity)
{
	int type = option_of(listener_fd, SOL_SOCKET, SO_TYPE);
	int protocol = option_of(listener_fd, SOL_SOCKET, SO_PROTOCOL);

	memset(identity, 0, sizeof(*identity));
	if (type < 0)
		return type;
	identity->length = sizeof(identity->address);
	if (call_getsockname(listener_fd, &identity->address.sa, &identity->length) != 0)
		return -errno;
	if (type != SOCK_STREAM)
		return -EPROTOTYPE;
	if (identity->address.sa.sa_family == AF_UNIX)
		return 0;
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP)
		return -EPROTOTYPE;
	identity->is_v6only = option_of(listener_fd, IPPROTO_IPV6, IPV6_V6ONLY) > 0;
	identity->is_reusable = option_of(listener_fd, SOL_SOCKET, SO_REUSEPORT) > 0;
	return 0;
}

/* ------------------------------------------------------------------ names */

static void write_hex(char *to, const unsigned char *bytes, size_t count)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < count; i++) {
		to[2 * i] = digits[bytes[i] >> 4];
		to[2 * i + 1] = digits[bytes[i] & 15];
	}
}

static int digit_value(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

static bool read_hex(const char *from, size_t count, unsigned char *bytes)
{
	for (size_t i = 0; i < count; i++) {
		int high = digit_value(from[2 * i]);
		int low = digit_value(from[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		bytes[i] = (unsigned char)(high << 4 | low);
	}
	return true;
}

/* Binds fd to "\0" + text of length bytes. */
static int bind_name(int fd, const char *text, size_t length)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };

	memcpy(name.sun_path + 1, text, length);
	if (bind(fd, (struct sockaddr *)&name,
		 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)) != 0)
		return -errno;
	return 0;
}

static int bind_more(int fd, uint64_t id, const char *rest, size_t length)
{
	char text[PATH_ROOM];
	size_t used = (size_t)snprintf(text, sizeof(text), MORE_PREFIX "%016" PRIx64 "/", id);

	memcpy(text + used, rest, length);
	return bind_name(fd, text, used + length);
}

static int bind_identity(const struct queue_identity *identity, int program_end, int receiver_end)
{
	const sa_family_t family = identity->address.sa.sa_family;
	const char *bytes = (const char *)&identity->address + sizeof(sa_family_t);
	const size_t length = identity->length - sizeof(sa_family_t);
	char text[PATH_ROOM];
	size_t used = (size_t)snprintf(text, sizeof(text), NAME_PREFIX "%016" PRIx64 "/%c%s%s/", identity->id,
				       family == AF_UNIX  ? 'u' :
				       family == AF_INET6 ? '6' :
							    '4',
				       identity->is_v6only ? "o" : "", identity->is_reusable ? "r" : "");
	const size_t room = PATH_ROOM - 1 - used;
	int r = 0;

	if (family != AF_UNIX) {
		write_hex(text + used, (const unsigned char *)bytes, length);
		return bind_name(program_end, text, used + 2 * length);
	}
	if (length > room)
		r = bind_more(receiver_end, identity->id, bytes + room, length - room);
	memcpy(text + used, bytes, length > room ? room : length);
	return r < 0 ? r : bind_name(program_end, text, used + (length > room ? room : length));
}

int queue_open(struct queue_identity *identity, int *program_end, int *receiver_end)
{
	int ends[2];
	int r;

	if (getrandom(&identity->id, sizeof(identity->id), 0) != sizeof(identity->id))
		return -EAGAIN;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
		return -errno;
	r = bind_identity(identity, ends[0], ends[1]);
	if (r == 0 && fcntl(ends[1], F_SETFL, O_NONBLOCK) != 0)
		r = -errno;
	if (r < 0) {
		close(ends[0]);
		close(ends[1]);
		return r;
	}
	*program_end = ends[0];
	*receiver_end = ends[1];
	return 0;
}

bool queue_name_is_ours(const struct sockaddr_un *name, socklen_t length)
{
	return name->sun_family == AF_UNIX &&
	       length > offsetof(struct sockaddr_un, sun_path) + 1 + strlen(NAME_PREFIX) + ID_DIGITS + 3 &&
	       name->sun_path[0] == '\0' && memcmp(name->sun_path + 1, NAME_PREFIX, strlen(NAME_PREFIX)) == 0;
}

/* What did not fit the program's end's own name. Any program may give a socket such names: no more than
 * room. */
static bool read_more(int fd, char *to, size_t room, size_t *length)
{
	struct sockaddr_un peer;
	socklen_t peer_length = sizeof(peer);
	const size_t head = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(MORE_PREFIX) + ID_DIGITS + 1;

	*length = 0;
	if (getpeername(fd, (struct sockaddr *)&peer, &peer_length) != 0)
		return false;
	if (peer_length <= head)
		return true; /* it has no name: all did fit */
	*length = peer_length - head;
	if (*length > room)
		return false;
	memcpy(to, (char *)&peer + head, *length);
	return true;
}

static bool read_address(int fd, const char *text, size_t length, struct queue_identity *identity)
{
	char *bytes = (char *)&identity->address + sizeof(sa_family_t);
	size_t more;

	if (identity->address.sa.sa_family != AF_UNIX) {
		identity->length = (socklen_t)(sizeof(sa_family_t) + length / 2);
		return length / 2 <= sizeof(struct sockaddr_in6) &&
		       read_hex(text, length / 2, (unsigned char *)bytes);
	}
	if (length > PATH_ROOM)
		return false;
	memcpy(bytes, text, length);
	if (!read_more(fd, bytes + length, PATH_ROOM - length, &more))
		return false;
	identity->length = (socklen_t)(sizeof(sa_family_t) + length + more);
	return true;
}

/* text: the name behind its prefix. */
static bool parse_name(int fd, const char *text, size_t length, struct queue_identity *identity)
{
	const char *end = text + length;
	unsigned char id[ID_DIGITS / 2];

	memset(identity, 0, sizeof(*identity));
	if (!read_hex(text, sizeof(id), id))
		return false;
	for (size_t i = 0; i < sizeof(id); i++)
		identity->id = identity->id << 8 | id[i];
	text += ID_DIGITS + 1;
	identity->address.sa.sa_family = *text == 'u' ? AF_UNIX : *text == '6' ? AF_INET6 : AF_INET;
	for (text++; text < end && *text != '/'; text++) {
		identity->is_v6only |= *text == 'o';
		identity->is_reusable |= *text == 'r';
	}
	return text < end && read_address(fd, text + 1, (size_t)(end - text - 1), identity);
}

bool queue_recognize(int fd, struct queue_identity *identity)
{
	struct sockaddr_un name;
	socklen_t length = sizeof(name);
	const size_t head = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(NAME_PREFIX);

	if (call_getsockname(fd, (struct sockaddr *)&name, &length) != 0 ||
	    !queue_name_is_ours(&name, length))
		return false;
	return identity == NULL || parse_name(fd, (char *)&name + head, length - head, identity);
}

/* ---------------------------------------------------------------- clients */

int queue_send(int receiver_end, int client_fd, const struct sockaddr *address, socklen_t length)
{
	int r = message_send(receiver_end, address, length, client_fd);

	return r == -ECONNRESET || r == -ENOTCONN ? -EPIPE : r;
}

/* Where no descriptor is free recvmsg(2) would drop the client, where accept(2) leaves it in the queue. */
static int check_room(int program_end)
{
	int probe = fcntl(program_end, F_DUPFD_CLOEXEC, 0);

	if (probe < 0)
		return errno == EINVAL ? -EMFILE : -errno;
	close(probe);
	return 0;
}

/* Waits, if the descriptor does, until there is a client, and takes it. Room is asked for only then: while
 * it was waited another thread may have taken the last descriptor, or it may take the client. */
static ssize_t receive_with_room(int program_end, int receive_flags, union queue_address *address,
				 int *client_fd)
{
	ssize_t received;
	char byte;
	int r;

	do {
		if (recv(program_end, &byte, 1, MSG_PEEK | (receive_flags & MSG_DONTWAIT)) < 0)
			return -errno;
		r = check_room(program_end);
		if (r < 0)
			return r;
		received = message_receive(program_end, address, sizeof(*address),
					   receive_flags | MSG_DONTWAIT, client_fd);
	} while (received == -EAGAIN);
	return received;
}

int queue_receive(int program_end, int flags, int receive_flags, union queue_address *address,
		  socklen_t *length)
{
	const int cloexec = (flags & SOCK_CLOEXEC) != 0 ? MSG_CMSG_CLOEXEC : 0;
	int client_fd = -1;
	ssize_t received = receive_with_room(program_end, receive_flags | cloexec, address, &client_fd);

	if (received < 0)
		return received == -ECONNRESET || received == -ENOTCONN ? -EPIPE : (int)received;
	if (received < (ssize_t)sizeof(sa_family_t))
		return -EPIPE;
	*length = (socklen_t)received;
	if (client_fd < 0)
		return -ECONNABORTED;
	if ((flags & SOCK_NONBLOCK) != 0)
		fcntl(client_fd, F_SETFL, O_RDWR | O_NONBLOCK);
	return client_fd;
}

void queue_copy_address(const union queue_address *address, socklen_t length, void *to, socklen_t *room)
{
	if (to == NULL || room == NULL)
		return;
	memcpy(to, address, *room < length ? *room : length);
	*room = length;
}

/* ---------------------------------------------------------------- options */

static bool answer(int value, void *bytes, socklen_t *length)
{
	if (*length > sizeof(value))
		*length = sizeof(value);
	memcpy(bytes, &value, *length);
	return true;
}

static bool get_tcp_info(void *bytes, socklen_t *length)
{
	struct tcp_info info = { .tcpi_state = TCP_LISTEN };

	if (*length > sizeof(info))
		*length = sizeof(info);
	memcpy(bytes, &info, *length);
	return true;
}

bool queue_get_option(const struct queue_identity *identity, int level, int option, void *bytes,
		      socklen_t *length)
{
	const sa_family_t family = identity->address.sa.sa_family;

	if (level == SOL_SOCKET && option == SO_TYPE)
		return answer(SOCK_STREAM, bytes, length);
	if (level == SOL_SOCKET && option == SO_DOMAIN)
		return answer(family, bytes, length);
	if (level == SOL_SOCKET && option == SO_PROTOCOL)
		return answer(family == AF_UNIX ? 0 : IPPROTO_TCP, bytes, length);
	if (level == SOL_SOCKET && option == SO_ACCEPTCONN)
		return answer(1, bytes, length);
	if (level == SOL_SOCKET && option == SO_REUSEPORT)
		return answer(identity->is_reusable, bytes, length);
	if (level == SOL_SOCKET || family == AF_UNIX)
		return false;
	if (level == IPPROTO_TCP && option == TCP_INFO)
		return get_tcp_info(bytes, length);
	if (level == IPPROTO_IPV6 && option == IPV6_V6ONLY)
		return answer(identity->is_v6only, bytes, length);
	return queue_takes_option(level, option) && answer(0, bytes, length);
}

bool queue_takes_option(int level, int option)
{
	if (level == SOL_SOCKET)
		return option == SO_REUSEPORT;
	return level == IPPROTO_TCP || level == IPPROTO_IPV6 || level == IPPROTO_IP;
}
