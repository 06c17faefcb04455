/*
 * Lines are built by their caller and written by whoever holds the sink.
 *
 * Building: a struct log_line always keeps LINE_RESERVE bytes free, so that an
 * ellipsis, the closing quote and brace, and the line end have room whatever
 * happened before. A value is escaped character by character and cut between
 * characters. It may take half of the room that is left, so that a client
 * who asks for a service with a name of 4000 bytes cannot push the keys behind
 * that name, the reason of its end among them, out of the log.
 *
 * Writing: the sink is a description of our own wherever that can be had, for
 * O_NONBLOCK belongs to the description, which we share with whoever started
 * us. A mutex keeps the report of dropped lines in front of the line it
 * belongs to; nothing is waited for while it is held, save a regular file's disk.
 *
 * Pipes take a line whole or not at all (PIPE_BUF, pipe(7)). Terminals and
 * stream sockets may take a part: the line then counts as written, and its
 * tail is kept and goes out before anything else does, so that a reader never
 * sees the start of one line run into another. Only when the tail meets an
 * error that is not "full" is it forgotten, and the line counted as dropped.
 */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/macros.h"
#include "base/sandbox.h"
#include "base/terminal.h"

SANDBOX_CALLS("sendto");

#define ELLIPSIS "\xe2\x80\xa6"
#define REPLACEMENT "\xef\xbf\xbd"

#define LINE_RESERVE 8
#define LINE_CAPACITY (LOG_LINE_SIZE - LINE_RESERVE)
/* Less room than this is not worth a key: quotes, an ellipsis and a few characters. */
#define VALUE_ROOM_MIN 24
/* One character, escaped: three bytes as \xHH. */
#define ESCAPE_MAX 12

_Static_assert(LOG_LINE_SIZE <= PIPE_BUF, "a longer line could be torn apart by other writers of the pipe");

enum sink_kind {
	SINK_NONE,   /* nothing to write to */
	SINK_WRITE,  /* a description of our own, or a regular file */
	SINK_POLL,   /* shared, blocking, and could not be opened again: ask before each write */
	SINK_SOCKET, /* can be told for each message not to block */
};

static struct {
	pthread_mutex_t lock;
	enum sink_kind kind;
	int fd;
	char tail[LOG_LINE_SIZE]; /* what is still to go out of a line that was taken in part */
	size_t tail_length;
	uint64_t untold; /* dropped since the last report */
} sink = { .lock = PTHREAD_MUTEX_INITIALIZER, .kind = SINK_NONE, .fd = -1 };

/* Under the sink's lock too. */
static struct {
	char text[LOG_STATUS_SIZE]; /* "": none */
	size_t shown;               /* columns that are on the screen, in its last line */
} status_line;

/* Set by log_init() before threads start, then only read. */
static enum log_level level_limit = LOG_LEVEL_INFO;
static enum log_format line_format = LOG_FORMAT_LOGFMT;
static bool has_priority;

static _Atomic uint64_t dropped_total;

static const char *const level_words[] = {
	[LOG_LEVEL_ERROR] = "error",
	[LOG_LEVEL_WARNING] = "warning",
	[LOG_LEVEL_INFO] = "info",
	[LOG_LEVEL_DEBUG] = "debug",
};

/* syslog(3)'s LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG, whose names would clash with ours. */
static const int level_priorities[] = {
	[LOG_LEVEL_ERROR] = 3,
	[LOG_LEVEL_WARNING] = 4,
	[LOG_LEVEL_INFO] = 6,
	[LOG_LEVEL_DEBUG] = 7,
};

static const char *const format_words[] = {
	[LOG_FORMAT_LOGFMT] = "logfmt",
	[LOG_FORMAT_JSON] = "json",
};

bool log_level_parse(const char *word, enum log_level *level)
{
	for (size_t i = 0; i < ARRAY_SIZE(level_words); i++) {
		if (strcmp(word, level_words[i]) == 0) {
			*level = (enum log_level)i;
			return true;
		}
	}
	return false;
}

