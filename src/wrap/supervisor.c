/*
 * Theory of operation: the process that becomes the program installs a filter that stops the hooked calls
 * (SECCOMP_RET_USER_NOTIF) and tells the number of its listener. The supervisor fetches the listener with
 * pidfd_getfd(2), which is also the proof that it may look into the process, and watches it in its loop.
 * Each notification goes to the hooks of its number, role by role.
 *
 * What a task says must be taken for true only while it still waits: its number and its memory may
 * belong to another one the moment after. So every look into a task is followed by the question whether
 * the notification is alive (SECCOMP_IOCTL_NOTIF_ID_VALID). That is about mistaken identity;
 * a program that changes the memory meanwhile deceives only itself.
 *
 * Filters are per ABI. Calls of a foreign one (32-bit code in a 64-bit program's family) have
 * other numbers and layouts: the hooked ones fail there with ENOSYS, so that nothing gets around the hooks.
 * io_uring would be another way around: it is not there for the program.
 */
#include "wrap/supervisor.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/macros.h"

/* Newer than the headers of Debian 12, or of systems before it. */
#ifndef SECCOMP_IOCTL_NOTIF_ADDFD
#define SECCOMP_IOCTL_NOTIF_ADDFD SECCOMP_IOW(3, struct seccomp_notif_addfd)
#define SECCOMP_ADDFD_FLAG_SETFD (1UL << 0)
struct seccomp_notif_addfd {
	__u64 id;
	__u32 flags;
	__u32 srcfd;
	__u32 newfd;
	__u32 newfd_flags;
};
#endif
#ifndef SECCOMP_ADDFD_FLAG_SEND
#define SECCOMP_ADDFD_FLAG_SEND (1UL << 1) /* Linux 5.14 */
#endif
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5) /* Linux 5.19 */
#endif
#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL /* Linux 6.9 */
#endif

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "seccomp's name of this architecture is missing here"
#endif

#define FILTER_SIZE 512
#define PIDFDS 16

/* The last processes looked into: a pidfd names its process for ever, so an old one can only fail. */
struct known_process {
	pid_t tid;
	int pidfd;
};

struct supervisor {
	struct loop loop;
	struct loop_watch watch; /* the listener; -1 before there is one */
	const struct supervisor_hooks *roles[SUPERVISOR_ROLES_MAX];
	size_t role_count;
	struct seccomp_notif_sizes sizes;
	struct seccomp_notif *notification; /* of the size that the kernel has */
	struct seccomp_notif_resp *response;
	struct known_process known[PIDFDS];
	size_t known_next;
};

static int seccomp_call(unsigned operation, unsigned flags, void *argument)
{
	long r = syscall(SYS_seccomp, operation, flags, argument);

	return r < 0 ? -errno : (int)r;
}

/* ---- the filter ----------------------------------------------------------------------------------- */

struct filter {
	struct sock_filter code[FILTER_SIZE];
	unsigned short length;
};

static void filter_add(struct filter *filter, unsigned short code, uint32_t k, unsigned if_true,
		       unsigned if_false)
{
	if (filter->length == FILTER_SIZE)
		abort(); /* more hooks than any role has */
	filter->code[filter->length++] =
		(struct sock_filter)BPF_JUMP(code, k, (unsigned char)if_true, (unsigned char)if_false);
}

