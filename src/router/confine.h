/*
 * Giving up, once a router has what it needs, what it does not need any more: base/sandbox.h, in order and with words
 * for people.
 */
#ifndef KAISO_ROUTER_CONFINE_H
#define KAISO_ROUTER_CONFINE_H

#include "net/listen.h"
#include "router/options.h"

/*
 * Becomes the user that was asked for, and, unless that was turned off, confines this process. Before any thread is
 * made. What the kernel lacks is a warning in the log; a user that cannot be had is an error. 0 or a negative errno,
 * told in the log.
 */
int confine(const struct router_options *options, const struct listen_set *listeners,
	    const struct listen_set *control);

#endif
