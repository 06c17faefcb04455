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
#include "proto/request.h"
#include "router/description_file.h"
#include "router/options.h"
#include "router/session_image.h"

#define SETTLED_AFTER_SECONDS 2

int catalog_init(struct catalog *catalog, struct loop *loop, const char *services, struct policies *policies,
		 struct backends *backends)
{
	*catalog = (struct catalog){
		.loop = loop, .services = services, .policies = policies, .backends = backends
	};
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
	for (size_t i = 0; i < service->target_count; i++) {
		receiver_deinit(&service->targets[i].receiver);
		backend_unref(service->targets[i].backend);
	}
	backends_group_unref(service->group);
	policy_unref(service->directory);
	policy_unref(service->policy);
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
	catalog->unused_bytes -= service->size;
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
		service->catalog->unused_bytes -= service->size;
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
	catalog->unused_count++;
	catalog->unused_bytes += service->size;
	while (catalog->unused_count > CATALOG_UNUSED_MAX || catalog->unused_bytes > CATALOG_UNUSED_BYTES_MAX)
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

/* What a service is to be made of. All is borrowed. */
struct service_plan {
	const char *path;
	size_t path_length;
	size_t file_length; /* what lies behind it and a '/' is for the router behind a MOUNT */
	enum service_kind kind;
	struct policy *directory;
	struct policy *policy;
	struct description_text options;
	const struct description *targets;
	size_t target_count;
};

/* What a client asks for below a mount; empty for the whole of it. */
static struct description_text plan_rest(const struct service_plan *plan)
{
	if (plan->path_length <= plan->file_length)
		return (struct description_text){ "", 0 };
	return (struct description_text){ plan->path + plan->file_length + 1,
					  plan->path_length - plan->file_length - 1 };
}

static size_t target_room(const struct catalog *catalog, const struct description *from, size_t rest_length)
{
	return strlen(catalog->services) + 1 + from->socket.length + 1 + from->host.length + 1 +
	       from->service.length + 1 + rest_length + 1 + from->target.length + 1;
}

static bool kind_asks(enum service_kind kind, const struct description *from)
{
	return kind == SERVICE_KAISO || kind == SERVICE_MOUNT ||
	       (kind == SERVICE_SRV && from->service.length > 0);
}

/* "SERVICE"; for a mount "SERVICE/REST", or "REST" where its SERVICE is empty. */
static const char *text_put_remote(char **cursor, enum service_kind kind, const struct description *from,
				   struct description_text rest)
{
	const char *start = text_put(cursor, from->service.start, from->service.length);

	if (kind != SERVICE_MOUNT)
		return start;
	(*cursor)--;
	if (from->service.length > 0)
		*(*cursor)++ = '/';
	text_put(cursor, rest.start, rest.length);
	return start;
}

static void target_init(struct target *target, struct catalog *catalog, enum service_kind kind,
			const struct description *from, struct description_text rest, char **cursor)
{
	*target = (struct target){ .kind = kind,
				   .is_srv = from->is_srv,
				   .asks = kind_asks(kind, from),
				   .port = from->port,
				   .knock_port = from->knock_port };
	if (addr_parse_numeric(from->host.start, from->host.length, from->port, &target->address) != 0)
		target->address.sa.sa_family = AF_UNSPEC;
	list_init(&target->turn.link);
	receiver_init(&target->receiver, catalog->loop);
	target->socket_path =
		text_put_path(cursor, catalog->services, from->socket.start, from->socket.length);
	target->host = text_put(cursor, from->host.start, from->host.length);
	target->remote = text_put_remote(cursor, kind, from, rest);
	target->text = kind == SERVICE_UNKNOWN ? NULL :
						 text_put(cursor, from->target.start, from->target.length);
}

static enum service_kind service_kind_of(enum description_kind kind);

static void service_init_targets(struct service *service, const struct service_plan *plan, char *cursor)
{
	for (size_t i = 0; i < plan->target_count; i++) {
		struct target *target = &service->targets[i];

		target_init(target, service->catalog,
			    i == 0 ? plan->kind : service_kind_of(plan->targets[i].kind), &plan->targets[i],
			    plan_rest(plan), &cursor);
		service->has_choice = service->has_choice || i > 0 || target->is_srv;
		service->has_handover = service->has_handover || target->kind == SERVICE_PASSFD;
	}
}

/* With one reference, not remembered; nothing shared is in it yet. */
static struct service *service_alloc(struct catalog *catalog, const struct service_plan *plan)
{
	size_t texts = plan->path_length + 1 + plan->options.length + 1;
	size_t targets = plan->target_count * sizeof(struct target);
	struct service *service;
	char *cursor;

