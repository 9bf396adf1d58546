/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* types.h - every struct and enum that C and Go share. C owns them; Go has them from BTF.
 *
 * Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d. Ports are as in the packet. Times are jiffies, cut to 32 bits.
 * Holes are written out: they would reach keys unset.
 */
#pragma once
#include <linux/types.h>

enum family { FAMILY_IPV4 = 4, FAMILY_IPV6 = 6 };

/* How packets reach a server; a connection keeps the one that it began with. As in Go's lvs.Forward. */
enum forward { FORWARD_ROUTE, FORWARD_TUNNEL, FORWARD_MASQ, FORWARD_LOCAL, FORWARD_FULLNAT };

/* As in Go's lvs.Schedulers. */
enum scheduler {
	SCHEDULER_RR,
	SCHEDULER_WRR,
	SCHEDULER_LC,
	SCHEDULER_WLC,
	SCHEDULER_LBLC,
	SCHEDULER_LBLCR,
	SCHEDULER_DH,
	SCHEDULER_SH,
	SCHEDULER_FO,
	SCHEDULER_OVF,
	SCHEDULER_MH,
	SCHEDULER_SED,
	SCHEDULER_NQ,
	SCHEDULER_TWOS,
	SCHEDULER_NONE, /* refuses every connection */
};

/* Why a packet that belongs to a service or to a connection of ours was not forwarded, or not as it should have been. */
enum reason {
	REASON_NONE,
	REASON_NO_SERVER, /* no usable server: refused with ICMP port unreachable */
	REASON_NO_SERVER_QUIET, /* the same beyond the limit of ICMP messages: dropped */
	REASON_TABLE_FULL, /* no room for a new connection: dropped */
	REASON_TABLE_BUSY, /* lost too many races for a place in the table: dropped */
	REASON_REMOVED, /* the connection's server was removed: dropped */
	REASON_RESET, /* the same, or the server was taken away from it: both ends are told by a RST */
	REASON_RESET_QUIET, /* the same beyond the limit of ICMP messages: dropped */
	REASON_TTL, /* TTL or hop limit used up: answered with ICMP time exceeded, or dropped */
	REASON_TOO_BIG, /* larger than the way on: answered with ICMP, or left to the kernel */
	REASON_NO_ROUTE, /* no route to the server or the client: left to the kernel */
	REASON_NO_CONN, /* for a service, but no connection and no SYN: left to the kernel */
	REASON_FRAGMENT, /* a later fragment, and its first one did not come before it: dropped */
	REASON_FRAGMENT_OVERLAP, /* a later fragment with bytes of the first one: dropped */
	REASON_MALFORMED, /* lengths that cannot be, for an address of ours: left to the kernel */
	REASON_NO_LOCAL_PORT, /* no local address and port free for FULLNAT: refused with ICMP port unreachable */
	REASON_TOA_NO_ROOM, /* no room for the client's address, which the server has not heard yet: forwarded without it */
	REASON_DEFENCE, /* begins a connection while drop_packet is on: dropped */
	REASON_UNSUPPORTED, /* a fragment of SCTP, AH or ESP: left to the kernel; or a server by FULLNAT that is the director itself: dropped */
	REASON_NO_CALL, /* for a service that goes by SIP calls, and it tells of none: dropped */
	REASONS,
};

/* A service by protocol, address and port, or by firewall mark. */
struct service_key {
	__u64 addr[2];
	__u32 mark;
	__u16 port;
	__u8 protocol;
	__u8 family;
};

struct counts {
	__u64 conns;
	__u64 in_packets;
	__u64 out_packets;
	__u64 in_bytes;
	__u64 out_bytes;
};

/* What becomes of connections whose server is removed. As in Go's lvs.OnDead; and as the kernel's expire_nodest_conn has it. */
enum on_dead { ON_DEAD_UNSET, ON_DEAD_KEEP, ON_DEAD_DROP, ON_DEAD_RESET, ON_DEAD_RESCHEDULE, ON_DEAD_EXPIRE };

/* A place that holds a service or a server. Removed ones stay while connections refer to them. */
enum slot_use { SLOT_FREE, SLOT_LIVE, SLOT_REMOVED };

struct service {
	struct service_key key;
	enum slot_use use;
	enum scheduler scheduler;
	__u32 scheduler_flags;
	__u32 persistent; /* seconds */
	__u32 netmask;
	__u32 engine; /* persistence engine: 0 none, 1 sip */
	__u8 one_packet;
	__u8 on_dead; /* enum on_dead */
	__u16 spare;
	__u32 first; /* the newest server's slot; 0 is none */
	__u64 added; /* the order of listing */
	struct counts carried; /* what the sum over its servers' counters lacks */
	__u32 places; /* of lblc and lblcr */
	__u32 locals; /* how many local addresses its own pool has; 0: it uses the shared one */
};

