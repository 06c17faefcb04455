/*
 * Theory of operation: most services are sockets, so the socket is tried before
 * anything is asked about it: connect() by path checks and uses in one
 * system call. Only when that is refused is the path opened (O_PATH) and looked
 * at; what was looked at is then connected or read through that very descriptor, so nothing
 * can be put in its place in between.
 *
 * A description that was read is remembered with its file's identity (device, inode, size and both
 * times). One stat() tells whether it still holds. A file changed twice within one
 * tick of the clock could look unchanged, so a stamp counts only when the file
 * had been at rest for a while as it was read.
 *
 * Remembered services without a session are kept in order of their last use, and the oldest forgotten.
 */
#include "router/catalog.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/hash.h"
#include "base/macros.h"
#include "net/dial.h"
#include "proto/path.h"
#include "router/description_file.h"
#include "router/options.h"
#include "router/session_image.h"

#define SETTLED_AFTER_SECONDS 2

int catalog_init(struct catalog *catalog, struct loop *loop, const char *services)
{
	*catalog = (struct catalog){ .loop = loop, .services = services };
	list_init(&catalog->unused);
	catalog->buffer = malloc(DESCRIPTION_FILE_BUFFER);
	return catalog->buffer ? 0 : -ENOMEM;
}

uint64_t catalog_path_hash(const char *path, size_t length)
{
	return hash_bytes(path, length);
}

/* ---- services in memory --------------------------------------------------------------------------- */

static void service_free(struct loop_task *task)
{
	free(CONTAINER_OF(task, struct service, free_task));
}

static void service_discard(struct service *service)
{
	receiver_deinit(&service->receiver);
	loop_defer(service->catalog->loop, &service->free_task);
}

static struct service **catalog_bucket(struct catalog *catalog, uint64_t hash)
{
	return &catalog->buckets[hash % CATALOG_BUCKETS];
}

/* Takes the service out of the memory; sessions that have it keep it. */
static void catalog_forget(struct catalog *catalog, struct service *service)
{
	struct service **link = catalog_bucket(catalog, service->hash);

	while (*link != service)
		link = &(*link)->next;
	*link = service->next;
	service->is_remembered = false;
	if (service->references > 0)
		return;
	list_remove(&service->unused);
	catalog->unused_count--;
	service_discard(service);
}

static void catalog_remember(struct catalog *catalog, struct service *service)
{
	struct service **bucket = catalog_bucket(catalog, service->hash);

	service->next = *bucket;
	*bucket = service;
	service->is_remembered = true;
}

static struct service *catalog_recall(struct catalog *catalog, uint64_t hash, const char *path, size_t length)
{
	struct service *service = *catalog_bucket(catalog, hash);

	while (service && (service->hash != hash || service->path_length != length ||
			   memcmp(service->path, path, length) != 0))
		service = service->next;
	return service;
}

void service_ref(struct service *service)
{
	if (service->references++ == 0 && !list_is_empty(&service->unused)) {
		list_remove(&service->unused);
		service->catalog->unused_count--;
	}
}

void service_unref(struct service *service)
{
	struct catalog *catalog;

	if (!service || --service->references > 0)
		return;
	catalog = service->catalog;
	if (!service->is_remembered) {
		service_discard(service);
		return;
	}
	list_append(&catalog->unused, &service->unused);
	if (++catalog->unused_count > CATALOG_UNUSED_MAX)
		catalog_forget(catalog, CONTAINER_OF(catalog->unused.next, struct service, unused));
}

void catalog_deinit(struct catalog *catalog)
{
	while (!list_is_empty(&catalog->unused))
		catalog_forget(catalog, CONTAINER_OF(catalog->unused.next, struct service, unused));
	free(catalog->buffer);
	catalog->buffer = NULL;
}

/* Copies one text behind the others; returns where it stands. */
static const char *text_put(char **cursor, const char *bytes, size_t length)
{
	char *text = *cursor;

	memcpy(text, bytes, length);
	text[length] = '\0';
	*cursor += length + 1;
	return text;
}

