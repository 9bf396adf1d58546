/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* known.h - flow -> decision, for a packet of a connection that is there: in which direction it goes, and what it becomes. */
#pragma once
#include "control.h"
#include "dead.h"
#include "plan.h"

static __always_inline __u32 ours_bit(const __u64 addr[2])
{
	return ((addr[0] ^ addr[1]) * 0x9e3779b97f4a7c15ULL) >> (64 - 15);
}

static __always_inline bool ours_has(const __u64 *words, const __u64 addr[2])
{
	__u32 bit = ours_bit(addr);

	return words[(bit / 64) & (OURS_WORDS - 1)] >> (bit & 63) & 1;
}

static __always_inline void ours_add(__u64 *words, const __u64 addr[2])
{
	__u32 bit = ours_bit(addr);

	__sync_fetch_and_or(&words[(bit / 64) & (OURS_WORDS - 1)], 1ULL << (bit & 63));
}

/* What a packet has to do with addresses of ours: bits. */
enum { OURS_VIRTUAL = 1, OURS_SERVER = 2, OURS_LOCAL = 4, OURS_MARK = 8 };

static __always_inline __u32 ours_of(struct flow *f)
{
	__u32 zero = 0;
	struct address_bits *o = bpf_map_lookup_elem(&ours, &zero);

	if (!o)
		return 0;
	return (ours_has(o->virtual, f->dst) ? OURS_VIRTUAL : 0) | (ours_has(o->local, f->dst) ? OURS_LOCAL : 0) |
	       (ours_has(o->server, f->src) ? OURS_SERVER : 0) | (f->routed && f->mark ? OURS_MARK : 0);
}

static __always_inline void key_from_client(struct plan *p, struct flow *f)
{
	p->key.word = key_word(f->src_port, f->dst_port, f->protocol, CONN_PLAIN);
	p->key.client[0] = f->src[0];
	p->key.client[1] = f->src[1];
	p->key.virtual[0] = f->dst[0];
	p->key.virtual[1] = f->dst[1];
	p->home = home_of(&p->key);
}

static __always_inline void key_from_server(struct plan *p, struct flow *f, enum conn_kind kind)
{
	p->key.word = key_word(f->dst_port, f->src_port, f->protocol, kind);
	p->key.client[0] = f->dst[0];
	p->key.client[1] = f->dst[1];
	p->key.virtual[0] = f->src[0];
	p->key.virtual[1] = f->src[1];
	p->home = home_of(&p->key);
}

/* A packet to the server comes from a local address in FULLNAT, and has to tell the client's as long as the server has not heard it. */
static __always_inline bool decide_local(struct decision *d, struct flow *f, struct conn *e)
{
	struct conn *r = conn_at(link_at(d->at));

	if (!r)
		return false;
	decide_source(d, r->client, r->client_port);
	/* an ICMP error has no room for it, nor has a fragment, whose bytes are counted */
	d->tell = f->protocol == IPPROTO_TCP && !f->quoted && !f->fragment && f->event != TCP_EVENT_SYN &&
		  f->event != TCP_EVENT_RST && !(READ_ONCE(e->life) & LIFE_ANSWERED);
	return true;
}

/* The packet belongs to a connection, in a direction. */
static __always_inline void decide_conn(struct decision *d, struct flow *f, struct conn *e, enum direction dir)
{
	__u32 slot = READ_ONCE(e->server);
	struct server *server = bpf_map_lookup_elem(&servers, &slot);

	__u32 life = READ_ONCE(e->life);
	enum fate fate = FATE_GOES_ON;

	d->direction = dir;
	d->forward = life >> LIFE_FORWARD_SHIFT;
	if (!server)
		return;
	d->outcome = OUTCOME_DROP;
	d->reason = REASON_REMOVED;
	if (conn_is_unwell(server, f, life))
		fate = conn_fate(f, slot, life, dir);
	if (fate == FATE_DROPPED)
		return;
	d->server = fate == FATE_UNCOUNTED ? 0 : slot;
	if (dir == DIRECTION_OUTPUT) {
		decide_source(d, e->virtual, e->virtual_port);
		decide_destination(d, e->client, e->client_port);
	} else {
		decide_source(d, f->src, f->src_port);
		if (d->forward == FORWARD_FULLNAT && !decide_local(d, f, e))
			return;
		decide_destination(d, server->addr, conn_port(e, server));
	}
	d->reason = fate == FATE_RESET ? REASON_RESET : REASON_NONE;
	d->outcome = fate == FATE_RESET ? OUTCOME_RESET : OUTCOME_FORWARD;
}