struct server {
	__u64 addr[2];
	__u16 port;
	__u8 forward; /* enum forward */
	__u8 use; /* enum slot_use */
	__u32 service; /* slot */
	__u32 upper;
	__u32 lower;
	__s32 weight;
	__u32 next; /* the next older server's slot of the same service; 0 is none */
	__u32 removed; /* seconds of the boot clock */
	__u8 tunnel_type;
	__u8 tunnel_checksum;
	__u16 tunnel_port;
	__s32 last_weight; /* the last weight that was not 0; 0 if there was none since the server was added */
	__u32 on_dead; /* enum on_dead: its service's, also when that is removed */
	struct counts zero; /* counters when they were last zeroed */
	__u64 tunnel_source[2]; /* the director's own address towards the server, for tunnels */
	__u64 spare2[2];
};

/* What a server carries now; changed by all CPUs. */
struct load {
	__s32 active;
	__s32 inactive;
	__s32 persistent;
	__u32 overloaded;
};

/* A server with NAT, by what its packets come from. */
struct real {
	__u32 server; /* slot */
	__u32 spare;
	__u64 source[2]; /* the director's own address towards it */
};

/* A server's place in its service's list, newest first. Seat 0 is the head of the list and tells of it. */
struct seat {
	__u32 server; /* head: how many seats follow */
	__s32 weight; /* head: the highest current weight of wrr */
	__u32 next; /* the next seat of the same group, 0 is none; head: the step of wrr's current weight */
	__u8 scheduler; /* head: enum scheduler, for it changes with what the head keeps for it */
	__u8 spare;
	__u16 table; /* head: how many entries the table has */
	__u64 cursor; /* head: last seat taken, and above it 32 bits of wrr's current weight; or which contest is the list's */
};

/* Of a long list whose scheduler goes by loads, the servers are in groups, by a hash of their slots, and the least loaded ones of two
 * groups each meet: match 1 is the last one, the winners of 2n and 2n + 1 meet in match n, and the last ones are between
 * groups. */
enum { GROUPS = 64, LEVELS = 6, SEAT_BITS = 16 };
struct match {
	__u64 load[2]; /* of those who meet, above SEAT_BITS of their seats; 0: nobody who takes connections */
	__s32 weight[2];
};
struct contest {
	__u64 list; /* whose it is, by its head's cursor: they are not swapped at the same moment */
	__u64 marks; /* of groups that are to be looked at */
	__u32 state; /* enum contest_state */
	__u32 levels; /* there are 1 << levels groups */
	__u32 winner; /* of the last match, a seat; 0 is none */
	__u16 first[GROUPS]; /* seat of each group; 0 is none */
	__u32 spare;
	struct match match[GROUPS]; /* from 1 */
};

/* Bits: the matches say something; a CPU is at them. */
enum contest_state { CONTEST_HELD = 1, CONTEST_BUSY = 2 };

/* The table of sh, dh or mh follows the seats, in rows of the same size: each entry is a seat. */
enum { TABLE_ROW = 8 };
struct table_row {
	__u16 seat[TABLE_ROW];
	__u64 spare;
};

/* A local address of FULLNAT: what a server sees in the client's place. Local 0 is the head of a pool, and has only a count. */
struct local {
	__u64 addr[2];
	__u16 first, last; /* ports, as numbers */
	__u32 count; /* head: how many locals follow */
};

/* Where a destination is served by lblc and lblcr. A set of many servers goes on in further parts. */
enum { PLACE_SERVERS = 8, PLACE_MEMBERS = 1 << 13 };
struct place_key {
	__u64 addr[2];
	__u32 service; /* slot */
	__u32 part;
};
struct place {
	__u64 used; /* jiffies */
	__u64 modified; /* jiffies; when a member last came or went */
	__u32 size; /* members */
	__u32 length; /* entries of all parts */
	__u32 server[PLACE_SERVERS]; /* slots, the oldest first; 0 was taken out */
};

/* A counter line: one for each server and CPU, alone in its cache line. */
struct counter {
	struct counts counts;
	__u64 spare[3];
};

/* What a server or service carries a second. */
struct estimate {
	struct counts seen; /* server: its counters when last looked at; service: what its servers have had since */
	struct counts rate; /* in fractions of these units */
	__u32 restart; /* Go sets it: the rates begin at zero */
	__u32 spare[3];
};
enum { RATE_UNIT = 1 << 10, RATE_BYTES_UNIT = 1 << 5 };

/* One entry of the connection table, in a cache line of its own. A line has two roles: as the *home* of some keys
 * it tells where their entries lie; as a *slot* it holds one entry, of its own home or of another near it. */
