/*
 * --http: what the router is doing, for browsers and for Prometheus.
 *
 *   /              the status page: http_page.html, whole in itself
 *   /status.json   report_to_json(); /status.json?sessions tells the sessions one by one
 *   /metrics       metrics_of_report()
 *   /healthz       200 "ok"; 503 "draining" once the router was told to end
 *
 * Only GET and HEAD, and only by a name that is this server's (http_host.h). There is no access control and nothing
 * that changes anything: who must not see which clients use which services must not reach the address.
 *
 * At most HTTP_CONNECTIONS_MAX at a time; one on which nothing moves for HTTP_SILENCE_S is closed. Lives on the first
 * worker's thread, beside its sessions.
 */
#ifndef KAISO_ROUTER_HTTP_H
#define KAISO_ROUTER_HTTP_H

#include "net/listen.h"
#include "router/report.h"

#define HTTP_CONNECTIONS_MAX 32
#define HTTP_CONNECTIONS_PER_ADDRESS_MAX 24
#define HTTP_MEMORY_MAX 16384 /* of a connection: more than a request's headers need */
#define HTTP_SILENCE_S 10
#define HTTP_PAUSE_MS 1000
#define HTTP_DESCRIPTORS_MAX (HTTP_CONNECTIONS_MAX + 4) /* besides what it listens on */

struct http;

/*
 * Listens on what the word names (ADDR:PORT, NAME:PORT, :PORT), and warns in the log when others than this host can
 * reach it. 0, or a negative errno with why in reason.
 */
int http_listen(struct listen_set *set, const char *word, char *reason, size_t reason_size);

/* listeners and word, the one of http_listen(), are borrowed. NULL, told in the log, when it cannot be had. */
struct http *http_new(const struct report_source *source, const struct listen_set *listeners,
		      const char *word);

/*
 * Takes no new connection, and calls on_paused once, not from within, when every request that has come is answered, or
 * after HTTP_PAUSE_MS. Whoever connects meanwhile waits for http_resume(), or for the program behind an upgrade.
 */
void http_pause(struct http *http, void (*on_paused)(void *context), void *context);
void http_resume(struct http *http);

/* For the end: from now on nothing is read, so that no request can begin a report while the last ones come in. NULL is
 * allowed. */
void http_stop(struct http *http);

/* After http_stop(). No thread runs any more, and no report is under way: see worker_do_jobs(). NULL is allowed. */
void http_free(struct http *http);

#endif
