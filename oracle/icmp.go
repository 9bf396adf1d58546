// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"net/netip"
)

const quoted = 548 // bytes of the offending packet that an ICMP error carries at most

// complaint is an ICMP error: type and code for each family.
type complaint struct{ type4, code4, type6, code6 byte }

var (
	portUnreachable = complaint{3, 3, 1, 4}
	hostUnreachable = complaint{3, 1, 1, 3}
	packetTooBig    = complaint{3, 4, 2, 0}
	timeExceeded    = complaint{11, 0, 3, 0}
)

// about is the frame that tells the sender of a packet of the error. It comes from the address that the packet was for,
// and goes back the way that the packet came. The MTU is that of packetTooBig.
func (c complaint) about(p *packet, mtu uint32) []byte {
	return c.aboutFrom(p.destination.Addr(), p, mtu)
}

// aboutFrom is the same from another address.
func (c complaint) aboutFrom(from netip.Addr, p *packet, mtu uint32) []byte {
	quote := p.frame[p.ip:p.end]
	quote = quote[:min(len(quote), quoted)]
	out := make([]byte, 0, ethernetHeader+48+len(quote))
	out = append(out, p.frame[6:12]...)
	out = append(out, p.frame[0:6]...)
	out = append(out, p.frame[12:14]...)

	src, dst := from.AsSlice(), p.source.Addr().AsSlice()
	if p.v6() {
		icmp := append(binary.BigEndian.AppendUint32([]byte{c.type6, c.code6, 0, 0}, mtu), quote...)
		length := binary.BigEndian.AppendUint16(nil, uint16(len(icmp)))
		pseudo := []byte{0, 0, length[0], length[1], 0, 0, 0, 58}
		binary.BigEndian.PutUint16(icmp[2:], checksum(src, dst, pseudo, icmp))
		out = append(out, 0x60, 0, 0, 0, length[0], length[1], 58, 64)
		out = append(append(out, src...), dst...)
		return append(out, icmp...)
	}
	icmp := append(binary.BigEndian.AppendUint32([]byte{c.type4, c.code4, 0, 0}, mtu), quote...)
	binary.BigEndian.PutUint16(icmp[2:], checksum(icmp))
	header := []byte{0x45, 0xc0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0}
	header = append(append(header, src...), dst...)
	binary.BigEndian.PutUint16(header[2:], uint16(len(header)+len(icmp)))
	binary.BigEndian.PutUint16(header[10:], checksum(header))
	return append(append(out, header...), icmp...)
}
