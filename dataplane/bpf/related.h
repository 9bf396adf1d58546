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

/* The kinds that kernel IPVS takes for errors. */
static __always_inline bool is_error(__u8 type, bool ipv6)
{
	if (ipv6)
		return type < ICMPV6_INFORMATION;
	return type == ICMP_UNREACHABLE || type == ICMP_SOURCE_QUENCH || type == ICMP_TIME_EXCEEDED;
}

/* The quoted IP headers. Their lengths are those of a packet of which only the beginning is here. */
static __always_inline enum parsed parse_quoted_ipv4(struct packet *p, struct flow *f, __u64 at, __u32 end)
{
	struct iphdr *ip = p->data + at;

	if ((void *)(ip + 1) > p->end || at + sizeof(*ip) > end || ip->version != 4 || ip->ihl < 5)
		return PARSED_MALFORMED;
	if (V4_MAPPED(ip->saddr) != f->dst[1] || ip->frag_off & bpf_htons(0x1fff))
		return PARSED_OTHER;
	f->src[1] = V4_MAPPED(ip->daddr);
	f->protocol = ip->protocol;
	f->transport = at + ip->ihl * 4;
	return PARSED_FLOW;
}

static __always_inline enum parsed parse_quoted_ipv6(struct packet *p, struct flow *f, __u64 at, __u32 end)
{
	struct ipv6hdr *ip = p->data + at;
	struct ipv6_fragment *x = (void *)(ip + 1);

	if ((void *)(ip + 1) > p->end || at + sizeof(*ip) > end || ip->version != 6)
		return PARSED_MALFORMED;
	__u64 from[2];
	__builtin_memcpy(from, &ip->saddr, 16);
	if (from[0] != f->dst[0] || from[1] != f->dst[1])
		return PARSED_OTHER;
	__builtin_memcpy(f->src, &ip->daddr, 16);
	f->protocol = ip->nexthdr;
	f->transport = at + sizeof(*ip);
	if (f->protocol != IPPROTO_FRAGMENT)
		return PARSED_FLOW;
	if ((void *)(x + 1) > p->end || at + sizeof(*ip) + sizeof(*x) > end)
		return PARSED_MALFORMED;
	f->protocol = x->next;
	f->transport = at + sizeof(*ip) + sizeof(*x);
	return x->offset & bpf_htons(0xfff8) ? PARSED_OTHER : PARSED_FLOW;
}

/* An ICMP packet, in whose flow transport is where its head lies: the flow of what it quotes. It goes to who sent that, or
 * is not what it should be. */
static __always_inline enum parsed parse_related(struct packet *p, struct flow *f)
{
	__u32 end = f->network + f->length;
	__u64 at = f->transport;
	bool ipv6 = f->family == FAMILY_IPV6;

	if (at > HEADERS - sizeof(struct icmp_head))
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
	enum parsed quoted = ipv6 ? parse_quoted_ipv6(p, f, at, end) : parse_quoted_ipv4(p, f, at, end);
	if (quoted != PARSED_FLOW)
		return quoted;
	at = f->transport;
	if ((f->protocol != IPPROTO_TCP && f->protocol != IPPROTO_UDP) || at > HEADERS)
		return PARSED_OTHER;
	BOUND(at, HEADERS_MASK);
	__u16 *ports = p->data + at;
	if ((void *)(ports + 2) > p->end || at + 4 > end)
		return PARSED_MALFORMED;
	f->src_port = ports[1];
	f->dst_port = ports[0];
	return PARSED_FLOW;
}
