/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* restore.bpf.c - makes entries that Go has read from a file, in the table of the running programs, while these go on. It is loaded when
 * it is needed, on their maps. What is there already is right: whoever has sent a packet since is further on than the file.
 */
#include <linux/bpf.h>
#include "decide.h"

enum restore_outcome {
	RESTORE_MADE,
	RESTORE_THERE, /* its key has an entry */
	RESTORE_ANSWERED, /* the server's answers would be those of another connection */
	RESTORE_NO_PORT, /* its local port is another connection's */
	RESTORE_FULL,
	RESTORE_BUSY,
};

/* An entry to make, and what has become of it. */
struct restored {
	struct conn_key key;
	struct conn_key other; /* a server's answer, or a return entry */
	struct conn_data data; /* expires from now on */
	enum restore_outcome outcome;
	__u32 spare;
	__u64 local[2]; /* of FULLNAT */
	__u32 template; /* line of the whole table, or NO_LINE; of a template, its own when it is made */
	__u32 template_own; /* what its line says about its life */
	__u16 local_port;
	__u8 spare2[6];
	__u32 age; /* seconds */
	__u32 spare3;
	struct account account;
	struct call call; /* of a template, if its length is not 0 */
};

enum { RESTORE_BATCH = 256 };
MAP(restoring, ARRAY, RESTORE_BATCH, BPF_F_MMAPABLE, __u32, struct restored);

static __always_inline void restore_load(__u32 server, enum load_kind kind)
{
	struct load *l = bpf_map_lookup_elem(&loads, &server);
	struct server *d = bpf_map_lookup_elem(&servers, &server);

	if (!l || !d)
		return;
	load_add(l, kind, 1);
	load_judge(l, d);
}

/* Whether an entry is in the way; one that is over is ended. */
static __noinline bool in_the_way(struct segment *s, __u32 segment, struct conn *e)
{
	if (!e)
		return false;
	if (!conn_expired(e, now()))
		return true;
	__u32 line = line_of(s, e);
	if (template_goes_on(e, segment, line, READ_ONCE(e->expires)))
		return true;
	conn_retire(s, segment, line);
	return false;
}

static __noinline int restore_template(struct restored *r)
{
	__u32 zero = 0;

	if (r->call.length) {
		struct message *m = bpf_map_lookup_elem(&messages, &zero);
		if (!m)
			return RESTORE_BUSY;
		m->call = r->call;
		call_key(&r->key);
	}
	struct home h = home_of(&r->key);
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);
	struct guard *g = bpf_map_lookup_elem(&guards, &h.segment);
	struct links *l = bpf_map_lookup_elem(&links, &h.segment);
	if (!s || !g || !l)
		return RESTORE_BUSY;
	in_the_way(s, h.segment, conn_find(s, &r->key, h.line));
	r->data.expires += now();
	r->data.home = h.line;
	r->data.link = 0;
	int i = conn_insert(s, g, l, &r->key, &r->data);
	if (i < 0)
		return i == INSERT_FULL ? RESTORE_FULL : RESTORE_BUSY;
	r->template = h.segment * SEGMENT_LINES + (i & (SEGMENT_LINES - 1));
	r->template_own = READ_ONCE(line_at(s, i)->own);
	if (i & INSERT_EXISTS)
		return RESTORE_THERE;
	if (r->call.length)
		call_keep(r->template);
	restore_load(r->data.server, LOAD_PERSISTENT);
	account_begin(r->template, r->age);
	return RESTORE_MADE;
}

/* Counts a connection for its template, if that is still there, and keeps it for a while. */
static __noinline bool restore_hold(struct restored *r)
{
	struct conn *e = r->template == NO_LINE ? NULL : conn_at(r->template);

	if (!e || READ_ONCE(e->own) != r->template_own)
		return false;
	__u32 seen = READ_ONCE(e->expires), later = now() + TEMPLATE_MORE * hz;
	/* its time first: the sweep ends nothing whose time has changed */
	if (!conn_renew(e, seen, (__s32)(seen - later) >= 0 ? seen : later) || READ_ONCE(e->own) != r->template_own)
		return false;
	template_count(r->template, 1);
	return true;
}

/* The segment of a key, and the line of it that is the key's home. */
static __always_inline struct segment *segment_of(struct conn_key *k, struct home *h)
{
	*h = home_of(k);
	return bpf_map_lookup_elem(&conns, &h->segment);
}

