/*
 * Theory of operation
 *
 * The lister is one thread. Wishes queue under its mutex; the thread takes the
 * first and all that ask for the same, walks without the mutex, and answers
 * them. A wish that comes meanwhile stays queued, and so sees what changed.
 *
 * A list leaves out what its client may not open. As long as no rule had a say in it, it is everybody's; else it is that
 * of one address, and the others that wait for the same list go back to the head of the queue.
 *
 * All texts that somebody holds are in one list. It holds no reference itself;
 * a text that equals one in it joins that one and is dropped. Equal is
 * decided by hash and length under the lock, and byte by byte outside it:
 * event loops take the same lock to let go of a text, and must not wait.
 */
#include "router/lister.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/sandbox.h"
#include "router/listing.h"
#include "router/summaries.h"
#include "router/trail.h"

SANDBOX_CALLS("poll", "ppoll", "setpriority");

/* ---- texts --------------------------------------------------------------------------------------- */

/* Not the lister's, for a text may outlive it. The mutex guards the list and all reference counts, and is
 * held for no more than a look along the list: as many texts as slow readers hold, which limits bound. */
static pthread_mutex_t texts_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct list texts_held = { &texts_held, &texts_held };
static size_t texts_length; /* of all of them */

void lister_text_unref(struct lister_text *text)
{
	bool is_last;

	if (!text)
		return;
	pthread_mutex_lock(&texts_mutex);
	is_last = --text->references == 0;
	if (is_last) {
		list_remove(&text->link);
		texts_length -= text->length;
	}
	pthread_mutex_unlock(&texts_mutex);
	if (is_last)
		free(text);
}

/* The caller holds a reference already. */
static void text_add_references(struct lister_text *text, unsigned count)
{
	pthread_mutex_lock(&texts_mutex);
	text->references += count;
	pthread_mutex_unlock(&texts_mutex);
}

void lister_text_ref(struct lister_text *text)
{
	text_add_references(text, 1);
}

/* Finds a held text that is in all likelihood the same and takes a reference to it, so that it stays
 * while the two are compared. */
static struct lister_text *text_find_twin(const struct lister_text *text)
{
	struct lister_text *twin = NULL;

	pthread_mutex_lock(&texts_mutex);
	for (struct list *link = texts_held.next; link != &texts_held && !twin; link = link->next) {
		struct lister_text *held = CONTAINER_OF(link, struct lister_text, link);

		if (held->hash == text->hash && held->length == text->length)
			twin = held;
	}
	if (twin)
		twin->references++;
	pthread_mutex_unlock(&texts_mutex);
	return twin;
}

/* Takes a text among those that are held, with so many references. False: there is no room for it. */
static bool text_hold(struct lister_text *text, unsigned references)
{
	bool has_room;

	pthread_mutex_lock(&texts_mutex);
	has_room = text->length <= LISTER_TEXTS_MAX - texts_length;
	if (has_room) {
		text->references = references;
		texts_length += text->length;
		list_append(&texts_held, &text->link);
	}
	pthread_mutex_unlock(&texts_mutex);
	return has_room;
}

/* Makes a finished text known, with so many references; or frees it and returns the one it equals, with
 * so many more, or NULL when there is no room for it. */
static struct lister_text *text_publish_take(struct lister_text *text, unsigned references)
{
	struct lister_text *twin;

	text->hash = hash_bytes(text->bytes, text->length);
	twin = text_find_twin(text);
	if (twin && memcmp(twin->bytes, text->bytes, text->length) == 0) {
		free(text);
		text_add_references(twin, references - 1);
		return twin;
	}
	lister_text_unref(twin);

	if (text_hold(text, references))
		return text;
	free(text);
	return NULL;
}

struct lister_text *lister_text_restored(const char *bytes, size_t length)
{
	struct lister_text *text = calloc(1, sizeof(*text) + length);

	if (!text)
		return NULL;
	memcpy(text->bytes, bytes, length);
	text->length = length;
	return text_publish_take(text, 1);
}

/* ---- writing a list ------------------------------------------------------------------------------ */

enum {
	/* What a visit of the lister returns, besides errors, to end the walk. */
	DRAFT_FULL = 1,
	DRAFT_SIZE_FIRST = 4096,
};

struct lister {
	const char *services;
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	struct list waiting;      /* under the mutex */
	_Atomic bool is_stopping; /* written under the mutex, read by the walk without it */
	struct log_limiter limiter;
	struct policies *policies; /* borrowed */
	struct summaries *summaries;
};

