/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* nat.h - addresses and ports of a packet rewritten: those of one end, or of both. What does not change adds nothing to the
 * checksums. */
#pragma once
#include "direct.h"

/* The one's complement difference between two addresses of a family. */
static __always_inline __u32 address_diff(const __u64 old[2], const __u64 new[2], bool ipv6)
{
	__u64 sum = (__u64)(__u32) ~(old[1] >> 32) + (new[1] >> 32);

	if (ipv6)
		sum += (__u64)(__u32) ~(__u32)old[1] + (__u32) new[1] + (__u32) ~(__u32)old[0] + (__u32) new[0] +
		       (__u32) ~(old[0] >> 32) + (new[0] >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

/* What the addresses and ports of the packet add to checksums when they change. */
struct nat_diff {
	__u32 addr, port;
};

static __always_inline struct nat_diff nat_diff(struct flow *f, struct decision *d)
{
	bool ipv6 = f->family == FAMILY_IPV6;
	__u64 addr = (__u64)address_diff(f->src, d->src, ipv6) + address_diff(f->dst, d->dst, ipv6);

	return (struct nat_diff){
		(addr & 0xffffffff) + (addr >> 32),
		(__u16)~f->src_port + (__u32)d->src_port + (__u16)~f->dst_port + (__u32)d->dst_port,
	};
}

/* Addresses are nothing to the CRC of SCTP. Zero is one that is left to the device. */
static __always_inline void nat_crc(struct packet *p, struct flow *f, struct decision *d, __u64 at)
{
	__u32 change = (f->src_port ^ d->src_port) | (__u32)(f->dst_port ^ d->dst_port) << 16;

	if (change)
		change = crc_change(change, f->network + f->length - f->transport);
	packet_pull(p, at + SCTP_HEAD);
	__u32 *crc = p->data + at + 8;
	if ((void *)(crc + 1) <= p->end && *crc)
		*crc ^= change;
}

/* Ports, and the checksum over them and the addresses. Later fragments have neither. */
static __always_inline int nat_transport(struct packet *p, struct flow *f, struct decision *d, struct nat_diff diff)
{
	bool ipv6 = f->family == FAMILY_IPV6, udp = f->protocol == IPPROTO_UDP;
	__u64 at = f->transport;

	if (f->fragment == FRAGMENT_LATER) {
		if (ipv6)
			packet_sum(p, diff.addr);
		return 0;
	}
	if (f->follows)
		return 0;
	BOUND(at, HEADERS_MASK);
	if (p->kind == PACKET_USUAL && f->protocol == IPPROTO_SCTP)
		nat_crc(p, f, d, at);
	else
		packet_checksum(p, at + (udp ? 6 : 16), diff.addr, diff.port, udp, ipv6);
	__u16 *ports = p->data + at;
	if ((void *)(ports + 2) > p->end)
		return -1;
	ports[0] = d->src_port;
	ports[1] = d->dst_port;
	return 0;
}

static __always_inline int nat_rewrite(struct packet *p, struct flow *f, struct decision *d)
{
	struct nat_diff diff = nat_diff(f, d);

	if (ttl_down(p, f) || nat_transport(p, f, d, diff))
		return -1;
	if (f->family == FAMILY_IPV6) {
		struct ipv6hdr *ip = p->data + sizeof(struct ethhdr);
		if ((void *)(ip + 1) > p->end)
			return -1;
		__builtin_memcpy(&ip->saddr, d->src, 16);
		__builtin_memcpy(&ip->daddr, d->dst, 16);
		return 0;
	}
	struct iphdr *ip = p->data + sizeof(struct ethhdr);
	if ((void *)(ip + 1) > p->end)
		return -1;
	ip->check = ~fold((__u64)(__u16)~ip->check + diff.addr);
	ip->saddr = d->src[1] >> 32;
	ip->daddr = d->dst[1] >> 32;
	return 0;
}
