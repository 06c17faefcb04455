/*
 * Theory of operation: every event of a session (client, backend, timer, dial,
 * list) notes what happened and calls session_run(), which calls the function of
 * the state again and again until one has to wait. A state's function does what can be done now and says
 * STEP_WAIT or STEP_NEXT. After that, session_interest() tells what is to be watched.
 *
 * The client's bytes stay in the kernel until they are needed: the request line is looked at with
 * MSG_PEEK, and exactly the line is taken: before an answer or a handing over by a read of its own, else by
 * the relay's first read, which skips it. So a session in REQUEST needs no buffer.
 *
 * Words of our own that have to precede a stream ("+" to the client, the path to the next router) are put
 * into the relay as if its source had sent them: relay_way_preload().
 */
#include "router/session.h"

#include <assert.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/macros.h"
#include "base/sandbox.h"
#include "net/dial.h"
#include "net/srv.h"
#include "proto/proxy_header.h"
#include "proto/reply.h"
#include "proto/request.h"
#include "router/attempt.h"
#include "router/session_image.h"
#include "router/session_log.h"
#include "router/worker.h"

SANDBOX_CALLS("connect", "getsockopt", "ioctl", "recvfrom", "sendto", "setsockopt");

#define INPUT_EVENTS (EPOLLIN | EPOLLPRI) /* TCP wakes for both whenever bytes come (sock_def_readable()) */
#define OTHER_EVENTS (EPOLLRDHUP | EPOLLET)
#define BACKEND_EVENTS (INPUT_EVENTS | OTHER_EVENTS)
#define SOURCE_EVENTS (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR)
#define SINK_EVENTS (EPOLLOUT | EPOLLHUP | EPOLLERR)
#define HANDOVER_RETRY_MS 2        /* the first wait; it doubles up to */
#define HANDOVER_RETRY_SHIFT_MAX 5 /* 64 ms */
#define RESET_WAIT_MS 10           /* the first wait for a client's unsent bytes; it doubles up to */
#define RESET_WAIT_SHIFT_MAX 7     /* 1.3 s in all */
#define REPLY_PIECE (32u << 10)    /* of a list that is sent at a time, before all others have their turn */
#define LIST_RATE_MIN (16u << 10)  /* bytes a second in which a list has to be taken */
#define VERDICT_WORD ".kaiso/open "
#define LIST_WORD ".kaiso/list"
#define VERDICT_ASK_AGAIN_MS 60000 /* for a router that did not know the word: it may be replaced */
#define LOOP_PAUSE_MS 1000
#define FILE_WAIT_MS 20    /* a file that is being written is looked at again */
#define FILE_PATIENCE 1000 /* ms that a client waits for it */
#define ROUND_WAIT_MS 10   /* all targets have been tried, one had no room: again, each time so much later */
#define ROUND_WAIT_MAX_MS 50
#define STEP_BUDGET 32
#define DISCARD_MAX (256u << 10)

/* An idle session costs this, 8 bytes of malloc(3), and two descriptors. */
static_assert(sizeof(struct session) <= 192, "a session has grown");
static_assert(REQUEST_LINE_MAX <= RELAY_SKIP_MAX, "the relay cannot skip a line");

enum step { STEP_WAIT, STEP_NEXT };

/* An answer on its way to the client: waited for, then sent piece by piece. Outlives its session while
 * the lister has the wish. */
struct session_reply {
	struct worker *worker;
	struct session *session; /* NULL: ended meanwhile */
	const char *bytes;       /* NULL: the lister is at it */
	size_t length;
	size_t sent;
	bool is_list;            /* counted by limits_begin_list() */
	struct lister_wish wish; /* its text holds the bytes of a list */
	char storage[];          /* the wish's directory, or the bytes of a short answer */
};

/* Of a client that came through a front end: what that said, for those it is passed on to. */
struct session_origin {
	union addr destination; /* where the client had connected to */
	size_t tlv_length;
	uint8_t tlvs[];
};

/* What only few sessions have. */
struct session_extra {
	struct attempt *attempt; /* the service has several targets, or its hosts are DNS's; from DIAL on */
	struct srv_query *query; /* DIAL: for those hosts */
	struct session_origin *origin; /* NULL: the client has come by itself */
	struct backend_group *counted; /* a reference: the service that it counts for, by `max-sessions` */
	uint64_t
		patience_ms; /* REQUEST: up to when to wait for a file that is being written; 0: not waiting */
	uint64_t idle_timeout_ms; /* as it was before an upgrade, if has_idle_timeout */
	bool has_idle_timeout;
	enum proxy_version
		proxy;      /* as it was before an upgrade, for a service that comes without its options */
	bool wants_header;  /* REQUEST: a front end has to say first whose connection it is */
	bool is_front;      /* it has named no client of its own: the limits by address do not count it */
	bool wants_details; /* a list from behind a mount, in the form for tools */
};

static enum step on_request(struct session *session);
static enum step on_dial(struct session *session);
static enum step on_reply(struct session *session);
static enum step on_lookup(struct session *session, const struct request *request);
static enum step on_verdict(struct session *session);
static enum step on_handover(struct session *session);
static enum step on_relay(struct session *session);
static enum step session_refuse(struct session *session, enum session_reason reason);

/* ---- the whole ------------------------------------------------------------------------------------- */

static void session_enter(struct session *session, enum session_state state)
{
	session->state = state;
}

static enum step session_step(struct session *session)
{
	switch ((enum session_state)session->state) {
	case SESSION_REQUEST:
		return on_request(session);
	case SESSION_REPLY:
		return on_reply(session);
	case SESSION_VERDICT:
		return on_verdict(session);
	case SESSION_HANDOVER:
		return on_handover(session);
	case SESSION_RELAY:
		return on_relay(session);
	case SESSION_DIAL:
		return on_dial(session);
	case SESSION_LOOKUP: /* over within on_request() */
	case SESSION_ENDED:
		break;
	}
	return STEP_WAIT;
}

/* Of one descriptor, for the way out of it and the way into it. What a way has no place for does not wake it. */
static uint32_t relay_interest(const struct relay_way *from, const struct relay_way *into)
{
	return (from->is_blocked ? 0u : INPUT_EVENTS) | (into->is_blocked ? EPOLLOUT : 0u) | OTHER_EVENTS;
}

/* What the client's and the backend's descriptor are watched for, from the state alone. */
static void session_interest(const struct session *session, uint32_t *client, uint32_t *backend)
{
	*client = relay_interest(&session->up, &session->down);
	*backend = 0;
	if (session->is_detached)
		*client = 0;
	if (session->state == SESSION_VERDICT)
		*backend = BACKEND_EVENTS;
	if (session->state == SESSION_RELAY)
		*backend = relay_interest(&session->down, &session->up);
}

static void session_run(struct session *session)
{
	struct loop *loop = &session->worker->loop;
	uint32_t client, backend;
	int budget = STEP_BUDGET;

	while (session->state != SESSION_ENDED && session_step(session) == STEP_NEXT) {
		/* A client with many requests in store takes turns with the others. */
		if (--budget == 0) {
			loop_defer(loop, &session->task);
			break;
		}
	}
	if (session->state == SESSION_ENDED)
		return;
	session_interest(session, &client, &backend);
	if (loop_watch(loop, &session->client, client) != 0 ||
	    loop_watch(loop, &session->backend, backend) != 0)
		session_end(session, SESSION_NO_MEMORY);
}

/* The session's end, as a state's last step. */
static enum step session_over(struct session *session, enum session_reason reason)
{
	session_end(session, reason);
	return STEP_WAIT;
}

static void session_drop_backend(struct session *session)
{
	loop_watch(&session->worker->loop, &session->backend, 0);
	if (session->backend.fd >= 0)
		close(STEAL_FD(session->backend.fd));
}

/* Urgent bytes become bytes like all others, in their place: a relay has no other way to keep them whole
 * and in order. TCP clients have it from their listener. */
static void socket_set_urgent_inline(int fd, int is_inline)
{
	setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &is_inline, sizeof(is_inline));
}

/* NULL when out of memory. */
static struct session_extra *session_make_extra(struct session *session)
{
	if (!session->extra)
		session->extra = calloc(1, sizeof(*session->extra));
	return session->extra;
}

static struct attempt *session_attempt(const struct session *session)
{
	return session->extra ? session->extra->attempt : NULL;
}

/* Whom the limits by address count it for: nobody, as long as it is a front end's own. */
static const union addr *session_counted_peer(const struct session *session)
{
	static const union addr nobody = { .sa = { .sa_family = AF_UNIX } };

	return session->extra && session->extra->is_front ? &nobody : &session->peer;
}

struct target *session_target(const struct session *session)
{
	struct attempt *attempt = session_attempt(session);

	if (attempt)
		return attempt->target;
	return session->service ? session->service->targets : NULL;
}

static uint64_t session_connect_timeout_ms(const struct session *session)
{
	const struct policy *policy = session->service ? session->service->policy : NULL;

	return policy_names(policy, OPTION_CONNECT_TIMEOUT) ?
		       policy->connect_timeout_ms :
		       session->worker->shared->options->connect_timeout_ms;
}

static uint64_t session_idle_timeout_ms(const struct session *session)
{
	const struct policy *policy = session->service->policy;

	if (session->extra && session->extra->has_idle_timeout)
		return session->extra->idle_timeout_ms;
	return policy_names(policy, OPTION_IDLE_TIMEOUT) ? policy->idle_timeout_ms :
							   session->worker->shared->options->idle_timeout_ms;
}

/* ---- REQUEST --------------------------------------------------------------------------------------- */

static enum step session_take_request(struct session *session, const struct request *request);

/* at_ms: UINT64_MAX for none. Without memory for the deadline the session cannot go on safely. */
static enum step session_set_deadline_at(struct session *session, uint64_t at_ms)
{
	struct loop *loop = &session->worker->loop;

	if (at_ms == UINT64_MAX)
		loop_timer_cancel(loop, &session->timer);
	else if (loop_timer_set(loop, &session->timer, at_ms) != 0)
		return session_over(session, SESSION_NO_MEMORY);
	return STEP_WAIT;
}

/* From now on; 0 means none. */
static enum step session_set_deadline(struct session *session, uint64_t timeout_ms)
{
	return session_set_deadline_at(session,
				       timeout_ms ? session->worker->loop.now_ms + timeout_ms : UINT64_MAX);
}

/* Takes exactly the line away from the socket. It was seen there, so it comes whole. */
static bool session_consume(struct session *session, size_t length)
{
	return recv(session->client.fd, session->worker->pool.buffer, length, MSG_DONTWAIT) ==
	       (ssize_t)length;
}

static enum step session_begin_exposed(struct session *session);

/* Keeps what the header says beside the client's address. NULL when out of memory. */
static struct session_origin *origin_new(const struct proxy_header *header)
{
	struct session_origin *origin = malloc(sizeof(*origin) + header->tlv_length);

	if (!origin)
		return NULL;
	addr_from_sockaddr(&origin->destination, (const struct sockaddr *)&header->destination,
			   sizeof(header->destination));
	origin->tlv_length = header->tlv_length;
	if (header->tlv_length > 0)
		memcpy(origin->tlvs, header->tlvs, header->tlv_length);
	return origin;
}

/* From now on the client is who the front end says it is. */
static enum step session_take_origin(struct session *session, const struct proxy_header *header)
{
	struct limits *limits = &session->worker->shared->limits;

	addr_from_sockaddr(&session->peer, (const struct sockaddr *)&header->source, sizeof(header->source));
	session->limit = limits_move_session(limits, &session->peer);
	if (session->limit != LIMIT_NONE)
		return session_refuse(session, SESSION_LIMIT);
	session->extra->is_front = false;
	session->extra->origin = origin_new(header);
	return session->extra->origin ? STEP_NEXT : session_refuse(session, SESSION_NO_MEMORY);
}

