/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* decap.h - takes packets for a virtual address out of the tunnel in which a director has sent them: IP in IP, GRE, GUE.
 *
 * Only what certainly is such a packet is touched: unfragmented, sent to this host, every length in order, and inside
 * a packet for one of our virtual addresses. All else goes on as it came. Headers are copied to the stack to be
 * read, so it does not matter where in a packet's memory they are.
 */
#pragma once
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "types.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, __u8);
} vips SEC(".maps");

/* UDP ports that GUE is taken from. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u16);
	__type(value, __u8);
} gue_ports SEC(".maps");

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

#define AF_INET 2
#define AF_INET6 10
#define V4_MAPPED(addr) (0xffff0000ULL | (__u64)(addr) << 32)

enum { ECN_MASK = 3, ECN_CE = 3 };

/* One IP header of either family. */
struct network {
	struct address dst;
	__u32 header; /* bytes */
	__u32 length; /* bytes, header included */
	__u8 protocol;
	__u8 ecn;
	bool fragment;
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	};
};

enum read { READ, READ_SHORT, READ_WRONG };

/* Reads the IP header at an offset. The packet ends at end, if that is known to be right; a length of zero is that of a
 * GSO packet beyond 64 KB. */
static __always_inline enum read read_ip(struct __sk_buff *skb, struct network *n, __u32 at, __u32 end, bool ipv6)
{
	if (at > end || end - at < (ipv6 ? sizeof(n->v6) : sizeof(n->v4)))
		return READ_SHORT;
	if (ipv6) {
		if (bpf_skb_load_bytes(skb, at, &n->v6, sizeof(n->v6)))
			return READ_SHORT;
		__builtin_memcpy(&n->dst, &n->v6.daddr, 16);
		n->header = sizeof(n->v6);
		n->length = sizeof(n->v6) + bpf_ntohs(n->v6.payload_len);
		if (!n->v6.payload_len && skb->gso_size)
			n->length = end - at;
		n->protocol = n->v6.nexthdr;
		n->ecn = n->v6.flow_lbl[0] >> 4 & ECN_MASK;
		n->fragment = n->protocol == IPPROTO_FRAGMENT;
		return n->v6.version == 6 && n->length <= end - at ? READ : READ_WRONG;
	}
	if (bpf_skb_load_bytes(skb, at, &n->v4, sizeof(n->v4)))
		return READ_SHORT;
	n->dst.word[0] = 0;
	n->dst.word[1] = V4_MAPPED(n->v4.daddr);
	n->header = n->v4.ihl * 4;
	n->length = bpf_ntohs(n->v4.tot_len);
	if (!n->length && skb->gso_size)
		n->length = end - at;
	n->protocol = n->v4.protocol;
	n->ecn = n->v4.tos & ECN_MASK;
	n->fragment = n->v4.frag_off & bpf_htons(0x3fff);
	return n->v4.version == 4 && n->header >= sizeof(n->v4) && n->header <= n->length && n->length <= end - at ?
		       READ :
		       READ_WRONG;
}

/* What is between the outer IP header and the inner one. */
enum between { BETWEEN_OK, BETWEEN_NO_TUNNEL, BETWEEN_MALFORMED, BETWEEN_UNSUPPORTED };

enum { GRE_CHECKSUM = 0x80, GUE_VERSION = 0xc0, GUE_CONTROL = 0x20, GUE_WORDS = 0x1f };

struct gre {
	__u8 flags, version;
	__u16 protocol;
};

/* A checksum, which the inner packet's own make superfluous, is all that a director may add. */
static __always_inline enum between read_gre(struct __sk_buff *skb, __u32 *at, __u32 end, bool *ipv6)
{
	struct gre g;

	if (*at + sizeof(g) > end || bpf_skb_load_bytes(skb, *at, &g, sizeof(g)))
		return BETWEEN_MALFORMED;
	if (g.flags & ~GRE_CHECKSUM || g.version ||
	    (g.protocol != bpf_htons(ETH_P_IP) && g.protocol != bpf_htons(ETH_P_IPV6)))
		return BETWEEN_UNSUPPORTED;
	*ipv6 = g.protocol == bpf_htons(ETH_P_IPV6);
	*at += sizeof(g) + (g.flags & GRE_CHECKSUM ? 4 : 0);
	return BETWEEN_OK;
}

struct gue {
	__u8 kind; /* version, control, words of options */
	__u8 protocol;
	__u16 flags;
};

static __always_inline enum between read_gue(struct __sk_buff *skb, __u32 *at, __u32 end, bool *ipv6)
{
	struct udphdr u;
	struct gue g;

	if (*at + sizeof(u) > end || bpf_skb_load_bytes(skb, *at, &u, sizeof(u)))
		return BETWEEN_NO_TUNNEL;
	if (!bpf_map_lookup_elem(&gue_ports, &u.dest))
		return BETWEEN_NO_TUNNEL;
	if (bpf_ntohs(u.len) != end - *at && !skb->gso_size)
		return BETWEEN_MALFORMED;
	*at += sizeof(u);
	if (*at + sizeof(g) > end || bpf_skb_load_bytes(skb, *at, &g, sizeof(g)))
		return BETWEEN_MALFORMED;
	if (g.kind & (GUE_VERSION | GUE_CONTROL | GUE_WORDS) || g.flags ||
	    (g.protocol != IPPROTO_IPIP && g.protocol != IPPROTO_IPV6))
		return BETWEEN_UNSUPPORTED;
	*ipv6 = g.protocol == IPPROTO_IPV6;
	*at += sizeof(g);
	return BETWEEN_OK;
}

static __always_inline enum between read_between(struct __sk_buff *skb, struct network *outer, __u32 *at, __u32 end,
						 bool *ipv6)
{
	switch (outer->protocol) {
	case IPPROTO_IPIP:
		*ipv6 = false;
		return BETWEEN_OK;
	case IPPROTO_IPV6:
		*ipv6 = true;
		return BETWEEN_OK;
	case IPPROTO_GRE:
		return read_gre(skb, at, end, ipv6);
	case IPPROTO_UDP:
		return read_gue(skb, at, end, ipv6);
	}
	return BETWEEN_NO_TUNNEL;
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