struct conn {
	__u64 hop; /* home: lines of this page that hold an entry of this home */
	__u32 own; /* slot: live, dead, home line, page distance, generation (conn.h) */
	__u32 life; /* slot: state and flags, changed by cmpxchg only */
	__u16 client_port;
	__u16 virtual_port;
	__u8 protocol;
	__u8 kind; /* enum conn_kind */
	__u8 overflow; /* home: page distances 1 to 3 at which entries of this home lie */
	__u8 spare;
	__u64 client[2];
	__u64 virtual[2];
	__u32 server; /* slot in servers */
	__u32 expires; /* jiffies */
};

/* A template remembers a client's server. A return entry is what the answers of a FULLNAT connection find: its client is a
 * local address and port, its virtual side the server; and its server is the connection's template, as a line. A template that does not serve
 * any more is lost: nobody finds it. */
enum conn_kind { CONN_PLAIN, CONN_TEMPLATE, CONN_RETURN, CONN_LOST };

/* conn.life: the state in the low bits, then flags, then the forwarding method. A template has its time-out there. */
enum conn_life {
	LIFE_STATE = 0x1f,
	LIFE_DISOWNED = 0x40, /* its server has been taken away from it */
	LIFE_ACTIVE = 0x100, /* counted in load.active, else in load.inactive */
	LIFE_ENDED = 0x200, /* unlinked: whoever still holds the entry changes nothing */
	LIFE_NO_OUTPUT = 0x400, /* no packet of the server has been seen */
	LIFE_SAME_PORT = 0x800, /* the server's port is that of the service, as the client sees it */
	LIFE_CONTROLLED = 0x1000, /* has a template, which its link names */
	LIFE_ASSURED = 0x2000, /* and has assured it */
	LIFE_ANSWERED = 0x4000, /* of FULLNAT: the server has answered a packet since it was told who the client is */
	LIFE_TOLD = 0x8000, /* of FULLNAT: the server has been told */
	LIFE_FORWARD_SHIFT = 16,
	LIFE_SECONDS_SHIFT = 10, /* of a template */
};

/* The state of a template: whether a connection has come through, as in Go's lvs.TemplateAssured; and whether the sweep has found
 * its time over. */
enum { TEMPLATE_ASSURED = 1, TEMPLATE_OVER = 0x20 };

/* The rules by which connections go from state to state. As Go's lvs.Machine. */
enum machine { MACHINE_TCP, MACHINE_TCP_SECURE, MACHINE_SCTP, MACHINE_STATELESS, MACHINES };

/* What TCP flags mean to a connection. As in Go's lvs.Event. */
enum tcp_event { TCP_EVENT_SYN, TCP_EVENT_FIN, TCP_EVENT_ACK, TCP_EVENT_RST, TCP_EVENT_NONE };

/* A SIP call: the client's network, and the Call-ID, zeros behind it. Its template has CALL_PORT for a client's port. */
enum { CALL_TEXT = 256, CALL_PORT = 1 };
struct call {
	__u64 client[2];
	__u32 length;
	__u32 spare;
	__u8 text[CALL_TEXT];
};

/* Some of what chunks of SCTP mean. */
enum sctp_event { SCTP_EVENT_INIT = 1, SCTP_EVENT_ABORT = 9 };

/* States of a TCP connection, as in kernel IPVS and Go's lvs.State. */
enum tcp_state {
	TCP_NONE,
	TCP_ESTABLISHED,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_SYNACK,
	TCP_STATES,
};

/* Some of those of SCTP. */
enum { SCTP_INIT1 = 1, SCTP_INIT = 2, SCTP_ESTABLISHED = 8, SCTP_CLOSED = 13 };

enum { LINES = 64, PAGES = 4, SEGMENT_LINES = LINES * PAGES };

struct segment {
	struct conn line[SEGMENT_LINES];
};

/* A word for each line, apart from the lines because few packets need it: a controlled connection's template, as a
 * line of the whole table; the number of connections that a template has; of FULLNAT, a connection's return entry, and
 * a return entry's connection. */
struct links {
	__u32 line[SEGMENT_LINES];
};

/* What a connection has carried, and, in seconds, when it began. */
struct account {
	__u64 in_packets, out_packets, in_bytes, out_bytes;
};
struct accounts {
	struct account line[SEGMENT_LINES];
	__u32 began[SEGMENT_LINES];
};

/* The fragments of a packet have these in common; IPv6 has no protocol. */
struct fragment_key {
	__u64 src[2], dst[2];
	__u32 id;
	__u8 protocol;
	__u8 family;
	__u8 spare[2];
};

/* What was decided about the first one; see struct decision. */
struct fragment {
	__u64 src[2], dst[2];
	__u32 server;
	__u32 began; /* jiffies */
	__u32 first; /* bytes that the first one has */
	__u32 seen; /* bytes that have come by */
	__u32 all; /* bytes of the packet, known from the last fragment; or 0 */
	__u8 outcome, reason, direction, forward;
};

