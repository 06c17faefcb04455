/*
 * Makes one call of the program that it is preloaded into fail, as a memory shared with the test says
 * (tests/faults/control.py has the same layout).
 *
 * A place is a function with the way to it: the first frames of the stack outside this file, whatever library they are
 * in, and the next ones of the program itself. In RECORD every place that is passed is written down with how often;
 * in INJECT the calls at one place fail, from one occurrence to another.
 *
 * A call that fails is not made, but for close(2), after which the descriptor is gone whatever it says. What the
 * kernel promises with an error is kept: after an EAGAIN, or a short read or write, it owes the caller an edge, so the
 * descriptor is armed again in the epoll that it is in; an error that says that the connection is lost loses it.
 *
 * Blocks of memory are counted too: what a session has left behind shows to the block.
 */
#undef _FILE_OFFSET_BITS /* else open() and open64() would be one name */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <link.h>
#include <malloc.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <unwind.h>

/* clang-format off */
/* Those that the program, libcares and libseccomp call, by the name of the man page's function. */
#define FUNCTIONS(X) \
	X(accept4) X(access) X(bind) X(calloc) X(clock_gettime) X(close) X(connect) X(dup2) \
	X(epoll_create1) X(epoll_ctl) X(epoll_wait) X(eventfd) X(fcntl) X(fexecve) X(fopen) X(fork) X(fstat) \
	X(fstatat) X(getaddrinfo) X(getcwd) X(getdents64) X(getgrnam) X(gethostname) X(getpeername) \
	X(getpwnam) X(getrandom) X(getrlimit) X(getsockname) X(getsockopt) X(initgroups) X(ioctl) X(kill) \
	X(landlock_add_rule) X(landlock_create_ruleset) X(landlock_restrict_self) X(linkat) \
	X(listen) X(malloc) X(memfd_create) X(open) X(openat) X(pipe2) X(poll) X(prctl) X(pread) \
	X(pthread_create) X(pthread_sigmask) X(read) X(realloc) X(realpath) X(recv) X(recvfrom) \
	X(recvmsg) X(sched_getaffinity) X(seccomp) X(send) X(sendmsg) X(sendto) X(setgroups) \
	X(setpriority) X(setresgid) X(setresuid) X(setrlimit) X(setsockopt) X(shutdown) X(signal) \
	X(signalfd) X(socket) X(splice) X(stat) X(syscall) X(unlinkat) X(waitpid) X(write) \
	X(writev)
/* clang-format on */

enum function {
#define X(name) F_##name,
	FUNCTIONS(X)
#undef X
		F_COUNT
};

enum mode { OFF, RECORD, INJECT };
enum verdict { PASS, FAIL, SHORT };

#define MAGIC 0x6b66310au
#define NAMES_MAX 128
#define MODULES_MAX 16
#define PLACES_MAX 8192
#define FRAMES 6         /* of a place */
#define FRAMES_ANY 2     /* so many of them of any module, the rest of the program alone */
#define FRAMES_PROGRAM 3 /* so many of the program in all */
#define EXEMPT_MAX 8
#define WATCHED_MAX 65536

struct place {
	_Atomic uint64_t hash;
	uint32_t function;
	_Atomic uint32_t count;
	uint64_t frames[FRAMES]; /* module << 48, and the offset in it */
};

struct control {
	uint32_t magic;
	_Atomic uint32_t mode;
	uint32_t function; /* INJECT: this one, */
	int32_t error;
	uint64_t place; /* at this place, */
	uint32_t first; /* from this occurrence */
	uint32_t last;  /* to this one */
	uint32_t is_short;
	uint32_t owner; /* the process whose memory is counted */
	_Atomic uint32_t hits;
	_Atomic uint32_t injected;
	_Atomic uint64_t calls; /* of all functions here but those of memory and clock_gettime() */
	_Atomic int64_t blocks;
	_Atomic int64_t bytes;
	int32_t exempt[EXEMPT_MAX]; /* descriptors that are left alone; -1 for none */
	_Atomic uint32_t places_full;
	uint32_t starts; /* of the owner's programs */
	char names[NAMES_MAX][24];
	char modules[MODULES_MAX][40];
	struct place places[PLACES_MAX];
};