/* A front end says first whose connection it is. */
static enum step session_take_header(struct session *session, size_t peeked)
{
	struct proxy_header header;
	int length = proxy_header_parse(session->worker->request, peeked, &header);
	enum step step = STEP_NEXT;

	if (length == 0 && peeked > 0 && !session->up.has_hung_up) {
		session->up.is_readable = false;
		return STEP_WAIT;
	}
	if (length <= 0) {
		if (peeked > 0)
			session_log_header(session, length < 0 ? header.reason : "it is cut short");
		return session_refuse(session, peeked > 0 ? SESSION_PROXY : SESSION_CLIENT_CLOSED);
	}
	session->extra->wants_header = false;
	if (header.kind == PROXY_HEADER_TCP)
		step = session_take_origin(session, &header);
	if (step == STEP_NEXT && !session_consume(session, (size_t)length))
		return session_over(session, SESSION_CLIENT_RESET);
	if (step == STEP_NEXT && session->is_exposed)
		return session_begin_exposed(session);
	return step;
}

/* A header of version 2 that nobody may send begins with what looks like two wishes for lists. */
static bool is_stray_header(const char *bytes, size_t length)
{
	static const char signature[] = "\r\n\r\n\0\r\nQUIT\n";

	return length >= sizeof(signature) - 1 && memcmp(bytes, signature, sizeof(signature) - 1) == 0;
}

static enum step on_request(struct session *session)
{
	struct worker *worker = session->worker;
	struct request request;
	ssize_t peeked;

	if (worker->is_draining)
		return session_refuse(session, SESSION_SHUTDOWN);
	if (!session->up.is_readable)
		return STEP_WAIT;
	peeked = recv(session->client.fd, worker->request, sizeof(worker->request), MSG_PEEK | MSG_DONTWAIT);
	if (peeked < 0 && (errno == EAGAIN || errno == EINTR)) {
		session->up.is_readable = errno == EINTR;
		return session->up.is_readable ? STEP_NEXT : STEP_WAIT;
	}
	if (peeked < 0)
		return session_refuse(session, SESSION_CLIENT_RESET);
	if (session->extra && session->extra->wants_header)
		return session_take_header(session, (size_t)peeked);
	if (is_stray_header(worker->request, (size_t)peeked))
		return session_refuse(session, SESSION_PROXY);
	request = request_parse(worker->request, (size_t)peeked, worker->shared->options->has_verbs);
	if (request.kind == REQUEST_TOO_LONG)
		return session_refuse(session, SESSION_LINE_TOO_LONG);
	if (request.kind == REQUEST_INCOMPLETE) {
		session->up.is_readable = false;
		if (peeked == 0 || session->up.has_hung_up)
			return session_refuse(session, session->has_listed && peeked == 0 ?
							       SESSION_LISTED :
							       SESSION_CLIENT_CLOSED);
		return STEP_WAIT;
	}
	return session_take_request(session, &request);
}

/* Names the service that was asked for in vain. */
static enum step session_refuse_path(struct session *session, const struct request *request)
{
	session->service = catalog_unknown(&session->worker->catalog, request->path, request->path_length);
	return session_refuse(session, SESSION_NOT_FOUND);
}

static enum step session_answer(struct session *session, const char *bytes, size_t length);
static enum step session_want_list(struct session *session, const struct request *request);

/* Once, though it may have to wait. False: there have been too many. */
static bool session_count_request(struct session *session)
{
	struct worker *worker = session->worker;

	if (session->extra && session->extra->patience_ms)
		return true;
	worker->stats.requests++;
	if (!session->has_listed)
		histogram_observe(&worker->stats.request_time, session_age_ms(session));
	return limits_request(&worker->shared->limits, session_counted_peer(session), worker->loop.now_ms) ==
	       LIMIT_NONE;
}

static enum step session_take_request(struct session *session, const struct request *request)
{
	if (!session_count_request(session)) {
		session->wants_verdict = request->kind == REQUEST_VERB_OPEN;
		session->limit = LIMIT_ADDRESS_REQUESTS;
		return session_refuse(session, SESSION_LIMIT);
	}
	switch (request->kind) {
	case REQUEST_LIST:
	case REQUEST_VERB_LIST:
		return session_want_list(session, request);
	case REQUEST_VERB_VERSION:
		if (!session_consume(session, request->line_length))
			return session_over(session, SESSION_CLIENT_RESET);
		return session_answer(session, "kaiso " KAISO_VERSION "\r\n",
				      strlen("kaiso " KAISO_VERSION "\r\n"));
	case REQUEST_VERB_OPEN:
		session->wants_verdict = true;
		return on_lookup(session, request);
	case REQUEST_OPEN:
		return on_lookup(session, request);
	case REQUEST_VERB_REFUSED:
		session->wants_verdict = true;
		return session_refuse_path(session, request);
	case REQUEST_REFUSED:
	case REQUEST_VERB_UNKNOWN:
		return session_refuse_path(session, request);
	case REQUEST_INCOMPLETE:
	case REQUEST_TOO_LONG:
		break;
	}
	return STEP_WAIT;
}

/* ---- REPLY ----------------------------------------------------------------------------------------- */

/* The lister is done with it: another list may be made. Texts that wait for slow readers are bounded by the
 * lister. */
static void reply_give_place(struct session_reply *reply)
{
	if (reply->is_list)
		limits_end_list(&reply->worker->shared->limits);
	reply->is_list = false;
}

static void reply_free(struct session_reply *reply)
{
	reply_give_place(reply);
	lister_text_unref(reply->wish.text);
	free(reply);
}

/* Has a reply that is not finished be forgotten; one that the lister has is freed when it comes back. */
static void reply_drop(struct session_reply *reply)
{
	reply->session = NULL;
	reply->wish.is_cancelled = true;
	if (reply->bytes)
		reply_free(reply);
}

/* stored goes along with it. NULL when out of memory. */
static struct session_reply *reply_new(struct session *session, const char *stored, size_t length)
{
	struct session_reply *reply = calloc(1, sizeof(*reply) + length + 1);

	if (!reply)
		return NULL;
	reply->worker = session->worker;
	reply->session = session;
	memcpy(reply->storage, stored, length);
	list_init(&reply->wish.link);
	return reply;
}

static enum step session_enter_reply(struct session *session, struct session_reply *reply)
{
	session->reply = reply;
	session_enter(session, SESSION_REPLY);
	session_set_deadline(session, session->worker->shared->options->request_timeout_ms);
	return STEP_NEXT;
}

/* A short answer of our own. */
static enum step session_answer(struct session *session, const char *bytes, size_t length)
{
	struct session_reply *reply = reply_new(session, bytes, length);

	if (!reply)
		return session_over(session, SESSION_NO_MEMORY);
	reply->bytes = reply->storage;
	reply->length = length;
	return session_enter_reply(session, reply);
}

static void wish_on_done(struct lister_wish *wish)
{
	worker_post(CONTAINER_OF(wish, struct session_reply, wish)->worker, wish);
}

/* NULL when out of memory. */
static struct session_reply *reply_new_list(struct session *session, const char *directory, size_t length,
					    bool is_detailed)
{
	struct session_reply *reply = reply_new(session, directory, length);

	if (!reply)
		return NULL;
	reply->wish.on_done = wish_on_done;
	reply->wish.is_detailed = is_detailed;
	reply->wish.client = session->peer;
	reply->wish.directory_length = length;
	reply->wish.directory = reply->storage;
	return reply;
}

static enum step session_make_list(struct session *session, const struct request *request)
{
	struct worker *worker = session->worker;
	struct session_reply *reply;

	if (!session_consume(session, request->line_length))
		return session_over(session, SESSION_CLIENT_RESET);
	if (limits_begin_list(&worker->shared->limits) != LIMIT_NONE) {
		session->limit = LIMIT_LISTS;
		return session_refuse(session, SESSION_LIMIT);
	}
	reply = reply_new_list(session, request->path, request->path_length,
			       request->kind == REQUEST_VERB_LIST);
	if (!reply) {
		limits_end_list(&worker->shared->limits);
		return session_refuse(session, SESSION_NO_MEMORY);
	}
	reply->is_list = true;
	lister_submit(worker->shared->lister, &reply->wish);
	return session_enter_reply(session, reply);
}

static bool session_enters_mount(struct session *session, const struct request *request, enum step *step);

static enum step session_want_list(struct session *session, const struct request *request)
{
	enum step step;

	if (request->path_length > 0 && session_enters_mount(session, request, &step))
		return step;
	return session_make_list(session, request);
}

/* A client has so long for the whole of a list: a slow one gets it, one that drips does not hold its text
 * for ever. */
static void session_set_list_deadline(struct session *session, size_t length)
{
	uint64_t timeout_ms = session->worker->shared->options->request_timeout_ms;

	if (timeout_ms > 0)
		timeout_ms += length * 1000 / LIST_RATE_MIN;
	session_set_deadline(session, timeout_ms);
}

void session_wish_done(struct lister_wish *wish)
{
	struct session_reply *reply = CONTAINER_OF(wish, struct session_reply, wish);
	struct session *session = reply->session;

	if (!session) {
		reply_free(reply);
		return;
	}
	if (!wish->text) {
		int error = wish->result;

		session->service =
			catalog_unknown(&session->worker->catalog, wish->directory, wish->directory_length);
		session_log_list_failure(session, error);
		reply_free(STEAL_PTR(session->reply));
		if (error == -ENOBUFS)
			session->limit = LIMIT_LISTS;
		session_end(session, session_reason_from_errno(error));
		return;
	}
	reply->bytes = wish->text->bytes;
	reply->length = wish->text->length;
	reply_give_place(reply);
	session->has_listed = true;
	session_set_list_deadline(session, reply->length);
	session_run(session);
}

/* The reply is out, or there is none to give: back to the next request, or to the end. */
static enum step session_leave_reply(struct session *session)
{
	reply_drop(STEAL_PTR(session->reply));
	if (session->refusal)
		return session_over(session, (enum session_reason)session->refusal);
	session_enter(session, SESSION_REQUEST);
	session->up.is_readable = true;
	session_set_deadline(session, session->worker->shared->options->request_timeout_ms);
	return STEP_NEXT;
}

static enum step on_reply(struct session *session)
{
	struct session_reply *reply = session->reply;
	ssize_t sent;

	if (!reply->bytes || session->down.is_blocked)
		return STEP_WAIT;
	sent = send(session->client.fd, reply->bytes + reply->sent,
		    MIN(reply->length - reply->sent, REPLY_PIECE), MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0 && errno == EINTR)
		return STEP_NEXT;
	if (sent < 0 && errno == EAGAIN) {
		session->down.is_blocked = true;
		return STEP_WAIT;
	}
	if (sent < 0)
		return session_over(session, SESSION_CLIENT_RESET);
	reply->sent += (size_t)sent;
	if (reply->sent == reply->length)
		return session_leave_reply(session);
	loop_defer(&session->worker->loop, &session->task);
	return STEP_WAIT;
}

/* ---- LOOKUP ---------------------------------------------------------------------------------------- */

static enum step session_begin_unix(struct session *session, int connection);
static enum step session_dial_host(struct session *session, uint64_t deadline_ms);
static uint64_t session_connect_deadline(const struct session *session);
static enum step session_enter_handover(struct session *session);
static bool session_tries_another(struct session *session, int error);

/* The target that was tried is not to be had; perhaps another one is. */
static enum step session_fail(struct session *session, int error)
{
	const struct attempt *attempt = session_attempt(session);

	if (!attempt || error != -EAGAIN) /* a target without room is none that failed */
		session_log_failure(session, error);
	if (session_tries_another(session, error))
		return STEP_NEXT;
	if (attempt && attempt->last_error)
		error = attempt->last_error;
	if (attempt && error == -EAGAIN) { /* for the whole time */
		error = -ETIMEDOUT;
		session_log_failure(session, error);
	}
	/* A name without an address is no missing service: the service stands in the directory. */
	return session_refuse(session,
			      error == -ENOENT ? SESSION_UNAVAILABLE : session_reason_from_errno(error));
}

