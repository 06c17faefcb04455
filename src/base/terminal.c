#include "base/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include "base/sandbox.h"

SANDBOX_CALLS("getpgid", "getpgrp", "ioctl");

#define COLUMNS_DEFAULT 80

int terminal_columns(int fd)
{
	struct winsize size;

	if (ioctl(fd, TIOCGWINSZ, &size) != 0)
		return 0;
	return size.ws_col > 0 ? size.ws_col : COLUMNS_DEFAULT;
}

bool terminal_is_ours(int fd)
{
	pid_t foreground = tcgetpgrp(fd);

	return foreground < 0 || foreground == getpgrp();
}
