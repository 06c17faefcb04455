/*
 * Messages of a name server, byte by byte, for tests (RFC 1035).
 */
#ifndef KAISO_UNIT_DNS_MESSAGE_H
#define KAISO_UNIT_DNS_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#define DNS_A 1
#define DNS_CNAME 5
#define DNS_AAAA 28
#define DNS_SRV 33

#define DNS_FORMERR 1
#define DNS_SERVFAIL 2
#define DNS_NXDOMAIN 3
#define DNS_REFUSED 5

struct dns_message {
	size_t length;
	uint8_t bytes[65535];
};

/* An answer with that question and no record yet, the id being 0. */
void dns_message_begin(struct dns_message *message, const char *name, unsigned type);

/* Raw bytes at the end; a number in network order. */
void dns_message_add(struct dns_message *message, const void *bytes, size_t size);
void dns_message_number(struct dns_message *message, size_t size, uint32_t number);

/* "a.b", "" for the root; nothing is compressed. */
void dns_message_name(struct dns_message *message, const char *name);

/* Records of the answer section, and one more in its count. */
void dns_message_record(struct dns_message *message, const char *owner, unsigned type, uint32_t ttl,
			const void *bytes, size_t size);
void dns_message_srv(struct dns_message *message, const char *owner, uint32_t ttl, unsigned priority,
		     unsigned weight, unsigned port, const char *host);
void dns_message_cname(struct dns_message *message, const char *owner, uint32_t ttl, const char *name);

/* How many records it says that it has. */
void dns_message_set_count(struct dns_message *message, unsigned count);
unsigned dns_message_count(const struct dns_message *message);

/* Reads the question of a query: its name with dots, and its type. */
void dns_question_read(const uint8_t *bytes, size_t length, char name[static 256], unsigned *type);

#endif
