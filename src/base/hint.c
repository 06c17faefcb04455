/*
 * Theory of operation: a permission that is missing is looked for from the root of the path on, as the kernel does; the
 * first directory that may not be entered, or else the file itself, is what its owner or its group can help with. Where
 * the last part is a link, as services often are, it goes on with what that names.
 */
#include "base/hint.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/macros.h"
#include "base/sandbox.h"

SANDBOX_CALLS("faccessat", "faccessat2", "getegid", "geteuid", "getgroups", "newfstatat", "readlink",
	      "readlinkat", "stat");

#define NAME_SIZE 64
#define PATH_SHOWN_MAX 100
#define LINKS_MAX 8

static const struct {
	int error;
	const char *text;
} plain_hints[] = {
	{ EMFILE, "raise the limit of open files (ulimit -n, or LimitNOFILE= of a unit)" },
	{ ENFILE, "the whole system has too many open files: raise it (sysctl fs.file-max)" },
	{ ENETUNREACH, "this host has no way there (ip route lists those that it has)" },
	{ EHOSTUNREACH,
	  "the host or the way to it is down; of a name, no name server may answer (getent hosts NAME tells)" },
};

/* ---- users and groups -------------------------------------------------------------------------------- */

/* Of /etc/passwd or /etc/group, which both have lines of NAME:PASSWORD:NUMBER:...; the number where there is no such line, and false. */
static bool find_name(const char *file, unsigned number, char name[static NAME_SIZE])
{
	FILE *stream = fopen(file, "re");
	CLEANUP_FREE char *line = NULL;
	size_t size = 0;
	bool is_found = false;

	snprintf(name, NAME_SIZE, "%u", number);
	while (stream && !is_found && getline(&line, &size, stream) > 0) {
		char *rest = line, *first = strsep(&rest, ":");

		strsep(&rest, ":");
		is_found = rest && rest[0] >= '0' && rest[0] <= '9' && strtoul(rest, NULL, 10) == number;
		if (is_found)
			snprintf(name, NAME_SIZE, "%s", first);
	}
	if (stream)
		fclose(stream);
	return is_found;
}

/* ---- permissions ------------------------------------------------------------------------------------- */

struct barrier {
	char path[PATH_MAX];
	int access; /* what is wanted there: bits of access(2) */
	bool is_directory_on_the_way;
	struct stat status;
	char followed[PATH_MAX]; /* where links have led so far */
};

static bool may(const char *path, int access)
{
	return faccessat(AT_FDCWD, path, access, AT_EACCESS) == 0 || errno != EACCES;
}