static void filter_load(struct filter *filter, size_t offset)
{
	filter_add(filter, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void filter_return(struct filter *filter, uint32_t action)
{
	filter_add(filter, BPF_RET | BPF_K, action, 0, 0);
}

/* The lower half of an argument: all flags are there. */
static size_t argument_offset(unsigned argument)
{
	size_t offset = offsetof(struct seccomp_data, args) + argument * sizeof(uint64_t);

	return __BYTE_ORDER == __LITTLE_ENDIAN ? offset : offset + sizeof(uint32_t);
}

/* Stops the hook's call when its condition holds. A jump counts the instructions that it leaves out. */
static void filter_add_hook(struct filter *filter, const struct supervisor_hook *hook)
{
	unsigned left_out = hook->flags_any != 0 ? 3 : hook->value_count > 0 ? hook->value_count + 2 : 1;

	filter_load(filter, offsetof(struct seccomp_data, nr));
	filter_add(filter, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)hook->number, 0, left_out);
	if (hook->flags_any != 0) {
		filter_load(filter, argument_offset(hook->flags_argument));
		filter_add(filter, BPF_JMP | BPF_JSET | BPF_K, hook->flags_any, 0, 1);
	} else if (hook->value_count > 0) {
		filter_load(filter, argument_offset(hook->values_argument));
		for (unsigned i = 0; i < hook->value_count; i++) {
			unsigned behind = hook->value_count - 1 - i;

			filter_add(filter, BPF_JMP | BPF_JEQ | BPF_K, hook->values[i], behind, behind == 0);
		}
	}
	filter_return(filter, SECCOMP_RET_USER_NOTIF);
}

#if defined(__x86_64__)

/* The calls of i386 that do what a native one does: number (0: none), and place in socketcall(2). */
struct foreign_call {
	int native;
	uint32_t number;
	uint32_t socketcall;
};

#define I386_SOCKETCALL 102

static const struct foreign_call foreign_calls[] = {
	{ SYS_bind, 361, 2 },        { SYS_connect, 362, 3 },   { SYS_listen, 363, 4 },
	{ SYS_accept, 0, 5 },        { SYS_accept4, 364, 18 },  { SYS_sendto, 369, 11 },
	{ SYS_sendmsg, 370, 16 },    { SYS_sendmmsg, 345, 20 }, { SYS_setsockopt, 366, 14 },
	{ SYS_getsockopt, 365, 15 },
};

static void filter_add_foreign(struct filter *filter, const struct foreign_call *call)
{
	if (call->number != 0) {
		filter_load(filter, offsetof(struct seccomp_data, nr));
		filter_add(filter, BPF_JMP | BPF_JEQ | BPF_K, call->number, 0, 1);
		filter_return(filter, SECCOMP_RET_ERRNO | ENOSYS);
	}
	filter_load(filter, offsetof(struct seccomp_data, nr));
	filter_add(filter, BPF_JMP | BPF_JEQ | BPF_K, I386_SOCKETCALL, 0, 3);
	filter_load(filter, argument_offset(0));
	filter_add(filter, BPF_JMP | BPF_JEQ | BPF_K, call->socketcall, 0, 1);
	filter_return(filter, SECCOMP_RET_ERRNO | ENOSYS);
}

/* For i386 code: sockets work but for what would get around the hooks. */
static void filter_add_foreign_calls(struct filter *filter, const struct supervisor *supervisor)
{
	for (size_t i = 0; i < ARRAY_SIZE(foreign_calls); i++) {
		bool is_hooked = false;

		for (size_t role = 0; role < supervisor->role_count; role++) {
			for (size_t j = 0; j < supervisor->roles[role]->count; j++)
				is_hooked |= supervisor->roles[role]->hooks[j].number ==
					     foreign_calls[i].native;
		}
		if (is_hooked)
			filter_add_foreign(filter, &foreign_calls[i]);
	}
	filter_load(filter, offsetof(struct seccomp_data, nr));
	filter_add(filter, BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1);
	filter_return(filter, SECCOMP_RET_ERRNO | ENOSYS);
	filter_return(filter, SECCOMP_RET_ALLOW);
}

/* x32 has the native ABI's name and numbers of its own, marked by a bit. */
static void filter_deny_x32(struct filter *filter)
{
	filter_load(filter, offsetof(struct seccomp_data, nr));
	filter_add(filter, BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1);
	filter_return(filter, SECCOMP_RET_ERRNO | ENOSYS);
}

#else

static void filter_add_foreign_calls(struct filter *filter, const struct supervisor *supervisor)
{
	(void)supervisor;
	filter_return(filter, SECCOMP_RET_ERRNO | ENOSYS);
}

static void filter_deny_x32(struct filter *filter)
{
	(void)filter;
}

#endif

static void filter_build(struct filter *filter, const struct supervisor *supervisor)
{
	unsigned short foreign;

	filter->length = 0;
	filter_load(filter, offsetof(struct seccomp_data, arch));
	filter_add(filter, BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
	foreign = filter->length;
	filter_add(filter, BPF_JMP | BPF_JA, 0, 0, 0); /* the distance is put in below */
	filter_deny_x32(filter);
	for (size_t role = 0; role < supervisor->role_count; role++) {
		for (size_t i = 0; i < supervisor->roles[role]->count; i++)
			filter_add_hook(filter, &supervisor->roles[role]->hooks[i]);
	}
	filter_load(filter, offsetof(struct seccomp_data, nr));
	filter_add(filter, BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1);
	filter_return(filter, SECCOMP_RET_ERRNO | ENOSYS);
	filter_return(filter, SECCOMP_RET_ALLOW);
	filter->code[foreign].k = (uint32_t)(filter->length - foreign - 1);
	filter_add_foreign_calls(filter, supervisor);
}

static int install_filter(struct sock_fprog *program, bool is_interruptible)
{
	unsigned flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
	int listener = -EINVAL;

	if (!is_interruptible)
		listener = seccomp_call(SECCOMP_SET_MODE_FILTER,
					flags | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, program);
	if (listener == -EINVAL)
		listener = seccomp_call(SECCOMP_SET_MODE_FILTER, flags, program);
	return listener;
}

int supervisor_filter(const struct supervisor *supervisor)
{
	struct filter filter;
	struct sock_fprog program;
	bool is_interruptible = false;
	int listener;

	for (size_t i = 0; i < supervisor->role_count; i++)
		is_interruptible |= supervisor->roles[i]->is_interruptible;
	filter_build(&filter, supervisor);
	program = (struct sock_fprog){ .len = filter.length, .filter = filter.code };
	/* With privileges the program may go on to use set-uid programs as ever; without, the kernel demands
	 * that it cannot (seccomp(2), EACCES). */
	listener = install_filter(&program, is_interruptible);
	if (listener != -EACCES)
		return listener;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return -errno;
	return install_filter(&program, is_interruptible);
}

/* ---- looking into tasks ---------------------------------------------------------------------------- */

bool supervisor_is_waiting(struct supervisor *supervisor, uint64_t id)
{
	return ioctl(supervisor->watch.fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0;
}

typedef ssize_t (*transfer)(pid_t, const struct iovec *, unsigned long, const struct iovec *, unsigned long,
			    unsigned long);

static int transfer_memory(struct supervisor *supervisor, const struct supervisor_call *call,
			   uint64_t address, void *bytes, size_t length, transfer move)
{
	struct iovec here = { .iov_base = bytes, .iov_len = length };
	struct iovec there = { .iov_base = (void *)(uintptr_t)address, .iov_len = length };
	ssize_t done = length == 0 ? 0 : move(call->tid, &here, 1, &there, 1, 0);
	int error = done < 0 ? errno : EFAULT;

	if (!supervisor_is_waiting(supervisor, call->id))
		return -ESRCH;
	return done == (ssize_t)length ? 0 : -error;
}

int supervisor_read(struct supervisor *supervisor, const struct supervisor_call *call, uint64_t address,
		    void *bytes, size_t length)
{
	return transfer_memory(supervisor, call, address, bytes, length, process_vm_readv);
}

int supervisor_write(struct supervisor *supervisor, const struct supervisor_call *call, uint64_t address,
		     const void *bytes, size_t length)
{
	/* Writing would hit whoever has the number now: so the question comes before it, too. */
	if (!supervisor_is_waiting(supervisor, call->id))
		return -ESRCH;
	return transfer_memory(supervisor, call, address, (void *)(uintptr_t)bytes, length,
			       process_vm_writev);
}

/* Numbers of /proc/TID/status by their names (proc(5)), in the base given. How many there were. */
static size_t read_status(pid_t tid, const char *const *names, size_t count, int base, uint64_t *values)
{
	char path[64], line[256];
	size_t found = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		for (size_t i = 0; i < count; i++) {
			size_t length = strlen(names[i]);

			if (strncmp(line, names[i], length) == 0 && line[length] == ':') {
				values[i] = strtoull(line + length + 1, NULL, base);
				found++;
			}
		}
	}
	if (file)
		fclose(file);
	return found;
}

pid_t supervisor_process_of(pid_t tid)
{
	static const char *const name = "Tgid";
	uint64_t pid;

	return read_status(tid, &name, 1, 10, &pid) == 1 ? (pid_t)pid : -ESRCH;
}

bool supervisor_has_signal(pid_t tid)
{
	static const char *const names[] = { "SigPnd", "ShdPnd", "SigBlk" };
	uint64_t sets[ARRAY_SIZE(names)];

	return read_status(tid, names, ARRAY_SIZE(names), 16, sets) == ARRAY_SIZE(names) &&
	       ((sets[0] | sets[1]) & ~sets[2]) != 0;
}

/* A thread has a pidfd of its own only since Linux 6.9; before, its process's shows the same descriptors. */
static int open_pidfd(pid_t tid)
{
	int fd = (int)syscall(SYS_pidfd_open, tid, 0);
	pid_t pid;

	if (fd < 0 && (errno == EINVAL || errno == ENOENT)) {
		fd = (int)syscall(SYS_pidfd_open, tid, PIDFD_THREAD);
		if (fd < 0) {
			pid = supervisor_process_of(tid);
			if (pid < 0)
				return pid;
			fd = (int)syscall(SYS_pidfd_open, pid, 0);
		}
	}
	return fd < 0 ? -errno : fd;
}

static int copy_fd(int pidfd, int fd)
{
	int copy = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);

	return copy < 0 ? -errno : copy;
}

static struct known_process *find_known(struct supervisor *supervisor, pid_t tid)
{
	for (size_t i = 0; i < PIDFDS; i++) {
		if (supervisor->known[i].pidfd >= 0 && supervisor->known[i].tid == tid)
			return &supervisor->known[i];
	}
	return NULL;
}

static void forget(struct known_process *known)
{
	cleanup_close(&known->pidfd);
	known->pidfd = -1;
}

static struct known_process *learn(struct supervisor *supervisor, pid_t tid, int pidfd)
{
	struct known_process *known = &supervisor->known[supervisor->known_next++ % PIDFDS];

	forget(known);
	*known = (struct known_process){ .tid = tid, .pidfd = pidfd };
	return known;
}

int supervisor_take_fd(struct supervisor *supervisor, const struct supervisor_call *call, int fd)
{
	struct known_process *known = find_known(supervisor, call->tid);
	CLEANUP_CLOSE int copy = -1;
	int pidfd;

	if (known) {
		copy = copy_fd(known->pidfd, fd);
		if (copy == -ESRCH || copy == -EBADF) {
			/* Another process has the number by now, or the thread's leader has gone. */
			forget(known);
			known = NULL;
		}
	}
	if (!known) {
		pidfd = open_pidfd(call->tid);
		if (pidfd < 0)
			return pidfd;
		copy = copy_fd(learn(supervisor, call->tid, pidfd)->pidfd, fd);
	}
	if (!supervisor_is_waiting(supervisor, call->id))
		return -ESRCH;
	return STEAL_FD(copy);
}

static int add_fd(struct supervisor *supervisor, struct seccomp_notif_addfd *addition)
{
	int number = ioctl(supervisor->watch.fd, SECCOMP_IOCTL_NOTIF_ADDFD, addition);

	if (number >= 0)
		return number;
	/* ENOENT: nobody waits any more. EINPROGRESS: it has been answered, which no role does twice. */
	return errno == ENOENT ? -ESRCH : -errno;
}

int supervisor_give_fd(struct supervisor *supervisor, const struct supervisor_call *call, int fd, int number,
		       int flags)
{
	struct seccomp_notif_addfd addition = { .id = call->id,
						.srcfd = (uint32_t)fd,
						.newfd_flags = (uint32_t)flags };

	if (number >= 0) {
		addition.flags = SECCOMP_ADDFD_FLAG_SETFD;
		addition.newfd = (uint32_t)number;
	}
	return add_fd(supervisor, &addition);
}

/* ---- answers --------------------------------------------------------------------------------------- */

static int answer(struct supervisor *supervisor, uint64_t id, int64_t result, uint32_t flags)
{
	struct seccomp_notif_resp *response = supervisor->response;

	memset(response, 0, supervisor->sizes.seccomp_notif_resp);
	response->id = id;
	response->flags = flags;
	if (result < 0)
		response->error = (int32_t)result;
	else
		response->val = result;
	return ioctl(supervisor->watch.fd, SECCOMP_IOCTL_NOTIF_SEND, response) == 0 ? 0 : -ESRCH;
}

int supervisor_return(struct supervisor *supervisor, uint64_t id, int64_t result)
{
	return answer(supervisor, id, result, 0);
}

int supervisor_continue(struct supervisor *supervisor, uint64_t id)
{
	return answer(supervisor, id, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
}

int supervisor_return_fd(struct supervisor *supervisor, uint64_t id, int fd, int flags)
{
	struct seccomp_notif_addfd addition = { .id = id,
						.srcfd = (uint32_t)fd,
						.newfd_flags = (uint32_t)flags,
						.flags = SECCOMP_ADDFD_FLAG_SEND };
	int number = add_fd(supervisor, &addition);

	if (number == -EINVAL) {
		/* Before Linux 5.14: in two steps. */
		addition.flags = 0;
		number = add_fd(supervisor, &addition);
		if (number >= 0)
			return supervisor_return(supervisor, id, number);
	}
	return number < 0 ? number : 0;
}

/* ---- notifications --------------------------------------------------------------------------------- */

/* The filter's question once more: roles may have different conditions for the same number. */
static bool is_wanted(const struct supervisor_hook *hook, const struct supervisor_call *call)
{
	if (hook->number != call->number)
		return false;
	if (hook->flags_any != 0)
		return (call->arguments[hook->flags_argument] & hook->flags_any) != 0;
	for (unsigned i = 0; i < hook->value_count; i++) {
		if ((uint32_t)call->arguments[hook->values_argument] == hook->values[i])
			return true;
	}
	return hook->value_count == 0;
}

static enum supervisor_verdict ask_hooks(struct supervisor *supervisor, const struct supervisor_call *call,
					 int64_t *result)
{
	for (size_t role = 0; role < supervisor->role_count; role++) {
		const struct supervisor_hooks *hooks = supervisor->roles[role];

		for (size_t i = 0; i < hooks->count; i++) {
			enum supervisor_verdict verdict = SUPERVISOR_NOT_MINE;

			if (is_wanted(&hooks->hooks[i], call))
				verdict = hooks->hooks[i].run(supervisor, call, result, hooks->context);
			if (verdict != SUPERVISOR_NOT_MINE)
				return verdict;
		}
	}
	return SUPERVISOR_CONTINUE;
}

static void handle_call(struct supervisor *supervisor, const struct supervisor_call *call)
{
	int64_t result = -ENOSYS;

	switch (ask_hooks(supervisor, call, &result)) {
	case SUPERVISOR_NOT_MINE:
	case SUPERVISOR_CONTINUE:
		supervisor_continue(supervisor, call->id);
		break;
	case SUPERVISOR_RETURN:
		supervisor_return(supervisor, call->id, result);
		break;
	case SUPERVISOR_LATER:
		break;
	}
}

/* The last task with the filter has gone (EPOLLHUP, Linux 5.9). */
static void end_listening(struct supervisor *supervisor)
{
	loop_watch(&supervisor->loop, &supervisor->watch, 0);
	cleanup_close(&supervisor->watch.fd);
	supervisor->watch.fd = -1;
}

static void on_listener(struct loop_watch *watch, uint32_t events)
{
	struct supervisor *supervisor = CONTAINER_OF(watch, struct supervisor, watch);
	struct seccomp_notif *notification = supervisor->notification;
	struct supervisor_call call;

	if (!(events & EPOLLIN)) {
		end_listening(supervisor);
		return;
	}
	/* What is announced may have been interrupted meanwhile: then this says ENOENT, it does not block. */
	memset(notification, 0, supervisor->sizes.seccomp_notif);
	if (ioctl(watch->fd, SECCOMP_IOCTL_NOTIF_RECV, notification) != 0)
		return;
	call = (struct supervisor_call){ .id = notification->id,
					 .tid = (pid_t)notification->pid,
					 .number = notification->data.nr };
	for (size_t i = 0; i < ARRAY_SIZE(call.arguments); i++)
		call.arguments[i] = notification->data.args[i];
	handle_call(supervisor, &call);
}

/* ---- life ------------------------------------------------------------------------------------------ */

struct loop *supervisor_loop(struct supervisor *supervisor)
{
	return &supervisor->loop;
}

void supervisor_add_hooks(struct supervisor *supervisor, const struct supervisor_hooks *hooks)
{
	supervisor->roles[supervisor->role_count++] = hooks;
}

/* A running kernel's structures may be longer than those that this was compiled with. */
static int allocate_messages(struct supervisor *supervisor)
{
	int r = seccomp_call(SECCOMP_GET_NOTIF_SIZES, 0, &supervisor->sizes);

	if (r < 0)
		return r;
	supervisor->notification =
		calloc(1, MAX(supervisor->sizes.seccomp_notif, sizeof(struct seccomp_notif)));
	supervisor->response =
		calloc(1, MAX(supervisor->sizes.seccomp_notif_resp, sizeof(struct seccomp_notif_resp)));
	return supervisor->notification && supervisor->response ? 0 : -ENOMEM;
}

int supervisor_attach(struct supervisor *supervisor, pid_t pid, int listener_number)
{
	CLEANUP_CLOSE int pidfd = open_pidfd(pid);
	CLEANUP_CLOSE int listener = -1;
	struct iovec here = { .iov_base = &(char){ 0 }, .iov_len = 1 };
	/* A byte that is at the same place in both processes, since one is a fork of the other. */
	struct iovec there = { .iov_base = supervisor, .iov_len = 1 };
	int r = allocate_messages(supervisor);

	if (r < 0)
		return r;
	if (pidfd < 0)
		return pidfd;
	listener = copy_fd(pidfd, listener_number);
	if (listener < 0)
		return listener;
	if (process_vm_readv(pid, &here, 1, &there, 1, 0) != 1)
		return -errno;
	supervisor->watch.fd = STEAL_FD(listener);
	return loop_watch(&supervisor->loop, &supervisor->watch, EPOLLIN);
}

struct supervisor *supervisor_new(void)
{
	struct supervisor *supervisor = calloc(1, sizeof(*supervisor));

	if (!supervisor)
		return NULL;
	if (loop_init(&supervisor->loop) != 0) {
		free(supervisor);
		return NULL;
	}
	supervisor->watch = (struct loop_watch){ .on_events = on_listener, .fd = -1 };
	for (size_t i = 0; i < PIDFDS; i++)
		supervisor->known[i].pidfd = -1;
	return supervisor;
}

void supervisor_free(struct supervisor *supervisor)
{
	if (!supervisor)
		return;
	loop_run_out(&supervisor->loop);
	loop_deinit(&supervisor->loop);
	cleanup_close(&supervisor->watch.fd);
	for (size_t i = 0; i < PIDFDS; i++)
		forget(&supervisor->known[i]);
	free(supervisor->notification);
	free(supervisor->response);
	free(supervisor);
}
