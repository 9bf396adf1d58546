// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"slices"

	"github.com/gopacket/gopacket/layers"

	"lvs"
)

const (
	hopByHop, fragmentHeader, destinationOptions = 0, 44, 60
)

var (
	syn4, syn6   = tcp4.in("S"), tcp6.in("S")
	dgram4       = udp4.in("")
	dgram6       = udp6.in("")
	established4 = []packet{tcp4.in("S"), tcp4.out("SA"), tcp4.in("A")}
	established6 = []packet{tcp6.in("S"), tcp6.out("SA"), tcp6.in("A")}
	finished     = []packet{turns.in("S"), turns.out("SA"), turns.in("A"), turns.in("FA"), turns.out("FA"), turns.in("A")}
	reset        = []packet{turns.in("S"), turns.out("RA")}
)

// with gives a packet with something particular about it.
func (p packet) with(change func(*packet)) packet {
	change(&p)
	return p
}

func ttl1(p *packet)       { p.ttl = 1 }
func ttl2(p *packet)       { p.ttl = 2 }
func unchecked(p *packet)  { p.noChecksum = true }
func fragmentOK(p *packet) { p.fragmentOK = true }
func padded(p *packet)     { p.tail = 11 }
func empty(p *packet)      { p.payload = nil }
func odd(p *packet)        { p.payload = []byte("1234567") }
func full(p *packet)       { p.options = 40 }
func few(p *packet)        { p.options = 8 }
func large(p *packet)      { p.payload = slices.Repeat([]byte("0123456789"), 145) }
func huge(p *packet)       { p.payload = slices.Repeat([]byte("0123456789"), 160) }

func extensions(kinds ...byte) func(*packet) {
	return func(p *packet) { p.extensions = kinds }
}

// set is damage: a byte of the frame is changed.
func set(at int, value byte) func([]byte) []byte {
	return func(b []byte) []byte { b[at] = value; return b }
}

// set16 changes two bytes.
func set16(at int, value uint16) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint16(b[at:], value); return b }
}

// tagged puts a VLAN tag into the frame.
func tagged(b []byte) []byte { return slices.Insert(b, 12, 0x81, 0, 0, 5) }

func otherwise(b []byte) []byte { b[12], b[13] = 0x88, 0xb5; return b }

// without is a change that removes the server of a path.
func without(p path) func(*lvs.Table) error {
	return func(t *lvs.Table) error { return t.DeleteServer(p.id(), realServer(p.server)) }
}

// dropsThenWithout removes a server whose connections are to be dropped.
func dropsThenWithout(p path) func(*lvs.Table) error {
	return func(t *lvs.Table) error {
		c := t.Service(p.id()).ServiceConfig
		c.OnDead = lvs.OnDeadDrop
		if err := t.EditService(p.id(), c); err != nil {
			return err
		}
		return without(p)(t)
	}
}

func weighs(p path, weight int32) func(*lvs.Table) error {
	return func(t *lvs.Table) error {
		return t.EditServer(p.id(), realServer(p.server), lvs.ServerConfig{Forward: lvs.Masq, Weight: weight})
	}
}

func icmp4(kind, code uint8) layers.ICMPv4TypeCode { return layers.CreateICMPv4TypeCode(kind, code) }
func icmp6(kind, code uint8) layers.ICMPv6TypeCode { return layers.CreateICMPv6TypeCode(kind, code) }

var second = turns.service("203.0.113.10:86", "10.0.0.12:8086")

