/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* plain.h - the way of most packets: whole ones of TCP and UDP, with nothing between the IP header and the ports, of a connection that is
 * there and well. What is read of them and decided about them stays in registers: each family and direction has a copy of its own of all
 * this, in which offsets and flags are constants. Whatever is not plain goes on with a program for the rest, which begins anew.
 *
 * Functions answer with a verdict, or with UNPLAIN and which program goes on; those that only read, with 0 or such. What was read of a
 * packet that was found to be none of these only by its connection is handed on.
 */
#pragma once
#include "forward.h"

/* Flags and fields that tell of what only a program for the rest does are constants here. */
static __always_inline void plain_begin(struct packet *p, struct flow *f, enum family family, __u32 transport)
{
	f->family = family;
	f->network = sizeof(struct ethhdr);
	f->transport = transport;
	f->quoted = 0;
	f->fragment = FRAGMENT_NONE;
	f->follows = f->call = false;
	f->mark = packet_mark(p);
	f->early = p->hook == HOOK_XDP;
	f->routed = packet_leaves(p);
}

static __always_inline int plain_ipv4(struct packet *p, struct flow *f)
{
	struct iphdr *ip = p->data + sizeof(struct ethhdr);

	if ((void *)(ip + 1) > p->end)
		return UNPLAIN_PASS;
	plain_begin(p, f, FAMILY_IPV4, sizeof(struct ethhdr) + sizeof(*ip));
	f->src[0] = f->dst[0] = 0;
	f->src[1] = V4_MAPPED(ip->saddr);
	f->dst[1] = V4_MAPPED(ip->daddr);
	f->protocol = ip->protocol;
	f->ttl = ip->ttl;
	f->tos = ip->tos;
	f->length = bpf_ntohs(ip->tot_len);
	f->may_fragment = !(ip->frag_off & bpf_htons(0x4000));
	if (ip->frag_off & bpf_htons(0x3fff))
		return UNPLAIN + (is_ours(f->protocol, true) ? REST_FRAGMENT : REST_USUAL);
	if (f->protocol == IPPROTO_ICMP)
		return UNPLAIN + REST_RELATED;
	return *(__u8 *)ip == 0x45 ? 0 : UNPLAIN + REST_USUAL;
}

static __always_inline int plain_ipv6(struct packet *p, struct flow *f)
{
	struct ipv6hdr *ip = p->data + sizeof(struct ethhdr);

	if ((void *)(ip + 1) > p->end)
		return UNPLAIN_PASS;
	plain_begin(p, f, FAMILY_IPV6, sizeof(struct ethhdr) + sizeof(*ip));
	__builtin_memcpy(f->src, &ip->saddr, 16);
	__builtin_memcpy(f->dst, &ip->daddr, 16);
	f->protocol = ip->nexthdr;
	f->ttl = ip->hop_limit;
	f->tos = bpf_ntohl(*(__u32 *)ip) >> 20;
	f->length = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	f->may_fragment = false;
	if (f->protocol == IPPROTO_ICMPV6)
		return UNPLAIN + REST_RELATED;
	if (f->protocol == IPPROTO_FRAGMENT)
		return UNPLAIN + REST_FRAGMENT;
	return ip->version == 6 ? 0 : UNPLAIN + REST_USUAL;
}

/* Sends the packet where its connection goes, if that and its server are well. */
static __always_inline int plain_of(struct packet *p, struct flow *f, struct decision *d, struct conn *e, __u32 jiffies)
{
	__u32 slot = READ_ONCE(e->server), life = READ_ONCE(e->life);
	struct server *server = bpf_map_lookup_elem(&servers, &slot);

	if (!server || conn_is_unwell(server, f, life))
		return UNPLAIN + REST_USUAL;
	d->server = slot;
	d->forward = life >> LIFE_FORWARD_SHIFT;
	if (!decide_way(d, f, e, server))
		return UNPLAIN + REST_USUAL;
	return forward_plain(p, f, d, e, server, jiffies);
}

