/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* service.h - flow -> decision: the connection that a packet belongs to, or the service that makes it one. Never sees
 * the packet itself, so it is verified once and shared by the hooks. */
#pragma once
#include "sched.h"
#include "template.h"

enum outcome {
	OUTCOME_PASS, /* not ours, or left to the kernel for a reason */
	OUTCOME_FORWARD, /* to be rewritten and sent */
	OUTCOME_REFUSE, /* no server: to be answered with ICMP port unreachable */
	OUTCOME_DROP,
	OUTCOME_ASK, /* begins a connection; which service makes it is known when the firewall has marked it */
};

struct decision {
	__u64 src[2], dst[2]; /* FORWARD: the packet's addresses when it leaves */
	struct conn *conn;
	__u32 outcome;
	__u32 reason;
	__u32 server; /* that the packet counts for; 0 is none */
	__u32 direction;
	__u16 src_port, dst_port;
	__u32 forward;
	__u32 at; /* the connection's line of the whole table */
};

static __always_inline void decide_source(struct decision *d, const __u64 addr[2], __u16 port)
{
	d->src[0] = addr[0];
	d->src[1] = addr[1];
	d->src_port = port;
}

static __always_inline void decide_destination(struct decision *d, const __u64 addr[2], __u16 port)
{
	d->dst[0] = addr[0];
	d->dst[1] = addr[1];
	d->dst_port = port;
}

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

/* What schedule() answers beyond a line of the segment. */
enum {
	SCHEDULED_NOT = -1,
	SCHEDULED_NO_SERVER = -2,
	SCHEDULED_FULL = -3,
	SCHEDULED_BUSY = -4,
	SCHEDULED_NOT_YET = -5,
	SCHEDULED_NO_CONN = -6
};

/* Whether a TCP segment begins a connection: also one with ACK, as of active FTP, but none with RST. */
static __always_inline bool begins(struct flow *f)
{
	return (f->tcp_flags & (TCP_SYN | TCP_RST)) == TCP_SYN;
}

/* Whether the way that a server is reached by is one that this program has. */
static __always_inline bool forward_built(const struct server *d)
{
	switch (d->forward) {
	case FORWARD_MASQ:
	case FORWARD_ROUTE:
	case FORWARD_TUNNEL:
		return true;
	}
	return false;
}

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

/* Whether a connection to a server keeps the port that the client asked for. */
static __always_inline bool keeps_port(const struct server *d, __u16 port)
{
	__u32 service = d->service;
	struct service *v = bpf_map_lookup_elem(&services, &service);

	return !d->port || (v && v->persistent && v->key.port != port);
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
	return e ? conn_retire(s, p->home.segment, line_of(s, e)) : 0;
}

/* The slot of the service that makes a connection of a packet, or a negative of the above. */
__noinline int service_of(struct flow *f)
{
	if (!f)
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
	if (f->protocol == IPPROTO_TCP && !begins(f) && (!settings.sloppy_tcp || f->tcp_flags & TCP_RST))
		return SCHEDULED_NO_CONN;
	__u32 service = *slot;
	struct service *v = bpf_map_lookup_elem(&services, &service);
	/* a server's FTP data connection was begun by the server, and is not scheduled */
	if (!v || f->src_port == bpf_htons(FTP_DATA_PORT))
		return SCHEDULED_NOT;
	/* the data connections of FTP follow the others only by a template */
	if (v->key.port && v->key.port != f->dst_port && !v->persistent)
		return SCHEDULED_NOT;
	if (v->persistent && v->engine)
		return SCHEDULED_NOT_YET;
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
	__u32 life = life_begin(f, d->forward) | (keeps_port(d, f->dst_port) ? LIFE_SAME_PORT : 0);
	if (p->template != NO_TEMPLATE)
		life |= LIFE_CONTROLLED;
	p->data.life = life;
	p->data.server = p->server;
	p->data.expires = now() + timeout_of(f->protocol, life & LIFE_STATE);
	p->data.home = p->home.line;
	p->data.link = p->template;
	if (d->forward == FORWARD_MASQ)
		conn_give_way(p);
	int i = conn_insert(s, g, l, &p->key, &p->data);
	if (i >= 0 && !(i & INSERT_EXISTS)) {
		load_begin(p->server, life & LIFE_ACTIVE ? LOAD_ACTIVE : LOAD_INACTIVE);
		return i;
	}
	if (p->template != NO_TEMPLATE)
		template_count(p->template, -1);
	if (i >= 0)
		return i & (SEGMENT_LINES - 1);
	return i == INSERT_FULL ? SCHEDULED_FULL : SCHEDULED_BUSY;
}

/* Finds the plan's server, with the template if the service is persistent: 0, or a negative of the above. */
static __always_inline int choose(struct flow *f, struct plan *p, struct service *v)
{
	p->template = NO_TEMPLATE;
	p->server = template_server(f, p);
	if (!p->server)
		p->server = pick_server(f, p->service);
	struct server *d = bpf_map_lookup_elem(&servers, &p->server);
	if (!p->server || !d)
		return SCHEDULED_NO_SERVER;
	if (!forward_built(d))
		return SCHEDULED_NOT_YET;
	int e = v->persistent ? template_hold(f, p) : 0;
	return e == INSERT_FULL ? SCHEDULED_FULL : e ? SCHEDULED_BUSY : 0;
}

/* A packet of a one-packet service: no entry, no load, and its answer is not known. */
static __always_inline void decide_once(struct decision *d, struct flow *f, struct plan *p)
{
	struct server *server = bpf_map_lookup_elem(&servers, &p->server);

	if (p->template != NO_TEMPLATE)
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
	decide_source(d, f->src, f->src_port);
	decide_destination(d, server->addr, keeps_port(server, f->dst_port) ? f->dst_port : server->port);
}

