/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* sctp.h - what SCTP has of its own: chunks, and a CRC32c over all of the packet. */
#pragma once
#include "hook.h"

/* The header of a packet, with that of its first chunk. */
struct sctp {
	__u16 src_port, dst_port;
	__u32 tag;
	__u32 crc;
	__u8 chunk, flags;
	__u16 length; /* of the chunk */
};

enum { SCTP_HEAD = 12, SCTP_ABORT = 6, SCTP_COOKIE_ECHO = 10, SCTP_COOKIE_ACK = 11 };

/* A product of polynomials over GF(2) modulo that of CRC32c, all with their bits in reverse. Global, as the next, so that the
 * verifier goes through it once. */
__noinline __u32 crc_product(__u32 a, __u32 b)
{
	__u32 product = 0;

#pragma clang loop unroll(disable)
	for (int n = 0; n < 32; n++) {
		product ^= b & -(a >> 31);
		a <<= 1;
		b = (b >> 1) ^ (0x82f63b78 & -(b & 1));
	}
	return product;
}

/* How the CRC of a packet of so many bytes changes with its first four: a CRC is linear, so nobody has to read the packet, and a wrong
 * one stays wrong. */
__noinline __u32 crc_change(__u32 change, __u32 bytes)
{
#pragma clang loop unroll(disable)
	for (__u64 n = 0; n < 16; n++) {
		if (bytes >> n & 1)
			change = crc_product(change, crc_shift[n]);
	}
	return change;
}
