/*
 * Theory of operation
 *
 * At first, and whenever etcd does not know any more what happened since, all keys are read into a new model, and the
 * directory is made equal to it. From then on they are watched from the next revision on, and each change is
 * settled by itself. A watch that is lost goes on at another member where it was; one that says nothing for --timeout
 * is given up and asked for anew, of the same member: that it begins shows that the member is alive, and whatever was
 * lost on the way comes again. What a watch is asked for begins behind what was settled last, so nothing is
 * missed, and a change that comes twice does no harm.
 *
 * The directory is touched only by whole answers: while etcd is away it stays as it is.
 *
 * Another store behind the same address (another cluster's number, or a revision that goes back: it was
 * restored from a copy) is read anew.
 */
#include "mirror/mirror.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/notify.h"
#include "mirror/intake.h"
#include "mirror/model.h"
#include "mirror/tree.h"

#define PAUSE_FIRST_MS 100
#define PAUSE_MAX_MS 5000

/* What could not be written is tried again so often, and what did not fit is read again. */
#define RETRY_MS 10000
#define REREAD_MS 60000

/* A look at all files takes one part in so many of the time at most. */
#define CHECK_SHARE 20

struct mirror {
	const struct mirror_options *options;
	struct etcd *etcd;
	struct intake intake;
	struct model model;
	struct tree tree;
	uint64_t cluster;
	uint64_t revision;      /* what was settled; 0: nothing, all must be read */
	uint64_t checked_ms;    /* when all files were looked at last, and */
	uint64_t check_took_ms; /* how long that took */
	uint64_t reread_ms;     /* not before; 0: nothing was left out */
	unsigned failures;      /* in a row */
	bool is_begun;          /* the watch */
	bool has_watched;       /* since all was read */
	bool is_away;           /* etcd, and the log says so */
	bool is_ready;
	struct log_limiter limiter;
	struct change *changes; /* that are in the model and not settled yet */
	size_t change_count;
	size_t change_capacity;
};

/* What a line of a watch changes. */
struct change {
	char *path; /* on the heap */
	size_t length;
	uint64_t revision;
	bool is_deleted;
	bool is_left_out;
};

/* Where all keys are read to. */
struct reading {
	struct mirror *mirror;
	struct model model;
	bool is_incomplete;
};

/* ---- reading all --------------------------------------------------------------------------------- */

static int read_pair(const struct etcd_pair *pair, void *context)
{
	struct reading *reading = context;
	struct etcd_bytes path;
	bool is_left_out;
	int r = intake_pair(&reading->mirror->intake, &reading->model, pair, &path, &is_left_out);

	reading->is_incomplete = reading->is_incomplete || is_left_out;
	return MIN(r, 0);
}

static void log_equal(struct mirror *mirror, uint64_t begin_ms, uint64_t written, uint64_t removed)
{
	struct log_line line;

	log_begin(&line, LOG_LEVEL_INFO, mirror->is_ready ? "read anew" : "ready");
	log_add_string(&line, "endpoint", etcd_endpoint(mirror->etcd));
	log_add_number(&line, "services", mirror->model.keys);
	log_add_number(&line, "written", mirror->tree.written - written);
	log_add_number(&line, "removed", mirror->tree.removed - removed);
	log_add_number(&line, "revision", mirror->revision);
	log_add_ms(&line, "duration", clock_now_ms() - begin_ms);
	log_end(&line);
}

/* -ENOENT: the directory was removed; -ECANCELED. */
static int settle_all(struct mirror *mirror)
{
	uint64_t begin_ms = clock_now_ms();
	int r = tree_settle_all(&mirror->tree, &mirror->model);

	if (r == -ENOENT)
		log_message(LOG_LEVEL_ERROR, "the directory was removed");
	mirror->checked_ms = clock_now_ms();
	mirror->check_took_ms = mirror->checked_ms - begin_ms;
	return r;
}

static int take_reading(struct mirror *mirror, struct reading *reading, const struct etcd_header *header,
			uint64_t begin_ms)
{
	uint64_t written = mirror->tree.written, removed = mirror->tree.removed;
	int r;

	model_deinit(&mirror->model);
	mirror->model = reading->model;
	reading->model = (struct model){ 0 };
	mirror->cluster = header->cluster;
	mirror->revision = mirror->intake.told_revision = header->revision;
	mirror->reread_ms = reading->is_incomplete ? clock_now_ms() + REREAD_MS : 0;
	mirror->has_watched = false;
	mirror->tree.is_quiet = false;
	r = settle_all(mirror);
	if (r == 0)
		log_equal(mirror, begin_ms, written, removed);
	if (r == 0 && !mirror->is_ready)
		notify_send("READY=1");
	mirror->is_ready = true;
	return r;
}

