/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* csum.h - one's complement sums, of words as they lie in memory. */
#pragma once
#include <bpf/bpf_endian.h>
#include "maps.h"

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The pseudo header of a transport checksum, folded, as in memory; length is what follows the IP headers. */
static __always_inline __u16 pseudo_sum(const __u64 *src, const __u64 *dst, __u8 protocol, __u32 length, bool ipv6)
{
	__u64 sum = (__u64)bpf_htonl(length) + bpf_htons(protocol) + (src[1] >> 32) + (dst[1] >> 32);

	if (ipv6)
		sum += (src[0] >> 32) + (__u32)src[0] + (__u32)src[1] + (dst[0] >> 32) + (__u32)dst[0] + (__u32)dst[1];
	return fold(sum);
}

/* Bytes are summed up in pieces, which bpf_csum_diff takes up to 512 bytes long. */
enum { PIECE = 512, PIECES = 128 };
struct piece {
	__u8 bytes[PIECE + 4]; /* zeros fill up the last four */
};
MAP(pieces, PERCPU_ARRAY, 1, 0, __u32, struct piece);

struct summing {
	struct __sk_buff *skb;
	__u32 at, left;
	__u32 sum;
	bool failed;
};

static long sum_piece(__u32 n, struct summing *s)
{
	__u32 zero = 0;
	struct piece *piece = bpf_map_lookup_elem(&pieces, &zero);
	__u64 length = s->left < PIECE ? s->left : PIECE;

	if (!length)
		return 1;
	/* the verifier of 6.1 does not take from a comparison with 0 that there is at least one byte */
	length--;
	BOUND(length, PIECE - 1);
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

/* Adds up length bytes of a packet. tc only. */
static __always_inline bool sum_bytes(void *skb, __u32 at, __u32 length, __u16 *sum)
{
	struct summing s = { .skb = skb, .at = at, .left = length };

	bpf_loop(PIECES, sum_piece, &s, 0);
	*sum = s.sum;
	return !s.failed && !s.left;
}
