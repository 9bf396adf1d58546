/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* siphash.h - a round of SipHash over the state a, b, c, d: for mh, which needs the kernel's hash, and for Call-IDs, which strangers
 * choose. */
#pragma once

#define ROTATE(x, n) ((x) << (n) | (x) >> (64 - (n)))
#define SIP_ROUND                                                                                                      \
	do {                                                                                                           \
		a += b;                                                                                                \
		b = ROTATE(b, 13) ^ a;                                                                                 \
		a = ROTATE(a, 32);                                                                                     \
		c += d;                                                                                                \
		d = ROTATE(d, 16) ^ c;                                                                                 \
		a += d;                                                                                                \
		d = ROTATE(d, 21) ^ a;                                                                                 \
		c += b;                                                                                                \
		b = ROTATE(b, 17) ^ c;                                                                                 \
		c = ROTATE(c, 32);                                                                                     \
	} while (0)