bool log_format_parse(const char *word, enum log_format *format)
{
	for (size_t i = 0; i < ARRAY_SIZE(format_words); i++) {
		if (strcmp(word, format_words[i]) == 0) {
			*format = (enum log_format)i;
			return true;
		}
	}
	return false;
}

bool log_is_enabled(enum log_level level)
{
	return level <= level_limit;
}

uint64_t log_dropped(void)
{
	return dropped_total;
}

/* ------------------------------------------------------------- characters */

/* Length of the UTF-8 sequence that bytes begin with and its code point; 0 when they begin with none.
 * Overlong forms, surrogates and what lies above U+10FFFF are none (RFC 3629). */
static size_t utf8_decode(const unsigned char *bytes, size_t length, uint32_t *code)
{
	static const uint32_t smallest[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t count;

	if (bytes[0] < 0x80) {
		*code = bytes[0];
		return 1;
	}
	if (bytes[0] < 0xc2 || bytes[0] > 0xf4)
		return 0;
	count = bytes[0] < 0xe0 ? 2 : bytes[0] < 0xf0 ? 3 : 4;
	if (count > length)
		return 0;
	*code = bytes[0] & (0x7fu >> count);
	for (size_t i = 1; i < count; i++) {
		if ((bytes[i] & 0xc0) != 0x80)
			return 0;
		*code = *code << 6 | (bytes[i] & 0x3f);
	}
	if (*code < smallest[count] || *code > 0x10ffff || (*code >= 0xd800 && *code <= 0xdfff))
		return 0;
	return count;
}

/* What moves a terminal's cursor or ends a line for some reader: C0, DEL, C1, and Unicode's line ends. */
static bool is_control(uint32_t code)
{
	return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0x2028 || code == 0x2029;
}

/* A code point outside the basic plane never comes here: no control character lies there. */
static size_t escape_json(uint32_t code, char out[static ESCAPE_MAX + 1])
{
	if (code == '"' || code == '\\')
		return (size_t)snprintf(out, ESCAPE_MAX + 1, "\\%c", (int)code);
	return (size_t)snprintf(out, ESCAPE_MAX + 1, "\\u%04" PRIx32, code);
}

/* Bytes, not code points: what is escaped may be no text at all. */
static size_t escape_logfmt(const unsigned char *bytes, size_t count, char out[static ESCAPE_MAX + 1])
{
	static const char letters[] = "\n\r\t\"\\";
	static const char names[] = "nrt\"\\";
	const char *letter = bytes[0] != '\0' ? strchr(letters, bytes[0]) : NULL;

	if (letter != NULL)
		return (size_t)snprintf(out, ESCAPE_MAX + 1, "\\%c", names[letter - letters]);
	for (size_t i = 0; i < count; i++)
		snprintf(out + 4 * i, 5, "\\x%02x", (unsigned int)bytes[i]);
	return 4 * count;
}

/* Writes the next character in the form that the line wants, returns how long that is, and tells
 * how many bytes it was made of. It went unchanged when both numbers are the same. */
static size_t escape_next(const char *value, size_t length, size_t *used, char out[static ESCAPE_MAX + 1])
{
	const unsigned char *bytes = (const unsigned char *)value;
	uint32_t code = 0;
	size_t count = utf8_decode(bytes, length, &code);

	*used = count == 0 ? 1 : count;
	if (count > 0 && !is_control(code) && code != '"' && code != '\\') {
		memcpy(out, value, count);
		return count;
	}
	if (line_format == LOG_FORMAT_LOGFMT)
		return escape_logfmt(bytes, *used, out);
	if (count > 0)
		return escape_json(code, out);
	memcpy(out, REPLACEMENT, strlen(REPLACEMENT));
	return strlen(REPLACEMENT);
}

/* A lone backslash needs no quotes: outside of them it escapes nothing. */
static bool logfmt_needs_quotes(const char *value, size_t length)
{
	char out[ESCAPE_MAX + 1];
	size_t used;

	for (size_t i = 0; i < length; i += used) {
		size_t count = escape_next(value + i, length - i, &used, out);

		if (value[i] == ' ' || value[i] == '=' || (count != used && value[i] != '\\'))
			return true;
	}
	return length == 0;
}

/* ------------------------------------------------------------------ lines */

/* What is left for keys and values, the reserve not counted. */
static size_t line_room(const struct log_line *line)
{
	return line->length < LINE_CAPACITY ? LINE_CAPACITY - line->length : 0;
}

/* For what is known to fit. */
static void line_put(struct log_line *line, const char *text, size_t length)
{
	memcpy(line->text + line->length, text, length);
	line->length += length;
}

/* Once a key did not fit, none that follows is tried: what is missing is missing from the end. */
static bool line_put_key(struct log_line *line, const char *key)
{
	const bool is_json = line_format == LOG_FORMAT_JSON;

	if (line->is_full || strlen(key) + strlen(",\"\":") + VALUE_ROOM_MIN > line_room(line)) {
		line->is_full = true;
		return false;
	}
	line_put(line, is_json ? ",\"" : " ", is_json ? 2 : 1);
	line_put(line, key, strlen(key));
	line_put(line, is_json ? "\":" : "=", is_json ? 2 : 1);
	return true;
}

/* Escapes value into at most limit bytes, and an ellipsis when that does not hold all of it. */
static void line_put_escaped(struct log_line *line, const char *value, size_t length, size_t limit,
			     bool is_quoted)
{
	char out[ESCAPE_MAX + 1];
	size_t used, end = line->length + limit;

	for (size_t i = 0; i < length; i += used) {
		size_t count = escape_next(value + i, length - i, &used, out);

		if (!is_quoted) {
			memcpy(out, value + i, used);
			count = used;
		}
		if (line->length + count > end) {
			line_put(line, ELLIPSIS, strlen(ELLIPSIS));
			return;
		}
		line_put(line, out, count);
	}
}

/* Quotes and an ellipsis come on top of limit: VALUE_ROOM_MIN and LINE_RESERVE account for them. */
static void line_put_value(struct log_line *line, const char *value, size_t length, size_t limit)
{
	bool is_quoted = line_format == LOG_FORMAT_JSON || logfmt_needs_quotes(value, length);

	if (is_quoted)
		line_put(line, "\"", 1);
	line_put_escaped(line, value, length, limit, is_quoted);
	if (is_quoted)
		line_put(line, "\"", 1);
}

/* RFC 3339, which takes UTC as "Z"; one clock for all hosts whose logs are ever laid side by side. */
static void format_time(char text[static 32])
{
	struct timespec now = { 0 };
	struct tm utc;
	size_t length;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	length = strftime(text, 32, "%Y-%m-%dT%H:%M:%S", &utc);
	snprintf(text + length, 32 - length, ".%03ldZ", now.tv_nsec / 1000000);
}

/* log_begin() whatever the level. */
static void line_begin(struct log_line *line, enum log_level level, const char *message)
{
	const char *word = level_words[level];
	char time_text[32];
	int length;

	format_time(time_text);
	if (line_format == LOG_FORMAT_JSON)
		length = snprintf(line->text, LINE_CAPACITY, "{\"time\":\"%s\",\"level\":\"%s\"", time_text,
				  word);
	else if (has_priority)
		length = snprintf(line->text, LINE_CAPACITY, "<%d>level=%s", level_priorities[level], word);
	else
		length = snprintf(line->text, LINE_CAPACITY, "time=%s level=%s", time_text, word);
	line->length = (size_t)length;
	line->is_full = false;
	line->is_enabled = true;
	/* The message may have it all: it is the program's own, and often the only value. */
	if (line_put_key(line, "msg"))
		line_put_value(line, message, strlen(message), line_room(line) - 2);
}

static void line_finish(struct log_line *line)
{
	if (line_format == LOG_FORMAT_JSON)
		line_put(line, "}", 1);
	line_put(line, "\n", 1);
}

void log_begin(struct log_line *line, enum log_level level, const char *message)
{
	line->is_enabled = false;
	if (log_is_enabled(level))
		line_begin(line, level, message);
}

void log_add_bytes(struct log_line *line, const char *key, const char *value, size_t length)
{
	if (line->is_enabled && line_put_key(line, key))
		line_put_value(line, value, length, line_room(line) / 2);
}

void log_add_string(struct log_line *line, const char *key, const char *value)
{
	if (value != NULL)
		log_add_bytes(line, key, value, strlen(value));
}

static void line_add_array(struct log_line *line, const char *key, const char *const *values, size_t count)
{
	if (!line_put_key(line, key))
		return;
	line_put(line, "[", 1);
	for (size_t i = 0; i < count && line_room(line) > 2 * VALUE_ROOM_MIN; i++) {
		if (i > 0)
			line_put(line, ",", 1);
		line_put_value(line, values[i], strlen(values[i]), (line_room(line) - VALUE_ROOM_MIN) / 2);
	}
	line_put(line, "]", 1);
}

void log_add_list(struct log_line *line, const char *key, const char *const *values, size_t count)
{
	if (!line->is_enabled)
		return;
	if (line_format == LOG_FORMAT_JSON) {
		line_add_array(line, key, values, count);
		return;
	}
	for (size_t i = 0; i < count; i++)
		log_add_string(line, key, values[i]);
}

/* Digits, which no format quotes; at most VALUE_ROOM_MIN of them, so that they are never cut. */
static void line_add_literal(struct log_line *line, const char *key, const char *digits)
{
	if (line->is_enabled && line_put_key(line, key))
		line_put(line, digits, strlen(digits));
}

void log_add_number(struct log_line *line, const char *key, uint64_t value)
{
	char digits[VALUE_ROOM_MIN];

	snprintf(digits, sizeof(digits), "%" PRIu64, value);
	line_add_literal(line, key, digits);
}

void log_add_ms(struct log_line *line, const char *key, uint64_t milliseconds)
{
	char digits[VALUE_ROOM_MIN];

	snprintf(digits, sizeof(digits), "%" PRIu64 ".%03u", milliseconds / 1000,
		 (unsigned int)(milliseconds % 1000));
	line_add_literal(line, key, digits);
}

/* ------------------------------------------------------------------- sink */

/* Standard error under another number than a standard stream's, whatever is closed at the moment. */
static int duplicate(int fd)
{
	return fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
}

/* A new description of the pipe or terminal. Fails where it belongs to another user (after su, or
 * in some containers), where /proc is missing, and on a pipe that nobody reads. */
static int open_again(void)
{
	int fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	int moved;

	if (fd < 0 || fd > STDERR_FILENO)
		return fd;
	moved = duplicate(fd);
	close(fd);
	return moved;
}

/* 'status' is of standard error. */
static void sink_open(const struct stat *status)
{
	int flags = fcntl(STDERR_FILENO, F_GETFL);

	/* To open the reading end of a pipe again for writing would succeed, and feed the pipe to itself. */
	if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY)
		return;
	sink.kind = SINK_WRITE;
	if (S_ISFIFO(status->st_mode) || S_ISCHR(status->st_mode)) {
		sink.fd = open_again();
		if (sink.fd >= 0)
			return;
		sink.kind = SINK_POLL;
	} else if (S_ISSOCK(status->st_mode)) {
		sink.kind = SINK_SOCKET;
	}
	sink.fd = duplicate(STDERR_FILENO);
	if (sink.fd < 0)
		sink.kind = SINK_NONE;
}

