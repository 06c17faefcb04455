/*
 * The queue that stands in for a listener: what its name says of it, and what a name that a program made up
 * itself may not do.
 */
#include "fixture.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "wrap/passfd_queue.h"

/* A UNIX address of so many bytes, as a listener may have. */
static struct queue_identity identity_of(size_t path_length)
{
	struct queue_identity identity = { 0 };

	identity.address.un.sun_family = AF_UNIX;
	memset(identity.address.un.sun_path, 'p', path_length);
	identity.length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path_length);
	return identity;
}

static void test_a_queue_knows_its_listener(void **state)
{
	static const size_t lengths[] = { 1, 60, 75, 76, 100, 108 };

	(void)state;
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		struct queue_identity identity = identity_of(lengths[i]), found;
		int program_end, receiver_end;

		assert_int_equal(queue_open(&identity, &program_end, &receiver_end), 0);
		assert_true(queue_recognize(program_end, &found));
		assert_int_equal(found.length, identity.length);
		assert_memory_equal(&found.address, &identity.address, identity.length);
		close(program_end);
		close(receiver_end);
	}
}

static void bind_name(int fd, const char *prefix, size_t fill)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	size_t length = strlen(prefix);

	memcpy(name.sun_path + 1, prefix, length);
	memset(name.sun_path + 1 + length, 'x', fill);
	assert_int_equal(bind(fd, (struct sockaddr *)&name,
			      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length + fill)),
			 0);
}

/* Both names as full as they can be: more than an address holds. */
static void test_a_forged_name_is_refused(void **state)
{
	struct queue_identity found;
	char name[64], more[64];
	int ends[2];

	(void)state;
	snprintf(name, sizeof(name), "kaiso-passfd/%016x/u/", (unsigned)getpid());
	snprintf(more, sizeof(more), "kaiso-passfd-more/%016x/", (unsigned)getpid());
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	bind_name(ends[0], name, 107 - strlen(name));
	bind_name(ends[1], more, 107 - strlen(more));
	assert_false(queue_recognize(ends[0], &found));
	close(ends[0]);
	close(ends[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FIXTURE_TEST(test_a_queue_knows_its_listener),
		FIXTURE_TEST(test_a_forged_name_is_refused),
	};

	return FIXTURE_RUN(tests);
}
