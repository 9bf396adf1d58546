/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* toa.h - the client's address in a TCP option (254), for a server that sees only a local address of ours.
 *
 * It goes along with the client's packets until the server has answered one of them: behind the other options of a packet that has no
 * data, which leaves a checksum of the device's where it is; else in front of them, which makes the headers move and is possible only
 * where the checksum is complete.
 */
#pragma once
#include "nat.h"

enum { TOA_KIND = 254, TCP_HEAD = 20, TCP_HEAD_MOST = 60 };

/* As in the packet, with the address of IPv4 or IPv6. */
struct toa {
	__u8 kind, length;
	__u16 port;
	__u32 addr[4];
};

static __always_inline __u32 toa_size(bool ipv6)
{
	return ipv6 ? sizeof(struct toa) : sizeof(struct toa) - 12;
}

static __always_inline void toa_fill(struct toa *t, struct flow *f, bool ipv6)
{
	t->kind = TOA_KIND;
	t->length = toa_size(ipv6);
	t->port = f->src_port;
	if (ipv6)
		__builtin_memcpy(t->addr, f->src, 16);
	else
		t->addr[0] = f->src[1] >> 32;
}

/* What the option adds to the sum of the TCP header's words. */
static __always_inline __u32 toa_sum(const struct toa *t, bool ipv6)
{
	__u64 sum = (__u64)((__u16 *)t)[0] + t->port + t->addr[0];

	if (ipv6)
		sum += (__u64)t->addr[1] + t->addr[2] + t->addr[3];
	return fold(sum + bpf_htons(toa_size(ipv6) / 4 << 12));
}

/* Makes the lengths of the IP and TCP headers say that the option is there, and carries on the checksums. */
static __always_inline int toa_account(struct packet *p, const struct toa *t, __u64 at, bool ipv6)
{
	__u32 size = toa_size(ipv6);
	struct tcphdr *tcp = p->data + at;

	if ((void *)(tcp + 1) > p->end)
		return -1;
	tcp->doff += size / 4;
	if (ipv6) {
		struct ipv6hdr *ip = p->data + sizeof(struct ethhdr);
		ip->payload_len = bpf_htons(bpf_ntohs(ip->payload_len) + size);
	} else {
		struct iphdr *ip = p->data + sizeof(struct ethhdr);
		ip->tot_len = bpf_htons(bpf_ntohs(ip->tot_len) + size);
		ip->check = ~fold((__u64)(__u16)~ip->check + bpf_htons(size));
	}
	packet_checksum(p, at + 16, bpf_htons(size), toa_sum(t, ipv6), false, false);
	return 0;
}

/* Whether the device is to complete the checksum: the field has the sum of the pseudo header only. */
static __always_inline bool toa_partial(struct flow *f, struct decision *d, __u16 check, bool ipv6)
{
	__u64 sum = (__u64)bpf_htons(IPPROTO_TCP) + bpf_htons((__u16)(f->network + f->length - f->transport));

	sum += (d->src[1] >> 32) + (d->dst[1] >> 32);
	if (ipv6)
		sum += (d->src[0] >> 32) + (__u32)d->src[0] + (__u32)d->src[1] + (d->dst[0] >> 32) + (__u32)d->dst[0] +
		       (__u32)d->dst[1];
	return check == fold(sum);
}

enum told { TOLD, TOLD_NO_ROOM, TOLD_BROKEN };

/* Tells the server who the client is, in a packet that is rewritten already. */
static __always_inline enum told toa_tell(struct packet *p, struct flow *f, struct decision *d, __u32 mtu, bool ipv6)
{
	__u32 size = toa_size(ipv6);
	__u64 at = sizeof(struct ethhdr) + (ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	struct tcphdr *tcp = p->data + at;
	struct toa t = {};

	if (f->transport != at || packet_is_gso(p) || (mtu && f->length + size > mtu) || (void *)(tcp + 1) > p->end)
		return TOLD_NO_ROOM;
	__u32 header = tcp->doff * 4;
	__u16 check = tcp->check;
	if (header + size > TCP_HEAD_MOST)
		return TOLD_NO_ROOM;
	toa_fill(&t, f, ipv6);
	if (f->network + f->length == at + header) {
		if (packet_resize(p, at + header + size))
			return TOLD_NO_ROOM;
		if (packet_store(p, at + header, &t, size))
			return TOLD_BROKEN;
	} else {
		struct tcphdr head = *tcp;
		if (toa_partial(f, d, check, ipv6) || packet_open(p, at, size))
			return TOLD_NO_ROOM;
		if (packet_store(p, at, &head, sizeof(head)) || packet_store(p, at + TCP_HEAD, &t, size))
			return TOLD_BROKEN;
	}
	packet_reload(p);
	return toa_account(p, &t, at, ipv6) ? TOLD_BROKEN : TOLD;
}

static __always_inline enum told toa_put(struct packet *p, struct flow *f, struct decision *d, __u32 mtu)
{
	packet_reload(p);
	return f->family == FAMILY_IPV4 ? toa_tell(p, f, d, mtu, false) : toa_tell(p, f, d, mtu, true);
}

/* A function of its own for each hook, for the sake of the stack. */
static __noinline enum told toa_put_xdp(struct xdp_md *ctx, struct flow *f, struct decision *d, __u32 mtu)
{
	struct packet p = { .ctx = ctx, .hook = HOOK_XDP };

	return toa_put(&p, f, d, mtu);
}

static __noinline enum told toa_put_tc(struct __sk_buff *ctx, struct flow *f, struct decision *d, __u32 mtu)
{
	struct packet p = { .ctx = ctx, .hook = HOOK_TC };

	return toa_put(&p, f, d, mtu);
}

/* Puts the client's address into a packet that leaves for the server, if there is room: -1 if the packet is spoilt. */
static __always_inline int toa_add(struct packet *p, struct flow *f, struct decision *d, __u32 mtu)
{
	enum told told = p->hook == HOOK_XDP ? toa_put_xdp(p->ctx, f, d, mtu) : toa_put_tc(p->ctx, f, d, mtu);
	packet_reload(p);
	struct conn *e = conn_at(d->at);
	if (e && told == TOLD)
		__sync_fetch_and_or(&e->life, LIFE_TOLD);
	if (e && told == TOLD_NO_ROOM && !(READ_ONCE(e->life) & LIFE_TOLD))
		count_reason(REASON_TOA_NO_ROOM);
	return told == TOLD_BROKEN ? -1 : 0;
}
