/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* pool.h - what FULLNAT puts in the client's place: a local address and port, taken by putting an entry into the connection
 * table that the server's answers will find. So none is ever given twice towards one server, whichever CPU asks for it, and
 * one local port serves as many connections as there are servers.
 */
#pragma once
#include "template.h"

enum {
	POOL_LOCALS = 256, /* as in Go's lvs.LocalsPerPool */
	POOL_TRIES = 128,
	POOL_IN_TURN = 16, /* of them; the others are by chance, past any row of ports that are taken */
};

/* A return entry ends with its connection; that is looked at again after so many jiffies. */
enum { RETURN_LIFE = 1 << 30 };

/* The n-th try to take a local address and a port of the plan's pool, for the server in its other key: 0 if it has them. */
__noinline int pool_try(struct plan *p, __u32 n)
{
	if (!p)
		return -1;
	__u32 own = p->pool, count = p->pool_size, turn = p->turn, which = 1 + turn % count;
	void *pool = bpf_map_lookup_elem(&pools, &own);
	struct local *l = pool ? bpf_map_lookup_elem(pool, &which) : NULL;
	if (!l)
		return -1;
	if (n < POOL_IN_TURN || ((__u32)l->last - l->first + 1) * count <= POOL_TRIES) {
		p->turn = turn + 1;
	} else {
		turn = chance();
		which = 1 + turn % count;
		l = bpf_map_lookup_elem(pool, &which);
		if (!l)
			return -1;
	}
	p->local = *l;
	l = &p->local;
	__u32 ports = (__u32)l->last - l->first + 1, part = bpf_get_smp_processor_id() * (ports / cpus);
	__u16 port = l->first + (part + turn / count) % ports;
	p->other.word = (p->other.word & ~0xffffULL) | bpf_htons(port);
	p->other.client[0] = l->addr[0];
	p->other.client[1] = l->addr[1];
	struct home h = home_of(&p->other);
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);
	struct guard *g = bpf_map_lookup_elem(&guards, &h.segment);
	struct links *beside = bpf_map_lookup_elem(&links, &h.segment);
	if (!s || !g || !beside)
		return -1;
	link_fetch(beside, h.line);
	p->data.life = 0;
	p->data.server = p->template;
	p->data.expires = now() + RETURN_LIFE;
	p->data.home = h.line;
	p->data.link = NO_LINE;
	int i = conn_insert(s, g, beside, &p->other, &p->data);
	if (i == INSERT_DRY)
		return 0;
	if (i < 0 || i & INSERT_EXISTS)
		return -1;
	p->back = h.segment * SEGMENT_LINES + i;
	return 0;
}

/* Whether a connection to a server keeps the port that the client asked for. */
static __always_inline bool keeps_port(const struct server *d, __u16 port)
{
	__u32 service = d->service;
	struct service *v = bpf_map_lookup_elem(&services, &service);

	return !d->port || (v && v->persistent && v->key.port != port);
}

/* Takes a local address and port for a connection to the plan's server, where that is reached by FULLNAT: 0, and the plan has the
 * return entry; or -1. CPUs begin in different parts of the ports, so that they seldom meet. */
__noinline int pool_take(struct flow *f, struct plan *p)
{
	if (!f || !p)
		return -1;
	__u32 service = p->service, server = p->server,
	      segment = p->home.segment; /* Linux 6.1 takes no keys out of an argument */
	struct service *v = bpf_map_lookup_elem(&services, &service);
	struct server *d = bpf_map_lookup_elem(&servers, &server);
	struct links *l = bpf_map_lookup_elem(&links, &segment);
	if (!v || !d || !l)
		return -1;
	p->forward = d->forward;
	if (p->forward != FORWARD_FULLNAT)
		return 0;
	link_fetch(l, p->home.line); /* schedule() writes it */
	__u32 zero = 0, own = f->family == FAMILY_IPV4 ? POOL_SHARED4 : POOL_SHARED6;
	if (v->locals)
		own = POOL_OF_SERVICE + service;
	void *pool = bpf_map_lookup_elem(&pools, &own);
	struct local *head = pool ? bpf_map_lookup_elem(pool, &zero) : NULL;
	if (!head || !head->count || head->count > POOL_LOCALS)
		return -1;
	p->pool = own;
	p->pool_size = head->count;
	__u16 port = keeps_port(d, f->dst_port) ? f->dst_port : d->port;
	p->other.word = key_word(0, port, f->protocol, CONN_RETURN);
	p->other.virtual[0] = d->addr[0];
	p->other.virtual[1] = d->addr[1];
#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < POOL_TRIES; n++) {
		if (!pool_try(p, n))
			return 0;
	}
	return -1;
}

/* Joins a connection and its return entry, both lines of the whole table. */
static __always_inline void return_join(__u32 back, __u32 at)
{
	__u32 *link = link_of(back / SEGMENT_LINES, back);

	if (link)
		WRITE_ONCE(*link, at);
}

/* Whether a return entry goes on whose time is over. */
static __always_inline bool return_goes_on(struct conn *e, __u32 back)
{
	if (READ_ONCE(e->kind) != CONN_RETURN || return_conn(back) == NO_LINE)
		return false;
	WRITE_ONCE(e->expires, now() + RETURN_LIFE);
	return true;
}
