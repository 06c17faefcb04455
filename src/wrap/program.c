/*
 * Theory of operation: a program is found as execvp(3) finds it, so that nothing is run that the shell
 * would not have run. Its file is then read as the kernel will read it (execve(2), elf(5)): the
 * interpreters that scripts name are followed, and of the ELF file at the end only what decides about
 * wrapping is looked at: class and machine, the dynamic linker (PT_INTERP), and the build info that Go
 * leaves in every binary.
 *
 * Privileges count where the kernel counts them: on the ELF file, since set-uid bits of scripts have no
 * effect.
 */
#include "wrap/program.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "base/macros.h"

/* The kernel's own limit of interpreters that are scripts themselves. */
#define SCRIPT_DEPTH_MAX 5
#define FIRST_LINE_SIZE 256

#if defined(__x86_64__)
#define OWN_LINKER "ld-linux-x86-64.so.2"
#elif defined(__aarch64__)
#define OWN_LINKER "ld-linux-aarch64.so.1"
#endif

#define DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin"

/* ---- where ----------------------------------------------------------------------------------------- */

static int judge_file(const char *path)
{
	struct stat status;

	if (stat(path, &status) != 0)
		return -errno;
	if (!S_ISREG(status.st_mode))
		return -EACCES;
	return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0 ? 0 : -errno;
}

/* One directory of $PATH, an empty one being the working directory. */
static int try_directory(const char *directory, size_t length, const char *word, char **path)
{
	char *candidate;
	int r;

	if (asprintf(&candidate, "%.*s%s%s", (int)length, directory, length > 0 ? "/" : "./", word) < 0)
		return -ENOMEM;
	r = judge_file(candidate);
	if (r < 0)
		free(candidate);
	else
		*path = candidate;
	return r;
}

int program_find(const char *word, char **path)
{
	const char *directories = getenv("PATH");
	int result = -ENOENT;

	if (strchr(word, '/')) {
		result = judge_file(word);
		if (result == 0)
			*path = strdup(word);
		return result < 0 || *path ? result : -ENOMEM;
	}
	if (*word == '\0')
		return -ENOENT;
	if (!directories)
		directories = DEFAULT_PATH;
	for (const char *at = directories;; at++) {
		size_t length = strcspn(at, ":");
		int r = try_directory(at, length, word, path);

		/* Something that may not be run is remembered, but a later directory may have better. */
		if (r == 0 || r == -ENOMEM)
			return r;
		if (r == -EACCES)
			result = r;
		at += length;
		if (*at == '\0')
			return result;
	}
}

bool program_is_self(const char *word)
{
	CLEANUP_FREE char *path = NULL;
	struct stat other, self;

	return program_find(word, &path) == 0 && stat(path, &other) == 0 &&
	       stat("/proc/self/exe", &self) == 0 && other.st_dev == self.st_dev &&
	       other.st_ino == self.st_ino;
}

/* ---- what ------------------------------------------------------------------------------------------ */

/* A file in memory. */
struct image {
	const unsigned char *bytes;
	size_t size;
};

/* A piece of the file, or NULL when it is not all there. */
static const void *image_at(const struct image *image, uint64_t offset, uint64_t length)
{
	if (offset > image->size || length > image->size - offset)
		return NULL;
	return image->bytes + offset;
}

/* Go's linker (cmd/link, since Go 1.13) begins its build info with these bytes, in a section or segment of
 * its own. */
static bool is_go_section(const char *name)
{
	return strcmp(name, ".go.buildinfo") == 0 || strcmp(name, ".note.go.buildid") == 0 ||
	       strcmp(name, ".gopclntab") == 0;
}

static bool has_go_sections(const struct image *image, const ElfW(Ehdr) * header)
{
	const ElfW(Shdr) *sections =
		image_at(image, header->e_shoff, (uint64_t)header->e_shnum * sizeof(*sections));
	const ElfW(Shdr) * names;

	if (!sections || header->e_shoff % _Alignof(ElfW(Shdr)) || header->e_shstrndx >= header->e_shnum)
		return false;
	names = &sections[header->e_shstrndx];
	for (size_t i = 0; i < header->e_shnum; i++) {
		const char *name = image_at(image, names->sh_offset + sections[i].sh_name, 1);
		size_t room = name ? image->size - (size_t)((const unsigned char *)name - image->bytes) : 0;

		if (name && memchr(name, '\0', room) && is_go_section(name))
			return true;
	}
	return false;
}

/* A stripped binary may have lost its sections, but what is loaded keeps the magic of the build info. */
static bool has_go_magic(const struct image *image, const ElfW(Phdr) * segment)
{
	static const char magic[] = "\xff Go buildinf:";
	const void *bytes = image_at(image, segment->p_offset, segment->p_filesz);

	/* It lies at the beginning of the data, on a multiple of 16: no need to read all of a large file. */
	return segment->p_type == PT_LOAD && (segment->p_flags & PF_W) && bytes &&
	       memmem(bytes, MIN(segment->p_filesz, (uint64_t)65536), magic, sizeof(magic) - 1) != NULL;
}

/* The preload library was linked against one C library, known by its dynamic linker's name; another one's
 * linker leaves it out, with a warning at best. */
