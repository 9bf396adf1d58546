/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* director.bpf.c - the entry points.
 *
 * Most packets are of a connection that is there, and need no more than a rewrite: a program for each hook does that (plain.h), and nothing
 * else. All others go on with a program for the rest, from the beginning: parse -> decide -> forward. So the many have little code to
 * go through, and the kernel has little to verify.
 */
#include <linux/bpf.h>
#include "fragment.h"
#include "plain.h"
#include "rates.h"
#include "relay.h"
#include "reset.h"
#include "stray.h"
#include "sweep.h"

/* Not a packet of a connection, but perhaps for an address of ours. */
static __always_inline int leave_unparsed(struct packet *p, struct flow *f, enum parsed what)
{
	__u32 zero = 0;
	struct address_kinds *o = bpf_map_lookup_elem(&ours, &zero);

	if ((what != PARSED_MALFORMED && what != PARSED_UNSUPPORTED) || !o || !(ours_kinds(o, f->dst) & OURS_VIRTUAL))
		return packet_pass(p);
	return leave(p, what == PARSED_MALFORMED ? REASON_MALFORMED : REASON_UNSUPPORTED);
}

/* Goes on with another program, and comes back only if there is none. The plan's flow is the packet's if that was read. */
static __always_inline int go_on(struct packet *p, enum rest rest, bool read)
{
	__u32 zero = 0;
	struct plan *plan = bpf_map_lookup_elem(&plans, &zero);

	if (plan && !read)
		plan->flow.ours = 0;
	if (plan && !p->left)
		plan->flow.leaves = p->leaves;
	if (p->hook == HOOK_XDP) {
		if (rest == REST_USUAL)
			bpf_tail_call(p->ctx, &rest_xdp, rest);
		return packet_pass(p); /* tc does more than XDP can */
	}
	bpf_tail_call(p->ctx, &rest_tc, rest);
	return packet_pass(p);
}

static __always_inline int direct(struct packet *p)
{
	int verdict = plain(p);

	if (verdict == UNPLAIN_PASS)
		return packet_pass(p);
	if (verdict == UNPLAIN_READ)
		return go_on(p, REST_USUAL, true);
	return verdict < UNPLAIN ? verdict : go_on(p, verdict - UNPLAIN, false);
}

/* Any other packet. */
static __always_inline int direct_rest(struct packet *p)
{
	__u32 zero = 0;
	struct plan *plan = bpf_map_lookup_elem(&plans, &zero);

	if (!plan)
		return p->hook == HOOK_XDP ? XDP_PASS : TC_ACT_UNSPEC;
	struct flow *f = &plan->flow;
	p->left = &f->leaves; /* as the first program has set it */
	if (p->kind != PACKET_USUAL || !f->ours) {
		enum parsed parsed = parse(p, f);
		if (p->kind == PACKET_USUAL && parsed == PARSED_ICMP)
			return go_on(p, REST_RELATED, false);
		if (p->kind == PACKET_USUAL && parsed == PARSED_FRAGMENT)
			return go_on(p, REST_FRAGMENT, false);
		if (parsed != PARSED_FLOW)
			return leave_unparsed(p, f, parsed);
		f->ours = ours_of(f);
		if (!f->ours)
			return packet_pass(p);
	}
	packet_reload(p); /* also so that the verifier goes on only once */
	struct decision *d = &plan->decision;
	if (p->kind == PACKET_RELATED) {
		decide_related(f, plan);
		if (begins_by_error(f, d))
			return go_on(p, REST_USUAL, true);
	} else {
		f->call = !f->quoted && call_wanted(f) && call_read(p, f);
		if (f->fragment != FRAGMENT_LATER)
			decide(f, plan);
		if (p->kind == PACKET_USUAL && f->quoted && d->at != NO_LINE)
			return go_on(p, REST_RELATED, false); /* it has a connection now */
		if (p->hook == HOOK_TC && is_stray(f, d) && !stray_ends_here(SKB(p), f->src, f->dst))
			decide_stray(f, plan);
		if (p->kind == PACKET_FRAGMENT)
			decide_fragment(f);
	}
	switch (d->outcome) {
	case OUTCOME_PASS:
		return leave(p, d->reason);
	case OUTCOME_DROP:
		return drop(p, d->reason);
	case OUTCOME_REFUSE:
		return d->direction == DIRECTION_OUTPUT ? refuse_from(p, f, &port_unreachable, d->reason, d->src) :
							  refuse(p, f, &port_unreachable, d->reason);
	case OUTCOME_ASK:
		return packet_ask(p);
	case OUTCOME_RESET:
		return dry ? drop(p, d->reason) : go_on(p, REST_RESET, true);
	case OUTCOME_FORWARD:
		break;
	}
	if (p->kind == PACKET_RELATED && is_relayed(f)) {
		struct icmp_error e = {};
		if (!relay(p, f, d, &e))
			return packet_pass(p);
		if (icmp_make(p, f, &e, f->dst))
			return drop(p, REASON_MALFORMED);
	}
	return forward(p, f, d);
}

