/*
 * The file of a program: where it is, and whether it can be wrapped.
 */
#ifndef KAISO_WRAP_PROGRAM_H
#define KAISO_WRAP_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>

/* Finds the word as execvp(3) would: a path when it holds a '/', else the first executable regular file in
 * $PATH. 0 and a path for the caller to free, or a negative errno: -ENOENT, -EACCES (found, but not
 * executable), -ENOMEM. */
int program_find(const char *word, char **path);

/* Does the word, looked up as a program, name this very executable? (`kaiso passfd … kaiso inject …`) */
bool program_is_self(const char *word);

/*
 * What the file of a program is, for deciding whether it can be wrapped. Follows the interpreters of
 * scripts: the facts are those of the ELF file that runs in the end.
 */
struct program_facts {
	bool is_foreign;     /* ELF of another class or machine than this executable: 32-bit */
	bool is_static;      /* no dynamic linker, so no LD_PRELOAD */
	bool has_other_libc; /* dynamic, but with another dynamic linker (musl) */
	bool is_go;          /* makes its system calls itself, dynamic or not */
	bool is_privileged;  /* set-uid, set-gid, or file capabilities */
};

/* 0, or a negative errno: -EACCES (cannot be read), -ENOEXEC (no ELF, no script), others of open(2). */
int program_inspect(const char *path, struct program_facts *facts);

/* NULL, or why it cannot be wrapped, under preload or by seccomp: a few words, static. */
const char *program_obstacle(const struct program_facts *facts, bool is_preload);

#endif
