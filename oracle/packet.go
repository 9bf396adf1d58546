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
}

const (
	ethernetHeader = 14
	tcpHeader      = 20
	udpHeader      = 8
	extensions     = 6 // IPv6 extension headers that are skipped
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

// packet is what is read from a frame. Offsets count from its first byte.
type packet struct {
	frame               []byte
	ip, transport, end  int // where the IP header and the transport header begin, and the IP packet ends
	protocol            lvs.Protocol
	source, destination netip.AddrPort
	ttl                 uint8
	fragment            bool // then there are no ports
	event               lvs.TCPEvent
}

func (p *packet) v6() bool { return p.source.Addr().Is6() }

// size is the number of IP bytes, header included.
func (p *packet) size() int { return p.end - p.ip }

// parse reads a frame with TCP or UDP over IP in it. All else, and whatever is cut off or contradicts itself, is not
// ours. Nor are frames with a VLAN tag.
func parse(frame []byte) (*packet, bool) {
	if len(frame) < ethernetHeader {
		return nil, false
	}
	p := &packet{frame: frame, ip: ethernetHeader}
	var ok bool
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherIPv4:
		ok = p.parseIPv4()
	case etherIPv6:
		ok = p.parseIPv6()
	}
	if !ok || p.protocol != lvs.TCP && p.protocol != lvs.UDP {
		return nil, false
	}
	return p, p.fragment || p.parseTransport()
}

func (p *packet) parseIPv4() bool {
	b := p.frame[p.ip:]
	if len(b) < 20 || b[0]>>4 != 4 {
		return false
	}
	header, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < 20 || total < header || total > len(b) {
		return false
	}
	p.transport, p.end = p.ip+header, p.ip+total
	moreOrOffset := binary.BigEndian.Uint16(b[6:]) & 0x3fff
	p.fragment = moreOrOffset != 0
	p.ttl = b[8]
	p.protocol = lvs.Protocol(b[9])
	p.source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), 0)
	p.destination = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), 0)
	return true
}

func (p *packet) parseIPv6() bool {
	b := p.frame[p.ip:]
	if len(b) < 40 || b[0]>>4 != 6 {
		return false
	}
	total := 40 + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return false
	}
	p.end = p.ip + total
	p.ttl = b[7]
	p.source = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), 0)
	p.destination = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])), 0)

	next, at := b[6], 40
	for range extensions + 1 {
		switch next {
		case hopByHop, routingHeader, destinationOptions:
			if at+8 > total {
				return false
			}
			next, at = b[at], at+(int(b[at+1])+1)*8
		case fragmentHeader:
			if at+8 > total {
				return false
			}
			p.fragment = true
			p.protocol = lvs.Protocol(b[at])
			return true
		default:
			p.transport = p.ip + at
			p.protocol = lvs.Protocol(next)
			return at <= total
		}
	}
	return false
}

func (p *packet) parseTransport() bool {
	b := p.frame[p.transport:p.end]
	switch p.protocol {
	case lvs.TCP:
		if len(b) < tcpHeader {
			return false
		}
		if header := int(b[12]>>4) * 4; header < tcpHeader || header > len(b) {
			return false
		}
		flags := b[13]
		p.event = lvs.TCPEventOf(flags&2 != 0, flags&1 != 0, flags&16 != 0, flags&4 != 0)
	case lvs.UDP:
		if len(b) < udpHeader || binary.BigEndian.Uint16(b[4:]) < udpHeader {
			return false
		}
	}
	p.source = netip.AddrPortFrom(p.source.Addr(), binary.BigEndian.Uint16(b))
	p.destination = netip.AddrPortFrom(p.destination.Addr(), binary.BigEndian.Uint16(b[2:]))
	return true
}
