/*
 * Log lines: what they look like, and what becomes of them when nobody takes them.
 *
 * Standard error is swapped for a pipe, socket, terminal or file while a test
 * logs, and swapped back before anything is asserted, so that cmocka's words are seen.
 */
#include "fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/log.h"
#include "base/macros.h"

#define OUTPUT_SIZE (1 << 20)
#define ELLIPSIS "\xe2\x80\xa6"

static int saved_stderr;
static char output[OUTPUT_SIZE];

/* Takes fd. */
static void stderr_swap(int fd)
{
	saved_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	dup2(fd, STDERR_FILENO);
	close(fd);
}

static void stderr_restore(void)
{
	log_deinit();
	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
}

/* All that can be read now, in output. */
static size_t drain(int reader)
{
	size_t length = 0;
	ssize_t count;

	fcntl(reader, F_SETFL, O_NONBLOCK);
	while ((count = read(reader, output + length, sizeof(output) - 1 - length)) > 0)
		length += (size_t)count;
	output[length] = '\0';
	return length;
}

/* Standard error becomes a pipe; its reading end. */
static int capture_begin(enum log_level level, enum log_format format)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) != 0)
		abort();
	stderr_swap(ends[1]);
	log_init(level, format);
	return ends[0];
}

/* What was logged is in output. */
static void capture_end(int reader)
{
	stderr_restore();
	drain(reader);
	close(reader);
}

/* The text of one value, as a line shows it after "v=" or "v":, without the line end. */
static const char *show(enum log_format format, const char *value, size_t length)
{
	const char *mark = format == LOG_FORMAT_JSON ? "\"v\":" : " v=";
	int reader = capture_begin(LOG_LEVEL_INFO, format);
	struct log_line line;
	char *start;

	log_begin(&line, LOG_LEVEL_INFO, "m");
	log_add_bytes(&line, "v", value, length);
	log_end(&line);
	capture_end(reader);
	start = strstr(output, mark);
	assert_non_null(start);
	assert_int_equal(output[strlen(output) - 1], '\n');
	output[strlen(output) - (format == LOG_FORMAT_JSON ? 2 : 1)] = '\0';
	return start + strlen(mark);
}

/* --------------------------------------------------- judges of whole lines */

static size_t utf8_sequence(const unsigned char *bytes)
{
	size_t count = bytes[0] < 0x80 ? 1 :
		       bytes[0] < 0xc2 ? 0 :
		       bytes[0] < 0xe0 ? 2 :
		       bytes[0] < 0xf0 ? 3 :
					 4;

	for (size_t i = 1; i < count; i++)
		if ((bytes[i] & 0xc0) != 0x80)
			return 0;
	return count;
}

/* Behind a JSON string or number at text, or NULL when there is none. */
static const char *json_value(const char *text)
{
	if (*text != '"') {
		size_t digits = strspn(text, "0123456789");

		if (digits > 0 && text[digits] == '.')
			digits += 1 + strspn(text + digits + 1, "0123456789");
		return digits > 0 ? text + digits : NULL;
	}
	for (text++; *text != '"';) {
		size_t count = utf8_sequence((const unsigned char *)text);

		if (count == 0 || (unsigned char)*text < 0x20 || *text == 0x7f)
			return NULL;
		if (*text == '\\' && text[1] == 'u')
			count = strspn(text + 2, "0123456789abcdef") >= 4 ? 6 : 0;
		else if (*text == '\\')
			count = strchr("\"\\nrt", text[1]) != NULL && text[1] != '\0' ? 2 : 0;
		if (count == 0)
			return NULL;
		text += count;
	}
	return text + 1;
}

/* Behind one flat JSON object and a line end at text, or NULL. */
static const char *json_line(const char *text)
{
	if (*text++ != '{')
		return NULL;
	do {
		text = *text == '"' ? json_value(text) : NULL;
		if (text == NULL || *text++ != ':')
			return NULL;
		text = json_value(text);
	} while (text != NULL && *text++ == ',');
	return text != NULL && text[-1] == '}' && *text == '\n' ? text + 1 : NULL;
}

