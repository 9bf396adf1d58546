/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* call.h - persistence by SIP call (--pe sip): a client's packets of one call go to one server, whatever ports they come from.
 *
 * The Call-ID is found in a datagram as the kernel's SIP helper finds it. Templates of calls have CALL_PORT for a client's port,
 * and for a client a keyed hash, of 128 bits, over the client's network and the Call-ID; what it stands for lies
 * beside them, by line, for listings.
 */
#pragma once
#include "conn.h"
#include "flow.h"
#include "siphash.h"

enum { MESSAGE = 2048, CALL_TRIES = 8 };

/* What a datagram says, as far as it is looked at, and the Call-ID in it. One for each CPU. */
struct message {
	struct call call;
	__u8 text[MESSAGE];
};
MAP(messages, PERCPU_ARRAY, 1, 0, __u32, struct message);

/* How far a message is read. */
struct reading {
	struct message *message;
	__u32 length; /* of the message */
	__u32 at;
	__u32 found; /* the length of what was looked for */
};

/* A byte of the message; 0 is behind its end. */
static __always_inline __u8 byte_at(struct reading *r, __u64 i)
{
	if (i >= r->length)
		return 0;
	BOUND(i, MESSAGE - 1);
	return r->message->text[i];
}

static __always_inline bool ends_line(__u8 c)
{
	return c == '\r' || c == '\n';
}

static __always_inline bool is_blank(__u8 c)
{
	return c == ' ' || c == '\t';
}

static __always_inline __u8 lowered(__u8 c)
{
	return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
}

/* A letter, also of Latin-1, as the kernel has them. */
static __always_inline bool is_letter(__u8 c)
{
	__u8 l = lowered(c);

	return (l >= 'a' && l <= 'z') || (c >= 0xc0 && c != 0xd7 && c != 0xf7);
}

/* What a Call-ID is made of: letters, and of ASCII digits and !"%'()*+-./:<>?[\]_`{}~ */
static __always_inline bool is_word(__u8 c)
{
	const __u64 low = 0xd7ffefa600000000ULL, high = 0x68000001b8000000ULL;

	return is_letter(c) || (c < 128 && ((c < 64 ? low >> c : high >> (c - 64)) & 1));
}

static long blank_step(__u32 n, struct reading *r)
{
	if (!is_blank(byte_at(r, r->at)))
		return 1;
	r->at++;
	return 0;
}

static long word_step(__u32 n, struct reading *r)
{
	if (!is_word(byte_at(r, r->at)))
		return 1;
	r->at++;
	return 0;
}

/* Past the end of a line. */
static __always_inline void skip_line_end(struct reading *r)
{
	__u8 c = byte_at(r, r->at++);

	if (c == '\r' && byte_at(r, r->at) == '\n')
		r->at++;
}

/* Past blanks, which may go on in the next line: whether anything follows. */
static __always_inline bool skip_blanks(struct reading *r)
{
	bpf_loop(MESSAGE, blank_step, r, 0);
	if (ends_line(byte_at(r, r->at))) {
		skip_line_end(r);
		if (!is_blank(byte_at(r, r->at)))
			return false;
		bpf_loop(MESSAGE, blank_step, r, 0);
	}
	return r->at < r->length;
}

static __always_inline __u32 skip_word(struct reading *r)
{
	__u32 from = r->at;

	bpf_loop(MESSAGE, word_step, r, 0);
	return r->at - from;
}

/* The length of the header's name if a line begins with it here: Call-ID, or i for short. */
static __always_inline __u32 header_name(struct reading *r)
{
	static const char name[] = { 'c', 'a', 'l', 'l', '-', 'i', 'd' };
	bool whole = true;

#pragma unroll
	for (__u32 i = 0; i < sizeof(name); i++)
		whole = whole && lowered(byte_at(r, r->at + i)) == name[i];
	if (whole)
		return sizeof(name);
	return lowered(byte_at(r, r->at)) == 'i' && !is_letter(byte_at(r, r->at + 1));
}

/* To the end of the next such name. */
static long header_step(__u32 n, struct reading *r)
{
	if (r->at >= r->length)
		return 1;
	if (!ends_line(byte_at(r, r->at))) {
		r->at++;
		return 0;
	}
	skip_line_end(r);
	__u32 length = header_name(r);
	if (!length)
		return 0;
	r->at += length;
	r->found = 1; /* found */
	return 1;
}

