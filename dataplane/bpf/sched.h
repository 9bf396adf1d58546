/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* sched.h - a service's list of servers -> the server for a new connection. The definitions, with their reasons, are in
 * Go's package sched; these are the same in C.
 *
 * Seats are walked from 1, the newest server, to the last; position 0 is the head of the list.
 */
#pragma once
#include "stats.h"

enum { SERVERS_A_SERVICE = 4096, CURSOR_TRIES = 32 };

/* A walk over a list. Lives on the stack; lists and seats are read through the map each time. */
struct walk {
	void *list;
	__u32 seats;
	__u32 chosen;	/* server's slot; 0 is none */
	__u32 position; /* the seat last looked at */
	__u32 from;	/* where the walk began */
	__u32 stop;
	__s32 current; /* wrr: the current weight */
	__s32 step, top;
	__s32 below; /* wrr: the highest usable weight under the current one, since the head of the list */
	bool last_pass, restarted, whole, weighted;
	__u64 load;  /* lc, wlc: of the chosen one */
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

static long wrr_step(__u32 n, struct walk *w)
{
	if (w->position < w->seats) {
		w->position++;
		struct seat *s = seat_at(w->list, w->position);
		if (!s)
			return 1;
		if (!overloaded(s->server)) {
			if (s->weight >= w->current) {
				w->chosen = s->server;
				return 1;
			}
			if (s->weight > w->below)
				w->below = s->weight;
		}
		return w->position == w->stop;
	}
	/* the end of the list: the next pass, with a lower weight */
	w->position = 0;
	w->current -= w->step;
	if (w->current <= 0) {
		w->current = w->top;
		if (w->last_pass || !w->from)
			return 1;
		w->restarted = true;
	} else if (w->whole && w->below < w->current) {
		/* passes that nobody would meet: straight to the one for the highest usable weight */
		w->current = w->below >= w->step ? w->below - w->step + 1 : 1;
	}
	w->whole = true;
	w->below = 0;
	w->last_pass = w->current <= w->step;
	if (w->last_pass && w->restarted && w->from)
		w->stop = w->from;
	return 0;
}

/* One try to take a turn: the place in the list is one word, moved on by whoever gets there first. */
static long turn_once(__u32 n, struct walk *w)
{
	struct seat *head = seat_at(w->list, 0);

	if (!head)
		return 1;
	__u64 cursor = READ_ONCE(head->cursor);
	w->chosen = 0;
	w->position = w->from = (__u32)cursor <= w->seats ? (__u32)cursor : 0;
	w->current = cursor >> 32;
	if (w->weighted) {
		w->stop = -1;
		w->below = 0;
		w->last_pass = w->restarted = w->whole = false;
		bpf_loop(4 * (w->seats + 1) + 4, wrr_step, w, 0);
	} else {
		bpf_loop(w->seats, rr_step, w, 0);
		if (!w->chosen)
			return 1;
	}
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
__noinline __u32 pick_server(__u32 service, __u32 scheduler)
{
	struct walk w = {};

	w.list = bpf_map_lookup_elem(&lists, &service);
	if (!w.list)
		return 0;
	struct seat *head = seat_at(w.list, 0);
	if (!head || !head->server || head->server > SERVERS_A_SERVICE)
		return 0;
	w.seats = head->server;
	w.step = head->step;
	w.top = head->weight;
	switch (scheduler) {
	case SCHEDULER_RR:
		return pick_in_turn(&w, false);
	case SCHEDULER_WRR:
		return w.top > 0 ? pick_in_turn(&w, true) : 0;
	case SCHEDULER_LC:
		return pick_least(&w, false);
	case SCHEDULER_WLC:
		return pick_least(&w, true);
	}
	return 0;
}
