/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* dry.h - what a dry run finds, for Go to tell, besides the plan. The programs are the same then, with the constant dry set, on
 * the maps of those that run: whatever would change one of these does nothing. Of loads, links, counters and routes a dry run has its
 * own, and what a packet does to them first is seen by what it does next.
 */
#pragma once
#include "route.h"

struct finding {
	enum routed routed;
	struct route route;
};
MAP(findings, ARRAY, 1, 0, __u32, struct finding);

static __always_inline void find_route(enum routed routed, const struct route *r)
{
	__u32 zero = 0;
	struct finding *found = bpf_map_lookup_elem(&findings, &zero);

	if (!found)
		return;
	found->routed = routed;
	found->route = *r;
}