/* How many entries pass between two looks whether anybody still waits. */
#define CANCEL_INTERVAL 4096
#define LISTER_NICE 19 /* of the thread: sessions go first */

/* How long one walk waits, in all, for files that somebody is writing, and between two looks. */
#define PATIENCE_MS (POLICY_REST_MS + 50)
#define LOOK_AGAIN_MS 10

/* A text being written: the lister_text itself, grown by doubling, so that it need not be copied when it
 * is finished. */
struct draft {
	struct lister *lister;
	const struct list *batch; /* of the wishes that it is for */
	unsigned entries;
	bool is_detailed;
	const union addr *client;
	struct trail trail;
	struct policy *judged; /* a reference: the directory's policy that was judged last, */
	bool is_admitted;      /* and how: there may be thousands of rules, and of entries */
	unsigned patience_ms;  /* what is left of it */
	bool is_personal;      /* a rule had a say in it */
	bool has_left_out;     /* something that others may see */
	struct lister_text *text;
	size_t size; /* of its bytes */
};

/* The first call makes the text. On failure what was written stays. */
static int draft_resize(struct draft *draft, size_t size)
{
	struct lister_text *text = realloc(draft->text, sizeof(*text) + size);

	if (!text)
		return -ENOMEM;
	if (!draft->text)
		text->length = 0;
	draft->text = text;
	draft->size = size;
	return 0;
}

/* Makes room for length bytes and the CRLF that ends the list. */
static int draft_reserve(struct draft *draft, size_t length)
{
	size_t needed = draft->text->length + length + 2;

	if (needed > LISTER_TEXT_MAX)
		return DRAFT_FULL;
	if (needed <= draft->size)
		return 0;
	return draft_resize(draft, MIN(MAX(2 * draft->size, needed), (size_t)LISTER_TEXT_MAX));
}

/* Call draft_reserve() first. */
static void draft_append(struct draft *draft, const char *bytes, size_t length)
{
	memcpy(draft->text->bytes + draft->text->length, bytes, length);
	draft->text->length += length;
}

static void log_truncated(struct lister *lister, const char *bound, const char *path, size_t path_length)
{
	uint32_t suppressed;
	struct log_line line;

	if (!log_limiter_pass(&lister->limiter, clock_now_ms(), &suppressed))
		return;
	log_begin(&line, LOG_LEVEL_WARNING, "list is incomplete");
	log_add_string(&line, "reason", bound);
	log_add_bytes(&line, "path", path, path_length);
	if (suppressed > 0)
		log_add_number(&line, "suppressed", suppressed);
	log_end(&line);
}

/* True: look again. Somebody is writing what is to be listed. */
static bool draft_wait(struct draft *draft)
{
	if (draft->patience_ms < LOOK_AGAIN_MS || draft->lister->is_stopping)
		return false;
	draft->patience_ms -= LOOK_AGAIN_MS;
	poll(NULL, 0, LOOK_AGAIN_MS);
	return true;
}

/* May the client see what lies directly in a directory, and has no rules of its own? */
static bool draft_admits(struct draft *draft, struct policy *directory)
{
	if (!directory || directory->rule_count == 0)
		return true;
	draft->is_personal = true;
	if (directory == draft->judged)
		return draft->is_admitted;
	policy_ref(directory);
	policy_unref(draft->judged);
	draft->judged = directory;
	draft->is_admitted = policy_admits(directory, draft->client);
	return draft->is_admitted;
}

/* What cannot be judged is left out, with all that is below it. */
static int draft_enter(struct draft *draft, const struct listing_entry *entry)
{
	struct description_error error;
	char file[POLICY_FILE_SIZE];
	int r;

	do {
		r = trail_enter(&draft->trail, entry->directory_fd, entry->path, entry->path_length, &error,
				file);
	} while (r == -EAGAIN && draft_wait(draft));
	if (r < 0 && listing_error_is_exhaustion(-r))
		return r;
	/* It may be empty, and is as none all the same. */
	if (r == 0 && draft_admits(draft, trail_last(&draft->trail)))
		return 0;
	draft->has_left_out = true;
	return r == 0 ? 0 : LISTING_SKIP;
}

/* What a list says of an entry. */
struct draft_entry {
	enum description_kind kind;
	bool is_valid;
	bool is_listed;
	const char *about; /* terminated */
};