/* systemd sets the variable for the whole service, also where standard error was sent elsewhere since. */
static bool is_journal(const struct stat *status)
{
	const char *stream = getenv("JOURNAL_STREAM");
	char own[64];

	snprintf(own, sizeof(own), "%ju:%ju", (uintmax_t)status->st_dev, (uintmax_t)status->st_ino);
	return stream != NULL && strcmp(stream, own) == 0;
}

void log_init(enum log_level level, enum log_format format)
{
	struct stat status;

	log_deinit();
	/* gmtime_r() looks for the zone file once: now, while that is still allowed. */
	tzset();
	level_limit = level;
	line_format = format;
	has_priority = false;
	dropped_total = 0;
	if (fstat(STDERR_FILENO, &status) != 0)
		return;
	sink_open(&status);
	has_priority = format == LOG_FORMAT_LOGFMT && is_journal(&status);
}

/* The writer of last resort shares its description, so it cannot be told not to block; but a pipe that
 * polls writable has room for PIPE_BUF bytes, unless another process fills it in this very moment. */
static ssize_t write_polled(const char *text, size_t length)
{
	struct pollfd pollfd = { .fd = sink.fd, .events = POLLOUT };

	if (poll(&pollfd, 1, 0) <= 0) {
		errno = EAGAIN;
		return -1;
	}
	if ((pollfd.revents & POLLOUT) == 0 || (pollfd.revents & POLLERR) != 0) {
		errno = EPIPE;
		return -1;
	}
	return write(sink.fd, text, length);
}

