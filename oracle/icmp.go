// SPDX-License-Identifier: Apache-2.0

package oracle

import "encoding/binary"

const quoted = 512 // bytes of the offending packet that an ICMP error carries at most

// unreachable is the frame that tells the sender of a packet that its port is not to be reached. It comes from the
// address that the packet was for, and goes back the way that the packet came.
func unreachable(p *packet) []byte {
	quote := p.frame[p.ip:p.end]
	quote = quote[:min(len(quote), quoted)]
	out := make([]byte, 0, ethernetHeader+48+len(quote))
	out = append(out, p.frame[6:12]...)
	out = append(out, p.frame[0:6]...)
	out = append(out, p.frame[12:14]...)

	src, dst := p.destination.Addr().AsSlice(), p.source.Addr().AsSlice()
	if p.v6() {
		icmp := append([]byte{1, 4, 0, 0, 0, 0, 0, 0}, quote...)
		length := binary.BigEndian.AppendUint16(nil, uint16(len(icmp)))
		pseudo := []byte{0, 0, length[0], length[1], 0, 0, 0, 58}
		binary.BigEndian.PutUint16(icmp[2:], checksum(src, dst, pseudo, icmp))
		out = append(out, 0x60, 0, 0, 0, length[0], length[1], 58, 64)
		out = append(append(out, src...), dst...)
		return append(out, icmp...)
	}
	icmp := append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, quote...)
	binary.BigEndian.PutUint16(icmp[2:], checksum(icmp))
	header := []byte{0x45, 0xc0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0}
	header = append(append(header, src...), dst...)
	binary.BigEndian.PutUint16(header[2:], uint16(len(header)+len(icmp)))
	binary.BigEndian.PutUint16(header[10:], checksum(header))
	return append(append(out, header...), icmp...)
}
