/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* stress.bpf.c - for tests only: the connection table under attack from several CPUs, and what timers do, on demand.
 *
 * Keys come in groups of one home: VARIANTS keys of a group share the client and differ in both words of the virtual
 * address, (v, v). A key (v, w) of two variants is never inserted: who finds it has compared two entries' words.
 */
#include <linux/bpf.h>
#include "rates.h"
#include "sweep.h"

enum { VARIANTS = 4, WORKERS = 2, FAR = 1 << 30 };

/* What a worker is to do, and what it met. Go writes and reads it as 64-bit numbers. */
struct worker {
	__u64 random;
	__u64 steps;
	__u64 keys;
	__u64 permanent; /* keys below this are never deleted */
	__u64 found;
	__u64 inserted;
	__u64 deleted;
	__u64 refused; /* insertions, for want of a line or by races */
	__u64 lost_inserts; /* another was faster */
	__u64 lost_deletes;
	__u64 duplicates;
	__u64 wrong; /* matches of what was never inserted, or of another key's entry */
	__u64 missed; /* permanent keys */
};
MAP(workers, ARRAY, WORKERS, BPF_F_MMAPABLE, __u32, struct worker);

/* How many entries a key has: never more than there are, for it is raised after an insertion and lowered before a deletion. */
MAP(entries, ARRAY, 1, BPF_F_MMAPABLE, __u32, __s64);

const volatile bool at_once = false; /* lines are released with the deletion: no reader may hold one */
const volatile bool sweeping = false; /* workers sweep, too; what they delete so, entries does not tell */
const volatile bool no_version = false; /* a flaw: insertions do not notice each other */
const volatile bool no_second_look = false; /* a flaw: a match is not confirmed */
const volatile bool slow = false; /* the windows of the flaws are wide */

static __always_inline void linger(void)
{
#pragma unroll
	for (int i = 0; i < 24; i++)
		bpf_ktime_get_ns();
}

/* As holds(), with time to go wrong. */
static __always_inline bool holds_slowly(struct conn *e, const struct conn_key *k)
{
	__u32 own = READ_ONCE(e->own);

	if (!(own & OWN_LIVE) || (word_of(e) & KEY_WORD) != k->word || READ_ONCE(e->client[1]) != k->client[1] ||
	    READ_ONCE(e->client[0]) != k->client[0] || READ_ONCE(e->virtual[1]) != k->virtual[1])
		return false;
	linger();
	linger();
	if (READ_ONCE(e->virtual[0]) != k->virtual[0])
		return false;
	return no_second_look || READ_ONCE(e->own) == own;
}

static long scan_step_slowly(__u32 n, struct scan *c)
{
	SCAN_STEP(holds_slowly);
}

__noinline int scan_slowly(struct segment *s, struct conn_key *k, __u32 line)
{
	SCAN(scan_step_slowly);
}

static __always_inline struct conn *find_slowly(struct segment *s, struct conn_key *k, __u32 line)
{
	struct conn_key *kept = k;

	FIND(holds_slowly, scan_slowly);
}

/* As conn_insert(), with time to go wrong. */
static __noinline int insert_slowly(struct segment *s, struct guard *g, struct conn_key *k, struct conn_data *d)
{
#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < 8; n++) {
		d->version = READ_ONCE(g->version);
		barrier();
		int i = scan(s, k, d->home);
		if (i >= 0)
			return i | INSERT_EXISTS;
		linger();
		if (no_version)
			d->version = READ_ONCE(g->version);
		i = insert_once(s, g, NULL, k, d);
		if (i != INSERT_RACED)
			return i;
	}
	return INSERT_RACED;
}

static __always_inline struct conn_key key_of(__u32 id, __u64 first, __u64 second)
{
	__u32 group = id / VARIANTS;

	return (struct conn_key){ .word = key_word(group % 7, 80, IPPROTO_UDP, CONN_PLAIN),
				  .client = { 0, V4_MAPPED(group / 7) },
				  .virtual = { second, first } };
}

static __always_inline void entries_add(__u32 id, __s64 n, struct worker *w)
{
	__s64 *e = bpf_map_lookup_elem(&entries, &id);

	if (!sweeping && e && __sync_fetch_and_add(e, n) + n > 1)
		w->duplicates++;
}

static __always_inline void try_insert(struct worker *w, struct segment *s, struct guard *g, struct conn_key *k,
				       __u32 line, __u32 id)
{
	/* half of them are past their time from the beginning, for a sweep to find */
	bool old = sweeping && id >= w->permanent && w->random & (1ULL << 40);
	struct conn_data d = { .life = FORWARD_MASQ << LIFE_FORWARD_SHIFT,
			       .server = id,
			       .expires = old ? now() - 1 : now() + FAR,
			       .home = line };
	int i = slow ? insert_slowly(s, g, k, &d) : conn_insert(s, g, NULL, k, &d);
	if (i < 0) {
		w->refused++;
	} else if (i & INSERT_EXISTS) {
		w->lost_inserts++;
	} else {
		w->inserted++;
		load_begin(id, LOAD_INACTIVE);
		entries_add(id, 1, w);
	}
}

static __always_inline void try_delete(struct worker *w, struct segment *s, struct guard *g, struct conn_key *k,
				       struct conn *e, __u32 id)
{
	struct conn_seen seen = { 0, ((__u64)e - (__u64)s) / sizeof(*e), READ_ONCE(e->own), READ_ONCE(e->expires),
				  now() };

