/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* service.h - a flow that has no connection -> the service that makes it one, and the connection. Never sees the packet itself,
 * so it is verified once and shared by the hooks. */
#pragma once
#include "sched.h"
#include "defence.h"
#include "pool.h"

/* What schedule() answers beyond a line of the segment. */
enum {
	SCHEDULED_NOT = -1,
	SCHEDULED_NO_SERVER = -2,
	SCHEDULED_FULL = -3,
	SCHEDULED_BUSY = -4,
	SCHEDULED_NOT_YET = -5,
	SCHEDULED_NO_CONN = -6,
	SCHEDULED_NO_PORT = -7,
	SCHEDULED_DRY = -8, /* there is room for it, and nothing is to change */
	SCHEDULED_NO_CALL = -9
};

/* How long a connection has that an ICMP error began, until a packet of its own comes. */
enum { BEGUN_BY_ERROR = 3 }; /* seconds */

/* Ends an entry that is past its time, or that a new connection of the same client port replaces. */
__noinline int conn_retire(struct segment *s, __u32 segment, __u32 line)
{
	struct guard *g = bpf_map_lookup_elem(&guards, &segment);

	if (!s || !g)
		return 0;
	struct conn *e = line_at(s, line);
	struct conn_seen seen = { segment, line & (SEGMENT_LINES - 1), READ_ONCE(e->own), READ_ONCE(e->expires),
				  now() };
	return conn_end(s, g, e, &seen);
}

/* A new connection from a client's port to the plan's server ends an older one between the two, to another address or port of
 * ours: no answer could be told from the other's. */
__noinline int conn_give_way(struct plan *p)
{
	if (!p)
		return 0;
	__u32 segment = p->home.segment, server = p->server; /* Linux 6.1 takes no keys out of an argument */
	struct segment *s = bpf_map_lookup_elem(&conns, &segment);
	struct server *d = bpf_map_lookup_elem(&servers, &server);
	if (!s || !d)
		return 0;
	struct conn_key *k = &p->other;
	*k = p->key;
	if (!keeps_port(d, k->word >> 16))
		k->word = (k->word & ~0xffff0000ULL) | (__u64)d->port << 16;
	k->virtual[0] = d->addr[0];
	k->virtual[1] = d->addr[1];
	struct conn *e = conn_find_answer(s, k, p->home.line);
	return e && !holds(e, &p->key) ? conn_retire(s, p->home.segment, line_of(s, e)) : 0;
}

/* The slot of the service that makes a connection of a packet, or a negative of the above. */
__noinline int service_of(struct flow *f)
{
	if (!f || f->follows)
		return SCHEDULED_NOT;
	struct service_key sk = { .mark = f->mark, .family = f->family };
	__u32 *slot = NULL;
	if (f->mark)
		slot = bpf_map_lookup_elem(&service_slots, &sk);
	if (!slot && f->mark & MARK_ASK && f->mark != MARK_ASK) {
		sk.mark = f->mark & ~MARK_ASK;
		slot = bpf_map_lookup_elem(&service_slots, &sk);
	}
	if (!slot) {
		sk.addr[0] = f->dst[0];
		sk.addr[1] = f->dst[1];
		sk.mark = 0;
		sk.protocol = f->protocol;
		sk.port = f->dst_port;
		slot = bpf_map_lookup_elem(&service_slots, &sk);
	}
	if (!slot && f->protocol == IPPROTO_TCP &&
	    (f->dst_port == bpf_htons(FTP_DATA_PORT) || bpf_ntohs(f->dst_port) >= UNPRIVILEGED_PORT)) {
		sk.port = bpf_htons(FTP_PORT);
		slot = bpf_map_lookup_elem(&service_slots, &sk);
	}
	if (!slot) {
		sk.port = 0;
		slot = bpf_map_lookup_elem(&service_slots, &sk);
	}
	if (!slot)
		return SCHEDULED_NOT;
	if (f->protocol == IPPROTO_TCP && !f->opens && !f->quoted &&
	    (!settings.sloppy_tcp || f->event == TCP_EVENT_RST))
		return SCHEDULED_NO_CONN;
	if (f->protocol == IPPROTO_SCTP && !f->opens && !f->quoted &&
	    (!settings.sloppy_sctp || f->event == SCTP_EVENT_ABORT))
		return SCHEDULED_NO_CONN;
	__u32 service = *slot;
	struct service *v = bpf_map_lookup_elem(&services, &service);
	/* a server's FTP data connection was begun by the server, and is not scheduled */
	if (!v || f->src_port == bpf_htons(FTP_DATA_PORT))
		return SCHEDULED_NOT;
	/* the data connections of FTP follow the others only by a template */
	if (v->key.port && v->key.port != f->dst_port && !v->persistent)
		return SCHEDULED_NOT;
	if (v->persistent && v->engine && !f->call)
		return SCHEDULED_NO_CALL;
	return service;
}

