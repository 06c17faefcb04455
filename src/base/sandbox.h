/*
 * What a router gives up once it is ready: another user's rights, files to write and to run, and the system calls
 * that it never makes. Whoever breaks into it has no more than it has left.
 *
 * In stages, each of which may be missing on an older kernel; then the others hold, and the caller is told. All of it
 * is for the calling thread and those that it makes later, and lasts over execve(2): call it before the first thread.
 * Sources: no_new_privs(2) in prctl(2), landlock(7) (Linux 5.13; network 6.7, scopes 6.12), seccomp(2).
 */
#ifndef KAISO_BASE_SANDBOX_H
#define KAISO_BASE_SANDBOX_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

/*
 * The system calls that a file of source makes, by their names, at its top: sandbox_limit_calls() permits those of all
 * files of the program and no others. SANDBOX_CALLS("recvfrom", "sendto");
 */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(__clang__)
#define SANDBOX_CALLS(...) static_assert(true, "sanitizers make calls of their own")
#define SANDBOX_HAS_CALLS 0
#else
#define SANDBOX_CALLS(...)                            \
	static const char *const sandbox_calls_here[] \
		__attribute__((section("sandbox_calls"), used)) = { __VA_ARGS__ }
#define SANDBOX_HAS_CALLS 1
#endif

/*
 * Grows whenever what the sandbox permits changes (tools/check-sandbox sees to it). A program that takes over a process
 * in an older one puts its own around it; if it needs more than that one permits, it cannot take over: SANDBOX_NEEDS is
 * the oldest that it can live in, so what permits more than before raises it to SANDBOX_REVISION.
 */
#ifndef SANDBOX_REVISION /* tests have programs of other revisions */
#define SANDBOX_REVISION 4
#define SANDBOX_NEEDS 1
#endif

/*
 * Becomes that user (NAME or NAME:GROUP, by number too), with the user's own groups alone. For root; whoever is that user
 * already stays as it is, groups included. Of root's powers one at most goes along, over execve(2) too: with takes_leases
 * CAP_LEASE, to take leases (fcntl(2), F_SETLEASE) of other users' files. 0, or a negative errno: -ENOENT no such user or
 * group, -EPERM not permitted.
 */
int sandbox_become_user(const char *name, bool takes_leases);

/* execve(2) gives no rights any more. 0 or a negative errno. */
int sandbox_keep_privileges(void);

/* Gives up root's powers, as far as there are any, but two: to read any file and to connect to any socket that its links
 * lead to; and with takes_leases a third, as above. Those that are left last over execve(2). 0 or a negative errno. */
int sandbox_drop_capabilities(bool takes_leases);

/*
 * Files can be read as before, but not written, made or removed, save that what is in removable (directories; count of
 * them), and in the directories beneath, may be removed: Landlock knows no less. None can be run, save what lies where
 * program (a path) does and its loader; but a loader runs whatever can be read, and a memfd can be run, in the same
 * sandbox. No TCP port can be bound, where the kernel knows that (the result says its Landlock version), and no process
 * outside be signalled. Standard error stays writable. Returns the version of Landlock, or a negative errno: -ENOSYS,
 * -EOPNOTSUPP: not on this kernel.
 */
int sandbox_limit_files(const char *program, const char *const *removable, size_t count);

/* What a kernel whose Landlock has this version lacks, for people: "TCP ports, signals"; terminated, empty when nothing
 * is. */
#define SANDBOX_MISSING_SIZE 128
void sandbox_files_missing(int version, char *text, size_t size);

/* Only the calls that SANDBOX_CALLS() name, and of some only what the program does with them; others fail with EPERM.
 * 0 or a negative errno; -ENOSYS: not on this kernel, or a program of clang's or with a sanitizer, which makes calls of
 * its own. */
int sandbox_limit_calls(void);

#endif
