/*
 * One at a time, by name, across all threads: for receivers that pair a connection with the
 * knock that follows it and would mix up two clients at once.
 */
#ifndef KAISO_ROUTER_TURNS_H
#define KAISO_ROUTER_TURNS_H

#include <pthread.h>
#include <stdbool.h>

#include "base/list.h"

struct turns {
	pthread_mutex_t mutex;
	struct list taken;
};

/* In the storage of whoever takes it. */
struct turn {
	struct list link;
	const char *name; /* terminated; borrowed while the turn is taken */
};

void turns_init(struct turns *turns);
void turns_deinit(struct turns *turns);

/* False: somebody has the turn of that name; try again later. Thread safe, does not wait. */
bool turns_take(struct turns *turns, struct turn *turn, const char *name);
void turns_leave(struct turns *turns, struct turn *turn);

#endif