/* Is the client of a UNIX listener this very process? It has no address that would tell which session of
 * ours it belongs to, so such a chain is refused at its first turn. */
static bool session_is_own_unix_client(const struct session *session)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	return !session->up.is_tcp &&
	       getsockopt(session->client.fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
	       peer.pid == getpid();
}

/* Costs nothing for TCP clients while no session leads to a TCP target. */
static bool session_is_loop(const struct session *session, uint64_t service_hash)
{
	struct chains *chains = &session->worker->shared->chains;
	struct addr_ends ends;

	if (session_is_own_unix_client(session))
		return true;
	return !chains_is_empty(chains) && addr_ends_of(session->client.fd, &ends) == 0 &&
	       chains_is_loop(chains, &ends, service_hash);
}

/* The file is whole. */
static void session_wait_no_more(struct session *session)
{
	if (session->extra)
		session->extra->patience_ms = 0;
}

/* A file that it depends on is being written: the client waits for the whole of it. */
static enum step session_wait_for_file(struct session *session, const struct catalog_problem *problem)
{
	struct session_extra *extra = session_make_extra(session);
	const uint64_t now_ms = session->worker->loop.now_ms;

	if (!extra)
		return session_refuse(session, SESSION_NO_MEMORY);
	if (extra->patience_ms == 0)
		extra->patience_ms = now_ms + FILE_PATIENCE;
	if (now_ms >= extra->patience_ms) {
		session_log_invalid(session, problem);
		return session_refuse(session, SESSION_INVALID);
	}
	service_unref(STEAL_PTR(session->service));
	session_enter(session, SESSION_REQUEST);
	return session_set_deadline(session, FILE_WAIT_MS);
}

static enum step session_refuse_service(struct session *session, int error,
					const struct catalog_problem *problem)
{
	if (error == -EAGAIN)
		return session_wait_for_file(session, problem);
	if (error == -EPERM)
		return session_refuse(session, SESSION_NOT_ALLOWED);
	if (error == -EINVAL)
		session_log_invalid(session, problem);
	else if (error != -ENOENT)
		session_log_failure(session, error);
	return session_refuse(session, session_reason_from_errno(error));
}

/* What it counts for, by `max-sessions`: its file, whatever lies behind that. A reference, or NULL when out of memory. */
static struct backend_group *session_group(const struct session *session)
{
	return service_group(session->service, &session->worker->shared->backends);
}

/* Counts the session for its service, where that has a limit. SESSION_DONE, or why it may not go on. */
static enum session_reason session_join_service(struct session *session)
{
	const struct service *service = session->service;
	struct session_extra *extra;

	if (!service->policy || service->policy->max_sessions == 0)
		return SESSION_DONE;
	extra = session_make_extra(session);
	if (!extra)
		return SESSION_NO_MEMORY;
	extra->counted = session_group(session);
	if (!extra->counted)
		return SESSION_NO_MEMORY;
	if (backends_group_begin(extra->counted, service->policy->max_sessions))
		return SESSION_DONE;
	backends_group_unref(STEAL_PTR(extra->counted));
	session->limit = LIMIT_SERVICE_SESSIONS;
	return SESSION_LIMIT;
}

static enum step session_begin_attempt(struct session *session, uint64_t deadline_ms)
{
	struct session_extra *extra = session_make_extra(session);
	struct worker *worker = session->worker;

	if (extra && !extra->attempt)
		extra->attempt = malloc(sizeof(*extra->attempt));
	if (!extra || !extra->attempt)
		return session_refuse(session, SESSION_NO_MEMORY);
	attempt_begin(extra->attempt, &worker->shared->backends, session->service, session,
		      worker->loop.now_ms, deadline_ms);
	session->dial = NULL;
	session_enter(session, SESSION_DIAL);
	return STEP_NEXT;
}

/* The service is found, and its client may have it. connection is what catalog_open() gave; else -1. */
static enum step session_begin_service(struct session *session, int connection)
{
	const struct service *service = session->service;

	if (service->has_choice)
		return session_begin_attempt(session, session_connect_deadline(session));
	switch (service->kind) {
	case SERVICE_SOCKET:
	case SERVICE_UNIX:
		return session_begin_unix(session, connection);
	case SERVICE_TCP:
	case SERVICE_KAISO:
	case SERVICE_MOUNT:
	case SERVICE_SRV:
		return session_dial_host(session, session_connect_deadline(session));
	case SERVICE_PASSFD:
		return session_enter_handover(session);
	case SERVICE_UNKNOWN:
		break;
	}
	return session_refuse(session, SESSION_NOT_FOUND);
}

/* From the line to the service, which session->service is then. */
static enum step session_found(struct session *session, const struct request *request, int connection)
{
	enum session_reason reason = session_join_service(session);

	session_wait_no_more(session);
	if (reason != SESSION_DONE) {
		cleanup_close(&connection);
		return session_refuse(session, reason);
	}
	/* What is handed over has to begin behind the line. */
	if (!session->service->has_handover)
		relay_way_skip(&session->up, request->line_length);
	else if (!session_consume(session, request->line_length))
		return session_over(session, SESSION_CLIENT_RESET);
	return session_begin_service(session, connection);
}

static bool session_closes_loop(struct session *session, const char *path, size_t length)
{
	const uint64_t hash = catalog_path_hash(path, length);

	return chains_is_known_loop(&session->worker->shared->chains, hash) || session_is_loop(session, hash);
}

static enum step on_lookup(struct session *session, const struct request *request)
{
	struct catalog *catalog = &session->worker->catalog;
	const char *path = request->path;
	const size_t length = request->path_length;
	struct catalog_problem problem;
	int connection, r;

	session_enter(session, SESSION_LOOKUP);
	loop_timer_cancel(&session->worker->loop, &session->timer);
	if (session_closes_loop(session, path, length)) {
		session->service = catalog_unknown(catalog, path, length);
		return session_refuse(session, SESSION_LOOP);
	}
	r = catalog_open(catalog, path, length, &session->peer, &session->service, &connection, &problem);
	if (r < 0)
		return session_refuse_service(session, r, &problem);
	return session_found(session, request, connection);
}

/* "DIR/", where DIR is a mount, or lies in one: the connection goes on to the router there. False: it is none, and the
 * list is ours to make. */
static bool session_enters_mount(struct session *session, const struct request *request, enum step *step)
{
	struct catalog *catalog = &session->worker->catalog;
	const size_t length = request->path_length + 1; /* its '/' stands behind it */
	struct catalog_problem problem;
	struct session_extra *extra;
	int connection, r;

	r = catalog_open(catalog, request->path, length, &session->peer, &session->service, &connection,
			 &problem);
	if (r < 0 && r != -EPERM && r != -EAGAIN) {
		service_unref(STEAL_PTR(session->service));
		session_wait_no_more(session);
		return false;
	}
	session_enter(session, SESSION_LOOKUP);
	loop_timer_cancel(&session->worker->loop, &session->timer);
	extra = session_make_extra(session);
	if (r < 0) {
		*step = session_refuse_service(session, r, &problem);
	} else if (!extra) {
		*step = session_refuse(session, SESSION_NO_MEMORY);
	} else if (session_closes_loop(session, request->path, length)) {
		*step = session_refuse(session, SESSION_LOOP);
	} else {
		extra->wants_details = request->kind == REQUEST_VERB_LIST;
		*step = session_found(session, request, connection);
	}
	return true;
}

/* ---- DIAL ------------------------------------------------------------------------------------------ */

static void session_on_dialled(struct dial *dial, int result);
static enum step session_enter_relay(struct session *session);
static enum step session_ask_plainly(struct session *session);
static bool session_asks_for_verdict(const struct session *session);
static enum step session_enter_verdict(struct session *session);

/* Of a connection that is begun now; UINT64_MAX for none. */
static uint64_t session_connect_deadline(const struct session *session)
{
	uint64_t timeout_ms = session_connect_timeout_ms(session);

	return timeout_ms ? session->worker->loop.now_ms + timeout_ms : UINT64_MAX;
}

/* The dial that the session is to wait for; NULL (and the session refused) when out of memory. */
static struct dial *session_enter_dial(struct session *session, uint64_t deadline_ms)
{
	struct worker *worker = session->worker;
	struct dial *dial = malloc(sizeof(*dial));

	if (!dial) {
		session_refuse(session, SESSION_NO_MEMORY);
		return NULL;
	}
	dial_init(dial, &worker->loop, deadline_ms, session_on_dialled);
	dial->keepalive_ms = worker->shared->options->keepalive_ms;
	dial->context = session;
	session->dial = dial;
	session_enter(session, SESSION_DIAL);
	return dial;
}

static void dial_free(struct loop_task *task)
{
	free(CONTAINER_OF(task, struct dial, free_task));
}

/* The dial is over, or given up. */
static void session_drop_dial(struct session *session)
{
	struct dial *dial = STEAL_PTR(session->dial);

	if (!dial)
		return;
	dial_cancel(dial);
	dial->free_task.run = dial_free;
	loop_defer(&session->worker->loop, &dial->free_task);
}

/* dial_start_*() has returned r. */
static enum step session_dial_started(struct session *session, int r)
{
	if (r == 0)
		return STEP_WAIT;
	session_drop_dial(session);
	return session_fail(session, r);
}

static enum step session_retry_unix(struct session *session, uint64_t deadline_ms)
{
	struct dial *dial = session_enter_dial(session, deadline_ms);

	return dial ? session_dial_started(
			      session, dial_start_unix_retry(dial, session_target(session)->socket_path)) :
		      STEP_NEXT;
}

static enum step session_dial_host(struct session *session, uint64_t deadline_ms)
{
	const struct attempt *attempt = session_attempt(session);
	const struct srv_target *host = attempt ? attempt_host(attempt) : NULL;
	const struct target *target = session_target(session);
	struct dial *dial;
	int r;

	if (target->host[0] == '\0')
		return session_retry_unix(session, deadline_ms);
	dial = session_enter_dial(session, deadline_ms);
	if (!dial)
		return STEP_NEXT;
	if (host)
		r = dial_start_addresses(dial, host->addresses, host->address_count);
	else if (target->address.sa.sa_family != AF_UNSPEC)
		r = dial_start_addresses(dial, &target->address, 1);
	else
		r = dial_start_host(dial, worker_resolver(session->worker), target->host, target->port);
	return session_dial_started(session, r);
}

static void session_on_answer(void *context, int error, struct srv_answer *answer)
{
	struct session *session = context;
	struct worker *worker = session->worker;
	struct session_extra *extra = session->extra;

	extra->query = NULL;
	loop_timer_cancel(&worker->loop, &session->timer);
	if (answer)
		attempt_take_answer(extra->attempt, answer, srv_cache_random(worker_srv(worker)),
				    worker->loop.now_ms);
	else
		session_fail(session, error);
	session_run(session);
}

/* The hosts of its target are DNS's. */
static enum step session_look_up(struct session *session)
{
	struct session_extra *extra = session->extra;
	struct worker *worker = session->worker;
	struct srv_cache *cache = worker_srv(worker);

	if (cache)
		extra->query = srv_start(cache, extra->attempt->target->host, session_on_answer, session);
	if (!extra->query)
		return session_fail(session, -ENOMEM);
	return session_set_deadline_at(session, attempt_deadline_ms(extra->attempt, worker->loop.now_ms));
}

static enum step session_reach_unix(struct session *session)
{
	int fd = dial_unix(session_target(session)->socket_path);

	return fd == -EAGAIN ? session_fail(session, fd) : session_begin_unix(session, fd);
}

/* Of the targets to choose between, the one whose turn it is. Other services wait here for their dial. */
static enum step on_dial(struct session *session)
{
	struct attempt *attempt = session_attempt(session);

