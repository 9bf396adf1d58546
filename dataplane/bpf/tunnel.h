/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* tunnel.h - the packet inside another one: IP in IP, GRE, GUE; either family in either.
 *
 * What the outer header says follows kernel IPVS: TTL, DSCP, congestion marks and "do not fragment" of the inner one. The source
 * port of GUE and the flow label of IPv6 are a hash of the connection, so that ECMP and receive queues tell connections apart.
 *
 * Checksums of the outer packet are local checksum offload: the inner one's own checksum makes all that it covers add up to what
 * is known beforehand, so no byte of the payload is looked at. Remote checksum offload is the same: what it spares, the
 * inner checksum, cannot be left out by a program where the device is to fill it in, and is there already everywhere else.
 */
#pragma once
#include "direct.h"
#include "route.h"

/* As in Go's lvs.TunnelType and lvs.Checksum. */
enum tunnel_type { TUNNEL_IPIP, TUNNEL_GUE, TUNNEL_GRE };
enum tunnel_checksum { TUNNEL_NO_CHECKSUM, TUNNEL_FULL_CHECKSUM, TUNNEL_REMOTE_CHECKSUM };

/* The bytes between the Ethernet header and the packet. */
static __always_inline __u32 tunnel_overhead(const struct server *s, bool v4)
{
	__u32 ip = v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);

	switch (s->tunnel_type) {
	case TUNNEL_GUE:
		return ip + sizeof(struct gue_head);
	case TUNNEL_GRE:
		return ip + sizeof(struct gre_head) + (s->tunnel_checksum ? sizeof(struct gre_checksum) : 0);
	}
	return ip;
}

static __always_inline bool tunnel_sums(const struct server *s)
{
	return s->tunnel_checksum && s->tunnel_type != TUNNEL_IPIP;
}

/* DSCP, and the congestion mark of RFC 3168's full functionality: congestion on the way here is no congestion in the tunnel. */
static __always_inline __u32 tunnel_tos(struct flow *f)
{
	enum { ECN_MASK = 3, ECN_CE = 3, ECN_ECT0 = 2 };

	return (f->tos & ECN_MASK) == ECN_CE ? (f->tos & ~ECN_MASK) | ECN_ECT0 : f->tos;
}

static __always_inline __u64 tunnel_hash(struct flow *f)
{
	/* fragments go the same way all together */
	__u64 ports = f->fragment ? 0 : (__u64)f->src_port << 16 | f->dst_port;

	return (f->src[0] ^ f->src[1] ^ ports) * 0x9e3779b97f4a7c15ULL;
}

/* Whether the outer packet may be fragmented. */
static __always_inline bool tunnel_may_fragment(struct flow *f)
{
	return f->family == FAMILY_IPV6 || f->may_fragment || !settings.pmtu_disc;
}

static __always_inline __u8 tunnel_protocol(const struct server *s, struct flow *f)
{
	switch (s->tunnel_type) {
	case TUNNEL_GUE:
		return IPPROTO_UDP;
	case TUNNEL_GRE:
		return IPPROTO_GRE;
	}
	return f->family == FAMILY_IPV4 ? IPPROTO_IPIP : IPPROTO_IPV6;
}

static __always_inline int tunnel_ipv4(struct packet *p, struct flow *f, const struct server *s, __u32 length)
{
	struct iphdr *ip = p->data + sizeof(struct ethhdr);

	if ((void *)(ip + 1) > p->end)
		return -1;
	__u16 fragment = tunnel_may_fragment(f) ? 0 : 0x4000;
	__u16 id = fragment ? 0 : bpf_get_prandom_u32();
	*(__u32 *)ip = bpf_htonl(0x45000000 | tunnel_tos(f) << 16 | length);
	*(__u32 *)&ip->id = bpf_htonl((__u32)id << 16 | fragment);
	*(__u32 *)&ip->ttl = bpf_htonl(ttl_left(f) << 24 | (__u32)tunnel_protocol(s, f) << 16);
	ip->saddr = s->tunnel_source[1] >> 32;
	ip->daddr = s->addr[1] >> 32;
	ip->check = ~fold((__u64) * (__u32 *)ip + *(__u32 *)&ip->id + *(__u32 *)&ip->ttl + ip->saddr + ip->daddr);
	return 0;
}

static __always_inline int tunnel_ipv6(struct packet *p, struct flow *f, const struct server *s, __u32 length)
{
	struct ipv6hdr *ip = p->data + sizeof(struct ethhdr);

	if ((void *)(ip + 1) > p->end)
		return -1;
	__u8 protocol = tunnel_protocol(s, f);
	*(__u32 *)ip = bpf_htonl(0x60000000 | tunnel_tos(f) << 20 | (__u32)(tunnel_hash(f) >> 44));
	*((__u32 *)ip + 1) = bpf_htonl((length - sizeof(*ip)) << 16 | (__u32)protocol << 8 | ttl_left(f));
	__builtin_memcpy(&ip->saddr, s->tunnel_source, 16);
	__builtin_memcpy(&ip->daddr, s->addr, 16);
	return 0;
}

/* The sum of a packet with headers between IPv6's and the transport's, or with bytes that no checksum covers; or -1. tc only;
 * a function that is verified for itself. */