static const char *const names[] = {
#define X(name) #name,
	FUNCTIONS(X)
#undef X
};

struct module {
	uintptr_t begin, end, base;
	bool is_own;
};

static struct control *control;
static bool is_owner;
static struct module modules[MODULES_MAX];
static size_t module_count;
static _Thread_local bool is_inside __attribute__((tls_model("initial-exec")));

static struct {
	int epoll_fd; /* plus 1; 0 for none */
	struct epoll_event event;
} watched[WATCHED_MAX];

/* ---- places ---------------------------------------------------------------------------------------------- */

struct walk {
	uint64_t frames[FRAMES];
	size_t count;
	size_t of_program;
};

static int module_of(uintptr_t address)
{
	for (size_t i = 0; i < module_count; i++) {
		if (address >= modules[i].begin && address < modules[i].end)
			return (int)i;
	}
	return -1;
}

static _Unwind_Reason_Code take_frame(struct _Unwind_Context *context, void *argument)
{
	struct walk *walk = argument;
	uintptr_t address = _Unwind_GetIP(context);
	int module = address ? module_of(address) : -1;

	if (module < 0)
		return address ? _URC_NO_REASON : _URC_END_OF_STACK;
	if (modules[module].is_own || (module > 0 && walk->count >= FRAMES_ANY))
		return _URC_NO_REASON;
	walk->frames[walk->count++] = (uint64_t)module << 48 | (address - modules[module].base);
	walk->of_program += module == 0;
	return walk->of_program == FRAMES_PROGRAM || walk->count == FRAMES ? _URC_END_OF_STACK :
									     _URC_NO_REASON;
}

static uint64_t place_of(enum function function, struct walk *walk)
{
	uint64_t hash = 0xcbf29ce484222325u ^ function;

	*walk = (struct walk){ 0 };
	_Unwind_Backtrace(take_frame, walk);
	for (size_t i = 0; i < FRAMES; i++)
		hash = (hash ^ walk->frames[i]) * 0x100000001b3u + (hash >> 29);
	return hash ? hash : 1;
}

static void place_record(enum function function, uint64_t hash, const struct walk *walk)
{
	for (size_t i = 0; i < PLACES_MAX; i++) {
		struct place *place = &control->places[(hash + i) % PLACES_MAX];
		uint64_t found = 0;

		if (atomic_compare_exchange_strong(&place->hash, &found, hash)) {
			place->function = function;
			memcpy(place->frames, walk->frames, sizeof(place->frames));
			found = hash;
		}
		if (found == hash) {
			place->count++;
			return;
		}
	}
	control->places_full = 1;
}

static bool is_exempt(int fd)
{
	for (size_t i = 0; fd >= 0 && i < EXEMPT_MAX; i++) {
		if (control->exempt[i] == fd)
			return true;
	}
	return false;
}

static enum verdict decide_at_place(enum function function, enum mode mode)
{
	struct walk walk;
	uint64_t hash = place_of(function, &walk);
	uint32_t hit;

	if (mode == RECORD) {
		place_record(function, hash, &walk);
		return PASS;
	}
	if (hash != control->place)
		return PASS;
	hit = ++control->hits;
	if (hit < control->first || hit > control->last)
		return PASS;
	control->injected++;
	return control->is_short ? SHORT : FAIL;
}

/* errno is that of the fault when it is to FAIL, else as before. */
static enum verdict decide(enum function function, int fd, int other_fd)
{
	int error = errno;
	enum verdict verdict;
	enum mode mode;

	if (!control || is_inside)
		return PASS;
	if (function != F_malloc && function != F_calloc && function != F_realloc &&
	    function != F_clock_gettime)
		control->calls++;
	mode = (enum mode)control->mode;
	if (mode == OFF || (mode == INJECT && control->function != function) || is_exempt(fd) ||
	    is_exempt(other_fd))
		return PASS;
	is_inside = true;
	verdict = decide_at_place(function, mode);
	is_inside = false;
	errno = verdict == FAIL ? control->error : error;
	return verdict;
}

