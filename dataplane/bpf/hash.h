/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* hash.h - the schedulers with a table of servers, which an address leads into: sh and mh the client's, dh the
 * destination's. Go fills the tables; they follow the seats of a list in the same map, so both change at once.
 */
#pragma once
#include <bpf/bpf_endian.h>
#include "seats.h"
#include "siphash.h"

enum { HASH_FALLBACK = 1, HASH_PORT = 2 }; /* scheduler flags */

/* An address as the hashes see it: four bytes as a number, of IPv6 the four words combined. */
static __always_inline __u32 folded(const __u64 addr[2], __u8 family)
{
	__u64 all = addr[0] ^ addr[1];

	return bpf_ntohl(family == FAMILY_IPV4 ? addr[1] >> 32 : (__u32)(all ^ all >> 32));
}

/* The hash of mh, SipHash-1-3 of four bytes; the key's two words are the same. */
__noinline __u32 maglev_hash(__u32 v)
{
	const __u64 key = 2654435761, m = v | 4ULL << 56;
	__u64 a = key ^ 0x736f6d6570736575ULL, b = key ^ 0x646f72616e646f6dULL;
	__u64 c = key ^ 0x6c7967656e657261ULL, d = key ^ 0x7465646279746573ULL;

	d ^= m;
	SIP_ROUND;
	a ^= m;
	c ^= 0xff;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	return a ^ b ^ c ^ d;
}

static __always_inline __u32 table_entry(struct walk *w, __u32 offset)
{
	if (w->scheduler == SCHEDULER_MH)
		return maglev_hash(offset + w->key) % w->table;
	return (offset + (w->key * 0x61C88647 >> 24)) % w->table;
}

/* Chooses the server of a table's entry, if it takes new connections. */
static __always_inline bool try_entry(struct walk *w, __u32 entry)
{
	struct table_row *row = (void *)seat_at(w->list, 1 + w->seats + entry / TABLE_ROW);
	__u64 i = entry % TABLE_ROW;

	BOUND(i, TABLE_ROW - 1);
	if (!row)
		return false;
	struct seat *s = seat_at(w->list, row->seat[i]);
	if (!s || !row->seat[i] || !seat_open(s))
		return false;
	w->chosen = s->server;
	return true;
}

static long fallback_step(__u32 n, struct walk *w)
{
	return try_entry(w, table_entry(w, (w->position + n) % w->table));
}

static __noinline __u32 pick_by_hash(struct walk *w, struct flow *f, __u32 flags)
{
	bool destination = w->scheduler == SCHEDULER_DH;

	if (!w->table)
		return 0;
	w->key = folded(destination ? f->dst : f->src, f->family);
	if (flags & HASH_PORT && !destination)
		w->key += bpf_ntohs(f->src_port);
	w->position = table_entry(w, 0);
	if (try_entry(w, w->position) || !(flags & HASH_FALLBACK) || destination)
		return w->chosen;
	bpf_loop(w->seats, highest_step, w, 0);
	if (w->highest) /* else there is nobody to be found */
		bpf_loop(w->table, fallback_step, w, 0);
	return w->chosen;
}
