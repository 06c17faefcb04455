/*
 * Theory of operation: each stage is a function of its own and does not know of the others; the caller has the order
 * (router/confine.c).
 *
 * Landlock: rights that a ruleset handles are denied but where a rule grants them, so reading is left out of what it
 * handles: services may be linked from anywhere. Its constants are ours, since Debian 12's headers are older than the
 * kernels it meets.
 */
#include "base/sandbox.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
#include <limits.h>
#include <link.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <pwd.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/args.h"
#include "base/macros.h"

/* ---- user ------------------------------------------------------------------------------------------ */

/* A name, or else a number. */
static int find_group(const char *name, gid_t *gid)
{
	const struct group *group = getgrnam(name);
	uint64_t number;

	if (group)
		*gid = group->gr_gid;
	else if (args_parse_number(name, 0, UINT32_MAX - 1, &number) == 0)
		*gid = (gid_t)number;
	else
		return -ENOENT;
	return 0;
}

static int find_user(const char *name, uid_t *uid, gid_t *gid, char login[static 64])
{
	const struct passwd *user = getpwnam(name);
	uint64_t number;

	if (!user && args_parse_number(name, 0, UINT32_MAX - 1, &number) == 0) {
		user = getpwuid((uid_t)number);
		*uid = (uid_t)number;
		*gid = (gid_t)number;
	} else if (!user) {
		return -ENOENT;
	}
	login[0] = '\0';
	if (user) {
		*uid = user->pw_uid;
		*gid = user->pw_gid;
		snprintf(login, 64, "%s", user->pw_name);
	}
	return 0;
}

#define CAPABILITY(number) (UINT64_C(1) << (number))
#define CAPABILITIES_MAX 64
/* What a router of root's is for: to read what is linked, and to connect to other users' sockets. */
#define CAPABILITIES_OF_ROOT (CAPABILITY(CAP_DAC_OVERRIDE) | CAPABILITY(CAP_DAC_READ_SEARCH))

static uint64_t lease_if(bool takes_leases)
{
	return takes_leases ? CAPABILITY(CAP_LEASE) : 0;
}

/* Gives up all but those, and keeps them over execve(2): as ambient ones, for who is not root. What is ambient and not
 * inheritable any more, the kernel takes away by itself. */
static int capabilities_limit(uint64_t kept)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct before[_LINUX_CAPABILITY_U32S_3], sets[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &header, before) != 0)
		return -errno;
	for (unsigned i = 0; i < ARRAY_SIZE(sets); i++) {
		sets[i].permitted = before[i].permitted & (uint32_t)(kept >> (32 * i));
		sets[i].effective = sets[i].permitted;
		sets[i].inheritable = sets[i].permitted;
	}
	/* A service manager that gave no others may forbid the call as well. */
	if (memcmp(sets, before, sizeof(sets)) != 0 && syscall(SYS_capset, &header, sets) != 0)
		return -errno;
	for (unsigned i = 0; i < CAPABILITIES_MAX; i++) {
		if (kept >> i & 1)
			prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0);
	}
	return 0;
}

/* All that root has would go with its number, so it is kept until capabilities_limit(). */
static int change_user(uid_t uid, gid_t gid, uint64_t kept)
{
	int r;

	prctl(PR_SET_KEEPCAPS, kept != 0, 0, 0, 0);
	if (setresgid(gid, gid, gid) != 0 || setresuid(uid, uid, uid) != 0)
		return -errno;
	prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
	r = uid == 0 ? 0 : capabilities_limit(kept);
	/* It must not be possible to go back. */
	return r == 0 && uid != 0 && setuid(0) == 0 ? -EPERM : r;
}

int sandbox_become_user(const char *name, bool takes_leases)
{
	char text[128], login[64], *colon;
	uid_t uid;
	gid_t gid;
	int r;

	if (strlen(name) >= sizeof(text))
		return -ENOENT;
	memcpy(text, name, strlen(name) + 1);
	colon = strchr(text, ':');
	if (colon)
		*colon = '\0';
	r = find_user(text, &uid, &gid, login);
	if (r == 0 && colon)
		r = find_group(colon + 1, &gid);
	if (r < 0)
		return r;
	if (getuid() == uid && geteuid() == uid && getgid() == gid)
		return 0;
	if (login[0] ? initgroups(login, gid) : setgroups(0, NULL))
		return -errno;
	return change_user(uid, gid, lease_if(takes_leases));
}

