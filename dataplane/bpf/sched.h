/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* sched.h - a service's list of servers -> the server for a new connection. The definitions, with their reasons, are in
 * Go's package sched; these are the same in C. Here are those that go round: rr and wrr.
 */
#pragma once
#include "hash.h"
#include "load.h"
#include "locality.h"

enum { CURSOR_TRIES = 32 };

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
	if (w->scheduler == SCHEDULER_WRR)
		wrr_walk(w, head->weight, head->next);
	else
		bpf_loop(w->seats, rr_step, w, 0);
	if (w->scheduler == SCHEDULER_RR && !w->chosen)
		return 1;
	__u64 next = w->position | (__u64)(__u32)w->current << 32;
	return dry || next == cursor || __sync_val_compare_and_swap(&head->cursor, cursor, next) == cursor;
}

static __always_inline __u32 pick_in_turn(struct walk *w)
{
	bpf_loop(CURSOR_TRIES, turn_once, w, 0);
	return w->chosen;
}

/* The slot of the server that a service's scheduler chooses, or 0. */
__noinline __u32 pick_server(struct flow *f, __u32 service)
{
	struct walk w = {};
	struct service *v = bpf_map_lookup_elem(&services, &service);
	__u32 server;

	w.list = bpf_map_lookup_elem(&lists, &service);
	if (!f || !v || !w.list)
		return 0;
	struct seat *head = seat_at(w.list, 0);
	if (!head || !head->server || head->server > SERVERS_A_SERVICE)
		return 0;
	w.seats = head->server;
	w.scheduler = head->scheduler;
	switch (w.scheduler) {
	case SCHEDULER_RR:
		return pick_in_turn(&w);
	case SCHEDULER_WRR:
		return head->weight > 0 ? pick_in_turn(&w) : 0;
	case SCHEDULER_DH:
	case SCHEDULER_SH:
	case SCHEDULER_MH:
		w.table = head->table;
		return pick_by_hash(&w, f, v->scheduler_flags);
	case SCHEDULER_LBLC:
	case SCHEDULER_LBLCR:
		server = pick_near(&w, f, service);
		if (server)
			return server;
		break;
	case SCHEDULER_TWOS:
		return pick_of_two(&w);
	case SCHEDULER_NONE:
		return 0;
	}
	server = pick_least(&w, head, service);
	return w.scheduler == SCHEDULER_LBLC || w.scheduler == SCHEDULER_LBLCR ? place_keep(&w, f, service, server) :
										 server;
}
