/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* director.bpf.c - the entry points, and the way of a packet: parse -> decide -> route -> rewrite -> count -> send. */
#include <linux/bpf.h>
#include "dry.h"
#include "fragment.h"
#include "icmp.h"
#include "quote.h"
#include "rates.h"
#include "relay.h"
#include "route.h"
#include "split.h"
#include "sweep.h"
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
static __always_inline int refuse(struct packet *p, struct flow *f, const struct icmp_error *e, enum reason why)
{
	if (p->hook == HOOK_XDP)
		return packet_pass(p);
	if (p->kind == PACKET_RELATED || f->fragment == FRAGMENT_LATER)
		return drop(p, why);
	if (!icmp_allowed())
		return drop(p, why == REASON_NO_SERVER ? REASON_NO_SERVER_QUIET : why);
	count_reason(why);
	return icmp_answer(p, f, e);
}

/* Not a packet of a connection, but perhaps for an address of ours. */
static __always_inline int leave_unparsed(struct packet *p, struct flow *f, enum parsed what)
{
	__u32 zero = 0;
	struct address_bits *o = bpf_map_lookup_elem(&ours, &zero);

	if (what != PARSED_MALFORMED || !o || !ours_has(o->virtual, f->dst))
		return packet_pass(p);
	return leave(p, REASON_MALFORMED);
}

static __always_inline int translate(struct packet *p, struct flow *f, struct decision *d)
{
	return p->kind == PACKET_RELATED ? quote_rewrite(p, f, d) : nat_rewrite(p, f, d);
}

/* Rewrites the packet for the way that it is to go. */
static __always_inline int rewrite(struct packet *p, struct flow *f, struct decision *d)
{
	if (d->forward == FORWARD_MASQ || d->forward == FORWARD_FULLNAT)
		return translate(p, f, d);
	if (d->forward == FORWARD_ROUTE)
		return ttl_down(p, f);
	struct server *s = bpf_map_lookup_elem(&servers, &d->server);
	return s ? tunnel_send(p, f, s) : -1;
}

/* The server that the packet goes to through a tunnel, if it does. */
static __always_inline struct server *tunnel_of(struct decision *d)
{
	return d->forward == FORWARD_TUNNEL ? bpf_map_lookup_elem(&servers, &d->server) : NULL;
}

/* The bytes that the packet grows by. */
static __always_inline __u32 overhead_of(struct decision *d)
{
	struct server *s = tunnel_of(d);

	return s ? tunnel_overhead(s, is_v4(s->addr)) : 0;
}

/* Whether the outer packet has a checksum for which the inner one's bytes have to be added up. */
static __always_inline bool sums_bytes(struct flow *f, struct decision *d)
{
	struct server *s = f->summed ? NULL : tunnel_of(d);

	return s && tunnel_sums(s);
}

/* Whether the packet has to be cut up before it goes into a tunnel, because nobody could do it afterwards. */
static __always_inline bool splits(struct packet *p, struct flow *f, struct decision *d)
{
	struct server *s = packet_is_gso(p) ? tunnel_of(d) : NULL;

	return s && (f->protocol == IPPROTO_UDP || tunnel_sums(s));
}

/* Whether the packet, once rewritten, is one that the kernel may fragment. An IPv6 packet on its way is fragmented by nobody. */
static __always_inline bool fragments(struct flow *f, struct decision *d)
{
	struct server *s = tunnel_of(d);

	return s ? f->family == FAMILY_IPV4 && tunnel_may_fragment(f) && is_v4(s->addr) : f->may_fragment;
}

static __always_inline int too_big(struct packet *p, struct flow *f, struct decision *d, __u32 mtu)
{
	struct icmp_error e = { 3, 4, 2, 0, mtu - overhead_of(d) };

	/* the kernel tells a server, which knows the packet as it is; but not one that knows only us */
	if (d->direction == DIRECTION_OUTPUT && d->forward != FORWARD_FULLNAT)
		return leave(p, REASON_TOO_BIG);
	return refuse(p, f, &e, REASON_TOO_BIG);
}