var rows = []row{
	// towards the server
	{does: "a SYN for a service goes to its server", in: syn4, becomes: forwarded},
	{does: "a SYN for an IPv6 service goes to its server", in: syn6, becomes: forwarded},
	{does: "a datagram for a service goes to its server", in: dgram4, becomes: forwarded},
	{does: "a datagram for an IPv6 service goes to its server", in: dgram6, becomes: forwarded},
	{does: "a segment of a connection goes to its server", held: established4, in: tcp4.in("A"), becomes: forwarded},
	{does: "a segment of an IPv6 connection goes to its server", held: established6, in: tcp6.in("A"), becomes: forwarded},
	{does: "a segment with an odd number of bytes", held: established4, in: tcp4.in("A").with(odd), becomes: forwarded},
	{does: "a segment without data", held: established4, in: tcp4.in("A").with(empty), becomes: forwarded},
	{does: "a RST goes to its server", held: established4, in: tcp4.in("R"), becomes: forwarded},
	{does: "a FIN goes to its server", held: established6, in: tcp6.in("FA"), becomes: forwarded},
	{does: "a large segment goes to its server", held: established4, in: tcp4.in("A").with(func(p *packet) { p.payload = make([]byte, serverMTU-40) }), becomes: forwarded},
	{does: "an empty datagram goes to its server", in: dgram4.with(empty), becomes: forwarded},
	{does: "a datagram without a checksum gets none", in: dgram4.with(unchecked), becomes: forwarded},
	{does: "an IPv6 datagram without a checksum gets none", in: dgram6.with(unchecked), becomes: forwarded},
	{does: "padding after the packet is kept", in: syn4.with(padded), becomes: forwarded},
	{does: "padding after the IPv6 datagram is kept", in: dgram6.with(padded), becomes: forwarded},
	{does: "IPv4 options are kept", in: syn4.with(few), becomes: forwarded},
	{does: "as many IPv4 options as there can be are kept", in: dgram4.with(full), becomes: forwarded},
	{does: "an IPv6 extension header is kept", in: syn6.with(extensions(hopByHop)), becomes: forwarded},
	{does: "six IPv6 extension headers are kept", in: dgram6.with(extensions(0, 60, 60, 60, 60, 60)), becomes: forwarded},
	{does: "seven IPv6 extension headers are too many", in: dgram6.with(extensions(0, 60, 60, 60, 60, 60, 60)), becomes: passed},
	{does: "a TTL of 2 becomes 1", in: syn4.with(ttl2), becomes: forwarded},

	// towards the client
	{does: "an answer comes from the service", held: []packet{syn4}, in: tcp4.out("SA"), becomes: forwarded},
	{does: "an answer comes from the IPv6 service", held: []packet{syn6}, in: tcp6.out("SA"), becomes: forwarded},
	{does: "an answering datagram comes from the service", held: []packet{dgram4}, in: udp4.out(""), becomes: forwarded},
	{does: "an answering datagram comes from the IPv6 service", held: []packet{dgram6}, in: udp6.out(""), becomes: forwarded},
	{does: "an answering datagram without a checksum gets none", held: []packet{dgram4}, in: udp4.out("").with(unchecked), becomes: forwarded},
	{does: "an answer with IPv4 options", held: []packet{syn4}, in: tcp4.out("SA").with(few), becomes: forwarded},
	{does: "an answer with an IPv6 extension header", held: []packet{syn6}, in: tcp6.out("SA").with(extensions(60)), becomes: forwarded},
	{does: "an answer to nobody is not ours", in: tcp4.out("SA"), becomes: passed},
	{does: "an answer of another protocol is not ours", held: []packet{syn4}, in: tcp4.out("SA").with(func(p *packet) { p.protocol = lvs.UDP }), becomes: passed},
	{does: "an answer from another port is not ours", held: []packet{syn4}, in: tcp4.service("203.0.113.10:80", "10.0.0.11:8081").out("SA"), becomes: passed},

	// the end of the hops
	{does: "a TTL of 1 is answered", in: syn4.with(ttl1), becomes: answered, reason: bpfReasonREASON_TTL, kind4: icmp4(11, 0)},
	{does: "a hop limit of 1 is answered", in: syn6.with(ttl1), becomes: answered, reason: bpfReasonREASON_TTL, kind6: icmp6(3, 0)},
	{does: "a TTL of 1 in an answer is the end of it", held: []packet{syn4}, in: tcp4.out("SA").with(ttl1), becomes: dropped, reason: bpfReasonREASON_TTL},

	// no server
	{does: "no server: port unreachable", in: serverless4.in("S"), becomes: answered, reason: bpfReasonREASON_NO_SERVER, kind4: icmp4(3, 3)},
	{does: "no scheduler: port unreachable", in: refusing.in("S"), becomes: answered, reason: bpfReasonREASON_NO_SERVER, kind4: icmp4(3, 3)},
	{does: "no IPv6 server: port unreachable", in: serverless6.in("S"), becomes: answered, reason: bpfReasonREASON_NO_SERVER, kind6: icmp6(1, 4)},
	{does: "the error quotes no padding", in: serverless4.in("S").with(padded), becomes: answered, reason: bpfReasonREASON_NO_SERVER, kind4: icmp4(3, 3)},
	{does: "the error quotes options", in: serverless4.in("S").with(full), becomes: answered, reason: bpfReasonREASON_NO_SERVER, kind4: icmp4(3, 3)},
	{does: "the error quotes an odd number of bytes", in: serverless6.in("S").with(odd), becomes: answered, reason: bpfReasonREASON_NO_SERVER, kind6: icmp6(1, 4)},
	{does: "the error quotes 512 bytes", in: serverless4.in("S").with(large), becomes: answered, reason: bpfReasonREASON_NO_SERVER, kind4: icmp4(3, 3)},
	{does: "the IPv6 error quotes 512 bytes", in: serverless6.in("S").with(large), becomes: answered, reason: bpfReasonREASON_NO_SERVER, kind6: icmp6(1, 4)},
	{does: "weight 0 goes on with what it has", held: []packet{quiesced.in("S")}, change: weighs(quiesced, 0), in: quiesced.in("A"), becomes: forwarded},
	{does: "weight 0 takes no more", in: quiesced.in("S"), becomes: answered, reason: bpfReasonREASON_NO_SERVER, kind4: icmp4(3, 3)},
	{does: "no route to the server: host unreachable", in: unreachable.in("S"), becomes: answered, reason: bpfReasonREASON_NO_ROUTE, kind4: icmp4(3, 1)},
	{does: "a server on the director itself", in: local.in("S"), becomes: translated},
	{does: "what is removed is not sent to", held: []packet{removed.in("S")}, change: dropsThenWithout(removed), in: removed.in("A"), becomes: dropped, reason: bpfReasonREASON_REMOVED},
	{does: "a service that goes by SIP calls drops what tells of none", in: callless.in("S"), becomes: dropped, reason: bpfReasonREASON_NO_CALL},

	// no connection
	{does: "a segment without a connection", in: tcp4.in("A"), becomes: passed, reason: bpfReasonREASON_NO_CONN},
	{does: "an IPv6 segment without a connection", in: tcp6.in("FA"), becomes: passed, reason: bpfReasonREASON_NO_CONN},
	{does: "a RST without a connection", in: tcp4.in("R"), becomes: passed, reason: bpfReasonREASON_NO_CONN},
	{does: "the first of two servers", in: second.in("S"), becomes: forwarded},
	{does: "a SYN after the end is a new connection", held: finished, in: second.in("S"), becomes: forwarded},
	{does: "the first of two servers again", in: turns.in("S"), becomes: forwarded},
	{does: "a SYN again is the same connection", held: []packet{second.in("S")}, in: second.in("S"), becomes: forwarded},
	{does: "a SYN after a RST is a new connection", held: reset, in: second.in("S"), becomes: forwarded},

	// too big
	{does: "too big: fragmentation needed", held: established4, in: tcp4.in("A").with(large), becomes: answered, reason: bpfReasonREASON_TOO_BIG, kind4: icmp4(3, 4), mtu: serverMTU},
	{does: "too big for IPv6", held: established6, in: tcp6.in("A").with(large), becomes: answered, reason: bpfReasonREASON_TOO_BIG, kind6: icmp6(2, 0), mtu: serverMTU},
	{does: "too big, but it may be cut", in: dgram4.with(large).with(fragmentOK), becomes: translated, reason: bpfReasonREASON_TOO_BIG},
	{does: "an answer that is too big", held: established4, in: tcp4.out("A").with(huge), becomes: passed, reason: bpfReasonREASON_TOO_BIG},
	{does: "an answer that is too big, but may be cut", held: []packet{dgram4}, in: udp4.out("").with(huge).with(fragmentOK), becomes: translated, reason: bpfReasonREASON_TOO_BIG},

	// not ours
	{does: "another port", in: noService.in("S"), becomes: passed},
	{does: "another address", in: noAddress.in("S"), becomes: passed},
	{does: "another protocol on the port", in: tcp4.in("").with(func(p *packet) { p.protocol = lvs.UDP }), becomes: passed},
	{does: "a VLAN tag", in: syn4, damage: tagged, becomes: passed},
	{does: "another ether type", in: syn4, damage: otherwise, becomes: passed},
	{does: "GRE to the service", in: syn4, damage: set(23, 47), becomes: passed},
	{does: "IPv6 without a next header", in: syn6, damage: set(20, 59), becomes: passed},
	{does: "ESP", in: syn6, damage: set(20, 50), becomes: passed},

	// lengths that cannot be
	{does: "IPv4 of version 5", in: syn4, damage: set(14, 0x55), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "IPv6 of version 4", in: syn6, damage: set(14, 0x4a), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "an IPv4 header of 16 bytes", in: syn4, damage: set(14, 0x44), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "an IPv4 header longer than the packet", in: dgram4.with(empty), damage: set(14, 0x4f), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "a total length of 19", in: syn4, damage: set16(16, 19), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "a total length of 0", in: syn4, damage: set16(16, 0), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "a total length beyond the frame", in: syn4, damage: set16(16, 52), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "a total length within the TCP header", in: syn4, damage: set16(16, 39), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "an IPv6 length beyond the frame", in: syn6, damage: set16(18, 32), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "an IPv6 length of 0", in: syn6, damage: set16(18, 0), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "an IPv6 length within the TCP header", in: syn6, damage: set16(18, 19), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "an extension header beyond the packet", in: syn6.with(extensions(hopByHop)), damage: set(55, 9), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "a TCP header of 16 bytes", in: syn4, damage: set(46, 0x40), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "a TCP header longer than the packet", in: syn4, damage: set(46, 0xf0), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "a UDP length of 7", in: dgram4, damage: set16(38, 7), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "a UDP length of 0", in: dgram4, damage: set16(38, 0), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "a UDP length beyond the packet", in: dgram6, damage: set16(58, 16), becomes: passed, reason: bpfReasonREASON_MALFORMED},
	{does: "a malformed answer", held: established4, in: tcp4.out("A"), damage: set(46, 0x40), becomes: passed},
}
