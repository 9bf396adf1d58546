/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* load.h - the schedulers that remember nothing: loads and weights decide (lc, wlc, sed, nq, fo, ovf: contest.h), and chance (twos). */
#pragma once
#include "contest.h"

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
	w->least.load = overhead(l);
	w->least.weight = s->weight;
	w->least.server = server;
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
	struct least first = w->least;
	w->number = chance() % (total + 1);
	w->least.server = 0;
	bpf_loop(w->seats, drawn_step, w, 0);
	struct least *second = &w->least;
	bool stays = !second->server || (first.server && first.load * second->weight <= second->load * first.weight);
	return stays ? first.server : second->server;
}