/* A negative errno of etcd_read(), -ENOMEM, or -ENOENT: the directory was removed. */
static int read_all(struct mirror *mirror)
{
	struct reading reading = { .mirror = mirror };
	struct etcd_header header;
	uint64_t begin_ms = clock_now_ms();
	int r = model_init(&reading.model, mirror->options->max_services, mirror->options->max_bytes);

	if (r == 0)
		r = etcd_read(mirror->etcd, mirror->intake.prefix, read_pair, &reading, &header);
	if (r == 0)
		r = take_reading(mirror, &reading, &header, begin_ms);
	if (reading.model.root)
		model_deinit(&reading.model);
	return r;
}

/* ---- watching ------------------------------------------------------------------------------------ */

static void log_change(struct mirror *mirror, const struct change *change)
{
	struct log_line line;
	uint32_t suppressed;

	if (change->is_left_out || !log_limiter_pass(&mirror->limiter, clock_now_ms(), &suppressed))
		return;
	log_begin(&line, LOG_LEVEL_INFO, change->is_deleted ? "removed" : "written");
	log_add_bytes(&line, "service", change->path, change->length);
	log_add_number(&line, "revision", change->revision);
	if (suppressed > 0)
		log_add_number(&line, "suppressed", suppressed);
	log_end(&line);
}

static bool make_room(struct mirror *mirror)
{
	size_t capacity = MAX(2 * mirror->change_capacity, (size_t)16);
	struct change *changes;

	if (mirror->change_count < mirror->change_capacity)
		return true;
	changes = reallocarray(mirror->changes, capacity, sizeof(*changes));
	if (!changes)
		return false;
	mirror->changes = changes;
	mirror->change_capacity = capacity;
	return true;
}

static int remember_change(struct mirror *mirror, const struct etcd_pair *pair, struct etcd_bytes path,
			   bool is_left_out)
{
	struct change change = { .path = strndup(path.start, path.length),
				 .length = path.length,
				 .revision = pair->revision,
				 .is_deleted = pair->is_deleted,
				 .is_left_out = is_left_out };

	if (!change.path || !make_room(mirror)) {
		free(change.path);
		return -ENOMEM;
	}
	mirror->changes[mirror->change_count++] = change;
	return 0;
}

static void forget_changes(struct mirror *mirror)
{
	for (size_t i = 0; i < mirror->change_count; i++)
		free(mirror->changes[i].path);
	free(STEAL_PTR(mirror->changes));
	mirror->change_count = mirror->change_capacity = 0;
}

/* Options that are put come before what they are for: the model has them, and the tree looks to that. Options that are
 * removed have to come behind it. */
static void settle_changes(struct mirror *mirror)
{
	mirror->tree.is_quiet = false;
	for (int pass = 0; pass < 2; pass++) {
		for (size_t i = 0; i < mirror->change_count; i++) {
			const struct change *change = &mirror->changes[i];

			if (intake_is_options((struct etcd_bytes){ change->path, change->length }) !=
			    (pass == 1))
				continue;
			tree_settle(&mirror->tree, &mirror->model, change->path, change->length);
			log_change(mirror, change);
		}
	}
	forget_changes(mirror);
}

static int watch_pair(const struct etcd_pair *pair, void *context)
{
	struct mirror *mirror = context;
	struct etcd_bytes path;
	bool is_left_out;
	int r = intake_pair(&mirror->intake, &mirror->model, pair, &path, &is_left_out);

	if (r <= 0)
		return r;
	if (is_left_out && mirror->reread_ms == 0)
		mirror->reread_ms = clock_now_ms() + REREAD_MS;
	return remember_change(mirror, pair, path, is_left_out);
}

static void log_check(const struct mirror *mirror, bool was_equal, uint64_t written, uint64_t removed)
{
	struct log_line line;

	if (!was_equal && mirror->tree.is_equal)
		log_message(LOG_LEVEL_INFO, "all is mirrored again");
	if (mirror->tree.written == written && mirror->tree.removed == removed)
		return;
	log_begin(&line, LOG_LEVEL_WARNING, "put right");
	log_add_number(&line, "written", mirror->tree.written - written);
	log_add_number(&line, "removed", mirror->tree.removed - removed);
	log_end(&line);
}