/* Hands on what was read. */
static __always_inline int plain_keep(struct flow *f)
{
	__u32 zero = 0;
	struct plan *plan = bpf_map_lookup_elem(&plans, &zero);

	if (!plan)
		return UNPLAIN_PASS;
	struct flow *k = &plan->flow;
	__builtin_memcpy(k->src, f->src, 16);
	__builtin_memcpy(k->dst, f->dst, 16);
	k->src_port = f->src_port;
	k->dst_port = f->dst_port;
	k->protocol = f->protocol;
	k->family = f->family;
	k->event = f->event;
	k->ttl = f->ttl;
	k->network = f->network;
	k->transport = f->transport;
	k->quoted = f->quoted;
	k->length = f->length;
	k->fragment = f->fragment;
	k->opens = f->opens;
	k->may_fragment = f->may_fragment;
	k->summed = f->summed;
	k->tos = f->tos;
	k->early = f->early;
	k->follows = f->follows;
	k->routed = f->routed;
	k->mark = f->mark;
	k->ours = f->ours;
	return UNPLAIN_READ;
}

/* Finds the packet's connection, unless it may begin one, and forwards it. */
static __always_inline int plain_forward(struct packet *p, struct flow *f)
{
	__u32 of_ours = f->ours = ours_of(f), jiffies = now();
	struct decision d;
	struct conn_key key;
	struct conn *e;

	if (!of_ours)
		return packet_pass(p);
	decide_nothing(&d);
	d.direction = DIRECTION_OUTPUT;
	if (of_ours & OURS_LOCAL) {
		e = find_of_return(&d, f, &key, jiffies);
		if (e)
			return plain_of(p, f, &d, e, jiffies);
	}
	if (of_ours == OURS_SERVER) {
		e = find_of_server(&d, f, &key, jiffies);
		if (!e)
			return strays_count() ? UNPLAIN + REST_USUAL : packet_pass(p);
		return plain_of(p, f, &d, e, jiffies);
	}
	d.direction = DIRECTION_INPUT;
	if (!(of_ours & OURS_VIRTUAL) || f->opens || settings.expire_nodest_conn)
		return UNPLAIN + REST_USUAL;
	e = find_of_client(&d, f, &key, jiffies);
	return e ? plain_of(p, f, &d, e, jiffies) : UNPLAIN + REST_USUAL;
}

/* Reads the ports, of a packet whose IP header has been read. */
static __always_inline int plain_transport(struct packet *p, struct flow *f)
{
	__u32 left = f->length - (f->transport - f->network);
	struct tcphdr *t = p->data + f->transport;
	struct udphdr *u = p->data + f->transport;

	if (left > packet_length(p) - f->transport)
		return UNPLAIN + REST_USUAL;
	if (f->protocol == IPPROTO_TCP) {
		if ((void *)(t + 1) > p->end)
			return UNPLAIN + REST_USUAL;
		__u32 size = ((__u8 *)t)[12] >> 4 << 2;
		if (size < sizeof(*t) || size > left)
			return UNPLAIN + REST_USUAL;
		f->event = tcp_event(((__u8 *)t)[13]);
		f->opens = f->event == TCP_EVENT_SYN;
		f->summed = true;
	} else if (f->protocol == IPPROTO_UDP) {
		if ((void *)(u + 1) > p->end)
			return UNPLAIN + REST_USUAL;
		__u32 length = bpf_ntohs(u->len);
		if (length < sizeof(*u) || length > left)
			return UNPLAIN + REST_USUAL;
		f->event = 0;
		f->opens = false;
		f->summed = u->check && length == left;
	} else {
		return is_ours(f->protocol, false) || f->family == FAMILY_IPV6 ? UNPLAIN + REST_USUAL : packet_pass(p);
	}
	f->src_port = u->source;
	f->dst_port = u->dest;
	int verdict = plain_forward(p, f);
	return verdict == UNPLAIN + REST_USUAL ? plain_keep(f) : verdict;
}

static __always_inline int plain(struct packet *p)
{
	struct flow flow, *f = &flow;

	packet_reload(p);
	packet_pull(p, HEADERS_USUAL);
	struct ethhdr *eth = p->data;
	if ((void *)(eth + 1) > p->end || packet_is_tagged(p) || !packet_is_ours(p))
		return packet_pass(p);
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		int unplain = plain_ipv4(p, f);
		return unplain ? unplain : plain_transport(p, f);
	}
	if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		int unplain = plain_ipv6(p, f);
		return unplain ? unplain : plain_transport(p, f);
	}
	return packet_pass(p);
}