/* "SERVICES/REST", or REST when it is absolute, behind the others. */
static const char *text_put_path(char **cursor, const char *services, const char *rest, size_t length)
{
	const char *start = *cursor;

	if (rest[0] != '/' && services[0] != '\0') {
		text_put(cursor, services, strlen(services));
		(*cursor)[-1] = '/';
	}
	text_put(cursor, rest, length);
	return start;
}

/* With one reference, not remembered. description is NULL for kinds that have none. */
static struct service *service_new(struct catalog *catalog, enum service_kind kind, const char *path,
				   size_t length, const struct description *description)
{
	static const struct description none = {
		.target = { "", 0 }, .host = { "", 0 }, .service = { "", 0 }, .socket = { "", 0 }
	};
	const struct description *from = description ? description : &none;
	struct description_text socket = description ? from->socket :
						       (struct description_text){ path, length };
	size_t room = strlen(catalog->services) + 1 + socket.length + 1 + length + 1 + from->host.length + 1 +
		      from->service.length + 1 + from->target.length + 1;
	struct service *service = malloc(sizeof(*service) + room);
	char *cursor;

	if (!service)
		return NULL;
	*service =
		(struct service){ .catalog = catalog, .references = 1, .kind = kind, .path_length = length };
	service->hash = catalog_path_hash(path, length);
	service->free_task.run = service_free;
	service->port = from->port;
	service->knock_port = from->knock_port;
	if (addr_parse_numeric(from->host.start, from->host.length, from->port, &service->address) != 0)
		service->address.sa.sa_family = AF_UNSPEC;
	list_init(&service->unused);
	list_init(&service->turn.link);
	receiver_init(&service->receiver, catalog->loop);
	cursor = service->text;
	service->path = text_put(&cursor, path, length);
	service->socket_path = text_put_path(&cursor, catalog->services, socket.start, socket.length);
	service->host = text_put(&cursor, from->host.start, from->host.length);
	service->remote = text_put(&cursor, from->service.start, from->service.length);
	service->target = description ? text_put(&cursor, from->target.start, from->target.length) :
					(kind == SERVICE_SOCKET ? "unix" : NULL);
	return service;
}

struct service *catalog_unknown(struct catalog *catalog, const char *path, size_t length)
{
	return service_new(catalog, SERVICE_UNKNOWN, path, length, NULL);
}

struct service *catalog_exposed(struct catalog *catalog, const struct router_exposure *exposure,
				const char *remote)
{
	const struct description description = {
		.kind = DESCRIPTION_KAISO,
		.target = { exposure->target, strlen(exposure->target) },
		.host = { exposure->host, strlen(exposure->host) },
		.port = exposure->port,
		.service = { remote, strlen(remote) },
		.socket = { exposure->unix_path, strlen(exposure->unix_path) },
	};

	return service_new(catalog, SERVICE_KAISO, remote, strlen(remote), &description);
}

static struct description_text text_from(const struct session_image *image, enum image_text text)
{
	const struct image_bytes *from = &image->texts[text];

	return from->length ? (struct description_text){ from->bytes, from->length } :
			      (struct description_text){ "", 0 };
}

struct service *catalog_restored(struct catalog *catalog, const struct session_image *image)
{
	const struct description description = {
		.target = text_from(image, IMAGE_TARGET),
		.host = text_from(image, IMAGE_HOST),
		.port = (uint16_t)image->numbers[IMAGE_PORT],
		.knock_port = (uint16_t)image->numbers[IMAGE_KNOCK_PORT],
		.service = text_from(image, IMAGE_REMOTE),
		.socket = text_from(image, IMAGE_SOCKET),
	};
	const enum service_kind kind = (enum service_kind)(image->numbers[IMAGE_SERVICE] - 1);
	const struct description_text path = text_from(image, IMAGE_PATH);
	const bool is_described = kind != SERVICE_UNKNOWN && kind != SERVICE_SOCKET;

