#include "router/confine.h"

#include <errno.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/sandbox.h"
#include "router/upgrade.h"

/* To see whether somebody is writing what is read (router/policy.h). */
static bool takes_leases(const struct router_options *options)
{
	return options->services != NULL;
}

static int confine_user(const struct router_options *options)
{
	const char *user = options->user;
	int r = sandbox_become_user(user, takes_leases(options));

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

/* Whether that part is there; inside an older sandbox, whether it could be narrowed. */
static bool check_part(const char *what, int result)
{
	if (result < 0 && upgrade_sandbox() > 0)
		log_message(
			LOG_LEVEL_WARNING,
			"the sandbox is still that of an older version in one part (%s): restart to get the stricter one",
			what);
	else if (result < 0)
		log_message(LOG_LEVEL_WARNING, "the sandbox is without %s: %s", what,
			    result == -ENOSYS || result == -EOPNOTSUPP ? "this kernel or build has none" :
									 strerror(-result));
	return result >= 0;
}

static void check_landlock(int version)
{
	char missing[SANDBOX_MISSING_SIZE];

	sandbox_files_missing(version, missing, sizeof(missing));
	if (missing[0] != '\0')
		log_message(LOG_LEVEL_WARNING,
			    "the sandbox is without a part of Landlock (%s): this kernel has its version %d",
			    missing, version);
}

/* Around that of an older version, if that is where the process is. */
static void confine_process(const struct router_options *options, const struct listen_set *listeners,
			    const struct listen_set *control)
{
	int files;
	bool has_files, has_calls;

	check_part("no_new_privs", sandbox_keep_privileges());
	check_part("a limit to root's powers", sandbox_drop_capabilities(takes_leases(options)));
	files = confine_files(listeners, control);
	has_files = check_part("Landlock", files);
	if (has_files)
		check_landlock(files);
	has_calls = check_part("seccomp", sandbox_limit_calls());
	if (has_calls)
		upgrade_set_sandbox(SANDBOX_REVISION);
	else if (has_files && upgrade_sandbox() == 0)
		upgrade_set_sandbox(UPGRADE_SANDBOX_OF_FILES);
}

int confine(const struct router_options *options, const struct listen_set *listeners,
	    const struct listen_set *control)
{
	/* Who takes over is that user already, and may not be able to look it up from inside. */
	int r = options->user && upgrade_role() != UPGRADE_TAKES ? confine_user(options) : 0;

	if (r < 0)
		return r;
	if (!options->has_sandbox)
		log_message(LOG_LEVEL_WARNING, "there is no sandbox: --no-sandbox turned it off");
	else if (upgrade_sandbox() < SANDBOX_REVISION)
		confine_process(options, listeners, control);
	return 0;
}
