/*
 * What the log says of sessions: one line when each ends, and a warning where a service is at fault.
 */
#ifndef KAISO_ROUTER_SESSION_LOG_H
#define KAISO_ROUTER_SESSION_LOG_H

#include "router/catalog.h"
#include "router/session.h"

/* The session's one line. To be called while its state is still the one that it ends in. */
void session_log_end(const struct session *session, enum session_reason reason);

/* The description of session->service is wrong. Repeats are held back and counted. */
void session_log_invalid(const struct session *session, const struct catalog_problem *problem);

/* session->service cannot be reached; error is a negative errno. Repeats are held back and counted. */
void session_log_failure(const struct session *session, int error);

/* A front end did not say whose connection it is, or not in a way that can be believed. The same. */
void session_log_header(const struct session *session, const char *reason);

/* The list of the directory that session->service names cannot be made. That it is not there is no
 * failure. */
void session_log_list_failure(const struct session *session, int error);

#endif
