/*
 * Names of services on their way to Prometheus and to the status page.
 *
 * Oracles: a label holds no line's end, and no quote or backslash that is not escaped; without its escapes it is what a
 * terminal would be shown. JSON for pages holds no byte that ends a string or begins a tag.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "router/metrics.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static void require(int holds)
{
	if (!holds)
		abort();
}

typedef void (*writer)(FILE *stream, const char *text, size_t length);

static void write_visible(FILE *stream, const char *text, size_t length)
{
	text_write_visible(stream, text, length);
}

/* Of malloc(3), terminated. */
static char *written(writer write, const uint8_t *input, size_t size)
{
	char *text;
	size_t length;
	FILE *stream = open_memstream(&text, &length);

	require(stream != NULL);
	write(stream, (const char *)input, size);
	require(fclose(stream) == 0);
	require(strlen(text) == length);
	return text;
}

static void check_label(const char *label, const char *visible)
{
	for (; *label; label++, visible++) {
		require((unsigned char)*label >= 0x20 && *label != '"');
		if (*label == '\\') {
			label++;
			require(*label == '\\' || *label == '"');
		}
		require(*label == *visible);
	}
	require(*visible == '\0');
}

static void check_json(const char *json)
{
	size_t length = strlen(json);

	require(length >= 2 && json[0] == '"' && json[length - 1] == '"');
	for (size_t i = 1; i < length - 1; i++) {
		require((unsigned char)json[i] >= 0x20 && json[i] != '"' && json[i] != '<');
		if (json[i] == '\\')
			i++;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	char *label = written(metrics_write_label, input, size);
	char *visible = written(write_visible, input, size);
	char *json = written(text_write_strict_json, input, size);

	check_label(label, visible);
	check_json(json);
	free(label);
	free(visible);
	free(json);
	return 0;
}
