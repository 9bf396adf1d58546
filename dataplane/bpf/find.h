/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* find.h - the connection table, as those see it who look for an entry; conn.h tells how it lies there. */
#pragma once
#include "maps.h"

#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile typeof(x) *)&(x) = (v))
#define barrier() asm volatile("" ::: "memory")

enum {
	OWN_LIVE = 1,
	OWN_DEAD = 2,
	OWN_LINE_SHIFT = 2, /* home line in its page, 6 bits */
	OWN_DISTANCE_SHIFT = 8, /* pages from the home's page, 2 bits */
	OWN_GENERATION = 1 << 10,
	OWN_PLACE = OWN_GENERATION - 1,
};

/* What a connection is found by: the client's side first. */
struct conn_key {
	__u64 word; /* ports, protocol, kind, laid out as in struct conn */
	__u64 client[2];
	__u64 virtual[2];
};

#define NO_LINE 0xffffffffU /* of the whole table */

#define KEY_WORD 0xffffffffffffULL /* without overflow and spare */
#define KEY_CLIENT_WORD 0xffff0000ffffULL /* client port, protocol, kind */

static __always_inline __u64 key_word(__u16 client_port, __u16 virtual_port, __u8 protocol, __u8 kind)
{
	return client_port | (__u64)virtual_port << 16 | (__u64)protocol << 32 | (__u64)kind << 40;
}

/* Where a key's home is. */
struct home {
	__u32 segment;
	__u32 line; /* in the segment */
};

/* A universal hash (NH) with secret words, and a mix. */
static __always_inline struct home home_of(const struct conn_key *k)
{
	__u32 port = (__u16)k->word | (__u32)(k->word >> 32) << 16;
	__u64 h = (__u64)((__u32)k->client[0] + seed[0]) * ((__u32)(k->client[0] >> 32) + seed[1]);

	h += (__u64)((__u32)k->client[1] + seed[2]) * ((__u32)(k->client[1] >> 32) + seed[3]);
	h += (__u64)(port + seed[4]) * (seed[5] | 1);
	h ^= h >> 32;
	h *= 0x9fb21c651e98df25ULL;
	h ^= h >> 32;
	h *= 0x9fb21c651e98df25ULL;
	h ^= h >> 29;
	return (struct home){ ((h >> 32) * segments) >> 32, (__u32)h & (SEGMENT_LINES - 1) };
}

/* The index of the lowest bit set, without a branch: branches multiply the verifier's work. */
static __always_inline __u32 lowest(__u64 x)
{
	x = (x & -x) - 1;
	x -= (x >> 1) & 0x5555555555555555ULL;
	x = (x & 0x3333333333333333ULL) + ((x >> 2) & 0x3333333333333333ULL);
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return (x * 0x0101010101010101ULL) >> 56;
}

static __always_inline struct conn *line_at(struct segment *s, __u64 i)
{
	BOUND(i, SEGMENT_LINES - 1);
	return (struct conn *)((char *)s + (i << 6));
}

static __always_inline __u32 *link_of(__u32 segment, __u64 line)
{
	struct links *l = bpf_map_lookup_elem(&links, &segment);

	BOUND(line, SEGMENT_LINES - 1);
	return l ? &l->line[line] : NULL;
}

/* Has the processor fetch a link that is to be written under a lock, while it waits for other memory anyway. */
static __always_inline void link_fetch(struct links *l, __u64 line)
{
	BOUND(line, SEGMENT_LINES - 1);
	(void)READ_ONCE(l->line[line]);
}

static __always_inline __u64 word_of(struct conn *e)
{
	return *(volatile __u64 *)&e->client_port;
}

/* Whether a slot holds the key. */
static __always_inline bool holds(struct conn *e, const struct conn_key *k)
{
	__u32 own = READ_ONCE(e->own);

	if (!(own & OWN_LIVE) || (word_of(e) & KEY_WORD) != k->word || READ_ONCE(e->client[1]) != k->client[1] ||
	    READ_ONCE(e->client[0]) != k->client[0] || READ_ONCE(e->virtual[1]) != k->virtual[1] ||
	    READ_ONCE(e->virtual[0]) != k->virtual[0])
		return false;
	return READ_ONCE(e->own) == own;
}

/* The server's port of a connection. */
static __always_inline __u16 conn_port(struct conn *e, const struct server *d)
{
	return READ_ONCE(e->life) & LIFE_SAME_PORT ? READ_ONCE(e->virtual_port) : d->port;
}

/* Whether a slot holds the connection that an answer belongs to. In an answer's key, virtual and the second port
 * are the server's, as the packet shows them. */
static __always_inline bool holds_answer(struct conn *e, const struct conn_key *k)
{
	__u32 own = READ_ONCE(e->own);

	if (!(own & OWN_LIVE) || (word_of(e) & KEY_CLIENT_WORD) != (k->word & KEY_CLIENT_WORD) ||
	    READ_ONCE(e->client[1]) != k->client[1] || READ_ONCE(e->client[0]) != k->client[0])
		return false;
	if (READ_ONCE(e->life) >> LIFE_FORWARD_SHIFT != FORWARD_MASQ)
		return false;
	__u32 slot = READ_ONCE(e->server);
	struct server *d = bpf_map_lookup_elem(&servers, &slot);
	if (!d || d->addr[1] != k->virtual[1] || d->addr[0] != k->virtual[0] ||
	    conn_port(e, d) != (__u16)(k->word >> 16))
		return false;
	return READ_ONCE(e->own) == own;
}

