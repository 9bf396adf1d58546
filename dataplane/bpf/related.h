/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* related.h - ICMP errors about packets of ours. The packet that an error quotes, turned round, is a flow like any other:
 * one from a client to an address of ours, or one from a server to a client. It finds the connection, and the error goes
 * where such a packet would go. */
#pragma once
#include "flow.h"

/* The head of an ICMP or ICMPv6 error; what it quotes follows. (linux/icmp.h draws in the C library.) */
struct icmp_head {
	__u8 type, code;
	__u16 check;
	__u32 mtu;
};

enum { ICMP_UNREACHABLE = 3, ICMP_SOURCE_QUENCH = 4, ICMP_TIME_EXCEEDED = 11, ICMPV6_INFORMATION = 128 };

/* Whether packets of a protocol are looked at. Of SCTP, AH and ESP, fragments are not. */
static __always_inline bool is_ours(__u8 protocol, bool fragment)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP ||
	       (!fragment && (protocol == IPPROTO_SCTP || protocol == IPPROTO_ESP || protocol == IPPROTO_AH));
}

/* The kinds that kernel IPVS takes for errors. */
static __always_inline bool is_error(__u8 type, bool ipv6)
{
	if (ipv6)
		return type < ICMPV6_INFORMATION;
	return type == ICMP_UNREACHABLE || type == ICMP_SOURCE_QUENCH || type == ICMP_TIME_EXCEEDED;
}

/* An IP header that is quoted. Its lengths are those of a packet of which only the beginning is here. */
struct quoted {
	__u64 src[2], dst[2];
	__u32 transport; /* offset of what follows */
	__u8 protocol;
	bool follows; /* AH or ESP */
	bool first; /* has the beginning of what follows: is no later fragment */
};

MAP(quoted_headers, PERCPU_ARRAY, 1, 0, __u32, struct quoted); /* the stack has no room for one */

static __always_inline enum parsed parse_quoted_ipv4(struct packet *p, struct quoted *q, __u64 at, __u32 end)
{
	struct iphdr *ip = p->data + at;

	if ((void *)(ip + 1) > p->end || at + sizeof(*ip) > end || ip->version != 4 || ip->ihl < 5)
		return PARSED_MALFORMED;
	q->src[0] = q->dst[0] = 0;
	q->src[1] = V4_MAPPED(ip->saddr);
	q->dst[1] = V4_MAPPED(ip->daddr);
	q->protocol = ip->protocol;
	q->transport = at + ip->ihl * 4;
	q->first = !(ip->frag_off & bpf_htons(0x1fff));
	q->follows = false;
	return PARSED_FLOW;
}

static __always_inline enum parsed parse_quoted_ipv6(struct packet *p, struct quoted *q, __u64 at, __u32 end)
{
	struct ipv6hdr *ip = p->data + at;
	struct ipv6_fragment *x = (void *)(ip + 1);

	if ((void *)(ip + 1) > p->end || at + sizeof(*ip) > end || ip->version != 6)
		return PARSED_MALFORMED;
	__builtin_memcpy(q->src, &ip->saddr, 16);
	__builtin_memcpy(q->dst, &ip->daddr, 16);
	q->protocol = ip->nexthdr;
	q->transport = at + sizeof(*ip);
	q->first = true;
	q->follows = false;
	if (q->protocol != IPPROTO_FRAGMENT)
		return PARSED_FLOW;
	if ((void *)(x + 1) > p->end || at + sizeof(*ip) + sizeof(*x) > end)
		return PARSED_MALFORMED;
	q->protocol = x->next;
	q->transport = at + sizeof(*ip) + sizeof(*x);
	q->first = !(x->offset & bpf_htons(0xfff8));
	return PARSED_FLOW;
}

/* The ports that are quoted behind an IP header. AH and ESP have those of the connection that they follow. */
static __always_inline enum parsed parse_quoted_ports(struct packet *p, struct quoted *q, __u16 ports[2], __u32 end)
{
	__u64 at = q->transport;

	if (!q->first || !is_ours(q->protocol, false) || at > HEADERS)
		return PARSED_OTHER;
	q->follows = q->protocol == IPPROTO_AH || q->protocol == IPPROTO_ESP;
	if (q->follows) {
		q->protocol = IPPROTO_UDP;
		ports[0] = ports[1] = bpf_htons(500);
		return PARSED_FLOW;
	}
	BOUND(at, HEADERS_MASK);
	__u16 *there = p->data + at;
	if ((void *)(there + 2) > p->end || at + 4 > end)
		return PARSED_MALFORMED;
	ports[0] = there[0];
	ports[1] = there[1];
	return PARSED_FLOW;
}

