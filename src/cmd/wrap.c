/*
 * Theory of operation: the words behind one command may begin with another command of this executable: by
 * its path and name, `kaiso inject …`, or by its own name, `kaiso-inject …`. Such a one is not run but
 * read, and adds its role to the plan of the outer one. What is left then is the program, which runs with
 * all roles under one supervisor.
 */
#include "cmd/wrap.h"

#include <stdio.h>
#include <string.h>

#include "base/macros.h"
#include "wrap/program.h"

struct parser {
	const char *command;
	const char *link;
	int (*parse)(int argc, char **argv, struct wrap_plan *plan);
};

static const struct parser parsers[] = {
	{ "inject", "kaiso-inject", inject_parse },
	{ "passfd", "kaiso-passfd", passfd_parse },
};

static const struct parser *find_parser(const char *word, bool is_link)
{
	for (size_t i = 0; i < ARRAY_SIZE(parsers); i++) {
		if (word && strcmp(word, is_link ? parsers[i].link : parsers[i].command) == 0)
			return &parsers[i];
	}
	return NULL;
}

/* The file name of a word, which stays as it is. */
static const char *file_name(const char *word)
{
	const char *slash = strrchr(word, '/');

	return slash ? slash + 1 : word;
}

/* Is the program one of our own commands? Then *words points at the command's name. */
static const struct parser *recognise(char ***words)
{
	const struct parser *by_link = find_parser(file_name((*words)[0]), true);
	const struct parser *by_word = by_link ? NULL : find_parser((*words)[1], false);

	if ((!by_link && !by_word) || !program_is_self((*words)[0]))
		return NULL;
	if (by_link)
		return by_link;
	++*words;
	return by_word;
}

static int count_words(char **words)
{
	int count = 0;

	while (words[count])
		count++;
	return count;
}

bool wrap_plan_set_mode(struct wrap_plan *plan, const char *word)
{
	enum wrap_mode mode;

	if (!wrap_mode_parse(word, &mode)) {
		fprintf(stderr, "%s: --mode '%s': expected auto, seccomp or preload\n", plan->tool, word);
		return false;
	}
	if (plan->mode != WRAP_AUTO && mode != WRAP_AUTO && mode != plan->mode) {
		fprintf(stderr, "%s: --mode '%s': the commands around one program have one mode\n",
			plan->tool, word);
		return false;
	}
	if (mode != WRAP_AUTO)
		plan->mode = mode;
	return true;
}

int wrap_main(int argc, char **argv, const char *tool, int (*parse)(int, char **, struct wrap_plan *))
{
	struct wrap_plan plan = { .tool = tool };
	const struct parser *inner;
	char **words;
	int status = parse(argc, argv, &plan);

	while (status < 0) {
		words = plan.program;
		inner = recognise(&words);
		if (!inner)
			return wrap_run(&plan);
		status = inner->parse(count_words(words), words, &plan);
	}
	return status;
}