	if (!attempt || session->dial || session->extra->query ||
	    loop_timer_due_ms(&session->worker->loop, &session->timer) > 0)
		return STEP_WAIT;
	if (attempt_wants_answer(attempt))
		return session_look_up(session);
	switch (attempt->target->kind) {
	case SERVICE_SOCKET:
	case SERVICE_UNIX:
		return session_reach_unix(session);
	case SERVICE_TCP:
	case SERVICE_KAISO:
	case SERVICE_MOUNT:
	case SERVICE_SRV:
		return session_dial_host(session, attempt_deadline_ms(attempt, session->worker->loop.now_ms));
	case SERVICE_PASSFD:
		return session_enter_handover(session);
	case SERVICE_UNKNOWN:
		break;
	}
	return session_refuse(session, SESSION_NOT_FOUND);
}

static void session_leave_turn(struct session *session);
static void session_keep_client(struct session *session);
static void session_leave_verdict(struct session *session);

/* All have been tried, and one had no room. When to try again; 0: not any more. */
static uint64_t session_next_round_ms(const struct session *session)
{
	struct attempt *attempt = session_attempt(session);
	const uint64_t now_ms = session->worker->loop.now_ms;

	if (!attempt_again(attempt, now_ms))
		return 0;
	return MIN(now_ms + MIN((uint64_t)attempt->round * ROUND_WAIT_MS, (uint64_t)ROUND_WAIT_MAX_MS),
		   attempt->deadline_ms);
}

/* After a target has failed: is there another one, or another round? */
static bool session_tries_another(struct session *session, int error)
{
	struct attempt *attempt = session_attempt(session);
	uint64_t round_ms = 0;

	/* What was told "+" has been given away, or nearly. */
	if (!attempt || session->state == SESSION_RELAY || session->is_resetting)
		return false;
	if (session->state == SESSION_HANDOVER)
		session->dial = NULL;
	if (session->state == SESSION_VERDICT)
		session_leave_verdict(session);
	session_drop_backend(session);
	session_leave_turn(session);
	session_keep_client(session);
	session->is_knocking = false;
	session->has_knocked = false;
	session->retry_shift = 0;
	loop_timer_cancel(&session->worker->loop, &session->timer);
	if (!attempt_failed(attempt, error, session->worker->loop.now_ms)) {
		round_ms = session_next_round_ms(session);
		if (round_ms == 0)
			return false;
	}
	session_enter(session, SESSION_DIAL);
	if (round_ms > 0)
		session_set_deadline_at(session, round_ms); /* without memory: the end */
	return true;
}

/* The knock: a connection to a port of this host, opened and closed again. */
static enum step session_knock(struct session *session)
{
	union addr loopback[2] = {
		{ .in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } },
		{ .in6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT } },
	};
	const struct attempt *attempt = session_attempt(session);
	struct dial *dial = session_enter_dial(
		session, attempt ? attempt_deadline_ms(attempt, session->worker->loop.now_ms) :
				   session_connect_deadline(session));

	if (!dial)
		return STEP_NEXT;
	loopback[0].in.sin_port = htons(session_target(session)->knock_port);
	loopback[1].in6.sin6_port = htons(session_target(session)->knock_port);
	session->is_knocking = true;
	return session_dial_started(session, dial_start_addresses(dial, loopback, ARRAY_SIZE(loopback)));
}

/* A TCP target may be a router, even this one. */
static struct chain *session_enter_chain(const struct session *session)
{
	struct addr_ends backend, client;

	if (addr_ends_of(session->backend.fd, &backend) != 0 ||
	    addr_ends_of(session->client.fd, &client) != 0)
		return NULL;
	return chains_add(&session->worker->shared->chains, &backend, &client, session->service->hash,
			  session_target(session)->asks);
}

static bool session_is_networked(const struct session *session)
{
	return session_target(session)->host[0] != '\0';
}

/* The dial has succeeded: what was it for? */
static enum step session_dialled(struct session *session, int fd)
{
	struct worker *worker = session->worker;

	if (session->is_knocking) {
		close(fd);
		session->is_knocking = false;
		session->has_knocked = true;
		return session_enter_handover(session);
	}
	session->backend.fd = fd;
	if (session_target(session)->kind == SERVICE_PASSFD)
		return session_enter_handover(session);
	socket_set_urgent_inline(fd, 1);
	session->chain = NULL;
	if (session->is_exposed && session_is_loop(session, session->service->hash)) {
		session->service->loop_until_ms = worker->loop.now_ms + LOOP_PAUSE_MS;
		return session_refuse(session, SESSION_LOOP);
	}
	if (session_is_networked(session))
		session->chain = session_enter_chain(session);
	if (session_asks_for_verdict(session))
		return session_enter_verdict(session);
	return session_enter_relay(session);
}

static void session_on_dialled(struct dial *dial, int result)
{
	struct session *session = dial->context;

	session_drop_dial(session);
	if (result >= 0) {
		histogram_observe(&session->worker->stats.connect_time,
				  session->worker->loop.now_ms - dial->begun_ms);
		session_dialled(session, result);
	} else {
		session_fail(session, result);
	}
	session_run(session);
}

/* ---- VERDICT --------------------------------------------------------------------------------------- */

/* Of the next router, for whom the client of this one wants one. A list, or a path that leaves no room for the word, is
 * asked for as ever; so is everything of a router that closed the connection on the word a short time ago. */
static bool session_asks_for_verdict(const struct session *session)
{
	const struct target *target = session_target(session);
	const size_t length = strlen(target->remote);

	return target->asks && (session->is_exposed || session->wants_verdict) && length > 0 &&
	       length <= REQUEST_LINE_MAX - strlen(VERDICT_WORD "\r\n") &&
	       target->remote[length - 1] != '/' && session->worker->loop.now_ms >= target->plain_until_ms;
}

/* Which version of the PROXY protocol the target speaks, if any: its first bytes say whose connection it is. */
static enum proxy_version session_proxy_version(const struct session *session)
{
	const struct router_exposure *exposure = session->worker->shared->options->exposure;
	const struct policy *policy = session->service->policy;

	if (session->is_exposed)
		return exposure->proxy;
	if (policy)
		return policy->proxy;
	return session->extra ? session->extra->proxy : PROXY_NONE;
}

/* The header for the target; its length, 0 for none, or a negative errno. */
static int session_write_header(const struct session *session, char *bytes, size_t size)
{
	const struct session_origin *origin = session->extra ? session->extra->origin : NULL;
	enum proxy_version version = session_proxy_version(session);
	struct addr_ends ends = { 0 };

	if (version == PROXY_NONE)
		return 0;
	if (origin)
		ends.local = origin->destination;
	else
		addr_ends_of(session->client.fd, &ends);
	return proxy_header_write(version == PROXY_V1 ? 1 : 2, &session->peer.sa, &ends.local.sa,
				  origin ? origin->tlvs : NULL, origin ? origin->tlv_length : 0, bytes, size);
}

/* Of the time to connect, what the target may have from now on. */
static uint64_t session_target_deadline(const struct session *session)
{
	const struct attempt *attempt = session_attempt(session);
	const uint64_t deadline_ms = session_connect_deadline(session);

	return attempt ? MIN(attempt_deadline_ms(attempt, session->worker->loop.now_ms), deadline_ms) :
			 deadline_ms;
}

static enum step session_enter_verdict(struct session *session)
{
	char bytes[PROXY_HEADER_MAX + REQUEST_LINE_MAX + 1];
	int length = session_write_header(session, bytes, PROXY_HEADER_MAX);

	if (length < 0)
		return session_fail(session, length);
	length += snprintf(bytes + length, REQUEST_LINE_MAX + 1, VERDICT_WORD "%s\r\n",
			   session_target(session)->remote);
	session_enter(session, SESSION_VERDICT);
	/* Into the empty buffer of a new connection: it fits, or the connection is broken. */
	if (send(session->backend.fd, bytes, (size_t)length, MSG_NOSIGNAL | MSG_DONTWAIT) != length)
		return session_ask_plainly(session);
	session_set_deadline_at(session, session_target_deadline(session));
	return STEP_NEXT;
}

/* Nothing of the connection to that router is left. */
static void session_leave_verdict(struct session *session)
{
	loop_timer_cancel(&session->worker->loop, &session->timer);
	chains_remove(&session->worker->shared->chains, STEAL_PTR(session->chain));
	session_drop_backend(session);
	relay_way_init(&session->down, false);
	session->is_backend_gone = false;
}

/* The router closed the connection on a word that it does not know: again, without. */
static enum step session_ask_plainly(struct session *session)
{
	session_target(session)->plain_until_ms = session->worker->loop.now_ms + VERDICT_ASK_AGAIN_MS;
	session_leave_verdict(session);
	return session_dial_host(session, session_target_deadline(session));
}

static void session_has_reached(struct session *session);

/* Of a service that another router may still have: a negative errno; 0 for what is said for all of them. */
static int refusal_error(enum reply_code code)
{
	switch (code) {
	case REPLY_UNAVAILABLE:
		return -ECONNREFUSED;
	case REPLY_TIMEOUT:
		return -ETIMEDOUT;
	case REPLY_LIMIT:
		return -ENOBUFS;
	case REPLY_NOT_FOUND:
	case REPLY_DENIED:
	case REPLY_INVALID:
	case REPLY_LOOP:
		break;
	}
	return 0;
}

/* The router is well, whatever is with its service: it must not be left out for the clients of others. */
static enum step session_take_refusal(struct session *session, enum reply_code code)
{
	const int error = refusal_error(code);

	session_has_reached(session);
	if (error != 0 && session_tries_another(session, error))
		return STEP_NEXT;
	return session_refuse(session, session_reason_from_reply(code));
}

static enum step session_take_verdict(struct session *session, const char *line, size_t length)
{
	enum reply_code code;

	switch (reply_parse(line, length, &code)) {
	case 0:
		loop_timer_cancel(&session->worker->loop, &session->timer);
		session->has_verdict = true;
		return session_enter_relay(session);
	case 1:
		return session_take_refusal(session, code);
	default:
		return session_fail(session, -EPROTO);
	}
}

/* Exactly the verdict's line is taken, for the service may have spoken already. */
static enum step on_verdict(struct session *session)
{
	char line[REPLY_LINE_MAX];
	ssize_t peeked = recv(session->backend.fd, line, sizeof(line), MSG_PEEK | MSG_DONTWAIT);
	const char *end = peeked > 0 ? memchr(line, '\n', (size_t)peeked) : NULL;
	size_t length;

	if (session->is_client_lost)
		return session_refuse(session, SESSION_CLIENT_RESET);
	if (peeked < 0 && (errno == EAGAIN || errno == EINTR))
		return errno == EINTR ? STEP_NEXT : STEP_WAIT;
	if (peeked <= 0)
		return session_ask_plainly(session);
	if (!end && peeked < (ssize_t)sizeof(line) && !session->down.has_hung_up)
		return STEP_WAIT;
	if (!end)
		return session_fail(session, -EPROTO);
	length = (size_t)(end - line);
	if (recv(session->backend.fd, line, length + 1, MSG_DONTWAIT) != (ssize_t)length + 1)
		return session_fail(session, -EPROTO);
	return session_take_verdict(session, line,
				    length > 0 && line[length - 1] == '\r' ? length - 1 : length);
}

/* ---- HANDOVER -------------------------------------------------------------------------------------- */

/* Of several targets, the one that was tried is the one. */
static void session_has_reached(struct session *session)
{
	struct attempt *attempt = session_attempt(session);

	if (attempt)
		attempt_succeeded(attempt);
}

static enum step session_enter_handover(struct session *session)
{
	session->handover_deadline_ms = session_target_deadline(session);
	session_enter(session, SESSION_HANDOVER);
	return STEP_NEXT;
}

