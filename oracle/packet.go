// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"net/netip"

	"lvs"
)

// Packet is an Ethernet frame that arrives on an interface.
type Packet struct {
	Interface int
	Frame     []byte
	Mark      uint32 // that the firewall has given it
}

const (
	ethernetHeader = 14
	tcpHeader      = 20
	udpHeader      = 8
	extensions     = 6   // IPv6 extension headers that are skipped
	reach          = 192 // bytes of the frame before a transport header, at most
	etherIPv4      = 0x0800
	etherIPv6      = 0x86dd
)

// The protocol numbers of IPv6 headers before the transport's.
const (
	hopByHop           = 0
	routingHeader      = 43
	fragmentHeader     = 44
	destinationOptions = 60
)

// kind is what a frame is to a director.
type kind uint8

const (
	other       kind = iota // nothing of ours
	malformed               // IP whose lengths cannot be: it has addresses only
	unsupported             // a fragment of SCTP, AH or ESP: addresses only
	later                   // a TCP or UDP packet's fragment, without its ports
	related                 // an ICMP error about a TCP or UDP packet
	whole                   // a TCP or UDP packet, or its first fragment
)

// packet is what is read from a frame. Offsets count from its first byte.
type packet struct {
	frame               []byte
	ip, transport, end  int // where the IP header and the transport header begin, and the IP packet ends
	protocol            lvs.Protocol
	source, destination netip.AddrPort
	ttl                 uint8
	mayFragment         bool
	event               lvs.Event
	opens               bool // begins a connection, by what it says: a SYN, an INIT
	follows             bool // AH or ESP: protocol and ports are those of their ISAKMP
	part                part
	apart               bool // XDP leaves it to tc undecided: a fragment, what has IPv6's header for one, or what a dead server's connection gets
	quoted              int  // of an ICMP error: where the IP header begins that it quotes, whose transport header is transport
	syn                 bool // of TCP, whatever the event is
}

func (p *packet) v6() bool { return p.source.Addr().Is6() }

// only says that a packet is but counted and sent: an ICMP error, or a later fragment.
func (p *packet) only() bool { return p.quoted != 0 || p.part.later() }

// size is the number of IP bytes, header included.
func (p *packet) size() int { return p.end - p.ip }

// parse reads a frame. One with a VLAN tag is nothing of ours.
func parse(frame []byte) (*packet, kind) {
	p := &packet{frame: frame, ip: ethernetHeader}
	if len(frame) < ethernetHeader {
		return p, other
	}
	k := other
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherIPv4:
		k = p.parseIPv4()
	case etherIPv6:
		k = p.parseIPv6()
	}
	if k != whole {
		return p, k
	}
	return p, p.parseTransport()
}

func (p *packet) parseIPv4() kind {
	b := p.frame[p.ip:]
	if len(b) < 20 {
		return other
	}
	header, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	p.transport, p.end = p.ip+header, p.ip+total
	p.mayFragment = b[6]&0x40 == 0
	p.ttl = b[8]
	p.protocol = lvs.Protocol(b[9])
	p.source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), 0)
	p.destination = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), 0)
	fragment := binary.BigEndian.Uint16(b[6:])
	f := part{id: uint32(binary.BigEndian.Uint16(b[4:])), from: int(fragment&0x1fff) * 8, more: fragment&0x2000 != 0}
	p.apart = fragment&0x3fff != 0
	switch {
	case b[0]>>4 != 4 || header < 20 || total < header || total > len(b):
		return malformed
	case b[9] == 1 && fragment&0x3fff == 0:
		return p.parseRelated(p.transport)
	case !looksAt(b[9], fragment&0x3fff != 0):
		return unsupportedOr(b[9])
	case fragment&0x3fff != 0 && !p.isPart(p.transport, f):
		return malformed
	case f.later():
		return later
	}
	return whole
}

func (p *packet) parseIPv6() kind {
	b := p.frame[p.ip:]
	if len(b) < 40 {
		return other
	}
	total := 40 + int(binary.BigEndian.Uint16(b[4:]))
	p.end = p.ip + total
	p.ttl = b[7]
	p.source = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), 0)
	p.destination = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])), 0)
	if b[0]>>4 != 6 || total > len(b) {
		return malformed
	}

	next, at := b[6], 40
	for n := 0; next == hopByHop || next == routingHeader || next == destinationOptions; n++ {
		if n == extensions || p.ip+at > reach {
			return other
		}
		if at+8 > total {
			return malformed
		}
		next, at = b[at], at+(int(b[at+1])+1)*8
		if at > total {
			return malformed
		}
	}
	switch {
	case next == 58:
		return p.parseRelated(p.ip + at)
	case next == fragmentHeader:
		return p.parseFragment6(at)
	}
	return p.transportAt(next, at)
}

