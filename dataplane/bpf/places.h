/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* places.h - how long lblc and lblcr remember where a destination is served. */
#pragma once
#include "conn.h"

/* Whether a place was not used for so long that it counts as forgotten. */
static __always_inline bool place_over(struct place *p, __u32 service)
{
	struct service *v = bpf_map_lookup_elem(&services, &service);

	if (!v)
		return true;
	__u64 life = v->scheduler == SCHEDULER_LBLCR ? settings.lblcr_expiration : settings.lblc_expiration;
	if (READ_ONCE(v->places) > PLACES_A_SERVICE && life > PLACE_IDLE)
		life = PLACE_IDLE;
	return now64() >= p->used + life * hz;
}

/* Forgets a place that was not used for its time, and the parts of one that is forgotten. */
static long place_old(void *map, struct place_key *key, struct place *p, void *none)
{
	struct service *v = bpf_map_lookup_elem(&services, &key->service);
	struct place_key whole = { { key->addr[0], key->addr[1] }, key->service, 0 };

	if (key->part) {
		if (!bpf_map_lookup_elem(&places, &whole))
			bpf_map_delete_elem(&places, key);
		return 0;
	}
	if (place_over(p, key->service) && !bpf_map_delete_elem(&places, &whole) && v)
		__sync_fetch_and_add(&v->places, -1);
	return 0;
}

/* Once a minute. */
static __always_inline void places_sweep(struct sweeper *w)
{
	__u64 time = now64();

	if (time < w->places_swept + 60 * (__u64)hz)
		return;
	w->places_swept = time;
	bpf_for_each_map_elem(&places, place_old, NULL, 0);
}