/* Behind one logfmt line at text, or NULL. */
static const char *logfmt_line(const char *text)
{
	for (;;) {
		size_t key = strspn(text, "abcdefghijklmnopqrstuvwxyz-");

		if (key == 0 || text[key] != '=')
			return NULL;
		text += key + 1;
		if (*text == '"') {
			for (text++; *text != '"'; text++) {
				if ((unsigned char)*text < 0x20)
					return NULL;
				if (*text == '\\')
					text++;
			}
			text++;
		} else {
			while ((unsigned char)*text > ' ' && *text != '"' && *text != '=')
				text++;
		}
		if (*text == '\n')
			return text + 1;
		if (*text++ != ' ')
			return NULL;
	}
}

/* How many lines output holds, each of them whole. */
static unsigned int count_lines(enum log_format format)
{
	const char *text = output;
	unsigned int count = 0;

	for (; *text != '\0'; count++) {
		const char *start = text;

		text = format == LOG_FORMAT_JSON ? json_line(text) : logfmt_line(text);
		if (text == NULL)
			print_error("no whole line: %.3000s\n", start);
		assert_non_null(text);
		assert_true(text - start <= LOG_LINE_SIZE);
		assert_ptr_equal(strchr(start, '\n') + 1, text);
	}
	return count;
}

/* Takes the time out: the same digits every day, at "time=" or "time":" in output. */
static void blank_time(void)
{
	char *time_start = strstr(output, "20");

	assert_non_null(time_start);
	for (char *digit = time_start; *digit != 'Z'; digit++)
		if (*digit >= '0' && *digit <= '9')
			*digit = '0';
}

/* ------------------------------------------------------------------- form */

static void test_words(void **state)
{
	enum log_level level = LOG_LEVEL_DEBUG;
	enum log_format format = LOG_FORMAT_JSON;

	(void)state;
	assert_true(log_level_parse("error", &level) && level == LOG_LEVEL_ERROR);
	assert_true(log_level_parse("warning", &level) && level == LOG_LEVEL_WARNING);
	assert_true(log_level_parse("info", &level) && level == LOG_LEVEL_INFO);
	assert_true(log_level_parse("debug", &level) && level == LOG_LEVEL_DEBUG);
	assert_false(log_level_parse("Error", &level) || log_level_parse("", &level));
	assert_int_equal(level, LOG_LEVEL_DEBUG);
	assert_true(log_format_parse("logfmt", &format) && format == LOG_FORMAT_LOGFMT);
	assert_true(log_format_parse("json", &format) && format == LOG_FORMAT_JSON);
	assert_false(log_format_parse("xml", &format) || log_format_parse("", &format));
	assert_int_equal(format, LOG_FORMAT_JSON);
}

static void log_example(enum log_level level)
{
	struct log_line line;

	log_begin(&line, level, "session ended");
	log_add_string(&line, "service", "a b");
	log_add_string(&line, "target", "unix:x");
	log_add_string(&line, "nothing", NULL);
	log_add_number(&line, "received", UINT64_MAX);
	log_add_number(&line, "sent", 0);
	log_add_ms(&line, "duration", 61007);
	log_end(&line);
}

static void test_logfmt_line(void **state)
{
	int reader = capture_begin(LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);

	(void)state;
	log_example(LOG_LEVEL_ERROR);
	capture_end(reader);
	blank_time();
	assert_string_equal(output,
			    "time=0000-00-00T00:00:00.000Z level=error msg=\"session ended\" service=\"a b\" "
			    "target=unix:x received=18446744073709551615 sent=0 duration=61.007\n");
}

static void test_json_line(void **state)
{
	int reader = capture_begin(LOG_LEVEL_INFO, LOG_FORMAT_JSON);

	(void)state;
	log_example(LOG_LEVEL_WARNING);
	capture_end(reader);
	blank_time();
	assert_string_equal(
		output,
		"{\"time\":\"0000-00-00T00:00:00.000Z\",\"level\":\"warning\",\"msg\":\"session ended\","
		"\"service\":\"a b\",\"target\":\"unix:x\",\"received\":18446744073709551615,"
		"\"sent\":0,\"duration\":61.007}\n");
}