	return service_new(catalog, kind, path.start, path.length, is_described ? &description : NULL);
}

/* The socket as it was described: what was put before it is put there again. */
static const char *service_described_socket(const struct service *service)
{
	const char *services = service->catalog->services;
	size_t length = strlen(services);

	if (length > 0 && strncmp(service->socket_path, services, length) == 0 &&
	    service->socket_path[length] == '/')
		return service->socket_path + length + 1;
	return service->socket_path;
}

static struct image_bytes bytes_of(const char *text)
{
	return text ? (struct image_bytes){ text, strlen(text) } : (struct image_bytes){ NULL, 0 };
}

void service_image_of(const struct service *service, struct session_image *image)
{
	image->numbers[IMAGE_SERVICE] = (uint64_t)service->kind + 1;
	image->numbers[IMAGE_PORT] = service->port;
	image->numbers[IMAGE_KNOCK_PORT] = service->knock_port;
	image->texts[IMAGE_PATH] = (struct image_bytes){ service->path, service->path_length };
	if (service->kind == SERVICE_UNKNOWN || service->kind == SERVICE_SOCKET)
		return;
	image->texts[IMAGE_TARGET] = bytes_of(service->target);
	image->texts[IMAGE_HOST] = bytes_of(service->host);
	image->texts[IMAGE_REMOTE] = bytes_of(service->remote);
	image->texts[IMAGE_SOCKET] = bytes_of(service_described_socket(service));
}

/* ---- descriptions --------------------------------------------------------------------------------- */

static enum service_kind service_kind_of(enum description_kind kind)
{
	switch (kind) {
	case DESCRIPTION_TCP:
		return SERVICE_TCP;
	case DESCRIPTION_KAISO:
		return SERVICE_KAISO;
	case DESCRIPTION_UNIX:
		return SERVICE_UNIX;
	case DESCRIPTION_PASSFD:
		return SERVICE_PASSFD;
	case DESCRIPTION_MOUNT:
		return SERVICE_MOUNT;
	case DESCRIPTION_SRV:
		return SERVICE_SRV;
	}
	return SERVICE_UNKNOWN;
}

const char *service_kind_name(enum service_kind kind)
{
	switch (kind) {
	case SERVICE_UNKNOWN:
		return NULL;
	case SERVICE_SOCKET:
	case SERVICE_UNIX:
		return description_kind_name(DESCRIPTION_UNIX);
	case SERVICE_TCP:
		return description_kind_name(DESCRIPTION_TCP);
	case SERVICE_KAISO:
		return description_kind_name(DESCRIPTION_KAISO);
	case SERVICE_PASSFD:
		return description_kind_name(DESCRIPTION_PASSFD);
	case SERVICE_MOUNT:
		return description_kind_name(DESCRIPTION_MOUNT);
	case SERVICE_SRV:
		return description_kind_name(DESCRIPTION_SRV);
	}
	return NULL;
}

static struct service_stamp stamp_of(const struct stat *status)
{
	return (struct service_stamp){ .device = status->st_dev,
				       .inode = status->st_ino,
				       .size = status->st_size,
				       .modified = status->st_mtim,
				       .changed = status->st_ctim };
}

static bool time_is_equal(struct timespec one, struct timespec other)
{
	return one.tv_sec == other.tv_sec && one.tv_nsec == other.tv_nsec;
}

static bool stamp_is_equal(const struct service_stamp *one, const struct service_stamp *other)
{
	return one->device == other->device && one->inode == other->inode && one->size == other->size &&
	       time_is_equal(one->modified, other->modified) && time_is_equal(one->changed, other->changed);
}

static bool status_is_settled(const struct stat *status)
{
	struct timespec now = { 0 }; /* then nothing is settled */

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	return now.tv_sec - status->st_ctim.tv_sec >= SETTLED_AFTER_SECONDS;
}

static int description_problem(struct description_error *error, const char *reason)
{
	*error = (struct description_error){ .line = 0 };
	snprintf(error->reason, sizeof(error->reason), "%s", reason);
	return -EINVAL;
}

