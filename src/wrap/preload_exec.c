/*
 * Theory of operation: a preloaded library is in force only as long as every program that is started loads
 * it too. So the calls that start programs are looked after, while there are routes: one that could not
 * load the library (static, set-uid, 32-bit; program.h) is refused with EACCES and a line on standard
 * error, and the variables that carry the library and its routes are put back where a program starts
 * another one without them.
 *
 * execvp(3) and its kin are rebuilt on execve(), since those of the C library call their own. Most callers
 * are children between fork and exec, perhaps on borrowed memory (vfork(2)): everything lies on the stack.
 */
#include <alloca.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/macros.h"
#include "wrap/preload.h"
#include "wrap/preload_list.h"
#include "wrap/program.h"

#define PRELOAD_VARIABLE "LD_PRELOAD="
#define WORDS_MAX 0x10000            /* of arguments or variables: no kernel takes so many in practice */
#define DEFAULT_PATH "/bin:/usr/bin" /* what execvp(3) uses without $PATH */

int exec_execve(const char *path, char *const words[], char *const variables[]) PRELOAD_AS("execve");
int exec_execv(const char *path, char *const words[]) PRELOAD_AS("execv");
int exec_execvpe(const char *file, char *const words[], char *const variables[]) PRELOAD_AS("execvpe");
int exec_execvp(const char *file, char *const words[]) PRELOAD_AS("execvp");
int exec_execl(const char *path, const char *word, ...) PRELOAD_AS("execl");
int exec_execlp(const char *file, const char *word, ...) PRELOAD_AS("execlp");
int exec_execle(const char *path, const char *word, ...) PRELOAD_AS("execle");
int exec_fexecve(int fd, char *const words[], char *const variables[]) PRELOAD_AS("fexecve");
int exec_execveat(int directory, const char *path, char *const words[], char *const variables[], int flags)
	PRELOAD_AS("execveat");
int exec_posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
		     const posix_spawnattr_t *attributes, char *const words[], char *const variables[])
	PRELOAD_AS("posix_spawn");
int exec_posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
		      const posix_spawnattr_t *attributes, char *const words[], char *const variables[])
	PRELOAD_AS("posix_spawnp");

/* What a started program must find in its environment. */
struct kept {
	const char *text;   /* NAME=VALUE */
	size_t name_length; /* with the '=' */
	bool refuses;
};

static struct kept kept[2]; /* one for each role */
static size_t kept_count;   /* 0: nothing is to be looked after */
static const char *library; /* LD_PRELOAD=PATH of this library */

void preload_exec_keep(const char *name, const char *value, bool refuses)
{
	char *text, *own = NULL;
	Dl_info here;

	if (asprintf(&text, "%s=%s", name, value) < 0)
		abort();
	if (!library &&
	    (dladdr(&library, &here) == 0 || asprintf(&own, PRELOAD_VARIABLE "%s", here.dli_fname) < 0))
		abort();
	if (!library)
		library = own;
	kept[kept_count++] =
		(struct kept){ .text = text, .name_length = strlen(name) + 1, .refuses = refuses };
}

/* ---- the environment ------------------------------------------------------------------------------- */

static size_t count_words(char *const words[])
{
	size_t count = 0;

	while (words && words[count] && count < WORDS_MAX)
		count++;
	return count;
}

static const char *find_variable(char *const variables[], const char *name, size_t length)
{
	for (size_t i = 0; variables && variables[i]; i++) {
		if (strncmp(variables[i], name, length) == 0)
			return variables[i];
	}
	return NULL;
}

/* Of several LD_PRELOADs ld.so(8) takes the last. */
static const char *find_preload(char *const variables[])
{
	const char *found = NULL;

	for (size_t i = 0; variables && variables[i]; i++) {
		if (strncmp(variables[i], PRELOAD_VARIABLE, strlen(PRELOAD_VARIABLE)) == 0)
			found = variables[i];
	}
	return found;
}

/* Room that amend() needs for variables, in bytes: the vector, and an LD_PRELOAD of both libraries. */
static size_t amended_size(char *const variables[])
{
	const char *preload = find_preload(variables);

	return (count_words(variables) + kept_count + 2) * sizeof(char *) + strlen(library) +
	       (preload ? strlen(preload) : 0) + 2;
}

