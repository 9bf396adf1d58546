/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* types.h - what C and Go share. Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d; ports are as in the packet. */
#pragma once
#include <linux/types.h>

/* What became of a packet that looks like one from a director's tunnel. */
enum decap {
	DECAP_DONE, /* taken out of the tunnel, and on its way to a virtual address */
	DECAP_MALFORMED, /* lengths that cannot be: left to the kernel */
	DECAP_FRAGMENT, /* a fragment of a tunnelled packet: left to the kernel */
	DECAP_UNSUPPORTED, /* GRE with key or sequence number, GUE with options or of another kind: left to the kernel */
	DECAP_FOREIGN, /* the tunnel ends at another host: left to the kernel */
	DECAP_CONGESTED, /* marked by a congested router, and its sender does not understand that: dropped */
	DECAP_FAILED, /* the kernel did not let the outer headers be taken off: dropped */
	DECAPS,
};

/* What became of a connection whose first packets carry a client's address. */
enum toa {
	TOA_TAKEN, /* the client's address was noted */
	TOA_UNTRUSTED, /* it came from somebody who is no director: not looked at */
	TOA_MALFORMED, /* an option of the right kind and a wrong length: not looked at */
	TOAS,
};

struct address {
	__u64 word[2];
};

/* A range of addresses; the first bits count. */
struct prefix {
	__u32 bits;
	__u32 addr[4];
};

/* Who is at the other end of a connection through a director. */
struct client {
	__u64 addr[2];
	__u16 port;
	__u8 spare[6];
};
