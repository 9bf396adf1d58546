/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* sweep.h - takes out entries whose time is over, a slice of the table at each tick of a timer. No process is needed. */
#pragma once
#include "defence.h"
#include "places.h"
#include "pool.h"

/* Lines of a segment, by its pages. */
struct lines {
	__u64 of[PAGES];
};

struct slice {
	__u32 from;
	__u32 most; /* work, after which it goes no further than the segment */
	__u32 work; /* as many lines as could have been looked at in that time */
	__u32 now;
	__u32 segment, page;
	__u64 ended; /* and those of them that were shed, in SHED */
	__u32 taken; /* lines of the segments that were swept */
	__u64 lines; /* of the page, to look at under the lock */
	struct lines old;
};

/* How long a line is dead before it is used again: far longer than any program runs. */
static __always_inline __u32 dead_time(void)
{
	return settings.little_room ? hz / 8 : hz;
}

/* Whether a line is past its time, or dead for long enough: 1 or 0, without a branch. */
static __always_inline __u64 line_old(struct segment *s, __u32 i, __u32 jiffies, __u32 rest)
{
	struct conn *e = line_at(s, i);
	__u32 own = READ_ONCE(e->own), age = jiffies - READ_ONCE(e->expires);
	__u64 past = (own & OWN_LIVE) & ~(age >> 31);
	__u64 dead = ((own & OWN_DEAD) >> 1) & ~((age - rest) >> 31);

	return past | dead;
}

/* A page with no more lines taken than these is not gone through: memory that nobody else needs would take the place of what packets do. */
enum { FEW_LINES = 4 };

/* The lines of a page that are past their time, or dead for long enough, of those that are taken. */
__noinline __u64 page_old(struct segment *s, __u32 page, __u64 taken, __u32 jiffies)
{
	__u64 lines = 0;
	__u32 rest = dead_time();

	if (!s)
		return 0;
	if (bits_in(taken) <= FEW_LINES) {
#pragma clang loop unroll(disable)
		for (__u32 n = 0; n < FEW_LINES; n++) {
			__u32 j = lowest(taken) & (LINES - 1);
			lines |= (line_old(s, page * LINES + j, jiffies, rest) & !!taken) << j;
			taken &= taken - 1;
		}
		return lines;
	}
#pragma clang loop unroll(disable)
	for (__u32 j = 0; j < LINES; j++)
		lines |= line_old(s, page * LINES + j, jiffies, rest) << j;
	return lines;
}

/* The same of a segment's pages, all at once: the memory of one comes while that of another is waited for. */
__noinline int segment_old(struct segment *s, struct lines *old, __u32 jiffies)
{
	__u64 first = 0, second = 0, third = 0, fourth = 0;
	__u32 rest = dead_time();

	if (!s || !old)
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 j = 0; j < LINES; j++) {
		first |= line_old(s, j, jiffies, rest) << j;
		second |= line_old(s, LINES + j, jiffies, rest) << j;
		third |= line_old(s, 2 * LINES + j, jiffies, rest) << j;
		fourth |= line_old(s, 3 * LINES + j, jiffies, rest) << j;
	}
	old->of[0] = first;
	old->of[1] = second;
	old->of[2] = third;
	old->of[3] = fourth;
	return 0;
}

struct shedding {
	struct segment *s;
	struct links *l;
	__u64 lines;
	__u32 first; /* line of the segment */
	__u32 now;
};

static long shed_line(__u32 n, struct shedding *c)
{
	__u64 i = c->first + n;

	BOUND(i, SEGMENT_LINES - 1);
	if (entry_is_shed(c->s, i, c->l->line[i], c->now))
		c->lines |= 1ULL << (n & (LINES - 1));
	return 0;
}

/* The lines of a page that drop_entry ends before their time. Not in a loop of its own, of which Linux 6.1 walks every way. */
__noinline __u64 page_shed(struct segment *s, struct links *l, __u32 page, __u32 jiffies)
{
	struct shedding c = { .s = s, .l = l, .first = page * LINES, .now = jiffies };

	if (!s || !l || settings.drop_entry < DEFENCE_ON)
		return 0;
	bpf_loop(LINES, shed_line, &c, 0);
	return c.lines;
}

#define SHED (1ULL << 32)

