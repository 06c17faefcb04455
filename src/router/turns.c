/*
 * A list of the names that are taken: as long as there are hand-overs with a knock under way, so
 * a handful. Whoever finds a name taken comes back by a timer of its own.
 */
#include "router/turns.h"

#include <string.h>

#include "base/macros.h"

void turns_init(struct turns *turns)
{
	pthread_mutex_init(&turns->mutex, NULL);
	list_init(&turns->taken);
}

void turns_deinit(struct turns *turns)
{
	pthread_mutex_destroy(&turns->mutex);
}

static bool turns_is_taken(const struct turns *turns, const char *name)
{
	for (const struct list *link = turns->taken.next; link != &turns->taken; link = link->next) {
		if (strcmp(CONTAINER_OF(link, struct turn, link)->name, name) == 0)
			return true;
	}
	return false;
}

bool turns_take(struct turns *turns, struct turn *turn, const char *name)
{
	bool is_free;

	pthread_mutex_lock(&turns->mutex);
	is_free = !turns_is_taken(turns, name);
	if (is_free) {
		turn->name = name;
		list_append(&turns->taken, &turn->link);
	}
	pthread_mutex_unlock(&turns->mutex);
	return is_free;
}

void turns_leave(struct turns *turns, struct turn *turn)
{
	pthread_mutex_lock(&turns->mutex);
	list_remove(&turn->link);
	pthread_mutex_unlock(&turns->mutex);
}
