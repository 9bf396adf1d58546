/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* control.h - what connections do to their template: they are counted by it, assure it, and keep it alive. And what lies beside
 * the line of a connection: its template, or its return entry. */
#pragma once
#include "account.h"
#include "call.h"
#include "stats.h"

/* How long a template goes on that runs out while it has connections, and from then on at each use. */
enum { TEMPLATE_MORE = 60 }; /* seconds */

/* A line of the whole table. */
static __always_inline struct conn *conn_at(__u32 at)
{
	__u32 segment = at / SEGMENT_LINES;
	struct segment *s = bpf_map_lookup_elem(&conns, &segment);

	return s ? line_at(s, at) : NULL;
}

static __always_inline void template_count(__u32 at, __s32 more)
{
	__u32 *count = link_of(at / SEGMENT_LINES, at);

	if (count)
		__sync_fetch_and_add(count, more);
}

/* What the word beside a line of the whole table says. */
static __always_inline __u32 link_at(__u32 at)
{
	__u32 *link = link_of(at / SEGMENT_LINES, at);

	return link ? READ_ONCE(*link) : NO_LINE;
}

/* The template of a controlled connection. One of FULLNAT has the return entry beside it, which knows the template. */
static __always_inline __u32 template_of(struct conn *e, __u32 link)
{
	if (READ_ONCE(e->life) >> LIFE_FORWARD_SHIFT != FORWARD_FULLNAT)
		return link;
	struct conn *r = conn_at(link);
	return r ? READ_ONCE(r->server) : NO_LINE;
}

/* Traffic has gone both ways. */
static __always_inline void template_assure(struct conn *c, __u32 at)
{
	struct conn *e = conn_at(template_of(c, link_at(at)));

	if (e)
		__sync_fetch_and_or(&e->life, TEMPLATE_ASSURED);
}

/* Whether an entry is a template that the sweep finds over for the first time. It waits for the next round: connections that end
 * at the same time are no reason for it to go on. */
static __always_inline bool template_waits(struct conn *e)
{
	return is_template(e) && !(__sync_fetch_and_or(&e->life, TEMPLATE_OVER) & TEMPLATE_OVER);
}

/* Whether a template whose time is over goes on, because it has connections. */
static __always_inline bool template_goes_on(struct conn *e, __u32 segment, __u32 line, __u32 expires)
{
	__u32 *count = link_of(segment, line), life = READ_ONCE(e->life);

	if (!is_template(e) || !count || !READ_ONCE(*count))
		return false;
	if (dry || __sync_val_compare_and_swap(&e->expires, expires, expires + TEMPLATE_MORE * hz) != expires)
		return true;
#pragma clang loop unroll(disable)
	for (int n = 0; n < 3; n++) {
		__u32 kept = life & ((1 << LIFE_SECONDS_SHIFT) - 1) & ~TEMPLATE_OVER;
		__u32 next = kept | TEMPLATE_MORE << LIFE_SECONDS_SHIFT;
		__u32 was = __sync_val_compare_and_swap(&e->life, life, next);
		if (was == life)
			break;
		life = was;
	}
	return true;
}

/* The line of the connection that a return entry in another line belongs to, or NO_LINE. */
static __always_inline __u32 return_conn(__u32 back)
{
	__u32 at = link_at(back);
	struct conn *e = at == NO_LINE ? NULL : conn_at(at);

	if (!e || !(READ_ONCE(e->own) & OWN_LIVE) || READ_ONCE(e->kind) != CONN_PLAIN ||
	    READ_ONCE(e->life) >> LIFE_FORWARD_SHIFT != FORWARD_FULLNAT || link_at(at) != back)
		return NO_LINE;
	return at;
}
