/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* flow.h - what is read from a packet. IPv4 addresses are carried as ::ffff:a.b.c.d, so that only parsing and rewriting know
 * the family. */
#pragma once
#include <linux/in.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include "sctp.h"

enum parsed {
	PARSED_FLOW, /* a TCP or UDP packet, a fragment of one, or SCTP, AH or ESP; or an ICMP error about one of these */
	PARSED_ICMP, /* nothing yet: it is for the program for ICMP */
	PARSED_FRAGMENT, /* nothing yet: it is for the program for fragments */
	PARSED_MALFORMED, /* addresses only */
	PARSED_UNSUPPORTED, /* addresses only: a fragment of SCTP, AH or ESP */
	PARSED_OTHER, /* nothing */
};

/* The first fragment of a packet has its ports, the later ones have none. */
enum fragment_kind { FRAGMENT_NONE, FRAGMENT_FIRST, FRAGMENT_LATER };

/* Addresses and ports of a packet. Those of an ICMP error are of the packet that it quotes, turned round: it goes to whom
 * that came from. */
struct flow {
	__u64 src[2];
	__u64 dst[2];
	__u16 src_port;
	__u16 dst_port;
	__u8 protocol;
	__u8 family;
	__u8 event; /* what it means to its connection, by the protocol's rules */
	__u8 ttl;
	__u16 network; /* offset of the IP header; of an ICMP error about a tunnel, of the one inside that it quotes (relay.h) */
	__u16 transport; /* offset of the TCP or UDP header */
	__u16 quoted; /* of an ICMP error: offset of the IP header that it quotes, whose transport header transport is; else 0 */
	__u32 length; /* IP bytes */
	__u8 fragment; /* enum fragment_kind; of one: */
	bool more; /* it is not the last */
	__u32 id, from, to; /* the packet's identification; the bytes of it that this fragment has */
	bool opens; /* it is to begin a connection, by what it says; packets without state say nothing */
	bool may_fragment;
	bool summed; /* a checksum covers all that follows the IP header; so it is known what that adds up to */
	__u8 tos; /* or traffic class */
	bool early; /* tc will see the packet, too, if it is passed: what can be decided only once is left to it */
	bool follows; /* AH or ESP, which follow the connection of their ISAKMP: protocol and ports are that one's */
	bool leaves; /* on its way out; known before it is parsed */
	bool routed; /* the firewall has had its turn, and so has the hop count */
	bool call; /* a datagram with a Call-ID, which call.h keeps */
	__u32 mark; /* the firewall's */
	__u32 ours; /* what it has to do with addresses of ours: bits (known.h); 0 if it is not known that it has */
};

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

/* How far headers may reach: Ethernet, an IPv6 header with a chain of extensions, TCP's fixed part. */
enum { HEADERS = 192, HEADERS_MASK = 255, IPV6_EXTENSIONS = 6, HEADERS_USUAL = 14 + 40 + 20 };

/* What is read of an ICMP error: its head, the headers of a tunnel of ours, the longest IP header, TCP's fixed part. */
enum { RELATED = 8 + 40 + 12 + 60 + 20 };

#define V4_MAPPED(addr) (0xffff0000ULL | (__u64)(addr) << 32)

struct ipv6_fragment {
	__u8 next;
	__u8 reserved;
	__u16 offset; /* in bytes; the last bit says that more follow */
	__u32 id;
};

/* What tunnels have behind the outer IP header. */
struct gre_head {
	__u16 flags;
	__u16 protocol;
};

/* With the flag for it. */
struct gre_checksum {
	__u16 check, spare;
};

struct gue_head {
	__u16 src_port, dst_port, length, check; /* UDP */
	__u8 control, protocol; /* GUE version 0 without options */
	__u16 flags;
};

/* Source ports of GUE begin here. */
enum { GUE_PORTS = 0xc000 };
