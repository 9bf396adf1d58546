/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* fragment.h - later fragments follow the first one: what was decided about it is remembered for the others.
 *
 * The record ends when all bytes of the packet have come by, or 30 seconds later, as the kernel gives up a packet then. So
 * identifications that come round again meet no old records. The oldest records give way to new ones, and a fragment
 * without a record goes nowhere: none goes where the first one did not. */
#pragma once
#include "decide.h"

enum { FRAGMENT_SECONDS = 30 };

static __always_inline void fragment_drop(struct decision *d, enum reason why)
{
	d->outcome = OUTCOME_DROP;
	d->reason = why;
}

/* What was decided about the first fragment holds for a later one, too. */
static __always_inline void fragment_follow(struct decision *d, struct flow *f, struct plan *p)
{
	struct fragment_key k = p->fragment_key;
	struct fragment *r = bpf_map_lookup_elem(&leads, &k);

	d->at = NO_LINE;
	d->tell = 0;
	d->server = 0;
	fragment_drop(d, REASON_FRAGMENT);
	if (!r || now() - r->began >= FRAGMENT_SECONDS * hz)
		return;
	p->fragment = *r;
	__u32 seen = __sync_fetch_and_add(&r->seen, f->to - f->from) + f->to - f->from;
	if (!f->more)
		WRITE_ONCE(r->all, f->to);
	__u32 all = READ_ONCE(r->all);
	/* a record that had to give way meanwhile has told of another packet */
	if (bpf_map_lookup_elem(&leads, &k) != r)
		return;
	r = &p->fragment;
	if (f->from < r->first) {
		fragment_drop(d, REASON_FRAGMENT_OVERLAP);
		return;
	}
	if (all && seen >= all)
		bpf_map_delete_elem(&leads, &k);
	decide_source(d, r->src, 0);
	decide_destination(d, r->dst, 0);
	d->outcome = r->outcome;
	d->reason = r->reason;
	d->direction = r->direction;
	d->forward = r->forward;
	__u32 slot = r->server;
	struct server *server = bpf_map_lookup_elem(&servers, &slot);
	if (server && server->use == SLOT_LIVE)
		d->server = slot;
	else if (r->outcome == OUTCOME_FORWARD && r->direction == DIRECTION_INPUT)
		fragment_drop(d, REASON_REMOVED); /* meanwhile */
}

/* Remembers what was decided about a first fragment. */
static __always_inline void fragment_lead(struct decision *d, struct flow *f, struct plan *p)
{
	struct fragment_key k = p->fragment_key;
	__u32 zero = 0;
	struct plan *own =
		bpf_map_lookup_elem(&plans, &zero); /* the same; Linux 6.1 takes no values out of an argument */
	if (!own)
		return;
	struct fragment *r = &own->fragment;

	__builtin_memcpy(r->src, d->src, 16);
	__builtin_memcpy(r->dst, d->dst, 16);
	r->server = d->server;
	r->began = now();
	r->first = r->seen = f->to;
	r->all = 0;
	r->outcome = d->outcome;
	r->reason = d->reason;
	r->direction = d->direction;
	r->forward = d->forward;
	bpf_map_update_elem(&leads, &k, r, BPF_ANY);
}

/* decide() has had its say about a first fragment; the later ones are decided about here. */
__noinline int decide_fragment(struct flow *f)
{
	__u32 zero = 0;
	struct plan *p = bpf_map_lookup_elem(&plans, &zero); /* Linux 6.1 takes no values out of an argument */

	if (!f || !p)
		return 0;
	struct fragment_key *k = &p->fragment_key;
	__builtin_memcpy(k->src, f->src, 16);
	__builtin_memcpy(k->dst, f->dst, 16);
	k->id = f->id;
	k->protocol = f->family == FAMILY_IPV4 ? f->protocol : 0;
	k->family = f->family;
	if (f->fragment == FRAGMENT_LATER)
		fragment_follow(&p->decision, f, p);
	else if (f->fragment)
		fragment_lead(&p->decision, f, p);
	return 0;
}