/* Fills room with the variables and what they lack. */
static char **amend(char *const variables[], void *room)
{
	const size_t total = count_words(variables);
	const char *preload = find_preload(variables);
	char **amended = room;
	char *text = (char *)(amended + total + kept_count + 2);
	const char *path = library + strlen(PRELOAD_VARIABLE);
	size_t count = 0;

	for (size_t i = 0; i < total; i++) {
		if (strncmp(variables[i], PRELOAD_VARIABLE, strlen(PRELOAD_VARIABLE)) != 0)
			amended[count++] = variables[i];
	}
	if (!preload) {
		amended[count++] = (char *)(uintptr_t)library;
	} else if (preload_list_has(preload + strlen(PRELOAD_VARIABLE), path)) {
		amended[count++] = (char *)(uintptr_t)preload;
	} else {
		stpcpy(stpcpy(stpcpy(text, library), ":"), preload + strlen(PRELOAD_VARIABLE));
		amended[count++] = text;
	}
	for (size_t i = 0; i < kept_count; i++) {
		if (!find_variable(variables, kept[i].text, kept[i].name_length))
			amended[count++] = (char *)(uintptr_t)kept[i].text;
	}
	amended[count] = NULL;
	return amended;
}

/* A macro, because what alloca(3) gives lasts as long as its caller. Never among arguments. */
#define AMENDED(variables) (kept_count > 0 ? amend(variables, alloca(amended_size(variables))) : (variables))

/* ---- what may be started --------------------------------------------------------------------------- */

/* May only what loads the library be started? An empty variable says that an inner wrapper, by seccomp, has
 * taken over what this one does. */
static bool is_bound(char *const variables[])
{
	for (size_t i = 0; i < kept_count; i++) {
		const char *other = find_variable(variables, kept[i].text, kept[i].name_length);

		if (kept[i].refuses && (!other || other[kept[i].name_length] != '\0'))
			return true;
	}
	return false;
}

static void tell(const char *path, const char *reason)
{
	static const char begin[] = "kaiso inject: cannot wrap ";
	struct iovec parts[] = {
		{ (char *)(uintptr_t)begin, sizeof(begin) - 1 },
		{ (char *)(uintptr_t)path, strlen(path) },
		{ (char[]){ ": " }, 2 },
		{ (char *)(uintptr_t)reason, strlen(reason) },
		{ (char[]){ "\n" }, 1 },
	};
	ssize_t ignored = writev(STDERR_FILENO, parts, ARRAY_SIZE(parts));

	(void)ignored;
}

/* 0, or EACCES after a line on standard error. What is no program is left to the kernel's judgement. */
static int judge(const char *path, char *const variables[])
{
	struct program_facts facts;
	const char *obstacle;
	int saved_errno = errno;
	int r;

	if (!is_bound(variables))
		return 0;
	r = program_inspect(path, &facts);
	errno = saved_errno;
	if (r == -EACCES)
		return EACCES;
	obstacle = r == 0 ? program_obstacle(&facts, true) : NULL;
	if (!obstacle)
		return 0;
	tell(path, obstacle);
	return EACCES;
}

int exec_execve(const char *path, char *const words[], char *const variables[])
{
	int error = judge(path, variables);

	if (error == 0) {
		char *const *amended = AMENDED(variables);

		return preload_calls()->execve(path, words, amended);
	}
	errno = error;
	return -1;
}

int exec_execv(const char *path, char *const words[])
{
	return exec_execve(path, words, environ);
}

/* ---- the ways of execvp(3) ------------------------------------------------------------------------- */

/* A file that is neither ELF nor a script with "#!" is the shell's. */
static int exec_or_shell(const char *path, char *const words[], char *const variables[])
{
	size_t count = count_words(words);
	char **shell_words;

	exec_execve(path, words, variables);
	if (errno != ENOEXEC || count == WORDS_MAX)
		return -1;
	shell_words = alloca((count + 2) * sizeof(*shell_words));
	shell_words[0] = (char[]){ "/bin/sh" };
	shell_words[1] = (char *)(uintptr_t)path;
	for (size_t i = 1; i < count; i++)
		shell_words[i + 1] = words[i];
	shell_words[MAX(count, (size_t)1) + 1] = NULL;
	return exec_execve(shell_words[0], shell_words, variables);
}

/* The next candidate of a search along $PATH; false at the end. */
static bool next_candidate(const char **directories, const char *file, char candidate[static PATH_MAX])
{
	while (*directories) {
		size_t length = strcspn(*directories, ":");
		int size = snprintf(candidate, PATH_MAX, "%.*s%s%s", (int)length, *directories,
				    length > 0 ? "/" : "", file);

		*directories = (*directories)[length] == ':' ? *directories + length + 1 : NULL;
		if (size < PATH_MAX)
			return true;
	}
	return false;
}

static const char *search_path(void)
{
	const char *path = getenv("PATH");

	return path ? path : DEFAULT_PATH;
}

/* Errors that say: not here (execvp(3), and glibc's list). */
static bool is_elsewhere(int error)
{
	return error == ENOENT || error == ENOTDIR || error == EACCES || error == ESTALE || error == ENODEV ||
	       error == ETIMEDOUT;
}