int sandbox_keep_privileges(void)
{
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : -errno;
}

int sandbox_drop_capabilities(bool takes_leases)
{
	const uint64_t kept = CAPABILITIES_OF_ROOT | lease_if(takes_leases);

	/* Beyond what must succeed: nobody could get these back after no_new_privs. Only root may drop them. */
	for (unsigned i = 0; i < CAPABILITIES_MAX; i++) {
		if (!(kept >> i & 1))
			prctl(PR_CAPBSET_DROP, i, 0, 0, 0);
	}
	return capabilities_limit(kept);
}

/* ---- files (Landlock) -------------------------------------------------------------------------------- */

#define FS_EXECUTE (UINT64_C(1) << 0)
#define FS_WRITE_FILE (UINT64_C(1) << 1)
#define FS_REMOVE_FILE (UINT64_C(1) << 5)
/* REMOVE_DIR to MAKE_SYM: 4 to 12. */
#define FS_VERSION_1 (FS_EXECUTE | FS_WRITE_FILE | (UINT64_C(0x1ff) << 4))
#define FS_REFER (UINT64_C(1) << 13)     /* version 2 */
#define FS_TRUNCATE (UINT64_C(1) << 14)  /* 3 */
#define FS_IOCTL_DEV (UINT64_C(1) << 15) /* 5: terminals are written, and asked for nothing */
#define NET_BIND_TCP (UINT64_C(1) << 0)  /* 4 */
#define SCOPE_SIGNAL (UINT64_C(1) << 1)  /* 6 */

/* By the version that brought it. */
static const char *const parts_of_landlock[] = {
	[3] = "truncation", [4] = "TCP ports", [5] = "ioctl of devices", [6] = "signals"
};

void sandbox_files_missing(int version, char *text, size_t size)
{
	size_t length = 0;

	text[0] = '\0';
	for (int i = MAX(version + 1, 3); i < (int)ARRAY_SIZE(parts_of_landlock) && length < size; i++)
		length += (size_t)snprintf(text + length, size - length, "%s%s", length > 0 ? ", " : "",
					   parts_of_landlock[i]);
}

/* As landlock(7) has it since version 6; older kernels take its beginning. */
struct ruleset {
	uint64_t fs;
	uint64_t net;
	uint64_t scoped;
};

static struct ruleset ruleset_of_version(int version, size_t *size)
{
	struct ruleset ruleset = { .fs = FS_VERSION_1 };

	*size = sizeof(ruleset.fs);
	if (version >= 2)
		ruleset.fs |= FS_REFER;
	if (version >= 3)
		ruleset.fs |= FS_TRUNCATE;
	if (version >= 4) {
		ruleset.net = NET_BIND_TCP;
		*size = sizeof(ruleset.fs) + sizeof(ruleset.net);
	}
	if (version >= 5)
		ruleset.fs |= FS_IOCTL_DEV;
	if (version >= 6) {
		ruleset.scoped = SCOPE_SIGNAL;
		*size = sizeof(ruleset);
	}
	return ruleset;
}