/* Is there something on the way to the last part of the path? */
static bool find_closed_directory(struct barrier *barrier)
{
	for (char *slash = strchr(barrier->followed + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		snprintf(barrier->path, sizeof(barrier->path), "%.*s", (int)(slash - barrier->followed),
			 barrier->followed);
		if (!may(barrier->path, X_OK))
			return true;
	}
	return false;
}

/* Where the last part is a link: on to what it names. */
static bool follow(struct barrier *barrier)
{
	char *slash = strrchr(barrier->followed, '/');
	size_t kept = slash ? (size_t)(slash - barrier->followed) + 1 : 0;
	ssize_t length = readlink(barrier->followed, barrier->path, sizeof(barrier->path) - 1);

	if (length <= 0)
		return false;
	barrier->path[length] = '\0';
	if (barrier->path[0] == '/')
		kept = 0;
	if (kept + (size_t)length >= sizeof(barrier->followed))
		return false;
	memcpy(barrier->followed + kept, barrier->path, (size_t)length + 1);
	return true;
}

/* False when nothing is seen to be in the way. */
static bool find_barrier(const char *path, int access, struct barrier *barrier)
{
	if (!*path || strlen(path) >= sizeof(barrier->followed))
		return false;
	memcpy(barrier->followed, path, strlen(path) + 1);
	for (int links = 0; links <= LINKS_MAX; links++) {
		barrier->is_directory_on_the_way = find_closed_directory(barrier);
		if (barrier->is_directory_on_the_way || !follow(barrier))
			break;
	}
	if (!barrier->is_directory_on_the_way)
		memcpy(barrier->path, barrier->followed, sizeof(barrier->path));
	barrier->access = barrier->is_directory_on_the_way ? X_OK : access;
	return !may(barrier->path, barrier->access) && stat(barrier->path, &barrier->status) == 0;
}

/* Do these three bits (rwx) of a mode permit it? */
static bool permits(mode_t bits, int access)
{
	return ((int)(bits & 7) & access) == access;
}

static bool is_member(gid_t group)
{
	gid_t groups[256];
	int count = getgroups(ARRAY_SIZE(groups), groups);

	if (group == getegid())
		return true;
	for (int i = 0; i < count; i++) {
		if (groups[i] == group)
			return true;
	}
	return false;
}

/* The end of a path that is too long to be shown. */
static const char *shown_part(const char *path)
{
	size_t length = strlen(path);

	return path + length - MIN(length, (size_t)PATH_SHOWN_MAX);
}

/* The group may. */
static void say_group(const char *what, const char *path, const char *group, char text[static HINT_SIZE])
{
	char user[NAME_SIZE];

	if (find_name("/etc/passwd", geteuid(), user))
		snprintf(
			text, HINT_SIZE,
			"the group %s may %s %s: sudo adduser %s %s, which counts from the next login or start on",
			group, what, path, user, group);
	else
		snprintf(
			text, HINT_SIZE,
			"the group %s may %s %s: user %s has to be in it (in a unit, SupplementaryGroups=%s)",
			group, what, path, user, group);
}

static void say_barrier(const struct barrier *barrier, char text[static HINT_SIZE])
{
	const char *what = barrier->is_directory_on_the_way ? "enter" : "use";
	const char *path = shown_part(barrier->path);
	const char *right = (barrier->access & W_OK) ? "w" : (barrier->access & R_OK) ? "rx" : "x";
	char owner[NAME_SIZE], group[NAME_SIZE];

	find_name("/etc/passwd", barrier->status.st_uid, owner);
	find_name("/etc/group", barrier->status.st_gid, group);
	if (barrier->status.st_uid == geteuid())
		snprintf(text, HINT_SIZE, "its owner %s may not %s %s: chmod u+%s", owner, what, path, right);
	else if (permits(barrier->status.st_mode >> 3, barrier->access))
		say_group(what, path, group, text);
	else if (is_member(barrier->status.st_gid))
		snprintf(text, HINT_SIZE, "the group %s may not %s %s: its owner %s can chmod g+%s", group,
			 what, path, owner, right);
	else
		snprintf(text, HINT_SIZE,
			 "only its owner %s may %s %s: be that user, or have it opened to a group", owner,
			 what, path);
}

static void say_denied(const char *path, int access, char text[static HINT_SIZE])
{
	CLEANUP_FREE struct barrier *barrier = malloc(sizeof(*barrier));

	if (barrier && find_barrier(path, access, barrier))
		say_barrier(barrier, text);
	else
		snprintf(text, HINT_SIZE, "%s",
			 "a security policy (SELinux, AppArmor, Landlock, systemd) may forbid it");
}

/* ---- other errors ------------------------------------------------------------------------------------ */

/* connect(2) says the same of a socket that nobody has and of what is no socket. */
static void say_refused(const char *path, char text[static HINT_SIZE])
{
	struct stat status;

	if (stat(path, &status) == 0 && !S_ISSOCK(status.st_mode))
		snprintf(text, HINT_SIZE, "%s", "what is there is no socket");
	else
		snprintf(
			text, HINT_SIZE, "%s",
			"the socket was left behind and nobody listens on it: start its server again, or remove it");
}

static void say_plain(int error, char text[static HINT_SIZE])
{
	for (size_t i = 0; i < ARRAY_SIZE(plain_hints); i++) {
		if (plain_hints[i].error == error)
			snprintf(text, HINT_SIZE, "%s", plain_hints[i].text);
	}
}

const char *hint_for(int error, const char *path, int access, char text[static HINT_SIZE])
{
	text[0] = '\0';
	if (path && (error == EACCES || error == EPERM))
		say_denied(path, access, text);
	else if (path && error == ECONNREFUSED)
		say_refused(path, text);
	else if (error == EACCES || error == EPERM)
		snprintf(text, HINT_SIZE, "%s", "a firewall of this host, or a security policy, forbids it");
	else
		say_plain(error, text);
	for (char *byte = text; *byte; byte++) {
		if ((unsigned char)*byte < 0x20 || *byte == 0x7f)
			*byte = '?';
	}
	return text;
}
