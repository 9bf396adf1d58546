/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* contest.h - the server with the least load by weight, and of several the first in the list: of a short list by looking at all,
 * of a long one by looking at what has changed since the last choice.
 */
#pragma once
#include "seats.h"

/* Chooses a seat's server if it takes new connections and has less than the chosen one. Whether nobody can have less. */
static __always_inline bool least_of(struct walk *w, struct seat *s, __u32 i)
{
	__u32 server = s->server;
	struct load *l = bpf_map_lookup_elem(&loads, &server);

	if (!l || s->weight <= 0 || READ_ONCE(l->overloaded))
		return false;
	__u64 load = 1; /* fo, ovf: by weight alone */
	__s64 weight = s->weight, active = (__u32)READ_ONCE(l->active);
	switch (w->scheduler) {
	case SCHEDULER_FO:
		break;
	case SCHEDULER_OVF:
		if (active > weight)
			return false;
		break;
	case SCHEDULER_NQ: /* an idle server's is less than any other's */
		load = active ? active + 1 : 0;
		break;
	case SCHEDULER_SED:
		load = active + 1;
		break;
	case SCHEDULER_LC:
		weight = 1;
		load = overhead(l);
		break;
	default:
		load = overhead(l);
	}
	if (w->least.server && w->least.load * weight <= load * w->least.weight)
		return false;
	w->least.load = load;
	w->least.weight = weight;
	w->least.server = server;
	w->least.seat = i;
	return !load && w->scheduler == SCHEDULER_NQ;
}

static __always_inline void nobody_yet(struct match *least)
{
	least->server = unknown_zero();
	least->load = unknown_zero();
	least->weight = unknown_zero();
}

static long all_step(__u32 n, struct walk *w)
{
	struct seat *s = seat_at(w->list, n + 1);

	return !s || least_of(w, s, n + 1);
}

static long group_step(__u32 n, struct walk *w)
{
	__u32 i = w->least.first;
	struct seat *s = i ? seat_at(w->list, i) : NULL;

	if (!s)
		return 1;
	w->least.first = s->next;
	return least_of(w, s, i);
}

static __always_inline struct match *match_at(struct walk *w, __u32 n)
{
	return (struct match *)seat_at(w->list, w->seats + n);
}

static __always_inline void won(struct match *m, const struct match *winner)
{
	m->load = winner->load;
	m->weight = winner->weight;
	m->server = winner->server;
	m->seat = winner->seat;
}

/* The least of a match that was played meets the other's of the next one. A match whose outcome is what it was ends the way up: those
 * above it stand. */
static long match_step(__u32 n, struct walk *w)
{
	if (w->match < 2)
		return 1;
	struct match *m = match_at(w, w->match / 2), *other = match_at(w, w->match ^ 1);
	if (!m || !other)
		return 1;
	__u64 less = other->load * w->least.weight, more = w->least.load * other->weight;
	if (other->server && (!w->least.server || less < more || (less == more && other->seat < w->least.seat)))
		won(&w->least, other);
	if (m->server == w->least.server && m->load == w->least.load)
		return 1;
	won(m, &w->least);
	w->match /= 2;
	return 0;
}

/* Looks at a group that is marked, and plays its matches. */
static long mark_step(__u32 n, struct walk *w)
{
	if (!w->marks)
		return 1;
	w->match = w->groups + (lowest(w->marks) & (w->groups - 1));
	w->marks &= w->marks - 1;
	struct match *m = match_at(w, w->match);
	if (!m)
		return 1;
	nobody_yet(&w->least);
	w->least.first = m->first;
	bpf_loop(w->seats, group_step, w, 0);
	won(m, &w->least);
	bpf_loop(GROUPS, match_step, w, 0);
	return 0;
}

/* The winner of the last match, after all that are due were played: by one CPU at a time, for of two that play the same match the one
 * that has looked first could have the last word. The others take what there is, be it a moment old; if there is nothing yet, false. */
static __always_inline bool contest(struct walk *w, struct seat *head)
{
	__u32 state = READ_ONCE(head->next);

	if ((!(state & CONTEST_HELD) || READ_ONCE(head->cursor)) && !(state & CONTEST_BUSY) &&
	    __sync_bool_compare_and_swap(&head->next, state, state | CONTEST_BUSY)) {
		w->marks = __sync_lock_test_and_set(&head->cursor, 0);
		if (!(state & CONTEST_HELD))
			w->marks = ~0ULL >> (GROUPS - w->groups);
		bpf_loop(GROUPS, mark_step, w, 0);
		state = CONTEST_HELD;
		barrier();
		WRITE_ONCE(head->next, state);
	}
	struct match *last = match_at(w, 1);
	w->least.server = last ? READ_ONCE(last->server) : 0;
	return state & CONTEST_HELD;
}

/* The slot of the least loaded server, or 0. A dry run has loads of its own, and may not have others see what it finds. */
static __noinline __u32 pick_least(struct walk *w)
{
	struct seat *head = seat_at(w->list, 0);

	if (!head)
		return 0;
	w->groups = head->groups;
	if (!dry && w->groups && w->groups <= GROUPS && contest(w, head))
		return w->least.server;
	nobody_yet(&w->least);
	bpf_loop(w->seats, all_step, w, 0);
	return w->least.server;
}