/* Its queue is full, or another session is at it: again in a moment, while there is time. */
static enum step session_retry_handover(struct session *session)
{
	uint64_t wait_ms = HANDOVER_RETRY_MS << session->retry_shift;

	if (session->worker->loop.now_ms >= session->handover_deadline_ms)
		return session_fail(session, -ETIMEDOUT);
	if (session->retry_shift < HANDOVER_RETRY_SHIFT_MAX)
		session->retry_shift++;
	else if (session->backend.fd < 0)
		receiver_give_up(&session_target(session)->receiver);
	return session_set_deadline(session, wait_ms);
}

/* A receiver that is knocked at pairs the connection with the knock: only one session may be at it. */
static bool session_take_turn(struct session *session)
{
	struct target *target = session_target(session);

	if (!session->has_turn)
		session->has_turn =
			turns_take(&session->worker->shared->turns, &target->turn, target->socket_path);
	return session->has_turn;
}

static void session_leave_turn(struct session *session)
{
	if (session->has_turn)
		turns_leave(&session->worker->shared->turns, &session_target(session)->turn);
	session->has_turn = false;
}

/* Sees to it that there is a connection to the receiver: its lasting one, or the session's own.
 * *socket_file is what was connected, and NULL when that was at another time. 0 or a negative errno. */
static int session_reach_receiver(struct session *session, struct stat *found,
				  const struct stat **socket_file)
{
	struct target *target = session_target(session);
	int fd;

	*socket_file = NULL;
	if (session->backend.fd >= 0)
		return 0;
	if (stat(target->socket_path, found) == 0)
		*socket_file = found;
	receiver_check(&target->receiver, *socket_file);
	if (receiver_is_lasting(&target->receiver))
		return 0;
	fd = dial_unix(target->socket_path);
	if (fd < 0)
		return fd;
	session->backend.fd = fd;
	return 0;
}

/* "+" to a client that asked for a verdict, before its socket is another's. */
static enum step session_tell_opened(struct session *session)
{
	ssize_t sent =
		send(session->client.fd, REPLY_OPENED, strlen(REPLY_OPENED), MSG_NOSIGNAL | MSG_DONTWAIT);

	if (sent < 0 && errno == EAGAIN) {
		session->down.is_blocked = true;
		return session_set_deadline_at(session, session->handover_deadline_ms);
	}
	session->wants_verdict = false;
	session->is_resetting = sent > 0;
	if (sent == (ssize_t)strlen(REPLY_OPENED))
		return STEP_NEXT;
	return session_over(session, SESSION_CLIENT_RESET);
}

/* Sends the client's socket, as accept() would have given it: blocking, urgent bytes apart, and in no epoll
 * of ours. */
static int session_send_client(struct session *session, const struct stat *socket_file)
{
	struct receiver *receiver = &session_target(session)->receiver;
	int blocking = 0, r;

	r = loop_watch(&session->worker->loop, &session->client, 0);
	if (r < 0)
		return r;
	session->is_detached = true;
	ioctl(session->client.fd, FIONBIO, &blocking);
	socket_set_urgent_inline(session->client.fd, 0);
	if (session->backend.fd < 0) {
		r = receiver_send(receiver, session->client.fd);
	} else {
		r = receiver_send_first_take(receiver, session->backend.fd, session->client.fd, socket_file);
		if (r == 0)
			session->backend.fd = -1;
	}
	/* At once: while it is open here, the receiver's close() neither ends the connection nor takes it out of
	 * the receiver's epoll (epoll(7), question 6). */
	if (r == 0)
		close(STEAL_FD(session->client.fd));
	return r;
}

/* It has not gone over: as it was before session_send_client(). */
static void session_keep_client(struct session *session)
{
	int non_blocking = 1;

	if (!session->is_detached)
		return;
	ioctl(session->client.fd, FIONBIO, &non_blocking);
	socket_set_urgent_inline(session->client.fd, 1);
	session->is_detached = false;
}

/* The receiver is reached: the client goes over to it. */
static enum step session_hand_over(struct session *session, const struct stat *socket_file)
{
	int r;

	if (session_target(session)->knock_port && !session->has_knocked)
		return session_knock(session);
	if (session->wants_verdict && session->backend.fd < 0 &&
	    receiver_is_full(&session_target(session)->receiver))
		return session_retry_handover(session);
	if (session->wants_verdict && session_tell_opened(session) == STEP_WAIT)
		return STEP_WAIT;
	r = session_send_client(session, socket_file);
	if (r == -EAGAIN)
		return session_retry_handover(session);
	if (r == -EPIPE && session->backend.fd < 0)
		return STEP_NEXT; /* the lasting one has gone: connect anew */
	if (r < 0)
		return session_fail(session, r);
	session_has_reached(session);
	return session_over(session, SESSION_HANDED_OVER);
}

/* Once a receiver is connected it gets its client, even one that was reset meanwhile, as accept() gives such
 * clients too: not all receivers bear a connection that brings none. */
static enum step on_handover(struct session *session)
{
	const struct stat *socket_file;
	struct stat found;
	int r;

	if (session->is_client_lost && session->backend.fd < 0)
		return session_over(session, SESSION_CLIENT_RESET);
	if (session->down.is_blocked)
		return STEP_WAIT;
	if (session_target(session)->knock_port && !session_take_turn(session))
		return session_retry_handover(session);
	r = session_reach_receiver(session, &found, &socket_file);
	if (r == -EAGAIN && !session_attempt(session))
		return session_retry_unix(session, session_connect_deadline(session));
	if (r < 0)
		return session_fail(session, r);
	return session_hand_over(session, socket_file);
}

/* ---- RELAY ----------------------------------------------------------------------------------------- */

static enum step session_begin_unix(struct session *session, int connection)
{
	if (connection == -EAGAIN)
		return session_retry_unix(session, session_connect_deadline(session));
	if (connection < 0)
		return session_fail(session, connection);
	histogram_observe(&session->worker->stats.connect_time, 0);
	session->backend.fd = connection;
	socket_set_urgent_inline(connection, 1);
	session->chain = NULL;
	return session_enter_relay(session);
}

/* The words for the next router: the path, or what asks for a list in the form that the client wants. */
static int session_write_line(const struct session *session, char *line, size_t size)
{
	const char *remote = session_target(session)->remote;

	if (session->extra && session->extra->wants_details)
		return snprintf(line, size, remote[0] ? LIST_WORD " %s\r\n" : LIST_WORD "%s\r\n", remote);
	return snprintf(line, size, "%s\r\n", remote);
}

/* What goes before the streams: our "+" to the client; to the target whose connection it is, and what is wanted. */
static bool session_preload(struct session *session)
{
	char bytes[PROXY_HEADER_MAX + REQUEST_LINE_MAX + sizeof(LIST_WORD) + 2];
	int length;

	if (session->wants_verdict && !relay_way_preload(&session->down, REPLY_OPENED, strlen(REPLY_OPENED)))
		return false;
	if (session->has_verdict)
		return true;
	length = session_write_header(session, bytes, PROXY_HEADER_MAX);
	if (length < 0)
		return false;
	if (session_target(session)->asks)
		length += session_write_line(session, bytes + length, sizeof(bytes) - (size_t)length);
	return length == 0 || relay_way_preload(&session->up, bytes, (size_t)length);
}

static bool session_has_unix_backend(const struct session *session)
{
	return session_target(session)->host[0] == '\0';
}

/* Nobody is told any more: sessions last, and there may be many. */
static void session_forget_origin(struct session *session)
{
	if (session->extra)
		free(STEAL_PTR(session->extra->origin));
}

static enum step session_enter_relay(struct session *session)
{
	session_has_reached(session);
	session_enter(session, SESSION_RELAY);
	session->up.is_readable = true;
	/* A backend that is not watched yet: watching tells at once what is there already. */
	session->down.is_readable = session->backend.events != 0;
	session->down.is_tcp = !session_has_unix_backend(session);
	if (!session_preload(session))
		return session_over(session, SESSION_NO_MEMORY);
	session_forget_origin(session);
	return STEP_NEXT;
}

/* The service was reset, and so will be the client; but a reset drops what the kernel has not sent yet, and
 * that is what the service said before. So it gets some time to leave. */
static enum step session_reset_client(struct session *session)
{
	int unsent = 0;

	session->is_resetting = true;
	if (session->retry_shift < RESET_WAIT_SHIFT_MAX &&
	    ioctl(session->client.fd, SIOCOUTQ, &unsent) == 0 && unsent > 0)
		return session_set_deadline(session, RESET_WAIT_MS << session->retry_shift++);
	return session_over(session, SESSION_SERVICE_RESET);
}

/* Moves one direction; false when the session has ended over it, or is about to. */
static bool session_pump(struct session *session, struct relay_way *way, int source_fd, int sink_fd,
			 enum relay_mode mode)
{
	bool is_up = way == &session->up;

	switch (relay_way_pump(way, source_fd, sink_fd, mode, &session->worker->pool)) {
	case RELAY_WAITS_FOR_SOURCE:
	case RELAY_WAITS_FOR_SINK:
	case RELAY_FINISHED:
		return true;
	case RELAY_HAS_MORE:
		loop_defer(&session->worker->loop, &session->task);
		return true;
	case RELAY_SOURCE_LOST:
		if (is_up)
			session_end(session, SESSION_CLIENT_RESET);
		else
			session_reset_client(session);
		return false;
	case RELAY_SINK_LOST:
		if (is_up) {
			/* The service reads no more; what it still has to say is passed on first. */
			if (way->is_sink_reset)
				relay_way_lose_source(&session->down);
			relay_way_break(way, &session->worker->pool);
			return true;
		}
		session_end(session, SESSION_CLIENT_RESET);
		return false;
	case RELAY_NO_MEMORY:
		session_end(session, SESSION_NO_MEMORY);
		return false;
	}
	return false;
}

static enum step on_relay(struct session *session)
{
	const struct router_options *options = session->worker->shared->options;
	uint64_t idle_timeout_ms;

	if (session->is_resetting && !session->is_client_lost)
		return STEP_WAIT; /* for the timer */
	session->up.is_last = session->down.eof_sent;
	/* From a client that was reset the service still gets what it had sent before. */
	if (!session_pump(session, &session->up, session->client.fd, session->backend.fd, options->relay_up))
		return STEP_WAIT;
	if (session->is_client_lost)
		return session_over(session, SESSION_CLIENT_RESET);
	/* Where the way up broke a reset will follow the end, which is to be told before. */
	session->down.is_last = session->up.eof_sent && !session->up.is_broken;
	if (!session_pump(session, &session->down, session->backend.fd, session->client.fd,
			  options->relay_down))
		return STEP_WAIT;
	/* A service that has closed both ways reads no more: then its end is the end. */
	if (session->down.eof_sent && (session->up.eof_sent || session->is_backend_gone)) {
		if (session->up.is_broken || session->up.held_bytes || session->down.is_source_lost)
			return session_reset_client(session);
		return session_over(session, SESSION_DONE);
	}
	idle_timeout_ms = session_idle_timeout_ms(session);
	if (idle_timeout_ms)
		session_set_deadline(session, idle_timeout_ms);
	return STEP_WAIT;
}

/* ---- ENDED ----------------------------------------------------------------------------------------- */

/* Closing a TCP socket then sends RST (SO_LINGER, socket(7)); others do not know such a thing. Should that be
 * refused, the socket is disconnected here and now, which sends it as well (connect(2)). */
static void socket_reset_on_close(int fd)
{
	static const struct linger reset = { .l_onoff = 1, .l_linger = 0 };
	static const struct sockaddr nowhere = { .sa_family = AF_UNSPEC };

	if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) != 0 &&
	    connect(fd, &nowhere, sizeof(nowhere)) != 0)
		return; /* there is no third way */
}

