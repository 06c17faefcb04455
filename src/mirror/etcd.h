/*
 * An etcd cluster, over the JSON gateway of its members: reading all keys of a prefix, and watching them.
 *
 * One request at a time. A function that talks to etcd blocks until it is done, until etcd has been silent for the
 * timeout, or until the stop descriptor becomes readable, which it leaves as it is. Results of all of them: 0; -ECANCELED,
 * that descriptor; -ETIMEDOUT; -ENOMEM; -ESTALE, what was asked for is compacted; -EIO, anything else. For the last etcd_reason() has words.
 */
#ifndef KAISO_MIRROR_ETCD_H
#define KAISO_MIRROR_ETCD_H

#include <stddef.h>
#include <stdint.h>

#include "mirror/etcd_json.h"

/* The longest answer, and line of a watch. One key must have room in it. */
#define ETCD_ANSWER_MAX (64u << 20)

/* All texts are the caller's, and stay as long as the struct etcd does. */
struct etcd_options {
	const char *const *endpoints; /* URLs: http://HOST:PORT or https://HOST:PORT */
	size_t endpoint_count;
	const char *ca_file;          /* PEM; NULL: the system's */
	const char *certificate_file; /* PEM; NULL: none */
	const char *key_file;
	const char *user; /* NULL: none */
	const char *password;
	uint64_t timeout_ms;
	int stop_fd;
};

struct etcd;

/* On the heap; NULL with why in reason. */
struct etcd *etcd_new(const struct etcd_options *options, char *reason, size_t reason_size);
void etcd_free(struct etcd *etcd);

/* Reads all keys that begin with prefix, as they are at one moment: that of *header. visit has the keys in order; what it
 * returns below 0 ends the reading, and is the result. */
int etcd_read(struct etcd *etcd, struct etcd_bytes prefix, etcd_visit visit, void *context,
	      struct etcd_header *header);

/* Called for each line of a watch, behind its changes. A negative result ends the watch and is its result. */
typedef int (*etcd_on_report)(const struct etcd_report *report, void *context);

/* Watches them from revision on: returns once the watch has ended, -ETIMEDOUT when nothing happened for so long. */
int etcd_watch(struct etcd *etcd, struct etcd_bytes prefix, uint64_t revision, etcd_visit visit,
	       etcd_on_report on_report, void *context);

/* The member that is asked. */
const char *etcd_endpoint(const struct etcd *etcd);
void etcd_next_endpoint(struct etcd *etcd);

/* Why the last request failed: terminated printable ASCII. */
const char *etcd_reason(const struct etcd *etcd);

#endif
