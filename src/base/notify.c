/*
 * The readiness protocol of sd_notify(3): one datagram of "KEY=VALUE" lines to
 * the socket that $NOTIFY_SOCKET names. The manager learns who sent it from
 * the credentials that the kernel adds on its side, so nothing but the text is sent.
 *
 * The socket is made for each message: messages are few, and a descriptor held
 * for good would have to survive privilege drops and upgrades.
 */
#include "base/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/args.h"
#include "base/macros.h"
#include "base/sandbox.h"

SANDBOX_CALLS("sendto", "socket");

/* Fills the address from a path or "@name"; 0, or a negative errno. */
static int make_address(const char *name, struct sockaddr_un *address, socklen_t *length)
{
	size_t name_length = strlen(name);

	if (name[0] != '/' && name[0] != '@')
		return -EAFNOSUPPORT;
	/* Neither kind needs a terminator: the length ends it (unix(7)). */
	if (name_length > sizeof(address->sun_path))
		return -ENAMETOOLONG;
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	memcpy(address->sun_path, name, name_length);
	if (name[0] == '@')
		address->sun_path[0] = '\0';
	*length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + name_length);
	return 0;
}

int notify_send(const char *state)
{
	const char *name = getenv("NOTIFY_SOCKET");
	CLEANUP_CLOSE int fd = -1;
	struct sockaddr_un address;
	socklen_t length;
	int r;

	if (name == NULL || name[0] == '\0')
		return 0;
	r = make_address(name, &address, &length);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* A datagram goes whole or not at all. */
	if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address, length) < 0)
		return -errno;
	return 0;
}

uint64_t notify_watchdog_ms(void)
{
	const char *interval = getenv("WATCHDOG_USEC"), *process = getenv("WATCHDOG_PID");
	uint64_t interval_us, pid;

	if (!interval || args_parse_number(interval, 1, UINT64_MAX, &interval_us) != 0)
		return 0;
	if (process && (args_parse_number(process, 1, INT32_MAX, &pid) != 0 || pid != (uint64_t)getpid()))
		return 0;
	return MAX(interval_us / 1000, UINT64_C(1));
}