static int draft_describe(struct draft *draft, const struct listing_entry *entry, struct policy *directory,
			  struct draft_entry *said)
{
	const struct summary *summary;
	int r;

	do {
		r = summaries_find(draft->lister->summaries, entry->directory_fd, entry->name, &summary);
	} while (r == -EAGAIN && draft_wait(draft));
	said->is_listed = false;
	if (r == -EAGAIN || r == -ENOENT) {
		draft->has_left_out = draft->has_left_out || r == -EAGAIN;
		return 0;
	}
	if (r < 0)
		return r;
	if (summary->is_valid && summary->has_rules) {
		draft->is_personal = true;
		r = summary_admits(summary, directory, draft->client);
	} else {
		r = draft_admits(draft, directory);
	}
	if (r < 0)
		return r;
	said->is_listed = r > 0;
	said->is_valid = summary->is_valid;
	said->kind = summary->kind;
	if (summary->is_valid && summary->about)
		said->about = summary->about;
	return 0;
}

/* Gathers what is said of a socket or a description. */
static int draft_judge(struct draft *draft, const struct listing_entry *entry, struct draft_entry *said)
{
	struct policy *directory = trail_policy(&draft->trail, entry->path, entry->path_length);
	int r = 0;

	*said = (struct draft_entry){ .kind = DESCRIPTION_UNIX,
				      .is_valid = true,
				      .about = directory ? directory->about : "" };
	if (entry->kind == LISTING_SOCKET)
		said->is_listed = draft_admits(draft, directory);
	else
		r = draft_describe(draft, entry, directory, said);
	if (r == 0 && !said->is_listed)
		draft->has_left_out = true;
	return r;
}

/* The "about" may hold tabs, which separate what stands in a line. */
static void draft_append_about(struct draft *draft, const char *about)
{
	for (const char *rest = about; *rest != '\0';) {
		size_t length = strcspn(rest, "\t");

		draft_append(draft, rest, length);
		rest += length;
		if (*rest == '\0')
			break;
		draft_append(draft, " ", 1);
		rest++;
	}
}

/* A path holds no control bytes, so tabs and line ends are safe separators. */
static int draft_append_line(struct draft *draft, const struct listing_entry *entry,
			     const struct draft_entry *said)
{
	const char *kind = description_kind_name(said->kind);
	int r = draft_reserve(draft,
			      entry->path_length + strlen(kind) + strlen(said->about) + strlen("/\t\t\r\n"));

	if (r == DRAFT_FULL)
		log_truncated(draft->lister, "text too long", entry->path, entry->path_length);
	if (r != 0)
		return r;
	draft_append(draft, entry->path, entry->path_length);
	if (said->is_valid && said->kind == DESCRIPTION_MOUNT)
		draft_append(draft, "/", 1);
	if (draft->is_detailed) {
		draft_append(draft, "\t", 1);
		draft_append(draft, kind, strlen(kind));
		draft_append(draft, "\t", 1);
		draft_append_about(draft, said->about);
	}
	draft_append(draft, "\r\n", 2);
	return 0;
}

/* A detailed list has no line for what is invalid: clients that asked for it would be refused. */
static int draft_add_entry(struct draft *draft, const struct listing_entry *entry)
{
	struct draft_entry said;
	int r = draft_judge(draft, entry, &said);

	if (r < 0 || !said.is_listed || (draft->is_detailed && !said.is_valid))
		return r;
	return draft_append_line(draft, entry, &said);
}

static bool batch_is_cancelled(const struct list *batch)
{
	for (const struct list *link = batch->next; link != batch; link = link->next) {
		if (!CONTAINER_OF(link, struct lister_wish, link)->is_cancelled)
			return false;
	}
	return true;
}

static int draft_visit(const struct listing_entry *entry, void *context)
{
	struct draft *draft = context;

	if (draft->lister->is_stopping)
		return -ECANCELED;
	if (++draft->entries % CANCEL_INTERVAL == 0 && batch_is_cancelled(draft->batch))
		return -ECANCELED;
	switch (entry->kind) {
	case LISTING_DIRECTORY:
		return draft_enter(draft, entry);
	case LISTING_SOCKET:
	case LISTING_DESCRIPTION:
		return draft_add_entry(draft, entry);
	case LISTING_TRUNCATED:
		log_truncated(draft->lister, listing_truncated_text(entry->error), entry->path,
			      entry->path_length);
		return 0;
	case LISTING_DANGLING:
	case LISTING_CIRCLE:
	case LISTING_BAD_NAME:
	case LISTING_OTHER:
	case LISTING_UNREADABLE:
		/* Left out in silence: they would be logged anew for every list. `kaiso check` tells them. */
		return 0;
	}
	return 0;
}