static bool is_own_linker(const struct image *image, const ElfW(Phdr) * segment)
{
	const char *path = image_at(image, segment->p_offset, segment->p_filesz);
	const char *slash;

	if (!path || segment->p_filesz == 0 || path[segment->p_filesz - 1] != '\0')
		return false;
	slash = strrchr(path, '/');
	return strcmp(slash ? slash + 1 : path, OWN_LINKER) == 0;
}

static int inspect_native(const struct image *image, struct program_facts *facts)
{
	const ElfW(Ehdr) *header = image_at(image, 0, sizeof(*header));
	const ElfW(Phdr) * segments;

	if (!header || (header->e_type != ET_EXEC && header->e_type != ET_DYN))
		return -ENOEXEC;
	segments = image_at(image, header->e_phoff, (uint64_t)header->e_phnum * sizeof(*segments));
	if (!segments || header->e_phoff % _Alignof(ElfW(Phdr)))
		return -ENOEXEC;
	facts->is_static = true;
	facts->is_go = has_go_sections(image, header);
	for (size_t i = 0; i < header->e_phnum; i++) {
		if (segments[i].p_type == PT_INTERP) {
			facts->is_static = false;
			facts->has_other_libc = !is_own_linker(image, &segments[i]);
		}
		facts->is_go |= has_go_magic(image, &segments[i]);
	}
	return 0;
}

/* This executable's own header, put in place by the linker: its calls are the ones that can be hooked. */
/* NOLINTNEXTLINE(bugprone-reserved-identifier): the linker's name */
extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));

static int inspect_elf(const struct image *image, struct program_facts *facts)
{
	ElfW(Ehdr) header;

	/* Class, byte order and machine are at the same place in all of them. */
	if (image->size < sizeof(Elf32_Ehdr))
		return -ENOEXEC;
	memset(&header, 0, sizeof(header));
	memcpy(&header, image->bytes, MIN(image->size, sizeof(header)));
	if (header.e_ident[EI_CLASS] != __ehdr_start.e_ident[EI_CLASS] ||
	    header.e_ident[EI_DATA] != __ehdr_start.e_ident[EI_DATA] ||
	    header.e_machine != __ehdr_start.e_machine) {
		facts->is_foreign = true;
		return 0;
	}
	return inspect_native(image, facts);
}

/* The path behind "#!", cut as the kernel cuts it. */
static bool parse_interpreter(const struct image *image, char path[static FIRST_LINE_SIZE])
{
	size_t length = MIN(image->size, (size_t)FIRST_LINE_SIZE - 1);

	if (length < 2 || memcmp(image->bytes, "#!", 2) != 0)
		return false;
	memcpy(path, image->bytes + 2, length - 2);
	path[length - 2] = '\0';
	path[strcspn(path, "\n")] = '\0';
	memmove(path, path + strspn(path, " \t"), strlen(path + strspn(path, " \t")) + 1);
	path[strcspn(path, " \t")] = '\0';
	return true;
}

static bool is_privileged(int fd, const struct stat *status)
{
	return (status->st_mode & S_ISUID) ||
	       (status->st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) ||
	       fgetxattr(fd, "security.capability", NULL, 0) > 0;
}

/* 0 with facts; 1 with the interpreter to look at instead; or a negative errno. */
static int inspect_image(const struct image *image, struct program_facts *facts,
			 char interpreter[static FIRST_LINE_SIZE])
{
	if (image->size >= SELFMAG && memcmp(image->bytes, ELFMAG, SELFMAG) == 0)
		return inspect_elf(image, facts);
	return parse_interpreter(image, interpreter) ? 1 : -ENOEXEC;
}

static int inspect_file(const char *path, struct program_facts *facts,
			char interpreter[static FIRST_LINE_SIZE])
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct image image;
	struct stat status;
	int r;

	if (fd < 0 || fstat(fd, &status) != 0)
		return -errno;
	if (!S_ISREG(status.st_mode) || status.st_size == 0)
		return -ENOEXEC;
	image.size = (size_t)status.st_size;
	image.bytes = mmap(NULL, image.size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (image.bytes == MAP_FAILED)
		return -errno;
	r = inspect_image(&image, facts, interpreter);
	munmap((void *)(uintptr_t)image.bytes, image.size);
	if (r == 0)
		facts->is_privileged = is_privileged(fd, &status);
	return r;
}

int program_inspect(const char *path, struct program_facts *facts)
{
	char interpreters[2][FIRST_LINE_SIZE];
	int r = 1;

	*facts = (struct program_facts){ 0 };
	for (unsigned depth = 0; r == 1; depth++) {
		if (depth > SCRIPT_DEPTH_MAX)
			return -ELOOP;
		r = inspect_file(path, facts, interpreters[depth % 2]);
		path = interpreters[depth % 2];
	}
	return r;
}

const char *program_obstacle(const struct program_facts *facts, bool is_preload)
{
	if (facts->is_privileged)
		return "it is set-uid, set-gid or has file capabilities: those get lost under a wrapper";
	if (facts->is_foreign)
		return "it is a 32-bit program or for another processor: only native ones can be wrapped";
	if (is_preload && facts->is_static)
		return "it is linked statically, so no library can be preloaded; --mode seccomp can wrap it";
	if (is_preload && facts->has_other_libc)
		return "it uses another C library than the library to preload; --mode seccomp can wrap it";
	if (is_preload && facts->is_go)
		return "it is a Go program, which makes its system calls itself; --mode seccomp can wrap it";
	return NULL;
}
