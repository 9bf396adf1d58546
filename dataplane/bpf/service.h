/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* service.h - flow -> decision: the connection that a packet belongs to, or the service that makes it one. Never sees
 * the packet itself, so it is verified once and shared by the hooks. */
#pragma once
#include "sched.h"
#include "tcp.h"

enum outcome {
	OUTCOME_PASS, /* not ours, or left to the kernel for a reason */
	OUTCOME_FORWARD, /* to be rewritten and sent */
	OUTCOME_REFUSE, /* no server: to be answered with ICMP port unreachable */
	OUTCOME_DROP,
};

struct decision {
	__u64 addr[2]; /* FORWARD: the new destination (input) or source (output) */
	struct conn *conn;
	__u32 outcome;
	__u32 reason;
	__u32 server; /* that the packet counts for; 0 is none */
	__u32 direction;
	__u16 port;
	__u16 forward;
	__u32 spare;
};

static __always_inline __u32 ours_bit(const __u64 addr[2])
{
	return ((addr[0] ^ addr[1]) * 0x9e3779b97f4a7c15ULL) >> (64 - 15);
}

static __always_inline bool ours_has(const __u64 *words, const __u64 addr[2])
{
	__u32 bit = ours_bit(addr);

	return words[(bit / 64) & (OURS_WORDS - 1)] >> (bit & 63) & 1;
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
		return true;
	case FORWARD_TUNNEL:
		return !d->tunnel_checksum;
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
	struct conn_seen seen = { line & (SEGMENT_LINES - 1), READ_ONCE(e->own), READ_ONCE(e->expires), now() };
	return conn_end(s, g, e, &seen);
}

/* Whether connections to a server keep the port that the client asked for. */
static __always_inline bool keeps_port(const struct server *d)
{
	__u32 service = d->service;
	struct service *v = bpf_map_lookup_elem(&services, &service);

	return !d->port || (v && v->persistent && !v->key.port);
}

/* A new connection from a client's port to a server's ends an older one between the two, to another address or port of ours:
 * no answer could be told from the other's. */
__noinline int conn_give_way(struct segment *s, struct conn_key *k, __u32 segment, __u32 line, __u32 server)
{
	struct server *d = bpf_map_lookup_elem(&servers, &server);

	if (!s || !k || !d)
		return 0;
	/* the answer's key in place of the packet's: there is no stack for both */
	__u64 word = k->word, high = k->virtual[0], low = k->virtual[1];
	if (!keeps_port(d))
		k->word = (word & ~0xffff0000ULL) | (__u64)d->port << 16;
	k->virtual[0] = d->addr[0];
	k->virtual[1] = d->addr[1];
	struct conn *e = conn_find_answer(s, k, line);
	k->word = word;
	k->virtual[0] = high;
	k->virtual[1] = low;
	return e ? conn_retire(s, segment, ((__u64)e - (__u64)s) / sizeof(*e)) : 0;
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
	if (!slot) {
		sk.addr[0] = f->dst[0];
		sk.addr[1] = f->dst[1];
		sk.mark = 0;
		sk.protocol = f->protocol;
		sk.port = f->dst_port;
		slot = bpf_map_lookup_elem(&service_slots, &sk);
	}
	if (!slot) {
		sk.port = 0;
		slot = bpf_map_lookup_elem(&service_slots, &sk);
	}
	if (!slot)
		return SCHEDULED_NOT;
	if (f->protocol == IPPROTO_TCP && !begins(f))
		return SCHEDULED_NO_CONN;
	__u32 service = *slot;
	struct service *v = bpf_map_lookup_elem(&services, &service);
	if (!v)
		return SCHEDULED_NOT;
	if (v->persistent || v->one_packet)
		return SCHEDULED_NOT_YET;
	return service;
}

