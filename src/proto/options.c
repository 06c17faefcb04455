/*
 * Theory of operation: a cursor goes over the text line by line and judges each line as it comes, so a reader that
 * stops at the first fault has believed nothing behind it. Addresses are all 128 bits long here: an IPv4 address and its
 * bits are those of its mapped form, and one comparison serves both.
 */
#include "proto/options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "base/args.h"
#include "base/macros.h"
#include "proto/words.h"

#define MAPPED_BITS 96 /* of ::ffff:0:0/96, before an IPv4 address */
#define ADDRESS_BITS 128

static const char *const key_names[OPTION_COUNT] = {
	[OPTION_ABOUT] = "about",
	[OPTION_BACKEND] = "backend",
	[OPTION_BALANCE] = "balance",
	[OPTION_ALLOW] = "allow",
	[OPTION_DENY] = "deny",
	[OPTION_PROXY] = "proxy",
	[OPTION_MAX_SESSIONS] = "max-sessions",
	[OPTION_CONNECT_TIMEOUT] = "connect-timeout",
	[OPTION_IDLE_TIMEOUT] = "idle-timeout",
};

static const char *const balance_names[] = { "first", "round-robin", "least-sessions" };
static const char *const proxy_names[] = { "none", "v1", "v2" };

const char *option_key_name(enum option_key key)
{
	return key_names[key];
}

const char *balance_name(enum balance balance)
{
	return balance_names[balance];
}

const char *proxy_version_name(enum proxy_version version)
{
	return proxy_names[version];
}

/* ---- values ---------------------------------------------------------------------------------------- */

static int parse_choice(const char *const *names, size_t count, const char *said, unsigned line,
			struct option_line *option, struct description_error *error)
{
	char excerpt[WORDS_EXCERPT_SIZE];

	for (size_t i = 0; i < count; i++) {
		if (!words_is(option->value, names[i]))
			continue;
		option->number = i;
		return 1;
	}
	return words_refuse(error, line, "%s %s: it is one of %s", key_names[option->key],
			    words_excerpt(excerpt, option->value), said);
}

static int parse_duration(unsigned line, struct option_line *option, struct description_error *error)
{
	char excerpt[WORDS_EXCERPT_SIZE], word[32] = "";

	if (option->value.length < sizeof(word))
		memcpy(word, option->value.start, option->value.length);
	if (args_parse_duration_ms(word, &option->number) == 0)
		return 1;
	return words_refuse(error, line, "%s %s: a duration is like 500ms, 10s, 5m, or 0 for none",
			    key_names[option->key], words_excerpt(excerpt, option->value));
}

static int parse_count(unsigned line, struct option_line *option, struct description_error *error)
{
	char excerpt[WORDS_EXCERPT_SIZE];

	if (args_parse_number_n(option->value.start, option->value.length, 0, UINT32_MAX, &option->number) ==
	    0)
		return 1;
	return words_refuse(error, line, "%s %s: it is a number, or 0 for no limit", key_names[option->key],
			    words_excerpt(excerpt, option->value));
}

static int parse_rules(unsigned line, const struct option_line *option, struct description_error *error)
{
	struct description_text rest = option->value;
	struct access_rule rule;
	int result;

	do {
		result = access_rule_next(&rest, option->key == OPTION_ALLOW, &rule, error);
	} while (result > 0);
	error->line = result < 0 ? line : error->line;
	return result < 0 ? result : 1;
}

static int parse_backend(struct options_cursor *cursor, const struct option_line *option,
			 struct description_error *error)
{
	struct description target;
	int result = description_parse_target(option->value, cursor->line, &target, error);

	if (result == 0 && ++cursor->backends > OPTIONS_BACKENDS_MAX)
		return words_refuse(error, cursor->line, "more than %d backends", OPTIONS_BACKENDS_MAX);
	return result == 0 ? 1 : result;
}

static int parse_value(struct options_cursor *cursor, struct option_line *option,
		       struct description_error *error)
{
	switch (option->key) {
	case OPTION_ABOUT:
		return 1;
	case OPTION_BACKEND:
		return parse_backend(cursor, option, error);
	case OPTION_BALANCE:
		return parse_choice(balance_names, ARRAY_SIZE(balance_names),
				    "first, round-robin, least-sessions", cursor->line, option, error);
	case OPTION_ALLOW:
	case OPTION_DENY:
		return parse_rules(cursor->line, option, error);
	case OPTION_PROXY:
		return parse_choice(proxy_names, ARRAY_SIZE(proxy_names), "v1, v2, none", cursor->line,
				    option, error);
	case OPTION_MAX_SESSIONS:
		return parse_count(cursor->line, option, error);
	case OPTION_CONNECT_TIMEOUT:
	case OPTION_IDLE_TIMEOUT:
		return parse_duration(cursor->line, option, error);
	}
	return -EINVAL;
}

/* ---- lines ----------------------------------------------------------------------------------------- */

struct options_cursor options_begin(struct description_text text, unsigned first_line)
{
	return (struct options_cursor){ .rest = text, .line = first_line - 1 };
}

static bool key_find(struct description_text word, enum option_key *key)
{
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		if (!words_is(word, key_names[i]))
			continue;
		*key = (enum option_key)i;
		return true;
	}
	return false;
}