/* Unread bytes would turn close() into a reset, which can overtake an answer that was just sent. */
static void session_discard_input(struct session *session)
{
	for (size_t total = 0; total < DISCARD_MAX;) {
		ssize_t received =
			recv(session->client.fd, session->worker->pool.buffer, RELAY_CHUNK_MAX, MSG_DONTWAIT);

		if (received <= 0)
			return;
		total += (size_t)received;
	}
}

/* How the other side learns of it: a connection that is cut while bytes are on their way must not look like
 * one that came to its end. */
static void session_close_manner(struct session *session, enum session_reason reason)
{
	if (reason == SESSION_IDLE_TIMEOUT && session->up.held_bytes == 0 && session->down.held_bytes == 0)
		return;
	if (session->state == SESSION_HANDOVER && session->is_resetting && reason != SESSION_HANDED_OVER) {
		socket_reset_on_close(session->client.fd);
	} else if (session->state == SESSION_RELAY && reason != SESSION_DONE) {
		/* Also the one that counts as lost: perhaps it was only the system that could not read from it. */
		socket_reset_on_close(session->backend.fd);
		socket_reset_on_close(session->client.fd);
	} else if (session->state != SESSION_RELAY && reason != SESSION_HANDED_OVER) {
		session_discard_input(session);
	}
}

/* What the state holds beside the session's own members. */
static void session_release(struct session *session)
{
	session_leave_turn(session);
	switch ((enum session_state)session->state) {
	case SESSION_REPLY:
		if (session->reply)
			reply_drop(STEAL_PTR(session->reply));
		break;
	case SESSION_DIAL:
		session_drop_dial(session);
		if (session->extra && session->extra->query)
			srv_cancel(STEAL_PTR(session->extra->query));
		break;
	case SESSION_VERDICT:
	case SESSION_RELAY:
		chains_remove(&session->worker->shared->chains, STEAL_PTR(session->chain));
		break;
	case SESSION_REQUEST:
	case SESSION_LOOKUP:
	case SESSION_HANDOVER:
	case SESSION_ENDED:
		break;
	}
}

/* Whether it came to a service. */
static bool session_was_connected(const struct session *session, enum session_reason reason)
{
	return session->state == SESSION_RELAY || reason == SESSION_HANDED_OVER;
}

/* What a client asks for in a mount may be any name: all of it counts for the mount, under the name that lists have for
 * it. */
static struct service_stats *session_service_stats(const struct session *session)
{
	const struct service *service = session->service;
	struct stats *stats = &session->worker->stats;
	size_t length;

	if (!service || service->kind == SERVICE_UNKNOWN)
		return NULL;
	length = MIN(service->file_length + (service->kind == SERVICE_MOUNT), service->path_length);
	return stats_service(stats, service->path, length,
			     length == service->path_length ? service->hash :
							      catalog_path_hash(service->path, length),
			     service->kind);
}

static void session_count(const struct session *session, enum session_reason reason)
{
	struct worker *worker = session->worker;
	struct stats *stats = &worker->stats;
	struct service_stats *of_service = session_service_stats(session);

	worker->reason_counts[reason]++;
	histogram_observe(&stats->duration, session_age_ms(session));
	stats->sent += relay_way_payload(&session->up);
	stats->received += relay_way_payload(&session->down);
	if (!of_service)
		return;
	if (session_was_connected(session, reason))
		of_service->sessions++;
	else
		of_service->failures++;
	of_service->sent += relay_way_payload(&session->up);
	of_service->received += relay_way_payload(&session->down);
}

/* Makes room for another one. */
static void session_uncount(struct session *session)
{
	limits_end_session(&session->worker->shared->limits, session_counted_peer(session));
	if (!session->extra || !session->extra->counted)
		return;
	backends_group_end(session->extra->counted);
	backends_group_unref(STEAL_PTR(session->extra->counted));
}

void session_end(struct session *session, enum session_reason reason)
{
	struct loop *loop = &session->worker->loop;

	if (session->state == SESSION_ENDED)
		return;
	/* First: whoever sees this end and comes again, on whichever thread, is let in. */
	session_uncount(session);
	session_close_manner(session, reason);
	/* At once, for it tells both sides; and out of epoll, as nobody else has these open files. */
	cleanup_close(&session->client.fd);
	cleanup_close(&session->backend.fd);
	session->client.events = 0;
	session->backend.events = 0;
	session_log_end(session, reason);
	session_count(session, reason);
	session_release(session);
	loop_timer_cancel(loop, &session->timer);
	session_enter(session, SESSION_ENDED);
	loop_defer(loop, &session->task);
}

/* No service for this client: the end, in silence unless it asked for a verdict. */
static enum step session_refuse(struct session *session, enum session_reason reason)
{
	char line[REPLY_LINE_MAX];

	if (!session->wants_verdict)
		return session_over(session, reason);
	session->wants_verdict = false;
	session_release(session);
	session_drop_backend(session);
	session->refusal = reason;
	session_answer(session, line, reply_format_error(line, sizeof(line), session_reason_reply(reason)));
	return STEP_NEXT;
}

static void session_free_extra(struct session_extra *extra)
{
	if (extra->attempt)
		attempt_end(extra->attempt);
	free(extra->attempt);
	free(extra->origin);
	free(extra);
}

static void session_free(struct session *session)
{
	struct worker *worker = session->worker;

	loop_timer_cancel(&worker->loop, &session->timer);
	relay_way_deinit(&session->up, &worker->pool);
	relay_way_deinit(&session->down, &worker->pool);
	if (session->extra)
		session_free_extra(session->extra);
	service_unref(session->service);
	list_remove(&session->link);
	free(session);
	worker_session_gone(worker);
}

/* ---- events ---------------------------------------------------------------------------------------- */

/* A TCP connection hangs up at once, not having announced an end before, and this side has not ended it: it was reset,
 * whether or not the error is still there to be seen. */
static bool way_hangs_up_at_once(const struct relay_way *way, const struct relay_way *other, uint32_t events)
{
	return (events & EPOLLHUP) && way->is_tcp && !way->has_hung_up &&
	       (!other->eof_sent || other->is_broken);
}

static void session_on_client(struct loop_watch *watch, uint32_t events)
{
	struct session *session = CONTAINER_OF(watch, struct session, client);

	if (session->state == SESSION_RELAY && way_hangs_up_at_once(&session->up, &session->down, events))
		relay_way_lose_source(&session->up);
	if (events & SOURCE_EVENTS)
		relay_way_source_event(&session->up, events);
	if (events & SINK_EVENTS)
		relay_way_sink_event(&session->down);
	if (events & EPOLLERR)
		session->is_client_lost = true;
	if (session->is_client_lost && session->state == SESSION_DIAL && session->backend.fd < 0)
		session_end(session, SESSION_CLIENT_RESET);
	session_run(session);
}

static void session_on_backend(struct loop_watch *watch, uint32_t events)
{
	struct session *session = CONTAINER_OF(watch, struct session, backend);

	if (session->state == SESSION_RELAY && way_hangs_up_at_once(&session->down, &session->up, events))
		relay_way_lose_source(&session->down);
	if (events & SOURCE_EVENTS)
		relay_way_source_event(&session->down, events);
	if (events & SINK_EVENTS)
		relay_way_sink_event(&session->up);
	if (events & EPOLLHUP)
		session->is_backend_gone = true;
	if (events & EPOLLERR)
		relay_way_lose_source(&session->down);
	session_run(session);
}

static void session_on_timer(struct loop_timer *timer)
{
	struct session *session = CONTAINER_OF(timer, struct session, timer);

	switch ((enum session_state)session->state) {
	case SESSION_REQUEST:
		if (session->extra && session->extra->patience_ms)
			session_run(session);
		else
			session_end(session, SESSION_REQUEST_TIMEOUT);
		break;
	case SESSION_REPLY:
		session_end(session, SESSION_REQUEST_TIMEOUT);
		break;
	case SESSION_DIAL: /* a dial has a deadline of its own; a look-up, and the time between two rounds, have not */
		if (session->extra && session->extra->query) {
			srv_cancel(STEAL_PTR(session->extra->query));
			session_fail(session, -ETIMEDOUT);
		}
		session_run(session);
		break;
	case SESSION_VERDICT:
		session_fail(session, -ETIMEDOUT);
		session_run(session);
		break;
	case SESSION_RELAY:
		if (session->is_resetting)
			session_reset_client(session);
		else
			session_end(session, SESSION_IDLE_TIMEOUT);
		break;
	case SESSION_HANDOVER:
		if (session->down.is_blocked)
			session_end(session, SESSION_CONNECT_TIMEOUT);
		session_run(session);
		break;
	case SESSION_LOOKUP:
	case SESSION_ENDED:
		break;
	}
}

/* After the current events: more to pump, or the session's own end. */
static void session_on_task(struct loop_task *task)
{
	struct session *session = CONTAINER_OF(task, struct session, task);

	if (session->state == SESSION_ENDED)
		session_free(session);
	else
		session_run(session);
}

/* At how many checks in a row, this one included, this TCP peer has left bytes, or the question whether it takes more,
 * unanswered. A peer that takes nothing but says so is well: TCP_USER_TIMEOUT would end it too (tcp_probe_timer()). A
 * stalled one is asked ever more seldom, and one question that is lost is no silence. */
static unsigned count_silence(int fd, unsigned before, uint64_t interval_ms)
{
	struct tcp_info info = { 0 };
	socklen_t length = sizeof(info);
	int unsent = 0;

	if (ioctl(fd, SIOCOUTQ, &unsent) != 0 || unsent == 0) /* the cheaper question; mostly it is enough */
		return 0;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0 ||
	    (info.tcpi_retransmits == 0 && info.tcpi_probes < 2))
		return 0;
	return info.tcpi_last_ack_recv >= interval_ms ? before + 1 : 1;
}

/* Dead at the third check in a row: silent for two intervals at least, which are --keepalive. */
static bool client_is_dead(struct session *session, uint64_t interval_ms)
{
	unsigned before = session->down.is_unanswered + (unsigned)session->is_client_overdue;
	unsigned silence = count_silence(session->client.fd, before, interval_ms);

	session->down.is_unanswered = silence > 0;
	session->is_client_overdue = silence > 1;
	return silence > 2;
}

static bool backend_is_dead(struct session *session, uint64_t interval_ms)
{
	unsigned before = session->up.is_unanswered + (unsigned)session->is_backend_overdue;
	unsigned silence = count_silence(session->backend.fd, before, interval_ms);

	session->up.is_unanswered = silence > 0;
	session->is_backend_overdue = silence > 1;
	return silence > 2;
}

void session_check_peers(struct session *session, uint64_t interval_ms)
{
	if (session->state != SESSION_RELAY)
		return;
	if (session->up.is_tcp && client_is_dead(session, interval_ms))
		session->is_client_lost = true;
	else if (session->down.is_tcp && backend_is_dead(session, interval_ms))
		session_reset_client(session);
	if (session->is_client_lost)
		session_run(session);
}

void session_drain(struct session *session)
{
	if (session->state == SESSION_REQUEST)
		session_end(session, SESSION_SHUTDOWN);
}

/* No request to wait for: the listener knows the service. */
static enum step session_begin_exposed(struct session *session)
{
	/* Its kaiso is this very listener: that is seen only once a dial is over, and by then there is the next
	 * client. So the clients of the next moment are not dialled for at all. */
	if (session->worker->loop.now_ms < session->service->loop_until_ms)
		return session_over(session, SESSION_LOOP);
	loop_timer_cancel(&session->worker->loop, &session->timer); /* that of a front end's header */
	return session_dial_host(session, session_connect_deadline(session));
}

static struct session *session_alloc(struct worker *worker, int client_fd, const union addr *peer)
{
	struct session *session = calloc(1, sizeof(*session));

