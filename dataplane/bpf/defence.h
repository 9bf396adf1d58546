/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* defence.h - what is done about floods, while the connection table has little room or always: the settings drop_entry, drop_packet
 * and secure_tcp, with the meanings of kernel IPVS.
 *
 * What the kernel looks at is the free memory of the machine, in pages. Here it is what is free of the table, whose pages are as
 * large: there is little once less than amemthresh is free, and enough again at half way from there to an empty table; else what is
 * shed would come back at once. Addresses are hashed: the slice that was swept last tells how full all of the table is. While there is
 * little the sweep goes four times as fast, and the less there is the less time a handshake has: a second, or as little as a quarter. So a
 * flood that would fill half of the table in a second is held off.
 */
#pragma once
#include "template.h"

enum {
	HALF_OPEN_CALM = 32, /* with room enough, drop_entry=3 drops one in so many half-open connections a second */
	IDLE_SECONDS = 60, /* datagrams' entries may go after that */
	IDLE_SHARE = 8, /* one in so many a second */
	HASTE = 4, /* a handshake has no less than this part of a second */
};

/* A global function, as others here: the verifier does not follow what it answers. */
__noinline __u32 bits_in(__u64 x)
{
	x -= (x >> 1) & 0x5555555555555555ULL;
	x = (x & 0x3333333333333333ULL) + ((x >> 2) & 0x3333333333333333ULL);
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return (x * 0x0101010101010101ULL) >> 56;
}

/* A setting of a defence, which turns itself on and off. */
static __always_inline void defence_turn(__u32 *setting, bool little)
{
	__u32 is = READ_ONCE(*setting), next = little ? DEFENCE_ON : DEFENCE_READY;

	if ((is == DEFENCE_READY || is == DEFENCE_ON) && is != next)
		WRITE_ONCE(*setting, next);
}

/* Of some lines so many were taken. */
static __always_inline void defence_judge(__u64 taken, __u64 lines)
{
	__u32 pages = segments * PAGES, least = settings.amemthresh, every = 0;

	if (!lines)
		return;
	if (!least || least > pages)
		least = pages / 2;
	__u32 free = (lines - taken) * pages / lines;
	__u32 after = free < least ? hz * free / least : hz;
	if (after < hz / HASTE)
		after = hz / HASTE;
	if (after != settings.shed_after)
		WRITE_ONCE(settings.shed_after, after);
	bool little = free < (settings.little_room ? least + (pages - least) / 2 : least);
	defence_turn(&settings.drop_entry, little);
	defence_turn(&settings.drop_packet, little);
	defence_turn(&settings.secure_tcp, little);
	if (settings.drop_packet == DEFENCE_ON)
		every = free < least ? least / (least - free) : 0;
	else if (settings.drop_packet == DEFENCE_ALWAYS)
		every = settings.am_droprate;
	if (every != settings.drop_every)
		WRITE_ONCE(settings.drop_every, every);
	if (little != settings.little_room)
		WRITE_ONCE(settings.little_room, little);
}

/* Whether drop_packet has a packet dropped that would begin a connection: one of so many on this CPU. */
static __always_inline bool defence_drops(struct plan *p)
{
	__u32 every = settings.drop_every;

	if (!every || ++p->begun < every)
		return false;
	p->begun = 0;
	return true;
}

/* Whether drop_entry ends the live entry of a line before its time: a handshake that goes on for too long, a template that nothing has
 * come through, an idle flow of datagrams. Never an open connection. */
__noinline int entry_is_shed(struct segment *s, __u32 line, __u32 link, __u32 jiffies)
{
	if (!s)
		return 0;
	struct conn *e = line_at(s, line);
	__u32 life = READ_ONCE(e->life), state = life & LIFE_STATE, left = READ_ONCE(e->expires) - jiffies;
	__u8 protocol = READ_ONCE(e->protocol);

	if (!(READ_ONCE(e->own) & OWN_LIVE) || READ_ONCE(e->kind) == CONN_RETURN)
		return 0;
	if (is_template(e))
		return !link && !(life & TEMPLATE_ASSURED) && left + hz <= (life >> LIFE_SECONDS_SHIFT) * hz &&
		       settings.little_room;
	__u32 lives = timeout_of(protocol, state);
	if (protocol == IPPROTO_TCP ? state != TCP_SYN_RECV && state != TCP_SYNACK :
				      protocol == IPPROTO_SCTP && state != SCTP_INIT1 && state != SCTP_INIT)
		return 0;
	if (protocol == IPPROTO_UDP)
		return left + IDLE_SECONDS * hz <= lives && settings.little_room && !(chance() % IDLE_SHARE);
	return left + settings.shed_after <= lives && (settings.little_room || !(chance() % HALF_OPEN_CALM));
}
