/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* nat.h - one end of a packet rewritten: its destination on the way in, its source on the way out. */
#pragma once
#include "service.h"

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

static __always_inline int nat_rewrite(struct packet *p, struct flow *f, struct decision *d)
{
	bool output = d->direction == DIRECTION_OUTPUT, ipv6 = f->family == FAMILY_IPV6;
	bool udp = f->protocol == IPPROTO_UDP;
	const __u64 *old = output ? f->src : f->dst;
	__u16 old_port = output ? f->src_port : f->dst_port;
	__u32 diff = address_diff(old, d->addr, ipv6);
	__u64 at = f->transport;

	BOUND(at, HEADERS_MASK);
	packet_checksum(p, at + (udp ? 6 : 16), diff, (__u16)~old_port + (__u32)d->port, udp, ipv6);
	__u16 *ports = p->data + at;
	if ((void *)(ports + 2) > p->end)
		return -1;
	/* both, so that no offset depends on the direction */
	ports[0] = output ? d->port : f->src_port;
	ports[1] = output ? f->dst_port : d->port;
	if (ipv6) {
		struct ipv6hdr *ip = p->data + sizeof(struct ethhdr);
		if ((void *)(ip + 1) > p->end)
			return -1;
		ip->hop_limit--;
		if (output)
			__builtin_memcpy(&ip->saddr, d->addr, 16);
		else
			__builtin_memcpy(&ip->daddr, d->addr, 16);
		return 0;
	}
	struct iphdr *ip = p->data + sizeof(struct ethhdr);
	if ((void *)(ip + 1) > p->end)
		return -1;
	ip->ttl--;
	ip->check = ~fold((__u64)(__u16)~ip->check + diff + (__u16)~bpf_htons(0x0100));
	if (output)
		ip->saddr = d->addr[1] >> 32;
	else
		ip->daddr = d->addr[1] >> 32;
	return 0;
}