/* ---- life ------------------------------------------------------------------------------------------------ */

static int take_module(struct dl_phdr_info *info, size_t size, void *own)
{
	struct module *module = &modules[module_count];
	const char *slash = strrchr(info->dlpi_name, '/');

	(void)size;
	if (module_count == MODULES_MAX)
		return 1;
	*module = (struct module){ .begin = UINTPTR_MAX, .base = info->dlpi_addr };
	for (int i = 0; i < info->dlpi_phnum; i++) {
		uintptr_t begin = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;

		if (info->dlpi_phdr[i].p_type != PT_LOAD)
			continue;
		module->begin = begin < module->begin ? begin : module->begin;
		if (begin + info->dlpi_phdr[i].p_memsz > module->end)
			module->end = begin + info->dlpi_phdr[i].p_memsz;
	}
	module->is_own = (uintptr_t)own >= module->begin && (uintptr_t)own < module->end;
	if (control)
		snprintf(control->modules[module_count], sizeof(control->modules[0]), "%s",
			 slash ? slash + 1 : info->dlpi_name);
	module_count++;
	return 0;
}

static void *real[F_COUNT];

static void *real_of(enum function function)
{
	if (!real[function])
		real[function] = dlsym(RTLD_NEXT, names[function]);
	return real[function];
}

__attribute__((constructor)) static void begin(void)
{
	const char *word = getenv("FAULTS_FD");
	struct control *shared;
	struct walk walk;

	is_inside = true;
	for (int i = 0; i < F_COUNT; i++)
		real_of((enum function)i);
	shared = word ? mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(word), 0) :
			MAP_FAILED;
	if (shared != MAP_FAILED && shared->magic == MAGIC) {
		control = shared;
		dl_iterate_phdr(take_module, (void *)begin);
		for (size_t i = 0; i < F_COUNT; i++)
			strcpy(control->names[i], names[i]);
		place_of(F_COUNT, &walk); /* the unwinder makes itself ready */
		if (control->owner == 0)
			control->owner = (uint32_t)getpid();
		is_owner = control->owner == (uint32_t)getpid();
		if (is_owner) { /* or the program has been replaced by another */
			control->starts++;
			control->blocks = 0;
			control->bytes = 0;
		}
	}
	is_inside = false;
}

/* ---- calls ----------------------------------------------------------------------------------------------- */

#define REAL(name) ((__typeof__(&name))real_of(F_##name))