static void test_levels(void **state)
{
	int reader = capture_begin(LOG_LEVEL_WARNING, LOG_FORMAT_LOGFMT);
	bool enabled[] = { log_is_enabled(LOG_LEVEL_ERROR), log_is_enabled(LOG_LEVEL_WARNING),
			   log_is_enabled(LOG_LEVEL_INFO), log_is_enabled(LOG_LEVEL_DEBUG) };

	(void)state;
	log_message(LOG_LEVEL_ERROR, "number %d", 1);
	log_message(LOG_LEVEL_WARNING, "number %d", 2);
	log_message(LOG_LEVEL_INFO, "number %d", 3);
	log_example(LOG_LEVEL_DEBUG);
	capture_end(reader);
	assert_true(enabled[0] && enabled[1] && !enabled[2] && !enabled[3]);
	assert_int_equal(count_lines(LOG_FORMAT_LOGFMT), 2);
	assert_non_null(strstr(output, "level=error msg=\"number 1\"\n"));
	assert_non_null(strstr(output, "level=warning msg=\"number 2\"\n"));
}

struct escape_case {
	const char *value;
	const char *logfmt;
	const char *json;
};

static const struct escape_case escape_cases[] = {
	{ "plain", "plain", "\"plain\"" },
	{ "", "\"\"", "\"\"" },
	{ "a b", "\"a b\"", "\"a b\"" },
	{ "a=b", "\"a=b\"", "\"a=b\"" },
	{ "a\"b", "\"a\\\"b\"", "\"a\\\"b\"" },
	{ "a\\b", "a\\b", "\"a\\\\b\"" },
	{ "a\\ b", "\"a\\\\ b\"", "\"a\\\\ b\"" },
	{ "\n\r\t", "\"\\n\\r\\t\"", "\"\\u000a\\u000d\\u0009\"" },
	{ "\x01\x1b\x7f", "\"\\x01\\x1b\\x7f\"", "\"\\u0001\\u001b\\u007f\"" },
	{ "Grüße", "Grüße", "\"Grüße\"" },
	{ "\xf0\x9f\x90\xbb", "\xf0\x9f\x90\xbb", "\"\xf0\x9f\x90\xbb\"" },
	{ "\xff", "\"\\xff\"", "\"\xef\xbf\xbd\"" },
	/* Cut off, overlong, a surrogate, beyond the last code point, a stray continuation. */
	{ "\xc3", "\"\\xc3\"", "\"\xef\xbf\xbd\"" },
	{ "\xe2\x82", "\"\\xe2\\x82\"", "\"\xef\xbf\xbd\xef\xbf\xbd\"" },
	{ "\xc0\xaf", "\"\\xc0\\xaf\"", "\"\xef\xbf\xbd\xef\xbf\xbd\"" },
	{ "\xe0\x80\xaf", "\"\\xe0\\x80\\xaf\"", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"" },
	{ "\xed\xa0\x80", "\"\\xed\\xa0\\x80\"", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"" },
	{ "\xf4\x90\x80\x80", "\"\\xf4\\x90\\x80\\x80\"",
	  "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"" },
	{ "\x80", "\"\\x80\"", "\"\xef\xbf\xbd\"" },
	/* Valid, but not for a terminal or a reader of lines: CSI, NEL, U+2028. */
	{ "\xc2\x9b", "\"\\xc2\\x9b\"", "\"\\u009b\"" },
	{ "\xc2\x85", "\"\\xc2\\x85\"", "\"\\u0085\"" },
	{ "\xe2\x80\xa8", "\"\\xe2\\x80\\xa8\"", "\"\\u2028\"" },
};

static void test_escapes(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(escape_cases); i++) {
		const struct escape_case *expected = &escape_cases[i];
		size_t length = strlen(expected->value);

		assert_string_equal(show(LOG_FORMAT_LOGFMT, expected->value, length), expected->logfmt);
		assert_string_equal(show(LOG_FORMAT_JSON, expected->value, length), expected->json);
	}
	assert_string_equal(show(LOG_FORMAT_LOGFMT, "a\0b", 3), "\"a\\x00b\"");
	assert_string_equal(show(LOG_FORMAT_JSON, "a\0b", 3), "\"a\\u0000b\"");
}

static void test_list(void **state)
{
	static const char *const values[] = { "one", "t w o", "\"" };
	const char *const expected[] = {
		[LOG_FORMAT_LOGFMT] = " v=one v=\"t w o\" v=\"\\\"\" w=1\n",
		[LOG_FORMAT_JSON] = ",\"v\":[\"one\",\"t w o\",\"\\\"\"],\"w\":1}\n",
	};

	(void)state;
	for (int format = LOG_FORMAT_LOGFMT; format <= LOG_FORMAT_JSON; format++) {
		int reader = capture_begin(LOG_LEVEL_INFO, (enum log_format)format);
		struct log_line line;

		log_begin(&line, LOG_LEVEL_INFO, "m");
		log_add_list(&line, "v", values, ARRAY_SIZE(values));
		log_add_number(&line, "w", 1);
		log_end(&line);
		capture_end(reader);
		assert_non_null(strstr(output, expected[format]));
	}
}

