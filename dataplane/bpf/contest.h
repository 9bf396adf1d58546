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
	w->least = (struct least){ load, weight, server, i };
	return !load && w->scheduler == SCHEDULER_NQ;
}

static __always_inline void nobody_yet(struct least *least)
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
	__u32 i = w->next;
	struct seat *s = i ? seat_at(w->list, i) : NULL;

	if (!s)
		return 1;
	w->next = s->next;
	return least_of(w, s, i) || !w->next;
}

/* The least of a group meets the one that it is to meet, the winner the next one, and so on; up to a match that has been the same before, for
 * then those above it stand. */
__noinline int play(struct contest *c, __u32 group, __u64 mine, __s64 weight)
{
	if (!c)
		return 0;
	__u32 at = group + (1 << (c->levels & 7));

#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < LEVELS && at > 1; n++, at /= 2) {
		__u64 i = at / 2, my = at & 1, its = my ^ 1;
		BOUND(i, GROUPS - 1);
		BOUND(my, 1);
		BOUND(its, 1);
		struct match *m = &c->match[i];
		if (m->load[my] == mine && m->weight[my] == weight)
			return 0;
		m->load[my] = mine;
		m->weight[my] = weight;
		__u64 other = m->load[its];
		__s64 other_weight = m->weight[its];
		__u64 less = (other >> SEAT_BITS) * weight, more = (mine >> SEAT_BITS) * other_weight;
		if (other && (!mine || less < more || (less == more && (__u16)other < (__u16)mine))) {
			mine = other;
			weight = other_weight;
		}
	}
	WRITE_ONCE(c->winner, (__u16)mine);
	return 0;
}

/* Looks at a group that is marked, and plays its matches. */
static long mark_step(__u32 n, struct walk *w)
{
	__u64 group = lowest(w->marks) & ((1 << (w->contest->levels & 7)) - 1);

	if (!w->marks)
		return 1;
	BOUND(group, GROUPS - 1);
	w->marks &= w->marks - 1;
	nobody_yet(&w->least);
	w->next = w->contest->first[group];
	bpf_loop(w->seats, group_step, w, 0);
	bool any = w->least.server;
	play(w->contest, group, any ? w->least.load << SEAT_BITS | w->least.seat : 0, any ? w->least.weight : 0);
	return !w->marks;
}

/* The winner of the last match, after all that are due were played: by one CPU at a time, for of two that play the same match the one
 * that has looked first could have the last word. The others take what there is, be it a moment old; if there is nothing yet, false. */
static __always_inline bool hold_contest(struct walk *w, struct contest *c)
{
	__u32 state = READ_ONCE(c->state);

	if ((!(state & CONTEST_HELD) || READ_ONCE(c->marks)) && !(state & CONTEST_BUSY) &&
	    __sync_bool_compare_and_swap(&c->state, state, state | CONTEST_BUSY)) {
		w->marks = __sync_lock_test_and_set(&c->marks, 0);
		if (!(state & CONTEST_HELD))
			w->marks = ~0ULL >> (GROUPS - (1 << (c->levels & 7)));
		bpf_loop(GROUPS, mark_step, w, 0);
		state = CONTEST_HELD;
		barrier();
		WRITE_ONCE(c->state, state);
	}
	__u32 winner = READ_ONCE(c->winner);
	struct seat *s = winner ? seat_at(w->list, winner) : NULL;
	w->least.server = s ? s->server : 0;
	return state & CONTEST_HELD;
}

/* The slot of a service's least loaded server, or 0. A dry run has loads of its own, and may not have others see what it finds. */
static __always_inline __u32 pick_least(struct walk *w, struct seat *head, __u32 service)
{
	struct contest *c = dry ? NULL : contest_of(service);

	w->contest = c;
	if (c && c->list == head->cursor && hold_contest(w, c))
		return w->least.server;
	nobody_yet(&w->least);
	bpf_loop(w->seats, all_step, w, 0);
	return w->least.server;
}