/* Not to be told from one that is not there: a directory of which all is left out. */
static bool draft_is_secret(const struct draft *draft, const struct lister_wish *wish)
{
	return wish->directory_length > 0 && draft->has_left_out && draft->text->length == 0;
}

/* Walks and writes the list that a wish of the batch asks for. On success *text is a draft, the caller's to publish;
 * it is that of the others, too, unless *is_personal. */
static int lister_write(struct lister *lister, const struct list *batch, const struct lister_wish *wish,
			struct lister_text **text, bool *is_personal)
{
	struct draft draft = {
		.lister = lister,
		.batch = batch,
		.is_detailed = wish->is_detailed,
		.client = &wish->client,
		.trail = { .policies = lister->policies },
		.patience_ms = PATIENCE_MS,
	};
	int result = batch_is_cancelled(batch) ? -ECANCELED : draft_resize(&draft, DRAFT_SIZE_FIRST);

	if (result < 0)
		return result;
	summaries_begin(lister->summaries);
	result = listing_walk(lister->services, wish->directory, wish->directory_length, draft_visit, &draft);
	trail_deinit(&draft.trail);
	policy_unref(draft.judged);
	if (result >= 0 && draft_is_secret(&draft, wish))
		result = -ENOENT;
	*is_personal = draft.is_personal;
	if (result < 0) {
		free(draft.text);
		return result;
	}
	draft_append(&draft, "\r\n", 2);
	/* What doubling took too much goes back; when even that fails, the text is as good as it is. */
	(void)draft_resize(&draft, draft.text->length);
	*text = draft.text;
	return 0;
}

/* ---- the lister thread --------------------------------------------------------------------------- */

static bool wishes_are_same(const struct lister_wish *wish, const struct lister_wish *other)
{
	return wish->is_detailed == other->is_detailed && wish->directory_length == other->directory_length &&
	       memcmp(wish->directory, other->directory, wish->directory_length) == 0;
}

/* Moves the first waiting wish and all that ask for the same into batch. The mutex is held. */
static unsigned lister_take_batch(struct lister *lister, struct list *batch)
{
	const struct lister_wish *first = CONTAINER_OF(lister->waiting.next, struct lister_wish, link);
	struct list *next;
	unsigned count = 0;

	for (struct list *link = lister->waiting.next; link != &lister->waiting; link = next) {
		struct lister_wish *wish = CONTAINER_OF(link, struct lister_wish, link);

		next = link->next;
		if (!wishes_are_same(first, wish))
			continue;
		list_remove(link);
		list_append(batch, link);
		count++;
	}
	return count;
}

/* Gives every wish in the list its result, and one reference to text if there is one. */
static void wishes_finish(struct list *wishes, int result, struct lister_text *text)
{
	while (!list_is_empty(wishes)) {
		struct lister_wish *wish = CONTAINER_OF(wishes->next, struct lister_wish, link);

		/* Its owner may free it as soon as it is told. */
		list_remove(&wish->link);
		wish->result = result;
		wish->text = text;
		wish->on_done(wish);
	}
}

/* What rules look at. */
static bool client_is_same(const union addr *client, const union addr *other)
{
	if (client->sa.sa_family != other->sa.sa_family)
		return false;
	switch (client->sa.sa_family) {
	case AF_INET:
		return client->in.sin_addr.s_addr == other->in.sin_addr.s_addr;
	case AF_INET6:
		return memcmp(&client->in6.sin6_addr, &other->in6.sin6_addr, sizeof(struct in6_addr)) == 0;
	default:
		return true;
	}
}

/* The first one that is still wanted, if any is. */
static struct lister_wish *batch_speaker(const struct list *batch)
{
	for (const struct list *link = batch->next; link != batch; link = link->next) {
		struct lister_wish *wish = CONTAINER_OF(link, struct lister_wish, link);

		if (!wish->is_cancelled)
			return wish;
	}
	return CONTAINER_OF(batch->next, struct lister_wish, link);
}

