/*
 * Theory of operation: the library defines some calls of the C library under their own names. The dynamic
 * linker finds these first, because LD_PRELOAD goes before everything else; the real ones are what it would
 * have found next (dlsym(3), RTLD_NEXT), which may be those of another preloaded library.
 *
 * The table is filled by the constructor, when there is one thread. A library that is initialised before
 * this one may call earlier: then the table is filled on the way, to the same values.
 */
#include "wrap/preload.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stddef.h>

static struct preload_calls calls;
static _Atomic int is_filled;

/* Each by its name in the C library; preload.map exports the same names. */
static void fill_calls(void)
{
#define FIND(name) *(void **)&calls.name = dlsym(RTLD_NEXT, #name)
	FIND(connect);
	FIND(sendto);
	FIND(sendmsg);
	FIND(sendmmsg);
	FIND(listen);
	FIND(accept);
	FIND(accept4);
	FIND(getsockname);
	FIND(getsockopt);
	FIND(setsockopt);
	FIND(execve);
	FIND(execvpe);
	FIND(fexecve);
	FIND(execveat);
	FIND(posix_spawn);
	FIND(posix_spawnp);
#undef FIND
	atomic_store_explicit(&is_filled, 1, memory_order_release);
}

const struct preload_calls *preload_calls(void)
{
	if (!atomic_load_explicit(&is_filled, memory_order_acquire))
		fill_calls();
	return &calls;
}

__attribute__((constructor)) static void preload_init(void)
{
	fill_calls();
	preload_inject_init();
	preload_passfd_init();
}
