/*
 * The program's side makes its request with the thread's signals as they are: EINTR is gone over, so
 * that listen(2), which never says EINTR, does not begin to.
 */
#include "wrap/passfd_message.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/macros.h"
#include "wrap/passfd_calls.h"
#include "wrap/passfd_control.h"

union one_descriptor {
	struct cmsghdr header; /* for its alignment */
	/* Room for credentials too, which a program may have asked for on its listener (SO_PASSCRED). */
	char bytes[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
};

int message_send(int socket_fd, const void *bytes, size_t length, int fd)
{
	union one_descriptor control = { .bytes = { 0 } };
	struct iovec part = { .iov_base = (void *)bytes, .iov_len = length };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	ssize_t sent;

	if (fd >= 0) {
		struct cmsghdr *header;

		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(sizeof(int));
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &fd, sizeof(int));
	}
	do {
		sent = call_sendmsg(socket_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : 0;
}

/* Where nobody has asked for credentials, their room holds descriptors too; who sends several does not get them
 * into this process by it. */
static int descriptor_in(struct msghdr *message)
{
	int fds[sizeof(union one_descriptor) / sizeof(int)];
	size_t count = 0;

	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(header), count * sizeof(int));
	}
	if (count == 1)
		return fds[0];
	while (count > 0)
		close(fds[--count]);
	return -1;
}

ssize_t message_receive(int socket_fd, void *bytes, size_t size, int flags, int *fd)
{
	union one_descriptor control;
	struct iovec part = { .iov_base = bytes, .iov_len = size };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};
	ssize_t received = recvmsg(socket_fd, &message, flags);

	*fd = -1;
	if (received < 0)
		return -errno;
	*fd = descriptor_in(&message);
	return received;
}

/* --------------------------------------------------- the program's side */

socklen_t control_name(const char *word, struct sockaddr_un *name)
{
	memset(name, 0, sizeof(*name));
	name->sun_family = AF_UNIX;
	memcpy(name->sun_path + 1, word, CONTROL_NAME_LENGTH);
	return offsetof(struct sockaddr_un, sun_path) + 1 + CONTROL_NAME_LENGTH;
}

/* A connection, or a negative errno. A signal cannot lose it: connect(2) to a UNIX socket is done or not
 * begun. */
static int control_connect(const char *word)
{
	struct sockaddr_un name;
	socklen_t length = control_name(word, &name);
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	int r;

	if (fd < 0)
		return -errno;
	do {
		r = call_connect(fd, (struct sockaddr *)&name, length);
	} while (r != 0 && errno == EINTR);
	return r != 0 ? -errno : STEAL_FD(fd);
}

int control_offer(const char *word, int listener_fd, int *program_end)
{
	struct control_reply reply;
	CLEANUP_CLOSE int fd = control_connect(word);
	ssize_t length;
	int r;

	if (fd < 0)
		return fd;
	r = message_send(fd, word + CONTROL_NAME_LENGTH + 1, CONTROL_SECRET_LENGTH, listener_fd);
	if (r < 0)
		return r;
	do {
		length = message_receive(fd, &reply, sizeof(reply), MSG_CMSG_CLOEXEC, program_end);
	} while (length == -EINTR);
	if (length < 0)
		return (int)length;
	if (length != sizeof(reply) || (reply.result == 1) != (*program_end >= 0))
		return -EPROTO;
	return reply.result;
}

bool control_is_alive(const char *word)
{
	int fd = control_connect(word);

	if (fd >= 0)
		close(fd);
	return fd != -ECONNREFUSED;
}