/* The call of a function that fails with -1. */
#define SIMPLE(name, fd, other_fd, ...)                                                     \
	return decide(F_##name, fd, other_fd) == FAIL ? (__typeof__(name(__VA_ARGS__)))-1 : \
							REAL(name)(__VA_ARGS__)

static void arm_again(int fd)
{
	int error = errno;

	if (fd >= 0 && fd < WATCHED_MAX && watched[fd].epoll_fd > 0)
		REAL(epoll_ctl)(watched[fd].epoll_fd - 1, EPOLL_CTL_MOD, fd, &watched[fd].event);
	errno = error;
}

static bool is_loss(int error)
{
	return error == EPIPE || error == ECONNRESET || error == ENOTCONN || error == ETIMEDOUT ||
	       error == EHOSTUNREACH || error == ENETUNREACH || error == ENETDOWN;
}

/* The connection is over on both sides; a TCP one by a reset (tcp_disconnect()). What is no socket stays. */
static void lose(int fd)
{
	const struct sockaddr nowhere = { .sa_family = AF_UNSPEC };
	int error = errno;

	if (fd >= 0 && REAL(connect)(fd, &nowhere, sizeof(nowhere)) != 0)
		REAL(shutdown)(fd, SHUT_RDWR);
	errno = error;
}

/* The length that a read or a write is made with; *has_failed says that it is not made at all. */
static size_t decide_length(enum function function, int fd, int other_fd, size_t length, bool *has_failed)
{
	enum verdict verdict = decide(function, fd, other_fd);

	*has_failed = verdict == FAIL;
	if (verdict == FAIL && is_loss(errno)) {
		lose(fd);
		lose(other_fd);
	}
	if (verdict == SHORT && length > 1)
		length = 1;
	if (verdict == SHORT || (verdict == FAIL && errno == EAGAIN)) {
		arm_again(fd);
		arm_again(other_fd);
	}
	return length;
}

ssize_t recv(int fd, void *buffer, size_t length, int flags)
{
	bool has_failed;

	length = decide_length(F_recv, fd, -1, length, &has_failed);
	return has_failed ? -1 : REAL(recv)(fd, buffer, length, flags);
}

ssize_t __recv_chk(int fd, void *buffer, size_t length, size_t size, int flags);
ssize_t __recv_chk(int fd, void *buffer, size_t length, size_t size, int flags)
{
	bool has_failed;

	length = decide_length(F_recv, fd, -1, length, &has_failed);
	if (length > size)
		abort();
	return has_failed ? -1 : REAL(recv)(fd, buffer, length, flags);
}

ssize_t recvfrom(int fd, void *buffer, size_t length, int flags, struct sockaddr *address,
		 socklen_t *address_length)
{
	bool has_failed;

	length = decide_length(F_recvfrom, fd, -1, length, &has_failed);
	return has_failed ? -1 : REAL(recvfrom)(fd, buffer, length, flags, address, address_length);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	size_t length = message->msg_iovlen > 0 ? message->msg_iov[0].iov_len : 0;
	bool has_failed;

	length = decide_length(F_recvmsg, fd, -1, length, &has_failed);
	if (message->msg_iovlen > 0)
		message->msg_iov[0].iov_len = length;
	return has_failed ? -1 : REAL(recvmsg)(fd, message, flags);
}

ssize_t send(int fd, const void *buffer, size_t length, int flags)
{
	bool has_failed;

	length = decide_length(F_send, fd, -1, length, &has_failed);
	return has_failed ? -1 : REAL(send)(fd, buffer, length, flags);
}

ssize_t sendto(int fd, const void *buffer, size_t length, int flags, const struct sockaddr *address,
	       socklen_t address_length)
{
	SIMPLE(sendto, fd, -1, fd, buffer, length, flags, address, address_length);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	bool has_failed;

	decide_length(F_sendmsg, fd, -1, 0, &has_failed);
	return has_failed ? -1 : REAL(sendmsg)(fd, message, flags);
}

ssize_t read(int fd, void *buffer, size_t length)
{
	bool has_failed;

	/* Of an eventfd or a signalfd there are no parts. */
	length = decide_length(F_read, fd, -1, length, &has_failed);
	return has_failed ? -1 : REAL(read)(fd, buffer, length);
}

ssize_t pread64(int fd, void *buffer, size_t length, off_t offset)
{
	bool has_failed;

	length = decide_length(F_pread, fd, -1, length, &has_failed);
	return has_failed ? -1 : REAL(pread)(fd, buffer, length, offset);
}

ssize_t write(int fd, const void *buffer, size_t length)
{
	bool has_failed;

	length = decide_length(F_write, fd, -1, length, &has_failed);
	return has_failed ? -1 : REAL(write)(fd, buffer, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
	SIMPLE(writev, fd, -1, fd, parts, count);
}

ssize_t splice(int from, off_t *from_offset, int into, off_t *into_offset, size_t length, unsigned flags)
{
	bool has_failed;

	length = decide_length(F_splice, from, into, length, &has_failed);
	return has_failed ? -1 : REAL(splice)(from, from_offset, into, into_offset, length, flags);
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	SIMPLE(accept4, fd, -1, fd, address, length, flags);
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
	SIMPLE(bind, fd, -1, fd, address, length);
}

int listen(int fd, int backlog)
{
	SIMPLE(listen, fd, -1, fd, backlog);
}

int socket(int domain, int type, int protocol)
{
	SIMPLE(socket, -1, -1, domain, type, protocol);
}

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
	SIMPLE(connect, fd, -1, fd, address, length);
}

int shutdown(int fd, int how)
{
	bool has_failed;

	decide_length(F_shutdown, fd, -1, 0, &has_failed);
	return has_failed ? -1 : REAL(shutdown)(fd, how);
}

int getsockopt(int fd, int level, int option, void *value, socklen_t *length)
{
	SIMPLE(getsockopt, fd, -1, fd, level, option, value, length);
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t length)
{
	SIMPLE(setsockopt, fd, -1, fd, level, option, value, length);
}

int getsockname(int fd, struct sockaddr *address, socklen_t *length)
{
	SIMPLE(getsockname, fd, -1, fd, address, length);
}

int getpeername(int fd, struct sockaddr *address, socklen_t *length)
{
	SIMPLE(getpeername, fd, -1, fd, address, length);
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	void *argument;

	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	SIMPLE(ioctl, fd, -1, fd, request, argument);
}

static int fcntl_any(int fd, int command, long argument)
{
	SIMPLE(fcntl, fd, -1, fd, command, argument);
}

int fcntl64(int fd, int command, ...)
{
	va_list arguments;
	long argument;

	va_start(arguments, command);
	argument = va_arg(arguments, long);
	va_end(arguments);
	return fcntl_any(fd, command, argument);
}

int fcntl(int fd, int command, ...)
{
	va_list arguments;
	long argument;

	va_start(arguments, command);
	argument = va_arg(arguments, long);
	va_end(arguments);
	return fcntl_any(fd, command, argument);
}

int close(int fd)
{
	bool has_failed = decide(F_close, fd, -1) == FAIL;
	int error = errno, result;

	if (fd >= 0 && fd < WATCHED_MAX)
		watched[fd].epoll_fd = 0;
	result = REAL(close)(fd);
	if (!has_failed)
		return result;
	errno = error;
	return -1;
}

int pipe2(int ends[2], int flags)
{
	SIMPLE(pipe2, -1, -1, ends, flags);
}

int dup2(int fd, int number)
{
	SIMPLE(dup2, -1, -1, fd, number);
}

int poll(struct pollfd *watched_fds, nfds_t count, int timeout_ms)
{
	SIMPLE(poll, -1, -1, watched_fds, count, timeout_ms);
}

int epoll_create1(int flags)
{
	SIMPLE(epoll_create1, -1, -1, flags);
}

int epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
	int result;

	if (decide(F_epoll_ctl, fd, -1) == FAIL)
		return -1;
	result = REAL(epoll_ctl)(epoll_fd, operation, fd, event);
	if (result == 0 && fd < WATCHED_MAX) {
		watched[fd].epoll_fd = operation == EPOLL_CTL_DEL ? 0 : epoll_fd + 1;
		if (operation != EPOLL_CTL_DEL)
			watched[fd].event = *event;
	}
	return result;
}

