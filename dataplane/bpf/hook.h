/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* hook.h - the only file that knows XDP from tc: the packet's memory, its checksums, and the ways to send it on.
 *
 * hook is a constant in each entry point, and everything that takes a struct packet is inlined, so that each program
 * keeps only its own hook's half. What only tc can do: GSO packets, checksums left to the device, headers outside of the
 * linear part, growing a packet at will, and having the kernel resolve a neighbour.
 */
#pragma once
#include <stdbool.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include "csum.h"

enum hook { HOOK_XDP, HOOK_TC };

/* What a program is for. The verifier would otherwise go through all that can be together. */
enum packet_kind {
	PACKET_PLAIN, /* plain.h */
	PACKET_USUAL, /* all that are neither plain nor: */
	PACKET_RELATED, /* ICMP errors; tc only */
	PACKET_FRAGMENT, /* tc only */
	PACKET_RESET, /* those whose connection is to be reset; tc only */
};

struct packet {
	void *ctx;
	enum hook hook;
	enum packet_kind kind;
	bool leaves; /* of tc: the packet has been routed, or is a local client's */
	bool *left; /* the same where the program before this one knows it, else NULL */
	void *data, *end;
};

#define XDP(p) ((struct xdp_md *)(p)->ctx)
#define SKB(p) ((struct __sk_buff *)(p)->ctx)

/* Whether the packet is on its way out. Where that is read it is read again each time, so that the verifier does not go through all that
 * follows twice. */
static __always_inline bool packet_leaves(struct packet *p)
{
	return p->hook == HOOK_TC && (p->left ? *(volatile bool *)p->left : p->leaves);
}

/* Reads the packet's bounds again, which every helper that may move it makes necessary. */
static __always_inline void packet_reload(struct packet *p)
{
	if (p->hook == HOOK_XDP) {
		p->data = (void *)(long)XDP(p)->data;
		p->end = (void *)(long)XDP(p)->data_end;
	} else {
		p->data = (void *)(long)SKB(p)->data;
		p->end = (void *)(long)SKB(p)->data_end;
	}
}

/* The bytes of the packet from its Ethernet header on. */
static __always_inline __u32 packet_length(struct packet *p)
{
	return p->hook == HOOK_XDP ? (__u32)(p->end - p->data) : SKB(p)->len;
}

/* Makes the first want bytes readable, where the packet has as many. */
static __always_inline void packet_pull(struct packet *p, __u32 want)
{
	if (p->hook == HOOK_TC && p->data + want > p->end && SKB(p)->len > (__u32)(p->end - p->data)) {
		bpf_skb_pull_data(SKB(p), SKB(p)->len < want ? SKB(p)->len : want);
		packet_reload(p);
	}
}

static __always_inline __u32 packet_ifindex(struct packet *p)
{
	return p->hook == HOOK_XDP ? XDP(p)->ingress_ifindex : SKB(p)->ifindex;
}

/* The firewall's mark. There is none yet where XDP runs. */
static __always_inline __u32 packet_mark(struct packet *p)
{
	return p->hook == HOOK_TC ? SKB(p)->mark : 0;
}

/* Whether the frame is for this host: not one that a promiscuous interface sees, and no broadcast. */
static __always_inline bool packet_is_ours(struct packet *p)
{
	if (packet_leaves(p))
		return true;
	if (p->hook == HOOK_TC)
		return SKB(p)->pkt_type == 0; /* PACKET_HOST */
	__u32 ifindex = XDP(p)->ingress_ifindex;
	struct mac *mac = bpf_map_lookup_elem(&macs, &ifindex);
	void *dst = p->data;

	return mac && dst + ETH_ALEN <= p->end && *(__u32 *)dst == mac->first && *(__u16 *)(dst + 4) == mac->last;
}

/* Whether the kernel will cut the packet into ones of its own before it leaves. */
static __always_inline bool packet_is_gso(struct packet *p)
{
	return p->hook == HOOK_TC && SKB(p)->gso_size;
}

/* Whether the packet carries a VLAN tag beside its data: the VLAN's own interface will see it without. */
static __always_inline bool packet_is_tagged(struct packet *p)
{
	return p->hook == HOOK_TC && SKB(p)->vlan_present;
}

/* Adjusts the transport checksum at an offset for addresses that changed by addr and ports that changed by port (one's
 * complement differences, new less old). The packet's bounds have to be read again. A UDP checksum of zero is none. */
static __always_inline void packet_checksum(struct packet *p, __u32 at, __u32 addr, __u32 port, bool udp, bool ipv6)
{
	if (p->hook == HOOK_XDP) {
		__u16 *sum = p->data + at;
		if ((void *)(sum + 1) > p->end || (udp && !*sum))
			return;
		*sum = ~fold((__u64)(__u16) ~*sum + addr + port);
		if (udp && !*sum)
			*sum = 0xffff;
		return;
	}
	__u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;
	bpf_l4_csum_replace(SKB(p), at, 0, addr, BPF_F_PSEUDO_HDR | flags);
	bpf_l4_csum_replace(SKB(p), at, 0, port, flags);
	/* a checksum over the whole packet counts an IPv6 address twice, in the header and in what sums it up */
	if (ipv6)
		bpf_csum_update(SKB(p), addr);
	packet_reload(p);
}

