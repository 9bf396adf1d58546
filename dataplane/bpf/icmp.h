/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* icmp.h - ICMP errors that the director itself sends: the packet becomes one and goes back where it came from. */
#pragma once
#include "parse.h"

/* How much of the packet an error quotes: as the kernel does with IPv4, what 576 bytes have room for. */
enum { QUOTE = 576 - sizeof(struct iphdr) - sizeof(struct icmp_head), QUOTE_ROOM = 1024 };

struct quote {
	__u8 bytes[QUOTE_ROOM + 4]; /* zeros fill up the last four */
};
MAP(quotes, PERCPU_ARRAY, 1, 0, __u32, struct quote);

struct icmp_error {
	__u8 type4, code4;
	__u8 type6, code6;
	__u32 mtu; /* of "fragmentation needed" and "packet too big" */
};

/* The limit of messages is that of the kernel (icmp_msgs_per_sec, icmp_msgs_burst), for each CPU. */
static __always_inline bool icmp_allowed(void)
{
	__u32 zero = 0, jiffies = now();
	struct icmp_budget *b = bpf_map_lookup_elem(&icmp_budgets, &zero);

	if (!b)
		return false;
	__u32 more = (jiffies - b->since) / (settings.icmp_every ? settings.icmp_every : 1);
	if (more) {
		b->left = b->left + more < settings.icmp_burst ? b->left + more : settings.icmp_burst;
		b->since = jiffies;
	}
	if (!b->left)
		return false;
	b->left--;
	return true;
}

/* The one's complement sum of what an error quotes, as it will be on the wire. Where the transport checksum is left
 * to the device, the field holds only the sum of the pseudo header; the device will make the whole add up to its complement. */
static __always_inline int icmp_quote_sum(struct packet *p, struct flow *f, __u64 length, __u32 *sum)
{
	__u32 zero = 0, at = f->transport - f->network;
	struct quote *q = bpf_map_lookup_elem(&quotes, &zero);

	if (!q || !length || length > QUOTE)
		return -1;
	/* the verifier of 6.1 does not take from a comparison with 0 that there is at least one byte */
	length--;
	BOUND(length, QUOTE_ROOM - 1);
	length++;
	__builtin_memset(&q->bytes[length], 0, 4);
	if (bpf_skb_load_bytes(SKB(p), f->network, q->bytes, length))
		return -1;
	__u64 first = (length + 3) & ~3ull, more = 0;
	if (first > PIECE) {
		more = first - PIECE;
		first = PIECE;
	}
	BOUND(first, QUOTE_ROOM - 1);
	BOUND(more, PIECE - 1);
	*sum = (__u32)bpf_csum_diff(NULL, 0, (__be32 *)q->bytes, first, 0);
	*sum = fold((__u32)bpf_csum_diff(NULL, 0, (__be32 *)&q->bytes[PIECE], more, *sum));

	__u32 field = at + (f->protocol == IPPROTO_TCP ? 16 : 6);
	if (field > QUOTE - 2 || f->protocol == IPPROTO_SCTP || f->follows || f->quoted)
		return 0;
	__u64 pseudo = (__u64)bpf_htons(f->protocol) + bpf_htons((__u16)(f->length - at));
	pseudo += (f->src[1] >> 32) + (f->dst[1] >> 32);
	if (f->family == FAMILY_IPV6)
		pseudo += (f->src[0] >> 32) + (__u32)f->src[0] + (__u32)f->src[1] + (f->dst[0] >> 32) +
			  (__u32)f->dst[0] + (__u32)f->dst[1];
	if (*(__u16 *)&q->bytes[field & (QUOTE_ROOM - 2)] != fold(pseudo))
		return 0;
	/* up to the transport header the sum stays; IPv4 headers add up to nothing */
	__u64 head = 0;
	if (f->family == FAMILY_IPV6)
		head = fold((__u32)bpf_csum_diff(NULL, 0, (__be32 *)q->bytes, sizeof(struct ipv6hdr), 0));
	if (f->family == FAMILY_IPV6 && at != sizeof(struct ipv6hdr))
		return 0;
	*sum = fold(head + (__u16)~fold(pseudo));
	return 0;
}