/* What guards a segment; a spin lock cannot lie in memory that Go maps. */
struct guard {
	struct bpf_spin_lock lock;
	__u32 version; /* of insertions */
	__u64 taken[PAGES]; /* lines that are not free */
	__u64 spare[3];
};

/* Where packets to an address go next; one for each CPU, so that no reader sees half of it. */
struct route {
	__u64 dst[2];
	__u64 via[2]; /* the neighbour: a gateway, or dst itself */
	__u8 dst_mac[6];
	__u8 src_mac[6];
	__u32 ifindex;
	__u32 checked; /* when the routes were last asked */
	__u32 probed; /* when the neighbour was last left to the kernel to verify */
	__u16 mtu; /* 0 if it is not known */
	__u8 how; /* enum route_how */
	__u8 xdp; /* enum route_xdp */
	__u8 probe; /* a packet is left for the kernel to send to the program that comes next */
	__u8 spare[3];
};

enum route_how { ROUTE_NONE, ROUTE_LINK, ROUTE_LOCAL };

/* What XDP can do with the interface: nothing, redirect to it, and also XDP_TX. */
enum route_xdp { ROUTE_XDP_NONE, ROUTE_XDP_REDIRECT, ROUTE_XDP_TX };

enum attachment { ATTACH_AUTO, ATTACH_NONE, ATTACH_TCX, ATTACH_CLSACT, ATTACH_XDP_NATIVE, ATTACH_XDP_GENERIC };

/* An interface that is attached to, by its index. */
struct device {
	enum attachment tc;
	enum attachment xdp;
	__u32 xdp_tx; /* XDP_TX works there; else a redirect to itself */
	__u32 made_clsact; /* the qdisc is ours */
	enum attachment out; /* tc egress */
};

/* What was asked for an interface by its name, which is what it has in common with the one that comes after it. */
struct interface_name {
	__u8 text[16];
};
struct asked {
	enum attachment tc; /* ATTACH_TCX: whatever the kernel has; ATTACH_NONE: it is to be left alone */
	enum attachment xdp;
	__u32 ifindex; /* that it has, or had when it was there last */
};

/* Of conn_reuse_mode: as Go's lvs.ReuseEnding. */
enum { REUSE_OUTPUT_UNSEEN = 2, REUSE_ENDING = 4 };

/* The values of a defence: off; by itself while there is little room, which it is not or is just now; always on. */
enum defence { DEFENCE_OFF, DEFENCE_READY, DEFENCE_ON, DEFENCE_ALWAYS };

/* What Go sets while programs run. */
struct setting {
	__u32 timeout[MACHINES * 16]; /* jiffies, by state */
	__u32 icmp_burst; /* ICMP messages at once, for each CPU */
	__u32 icmp_every; /* jiffies for one more */
	__u32 sweep_every; /* nanoseconds between two slices of the sweep */
	__u32 sweep_slice; /* segments a slice */
	__u32 now; /* jiffies, in tests only */
	__u32 wraps; /* how often these have overflowed */
	__u32 lo_before; /* what was set for lo before us: four bits each, the value and one, or 0 if it was left as it was */
	__u32 random; /* in tests only: the last number drawn */
	__u32 lblc_expiration; /* seconds */
	__u32 lblcr_expiration; /* seconds */
	/* as in kernel IPVS */
	__u32 conn_reuse_mode; /* bits: those of the kernel, and REUSE_ENDING */
	__u32 expire_nodest_conn;
	__u32 expire_quiescent_template;
	__u32 sloppy_tcp;
	__u32 sloppy_sctp;
	__u32 pmtu_disc;
	__u32 am_droprate;
	__u32 amemthresh; /* pages */
	__u32 drop_entry; /* enum defence, as the next two */
	__u32 drop_packet;
	__u32 secure_tcp;
	__u32 on_dead; /* enum on_dead, of services that have none */
	/* what the defences make of it */
	__u32 drop_every; /* one of so many packets that begin a connection is dropped; 0 is none */
	__u32 little_room;
	__u32 shed_after; /* jiffies that a handshake has before drop_entry ends it */
	__u32 calls; /* there are services that go by SIP calls */
	/* the firewall's marks */
	__u32 marks; /* bits: new connections of IPv4 and IPv6 wait until the firewall has seen them */
	__u32 device; /* the interface whose egress they come by; 0 is none; NO_DEVICE_YET while it is being made */
	__u32 local_moved; /* bits: the rule about local addresses was moved behind ours, for IPv4 and IPv6 */
	/* as in kernel IPVS */
	__u32 nat_icmp_send;
	__u32 schedule_icmp;
};

/* Asks that an unmarked packet be brought to our device, for an address service to decide about it. */
enum steering { MARK_ASK = 1 << 30, NO_DEVICE_YET = -1 };