/* As write(2): how much went, or -1 with errno. */
static ssize_t sink_write(const char *text, size_t length)
{
	switch (sink.kind) {
	case SINK_WRITE:
		return write(sink.fd, text, length);
	case SINK_POLL:
		return write_polled(text, length);
	case SINK_SOCKET:
		return send(sink.fd, text, length, MSG_DONTWAIT | MSG_NOSIGNAL);
	case SINK_NONE:
		break;
	}
	errno = EBADF;
	return -1;
}

/* Only under the lock; the total is atomic for log_dropped(), which takes none. */
static void count_dropped(void)
{
	sink.untold++;
	dropped_total++;
}

/* Whether the text is out, or at least begun and its tail kept. */
static bool sink_send(const char *text, size_t length)
{
	ssize_t written = sink_write(text, length);

	if (written <= 0)
		return false;
	sink.tail_length = length - (size_t)written;
	memcpy(sink.tail, text + written, sink.tail_length);
	return true;
}

/* Whether nothing of an earlier line is left to go out. */
static bool sink_send_tail(void)
{
	ssize_t written;

	if (sink.tail_length == 0)
		return true;
	written = sink_write(sink.tail, sink.tail_length);
	if (written > 0) {
		sink.tail_length -= (size_t)written;
		memmove(sink.tail, sink.tail + written, sink.tail_length);
	} else if (written < 0 && errno != EAGAIN && errno != EINTR) {
		/* Nobody who could be waiting for the rest is there any more. */
		sink.tail_length = 0;
		count_dropped();
	}
	return sink.tail_length == 0;
}

