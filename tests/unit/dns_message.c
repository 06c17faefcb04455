#include "dns_message.h"

#include <stdio.h>
#include <string.h>

void dns_message_add(struct dns_message *message, const void *bytes, size_t size)
{
	if (size > 0)
		memcpy(message->bytes + message->length, bytes, size);
	message->length += size;
}

void dns_message_number(struct dns_message *message, size_t size, uint32_t number)
{
	while (size-- > 0)
		message->bytes[message->length++] = (uint8_t)(number >> (8 * size));
}

static size_t name_write(uint8_t *bytes, const char *name)
{
	size_t length = 0;

	while (*name) {
		size_t size = strcspn(name, ".");

		bytes[length++] = (uint8_t)size;
		memcpy(bytes + length, name, size);
		length += size;
		name += size + (name[size] == '.');
	}
	bytes[length++] = 0;
	return length;
}

void dns_message_name(struct dns_message *message, const char *name)
{
	message->length += name_write(message->bytes + message->length, name);
}

void dns_message_begin(struct dns_message *message, const char *name, unsigned type)
{
	static const uint8_t header[12] = { 0, 0, 0x84, 0x80, 0, 1 };

	message->length = 0;
	dns_message_add(message, header, sizeof(header));
	dns_message_name(message, name);
	dns_message_number(message, 2, type);
	dns_message_number(message, 2, 1);
}

unsigned dns_message_count(const struct dns_message *message)
{
	return (unsigned)message->bytes[6] << 8 | message->bytes[7];
}

void dns_message_set_count(struct dns_message *message, unsigned count)
{
	message->bytes[6] = (uint8_t)(count >> 8);
	message->bytes[7] = (uint8_t)count;
}

void dns_message_record(struct dns_message *message, const char *owner, unsigned type, uint32_t ttl,
			const void *bytes, size_t size)
{
	dns_message_name(message, owner);
	dns_message_number(message, 2, type);
	dns_message_number(message, 2, 1);
	dns_message_number(message, 4, ttl);
	dns_message_number(message, 2, (uint32_t)size);
	dns_message_add(message, bytes, size);
	dns_message_set_count(message, dns_message_count(message) + 1);
}

void dns_message_srv(struct dns_message *message, const char *owner, uint32_t ttl, unsigned priority,
		     unsigned weight, unsigned port, const char *host)
{
	uint8_t bytes[300] = { (uint8_t)(priority >> 8), (uint8_t)priority,    (uint8_t)(weight >> 8),
			       (uint8_t)weight,          (uint8_t)(port >> 8), (uint8_t)port };

	dns_message_record(message, owner, DNS_SRV, ttl, bytes, 6 + name_write(bytes + 6, host));
}

void dns_message_cname(struct dns_message *message, const char *owner, uint32_t ttl, const char *name)
{
	uint8_t bytes[300];

	dns_message_record(message, owner, DNS_CNAME, ttl, bytes, name_write(bytes, name));
}

void dns_question_read(const uint8_t *bytes, size_t length, char name[static 256], unsigned *type)
{
	size_t at = 12;

	*name = '\0';
	while (at + 5 <= length && bytes[at] != 0) {
		name += sprintf(name, "%s%.*s", at > 12 ? "." : "", bytes[at], bytes + at + 1);
		at += bytes[at] + 1u;
	}
	*type = at + 3 <= length ? (unsigned)bytes[at + 1] << 8 | bytes[at + 2] : 0;
}
