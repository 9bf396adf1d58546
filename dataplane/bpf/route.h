/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* route.h - where packets to an address go next: MAC addresses and interface, from the kernel's routes and
 * neighbours, kept for a second in a line of this CPU.
 *
 * The kernel is asked as if the packet came from lo, for which Go switches forwarding on: what is balanced is
 * forwarded whether or not the host is a router for everything else, as kernel IPVS does with it.
 */
#pragma once
#include "parse.h"

/* After this long the kernel forwards one packet itself, which has it verify the neighbour. */
enum { ROUTE_PROBE_SECONDS = 30 };

#define AF_INET 2
#define AF_INET6 10

static __always_inline bool is_v4(const __u64 *addr)
{
	return !addr[0] && (__u32)addr[1] == (__u32)V4_MAPPED(0);
}

static __always_inline struct route *route_line(const __u64 dst[2])
{
	__u64 h = (dst[0] ^ dst[1]) * 0x9e3779b97f4a7c15ULL;
	__u32 i = bpf_get_smp_processor_id() * ROUTES + (__u32)(h >> 54);

	return bpf_map_lookup_elem(&routes, &i);
}

enum routed {
	ROUTED, /* the line holds the way */
	ROUTED_BY_KERNEL, /* the kernel is to find or verify the neighbour: route_send_by_kernel */
	ROUTED_LOCALLY, /* the address is the director's own */
	ROUTED_NOWHERE,
};

static __always_inline void fib_between(struct bpf_fib_lookup *fib, const __u64 *src, const __u64 *dst)
{
	if (is_v4(dst)) {
		fib->family = AF_INET;
		fib->ipv4_src = src[1] >> 32;
		fib->ipv4_dst = dst[1] >> 32;
	} else {
		fib->family = AF_INET6;
		__builtin_memcpy(fib->ipv6_src, src, 16);
		__builtin_memcpy(fib->ipv6_dst, dst, 16);
	}
}

/* Asks the kernel, and keeps its answer in the line. A function of its own for the sake of the stack. */
static __noinline enum routed route_ask(void *ctx, const __u64 *src, const __u64 *dst, struct route *r)
{
	struct bpf_fib_lookup fib = { .ifindex = loopback, .l4_protocol = IPPROTO_TCP, .tot_len = 20 };
	__u32 jiffies = now();

	fib_between(&fib, src, dst);
	long e = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	bool same = r->how == ROUTE_LINK && r->dst[0] == dst[0] && r->dst[1] == dst[1];
	r->how = ROUTE_NONE;
	r->dst[0] = dst[0];
	r->dst[1] = dst[1];
	r->checked = jiffies;
	r->ifindex = fib.ifindex;
	r->mtu = 0;
	/* the kernel has put the gateway in place of the destination, if there is one */
	if (fib.family == AF_INET) {
		r->via[0] = 0;
		r->via[1] = V4_MAPPED(fib.ipv4_dst);
	} else {
		__builtin_memcpy(r->via, fib.ipv6_dst, 16);
	}
	if (e == BPF_FIB_LKUP_RET_NOT_FWDED) {
		r->how = ROUTE_LOCAL;
		return ROUTED_LOCALLY;
	}
	if (e == BPF_FIB_LKUP_RET_NO_NEIGH)
		return ROUTED_BY_KERNEL;
	if (e != BPF_FIB_LKUP_RET_SUCCESS)
		return ROUTED_NOWHERE;
	__u8 was[8] = {}, is[8] = {};
	__builtin_memcpy(was, r->dst_mac, 6);
	__builtin_memcpy(is, fib.dmac, 6);
	bool moved = *(__u64 *)was != *(__u64 *)is;
	__builtin_memcpy(r->dst_mac, fib.dmac, 6);
	__builtin_memcpy(r->src_mac, fib.smac, 6);
	r->mtu = fib.mtu_result;
	r->how = ROUTE_LINK;
	struct device *device = bpf_map_lookup_elem(&devices, &fib.ifindex);
	r->xdp = !device || device->xdp < ATTACH_XDP_NATIVE ? ROUTE_XDP_NONE :
		 device->xdp_tx				    ? ROUTE_XDP_TX :
							      ROUTE_XDP_REDIRECT;
	/* an address that shares the line with others has its turn, too, in the long run */
	if (dry || (!(same && moved) && jiffies - r->probed < ROUTE_PROBE_SECONDS * hz))
		return ROUTED;
	r->probed = jiffies;
	return ROUTED_BY_KERNEL;
}

/* Sends the packet to the line's neighbour by way of the kernel, which keeps it until it knows the neighbour. */
static __noinline int route_send_by_kernel(struct route *r)
{
	struct bpf_redir_neigh to = {};

	if (is_v4(r->via)) {
		to.nh_family = AF_INET;
		to.ipv4_nh = r->via[1] >> 32;
	} else {
		to.nh_family = AF_INET6;
		__builtin_memcpy(to.ipv6_nh, r->via, 16);
	}
	return bpf_redirect_neigh(r->ifindex, &to, sizeof(to), 0);
}

/* The same, of copies: what a function may point to cannot be kept in registers. */
static __always_inline enum routed route_find(void *ctx, const __u64 *src, const __u64 *dst, struct route *r)
{
	__u64 from[2] = { src[0], src[1] }, to[2] = { dst[0], dst[1] };

	return route_ask(ctx, from, to, r);
}

static __always_inline enum routed route_to(struct packet *p, const __u64 *src, const __u64 *dst, struct route **line,
					    __u32 jiffies)
{
	struct route *r = route_line(dst);

	if (!r)
		return ROUTED_NOWHERE;
	*line = r;
	if (r->how == ROUTE_NONE || jiffies - r->checked >= hz || r->dst[0] != dst[0] || r->dst[1] != dst[1])
		return p->kind == PACKET_PLAIN ? route_find(p->ctx, src, dst, r) : route_ask(p->ctx, src, dst, r);
	if (r->how != ROUTE_LINK)
		return ROUTED_LOCALLY;
	if (!r->probe)
		return ROUTED;
	if (p->kind != PACKET_PLAIN)
		r->probe = 0; /* this one goes by the kernel, or nowhere */
	return ROUTED_BY_KERNEL;
}