/* Makes a connection to the plan's server: the entry's line in its segment, or a negative of the above. */
__noinline int schedule(struct flow *f, struct plan *p)
{
	if (!f || !p)
		return SCHEDULED_NOT;
	__u32 segment = p->home.segment, server = p->server;
	struct segment *s = bpf_map_lookup_elem(&conns, &segment);
	struct guard *g = bpf_map_lookup_elem(&guards, &segment);
	struct links *l = bpf_map_lookup_elem(&links, &segment);
	struct server *d = bpf_map_lookup_elem(&servers, &server);
	if (!s || !g || !l || !d)
		return SCHEDULED_NOT;
	bool same = keeps_port(d, f->dst_port), full = p->forward == FORWARD_FULLNAT;
	__u32 life = life_begin(f, p->forward) | (same ? LIFE_SAME_PORT : 0);
	bool controlled = p->template != NO_LINE;
	if (controlled)
		life |= LIFE_CONTROLLED;
	p->data.life = life;
	p->data.server = p->server;
	p->data.expires = now() + (f->quoted ? BEGUN_BY_ERROR * hz : timeout_of(f->protocol, life & LIFE_STATE));
	p->data.home = p->home.line;
	p->data.link = full ? p->back : p->template;
	p->data.version = p->version;
	if (p->forward == FORWARD_MASQ && !p->alone)
		conn_give_way(p);
	int i = conn_insert_missing(s, g, full || controlled ? l : NULL, &p->key, &p->data);
	if (i == INSERT_DRY || (dry && i >= 0)) /* one that is there is over */
		return SCHEDULED_DRY;
	if (i >= 0 && !(i & INSERT_EXISTS)) {
		if (full)
			return_join(p->back, segment * SEGMENT_LINES + i);
		account_begin(segment * SEGMENT_LINES + i, 0);
		load_begin(p->server, life & LIFE_ACTIVE ? LOAD_ACTIVE : LOAD_INACTIVE);
		/* a state machine may go on at once from where others begin */
		p->decision.begun = f->protocol == IPPROTO_UDP || (f->protocol == IPPROTO_TCP && f->opens);
		return i;
	}
	if (full)
		return_end(p->back);
	if (controlled)
		template_count(p->template, -1);
	if (i >= 0)
		return i & (SEGMENT_LINES - 1);
	return i == INSERT_FULL ? SCHEDULED_FULL : SCHEDULED_BUSY;
}

/* Finds the plan's server, with the template if the service is persistent: 0, or a negative of the above. */
static __always_inline int choose(struct flow *f, struct plan *p, struct service *v)
{
	p->template = NO_LINE;
	p->server = v->persistent ? template_server(f, p) : 0;
	if (!p->server)
		p->server = pick_server(f, p->service);
	__u32 slot = p->server;
	struct server *d = bpf_map_lookup_elem(&servers, &slot);
	if (!slot || !d)
		return SCHEDULED_NO_SERVER;
	/* a template's, whose connection the same packet might find deserted if it came to tc as well */
	if (f->early && !d->weight)
		return SCHEDULED_NOT;
	if (d->forward == FORWARD_FULLNAT && v->one_packet && f->protocol == IPPROTO_UDP)
		return SCHEDULED_NOT_YET;
	int e = v->persistent ? template_hold(f, p, false) : 0;
	if (e)
		return e == INSERT_FULL ? SCHEDULED_FULL : SCHEDULED_BUSY;
	if (v->persistent) { /* the template may be for another server */
		slot = p->server;
		d = bpf_map_lookup_elem(&servers, &slot);
	}
	p->forward = d ? d->forward : FORWARD_FULLNAT;
	return 0;
}