/* Sends what is owed: the tail of a line, then the number of lines dropped. */
static bool sink_catch_up(void)
{
	struct log_line line;

	if (!sink_send_tail())
		return false;
	if (sink.untold == 0)
		return true;
	line_begin(&line, LOG_LEVEL_WARNING, "log lines dropped");
	log_add_number(&line, "count", sink.untold);
	line_finish(&line);
	if (!sink_send(line.text, line.length))
		return false;
	sink.untold = 0;
	return sink.tail_length == 0;
}

/* ----------------------------------------------------------------- status */

/* In the last column some terminals begin the next line. */
int log_status_columns(void)
{
	int columns = terminal_columns(STDERR_FILENO);

	return columns > 1 && terminal_is_ours(STDERR_FILENO) ? MIN(columns, LOG_STATUS_SIZE) - 1 : 0;
}

/* Text in the place of what is shown, and blanks over the rest of that, then `end`. */
static void status_write(const char *text, const char *end)
{
	size_t columns = (size_t)log_status_columns(), length = strlen(text);
	size_t shown = MIN(status_line.shown, columns);
	char line[2 * LOG_STATUS_SIZE];

	/* In the background the last line is somebody else's, and then ours is gone. */
	if (columns == 0)
		status_line.shown = 0;
	/* What is not all out yet must not be run into. */
	if (columns == 0 || sink.tail_length > 0)
		return;
	snprintf(line, sizeof(line), "%s%s%*s%s", shown > 0 ? "\r" : "", text,
		 (int)(shown - MIN(shown, length)), "", end);
	/* Where nothing was taken, what is there is there still. */
	if (sink_send(line, strlen(line)))
		status_line.shown = *end ? 0 : length;
}

