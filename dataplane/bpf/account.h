/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* account.h - what each connection has carried and when it began, for those who ask for that when the programs are loaded. It lies beside the
 * table, by line: a packet pays one more cache line then, and nothing else ever. A line's account is empty when the line is free. */
#pragma once
#include "stats.h"

static __always_inline struct account *account_of(__u32 at)
{
	__u32 segment = at / SEGMENT_LINES;
	__u64 line = at;
	struct accounts *a = bpf_map_lookup_elem(&accounts, &segment);

	BOUND(line, SEGMENT_LINES - 1);
	return a ? &a->line[line] : NULL;
}

/* Seconds of a clock that an account's begin is told by. */
static __always_inline __u32 account_now(void)
{
	return now64() / hz;
}

static __always_inline void account_add(struct account *a, enum direction dir, __u64 packets, __u64 bytes)
{
	if (dir == DIRECTION_OUTPUT) {
		__sync_fetch_and_add(&a->out_packets, packets);
		__sync_fetch_and_add(&a->out_bytes, bytes);
	} else {
		__sync_fetch_and_add(&a->in_packets, packets);
		__sync_fetch_and_add(&a->in_bytes, bytes);
	}
}

/* A packet of the entry in a line of the whole table. */
static __always_inline void account_packet(__u32 at, enum direction dir, __u32 bytes)
{
	struct account *a = accounting && !dry && at != NO_LINE ? account_of(at) : NULL;

	if (a)
		account_add(a, dir, 1, bytes);
}

/* An entry has begun some seconds ago. */
static __always_inline void account_begin(__u32 at, __u32 age)
{
	__u32 segment = at / SEGMENT_LINES;
	__u64 line = at;

	if (!accounting || dry)
		return;
	struct accounts *a = bpf_map_lookup_elem(&accounts, &segment);
	BOUND(line, SEGMENT_LINES - 1);
	if (a)
		WRITE_ONCE(a->began[line], account_now() - age);
}

/* Nobody holds the entry of a line any more, which is about to be free. */
static __always_inline void account_clear(__u32 at)
{
	struct account *a = accounting && !dry ? account_of(at) : NULL;

	if (a)
		__builtin_memset(a, 0, sizeof(*a));
}
