/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* rates.h - what servers and services carry a second: every two seconds a timer compares their counters with what they were. No
 * packet pays for it.
 *
 * As in kernel IPVS, a rate moves a quarter of the way to what the last two seconds had. A service's is moved by what has been seen
 * at its servers, removed ones too.
 */
#pragma once
#include "maps.h"

enum {
	ESTIMATE_EVERY = 2000000000, /* nanoseconds */
	ESTIMATE_PAUSE = 1000000, /* between two slices */
	ESTIMATE_SLICE = 4096, /* counter lines looked at without a pause: some 40 µs */
	ESTIMATE_LOST = 1000000000, /* so late, the time is not made up for */
};

/* Two seconds had so much more: in the kernel's fixed point, a rate in 1/unit. */
static __always_inline void rate_move(__u64 *rate, __u64 more, __u64 unit)
{
	__s64 gap = more * (unit / 2) - *rate;

	*rate += gap >> 2;
}

static __always_inline void estimate_move(struct estimate *e, const struct counts *more)
{
	if (e->restart) {
		__builtin_memset(&e->rate, 0, sizeof(e->rate));
		e->restart = 0;
	}
	rate_move(&e->rate.conns, more->conns, RATE_UNIT);
	rate_move(&e->rate.in_packets, more->in_packets, RATE_UNIT);
	rate_move(&e->rate.out_packets, more->out_packets, RATE_UNIT);
	rate_move(&e->rate.in_bytes, more->in_bytes, RATE_BYTES_UNIT);
	rate_move(&e->rate.out_bytes, more->out_bytes, RATE_BYTES_UNIT);
}

/* How far a counter has come; not at all if it was cleared, for the slot's next server. */
static __always_inline __u64 come(__u64 now, __u64 seen)
{
	__s64 more = now - seen;

	return more & ~(more >> 63); /* a branch would multiply the verifier's work */
}

static __always_inline void counts_add(struct counts *sum, const struct counts *c)
{
	sum->conns += c->conns;
	sum->in_packets += c->in_packets;
	sum->out_packets += c->out_packets;
	sum->in_bytes += c->in_bytes;
	sum->out_bytes += c->out_bytes;
}

/* What a slice works on is in the map's entry: of numbers on the stack the verifier would follow each. */
static __always_inline struct estimator *the_estimator(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&estimators, &zero);
}

static long sum_cpu(__u32 cpu, void *none)
{
	struct estimator *r = the_estimator();
	if (!r)
		return 1;
	__u32 i = r->line + cpu;
	struct counter *c = bpf_map_lookup_elem(&counters, &i);
	if (!c)
		return 1;
	counts_add(&r->sum, &c->counts);
	return 0;
}

static __always_inline int estimate_server(struct estimator *r, __u32 slot)
{
	struct server *d = bpf_map_lookup_elem(&servers, &slot);
	struct estimate *e = bpf_map_lookup_elem(&server_estimates, &slot);

	if (!d || !e || d->use == SLOT_FREE)
		return 0;
	__builtin_memset(&r->sum, 0, sizeof(r->sum));
	r->line = slot * cpus;
	r->left -= cpus;
	bpf_loop(cpus, sum_cpu, NULL, 0);
	struct counts more = {
		.conns = come(r->sum.conns, e->seen.conns),
		.in_packets = come(r->sum.in_packets, e->seen.in_packets),
		.out_packets = come(r->sum.out_packets, e->seen.out_packets),
		.in_bytes = come(r->sum.in_bytes, e->seen.in_bytes),
		.out_bytes = come(r->sum.out_bytes, e->seen.out_bytes),
	};
	e->seen = r->sum;
	estimate_move(e, &more);
	__u32 service = d->service;
	e = bpf_map_lookup_elem(&service_estimates, &service);
	if (e)
		counts_add(&e->seen, &more);
	return 0;
}

static __always_inline int estimate_service(__u32 slot)
{
	struct service *v = bpf_map_lookup_elem(&services, &slot);
	struct estimate *e = bpf_map_lookup_elem(&service_estimates, &slot);

	if (!v || !e || v->use == SLOT_FREE)
		return 0;
	struct counts more = e->seen;
	__builtin_memset(&e->seen, 0, sizeof(e->seen));
	estimate_move(e, &more);
	return 0;
}

static long estimate_step(__u32 n, void *none)
{
	struct estimator *r = the_estimator();
	if (!r || r->left <= 0 || r->next >= servers_size + services_size)
		return 1;
	__u32 i = r->next++;
	r->left--;
	return i < servers_size ? estimate_server(r, i) : estimate_service(i - servers_size);
}

/* Goes on with a round, so many counter lines far: whether it is through. */
static __always_inline bool estimate_slice(struct estimator *r, __u32 lines)
{
	r->left = lines;
	bpf_loop(lines, estimate_step, NULL, 0);
	if (r->next < servers_size + services_size)
		return false;
	r->next = 0;
	return true;
}

/* Rounds begin when they are due, so that delays do not add up. */
static int estimate_tick(void *map, __u32 *key, struct estimator *r)
{
	__u64 pause = ESTIMATE_PAUSE;

	if (test_clock || estimate_slice(r, ESTIMATE_SLICE)) {
		__u64 now = bpf_ktime_get_ns();
		r->due += ESTIMATE_EVERY;
		if (r->due + ESTIMATE_LOST < now)
			r->due = now;
		if (r->due > now + ESTIMATE_PAUSE)
			pause = r->due - now;
	}
	bpf_timer_start(&r->timer, pause, 0);
	return 0;
}

static __always_inline int estimate_begin(void)
{
	struct estimator *r = the_estimator();

	if (!r)
		return -1;
	r->due = bpf_ktime_get_ns() + ESTIMATE_EVERY;
	bpf_timer_init(&r->timer, &estimators, CLOCK_MONOTONIC);
	bpf_timer_set_callback(&r->timer, estimate_tick);
	return bpf_timer_start(&r->timer, ESTIMATE_EVERY, 0);
}