static void ruleset_permit(int ruleset_fd, uint64_t rights, int fd)
{
	struct landlock_path_beneath_attr rule = { .allowed_access = rights, .parent_fd = fd };

	/* What is no file of a file system (a pipe) needs no rule, and cannot have one. */
	if (fd >= 0)
		syscall(SYS_landlock_add_rule, ruleset_fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
}

static void ruleset_permit_path(int ruleset_fd, uint64_t rights, const char *path)
{
	CLEANUP_CLOSE int fd = open(path, O_PATH | O_CLOEXEC);

	ruleset_permit(ruleset_fd, rights, fd);
}

/* Where the file of that path lies, links followed: the file may be replaced, so it is the directory. */
static void ruleset_permit_directory_of(int ruleset_fd, uint64_t rights, const char *path)
{
	char real[PATH_MAX];

	if (realpath(path, real))
		ruleset_permit_path(ruleset_fd, rights, dirname(real));
}

/* The program's loader (PT_INTERP); the kernel opens it for execution too. */
static int take_loader(struct dl_phdr_info *info, size_t size, void *loader)
{
	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		if (info->dlpi_phdr[i].p_type == PT_INTERP)
			*(const char **)loader = (const char *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
	}
	return 1; /* the first is the program itself */
}

int sandbox_limit_files(const char *program, const char *const *removable, size_t count)
{
	int version = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	CLEANUP_CLOSE int fd = -1;
	const char *loader = NULL;
	struct ruleset ruleset;
	size_t size;

	if (version < 0)
		return -errno;
	ruleset = ruleset_of_version(version, &size);
	fd = (int)syscall(SYS_landlock_create_ruleset, &ruleset, size, 0);
	if (fd < 0)
		return -errno;
	dl_iterate_phdr(take_loader, &loader);
	if (program)
		ruleset_permit_directory_of(fd, FS_EXECUTE, program);
	if (loader)
		ruleset_permit_directory_of(fd, FS_EXECUTE, loader);
	for (size_t i = 0; i < count; i++)
		ruleset_permit_path(fd, FS_REMOVE_FILE, removable[i]);
	ruleset_permit(fd, FS_WRITE_FILE, STDERR_FILENO);
	return syscall(SYS_landlock_restrict_self, fd, 0) == 0 ? version : -errno;
}

/* ---- system calls (seccomp) ---------------------------------------------------------------------------- */

#if !SANDBOX_HAS_CALLS
int sandbox_limit_calls(void)
{
	return -ENOSYS;
}
#else

/* What the C library, its loader (after an upgrade) and its threads call, whatever the program does; and what a later
 * program needs to narrow the sandbox that it finds itself in. */
SANDBOX_CALLS("access", "arch_prctl", "brk", "clock_gettime", "clock_nanosleep", "clone", "close", "exit",
	      "exit_group", "faccessat", "faccessat2", "fcntl", "fstat", "futex", "getegid", "geteuid",
	      "getgid", "getpid", "getrandom", "gettid", "getuid", "lseek", "madvise", "mmap", "mprotect",
	      "mremap", "munmap", "newfstatat", "openat", "open", "pread64", "prlimit64", "getrlimit",
	      "setrlimit", "read", "readlink", "readlinkat", "readv", "restart_syscall", "riscv_flush_icache",
	      "rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "sched_yield",
	      "set_robust_list", "set_tid_address", "stat", "statx", "sysinfo", "tgkill", "ugetrlimit",
	      "uname", "write", "writev", "capget", "capset", "landlock_add_rule", "landlock_create_ruleset",
	      "landlock_restrict_self", "seccomp");

extern const char *const sandbox_calls_first[] __asm__("__start_sandbox_calls")
	__attribute__((visibility("hidden")));
extern const char *const sandbox_calls_end[] __asm__("__stop_sandbox_calls")
	__attribute__((visibility("hidden")));

/* A call that is in this table is permitted only as one of its lines has it. Numbers are compared in the 32 bits that
 * the kernel looks at, since the others hold anything. */
struct rule {
	const char *call;
	struct scmp_arg_cmp arguments[3];
};

#define MASKED(argument, mask, value)                                             \
	{                                                                         \
		argument, SCMP_CMP_MASKED_EQ, (uint32_t)(mask), (uint32_t)(value) \
	}
#define IS(argument, value) MASKED(argument, UINT32_MAX, value)
#define HAS_NONE(argument, bits) MASKED(argument, bits, 0)
#define SOCKET(family, type, protocol)                                       \
	{                                                                    \
		"socket",                                                    \
		{                                                            \
			IS(0, family), MASKED(1, 0xf, type), IS(2, protocol) \
		}                                                            \
	}
#define NAMESPACES 0x7e020000 /* each CLONE_NEW* of clone(2) */
/* Landlock has the say about writing, where there is one; anyway nothing is made or cut short. */
#define OPEN_FOR_MORE (O_ACCMODE | O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY))
#define OPEN_LOG (O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY) /* base/log.c */

#ifdef __s390__
#define CLONE_FLAGS 1
#else
#define CLONE_FLAGS 0
#endif

static const struct rule rules[] = {
	{ "clone", { HAS_NONE(CLONE_FLAGS, NAMESPACES) } },
	{ "fcntl", { IS(1, F_ADD_SEALS) } },
	{ "fcntl", { IS(1, F_DUPFD_CLOEXEC) } },
	{ "fcntl", { IS(1, F_GETFD) } },
	{ "fcntl", { IS(1, F_GETFL) } },
	{ "fcntl", { IS(1, F_SETFD) } },
	{ "fcntl", { IS(1, F_SETFL) } },
	/* router/policy.c: is somebody writing what it reads? */
	{ "fcntl", { IS(1, F_SETLEASE), IS(2, F_RDLCK) } },
	{ "fcntl", { IS(1, F_SETLEASE), IS(2, F_UNLCK) } },
	{ "fcntl", { IS(1, F_SETPIPE_SZ) } },
	{ "fcntl", { IS(1, F_SETSIG), IS(2, SIGURG) } },
	{ "ioctl", { IS(1, FIONBIO) } },
	{ "ioctl", { IS(1, FIONREAD) } },
	{ "ioctl", { IS(1, SIOCATMARK) } },
	{ "ioctl", { IS(1, SIOCGIFINDEX) } }, /* if_nametoindex(3): %eth0 */
	{ "ioctl", { IS(1, SIOCOUTQ) } },
	{ "ioctl", { IS(1, TCGETS) } }, /* stdio: is it a terminal? */
	/* For --progress: whose turn it is there, and how wide it is. Nothing that writes, as TIOCSTI does. */
	{ "ioctl", { IS(0, STDERR_FILENO), IS(1, TIOCGPGRP) } },
	{ "ioctl", { IS(0, STDERR_FILENO), IS(1, TIOCGWINSZ) } },
	{ "open", { HAS_NONE(1, OPEN_FOR_MORE) } },
	{ "open", { MASKED(1, ~O_LARGEFILE, OPEN_LOG) } },
	{ "openat", { HAS_NONE(2, OPEN_FOR_MORE) } },
	{ "openat", { MASKED(2, ~O_LARGEFILE, OPEN_LOG) } },
	{ "prctl", { IS(0, PR_SET_NAME) } },
	{ "prctl", { IS(0, PR_SET_NO_NEW_PRIVS) } }, /* libseccomp, before each filter */
	{ "prlimit64", { IS(0, 0) } },
	{ "setpriority", { IS(0, PRIO_PROCESS), IS(1, 0) } },
	SOCKET(AF_UNIX, SOCK_STREAM, 0),
	SOCKET(AF_UNIX, SOCK_DGRAM, 0),
	SOCKET(AF_INET, SOCK_STREAM, 0),
	SOCKET(AF_INET, SOCK_STREAM, IPPROTO_TCP),
	SOCKET(AF_INET, SOCK_DGRAM, 0),
	SOCKET(AF_INET, SOCK_DGRAM, IPPROTO_UDP),
	SOCKET(AF_INET6, SOCK_STREAM, 0),
	SOCKET(AF_INET6, SOCK_STREAM, IPPROTO_TCP),
	SOCKET(AF_INET6, SOCK_DGRAM, 0),
	SOCKET(AF_INET6, SOCK_DGRAM, IPPROTO_UDP),
};

/* Names that this architecture, or this version of the library, does not have are no loss: number is negative. */
static int permit(scmp_filter_ctx filter, const struct rule *rule)
{
	int number = seccomp_syscall_resolve_name(rule->call);
	unsigned count = 0;

	while (count < ARRAY_SIZE(rule->arguments) && rule->arguments[count].op != 0)
		count++;
	return number < 0 ? 0 :
			    seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, number, count, rule->arguments);
}