	for (size_t i = 0; i < plan->target_count; i++)
		texts += target_room(catalog, &plan->targets[i], plan_rest(plan).length);
	service = malloc(sizeof(*service) + targets + texts);
	if (!service)
		return NULL;
	*service = (struct service){ .catalog = catalog,
				     .references = 1,
				     .kind = plan->kind,
				     .path_length = plan->path_length,
				     .file_length = plan->file_length,
				     .size = sizeof(*service) + targets + texts,
				     .target_count = plan->target_count };
	service->hash = catalog_path_hash(plan->path, plan->path_length);
	service->free_task.run = service_free;
	list_init(&service->unused);
	cursor = (char *)service->targets + targets;
	service->path = text_put(&cursor, plan->path, plan->path_length);
	service->options = text_put(&cursor, plan->options.start, plan->options.length);
	service_init_targets(service, plan, cursor);
	return service;
}

const char *target_key(const struct target *target)
{
	return target->kind == SERVICE_SOCKET ? target->socket_path : target->text;
}

struct backend_group *service_group(const struct service *service, struct backends *backends)
{
	return backends_group(backends, service->path, service->file_length);
}

/* Where there is a choice: how each target is doing, and whose turn it is. */
static bool service_join(struct service *service, struct backends *backends)
{
	bool is_whole = true;

	if (!service->has_choice)
		return true;
	service->group = service_group(service, backends);
	for (size_t i = 0; service->target_count > 1 && i < service->target_count; i++) {
		struct target *target = &service->targets[i];
		const char *key = target_key(target);

		target->backend = backends_get(backends, key, strlen(key));
		is_whole = is_whole && target->backend;
	}
	return is_whole && service->group;
}

static struct service *service_new(struct catalog *catalog, const struct service_plan *plan)
{
	struct service *service = service_alloc(catalog, plan);

	if (!service)
		return NULL;
	policy_ref(plan->directory);
	policy_ref(plan->policy);
	service->directory = plan->directory;
	service->policy = plan->policy;
	if (service_join(service, catalog->backends))
		return service;
	service_discard(service);
	return NULL;
}

/* Of one target, without a choice and under no policy. description is NULL for a kind that has none. */
static struct service *service_new_simple(struct catalog *catalog, enum service_kind kind, const char *path,
					  size_t length, const struct description *description)
{
	const struct description socket = {
		.target = { "unix", 4 }, .host = { "", 0 }, .service = { "", 0 }, .socket = { path, length }
	};
	const struct service_plan plan = { .path = path,
					   .path_length = length,
					   .file_length = length,
					   .kind = kind,
					   .options = { "", 0 },
					   .targets = description ? description : &socket,
					   .target_count = 1 };
	struct service *service = service_alloc(catalog, &plan);

	if (service)
		service->has_choice = false;
	return service;
}

struct service *catalog_unknown(struct catalog *catalog, const char *path, size_t length)
{
	return service_new_simple(catalog, SERVICE_UNKNOWN, path, length, NULL);
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

	return service_new_simple(catalog, SERVICE_KAISO, remote, strlen(remote), &description);
}

static struct description_text text_from(const struct session_image *image, enum image_text text)
{
	const struct image_bytes *from = &image->texts[text];