/* False where the terminal does not take it: then no line may follow either. */
static bool status_hide(void)
{
	if (status_line.shown > 0)
		status_write("", "\r");
	return status_line.shown == 0;
}

void log_set_status(const char *text)
{
	pthread_mutex_lock(&sink.lock);
	sink_send_tail();
	snprintf(status_line.text, sizeof(status_line.text), "%s", text);
	if (*text)
		status_write(status_line.text, "");
	else
		status_hide();
	pthread_mutex_unlock(&sink.lock);
}

void log_leave_status(const char *text)
{
	pthread_mutex_lock(&sink.lock);
	sink_send_tail();
	snprintf(status_line.text, sizeof(status_line.text), "%s", text);
	status_write(status_line.text, "\n");
	status_line.text[0] = '\0';
	pthread_mutex_unlock(&sink.lock);
}

/* ------------------------------------------------------------------- ends */

void log_deinit(void)
{
	pthread_mutex_lock(&sink.lock);
	if (sink.kind != SINK_NONE) {
		sink_catch_up();
		close(sink.fd);
	}
	sink.kind = SINK_NONE;
	sink.fd = -1;
	sink.tail_length = 0;
	sink.untold = 0;
	pthread_mutex_unlock(&sink.lock);
}

void log_get_owed(struct log_owed *owed)
{
	pthread_mutex_lock(&sink.lock);
	owed->dropped = sink.untold;
	owed->tail_length = sink.tail_length;
	memcpy(owed->tail, sink.tail, sink.tail_length);
	pthread_mutex_unlock(&sink.lock);
}

void log_owe_tail(const char *tail, size_t length)
{
	pthread_mutex_lock(&sink.lock);
	sink.tail_length = MIN(length, sizeof(sink.tail));
	memcpy(sink.tail, tail, sink.tail_length);
	pthread_mutex_unlock(&sink.lock);
}

void log_owe_dropped(uint64_t count)
{
	pthread_mutex_lock(&sink.lock);
	sink.untold += count;
	dropped_total += count;
	pthread_mutex_unlock(&sink.lock);
}

void log_end(struct log_line *line)
{
	if (!line->is_enabled)
		return;
	line_finish(line);
	pthread_mutex_lock(&sink.lock);
	if (!sink_send_tail() || !status_hide() || !sink_catch_up() || !sink_send(line->text, line->length))
		count_dropped();
	if (status_line.text[0])
		status_write(status_line.text, "");
	pthread_mutex_unlock(&sink.lock);
}

void log_message(enum log_level level, const char *format, ...)
{
	struct log_line line;
	char message[LOG_LINE_SIZE];
	va_list arguments;

	if (!log_is_enabled(level))
		return;
	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	log_begin(&line, level, message);
	log_end(&line);
}

/* A thread whose clock lags does not turn the second back, or two threads could take turns in
 * resetting the count. Around the turn itself a few lines more may pass: no lock is worth them. */
bool log_limiter_pass(struct log_limiter *limiter, uint64_t now_ms, uint32_t *suppressed)
{
	uint64_t second = now_ms / 1000;
	uint64_t seen = atomic_load(&limiter->second);

	if (second > seen && atomic_compare_exchange_strong(&limiter->second, &seen, second))
		atomic_store(&limiter->passed, 0);
	if (atomic_fetch_add(&limiter->passed, 1) >= LOG_LIMITER_BURST) {
		atomic_fetch_add(&limiter->suppressed, 1);
		return false;
	}
	*suppressed = atomic_exchange(&limiter->suppressed, 0);
	return true;
}