SEC("xdp")
int director_xdp(struct xdp_md *ctx)
{
	struct packet p = { .ctx = ctx, .hook = HOOK_XDP, .kind = PACKET_PLAIN };

	return direct(&p);
}

SEC("tc")
int director_tc(struct __sk_buff *ctx)
{
	struct packet p = { .ctx = ctx, .hook = HOOK_TC, .kind = PACKET_PLAIN };

	return direct(&p);
}

/* On the way out. By our own device come the packets that the firewall has marked, and those that we have asked for; by all
 * others where it is attached, those of the director's own programs: as clients, or as servers that answer. */
SEC("tc")
int director_out(struct __sk_buff *ctx)
{
	struct packet p = { .ctx = ctx, .hook = HOOK_TC, .kind = PACKET_PLAIN };

	__u32 from = ctx->ingress_ifindex, device = settings.device;

	if (ctx->ifindex != device && (from || ctx->tc_index == TC_INDEX_SENT))
		return TC_ACT_UNSPEC;
	if (ctx->ifindex == device && from == device)
		return drop(&p, REASON_NO_ROUTE); /* it has been here before */
	p.leaves = true;
	return direct(&p);
}

SEC("xdp")
int director_rest_xdp(struct xdp_md *ctx)
{
	struct packet p = { .ctx = ctx, .hook = HOOK_XDP, .kind = PACKET_USUAL };

	return direct_rest(&p);
}

SEC("tc")
int director_rest(struct __sk_buff *ctx)
{
	struct packet p = { .ctx = ctx, .hook = HOOK_TC, .kind = PACKET_USUAL };

	return direct_rest(&p);
}

SEC("tc")
int director_related(struct __sk_buff *ctx)
{
	struct packet p = { .ctx = ctx, .hook = HOOK_TC, .kind = PACKET_RELATED };

	return direct_rest(&p);
}

SEC("tc")
int director_fragment(struct __sk_buff *ctx)
{
	struct packet p = { .ctx = ctx, .hook = HOOK_TC, .kind = PACKET_FRAGMENT };

	return direct_rest(&p);
}

/* The packet is as the program has left it that has decided about it. */
SEC("tc")
int director_reset(struct __sk_buff *ctx)
{
	struct packet p = { .ctx = ctx, .hook = HOOK_TC, .kind = PACKET_RESET };
	__u32 zero = 0;
	struct plan *plan = bpf_map_lookup_elem(&plans, &zero);

	if (!plan)
		return TC_ACT_SHOT;
	p.left = &plan->flow.leaves; /* as the first program has set it */
	return reset(&p, &plan->flow, &plan->decision);
}

/* Run once by Go when the programs are loaded. */
SEC("tc")
int director_start(struct __sk_buff *ctx)
{
	return sweep_begin() ?: estimate_begin();
}

/* Attached to a namespace where no other link can tell that it is gone. Looks at nothing. */
SEC("sk_lookup")
int director_anchor(struct bpf_sk_lookup *ctx)
{
	return 1; /* SK_PASS */
}

char _license[] SEC("license") = "Dual BSD/GPL";
