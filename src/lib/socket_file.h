/*
 * A listening UNIX socket and the file that belongs to it.
 */
#ifndef KAISO_LIB_SOCKET_FILE_H
#define KAISO_LIB_SOCKET_FILE_H

#include <limits.h>
#include <sys/types.h>

struct kaiso_socket_file {
	int fd;           /* listens; owned */
	int directory_fd; /* where the file is; owned; -1: there is none to be removed */
	char name[NAME_MAX + 1];
	dev_t device; /* which file that is: another that has taken its place is left alone */
	ino_t inode;
	pid_t owner; /* processes that come from this one by fork() leave the file */
};

/* As kaiso_listen() (kaiso.h) says of path. 0 or a negative errno. */
int kaiso_socket_file_open(struct kaiso_socket_file *file, const char *path);

/* Removes the file, then closes. */
void kaiso_socket_file_close(struct kaiso_socket_file *file);

#endif