int epoll_wait(int epoll_fd, struct epoll_event *events, int count, int timeout_ms)
{
	SIMPLE(epoll_wait, -1, -1, epoll_fd, events, count, timeout_ms);
}

int eventfd(unsigned count, int flags)
{
	SIMPLE(eventfd, -1, -1, count, flags);
}

int signalfd(int fd, const sigset_t *mask, int flags)
{
	SIMPLE(signalfd, -1, -1, fd, mask, flags);
}

static int open_any(const char *path, int flags, mode_t mode)
{
	SIMPLE(open, -1, -1, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	va_list arguments;
	mode_t mode;

	va_start(arguments, flags);
	mode = va_arg(arguments, mode_t);
	va_end(arguments);
	return open_any(path, flags, mode);
}

static int openat_any(int directory, const char *path, int flags, mode_t mode)
{
	SIMPLE(openat, -1, -1, directory, path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...)
{
	va_list arguments;
	mode_t mode;

	va_start(arguments, flags);
	mode = va_arg(arguments, mode_t);
	va_end(arguments);
	return openat_any(directory, path, flags, mode);
}

int __openat64_2(int directory, const char *path, int flags);
int __openat64_2(int directory, const char *path, int flags)
{
	return openat_any(directory, path, flags, 0);
}

FILE *fopen(const char *path, const char *mode)
{
	return decide(F_fopen, -1, -1) == FAIL ? NULL : REAL(fopen)(path, mode);
}

int stat64(const char *path, struct stat64 *status)
{
	return decide(F_stat, -1, -1) == FAIL ? -1 : REAL(stat)(path, (struct stat *)status);
}

int fstat64(int fd, struct stat64 *status)
{
	return decide(F_fstat, fd, -1) == FAIL ? -1 : REAL(fstat)(fd, (struct stat *)status);
}

int fstatat64(int directory, const char *path, struct stat64 *status, int flags)
{
	return decide(F_fstatat, -1, -1) == FAIL ?
		       -1 :
		       REAL(fstatat)(directory, path, (struct stat *)status, flags);
}

int access(const char *path, int mode)
{
	SIMPLE(access, -1, -1, path, mode);
}

ssize_t getdents64(int fd, void *buffer, size_t length)
{
	SIMPLE(getdents64, fd, -1, fd, buffer, length);
}

int unlinkat(int directory, const char *path, int flags)
{
	SIMPLE(unlinkat, -1, -1, directory, path, flags);
}

int linkat(int from_directory, const char *from, int directory, const char *path, int flags)
{
	SIMPLE(linkat, -1, -1, from_directory, from, directory, path, flags);
}

char *getcwd(char *buffer, size_t size)
{
	return decide(F_getcwd, -1, -1) == FAIL ? NULL : REAL(getcwd)(buffer, size);
}

char *__realpath_chk(const char *path, char *resolved, size_t size);
char *__realpath_chk(const char *path, char *resolved, size_t size)
{
	(void)size;
	return decide(F_realpath, -1, -1) == FAIL ? NULL : REAL(realpath)(path, resolved);
}

char *realpath(const char *path, char *resolved)
{
	return decide(F_realpath, -1, -1) == FAIL ? NULL : REAL(realpath)(path, resolved);
}

int gethostname(char *name, size_t length)
{
	SIMPLE(gethostname, -1, -1, name, length);
}

int memfd_create(const char *name, unsigned flags)
{
	SIMPLE(memfd_create, -1, -1, name, flags);
}

pid_t fork(void)
{
	pid_t child;

	if (decide(F_fork, -1, -1) == FAIL)
		return -1;
	child = REAL(fork)();
	if (child == 0)
		is_owner = false;
	return child;
}

int fexecve(int fd, char *const words[], char *const environment[])
{
	SIMPLE(fexecve, -1, -1, fd, words, environment);
}

pid_t waitpid(pid_t child, int *status, int options)
{
	SIMPLE(waitpid, -1, -1, child, status, options);
}

int kill(pid_t process, int number)
{
	SIMPLE(kill, -1, -1, process, number);
}

int prctl(int operation, ...)
{
	va_list arguments;
	unsigned long words[4];

	va_start(arguments, operation);
	for (size_t i = 0; i < 4; i++)
		words[i] = va_arg(arguments, unsigned long);
	va_end(arguments);
	SIMPLE(prctl, -1, -1, operation, words[0], words[1], words[2], words[3]);
}

static enum function syscall_function(long number)
{
	switch (number) {
	case SYS_landlock_create_ruleset:
		return F_landlock_create_ruleset;
	case SYS_landlock_add_rule:
		return F_landlock_add_rule;
	case SYS_landlock_restrict_self:
		return F_landlock_restrict_self;
	case SYS_seccomp:
		return F_seccomp;
	default:
		return F_syscall;
	}
}

long syscall(long number, ...)
{
	va_list arguments;
	long words[6];

	va_start(arguments, number);
	for (size_t i = 0; i < 6; i++)
		words[i] = va_arg(arguments, long);
	va_end(arguments);
	if (decide(syscall_function(number), -1, -1) == FAIL)
		return -1;
	return REAL(syscall)(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}

ssize_t getrandom(void *buffer, size_t length, unsigned flags)
{
	SIMPLE(getrandom, -1, -1, buffer, length, flags);
}

int getrlimit64(__rlimit_resource_t resource, struct rlimit64 *limit)
{
	return decide(F_getrlimit, -1, -1) == FAIL ? -1 : REAL(getrlimit)(resource, (struct rlimit *)limit);
}

int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *limit)
{
	return decide(F_setrlimit, -1, -1) == FAIL ? -1 :
						     REAL(setrlimit)(resource, (const struct rlimit *)limit);
}

int setpriority(__priority_which_t which, id_t who, int priority)
{
	SIMPLE(setpriority, -1, -1, which, who, priority);
}

int sched_getaffinity(pid_t process, size_t size, cpu_set_t *set)
{
	SIMPLE(sched_getaffinity, -1, -1, process, size, set);
}

/* These return the error. */
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
	return decide(F_pthread_create, -1, -1) == FAIL ?
		       errno :
		       REAL(pthread_create)(thread, attributes, run, argument);
}

int pthread_sigmask(int how, const sigset_t *set, sigset_t *before)
{
	return decide(F_pthread_sigmask, -1, -1) == FAIL ? errno : REAL(pthread_sigmask)(how, set, before);
}

/* And this one a code of its own. */
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
	if (decide(F_getaddrinfo, -1, -1) != FAIL)
		return REAL(getaddrinfo)(host, service, hints, found);
	return errno == ENOMEM ? EAI_MEMORY :
	       errno == EAGAIN ? EAI_AGAIN :
	       errno == ENOENT ? EAI_NONAME :
				 EAI_SYSTEM;
}

