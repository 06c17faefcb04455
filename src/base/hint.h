/*
 * The next step for whoever is told of an error, in one place for all commands and the router's log.
 */
#ifndef KAISO_BASE_HINT_H
#define KAISO_BASE_HINT_H

#define HINT_SIZE 320

/*
 * What to do about an errno (positive) that came of path: a socket that should be connected to (access W_OK), a directory
 * that should be read (R_OK | X_OK) or be written in (W_OK | X_OK); the bits are those of access(2). path NULL: no file
 * is concerned. "" where nothing is known that the error does not say itself.
 *
 * Where permission is denied it finds out by whom, on which part of the path, and for which group. Names of users and
 * groups are those of /etc/passwd and /etc/group, elsewhere numbers: a router does not wait for a directory service.
 * Returns text, terminated, on one line, without control bytes.
 */
const char *hint_for(int error, const char *path, int access, char text[static HINT_SIZE]);

#endif
