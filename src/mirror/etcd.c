/*
 * Theory of operation: each request is a handle of libcurl's multi interface, which is run here until it is done: that
 * way the stop descriptor and the timeout count at every moment, those of connecting and of a TLS handshake included.
 *
 * A token (etcd_json_read_token()) is had with the first request when there is a user, and given up when any request
 * fails: it may have expired.
 *
 * A watch asks for a member that has a leader: one that is cut off from the others would be silent for ever.
 */
#include "mirror/etcd.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/macros.h"
#include "mirror/curl_library.h"

#define PAGE_KEYS_MAX 1024
#define ANSWER_FIRST 4096

struct etcd {
	const struct curl_library *curl;
	const struct etcd_options *options;
	CURLM *multi;
	size_t endpoint;
	char *token;
	uint64_t heard_ms; /* when something came last */
	char *answer;      /* what has come and was not used yet */
	size_t answer_length;
	size_t answer_capacity;
	bool is_too_long;
	char curl_reason[CURL_ERROR_SIZE];
	char reason[ETCD_REASON_SIZE];
};

/* One request. */
struct transfer {
	struct etcd *etcd;
	CURL *easy;
	struct curl_slist *headers;
	char *url;
};

/* Looks at what has come; 0, or a negative errno that ends the request. */
typedef int (*answer_reader)(struct etcd *etcd, void *context);

/* ---- what comes ---------------------------------------------------------------------------------- */

static bool make_room(struct etcd *etcd, size_t length)
{
	size_t capacity = MAX(etcd->answer_capacity, (size_t)ANSWER_FIRST);
	char *answer;

	etcd->is_too_long = length > ETCD_ANSWER_MAX - etcd->answer_length;
	if (etcd->is_too_long)
		return false;
	while (capacity < etcd->answer_length + length)
		capacity *= 2;
	if (capacity == etcd->answer_capacity)
		return true;
	answer = realloc(etcd->answer, capacity);
	if (!answer)
		return false;
	etcd->answer = answer;
	etcd->answer_capacity = capacity;
	return true;
}

/* libcurl's; anything but length ends the transfer. */
static size_t take_bytes(char *bytes, size_t size, size_t count, void *context)
{
	struct etcd *etcd = context;
	size_t length = size * count;

	etcd->heard_ms = clock_now_ms();
	if (!make_room(etcd, length))
		return length == 0 ? 1 : 0;
	memcpy(etcd->answer + etcd->answer_length, bytes, length);
	etcd->answer_length += length;
	return length;
}

/* A large one is not kept for small ones. */
static void drop_answer(struct etcd *etcd)
{
	free(STEAL_PTR(etcd->answer));
	etcd->answer_length = etcd->answer_capacity = 0;
}

/* ---- a request ----------------------------------------------------------------------------------- */

static void transfer_deinit(struct transfer *transfer)
{
	const struct curl_library *curl = transfer->etcd->curl;

	if (transfer->easy) {
		curl->multi_remove_handle(transfer->etcd->multi, transfer->easy);
		curl->easy_cleanup(transfer->easy);
	}
	curl->slist_free_all(transfer->headers);
	free(transfer->url);
}

static bool add_header(struct transfer *transfer, const char *line)
{
	struct curl_slist *headers = transfer->etcd->curl->slist_append(transfer->headers, line);

	if (headers)
		transfer->headers = headers;
	return headers;
}

static bool add_headers(struct transfer *transfer)
{
	const char *token = transfer->etcd->token;
	CLEANUP_FREE char *line = NULL;

	if (token && asprintf(&line, "Authorization: %s", token) < 0)
		line = NULL;
	return add_header(transfer, "Content-Type: application/json") &&
	       add_header(transfer, "Grpc-Metadata-hasleader: true") && add_header(transfer, "Expect:") &&
	       (!token || (line && add_header(transfer, line)));
}

static const char *strip_slash(const char *endpoint, int *length)
{
	size_t given = strlen(endpoint);

	*length = (int)(given > 0 && endpoint[given - 1] == '/' ? given - 1 : given);
	return endpoint;
}

