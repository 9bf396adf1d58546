/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* parse.h - Ethernet, IPv4, IPv6, TCP and UDP headers -> struct flow. Every length is checked here, and in related.h, and
 * nowhere else.
 *
 * ICMP and fragments are few, and are left to a program of their own. */
#pragma once
#include "related.h"

struct ipv6_extension {
	__u8 next;
	__u8 length; /* in 8 bytes, less one */
};

/* Which flag counts: RST, else SYN, else FIN, else ACK. Four bits for each of their sixteen combinations. */
static __always_inline __u8 tcp_event(__u8 flags)
{
	const __u64 none = TCP_EVENT_NONE | TCP_EVENT_FIN << 4 | TCP_EVENT_SYN << 8 | TCP_EVENT_SYN << 12 |
			   TCP_EVENT_RST * 0x11110000ULL;
	const __u64 ack = (none & ~0xfULL) | TCP_EVENT_ACK;

	return (flags & TCP_ACK ? ack : none) >> (flags & (TCP_FIN | TCP_SYN | TCP_RST)) * 4 & 15;
}

/* A fragment that has the bytes after at, from so many of the whole packet on. */
static __always_inline enum parsed parse_fragment(struct flow *f, __u32 at, __u32 from, bool more, __u32 id)
{
	__u32 bytes = f->network + f->length - at;

	f->fragment = from ? FRAGMENT_LATER : FRAGMENT_FIRST;
	f->more = more;
	f->id = id;
	f->from = from;
	f->to = from + bytes;
	return !bytes || (more && bytes & 7) || f->to > 0xffff ? PARSED_MALFORMED : PARSED_FLOW;
}

/* SCTP: the first chunk counts, but for an ABORT behind the cookie's. */
static __always_inline enum parsed parse_sctp(struct packet *p, struct flow *f, __u32 left)
{
	struct sctp head;

	if (left < sizeof(head) || packet_load(p, f->transport, &head, sizeof(head)))
		return PARSED_MALFORMED;
	__u32 chunk = head.chunk, length = bpf_ntohs(head.length);
	if ((chunk == SCTP_COOKIE_ECHO || chunk == SCTP_COOKIE_ACK) && length >= 4) {
		__u32 behind = SCTP_HEAD + ((length + 3) & ~3);
		__u8 next;
		if (behind + 4 <= left && !packet_load(p, f->transport + behind, &next, 1) && next == SCTP_ABORT)
			chunk = SCTP_ABORT;
	}
	f->src_port = head.src_port;
	f->dst_port = head.dst_port;
	__u64 type = chunk;
	BOUND(type, 15);
	f->event = chunk < 16 ? sctp_events[type] : 0;
	f->opens = f->event == SCTP_EVENT_INIT;
	return PARSED_FLOW;
}

/* One of those without TCP's or UDP's header. */
static __always_inline enum parsed parse_other(struct packet *p, struct flow *f, __u32 left)
{
	if (f->protocol == IPPROTO_SCTP)
		return parse_sctp(p, f, left);
	f->follows = true;
	f->protocol = IPPROTO_UDP;
	f->src_port = f->dst_port = bpf_htons(500);
	return PARSED_FLOW;
}

static __always_inline enum parsed parse_transport(struct packet *p, struct flow *f)
{
	__u64 at = f->transport;
	__u32 left = f->network + f->length - at;

	if (at > HEADERS)
		return PARSED_OTHER;
	f->src_port = f->dst_port = 0;
	f->summed = false;
	if (f->fragment == FRAGMENT_LATER)
		return PARSED_FLOW;
	if (p->kind == PACKET_USUAL && f->protocol != IPPROTO_TCP && f->protocol != IPPROTO_UDP)
		return parse_other(p, f, left);
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
		f->summed = !f->fragment;
		return PARSED_FLOW;
	}
	struct udphdr *u = p->data + at;
	if ((void *)(u + 1) > p->end)
		return PARSED_MALFORMED;
	/* a length of zero is a jumbogram's or a large GSO packet's */
	__u32 length = bpf_ntohs(u->len);
	if (length ? length < sizeof(*u) || (length > left && !f->fragment) : !packet_is_gso(p))
		return PARSED_MALFORMED;
	f->summed = u->check && (length == left || !length) && !f->fragment;
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
	f->transport = sizeof(struct ethhdr) + header;
	__u32 fragment = bpf_ntohs(ip->frag_off) & 0x3fff;
	if (ip->protocol == IPPROTO_ICMP && !fragment)
		return p->kind == PACKET_RELATED ? parse_related(p, f) : PARSED_ICMP;
	if (!is_ours(ip->protocol, fragment))
		return is_ours(ip->protocol, false) ? PARSED_UNSUPPORTED : PARSED_OTHER;
	if (fragment && p->kind != PACKET_FRAGMENT)
		return PARSED_FRAGMENT;
	if (!fragment && p->kind > PACKET_USUAL)
		return PARSED_OTHER;
	if (fragment && parse_fragment(f, f->transport, (fragment & 0x1fff) * 8, fragment & 0x2000, ip->id))
		return PARSED_MALFORMED;
	return parse_transport(p, f);
}

/* The fragment header is the last one before the transport header. */
static __always_inline enum parsed parse_ipv6_fragment(struct packet *p, struct flow *f)
{
	__u64 at = f->transport;

	if (at > HEADERS)
		return PARSED_OTHER;
	BOUND(at, HEADERS_MASK);
	packet_pull(p, at + sizeof(struct ipv6_fragment));
	struct ipv6_fragment *x = p->data + at;
	if ((void *)(x + 1) > p->end || at + sizeof(*x) > f->network + f->length)
		return PARSED_MALFORMED;
	f->protocol = x->next;
	f->transport = at + sizeof(*x);
	__u32 from = bpf_ntohs(x->offset) & 0xfff8, more = bpf_ntohs(x->offset) & 1;
	if (!is_ours(f->protocol, true))
		return is_ours(f->protocol, false) ? PARSED_UNSUPPORTED : PARSED_OTHER;
	/* the only fragment of its packet is none */
	if ((from || more) && parse_fragment(f, f->transport, from, more, x->id))
		return PARSED_MALFORMED;
	enum parsed parsed = parse_transport(p, f);
	f->summed = false; /* nothing covers the header */
	return parsed;
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
	for (int i = 0; next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS; i++) {
		if (i == IPV6_EXTENSIONS || at > HEADERS)
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
	f->transport = at;
	if (next == IPPROTO_ICMPV6)
		return p->kind == PACKET_RELATED ? parse_related(p, f) : PARSED_ICMP;
	if (next == IPPROTO_FRAGMENT)
		return p->kind == PACKET_FRAGMENT ? parse_ipv6_fragment(p, f) : PARSED_FRAGMENT;
	f->protocol = next;
	if (p->kind > PACKET_USUAL || !is_ours(next, false))
		return PARSED_OTHER;
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
	f->opens = f->follows = false;
	f->quoted = 0;
	f->fragment = FRAGMENT_NONE;
	f->summed = false;
	f->mark = packet_mark(p);
	f->early = p->hook == HOOK_XDP;
	f->routed = packet_leaves(p);
	f->call = false;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return parse_ipv4(p, f);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(p, f);
	return PARSED_OTHER;
}
