/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* conn.h - the connection table: how it lies in memory; insert, unlink, release.
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
 * - an unlinked line stays taken (dead) until a later pass releases it, an eighth of a second on or more: whoever still holds a
 *   pointer writes to a line that is nobody else's.
 * The order of loads and stores that this needs is that of x86.
 */
#pragma once
#include "find.h"

/* A template, be it one that is lost. */
static __always_inline bool is_template(struct conn *e)
{
	return READ_ONCE(e->kind) == CONN_TEMPLATE || READ_ONCE(e->kind) == CONN_LOST;
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
	if (l) { /* or nobody will ask what lies beside it */
		__u64 at = page * LINES + j;
		BOUND(at, SEGMENT_LINES - 1);
		l->line[at] = link;
	}
	g->taken[page] |= 1ULL << j;
	barrier(); /* the key is there before the entry is live */
	WRITE_ONCE(e->own,
		   (generation + OWN_GENERATION) | distance << OWN_DISTANCE_SHIFT | line << OWN_LINE_SHIFT | OWN_LIVE);
	barrier(); /* and that before it is found */
	WRITE_ONCE(at_page->hop, at_page->hop | 1ULL << j);
	if (distance)
		WRITE_ONCE(at_home->overflow, at_home->overflow | 1 << distance);
	WRITE_ONCE(g->version, version + 1);
	r = page * LINES + j;
out:
	bpf_spin_unlock(&g->lock);
	return r;
}

/* Inserts a key that a look-up has not found since the version in the data was read: the line; with INSERT_EXISTS added if another CPU
 * was faster; or a negative. */
static __noinline int conn_insert_missing(struct segment *s, struct guard *g, struct links *l, struct conn_key *k,
					  struct conn_data *d)
{
#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < 8; n++) {
		int i = insert_once(s, g, l, k, d);
		if (i != INSERT_RACED)
			return i;
		d->version = READ_ONCE(g->version);
		barrier();
		i = scan(s, k, d->home);
		if (i >= 0)
			return i | INSERT_EXISTS;
	}
	return INSERT_RACED;
}

/* The same for a key that has not been looked for. */
static __always_inline int conn_insert(struct segment *s, struct guard *g, struct links *l, struct conn_key *k,
				       struct conn_data *d)
{
	d->version = READ_ONCE(g->version);
	barrier();
	int i = scan(s, k, d->home);
	return i >= 0 ? i | INSERT_EXISTS : conn_insert_missing(s, g, l, k, d);
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