static void test_every_byte_stays_on_its_line(void **state)
{
	(void)state;
	for (int format = LOG_FORMAT_LOGFMT; format <= LOG_FORMAT_JSON; format++) {
		int reader = capture_begin(LOG_LEVEL_INFO, (enum log_format)format);

		for (int byte = 0; byte < 256; byte++) {
			struct log_line line;
			char value[] = { 'a', (char)byte, 'z' };

			log_begin(&line, LOG_LEVEL_INFO, "m");
			log_add_bytes(&line, "alone", value + 1, 1);
			log_add_bytes(&line, "between", value, 3);
			log_end(&line);
		}
		capture_end(reader);
		assert_int_equal(count_lines((enum log_format)format), 256);
	}
}

/* Values of each length, of characters that are cut at different places, with keys behind. */
static void check_cuts(enum log_format format, const char *character, size_t step)
{
	static char value[5000];

	for (size_t i = 0; i < sizeof(value); i++)
		value[i] = character[i % strlen(character)];
	for (size_t length = 1; length <= sizeof(value); length += step) {
		int reader = capture_begin(LOG_LEVEL_INFO, format);
		struct log_line line;

		log_begin(&line, LOG_LEVEL_INFO, "session ended");
		log_add_bytes(&line, "service", value, length);
		log_add_bytes(&line, "target", value, length);
		log_add_number(&line, "sent", length);
		log_add_string(&line, "reason", "reset");
		log_end(&line);
		capture_end(reader);
		assert_int_equal(count_lines(format), 1);
		assert_non_null(strstr(output, "sent"));
		assert_non_null(strstr(output, "reset"));
		if (length > LOG_LINE_SIZE)
			assert_non_null(strstr(output, ELLIPSIS));
	}
}

static void test_cut_lines_are_whole(void **state)
{
	static const char *const characters[] = { "x",    "\n",           "\"", "ü", "\xf0\x9f\x90\xbb",
						  "\xff", "\xe2\x80\xa8", "a b" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(characters); i++) {
		check_cuts(LOG_FORMAT_LOGFMT, characters[i], 37);
		check_cuts(LOG_FORMAT_JSON, characters[i], 37);
	}
}

static void test_long_message_fills_the_line(void **state)
{
	static char message[3000];

	(void)state;
	for (int format = LOG_FORMAT_LOGFMT; format <= LOG_FORMAT_JSON; format++) {
		for (size_t length = LOG_LINE_SIZE - 120; length < LOG_LINE_SIZE + 20; length++) {
			int reader = capture_begin(LOG_LEVEL_INFO, (enum log_format)format);

			memset(message, length % 2 == 0 ? 'x' : '\1', length);
			message[length] = '\0';
			log_message(LOG_LEVEL_INFO, "%s", message);
			capture_end(reader);
			assert_int_equal(count_lines((enum log_format)format), 1);
			assert_true(strlen(output) > LOG_LINE_SIZE - 150);
		}
		assert_non_null(strstr(output, ELLIPSIS));
	}
}

static void test_too_many_keys(void **state)
{
	(void)state;
	for (int format = LOG_FORMAT_LOGFMT; format <= LOG_FORMAT_JSON; format++) {
		int reader = capture_begin(LOG_LEVEL_INFO, (enum log_format)format);
		struct log_line line;

		log_begin(&line, LOG_LEVEL_INFO, "m");
		for (int i = 0; i < 300; i++) {
			log_add_number(&line, "number", UINT64_MAX);
			log_add_ms(&line, "time", UINT64_MAX);
			log_add_string(&line, "string", "\1\2\3\4\5\6");
		}
		log_end(&line);
		capture_end(reader);
		assert_int_equal(count_lines((enum log_format)format), 1);
	}
}

/* ---------------------------------------------------------------- readers */