/* Options that cannot be set are those that this libcurl was built without; the request then says what is missing. */
static void set_options(struct transfer *transfer, const char *body)
{
	const struct curl_library *curl = transfer->etcd->curl;
	const struct etcd_options *options = transfer->etcd->options;
	CURL *easy = transfer->easy;

	curl->easy_setopt(easy, CURLOPT_URL, transfer->url);
	curl->easy_setopt(easy, CURLOPT_POSTFIELDS, body);
	curl->easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->headers);
	curl->easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_bytes);
	curl->easy_setopt(easy, CURLOPT_WRITEDATA, transfer->etcd);
	curl->easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->etcd->curl_reason);
	curl->easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl->easy_setopt(easy, CURLOPT_NOPROXY, "*");
	curl->easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
	curl->easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl->easy_setopt(easy, CURLOPT_USERAGENT, "kaiso/" KAISO_VERSION);
	if (options->ca_file) {
		curl->easy_setopt(easy, CURLOPT_CAINFO, options->ca_file);
		curl->easy_setopt(easy, CURLOPT_CAPATH, NULL);
	}
	if (options->certificate_file)
		curl->easy_setopt(easy, CURLOPT_SSLCERT, options->certificate_file);
	if (options->key_file)
		curl->easy_setopt(easy, CURLOPT_SSLKEY, options->key_file);
}

/* body stays the caller's, and must stay. */
static int transfer_init(struct transfer *transfer, struct etcd *etcd, const char *path, const char *body)
{
	int length;
	const char *endpoint = strip_slash(etcd->options->endpoints[etcd->endpoint], &length);

	*transfer = (struct transfer){ .etcd = etcd, .easy = etcd->curl->easy_init() };
	if (asprintf(&transfer->url, "%.*s%s", length, endpoint, path) < 0)
		transfer->url = NULL;
	if (!transfer->easy || !transfer->url || !add_headers(transfer))
		return -ENOMEM;
	set_options(transfer, body);
	return etcd->curl->multi_add_handle(etcd->multi, transfer->easy) == CURLM_OK ? 0 : -ENOMEM;
}

/* ---- running it ---------------------------------------------------------------------------------- */

static int fail(struct etcd *etcd, const char *reason)
{
	snprintf(etcd->reason, sizeof(etcd->reason), "%s", reason);
	return -EIO;
}

/* libcurl's words may quote what a host said. */
static int fail_with_curl(struct etcd *etcd, CURLcode code)
{
	fail(etcd, etcd->curl_reason[0] ? etcd->curl_reason : etcd->curl->easy_strerror(code));
	for (char *byte = etcd->reason; *byte; byte++)
		*byte = *byte >= ' ' && *byte <= '~' ? *byte : '?';
	if (etcd->is_too_long)
		fail(etcd, "an answer is longer than 64 MiB");
	return -EIO;
}

/* Waits for the network, at most so long. -ECANCELED when the stop descriptor is readable. */
static int wait_for_more(struct etcd *etcd, uint64_t wait_ms)
{
	struct curl_waitfd stop = { .fd = etcd->options->stop_fd, .events = CURL_WAIT_POLLIN };

	etcd->curl->multi_poll(etcd->multi, &stop, 1, (int)MIN(wait_ms, (uint64_t)INT_MAX), NULL);
	return stop.revents ? -ECANCELED : 0;
}

/* 1: it is done, *code says how; 0: not yet. */
static int is_done(struct etcd *etcd, CURLcode *code)
{
	CURLMsg *message;
	int left;

	while ((message = etcd->curl->multi_info_read(etcd->multi, &left))) {
		if (message->msg == CURLMSG_DONE) {
			*code = message->data.result;
			return 1;
		}
	}
	return 0;
}

/* Until it is done; reader has each bit that comes, NULL: all at the end. */
static int run(struct etcd *etcd, answer_reader reader, void *context, CURLcode *code)
{
	uint64_t timeout_ms = etcd->options->timeout_ms;
	int running, r;

	etcd->heard_ms = clock_now_ms();
	for (;;) {
		uint64_t silence_ms;
		CURLMcode result = etcd->curl->multi_perform(etcd->multi, &running);

		if (result != CURLM_OK)
			return fail(etcd, etcd->curl->multi_strerror(result));
		r = reader ? reader(etcd, context) : 0;
		if (r < 0)
			return r;
		if (is_done(etcd, code))
			return 0;
		silence_ms = clock_now_ms() - etcd->heard_ms;
		if (silence_ms >= timeout_ms) {
			fail(etcd, "it does not answer");
			return -ETIMEDOUT;
		}
		r = wait_for_more(etcd, timeout_ms - silence_ms);
		if (r < 0)
			return r;
	}
}

