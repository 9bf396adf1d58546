// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"net/netip"

	"lvs"
)

// tunnel is the way of a packet inside another one.
type tunnel struct {
	lvs.TunnelConfig
	from, to netip.Addr
	spread   uint64 // tells connections apart
	pmtuDisc bool   // the setting
}

const (
	protocolIPv4 = 4
	protocolIPv6 = 41
	protocolGRE  = 47
	gueHeader    = 4
	greHeader    = 4
	greChecksum  = 4
)

func (t tunnel) sums() bool { return t.Type != lvs.IPIP && t.Checksum != lvs.NoChecksum }

// overhead is how much larger packets become.
func (t tunnel) overhead() int {
	n := 20
	if t.to.Is6() {
		n = 40
	}
	switch {
	case t.Type == lvs.GUE:
		return n + udpHeader + gueHeader
	case t.Type == lvs.GRE && t.sums():
		return n + greHeader + greChecksum
	case t.Type == lvs.GRE:
		return n + greHeader
	}
	return n
}

// mayFragment says whether the outer packet may be fragmented, as far as what is inside goes.
func (t tunnel) mayFragment(p *packet) bool { return p.v6() || p.mayFragment || !t.pmtuDisc }

// apply makes the frame that results, with the MAC addresses that it had. What chance decides, the identification of packets that
// may be fragmented, is zero.
func (t tunnel) apply(p *packet) []byte {
	inner := rewrite{}.apply(p)[p.ip:]
	between, protocol := t.between(p, inner[:p.size()])
	out := append([]byte(nil), p.frame[:12]...)
	if t.to.Is6() {
		out = append(out, 0x86, 0xdd)
		out = append(out, t.ipv6(p, protocol, len(between)+p.size())...)
	} else {
		out = append(out, 0x08, 0x00)
		out = append(out, t.ipv4(p, protocol, len(between)+p.size())...)
	}
	return append(append(out, between...), inner...)
}

// traffic is the outer type of service. A router on the way to the director was congested, which is no congestion in the tunnel.
func (t tunnel) traffic(p *packet) byte {
	b := p.frame[p.ip:]
	tos := b[1]
	if p.v6() {
		tos = b[0]<<4 | b[1]>>4
	}
	if tos&3 == 3 {
		tos = tos&^3 | 2
	}
	return tos
}

func (t tunnel) ipv4(p *packet, protocol byte, length int) []byte {
	h := []byte{0x45, t.traffic(p), 0, 0, 0, 0, 0x40, 0, p.ttl - 1, protocol, 0, 0}
	if t.mayFragment(p) {
		h[6] = 0
	}
	h = append(append(h, t.from.AsSlice()...), t.to.AsSlice()...)
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+length))
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return h
}

func (t tunnel) ipv6(p *packet, protocol byte, length int) []byte {
	h := binary.BigEndian.AppendUint32(nil, 6<<28|uint32(t.traffic(p))<<20|uint32(t.spread>>44))
	h = binary.BigEndian.AppendUint16(h, uint16(length))
	h = append(h, protocol, p.ttl-1)
	return append(append(h, t.from.AsSlice()...), t.to.AsSlice()...)
}

// between gives what comes between the two IP headers, and its protocol.
func (t tunnel) between(p *packet, inner []byte) ([]byte, byte) {
	protocol, etherType := byte(protocolIPv4), uint16(etherIPv4)
	if p.v6() {
		protocol, etherType = protocolIPv6, etherIPv6
	}
	switch t.Type {
	case lvs.GRE:
		h := binary.BigEndian.AppendUint16([]byte{0, 0}, etherType)
		if t.sums() {
			h[0] = 0x80
			h = append(h, 0, 0, 0, 0)
			setChecksum(h[4:], h, p.settled(inner))
		}
		return h, protocolGRE
	case lvs.GUE:
		length := uint16(udpHeader + gueHeader + len(inner))
		h := binary.BigEndian.AppendUint16(nil, 0xc000|uint16(t.spread>>50))
		h = binary.BigEndian.AppendUint16(h, t.Port)
		h = binary.BigEndian.AppendUint16(h, length)
		h = append(h, 0, 0, 0, protocol, 0, 0)
		if t.sums() {
			pseudo := binary.BigEndian.AppendUint16([]byte{0, byte(lvs.UDP)}, length)
			setChecksum(h[6:], t.from.AsSlice(), t.to.AsSlice(), pseudo, h, p.settled(inner))
		}
		return h, byte(lvs.UDP)
	}
	return nil, protocol
}

// setChecksum writes a checksum that is not zero, for that might mean that there is none.
func setChecksum(field []byte, parts ...[]byte) {
	sum := checksum(parts...)
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(field, sum)
}

// settled is the packet as its own checksums say that it is. Where they cover all of it an outer checksum is made from them, without a
// look at the payload; so what is wrong inside is wrong outside, too.
func (p *packet) settled(inner []byte) []byte {
	if p.quoted != 0 || p.part.first() || p.part.later() || p.follows || p.protocol == lvs.SCTP {
		return inner
	}
	transport := p.transport - p.ip
	out := append([]byte(nil), inner...)
	segment, field := out[transport:], 16
	if p.protocol == lvs.UDP {
		field = 6
		if binary.BigEndian.Uint16(segment[field:]) == 0 || int(binary.BigEndian.Uint16(segment[4:])) != len(segment) {
			return inner
		}
	}
	if p.v6() && transport != 40 {
		return inner
	}
	if !p.v6() {
		out[10], out[11] = 0, 0
		binary.BigEndian.PutUint16(out[10:], checksum(out[:transport]))
	}
	segment[field], segment[field+1] = 0, 0
	pseudo := binary.BigEndian.AppendUint16([]byte{0, byte(p.protocol)}, uint16(len(segment)))
	binary.BigEndian.PutUint16(segment[field:], checksum(p.source.Addr().AsSlice(), p.destination.Addr().AsSlice(), pseudo, segment))
	return out
}
