/*
 * Any bytes as what the log is told by strangers: service paths, names, reasons.
 *
 * Oracle: a line is one line, of plain printable text that is valid UTF-8, no longer than it may be, in both forms;
 * JSON is an object whose braces and quotes are in balance. The key behind the value is still there: nothing drives it
 * out or looks like it.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"

#define ENSURE(condition)                                                       \
	do {                                                                    \
		if (!(condition)) {                                             \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
			abort();                                                \
		}                                                               \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

/* A memory file in the place of standard error while the log opens it. */
static int open_log(enum log_format format)
{
	int saved = dup(STDERR_FILENO), file = memfd_create("log", MFD_CLOEXEC);

	ENSURE(saved >= 0 && file >= 0 && dup2(file, STDERR_FILENO) >= 0);
	log_init(LOG_LEVEL_INFO, format);
	ENSURE(dup2(saved, STDERR_FILENO) >= 0);
	close(saved);
	return file;
}

/* How many bytes a valid sequence has that begins here; 0 for none (RFC 3629). */
static size_t sequence_length(const unsigned char *at, size_t left)
{
	uint32_t code;
	size_t length;

	if (at[0] < 0x80)
		return 1;
	length = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
	if (at[0] < 0xc2 || at[0] > 0xf4 || left < length)
		return 0;
	code = at[0] & (0x7fu >> length);
	for (size_t i = 1; i < length; i++) {
		if ((at[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (at[i] & 0x3f);
	}
	if ((length == 3 && code < 0x800) || (length == 4 && code < 0x10000) || code > 0x10ffff ||
	    (code >= 0xd800 && code <= 0xdfff))
		return 0;
	/* C1 controls; line and paragraph separator */
	return (code >= 0x80 && code < 0xa0) || code == 0x2028 || code == 0x2029 ? 0 : length;
}

static void check_characters(const char *line, size_t length)
{
	for (size_t i = 0; i < length;) {
		size_t step = sequence_length((const unsigned char *)line + i, length - i);

		ENSURE(step > 0);
		ENSURE((unsigned char)line[i] >= 0x20 && line[i] != 0x7f);
		i += step;
	}
}

static bool is_hex(char byte)
{
	return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F');
}

/* Behind the closing quote of a string that begins here; NULL when it has none, or an escape that is none. */
static const char *skip_string(const char *at, const char *end, bool is_json)
{
	for (at++; at < end && *at != '"'; at++) {
		if (*at != '\\')
			continue;
		if (++at == end)
			return NULL;
		if (is_json && *at == 'u') {
			if (end - at < 5 || !is_hex(at[1]) || !is_hex(at[2]) || !is_hex(at[3]) ||
			    !is_hex(at[4]))
				return NULL;
			at += 4;
		} else if (!is_json && *at == 'x') {
			if (end - at < 3 || !is_hex(at[1]) || !is_hex(at[2]))
				return NULL;
			at += 2;
		} else if (!strchr(is_json ? "\"\\/bfnrt" : "\"\\nrt", *at)) {
			return NULL;
		}
	}
	return at < end ? at + 1 : NULL;
}

/* Key by key: the last one is ours, and no other has its name. */
static void check_logfmt(const char *line, const char *end)
{
	unsigned lasts = 0;
	const char *at = line;

	while (at < end) {
		const char *key = at;

		while (at < end && *at != '=')
			at++;
		ENSURE(at < end && at > key);
		for (const char *byte = key; byte < at; byte++)
			ENSURE(*byte == '-' || (*byte >= 'a' && *byte <= 'z'));
		lasts += at - key == 4 && memcmp(key, "last", 4) == 0;
		at++;
		if (at < end && *at == '"')
			at = skip_string(at, end, false);
		else
			for (; at < end && *at != ' '; at++)
				ENSURE(*at != '"' && *at != '='); /* a backslash stands for itself */
		ENSURE(at && (at == end || *at == ' '));
		at += at < end;
	}
	ENSURE(lasts == 1);
	ENSURE(end - line > 7 && memcmp(end - 7, " last=1", 7) == 0);
}

/* Strings are strings, and outside of them is nothing but structure and numbers. */
static void check_json(const char *line, const char *end)
{
	static const char last[] = ",\"last\":1}";
	unsigned depth = 0;

	for (const char *at = line; at < end;) {
		if (*at == '"') {
			at = skip_string(at, end, true);
			ENSURE(at);
			continue;
		}
		ENSURE(strchr("{}[]:,.-0123456789 ", *at));
		depth += *at == '{' || *at == '[';
		depth -= *at == '}' || *at == ']';
		at++;
		ENSURE(depth > 0 || at == end);
	}
	ENSURE(depth == 0 && end - line > 10 && memcmp(end - 10, last, 10) == 0);
}

static void write_line(const uint8_t *input, size_t size)
{
	size_t half = size / 2;
	char *text = malloc(size + 1), *bytes = malloc(half + 1);
	struct log_line line;

	ENSURE(text && bytes);
	memcpy(text, input, size);
	text[size] = '\0';
	memcpy(bytes, input, half);
	log_begin(&line, LOG_LEVEL_INFO, "session");
	log_add_bytes(&line, "bytes", bytes, half);
	log_add_string(&line, "string", text);
	log_add_list(&line, "list", (const char *const[]){ text, text + half }, 2);
	log_add_number(&line, "last", 1);
	log_end(&line);
	log_message(LOG_LEVEL_INFO, "%s", text);
	free(text);
	free(bytes);
}

static void check(const uint8_t *input, size_t size, enum log_format format)
{
	static char written[4 * LOG_LINE_SIZE];
	int file = open_log(format);
	ssize_t length;
	char *end, *second;

	write_line(input, size);
	log_deinit();
	length = pread(file, written, sizeof(written), 0);
	close(file);
	ENSURE(length > 0 && length <= 2 * LOG_LINE_SIZE && written[length - 1] == '\n');
	end = memchr(written, '\n', (size_t)length);
	second = end + 1;
	ENSURE(memchr(second, '\n', (size_t)(written + length - second)) == written + length - 1);
	check_characters(written, (size_t)(end - written));
	check_characters(second, (size_t)(written + length - 1 - second));
	if (format == LOG_FORMAT_JSON)
		check_json(written, end);
	else
		check_logfmt(written, end);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	if (size > 8192)
		return 0;
	check(input, size, LOG_FORMAT_LOGFMT);
	check(input, size, LOG_FORMAT_JSON);
	return 0;
}
