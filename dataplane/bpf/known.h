/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* known.h - flow -> decision, for a packet of a connection that is there: in which direction it goes, and what it becomes. */
#pragma once
#include "control.h"
#include "dead.h"
#include "plan.h"

static __always_inline __u32 ours_hash(const __u64 addr[2])
{
	return ((addr[0] ^ addr[1]) * 0x9e3779b97f4a7c15ULL) >> (64 - OURS_SHIFT);
}

/* What of ours an address may be: bits. */
static __always_inline __u8 ours_kinds(const struct address_kinds *o, const __u64 addr[2])
{
	return ((const __u8 *)o->four)[ours_hash(addr)];
}

static __always_inline void ours_add(struct address_kinds *o, const __u64 addr[2], enum ours_kind kind)
{
	__u32 i = ours_hash(addr);

	__sync_fetch_and_or(&o->four[i / 4 & (OURS / 4 - 1)], (__u32)kind << i % 4 * 8);
}

/* The packet is marked; beside the bits of enum ours_kind. */
enum { OURS_MARK = 8 };

/* What a packet has to do with addresses of ours: bits. */
static __always_inline __u32 ours_of(struct flow *f)
{
	__u32 zero = 0;
	struct address_kinds *o = bpf_map_lookup_elem(&ours, &zero);

	if (!o)
		return 0;
	return (ours_kinds(o, f->dst) & (OURS_VIRTUAL | OURS_LOCAL)) | (ours_kinds(o, f->src) & OURS_SERVER) |
	       (f->routed && f->mark ? OURS_MARK : 0);
}

/* Whether anybody asks whose a packet of a server is that no connection has (stray.h). */
static __always_inline bool strays_count(void)
{
	return settings.calls || settings.nat_icmp_send;
}

static __always_inline struct home key_from_client(struct conn_key *k, struct flow *f)
{
	k->word = key_word(f->src_port, f->dst_port, f->protocol, CONN_PLAIN);
	k->client[0] = f->src[0];
	k->client[1] = f->src[1];
	k->virtual[0] = f->dst[0];
	k->virtual[1] = f->dst[1];
	return home_of(k);
}

static __always_inline struct home key_from_server(struct conn_key *k, struct flow *f, enum conn_kind kind)
{
	k->word = key_word(f->dst_port, f->src_port, f->protocol, kind);
	k->client[0] = f->dst[0];
	k->client[1] = f->dst[1];
	k->virtual[0] = f->src[0];
	k->virtual[1] = f->src[1];
	return home_of(k);
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

/* The packet goes where its connection goes: to the server, or to the client; or nowhere for a moment. */
static __always_inline bool decide_way(struct decision *d, struct flow *f, struct conn *e, const struct server *server)
{
	if (d->direction == DIRECTION_OUTPUT) {
		decide_source(d, e->virtual, e->virtual_port);
		decide_destination(d, e->client, e->client_port);
	} else {
		decide_source(d, f->src, f->src_port);
		if (d->forward == FORWARD_FULLNAT && !decide_local(d, f, e))
			return false;
		decide_destination(d, server->addr, conn_port(e, server));
	}
	return true;
}

/* The packet belongs to a connection, in a direction. */
static __always_inline void decide_conn(struct decision *d, struct flow *f, struct conn *e, enum direction dir)
{
	__u32 slot = READ_ONCE(e->server), life = READ_ONCE(e->life);
	struct server *server = bpf_map_lookup_elem(&servers, &slot);
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
	if (!decide_way(d, f, e, server))
		return;
	d->outcome = fate == FATE_RESET ? OUTCOME_RESET : OUTCOME_FORWARD;
	d->reason = fate == FATE_RESET ? REASON_RESET : REASON_NONE;
}

/* The connection in a segment's line, if it is not past its time. */
static __always_inline struct conn *find_live(struct decision *d, struct segment *s, __u32 segment, struct conn *e,
					      __u32 jiffies)
{
	if (!e || conn_expired(e, jiffies))
		return NULL;
	d->at = segment * SEGMENT_LINES + line_of(s, e);
	return e;
}

/* Of a client's packet. Keeps the key where functions may read it. */
static __always_inline struct conn *find_of_client(struct decision *d, struct flow *f, struct conn_key *kept,
						   __u32 jiffies)
{
	struct conn_key k;
	struct home h = key_from_client(&k, f);
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);

	return s ? find_live(d, s, h.segment, conn_find_kept(s, &k, kept, h.line), jiffies) : NULL;
}

/* Of a server's packet, with NAT. */
static __always_inline struct conn *find_of_server(struct decision *d, struct flow *f, struct conn_key *kept,
						   __u32 jiffies)
{
	struct conn_key k;
	struct home h = key_from_server(&k, f, CONN_PLAIN);
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);

	return s ? find_live(d, s, h.segment, conn_find_answer_kept(s, &k, kept, h.line), jiffies) : NULL;
}

/* Of a packet to a local address of FULLNAT. */
static __always_inline struct conn *find_of_return(struct decision *d, struct flow *f, struct conn_key *kept,
						   __u32 jiffies)
{
	struct conn_key k;
	struct home h = key_from_server(&k, f, CONN_RETURN);
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);
	if (!s)
		return NULL;
	struct conn *r = conn_find_kept(s, &k, kept, h.line);
	if (!r)
		return NULL;
	__u32 at = return_conn(h.segment * SEGMENT_LINES + line_of(s, r));
	struct conn *e = at == NO_LINE ? NULL : conn_at(at);
	if (!e) { /* for a moment the one is there without the other */
		d->outcome = OUTCOME_DROP;
		d->reason = REASON_TABLE_BUSY;
		return NULL;
	}
	if (conn_expired(e, jiffies))
		return NULL;
	d->at = at;
	return e;
}

static __always_inline void decide_nothing(struct decision *d)
{
	d->outcome = OUTCOME_PASS;
	d->reason = REASON_NONE;
	d->server = 0;
	d->tell = 0;
	d->begun = 0;
	d->direction = DIRECTION_INPUT;
	d->at = NO_LINE;
}

/* Decides about a packet of a connection's server: with NAT, or to a local address of FULLNAT. */
static __always_inline void decide_answer(struct decision *d, struct flow *f, struct plan *p, enum conn_kind kind)
{
	struct conn *e =
		kind == CONN_RETURN ? find_of_return(d, f, &p->key, now()) : find_of_server(d, f, &p->key, now());
	if (e)
		decide_conn(d, f, e, DIRECTION_OUTPUT);
}

/* The same as a function, in whose frame there is room for it. */
__noinline int decide_output(struct flow *f, struct plan *p, enum conn_kind kind)
{
	if (f && p)
		decide_answer(&p->decision, f, p, kind);
	return 0;
}

/* Decides about an ICMP error, which begins nothing. */
__noinline int decide_related(struct flow *f, struct plan *p)
{
	if (!f || !p)
		return OUTCOME_PASS;
	struct decision *d = &p->decision;
	__u32 of_ours = f->ours;
	decide_nothing(d);
	if (of_ours & OURS_LOCAL)
		decide_answer(d, f, p, CONN_RETURN);
	if (!d->outcome && of_ours & (OURS_VIRTUAL | OURS_MARK)) {
		struct conn *e = find_of_client(d, f, &p->key, now());
		if (e)
			decide_conn(d, f, e, DIRECTION_INPUT);
	}
	if (!d->outcome && !d->reason && of_ours & OURS_SERVER)
		decide_answer(d, f, p, CONN_PLAIN);
	return d->outcome;
}
