/*
 * Closed loops: each client sends a message and waits for it to come back before it sends the next.
 */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#define CLIENTS_MAX 1024
#define SAMPLES_MAX (4u << 20)

struct player {
	int fd;
	size_t received; /* of the message that is under way */
	uint64_t sent_ns;
};

static struct player players[CLIENTS_MAX];
static uint32_t *samples_ns;
static size_t sample_count;
static size_t message_bytes;
static char message[BUFFER_BYTES];

static void player_serve(struct player *player)
{
	player->received = 0;
	player->sent_ns = now_ns();
	if (send(player->fd, message, message_bytes, MSG_NOSIGNAL) != (ssize_t)message_bytes)
		fail("send");
}

/* True when the message is back. */
static bool player_receive(struct player *player, int flags)
{
	ssize_t length = recv(player->fd, buffer, message_bytes - player->received, flags);

	if (length < 0 && errno == EAGAIN)
		return false;
	if (length <= 0)
		fail("the answer");
	if (is_verified && memcmp(buffer, message + player->received, (size_t)length) != 0) {
		errno = EBADMSG;
		fail("a wrong byte");
	}
	player->received += (size_t)length;
	return player->received == message_bytes;
}

static void player_note(const struct player *player)
{
	if (sample_count < SAMPLES_MAX)
		samples_ns[sample_count++] = (uint32_t)(now_ns() - player->sent_ns);
}

/* Without epoll, which would only add to the way. */
static void play_alone(uint64_t end_ns)
{
	while (now_ns() < end_ns) {
		player_serve(&players[0]);
		while (!player_receive(&players[0], 0))
			;
		player_note(&players[0]);
	}
}

static void play_together(int clients, uint64_t end_ns)
{
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC), playing = clients;
	struct epoll_event events[64];

	for (int i = 0; i < clients; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.ptr = &players[i] };

		epoll_ctl(epoll_fd, EPOLL_CTL_ADD, players[i].fd, &event);
		player_serve(&players[i]);
	}
	while (playing > 0) {
		int count = epoll_wait(epoll_fd, events, 64, -1);

		for (int i = 0; i < count; i++) {
			struct player *player = events[i].data.ptr;

			if (!player_receive(player, MSG_DONTWAIT))
				continue;
			player_note(player);
			if (now_ns() < end_ns)
				player_serve(player);
			else
				playing--;
		}
	}
}

static int compare(const void *one, const void *other)
{
	uint32_t left = *(const uint32_t *)one, right = *(const uint32_t *)other;

	return (left > right) - (left < right);
}

static double percentile_us(double share)
{
	size_t index = (size_t)((double)sample_count * share);

	return samples_ns[index < sample_count ? index : sample_count - 1] / 1e3;
}

void ping_pong(const char *const *words)
{
	struct place place = place_parse(words[0]);
	int clients = atoi(words[2]);
	uint64_t start, end;

	message_bytes = strtoul(words[3], NULL, 10);
	samples_ns = malloc(SAMPLES_MAX * sizeof(*samples_ns));
	if (!samples_ns || clients < 1 || clients > CLIENTS_MAX || message_bytes < 1 ||
	    message_bytes > sizeof(message)) {
		errno = EINVAL;
		fail("clients or bytes");
	}
	pattern_fill(message, message_bytes, 0);
	for (int i = 0; i < clients; i++) {
		static const char order = ORDER_ECHO;

		players[i].fd = place_ask(&place, words[1], &order, 1);
	}
	start = now_ns();
	end = start + strtoull(words[4], NULL, 10) * 1000000;
	if (clients == 1)
		play_alone(end);
	else
		play_together(clients, end);
	end = now_ns();
	qsort(samples_ns, sample_count, sizeof(*samples_ns), compare);
	printf("{\"count\": %zu, \"seconds\": %.6f, \"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f}\n",
	       sample_count, (double)(end - start) / 1e9, percentile_us(0.5), percentile_us(0.99),
	       percentile_us(0.999));
}