/* Puts the wishes of others than this client back, before those that came later. How many stay? */
static unsigned lister_put_back(struct lister *lister, struct list *batch, const union addr *client)
{
	struct list others, *next;
	unsigned count = 0;

	list_init(&others);
	for (struct list *link = batch->next; link != batch; link = next) {
		struct lister_wish *wish = CONTAINER_OF(link, struct lister_wish, link);

		next = link->next;
		if (client_is_same(&wish->client, client)) {
			count++;
			continue;
		}
		list_remove(link);
		list_append(&others, link);
	}
	pthread_mutex_lock(&lister->mutex);
	list_splice(&others, &lister->waiting);
	list_splice(&lister->waiting, &others);
	pthread_mutex_unlock(&lister->mutex);
	return count;
}

/* One walk for a batch of count wishes that ask for the same. */
static void lister_answer(struct lister *lister, struct list *batch, unsigned count)
{
	struct lister_wish *speaker = batch_speaker(batch);
	struct lister_text *text = NULL;
	bool is_personal = false;
	int result = lister_write(lister, batch, speaker, &text, &is_personal);

	if (is_personal)
		count = lister_put_back(lister, batch, &speaker->client);
	if (result == 0)
		text = text_publish_take(text, count);
	if (result == 0 && !text)
		result = -ENOBUFS;
	wishes_finish(batch, result, text);
}

static void *lister_main(void *context)
{
	struct lister *lister = context;
	struct list batch;
	unsigned count;

	/* On Linux, the calling thread's alone (setpriority(2), "C library/kernel differences"). */
	setpriority(PRIO_PROCESS, 0, LISTER_NICE);
	pthread_mutex_lock(&lister->mutex);
	while (!lister->is_stopping) {
		if (list_is_empty(&lister->waiting)) {
			pthread_cond_wait(&lister->changed, &lister->mutex);
			continue;
		}
		list_init(&batch);
		count = lister_take_batch(lister, &batch);
		pthread_mutex_unlock(&lister->mutex);
		lister_answer(lister, &batch, count);
		pthread_mutex_lock(&lister->mutex);
	}
	pthread_mutex_unlock(&lister->mutex);
	/* Nobody submits any more, so the list is this thread's alone. */
	wishes_finish(&lister->waiting, -ECANCELED, NULL);
	return NULL;
}

/* All signals stay blocked in the thread: they belong to the loops. Returns 0 or an errno. */
static int lister_start(struct lister *lister)
{
	pthread_attr_t attributes;
	sigset_t all;
	sigset_t before;
	int error = pthread_attr_init(&attributes);

	if (error != 0)
		return error;
	/* Nothing here is large on the stack; a log line is the largest. */
	pthread_attr_setstacksize(&attributes, 256 << 10);
	sigfillset(&all);
	error = pthread_sigmask(SIG_SETMASK, &all, &before);
	if (error == 0) {
		error = pthread_create(&lister->thread, &attributes, lister_main, lister);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	pthread_attr_destroy(&attributes);
	return error;
}

static void lister_deinit(struct lister *lister)
{
	summaries_free(lister->summaries);
	pthread_cond_destroy(&lister->changed);
	pthread_mutex_destroy(&lister->mutex);
	free(lister);
}

struct lister *lister_new(const char *services, struct policies *policies)
{
	struct lister *lister = calloc(1, sizeof(*lister));
	int error;

	if (!lister)
		return NULL;
	lister->services = services;
	lister->policies = policies;
	lister->summaries = summaries_new();
	list_init(&lister->waiting);
	pthread_mutex_init(&lister->mutex, NULL);
	pthread_cond_init(&lister->changed, NULL);
	error = lister->summaries ? lister_start(lister) : ENOMEM;
	if (error == 0)
		return lister;
	lister_deinit(lister);
	errno = error;
	return NULL;
}

void lister_free(struct lister *lister)
{
	if (!lister)
		return;
	pthread_mutex_lock(&lister->mutex);
	lister->is_stopping = true;
	pthread_cond_signal(&lister->changed);
	pthread_mutex_unlock(&lister->mutex);
	pthread_join(lister->thread, NULL);
	lister_deinit(lister);
}

void lister_submit(struct lister *lister, struct lister_wish *wish)
{
	pthread_mutex_lock(&lister->mutex);
	list_append(&lister->waiting, &wish->link);
	pthread_cond_signal(&lister->changed);
	pthread_mutex_unlock(&lister->mutex);
}
