/*
 * The role of `kaiso inject`: connections of the program to a kaiso begin with a service's line.
 */
#ifndef KAISO_WRAP_INJECT_H
#define KAISO_WRAP_INJECT_H

#include "base/list.h"
#include "wrap/routes.h"
#include "wrap/wrapper.h"

/* The routes on their way to the preload library, in the form of routes_format(). */
#define INJECT_VARIABLE "KAISO_INJECT"

struct inject {
	struct wrap_role role;
	struct routes routes;
	struct list waits;   /* connections that a task waits for, in the supervisor */
	struct list unheard; /* begun, but the task had been interrupted when it was told */
};

/* Without routes; the caller adds those. Storage is the caller's. */
void inject_init(struct inject *inject);
void inject_deinit(struct inject *inject);

#endif
