/*
 * One sendmsg() per descriptor. A UNIX stream keeps messages with descriptors apart, so
 * the receiver gets each byte with its own.
 */
#include "net/fdpass.h"

#include "base/sandbox.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

SANDBOX_CALLS("recvmsg", "sendmsg");

int fdpass_send(int connection_fd, char byte, int fd)
{
	union {
		struct cmsghdr header; /* for its alignment */
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec part = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	ssize_t sent;

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(int));
	do {
		sent = sendmsg(connection_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : 0;
}
