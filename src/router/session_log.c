/*
 * The session's line is written whatever happened. A warning about a service is for the operator, who
 * needs it once and not for every client that comes by: those are limited.
 */
#include "router/session_log.h"

#include <string.h>

#include "base/log.h"
#include "router/worker.h"

/* The bytes of a way that were the peer's own: what was preloaded counts from below zero. */
static uint64_t way_bytes(const struct relay_way *way)
{
	return (int64_t)way->bytes > 0 ? way->bytes : 0;
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
		log_add_string(&line, "kind", service_kind_name(service->kind));
		log_add_string(&line, "target", service->target);
	}
	log_add_number(&line, "sent", way_bytes(&session->up));
	log_add_number(&line, "received", way_bytes(&session->down));
	log_add_ms(&line, "duration", session->worker->loop.now_ms - session->started_ms);
	if (session->state == SESSION_RELAY || reason == SESSION_HANDED_OVER)
		log_add_string(&line, "mode", reason == SESSION_HANDED_OVER ? "handover" : "relay");
	log_add_string(&line, "reason", session_reason_name(reason));
	if (reason == SESSION_LIMIT)
		log_add_string(&line, "limit",
			       limit_name(session->limit ? (enum limit)session->limit : LIMIT_DESCRIPTORS));
	log_end(&line);
}

void session_log_invalid(const struct session *session, const struct description_error *error)
{
	static struct log_limiter limiter;
	struct log_line line;
	uint32_t suppressed;

	if (!session->service || !log_limiter_pass(&limiter, session->worker->loop.now_ms, &suppressed))
		return;
	log_begin(&line, LOG_LEVEL_WARNING, "invalid description");
	log_add_string(&line, "file", session->service->socket_path);
	if (error->line > 0)
		log_add_number(&line, "line", error->line);
	log_add_string(&line, "reason", error->reason);
	if (suppressed > 0)
		log_add_number(&line, "suppressed", suppressed);
	log_end(&line);
}

/* A service that is there but does not answer: say why, the session's own line has only a word for it. */
void session_log_failure(const struct session *session, int error)
{
	static struct log_limiter limiter;
	struct log_line line;
	uint32_t suppressed;

	if (!session->service || !log_limiter_pass(&limiter, session->worker->loop.now_ms, &suppressed))
		return;
	log_begin(&line, LOG_LEVEL_WARNING, "cannot connect to the service");
	log_add_bytes(&line, "service", session->service->path, session->service->path_length);
	log_add_string(&line, "target", session->service->target);
	log_add_string(&line, "error", strerror(-error));
	if (suppressed > 0)
		log_add_number(&line, "suppressed", suppressed);
	log_end(&line);
}
