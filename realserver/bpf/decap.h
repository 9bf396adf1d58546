/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* decap.h - takes packets for a virtual address out of the tunnel in which a director has sent them: IP in IP, GRE, GUE.
 *
 * Only what certainly is such a packet is touched: unfragmented, sent to this host, every length in order, and inside
 * a packet for one of our virtual addresses. All else goes on as it came.
 */
#pragma once
#include "parse.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, __u8);
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DECAPS);
	__type(key, __u32);
	__type(value, __u64);
} decaps SEC(".maps");

static __noinline void count_decap(enum decap what)
{
	__u32 key = what;
	__u64 *n = bpf_map_lookup_elem(&decaps, &key);

	if (n)
		*n += 1;
}

/* Whether the outer packet is for this host, and none that it forwards: one of its other roles may be a router's. */
static __always_inline bool is_local(struct __sk_buff *skb, struct network *outer, bool ipv6)
{
	struct bpf_fib_lookup fib = { .ifindex = skb->ifindex, .family = ipv6 ? AF_INET6 : AF_INET };

	if (ipv6) {
		__builtin_memcpy(fib.ipv6_src, &outer->v6.saddr, 16);
		__builtin_memcpy(fib.ipv6_dst, &outer->v6.daddr, 16);
	} else {
		fib.ipv4_src = outer->v4.saddr;
		fib.ipv4_dst = outer->v4.daddr;
	}
	long r = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	return r == BPF_FIB_LKUP_RET_NOT_FWDED || r == BPF_FIB_LKUP_RET_FWD_DISABLED;
}

/* Takes n bytes away that follow the Ethernet header, and leaves a packet of the inner family. */
static __always_inline long strip(struct __sk_buff *skb, __s32 n, bool outer6, bool inner6)
{
	__u16 protocol = inner6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	long r = 0;

	if (outer6 != inner6) {
		/* this alone tells the kernel of the other family; it also makes room for that family's header */
		r = bpf_skb_change_proto(skb, protocol, 0);
		n += inner6 ? 20 : -20;
	}
	if (!r && n)
		r = bpf_skb_adjust_room(skb, -n, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
	if (!r && outer6 != inner6)
		r = bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &protocol, sizeof(protocol), 0);
	return r;
}

static __always_inline int leave_tunnelled(enum decap why)
{
	count_decap(why);
	return TC_ACT_UNSPEC;
}

static __always_inline int drop_tunnelled(enum decap why)
{
	count_decap(why);
	return TC_ACT_SHOT;
}

static __always_inline int decapsulate(struct __sk_buff *skb)
{
	bool outer6 = skb->protocol == bpf_htons(ETH_P_IPV6), inner6 = false;
	struct network outer, inner;
	__u32 at = ETH_HLEN;

	if ((!outer6 && skb->protocol != bpf_htons(ETH_P_IP)) || skb->vlan_present || skb->pkt_type)
		return TC_ACT_UNSPEC;
	if (read_ip(skb, &outer, at, skb->len, outer6) != READ)
		return TC_ACT_UNSPEC;
	__u32 end = at + outer.length;
	at += outer.header;
	if (outer.fragment) {
		bool tunnel = outer.protocol == IPPROTO_IPIP || outer.protocol == IPPROTO_IPV6 ||
			      outer.protocol == IPPROTO_GRE;
		return tunnel ? leave_tunnelled(DECAP_FRAGMENT) : TC_ACT_UNSPEC;
	}
	switch (read_between(skb, &outer, &at, end, &inner6)) {
	case BETWEEN_NO_TUNNEL:
		return TC_ACT_UNSPEC;
	case BETWEEN_MALFORMED:
		return leave_tunnelled(DECAP_MALFORMED);
	case BETWEEN_UNSUPPORTED:
		return leave_tunnelled(DECAP_UNSUPPORTED);
	case BETWEEN_OK:
		break;
	}
	enum read r = read_ip(skb, &inner, at, end, inner6);
	if (r == READ_SHORT)
		return leave_tunnelled(DECAP_MALFORMED);
	if (!bpf_map_lookup_elem(&vips, &inner.dst))
		return TC_ACT_UNSPEC;
	if (r != READ)
		return leave_tunnelled(DECAP_MALFORMED);
	if (!is_local(skb, &outer, outer6))
		return leave_tunnelled(DECAP_FOREIGN);
	if (outer.ecn == ECN_CE && !inner.ecn)
		return drop_tunnelled(DECAP_CONGESTED);
	if (strip(skb, at - ETH_HLEN, outer6, inner6))
		return drop_tunnelled(DECAP_FAILED);
	if (outer.ecn == ECN_CE)
		bpf_skb_ecn_set_ce(skb);
	count_decap(DECAP_DONE);
	return TC_ACT_UNSPEC;
}
