/*
 * Numbers as people read them at a glance: in at most four characters, but for ages, which take six. Of bytes K is 1024,
 * of others 1000.
 */
#ifndef KAISO_BASE_QUANTITY_H
#define KAISO_BASE_QUANTITY_H

#include <stdint.h>

/* All return text. */
#define QUANTITY_SIZE 24
const char *quantity_bytes(double bytes, char text[static QUANTITY_SIZE]);
const char *quantity_count(uint64_t count, char text[static QUANTITY_SIZE]);
const char *quantity_age(double seconds, char text[static QUANTITY_SIZE]);

#endif
