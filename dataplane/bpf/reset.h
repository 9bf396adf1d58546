/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* reset.h - the end of a TCP connection whose server is gone, told to both ends by a packet of one of them: its sender is answered
 * with a RST (RFC 9293, 3.5.2), and the packet itself goes on as a RST, which begins where the packet would have begun. tc only.
 */
#pragma once
#include "forward.h"

/* What a RST takes from the packet. */
struct segment_head {
	__u16 src_port, dst_port;
	__u32 seq, ack;
	__u8 offset, flags;
	__u16 window, check, urgent;
};

struct reset4 {
	struct iphdr ip;
	struct segment_head tcp;
};

struct reset6 {
	struct ipv6hdr ip;
	struct segment_head tcp;
};

/* Whether the packet's checksum is left to the device: then what is not of the pseudo header is no matter to it. */
static __always_inline int reset_is_partial(struct packet *p, struct flow *f)
{
	__u16 before = 0, after = 0;
	__u32 at = f->transport + offsetof(struct segment_head, check);

	if (packet_load(p, at, &before, 2) || bpf_l4_csum_replace(SKB(p), at, 0, 1, 0) || packet_load(p, at, &after, 2))
		return -1;
	return before == after;
}

/* The checksum of a segment without data: what the device is to go on with, or all of it. */
static __always_inline void reset_sum(struct segment_head *t, const __u64 src[2], const __u64 dst[2], bool ipv6,
				      bool partial)
{
	__u32 sum = pseudo_sum(src, dst, IPPROTO_TCP, sizeof(*t), ipv6);

	t->check = 0;
	t->check = partial ? sum : (__u16)~fold((__u32)bpf_csum_diff(NULL, 0, (__be32 *)t, sizeof(*t), sum));
}

/* Writes a RST over the packet, which is as long as that. */
static __always_inline int reset_write(struct packet *p, struct flow *f, struct segment_head *t, const __u64 src[2],
				       const __u64 dst[2], __u8 ttl, bool partial)
{
	bool ipv6 = f->family == FAMILY_IPV6;

	t->offset = sizeof(*t) / 4 << 4;
	t->window = t->urgent = 0;
	reset_sum(t, src, dst, ipv6, partial);
	if (ipv6) {
		struct reset6 r = { .tcp = *t };
		*(__u32 *)&r.ip = bpf_htonl(0x60000000);
		r.ip.payload_len = bpf_htons(sizeof(*t));
		r.ip.nexthdr = IPPROTO_TCP;
		r.ip.hop_limit = ttl;
		__builtin_memcpy(&r.ip.saddr, src, 16);
		__builtin_memcpy(&r.ip.daddr, dst, 16);
		return bpf_skb_store_bytes(SKB(p), sizeof(struct ethhdr), &r, sizeof(r), BPF_F_RECOMPUTE_CSUM);
	}
	struct reset4 r = { .tcp = *t };
	*(__u32 *)&r.ip = bpf_htonl(0x45000000 | sizeof(r));
	*(__u32 *)&r.ip.id = bpf_htonl(0x4000);
	*(__u32 *)&r.ip.ttl = bpf_htonl((__u32)ttl << 24 | IPPROTO_TCP << 16);
	r.ip.saddr = src[1] >> 32;
	r.ip.daddr = dst[1] >> 32;
	r.ip.check = ~fold((__u32)bpf_csum_diff(NULL, 0, (__be32 *)&r.ip, sizeof(r.ip), 0));
	return bpf_skb_store_bytes(SKB(p), sizeof(struct ethhdr), &r, sizeof(r), BPF_F_RECOMPUTE_CSUM);
}

/* Answers the packet's sender with a copy of it. On its way out, a program of ours leaves alone what has come in: the plan is not
 * touched meanwhile. */
