/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* template.h - persistence: an entry of the connection table that remembers which server a client has.
 *
 * Its key is the client's network and, by the kind of service: address and port; address and port 0 (services of port 0 and
 * of FTP); or the firewall mark in place of the address, for all protocols; and the SIP call, see call.h. A template whose server is gone is lost:
 * nobody finds it, listings show it with port 65535, and it stays until its connections are over.
 */
#pragma once
#include "dead.h"
#include "plan.h"
#include "state.h"

enum { FTP_PORT = 21, FTP_DATA_PORT = 20, UNPRIVILEGED_PORT = 1024 };

/* The bits of one half of an IPv6 address that a prefix leaves. */
static __always_inline __u64 prefix_mask(__u32 bits)
{
	return bits >= 64 ? ~0ULL : bits ? __builtin_bswap64(~0ULL << (64 - bits)) : 0;
}

static __always_inline void template_key(struct conn_key *k, struct flow *f, struct service *v)
{
	__u8 protocol = f->protocol;
	__u16 port = 0, client_port = 0;

	k->client[0] = f->src[0];
	k->client[1] = f->src[1];
	if (f->family == FAMILY_IPV4) {
		k->client[1] &= (__u64)bpf_htonl(v->netmask) << 32 | 0xffffffff;
	} else {
		k->client[0] &= prefix_mask(v->netmask);
		k->client[1] &= v->netmask > 64 ? prefix_mask(v->netmask - 64) : 0;
	}
	k->virtual[0] = f->dst[0];
	k->virtual[1] = f->dst[1];
	if (f->dst_port == v->key.port) {
		if (f->dst_port != bpf_htons(FTP_PORT))
			port = f->dst_port;
	} else if (v->key.mark) {
		__u32 mark = bpf_htonl(v->key.mark);
		protocol = 0;
		k->virtual[0] = f->family == FAMILY_IPV4 ? 0 : mark;
		k->virtual[1] = f->family == FAMILY_IPV4 ? V4_MAPPED(mark) : 0;
	}
	if (v->engine) {
		call_key(k);
		client_port = CALL_PORT;
	}
	k->word = key_word(client_port, port, protocol, CONN_TEMPLATE);
}

/* Whether a template's server may have the client's next connection. */
static __always_inline bool template_serves(struct conn *e)
{
	__u32 slot = READ_ONCE(e->server);
	struct server *d = bpf_map_lookup_elem(&servers, &slot);

	return d && d->use == SLOT_LIVE &&
	       (d->weight || (!settings.expire_quiescent_template && on_dead_of(d) != ON_DEAD_RESCHEDULE));
}

/* The line in its segment of a template that serves, or -1. One that does not is not found again. */
static __noinline int template_line(struct segment *s, struct guard *g, struct conn_key *k, __u32 segment, __u32 line)
{
	struct conn *e = conn_find(s, k, line);

	if (!e)
		return -1;
	struct conn_seen seen = { segment, line_of(s, e), READ_ONCE(e->own), READ_ONCE(e->expires), now() };
	if ((__s32)(seen.now - seen.expires) >= 0 && !template_goes_on(e, segment, seen.line, seen.expires)) {
		conn_end(s, g, e, &seen);
		return -1;
	}
	if (!template_serves(e)) {
		if (!dry)
			WRITE_ONCE(e->kind, CONN_LOST);
		return -1;
	}
	if (READ_ONCE(e->life) & TEMPLATE_OVER && !dry)
		__sync_fetch_and_and(&e->life, ~TEMPLATE_OVER);
	return seen.line;
}

/* The server that a client of the plan's service has, if it is a persistent one: its slot, or 0 if one has to be chosen. */
__noinline __u32 template_server(struct flow *f, struct plan *p)
{
	if (!f || !p)
		return 0;
	__u32 service = p->service; /* Linux 6.1 takes no keys out of an argument */
	struct service *v = bpf_map_lookup_elem(&services, &service);
	if (!v || !v->persistent)
		return 0;
	template_key(&p->other, f, v);
	struct home h = home_of(&p->other);
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);
	struct guard *g = bpf_map_lookup_elem(&guards, &h.segment);
	if (!s || !g)
		return 0;
	int i = template_line(s, g, &p->other, h.segment, h.line);
	return i < 0 ? 0 : READ_ONCE(line_at(s, i)->server);
}

/* Counts one more connection for the client's template, and makes it for the plan's server if there is none. The plan then has
 * the template, and its server: another CPU may have made it for another one. If the server is to be that and no other, a template for another
 * one is lost. Answers 0, INSERT_FULL or INSERT_RACED. */
__noinline int template_hold(struct flow *f, struct plan *p, __u32 no_other)
{
	if (!f || !p)
		return INSERT_RACED;
	__u32 service = p->service; /* Linux 6.1 takes no keys out of an argument */
	struct service *v = bpf_map_lookup_elem(&services, &service);
	if (!v)
		return INSERT_RACED;
	template_key(&p->other, f, v);
	struct home h = home_of(&p->other);
	struct segment *s = bpf_map_lookup_elem(&conns, &h.segment);
	struct guard *g = bpf_map_lookup_elem(&guards, &h.segment);
	struct links *l = bpf_map_lookup_elem(&links, &h.segment);
	if (!s || !g || !l)
		return INSERT_RACED;
	int i = template_line(s, g, &p->other, h.segment, h.line);
	if (i >= 0 && no_other && READ_ONCE(line_at(s, i)->server) != p->server) {
		if (!dry)
			WRITE_ONCE(line_at(s, i)->kind, CONN_LOST);
		i = -1;
	}
	if (i < 0) {
		p->data.life = v->persistent << LIFE_SECONDS_SHIFT;
		p->data.server = p->server;
		p->data.expires = now() + v->persistent * hz;
		p->data.home = h.line;
		p->data.link = 1;
		i = conn_insert(s, g, l, &p->other, &p->data);
		if (i == INSERT_DRY || (dry && i >= 0))
			return 0;
		if (i < 0)
			return i;
		p->template = h.segment * SEGMENT_LINES + (i & (SEGMENT_LINES - 1));
		if (!(i & INSERT_EXISTS)) {
			if (v->engine)
				call_keep(p->template);
			load_begin(p->server, LOAD_PERSISTENT);
			account_begin(p->template, 0);
			return 0;
		}
	}
	struct conn *e = line_at(s, i);
	p->template = h.segment * SEGMENT_LINES + (i & (SEGMENT_LINES - 1));
	/* its time first: the sweep ends nothing whose time has changed */
	if (!dry && !conn_renew(e, READ_ONCE(e->expires), now() + (READ_ONCE(e->life) >> LIFE_SECONDS_SHIFT) * hz))
		return INSERT_RACED;
	template_count(p->template, 1);
	p->server = READ_ONCE(e->server);
	return 0;
}
