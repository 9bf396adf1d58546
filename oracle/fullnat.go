// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"net/netip"

	"lvs"
)

// Turns is where a director is in its round through local addresses and ports, and which part of the ports it begins with: that of
// one CPU of so many.
type Turns struct{ Turn, CPU, CPUs uint32 }

// portTries is how many ports are tried for a connection.
const portTries = 128

// returnKey is what an answer to a local address is known by.
type returnKey struct {
	protocol      lvs.Protocol
	local, server netip.AddrPort
}

// pool gives the local addresses that a service uses.
func (d *Director) pool(s *service) []lvs.LocalAddr {
	if len(s.locals) > 0 {
		return s.locals
	}
	var all []lvs.LocalAddr
	for _, l := range d.locals {
		if l.Addr.Is4() == (s.id.Family == lvs.IPv4) {
			all = append(all, l)
		}
	}
	return all
}

// takeLocal gives a connection a local address and port that no other one has towards its server, and says whether there is any.
func (d *Director) takeLocal(s *service, c *conn) bool {
	pool := d.pool(s)
	if len(pool) == 0 || d.full() {
		return false
	}
	t := d.options.Turns()
	t.Turn += d.tried
	for range portTries {
		l := pool[t.Turn%uint32(len(pool))]
		ports := uint32(l.Ports.Count())
		port := uint32(l.Ports.First) + (t.CPU*(ports/t.CPUs)+t.Turn/uint32(len(pool)))%ports
		key := returnKey{c.protocol, netip.AddrPortFrom(l.Addr, uint16(port)), c.to}
		if d.returns[key] == nil {
			c.local = key.local
			return true
		}
		t.Turn++
	}
	d.tried += portTries
	return false
}

// returned finds the connection that a packet to a local address answers.
func (d *Director) returned(p *packet) *conn {
	return d.returns[returnKey{p.protocol, p.destination, p.source}]
}

// introduces says whether a packet is to tell its server who the client is.
func (d *Director) introduces(c *conn, p *packet) bool {
	return c.forward == lvs.FullNAT && p.protocol == lvs.TCP && !c.answered && !p.only() && !p.part.first() &&
		p.event != lvs.SYN && p.event != lvs.RST
}

// introduce puts the client's address into a frame of TCP that goes to the server; without room it says so, and the frame stays.
func introduce(frame []byte, client netip.AddrPort, hop Hop) ([]byte, bool) {
	p, k := parse(frame)
	option := append([]byte{254, 0}, binary.BigEndian.AppendUint16(nil, client.Port())...)
	option = append(option, client.Addr().AsSlice()...)
	option[1] = byte(len(option))
	head := p.ip + 20
	if p.v6() {
		head = p.ip + 40
	}
	length := int(frame[p.transport+12]>>4) * 4
	if k != whole || p.transport != head || length+len(option) > 60 || hop.MTU != 0 && p.size()+len(option) > int(hop.MTU) || p.partial() {
		return frame, false
	}
	at := p.transport + 20 // in front of the other options
	if p.transport+length == p.end {
		at = p.end
		frame = frame[:p.end] // what fills up the frame goes
	}
	out := append([]byte(nil), frame[:at]...)
	out = append(append(out, option...), frame[at:]...)
	out[p.transport+12] += byte(len(option) / 4 << 4)
	total := out[p.ip+2 : p.ip+4]
	if p.v6() {
		total = out[p.ip+4 : p.ip+6]
	}
	before := append([]byte(nil), total...)
	binary.BigEndian.PutUint16(total, binary.BigEndian.Uint16(total)+uint16(len(option)))
	if !p.v6() {
		carryOn(out[p.ip+10:], before, total)
	}
	// the pseudo header has the length, which is more by the option; so is the offset of the data
	was, is := make([]byte, 4+len(option)), append([]byte{0, byte(len(option))}, byte(len(option)/4<<4), 0)
	carryOn(out[p.transport+16:], was, append(is, option...))
	return out, true
}

// partial says whether the checksum looks like one that the device is to complete.
func (p *packet) partial() bool {
	segment := p.frame[p.transport:p.end]
	pseudo := []byte{0, byte(p.protocol), byte(len(segment) >> 8), byte(len(segment))}
	return p.protocol == lvs.TCP && len(segment) > int(segment[12]>>4)*4 &&
		binary.BigEndian.Uint16(segment[16:]) == ^checksum(p.source.Addr().AsSlice(), p.destination.Addr().AsSlice(), pseudo)
}
