#include "router/confine.h"

#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/sandbox.h"
#include "router/upgrade.h"

static int confine_user(const char *user)
{
	int r = sandbox_become_user(user);

	if (r == -ENOENT)
		log_message(LOG_LEVEL_ERROR, "cannot become user '%.128s': no such user or group", user);
	else if (r < 0)
		log_message(LOG_LEVEL_ERROR, "cannot become user '%.128s': %s; only root can", user,
			    strerror(-r));
	return r;
}

struct directories {
	const char *names[LISTEN_MAX + 1];
	char *copies[LISTEN_MAX + 1];
	size_t count;
};

static void add_directories(struct directories *directories, const struct listen_set *set)
{
	for (size_t i = 0; i < set->count; i++) {
		const char *path = set->listeners[i].unix_path;
		char *copy = path ? strdup(path) : NULL;

		if (!copy)
			continue;
		directories->copies[directories->count] = copy;
		directories->names[directories->count++] = dirname(copy);
	}
}

/* Socket files of ours are removed at the end. */
static int confine_files(const struct listen_set *listeners, const struct listen_set *control)
{
	struct directories directories = { .count = 0 };
	int r;

	add_directories(&directories, listeners);
	add_directories(&directories, control);
	r = sandbox_limit_files(upgrade_program(), directories.names, directories.count);
	while (directories.count > 0)
		free(directories.copies[--directories.count]);
	return r;
}

static void warn_missing(const char *what, int error)
{
	log_message(LOG_LEVEL_WARNING, "the sandbox is without %s: %s", what,
		    error == -ENOSYS || error == -EOPNOTSUPP ? "this kernel or build has none" :
							       strerror(-error));
}

int confine(const struct router_options *options, const struct listen_set *listeners,
	    const struct listen_set *control)
{
	int files, calls, r = options->user ? confine_user(options->user) : 0;

	if (r < 0)
		return r;
	if (!options->has_sandbox) {
		log_message(LOG_LEVEL_WARNING, "there is no sandbox: --no-sandbox turned it off");
		return 0;
	}
	if (upgrade_is_confined())
		return 0;
	r = sandbox_keep_privileges();
	if (r < 0)
		warn_missing("no_new_privs", r);
	files = confine_files(listeners, control);
	if (files < 0)
		warn_missing("Landlock", files);
	calls = sandbox_limit_calls();
	if (calls < 0)
		warn_missing("seccomp", calls);
	upgrade_set_confined();
	return 0;
}