	if (!session)
		return NULL;
	session->worker = worker;
	session->client = (struct loop_watch){ .on_events = session_on_client, .fd = client_fd };
	session->backend = (struct loop_watch){ .on_events = session_on_backend, .fd = -1 };
	session->timer.on_expire = session_on_timer;
	session->task.run = session_on_task;
	session->peer = *peer;
	session->started_ms = worker->loop.now_ms & SESSION_STARTED_MASK;
	relay_way_init(&session->up, peer->sa.sa_family != AF_UNIX);
	relay_way_init(&session->down, false);
	list_append(&worker->sessions, &session->link);
	session_enter(session, SESSION_REQUEST);
	return session;
}

int session_new_take(struct worker *worker, int client_fd, const union addr *peer, bool is_front,
		     struct service *exposed)
{
	struct session *session = session_alloc(worker, client_fd, peer);

	if (!session)
		return -ENOMEM;
	if (!session->up.is_tcp)
		socket_set_urgent_inline(client_fd, 1);
	if (is_front && !session_make_extra(session)) {
		list_remove(&session->link);
		free(session);
		return -ENOMEM;
	}
	if (is_front) {
		session->extra->wants_header = true;
		session->extra->is_front = true;
	}
	if (exposed) {
		service_ref(exposed);
		session->service = exposed;
		session->is_exposed = true;
	}
	if (exposed && !is_front)
		session_begin_exposed(session);
	else
		session_set_deadline(session, worker->shared->options->request_timeout_ms);
	session_run(session);
	return 0;
}

/* ---- from one process to the next ---------------------------------------------------------------------- */

static void way_image_of(const struct relay_way *way, uint64_t *numbers, struct image_bytes *held)
{
	numbers[WAY_BYTES] = way->bytes;
	numbers[WAY_SKIP] = way->skip_bytes;
	numbers[WAY_FLAGS] =
		(way->is_tcp ? WAY_IS_TCP : 0u) | (way->is_bulk ? WAY_IS_BULK : 0u) |
		(way->has_hung_up ? WAY_HAS_HUNG_UP : 0u) | (way->has_urgent ? WAY_HAS_URGENT : 0u) |
		(way->is_source_lost ? WAY_IS_SOURCE_LOST : 0u) |
		(way->is_sink_reset ? WAY_IS_SINK_RESET : 0u) | (way->eof_seen ? WAY_EOF_SEEN : 0u) |
		(way->eof_sent ? WAY_EOF_SENT : 0u) | (way->is_broken ? WAY_IS_BROKEN : 0u);
	if (way->held_bytes > 0 && way->is_spliced) {
		numbers[WAY_PIPE_READ] = (uint64_t)way->pipe->read_fd + 1;
		numbers[WAY_PIPE_WRITE] = (uint64_t)way->pipe->write_fd + 1;
		numbers[WAY_PIPE_HELD] = way->held_bytes;
	} else if (way->held_bytes > 0) {
		*held = (struct image_bytes){ way->stash->bytes + way->stash->offset, way->held_bytes };
	}
}

static uint64_t flags_of(const struct session *session)
{
	return (session->wants_verdict ? IMAGE_WANTS_VERDICT : 0u) |
	       (session->has_listed ? IMAGE_HAS_LISTED : 0u) |
	       (session->is_client_lost ? IMAGE_IS_CLIENT_LOST : 0u) |
	       (session->is_backend_gone ? IMAGE_IS_BACKEND_GONE : 0u) |
	       (session->has_verdict ? IMAGE_HAS_VERDICT : 0u) |
	       (session->is_exposed ? IMAGE_IS_EXPOSED : 0u) |
	       (session->has_knocked ? IMAGE_HAS_KNOCKED : 0u) |
	       (session->is_detached ? IMAGE_IS_DETACHED : 0u) |
	       (session->is_resetting ? IMAGE_IS_RESETTING : 0u) | (session->has_turn ? IMAGE_HAS_TURN : 0u);
}

static void extra_image_of(const struct session_extra *extra, struct session_image *image)
{
	const struct session_origin *origin = extra->origin;

	image->numbers[IMAGE_FLAGS] |=
		(extra->attempt ? IMAGE_HAS_CHOICE : 0u) | (extra->wants_header ? IMAGE_WANTS_HEADER : 0u) |
		(extra->is_front ? IMAGE_IS_FRONT : 0u) | (extra->wants_details ? IMAGE_WANTS_DETAILS : 0u) |
		(extra->counted ? IMAGE_IS_COUNTED : 0u) | (origin ? IMAGE_HAS_ORIGIN : 0u);
	if (!origin)
		return;
	image->texts[IMAGE_DESTINATION] =
		(struct image_bytes){ (const char *)&origin->destination, addr_length(&origin->destination) };
	image->texts[IMAGE_TLVS] = (struct image_bytes){ (const char *)origin->tlvs, origin->tlv_length };
}

/* When to give up the dial, and all the others that may follow. */
static uint64_t session_dial_deadline_ms(const struct session *session)
{
	const struct attempt *attempt = session_attempt(session);

	return attempt ? attempt->deadline_ms : session->dial->deadline_ms;
}

/* How long its service may be silent, if that has a word of its own about it. */
static uint64_t session_own_idle_timeout(const struct session *session)
{
	bool has_own = session->service && ((session->extra && session->extra->has_idle_timeout) ||
					    policy_names(session->service->policy, OPTION_IDLE_TIMEOUT));

	return has_own ? session_idle_timeout_ms(session) + 1 : 0;
}

/* What is valid in this state alone. */
static void state_image_of(const struct session *session, struct session_image *image)
{
	uint64_t *numbers = image->numbers;
	const struct session_reply *reply;

	switch ((enum session_state)session->state) {
	case SESSION_REPLY:
		reply = session->reply;
		if (reply->bytes && reply->wish.text) {
			image->list = reply->wish.text;
			numbers[IMAGE_LIST_SENT] = reply->sent;
			break;
		}
		if (reply->bytes) {
			image->texts[IMAGE_REPLY] = (struct image_bytes){ reply->bytes + reply->sent,
									  reply->length - reply->sent };
			break;
		}
		numbers[IMAGE_FLAGS] |= IMAGE_WANTS_LIST | (reply->wish.is_detailed ? IMAGE_IS_DETAILED : 0u);
		image->texts[IMAGE_DIRECTORY] =
			(struct image_bytes){ reply->wish.directory, reply->wish.directory_length };
		break;
	case SESSION_DIAL:
		numbers[IMAGE_PROXY] = session->is_exposed ? PROXY_NONE : session_proxy_version(session);
		numbers[IMAGE_DEADLINE_MS] = session_dial_deadline_ms(session);
		break;
	case SESSION_HANDOVER:
		numbers[IMAGE_DEADLINE_MS] = session_attempt(session) ?
						     session_attempt(session)->deadline_ms :
						     session->handover_deadline_ms;
		break;
	case SESSION_VERDICT:
		numbers[IMAGE_PROXY] = session->is_exposed ? PROXY_NONE : session_proxy_version(session);
		numbers[IMAGE_DEADLINE_MS] =
			session_attempt(session) ? session_attempt(session)->deadline_ms : 0;
		numbers[IMAGE_FLAGS] |= session->chain ? IMAGE_HAS_CHAIN : 0u;
		break;
	case SESSION_RELAY:
		numbers[IMAGE_FLAGS] |= session->chain ? IMAGE_HAS_CHAIN : 0u;
		break;
	case SESSION_REQUEST:
	case SESSION_LOOKUP:
	case SESSION_ENDED:
		break;
	}
}

/* The listener whose service this is, from 1; 0 for none. */
static uint64_t session_listener(const struct session *session)
{
	const struct worker *worker = session->worker;

	for (size_t i = 0; session->is_exposed && i < worker->shared->listeners->count; i++) {
		if (worker->listeners[i].service == session->service)
			return i + 1;
	}
	return 0;
}

bool session_image_of(const struct session *session, struct session_image *image)
{
	uint64_t *numbers = image->numbers;

	*image = (struct session_image){ 0 };
	if (session->state == SESSION_ENDED)
		return false;
	numbers[IMAGE_STATE] = session->state;
	numbers[IMAGE_STARTED_MS] = session->started_ms;
	numbers[IMAGE_CLIENT] = (uint64_t)session->client.fd + 1;
	numbers[IMAGE_BACKEND] = (uint64_t)session->backend.fd + 1;
	numbers[IMAGE_TIMER_MS] = loop_timer_due_ms(&session->worker->loop, &session->timer);
	numbers[IMAGE_FLAGS] = flags_of(session);
	numbers[IMAGE_REFUSAL] = session->refusal;
	numbers[IMAGE_LIMIT] = session->limit;
	numbers[IMAGE_RETRY_SHIFT] = session->retry_shift;
	numbers[IMAGE_LISTENER] = session_listener(session);
	image->texts[IMAGE_PEER] =
		(struct image_bytes){ (const char *)&session->peer, addr_length(&session->peer) };
	if (session->extra)
		extra_image_of(session->extra, image);
	numbers[IMAGE_IDLE_TIMEOUT_MS] = session_own_idle_timeout(session);
	if (session->service)
		service_image_of(session->service, session_target(session), image);
	way_image_of(&session->up, numbers + IMAGE_UP, &image->texts[IMAGE_UP_HELD]);
	way_image_of(&session->down, numbers + IMAGE_DOWN, &image->texts[IMAGE_DOWN_HELD]);
	state_image_of(session, image);
	return true;
}

/* What waits is looked at anew: a read or a write too many tells what the events did. */
static bool way_restore(struct relay_way *way, struct relay_pool *pool, const uint64_t *numbers,
			const struct image_bytes *held)
{
	uint64_t flags = numbers[WAY_FLAGS];
	bool is_whole = true;

	relay_way_init(way, flags & WAY_IS_TCP);
	way->is_bulk = (flags & WAY_IS_BULK) != 0;
	way->has_hung_up = (flags & WAY_HAS_HUNG_UP) != 0;
	way->has_urgent = (flags & WAY_HAS_URGENT) != 0;
	way->is_source_lost = (flags & WAY_IS_SOURCE_LOST) != 0;
	way->is_sink_reset = (flags & WAY_IS_SINK_RESET) != 0;
	way->eof_seen = (flags & WAY_EOF_SEEN) != 0;
	way->eof_sent = (flags & WAY_EOF_SENT) != 0;
	way->is_broken = (flags & WAY_IS_BROKEN) != 0;
	relay_way_skip(way, numbers[WAY_SKIP]);
	if (numbers[WAY_PIPE_HELD] > 0)
		is_whole = relay_way_hold_pipe_take(way, pool, (int)numbers[WAY_PIPE_READ] - 1,
						    (int)numbers[WAY_PIPE_WRITE] - 1,
						    (uint32_t)numbers[WAY_PIPE_HELD]);
	else
		is_whole = relay_way_preload(way, held->bytes, held->length);
	way->bytes = numbers[WAY_BYTES];
	return is_whole;
}

static bool session_restore_service(struct session *session, const struct session_image *image)
{
	struct worker *worker = session->worker;
	uint64_t listener = image->numbers[IMAGE_LISTENER];

	if (listener > 0 && listener <= worker->shared->listeners->count &&
	    worker->listeners[listener - 1].service) {
		session->service = worker->listeners[listener - 1].service;
		service_ref(session->service);
	} else if (image->numbers[IMAGE_SERVICE] > 0) {
		session->service = catalog_restored(&worker->catalog, image);
		return session->service != NULL;
	}
	return true;
}

static void session_restore_flags(struct session *session, uint64_t flags)
{
	session->wants_verdict = (flags & IMAGE_WANTS_VERDICT) != 0;
	session->has_listed = (flags & IMAGE_HAS_LISTED) != 0;
	session->is_client_lost = (flags & IMAGE_IS_CLIENT_LOST) != 0;
	session->is_backend_gone = (flags & IMAGE_IS_BACKEND_GONE) != 0;
	session->has_verdict = (flags & IMAGE_HAS_VERDICT) != 0;
	session->is_exposed = (flags & IMAGE_IS_EXPOSED) != 0;
	session->has_knocked = (flags & IMAGE_HAS_KNOCKED) != 0;
	session->is_detached = (flags & IMAGE_IS_DETACHED) != 0;
	session->is_resetting = (flags & IMAGE_IS_RESETTING) != 0;
}

