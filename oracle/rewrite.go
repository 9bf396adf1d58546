// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"

	"lvs"
)

// rewrite is NAT: the addresses that a packet is given; an invalid one stays as it is.
type rewrite struct {
	source, destination netip.AddrPort
}

// apply makes the frame that results, with the MAC addresses that it had. Checksums are carried on, not made anew, so that a wrong one stays wrong.
func (w rewrite) apply(p *packet) []byte {
	if p.quoted != 0 {
		return w.applyQuoted(p)
	}
	out := append([]byte(nil), p.frame...)
	ip := out[p.ip:]
	ttl, sources, destinations, size := 8, 12, 16, 4
	if p.v6() {
		ttl, sources, destinations, size = 7, 8, 24, 16
	}
	ip[ttl]--
	ports := out[p.transport:]
	if p.part.later() {
		ports = make([]byte, 4) // it has none
	}
	if w.source.IsValid() {
		copy(ip[sources:sources+size], w.source.Addr().AsSlice())
		w.port(p, ports, w.source.Port())
	}
	if w.destination.IsValid() {
		copy(ip[destinations:destinations+size], w.destination.Addr().AsSlice())
		w.port(p, ports[min(2, len(ports)):], w.destination.Port())
	}

	if !p.v6() {
		carryOn(ip[10:], p.frame[p.ip:p.transport], out[p.ip:p.transport])
	}
	if p.part.later() {
		return out
	}
	addresses := func(frame []byte) []byte { // what the transport's checksum covers of what may have changed
		return append(append([]byte(nil), frame[p.ip+sources:p.ip+destinations+size]...), frame[p.transport:p.transport+4]...)
	}
	if p.follows {
		return out
	}
	if p.protocol == lvs.SCTP {
		carryOnCRC(ports[8:12], p.frame[p.transport:p.end], out[p.transport:p.end])
	} else if p.protocol == lvs.TCP {
		carryOn(ports[16:], addresses(p.frame), addresses(out))
	} else if check := ports[6:]; binary.BigEndian.Uint16(check) != 0 {
		carryOn(check, addresses(p.frame), addresses(out))
		if binary.BigEndian.Uint16(check) == 0 { // which would mean that there is none
			binary.BigEndian.PutUint16(check, 0xffff)
		}
	}
	return out
}

// port writes a port, where there are ports.
func (rewrite) port(p *packet, at []byte, port uint16) {
	if !p.follows {
		binary.BigEndian.PutUint16(at, port)
	}
}

// carryOnCRC updates a CRC32c over bytes that were before and are after, and in which it lies. Zero is left to the device.
func carryOnCRC(check, before, after []byte) {
	table := crc32.MakeTable(crc32.Castagnoli)
	if crc := binary.LittleEndian.Uint32(check); crc != 0 {
		binary.LittleEndian.PutUint32(check, crc^crc32.Checksum(before, table)^crc32.Checksum(after, table))
	}
}

// carryOn updates the checksum at the head of check for bytes that were before and are after: RFC 1624, equation 3.
func carryOn(check, before, after []byte) {
	sum := uint32(^binary.BigEndian.Uint16(check))
	for i := 0; i < len(before); i += 2 {
		sum += uint32(^binary.BigEndian.Uint16(before[i:])) + uint32(binary.BigEndian.Uint16(after[i:]))
	}
	binary.BigEndian.PutUint16(check, ^folded(sum))
}

// checksum is that of RFC 1071 over all parts one after the other, each of even length but for the last.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	return ^folded(sum)
}

func folded(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
