/*
 * What `kaiso top` knows: the router's answers turned into rows with rates and a past, sorted and filtered, and which
 * row is selected. Pure: no terminal, no clock, no socket.
 *
 * Texts are UTF-8 as the router sent them, control characters included: who shows them has to see to that.
 */
#ifndef KAISO_CMD_TOP_MODEL_H
#define KAISO_CMD_TOP_MODEL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOP_HISTORY 60 /* samples that are kept of each row, one an answer */
#define TOP_FILTER_SIZE 64

enum top_pane { TOP_SERVICES, TOP_SESSIONS, TOP_PANE_COUNT };

/* What rows can be sorted by; a pane shows some of them. */
enum top_column {
	TOP_SERVICE,
	TOP_KIND,
	TOP_CLIENT,
	TOP_STATE,
	TOP_ID,
	TOP_AGE,
	TOP_OPEN,
	TOP_TOTAL, /* sessions so far */
	TOP_FAILED,
	TOP_SENT_RATE,
	TOP_RECEIVED_RATE,
	TOP_SENT,
	TOP_RECEIVED,
	TOP_TRAFFIC, /* both rates together */
	TOP_COLUMN_COUNT
};

/* Bytes a second both ways. The last one is the newest. */
struct top_history {
	float samples[TOP_HISTORY];
	unsigned count;
};

struct top_way {
	uint64_t bytes;
	double rate; /* bytes a second */
};

/* A service, or a session. Texts live as long as the answer they came with; "" where there is none. */
struct top_row {
	const char *key; /* what it is known again by: the path, or the ID */
	unsigned twin;   /* how many rows before it have the same key: bytes that are no UTF-8 look alike */
	const char *service;
	const char *kind;
	const char *client; /* this and the next three: sessions only */
	const char *state;
	const char *target;
	double age; /* seconds */
	uint64_t open;
	uint64_t total;
	uint64_t failed;
	struct top_way sent; /* by clients */
	struct top_way received;
	struct top_history history;
};

struct top_table {
	enum top_pane pane;
	struct top_row *rows; /* in the order of keys and twins */
	size_t count;
	struct top_row **shown; /* those that pass the filter, sorted */
	size_t shown_count;
	enum top_column column; /* sorted by it, the largest first, texts from A to Z */
	bool is_reversed;
	size_t selected; /* among the shown */
	size_t first;    /* shown at the top of its pane; this and the next are the screen's */
	size_t height;   /* how many rows it has room for */
	/* The selection stays with its row once it was moved; before, it is on the top row, whatever that is. */
	bool is_held;
	char *held_key;
	unsigned held_twin;
};

/* About the whole router. Texts as in rows. */
struct top_router {
	const char *version;
	const char *services_directory;
	const json_t *listeners;
	uint64_t pid;
	uint64_t started;
	uint64_t uptime;
	bool is_draining;
	uint64_t threads;
	uint64_t open;
	uint64_t sessions_max; /* 0: no limit */
	uint64_t total;        /* sessions so far */
	double total_rate;
	uint64_t refused;
	uint64_t untold; /* sessions that are not in the answer */
	struct top_way sent;
	struct top_way received;
	uint64_t descriptors;
	uint64_t descriptors_max;
	uint64_t resident_bytes;
	double cpu_seconds;
	double cpu_share; /* of one processor */
	struct top_history history;
};

struct top_model {
	json_t *answer; /* the newest */
	uint64_t answered_ms;
	bool has_rates; /* there were two answers of one router */
	struct top_router router;
	struct top_table tables[TOP_PANE_COUNT];
	char filter[TOP_FILTER_SIZE];
};

void top_model_init(struct top_model *model);
void top_model_deinit(struct top_model *model);

/* Outcomes of top_model_update(). */
enum {
	TOP_SAME = 0,
	TOP_UPGRADED = 1,  /* the same process began anew */
	TOP_RESTARTED = 2, /* another process answers */
};

/*
 * Takes the answer to "sessions", which came at that time; rates are since the one before, if that was the same
 * router's. One of the outcomes; or -ENOMEM, and -EPROTO for what is no such answer, with the model as it was.
 */
int top_model_update(struct top_model *model, json_t *answer, uint64_t now_ms);

/* Shows only rows that hold this text, in whatever case of ASCII; "" shows all. Cut to what fits. */
void top_model_filter(struct top_model *model, const char *text);

/* Sorts by that column; by the same one again changes nothing. */
void top_table_sort(struct top_table *table, enum top_column column);
void top_table_reverse(struct top_table *table);

/* Sorts by the column behind the present one, in this order. */
void top_table_sort_next(struct top_table *table, const enum top_column *columns, size_t count);

/* Moves the selection so many rows down, or up, and holds it there. */
void top_table_move(struct top_table *table, long rows);

/* Back to the top row, whatever that is. */
void top_table_release(struct top_table *table);

/* NULL when nothing is shown. */
const struct top_row *top_table_selected(const struct top_table *table);

#endif