int exec_execvpe(const char *file, char *const words[], char *const variables[])
{
	const char *directories = search_path();
	char candidate[PATH_MAX];
	bool was_denied = false;

	if (kept_count == 0)
		return preload_calls()->execvpe(file, words, variables);
	if (strchr(file, '/'))
		return exec_or_shell(file, words, variables);
	errno = ENOENT;
	while (*file && next_candidate(&directories, file, candidate)) {
		if (access(candidate, F_OK) != 0)
			continue;
		exec_or_shell(candidate, words, variables);
		if (!is_elsewhere(errno))
			return -1;
		was_denied |= errno == EACCES;
	}
	if (was_denied)
		errno = EACCES;
	return -1;
}

int exec_execvp(const char *file, char *const words[])
{
	return exec_execvpe(file, words, environ);
}

/* ---- words one by one ------------------------------------------------------------------------------ */

static size_t count_list(va_list *list)
{
	size_t count = 1;

	while (va_arg(*list, char *))
		count++;
	return count;
}

/* The words of a call that lists them, first the one before "...". The list stands behind the NULL then. */
static char **fill_words(char **words, const char *word, size_t count, va_list *list)
{
	words[0] = (char *)(uintptr_t)word;
	for (size_t i = 1; i <= count; i++)
		words[i] = va_arg(*list, char *);
	return words;
}

/* All three are names, as va_start() wants them. NOLINTBEGIN(bugprone-macro-parentheses) */
#define LISTED_WORDS(words, word, list)                        \
	do {                                                   \
		size_t count_;                                 \
		va_start(list, word);                          \
		count_ = word ? count_list(&list) : 0;         \
		va_end(list);                                  \
		va_start(list, word);                          \
		words = alloca((count_ + 1) * sizeof(*words)); \
		fill_words(words, word, count_, &list);        \
	} while (0)
/* NOLINTEND(bugprone-macro-parentheses) */

int exec_execl(const char *path, const char *word, ...)
{
	va_list list;
	char **words;

	LISTED_WORDS(words, word, list);
	va_end(list);
	return exec_execve(path, words, environ);
}

int exec_execlp(const char *file, const char *word, ...)
{
	va_list list;
	char **words;

	LISTED_WORDS(words, word, list);
	va_end(list);
	return exec_execvpe(file, words, environ);
}

int exec_execle(const char *path, const char *word, ...)
{
	va_list list;
	char **words, **variables;

	LISTED_WORDS(words, word, list);
	variables = va_arg(list, char **);
	va_end(list);
	return exec_execve(path, words, variables);
}

/* ---- by descriptor, and without fork --------------------------------------------------------------- */

static int judge_fd(int fd, char *const variables[])
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return judge(path, variables);
}

int exec_fexecve(int fd, char *const words[], char *const variables[])
{
	int error = judge_fd(fd, variables);

	if (error == 0) {
		char *const *amended = AMENDED(variables);

		return preload_calls()->fexecve(fd, words, amended);
	}
	errno = error;
	return -1;
}

int exec_execveat(int directory, const char *path, char *const words[], char *const variables[], int flags)
{
	char full[PATH_MAX];
	int error;

	if (*path == '\0')
		error = judge_fd(directory, variables);
	else if (*path == '/' ||
		 snprintf(full, sizeof(full), "/proc/self/fd/%d/%s", directory, path) >= PATH_MAX)
		error = judge(path, variables);
	else
		error = judge(directory < 0 ? path : full, variables); /* AT_FDCWD */
	if (error == 0) {
		char *const *amended = AMENDED(variables);

		return preload_calls()->execveat(directory, path, words, amended, flags);
	}
	errno = error;
	return -1;
}

int exec_posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
		     const posix_spawnattr_t *attributes, char *const words[], char *const variables[])
{
	int error = judge(path, variables);
	char *const *amended;

	if (error != 0)
		return error;
	amended = AMENDED(variables);
	return preload_calls()->posix_spawn(pid, path, actions, attributes, words, amended);
}

int exec_posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
		      const posix_spawnattr_t *attributes, char *const words[], char *const variables[])
{
	const char *directories = search_path();
	char candidate[PATH_MAX];
	int error = strchr(file, '/') ? judge(file, variables) : 0;
	char *const *amended;

	while (kept_count > 0 && !strchr(file, '/') && next_candidate(&directories, file, candidate)) {
		if (access(candidate, X_OK) != 0)
			continue;
		error = judge(candidate, variables);
		break;
	}
	if (error != 0)
		return error;
	amended = AMENDED(variables);
	return preload_calls()->posix_spawnp(pid, file, actions, attributes, words, amended);
}
