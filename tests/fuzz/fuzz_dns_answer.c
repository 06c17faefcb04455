/*
 * SRV records in whatever a name server says.
 *
 * Oracles: what is accepted is within bounds, in order, without two that are equal, and of names that can be asked for
 * again; the same bytes say the same twice.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net/srv_records.h"

#define NAME "_http._tcp.example.test"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static void require(int holds)
{
	if (!holds)
		abort();
}

static int compare(const struct srv_record *one, const struct srv_record *other)
{
	int order = strcmp(one->host, other->host);

	if (one->priority != other->priority)
		return one->priority < other->priority ? -1 : 1;
	if (one->weight != other->weight)
		return one->weight < other->weight ? -1 : 1;
	return order ? order : one->port - other->port;
}

static void check_records(const struct srv_records *records)
{
	char name[SRV_NAME_SIZE];

	require(records->count >= 1 && records->count <= SRV_TARGETS_MAX);
	require(!records->is_cut || records->count == SRV_TARGETS_MAX);
	require(records->ttl_s <= INT32_MAX);
	for (size_t i = 0; i < records->count; i++) {
		const struct srv_record *record = &records->records[i];

		require(record->port != 0);
		require(srv_name_read(record->host, name) && strcmp(name, record->host) == 0);
		require(i == 0 || compare(record - 1, record) < 0);
	}
}

static void check_again(const uint8_t *input, size_t size, const struct srv_records *records)
{
	struct srv_records *again = NULL;

	require(srv_records_parse(input, size, NAME, &again) == 0);
	require(again->count == records->count && again->ttl_s == records->ttl_s);
	require(memcmp(again->records, records->records, records->count * sizeof(records->records[0])) == 0);
	free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	struct srv_records *records = NULL;
	int r;

	if (size > UINT16_MAX)
		return 0;
	r = srv_records_parse(input, size, NAME, &records);
	require(r == 0 || r == -ENOENT || r == -EBADMSG);
	require((r == 0) == (records != NULL));
	if (records) {
		check_records(records);
		check_again(input, size, records);
	}
	free(records);
	return 0;
}
