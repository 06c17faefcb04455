/*
 * What is left to say: which library this is, and what its errors mean.
 */
#include "lib/kaiso.h"

#include <errno.h>
#include <string.h>

const char *kaiso_version(void)
{
	return KAISO_VERSION;
}

const char *kaiso_strerror(int error)
{
	switch (error < 0 ? -error : error) {
	case ENOENT:
		return "no such service";
	case EACCES:
		return "permission denied";
	case EHOSTDOWN:
		return "nothing answers behind this service";
	case ETIMEDOUT:
		return "no answer in time";
	case EBUSY:
		return "too many clients at the moment";
	case EBADMSG:
		return "the service is described wrongly";
	case ELOOP:
		return "it leads back to itself";
	case EREMOTEIO:
		return "the router gives an unknown reason";
	case EPROTO:
		return "not a kaiso router";
	case ECONNRESET:
		return "the router ended the connection";
	case ECONNREFUSED:
		return "no router listens there";
	case EADDRNOTAVAIL:
		return "host name not known";
	default:
		/* A number of the system, of which there are many. */
		return strerror(error < 0 ? -error : error);
	}
}