static int fail_with_error(struct etcd *etcd, const struct etcd_error *error)
{
	fail(etcd, error->reason[0] ? error->reason : "etcd says no, and not why");
	return error->code == ETCD_CODE_OUT_OF_RANGE ? -ESTALE : -EIO;
}

/* By the status of the answer, once it is whole. */
static int judge(struct etcd *etcd, CURL *easy)
{
	struct etcd_error error;
	long status = 0;

	etcd->curl->easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	if (status == 200)
		return 0;
	etcd_json_read_error(etcd->answer, etcd->answer_length, &error);
	if (!error.reason[0])
		snprintf(error.reason, sizeof(error.reason), "HTTP status %ld: is this an etcd?", status);
	return fail_with_error(etcd, &error);
}

/* One request, as it is. The answer stays until the next one. */
static int post_plainly(struct etcd *etcd, const char *path, const char *body, answer_reader reader,
			void *context)
{
	struct transfer transfer;
	CURLcode code = CURLE_OK;
	int r;

	drop_answer(etcd);
	etcd->curl_reason[0] = '\0';
	etcd->is_too_long = false;
	r = body ? transfer_init(&transfer, etcd, path, body) : -ENOMEM;
	if (r == 0)
		r = run(etcd, reader, context, &code);
	if (r == 0 && code != CURLE_OK)
		r = fail_with_curl(etcd, code);
	if (r == 0)
		r = judge(etcd, transfer.easy);
	if (body)
		transfer_deinit(&transfer);
	return r;
}

/* ---- who we are ---------------------------------------------------------------------------------- */

static void drop_token(struct etcd *etcd)
{
	free(STEAL_PTR(etcd->token));
}

static int authenticate(struct etcd *etcd)
{
	CLEANUP_FREE char *body = etcd_json_authenticate(etcd->options->user, etcd->options->password);
	int r = post_plainly(etcd, "/v3/auth/authenticate", body, NULL, NULL);

	if (r == 0) {
		etcd->token = etcd_json_read_token(etcd->answer, etcd->answer_length);
		if (!etcd->token)
			r = fail(etcd, "it gives no token to this user");
	}
	return r;
}

static int post(struct etcd *etcd, const char *path, const char *body, answer_reader reader, void *context)
{
	int r = 0;

	if (etcd->options->user && !etcd->token)
		r = authenticate(etcd);
	if (r == 0)
		r = post_plainly(etcd, path, body, reader, context);
	if (r == -EIO)
		drop_token(etcd);
	return r;
}

/* ---- reading ------------------------------------------------------------------------------------- */

/* Between the pages. */
struct reading {
	etcd_visit visit;
	void *context;
	char *next; /* the first key of the next page, on the heap */
	size_t next_length;
};

static int remember_key(struct reading *reading, struct etcd_bytes key)
{
	char *next = realloc(reading->next, key.length + 1);

	if (!next)
		return -ENOMEM;
	/* The least key behind one is that with a zero behind it. */
	memcpy(next, key.start, key.length);
	next[key.length] = '\0';
	reading->next = next;
	reading->next_length = key.length + 1;
	return 0;
}

static int visit_page_pair(const struct etcd_pair *pair, void *context)
{
	struct reading *reading = context;
	size_t length = MIN(pair->key.length, reading->next_length);
	int order = reading->next ? memcmp(pair->key.start, reading->next, length) : 1;
	int r;

	/* Keys that do not come in order would be read for ever. */
	if (order < 0 || (order == 0 && pair->key.length < reading->next_length))
		return -EBADMSG;
	r = remember_key(reading, pair->key);
	return r < 0 ? r : reading->visit(pair, reading->context);
}

static int read_page(struct etcd *etcd, struct etcd_bytes prefix, struct reading *reading, uint64_t limit,
		     uint64_t revision, struct etcd_page *page)
{
	struct etcd_bytes first = { reading->next, reading->next_length };
	CLEANUP_FREE char *body = etcd_json_range(prefix, reading->next ? first : prefix, limit, revision);
	int r = post(etcd, "/v3/kv/range", body, NULL, NULL);

	if (r == 0)
		r = etcd_json_read_page(etcd->answer, etcd->answer_length, page, visit_page_pair, reading);
	return r == -EBADMSG ? fail(etcd, "its answer makes no sense: is this an etcd?") : r;
}

int etcd_read(struct etcd *etcd, struct etcd_bytes prefix, etcd_visit visit, void *context,
	      struct etcd_header *header)
{
	struct reading reading = { .visit = visit, .context = context };
	struct etcd_page page = { 0 };
	uint64_t limit = PAGE_KEYS_MAX;
	int r;

