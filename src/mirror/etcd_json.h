/*
 * What is said to etcd's JSON gateway and what it answers: texts to values and back.
 *
 * Pure: no system call. Answers are hostile: any bytes, any JSON. Keys and values are bytes with a length, not
 * terminated. Source: etcd's api/etcdserverpb/rpc.proto, in the JSON form of Protocol Buffers (numbers of 64 bits are
 * strings, bytes are base64, members at their default are left out).
 */
#ifndef KAISO_MIRROR_ETCD_JSON_H
#define KAISO_MIRROR_ETCD_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct etcd_bytes {
	const char *start;
	size_t length;
};

/* A key that has this value now, or that is gone. All of it lives as long as the call that it is given to. */
struct etcd_pair {
	struct etcd_bytes key;
	struct etcd_bytes value;
	uint64_t revision; /* that put it there, or removed it */
	bool is_deleted;
};

/* A negative result stops the reading and is its result. */
typedef int (*etcd_visit)(const struct etcd_pair *pair, void *context);

/* Which of etcd's stores answered, and how far it had come. 0: it did not say. */
struct etcd_header {
	uint64_t cluster;
	uint64_t revision;
};

#define ETCD_REASON_SIZE 256

/* The codes of gRPC that matter here (grpc/codes). */
#define ETCD_CODE_OUT_OF_RANGE 11 /* compacted */

/* An error as etcd words it: printable ASCII. */
struct etcd_error {
	int code; /* of gRPC; 0: none was said */
	char reason[ETCD_REASON_SIZE];
};

struct etcd_page {
	struct etcd_header header;
	bool has_more;
};

struct etcd_report {
	struct etcd_header header;
	uint64_t last_revision;    /* of the changes in it; 0: there are none */
	uint64_t compact_revision; /* not 0: what lies before is not known any more, the watch has ended */
	bool is_created;           /* the watch has begun */
	bool is_canceled;          /* it has ended */
	bool is_fragment;          /* more of the same revision follows */
	bool has_failed;           /* so has the request: error says why */
	struct etcd_error error;
};

/* The answer to a range request; visit is called for each key, in order. 0, -EBADMSG when it is none, -ENOMEM, or what
 * visit returned. */
int etcd_json_read_page(const char *text, size_t length, struct etcd_page *page, etcd_visit visit,
			void *context);

/* A line of a watch, in the same manner. */
int etcd_json_read_report(const char *text, size_t length, struct etcd_report *report, etcd_visit visit,
			  void *context);

/* The body of an answer that is no success; what is no JSON is an error without a reason ("" and 0). */
void etcd_json_read_error(const char *text, size_t length, struct etcd_error *error);

/* The answer to an authentication: the token, on the heap, fit for a header; NULL when there is none. */
char *etcd_json_read_token(const char *text, size_t length);

/*
 * Bodies of requests, on the heap; NULL for want of memory, or when a word is no UTF-8. All keys that begin with prefix,
 * from the key first on. revision: as it was then, 0 for now; watch: from that one on.
 */
char *etcd_json_range(struct etcd_bytes prefix, struct etcd_bytes first, uint64_t limit, uint64_t revision);
char *etcd_json_watch(struct etcd_bytes prefix, uint64_t revision);
char *etcd_json_authenticate(const char *user, const char *password);

#endif
