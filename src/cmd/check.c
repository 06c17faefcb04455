/*
 * Theory of operation
 *
 * `kaiso check` takes the same walk as the router's lists, looks into every
 * description with the router's own parser, and says what the router would
 * stumble over. Services go to standard output, one a line; mistakes to
 * standard error. Both are kept in memory until the walk has ended: columns
 * can only be aligned then, and a person at a terminal finds the mistakes
 * beneath the table and not scattered over it.
 */
#include "cmd/check_options.h"
#include "cmd/cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/hint.h"
#include "base/macros.h"
#include "proto/description.h"
#include "proto/options.h"
#include "proto/path.h"
#include "router/description_file.h"
#include "router/listing.h"
#include "router/trail.h"

enum { EXIT_CLEAN = 0, EXIT_MISTAKES = 1 };

#define LOOK_AGAIN_MS 20 /* at a file that somebody is writing */

/* Text that grows in memory; complete and terminated after page_finish(). */
struct page {
	FILE *stream;
	char *text;
	size_t length;
};

/* On the heap, for the sake of the buffer. */
struct check {
	const char *services;
	int services_fd;     /* where the SOCKETs of descriptions begin */
	struct page table;   /* path TAB kind TAB target LF; an option of it: TAB key TAB value TAB file LF */
	struct page remarks; /* mistakes and notes */
	struct trail trail;
	bool is_verbose;
	size_t mistakes;
	char description[DESCRIPTION_FILE_BUFFER];
};

/* ---- what is said -------------------------------------------------------------------------------- */

/* Does a character begin here that a terminal or a reader of lines would obey: a control character, C1
 * (U+0080 to U+009F) and Unicode's line ends included? Its length then, else 0. */
static size_t control_length(const char *bytes, size_t length)
{
	const unsigned char *byte = (const unsigned char *)bytes;

	if (byte[0] < 0x20 || byte[0] == 0x7f)
		return 1;
	if (length >= 2 && byte[0] == 0xc2 && byte[1] >= 0x80 && byte[1] <= 0x9f)
		return 2;
	if (length >= 3 && byte[0] == 0xe2 && byte[1] == 0x80 && (byte[2] == 0xa8 || byte[2] == 0xa9))
		return 3;
	return 0;
}

/* A file's name or content may hold anything, and would be obeyed by the terminal. */
static void write_escaped(FILE *stream, const char *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		size_t control = control_length(bytes + i, length - i);

		if (control == 0)
			fputc((unsigned char)bytes[i], stream);
		for (size_t j = 0; j < control; j++)
			fprintf(stream, "\\x%02x", (unsigned char)bytes[i + j]);
		if (control > 1)
			i += control - 1;
	}
}

/* The walk reports no path with control bytes as a service, so tabs are safe around it. */
static void write_service(struct check *check, const struct listing_entry *entry, enum description_kind kind,
			  const char *target, size_t target_length, const struct policy *policy)
{
	FILE *table = check->table.stream;

	write_escaped(table, entry->path, entry->path_length);
	fprintf(table, "\t%s\t", description_kind_name(kind));
	write_escaped(table, target, target_length);
	fputc('\n', table);
	if (check->is_verbose)
		check_options_print(table, policy, write_escaped);
}

/* Begins a remark about an entry, "SERVICES/PATH:LINE: ", in the form that compilers use and editors jump
 * to; line is 0 when it concerns the whole file. Returns the stream that takes the reason and a LF. */
static FILE *remark_begin(struct check *check, const struct listing_entry *entry, unsigned line)
{
	FILE *stream = check->remarks.stream;
	size_t length = strlen(check->services);

	write_escaped(stream, check->services, length);
	if (entry->path_length > 0 && check->services[length - 1] != '/')
		fputc('/', stream);
	write_escaped(stream, entry->path, entry->path_length);
	if (line > 0)
		fprintf(stream, ":%u", line);
	fputs(": ", stream);
	return stream;
}

/* The same, for a remark that decides the exit status. */
static FILE *mistake_begin(struct check *check, const struct listing_entry *entry, unsigned line)
{
	check->mistakes++;
	return remark_begin(check, entry, line);
}

static void mistake(struct check *check, const struct listing_entry *entry, const char *reason)
{
	fprintf(mistake_begin(check, entry, 0), "%s\n", reason);
}

/* ---- what is looked at --------------------------------------------------------------------------- */