/* Makes a connection to a server: the entry's line in its segment, or a negative of the above. */
__noinline int schedule(struct flow *f, struct conn_key *k, __u32 segment, __u32 line, __u32 server)
{
	struct segment *s = bpf_map_lookup_elem(&conns, &segment);
	struct guard *g = bpf_map_lookup_elem(&guards, &segment);
	struct server *d = bpf_map_lookup_elem(&servers, &server);

	if (!f || !k || !s || !g)
		return SCHEDULED_NOT;
	if (!server || !d)
		return SCHEDULED_NO_SERVER;
	if (!forward_built(d))
		return SCHEDULED_NOT_YET;
	__u32 life = life_begin(f, d->forward) | (keeps_port(d) ? LIFE_SAME_PORT : 0);
	struct conn_data data = { .life = life,
				  .server = server,
				  .expires = now() + timeout_of(f->protocol, life & LIFE_STATE),
				  .home = line };
	if (d->forward == FORWARD_MASQ)
		conn_give_way(s, k, segment, line, server);
	int i = conn_insert(s, g, k, &data);
	if (i == INSERT_FULL)
		return SCHEDULED_FULL;
	if (i < 0)
		return SCHEDULED_BUSY;
	if (!(i & INSERT_EXISTS))
		load_begin(server, life & LIFE_ACTIVE);
	return i & (SEGMENT_LINES - 1);
}

static __always_inline bool conn_replaced_by(struct conn *e, struct flow *f)
{
	__u32 state = READ_ONCE(e->life) & LIFE_STATE;

	return f->protocol == IPPROTO_TCP && begins(f) && (state == TCP_TIME_WAIT || state == TCP_CLOSE);
}

static __always_inline __u32 line_of(struct segment *s, struct conn *e)
{
	return ((__u64)e - (__u64)s) / sizeof(*e);
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
		d->addr[0] = e->virtual[0];
		d->addr[1] = e->virtual[1];
		d->port = e->virtual_port;
	} else {
		d->reason = REASON_REMOVED;
		if (!d->server)
			return;
		d->addr[0] = server->addr[0];
		d->addr[1] = server->addr[1];
		d->port = conn_port(e, server);
	}
	d->reason = REASON_NONE;
	d->outcome = OUTCOME_FORWARD;
}

static __always_inline void decide_input(struct decision *d, struct flow *f)
{
	struct conn_key k = { .word = key_word(f->src_port, f->dst_port, f->protocol, CONN_PLAIN),
			      .client = { f->src[0], f->src[1] },
			      .virtual = { f->dst[0], f->dst[1] } };
	struct home h = home_of(&k);
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);

	if (!s)
		return;
	struct conn *e = conn_find(s, &k, h.line);
	if (e && (conn_expired(e, now()) || conn_replaced_by(e, f))) {
		conn_retire(s, h.segment, line_of(s, e));
		e = NULL;
	}
	if (e) {
		decide_conn(d, f, e, DIRECTION_INPUT);
		return;
	}
	/* step by step, not nested, for the stack's sake */
	int i = service_of(f);
	if (i >= 0)
		i = schedule(f, &k, h.segment, h.line, pick_server(f, i));
	switch (i) {
	case SCHEDULED_NOT:
		return;
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
	decide_conn(d, f, line_at(s, i), DIRECTION_INPUT);
}

static __always_inline void decide_output(struct decision *d, struct flow *f)
{
	struct conn_key k = { .word = key_word(f->dst_port, f->src_port, f->protocol, CONN_PLAIN),
			      .client = { f->dst[0], f->dst[1] },
			      .virtual = { f->src[0], f->src[1] } };
	struct home h = home_of(&k);
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);

	if (!s)
		return;
	struct conn *e = conn_find_answer(s, &k, h.line);
	if (e && !conn_expired(e, now()))
		decide_conn(d, f, e, DIRECTION_OUTPUT);
}

static __always_inline void decide(struct decision *d, struct flow *f)
{
	__u32 zero = 0;
	struct address_bits *o = bpf_map_lookup_elem(&ours, &zero);

	__builtin_memset(d, 0, sizeof(*d));
	if (!o)
		return;
	if (ours_has(o->virtual, f->dst))
		decide_input(d, f);
	if (d->outcome == OUTCOME_PASS && !d->reason && ours_has(o->server, f->src))
		decide_output(d, f);
}