/* Logs until a line is dropped; how many were not. */
static unsigned int fill(void)
{
	unsigned int count = 0;

	while (count < 1000000 && log_dropped() == 0) {
		log_message(LOG_LEVEL_INFO, "filling line number %u", count);
		count += log_dropped() == 0;
	}
	return count;
}

static void test_full_pipe_drops_and_tells(void **state)
{
	int reader = capture_begin(LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);
	unsigned int filled = fill();
	uint64_t dropped;
	char *report;

	(void)state;
	log_message(LOG_LEVEL_INFO, "lost");
	log_message(LOG_LEVEL_INFO, "lost");
	dropped = log_dropped();
	drain(reader);
	assert_int_equal(count_lines(LOG_FORMAT_LOGFMT), filled);
	log_message(LOG_LEVEL_INFO, "after");
	log_message(LOG_LEVEL_INFO, "last");
	capture_end(reader);
	assert_int_equal(dropped, 3);
	assert_int_equal(count_lines(LOG_FORMAT_LOGFMT), 3);
	report = strstr(output, "level=warning msg=\"log lines dropped\" count=3\n");
	assert_non_null(report);
	assert_true(report < strstr(output, "after"));
}

static void test_lines_dropped_last_are_told_at_the_end(void **state)
{
	int reader = capture_begin(LOG_LEVEL_ERROR, LOG_FORMAT_JSON);

	(void)state;
	while (log_dropped() == 0)
		log_message(LOG_LEVEL_ERROR, "filling");
	drain(reader);
	capture_end(reader);
	assert_int_equal(count_lines(LOG_FORMAT_JSON), 1);
	assert_non_null(strstr(output, "\"msg\":\"log lines dropped\",\"count\":1}\n"));
}

static void test_reader_gone(void **state)
{
	int reader = capture_begin(LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);
	uint64_t dropped;

	(void)state;
	close(reader);
	log_message(LOG_LEVEL_INFO, "lost");
	log_message(LOG_LEVEL_INFO, "lost");
	dropped = log_dropped();
	stderr_restore();
	assert_int_equal(dropped, 2);
}

/* Runs function in a child, under a limit of time, and returns its exit status. */
static int run_in_child(int (*function)(void))
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		alarm(60);
		_exit(function());
	}
	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static int log_without_stderr(void)
{
	close(STDERR_FILENO);
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);
	log_message(LOG_LEVEL_INFO, "lost");
	if (log_dropped() != 1)
		return 1;
	log_deinit();
	/* What opens under the number 2 later is no log. */
	if (open("/dev/null", O_WRONLY) != STDERR_FILENO)
		return 2;
	log_message(LOG_LEVEL_INFO, "lost");
	return log_dropped() == 2 ? 0 : 3;
}

static void test_closed_stderr(void **state)
{
	(void)state;
	assert_int_equal(run_in_child(log_without_stderr), 0);
}

static int log_with_only_stderr(void)
{
	int ends[2], flags;

	if (pipe2(ends, O_CLOEXEC) != 0)
		return 1;
	dup2(ends[1], STDERR_FILENO);
	close(STDIN_FILENO);
	close(STDOUT_FILENO);
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);
	log_message(LOG_LEVEL_INFO, "seen");
	flags = fcntl(STDIN_FILENO, F_GETFD);
	return log_dropped() == 0 && flags < 0 && drain(ends[0]) > 0 ? 0 : 2;
}

static void test_sink_is_never_a_standard_stream(void **state)
{
	(void)state;
	assert_int_equal(run_in_child(log_with_only_stderr), 0);
}

/* Whoever may not open the pipe again asks it with poll() instead. */
static int log_as_another_user(void)
{
	int reader = capture_begin(LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);

	log_deinit();
	/* Root may open whatever its mode; everybody else is kept out by it, the owner included. */
	if (geteuid() == 0 ? setgid(65534) != 0 || setuid(65534) != 0 : fchmod(STDERR_FILENO, 0) != 0)
		return 1;
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);
	if ((fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK) != 0)
		return 2;
	if (fill() < 10 || log_dropped() != 1)
		return 3;
	drain(reader);
	log_message(LOG_LEVEL_INFO, "after");
	if (drain(reader) == 0 || strstr(output, "count=1\n") == NULL || strstr(output, "after") == NULL)
		return 4;
	close(reader);
	log_message(LOG_LEVEL_INFO, "lost");
	return log_dropped() == 2 ? 0 : 5;
}