/* Releases the line of an entry that has ended, or ends its entry: 1, and SHED if that was before its time. */
__noinline __u64 line_sweep(__u32 segment, __u32 i, __u32 jiffies)
{
	struct segment *s = bpf_map_lookup_elem(&conns, &segment);
	struct guard *g = bpf_map_lookup_elem(&guards, &segment);

	if (!s || !g)
		return 0;
	struct conn *e = line_at(s, i);
	struct conn_seen seen = { segment, i & (SEGMENT_LINES - 1), READ_ONCE(e->own), READ_ONCE(e->expires), jiffies };
	bool past = (__s32)(jiffies - seen.expires) >= 0;
	if (seen.own & OWN_DEAD) {
		account_clear(segment * SEGMENT_LINES + seen.line);
		conn_release(s, g, seen.line);
	}
	if (!(seen.own & OWN_LIVE) ||
	    (past && (template_waits(e) || template_goes_on(e, segment, seen.line, seen.expires) ||
		      return_goes_on(e, segment * SEGMENT_LINES + seen.line))))
		return 0;
	return conn_end(s, g, e, &seen) ? past ? 1 : 1 | SHED : 0;
}

/* What a slice has to do, in lines that could be looked at meanwhile, some 3 ns each. A tick is 50 to 80 us of work. */
enum {
	WORK_AT_ONCE = 16384,
	WORK_OF_END = 16, /* or of releasing a line */
	WORK_OF_SHEDDING = 3 * LINES, /* of a page */
};

static long sweep_line(__u32 n, struct slice *c)
{
	__u64 lines = c->lines;

	if (!lines)
		return 1;
	c->lines = lines & (lines - 1);
	c->work += WORK_OF_END;
	c->ended += line_sweep(c->segment, c->page * LINES + lowest(lines), c->now);
	return 0;
}

static long sweep_segment(__u32 n, struct slice *c)
{
	c->segment = c->from + n;
	struct segment *s = bpf_map_lookup_elem(&conns, &c->segment);
	struct guard *g = bpf_map_lookup_elem(&guards, &c->segment);
	if (!s || !g)
		return 1;
	struct links *l = bpf_map_lookup_elem(&links, &c->segment);
	bool crowded = bits_in(g->taken[0]) > FEW_LINES && bits_in(g->taken[1]) > FEW_LINES &&
		       bits_in(g->taken[2]) > FEW_LINES && bits_in(g->taken[3]) > FEW_LINES;
	if (crowded)
		segment_old(s, &c->old, c->now);
#pragma clang loop unroll(disable)
	for (__u32 page = 0; page < PAGES; page++) {
		__u64 taken = READ_ONCE(g->taken[page & (PAGES - 1)]);
		if (!taken)
			continue;
		__u32 lines = bits_in(taken);
		c->taken += lines;
		c->work += lines <= FEW_LINES ? FEW_LINES : LINES;
		if (settings.drop_entry >= DEFENCE_ON)
			c->work += WORK_OF_SHEDDING;
		c->lines = crowded ? c->old.of[page & (PAGES - 1)] : page_old(s, page, taken, c->now);
		c->lines |= page_shed(s, l, page, c->now);
		c->page = page;
		if (c->lines)
			bpf_loop(LINES, sweep_line, c, 0);
	}
	return c->work >= c->most;
}

/* Sweeps the next slice, or the part of it in which there is so much to do: how many segments. At the end of the table it begins anew. */
static __always_inline __u32 sweep_slice(struct sweeper *w, __u32 count, __u32 most)
{
	struct slice c = { .from = w->next, .most = most, .work = unknown_zero(), .now = now() };

	if (c.from >= segments) {
		c.from = 0;
		w->rounds++;
	}
	if (count > segments - c.from)
		count = segments - c.from;
	count = bpf_loop(count, sweep_segment, &c, 0);
	w->next = c.from + count;
	w->ended += c.ended & (SHED - 1);
	w->shed += c.ended / SHED;
	defence_judge(c.taken, (__u64)count * SEGMENT_LINES);
	return count;
}

/* The less a tick has swept the sooner comes the next, so a round takes as long however much there is to do in it. */
static int sweep_tick(void *map, __u32 *key, struct sweeper *w)
{
	__u64 slice = settings.sweep_slice, swept = sweep_slice(w, slice, WORK_AT_ONCE);
	__u64 pause = settings.sweep_every >> (settings.little_room ? 2 : 0);

	places_sweep(w);
	if (swept && swept < slice && w->next < segments)
		pause = pause * swept / slice;
	bpf_timer_start(&w->timer, pause, 0);
	return 0;
}

static __always_inline int sweep_begin(void)
{
	__u32 zero = 0;
	struct sweeper *w = bpf_map_lookup_elem(&sweepers, &zero);

	if (!w)
		return -1;
	bpf_timer_init(&w->timer, &sweepers, CLOCK_MONOTONIC);
	bpf_timer_set_callback(&w->timer, sweep_tick);
	return bpf_timer_start(&w->timer, settings.sweep_every, 0);
}
