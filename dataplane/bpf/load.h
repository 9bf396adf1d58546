/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* load.h - the schedulers that remember nothing: loads and weights decide (lc, wlc, sed, nq, fo, ovf), and chance (twos). */
#pragma once
#include "seats.h"

/* All of them look for the least of some load by weight, and take the first one of several. */
static long least_step(__u32 n, struct walk *w)
{
	struct seat *s = seat_at(w->list, n + 1);

	if (!s)
		return 1;
	__u32 server = s->server;
	struct load *l = bpf_map_lookup_elem(&loads, &server);
	if (!l || s->weight <= 0 || READ_ONCE(l->overloaded))
		return 0;
	__u64 load = 1; /* fo, ovf: by weight alone */
	__s64 weight = s->weight, active = (__u32)READ_ONCE(l->active);
	switch (w->scheduler) {
	case SCHEDULER_FO:
		break;
	case SCHEDULER_OVF:
		if (active > weight)
			return 0;
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
	if (w->chosen && w->load * weight <= load * w->weight)
		return 0;
	w->chosen = server;
	w->load = load;
	w->weight = weight;
	return !load && w->scheduler == SCHEDULER_NQ;
}

static __always_inline __u32 pick_least(struct walk *w)
{
	w->chosen = 0;
	bpf_loop(w->seats, least_step, w, 0);
	return w->chosen;
}

static long total_step(__u32 n, struct walk *w)
{
	struct seat *s = seat_at(w->list, n + 1);

	if (!s)
		return 1;
	if (seat_open(s))
		w->number += s->weight;
	return 0;
}

/* The usable server in whose share of the weights the number falls. */
static long drawn_step(__u32 n, struct walk *w)
{
	struct seat *s = seat_at(w->list, n + 1);

	if (!s)
		return 1;
	__u32 server = s->server;
	struct load *l = bpf_map_lookup_elem(&loads, &server);
	if (!l || s->weight <= 0 || READ_ONCE(l->overloaded))
		return 0;
	if (w->number > (__u32)s->weight) {
		w->number -= s->weight;
		return 0;
	}
	w->chosen = server;
	w->load = overhead(l);
	w->weight = s->weight;
	return 1;
}

/* The kernel draws from 0 to the total inclusive, so that the first server has one chance more than its weight. */
static __noinline __u32 pick_of_two(struct walk *w)
{
	w->number = 0;
	bpf_loop(w->seats, total_step, w, 0);
	__u32 total = w->number;
	if (!total)
		return 0;
	w->number = chance() % (total + 1);
	bpf_loop(w->seats, drawn_step, w, 0);
	__u32 first = w->chosen;
	__u64 load = w->load;
	__s64 weight = w->weight;
	w->number = chance() % (total + 1);
	w->chosen = 0;
	bpf_loop(w->seats, drawn_step, w, 0);
	return !w->chosen || (first && load * w->weight <= w->load * weight) ? first : w->chosen;
}
