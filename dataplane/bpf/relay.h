/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* relay.h - an ICMP error about a packet of a tunnel is for whom the packet inside is from. Only the director knows who that is, and
 * tells him of it as if the way had come to its end here. */
#pragma once
#include "icmp.h"
#include "tunnel.h"

enum { LEAST_MTU4 = 68, LEAST_MTU6 = 1280 };

/* Whether the flow is of a packet in a tunnel that an error is about. */
static __always_inline bool is_relayed(struct flow *f)
{
	return f->quoted && f->network > f->quoted;
}

/* Whether the error's checksum holds, for its receiver gets another one. */
static __always_inline bool relay_holds(struct __sk_buff *skb, struct flow *f)
{
	__u64 addr[4];
	__u16 sum;

	if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr) + offsetof(struct ipv6hdr, saddr), addr, sizeof(addr)))
		return false;
	__u32 at = f->quoted - sizeof(struct icmp_head), length = f->network + f->length - at;
	bool ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	if (!sum_bytes(skb, at, length, &sum))
		return false;
	__u16 pseudo = ipv6 ? pseudo_sum(addr, addr + 2, IPPROTO_ICMPV6, length, true) : 0;
	return fold((__u64)sum + pseudo) == 0xffff;
}

/* Whether the outer packet that is quoted is one to the server, by a tunnel as it is now. */
static __always_inline bool relay_is_of(struct __sk_buff *skb, struct flow *f, const struct server *s)
{
	bool v4 = is_v4(s->addr);
	__u64 to[2] = { 0, 0xffff0000 };
	long failed = v4 ? bpf_skb_load_bytes(skb, f->quoted + offsetof(struct iphdr, daddr), (__u8 *)to + 12, 4) :
			   bpf_skb_load_bytes(skb, f->quoted + offsetof(struct ipv6hdr, daddr), to, 16);

	return !failed && to[0] == s->addr[0] && to[1] == s->addr[1] &&
	       (__u32)(f->network - f->quoted) == tunnel_overhead(s, v4);
}

/* What the sender of the packet inside is told. Kinds that another family does not have become "host unreachable". */
static __always_inline bool relay_kind(struct __sk_buff *skb, struct flow *f, bool outer4, struct icmp_error *e)
{
	bool inner4 = f->family == FAMILY_IPV4;
	struct icmp_head head;
	__u16 fragment = 0;

	if (bpf_skb_load_bytes(skb, f->quoted - sizeof(head), &head, sizeof(head)) ||
	    (outer4 &&
	     bpf_skb_load_bytes(skb, f->quoted + offsetof(struct iphdr, frag_off), &fragment, sizeof(fragment))))
		return false;
	*e = (struct icmp_error){ 3, 1, 1, 3, 0 };
	if (outer4 ? head.type == 3 && head.code == 4 : head.type == 2) {
		__u32 mtu = outer4 ? (__u16)bpf_ntohl(head.mtu) : bpf_ntohl(head.mtu);
		__u32 overhead = f->network - f->quoted, least = inner4 ? LEAST_MTU4 : LEAST_MTU6;
		*e = (struct icmp_error){ 3, 4, 2, 0, mtu - overhead };
		/* nobody can say this of a packet that may be fragmented, nor that a way has no room at all */
		return (!outer4 || fragment & bpf_htons(0x4000)) && mtu >= least + overhead && mtu <= 0xffff;
	}
	if (outer4 && inner4) {
		e->type4 = head.type;
		e->code4 = head.code;
	} else if (!outer4 && !inner4 && head.type != 4) { /* a problem of a parameter is one of the outer header */
		e->type6 = head.type;
		e->code6 = head.code;
	}
	return true;
}

/* Whether an error is about a packet of a tunnel to the server, and what becomes of it. tc only; a function that is verified for
 * itself. */
__noinline int relay_error(struct __sk_buff *skb, struct flow *f, __u32 slot, struct icmp_error *e)
{
	struct server *s = bpf_map_lookup_elem(&servers, &slot);

	return f && s && e && relay_is_of(skb, f, s) && relay_kind(skb, f, is_v4(s->addr), e) && relay_holds(skb, f);
}

/* Turns the decision about the packet inside into one about the error, and says what that is; or that it is none of ours. */
static __always_inline bool relay(struct packet *p, struct flow *f, struct decision *d, struct icmp_error *e)
{
	if (d->forward != FORWARD_TUNNEL || d->direction != DIRECTION_INPUT || !relay_error(SKB(p), f, d->server, e))
		return false;
	decide_source(d, f->dst, f->dst_port);
	decide_destination(d, f->src, f->src_port);
	d->direction = DIRECTION_OUTPUT;
	d->forward = FORWARD_ROUTE;
	f->routed = true; /* it begins here, with all its hops */
	return true;
}