static void test_pipe_of_another_user(void **state)
{
	(void)state;
	assert_int_equal(run_in_child(log_as_another_user), 0);
}

static void test_mode_of_the_shared_pipe_is_untouched(void **state)
{
	int reader = capture_begin(LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);
	int flags, flags_after;

	(void)state;
	flags = fcntl(STDERR_FILENO, F_GETFL);
	fill();
	flags_after = fcntl(STDERR_FILENO, F_GETFL);
	capture_end(reader);
	assert_int_equal(flags & O_NONBLOCK, 0);
	assert_int_equal(flags, flags_after);
}

static void test_reading_end_is_no_sink(void **state)
{
	uint64_t dropped;
	int ends[2];

	(void)state;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	stderr_swap(ends[0]);
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);
	log_message(LOG_LEVEL_INFO, "lost");
	dropped = log_dropped();
	stderr_restore();
	close(ends[1]);
	assert_int_equal(dropped, 1);
}

static void check_full_socket(int type)
{
	int ends[2], flags;
	unsigned int filled;

	assert_int_equal(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends), 0);
	stderr_swap(ends[1]);
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_JSON);
	filled = fill();
	drain(ends[0]);
	flags = fcntl(STDERR_FILENO, F_GETFL);
	stderr_restore();
	assert_true(filled > 0);
	assert_int_equal(count_lines(LOG_FORMAT_JSON), filled);
	assert_int_equal(flags & O_NONBLOCK, 0);
	drain(ends[0]);
	assert_non_null(strstr(output, "log lines dropped"));
	close(ends[0]);
}

static void test_socket(void **state)
{
	(void)state;
	check_full_socket(SOCK_STREAM);
	check_full_socket(SOCK_DGRAM);
}

static void test_socket_reader_gone(void **state)
{
	uint64_t dropped;
	int ends[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	stderr_swap(ends[1]);
	close(ends[0]);
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_JSON);
	/* send() alone must not raise it, for a program that inherits this library's habits. */
	signal(SIGPIPE, SIG_DFL);
	log_message(LOG_LEVEL_INFO, "lost");
	signal(SIGPIPE, SIG_IGN);
	dropped = log_dropped();
	stderr_restore();
	assert_int_equal(dropped, 1);
}

static size_t read_some(int reader, size_t length, size_t limit)
{
	ssize_t count = read(reader, output + length, MIN(limit, sizeof(output) - 1 - length));

	length += count > 0 ? (size_t)count : 0;
	output[length] = '\0';
	return length;
}

/* Reads a little where much is logged, then all there is until a line comes that was logged last. */
static void check_partial_writes(int reader)
{
	struct pollfd pollfd = { .fd = reader, .events = POLLIN };
	size_t length = 0, before = 1;
	uint64_t dropped;

	fcntl(reader, F_SETFL, O_NONBLOCK);
	output[0] = '\0';
	for (int i = 0; i < 3000; i++) {
		log_message(LOG_LEVEL_INFO, "line %d %0*d end", i, 100 + i % 50, 0);
		if (i % 50 == 0)
			length = read_some(reader, length, 1500);
	}
	dropped = log_dropped();
	while (strstr(output, "msg=last") == NULL && poll(&pollfd, 1, 10000) > 0) {
		length = read_some(reader, length, sizeof(output));
		log_message(LOG_LEVEL_INFO, "last");
	}
	stderr_restore();
	fcntl(reader, F_SETFL, 0);
	for (; length != before; length = read_some(reader, length, sizeof(output)))
		before = length;
	close(reader);
	assert_true(dropped > 0);
	assert_true(count_lines(LOG_FORMAT_LOGFMT) > 10);
	assert_non_null(strstr(output, "log lines dropped"));
	assert_non_null(strstr(output, "msg=last"));
}

static void test_stalled_tcp_reader_sees_whole_lines(void **state)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int writer = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int small = 4096, reader;

	(void)state;
	setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	setsockopt(writer, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	assert_int_equal(bind(listener, (struct sockaddr *)&address, length), 0);
	assert_int_equal(listen(listener, 1), 0);
	getsockname(listener, (struct sockaddr *)&address, &length);
	assert_int_equal(connect(writer, (struct sockaddr *)&address, length), 0);
	reader = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	close(listener);
	stderr_swap(writer);
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);
	check_partial_writes(reader);
}

