/*
 * A kernel that lacks something, for a program that this is loaded into (LD_PRELOAD). $FAKE_KERNEL has words:
 *   landlock=ERRNO  it has no Landlock        version=N  it has this version of Landlock
 *   seccomp=ERRNO   no seccomp(2), and prctl(2) says EINVAL to it
 *   users=PATH      users are known to whoever can see PATH
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LANDLOCK_VERSION_ASKED 1

static const char *word(const char *name)
{
	const char *words = getenv("FAKE_KERNEL"), *found = words ? strstr(words, name) : NULL;

	return found ? found + strlen(name) : NULL;
}

/* Whether the call is to fail with the number of this word. */
static int fails(const char *name)
{
	const char *number = word(name);

	if (!number)
		return 0;
	errno = atoi(number);
	return 1;
}

long syscall(long number, ...)
{
	long (*real)(long, ...) = dlsym(RTLD_NEXT, "syscall");
	long arguments[6];
	va_list list;

	va_start(list, number);
	for (int i = 0; i < 6; i++)
		arguments[i] = va_arg(list, long);
	va_end(list);
	if (number == SYS_landlock_create_ruleset && fails("landlock="))
		return -1;
	if (number == SYS_landlock_create_ruleset && arguments[2] == LANDLOCK_VERSION_ASKED &&
	    word("version="))
		return atoi(word("version="));
	if (number == SYS_seccomp && fails("seccomp="))
		return -1;
	return real(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4],
		    arguments[5]);
}

int prctl(int option, ...)
{
	int (*real)(int, ...) = dlsym(RTLD_NEXT, "prctl");
	unsigned long arguments[4];
	va_list list;

	va_start(list, option);
	for (int i = 0; i < 4; i++)
		arguments[i] = va_arg(list, unsigned long);
	va_end(list);
	if (option == PR_SET_SECCOMP && word("seccomp=")) {
		errno = EINVAL;
		return -1;
	}
	return real(option, arguments[0], arguments[1], arguments[2], arguments[3]);
}

struct passwd *getpwnam(const char *name)
{
	struct passwd *(*real)(const char *) = dlsym(RTLD_NEXT, "getpwnam");

	return word("users=") && access(word("users="), F_OK) != 0 ? NULL : real(name);
}
