/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* stray.h - packets of servers that belong to no connection: with --pe sip they begin one, for a server may call, too; else the server is told
 * if nat_icmp_send is set. On tc only. */
#pragma once
#include "decide.h"

/* Whether the sender is to hear that there is no connection: who says the same is not. */
static __always_inline bool stray_is_told(struct flow *f)
{
	if (f->follows || f->quoted || f->fragment == FRAGMENT_LATER)
		return false;
	if (f->protocol == IPPROTO_TCP)
		return f->event != TCP_EVENT_RST;
	return f->protocol != IPPROTO_SCTP || f->event != SCTP_EVENT_ABORT;
}

/* Makes the connection of a call that the plan's server begins, whose flow is turned round: the line of the whole table, NO_LINE
 * for a service whose packets have none, or a negative of enum SCHEDULED. */
static __always_inline int call_back(struct flow *f, struct plan *p, bool once)
{
	__u32 server = p->server;

	p->template = NO_LINE;
	int held = template_hold(f, p, true);
	if (held)
		return held == INSERT_FULL ? SCHEDULED_FULL : SCHEDULED_BUSY;
	p->server = server; /* whoever the call's other packets go to */
	p->forward = FORWARD_MASQ;
	if (once) {
		struct conn *t = p->template == NO_LINE ? NULL : conn_at(p->template);
		if (t && !dry)
			__sync_fetch_and_or(&t->life, TEMPLATE_ASSURED);
		if (t)
			template_count(p->template, -1);
		return SCHEDULED_DRY;
	}
	p->home = key_from_client(&p->key, f);
	__u32 segment = p->home.segment;
	struct segment *s = bpf_map_lookup_elem(&conns, &segment);
	struct guard *g = bpf_map_lookup_elem(&guards, &segment);
	if (!s || !g)
		return SCHEDULED_BUSY;
	struct conn *e = conn_find(s, &p->key, p->home.line);
	if (e &&
	    (conn_expired(e, now()) || READ_ONCE(e->server) != server)) /* the client's port is with who spoke last */
		conn_retire(s, segment, line_of(s, e));
	p->version = READ_ONCE(g->version) - 1; /* it is looked for again, and may be there */
	p->alone = false;
	return schedule(f, p);
}

/* A call that a server begins, which is that of a service by calls: it leaves from the service's address. */
static __always_inline void decide_call_back(struct flow *f, struct plan *p, const struct service_key *from)
{
	__u32 service = p->service;
	struct service *v = bpf_map_lookup_elem(&services, &service);
	struct decision *d = &p->decision;

	if (!v || !v->engine || !v->persistent || v->key.mark)
		return;
	bool once = v->one_packet;
	f->src[0] = f->dst[0];
	f->src[1] = f->dst[1];
	f->src_port = f->dst_port;
	f->dst[0] = v->key.addr[0];
	f->dst[1] = v->key.addr[1];
	f->dst_port = v->key.port;
	int i = call_back(f, p, once);
	f->dst[0] = f->src[0];
	f->dst[1] = f->src[1];
	f->dst_port = f->src_port;
	f->src[0] = from->addr[0];
	f->src[1] = from->addr[1];
	f->src_port = from->port;
	d->begun = 0; /* it has not seen this packet, which goes the other way */
	if (i == SCHEDULED_DRY) {
		load_begin(p->server, LOAD_INACTIVE);
		load_end(p->server, LOAD_INACTIVE);
		d->outcome = OUTCOME_FORWARD;
		d->direction = DIRECTION_OUTPUT;
		d->server = p->server;
		d->forward = FORWARD_MASQ;
		decide_source(d, v->key.addr, v->key.port);
		decide_destination(d, f->dst, f->dst_port);
		return;
	}
	if (i < 0) {
		decide_scheduled(d, i);
		return;
	}
	__u32 segment = p->home.segment;
	struct segment *s = bpf_map_lookup_elem(&conns, &segment);
	if (!s)
		return;
	d->at = segment * SEGMENT_LINES + i;
	decide_conn(d, f, line_at(s, i), DIRECTION_OUTPUT);
}

/* Decides about a packet that comes from a server's address, and that no connection has. */
__noinline int decide_stray(struct flow *f, struct plan *p)
{
	if (!f || !p)
		return OUTCOME_PASS;
	struct service_key from = { .port = f->src_port, .protocol = f->protocol, .family = f->family };
	from.addr[0] = f->src[0];
	from.addr[1] = f->src[1];
	struct real *r = bpf_map_lookup_elem(&reals, &from);
	struct decision *d = &p->decision;
	if (!r)
		return OUTCOME_PASS;
	__u32 slot = p->server = r->server;
	struct server *server = bpf_map_lookup_elem(&servers, &slot);
	if (!server || server->use != SLOT_LIVE)
		return OUTCOME_PASS;
	p->service = server->service;
	if (f->call)
		decide_call_back(f, p, &from);
	if (!d->outcome && !d->reason && settings.nat_icmp_send && stray_is_told(f)) {
		d->outcome = OUTCOME_REFUSE;
		d->reason = REASON_NO_CONN;
		d->direction = DIRECTION_OUTPUT;
		if (r->source[1])
			decide_source(d, r->source, 0);
		else
			decide_source(d, f->dst, 0);
	}
	return d->outcome;
}

static __always_inline bool is_stray(struct flow *f, struct decision *d)
{
	return f->ours & OURS_SERVER && !d->outcome && !d->reason && strays_count() && !f->quoted &&
	       f->fragment != FRAGMENT_LATER && !last_hop(f);
}

/* Whether a packet of a server goes no further: it is for the director itself, which may have asked for it, to see whether the server is
 * well; or it has no way. */
static __noinline int stray_ends_here(struct __sk_buff *skb, const __u64 *src, const __u64 *dst)
{
	struct bpf_fib_lookup fib = { .ifindex = loopback, .l4_protocol = IPPROTO_TCP, .tot_len = 20 };

	fib_between(&fib, src, dst);
	long e = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	return e != BPF_FIB_LKUP_RET_SUCCESS && e != BPF_FIB_LKUP_RET_NO_NEIGH;
}

/* Whether an ICMP error is to begin the connection that it is about and that is not there: schedule_icmp, of use where many directors
 * share an address. The program for usual packets has what makes one. */
static __always_inline bool begins_by_error(struct flow *f, struct decision *d)
{
	return settings.schedule_icmp && !d->outcome && !d->reason && f->ours & (OURS_VIRTUAL | OURS_MARK) &&
	       !is_relayed(f);
}
