/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* tunnel.h - the packet inside another one: IP in IP, GRE, GUE; either family in either.
 *
 * What the outer header says follows kernel IPVS: TTL, DSCP and "do not fragment" of the inner one. The source port of GUE
 * is a hash of the connection, so that ECMP and receive queues tell connections apart.
 */
#pragma once
#include "direct.h"

/* As in Go's lvs.TunnelType and lvs.Checksum. */
enum tunnel_type { TUNNEL_IPIP, TUNNEL_GUE, TUNNEL_GRE };
enum tunnel_checksum { TUNNEL_NO_CHECKSUM, TUNNEL_FULL_CHECKSUM, TUNNEL_REMOTE_CHECKSUM };

struct gre_head {
	__u16 flags;
	__u16 protocol;
};

struct gue_head {
	__u16 src_port, dst_port, length, check; /* UDP */
	__u8 control, protocol; /* GUE version 0 without options */
	__u16 flags;
};

/* The bytes between the Ethernet header and the packet. */
static __always_inline __u32 tunnel_overhead(const struct server *s, bool v4)
{
	__u32 ip = v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);

	switch (s->tunnel_type) {
	case TUNNEL_GUE:
		return ip + sizeof(struct gue_head);
	case TUNNEL_GRE:
		return ip + sizeof(struct gre_head);
	}
	return ip;
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
	__u16 fragment = f->family == FAMILY_IPV4 && !f->may_fragment ? 0x4000 : 0;
	__u16 id = fragment ? 0 : bpf_get_prandom_u32();
	*(__u32 *)ip = bpf_htonl(0x45000000 | (__u32)f->tos << 16 | length);
	*(__u32 *)&ip->id = bpf_htonl((__u32)id << 16 | fragment);
	*(__u32 *)&ip->ttl = bpf_htonl((__u32)(__u8)(f->ttl - 1) << 24 | (__u32)tunnel_protocol(s, f) << 16);
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
	*(__u32 *)ip = bpf_htonl(0x60000000 | (__u32)f->tos << 20);
	*((__u32 *)ip + 1) = bpf_htonl((length - sizeof(*ip)) << 16 | (__u32)protocol << 8 | (__u8)(f->ttl - 1));
	__builtin_memcpy(&ip->saddr, s->tunnel_source, 16);
	__builtin_memcpy(&ip->daddr, s->addr, 16);
	return 0;
}

static __always_inline int tunnel_gre(struct packet *p, struct flow *f, __u32 at)
{
	struct gre_head *gre = p->data + at;

	if ((void *)(gre + 1) > p->end)
		return -1;
	gre->flags = 0;
	gre->protocol = f->family == FAMILY_IPV4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	return 0;
}

static __always_inline int tunnel_gue(struct packet *p, struct flow *f, const struct server *s, __u32 at, __u32 length)
{
	struct gue_head *gue = p->data + at;

	if ((void *)(gue + 1) > p->end)
		return -1;
	__u64 hash = (f->src[0] ^ f->src[1] ^ ((__u64)f->src_port << 16 | f->dst_port)) * 0x9e3779b97f4a7c15ULL;
	gue->src_port = bpf_htons(0xc000 | (__u16)(hash >> 50));
	gue->dst_port = s->tunnel_port;
	gue->length = bpf_htons(length);
	gue->check = 0;
	gue->control = 0;
	gue->protocol = f->family == FAMILY_IPV4 ? IPPROTO_IPIP : IPPROTO_IPV6;
	gue->flags = 0;
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

/* Puts the packet into another one. The Ethernet header's addresses are the caller's to write. */
static __always_inline int tunnel_wrap(struct packet *p, struct flow *f, const struct server *s, bool v4)
{
	__u32 overhead = tunnel_overhead(s, v4), length = f->length + overhead;
	__u32 at = sizeof(struct ethhdr) + (v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));

	if (ttl_down(p, f) || packet_grow(p, overhead, tunnel_room_flags(s, v4)))
		return -1;
	struct ethhdr *eth = p->data;
	if ((void *)(eth + 1) > p->end)
		return -1;
	eth->h_proto = v4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	if (v4 ? tunnel_ipv4(p, f, s, length) : tunnel_ipv6(p, f, s, length))
		return -1;
	switch (s->tunnel_type) {
	case TUNNEL_GUE:
		return tunnel_gue(p, f, s, at, length - (at - sizeof(struct ethhdr)));
	case TUNNEL_GRE:
		return tunnel_gre(p, f, at);
	}
	return 0;
}