/* Does a description say what is remembered already? The first line says it all. */
static bool service_says(const struct service *known, const struct description *description)
{
	return known && known->kind == service_kind_of(description->kind) &&
	       strlen(known->target) == description->target.length &&
	       memcmp(known->target, description->target.start, description->target.length) == 0;
}

/* The service of a description that was just read: the one that is remembered when it says the same (its
 * receiver may have a connection to keep), else a new one in its place. */
static int catalog_found_description(struct catalog *catalog, struct service *known, const char *path,
				     size_t length, const struct description *description,
				     struct service **service)
{
	if (service_says(known, description)) {
		service_ref(known);
		*service = known;
		return 0;
	}
	*service = service_new(catalog, service_kind_of(description->kind), path, length, description);
	if (!*service)
		return -ENOMEM;
	if (known)
		catalog_forget(catalog, known);
	catalog_remember(catalog, *service);
	return 0;
}

/* Reads the file behind an O_PATH descriptor into the catalog's buffer: its length, or a negative errno. */
static ssize_t catalog_read(struct catalog *catalog, int file_fd, struct stat *status)
{
	char link[32];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", file_fd);
	CLEANUP_CLOSE int fd = description_file_open(AT_FDCWD, link, status);

	return fd < 0 ? fd : description_file_read(fd, catalog->buffer);
}

static int catalog_describe(struct catalog *catalog, int file_fd, struct service *known, const char *path,
			    size_t length, struct service **service, struct description_error *error)
{
	struct description description;
	struct stat status;
	ssize_t size = catalog_read(catalog, file_fd, &status);
	int r;

	if (size == -EFBIG)
		return description_problem(error, "longer than 64 KiB");
	if (size < 0)
		return (int)size;
	r = description_parse(catalog->buffer, (size_t)size, &description, error);
	if (r == 0)
		r = catalog_found_description(catalog, known, path, length, &description, service);
	if (r != 0)
		return r;
	(*service)->stamp = stamp_of(&status);
	(*service)->is_settled = status_is_settled(&status);
	return 0;
}

/* ---- looking -------------------------------------------------------------------------------------- */

/* The whole path of a service from the working directory on, in the catalog's buffer. */
static const char *catalog_full_path(struct catalog *catalog, const char *path, size_t length)
{
	snprintf(catalog->buffer, DESCRIPTION_FILE_BUFFER, "%s/%.*s", catalog->services, (int)length, path);
	return catalog->buffer;
}

/* Is a remembered description still what its file says? */
static bool service_is_current(struct service *service)
{
	struct service_stamp stamp;
	struct stat status;

	if (!service->is_settled ||
	    stat(catalog_full_path(service->catalog, service->path, service->path_length), &status) != 0)
		return false;
	stamp = stamp_of(&status);
	return stamp_is_equal(&stamp, &service->stamp);
}

static bool errno_means_absent(int error)
{
	return error == -ENOENT || error == -ENOTDIR || error == -ELOOP || error == -ENAMETOOLONG;
}

/* A socket at the path itself: remembered when asked for before, so that sessions share it. */
static int catalog_found_socket(struct catalog *catalog, struct service *known, const char *path,
				size_t length, struct service **service)
{
	if (known && known->kind == SERVICE_SOCKET) {
		service_ref(known);
		*service = known;
		return 0;
	}
	*service = service_new(catalog, SERVICE_SOCKET, path, length, NULL);
	if (!*service)
		return -ENOMEM;
	if (known)
		catalog_forget(catalog, known);
	catalog_remember(catalog, *service);
	return 0;
}

/* The slower look, for what is no socket that answers: opens the path, then connects or reads what was
 * opened. */
static int catalog_inspect(struct catalog *catalog, struct service *known, const char *path, size_t length,
			   struct service **service, int *connection, struct description_error *error)
{
	CLEANUP_CLOSE int file = fd_open_path(catalog_full_path(catalog, path, length), O_PATH);
	struct stat status;
	int r;

