/*
 * The status page, made of http_page.html by the build (tools/embed-page).
 */
#ifndef KAISO_ROUTER_HTTP_PAGE_H
#define KAISO_ROUTER_HTTP_PAGE_H

#include <stddef.h>

extern const char http_page[];
extern const size_t http_page_length;

/* Its Content-Security-Policy: its own style and script, by their hashes, and requests to where it is from. */
extern const char http_page_policy[];

#endif