static __always_inline __u16 icmp_write4(struct packet *p, struct flow *f, const struct icmp_error *e,
					 const __u64 from[2], __u32 quoted, __u32 sum)
{
	struct iphdr *ip = p->data + sizeof(struct ethhdr);
	struct icmp_head *icmp = (void *)(ip + 1);

	if ((void *)(icmp + 1) > p->end)
		return 0;
	__u16 total = sizeof(*ip) + sizeof(*icmp) + quoted;
	*(__u32 *)ip = bpf_htonl(0x45c00000 | total);
	*(__u32 *)&ip->id = 0;
	*(__u32 *)&ip->ttl = bpf_htonl(64 << 24 | IPPROTO_ICMP << 16);
	ip->saddr = from[1] >> 32;
	ip->daddr = f->src[1] >> 32;
	ip->check = ~fold((__u64)bpf_htonl(0x45c00000 | total) + bpf_htonl(64 << 24 | IPPROTO_ICMP << 16) + ip->saddr +
			  ip->daddr);
	*(__u32 *)icmp = bpf_htonl((__u32)e->type4 << 24 | (__u32)e->code4 << 16);
	icmp->mtu = bpf_htonl(e->mtu);
	icmp->check = ~fold((__u64) * (__u32 *)icmp + bpf_htonl(e->mtu) + sum);
	return total;
}

static __always_inline __u16 icmp_write6(struct packet *p, struct flow *f, const struct icmp_error *e,
					 const __u64 from[2], __u32 quoted, __u32 sum)
{
	struct ipv6hdr *ip = p->data + sizeof(struct ethhdr);
	struct icmp_head *icmp = (void *)(ip + 1);

	if ((void *)(icmp + 1) > p->end)
		return 0;
	__u16 length = sizeof(*icmp) + quoted;
	*(__u32 *)ip = bpf_htonl(0x60000000);
	*((__u32 *)ip + 1) = bpf_htonl((__u32)length << 16 | IPPROTO_ICMPV6 << 8 | 64);
	__builtin_memcpy(&ip->saddr, from, 16);
	__builtin_memcpy(&ip->daddr, f->src, 16);
	*(__u32 *)icmp = bpf_htonl((__u32)e->type6 << 24 | (__u32)e->code6 << 16);
	icmp->mtu = bpf_htonl(e->mtu);
	__u64 pseudo = (__u64)bpf_htonl(length) + bpf_htonl(IPPROTO_ICMPV6);
	pseudo += (f->src[0] >> 32) + (__u32)f->src[0] + (f->src[1] >> 32) + (__u32)f->src[1];
	pseudo += (from[0] >> 32) + (__u32)from[0] + (from[1] >> 32) + (__u32)from[1];
	icmp->check = ~fold(pseudo + *(__u32 *)icmp + bpf_htonl(e->mtu) + sum);
	return sizeof(*ip) + length;
}

/* Makes an ICMP error out of the packet that the flow is of: to its sender, from an address, mostly that it was sent to. What is in
 * front of it goes: the error about a tunnel that it was in (relay.h). MAC addresses are the caller's to write. tc only. */
static __always_inline int icmp_make(struct packet *p, struct flow *f, const struct icmp_error *e, const __u64 from[2])
{
	__u32 quoted = f->length < QUOTE ? f->length : QUOTE, sum = 0, front = f->network - sizeof(struct ethhdr);
	bool v4 = f->family == FAMILY_IPV4;
	int room = (v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) + sizeof(struct icmp_head);
	__u64 family = v4 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;

	if (packet_is_gso(p) || icmp_quote_sum(p, f, quoted, &sum) ||
	    bpf_skb_change_tail(SKB(p), f->network + quoted, 0) || packet_grow(p, room, front ? family : 0) ||
	    (front && packet_grow(p, -front, 0)))
		return -1;
	struct ethhdr *eth = p->data;
	if ((void *)(eth + 1) > p->end)
		return -1;
	eth->h_proto = v4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	return v4 ? !icmp_write4(p, f, e, from, quoted, sum) : !icmp_write6(p, f, e, from, quoted, sum);
}

/* Turns the packet into an ICMP error, and sends it back. */
static __always_inline int icmp_answer(struct packet *p, struct flow *f, const struct icmp_error *e,
				       const __u64 from[2])
{
	if (icmp_make(p, f, e, from))
		return TC_ACT_SHOT;
	struct ethhdr *eth = p->data;
	if ((void *)(eth + 1) > p->end)
		return TC_ACT_SHOT;
	__u8 mac[ETH_ALEN];
	__builtin_memcpy(mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, mac, ETH_ALEN);
	return bpf_redirect(SKB(p)->ifindex, packet_leaves(p) ? BPF_F_INGRESS : 0);
}
