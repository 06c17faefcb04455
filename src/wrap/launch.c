/*
 * Theory of operation: the program starts with what the tool was started with: descriptors, signal mask,
 * dispositions, environment. All that the wrapper opens is close-on-exec; what it changes for itself is
 * remembered and put back before exec(2). The other way round, what was open before the wrapper opened
 * anything is the program's and nobody else's.
 */
#include "wrap/launch.h"
#include "wrap/preload_list.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/args.h"
#include "base/macros.h"

/* ---- descriptors ----------------------------------------------------------------------------------- */

void launch_list_inherited(struct launch_inherited *inherited)
{
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;
	uint64_t fd;

	*inherited = (struct launch_inherited){ 0 };
	while (directory && (entry = readdir(directory)) != NULL) {
		int *grown;

		if (args_parse_number(entry->d_name, STDERR_FILENO + 1, INT32_MAX, &fd) < 0 ||
		    (int)fd == dirfd(directory))
			continue;
		grown = reallocarray(inherited->fds, inherited->count + 1, sizeof(int));
		if (!grown)
			break;
		inherited->fds = grown;
		inherited->fds[inherited->count++] = (int)fd;
	}
	if (directory)
		closedir(directory);
}

void launch_drop_inherited(const struct launch_inherited *inherited, bool keep_stderr)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (size_t i = 0; i < inherited->count; i++)
		close(inherited->fds[i]);
	for (int fd = STDIN_FILENO; null >= 0 && fd <= (keep_stderr ? STDOUT_FILENO : STDERR_FILENO); fd++)
		dup2(null, fd);
	if (null > STDERR_FILENO)
		close(null);
}

/* ---- the program ----------------------------------------------------------------------------------- */

static bool is_library(const char *directory, const char *below, char path[static PATH_MAX])
{
	char candidate[PATH_MAX];
	int length = snprintf(candidate, sizeof(candidate), "%s%s/" LAUNCH_LIBRARY, directory, below);

	if (length >= PATH_MAX || access(candidate, R_OK) != 0)
		return false;
	memcpy(path, candidate, (size_t)length + 1);
	return true;
}

int launch_find_library(char path[static PATH_MAX])
{
	char self[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (length < 0)
		return -errno;
	self[length] = '\0';
	*strrchr(self, '/') = '\0';
	/* Beside the program in a build directory; else where it was installed, which may have been moved. */
	if (!is_library(self, "", path) && !is_library(self, "/../lib/kaiso", path) &&
	    !is_library(KAISO_PRELOAD_DIR, "", path))
		return -ENOENT;
	/* ld.so(8): the separators of the list cannot be escaped. */
	return strpbrk(path, " :") ? -EINVAL : 0;
}

/* Ours goes first: its real calls are then those of the user's library, which so stays in force. */
static int set_ld_preload(void)
{
	const char *others = getenv("LD_PRELOAD");
	char path[PATH_MAX];
	int r = launch_find_library(path);

	if (r < 0)
		return r;
	if (others && preload_list_has(others, path))
		return 0;
	CLEANUP_FREE char *value = NULL;
	if (asprintf(&value, "%s%s%s", path, others && *others ? ":" : "", others ? others : "") < 0) {
		value = NULL; /* asprintf(3) may leave anything there */
		return -ENOMEM;
	}
	return setenv("LD_PRELOAD", value, 1) == 0 ? 0 : -errno;
}

int launch_prepare(const struct launch *launch)
{
	int r = launch->mode == WRAP_PRELOAD ? set_ld_preload() : 0;

	for (size_t i = 0; i < launch->plan->role_count && r == 0; i++) {
		if (launch->plan->roles[i]->prepare)
			r = launch->plan->roles[i]->prepare(launch->plan->roles[i], launch->mode);
	}
	return r;
}

/* A script without "#!" is the shell's, as execvp(3) has it. */
int launch_exec(const struct launch *launch)
{
	char **words = launch->plan->program;
	size_t count = 0;
	char **shell_words;
	int error;

	sigaction(SIGCHLD, &launch->child_action, NULL);
	sigprocmask(SIG_SETMASK, &launch->mask, NULL);
	execv(launch->path, words);
	error = errno;
	while (words[count])
		count++;
	shell_words = error == ENOEXEC ? calloc(count + 2, sizeof(*shell_words)) : NULL;
	if (shell_words) {
		static char shell[] = "/bin/sh";

		shell_words[0] = shell;
		shell_words[1] = (char *)(uintptr_t)launch->path;
		memcpy(shell_words + 2, words + 1, (count - 1) * sizeof(*words));
		execv(shell, shell_words);
		error = errno;
		free(shell_words);
	}
	return -error;
}
