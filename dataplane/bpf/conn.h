/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* conn.h - the connection table: find, insert, unlink, release, and the state word of an entry.
 *
 * One preallocated array of 64-byte lines, in pages of 64 lines and segments of 4 pages. A key has a home line, given
 * by the hash of the client's address, port and protocol alone, so that both directions of a NAT connection find
 * the same entry. The entry lies in the home line or in another line of the page, which the home's hop bitmap
 * names; or, when the page is full, in another page of the segment, which the home's overflow bits name.
 * Entries never move. A segment is full when all its 256 lines are taken.
 *
 * Lookups take no lock. Insert and unlink hold the segment's spin lock, under which nothing may be called and
 * nothing loops, so:
 * - insert looks up first and inserts only if guard.version, read before that lookup, is unchanged under the lock:
 *   then no other insertion into the segment came between, and no key is ever in the table twice;
 * - a slot's key is written only while own is not live, and each life has a generation of its own: a reader that saw
 *   the same live own before and after comparing has compared one entry's key;
 * - an unlinked line stays taken (dead) until a later pass releases it, at least a second on: whoever still holds a
 *   pointer writes to a line that is nobody else's.
 * The order of loads and stores that this needs is that of x86.
 */
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

/* Searches the lines that a hop bitmap names; i is the home line, or the same line of another page. Global
 * functions, so that the verifier goes through each once. */
#define SCAN(HOLDS)                                                                                                    \
	do {                                                                                                           \
		if (!s || !k)                                                                                          \
			return -1;                                                                                     \
		__u64 hop = READ_ONCE(line_at(s, i)->hop);                                                             \
		_Pragma("clang loop unroll(disable)") for (__u32 n = 0; n < LINES && hop; n++)                         \
		{                                                                                                      \
			__u32 j = (i & ~(LINES - 1u)) + lowest(hop);                                                   \
			hop &= hop - 1;                                                                                \
			if (HOLDS(line_at(s, j), k))                                                                   \
				return j & (SEGMENT_LINES - 1);                                                        \
		}                                                                                                      \
		return -1;                                                                                             \
	} while (0)

__noinline int scan_page(struct segment *s, struct conn_key *k, __u32 i)
{
	SCAN(holds);
}

__noinline int scan_page_answer(struct segment *s, struct conn_key *k, __u32 i)
{
	SCAN(holds_answer);
}

#define SCAN_PAGES(SCAN_PAGE)                                                                                          \
	do {                                                                                                           \
		if (!s || !k)                                                                                          \
			return -1;                                                                                     \
		int found = SCAN_PAGE(s, k, line);                                                                     \
		__u32 overflow = READ_ONCE(line_at(s, line)->overflow);                                                \
		if (found >= 0 || !overflow)                                                                           \
			return found;                                                                                  \
		if (overflow & 2 && (found = SCAN_PAGE(s, k, line + LINES)) >= 0)                                      \
			return found;                                                                                  \
		if (overflow & 4 && (found = SCAN_PAGE(s, k, line + 2 * LINES)) >= 0)                                  \
			return found;                                                                                  \
		if (overflow & 8)                                                                                      \
			return SCAN_PAGE(s, k, line + 3 * LINES);                                                      \
		return -1;                                                                                             \
	} while (0)

__noinline int scan(struct segment *s, struct conn_key *k, __u32 line)
{
	SCAN_PAGES(scan_page);
}

__noinline int scan_answer(struct segment *s, struct conn_key *k, __u32 line)
{
	SCAN_PAGES(scan_page_answer);
}

#define FIND(HOLDS, SCAN_ALL)                                                                                          \
	do {                                                                                                           \
		struct conn *e = line_at(s, line);                                                                     \
		if (HOLDS(e, k))                                                                                       \
			return e;                                                                                      \
		if (!(READ_ONCE(e->hop) & ~(1ULL << (line & (LINES - 1)))) && !READ_ONCE(e->overflow))                 \
			return NULL;                                                                                   \
		int i = SCAN_ALL(s, k, line);                                                                          \
		return i < 0 ? NULL : line_at(s, i);                                                                   \
	} while (0)

/* The entry of a key, or NULL; it may be past its time. */
static __always_inline struct conn *conn_find(struct segment *s, struct conn_key *k, __u32 line)
{
	FIND(holds, scan);
}

