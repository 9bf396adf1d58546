/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* forward.h - what becomes of a packet once it is decided about: route -> rewrite -> count -> send, or answer, or drop. */
#pragma once
#include "dry.h"
#include "icmp.h"
#include "quote.h"
#include "route.h"
#include "split.h"
#include "toa.h"
#include "tunnel.h"

static const struct icmp_error port_unreachable = { 3, 3, 1, 4, 0 };
static const struct icmp_error host_unreachable = { 3, 1, 1, 3, 0 };
static const struct icmp_error time_exceeded = { 11, 0, 3, 0, 0 };

/* Left to the kernel. XDP leaves it to tc, which comes to the same decision and counts it. */
static __always_inline int leave(struct packet *p, enum reason why)
{
	if (p->hook == HOOK_TC && why)
		count_reason(why);
	return packet_pass(p);
}

static __always_inline int drop(struct packet *p, enum reason why)
{
	count_reason(why);
	return packet_drop(p);
}

/* Neither errors nor later fragments are answered (RFC 1122, 3.2.2). */
static __always_inline int refuse_from(struct packet *p, struct flow *f, const struct icmp_error *e, enum reason why,
				       const __u64 from[2])
{
	if (p->hook == HOOK_XDP)
		return packet_pass(p);
	if (f->quoted || f->fragment == FRAGMENT_LATER)
		return drop(p, why);
	if (!icmp_allowed())
		return drop(p, why == REASON_NO_SERVER ? REASON_NO_SERVER_QUIET : why);
	count_reason(why);
	return icmp_answer(p, f, e, from);
}

static __always_inline int refuse(struct packet *p, struct flow *f, const struct icmp_error *e, enum reason why)
{
	return refuse_from(p, f, e, why, f->dst);
}

static __always_inline int translate(struct packet *p, struct flow *f, struct decision *d)
{
	return p->kind == PACKET_RELATED ? quote_rewrite(p, f, d) : nat_rewrite(p, f, d);
}

/* Rewrites the packet for the way that it is to go, be it a tunnel to a server. */
static __always_inline int rewrite(struct packet *p, struct flow *f, struct decision *d, const struct server *s)
{
	if (d->forward == FORWARD_MASQ || d->forward == FORWARD_FULLNAT)
		return translate(p, f, d);
	if (d->forward == FORWARD_ROUTE)
		return ttl_down(p, f);
	return s ? tunnel_send(p, f, s) : -1;
}

/* The server that the packet goes to through a tunnel, or NULL if it does not; which is what the following ask for. */
static __always_inline struct server *tunnel_of(struct decision *d)
{
	return d->forward == FORWARD_TUNNEL ? bpf_map_lookup_elem(&servers, &d->server) : NULL;
}

/* The bytes that the packet grows by. */
static __always_inline __u32 overhead_of(const struct server *s)
{
	return s ? tunnel_overhead(s, is_v4(s->addr)) : 0;
}

/* Whether the outer packet has a checksum for which the inner one's bytes have to be added up. */
static __always_inline bool sums_bytes(struct flow *f, const struct server *s)
{
	return s && !f->summed && tunnel_sums(s);
}

/* Whether the packet has to be cut up before it goes into a tunnel, because nobody could do it afterwards. */
static __always_inline bool splits(struct packet *p, struct flow *f, const struct server *s)
{
	return packet_is_gso(p) && s && (f->protocol == IPPROTO_UDP || tunnel_sums(s));
}

/* Whether the packet, once rewritten, is one that the kernel may fragment. An IPv6 packet on its way is fragmented by nobody. */
static __always_inline bool fragments(struct flow *f, const struct server *s)
{
	return s ? f->family == FAMILY_IPV4 && tunnel_may_fragment(f) && is_v4(s->addr) : f->may_fragment;
}

static __always_inline int too_big(struct packet *p, struct flow *f, struct decision *d, __u32 mtu)
{
	struct icmp_error e = { 3, 4, 2, 0, mtu - overhead_of(tunnel_of(d)) };

	/* the kernel tells a server, which knows the packet as it is; but not one that knows only us */
	if (d->direction == DIRECTION_OUTPUT && d->forward != FORWARD_FULLNAT)
		return leave(p, REASON_TOO_BIG);
	return refuse(p, f, &e, REASON_TOO_BIG);
}

/* Whether the packet would have made its last hop. */
static __always_inline bool last_hop(struct flow *f)
{
	return f->ttl <= 1 && !f->routed;
}

static __always_inline bool fits_in(struct packet *p, struct flow *f, const struct server *s, struct route *r)
{
	return !r->mtu || f->length + overhead_of(s) <= r->mtu || packet_is_gso(p);
}

/* Whether the packet needs no more to be sent than a rewrite; or an option of TCP (toa.h), which the program for the rest adds. */
static __always_inline bool is_plain(struct packet *p, struct flow *f, struct decision *d, enum routed routed,
				     struct route *r, const struct server *s)
{
	bool tells = p->kind == PACKET_PLAIN && d->tell;

	if (routed != ROUTED || last_hop(f) || !fits_in(p, f, s, r) || tells || sums_bytes(f, s) || splits(p, f, s))
		return false;
	if (p->hook == HOOK_XDP)
		return r->xdp != ROUTE_XDP_NONE;
	return !packet_leaves(p) || d->direction != DIRECTION_OUTPUT;
}