/* An ICMP error moves nothing on. */
static __always_inline void touch(struct packet *p, struct flow *f, struct decision *d)
{
	struct conn *e = d->at == NO_LINE || p->kind == PACKET_RELATED ? NULL : conn_at(d->at);

	if (e)
		conn_touch(e, d->at, f, d->direction);
}

/* The answer of a server that is the director itself: it is on its way. */
static __always_inline int answer_here(struct packet *p, struct flow *f, struct decision *d)
{
	touch(p, f, d);
	if (translate(p, f, d))
		return drop(p, REASON_MALFORMED);
	if (d->server)
		count_packet(d->server, d->direction, f->length);
	return packet_pass(p);
}

static __always_inline int forward(struct packet *p, struct flow *f, struct decision *d)
{
	struct route *r = NULL;
	bool output = d->direction == DIRECTION_OUTPUT;
	if (p->egress && output)
		return answer_here(p, f, d);
	enum routed routed = route_to(p, d->src, d->dst, &r);

	if (!r)
		return packet_pass(p);
	if (dry)
		find_route(routed, r);
	bool last = f->ttl <= 1 && !f->routed;
	/* whatever needs more than a rewrite is tc's to do */
	bool fits = !r->mtu || f->length + overhead_of(d) <= r->mtu || packet_is_gso(p);
	if (p->hook == HOOK_XDP && (routed != ROUTED || r->xdp == ROUTE_XDP_NONE || (last && !output) || !fits ||
				    d->tell || sums_bytes(f, d))) {
		if (routed == ROUTED_BY_KERNEL)
			r->probe = 1;
		return packet_pass(p);
	}
	if (splits(p, f, d)) {
		int verdict = split(SKB(p), f);
		return verdict == TC_ACT_REDIRECT ? verdict : drop(p, REASON_TOO_BIG);
	}
	touch(p, f, d);
	if (last)
		return output ? drop(p, REASON_TTL) : refuse(p, f, &time_exceeded, REASON_TTL);
	if (routed == ROUTED_NOWHERE)
		return output ? leave(p, REASON_NO_ROUTE) : refuse(p, f, &host_unreachable, REASON_NO_ROUTE);
	bool big = routed != ROUTED_LOCALLY && !fits;
	if (big && !fragments(f, d))
		return too_big(p, f, d, r->mtu);
	if (routed == ROUTED_LOCALLY && !output && d->forward == FORWARD_FULLNAT)
		return drop(p, REASON_UNSUPPORTED); /* the kernel takes no packets from itself */
	if (routed == ROUTED_LOCALLY && !output && d->forward != FORWARD_MASQ) {
		/* the server is the director itself, which has the service's address */
		count_packet(d->server, d->direction, f->length);
		return packet_pass(p);
	}
	if (rewrite(p, f, d))
		return drop(p, REASON_MALFORMED);
	if (big)
		return leave(p, REASON_TOO_BIG); /* for the kernel to fragment it */
	if (d->tell && toa_add(p, f, d, r->mtu))
		return drop(p, REASON_MALFORMED);
	if (d->server)
		count_packet(d->server, d->direction, f->length);
	if (routed == ROUTED_LOCALLY)
		return output ? packet_to_client(p) : packet_pass(p);
	if (routed == ROUTED_BY_KERNEL)
		return route_send_by_kernel(r);
	struct ethhdr *eth = p->data;
	if ((void *)(eth + 1) > p->end)
		return drop(p, REASON_MALFORMED);
	__builtin_memcpy(eth->h_dest, r->dst_mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, r->src_mac, ETH_ALEN);
	return packet_send(p, r->ifindex, r->xdp);
}

/* Goes on with the program for what few packets are, and comes back only if there is none. */
static __always_inline void call_rare(struct packet *p, enum parsed parsed)
{
	if (parsed == PARSED_ICMP)
		bpf_tail_call(p->ctx, &rare, p->egress ? RARE_RELATED_OUT : RARE_RELATED_IN);
	if (parsed == PARSED_FRAGMENT)
		bpf_tail_call(p->ctx, &rare, p->egress ? RARE_FRAGMENT_OUT : RARE_FRAGMENT_IN);
}

