/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* plan.h - what is decided about a packet, and what is worked on until it is. */
#pragma once
#include "conn.h"
#include "parse.h"

enum outcome {
	OUTCOME_PASS, /* not ours, or left to the kernel for a reason */
	OUTCOME_FORWARD, /* to be rewritten and sent */
	OUTCOME_REFUSE, /* no server: to be answered with ICMP port unreachable */
	OUTCOME_DROP,
	OUTCOME_RESET, /* its connection has lost its server: both ends are to be told; the decision is as for FORWARD */
	OUTCOME_ASK, /* begins a connection; which service makes it is known when the firewall has marked it */
};

struct decision {
	__u64 src[2], dst[2]; /* FORWARD: the packet's addresses when it leaves */
	enum outcome outcome;
	__u32 reason;
	__u32 server; /* that the packet counts for; 0 is none */
	enum direction direction;
	__u16 src_port, dst_port;
	__u32 forward;
	__u32 at; /* the connection's line of the whole table, or NO_LINE */
	__u32 tell; /* the server may not have heard yet who the client is */
	__u32 begun; /* the connection began with this packet, and has seen it */
};

static __always_inline void decide_source(struct decision *d, const __u64 addr[2], __u16 port)
{
	d->src[0] = addr[0];
	d->src[1] = addr[1];
	d->src_port = port;
}

static __always_inline void decide_destination(struct decision *d, const __u64 addr[2], __u16 port)
{
	d->dst[0] = addr[0];
	d->dst[1] = addr[1];
	d->dst_port = port;
}

/* What deciding works on, which the stack has no room for. One for each CPU: nothing that decides about a packet
 * is interrupted by what decides about another. */
struct plan {
	struct flow flow;
	struct decision decision;
	struct conn_key key; /* the packet's */
	struct conn_key other; /* a template's, or an answer's */
	struct home home; /* of the packet's key */
	__u32 version; /* of its segment, before the key was looked for and not found */
	bool alone; /* there was no entry of that home at all */
	struct conn_data data;
	__u32 service, server; /* slots */
	__u32 template; /* line of the whole table, or NO_LINE */
	__u32 forward; /* the server's method; it may be edited meanwhile */
	__u32 back; /* the return entry's line, with FULLNAT */
	struct fragment_key fragment_key;
	struct fragment fragment;
	struct local local; /* that is tried */
	__u32 pool, pool_size; /* of local addresses */
	__u32 turn; /* of this CPU's round through the pools of local addresses */
	__u32 begun; /* packets that began a connection, since drop_packet dropped one */
};
MAP(plans, PERCPU_ARRAY, 1, 0, __u32, struct plan);
