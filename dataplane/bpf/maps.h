/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* maps.h - every map, and every constant that Go sets before the programs are loaded.
 *
 * Sizes of 1 are placeholders: Go sets the real ones. What Go reads often is mmapable: it reads without a system call.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "types.h"

#define MAP(NAME, TYPE, SIZE, FLAGS, KEY, VALUE)                                                                       \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_##TYPE);                                                                     \
		__uint(max_entries, SIZE);                                                                             \
		__uint(map_flags, FLAGS);                                                                              \
		__type(key, KEY);                                                                                      \
		__type(value, VALUE);                                                                                  \
	} NAME SEC(".maps")

/* The configuration. */
MAP(service_slots, HASH, 1, BPF_F_NO_PREALLOC, struct service_key, __u32); /* service -> slot */
MAP(services, ARRAY, 1, BPF_F_MMAPABLE, __u32, struct service);
MAP(servers, ARRAY, 1, BPF_F_MMAPABLE, __u32, struct server);

/* The servers with NAT, as services, of which they have the address and port; kept where anybody asks whose a packet is that no connection
 * has: --pe sip, nat_icmp_send. */
MAP(reals, HASH, 1, BPF_F_NO_PREALLOC, struct service_key, struct real);

struct seats {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(key_size, sizeof(__u32)); /* __type would leave struct seat a mere forward declaration */
	__uint(value_size, sizeof(struct seat));
};
/* A service's slot -> its list of servers; swapped whole when it changes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct seats);
} lists SEC(".maps");

struct contest_of_list {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32)); /* as above */
	__uint(value_size, sizeof(struct contest));
};
/* A service's slot -> the contest between the servers of its list, where there is one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct contest_of_list);
} contests SEC(".maps");

struct locals {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct local));
};
/* The local addresses of FULLNAT: those that all services share, of IPv4 and of IPv6, then those of each service's own;
 * swapped whole as well. */
enum { POOL_SHARED4, POOL_SHARED6, POOL_OF_SERVICE };
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct locals);
} pools SEC(".maps");

/* What lblc and lblcr remember: beyond so many places of a service those that are idle for so many seconds go. */
enum { PLACES = 1 << 16, PLACES_A_SERVICE = 16 << 10, PLACE_IDLE = 360 };
MAP(places, HASH, PLACES, BPF_F_NO_PREALLOC, struct place_key, struct place);

/* A byte for every address, by a hash, with bits for what of ours it may be: a VIP, a server whose answers are rewritten, a local
 * address of FULLNAT. Lets packets for nothing of ours pass before the connection table is asked. */
enum { OURS_SHIFT = 15, OURS = 1 << OURS_SHIFT };
enum ours_kind { OURS_VIRTUAL = 1, OURS_SERVER = 2, OURS_LOCAL = 4 };
struct address_kinds {
	__u32 four[OURS / 4]; /* bytes: bits are set four at a time, which is what processors can do */
};
MAP(ours, ARRAY, 1, BPF_F_MMAPABLE, __u32, struct address_kinds);

/* The connection table. */
MAP(conns, ARRAY, 1, BPF_F_MMAPABLE, __u32, struct segment);
MAP(guards, ARRAY, 1, 0, __u32, struct guard);
MAP(links, ARRAY, 1, BPF_F_MMAPABLE, __u32, struct links);

/* What connections have carried, as large as the table only if that is asked for. */
MAP(accounts, ARRAY, 1, BPF_F_MMAPABLE, __u32, struct accounts);

/* What a template of a SIP call stands for, by its line of the whole table. A template beyond so many is one all the same, only its
 * Call-ID is not told. */
enum { CALLS = 1 << 16 };
MAP(calls, HASH, CALLS, BPF_F_NO_PREALLOC, __u32, struct call);

/* What packets change. */
MAP(loads, ARRAY, 1, BPF_F_MMAPABLE, __u32, struct load);
MAP(counters, ARRAY, 1, BPF_F_MMAPABLE, __u32, struct counter); /* server's slot x cpus + CPU */
MAP(server_estimates, ARRAY, 1, BPF_F_MMAPABLE, __u32, struct estimate);
MAP(service_estimates, ARRAY, 1, BPF_F_MMAPABLE, __u32, struct estimate);
MAP(reasons, PERCPU_ARRAY, REASONS, 0, enum reason, __u64);
MAP(routes, ARRAY, 1, 0, __u32, struct route); /* CPU x ROUTES + hash of the address */
enum { ROUTES = 1024 };

MAP(devices, HASH, 4096, BPF_F_NO_PREALLOC, __u32, struct device); /* interface index -> what is attached */

MAP(asked, HASH, 4096, BPF_F_NO_PREALLOC, struct interface_name, struct asked); /* for Go alone */

