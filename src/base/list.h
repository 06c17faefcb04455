/*
 * A circular doubly linked list whose links live in the members.
 *
 * An empty list and a member that is in no list both point at themselves, so
 * list_remove() may be called twice. Nothing here allocates.
 */
#ifndef KAISO_BASE_LIST_H
#define KAISO_BASE_LIST_H

#include <stdbool.h>

struct list {
	struct list *next;
	struct list *previous;
};

static inline void list_init(struct list *list)
{
	list->next = list;
	list->previous = list;
}

static inline bool list_is_empty(const struct list *list)
{
	return list->next == list;
}

/* Adds a member, which must be in no list, at the end. */
static inline void list_append(struct list *list, struct list *member)
{
	member->previous = list->previous;
	member->next = list;
	list->previous->next = member;
	list->previous = member;
}

static inline void list_remove(struct list *member)
{
	member->previous->next = member->next;
	member->next->previous = member->previous;
	list_init(member);
}

/* Moves all members of source to the end of list. */
static inline void list_splice(struct list *list, struct list *source)
{
	if (list_is_empty(source))
		return;
	source->next->previous = list->previous;
	list->previous->next = source->next;
	source->previous->next = list;
	list->previous = source->previous;
	list_init(source);
}

#endif