__noinline int inner_bytes_sum(struct __sk_buff *skb, struct flow *f)
{
	__u16 check, sum;

	if (!f)
		return -1;
	if (f->fragment || f->quoted) /* nothing of these is left to the device */
		return sum_bytes(skb, f->network, f->length, &sum) ? sum : -1;
	__u32 head = f->transport - f->network, field = f->protocol == IPPROTO_TCP ? 16 : 6;
	__u16 pseudo = pseudo_sum(f->src, f->dst, f->protocol, f->length - head, f->family == FAMILY_IPV6);
	if (bpf_skb_load_bytes(skb, f->transport + field, &check, sizeof(check)))
		return -1;
	bool partial = check == pseudo; /* left to the device */
	if (!sum_bytes(skb, f->network, partial ? head : f->length, &sum))
		return -1;
	return partial ? fold((__u64)sum + (__u16)~pseudo) : sum;
}

/* What the inner packet adds up to, as it will be on the wire. An IPv4 header adds up to nothing; of an IPv6 header, what
 * the pseudo header has, too, cancels out. */
static __always_inline bool inner_sum(struct packet *p, struct flow *f, __u16 *sum)
{
	if (!f->summed) {
		int known = p->hook == HOOK_TC ? inner_bytes_sum(SKB(p), f) : -1;
		packet_reload(p);
		*sum = known;
		return known >= 0;
	}
	if (f->family == FAMILY_IPV4) {
		*sum = ~pseudo_sum(f->src, f->dst, f->protocol, f->length - (f->transport - f->network), false);
		return true;
	}
	struct ipv6hdr *ip = p->data + sizeof(struct ethhdr);
	if ((void *)(ip + 1) > p->end)
		return false;
	*sum = fold((__u64) * (__u32 *)ip + *((__u16 *)ip + 3) + (__u16)~bpf_htons(f->protocol));
	return true;
}

static __always_inline __u16 nonzero(__u16 check)
{
	return check ? check : 0xffff;
}

static __always_inline int tunnel_gre(struct packet *p, struct flow *f, const struct server *s, __u32 at, __u16 sum)
{
	struct gre_head *gre = p->data + at;

	if ((void *)(gre + 1) > p->end)
		return -1;
	gre->flags = tunnel_sums(s) ? bpf_htons(0x8000) : 0;
	gre->protocol = f->family == FAMILY_IPV4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	if (!tunnel_sums(s))
		return 0;
	struct gre_checksum *c = (void *)(gre + 1);
	if ((void *)(c + 1) > p->end)
		return -1;
	c->spare = 0;
	c->check = nonzero(~fold((__u64)sum + gre->flags + gre->protocol));
	return 0;
}

static __always_inline int tunnel_gue(struct packet *p, struct flow *f, const struct server *s, __u32 at, __u16 sum,
				      __u32 length)
{
	struct gue_head *gue = p->data + at;

	if ((void *)(gue + 1) > p->end)
		return -1;
	gue->src_port = bpf_htons(GUE_PORTS | (__u16)(tunnel_hash(f) >> 50));
	gue->dst_port = s->tunnel_port;
	gue->length = bpf_htons(length);
	gue->check = 0;
	gue->control = 0;
	gue->protocol = f->family == FAMILY_IPV4 ? IPPROTO_IPIP : IPPROTO_IPV6;
	gue->flags = 0;
	if (!tunnel_sums(s))
		return 0;
	__u16 pseudo = pseudo_sum(s->tunnel_source, s->addr, IPPROTO_UDP, length, !is_v4(s->addr));
	__u32 *word = (void *)gue;
	gue->check = nonzero(~fold((__u64)pseudo + word[0] + word[1] + word[2] + sum));
	return 0;
}

/* What tc has to know to cut a GSO packet up. */
static __always_inline __u64 tunnel_room_flags(const struct server *s, bool v4)
{
	__u64 flags = v4 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;

	switch (s->tunnel_type) {
	case TUNNEL_GUE:
		return flags | BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	case TUNNEL_GRE:
		return flags | BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
	}
	return flags;
}

/* Puts the packet, which adds up to sum, into another one. The Ethernet header's addresses are the caller's to write. */
static __always_inline int tunnel_wrap(struct packet *p, struct flow *f, const struct server *s, __u16 sum, bool v4)
{
	__u32 overhead = tunnel_overhead(s, v4), length = f->length + overhead;
	__u32 at = sizeof(struct ethhdr) + (v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));

	if (packet_grow(p, overhead, tunnel_room_flags(s, v4)))
		return -1;
	struct ethhdr *eth = p->data;
	if ((void *)(eth + 1) > p->end)
		return -1;
	eth->h_proto = v4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	if (v4 ? tunnel_ipv4(p, f, s, length) : tunnel_ipv6(p, f, s, length))
		return -1;
	switch (s->tunnel_type) {
	case TUNNEL_GUE:
		return tunnel_gue(p, f, s, at, sum, length - (at - sizeof(struct ethhdr)));
	case TUNNEL_GRE:
		return tunnel_gre(p, f, s, at, sum);
	}
	return 0;
}

static __always_inline int tunnel_send(struct packet *p, struct flow *f, const struct server *s)
{
	__u16 sum = 0;

	if (!(s->tunnel_source[0] | s->tunnel_source[1]) || ttl_down(p, f) ||
	    (tunnel_sums(s) && !inner_sum(p, f, &sum)))
		return -1;
	return is_v4(s->addr) ? tunnel_wrap(p, f, s, sum, true) : tunnel_wrap(p, f, s, sum, false);
}
