/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* dead.h - what becomes of connections whose server is gone: it was removed, or has weight 0, or they were taken away from it. */
#pragma once
#include "flow.h"
#include "control.h"

enum fate {
	FATE_GOES_ON,
	FATE_UNCOUNTED, /* goes on: a server's last packets */
	FATE_DROPPED,
	FATE_RESET,
};

/* The policy about a server's connections. */
static __always_inline enum on_dead on_dead_of(const struct server *d)
{
	if (d->on_dead)
		return d->on_dead;
	return settings.expire_nodest_conn ? ON_DEAD_EXPIRE : settings.on_dead;
}

/* Whether a packet may be the first one of a connection for all that it says: what follows another connection may not. */
static __always_inline bool is_datagram(const struct flow *f)
{
	return f->protocol == IPPROTO_UDP && !f->follows;
}

/* Whether there is anything to ask conn_fate and conn_deserted about. */
static __always_inline bool conn_is_unwell(const struct server *d, const struct flow *f, __u32 life)
{
	return d->use != SLOT_LIVE || life & LIFE_DISOWNED || (!d->weight && f->protocol == IPPROTO_UDP);
}

/* Whether a RST can be made of a packet: TCP, whole, without IP options. */
static __always_inline bool is_resettable(const struct flow *f)
{
	__u32 head = f->family == FAMILY_IPV4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);

	return f->protocol == IPPROTO_TCP && !f->quoted && !f->fragment && f->transport - f->network == head;
}

/* What becomes of a packet of a connection to a server in a slot: enum fate. A function that the verifier goes through once. */
__noinline int conn_fate(struct flow *f, __u32 slot, __u32 life, __u32 direction)
{
	__u32 key = slot; /* Linux 6.1 takes no keys out of an argument */
	struct server *d = bpf_map_lookup_elem(&servers, &key);

	if (!f || !d)
		return FATE_DROPPED;
	enum on_dead how = on_dead_of(d);
	if (life & LIFE_DISOWNED)
		how = ON_DEAD_RESET;
	else if (d->use == SLOT_LIVE) /* a datagram that conn_deserted has to see first */
		return how == ON_DEAD_RESCHEDULE && direction != DIRECTION_OUTPUT && is_datagram(f) && !f->quoted ?
			       FATE_DROPPED :
			       FATE_GOES_ON;
	bool resets = how == ON_DEAD_RESET || how == ON_DEAD_RESCHEDULE;
	if (how == ON_DEAD_KEEP)
		return FATE_GOES_ON;
	/* what resets the other end by itself needs no help, whatever its headers are like */
	if (resets && f->protocol == IPPROTO_TCP && f->event == TCP_EVENT_RST && !f->quoted && !f->fragment)
		return FATE_GOES_ON;
	if (resets && is_resettable(f))
		return FATE_RESET;
	if (direction == DIRECTION_OUTPUT && (!resets || f->protocol != IPPROTO_TCP))
		return life & LIFE_DISOWNED ? FATE_GOES_ON : FATE_UNCOUNTED;
	return FATE_DROPPED;
}

/* Whether a connection is over, for its server takes none, and the packet would begin a new one. */
__noinline int conn_deserted(struct flow *f, __u32 slot, __u32 life)
{
	__u32 key = slot;
	struct server *d = bpf_map_lookup_elem(&servers, &key);

	if (!f || !d || f->quoted)
		return 0;
	bool begins = f->opens || is_datagram(f);
	if (life & LIFE_DISOWNED)
		return begins;
	if (d->use == SLOT_LIVE && d->weight)
		return 0;
	if (f->opens && settings.conn_reuse_mode & REUSE_ENDING)
		return 1;
	enum on_dead how = on_dead_of(d);
	if (how == ON_DEAD_EXPIRE)
		return d->use != SLOT_LIVE || f->opens;
	if (d->use != SLOT_LIVE)
		return (how == ON_DEAD_RESET || how == ON_DEAD_RESCHEDULE) && begins;
	return how == ON_DEAD_RESCHEDULE && is_datagram(f);
}