static bool has_rules(const char *call)
{
	for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
		if (strcmp(rules[i].call, call) == 0)
			return true;
	}
	return strcmp(call, "tgkill") == 0;
}

static int permit_all(scmp_filter_ctx filter)
{
	/* abort(3); the process is the same after an upgrade. */
	const struct rule own_signal = { "tgkill", { IS(0, getpid()) } };
	int r = permit(filter, &own_signal);

	/* cppcheck-suppress comparePointers; they are the ends of one section */
	for (const char *const *name = sandbox_calls_first; r == 0 && name < sandbox_calls_end; name++) {
		if (*name && !has_rules(*name))
			r = permit(filter, &(struct rule){ .call = *name });
	}
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(rules); i++)
		r = permit(filter, &rules[i]);
	return r;
}

int sandbox_limit_calls(void)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int r = filter ? permit_all(filter) : -ENOMEM;

	/* The C library then takes clone(2). */
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (r == 0)
		r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	/* The kernel's own errno, not ECANCELED. */
	if (r == 0)
		r = seccomp_attr_set(filter, SCMP_FLTATR_API_SYSRAWRC, 1);
	if (r == 0) {
		r = seccomp_load(filter);
		if (r == -EINVAL)
			r = -ENOSYS; /* as prctl(2) says it */
	}
	if (filter)
		seccomp_release(filter);
	return r;
}
#endif
