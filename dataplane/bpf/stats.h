/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* stats.h - what a server has carried (counters, a line for each CPU) and carries now (its load). */
#pragma once
#include "conn.h"
#include "parse.h"

static __always_inline struct counts *counts_of(__u32 server)
{
	__u32 i = server * cpus + bpf_get_smp_processor_id();
	struct counter *c = bpf_map_lookup_elem(&counters, &i);

	return c ? &c->counts : NULL;
}

static __always_inline void count_packet(__u32 server, enum direction dir, __u32 bytes)
{
	struct counts *c = counts_of(server);

	if (!c)
		return;
	if (dir == DIRECTION_OUTPUT) {
		c->out_packets++;
		c->out_bytes += bytes;
	} else {
		c->in_packets++;
		c->in_bytes += bytes;
	}
}

/* The rule about thresholds, asked when a connection has come or gone: at the upper one a server is left out, below the
 * lower one, or below three quarters of the upper, it is taken back. */
static __always_inline void load_judge(struct load *l, struct server *d)
{
	__u32 was = READ_ONCE(l->overloaded), over = 0;

	if (!d->upper) {
		if (was)
			WRITE_ONCE(l->overloaded, 0);
		return;
	}
	__s64 total = (__s64)READ_ONCE(l->active) + READ_ONCE(l->inactive) + READ_ONCE(l->persistent);
	if (total >= d->upper)
		over = 1;
	else if (was)
		over = total >= (d->lower ? d->lower : d->upper - d->upper / 4);
	if (over != was)
		WRITE_ONCE(l->overloaded, over);
}

/* The group of a server, if there are as many as there can be: marks are of these. */
static __always_inline __u32 group_of(__u32 server)
{
	return server * 2654435769U >> 26;
}

static __always_inline struct contest *contest_of(__u32 service)
{
	__u32 zero = 0;
	void *held = bpf_map_lookup_elem(&contests, &service);

	return held ? bpf_map_lookup_elem(held, &zero) : NULL;
}

/* A server's load is another one: its group is marked, for whoever chooses next to look at. The load has changed before (by an instruction
 * with a lock, as the marks), so who takes a mark away sees it. */
__noinline int load_changed(__u32 server, __u32 service)
{
	struct contest *c = contest_of(service);
	__u64 mark = 1ULL << group_of(server);

	if (!dry && c && !(READ_ONCE(c->marks) & mark))
		__sync_fetch_and_or(&c->marks, mark);
	return 0;
}

enum load_kind { LOAD_INACTIVE, LOAD_ACTIVE, LOAD_PERSISTENT };

static __always_inline void load_add(struct load *l, enum load_kind kind, __s32 n)
{
	__sync_fetch_and_add(kind == LOAD_ACTIVE     ? &l->active :
			     kind == LOAD_PERSISTENT ? &l->persistent :
						       &l->inactive,
			     n);
}

/* A connection or a template begins: it counts at once, so that the next choice sees it. */
static __always_inline void load_begin(__u32 server, enum load_kind kind)
{
	struct load *l = bpf_map_lookup_elem(&loads, &server);
	struct server *d = bpf_map_lookup_elem(&servers, &server);
	struct counts *c = counts_of(server);

	if (!l || !d)
		return;
	load_add(l, kind, 1);
	if (c && kind != LOAD_PERSISTENT)
		c->conns++;
	load_judge(l, d);
	load_changed(server, d->service);
}

static __always_inline void load_move(__u32 server, bool active)
{
	struct load *l = bpf_map_lookup_elem(&loads, &server);
	struct server *d = bpf_map_lookup_elem(&servers, &server);

	if (!l || !d)
		return;
	__sync_fetch_and_add(&l->active, active ? 1 : -1);
	__sync_fetch_and_add(&l->inactive, active ? -1 : 1);
	load_changed(server, d->service);
}

static __always_inline void load_end(__u32 server, enum load_kind kind)
{
	struct load *l = bpf_map_lookup_elem(&loads, &server);
	struct server *d = bpf_map_lookup_elem(&servers, &server);

	if (!l || !d)
		return;
	load_add(l, kind, -1);
	load_judge(l, d);
	load_changed(server, d->service);
}
