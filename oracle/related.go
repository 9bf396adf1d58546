// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"net/netip"

	"lvs"
)

const icmpHeader = 8

// isError says whether kernel IPVS takes an ICMP message of a type for an error.
func isError(kind byte, v6 bool) bool {
	if v6 {
		return kind < 128
	}
	return kind == 3 || kind == 4 || kind == 11
}

// parseRelated reads an ICMP message, whose header begins at an offset. An error has the addresses and ports of the packet
// that it quotes, turned round: it goes to who sent that.
func (p *packet) parseRelated(at int) kind {
	switch {
	case at > reach-icmpHeader:
		return other
	case at+icmpHeader > p.end:
		return malformed
	case !isError(p.frame[at], p.v6()):
		return other
	}
	p.quoted = at + icmpHeader
	quote := p.parseQuoted4
	if p.v6() {
		quote = p.parseQuoted6
	}
	if k := quote(p.frame[p.quoted:p.end]); k != related {
		return k
	}
	switch {
	case p.protocol != lvs.TCP && p.protocol != lvs.UDP || p.transport > reach:
		return other
	case p.transport+4 > p.end:
		return malformed
	}
	ports := p.frame[p.transport:]
	p.source = netip.AddrPortFrom(p.source.Addr(), binary.BigEndian.Uint16(ports[2:]))
	p.destination = netip.AddrPortFrom(p.destination.Addr(), binary.BigEndian.Uint16(ports))
	return related
}

func (p *packet) parseQuoted4(b []byte) kind {
	if len(b) < 20 || b[0]>>4 != 4 || b[0]&15 < 5 {
		return malformed
	}
	if netip.AddrFrom4([4]byte(b[12:16])) != p.destination.Addr() || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return other
	}
	p.source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), 0)
	p.protocol = lvs.Protocol(b[9])
	p.transport = p.quoted + int(b[0]&15)*4
	return related
}

func (p *packet) parseQuoted6(b []byte) kind {
	if len(b) < 40 || b[0]>>4 != 6 {
		return malformed
	}
	if netip.AddrFrom16([16]byte(b[8:24])) != p.destination.Addr() {
		return other
	}
	p.source = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])), 0)
	next, at := b[6], 40
	if next == fragmentHeader {
		if len(b) < 48 {
			return malformed
		}
		if binary.BigEndian.Uint16(b[42:])&0xfff8 != 0 {
			return other
		}
		next, at = b[40], 48
	}
	p.protocol = lvs.Protocol(next)
	p.transport = p.quoted + at
	return related
}

// relate is the way of an ICMP error: that of the packet that it is in its flow.
func (d *Director) relate(in Packet, p *packet) Result {
	if c := d.returned(p); c != nil {
		return d.toClient(c, in, p)
	}
	if c := d.conns[flow{p.protocol, p.source, p.destination}]; c != nil {
		return d.toServer(c, in, p)
	}
	if c := d.answered(p); c != nil {
		return d.toClient(c, in, p)
	}
	if d.settings.ScheduleICMP != 0 {
		return d.beginByError(in, p)
	}
	return Result{}
}

// applyQuoted is NAT of an ICMP error: the packet that it quotes becomes what its receiver has sent.
func (w rewrite) applyQuoted(p *packet) []byte {
	out := append([]byte(nil), p.frame...)
	ttl, sources, destinations, size := 8, 12, 16, 4
	if p.v6() {
		ttl, sources, destinations, size = 7, 8, 24, 16
	}
	ip, quoted, ports := out[p.ip:], out[p.quoted:], out[p.transport:]
	ip[ttl]--
	if w.source.IsValid() {
		copy(ip[sources:sources+size], w.source.Addr().AsSlice())
		copy(quoted[destinations:destinations+size], w.source.Addr().AsSlice())
		binary.BigEndian.PutUint16(ports[2:], w.source.Port())
	}
	if w.destination.IsValid() {
		copy(ip[destinations:destinations+size], w.destination.Addr().AsSlice())
		copy(quoted[sources:sources+size], w.destination.Addr().AsSlice())
		binary.BigEndian.PutUint16(ports, w.destination.Port())
	}
	between := func(frame []byte, from, to int) []byte { return append([]byte(nil), frame[from:to]...) }
	addresses := func(frame []byte, ip int) []byte { return between(frame, ip+sources, ip+destinations+size) }

	field := p.transport + 16
	if p.protocol == lvs.UDP {
		field = p.transport + 6
	}
	if w != (rewrite{}) && field+2 <= p.end && (p.protocol == lvs.TCP || binary.BigEndian.Uint16(out[field:]) != 0) {
		covered := func(frame []byte) []byte {
			return append(addresses(frame, p.quoted), frame[p.transport:p.transport+4]...)
		}
		carryOn(out[field:], covered(p.frame), covered(out))
		if p.protocol == lvs.UDP && binary.BigEndian.Uint16(out[field:]) == 0 {
			binary.BigEndian.PutUint16(out[field:], 0xffff)
		}
	}
	pseudo := func([]byte) []byte { return nil }
	if p.v6() {
		pseudo = func(frame []byte) []byte { return addresses(frame, p.ip) }
	} else {
		if w != (rewrite{}) {
			carryOn(quoted[10:], addresses(p.frame, p.quoted), addresses(out, p.quoted))
		}
		carryOn(ip[10:], between(p.frame, p.ip, p.quoted-icmpHeader), between(out, p.ip, p.quoted-icmpHeader))
	}
	if w == (rewrite{}) {
		return out
	}
	// what may have changed, of even length
	end := p.quoted + (min(p.transport+18, p.end)-p.quoted)&^1
	carryOn(out[p.quoted-icmpHeader+2:], append(pseudo(p.frame), p.frame[p.quoted:end]...), append(pseudo(out), out[p.quoted:end]...))
	return out
}