/* An interface's MAC address, by its index, for XDP. */
enum { MACS = 1 << 16 };
struct mac {
	__u32 first;
	__u16 last;
	__u16 spare;
};
MAP(macs, ARRAY, MACS, 0, __u32, struct mac);

struct sweeper {
	struct bpf_timer timer;
	__u32 next; /* the segment that comes next */
	__u32 rounds; /* how often the whole table was swept */
	__u64 ended; /* entries */
	__u64 shed; /* those of them that drop_entry has ended before their time */
	__u64 places_swept; /* jiffies */
};
MAP(sweepers, ARRAY, 1, 0, __u32, struct sweeper);

struct estimator {
	struct bpf_timer timer;
	__u32 next; /* the slot that comes next: servers', then services' */
	__s32 left; /* counter lines that this slice may look at */
	__u64 due; /* when this round began, or the next one begins */
	__u32 line; /* a server's first, and the sum over its lines */
	__u32 spare;
	struct counts sum;
};
MAP(estimators, ARRAY, 1, 0, __u32, struct estimator);

#define CLOCK_MONOTONIC 1 /* of timers */

struct icmp_budget {
	__u32 left;
	__u32 since;
};
MAP(icmp_budgets, PERCPU_ARRAY, 1, 0, __u32, struct icmp_budget);

/* The programs for packets that the first ones do not forward; see enum packet_kind. */
enum rest { REST_USUAL, REST_RELATED, REST_FRAGMENT, REST_RESET, RESTS };
MAP(rest_tc, PROG_ARRAY, RESTS, 0, enum rest, __u32);
MAP(rest_xdp, PROG_ARRAY, 1, 0, enum rest, __u32);

/* Packets that are on their way in fragments. */
enum { LEADS = 16 << 10 };
MAP(leads, LRU_HASH, LEADS, 0, struct fragment_key, struct fragment);

/* Constants. */
const volatile __u32 segments = 1; /* of the connection table */
const volatile __u32 servers_size = 1, services_size = 1; /* slots */
const volatile __u32 seed[6] = {}; /* of its hash */
const volatile __u32 cpus = 1; /* that the kernel may ever have */
const volatile __u32 loopback = 1; /* the index of lo: routes are asked as if packets came from there */
const volatile __u32 hz = 250; /* jiffies a second */
const volatile bool test_clock = false;
const volatile bool accounting = false; /* of each connection */
const volatile bool dry = false; /* changes nothing that others see (dry.h) */

/* Go sets these while programs run. */
struct setting settings SEC(".data.settings");

enum direction { DIRECTION_INPUT, DIRECTION_OUTPUT, DIRECTION_INPUT_ONLY, DIRECTIONS };
/* How packets move connections on, as Go's lvs.Machine has it: the state that follows, as conn.life has it, with LIFE_ACTIVE if it
 * counts as active. */
enum { NEXT = MACHINES * 1024 };
const volatile __u16 next_life[NEXT] = {}; /* machine x 1024 + direction x 256 + event x 16 + state */
const volatile __u8 sctp_events[16] = {}; /* by the type of a chunk; all others are 0 */
const volatile __u32 crc_shift[16] = {}; /* of CRC32c: what 1 << n bytes of zeros make of a change */

/* A mask that clang does not see through. It would prove it needless, and leave the verifier without a bound. */
#define BOUND(x, mask) asm volatile("%0 &= %1" : "+r"(x) : "i"(mask))

/* Has clang look at a value anew. It would ask what the value follows from instead, which the verifier does not remember. */
#define ANEW(x) asm volatile("" : "+r"(x))

/* Zero, of which the verifier does not know that. That of Linux 6.1 goes through a loop's callback once: what it knows of the callback's context
 * then it takes for what is always so, and leaves out what follows from nothing but later rounds. So whatever they change and a branch asks
 * for begins with this, unless it lies in a map. */
static __always_inline __u32 unknown_zero(void)
{
	return *(volatile __u32 *)&settings.pmtu_disc >> 1;
}

static __always_inline __u32 now(void)
{
	return test_clock ? settings.now : (__u32)bpf_jiffies64();
}

static __always_inline __u64 now64(void)
{
	return test_clock ? (__u64)settings.wraps << 32 | settings.now : bpf_jiffies64();
}

/* A random number; in tests, where the clock is set by hand, one of a row that is always the same. */
static __always_inline __u32 chance(void)
{
	if (!test_clock || dry)
		return bpf_get_prandom_u32();
	settings.random = settings.random * 1664525 + 1013904223;
	return settings.random;
}

static __always_inline void count_reason(enum reason why)
{
	__u64 *n = bpf_map_lookup_elem(&reasons, &why);
	if (n)
		(*n)++;
}