	barrier();
	if (!holds(e, k) || READ_ONCE(e->own) != seen.own)
		return; /* lines that are released at once may be another's by now */
	entries_add(id, -1, w);
	if (!conn_end(s, g, e, &seen)) {
		w->lost_deletes++;
		entries_add(id, 1, w);
		return;
	}
	w->deleted++;
	if (at_once)
		conn_release(s, g, seen.line & (SEGMENT_LINES - 1));
}

static __always_inline void try_sweep(__u32 segment)
{
	struct slice c = { .from = segment, .now = now() };

	sweep_segment(0, &c);
	if (!at_once)
		return;
	c.now += hz; /* a second later */
	sweep_segment(0, &c);
}

/* A packet of a connection, with any flags. */
static __always_inline void try_touch(struct worker *w, struct conn *e)
{
	struct flow f = { .protocol = IPPROTO_TCP, .event = tcp_event(w->random >> 48) };

	conn_touch(e, 0, &f, DIRECTION_INPUT, now());
}

static long stress_step(__u32 n, struct worker **of)
{
	struct worker *w = *of;
	if (!w)
		return 1;
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	__u32 id = (__u32)w->random % (__u32)w->keys, what = w->random >> 56;
	__u64 v = 1 + id % VARIANTS, other = 1 + (id + 1) % VARIANTS;
	bool never = what < 32;
	struct conn_key k = key_of(id, v, never ? other : v);
	struct home h = home_of(&k);
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);
	struct guard *g = bpf_map_lookup_elem(&guards, &h.segment);
	if (!s || !g)
		return 1;
	if (sweeping && !(w->random >> 20 & 255)) {
		try_sweep(h.segment);
		return 0;
	}
	if (never) {
		w->wrong += (slow ? find_slowly(s, &k, h.line) : conn_find(s, &k, h.line)) != NULL;
		return 0;
	}
	struct conn *e = conn_find(s, &k, h.line);
	if (!e) {
		w->missed += id < w->permanent;
		if (what < 128)
			try_insert(w, s, g, &k, h.line, id);
		return 0;
	}
	w->found++;
	if (!at_once && READ_ONCE(e->server) != id)
		w->wrong++;
	if (id >= w->permanent && what < 128)
		try_delete(w, s, g, &k, e, id);
	else if (!at_once)
		try_touch(w, e);
	return 0;
}

static __always_inline struct worker *worker_of(struct __sk_buff *ctx)
{
	__u32 i = ctx->mark;

	return bpf_map_lookup_elem(&workers, &i);
}

/* A worker's steps; the context's mark is its number. */
SEC("tc")
int stress(struct __sk_buff *ctx)
{
	struct worker *w = worker_of(ctx);

	if (!w || !w->keys)
		return -1;
	bpf_loop(w->steps, stress_step, &w, 0);
	return 0;
}

static long fill_step(__u32 id, struct worker **of)
{
	struct worker *w = *of;
	if (!w)
		return 1;
	struct conn_key k = key_of(id, 1 + id % VARIANTS, 1 + id % VARIANTS);
	struct home h = home_of(&k);
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);
	struct guard *g = bpf_map_lookup_elem(&guards, &h.segment);
	if (s && g)
		try_insert(w, s, g, &k, h.line, id);
	return 0;
}

/* Inserts the permanent keys. */
SEC("tc")
int stress_fill(struct __sk_buff *ctx)
{
	struct worker *w = worker_of(ctx);

	if (!w)
		return -1;
	bpf_loop(w->permanent, fill_step, &w, 0);
	return 0;
}

static long look_step(__u32 id, struct worker **of)
{
	struct worker *w = *of;
	if (!w)
		return 1;
	struct conn_key k = key_of(id, 1 + id % VARIANTS, 1 + id % VARIANTS);
	struct home h = home_of(&k);
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);
	struct conn *e = s ? conn_find(s, &k, h.line) : NULL;
	if (e)
		w->found++;
	if (e && e->server != id)
		w->wrong++;
	return 0;
}

/* Looks for all keys. */
SEC("tc")
int stress_look(struct __sk_buff *ctx)
{
	struct worker *w = worker_of(ctx);

	if (!w)
		return -1;
	w->found = 0;
	bpf_loop(w->keys, look_step, &w, 0);
	return 0;
}

/* Sweeps the whole table at once, as the timer does it in slices. */
SEC("tc")
int sweep_all(struct __sk_buff *ctx)
{
	__u32 zero = 0;
	struct sweeper *w = bpf_map_lookup_elem(&sweepers, &zero);

	if (!w)
		return -1;
	w->next = 0;
	sweep_slice(w, segments, ~0U);
	return 0;
}

/* Sweeps the next slice, of as many segments as the mark says, or as far as the work takes that the priority says: how many segments. */
SEC("tc")
int sweep_next(struct __sk_buff *ctx)
{
	__u32 zero = 0;
	struct sweeper *w = bpf_map_lookup_elem(&sweepers, &zero);

	if (!w)
		return -1;
	return sweep_slice(w, ctx->mark, ctx->priority ?: ~0U);
}

/* Goes on with a round of the rates, so many counter lines far: 1 when it is through. */
SEC("tc")
int estimate(struct __sk_buff *ctx)
{
	struct estimator *r = the_estimator();

	return r ? estimate_slice(r, ctx->mark) : -1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
