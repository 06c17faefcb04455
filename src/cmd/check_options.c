/*
 * Theory of operation: everything here has passed the parser already, so each line is read again with it and compared
 * with what stands before it in the same file; files are small enough to compare each with each.
 */
#include "cmd/check_options.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "proto/options.h"
#include "proto/words.h"

#define MAPPED_BITS 96
#define RULE_TEXT_SIZE (INET6_ADDRSTRLEN + 8)

/* "192.0.2.0/24", "2001:db8::/32"; without the bits where all count. */
static const char *rule_format(const struct access_rule *rule, char text[static RULE_TEXT_SIZE])
{
	const bool is_ipv4 = rule->bits >= MAPPED_BITS && IN6_IS_ADDR_V4MAPPED(&rule->address);
	const unsigned bits = is_ipv4 ? rule->bits - MAPPED_BITS : rule->bits;

	inet_ntop(is_ipv4 ? AF_INET : AF_INET6, rule->address.s6_addr + (is_ipv4 ? MAPPED_BITS / 8 : 0), text,
		  INET6_ADDRSTRLEN);
	if (rule->bits < 128)
		sprintf(text + strlen(text), "/%u", bits);
	return text;
}

PRINTF_LIKE(3, 4)
static void say(const struct check_options_listener *listener, unsigned line, const char *format, ...)
{
	char reason[256];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reason, sizeof(reason), format, arguments);
	va_end(arguments);
	listener->say(listener->context, line, reason);
}

/* ---- lines that cannot be meant ---------------------------------------------------------------------- */

/* A text that is read again, up to the line in question. */
struct place {
	struct description_text text;
	unsigned first_line;
	unsigned line;
	const struct check_options_listener *listener;
};

/* An address of allow and deny lines, and where it stands. */
struct written_rule {
	struct access_rule rule;
	unsigned line;
};

struct written_rules {
	struct written_rule *rules;
	size_t count;
};

/* When bits are set in an address that do not count. */
static void check_host_bits(const struct place *place, struct description_text written,
			    const struct access_rule *rule)
{
	const char *slash = words_find(written, '/');
	struct description_text address = slash ? words_make(written.start, slash) : written;
	struct description_error error;
	struct access_rule whole;
	char text[RULE_TEXT_SIZE], excerpt[WORDS_EXCERPT_SIZE];

	if (access_rule_next(&address, rule->is_allowed, &whole, &error) > 0 &&
	    memcmp(&whole.address, &rule->address, sizeof(whole.address)) != 0)
		say(place->listener, place->line, "%s is as good as %s", words_excerpt(excerpt, written),
		    rule_format(rule, text));
}

/* Does the address stand there before? */
static void check_same_rule(const struct place *place, const struct written_rules *before,
			    const struct access_rule *rule)
{
	char text[RULE_TEXT_SIZE];

	for (size_t i = 0; i < before->count; i++) {
		const struct access_rule *other = &before->rules[i].rule;

		if (other->bits != rule->bits ||
		    memcmp(&other->address, &rule->address, sizeof(other->address)) != 0)
			continue;
		say(place->listener, place->line,
		    other->is_allowed == rule->is_allowed ?
			    "%s is in line %u already" :
			    "%s is both allowed and denied (line %u); deny wins",
		    rule_format(rule, text), before->rules[i].line);
		return;
	}
}

static void check_rules(const struct place *place, const struct option_line *option,
			struct written_rules *written)
{
	struct description_text rest = option->value;
	struct description_error error;
	struct access_rule rule;

	for (;;) {
		struct description_text field = words_first_field(words_trim_start(rest));

		if (access_rule_next(&rest, option->key == OPTION_ALLOW, &rule, &error) <= 0)
			return;
		check_host_bits(place, field, &rule);
		check_same_rule(place, written, &rule);
		written->rules[written->count++] = (struct written_rule){ rule, place->line };
	}
}

static bool text_is_equal(struct description_text one, struct description_text other)
{
	return one.length == other.length && memcmp(one.start, other.start, one.length) == 0;
}

static void check_backend(const struct place *place, const struct description_text *first,
			  struct description_text target)
{
	struct options_cursor cursor = options_begin(place->text, place->first_line);
	struct description_error error;
	struct option_line option;

