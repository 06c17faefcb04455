/*
 * Option lines. Oracles: what is found lies inside the text and is what its key allows; text that is accepted is
 * accepted again line by line; and who may by its rules is told the same by a second, slower way.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/options.h"

#define ENSURE(condition)         \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)

#define RULES_MAX 512

static struct access_rule rules[RULES_MAX];
static size_t rule_count;

static bool bits_are_equal(const struct in6_addr *one, const struct in6_addr *other, unsigned bits)
{
	for (unsigned bit = 0; bit < bits; bit++) {
		if (((one->s6_addr[bit / 8] ^ other->s6_addr[bit / 8]) >> (7 - bit % 8)) & 1)
			return false;
	}
	return true;
}

/* From the longest prefix down to none. */
static bool is_allowed_slowly(const struct in6_addr *address)
{
	bool has_allow = false, may = false, is_denied = false;

	for (int bits = 128; bits >= 0 && !may && !is_denied; bits--) {
		for (size_t i = 0; i < rule_count; i++) {
			if (rules[i].bits != bits ||
			    !bits_are_equal(&rules[i].address, address, rules[i].bits))
				continue;
			may |= rules[i].is_allowed;
			is_denied |= !rules[i].is_allowed;
		}
	}
	for (size_t i = 0; i < rule_count; i++)
		has_allow |= rules[i].is_allowed;
	if (is_denied)
		return false;
	return may || !has_allow;
}

static void take_rules(const struct option_line *option)
{
	struct description_text rest = option->value;
	struct description_error error;
	struct access_rule rule;

	while (access_rule_next(&rest, option->key == OPTION_ALLOW, &rule, &error) == 1) {
		ENSURE(rule.bits <= 128 && rule.is_allowed == (option->key == OPTION_ALLOW));
		for (unsigned bit = rule.bits; bit < 128; bit++)
			ENSURE(!((rule.address.s6_addr[bit / 8] >> (7 - bit % 8)) & 1));
		if (rule_count < RULES_MAX)
			rules[rule_count++] = rule;
	}
}

static void check_option(const struct option_line *option, const char *bytes, size_t length)
{
	const char *start = option->value.start, *end = start + option->value.length;

	ENSURE(start >= bytes && end <= bytes + length && start < end);
	ENSURE(!strchr(" \t\n", start[0]) && !strchr(" \t\n", end[-1]));
	if (option->key == OPTION_ALLOW || option->key == OPTION_DENY)
		take_rules(option);
	if (option->key == OPTION_BALANCE)
		ENSURE(option->number <= BALANCE_LEAST_SESSIONS &&
		       strncmp(balance_name((enum balance)option->number), start, option->value.length) == 0);
	if (option->key == OPTION_PROXY)
		ENSURE(strncmp(proxy_version_name((enum proxy_version)option->number), start, 2) == 0);
}

/* Addresses at both edges of each rule, and one bit beside them. */
static void check_rules(void)
{
	for (size_t i = 0; i < rule_count; i++) {
		struct in6_addr address = rules[i].address;

		ENSURE(access_is_allowed(rules, rule_count, &address) == is_allowed_slowly(&address));
		for (unsigned bit = rules[i].bits ? rules[i].bits - 1u : 0; bit < 128; bit += 13) {
			address.s6_addr[bit / 8] ^= (uint8_t)(0x80u >> bit % 8);
			ENSURE(access_is_allowed(rules, rule_count, &address) == is_allowed_slowly(&address));
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length)
{
	char *bytes = malloc(length + 1);
	struct options_cursor cursor;
	struct description_error error = { 0, "" };
	struct option_line option;
	unsigned last_line = 0;
	int result;

	ENSURE(bytes);
	memcpy(bytes + 1, input, length);
	rule_count = 0;
	cursor = options_begin((struct description_text){ bytes + 1, length }, 1);
	while ((result = options_next(&cursor, &option, &error)) == 1) {
		ENSURE(cursor.line > last_line && cursor.backends <= OPTIONS_BACKENDS_MAX);
		last_line = cursor.line;
		check_option(&option, bytes + 1, length);
	}
	ENSURE(result == 0 || (result == -EINVAL && error.reason[0] && error.line == cursor.line));
	check_rules();
	free(bytes);
	return 0;
}
