/*
 * The SRV records in a name server's answer (RFC 1035, RFC 2782): pure, no system call. Whatever the bytes are, nothing
 * outside of them is read, and the time is bounded.
 */
#ifndef KAISO_NET_SRV_RECORDS_H
#define KAISO_NET_SRV_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SRV_TARGETS_MAX 128 /* of an answer; those with the lowest priority numbers */
#define SRV_NAME_SIZE 256   /* of a name of DNS as text, with its end (RFC 1035, section 2.3.4) */

struct srv_record {
	uint16_t priority;
	uint16_t weight;
	uint16_t port;            /* 1 to 65535 */
	char host[SRV_NAME_SIZE]; /* as srv_name_read() leaves it */
};

/* In order of priority, then weight, host and port; no two are equal. On the heap, in one piece. */
struct srv_records {
	uint32_t ttl_s; /* the least of all records that led here */
	bool is_cut;    /* there were more than SRV_TARGETS_MAX */
	size_t count;   /* 1 to SRV_TARGETS_MAX */
	struct srv_record records[];
};

/* A name of DNS from text (terminated): letters in lower case, without a dot at its end. False when it cannot be one, or
 * holds other than letters, digits, '-' and '_'. */
bool srv_name_read(const char *text, char name[static SRV_NAME_SIZE]);

/*
 * Finds the records for name (as srv_name_read() leaves it), behind aliases (CNAME) too, in an answer to the question
 * for them. Records whose host is no such name, or whose port is 0, are left out, and so are those for "."
 * (RFC 2782: the service is decidedly not available). 0 with *records (free(3) it), or
 *   -ENOENT   there are none
 *   -EBADMSG  the answer is not one to this question, is cut short, or makes no sense; or all that is in it was
 *             left out, and not for a "."
 *   -ENOMEM
 */
int srv_records_parse(const uint8_t *message, size_t length, const char *name, struct srv_records **records);

#endif