	if (first && text_is_equal(*first, target)) {
		say(place->listener, place->line, "this target is that of the first line");
		return;
	}
	while (options_next(&cursor, &option, &error) > 0 && cursor.line < place->line) {
		if (option.key != OPTION_BACKEND || !text_is_equal(option.value, target))
			continue;
		say(place->listener, place->line, "this target is that of line %u", cursor.line);
		return;
	}
}

void check_options(struct description_text text, unsigned first_line, const struct description_text *first,
		   const struct policy *policy, const struct check_options_listener *listener)
{
	/* No address is shorter than "::" with the blank before it. */
	CLEANUP_FREE struct written_rule *rules = calloc(text.length / 3 + 1, sizeof(*rules));
	struct options_cursor cursor = options_begin(text, first_line);
	struct written_rules written = { rules, 0 };
	struct description_error error;
	struct option_line option;

	while (rules && options_next(&cursor, &option, &error) > 0) {
		const struct place place = { text, first_line, cursor.line, listener };

		if (option.key == OPTION_ALLOW || option.key == OPTION_DENY)
			check_rules(&place, &option, &written);
		else if (option.key == OPTION_BACKEND)
			check_backend(&place, first, option.value);
		else if (option.key == OPTION_BALANCE && first && policy->backend_count == 0)
			say(listener, cursor.line,
			    "balance without a backend: there is nothing to choose from");
	}
}

/* ---- what they come to ------------------------------------------------------------------------------- */

static void print_duration(FILE *stream, uint64_t ms)
{
	if (ms == 0)
		fputc('0', stream);
	else if (ms % 60000 == 0)
		fprintf(stream, "%" PRIu64 "m", ms / 60000);
	else if (ms % 1000 == 0)
		fprintf(stream, "%" PRIu64 "s", ms / 1000);
	else
		fprintf(stream, "%" PRIu64 "ms", ms);
}

static void print_rules(FILE *stream, const struct policy *policy, bool is_allowed)
{
	const char *separator = "";
	char text[RULE_TEXT_SIZE];

	for (size_t i = 0; i < policy->rule_count; i++) {
		if (policy->rules[i].is_allowed != is_allowed)
			continue;
		fprintf(stream, "%s%s", separator, rule_format(&policy->rules[i], text));
		separator = " ";
	}
}

static void print_value(FILE *stream, const struct policy *policy, enum option_key key, size_t number,
			void (*write)(FILE *, const char *, size_t))
{
	switch (key) {
	case OPTION_ABOUT:
		write(stream, policy->about, strlen(policy->about));
		break;
	case OPTION_BACKEND:
		write(stream, policy->backends[number], strlen(policy->backends[number]));
		break;
	case OPTION_BALANCE:
		fputs(balance_name(policy->balance), stream);
		break;
	case OPTION_ALLOW:
	case OPTION_DENY:
		print_rules(stream, policy, key == OPTION_ALLOW);
		break;
	case OPTION_PROXY:
		fputs(proxy_version_name(policy->proxy), stream);
		break;
	case OPTION_MAX_SESSIONS:
		fprintf(stream, "%" PRIu64, policy->max_sessions);
		break;
	case OPTION_CONNECT_TIMEOUT:
		print_duration(stream, policy->connect_timeout_ms);
		break;
	case OPTION_IDLE_TIMEOUT:
		print_duration(stream, policy->idle_timeout_ms);
		break;
	}
}

void check_options_print(FILE *stream, const struct policy *policy,
			 void (*write)(FILE *stream, const char *bytes, size_t length))
{
	for (enum option_key key = 0; key < OPTION_COUNT; key++) {
		const size_t count = key == OPTION_BACKEND && policy ? policy->backend_count : 1;

		for (size_t i = 0; policy_names(policy, key) && i < count; i++) {
			fprintf(stream, "\t%s\t", option_key_name(key));
			print_value(stream, policy, key, i, write);
			fputc('\t', stream);
			write(stream, policy->sources[key], strlen(policy->sources[key]));
			fputc('\n', stream);
		}
	}
}
