/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* locality.h - the schedulers that keep a destination on the same server (lblc), or on the same set of servers (lblcr).
 *
 * A place says where a destination of a service is served. Its members are in the order in which they joined; what does not fit
 * goes into further parts. A slot that a place names stays its server's, removed or not, as long as the place does.
 */
#pragma once
#include "load.h"
#include "places.h"

/* A walk over the members of a place. */
struct near {
	struct place_key key;
	__u32 length;
	__u32 what; /* enum near_what */
	__u32 chosen; /* a slot; 0 is none */
	__u32 weight; /* of the chosen one */
	__u64 load;
};

/* The least loaded member, or of a set only of those that take connections; or the most loaded. */
enum near_what { NEAR_LEAST, NEAR_LEAST_OPEN, NEAR_MOST };

static __always_inline __u32 *member_at(struct near *m, __u32 i)
{
	__u64 at = i % PLACE_SERVERS;

	m->key.part = i / PLACE_SERVERS;
	struct place *p = bpf_map_lookup_elem(&places, &m->key);
	return p ? &p->server[at] : NULL;
}

/* Of members that are servers of the service still; the newest comes first. */
static long member_step(__u32 n, struct near *m)
{
	__u32 *member = member_at(m, m->length - 1 - n);

	if (!member)
		return 0;
	__u32 slot = READ_ONCE(*member);
	struct server *d = bpf_map_lookup_elem(&servers, &slot);
	struct load *l = bpf_map_lookup_elem(&loads, &slot);
	if (!slot || !d || !l || d->use != SLOT_LIVE || d->service != m->key.service || d->weight <= 0)
		return 0;
	__u64 load = overhead(l), weight = d->weight;
	if (m->what == NEAR_LEAST_OPEN && READ_ONCE(l->overloaded))
		return 0;
	if (m->chosen &&
	    (m->what == NEAR_MOST ? m->load * weight >= load * m->weight : load * m->weight >= m->load * weight))
		return 0;
	m->chosen = slot;
	m->load = load;
	m->weight = weight;
	return 0;
}

static __always_inline __u32 pick_member(struct near *m, enum near_what what)
{
	m->what = what;
	m->chosen = unknown_zero();
	m->load = unknown_zero();
	m->weight = unknown_zero();
	bpf_loop(m->length, member_step, m, 0);
	return m->chosen;
}

static long leave_step(__u32 n, struct near *m)
{
	__u32 *member = member_at(m, n);

	if (member && *member == m->chosen)
		WRITE_ONCE(*member, 0);
	return 0;
}

static long find_step(__u32 n, struct near *m)
{
	__u32 *member = member_at(m, n);

	if (!member || READ_ONCE(*member) != m->chosen)
		return 0;
	m->chosen = 0;
	return 1;
}

/* Whether a server has less than half as many open connections as weight. */
static long idle_step(__u32 n, struct walk *w)
{
	struct seat *s = seat_at(w->list, n + 1);

	if (!s)
		return 1;
	__u32 server = s->server;
	struct load *l = bpf_map_lookup_elem(&loads, &server);
	w->number = l && (__u64)(__u32)READ_ONCE(l->active) * 2 < (__u64)(__u32)s->weight;
	return w->number;
}

static __always_inline bool crowded(struct walk *w, __u32 server)
{
	struct server *d = bpf_map_lookup_elem(&servers, &server);
	struct load *l = bpf_map_lookup_elem(&loads, &server);

	if (!d || !l || (__s64)(__u32)READ_ONCE(l->active) <= d->weight)
		return false;
	bpf_loop(w->seats, idle_step, w, 0);
	return w->number;
}

static const struct place blank = {};

/* Others may see the place blank for a moment; its time is over then. One that is over is begun anew, and nothing of it stays. */
static __always_inline void place_begin(struct near *m, __u32 server)
{
	struct service *v = bpf_map_lookup_elem(&services, &m->key.service);

	m->key.part = 0;
	if (bpf_map_update_elem(&places, &m->key, &blank, BPF_NOEXIST))
		bpf_map_update_elem(&places, &m->key, &blank, BPF_EXIST);
	else if (v)
		__sync_fetch_and_add(&v->places, 1);
	struct place *p = bpf_map_lookup_elem(&places, &m->key);
	if (!p)
		return;
	p->server[0] = server;
	p->size = p->length = 1;
	p->used = p->modified = now64();
}

static __always_inline void place_join(struct near *m, struct place *p, __u32 server)
{
	m->chosen = server;
	bpf_loop(m->length, find_step, m, 0);
	if (!m->chosen || READ_ONCE(p->length) >= PLACE_MEMBERS)
		return;
	__u32 i = __sync_fetch_and_add(&p->length, 1);
	m->key.part = i / PLACE_SERVERS;
	if (m->key.part)
		bpf_map_update_elem(&places, &m->key, &blank, BPF_NOEXIST);
	__u32 *member = member_at(m, i);
	if (!member)
		return;
	WRITE_ONCE(*member, server);
	__sync_fetch_and_add(&p->size, 1);
	p->modified = now64();
}

/* Once in a while a set loses its most loaded member. */
static __always_inline void place_shrink(struct near *m, struct place *p)
{
	if (p->size < 2 || now64() <= p->modified + (__u64)settings.lblcr_expiration * hz || !pick_member(m, NEAR_MOST))
		return;
	bpf_loop(m->length, leave_step, m, 0);
	__sync_fetch_and_add(&p->size, -1);
	p->modified = now64();
}

/* The server that a destination stays with, or 0 if the least loaded one is to take it. */
static __noinline __u32 pick_near(struct walk *w, struct flow *f, __u32 service)
{
	struct near m = { .key = { { f->dst[0], f->dst[1] }, service, 0 } };
	bool set = w->scheduler == SCHEDULER_LBLCR;
	struct place *p = bpf_map_lookup_elem(&places, &m.key);

	if (!p || place_over(p, service))
		return 0;
	if (!dry)
		p->used = now64();
	m.length = set ? p->length : 1;
	__u32 known = pick_member(&m, set ? NEAR_LEAST_OPEN : NEAR_LEAST);
	if (!dry)
		place_shrink(&m, p);
	return known && !crowded(w, known) ? known : 0;
}

/* A destination is served by a server from now on, be it beside others. */
static __noinline __u32 place_keep(struct walk *w, struct flow *f, __u32 service, __u32 server)
{
	struct near m = { .key = { { f->dst[0], f->dst[1] }, service, 0 } };
	struct place *p = bpf_map_lookup_elem(&places, &m.key);

	if (!server || dry)
		return server;
	if (!p || place_over(p, service)) {
		place_begin(&m, server);
	} else if (w->scheduler == SCHEDULER_LBLCR) {
		m.length = p->length;
		place_join(&m, p, server);
	} else {
		WRITE_ONCE(p->server[0], server);
	}
	return server;
}
