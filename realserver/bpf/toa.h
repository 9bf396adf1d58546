/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* toa.h - who the client of a connection through FULLNAT is. The director says so in a TCP option of the first packets;
 * it is kept with the socket, and is what accept and getpeername answer from then on.
 */
#pragma once
#include "decap.h"

/* Where directors send from. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u8);
} directors SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct client);
} clients SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TOAS);
	__type(key, __u32);
	__type(value, __u64);
} toas SEC(".maps");

/* The network namespace that this is for: the programs see those of all others, too. */
volatile const __u64 namespace_cookie;

static __noinline void count_toa(enum toa what)
{
	__u32 key = what;
	__u64 *n = bpf_map_lookup_elem(&toas, &key);

	if (n)
		*n += 1;
}

enum { TCP_HEADER = 20, TCP_OPTIONS = 40, OPTION_END = 0, OPTION_NOP = 1, OPTION_TOA = 254, TOA_V4 = 8, TOA_V6 = 20 };

/* Fast open and SMC have this kind, too, and say so by 16 or 32 bits that no port and address of a client is likely to
 * be: their lengths are others, save for SMC's, 6. */

static __always_inline bool from_director(struct bpf_sock_ops *ops)
{
	struct prefix peer = { .bits = 128 };

	if (ops->family == AF_INET) {
		peer.addr[2] = bpf_htonl(0xffff);
		peer.addr[3] = ops->remote_ip4;
		/* keeps the compiler from sharing a read of the context with the other branch, which the verifier refuses */
		asm volatile("" ::: "memory");
	} else {
		peer.addr[0] = ops->remote_ip6[0];
		peer.addr[1] = ops->remote_ip6[1];
		peer.addr[2] = ops->remote_ip6[2];
		peer.addr[3] = ops->remote_ip6[3];
	}
	return bpf_map_lookup_elem(&directors, &peer);
}

/* Looks for the option in the TCP header of the packet at hand. */
static __always_inline bool find_client(struct bpf_sock_ops *ops, struct client *c)
{
	__u8 *tcp = ops->skb_data, *end = ops->skb_data_end;

	if (tcp + TCP_HEADER > end)
		return false;
	__u32 header = (tcp[12] >> 4) * 4, at = TCP_HEADER;
#pragma clang loop unroll(disable)
	for (int i = 0; i < TCP_OPTIONS; i++) {
		if (at >= TCP_HEADER + TCP_OPTIONS || at + 2 > header)
			return false;
		__u8 *o = tcp + at;
		if (o + 2 > end)
			return false;
		if (o[0] == OPTION_END)
			return false;
		if (o[0] == OPTION_NOP) {
			at++;
			continue;
		}
		__u32 length = o[1];
		if (length < 2 || at + length > header)
			return false;
		if (o[0] != OPTION_TOA) {
			at += length;
			continue;
		}
		if (length == TOA_V4 && o + TOA_V4 <= end) {
			__u32 addr;

			__builtin_memcpy(&c->port, o + 2, 2);
			__builtin_memcpy(&addr, o + 4, 4);
			c->addr[1] = V4_MAPPED(addr);
			return true;
		}
		if (length == TOA_V6 && o + TOA_V6 <= end) {
			__builtin_memcpy(&c->port, o + 2, 2);
			__builtin_memcpy(c->addr, o + 4, 16);
			return true;
		}
		count_toa(TOA_MALFORMED);
		return false;
	}
	return false;
}

static __always_inline void learn_client(struct bpf_sock_ops *ops)
{
	struct client c = {}, *kept;
	struct bpf_sock *sk = ops->sk;
	__u32 flags = ops->bpf_sock_ops_cb_flags;

	if (!sk || bpf_get_netns_cookie(ops) != namespace_cookie)
		return;
	if (!find_client(ops, &c)) {
		/* the handshake's last packet may have had no room for it; those that follow are shown if they have an option
		 * that the kernel does not know */
		if (!(flags & BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG))
			bpf_sock_ops_cb_flags_set(ops, flags | BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG);
		return;
	}
	if (flags & BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG)
		bpf_sock_ops_cb_flags_set(ops, flags & ~BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG);
	if (!from_director(ops)) {
		count_toa(TOA_UNTRUSTED);
		return;
	}
	kept = bpf_sk_storage_get(&clients, sk, &c, BPF_SK_STORAGE_GET_F_CREATE);
	if (kept)
		count_toa(TOA_TAKEN);
}

static __always_inline struct client *client_of(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk ? bpf_sk_storage_get(&clients, sk, NULL, 0) : NULL;
}
