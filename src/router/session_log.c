/*
 * The session's line is written whatever happened. A warning about a service is for the operator, who
 * needs it once and not for every client that comes by: those are limited.
 */
#include "router/session_log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/hint.h"
#include "base/log.h"
#include "base/macros.h"
#include "router/worker.h"

#define FAILURE_SIZE (HINT_SIZE + 256)
#define DENIED_TEXT                                                              \
	": the router's user or group must be able to write to the socket, and " \
	"to enter the directories on the way to it"

uint64_t session_age_ms(const struct session *session)
{
	return (session->worker->loop.now_ms - session->started_ms) & SESSION_STARTED_MASK;
}

const char *session_id(const struct session *session, char text[static SESSION_ID_SIZE])
{
	snprintf(text, SESSION_ID_SIZE, "%d-%" PRIx64, session->client.fd,
		 (uint64_t)session->started_ms & UINT64_C(0xffffffff));
	return text;
}

const char *session_state_name(enum session_state state)
{
	switch (state) {
	case SESSION_REQUEST:
		return "request";
	case SESSION_REPLY:
		return "reply";
	case SESSION_LOOKUP:
		return "lookup";
	case SESSION_DIAL:
		return "dial";
	case SESSION_VERDICT:
		return "verdict";
	case SESSION_HANDOVER:
		return "handover";
	case SESSION_RELAY:
		return "relay";
	case SESSION_ENDED:
		break;
	}
	return "ended";
}

void session_log_end(const struct session *session, enum session_reason reason)
{
	const struct service *service = session->service;
	char peer[ADDR_TEXT_SIZE];
	struct log_line line;

	log_begin(&line, LOG_LEVEL_INFO, "session");
	log_add_string(&line, "client", addr_format(&session->peer, peer));
	if (service) {
		log_add_bytes(&line, "service", service->path, service->path_length);
		log_add_string(&line, "kind", service_kind_name(session_target(session)->kind));
		log_add_string(&line, "target", session_target(session)->text);
	}
	log_add_number(&line, "sent", relay_way_payload(&session->up));
	log_add_number(&line, "received", relay_way_payload(&session->down));
	log_add_ms(&line, "duration", session_age_ms(session));
	if (session->state == SESSION_RELAY || reason == SESSION_HANDED_OVER)
		log_add_string(&line, "mode", reason == SESSION_HANDED_OVER ? "handover" : "relay");
	log_add_string(&line, "reason", session_reason_name(reason));
	if (reason == SESSION_LIMIT && session->state != SESSION_VERDICT) /* else it is the other router's */
		log_add_string(&line, "limit",
			       limit_name(session->limit ? (enum limit)session->limit : LIMIT_DESCRIPTORS));
	log_end(&line);
}

/* In words of the one who has to mend it. A file that is not there is not what is missing behind a HOST. */
static const char *failure_text(const struct target *target, int error, char text[static FAILURE_SIZE])
{
	bool is_denied = error == -EACCES && !target->host[0];
	char hint[HINT_SIZE];

	if (error == -ENOENT && target->is_srv)
		return "DNS has no host for it, or says that it is not to be had";
	if (error == -ENOENT && target->host[0])
		return "no such host, or it has no address";
	hint_for(-error, target->host[0] ? NULL : target->socket_path, W_OK, hint);
	snprintf(text, FAILURE_SIZE, "%s%s%s%s", strerror(-error), is_denied ? DENIED_TEXT : "",
		 *hint ? "; " : "", hint);
	return text;
}

/* Each service has its own share of the log, or nearly so: a client that asks for one broken thing again
 * and again does not keep the others out. Null: not now. */
static bool warning_begin(struct log_line *line, const struct session *session, const char *message)
{
	static struct log_limiter limiters[64];
	const struct service *service = session->service;
	uint32_t suppressed;

	if (!service || !log_limiter_pass(&limiters[service->hash % ARRAY_SIZE(limiters)],
					  session->worker->loop.now_ms, &suppressed))
		return false;
	log_begin(line, LOG_LEVEL_WARNING, message);
	if (suppressed > 0)
		log_add_number(line, "suppressed", suppressed);
	return true;
}

void session_log_invalid(const struct session *session, const struct catalog_problem *problem)
{
	const struct description_error *error = &problem->error;
	struct log_line line;

	if (!warning_begin(&line, session, "invalid description"))
		return;
	log_add_string(&line, "file",
		       problem->file[0] ? problem->file : session->service->targets->socket_path);
	if (error->line > 0)
		log_add_number(&line, "line", error->line);
	log_add_string(&line, "reason", error->reason);
	log_end(&line);
}

void session_log_failure(const struct session *session, int error)
{
	char text[FAILURE_SIZE];
	struct log_line line;

	if (!warning_begin(&line, session,
			   session->service && session->service->has_choice ?
				   "cannot connect to a target of the service" :
				   "cannot connect to the service"))
		return;
	log_add_bytes(&line, "service", session->service->path, session->service->path_length);
	log_add_string(&line, "target", session_target(session)->text);
	log_add_string(&line, "error", failure_text(session_target(session), error, text));
	log_end(&line);
}

void session_log_header(const struct session *session, const char *reason)
{
	static struct log_limiter limiter;
	char peer[ADDR_TEXT_SIZE];
	struct log_line line;
	uint32_t suppressed;

	if (!log_limiter_pass(&limiter, session->worker->loop.now_ms, &suppressed))
		return;
	log_begin(&line, LOG_LEVEL_WARNING, "no header of the PROXY protocol");
	log_add_string(&line, "client", addr_format(&session->peer, peer));
	log_add_string(&line, "reason", reason);
	if (suppressed > 0)
		log_add_number(&line, "suppressed", suppressed);
	log_end(&line);
}

void session_log_list_failure(const struct session *session, int error)
{
	struct log_line line;

	if (session_reason_from_errno(error) == SESSION_NOT_FOUND ||
	    !warning_begin(&line, session, "cannot list"))
		return;
	log_add_string(&line, "directory", session->service->targets->socket_path);
	log_add_string(&line, "error",
		       error == -ENOBUFS ? "too many bytes of lists are waiting for their clients" :
					   strerror(-error));
	log_end(&line);
}
