/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* sched.h - a service's list of servers -> the server for a new connection. The definitions, with their reasons, are in
 * Go's package sched; these are the same in C.
 *
 * Seats are walked from 1, the newest server, to the last; position 0 is the head of the list.
 */
#pragma once
#include "stats.h"

enum { SERVERS_A_SERVICE = 4096, CURSOR_TRIES = 32 };

/* A walk over a list, on the stack of whoever picks. */
struct walk {
	void *list;
	__u32 seats;
	__u32 chosen; /* server's slot; 0 is none */
	__u32 position; /* the seat last looked at; 0 is the head */
	__s32 current; /* wrr: the weight that a server needs in this pass */
	__s32 highest; /* wrr: of the usable weights */
	__u32 weighted;
	__u64 load; /* lc, wlc: of the chosen one */
	__s64 weight;
};

static __always_inline struct seat *seat_at(void *list, __u32 i)
{
	return bpf_map_lookup_elem(list, &i);
}

static __always_inline bool overloaded(__u32 server)
{
	struct load *l = bpf_map_lookup_elem(&loads, &server);

	return !l || READ_ONCE(l->overloaded);
}

/* Whether a server takes new connections. */
__noinline int seat_open(struct seat *s)
{
	return s && s->weight > 0 && !overloaded(s->server);
}

static long rr_step(__u32 n, struct walk *w)
{
	w->position = w->position >= w->seats ? 1 : w->position + 1;
	struct seat *s = seat_at(w->list, w->position);
	if (!s)
		return 1;
	if (!seat_open(s))
		return 0;
	w->chosen = s->server;
	return 1;
}

/* The next server of the pass. */
static long pass_step(__u32 n, struct walk *w)
{
	struct seat *s = seat_at(w->list, w->position + 1);

	if (!s || w->position >= w->seats)
		return 1;
	w->position++;
	if (s->weight < w->current || overloaded(s->server))
		return 0;
	w->chosen = s->server;
	return 1;
}

static long highest_step(__u32 n, struct walk *w)
{
	struct seat *s = seat_at(w->list, n + 1);

	if (!s)
		return 1;
	if (s->weight > w->highest && !overloaded(s->server))
		w->highest = s->weight;
	return 0;
}

/* The rest of this pass; then the next pass in which anybody has a turn. */
static __always_inline void wrr_walk(struct walk *w, __s32 top, __s32 step)
{
	__u32 from = w->position;

	bpf_loop(w->seats, pass_step, w, 0);
	if (w->chosen)
		return;
	w->highest = 0;
	bpf_loop(w->seats, highest_step, w, 0);
	if (step <= 0 || !w->highest) {
		bool restart = !from || w->current > step;
		w->position = restart ? 0 : from;
		w->current = restart ? top : w->current;
		return;
	}
	w->current = w->current > step ? w->current - step : top;
	__s32 meets = w->highest - (__s32)((__u32)(w->highest - 1) % (__u32)step);
	if (w->current > meets)
		w->current = meets;
	w->position = 0;
	bpf_loop(w->seats, pass_step, w, 0);
}

/* One try to take a turn: the place in the list is one word, moved on by whoever gets there first. */
static long turn_once(__u32 n, struct walk *w)
{
	struct seat *head = seat_at(w->list, 0);

	if (!head)
		return 1;
	__u64 cursor = READ_ONCE(head->cursor);
	w->chosen = 0;
	w->position = (__u32)cursor <= w->seats ? (__u32)cursor : 0;
	w->current = cursor >> 32;
	if (w->weighted)
		wrr_walk(w, head->weight, head->step);
	else
		bpf_loop(w->seats, rr_step, w, 0);
	if (!w->weighted && !w->chosen)
		return 1;
	__u64 next = w->position | (__u64)(__u32)w->current << 32;
	return next == cursor || __sync_val_compare_and_swap(&head->cursor, cursor, next) == cursor;
}

static __always_inline __u32 pick_in_turn(struct walk *w, bool weighted)
{
	w->weighted = weighted;
	bpf_loop(CURSOR_TRIES, turn_once, w, 0);
	return w->chosen;
}

static long least_step(__u32 n, struct walk *w)
{
	struct seat *s = seat_at(w->list, n + 1);

	if (!s)
		return 1;
	__u32 server = s->server;
	struct load *l = bpf_map_lookup_elem(&loads, &server);
	if (!l || s->weight <= 0 || READ_ONCE(l->overloaded))
		return 0;
	__u64 load = ((__u64)(__u32)READ_ONCE(l->active) << 8) + (__u32)READ_ONCE(l->inactive);
	__s64 weight = w->weighted ? s->weight : 1;
	if (w->chosen && w->load * weight <= load * w->weight)
		return 0;
	w->chosen = server;
	w->load = load;
	w->weight = weight;
	return 0;
}

static __always_inline __u32 pick_least(struct walk *w, bool weighted)
{
	w->weighted = weighted;
	w->chosen = 0;
	bpf_loop(w->seats, least_step, w, 0);
	return w->chosen;
}

/* The slot of the server that a service's scheduler chooses, or 0. */
__noinline __u32 pick_server(__u32 service)
{
	struct walk w = {};

	w.list = bpf_map_lookup_elem(&lists, &service);
	if (!w.list)
		return 0;
	struct seat *head = seat_at(w.list, 0);
	if (!head || !head->server || head->server > SERVERS_A_SERVICE)
		return 0;
	w.seats = head->server;
	switch (head->scheduler) {
	case SCHEDULER_RR:
		return pick_in_turn(&w, false);
	case SCHEDULER_WRR:
		return head->weight > 0 ? pick_in_turn(&w, true) : 0;
	case SCHEDULER_LC:
		return pick_least(&w, false);
	case SCHEDULER_WLC:
		return pick_least(&w, true);
	}
	return 0;
}
