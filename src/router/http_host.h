/*
 * Whose page a browser thinks it is asking for. A page from elsewhere may have its own name lead to this machine (DNS
 * rebinding) and would then read what is served here; but its requests still name it, in Host (RFC 9110, section 7.2).
 */
#ifndef KAISO_ROUTER_HTTP_HOST_H
#define KAISO_ROUTER_HTTP_HOST_H

#include <stdbool.h>

/*
 * Whether the value of a Host header names this server: a numeric address, which no name can be made to lead to,
 * "localhost", which browsers resolve themselves, or `name`, the host that was written in --http (NULL for none); each
 * perhaps with a port.
 */
bool http_host_is_ours(const char *host, const char *name);

#endif