/* Whether the packet begins a new connection in place of one that is all but over. */
static __always_inline bool conn_replaced_by(struct conn *e, struct flow *f)
{
	__u32 life = READ_ONCE(e->life), mode = settings.conn_reuse_mode;

	if (f->protocol != IPPROTO_TCP || !begins(f) || !mode || life & LIFE_CONTROLLED)
		return false;
	return (life & LIFE_STATE) == TCP_TIME_WAIT || (life & LIFE_STATE) == TCP_CLOSE ||
	       (mode & 2 && (life & (LIFE_STATE | LIFE_NO_OUTPUT)) == (TCP_FIN_WAIT | LIFE_NO_OUTPUT));
}

/* Whether a connection is over because its server is gone, or quiesced and the packet would begin a new one. */
static __always_inline bool conn_deserted(struct conn *e, struct flow *f)
{
	__u32 slot = READ_ONCE(e->server);
	struct server *d = bpf_map_lookup_elem(&servers, &slot);

	return d && (d->use != SLOT_LIVE || (!d->weight && f->protocol == IPPROTO_TCP && begins(f)));
}

/* The packet belongs to a connection, in a direction. */
static __always_inline void decide_conn(struct decision *d, struct flow *f, struct conn *e, enum direction dir)
{
	__u32 slot = READ_ONCE(e->server);
	struct server *server = bpf_map_lookup_elem(&servers, &slot);

	d->conn = e;
	d->direction = dir;
	d->forward = READ_ONCE(e->life) >> LIFE_FORWARD_SHIFT;
	if (!server)
		return;
	d->server = server->use == SLOT_LIVE ? slot : 0;
	d->outcome = OUTCOME_DROP;
	if (dir == DIRECTION_OUTPUT) {
		decide_source(d, e->virtual, e->virtual_port);
		decide_destination(d, f->dst, f->dst_port);
	} else {
		d->reason = REASON_REMOVED;
		if (!d->server)
			return;
		decide_source(d, f->src, f->src_port);
		decide_destination(d, server->addr, conn_port(e, server));
	}
	d->reason = REASON_NONE;
	d->outcome = OUTCOME_FORWARD;
}

static __always_inline void decide_scheduled(struct decision *d, int scheduled)
{
	switch (scheduled) {
	case SCHEDULED_NO_CONN:
		d->reason = REASON_NO_CONN;
		return;
	case SCHEDULED_NOT_YET:
		d->reason = REASON_UNSUPPORTED;
		return;
	case SCHEDULED_NO_SERVER:
		d->reason = REASON_NO_SERVER;
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
	if (i >= 0 && !f->routed && settings.marks & (f->family == FAMILY_IPV4 ? 1 : 2)) {
		d->outcome = OUTCOME_ASK;
		return;
	}
	if (i >= 0) {
		p->service = i;
		struct service *v = bpf_map_lookup_elem(&services, &p->service);
		if (!v)
			return;
		bool once = v->one_packet && f->protocol == IPPROTO_UDP;
		if (once && f->early)
			return;
		i = choose(f, p, v);
		if (!i && once) {
			decide_once(d, f, p);
			return;
		}
		if (!i)
			i = schedule(f, p);
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
	p->key.word = key_word(f->src_port, f->dst_port, f->protocol, CONN_PLAIN);
	p->key.client[0] = f->src[0];
	p->key.client[1] = f->src[1];
	p->key.virtual[0] = f->dst[0];
	p->key.virtual[1] = f->dst[1];
	struct home h = home_of(&p->key);
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);
	if (!s)
		return;
	struct conn *e = conn_find(s, &p->key, h.line);
	bool over = e && (conn_expired(e, now()) || conn_replaced_by(e, f));
	if (e && !over && settings.expire_nodest_conn && conn_deserted(e, f)) {
		if (f->early) /* the next one may be deserted as well, and is not to be made twice */
			return;
		over = true;
	}
	if (over) {
		conn_retire(s, h.segment, line_of(s, e));
		e = NULL;
	}
	if (e) {
		d->at = h.segment * SEGMENT_LINES + line_of(s, e);
		decide_conn(d, f, e, DIRECTION_INPUT);
		return;
	}
	p->home = h;
	decide_new(d, f, p, s);
}

static __always_inline void decide_output(struct decision *d, struct flow *f, struct plan *p)
{
	p->key.word = key_word(f->dst_port, f->src_port, f->protocol, CONN_PLAIN);
	p->key.client[0] = f->dst[0];
	p->key.client[1] = f->dst[1];
	p->key.virtual[0] = f->src[0];
	p->key.virtual[1] = f->src[1];
	struct home h = home_of(&p->key);
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);
	if (!s)
		return;
	struct conn *e = conn_find_answer(s, &p->key, h.line);
	if (!e || conn_expired(e, now()))
		return;
	d->at = h.segment * SEGMENT_LINES + line_of(s, e);
	decide_conn(d, f, e, DIRECTION_OUTPUT);
}

static __always_inline void decide(struct decision *d, struct flow *f)
{
	__u32 zero = 0;
	struct address_bits *o = bpf_map_lookup_elem(&ours, &zero);
	struct plan *p = bpf_map_lookup_elem(&plans, &zero);

	__builtin_memset(d, 0, sizeof(*d));
	if (!o || !p)
		return;
	bool known = ours_has(o->virtual, f->dst);
	if (known || (f->routed && f->mark)) {
		decide_input(d, f, p);
		/* a mark brings packets to any address, whose later ones are to be known at once */
		if (!known && d->conn)
			ours_add(o->virtual, f->dst);
	}
	if (d->outcome == OUTCOME_PASS && !d->reason && ours_has(o->server, f->src))
		decide_output(d, f, p);
}
