/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* decide.h - flow -> decision, for any packet: where known.h finds no connection that goes on, one that is over is ended, and a
 * service makes a new one. Never sees the packet itself, so it is verified once and shared by the hooks. */
#pragma once
#include "known.h"
#include "service.h"

/* A packet of a one-packet service: no entry, no load, and its answer is not known. Or one whose entry a dry run leaves out. */
static __always_inline void decide_once(struct decision *d, struct flow *f, struct plan *p)
{
	__u32 slot = p->server; /* Linux 6.1 takes no keys out of an argument */
	struct server *server = bpf_map_lookup_elem(&servers, &slot);

	if (p->template != NO_LINE)
		template_count(p->template, -1);
	if (!server)
		return;
	/* it counts for a moment, which a threshold may notice */
	load_begin(p->server, LOAD_INACTIVE);
	load_end(p->server, LOAD_INACTIVE);
	d->outcome = OUTCOME_FORWARD;
	d->direction = DIRECTION_INPUT;
	d->server = p->server;
	d->forward = server->forward;
	if (dry && d->forward == FORWARD_FULLNAT)
		decide_source(d, p->other.client, p->other.word);
	else
		decide_source(d, f->src, f->src_port);
	decide_destination(d, server->addr, keeps_port(server, f->dst_port) ? f->dst_port : server->port);
}

/* The states after a FIN or a RST: bits. */
enum { TCP_ENDING = 1 << TCP_FIN_WAIT | 1 << TCP_TIME_WAIT | 1 << TCP_CLOSE | 1 << TCP_CLOSE_WAIT | 1 << TCP_LAST_ACK };

/* Whether the packet begins a new connection in place of one that is all but over. */
static __always_inline bool conn_replaced_by(struct conn *e, struct flow *f)
{
	__u32 life = READ_ONCE(e->life), mode = settings.conn_reuse_mode;

	if (!f->opens || !mode || (life & LIFE_CONTROLLED && !(mode & REUSE_ENDING)))
		return false;
	if (f->protocol == IPPROTO_SCTP)
		return (life & LIFE_STATE) == SCTP_CLOSED;
	if (mode & REUSE_ENDING)
		return TCP_ENDING >> (life & LIFE_STATE) & 1;
	return (life & LIFE_STATE) == TCP_TIME_WAIT || (life & LIFE_STATE) == TCP_CLOSE ||
	       (mode & REUSE_OUTPUT_UNSEEN &&
		(life & (LIFE_STATE | LIFE_NO_OUTPUT)) == (TCP_FIN_WAIT | LIFE_NO_OUTPUT));
}

static __always_inline void decide_scheduled(struct decision *d, int scheduled)
{
	switch (scheduled) {
	case SCHEDULED_NO_CONN:
		d->reason = REASON_NO_CONN;
		return;
	case SCHEDULED_NO_CALL:
		d->reason = REASON_NO_CALL;
		d->outcome = OUTCOME_DROP;
		return;
	case SCHEDULED_NOT_YET:
		d->reason = REASON_UNSUPPORTED;
		return;
	case SCHEDULED_NO_SERVER:
		d->reason = REASON_NO_SERVER;
		d->outcome = OUTCOME_REFUSE;
		return;
	case SCHEDULED_NO_PORT:
		d->reason = REASON_NO_LOCAL_PORT;
		d->outcome = OUTCOME_REFUSE;
		return;
	case SCHEDULED_FULL:
		d->reason = REASON_TABLE_FULL;
		d->outcome = OUTCOME_DROP;
		return;
	case SCHEDULED_BUSY:
		d->reason = REASON_TABLE_BUSY;
		d->outcome = OUTCOME_DROP;
		return;
	}
}

/* A packet without a connection. Step by step, not nested, for the stack's sake. */
static __always_inline void decide_new(struct decision *d, struct flow *f, struct plan *p, struct segment *s)
{
	int i = service_of(f);
	if ((i >= 0 || i == SCHEDULED_NO_CALL) && !f->routed && settings.marks & (f->family == FAMILY_IPV4 ? 1 : 2)) {
		d->outcome = OUTCOME_ASK;
		return;
	}
	if (i >= 0 && defence_drops(p)) {
		d->outcome = OUTCOME_DROP;
		d->reason = REASON_DEFENCE;
		return;
	}
	if (i >= 0) {
		__u32 slot = p->service = i;
		struct service *v = bpf_map_lookup_elem(&services, &slot);
		if (!v)
			return;
		bool once = v->one_packet && f->protocol == IPPROTO_UDP;
		if (once && (f->early || f->quoted)) /* an error is about a packet whose server is not known any more */
			return;
		i = choose(f, p, v);
		bool chosen = !i;
		if (chosen && !once && p->forward == FORWARD_FULLNAT && pool_take(f, p)) {
			if (p->template != NO_LINE)
				template_count(p->template, -1);
			i = SCHEDULED_NO_PORT;
		} else if (chosen && !once) {
			i = schedule(f, p);
		}
		if (chosen && (once || i == SCHEDULED_DRY)) {
			decide_once(d, f, p);
			return;
		}
	}
	if (i < 0) {
		decide_scheduled(d, i);
		return;
	}
	d->at = p->home.segment * SEGMENT_LINES + i;
	decide_conn(d, f, line_at(s, i), DIRECTION_INPUT);
}

static __always_inline void decide_input(struct decision *d, struct flow *f, struct plan *p)
{
	struct home h = p->home = key_from_client(&p->key, f);
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);
	struct guard *g = bpf_map_lookup_elem(&guards, &h.segment);
	if (!s || !g)
		return;
	p->version = READ_ONCE(g->version);
	barrier();
	struct conn *home = line_at(s, h.line);
	p->alone = !READ_ONCE(home->hop) && !READ_ONCE(home->overflow);
	struct conn *e = conn_find(s, &p->key, h.line);
	bool over = e && (conn_expired(e, now()) || conn_replaced_by(e, f));
	if (e && !over && conn_deserted(f, READ_ONCE(e->server), READ_ONCE(e->life))) {
		if (f->early) /* the next one may be deserted as well, and is not to be made twice */
			return;
		over = true;
	}
	if (over) {
		conn_retire(s, h.segment, line_of(s, e));
		p->version--; /* another CPU may have had it go on: it is to be looked for again */
		e = NULL;
	}
	if (e) {
		d->at = h.segment * SEGMENT_LINES + line_of(s, e);
		decide_conn(d, f, e, DIRECTION_INPUT);
		return;
	}
	decide_new(d, f, p, s);
}

/* Decides about a packet that has addresses of ours. */
__noinline int decide(struct flow *f, struct plan *p)
{
	__u32 zero = 0;
	struct address_kinds *o = bpf_map_lookup_elem(&ours, &zero);

	if (!f || !p || !o)
		return OUTCOME_PASS;
	struct decision *d = &p->decision;
	__u32 of_ours = f->ours;
	decide_nothing(d);
	if (of_ours & OURS_LOCAL)
		decide_output(f, p, CONN_RETURN);
	if (!d->outcome && of_ours & (OURS_VIRTUAL | OURS_MARK)) {
		decide_input(d, f, p);
		/* a mark brings packets to any address, whose later ones are to be known at once */
		if (!(of_ours & OURS_VIRTUAL) && d->at != NO_LINE && !dry)
			ours_add(o, f->dst, OURS_VIRTUAL);
	}
	if (!d->outcome && !d->reason && of_ours & OURS_SERVER)
		decide_output(f, p, CONN_PLAIN);
	return d->outcome;
}