static bool is_check_due(const struct mirror *mirror)
{
	uint64_t every_ms = mirror->options->check_ms;

	/* While all is yet to be read there is nothing to be equal to. */
	if (mirror->revision == 0)
		return false;
	if (!mirror->tree.is_equal)
		every_ms = every_ms > 0 ? MIN(every_ms, (uint64_t)RETRY_MS) : RETRY_MS;
	every_ms = MAX(every_ms, every_ms > 0 ? CHECK_SHARE * mirror->check_took_ms : 0);
	return every_ms > 0 && clock_now_ms() - mirror->checked_ms >= every_ms;
}

/* Somebody may have changed files. And what could not be done before may be possible now: a name is free, there is room on
 * the disk. */
static int check(struct mirror *mirror)
{
	uint64_t written = mirror->tree.written, removed = mirror->tree.removed;
	bool was_equal = mirror->tree.is_equal;
	int r;

	if (!is_check_due(mirror))
		return 0;
	mirror->tree.is_quiet = !was_equal;
	r = settle_all(mirror);
	log_check(mirror, was_equal, written, removed);
	return r;
}

static void log_back(struct mirror *mirror)
{
	struct log_line line;

	mirror->failures = 0;
	if (!mirror->is_away)
		return;
	mirror->is_away = false;
	log_begin(&line, LOG_LEVEL_INFO, "etcd is back");
	log_add_string(&line, "endpoint", etcd_endpoint(mirror->etcd));
	log_end(&line);
}

/* Was something left out, that may have its place by now? */
static bool is_reread_due(const struct mirror *mirror)
{
	return mirror->reread_ms > 0 && clock_now_ms() >= mirror->reread_ms;
}

static int watch_report(const struct etcd_report *report, void *context)
{
	struct mirror *mirror = context;

	settle_changes(mirror);
	if (report->is_created) {
		mirror->is_begun = true;
		/* Another store: nothing that is known of it holds. */
		if (report->header.cluster != mirror->cluster || report->header.revision < mirror->revision) {
			mirror->intake.told_revision = 0;
			return -ESTALE;
		}
		mirror->has_watched = true;
		log_back(mirror);
	} else if (report->last_revision == 0) {
		mirror->revision = MAX(mirror->revision, report->header.revision);
	} else if (!report->is_fragment) {
		/* The store's own may be that of changes which are yet to come. */
		mirror->revision = MAX(mirror->revision, report->last_revision);
	}
	mirror->intake.told_revision = MAX(mirror->intake.told_revision, mirror->revision);
	return is_reread_due(mirror) ? -ESTALE : check(mirror);
}

/* 0: it is to be asked for again at once, or all is to be read first. */
static int watch(struct mirror *mirror)
{
	int r;

	mirror->is_begun = false;
	r = etcd_watch(mirror->etcd, mirror->intake.prefix, mirror->revision + 1, watch_pair, watch_report,
		       mirror);
	forget_changes(mirror); /* of a line that was cut off: they come again */
	if (r == -ENOSPC)
		mirror->revision = 0;
	if (r == -ETIMEDOUT && mirror->is_begun)
		r = is_reread_due(mirror) ? -ESTALE : 0;
	if (r != -ESTALE)
		return r;
	mirror->revision = 0;
	/* One that is out of date as soon as all was read is a failure: it might be so for ever. */
	return mirror->has_watched ? 0 : -EIO;
}

/* ---- the whole ----------------------------------------------------------------------------------- */

static void log_away(struct mirror *mirror, int error)
{
	struct log_line line;
	/* A round over all members is told once. */
	bool is_told = mirror->failures > mirror->options->etcd.endpoint_count;

	if (error == -ENOSPC) {
		log_message(is_told ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING,
			    "there is no room for the options of a directory: all stays as it is");
		return;
	}
	mirror->is_away = true;
	log_begin(&line, is_told ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING, "etcd is away");
	log_add_string(&line, "endpoint", etcd_endpoint(mirror->etcd));
	log_add_string(&line, "reason", etcd_reason(mirror->etcd));
	log_end(&line);
}

/* After each round over all members, twice as long as before; half of it is chance, so that many mirrors do not come all at
 * once. */
