/*
 * c-ares has a parser for SRV too (ares_parse_srv_reply()), but it hides the TTL and looks at no owner; and its
 * ares_expand_name() follows 50 pointers through names of any length, which a hostile server could make last. So names
 * are read here: a pointer must lead to before where it was met, and a name ends with 255 bytes.
 */
#include "net/srv_records.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"

#define HEADER_SIZE 12
#define CLASS_IN 1
#define TYPE_CNAME 5
#define TYPE_SRV 33
#define RCODE_MASK 0x0f
#define RCODE_NXDOMAIN 3
#define FLAG_RESPONSE 0x80  /* QR, in the third byte */
#define OPCODE_MASK 0x78    /* beside it */
#define FLAG_TRUNCATED 0x02 /* beside it */
#define POINTER_MASK 0xc0   /* of a label's length */
#define NAME_WIRE_MAX 254   /* bytes of a name's labels and their lengths, its end not counted */
#define LABEL_MAX 63
#define ALIASES_MAX 8

/* ---- names ----------------------------------------------------------------------------------------- */

/* Not by isalnum(3), which heeds the locale. */
static bool is_name_byte(uint8_t byte)
{
	return (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte == '-' || byte == '_';
}

static uint8_t byte_lower(uint8_t byte)
{
	return byte >= 'A' && byte <= 'Z' ? (uint8_t)(byte - 'A' + 'a') : byte;
}

bool srv_name_read(const char *text, char name[static SRV_NAME_SIZE])
{
	size_t length = strlen(text), label = 0;

	if (length > 0 && text[length - 1] == '.')
		length--;
	if (length == 0 || length > NAME_WIRE_MAX - 1)
		return false;
	for (size_t i = 0; i < length; i++) {
		uint8_t byte = byte_lower((uint8_t)text[i]);
		bool is_dot = byte == '.';

		if (is_dot ? label == 0 : !is_name_byte(byte) || label == LABEL_MAX)
			return false;
		label = is_dot ? 0 : label + 1;
		name[i] = (char)byte;
	}
	name[length] = '\0';
	return label > 0;
}

struct reader {
	const uint8_t *bytes;
	size_t length;
	size_t at;
};

struct name {
	bool is_text;  /* only of what srv_name_read() lets through; "" is the root */
	size_t length; /* of its labels and their lengths */
	char text[SRV_NAME_SIZE];
};

static bool read_number(struct reader *reader, size_t size, uint32_t *number)
{
	if (reader->length - reader->at < size)
		return false;
	*number = 0;
	while (size-- > 0)
		*number = *number << 8 | reader->bytes[reader->at++];
	return true;
}

/* Takes a label, whose bytes are there. */
static bool name_add_label(struct name *name, const uint8_t *bytes, size_t size)
{
	char *end = name->text + name->length;

	if (name->length + 1 + size > NAME_WIRE_MAX)
		return false;
	for (size_t i = 0; i < size; i++) {
		uint8_t byte = byte_lower(bytes[i]);

		name->is_text = name->is_text && is_name_byte(byte);
		*end++ = (char)byte;
	}
	*end++ = '.';
	name->length += 1 + size;
	return true;
}

/* Goes on at another place of the message, before where the part of the name began that led there: so it ends. */
static bool name_follow(struct reader *reader, uint8_t first, size_t *begin)
{
	uint32_t second;
	size_t target;

	if ((first & POINTER_MASK) != POINTER_MASK || !read_number(reader, 1, &second))
		return false;
	target = (size_t)(first & ~POINTER_MASK) << 8 | second;
	if (target >= *begin)
		return false;
	*begin = reader->at = target;
	return true;
}

static bool read_name(struct reader *reader, struct name *name)
{
	size_t begin = reader->at, behind = 0;
	uint32_t size;

	name->is_text = true;
	name->length = 0;
	while (read_number(reader, 1, &size)) {
		if (size == 0) {
			name->text[name->length > 0 ? name->length - 1 : 0] = '\0';
			if (behind > 0)
				reader->at = behind;
			return true;
		}
		if (size > LABEL_MAX) {
			if (behind == 0)
				behind = reader->at + 1;
			if (!name_follow(reader, (uint8_t)size, &begin))
				return false;
		} else if (reader->length - reader->at < size ||
			   !name_add_label(name, reader->bytes + reader->at, size)) {
			return false;
		} else {
			reader->at += size;
		}
	}
	return false;
}

static bool name_is(const struct name *name, const char *text)
{
	return name->is_text && strcmp(name->text, text) == 0;
}

/* ---- the message ------------------------------------------------------------------------------------ */

/* A record whose data lies from at to end in the message. */
struct resource {
	struct name owner;
	uint32_t type, class, ttl_s;
	size_t at, end;
};

static bool read_resource(struct reader *reader, struct resource *resource)
{
	uint32_t size;

	if (!read_name(reader, &resource->owner) || !read_number(reader, 2, &resource->type) ||
	    !read_number(reader, 2, &resource->class) || !read_number(reader, 4, &resource->ttl_s) ||
	    !read_number(reader, 2, &size) || reader->length - reader->at < size)
		return false;
	if (resource->ttl_s > INT32_MAX)
		resource->ttl_s = 0; /* RFC 2181, section 8 */
	resource->at = reader->at;
	resource->end = reader->at += size;
	return true;
}

/* The answer being looked at. */
struct answers {
	struct reader first;      /* where they begin */
	uint32_t count;           /* how many */
	char name[SRV_NAME_SIZE]; /* whose records are looked for */
	uint32_t ttl_s;
	size_t found;
};

/* 0: the records are what is asked for. */
static int read_header(struct reader *reader, const char *name, uint32_t *count)
{
	uint32_t flags, questions, type, class;
	struct name question;

	if (reader->length < HEADER_SIZE)
		return -EBADMSG;
	flags = reader->bytes[2];
	if (!(flags & FLAG_RESPONSE) || (flags & (OPCODE_MASK | FLAG_TRUNCATED)))
		return -EBADMSG;
	if ((reader->bytes[3] & RCODE_MASK) != 0)
		return (reader->bytes[3] & RCODE_MASK) == RCODE_NXDOMAIN ? -ENOENT : -EBADMSG;
	reader->at = 4;
	read_number(reader, 2, &questions);
	read_number(reader, 2, count);
	reader->at = HEADER_SIZE;
	if (questions != 1 || !read_name(reader, &question) || !read_number(reader, 2, &type) ||
	    !read_number(reader, 2, &class))
		return -EBADMSG;
	return name_is(&question, name) && type == TYPE_SRV && class == CLASS_IN ? 0 : -EBADMSG;
}

/* Counts the records of that name; what it is an alias of goes to alias, else that is left alone. */
static int answers_count(struct answers *answers, struct name *alias)
{
	struct reader reader = answers->first;
	struct resource resource;

	for (uint32_t i = 0; i < answers->count; i++) {
		if (!read_resource(&reader, &resource))
			return -EBADMSG;
		if (resource.class != CLASS_IN || !name_is(&resource.owner, answers->name))
			continue;
		if (resource.type == TYPE_SRV) {
			answers->found++;
			answers->ttl_s = MIN(answers->ttl_s, resource.ttl_s);
		} else if (resource.type == TYPE_CNAME) {
			reader.at = resource.at;
			if (!read_name(&reader, alias) || reader.at != resource.end)
				return -EBADMSG;
			answers->ttl_s = MIN(answers->ttl_s, resource.ttl_s);
		}
	}
	return 0;
}

/* Leaves the name in answers->name that has the records, and their number. */
static int answers_find(struct answers *answers)
{
	for (unsigned i = 0; i <= ALIASES_MAX; i++) {
		struct name alias = { .is_text = false };
		int r = answers_count(answers, &alias);

		if (r < 0 || answers->found > 0)
			return r;
		if (!alias.is_text || alias.length == 0)
			return -ENOENT;
		memcpy(answers->name, alias.text, alias.length);
	}
	return -EBADMSG;
}

/* ---- the records -------------------------------------------------------------------------------------- */

enum taking { TAKEN, REFUSED /* the service is not available */, SENSELESS, BROKEN };

static enum taking record_take(const struct reader *message, const struct resource *resource,
			       struct srv_record *record)
{
	struct reader reader = *message;
	uint32_t priority, weight, port;
	struct name host;

	reader.at = resource->at;
	if (!read_number(&reader, 2, &priority) || !read_number(&reader, 2, &weight) ||
	    !read_number(&reader, 2, &port) || !read_name(&reader, &host) || reader.at != resource->end)
		return BROKEN;
	if (host.length == 0)
		return REFUSED;
	if (port == 0 || !host.is_text)
		return SENSELESS;
	*record = (struct srv_record){ .priority = (uint16_t)priority,
				       .weight = (uint16_t)weight,
				       .port = (uint16_t)port };
	memcpy(record->host, host.text, host.length);
	return TAKEN;
}

static int record_compare(const void *left, const void *right)
{
	const struct srv_record *one = left, *other = right;
	int order;

	if (one->priority != other->priority)
		return one->priority < other->priority ? -1 : 1;
	if (one->weight != other->weight)
		return one->weight < other->weight ? -1 : 1;
	order = strcmp(one->host, other->host);
	return order ? order : (int)one->port - (int)other->port;
}

/* Each once, in order, and not too many. */
static void records_settle(struct srv_records *records)
{
	size_t count = 0;

	qsort(records->records, records->count, sizeof(records->records[0]), record_compare);
	for (size_t i = 0; i < records->count; i++) {
		if (i == 0 || record_compare(&records->records[count - 1], &records->records[i]) != 0)
			records->records[count++] = records->records[i];
	}
	records->is_cut = count > SRV_TARGETS_MAX;
	records->count = MIN(count, (size_t)SRV_TARGETS_MAX);
}

/* records has room for all that were found. */
static int records_take(struct srv_records *records, const struct answers *answers)
{
	struct reader reader = answers->first;
	int error = -ENOENT;

	for (uint32_t i = 0; i < answers->count; i++) {
		struct resource resource;

		read_resource(&reader, &resource); /* it could be read before */
		if (resource.class != CLASS_IN || resource.type != TYPE_SRV ||
		    !name_is(&resource.owner, answers->name))
			continue;
		switch (record_take(&reader, &resource, &records->records[records->count])) {
		case TAKEN:
			records->count++;
			break;
		case REFUSED:
			break;
		case SENSELESS:
			error = -EBADMSG;
			break;
		case BROKEN:
			return -EBADMSG;
		}
	}
	if (records->count == 0)
		return error;
	records->ttl_s = answers->ttl_s;
	records_settle(records);
	return 0;
}

int srv_records_parse(const uint8_t *message, size_t length, const char *name, struct srv_records **records)
{
	struct answers answers = { .first = { .bytes = message, .length = length }, .ttl_s = UINT32_MAX };
	CLEANUP_FREE struct srv_records *taken = NULL;
	int r = read_header(&answers.first, name, &answers.count);

	if (r < 0)
		return r;
	strncpy(answers.name, name, sizeof(answers.name) - 1);
	r = answers_find(&answers);
	if (r < 0)
		return r;
	taken = calloc(1, sizeof(*taken) + answers.found * sizeof(taken->records[0]));
	if (!taken)
		return -ENOMEM;
	r = records_take(taken, &answers);
	if (r == 0)
		*records = STEAL_PTR(taken);
	return r;
}