static __always_inline void decide_output(struct decision *d, struct flow *f, struct plan *p)
{
	key_from_server(p, f, CONN_PLAIN);
	struct home h = p->home;
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);
	if (!s)
		return;
	struct conn *e = conn_find_answer(s, &p->key, h.line);
	if (!e || conn_expired(e, now()))
		return;
	d->at = h.segment * SEGMENT_LINES + line_of(s, e);
	decide_conn(d, f, e, DIRECTION_OUTPUT);
}

/* A packet to a local address of FULLNAT. */
static __always_inline void decide_return(struct decision *d, struct flow *f, struct plan *p)
{
	key_from_server(p, f, CONN_RETURN);
	struct home h = p->home;
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);
	if (!s)
		return;
	struct conn *r = conn_find(s, &p->key, h.line);
	if (!r)
		return;
	__u32 at = return_conn(h.segment * SEGMENT_LINES + line_of(s, r));
	struct conn *e = at == NO_LINE ? NULL : conn_at(at);
	if (!e) { /* for a moment the one is there without the other */
		d->outcome = OUTCOME_DROP;
		d->reason = REASON_TABLE_BUSY;
		return;
	}
	if (conn_expired(e, now()))
		return;
	d->at = at;
	decide_conn(d, f, e, DIRECTION_OUTPUT);
}

static __always_inline struct decision *decide_nothing(struct plan *p)
{
	struct decision *d = &p->decision;

	d->outcome = OUTCOME_PASS;
	d->reason = REASON_NONE;
	d->server = 0;
	d->tell = 0;
	d->at = NO_LINE;
	return d;
}

/* A client's packet, unless it may begin something, or its connection may be over. */
static __always_inline void known_input(struct decision *d, struct flow *f, struct plan *p)
{
	key_from_client(p, f);
	struct home h = p->home;
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);
	if (!s || f->opens || (settings.expire_nodest_conn && !f->quoted))
		return;
	struct conn *e = conn_find(s, &p->key, h.line);
	if (!e || conn_expired(e, now()))
		return;
	d->at = h.segment * SEGMENT_LINES + line_of(s, e);
	decide_conn(d, f, e, DIRECTION_INPUT);
}

enum known {
	KNOWN, /* the packet goes where its connection goes */
	KNOWN_NOTHING, /* it has no connection, and nothing could give it one */
	KNOWN_NOT, /* decide() has to tell; an ICMP error, which begins nothing, has been decided about */
};

/* What is known about a packet that has addresses of ours. */
__noinline int known(struct flow *f, struct plan *p, __u32 of_ours)
{
	if (!f || !p)
		return KNOWN_NOTHING;
	struct decision *d = decide_nothing(p);
	__u32 input = f->quoted ? OURS_VIRTUAL | OURS_MARK : OURS_VIRTUAL;
	if (of_ours & OURS_LOCAL)
		decide_return(d, f, p);
	if (!d->outcome && of_ours & input)
		known_input(d, f, p);
	if (!d->outcome && !d->reason && of_ours & OURS_SERVER && (of_ours == OURS_SERVER || f->quoted)) {
		decide_output(d, f, p);
		if (!d->outcome)
			return KNOWN_NOTHING;
	}
	return d->outcome == OUTCOME_FORWARD ? KNOWN : KNOWN_NOT;
}
