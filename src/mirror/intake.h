/*
 * From keys and values to names and descriptions: what comes from etcd and is fit to be a file goes into the model
 * (mirror/model.h), and of what is not the log tells.
 */
#ifndef KAISO_MIRROR_INTAKE_H
#define KAISO_MIRROR_INTAKE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "mirror/etcd_json.h"
#include "mirror/model.h"

/* Zeroed but for the prefix, it is ready. */
struct intake {
	struct etcd_bytes prefix; /* the caller's */
	uint64_t told_revision;   /* what is wrong with keys up to it was told before: the caller's */
	struct log_limiter limiter;
};

/*
 * Takes what a pair says. 1: the model may be different at and above *path, which lies in the pair's key; 0: it is not;
 * -ENOMEM; -ENOSPC, there was no room for the options of a directory, and without them what is below may be open to
 * anybody: the model is not to be used. *is_left_out: it is not in the model, for want of room there.
 */
int intake_pair(struct intake *intake, struct model *model, const struct etcd_pair *pair,
		struct etcd_bytes *path, bool *is_left_out);

/* Is it the path of a directory's options? */
bool intake_is_options(struct etcd_bytes path);

#endif
