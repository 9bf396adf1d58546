/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* parse.h - IP headers of both families, and what tunnels put between two of them. Every length is checked here. Headers
 * are copied to the stack to be read, so it does not matter where in a packet's memory they are.
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

#define AF_INET 2
#define AF_INET6 10
#define V4_MAPPED(addr) (0xffff0000ULL | (__u64)(addr) << 32)

/* UDP ports that GUE is taken from. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u16);
	__type(value, __u8);
} gue_ports SEC(".maps");

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