static bool key_may_repeat(enum option_key key)
{
	return key == OPTION_BACKEND || key == OPTION_ALLOW || key == OPTION_DENY;
}

static int check_bytes(struct description_text line, unsigned number, struct description_error *error)
{
	for (size_t i = 0; i < line.length; i++) {
		unsigned char byte = (unsigned char)line.start[i];

		if ((byte < 0x20 && byte != '\t') || byte == 0x7f)
			return words_refuse(error, number, "a control byte (0x%02x)", byte);
	}
	return 0;
}

static int parse_line(struct options_cursor *cursor, struct description_text line, struct option_line *option,
		      struct description_error *error)
{
	struct description_text key = words_first_field(line);
	char excerpt[WORDS_EXCERPT_SIZE];

	if (check_bytes(line, cursor->line, error) != 0)
		return -EINVAL;
	if (!key_find(key, &option->key))
		return words_refuse(error, cursor->line, "no option is called %s",
				    words_excerpt(excerpt, key));
	option->number = 0;
	option->value = words_trim_start(words_make(words_end(key), words_end(line)));
	if (option->value.length == 0)
		return words_refuse(error, cursor->line, "%s without a value", key_names[option->key]);
	if ((cursor->seen & (1u << option->key)) && !key_may_repeat(option->key))
		return words_refuse(error, cursor->line, "%s stands there twice", key_names[option->key]);
	cursor->seen |= 1u << option->key;
	return parse_value(cursor, option, error);
}

int options_next(struct options_cursor *cursor, struct option_line *option, struct description_error *error)
{
	while (cursor->rest.length > 0) {
		struct description_text line = words_trim_start(words_take_line(&cursor->rest));

		cursor->line++;
		if (line.length > 0 && line.start[0] != '#')
			return parse_line(cursor, line, option, error);
	}
	return 0;
}

/* ---- allow and deny -------------------------------------------------------------------------------- */

static bool parse_address(struct description_text text, struct access_rule *rule, unsigned *bits_max)
{
	char word[INET6_ADDRSTRLEN] = "";

	if (text.length >= sizeof(word))
		return false;
	memcpy(word, text.start, text.length);
	*bits_max = ADDRESS_BITS;
	if (inet_pton(AF_INET6, word, &rule->address) == 1)
		return true;
	*bits_max = ADDRESS_BITS - MAPPED_BITS;
	rule->address = (struct in6_addr){ .s6_addr = { [10] = 0xff, [11] = 0xff } };
	return inet_pton(AF_INET, word, rule->address.s6_addr + MAPPED_BITS / 8) == 1;
}

/* Bits that do not count become 0. */
static void rule_mask(struct access_rule *rule)
{
	for (unsigned bit = rule->bits; bit < ADDRESS_BITS; bit++)
		rule->address.s6_addr[bit / 8] &= (uint8_t) ~(0x80u >> bit % 8);
}

int access_rule_next(struct description_text *value, bool is_allowed, struct access_rule *rule,
		     struct description_error *error)
{
	struct description_text field = words_first_field(words_trim_start(*value));
	const char *slash = words_find(field, '/');
	struct description_text address = slash ? words_make(field.start, slash) : field;
	char excerpt[WORDS_EXCERPT_SIZE];
	unsigned bits_max = 0;
	uint64_t bits;

	if (field.length == 0)
		return 0;
	*value = words_make(words_end(field), words_end(*value));
	*rule = (struct access_rule){ .is_allowed = is_allowed };
	if (!parse_address(address, rule, &bits_max))
		return words_refuse(error, 0,
				    "%s is not an address; it is like 192.0.2.0/24 or 2001:db8::/32",
				    words_excerpt(excerpt, field));
	bits = bits_max;
	if (slash &&
	    args_parse_number_n(slash + 1, (size_t)(words_end(field) - slash - 1), 0, bits_max, &bits) != 0)
		return words_refuse(error, 0, "%s: the bits behind the '/' are a number from 0 to %u",
				    words_excerpt(excerpt, field), bits_max);
	rule->bits = (uint8_t)(bits + ADDRESS_BITS - bits_max);
	rule_mask(rule);
	return 1;
}

static bool rule_matches(const struct access_rule *rule, const struct in6_addr *address)
{
	unsigned bytes = rule->bits / 8, bits = rule->bits % 8;

	return memcmp(rule->address.s6_addr, address->s6_addr, bytes) == 0 &&
	       (bits == 0 || (rule->address.s6_addr[bytes] ^ address->s6_addr[bytes]) >> (8 - bits) == 0);
}

bool access_is_allowed(const struct access_rule *rules, size_t count, const struct in6_addr *address)
{
	const struct access_rule *best = NULL;
	bool has_allow = false;

	for (size_t i = 0; i < count; i++) {
		has_allow = has_allow || rules[i].is_allowed;
		if (rule_matches(&rules[i], address) &&
		    (!best || rules[i].bits > best->bits ||
		     (rules[i].bits == best->bits && !rules[i].is_allowed)))
			best = &rules[i];
	}
	return best ? best->is_allowed : !has_allow;
}
