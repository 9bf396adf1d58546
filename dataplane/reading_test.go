// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"net/netip"
)

// reading is an IP packet as an own and simple reader sees it.
type reading struct {
	b        []byte // all of it; of one that is quoted, what is there
	v6       bool
	src, dst netip.Addr
	protocol byte
	head     int // where the IP headers end
	from     int // of a fragment: its first byte
	more     bool
}

// read reads a packet. One that is quoted need not be there as a whole.
func read(b []byte, quoted bool) (r reading, ok bool) {
	if len(b) < 20 {
		return r, false
	}
	if b[0]>>4 == 4 {
		total := int(binary.BigEndian.Uint16(b[2:]))
		r.head, r.protocol = int(b[0]&15)*4, b[9]
		if r.head < 20 || !quoted && (total < r.head || total > len(b)) {
			return r, false
		}
		if !quoted {
			b = b[:total]
		}
		field := int(binary.BigEndian.Uint16(b[6:]))
		r.b, r.from, r.more = b, field&0x1fff*8, field&0x2000 != 0
		r.src, r.dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		return r, true
	}
	total := 40
	if len(b) >= 40 {
		total += int(binary.BigEndian.Uint16(b[4:]))
	}
	if b[0]>>4 != 6 || len(b) < 40 || !quoted && total > len(b) {
		return r, false
	}
	if !quoted {
		b = b[:total]
	}
	r.b, r.v6, r.head, r.protocol = b, true, 40, b[6]
	r.src, r.dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	for !quoted && (r.protocol == 0 || r.protocol == 43 || r.protocol == 60) {
		if r.head+8 > len(b) {
			return r, false
		}
		r.protocol, r.head = b[r.head], r.head+(int(b[r.head+1])+1)*8
	}
	if r.protocol == fragmentHeader {
		if r.head+8 > len(b) {
			return r, false
		}
		field := int(binary.BigEndian.Uint16(b[r.head+2:]))
		r.protocol, r.from, r.more, r.head = b[r.head], field&0xfff8, field&1 != 0, r.head+8
	}
	return r, true
}

// readFrame reads the packet of a frame.
func readFrame(frame []byte) (r reading, ok bool) {
	if len(frame) < headers {
		return r, false
	}
	ether := binary.BigEndian.Uint16(frame[12:])
	r, ok = read(frame[headers:], false)
	return r, ok && (r.v6 && ether == 0x86dd || !r.v6 && ether == 0x0800)
}

func (r reading) fragment() bool { return r.from != 0 || r.more }

func (r reading) ttl() *byte {
	if r.v6 {
		return &r.b[7]
	}
	return &r.b[8]
}

// checksum is where the checksum of what follows the IP headers lies, or 0.
func (r reading) checksum() int {
	at, ok := map[byte]int{1: 2, 58: 2, 6: 16, 17: 6}[r.protocol]
	if !ok || r.from != 0 || r.head+at+2 > len(r.b) {
		return 0
	}
	return r.head + at
}

// ends are the addresses with the ports, if these are there.
func (r reading) ends() (src, dst netip.AddrPort, ok bool) {
	if r.from != 0 || r.protocol != 6 && r.protocol != 17 || r.head+4 > len(r.b) {
		return netip.AddrPortFrom(r.src, 0), netip.AddrPortFrom(r.dst, 0), false
	}
	p := r.b[r.head:]
	return netip.AddrPortFrom(r.src, binary.BigEndian.Uint16(p)), netip.AddrPortFrom(r.dst, binary.BigEndian.Uint16(p[2:])), true
}

// quotes reads what an ICMP error quotes.
func (r reading) quotes() (q reading, ok bool) {
	if r.fragment() || r.head+8 > len(r.b) {
		return q, false
	}
	kind := r.b[r.head]
	if r.v6 && (r.protocol != 58 || kind >= 128) || !r.v6 && (r.protocol != 1 || kind != 3 && kind != 4 && kind != 11) {
		return q, false
	}
	q, ok = read(r.b[r.head+8:], true)
	return q, ok && q.v6 == r.v6
}

// inside reads the packet that a tunnel has put into this one.
func (r reading) inside(quoted bool) (in reading, ok bool) {
	if r.from != 0 || r.head > len(r.b) {
		return in, false
	}
	b := r.b[r.head:]
	switch {
	case r.protocol == 4 || r.protocol == 41:
	case r.protocol == 47 && len(b) >= 8 && b[0] == 0x80:
		b = b[8:]
	case r.protocol == 47 && len(b) >= 4 && b[0] == 0:
		b = b[4:]
	case r.protocol == 17 && len(b) >= 12:
		b = b[12:]
	default:
		return in, false
	}
	return read(b, quoted)
}

// sum is the one's complement sum of bytes, on top of another.
func sum(b []byte, of uint64) uint64 {
	for i := 0; i < len(b)-1; i += 2 {
		of += uint64(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 != 0 {
		of += uint64(b[len(b)-1]) << 8
	}
	for of > 0xffff {
		of = of>>16 + of&0xffff
	}
	return of
}

// pseudo is the sum of the pseudo header.
func (r reading) pseudo(length int) uint64 {
	if r.protocol == 1 {
		return 0
	}
	from, to := 12, 20
	if r.v6 {
		from, to = 8, 40
	}
	return sum(r.b[from:to], uint64(r.protocol)+uint64(length))
}

// valid says of each checksum of the packet, and of what it quotes, whether it is there and right.
func (r reading) valid() (header, transport, quotedHeader, quotedTransport bool) {
	header = r.v6 || r.head <= len(r.b) && sum(r.b[:r.head], 0) == 0xffff
	if at := r.checksum(); at != 0 && !r.fragment() {
		segment := r.b[r.head:]
		if r.protocol == 17 {
			if n := int(binary.BigEndian.Uint16(segment[4:])); n >= 8 && n <= len(segment) {
				segment = segment[:n]
			}
		}
		none := r.protocol == 17 && binary.BigEndian.Uint16(r.b[at:]) == 0
		transport = none || sum(segment, r.pseudo(len(segment))) == 0xffff
	}
	if q, ok := r.quotes(); ok && q.head <= len(q.b) {
		total := 40
		if q.v6 {
			total += int(binary.BigEndian.Uint16(q.b[4:]))
		} else {
			total = int(binary.BigEndian.Uint16(q.b[2:]))
		}
		if whole := total >= q.head && total <= len(q.b); whole {
			q.b = q.b[:total]
			quotedHeader, quotedTransport, _, _ = q.valid()
		} else {
			q.more = true // what is not whole cannot be added up
			quotedHeader, _, _, _ = q.valid()
		}
	}
	return
}

// masked gives the packet without what a translation may change: addresses, ports, and the checksums over them; and the TTL of
// one that is not quoted.
func (r reading) masked(quoted bool) []byte {
	b := append([]byte(nil), r.b...)
	m := r
	m.b = b
	if !quoted {
		*m.ttl() = 0
	}
	if r.v6 {
		clear(b[8:40])
	} else {
		clear(b[10:20])
	}
	if at := m.checksum(); at != 0 {
		clear(b[at:][:2])
	}
	if _, _, ok := r.ends(); ok {
		clear(b[r.head:][:4])
	}
	if q, ok := r.quotes(); ok {
		copy(b[r.head+8:], q.masked(true))
	}
	return b
}