/* The text of the link that an entry is. Returns its length; 0 when the entry is no link. */
static size_t read_link(const struct listing_entry *entry, char *text, size_t size)
{
	ssize_t length = readlinkat(entry->directory_fd, entry->name, text, size);

	return length < 0 ? 0 : (size_t)length;
}

/* Whether anybody listens on it is not tried: it would be a client to the service, and an unexpected one. */
static void check_socket(struct check *check, const struct listing_entry *entry)
{
	char target[PATH_MAX];
	size_t length = read_link(entry, target, sizeof(target));

	write_service(check, entry, DESCRIPTION_UNIX, length > 0 ? target : entry->path,
		      length > 0 ? length : entry->path_length,
		      trail_policy(&check->trail, entry->path, entry->path_length));
}

/* Where the link points is what its author has to mend. */
static void check_dangling(struct check *check, const struct listing_entry *entry)
{
	char target[PATH_MAX];
	size_t length = read_link(entry, target, sizeof(target));
	FILE *stream = mistake_begin(check, entry, 0);

	fputs("dangling link to ", stream);
	write_escaped(stream, target, length);
	fputc('\n', stream);
}

/* 0 when a socket lies at path, beginning in the services directory; else what is wrong, as an errno,
 * ENOTSOCK among them. */
static int socket_error(const struct check *check, const struct description_text *path)
{
	char terminated[PATH_MAX];
	struct stat status;

	if (path->length >= sizeof(terminated))
		return ENAMETOOLONG;
	memcpy(terminated, path->start, path->length);
	terminated[path->length] = '\0';
	if (fstatat(check->services_fd, terminated, &status, 0) < 0)
		return errno;
	return S_ISSOCK(status.st_mode) ? 0 : ENOTSOCK;
}

/* The SOCKET of a target, which stands on that line. */
static void check_described_socket(struct check *check, const struct listing_entry *entry, unsigned line,
				   const struct description_text *path)
{
	int error = socket_error(check, path);
	FILE *stream;

	if (error == 0)
		return;
	stream = mistake_begin(check, entry, line);
	fputs("its socket ", stream);
	write_escaped(stream, path->start, path->length);
	if (error == ENOENT)
		fputs(" does not exist\n", stream);
	else if (error == ENOTSOCK)
		fputs(" is no socket\n", stream);
	else
		fprintf(stream, " cannot be reached: %s\n", strerror(error));
}

static void check_target(struct check *check, const struct listing_entry *entry, unsigned line,
			 const struct description *description)
{
	switch (description->kind) {
	case DESCRIPTION_UNIX:
	case DESCRIPTION_PASSFD:
		check_described_socket(check, entry, line, &description->socket);
		break;
	case DESCRIPTION_TCP:
	case DESCRIPTION_KAISO:
	case DESCRIPTION_MOUNT:
	case DESCRIPTION_SRV:
		break;
	}
}

static void check_backends(struct check *check, const struct listing_entry *entry,
			   struct description_text options)
{
	struct options_cursor cursor = options_begin(options, 2);
	struct description_error error;
	struct description backend;
	struct option_line option;

	while (options_next(&cursor, &option, &error) > 0) {
		if (option.key == OPTION_BACKEND &&
		    description_parse_target(option.value, cursor.line, &backend, &error) == 0)
			check_target(check, entry, cursor.line, &backend);
	}
}

/* Where a warning is about. */
struct warning_place {
	struct check *check;
	const char *file;
};

/* Valid, and therefore no mistake. */
static void say_warning(void *context, unsigned line, const char *reason)
{
	const struct warning_place *place = context;
	FILE *stream = place->check->remarks.stream;

	write_escaped(stream, place->file, strlen(place->file));
	fprintf(stream, ":%u: warning: %s\n", line, reason);
}

static void check_warnings(struct check *check, const char *file, struct description_text text,
			   unsigned first_line, const struct description_text *target,
			   const struct policy *policy)
{
	struct warning_place place = { check, file };
	const struct check_options_listener listener = { say_warning, &place };

	check_options(text, first_line, target, policy, &listener);
}

/* A valid description that leads to no socket is a service still, and is shown as one: its server may just
 * not be running. */
static int check_valid_description(struct check *check, const struct listing_entry *entry,
				   const struct description *description)
{
	struct policy *directory = trail_policy(&check->trail, entry->path, entry->path_length);
	struct description_error error;
	char file[POLICY_FILE_SIZE];
	struct policy *policy;
	int r;

	snprintf(file, sizeof(file), "%s/%s", check->services, entry->path);
	r = policy_from_text(directory, file, description->options, 2, &policy, &error);
	if (r < 0)
		return r;
	write_service(check, entry, description->kind, description->target.start, description->target.length,
		      policy);
	check_target(check, entry, 1, description);
	check_backends(check, entry, description->options);
	check_warnings(check, file, description->options, 2, &description->target, policy);
	policy_unref(policy);
	return 0;
}

