/*
 * What somebody who broke into a router would try, from within: loaded into it (LD_PRELOAD), it tries once a client
 * is accepted, and writes "NAME ERRNO" lines to the descriptor $ESCAPES_FD; 0 for what succeeded.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if_alg.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int results = -1;

static void tell(const char *name, long result)
{
	dprintf(results, "%s %d\n", name, result < 0 ? errno : 0);
}

/* What would be left open. */
static void tell_open(const char *name, int fd)
{
	tell(name, fd);
	close(fd);
}

/* The path of something that the test made: DIRECTORY/NAME. */
static const char *path(const char *name)
{
	static char text[4096];

	snprintf(text, sizeof(text), "%s/%s", getenv("ESCAPES_DIRECTORY"), name);
	return text;
}

/* In a child, so that a success does not end the router: its errno is its exit status. */
static void tell_execution(const char *name, const char *program, int by_descriptor)
{
	char *const words[] = { (char *)program, NULL }, *const none[] = { NULL };
	int status, child = fork();

	if (child == 0) {
		if (by_descriptor)
			syscall(SYS_execveat, open(program, O_PATH), "", words, none, AT_EMPTY_PATH);
		else
			execve(program, words, none);
		_exit(errno);
	}
	if (child < 0)
		tell(name, -1);
	else if (waitpid(child, &status, 0) == child)
		dprintf(results, "%s %d\n", name, WEXITSTATUS(status));
}

/* A child that is root of a network of its own would reach parts of the kernel that are closed to all others. */
static void try_namespaces(void)
{
	long child = syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0);

	if (child == 0)
		_exit(0);
	tell("clone", child);
	if (child > 0)
		waitpid((pid_t)child, NULL, 0);
}

static void try_sockets(void)
{
	tell_open("netlink", socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
	tell_open("packet", socket(AF_PACKET, SOCK_RAW, 0));
	tell_open("raw", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
	tell_open("ping", socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
	tell_open("sctp", socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP));
	tell_open("alg", socket(AF_ALG, SOCK_SEQPACKET, 0));
	tell_open("vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
	tell_open("seqpacket", socket(AF_UNIX, SOCK_SEQPACKET, 0));
}

/* Calls that the router makes, but not so. */
static void try_arguments(int other)
{
	int file = open(path("file"), O_RDONLY), flags = FS_NODUMP_FL;
	int terminal = atoi(getenv("ESCAPES_TERMINAL"));
	struct rlimit limit;

	tell("tiocsti", ioctl(terminal, TIOCSTI, "#"));
	tell("setflags", ioctl(file, FS_IOC_SETFLAGS, &flags));
	tell("lease", fcntl(file, F_SETLEASE, F_RDLCK));
	fcntl(file, F_SETLEASE, F_UNLCK);
	tell("setlease", fcntl(file, F_SETLEASE, F_WRLCK));
	fcntl(file, F_SETLEASE, F_UNLCK); /* or the attempts below would end this by SIGIO */
	tell("setown", fcntl(terminal, F_SETOWN, other));
	tell("dumpable", prctl(PR_SET_DUMPABLE, 1));
	tell("prlimit", (long)syscall(SYS_prlimit64, other, RLIMIT_NOFILE, NULL, &limit));
	tell("setpriority", setpriority(PRIO_PROCESS, (id_t)other, 5));
	tell("tgkill", syscall(SYS_tgkill, other, other, SIGCONT));
	tell_open("cut", open(path("file"), O_RDONLY | O_TRUNC));
	tell_open("nameless", open(getenv("ESCAPES_DIRECTORY"), O_RDWR | O_TMPFILE, 0600));
	tell_open("memory", open("/proc/self/mem", O_RDWR));
	close(file);
}

static void try_all(void)
{
	struct sockaddr_in any = { .sin_family = AF_INET };
	struct iovec part = { &any, sizeof(any) };
	const int other = atoi(getenv("ESCAPES_OTHER"));
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	tell_open("read", open(path("file"), O_RDONLY));
	tell_open("write", open(path("file"), O_WRONLY));
	tell_open("append", open(path("file"), O_WRONLY | O_APPEND));
	tell_open("write_log",
		  open(path("file"), O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY)); /* base/log.c */
	tell_open("truncate", open(path("file"), O_RDWR | O_TRUNC));
	tell_open("create", open(path("new"), O_WRONLY | O_CREAT, 0600));
	tell("unlink", unlink(path("victim")));
	tell("unlink_below", unlink(path("below/victim")));
	tell("mkdir", mkdir(path("directory"), 0700));
	tell("symlink", symlink("/etc/passwd", path("link")));
	tell("rename", rename(path("file"), "/tmp/elsewhere"));
	tell("chmod", chmod(path("file"), 0777));
	tell_execution("execve", "/bin/true", 0);
	tell_execution("execveat", path("program"), 1);
	tell("bind", bind(listener, (struct sockaddr *)&any, sizeof(any)));
	tell("listen", listen(listener, 5));
	close(listener);
	tell("ptrace",
	     ptrace(PTRACE_PEEKDATA, other, 0, 0)); /* attached to nothing: ESRCH where it is permitted */
	tell("process_vm_readv", process_vm_readv(other, &part, 1, &part, 1, 0));
	tell("kill", kill(other, SIGCONT));
	tell("setuid", setuid(0));
	tell("unshare", unshare(CLONE_NEWUSER));
	tell_open("io_uring_setup", (int)syscall(SYS_io_uring_setup, 1, NULL));
	tell("bpf", syscall(SYS_bpf, 0, NULL, 0));
	tell("keyctl", syscall(SYS_keyctl, 0, 0, 0));
	tell("umount", syscall(SYS_umount2, "/no/such/place", 0));
	try_namespaces();
	try_sockets();
	try_arguments(other);
	close(results);
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	int (*real)(int, struct sockaddr *, socklen_t *, int) = dlsym(RTLD_NEXT, "accept4");
	const char *word = getenv("ESCAPES_FD");

	if (results < 0 && word) {
		results = atoi(word);
		try_all();
	}
	return real(fd, address, length, flags);
}
