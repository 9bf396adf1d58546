/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* split.h - a super-packet cut into the segments that it stands for, which come in again one by one. tc only.
 *
 * The kernel cuts up what leaves, headers of tunnels included, but nothing tells it of checksums in those headers, which differ from
 * segment to segment, nor does it take one of UDP into a tunnel. Such packets are cut up before.
 */
#pragma once
#include "parse.h"

enum { SUPER = 1 << 16, SEGMENT = 1 << 14 };
struct super {
	__u8 payload[SUPER + SEGMENT];
};
MAP(supers, ARRAY, 1, 0, __u32, struct super); /* by CPU */

struct splitting {
	struct __sk_buff *skb;
	__u32 flags; /* of a redirection: in again, or out again */
	__u32 transport, head; /* offsets of the transport header, and of what follows it */
	__u32 size; /* of a segment's payload */
	__u32 sent, left;
	__u32 sequence;
	__u16 id, tcp; /* of IPv4; byte 13 of the TCP header, and the one before */
	__u16 pseudo; /* without length */
	bool udp, ipv6;
};

static __always_inline void split_write2(struct splitting *s, __u32 at, __u16 value)
{
	bpf_skb_store_bytes(s->skb, at, &value, sizeof(value), 0);
}

/* Gives the packet, which has the right length, the headers and the payload of the next segment. */
static __always_inline int split_write(struct splitting *s, __u64 length, bool last)
{
	enum { FIN_PSH = TCP_FIN | 8, CWR = 0x80 };
	__u32 cpu = bpf_get_smp_processor_id();
	struct super *b = bpf_map_lookup_elem(&supers, &cpu);
	__u64 at = s->sent;
	__u16 transport = s->head - s->transport + length, total = s->head - sizeof(struct ethhdr) + length;

	if (!b || !length)
		return -1;
	length--;
	BOUND(length, SEGMENT - 1);
	length++;
	BOUND(at, SUPER - 1);
	if (bpf_skb_store_bytes(s->skb, s->head, &b->payload[at], length, 0))
		return -1;
	if (s->ipv6) {
		split_write2(s, sizeof(struct ethhdr) + 4, bpf_htons(total - sizeof(struct ipv6hdr)));
	} else {
		__u32 ip = sizeof(struct ethhdr), check = ip + offsetof(struct iphdr, check);
		__u16 was[2];
		if (bpf_skb_load_bytes(s->skb, ip + 2, was, sizeof(was)))
			return -1;
		bpf_l3_csum_replace(s->skb, check, was[0], bpf_htons(total), 2);
		bpf_l3_csum_replace(s->skb, check, was[1], bpf_htons(s->id), 2);
		split_write2(s, ip + 2, bpf_htons(total));
		split_write2(s, ip + 4, bpf_htons(s->id));
		s->id++;
	}
	if (s->udp) {
		split_write2(s, s->transport + 4, bpf_htons(transport));
	} else {
		__u32 sequence = bpf_htonl(s->sequence + s->sent);
		__u16 flags = s->tcp & ~((last ? 0 : FIN_PSH) | (s->sent ? CWR : 0));
		bpf_skb_store_bytes(s->skb, s->transport + 4, &sequence, sizeof(sequence), 0);
		split_write2(s, s->transport + 12, bpf_htons(flags));
	}
	/* the device, or what stands for it, completes the checksum, as it would have done with the whole */
	split_write2(s, s->transport + (s->udp ? 6 : 16), fold((__u64)s->pseudo + bpf_htons(transport)));
	return 0;
}

static long split_next(__u32 n, struct splitting *s)
{
	if (s->left <= s->size || split_write(s, s->size, false))
		return 1;
	bpf_clone_redirect(s->skb, s->skb->ifindex, s->flags);
	s->sent += s->size;
	s->left -= s->size;
	return 0;
}

/* The payload, in this CPU's place for it, and what the segments' headers differ in. */
static __always_inline int split_begin(struct __sk_buff *skb, struct flow *f, struct splitting *s)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct super *b = bpf_map_lookup_elem(&supers, &cpu);
	__u8 tcp[sizeof(struct tcphdr)];
	__u64 left;

	s->skb = skb;
	s->sent = unknown_zero();
	s->flags = f->routed ? 0 : BPF_F_INGRESS;
	s->transport = f->transport;
	s->udp = f->protocol == IPPROTO_UDP;
	s->ipv6 = f->family == FAMILY_IPV6;
	s->size = skb->gso_size;
	if (s->udp) {
		s->head = s->transport + sizeof(struct udphdr);
	} else {
		if (bpf_skb_load_bytes(s->skb, s->transport, tcp, sizeof(tcp)))
			return -1;
		s->head = s->transport + (tcp[12] >> 4) * 4;
		s->sequence = bpf_ntohl(*(__u32 *)&tcp[4]);
		s->tcp = tcp[12] << 8 | tcp[13];
	}
	if (!s->ipv6 && bpf_skb_load_bytes(s->skb, f->network + 4, &s->id, sizeof(s->id)))
		return -1;
	s->id = bpf_ntohs(s->id);
	s->pseudo = pseudo_sum(f->src, f->dst, f->protocol, 0, s->ipv6);
	left = f->network + f->length - s->head;
	if (!b || left - 1 >= SUPER - 1 || s->size >= SEGMENT)
		return -1;
	s->left = left;
	left--;
	BOUND(left, SUPER - 1);
	left++;
	return bpf_skb_load_bytes(s->skb, s->head, b->payload, left);
}

/* Cuts the packet up. The last segment is what becomes of it itself. A function that is verified for itself. */
__noinline int split(struct __sk_buff *skb, struct flow *f)
{
	struct splitting s = {};

	if (!f || split_begin(skb, f, &s))
		return TC_ACT_SHOT;
	if (s.left > s.size && bpf_skb_change_tail(skb, s.head + s.size, 0))
		return TC_ACT_SHOT;
	bpf_loop(SUPER, split_next, &s, 0);
	if (bpf_skb_change_tail(skb, s.head + s.left, 0) || split_write(&s, s.left, true))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, s.flags);
}