/* A search through the lines that the hop bitmaps of a home and of its overflow pages name. */
struct scan {
	struct segment *segment;
	const struct conn_key *key;
	__u64 hop; /* lines of the page that are left */
	__u32 home, page; /* lines: the home, the page's first */
	__u32 overflow; /* pages that are left, by their distance */
	int found;
};

/* One line, or the way to the next page. The loop is the kernel's, so that the verifier goes through this once. */
#define SCAN_STEP(HOLDS)                                                                                               \
	do {                                                                                                           \
		if (!c->hop) {                                                                                         \
			if (!c->overflow)                                                                              \
				return 1;                                                                              \
			__u32 line = c->home + lowest(c->overflow) * LINES;                                            \
			c->overflow &= c->overflow - 1;                                                                \
			c->page = line & ~(LINES - 1u);                                                                \
			c->hop = READ_ONCE(line_at(c->segment, line)->hop);                                            \
			return 0;                                                                                      \
		}                                                                                                      \
		__u32 j = c->page + lowest(c->hop);                                                                    \
		c->hop &= c->hop - 1;                                                                                  \
		if (!HOLDS(line_at(c->segment, j), c->key))                                                            \
			return 0;                                                                                      \
		c->found = j & (SEGMENT_LINES - 1);                                                                    \
		return 1;                                                                                              \
	} while (0)

static long scan_step(__u32 n, struct scan *c)
{
	SCAN_STEP(holds);
}

static long scan_step_answer(__u32 n, struct scan *c)
{
	SCAN_STEP(holds_answer);
}

/* A page, and the way to the next one, four times. */
enum { SCAN_STEPS = (LINES + 1) * PAGES };

#define SCAN(STEP)                                                                                                     \
	do {                                                                                                           \
		if (!s || !k)                                                                                          \
			return -1;                                                                                     \
		struct conn *e = line_at(s, line);                                                                     \
		struct scan c = { s, k, READ_ONCE(e->hop), line, line & ~(LINES - 1u), READ_ONCE(e->overflow), -1 };   \
		bpf_loop(SCAN_STEPS, STEP, &c, 0);                                                                     \
		return c.found;                                                                                        \
	} while (0)

__noinline int scan(struct segment *s, struct conn_key *k, __u32 line)
{
	SCAN(scan_step);
}

__noinline int scan_answer(struct segment *s, struct conn_key *k, __u32 line)
{
	SCAN(scan_step_answer);
}

#define FIND(HOLDS, SCAN_ALL)                                                                                          \
	do {                                                                                                           \
		struct conn *e = line_at(s, line);                                                                     \
		if (HOLDS(e, k))                                                                                       \
			return e;                                                                                      \
		if (!(READ_ONCE(e->hop) & ~(1ULL << (line & (LINES - 1)))) && !READ_ONCE(e->overflow))                 \
			return NULL;                                                                                   \
		*kept = *k;                                                                                            \
		int i = SCAN_ALL(s, kept, line);                                                                       \
		return i < 0 ? NULL : line_at(s, i);                                                                   \
	} while (0)

/* The same as the two below, with a key in registers, which is kept in memory when a function is to read it. */
static __always_inline struct conn *conn_find_kept(struct segment *s, struct conn_key *k, struct conn_key *kept,
						   __u32 line)
{
	FIND(holds, scan);
}

static __always_inline struct conn *conn_find_answer_kept(struct segment *s, struct conn_key *k, struct conn_key *kept,
							  __u32 line)
{
	FIND(holds_answer, scan_answer);
}

/* The entry of a key, or NULL; it may be past its time. */
static __always_inline struct conn *conn_find(struct segment *s, struct conn_key *k, __u32 line)
{
	return conn_find_kept(s, k, k, line);
}

/* The entry that an answer belongs to, or NULL; it may be past its time. */
static __always_inline struct conn *conn_find_answer(struct segment *s, struct conn_key *k, __u32 line)
{
	return conn_find_answer_kept(s, k, k, line);
}

static __always_inline bool conn_expired(struct conn *e, __u32 jiffies)
{
	return (__s32)(jiffies - READ_ONCE(e->expires)) >= 0;
}

static __always_inline __u32 line_of(struct segment *s, struct conn *e)
{
	return ((__u64)e - (__u64)s) / sizeof(*e);
}

/* Moves an entry's time, which was seen before: false if the entry has ended. None comes after the end, whose time expires then
 * tells. */
static __always_inline bool conn_renew(struct conn *e, __u32 seen, __u32 expires)
{
#pragma clang loop unroll(disable)
	for (int n = 0; n < 4; n++) {
		if (seen == expires)
			break;
		__u32 was = __sync_val_compare_and_swap(&e->expires, seen, expires);
		if (was == seen)
			break;
		if (READ_ONCE(e->life) & LIFE_ENDED)
			return false;
		seen = was;
	}
	return !(READ_ONCE(e->life) & LIFE_ENDED);
}