static __always_inline int reset_answer(struct packet *p, struct flow *f, const struct segment_head *in, bool partial)
{
	struct segment_head t = { .src_port = in->dst_port, .dst_port = in->src_port, .flags = TCP_RST };
	__u32 bytes = f->length - (f->transport - f->network) - (in->offset >> 4) * 4;
	__u8 was[2 * ETH_ALEN], back[2 * ETH_ALEN];

	if (in->flags & TCP_ACK) {
		t.seq = in->ack;
	} else {
		t.flags |= TCP_ACK;
		t.ack = bpf_htonl(bpf_ntohl(in->seq) + bytes + !!(in->flags & TCP_SYN) + !!(in->flags & TCP_FIN));
	}
	if (packet_load(p, 0, was, sizeof(was)))
		return -1;
	__builtin_memcpy(back, was + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(back + ETH_ALEN, was, ETH_ALEN);
	if (bpf_skb_store_bytes(SKB(p), 0, back, sizeof(back), 0) ||
	    reset_write(p, f, &t, f->dst, f->src, 64, partial) ||
	    bpf_clone_redirect(SKB(p), SKB(p)->ifindex, packet_leaves(p) ? BPF_F_INGRESS : 0))
		return -1;
	return bpf_skb_store_bytes(SKB(p), 0, was, sizeof(was), 0);
}

/* Has the packet go on as a RST of its sender. */
static __always_inline int reset_become(struct packet *p, struct flow *f, const struct segment_head *in, bool partial)
{
	struct segment_head t = {
		.src_port = in->src_port, .dst_port = in->dst_port, .seq = in->seq, .flags = TCP_RST
	};

	if (in->flags & TCP_ACK) {
		t.ack = in->ack;
		t.flags |= TCP_ACK;
	}
	if (reset_write(p, f, &t, f->src, f->dst, f->ttl, partial))
		return -1;
	packet_reload(p);
	f->length = f->transport - f->network + sizeof(t);
	f->event = TCP_EVENT_RST;
	f->opens = f->may_fragment = false;
	f->summed = true;
	f->tos = 0;
	return 0;
}

/* Sends the RST to the other end, if there is a way; nobody is told if there is none. */
static __always_inline int reset_forward(struct packet *p, struct flow *f, struct decision *d)
{
	struct route *r = NULL;
	bool output = d->direction == DIRECTION_OUTPUT;

	if (output && packet_leaves(p))
		return answer_here(p, f, d);
	enum routed routed = route_to(p, d->src, d->dst, &r, now());
	touch(f, d);
	if (!r || routed == ROUTED_NOWHERE || last_hop(f) ||
	    (routed == ROUTED_LOCALLY && !output && d->forward == FORWARD_FULLNAT))
		return packet_drop(p);
	bool here = routed == ROUTED_LOCALLY && !output && d->forward != FORWARD_MASQ;
	if (!here && rewrite(p, f, d, tunnel_of(d)))
		return packet_drop(p);
	if (d->server)
		count_packet(d->server, d->direction, f->length);
	if (routed == ROUTED_LOCALLY)
		return output ? packet_from_here(p) : packet_pass(p);
	return routed == ROUTED_BY_KERNEL ? route_send_by_kernel(r) : send(p, r);
}

/* Ends the connection that the packet belongs to, as it was decided. */
static __always_inline int reset(struct packet *p, struct flow *f, struct decision *d)
{
	struct segment_head in;

	if (!icmp_allowed())
		return drop(p, REASON_RESET_QUIET);
	count_reason(REASON_RESET);
	if (packet_load(p, f->transport, &in, sizeof(in)))
		return packet_drop(p);
	__u32 length = f->transport + sizeof(in);
	int partial = bpf_skb_change_tail(SKB(p), length, 0) ? -1 : reset_is_partial(p, f);
	if (partial < 0 || reset_answer(p, f, &in, partial) || reset_become(p, f, &in, partial))
		return packet_drop(p);
	return reset_forward(p, f, d);
}