/* The packet's connection has seen it. */
static __always_inline void touch(struct flow *f, struct decision *d)
{
	if (d->at != NO_LINE && !f->quoted && !d->begun) /* an ICMP error moves nothing on */
		conn_move(d->at, f->protocol, f->event, f->opens, d->direction);
}

/* Counts a packet that goes on, for its server and, if that is wanted, for its connection. */
static __always_inline void count(struct decision *d, struct flow *f)
{
	if (d->server)
		count_packet(d->server, d->direction, f->length);
	account_packet(d->at, d->direction, f->length);
}

/* The answer of a server that is the director itself: it is on its way. */
static __always_inline int answer_here(struct packet *p, struct flow *f, struct decision *d)
{
	touch(f, d);
	if (translate(p, f, d))
		return drop(p, REASON_MALFORMED);
	count(d, f);
	return packet_pass(p);
}

static __always_inline int send(struct packet *p, struct route *r)
{
	if (p->data + sizeof(struct ethhdr) > p->end)
		return drop(p, REASON_MALFORMED);
	packet_done(p);
	/* both addresses at once: one lies behind the other in either place */
	*(__u64 *)p->data = *(__u64 *)r->dst_mac;
	*(__u32 *)(p->data + 8) = *(__u32 *)(r->src_mac + 2);
	return packet_send(p, r->ifindex, r->xdp);
}

static __always_inline int forward(struct packet *p, struct flow *f, struct decision *d)
{
	struct route *r = NULL;
	bool output = d->direction == DIRECTION_OUTPUT;
	if (output && packet_leaves(p))
		return answer_here(p, f, d);
	enum routed routed = route_to(p, d->src, d->dst, &r, now());

	if (!r)
		return packet_pass(p);
	if (dry)
		find_route(routed, r);
	struct server *s = tunnel_of(d);
	bool last = last_hop(f), fits = fits_in(p, f, s, r);
	if (p->hook == HOOK_XDP && !is_plain(p, f, d, routed, r, s) && !(last && output)) {
		r->probe = routed == ROUTED_BY_KERNEL; /* as tc is to know */
		return packet_pass(p);
	}
	if (splits(p, f, s)) {
		int verdict = split(SKB(p), f);
		return verdict == TC_ACT_REDIRECT ? verdict : drop(p, REASON_TOO_BIG);
	}
	touch(f, d);
	if (last)
		return output ? drop(p, REASON_TTL) : refuse(p, f, &time_exceeded, REASON_TTL);
	if (routed == ROUTED_NOWHERE)
		return output ? leave(p, REASON_NO_ROUTE) : refuse(p, f, &host_unreachable, REASON_NO_ROUTE);
	bool big = routed != ROUTED_LOCALLY && !fits;
	if (big && !fragments(f, s))
		return too_big(p, f, d, r->mtu);
	if (routed == ROUTED_LOCALLY && !output && d->forward == FORWARD_FULLNAT)
		return drop(p, REASON_UNSUPPORTED); /* the kernel takes no packets from itself */
	if (routed == ROUTED_LOCALLY && !output && d->forward != FORWARD_MASQ) {
		/* the server is the director itself, which has the service's address */
		count(d, f);
		return packet_pass(p);
	}
	if (rewrite(p, f, d, s))
		return drop(p, REASON_MALFORMED);
	if (big) { /* for the kernel to fragment it */
		int left = leave(p, REASON_TOO_BIG);
		return s ? packet_from_here(p) : left;
	}
	if (d->tell && toa_add(p, f, d, r->mtu))
		return drop(p, REASON_MALFORMED);
	count(d, f);
	if (routed == ROUTED_LOCALLY)
		return output ? packet_from_here(p) : packet_pass(p);
	if (p->hook == HOOK_TC && routed == ROUTED_BY_KERNEL) {
		packet_done(p);
		return route_send_by_kernel(r);
	}
	return send(p, r);
}

/* Rewrites and sends a packet of a connection with a server that needs no more, or says which program is to go on with it: UNPLAIN and enum
 * rest. UNPLAIN_READ is REST_USUAL, and the plan has the packet's flow. */
enum { UNPLAIN = 1 << 8, UNPLAIN_PASS = UNPLAIN + RESTS, UNPLAIN_READ };

static __always_inline int forward_plain(struct packet *p, struct flow *f, struct decision *d, struct conn *e,
					 const struct server *server, __u32 jiffies)
{
	const struct server *s = d->forward == FORWARD_TUNNEL ? server : NULL;
	ANEW(s);
	struct route *r = NULL;
	enum routed routed = route_to(p, d->src, d->dst, &r, jiffies);

	if (!r)
		return UNPLAIN + REST_USUAL;
	if (!is_plain(p, f, d, routed, r, s)) {
		r->probe = routed == ROUTED_BY_KERNEL; /* as the program for the rest is to know */
		return UNPLAIN + REST_USUAL;
	}
	conn_touch_lightly(e, d->at, f, d->direction, jiffies);
	packet_reload(p); /* registers have had better use meanwhile */
	if (rewrite(p, f, d, s))
		return drop(p, REASON_MALFORMED);
	count(d, f);
	return send(p, r);
}