static union addr image_address(const struct image_bytes *bytes)
{
	struct sockaddr_storage storage = { .ss_family = AF_UNIX };
	socklen_t length = (socklen_t)MIN(bytes->length, sizeof(storage));
	union addr address;

	if (length > 0)
		memcpy(&storage, bytes->bytes, length);
	addr_from_sockaddr(&address, (const struct sockaddr *)&storage, length);
	return address;
}

static bool session_restore_origin(struct session_extra *extra, const struct session_image *image)
{
	const struct image_bytes *tlvs = &image->texts[IMAGE_TLVS];

	extra->origin = malloc(sizeof(*extra->origin) + tlvs->length);
	if (!extra->origin)
		return false;
	extra->origin->destination = image_address(&image->texts[IMAGE_DESTINATION]);
	extra->origin->tlv_length = tlvs->length;
	if (tlvs->length > 0)
		memcpy(extra->origin->tlvs, tlvs->bytes, tlvs->length);
	return true;
}

/* What only some sessions have; but the attempt, which comes with the state. */
static bool session_restore_extra(struct session *session, const struct session_image *image)
{
	const uint64_t flags = image->numbers[IMAGE_FLAGS], idle_ms = image->numbers[IMAGE_IDLE_TIMEOUT_MS];
	struct session_extra *extra;

	if (!(flags & (IMAGE_WANTS_HEADER | IMAGE_IS_FRONT | IMAGE_HAS_ORIGIN | IMAGE_WANTS_DETAILS |
		       IMAGE_IS_COUNTED)) &&
	    idle_ms == 0 && image->numbers[IMAGE_PROXY] == PROXY_NONE)
		return true;
	extra = session_make_extra(session);
	if (!extra)
		return false;
	extra->wants_header = (flags & IMAGE_WANTS_HEADER) != 0;
	extra->is_front = (flags & IMAGE_IS_FRONT) != 0;
	extra->wants_details = (flags & IMAGE_WANTS_DETAILS) != 0;
	extra->proxy = (enum proxy_version)image->numbers[IMAGE_PROXY];
	extra->has_idle_timeout = idle_ms > 0;
	extra->idle_timeout_ms = idle_ms > 0 ? idle_ms - 1 : 0;
	if (flags & IMAGE_IS_COUNTED) {
		extra->counted = session_group(session);
		if (!extra->counted)
			return false;
		backends_group_begin(extra->counted, 0);
	}
	return !(flags & IMAGE_HAS_ORIGIN) || session_restore_origin(extra, image);
}

static bool session_restore_reply(struct session *session, const struct session_image *image)
{
	const struct image_bytes *bytes = &image->texts[IMAGE_REPLY],
				 *directory = &image->texts[IMAGE_DIRECTORY];
	struct worker *worker = session->worker;

	session_enter(session, SESSION_REPLY);
	if (image->numbers[IMAGE_LIST_TEXT] > 0) {
		if (!image->list)
			return false;
		session->reply = reply_new(session, "", 0);
		if (!session->reply)
			return false;
		lister_text_ref(image->list);
		session->reply->wish.text = image->list;
		session->reply->bytes = image->list->bytes;
		session->reply->length = image->list->length;
		session->reply->sent = MIN(image->numbers[IMAGE_LIST_SENT], image->list->length);
		return true;
	}
	if (!(image->numbers[IMAGE_FLAGS] & IMAGE_WANTS_LIST)) {
		session->reply = reply_new(session, bytes->bytes, bytes->length);
		if (!session->reply)
			return false;
		session->reply->bytes = session->reply->storage;
		session->reply->length = bytes->length;
		return true;
	}
	session->reply = reply_new_list(session, directory->bytes, directory->length,
					image->numbers[IMAGE_FLAGS] & IMAGE_IS_DETAILED);
	if (!session->reply)
		return false;
	session->reply->is_list = limits_begin_list(&worker->shared->limits) == LIMIT_NONE;
	lister_submit(worker->shared->lister, &session->reply->wish);
	return true;
}

/* A receiver may be new among the targets: what is handed over has to begin behind the line. */
static bool session_restore_line(struct session *session)
{
	size_t length = session->up.skip_bytes;

	if (!session->service->has_handover || length == 0)
		return true;
	relay_way_skip(&session->up, 0);
	return session_consume(session, length);
}

/* Among several targets it is chosen anew, as the directory has them now. False: there is no choice any more. */
static bool session_restore_choice(struct session *session, uint64_t deadline_ms)
{
	struct worker *worker = session->worker;
	struct catalog_problem problem;
	struct service *service;
	int connection, r;

	r = catalog_open(&worker->catalog, session->service->path, session->service->path_length,
			 &session->peer, &service, &connection, &problem);
	cleanup_close(&connection);
	if (r < 0 || !service->has_choice) {
		service_unref(service);
		return false;
	}
	service_unref(session->service);
	session->service = service;
	session_leave_verdict(session);
	session_keep_client(session);
	if (session_restore_line(session))
		session_begin_attempt(session, deadline_ms);
	else
		session_over(session, SESSION_CLIENT_RESET);
	return true;
}

/* It counts for the target that it reached. */
static bool session_restore_reached(struct session *session)
{
	struct session_extra *extra = session_make_extra(session);

	if (!extra)
		return false;
	extra->attempt = malloc(sizeof(*extra->attempt));
	if (!extra->attempt)
		return false;
	attempt_restore(extra->attempt, &session->worker->shared->backends, session->service);
	return true;
}

/* Whoever has nothing in hand of a receiver may as well begin again. */
static bool session_may_choose(const struct session *session, uint64_t flags)
{
	return (flags & IMAGE_HAS_CHOICE) && !session->is_resetting && (flags & IMAGE_HAS_TURN) == 0 &&
	       session->backend.fd < 0;
}

/* A dial is begun anew, with the time that it had left; the knock as well, by the hand-over that it is for. */
static void session_restore_dial(struct session *session, uint64_t deadline_ms)
{
	/* What DNS had is not in the image; its name is no host. */
	switch (session->service->targets->is_srv ? SERVICE_SRV : session->service->kind) {
	case SERVICE_SOCKET:
	case SERVICE_UNIX:
		session_retry_unix(session, deadline_ms);
		break;
	case SERVICE_TCP:
	case SERVICE_KAISO:
	case SERVICE_MOUNT:
		session_dial_host(session, deadline_ms);
		break;
	case SERVICE_PASSFD:
		session->handover_deadline_ms = deadline_ms;
		session_enter(session, SESSION_HANDOVER);
		break;
	case SERVICE_SRV: /* its description is gone, and with it the name */
	case SERVICE_UNKNOWN:
		session_refuse(session, SESSION_UNAVAILABLE);
		break;
	}
}

static bool session_restore_state(struct session *session, const struct session_image *image)
{
	const uint64_t *numbers = image->numbers;

	switch ((enum session_state)numbers[IMAGE_STATE]) {
	case SESSION_REPLY:
		return session_restore_reply(session, image);
	case SESSION_DIAL:
		if ((numbers[IMAGE_FLAGS] & IMAGE_HAS_CHOICE) &&
		    session_restore_choice(session, numbers[IMAGE_DEADLINE_MS]))
			return true;
		session_restore_dial(session, numbers[IMAGE_DEADLINE_MS]);
		return true;
	case SESSION_HANDOVER:
		if (session_may_choose(session, numbers[IMAGE_FLAGS]) &&
		    session_restore_choice(session, numbers[IMAGE_DEADLINE_MS]))
			return true;
		session->handover_deadline_ms = numbers[IMAGE_DEADLINE_MS];
		if (numbers[IMAGE_FLAGS] & IMAGE_HAS_TURN)
			session_take_turn(session);
		session_enter(session, SESSION_HANDOVER);
		return true;
	case SESSION_VERDICT:
	case SESSION_RELAY:
		session->chain = NULL;
		if (numbers[IMAGE_STATE] == SESSION_VERDICT && (numbers[IMAGE_FLAGS] & IMAGE_HAS_CHOICE) &&
		    session_restore_choice(session, numbers[IMAGE_DEADLINE_MS]))
			return true;
		if (numbers[IMAGE_FLAGS] & IMAGE_HAS_CHAIN)
			session->chain = session_enter_chain(session);
		session_enter(session, (enum session_state)numbers[IMAGE_STATE]);
		return !(numbers[IMAGE_FLAGS] & IMAGE_HAS_CHOICE) || session_restore_reached(session);
	case SESSION_REQUEST:
	case SESSION_LOOKUP:
	case SESSION_ENDED:
		break;
	}
	return true;
}

static int image_fd(const struct session_image *image, enum image_number number)
{
	return (int)image->numbers[number] - 1;
}

/* Without the session that they were of: what breaks off here does not look like an end. */
static void image_close(const struct session_image *image)
{
	int fds[IMAGE_DESCRIPTORS];
	size_t count = session_image_descriptors(image, fds);

	socket_reset_on_close(image_fd(image, IMAGE_CLIENT));
	socket_reset_on_close(image_fd(image, IMAGE_BACKEND));
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
}

int session_restore_take(struct worker *worker, const struct session_image *image)
{
	const uint64_t *numbers = image->numbers;
	const union addr peer = image_address(&image->texts[IMAGE_PEER]);
	struct session *session;
	bool is_whole;

	session = session_alloc(worker, image_fd(image, IMAGE_CLIENT), &peer);
	if (!session) {
		image_close(image);
		return -ENOMEM;
	}
	session->backend.fd = image_fd(image, IMAGE_BACKEND);
	session->started_ms = numbers[IMAGE_STARTED_MS] & SESSION_STARTED_MASK;
	session->refusal = numbers[IMAGE_REFUSAL] & 31;
	session->limit = numbers[IMAGE_LIMIT] & 7;
	session->retry_shift = numbers[IMAGE_RETRY_SHIFT] & 7;
	session_restore_flags(session, numbers[IMAGE_FLAGS]);
	is_whole = way_restore(&session->up, &worker->pool, numbers + IMAGE_UP, &image->texts[IMAGE_UP_HELD]);
	is_whole &= way_restore(&session->down, &worker->pool, numbers + IMAGE_DOWN,
				&image->texts[IMAGE_DOWN_HELD]);
	is_whole = is_whole && session_restore_service(session, image) &&
		   session_restore_extra(session, image) && session_restore_state(session, image);
	limits_restore_session(&worker->shared->limits, session_counted_peer(session));
	/* What is dialled is begun anew. */
	if (is_whole && numbers[IMAGE_TIMER_MS] > 0 && session->state != SESSION_ENDED &&
	    session->state != SESSION_DIAL)
		is_whole = loop_timer_set(&worker->loop, &session->timer, numbers[IMAGE_TIMER_MS]) == 0;
	if (!is_whole) {
		socket_reset_on_close(session->client.fd);
		socket_reset_on_close(session->backend.fd);
		session_end(session, SESSION_NO_MEMORY);
		return -ENOMEM;
	}
	return 0;
}

/* The time that it has been quiet goes on, unless bytes have come. */
void session_go_on(struct session *session)
{
	struct loop *loop = &session->worker->loop;
	uint64_t due_ms = loop_timer_due_ms(loop, &session->timer);
	uint64_t bytes = session->up.bytes + session->down.bytes;
	uint32_t held = session->up.held_bytes + session->down.held_bytes;
	bool was_relay = session->state == SESSION_RELAY;

	session_run(session);
	if (was_relay && session->state == SESSION_RELAY && due_ms > 0 &&
	    bytes == session->up.bytes + session->down.bytes &&
	    held == session->up.held_bytes + session->down.held_bytes)
		session_set_deadline_at(session, due_ms);
}