/* Takes the local port of a FULLNAT connection: the line of its return entry, or NO_LINE. */
static __noinline __u32 restore_return(struct restored *r)
{
	struct home h;
	struct segment *s;
	struct conn_data d = { .server = r->template, .expires = now() + RETURN_LIFE, .link = NO_LINE };

	r->other.word = (r->other.word & ~0xff000000ffffULL) | r->local_port | (__u64)CONN_RETURN << 40;
	r->other.client[0] = r->local[0];
	r->other.client[1] = r->local[1];
	s = segment_of(&r->other, &h);
	struct guard *g = bpf_map_lookup_elem(&guards, &h.segment);
	struct links *l = bpf_map_lookup_elem(&links, &h.segment);
	if (!s || !g || !l)
		return NO_LINE;
	d.home = h.line;
	int i = conn_insert(s, g, l, &r->other, &d);
	return i < 0 || i & INSERT_EXISTS ? NO_LINE : h.segment * SEGMENT_LINES + i;
}

static __noinline int restore_entry(struct restored *r, struct segment *s, struct home *h, __u32 back)
{
	struct guard *g = bpf_map_lookup_elem(&guards, &h->segment);
	struct links *l = bpf_map_lookup_elem(&links, &h->segment);

	if (!g || !l)
		return -1;
	r->data.expires += now();
	r->data.home = h->line;
	r->data.link = back == NO_LINE ? r->template : back;
	return conn_insert(s, g, l, &r->key, &r->data);
}

static __always_inline void restore_account(struct restored *r, __u32 at)
{
	struct account *a = accounting ? account_of(at) : NULL;

	account_begin(at, r->age);
	if (!a)
		return;
	account_add(a, DIRECTION_INPUT, r->account.in_packets, r->account.in_bytes);
	account_add(a, DIRECTION_OUTPUT, r->account.out_packets, r->account.out_bytes);
}

static __always_inline void restore_ours(const __u64 addr[2])
{
	__u32 zero = 0;
	struct address_kinds *o = bpf_map_lookup_elem(&ours, &zero);

	if (o && !(ours_kinds(o, addr) & OURS_VIRTUAL))
		ours_add(o, addr, OURS_VIRTUAL);
}

static __noinline int restore_conn(struct restored *r)
{
	struct home h;
	struct segment *s = segment_of(&r->key, &h);
	__u32 server = r->data.server, forward = r->data.life >> LIFE_FORWARD_SHIFT, back = NO_LINE;
	struct server *d = bpf_map_lookup_elem(&servers, &server);

	if (!s || !d)
		return RESTORE_BUSY;
	if (in_the_way(s, h.segment, conn_find(s, &r->key, h.line)))
		return RESTORE_THERE;
	__u16 port = r->data.life & LIFE_SAME_PORT ? (__u16)(r->key.word >> 16) : d->port;
	r->other = r->key;
	r->other.word = (r->key.word & ~0xffff0000ULL) | (__u64)port << 16;
	r->other.virtual[0] = d->addr[0];
	r->other.virtual[1] = d->addr[1];
	struct conn *e = forward == FORWARD_MASQ ? conn_find_answer(s, &r->other, h.line) : NULL;
	if (in_the_way(s, h.segment, e)) /* it may also have begun just now */
		return holds(e, &r->key) ? RESTORE_THERE : RESTORE_ANSWERED;
	if (restore_hold(r))
		r->data.life |= LIFE_CONTROLLED;
	else
		r->template = NO_LINE;
	if (forward == FORWARD_FULLNAT)
		back = restore_return(r);
	int i = forward == FORWARD_FULLNAT && back == NO_LINE ? INSERT_DRY : restore_entry(r, s, &h, back);
	if (i >= 0 && !(i & INSERT_EXISTS)) {
		if (back != NO_LINE)
			return_join(back, h.segment * SEGMENT_LINES + i);
		restore_load(server, r->data.life & LIFE_ACTIVE ? LOAD_ACTIVE : LOAD_INACTIVE);
		restore_account(r, h.segment * SEGMENT_LINES + i);
		restore_ours(r->key.virtual);
		return RESTORE_MADE;
	}
	if (back != NO_LINE)
		return_end(back);
	if (r->template != NO_LINE)
		template_count(r->template, -1);
	if (i == INSERT_DRY)
		return RESTORE_NO_PORT;
	return i >= 0 ? RESTORE_THERE : i == INSERT_FULL ? RESTORE_FULL : RESTORE_BUSY;
}

static long restore_step(__u32 n, void *unused)
{
	struct restored *r = bpf_map_lookup_elem(&restoring, &n);

	if (!r)
		return 1;
	r->outcome = (__u8)(r->key.word >> 40) == CONN_TEMPLATE ? restore_template(r) : restore_conn(r);
	return 0;
}

/* Makes so many entries as the mark says. */
SEC("tc")
int restore(struct __sk_buff *ctx)
{
	bpf_loop(ctx->mark, restore_step, NULL, 0);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