static __always_inline int direct(struct packet *p)
{
	__u32 zero = 0;
	struct plan *plan = bpf_map_lookup_elem(&plans, &zero);

	if (!plan)
		return packet_pass(p);
	struct flow *f = &plan->flow;
	enum parsed parsed = parse(p, f);
	if (p->hook == HOOK_TC && p->kind == PACKET_USUAL && !dry) /* the others are not for a dry run */
		call_rare(p, parsed);
	if (parsed != PARSED_FLOW)
		return leave_unparsed(p, f, parsed);
	__u32 of_ours = ours_of(f);
	if (!of_ours)
		return packet_pass(p);
	f->call = p->kind != PACKET_RELATED && call_wanted(f) && call_read(p, f);
	if (p->kind != PACKET_FRAGMENT || f->fragment != FRAGMENT_LATER)
		decide(f, plan, of_ours);
	if (p->kind == PACKET_FRAGMENT)
		decide_fragment(f);
	struct decision *d = &plan->decision;
	switch (d->outcome) {
	case OUTCOME_PASS:
		return leave(p, d->reason);
	case OUTCOME_DROP:
		return drop(p, d->reason);
	case OUTCOME_REFUSE:
		return refuse(p, f, &port_unreachable, d->reason);
	case OUTCOME_ASK:
		return packet_ask(p);
	case OUTCOME_FORWARD:
		break;
	}
	if (p->kind == PACKET_RELATED && is_relayed(f)) {
		struct icmp_error e;
		if (!relay(p, f, d, &e))
			return packet_pass(p);
		if (icmp_make(p, f, &e))
			return drop(p, REASON_MALFORMED);
	}
	return forward(p, f, d);
}

SEC("xdp")
int director_xdp(struct xdp_md *ctx)
{
	struct packet p = { .ctx = ctx, .hook = HOOK_XDP };

	return direct(&p);
}

static __always_inline int direct_in(struct __sk_buff *ctx, enum packet_kind kind)
{
	struct packet p = { .ctx = ctx, .hook = HOOK_TC, .kind = kind };

	return direct(&p);
}

/* On the way out. By our own device come the packets that the firewall has marked, and those that we have asked for; by all
 * others where it is attached, those of the director's own programs: as clients, or as servers that answer. */
static __always_inline int direct_out(struct __sk_buff *ctx, enum packet_kind kind)
{
	struct packet p = { .ctx = ctx, .hook = HOOK_TC, .kind = kind, .egress = true };

	__u32 from = ctx->ingress_ifindex, device = settings.device;

	if (ctx->ifindex == device) {
		if (from == device)
			return drop(&p, REASON_NO_ROUTE); /* it has been here before */
		p.device = device;
	} else if (from) {
		return TC_ACT_UNSPEC;
	}
	return direct(&p);
}

SEC("tc")
int director_tc(struct __sk_buff *ctx)
{
	return direct_in(ctx, PACKET_USUAL);
}

SEC("tc")
int director_tc_related(struct __sk_buff *ctx)
{
	return direct_in(ctx, PACKET_RELATED);
}

SEC("tc")
int director_tc_fragment(struct __sk_buff *ctx)
{
	return direct_in(ctx, PACKET_FRAGMENT);
}

SEC("tc")
int director_out(struct __sk_buff *ctx)
{
	return direct_out(ctx, PACKET_USUAL);
}

SEC("tc")
int director_out_related(struct __sk_buff *ctx)
{
	return direct_out(ctx, PACKET_RELATED);
}

SEC("tc")
int director_out_fragment(struct __sk_buff *ctx)
{
	return direct_out(ctx, PACKET_FRAGMENT);
}

/* Run once by Go when the programs are loaded. */
SEC("tc")
int director_start(struct __sk_buff *ctx)
{
	return sweep_begin() ?: estimate_begin();
}

/* Attached to a namespace where no other link can tell that it is gone. Looks at nothing. */
SEC("sk_lookup")
int director_anchor(struct bpf_sk_lookup *ctx)
{
	return 1; /* SK_PASS */
}

char _license[] SEC("license") = "Dual BSD/GPL";