/* Goes on to the next header of the name, and to the text in it. It ends the search with the length of that, or 0. */
static long call_try(__u32 n, struct reading *r)
{
	r->found = 0;
	bpf_loop(MESSAGE, header_step, r, 0);
	bool found = r->found;
	r->found = 0;
	if (!found || !skip_blanks(r) || byte_at(r, r->at) != ':')
		return 1;
	r->at++;
	if (!skip_blanks(r))
		return 1;
	__u32 from = r->at;
	if (!skip_word(r))
		return 0;
	if (byte_at(r, r->at) == '@') {
		r->at++;
		if (!skip_word(r))
			return 0;
	}
	__u32 length = r->at - from;
	if (length < CALL_TEXT && ends_line(byte_at(r, r->at))) {
		r->found = length;
		r->at = from;
	}
	return 1;
}

static long copy_step(__u32 n, struct reading *r)
{
	__u64 i = n;

	if (n >= r->found)
		return 1;
	BOUND(i, CALL_TEXT - 1);
	r->message->call.text[i] = byte_at(r, r->at + n);
	return 0;
}

/* Whether this CPU's message, of so many bytes, has a Call-ID, which is then in call. */
__noinline int call_find(__u32 length)
{
	__u32 zero = 0;
	struct reading r = { .message = bpf_map_lookup_elem(&messages, &zero), .length = length, .at = unknown_zero() };

	if (!r.message)
		return 0;
	bpf_loop(CALL_TRIES, call_try, &r, 0);
	r.message->call.length = r.found;
	if (!r.found)
		return 0;
	__builtin_memset(r.message->call.text, 0, CALL_TEXT);
	bpf_loop(CALL_TEXT, copy_step, &r, 0);
	return 1;
}

/* Whether a packet may have a Call-ID that is of use. */
static __always_inline bool call_wanted(struct flow *f)
{
	return settings.calls && f->protocol == IPPROTO_UDP && f->fragment != FRAGMENT_LATER;
}

/* Looks for the Call-ID of a datagram. */
static __always_inline bool call_read(struct packet *p, struct flow *f)
{
	__u32 zero = 0, at = f->transport + sizeof(struct udphdr), end = f->network + f->length;
	struct message *m = bpf_map_lookup_elem(&messages, &zero);

	if (!m || at >= end)
		return false;
	__u64 last = (end - at < MESSAGE ? end - at : MESSAGE) - 1;
	BOUND(last, MESSAGE - 1);
	return !packet_load(p, at, m->text, last + 1) && call_find(last + 1);
}

/* Puts the hash of a client's network and the Call-ID of the message that is being looked at in place of the network. */
__noinline int call_key(struct conn_key *k)
{
	__u32 zero = 0;
	struct message *m = bpf_map_lookup_elem(&messages, &zero);

	if (!k || !m)
		return 0;
	m->call.client[0] = k->client[0];
	m->call.client[1] = k->client[1];
	const __u64 *word = (const __u64 *)&m->call;
	__u64 key0 = seed[0] | (__u64)seed[1] << 32, key1 = seed[2] | (__u64)seed[3] << 32;
	__u64 a = key0 ^ 0x736f6d6570736575ULL, b = key1 ^ 0x646f72616e646f6dULL ^ 0xee;
	__u64 c = key0 ^ 0x6c7967656e657261ULL, d = key1 ^ 0x7465646279746573ULL;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < sizeof(struct call) / 8; i++) {
		d ^= word[i];
		SIP_ROUND;
		SIP_ROUND;
		a ^= word[i];
	}
	c ^= 0xee;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	k->client[0] = a ^ b ^ c ^ d;
	b ^= 0xdd;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	k->client[1] = a ^ b ^ c ^ d;
	return 0;
}

/* Keeps the call of the message that is being looked at with its template, by the line of the whole table. */
static __always_inline void call_keep(__u32 line)
{
	__u32 zero = 0;
	struct message *m = bpf_map_lookup_elem(&messages, &zero);

	if (m)
		bpf_map_update_elem(&calls, &line, &m->call, BPF_ANY);
}

static __always_inline void call_forget(__u32 line)
{
	bpf_map_delete_elem(&calls, &line);
}
