/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* realserver.bpf.c - what runs on a real server: the way out of a director's tunnel, and the answer to who the client is. */
#include "decap.h"
#include "toa.h"

SEC("tc")
int realserver_decap(struct __sk_buff *skb)
{
	return decapsulate(skb);
}

SEC("sockops")
int realserver_learn(struct bpf_sock_ops *ops)
{
	if (ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB || ops->op == BPF_SOCK_OPS_PARSE_HDR_OPT_CB)
		learn_client(ops);
	return 1;
}

SEC("cgroup/getpeername4")
int realserver_peer4(struct bpf_sock_addr *ctx)
{
	struct client *c = client_of(ctx);

	/* an IPv6 client has no place in an IPv4 socket's answer */
	if (c && !c->addr[0] && (__u32)c->addr[1] == 0xffff0000) {
		ctx->user_ip4 = c->addr[1] >> 32;
		ctx->user_port = c->port;
	}
	return 1;
}

SEC("cgroup/getpeername6")
int realserver_peer6(struct bpf_sock_addr *ctx)
{
	struct client *c = client_of(ctx);

	if (c) {
		ctx->user_ip6[0] = c->addr[0];
		ctx->user_ip6[1] = c->addr[0] >> 32;
		ctx->user_ip6[2] = c->addr[1];
		ctx->user_ip6[3] = c->addr[1] >> 32;
		ctx->user_port = c->port;
	}
	return 1;
}

/* Attached to lo, whose end is that of the namespace. Looks at nothing. */
SEC("tc")
int realserver_anchor_tc(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

/* The same before tcx. */
SEC("sk_lookup")
int realserver_anchor(struct bpf_sk_lookup *ctx)
{
	return 1; /* SK_PASS */
}

char _license[] SEC("license") = "Dual BSD/GPL";
