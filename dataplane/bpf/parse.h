/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* parse.h - Ethernet, IPv4, IPv6, TCP and UDP headers -> struct flow. Every length is checked here, and nowhere else. */
#pragma once
#include <linux/in.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include "hook.h"

enum parsed {
	PARSED_FLOW, /* a TCP or UDP packet, all of flow is set */
	PARSED_FRAGMENT, /* addresses and protocol only */
	PARSED_MALFORMED, /* addresses only */
	PARSED_OTHER, /* nothing */
};

struct flow {
	__u64 src[2];
	__u64 dst[2];
	__u16 src_port;
	__u16 dst_port;
	__u8 protocol;
	__u8 family;
	__u8 event; /* what it means to its connection, by the protocol's rules */
	__u8 ttl;
	__u16 network; /* offset of the IP header */
	__u16 transport; /* offset of the TCP or UDP header */
	__u32 length; /* IP bytes */
	bool opens; /* it is to begin a connection, by what it says; packets without state say nothing */
	bool may_fragment;
	bool summed; /* a checksum covers all that follows the IP header; so it is known what that adds up to */
	__u8 tos; /* or traffic class */
	bool early; /* tc will see the packet, too, if it is passed: what can be decided only once is left to it */
	bool routed; /* the firewall has had its turn, and so has the hop count */
	__u32 mark; /* the firewall's */
};

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

/* How far headers may reach: Ethernet, an IPv6 header with a chain of extensions, TCP's fixed part. */
enum { HEADERS = 192, HEADERS_MASK = 255, IPV6_EXTENSIONS = 6, HEADERS_USUAL = 14 + 40 + 20 };

#define V4_MAPPED(addr) (0xffff0000ULL | (__u64)(addr) << 32)

struct ipv6_extension {
	__u8 next;
	__u8 length; /* in 8 bytes, less one */
};

/* Which flag counts. */
static __always_inline __u8 tcp_event(__u8 flags)
{
	if (flags & TCP_RST)
		return TCP_EVENT_RST;
	if (flags & TCP_SYN)
		return TCP_EVENT_SYN;
	if (flags & TCP_FIN)
		return TCP_EVENT_FIN;
	return flags & TCP_ACK ? TCP_EVENT_ACK : TCP_EVENT_NONE;
}

static __always_inline enum parsed parse_transport(struct packet *p, struct flow *f)
{
	__u64 at = f->transport;
	__u32 left = f->network + f->length - at;

	if (at > HEADERS)
		return PARSED_OTHER;
	BOUND(at, HEADERS_MASK); /* offsets have grown in steps that the verifier forgets */
	packet_pull(p, at + sizeof(struct tcphdr));
	if (f->protocol == IPPROTO_TCP) {
		struct tcphdr *t = p->data + at;
		if ((void *)(t + 1) > p->end)
			return PARSED_MALFORMED;
		if (t->doff < 5 || (__u32)t->doff * 4 > left)
			return PARSED_MALFORMED;
		f->src_port = t->source;
		f->dst_port = t->dest;
		f->event = tcp_event(((__u8 *)t)[13]);
		f->opens = f->event == TCP_EVENT_SYN; /* also with ACK, as of active FTP */
		f->summed = true;
		return PARSED_FLOW;
	}
	struct udphdr *u = p->data + at;
	if ((void *)(u + 1) > p->end)
		return PARSED_MALFORMED;
	/* a length of zero is a jumbogram's or a large GSO packet's */
	__u32 length = bpf_ntohs(u->len);
	if (length ? length < sizeof(*u) || length > left : !packet_is_gso(p))
		return PARSED_MALFORMED;
	f->summed = u->check && (length == left || !length);
	f->src_port = u->source;
	f->dst_port = u->dest;
	return PARSED_FLOW;
}

static __always_inline enum parsed parse_ipv4(struct packet *p, struct flow *f)
{
	struct iphdr *ip = p->data + sizeof(struct ethhdr);

	if ((void *)(ip + 1) > p->end)
		return PARSED_OTHER;
	f->src[0] = f->dst[0] = 0;
	f->src[1] = V4_MAPPED(ip->saddr);
	f->dst[1] = V4_MAPPED(ip->daddr);
	f->family = FAMILY_IPV4;
	f->protocol = ip->protocol;
	f->ttl = ip->ttl;
	f->tos = ip->tos;
	f->may_fragment = !(ip->frag_off & bpf_htons(0x4000));
	__u32 header = ip->ihl * 4, room = packet_length(p) - sizeof(struct ethhdr);
	f->length = bpf_ntohs(ip->tot_len);
	if (!f->length && packet_is_gso(p))
		f->length = room;
	if (ip->version != 4 || header < sizeof(*ip) || f->length < header || f->length > room)
		return PARSED_MALFORMED;
	if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP)
		return PARSED_OTHER;
	if (ip->frag_off & bpf_htons(0x3fff))
		return PARSED_FRAGMENT;
	f->transport = sizeof(struct ethhdr) + header;
	return parse_transport(p, f);
}

static __always_inline enum parsed parse_ipv6(struct packet *p, struct flow *f)
{
	struct ipv6hdr *ip = p->data + sizeof(struct ethhdr);

	if ((void *)(ip + 1) > p->end)
		return PARSED_OTHER;
	__builtin_memcpy(f->src, &ip->saddr, 16);
	__builtin_memcpy(f->dst, &ip->daddr, 16);
	f->family = FAMILY_IPV6;
	f->ttl = ip->hop_limit;
	f->tos = bpf_ntohl(*(__u32 *)ip) >> 20;
	f->may_fragment = false;
	__u32 room = packet_length(p) - sizeof(struct ethhdr), payload = bpf_ntohs(ip->payload_len);
	f->length = sizeof(*ip) + payload;
	if (!payload && packet_is_gso(p))
		f->length = room;
	if (ip->version != 6 || f->length > room)
		return PARSED_MALFORMED;
	__u32 at = sizeof(struct ethhdr) + sizeof(*ip);
	__u8 next = ip->nexthdr;
#pragma clang loop unroll(disable)
	for (int i = 0; i <= IPV6_EXTENSIONS; i++) {
		if (next == IPPROTO_TCP || next == IPPROTO_UDP)
			break;
		f->protocol = next;
		if (next == IPPROTO_FRAGMENT)
			return PARSED_FRAGMENT;
		if ((next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS) ||
		    i == IPV6_EXTENSIONS || at > HEADERS)
			return PARSED_OTHER;
		packet_pull(p, at + sizeof(struct ipv6_extension));
		struct ipv6_extension *x = p->data + at;
		if ((void *)(x + 1) > p->end)
			return PARSED_MALFORMED;
		next = x->next;
		at += (x->length + 1) * 8;
		if (at - sizeof(struct ethhdr) > f->length)
			return PARSED_MALFORMED;
	}
	f->protocol = next;
	f->transport = at;
	enum parsed parsed = parse_transport(p, f);
	f->summed = f->summed && at == sizeof(struct ethhdr) + sizeof(*ip);
	return parsed;
}

static __always_inline enum parsed parse(struct packet *p, struct flow *f)
{
	packet_reload(p);
	packet_pull(p, HEADERS_USUAL);
	struct ethhdr *eth = p->data;
	if ((void *)(eth + 1) > p->end || packet_is_tagged(p) || !packet_is_ours(p))
		return PARSED_OTHER;
	f->network = sizeof(*eth);
	f->event = 0;
	f->opens = false;
	f->mark = packet_mark(p);
	f->early = p->hook == HOOK_XDP;
	f->routed = p->egress;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return parse_ipv4(p, f);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(p, f);
	return PARSED_OTHER;
}