	*header = (struct etcd_header){ 0 };
	do {
		r = read_page(etcd, prefix, &reading, limit, header->revision, &page);
		if (r == -EIO && etcd->is_too_long && limit > 1) {
			limit /= 8; /* large values */
			page.has_more = true;
			r = 0;
			continue;
		}
		/* All pages are of the moment of the first one. */
		if (r == 0 && header->revision == 0)
			*header = page.header;
	} while (r == 0 && page.has_more);
	free(reading.next);
	drop_answer(etcd);
	return r;
}

/* ---- watching ------------------------------------------------------------------------------------ */

struct watching {
	etcd_visit visit;
	etcd_on_report on_report;
	void *context;
};

static int judge_report(struct etcd *etcd, const struct etcd_report *report)
{
	if (report->has_failed)
		return fail_with_error(etcd, &report->error);
	if (report->compact_revision > 0) {
		fail(etcd, "what happened meanwhile is compacted");
		return -ESTALE;
	}
	if (report->is_canceled)
		return fail(etcd, report->error.reason[0] ? report->error.reason : "it ended the watch");
	return 0;
}

static int read_line(struct etcd *etcd, const struct watching *watching, const char *line, size_t length)
{
	struct etcd_report report;
	int r = etcd_json_read_report(line, length, &report, watching->visit, watching->context);

	if (r == -EBADMSG)
		return fail(etcd, "its answer makes no sense: is this an etcd?");
	if (r == 0)
		r = judge_report(etcd, &report);
	if (r < 0)
		return r;
	r = watching->on_report(&report, watching->context);
	if (r == -ESTALE)
		fail(etcd, "it is another store, or an older one");
	return r;
}

/* All whole lines that have come. An answer that is no stream, but an error, has no line end, or is none of ours. */
static int read_lines(struct etcd *etcd, void *context)
{
	size_t at = 0;
	int r = 0;

	while (r == 0 && at < etcd->answer_length) {
		const char *line = etcd->answer + at;
		const char *end = memchr(line, '\n', etcd->answer_length - at);

		if (!end)
			break;
		r = read_line(etcd, context, line, (size_t)(end - line));
		at += (size_t)(end - line) + 1;
	}
	if (at > 0) {
		etcd->answer_length -= at;
		memmove(etcd->answer, etcd->answer + at, etcd->answer_length);
	}
	return r;
}

int etcd_watch(struct etcd *etcd, struct etcd_bytes prefix, uint64_t revision, etcd_visit visit,
	       etcd_on_report on_report, void *context)
{
	struct watching watching = { .visit = visit, .on_report = on_report, .context = context };
	CLEANUP_FREE char *body = etcd_json_watch(prefix, revision);
	int r = post(etcd, "/v3/watch", body, read_lines, &watching);

	/* Reading all of it is another way to come by what does not fit. */
	if (r == -EIO && etcd->is_too_long)
		r = -ESTALE;
	drop_answer(etcd);
	return r == 0 ? fail(etcd, "it ended the watch") : r;
}

/* ---- life ---------------------------------------------------------------------------------------- */

const char *etcd_endpoint(const struct etcd *etcd)
{
	return etcd->options->endpoints[etcd->endpoint];
}

void etcd_next_endpoint(struct etcd *etcd)
{
	etcd->endpoint = (etcd->endpoint + 1) % etcd->options->endpoint_count;
}

const char *etcd_reason(const struct etcd *etcd)
{
	return etcd->reason;
}

struct etcd *etcd_new(const struct etcd_options *options, char *reason, size_t reason_size)
{
	const struct curl_library *curl = curl_library_load(reason, reason_size);
	struct etcd *etcd = curl ? calloc(1, sizeof(*etcd)) : NULL;

	if (!etcd) {
		if (curl)
			snprintf(reason, reason_size, "%s", strerror(ENOMEM));
		return NULL;
	}
	etcd->curl = curl;
	etcd->options = options;
	etcd->multi = curl->multi_init();
	if (!etcd->multi) {
		snprintf(reason, reason_size, "%s", strerror(ENOMEM));
		free(etcd);
		return NULL;
	}
	return etcd;
}

void etcd_free(struct etcd *etcd)
{
	if (!etcd)
		return;
	drop_answer(etcd);
	drop_token(etcd);
	etcd->curl->multi_cleanup(etcd->multi);
	free(etcd);
}
