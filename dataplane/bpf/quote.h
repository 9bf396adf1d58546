/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* quote.h - an ICMP error through NAT: what it quotes becomes what its receiver has sent, and it comes from whom that was
 * sent to. The checksums of what is quoted change along, where they are quoted. */
#pragma once
#include "nat.h"

/* Writes 16 bits: what they add to checksums. */
static __always_inline __u32 set16(__u16 *at, __u16 to)
{
	__u32 diff = (__u16) ~*at + (__u32)to;

	*at = to;
	return diff;
}

/* Carries on the CRC of a quoted packet of SCTP, whose ports have changed by so much: what that adds to the error's checksum. tc only;
 * a function that is verified for itself. */
__noinline int quote_crc(struct __sk_buff *skb, struct flow *f, __u32 change)
{
	__u16 head[3];
	__u32 crc;

	if (!f)
		return 0;
	__u32 at = f->transport + 8, ip = f->transport - f->quoted;
	if (at + sizeof(crc) > f->network + f->length || bpf_skb_load_bytes(skb, f->quoted, head, sizeof(head)) ||
	    bpf_skb_load_bytes(skb, at, &crc, sizeof(crc)) || !crc)
		return 0;
	__u32 length = f->family == FAMILY_IPV6 ? bpf_ntohs(head[2]) + sizeof(struct ipv6hdr) : bpf_ntohs(head[1]);
	__u32 now = crc ^ crc_change(change, length - ip);
	bpf_skb_store_bytes(skb, at, &now, sizeof(now), 0);
	return fold((__u64)~crc + now);
}

/* The quoted transport header: what it adds to the error's checksum. */
static __always_inline int quote_transport(struct packet *p, struct flow *f, struct decision *d, __u64 *sum)
{
	struct nat_diff diff = nat_diff(f, d);
	bool udp = f->protocol == IPPROTO_UDP;
	__u64 at = f->transport;

	BOUND(at, HEADERS_MASK);
	__u16 *ports = p->data + at, *check = p->data + at + (udp ? 6 : 16);
	if (f->follows)
		return 0;
	if ((void *)(ports + 2) > p->end)
		return -1;
	__u32 change = (ports[0] ^ d->dst_port) | (__u32)(ports[1] ^ d->src_port) << 16;
	*sum += set16(&ports[0], d->dst_port);
	*sum += set16(&ports[1], d->src_port);
	if (f->protocol == IPPROTO_SCTP) {
		*sum += change ? quote_crc(SKB(p), f, change) : 0;
		packet_reload(p);
		return 0;
	}
	if (at + (udp ? 8 : 18) > f->network + f->length || (void *)(check + 1) > p->end || (udp && !*check))
		return 0;
	__u16 now = ~fold((__u64)(__u16) ~*check + diff.addr + diff.port);
	*sum += set16(check, udp && !now ? 0xffff : now);
	return 0;
}

static __always_inline int quote_ipv4(struct packet *p, struct flow *f, struct decision *d, __u64 sum)
{
	struct iphdr *ip = p->data + sizeof(struct ethhdr);
	__u32 addr = nat_diff(f, d).addr;
	__u64 at = f->quoted - sizeof(struct icmp_head);

	BOUND(at, HEADERS_MASK);
	struct icmp_head *icmp = p->data + at;
	struct iphdr *quoted = (void *)(icmp + 1);
	if ((void *)(ip + 1) > p->end || (void *)(quoted + 1) > p->end)
		return -1;
	quoted->saddr = d->dst[1] >> 32;
	quoted->daddr = d->src[1] >> 32;
	sum += addr;
	sum += set16(&quoted->check, ~fold((__u64)(__u16)~quoted->check + addr));
	icmp->check = ~fold((__u64)(__u16)~icmp->check + sum);

	__u32 from = d->src[1] == f->src[1] ? ip->saddr : d->src[1] >> 32, to = d->dst[1] >> 32;
	ip->check = ~fold((__u64)(__u16)~ip->check + (__u32)~ip->saddr + from + (__u32)~ip->daddr + to);
	ip->saddr = from;
	ip->daddr = to;
	return 0;
}

static __always_inline int quote_ipv6(struct packet *p, struct flow *f, struct decision *d, __u64 sum)
{
	struct ipv6hdr *ip = p->data + sizeof(struct ethhdr);
	bool same = d->src[0] == f->src[0] && d->src[1] == f->src[1];
	__u64 at = f->quoted - sizeof(struct icmp_head), was[2], from[2];

	BOUND(at, HEADERS_MASK);
	struct icmp_head *icmp = p->data + at;
	struct ipv6hdr *quoted = (void *)(icmp + 1);
	if ((void *)(ip + 1) > p->end || (void *)(quoted + 1) > p->end)
		return -1;
	__builtin_memcpy(&quoted->saddr, d->dst, 16);
	__builtin_memcpy(&quoted->daddr, d->src, 16);
	__builtin_memcpy(was, &ip->saddr, 16);
	from[0] = same ? was[0] : d->src[0];
	from[1] = same ? was[1] : d->src[1];
	sum += (__u64)nat_diff(f, d).addr + address_diff(was, from, true) + address_diff(f->dst, d->dst, true);
	icmp->check = ~fold((__u64)(__u16)~icmp->check + sum);
	__builtin_memcpy(&ip->saddr, from, 16);
	__builtin_memcpy(&ip->daddr, d->dst, 16);
	return 0;
}

/* Whoever complains of what a client or a server has sent speaks for the other end. A sender in front of that end, which
 * NAT does not change, keeps its address. */
static __always_inline int quote_rewrite(struct packet *p, struct flow *f, struct decision *d)
{
	__u64 sum = 0;

	if (ttl_down(p, f) || quote_transport(p, f, d, &sum))
		return -1;
	return f->family == FAMILY_IPV6 ? quote_ipv6(p, f, d, sum) : quote_ipv4(p, f, d, sum);
}
