/*
 * `kaiso mirror`: a directory that is kept equal to the keys of an etcd cluster.
 */
#ifndef KAISO_MIRROR_MIRROR_H
#define KAISO_MIRROR_MIRROR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mirror/etcd.h"

/* All texts are the caller's. */
struct mirror_options {
	struct etcd_options etcd; /* stop_fd is not the caller's */
	const char *prefix;
	const char *directory;
	uint64_t max_services;
	uint64_t max_bytes;
	uint64_t check_ms; /* how often all files are looked at; 0: only when all is read */
	bool is_once;      /* make it equal, and that is all */
	bool has_sync;
};

/* Runs until SIGTERM or SIGINT, which it blocks. 0 then, or when it is equal and that was all; else a negative errno, and
 * a line in the log says what is wrong. */
int mirror_run(const struct mirror_options *options);

#endif