/* Tells what sums up the whole packet, where the device has, of a change that no checksum in it makes up for. */
static __always_inline void packet_sum(struct packet *p, __u32 diff)
{
	if (p->hook == HOOK_TC)
		bpf_csum_update(SKB(p), diff);
}

/* Copies n bytes of the packet from an offset on, wherever they lie; negative if there are not as many. */
static __always_inline long packet_load(struct packet *p, __u32 at, void *to, __u32 n)
{
	return p->hook == HOOK_XDP ? bpf_xdp_load_bytes(XDP(p), at, to, n) : bpf_skb_load_bytes(SKB(p), at, to, n);
}

/* Gives the packet n more bytes between the Ethernet header and what follows it, whose content is then the caller's to
 * write, as is the Ethernet header. The flags tell tc about an encapsulation (BPF_F_ADJ_ROOM_ENCAP), without which a GSO
 * packet must not grow; XDP never sees one. */
static __always_inline int packet_grow(struct packet *p, int n, __u64 flags)
{
	long r;

	if (p->hook == HOOK_XDP)
		r = bpf_xdp_adjust_head(XDP(p), -n);
	else
		r = bpf_skb_adjust_room(SKB(p), n, BPF_ADJ_ROOM_MAC, flags | BPF_F_ADJ_ROOM_NO_CSUM_RESET);
	packet_reload(p);
	return r;
}

/* Writes n bytes into the packet, whose bounds have to be read again. */
static __always_inline long packet_store(struct packet *p, __u32 at, void *from, __u32 n)
{
	return p->hook == HOOK_XDP ? bpf_xdp_store_bytes(XDP(p), at, from, n) :
				     bpf_skb_store_bytes(SKB(p), at, from, n, 0);
}

/* Makes the packet so many bytes long, at its end. Its bounds have to be read again. */
static __always_inline long packet_resize(struct packet *p, __u32 length)
{
	return p->hook == HOOK_XDP ? bpf_xdp_adjust_tail(XDP(p), (int)(length - packet_length(p))) :
				     bpf_skb_change_tail(SKB(p), length, 0);
}

/* Gives the packet n more bytes behind the IP header, which ends at an offset that is a constant. Its bounds have to be read again. */
static __always_inline long packet_open(struct packet *p, __u32 at, int n)
{
	__u8 heads[sizeof(struct ethhdr) + sizeof(struct ipv6hdr)];

	if (p->hook == HOOK_TC)
		return bpf_skb_adjust_room(SKB(p), n, BPF_ADJ_ROOM_NET, 0);
	if (bpf_xdp_load_bytes(XDP(p), 0, heads, at) || bpf_xdp_adjust_head(XDP(p), -n))
		return -1;
	bpf_xdp_store_bytes(XDP(p), 0, heads, at); /* as many as have been read there */
	return 0;
}

/* What begins at the director and was sent once is not looked at again on its way out: the first address of ours may still be in it,
 * or the mark. Nobody but a classifier of the operator's reads tc_index. */
enum { TC_INDEX_SENT = 0x4c56 };

static __always_inline void packet_done(struct packet *p)
{
	if (packet_leaves(p))
		SKB(p)->tc_index = TC_INDEX_SENT;
}

/* Sends the packet out of an interface; its Ethernet header is written. */
static __always_inline int packet_send(struct packet *p, __u32 ifindex, enum route_xdp xdp)
{
	if (p->hook == HOOK_XDP && xdp == ROUTE_XDP_TX && ifindex == XDP(p)->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect(ifindex, 0);
}

/* Lets the packet go on as if we were not there. What was brought to our device comes in by it, and is not brought there again. */
static __always_inline int packet_pass(struct packet *p)
{
	if (packet_leaves(p) && SKB(p)->ifindex == settings.device)
		return bpf_redirect(SKB(p)->ifindex, BPF_F_INGRESS);
	return p->hook == HOOK_XDP ? XDP_PASS : TC_ACT_UNSPEC;
}

/* Hands the kernel a packet with a sender that is an address of our own, past the check that refuses these: the answer of a server to a
 * local client, or what is to be fragmented in a tunnel. */
static __always_inline int packet_from_here(struct packet *p)
{
	struct ethhdr *eth = p->data;

	if (packet_leaves(p) || p->hook == HOOK_XDP || (void *)(eth + 1) > p->end)
		return packet_pass(p);
	__builtin_memset(eth->h_dest, 0, ETH_ALEN);
	return bpf_redirect(loopback, BPF_F_INGRESS);
}

/* Has the firewall give the packet its mark before a service is looked for. */
static __always_inline int packet_ask(struct packet *p)
{
	if (p->hook == HOOK_TC)
		SKB(p)->mark |= MARK_ASK;
	return packet_pass(p);
}

static __always_inline int packet_drop(struct packet *p)
{
	return p->hook == HOOK_XDP ? XDP_DROP : TC_ACT_SHOT;
}
