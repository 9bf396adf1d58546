/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* state.h - what a packet does to its connection: state by the tables from Go, time-out, activity. */
#pragma once
#include "control.h"

/* By which rules connections of a protocol go. */
static __always_inline __u32 machine_of(__u8 protocol)
{
	if (protocol == IPPROTO_TCP) /* MACHINE_TCP_SECURE where the defence is on, DEFENCE_ON or DEFENCE_ALWAYS */
		return MACHINE_TCP + (settings.secure_tcp >> 1 & 1);
	return protocol == IPPROTO_SCTP ? MACHINE_SCTP : MACHINE_STATELESS;
}

/* How long an entry lives without a packet, in jiffies. */
static __always_inline __u32 timeout_by(__u32 machine, __u8 state)
{
	__u64 i = machine * 16 + state;

	BOUND(i, MACHINES * 16 - 1);
	return settings.timeout[i];
}

static __always_inline __u32 timeout_of(__u8 protocol, __u8 state)
{
	return timeout_by(machine_of(protocol), state);
}

/* A life word with the state after a packet, which goes in a direction. */
static __always_inline __u32 life_step(__u32 life, __u32 machine, __u8 event, __u8 direction)
{
	__u64 i = machine * 1024 + (direction & 3) * 256 + (event & 15) * 16 + (life & 15);

	BOUND(i, NEXT - 1);
	return (life & ~(LIFE_STATE | LIFE_ACTIVE)) | next_life[i];
}

/* The life word of a connection when it begins. Its first packet is yet to be seen by conn_touch: to TCP it is all the same to see it
 * twice, but to SCTP a second INIT is something else. */
static __always_inline __u32 life_begin(struct flow *f, enum forward forward)
{
	bool masq = forward == FORWARD_MASQ || forward == FORWARD_FULLNAT;
	__u32 life = (__u32)forward << LIFE_FORWARD_SHIFT | (masq ? 0 : LIFE_NO_OUTPUT);

	if (f->protocol == IPPROTO_SCTP || f->quoted)
		return life;
	return life_step(life, machine_of(f->protocol), f->event, masq ? DIRECTION_INPUT : DIRECTION_INPUT_ONLY);
}

/* The life word after one more packet. */
static __always_inline __u32 life_next(__u32 life, __u32 machine, struct flow *f, enum direction dir)
{
	if (dir == DIRECTION_OUTPUT)
		life &= ~LIFE_NO_OUTPUT;
	else if (life & LIFE_NO_OUTPUT)
		dir = DIRECTION_INPUT_ONLY;
	if (dir == DIRECTION_OUTPUT && life >> LIFE_FORWARD_SHIFT == FORWARD_FULLNAT && !f->opens)
		life |= LIFE_ANSWERED;
	/* LIFE_ASSURED is the next bit after LIFE_CONTROLLED */
	if (f->protocol == IPPROTO_UDP)
		return dir == DIRECTION_OUTPUT ? life | (life & LIFE_CONTROLLED) << 1 : life;
	life = life_step(life, machine, f->event, dir);
	if (life & LIFE_CONTROLLED &&
	    (life & LIFE_STATE) == (f->protocol == IPPROTO_SCTP ? SCTP_ESTABLISHED : TCP_ESTABLISHED))
		life |= (life & LIFE_CONTROLLED) << 1;
	return life;
}

/* A packet was seen by the connection in a line of the whole table. Both directions may come at once on two CPUs, and the end
 * as well: each change is exactly one CPU's. */