static int check_description_text(struct check *check, const struct listing_entry *entry, size_t length)
{
	struct description description;
	struct description_error error;

	if (description_parse(check->description, length, &description, &error) == 0)
		return check_valid_description(check, entry, &description);
	fprintf(mistake_begin(check, entry, error.line), "%s\n", error.reason);
	return 0;
}

/* Returns a negative errno when the walk cannot go on. */
static int check_description(struct check *check, const struct listing_entry *entry)
{
	struct stat status;
	CLEANUP_CLOSE int fd = description_file_open(entry->directory_fd, entry->name, &status);
	ssize_t length = fd < 0 ? fd : description_file_read(fd, check->description);

	if (length >= 0)
		return check_description_text(check, entry, (size_t)length);
	if (length == -EMFILE || length == -ENFILE || length == -ENOMEM)
		return (int)length;
	if (length == -EFBIG)
		fprintf(mistake_begin(check, entry, 0), "more than %d bytes: too long for a description\n",
			DESCRIPTION_SIZE_MAX);
	else if (length != -ENOENT) /* gone since its name was read */
		fprintf(mistake_begin(check, entry, 0), "cannot be read: %s\n", strerror((int)-length));
	return 0;
}

static void check_truncated(struct check *check, const struct listing_entry *entry)
{
	if (entry->error == ENAMETOOLONG)
		fprintf(mistake_begin(check, entry, 0),
			"the path is longer than the %d bytes that a request can carry\n", PATH_LENGTH_MAX);
	else if (entry->error == EMLINK)
		fprintf(mistake_begin(check, entry, 0),
			"not listed: %d other links lead to this directory already\n", LISTING_LINKS_MAX);
	else
		fprintf(mistake_begin(check, entry, 0),
			"the list ends here: there are more than %d entries in all\n", LISTING_ENTRIES_MAX);
}

/* The lines of a directory's file of options that is valid. */
static void check_directory_warnings(struct check *check, const struct listing_entry *entry)
{
	struct stat status;
	CLEANUP_CLOSE int fd = description_file_open(entry->directory_fd, DIRECTORY_OPTIONS, &status);
	ssize_t length = fd < 0 ? fd : description_file_read(fd, check->description);
	char file[POLICY_FILE_SIZE];

	if (length <= 0)
		return;
	snprintf(file, sizeof(file), "%s/%s%s" DIRECTORY_OPTIONS, check->services, entry->path,
		 entry->path_length > 0 ? "/" : "");
	check_warnings(check, file, (struct description_text){ check->description, (size_t)length }, 1, NULL,
		       NULL);
}

/* Looks at the directory's file of options as the router does, which would be told the same. */
static int check_directory(struct check *check, const struct listing_entry *entry)
{
	struct description_error error;
	char file[POLICY_FILE_SIZE];
	int r;

	for (unsigned waited_ms = 0;; waited_ms += LOOK_AGAIN_MS) {
		r = trail_enter(&check->trail, entry->directory_fd, entry->path, entry->path_length, &error,
				file);
		if (r != -EAGAIN || waited_ms > POLICY_REST_MS)
			break;
		poll(NULL, 0, LOOK_AGAIN_MS);
	}
	if (r == 0)
		check_directory_warnings(check, entry);
	if (r == 0 || listing_error_is_exhaustion(-r))
		return r;
	check->mistakes++;
	write_escaped(check->remarks.stream, file, strlen(file));
	if (r == -EINVAL && error.line > 0)
		fprintf(check->remarks.stream, ":%u", error.line);
	fprintf(check->remarks.stream, ": %s\n",
		r == -EINVAL ? error.reason :
		r == -EAGAIN ? "somebody is writing it" :
			       strerror(-r));
	return trail_enter_silent(&check->trail, entry->path, entry->path_length);
}