/* The entry that an answer belongs to, or NULL; it may be past its time. */
static __always_inline struct conn *conn_find_answer(struct segment *s, struct conn_key *k, __u32 line)
{
	FIND(holds_answer, scan_answer);
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

/* What a new entry holds besides its key. */
struct conn_data {
	__u32 life;
	__u32 server;
	__u32 expires;
	__u32 home; /* line in the segment */
	__u32 version; /* of the segment's insertions, before the look-up that failed */
	__u32 link;
};

enum { INSERT_FULL = -1, INSERT_RACED = -2, INSERT_DRY = -3, INSERT_EXISTS = 0x10000 };

/* One try to insert: the line, or INSERT_FULL, or INSERT_RACED if the segment has changed since version; or INSERT_DRY where there is
 * room, and nothing is to change. */
static __noinline int insert_once(struct segment *s, struct guard *g, struct links *l, const struct conn_key *k,
				  const struct conn_data *d)
{
	__u32 home = d->home, version = d->version, link = d->link;
	__u32 line = home & (LINES - 1), page = (home / LINES) & (PAGES - 1), distance = 0, j;
	int r = INSERT_RACED;

	bpf_spin_lock(&g->lock);
	if (g->version != version)
		goto out;
	r = INSERT_FULL;
	__u64 free = ~g->taken[page];
	if (!free) {
		distance = 1;
		page = (page + 1) & (PAGES - 1);
		free = ~g->taken[page];
	}
	if (!free) {
		distance = 2;
		page = (page + 1) & (PAGES - 1);
		free = ~g->taken[page];
	}
	if (!free) {
		distance = 3;
		page = (page + 1) & (PAGES - 1);
		free = ~g->taken[page];
	}
	if (!free)
		goto out;
	r = INSERT_DRY;
	if (dry)
		goto out;
	if ((free >> line) & 1) {
		j = line;
	} else if ((free >> (line ^ 1)) & 1) {
		j = line ^ 1; /* the same 128 bytes: the processor has fetched it along */
	} else {
		__u64 after = free & (~0ULL << line);
		j = lowest(after ? after : free) & (LINES - 1);
	}
	struct conn *e = line_at(s, page * LINES + j);
	struct conn *at_page = line_at(s, page * LINES + line), *at_home = line_at(s, home);
	__u32 generation = e->own & ~OWN_PLACE;
	WRITE_ONCE(e->own, generation); /* not live while it is written */
	barrier();
	*(volatile __u32 *)&e->client_port = (__u32)k->word;
	*(volatile __u16 *)&e->protocol = (__u16)(k->word >> 32);
	e->client[0] = k->client[0];
	e->client[1] = k->client[1];
	e->virtual[0] = k->virtual[0];
	e->virtual[1] = k->virtual[1];
	e->life = d->life;
	e->server = d->server;
	e->expires = d->expires;
	if (l) {
		__u64 at = page * LINES + j;
		BOUND(at, SEGMENT_LINES - 1);
		l->line[at] = link;
	}
	g->taken[page] |= 1ULL << j;
	/* an exchange is a full barrier: the key is there before the entry is live */
	__sync_lock_test_and_set(&e->own, (generation + OWN_GENERATION) | distance << OWN_DISTANCE_SHIFT |
						  line << OWN_LINE_SHIFT | OWN_LIVE);
	WRITE_ONCE(at_page->hop, at_page->hop | 1ULL << j);
	if (distance)
		WRITE_ONCE(at_home->overflow, at_home->overflow | 1 << distance);
	WRITE_ONCE(g->version, version + 1);
	r = page * LINES + j;
out:
	bpf_spin_unlock(&g->lock);
	return r;
}

/* Inserts a key that is not there: the line; with INSERT_EXISTS added if another CPU was faster; or a negative. */
static __noinline int conn_insert(struct segment *s, struct guard *g, struct links *l, struct conn_key *k,
				  struct conn_data *d)
{
#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < 8; n++) {
		d->version = READ_ONCE(g->version);
		barrier();
		int i = scan(s, k, d->home);
		if (i >= 0)
			return i | INSERT_EXISTS;
		i = insert_once(s, g, l, k, d);
		if (i != INSERT_RACED)
			return i;
	}
	return INSERT_RACED;
}

/* An entry to take out, as it was when that was decided. */
struct conn_seen {
	__u32 segment;
	__u32 line;
	__u32 own;
	__u32 expires;
	__u32 now;
};

/* Takes an entry out, if it is still what was seen: its life word as it ends, or 0. The line stays taken until
 * conn_release. */
static __noinline __u32 conn_unlink(struct segment *s, struct guard *g, struct conn_seen *seen)
{
	__u32 i = seen->line, own = seen->own, expires = seen->expires, died = seen->now, life = 0;

	if (dry)
		return READ_ONCE(line_at(s, i)->life) | LIFE_ENDED;
	bpf_spin_lock(&g->lock);
	struct conn *e = line_at(s, i);
	if (e->own != own || !(own & OWN_LIVE) || READ_ONCE(e->expires) != expires)
		goto out;
	__u32 line = (own >> OWN_LINE_SHIFT) & (LINES - 1), distance = (own >> OWN_DISTANCE_SHIFT) & 3;
	__u32 page = i & ~(LINES - 1u), j = i & (LINES - 1);
	struct conn *at_page = line_at(s, page + line);
	__u64 hop = at_page->hop & ~(1ULL << j);
	WRITE_ONCE(at_page->hop, hop);
	life = __sync_fetch_and_or(&e->life, LIFE_ENDED) | LIFE_ENDED;
	e->expires = died;
	__sync_lock_test_and_set(&e->own, (own & ~OWN_LIVE) | OWN_DEAD);
	if (distance) {
		bool more = false; /* of that home in this page */
#pragma clang loop unroll(disable)
		for (__u32 n = 0; n < LINES && hop; n++) {
			__u32 b = lowest(hop);
			hop &= hop - 1;
			if (((line_at(s, page + b)->own >> OWN_DISTANCE_SHIFT) & 3) == distance) {
				more = true;
				break;
			}
		}
		struct conn *at_home = line_at(s, page + line - distance * LINES);
		if (!more)
			WRITE_ONCE(at_home->overflow, at_home->overflow & ~(1 << (distance & 7)));
	}
out:
	bpf_spin_unlock(&g->lock);
	return life;
}

/* Frees the line of an entry that was unlinked a while ago. */
static __noinline int conn_release(struct segment *s, struct guard *g, __u32 i)
{
	bpf_spin_lock(&g->lock);
	struct conn *e = line_at(s, i);
	if (e->own & OWN_DEAD) {
		e->own &= ~OWN_PLACE;
		g->taken[(i / LINES) & (PAGES - 1)] &= ~(1ULL << (i & (LINES - 1)));
	}
	bpf_spin_unlock(&g->lock);
	return 0;
}