static void test_stalled_terminal_sees_whole_lines(void **state)
{
	int reader = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct termios mode;
	int terminal, flags;

	(void)state;
	assert_true(reader >= 0);
	assert_int_equal(grantpt(reader), 0);
	assert_int_equal(unlockpt(reader), 0);
	terminal = open(ptsname(reader), O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(terminal >= 0);
	tcgetattr(terminal, &mode);
	cfmakeraw(&mode);
	tcsetattr(terminal, TCSANOW, &mode);
	stderr_swap(terminal);
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);
	flags = fcntl(STDERR_FILENO, F_GETFL);
	check_partial_writes(reader);
	assert_int_equal(flags & O_NONBLOCK, 0);
}

static void test_regular_file(void **state)
{
	FILE *file = tmpfile();
	int fd = fileno(file);

	(void)state;
	stderr_swap(dup(fd));
	assert_true(write(fd, "before\n", 7) == 7);
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);
	log_message(LOG_LEVEL_INFO, "one");
	log_message(LOG_LEVEL_INFO, "two");
	stderr_restore();
	lseek(fd, 0, SEEK_SET);
	drain(fd);
	fclose(file);
	/* The description is shared, so that the offset goes on from what others wrote. */
	assert_memory_equal(output, "before\n", 7);
	memmove(output, output + 7, strlen(output + 7) + 1);
	assert_int_equal(count_lines(LOG_FORMAT_LOGFMT), 2);
}

static void test_full_device_counts(void **state)
{
	int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
	uint64_t dropped;

	(void)state;
	assert_true(fd >= 0);
	stderr_swap(fd);
	log_init(LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);
	log_message(LOG_LEVEL_INFO, "lost");
	dropped = log_dropped();
	stderr_restore();
	assert_int_equal(dropped, 1);
}

/* ---------------------------------------------------------------- journal */

/* What a line of this level looks like when $JOURNAL_STREAM names standard error, moved by 'offset'. */
static void log_to_journal(enum log_level level, enum log_format format, unsigned int offset)
{
	int reader = capture_begin(LOG_LEVEL_DEBUG, format);
	struct stat status;
	char stream[64];

	fstat(STDERR_FILENO, &status);
	snprintf(stream, sizeof(stream), "%ju:%ju", (uintmax_t)status.st_dev,
		 (uintmax_t)status.st_ino + offset);
	setenv("JOURNAL_STREAM", stream, 1);
	log_init(LOG_LEVEL_DEBUG, format);
	log_message(level, "m");
	unsetenv("JOURNAL_STREAM");
	capture_end(reader);
}

static void test_journal(void **state)
{
	(void)state;
	log_to_journal(LOG_LEVEL_ERROR, LOG_FORMAT_LOGFMT, 0);
	assert_string_equal(output, "<3>level=error msg=m\n");
	log_to_journal(LOG_LEVEL_WARNING, LOG_FORMAT_LOGFMT, 0);
	assert_string_equal(output, "<4>level=warning msg=m\n");
	log_to_journal(LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT, 0);
	assert_string_equal(output, "<6>level=info msg=m\n");
	log_to_journal(LOG_LEVEL_DEBUG, LOG_FORMAT_LOGFMT, 0);
	assert_string_equal(output, "<7>level=debug msg=m\n");
	log_to_journal(LOG_LEVEL_INFO, LOG_FORMAT_JSON, 0);
	assert_int_equal(count_lines(LOG_FORMAT_JSON), 1);
	/* Set for the service, while its standard error was sent elsewhere. */
	log_to_journal(LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT, 1);
	assert_memory_equal(output, "time=", 5);
}

/* ---------------------------------------------------------------- threads */

#define WRITERS 4
#define LINES_EACH 2000

static void *write_lines(void *argument)
{
	const char *name = argument;
	static const char filler[] = "................................................................";

	for (unsigned int i = 0; i < LINES_EACH; i++) {
		struct log_line line;

		log_begin(&line, LOG_LEVEL_INFO, name);
		log_add_bytes(&line, "filler", filler, 1 + i % (sizeof(filler) - 2));
		log_add_string(&line, "end", name);
		log_end(&line);
	}
	return NULL;
}

static void *read_lines(void *argument)
{
	int reader = *(int *)argument;
	size_t length = 0;
	ssize_t count;

	while ((count = read(reader, output + length, sizeof(output) - 1 - length)) > 0)
		length += (size_t)count;
	output[length] = '\0';
	return NULL;
}

