/*
 * The control socket: a UNIX socket on which the operator asks what the router is doing, and tells it what to do. Its
 * mode (0600) is the whole of the access control: who may connect may do everything here.
 *
 * A client sends lines and gets one line of JSON for each, in their order:
 *
 *   status       the numbers: report_to_json()
 *   sessions     the same with up to REPORT_SESSIONS_MAX open sessions of each thread
 *   close ID     ends that session: {"closed":true}
 *   drain        as SIGTERM: {"draining":true}
 *   upgrade      as SIGUSR2: the connection ends with the old program, or {"error":"..."} says why it goes on
 *
 * What cannot be done is {"error":"..."}. At most CONTROL_CLIENTS_MAX at a time; one that is silent, or takes nothing,
 * for CONTROL_SILENCE_MS is closed.
 *
 * Lives on the first worker's thread.
 */
#ifndef KAISO_ROUTER_CONTROL_H
#define KAISO_ROUTER_CONTROL_H

#include "net/listen.h"
#include "router/report.h"

#define CONTROL_CLIENTS_MAX 16
#define CONTROL_LINE_MAX 128
#define CONTROL_SILENCE_MS 60000

struct control;

/* What the server does for it. */
struct control_actions {
	void (*drain)(void *server);
	void (*upgrade)(
		void *server); /* answered by control_upgrade_refused(), or by the end of the program */
	void *server;
};

/* The listener is borrowed. NULL when out of memory, or when it cannot be watched. */
struct control *control_new(const struct report_source *source, const struct listener *listener,
			    const struct control_actions *actions);

void control_upgrade_refused(struct control *control, const char *reason);

/* No thread runs any more, and no report is under way: see worker_do_jobs(). NULL is allowed. */
void control_free(struct control *control);

/*
 * The socket of a router that is given no path: $RUNTIME_DIRECTORY/control, else $XDG_RUNTIME_DIR/kaiso/control; NULL
 * when neither is set, or its directory cannot be made. Of malloc(3).
 */
char *control_default_path(void);

/* Listens there, with mode 0600. 0, or a negative errno with why in reason: -EADDRINUSE where another router does. */
int control_listen(struct listen_set *set, const char *path, char *reason, size_t reason_size);

#endif
