/*
 * Any bytes as the file of a program that is to be wrapped: ELF, a script, or neither.
 *
 * Oracle: a verdict with a reason, the same for a file that has only been made longer by bytes that nothing in it names.
 * The file is mapped, so its size is made one of whole pages: a look beyond its end is a fault.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "wrap/program.h"

#define ENSURE(condition)                                                       \
	do {                                                                    \
		if (!(condition)) {                                             \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
			abort();                                                \
		}                                                               \
	} while (0)

#define PAGE 4096

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static int inspect(const uint8_t *input, size_t size, size_t length, struct program_facts *facts)
{
	char path[32];
	int file = memfd_create("program", MFD_CLOEXEC), r;

	ENSURE(file >= 0 && write(file, input, size) == (ssize_t)size && ftruncate(file, (off_t)length) == 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	r = program_inspect(path, facts);
	close(file);
	return r;
}

/* Interpreters of scripts are files of this host: none is to be opened by chance. */
static bool names_a_file(const uint8_t *input, size_t size)
{
	return size >= 2 && memcmp(input, "#!", 2) == 0 && memchr(input, '/', size);
}

static void check_facts(const struct program_facts *facts)
{
	const char *by_seccomp = program_obstacle(facts, false), *by_preload = program_obstacle(facts, true);

	ENSURE(!by_seccomp || by_preload);
	ENSURE((by_seccomp != NULL) == (facts->is_foreign || facts->is_privileged));
	ENSURE(!by_preload || by_preload[0] != '\0');
	ENSURE(!facts->has_other_libc || !facts->is_static);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	size_t length = (size + PAGE - 1) / PAGE * PAGE;
	struct program_facts facts, longer;
	int r;

	if (names_a_file(input, size))
		return 0;
	r = inspect(input, size, length, &facts);
	ENSURE(r <= 0 && r >= -4095);
	if (r == 0)
		check_facts(&facts);
	if (r == 0 && inspect(input, size, length + PAGE, &longer) == 0)
		ENSURE(facts.is_foreign == longer.is_foreign);
	return 0;
}
