/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* seats.h - a service's list of servers, as all schedulers walk it.
 *
 * Seats are walked from 1, the newest server, to the last; position 0 is the head of the list.
 */
#pragma once
#include "stats.h"

enum { SERVERS_A_SERVICE = 4096 };

/* A walk over a list, on the stack of whoever picks. */
struct walk {
	void *list;
	struct contest *contest; /* of the list, by load */
	__u32 seats;
	__u32 scheduler;
	__u32 chosen; /* server's slot; 0 is none */
	__u32 position; /* rr, wrr: the seat last looked at, 0 for the head; sh, mh: the entry first looked at */
	__s32 highest; /* of the usable weights */
	union {
		__s32 current; /* wrr: the weight that a server needs in this pass */
		__u32 number; /* twos: how far into the sum of the weights */
		struct {
			__u32 key; /* sh, dh, mh: what is hashed */
			__u32 table; /* entries */
		};
		struct { /* by load */
			__u32 next; /* seat that is to be looked at */
			__u64 marks; /* of groups that are to be looked at */
		};
	};
	struct least {
		__u64 load;
		__s32 weight;
		__u32 server; /* slot; 0: there is none yet */
		__u32 seat;
	} least; /* of the servers looked at */
};

static __always_inline struct seat *seat_at(void *list, __u32 i)
{
	return bpf_map_lookup_elem(list, &i);
}

static __always_inline bool overloaded(__u32 server)
{
	struct load *l = bpf_map_lookup_elem(&loads, &server);

	return !l || READ_ONCE(l->overloaded);
}

/* Whether a server takes new connections. */
__noinline int seat_open(struct seat *s)
{
	return s && s->weight > 0 && !overloaded(s->server);
}

/* The load of a server as lc, wlc, lblc, lblcr and twos see it. */
static __always_inline __u64 overhead(struct load *l)
{
	return ((__u64)(__u32)READ_ONCE(l->active) << 8) + (__u32)READ_ONCE(l->inactive);
}

/* The highest weight of the servers that take new connections: 0 if none does. */
static long highest_step(__u32 n, struct walk *w)
{
	struct seat *s = seat_at(w->list, n + 1);

	if (!s)
		return 1;
	if (s->weight > w->highest && !overloaded(s->server))
		w->highest = s->weight;
	return 0;
}