/* Called by the walk for everything it finds. */
static int check_entry(const struct listing_entry *entry, void *context)
{
	struct check *check = context;

	switch (entry->kind) {
	case LISTING_SOCKET:
		check_socket(check, entry);
		return 0;
	case LISTING_DESCRIPTION:
		return check_description(check, entry);
	case LISTING_DANGLING:
		check_dangling(check, entry);
		return 0;
	case LISTING_CIRCLE:
		/* Legal, and often meant. */
		fputs("note: this directory contains itself; it is not listed again\n",
		      remark_begin(check, entry, 0));
		return 0;
	case LISTING_BAD_NAME:
		mistake(check, entry, "control bytes in the name: no client can ask for it");
		return 0;
	case LISTING_OTHER:
		mistake(check, entry, "neither a socket nor a regular file nor a directory");
		return 0;
	case LISTING_UNREADABLE:
		fprintf(mistake_begin(check, entry, 0), "cannot be read: %s\n", strerror(entry->error));
		return 0;
	case LISTING_TRUNCATED:
		check_truncated(check, entry);
		return 0;
	case LISTING_DIRECTORY:
		return check_directory(check, entry);
	}
	return 0;
}

/* ---- what is shown ------------------------------------------------------------------------------- */

/* How wide a terminal shows bytes: one column for each UTF-8 character, which is right for most scripts. */
static size_t text_width(const char *text, size_t length)
{
	size_t width = 0;

	for (size_t i = 0; i < length; i++)
		width += ((unsigned char)text[i] & 0xc0) != 0x80;
	return width;
}

/* How wide the first two columns must be. The third is never padded. */
static void table_measure(const struct page *table, size_t widths[2])
{
	const char *text = table->text;

	widths[0] = widths[1] = 0;
	while (*text != '\0') {
		for (int column = 0; column < 2 && *text != '\t'; column++) {
			size_t length = strcspn(text, "\t");

			widths[column] = MAX(widths[column], text_width(text, length));
			text += length + 1;
		}
		text += strcspn(text, "\n") + 1;
	}
}

/* "    key value  (file)"; returns what follows the line. */
static const char *option_print(const char *text)
{
	size_t length = strcspn(++text, "\t");

	printf("    %.*s ", (int)length, text);
	text += length + 1;
	length = strcspn(text, "\t");
	printf("%.*s  ", (int)length, text);
	text += length + 1;
	length = strcspn(text, "\n");
	printf("(%.*s)\n", (int)length, text);
	return text + length + 1;
}

static void table_print_aligned(const struct page *table)
{
	const char *text = table->text;
	size_t widths[2];
	size_t length;

	table_measure(table, widths);
	while (*text != '\0') {
		if (*text == '\t') {
			text = option_print(text);
			continue;
		}
		for (int column = 0; column < 2; column++) {
			length = strcspn(text, "\t");
			printf("%.*s%*s", (int)length, text,
			       (int)(widths[column] - text_width(text, length) + 2), "");
			text += length + 1;
		}
		length = strcspn(text, "\n") + 1;
		fwrite(text, 1, length, stdout);
		text += length;
	}
}

/* Prints table, remarks and the summary. False when standard output takes no more. */
static bool check_print(const struct check *check)
{
	/* The table first, and flushed: where both streams are one terminal, the order is the reader's. */
	if (isatty(STDOUT_FILENO))
		table_print_aligned(&check->table);
	else
		fwrite(check->table.text, 1, check->table.length, stdout);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "kaiso check: standard output: %s\n", strerror(errno));
		return false;
	}
	fwrite(check->remarks.text, 1, check->remarks.length, stderr);
	if (check->mistakes > 0)
		fprintf(stderr, "%zu mistake%s\n", check->mistakes, check->mistakes == 1 ? "" : "s");
	return true;
}

/* ---- the command --------------------------------------------------------------------------------- */

static int page_open(struct page *page)
{
	page->stream = open_memstream(&page->text, &page->length);
	return page->stream ? 0 : -errno;
}

/* The text is complete from then on. A stream in memory fails only for want of memory. */
static int page_finish(struct page *page)
{
	int result = ferror(page->stream) ? -ENOMEM : 0;

	if (fclose(page->stream) != 0)
		result = -ENOMEM;
	page->stream = NULL;
	return result;
}

static void page_deinit(struct page *page)
{
	if (page->stream)
		fclose(page->stream);
	free(page->text);
}

/* Fills both pages. Whatever the result, page_deinit() is the caller's. */
static int check_walk(struct check *check)
{
	int result = check->trail.policies ? page_open(&check->table) : -ENOMEM;

	if (result == 0)
		result = page_open(&check->remarks);
	if (result == 0)
		result = listing_walk(check->services, "", 0, check_entry, check);
	if (result == 0)
		result = page_finish(&check->table);
	if (result == 0)
		result = page_finish(&check->remarks);
	return result;
}