static uint64_t pause_ms(const struct mirror *mirror)
{
	unsigned round = mirror->failures / (unsigned)mirror->options->etcd.endpoint_count;
	uint64_t longest_ms = PAUSE_FIRST_MS;

	if (mirror->failures % mirror->options->etcd.endpoint_count != 0)
		return 0;
	while (--round > 0 && longest_ms < PAUSE_MAX_MS)
		longest_ms *= 2;
	longest_ms = MIN(longest_ms, (uint64_t)PAUSE_MAX_MS);
	return longest_ms / 2 + (uint64_t)random() % (longest_ms / 2);
}

/* Goes on to the next member, after a pause. 0, or -ECANCELED. */
static int try_elsewhere(struct mirror *mirror, int error)
{
	struct pollfd stop = { .fd = mirror->options->etcd.stop_fd, .events = POLLIN };

	mirror->failures++;
	log_away(mirror, error);
	etcd_next_endpoint(mirror->etcd);
	return poll(&stop, 1, (int)pause_ms(mirror)) > 0 ? -ECANCELED : 0;
}

/* 0 to go on, or a negative errno. */
static int step(struct mirror *mirror)
{
	int r = check(mirror);

	if (r < 0 || mirror->revision > 0)
		return r < 0 ? r : watch(mirror);
	r = read_all(mirror);
	if (r == 0)
		log_back(mirror);
	return r;
}

static bool is_failure_of_etcd(int r)
{
	return r == -EIO || r == -ETIMEDOUT || r == -ESTALE || r == -ENOSPC;
}

/* Each member is asked once. */
static int run_once(struct mirror *mirror)
{
	int r;

	do {
		r = step(mirror);
		if (is_failure_of_etcd(r)) {
			mirror->failures++;
			log_away(mirror, r);
			etcd_next_endpoint(mirror->etcd);
		}
	} while (is_failure_of_etcd(r) && mirror->failures < mirror->options->etcd.endpoint_count);
	return r == 0 && !mirror->tree.is_equal ? -EIO : r;
}

static int run(struct mirror *mirror)
{
	int r;

	do {
		r = step(mirror);
		if (is_failure_of_etcd(r))
			r = try_elsewhere(mirror, r);
	} while (r == 0);
	return r;
}

static int open_all(struct mirror *mirror)
{
	char reason[ETCD_REASON_SIZE + TREE_REASON_SIZE];
	struct log_line line;
	int r = model_init(&mirror->model, mirror->options->max_services, mirror->options->max_bytes);

	if (r < 0)
		return r;
	mirror->etcd = etcd_new(&mirror->options->etcd, reason, sizeof(reason));
	if (!mirror->etcd) {
		log_message(LOG_LEVEL_ERROR, "%s", reason);
		return -ENOSYS;
	}
	r = tree_open(&mirror->tree, mirror->options->directory, mirror->options->prefix, reason);
	mirror->tree.has_sync = mirror->options->has_sync;
	mirror->tree.stop_fd = mirror->options->etcd.stop_fd;
	if (r < 0) {
		log_begin(&line, LOG_LEVEL_ERROR, "cannot mirror to that directory");
		log_add_string(&line, "directory", mirror->options->directory);
		log_add_string(&line, "reason", reason);
		log_end(&line);
	}
	return r;
}

/* A descriptor that becomes readable by SIGTERM and SIGINT. */
static int open_stop(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

int mirror_run(const struct mirror_options *given)
{
	CLEANUP_CLOSE int stop_fd = open_stop();
	struct mirror_options options = *given;
	struct mirror mirror = { .options = &options,
				 .intake = { .prefix = { given->prefix, strlen(given->prefix) } },
				 .tree = { .fd = -1 } };
	int r = stop_fd < 0 ? -errno : 0;

	options.etcd.stop_fd = stop_fd;
	srandom((unsigned)clock_now_us() ^ (unsigned)getpid());
	if (r == 0)
		r = open_all(&mirror);
	if (r == 0)
		r = options.is_once ? run_once(&mirror) : run(&mirror);
	if (r == -ENOMEM)
		log_message(LOG_LEVEL_ERROR, "%s", strerror(ENOMEM));
	if (r == -ECANCELED) {
		notify_send("STOPPING=1");
		r = 0;
	}
	etcd_free(mirror.etcd);
	tree_close(&mirror.tree);
	model_deinit(&mirror.model);
	return r;
}