static __always_inline void conn_touch(struct conn *e, __u32 at, struct flow *f, enum direction dir, __u32 jiffies)
{
	__u32 seen = READ_ONCE(e->expires), life = READ_ONCE(e->life), next = life;
	__u32 machine = machine_of(f->protocol);

	if (dry)
		return;
#pragma unroll
	for (int n = 0; n < 4; n++) {
		if (life & LIFE_ENDED)
			return;
		next = life_next(life, machine, f, dir);
		if (next == life)
			break;
		__u32 was = __sync_val_compare_and_swap(&e->life, life, next);
		if (was == life) {
			if ((life ^ next) & LIFE_ACTIVE)
				load_move(e->server, next & LIFE_ACTIVE);
			if ((life ^ next) & LIFE_ASSURED)
				template_assure(e, at);
			break;
		}
		next = life = was;
	}
	conn_renew(e, seen, jiffies + timeout_by(machine, next & LIFE_STATE));
}

/* The same as a function that the verifier goes through once, of what conn_touch asks for of a packet. */
__noinline int conn_move(__u32 at, __u32 protocol, __u32 event, __u32 opens, __u32 dir)
{
	struct flow f = { .protocol = protocol, .event = event, .opens = opens };
	struct conn *e = conn_at(at);

	if (e)
		conn_touch(e, at, &f, dir, now());
	return 0;
}

/* The same for a packet that most likely leaves the state as it is, of a connection that is there. */
static __always_inline void conn_touch_lightly(struct conn *e, __u32 at, struct flow *f, enum direction dir,
					       __u32 jiffies)
{
	__u32 seen = READ_ONCE(e->expires), life = READ_ONCE(e->life);
	__u32 machine = machine_of(f->protocol);

	if (life & LIFE_ENDED || life_next(life, machine, f, dir) != life)
		conn_move(at, f->protocol, f->event, f->opens, dir);
	else
		conn_renew(e, seen, jiffies + timeout_by(machine, life & LIFE_STATE));
}

/* Takes the return entry of a FULLNAT connection out of a line of the whole table, which frees its local port. */
__noinline int return_end(__u32 at)
{
	__u32 segment = at / SEGMENT_LINES;
	struct segment *s = bpf_map_lookup_elem(&conns, &segment);
	struct guard *g = bpf_map_lookup_elem(&guards, &segment);
	if (!s || !g)
		return 0;
	struct conn *e = line_at(s, at);
	struct conn_seen seen = { segment, at & (SEGMENT_LINES - 1), READ_ONCE(e->own), READ_ONCE(e->expires), now() };
	return READ_ONCE(e->kind) == CONN_RETURN && conn_unlink(s, g, &seen);
}

/* What the end of an entry is to others: its server's load, its template or its call. Answers the line of its return entry, or
 * NO_LINE. A function that the verifier goes through once. */
__noinline __u32 conn_ended(__u32 at, __u32 server, __u32 life)
{
	struct conn *e = conn_at(at);

	if (!e || e->kind == CONN_RETURN)
		return NO_LINE;
	bool template = is_template(e);
	load_end(server, template ? LOAD_PERSISTENT : life & LIFE_ACTIVE ? LOAD_ACTIVE : LOAD_INACTIVE);
	if (template && e->client_port == CALL_PORT)
		call_forget(at);
	if (template)
		return NO_LINE;
	bool full = life >> LIFE_FORWARD_SHIFT == FORWARD_FULLNAT;
	if (!full && !(life & LIFE_CONTROLLED))
		return NO_LINE; /* nothing lies beside it, so a line of memory less is looked at */
	__u32 link = link_at(at);
	if (life & LIFE_CONTROLLED)
		template_count(template_of(e, link), -1);
	return full ? link : NO_LINE;
}

/* Ends an entry as it was seen: it is no longer found, and no longer its server's load. Its line keeps what it was meanwhile. */
static __always_inline bool conn_end(struct segment *s, struct guard *g, struct conn *e, struct conn_seen *seen)
{
	__u32 at = seen->segment * SEGMENT_LINES + seen->line, server = READ_ONCE(e->server);
	__u32 life = conn_unlink(s, g, seen);

	if (!life)
		return false;
	__u32 back = conn_ended(at, server, life);
	if (back != NO_LINE)
		return_end(back);
	return true;
}
