/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* remote.h - remote checksum offload: a packet in GUE that has no checksum of its own yet, because that of the outer packet covers it
 * (--tun-remcsum). It is made here, after the outer one has been found right.
 */
#pragma once
#include "parse.h"

/* Bytes are summed up in pieces, which bpf_csum_diff takes up to 512 bytes long. */
enum { PIECE = 512, PIECES = 128 };
struct piece {
	__u8 bytes[PIECE + 4]; /* zeros fill up the last four */
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct piece);
} pieces SEC(".maps");

struct summing {
	struct __sk_buff *skb;
	__u32 at, left, sum;
	bool failed;
};

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static long sum_piece(__u32 n, struct summing *s)
{
	__u32 zero = 0;
	struct piece *piece = bpf_map_lookup_elem(&pieces, &zero);
	__u64 length = s->left < PIECE ? s->left : PIECE;

	if (!length)
		return 1;
	/* the verifier of 6.1 does not take from a comparison with 0 that there is at least one byte */
	length--;
	asm volatile("%0 &= %1" : "+r"(length) : "i"(PIECE - 1));
	length++;
	s->failed = true;
	if (!piece)
		return 1;
	__builtin_memset(&piece->bytes[length], 0, 4);
	if (bpf_skb_load_bytes(s->skb, s->at, piece->bytes, length))
		return 1;
	s->sum = fold((__u32)bpf_csum_diff(NULL, 0, (__be32 *)piece->bytes, (length + 3) & ~3u, s->sum));
	s->failed = false;
	s->at += length;
	s->left -= length;
	return 0;
}

/* The one's complement sum of bytes of the packet, or -1. */
static __noinline int sum_bytes(struct __sk_buff *skb, __u32 at, __u32 length)
{
	struct summing s = { .skb = skb, .at = at, .left = length };

	bpf_loop(PIECES, sum_piece, &s, 0);
	return s.failed || s.left ? -1 : (int)fold(s.sum);
}

/* Whether the outer packet's UDP checksum is there and right; or left to the device, as between namespaces of a host, which no wire
 * can have damaged. */
static __always_inline bool remote_holds(struct __sk_buff *skb, struct network *outer, bool ipv6)
{
	__u32 at = ETH_HLEN + outer->header, length = outer->length - outer->header;
	__u64 pseudo = (__u64)bpf_htons(IPPROTO_UDP) + bpf_htonl(length);
	__u16 check;

	if (ipv6) {
		const __u32 *word = (const __u32 *)&outer->v6.saddr;
#pragma clang loop unroll(full)
		for (int i = 0; i < 8; i++)
			pseudo += word[i];
	} else {
		pseudo += (__u64)outer->v4.saddr + outer->v4.daddr;
	}
	int sum = sum_bytes(skb, at, length);
	if (sum < 0 || bpf_skb_load_bytes(skb, at + offsetof(struct udphdr, check), &check, sizeof(check)) || !check)
		return false;
	return check == fold(pseudo) || fold(pseudo + sum) == 0xffff;
}

/* Whether the checksum can lie where it is said to. */
static __always_inline bool remote_fits(const struct remote *r, __u32 length)
{
	return !(r->start & 1) && !(r->field & 1) && r->field >= r->start && r->field + 2u <= length;
}

/* Makes the checksum of the packet, which has been taken out of the tunnel. The sum of its pseudo header is there already. */
static __always_inline long remote_complete(struct __sk_buff *skb, const struct remote *r, __u32 length)
{
	int sum = sum_bytes(skb, ETH_HLEN + r->start, length - r->start);
	__u16 check = ~sum;

	if (sum < 0)
		return -1;
	if (!check)
		check = 0xffff;
	return bpf_skb_store_bytes(skb, ETH_HLEN + r->field, &check, sizeof(check), BPF_F_RECOMPUTE_CSUM);
}
