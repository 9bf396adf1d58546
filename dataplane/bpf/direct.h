/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* direct.h - direct routing: the packet goes to the server's MAC address as it is, save for its TTL. */
#pragma once
#include "decide.h"

/* The hops that the packet has left when it is sent on. */
static __always_inline __u32 ttl_left(struct flow *f)
{
	return (__u8)(f->routed ? f->ttl : f->ttl - 1);
}

/* One hop less, which ends a packet that goes round in circles. */
static __always_inline int ttl_down(struct packet *p, struct flow *f)
{
	if (f->routed)
		return 0;
	if (f->family == FAMILY_IPV6) {
		struct ipv6hdr *ip = p->data + sizeof(struct ethhdr);
		if ((void *)(ip + 1) > p->end)
			return -1;
		ip->hop_limit--;
		return 0;
	}
	struct iphdr *ip = p->data + sizeof(struct ethhdr);
	if ((void *)(ip + 1) > p->end)
		return -1;
	ip->ttl--;
	ip->check = ~fold((__u64)(__u16)~ip->check + (__u16)~bpf_htons(0x0100));
	return 0;
}