/* One line: what, why, and the way out. */
static void say_no_services(const char *services, int error)
{
	char hint[HINT_SIZE];

	fprintf(stderr, "kaiso check: services directory '");
	write_escaped(stderr, services, strlen(services));
	hint_for(error, services, R_OK | X_OK, hint);
	fprintf(stderr, "': %s; %s%sname another with --services DIR or $KAISO_SERVICES\n", strerror(error),
		hint, *hint ? "; or " : "");
}

static int check_services(const char *services, bool is_verbose)
{
	CLEANUP_FREE struct check *check = calloc(1, sizeof(*check));
	CLEANUP_CLOSE int services_fd = fd_open_path(services, O_PATH | O_DIRECTORY);
	int error = services_fd < 0 ? -services_fd : 0;
	bool is_printed = false;

	if (!check)
		error = ENOMEM;
	if (error == 0) {
		check->services = services;
		check->services_fd = services_fd;
		check->is_verbose = is_verbose;
		check->trail.policies = policies_new(services);
		error = -check_walk(check);
		is_printed = error == 0 && check_print(check);
		page_deinit(&check->table);
		page_deinit(&check->remarks);
		trail_deinit(&check->trail);
		policies_free(check->trail.policies);
	}
	if (error != 0)
		say_no_services(services, error);
	return is_printed && check->mistakes == 0 ? EXIT_CLEAN : EXIT_MISTAKES;
}

static void print_help(void)
{
	fputs("Usage: kaiso check [-v] [--services DIR]\n"
	      "\n"
	      "Looks at everything in a services directory and finds what a router would stumble over.\n"
	      "\n"
	      "Every service goes to standard output, one a line: its path, its kind (unix, tcp, kaiso,\n"
	      "passfd, mount or srv) and its target, in columns on a terminal and separated by tabs elsewhere. The target\n"
	      "is the first line of a description, or where a link to a socket leads, or the socket itself.\n"
	      "\n"
	      "With -v, what holds for it by its option lines and those of directories (.kaiso) follows,\n"
	      "one a line: key, value, and the file that says it.\n"
	      "\n"
	      "Every mistake goes to standard error, as FILE:LINE: REASON, or FILE: REASON where it is not\n"
	      "about a single line: descriptions that are invalid or lead to no socket, invalid .kaiso\n"
	      "files, dangling links,\n"
	      "names that no client can ask for, files and directories that cannot be read, and what is no\n"
	      "service at all. Whether anybody answers behind a service is not tried. Other hidden files,\n"
	      "whose names begin with a dot, are passed over. Warnings are of lines that are valid, but can\n"
	      "hardly be meant; they do not count. What this user may not read, the router's may: run\n"
	      "the check as the user that the router runs as.\n"
	      "\n"
	      "Options:\n"
	      "  -v, --verbose   show the options of each service\n"
	      "  --services DIR  the directory (default: $KAISO_SERVICES, else ./services)\n"
	      "  -h, --help      print this help\n"
	      "\n"
	      "Exit status: 0 no mistakes; 1 mistakes, or no such directory; 2 wrong usage.\n"
	      "\n"
	      "Example:\n"
	      "  kaiso check --services /srv/services && systemctl start kaiso\n",
	      stdout);
}

/* The same for every command that wants the directory. */
static const char *services_default(void)
{
	const char *services = getenv("KAISO_SERVICES");

	return services && *services != '\0' ? services : "services";
}

static int usage_error(void)
{
	fputs("Try 'kaiso check --help'.\n", stderr);
	return EXIT_USAGE;
}

int cmd_check(int argc, char **argv)
{
	static const struct option options[] = {
		{ "services", required_argument, NULL, 's' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	static char name[] = "kaiso check";
	const char *services = services_default();
	bool is_verbose = false;
	int option;

	argv[0] = name; /* getopt_long() begins its messages with it */
	optind = 0;     /* and starts anew, whatever was parsed before */
	while ((option = getopt_long(argc, argv, "hv", options, NULL)) != -1) {
		switch (option) {
		case 's':
			if (optarg[0] == '\0') {
				fputs("kaiso check: --services '': expected a directory\n", stderr);
				return usage_error();
			}
			services = optarg;
			break;
		case 'v':
			is_verbose = true;
			break;
		case 'h':
			print_help();
			return EXIT_CLEAN;
		default:
			return usage_error();
		}
	}
	if (optind < argc) {
		fprintf(stderr, "kaiso check: unexpected argument '%s'\n", argv[optind]);
		return usage_error();
	}
	return check_services(services, is_verbose);
}