static void test_threads_never_mix_lines(void **state)
{
	static char names[WRITERS][8] = { "one", "two", "three", "four" };
	pthread_t writers[WRITERS], reading;
	unsigned int told = 0, lines;
	uint64_t dropped;
	int reader = capture_begin(LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);

	(void)state;
	pthread_create(&reading, NULL, read_lines, &reader);
	for (size_t i = 0; i < WRITERS; i++)
		pthread_create(&writers[i], NULL, write_lines, names[i]);
	for (size_t i = 0; i < WRITERS; i++)
		pthread_join(writers[i], NULL);
	dropped = log_dropped();
	stderr_restore();
	pthread_join(reading, NULL);
	close(reader);
	lines = count_lines(LOG_FORMAT_LOGFMT);
	for (const char *report = output; (report = strstr(report, "dropped\" count=")) != NULL; report++)
		told++;
	/* Each line is there or counted; the reports are more of them. */
	assert_int_equal(lines - told + dropped, WRITERS * LINES_EACH);
}

/* ---------------------------------------------------------------- limiter */

static unsigned int passes(struct log_limiter *limiter, uint64_t now_ms, unsigned int tries,
			   uint32_t *held_back)
{
	unsigned int passed = 0;
	uint32_t suppressed;

	*held_back = 0;
	for (unsigned int i = 0; i < tries; i++) {
		if (log_limiter_pass(limiter, now_ms, &suppressed)) {
			passed++;
			*held_back += suppressed;
		}
	}
	return passed;
}

static void test_limiter(void **state)
{
	struct log_limiter limiter = { 0 };
	uint32_t held_back;

	(void)state;
	assert_int_equal(passes(&limiter, 0, 3, &held_back), 3);
	assert_int_equal(passes(&limiter, 999, 100, &held_back), LOG_LIMITER_BURST - 3);
	assert_int_equal(held_back, 0);
	assert_int_equal(passes(&limiter, 1000, 1, &held_back), 1);
	assert_int_equal(held_back, 100 - (LOG_LIMITER_BURST - 3));
	assert_int_equal(passes(&limiter, 1999, 100, &held_back), LOG_LIMITER_BURST - 1);
	/* A thread that looked at its clock earlier opens no second burst. */
	assert_int_equal(passes(&limiter, 900, 100, &held_back), 0);
	assert_int_equal(passes(&limiter, 5000, 1, &held_back), 1);
	assert_int_equal(held_back, 100 - (LOG_LIMITER_BURST - 1) + 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FIXTURE_TEST(test_words),
		FIXTURE_TEST(test_logfmt_line),
		FIXTURE_TEST(test_json_line),
		FIXTURE_TEST(test_levels),
		FIXTURE_TEST(test_escapes),
		FIXTURE_TEST(test_list),
		FIXTURE_TEST(test_every_byte_stays_on_its_line),
		FIXTURE_TEST(test_cut_lines_are_whole),
		FIXTURE_TEST(test_long_message_fills_the_line),
		FIXTURE_TEST(test_too_many_keys),
		FIXTURE_TEST(test_full_pipe_drops_and_tells),
		FIXTURE_TEST(test_lines_dropped_last_are_told_at_the_end),
		FIXTURE_TEST(test_reader_gone),
		FIXTURE_TEST(test_closed_stderr),
		FIXTURE_TEST(test_sink_is_never_a_standard_stream),
		FIXTURE_TEST(test_pipe_of_another_user),
		FIXTURE_TEST(test_mode_of_the_shared_pipe_is_untouched),
		FIXTURE_TEST(test_reading_end_is_no_sink),
		FIXTURE_TEST(test_socket),
		FIXTURE_TEST(test_socket_reader_gone),
		FIXTURE_TEST(test_stalled_tcp_reader_sees_whole_lines),
		FIXTURE_TEST(test_stalled_terminal_sees_whole_lines),
		FIXTURE_TEST(test_regular_file),
		FIXTURE_TEST(test_full_device_counts),
		FIXTURE_TEST(test_journal),
		FIXTURE_TEST(test_threads_never_mix_lines),
		FIXTURE_TEST(test_limiter),
	};

	signal(SIGPIPE, SIG_IGN);
	return FIXTURE_RUN(tests);
}