func (p *packet) transportAt(protocol byte, at int) kind {
	p.protocol, p.transport = lvs.Protocol(protocol), p.ip+at
	switch {
	case !looksAt(protocol, p.part != part{}) || p.transport > reach:
		return other
	case p.part.later():
		return later
	}
	return whole
}

// parseFragment6 reads the fragment header, which is the last one before the transport's. The only fragment of its packet is none.
func (p *packet) parseFragment6(at int) kind {
	b := p.frame[p.ip:]
	p.apart = true
	switch {
	case p.ip+at > reach:
		return other
	case p.ip+at+8 > p.end:
		return malformed
	}
	offset := binary.BigEndian.Uint16(b[at+2:])
	f := part{id: binary.BigEndian.Uint32(b[at+4:]), from: int(offset & 0xfff8), more: offset&1 != 0}
	if b[at] != byte(lvs.TCP) && b[at] != byte(lvs.UDP) {
		return unsupportedOr(b[at])
	}
	if (f.from > 0 || f.more) && !p.isPart(p.ip+at+8, f) {
		return malformed
	}
	return p.transportAt(b[at], at+8)
}

// The protocols of IPsec.
const espHeader, ahHeader = 50, 51

// unsupportedOr is what fragments are that are not looked at.
func unsupportedOr(protocol byte) kind {
	if looksAt(protocol, false) {
		return unsupported
	}
	return other
}

// looksAt says whether packets of a protocol are looked at. Of SCTP, AH and ESP, fragments are not.
func looksAt(protocol byte, fragment bool) bool {
	switch protocol {
	case byte(lvs.TCP), byte(lvs.UDP):
		return true
	case byte(lvs.SCTP), espHeader, ahHeader:
		return !fragment
	}
	return false
}

// parseSCTP finds the chunk that counts.
func (p *packet) parseSCTP(b []byte) kind {
	if len(b) < 16 {
		return malformed
	}
	chunk, behind := b[12], 12+(int(binary.BigEndian.Uint16(b[14:]))+3)/4*4
	echo := chunk < 16 && (lvs.SCTPChunks[chunk] == lvs.SCTPCookieEcho || lvs.SCTPChunks[chunk] == lvs.SCTPCookieAck)
	if echo && behind >= 16 && behind+4 <= len(b) && b[behind] == 6 {
		chunk = 6
	}
	if chunk < 16 {
		p.event = lvs.SCTPChunks[chunk]
	}
	p.opens = p.event == lvs.SCTPInitChunk
	return whole
}

func (p *packet) parseTransport() kind {
	b := p.frame[p.transport:p.end]
	switch p.protocol {
	case espHeader, ahHeader:
		p.follows, p.protocol = true, lvs.UDP
		p.source = netip.AddrPortFrom(p.source.Addr(), 500)
		p.destination = netip.AddrPortFrom(p.destination.Addr(), 500)
		return whole
	case lvs.SCTP:
		if k := p.parseSCTP(b); k != whole {
			return k
		}
	case lvs.TCP:
		if len(b) < tcpHeader {
			return malformed
		}
		if header := int(b[12]>>4) * 4; header < tcpHeader || header > len(b) {
			return malformed
		}
		flags := b[13]
		p.syn = flags&2 != 0
		p.event = lvs.TCPEventOf(flags&2 != 0, flags&1 != 0, flags&16 != 0, flags&4 != 0)
		p.opens = p.event == lvs.SYN
	case lvs.UDP:
		if len(b) < udpHeader {
			return malformed
		}
		if length := int(binary.BigEndian.Uint16(b[4:])); length < udpHeader || length > len(b) && !p.part.more {
			return malformed
		}
	}
	p.source = netip.AddrPortFrom(p.source.Addr(), binary.BigEndian.Uint16(b))
	p.destination = netip.AddrPortFrom(p.destination.Addr(), binary.BigEndian.Uint16(b[2:]))
	return whole
}