/* Where the packet inside lies, if one of this protocol has the headers of a tunnel of ours, with a bit for IPv6 below; or 0. tc only; a
 * function that is verified for itself. */
__noinline int tunnelled(struct __sk_buff *skb, __u32 protocol, __u32 at)
{
	struct gre_head gre;
	struct gue_head gue;
	bool ipv6 = protocol == IPPROTO_IPV6;

	if (protocol == IPPROTO_GRE && !bpf_skb_load_bytes(skb, at, &gre, sizeof(gre))) {
		ipv6 = gre.protocol == bpf_htons(ETH_P_IPV6);
		if (gre.flags & bpf_htons(0x7fff) || (!ipv6 && gre.protocol != bpf_htons(ETH_P_IP)))
			return 0;
		at += sizeof(gre) + (gre.flags ? sizeof(struct gre_checksum) : 0);
	} else if (protocol == IPPROTO_UDP && !bpf_skb_load_bytes(skb, at, &gue, sizeof(gue))) {
		ipv6 = gue.protocol == IPPROTO_IPV6;
		if (bpf_ntohs(gue.src_port) < GUE_PORTS || gue.control || gue.flags ||
		    (!ipv6 && gue.protocol != IPPROTO_IPIP))
			return 0;
		at += sizeof(gue);
	} else if (protocol != IPPROTO_IPIP && !ipv6) {
		return 0;
	}
	return at << 1 | ipv6;
}

/* An error about a packet of a tunnel of ours is one about the packet inside. Its flow is that one's, which is not turned round: it
 * tells its server apart. */
static __always_inline bool parse_inside(struct packet *p, struct flow *f, struct quoted *q, __u32 end)
{
	__u32 inside = packet_leaves(p) || !q->first || q->follows ? 0 : tunnelled(SKB(p), q->protocol, q->transport);
	__u64 at = inside >> 1;
	bool ipv6 = inside & 1;
	__u16 ports[2];

	if (!at || at > HEADERS)
		return false;
	BOUND(at, HEADERS_MASK);
	if (ipv6 ? parse_quoted_ipv6(p, q, at, end) : parse_quoted_ipv4(p, q, at, end))
		return false;
	if (parse_quoted_ports(p, q, ports, end))
		return false;
	__builtin_memcpy(f->src, q->src, 16);
	__builtin_memcpy(f->dst, q->dst, 16);
	f->src_port = ports[0];
	f->dst_port = ports[1];
	f->protocol = q->protocol;
	f->follows = q->follows;
	f->family = ipv6 ? FAMILY_IPV6 : FAMILY_IPV4;
	f->network = at;
	f->transport = q->transport;
	f->length = end - at;
	return true;
}

/* An ICMP packet, in whose flow transport is where its head lies: the flow of what it quotes. It goes to who sent that, or
 * is not what it should be. */
static __always_inline enum parsed parse_related(struct packet *p, struct flow *f)
{
	__u32 end = f->network + f->length;
	__u64 at = f->transport;
	bool ipv6 = f->family == FAMILY_IPV6;
	__u32 zero = 0;
	struct quoted *q = bpf_map_lookup_elem(&quoted_headers, &zero);
	__u16 ports[2];

	if (!q || at > HEADERS - sizeof(struct icmp_head))
		return PARSED_OTHER;
	BOUND(at, HEADERS_MASK);
	packet_pull(p, at + RELATED);
	struct icmp_head *icmp = p->data + at;
	if ((void *)(icmp + 1) > p->end || at + sizeof(*icmp) > end)
		return PARSED_MALFORMED;
	if (!is_error(icmp->type, ipv6))
		return PARSED_OTHER;
	at += sizeof(*icmp);
	f->quoted = at;
	enum parsed parsed = ipv6 ? parse_quoted_ipv6(p, q, at, end) : parse_quoted_ipv4(p, q, at, end);
	if (parsed != PARSED_FLOW)
		return parsed;
	if (q->src[0] != f->dst[0] || q->src[1] != f->dst[1])
		return PARSED_OTHER;
	parsed = parse_quoted_ports(p, q, ports, end);
	if (parsed == PARSED_FLOW) {
		f->src[0] = q->dst[0];
		f->src[1] = q->dst[1];
		f->protocol = q->protocol;
		f->follows = q->follows;
		f->transport = q->transport;
		f->src_port = ports[1];
		f->dst_port = ports[0];
	}
	return parse_inside(p, f, q, end) ? PARSED_FLOW : parsed;
}