	return from->length ? (struct description_text){ from->bytes, from->length } :
			      (struct description_text){ "", 0 };
}

/* What a mount's router is asked for goes along whole, so no rest of the path is put behind it. */
struct service *catalog_restored(struct catalog *catalog, const struct session_image *image)
{
	const struct description description = {
		.target = text_from(image, IMAGE_TARGET),
		.host = text_from(image, IMAGE_HOST),
		.port = (uint16_t)image->numbers[IMAGE_PORT],
		.knock_port = (uint16_t)image->numbers[IMAGE_KNOCK_PORT],
		.service = text_from(image, IMAGE_REMOTE),
		.socket = text_from(image, IMAGE_SOCKET),
		.is_srv = (image->numbers[IMAGE_FLAGS] & IMAGE_IS_SRV) != 0,
	};
	const enum service_kind kind = (enum service_kind)(image->numbers[IMAGE_SERVICE] - 1);
	const struct description_text path = text_from(image, IMAGE_PATH);
	const bool is_described = kind != SERVICE_UNKNOWN && kind != SERVICE_SOCKET;
	struct service *service;

	service = service_new_simple(catalog, kind == SERVICE_MOUNT ? SERVICE_KAISO : kind, path.start,
				     path.length, is_described ? &description : NULL);
	if (service && kind == SERVICE_MOUNT)
		service->kind = service->targets[0].kind = SERVICE_MOUNT;
	if (service && image->numbers[IMAGE_FILE_LENGTH] > 0)
		service->file_length = image->numbers[IMAGE_FILE_LENGTH];
	return service;
}

/* The socket as it was described: what was put before it is put there again. */
static const char *target_described_socket(const struct service *service, const struct target *target)
{
	const char *services = service->catalog->services;
	size_t length = strlen(services);

	if (length > 0 && strncmp(target->socket_path, services, length) == 0 &&
	    target->socket_path[length] == '/')
		return target->socket_path + length + 1;
	return target->socket_path;
}

static struct image_bytes bytes_of(const char *text)
{
	return text ? (struct image_bytes){ text, strlen(text) } : (struct image_bytes){ NULL, 0 };
}

void service_image_of(const struct service *service, const struct target *target, struct session_image *image)
{
	image->numbers[IMAGE_SERVICE] = (uint64_t)target->kind + 1;
	image->numbers[IMAGE_PORT] = target->port;
	image->numbers[IMAGE_KNOCK_PORT] = target->knock_port;
	image->numbers[IMAGE_FILE_LENGTH] = service->file_length;
	image->numbers[IMAGE_FLAGS] |= target->is_srv ? IMAGE_IS_SRV : 0u;
	image->texts[IMAGE_PATH] = (struct image_bytes){ service->path, service->path_length };
	if (target->kind == SERVICE_UNKNOWN || target->kind == SERVICE_SOCKET)
		return;
	image->texts[IMAGE_TARGET] = bytes_of(target->text);
	image->texts[IMAGE_HOST] = bytes_of(target->host);
	image->texts[IMAGE_REMOTE] = bytes_of(target->remote);
	image->texts[IMAGE_SOCKET] = bytes_of(target_described_socket(service, target));
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

/* ---- a look at what lies at a path ------------------------------------------------------------------ */

/* One catalog_open() under way. */
struct look {
	struct catalog *catalog;
	const char *path;
	size_t length;
	size_t file_length; /* so many bytes of the path name what is looked at; fewer for what lies in a mount */
	const union addr *client;
	struct policy *directory; /* a reference; NULL for none */
	bool is_cut_off;       /* something on the way is no directory: only a mount can lead on from there */
	struct service *known; /* what is remembered of the path; NULL for nothing */
	struct service **service;
	int *connection;
	struct catalog_problem *problem;
};

static int look_problem(struct look *look, int result, const char *reason)
{
	struct description_error *error = &look->problem->error;

	*error = (struct description_error){ .line = 0 };
	snprintf(error->reason, sizeof(error->reason), "%s", reason);
	return result;
}

/* Where the file lies, in the catalog's buffer. */
static const char *look_full_path(const struct look *look)
{
	snprintf(look->catalog->buffer, DESCRIPTION_FILE_BUFFER, "%s/%.*s", look->catalog->services,
		 (int)look->file_length, look->path);
	return look->catalog->buffer;
}

static int look_found(const struct look *look, struct service *service)
{
	service_ref(service);
	*look->service = service;
	return 0;
}

/* Something else than what was remembered, if anything was. */
static int look_found_new(const struct look *look, const struct service_plan *plan)
{
	*look->service = service_new(look->catalog, plan);
	if (!*look->service)
		return -ENOMEM;
	if (look->known)
		catalog_forget(look->catalog, look->known);
	catalog_remember(look->catalog, *look->service);
	return 0;
}

/* What is to be served under a policy: the first target, and the policy's backends. */
struct look_targets {
	struct description targets[OPTIONS_BACKENDS_MAX + 1];
	size_t count;
};

/* The backends that a directory names for all may not suit this one: mounts are no backends of other targets, and the
 * other way round. */
static void look_add_backends(struct look_targets *targets, const struct policy *policy)
{
	const bool is_mount = targets->targets[0].kind == DESCRIPTION_MOUNT;
	struct description_error error;

	targets->count = 1;
	for (size_t i = 0; policy && i < policy->backend_count && i < OPTIONS_BACKENDS_MAX; i++) {
		const char *backend = policy->backends[i];
		struct description *target = &targets->targets[targets->count];
		const struct description_text text = { backend, strlen(backend) };

		if (description_parse_target(text, 0, target, &error) == 0 &&
		    (target->kind == DESCRIPTION_MOUNT) == is_mount)
			targets->count++;
	}
}

static int look_new_socket(const struct look *look)
{
	struct look_targets targets = { .targets[0] = { .kind = DESCRIPTION_UNIX,
							.target = { "unix", 4 },
							.host = { "", 0 },
							.service = { "", 0 },
							.socket = { look->path, look->length } } };
	struct service_plan plan = { .path = look->path,
				     .path_length = look->length,
				     .file_length = look->length,
				     .kind = SERVICE_SOCKET,
				     .directory = look->directory,
				     .policy = look->directory,
				     .options = { "", 0 },
				     .targets = targets.targets };

	look_add_backends(&targets, look->directory);
	plan.target_count = targets.count;
	return look_found_new(look, &plan);
}

/* A socket at the path itself: remembered when asked for before, so that sessions share it. */
static int look_found_socket(const struct look *look)
{
	if (look->known && look->known->kind == SERVICE_SOCKET && look->known->directory == look->directory)
		return look_found(look, look->known);
	return look_new_socket(look);
}

/* Does the file say what is remembered already? A receiver may have a connection to keep. */
static bool look_is_known(const struct look *look, const struct description *description)
{
	const struct service *known = look->known;

	return known && known->directory == look->directory && known->kind != SERVICE_SOCKET &&
	       known->kind == service_kind_of(description->kind) && known->file_length == look->file_length &&
	       strlen(known->targets[0].text) == description->target.length &&
	       memcmp(known->targets[0].text, description->target.start, description->target.length) == 0 &&
	       strlen(known->options) == description->options.length &&
	       memcmp(known->options, description->options.start, description->options.length) == 0;
}

static int look_new_description(const struct look *look, const struct description *description)
{
	struct look_targets targets = { .targets[0] = *description };
	struct service_plan plan = { .path = look->path,
				     .path_length = look->length,
				     .file_length = look->file_length,
				     .kind = service_kind_of(description->kind),
				     .directory = look->directory,
				     .options = description->options,
				     .targets = targets.targets };
	int r = policy_from_text(look->directory, look->path, description->options, 2, &plan.policy,
				 &look->problem->error);

	if (r != 0)
		return r;
	look_add_backends(&targets, plan.policy);
	plan.target_count = targets.count;
	r = look_found_new(look, &plan);
	policy_unref(plan.policy);
	return r;
}

/* A path that goes on behind the file is for the router behind a mount, and only that is. */
static bool look_suits(const struct look *look, const struct description *description)
{
	size_t rest = look->length - look->file_length;

	if (description->kind != DESCRIPTION_MOUNT)
		return rest == 0;
	return rest > 0 && description->service.length + rest <= REQUEST_LINE_MAX - strlen("\r\n");
}

/* Reads the file behind an O_PATH descriptor into the catalog's buffer: its length, or a negative errno. */
static ssize_t look_read(const struct look *look, int file_fd, struct stat *status)
{
	char link[32];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", file_fd);
	CLEANUP_CLOSE int fd = description_file_open(AT_FDCWD, link, status);

	return fd < 0 ? fd : policy_read_settled(fd, status, look->catalog->buffer);
}

static int look_describe(struct look *look, int file_fd)
{
	struct description description;
	struct stat status;
	ssize_t size = look_read(look, file_fd, &status);
	int r;

	if (size == -EFBIG)
		return look_problem(look, -EINVAL, "longer than 64 KiB");
	if (size == -EAGAIN)
		return look_problem(look, -EAGAIN, "somebody is writing it");
	if (size < 0)
		return (int)size;
	r = description_parse(look->catalog->buffer, (size_t)size, &description, &look->problem->error);
	if (r == 0 && !look_suits(look, &description))
		return -ENOENT;
	if (r == 0)
		r = look_is_known(look, &description) ? look_found(look, look->known) :
							look_new_description(look, &description);
	if (r != 0)
		return r;
	(*look->service)->stamp = stamp_of(&status);
	(*look->service)->is_settled = status_is_settled(&status);
	return 0;
}

/* Is a remembered description still what its file and its directories say? */
static bool look_is_current(const struct look *look)
{
	const struct service *known = look->known;
	struct service_stamp stamp;
	struct stat status;

	if (!known->is_settled || known->directory != look->directory ||
	    known->file_length != look->file_length || stat(look_full_path(look), &status) != 0)
		return false;
	stamp = stamp_of(&status);
	return stamp_is_equal(&stamp, &known->stamp);
}

static bool errno_means_absent(int error)
{
	return error == -ENOENT || error == -ENOTDIR || error == -ELOOP || error == -ENAMETOOLONG;
}

/* Takes the first component from *path and opens that directory: a descriptor, or a negative errno; -ENOENT when
 * there is none. */
static int open_component(int directory_fd, const char **path, size_t *length)
{
	const char *slash = memchr(*path, '/', *length);
	size_t name_length = slash ? (size_t)(slash - *path) : 0;
	char name[NAME_MAX + 1];
	int fd;

	if (!slash || name_length > NAME_MAX)
		return -ENOENT;
	memcpy(name, *path, name_length);
	name[name_length] = '\0';
	*length -= name_length + 1;
	*path = slash + 1;
	fd = openat(directory_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* So many bytes of the path name something that is no directory, though the path goes on behind it; 0 for none. Directory
 * by directory, since a whole path for each of many would cost their square. */
static size_t look_find_file(const struct look *look)
{
	const char *path = look->path;
	size_t length = look->length;
	int directory = open(look->catalog->services, O_PATH | O_DIRECTORY | O_CLOEXEC);

	while (directory >= 0) {
		int next = open_component(directory, &path, &length);

		close(directory);
		directory = next;
	}
	return directory == -ENOTDIR ? (size_t)(path - 1 - look->path) : 0;
}

static int look_at_socket(const struct look *look, int file_fd)
{
	int r;

	if (!policy_admits(look->directory, look->client))
		return -EPERM;
	r = look_found_socket(look);
	if (r == 0 && !(*look->service)->has_choice)
		*look->connection = dial_unix_at(file_fd);
	return r;
}

/* The slower look, for what is no socket that answers: opens the path, then connects or reads what was
 * opened. */
static int look_inspect(struct look *look)
{
	CLEANUP_CLOSE int file = fd_open_path(look_full_path(look), O_PATH);
	struct stat status;
	int r;

	if (file < 0)
		return errno_means_absent(file) ? -ENOENT : file;
	if (fstat(file, &status) != 0)
		return -errno;
	if (S_ISSOCK(status.st_mode) && look->file_length == look->length)
		return look_at_socket(look, file);
	if (!S_ISREG(status.st_mode))
		return -ENOENT;
	r = look_describe(look, file);
	return errno_means_absent(r) ? -ENOENT : r;
}

/* What lies behind a file on the way. */
static int look_into_mount(struct look *look)
{
	look->file_length = look_find_file(look);
	if (look->file_length == 0)
		return -ENOENT;
	if (look->known && look->known->kind == SERVICE_MOUNT && look_is_current(look))
		return look_found(look, look->known);
	return look_inspect(look);
}

/* Without connecting. */
static int look_without(struct look *look)
{
	int r = look_inspect(look);

	return r == -ENOENT && memchr(look->path, '/', look->length) ? look_into_mount(look) : r;
}

/* The common case: connecting by the path checks and uses in one step. */
static int look_connect(struct look *look)
{
	*look->connection = dial_unix(look_full_path(look));
	if (*look->connection >= 0 || *look->connection == -EAGAIN)
		return look_found_socket(look);
	if (*look->connection == -ENOTDIR)
		return look_into_mount(look);
	return errno_means_absent(*look->connection) ? -ENOENT : look_inspect(look);
}

static int look_find(struct look *look)
{
	const struct policy *directory = look->directory;

	if (look->path[look->length - 1] == '/' || look->is_cut_off)
		return look_into_mount(look);
	if (look->known && look->known->kind == SERVICE_MOUNT) {
		int r = look_into_mount(look);

		if (r != -ENOENT)
			return r;
		/* No longer: a directory may lie in the place of the file. */
		look->file_length = look->length;
		return look_without(look);
	}
	if (look->known && look->known->kind != SERVICE_SOCKET)
		return look_is_current(look) ? look_found(look, look->known) : look_without(look);
	/* Who may not, or where there is a choice, is not connected by way of looking. */
	if (directory && (directory->backend_count > 0 || !policy_admits(directory, look->client)))
		return look_without(look);
	return look_connect(look);
}

static int look_open(struct look *look)
{
	const struct service *service;
	int r = policies_find(look->catalog->policies, look->path, look->length, &look->directory,
			      &look->problem->error, look->problem->file);

	if (r == -EAGAIN)
		return look_problem(look, -EAGAIN, "somebody is writing it");
	if (r < 0)
		return r;
	look->is_cut_off = r == POLICY_WAY_ENDS;
	look->problem->file[0] = '\0';
	look->known = catalog_recall(look->catalog, catalog_path_hash(look->path, look->length), look->path,
				     look->length);
	r = look_find(look);
	/* What is wrong with a service tells that it is there. */
	if (r < 0 && r != -ENOENT && r != -EAGAIN && !policy_admits(look->directory, look->client))
		r = -EPERM;
	policy_unref(look->directory);
	service = *look->service;
	if (r == 0 && !policy_admits(service->policy, look->client))
		return -EPERM;
	if (r == 0 && service->kind == SERVICE_UNIX && !service->has_choice)
		*look->connection = dial_unix(service->targets[0].socket_path);
	return r;
}

/* Where a problem lies in a mount, its file has not the path's name. */
static void look_name_file(struct look *look)
{
	char *file = look->problem->file;

	if (file[0] == '\0' && look->file_length > 0 && look->file_length < look->length)
		snprintf(file, POLICY_FILE_SIZE, "%s/%.*s", look->catalog->services, (int)look->file_length,
			 look->path);
}

int catalog_open(struct catalog *catalog, const char *path, size_t length, const union addr *client,
		 struct service **service, int *connection, struct catalog_problem *problem)
{
	struct look look = { .catalog = catalog,
			     .path = path,
			     .length = length,
			     .file_length = length,
			     .client = client,
			     .service = service,
			     .connection = connection,
			     .problem = problem };
	int r;

	*service = NULL;
	*connection = -1;
	r = look_open(&look);
	if (r == 0)
		return 0;
	look_name_file(&look);
	if (*connection >= 0)
		close(*connection);
	service_unref(*service);
	*service = catalog_unknown(catalog, path, length);
	return r;
}