	if (file < 0)
		return errno_means_absent(file) ? -ENOENT : file;
	if (fstat(file, &status) != 0)
		return -errno;
	if (S_ISSOCK(status.st_mode)) {
		*connection = dial_unix_at(file);
		return catalog_found_socket(catalog, known, path, length, service);
	}
	if (!S_ISREG(status.st_mode))
		return -ENOENT;
	r = catalog_describe(catalog, file, known, path, length, service, error);
	return errno_means_absent(r) ? -ENOENT : r;
}

/* Only a name that is not there says that there are no options: what cannot be looked at might hold some.
 * Where looking is not permitted, neither is going on to what lies below. */
static bool file_may_exist(int directory_fd, const char *path)
{
	struct stat status;

	return fstatat(directory_fd, path, &status, AT_SYMLINK_NOFOLLOW) == 0 ||
	       (errno != ENOENT && errno != ENOTDIR && errno != EACCES);
}

/* Takes the first component from *path and opens that directory: a descriptor, or -1 when there is none, or
 * none of that name. */
static int open_component(int directory_fd, const char **path, size_t *length)
{
	const char *slash = memchr(*path, '/', *length);
	size_t name_length = slash ? (size_t)(slash - *path) : 0;
	char name[NAME_MAX + 1];

	if (!slash || name_length > NAME_MAX)
		return -1;
	memcpy(name, *path, name_length);
	name[name_length] = '\0';
	*length -= name_length + 1;
	*path = slash + 1;
	return openat(directory_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* Is there a ".kaiso" in the services directory, or in one of those on the way to path? It may say who must
 * not enter, so what lies below is refused rather than opened to everybody. Directory by directory, since a
 * whole path for each of many would cost their square. */
static bool catalog_has_directory_options(struct catalog *catalog, const char *path, size_t length)
{
	CLEANUP_CLOSE int directory = -1;

	if (file_may_exist(AT_FDCWD,
			   catalog_full_path(catalog, DIRECTORY_OPTIONS, strlen(DIRECTORY_OPTIONS))))
		return true;
	if (!memchr(path, '/', length))
		return false;
	directory = open(catalog->services, O_PATH | O_DIRECTORY | O_CLOEXEC);
	while (directory >= 0) {
		int next = open_component(directory, &path, &length);

		close(directory);
		directory = next;
		if (directory >= 0 && file_may_exist(directory, DIRECTORY_OPTIONS))
			return true;
	}
	return false;
}

static int catalog_look(struct catalog *catalog, const char *path, size_t length, struct service **service,
			int *connection, struct description_error *error)
{
	struct service *known = catalog_recall(catalog, catalog_path_hash(path, length), path, length);

	if (catalog_has_directory_options(catalog, path, length))
		return description_problem(error, "options for directories (" DIRECTORY_OPTIONS
						  " files) are not supported by this version");
	if (known && known->kind != SERVICE_SOCKET) {
		if (!service_is_current(known))
			return catalog_inspect(catalog, known, path, length, service, connection, error);
		service_ref(known);
		*service = known;
		return 0;
	}
	*connection = dial_unix(catalog_full_path(catalog, path, length));
	if (*connection >= 0 || *connection == -EAGAIN)
		return catalog_found_socket(catalog, known, path, length, service);
	if (errno_means_absent(*connection))
		return -ENOENT;
	return catalog_inspect(catalog, known, path, length, service, connection, error);
}

int catalog_open(struct catalog *catalog, const char *path, size_t length, struct service **service,
		 int *connection, struct description_error *error)
{
	int r;

	*service = NULL;
	*connection = -1;
	r = catalog_look(catalog, path, length, service, connection, error);
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): it takes -errno for 0, which no failed call leaves */
	if (r == 0 && (*service)->kind == SERVICE_UNIX)
		*connection = dial_unix((*service)->socket_path);
	if (r < 0 && *connection >= 0)
		close(*connection);
	if (r < 0)
		*service = catalog_unknown(catalog, path, length);
	return r;
}
