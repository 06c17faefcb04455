/*
 * The receiver outlives the program itself where a descendant still holds a queue (a daemon, whose
 * first process leaves at once). When the program has ended and nobody holds one any more, SOCKET is
 * removed: a client shall not wait there for a server that does not come back.
 */
#include "wrap/passfd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"

static int complain(const struct passfd *passfd, const char *what, int error)
{
	fprintf(stderr, "%s: %s: %s\n", passfd->tool, what, strerror(-error));
	return error;
}

static int open_receiver(struct passfd *passfd, struct loop *loop)
{
	char reason[LISTEN_REASON_SIZE];
	int r = receiver_open(&passfd->receiver, loop, &passfd->options, reason, sizeof(reason));

	if (r < 0 && reason[0] != '\0')
		fprintf(stderr, "%s: %s\n", passfd->tool, reason);
	else if (r < 0)
		complain(passfd, "cannot serve SOCKET", r);
	return r;
}

static int passfd_start(struct wrap_role *role, struct supervisor *supervisor, enum wrap_mode mode)
{
	struct passfd *passfd = CONTAINER_OF(role, struct passfd, role);
	int r = open_receiver(passfd, supervisor_loop(supervisor));

	if (r < 0 || mode != WRAP_PRELOAD)
		return r;
	r = control_open(&passfd->control, &passfd->receiver);
	if (r < 0)
		return complain(passfd, "cannot open the control socket", r);
	passfd->has_control = true;
	return 0;
}

/* The control socket was opened before the program's process was forked, so that its word is known here
 * too. */
static int passfd_prepare(struct wrap_role *role, enum wrap_mode mode)
{
	struct passfd *passfd = CONTAINER_OF(role, struct passfd, role);

	if (mode != WRAP_PRELOAD)
		return unsetenv(CONTROL_VARIABLE) == 0 ? 0 : -errno;
	return setenv(CONTROL_VARIABLE, passfd->control.word, 1) == 0 ? 0 : -errno;
}

static void passfd_program_ended(struct wrap_role *role, struct supervisor *supervisor)
{
	struct passfd *passfd = CONTAINER_OF(role, struct passfd, role);

	(void)supervisor;
	receiver_program_ended(&passfd->receiver);
}

static void passfd_stop(struct wrap_role *role, struct supervisor *supervisor)
{
	struct passfd *passfd = CONTAINER_OF(role, struct passfd, role);

	(void)supervisor;
	if (!passfd->receiver.loop)
		return;
	if (passfd->has_control)
		control_close(&passfd->control);
	passfd_hooks_deinit(&passfd->hooks);
	receiver_close(&passfd->receiver);
}

void passfd_init(struct passfd *passfd, const char *tool)
{
	*passfd = (struct passfd){ .tool = tool };
	passfd->options = (struct receiver_options){ .socket_path = "", .silence_ms = RECEIVER_SILENCE_MS };
	passfd_hooks_init(&passfd->hooks, &passfd->receiver);
	passfd->role = (struct wrap_role){
		.hooks = passfd->hooks.calls,
		.needs_supervisor = true,
		.start = passfd_start,
		.prepare = passfd_prepare,
		.program_ended = passfd_program_ended,
		.stop = passfd_stop,
	};
}
