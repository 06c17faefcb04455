/*
 * One line an event on standard error: logfmt or JSON.
 *
 * A log call never blocks. A pipe or terminal is opened a second time without
 * blocking, so that the descriptor the parent shares with us keeps its mode; a
 * socket is written with MSG_DONTWAIT. What the reader does not take is
 * dropped and counted, and the count is told in a line of its own
 * (msg="log lines dropped" count=N) as soon as there is room again. A reader
 * that is gone (EPIPE) is treated the same; SIGPIPE must be ignored by the program.
 *
 * A terminal or socket that takes part of a line gets the rest before the next one.
 * Only a regular file can hold the program up, as long as its disk does.
 *
 * All functions may be called by any thread at any time after log_init(): a
 * line is built in the caller's struct log_line and leaves in one write(2) of
 * at most LOG_LINE_SIZE bytes (no more than PIPE_BUF, so lines never mix).
 * Not from a signal handler, and not between fork(2) and exec in a program
 * with threads: there is a lock inside.
 */
#ifndef KAISO_BASE_LOG_H
#define KAISO_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOG_LINE_SIZE 2048

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };
enum log_format { LOG_FORMAT_LOGFMT, LOG_FORMAT_JSON };

/* Both return false and leave the result alone when the word is unknown.
 * Words: error warning info debug; logfmt json. */
bool log_level_parse(const char *word, enum log_level *level);
bool log_format_parse(const char *word, enum log_format *format);

/* To be called before threads start; again only to begin anew. Opens the sink: a close-on-exec
 * descriptor of its own, above the standard streams. When standard error is
 * journald's stream ($JOURNAL_STREAM names its device:inode, systemd.exec(5)), logfmt lines
 * get a "<N>" priority (sd-daemon(3)) in place of the time. A closed or
 * unusable standard error is no error: lines are then counted as dropped. */
void log_init(enum log_level level, enum log_format format);

/* Tells the lines dropped last, when there is room, and closes the sink; later lines are dropped. */
void log_deinit(void);

/* What the reader of standard error has not had yet: the rest of a line that it took in part, and how many lines were
 * dropped since it was last told. For a process that goes on as another program (execve(2)). */
struct log_owed {
	uint64_t dropped;
	size_t tail_length;
	char tail[LOG_LINE_SIZE];
};
void log_get_owed(struct log_owed *owed);

/* The other program's side, after log_init() and before the first line. At most LOG_LINE_SIZE bytes of a tail. */
void log_owe_tail(const char *tail, size_t length);
void log_owe_dropped(uint64_t count);

bool log_is_enabled(enum log_level level);

/* How many lines were dropped since log_init(). */
uint64_t log_dropped(void);

/*
 * A line under construction, in the caller's storage, meant for the stack.
 * log_begin() writes time (RFC 3339, UTC, milliseconds), level and message; every log_add_*
 * appends one key; log_end() sends the line. A value that does not fit any
 * more is cut short and marked with an ellipsis; so is one that would take more than half
 * of the room left, so that a long value never drives out the keys behind it (the message
 * may take all). When not even a key fits any more, it and all later ones are
 * left out. A line is always one line, whatever bytes its values hold: control
 * characters (C1 and Unicode's line separators among them), quotes, and what is not valid
 * UTF-8 are escaped (logfmt: quoted, with \n \r \t \" \\ and \xHH; JSON: \u00HH, and
 * U+FFFD for bytes that are no UTF-8). logfmt quotes only what needs it. A string that
 * is NULL adds nothing. Keys are literal words [a-z-].
 * When the level is not enabled, all calls do nothing.
 */
struct log_line {
	size_t length;
	bool is_enabled;
	bool is_full;
	char text[LOG_LINE_SIZE];
};

void log_begin(struct log_line *line, enum log_level level, const char *message);
void log_add_string(struct log_line *line, const char *key, const char *value);
void log_add_bytes(struct log_line *line, const char *key, const char *value, size_t length);
/* Several values of one key: logfmt repeats the key, JSON has an array. Those that do not fit are
 * left out. */
void log_add_list(struct log_line *line, const char *key, const char *const *values, size_t count);
void log_add_number(struct log_line *line, const char *key, uint64_t value);
/* Seconds with three decimals, as 1.234. */
void log_add_ms(struct log_line *line, const char *key, uint64_t milliseconds);
void log_end(struct log_line *line);

/* A whole line of only a message. */
void log_message(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * The status: one line more below the log, which is written over again and again, and stays the last while lines of the
 * log come. Only on a terminal, and only while this process is in its foreground; else nothing happens. Texts are
 * terminated and printable; what is longer than LOG_STATUS_SIZE - 1 is cut.
 */
#define LOG_STATUS_SIZE 256
int log_status_columns(void);          /* that the status may take now; 0: nobody would see it */
void log_set_status(const char *text); /* in the place of the last one; "" takes it away */
void log_leave_status(
	const char *text); /* that one stays, as a line of its own, and there is none any more */

/*
 * Keeps a repeated event from flooding the log: at most LOG_LIMITER_BURST lines
 * a second pass; how many were held back is told by the next that passes.
 * Zeroed storage is a valid limiter; it may be shared by threads.
 */
#define LOG_LIMITER_BURST 10

struct log_limiter {
	_Atomic uint64_t second;
	_Atomic uint32_t passed;
	_Atomic uint32_t suppressed;
};

/* True when the line may be written; *suppressed is then the number held back
 * since the last that passed (append it as suppressed=N when it is not 0). */
bool log_limiter_pass(struct log_limiter *limiter, uint64_t now_ms, uint32_t *suppressed);

#endif