__sighandler_t signal(int number, __sighandler_t handler)
{
	return decide(F_signal, -1, -1) == FAIL ? SIG_ERR : REAL(signal)(number, handler);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	SIMPLE(clock_gettime, -1, -1, clock, now);
}

struct passwd *getpwnam(const char *name)
{
	return decide(F_getpwnam, -1, -1) == FAIL ? NULL : REAL(getpwnam)(name);
}

struct group *getgrnam(const char *name)
{
	return decide(F_getgrnam, -1, -1) == FAIL ? NULL : REAL(getgrnam)(name);
}

int initgroups(const char *user, gid_t group)
{
	SIMPLE(initgroups, -1, -1, user, group);
}

int setgroups(size_t count, const gid_t *groups)
{
	SIMPLE(setgroups, -1, -1, count, groups);
}

int setresuid(uid_t uid, uid_t effective, uid_t saved)
{
	SIMPLE(setresuid, -1, -1, uid, effective, saved);
}

int setresgid(gid_t gid, gid_t effective, gid_t saved)
{
	SIMPLE(setresgid, -1, -1, gid, effective, saved);
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

/* glibc's own, by which it can be had before any symbol is looked up. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void __libc_free(void *block);

static void *count_block(void *block)
{
	if (block && is_owner) {
		control->blocks++;
		control->bytes += (int64_t)malloc_usable_size(block);
	}
	return block;
}

static void uncount_block(void *block)
{
	if (block && is_owner) {
		control->blocks--;
		control->bytes -= (int64_t)malloc_usable_size(block);
	}
}

void *malloc(size_t size)
{
	return decide(F_malloc, -1, -1) == FAIL ? NULL : count_block(__libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
	return decide(F_calloc, -1, -1) == FAIL ? NULL : count_block(__libc_calloc(count, size));
}

void *realloc(void *block, size_t size)
{
	void *moved;

	if (decide(F_realloc, -1, -1) == FAIL)
		return NULL;
	uncount_block(block);
	moved = __libc_realloc(block, size);
	if (!moved && block && size > 0)
		count_block(block);
	return count_block(moved);
}

void *reallocarray(void *block, size_t count, size_t size)
{
	size_t total;

	if (__builtin_mul_overflow(count, size, &total)) {
		errno = ENOMEM;
		return NULL;
	}
	return realloc(block, total);
}

void free(void *block)
{
	uncount_block(block);
	__libc_free(block);
}
