// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"slices"

	"lvs"
)

// wire describes a frame as a story draws it, right or wrong.
type wire struct {
	protocol   lvs.Protocol
	from, to   netip.AddrPort
	flags      byte // of TCP; of SCTP the chunk
	tos, ttl   byte // tos: of IPv4
	payload    int
	words      int    // of TCP's options
	says       string // instead of the payload
	fragment   uint16 // flags and offset as in IPv4
	id         byte   // of the packet that this is a fragment of
	quotes     *wire  // it is an ICMP error about another packet, of which it has
	quoted     int    // so many bytes
	kind       byte   // of ICMP
	tells      []byte // its first eight bytes, if it is not about a narrow way
	options    int    // IPv4: words
	extensions []byte // IPv6: what lies before the transport header
	checksum   wireChecksum
	cut        int // bytes that the frame lacks at its end; negative: that it has more
	damages    []wireDamage
	mark       uint32
	foreign    bool // for another host's MAC address
	tagged     bool // with a VLAN tag
}

// wireDamage is a byte that is not what it should be.
type wireDamage struct {
	at int
	is byte
}

type wireChecksum uint8

const (
	checksumRight wireChecksum = iota
	checksumNone               // 0, which for UDP over IPv4 means that there is none
	checksumWrong
)

// frame gives the bytes, for an interface with the MAC address near.
func (w wire) frame(near, far [6]byte) []byte {
	if w.foreign {
		near[5] ^= 0x11
	}
	b := append(append(slices.Clone(near[:]), far[:]...), 0x08, 0x00)
	if w.from.Addr().Is6() {
		b[12], b[13] = 0x86, 0xdd
		b = append(b, w.ipv6()...)
	} else {
		b = append(b, w.ipv4()...)
	}
	for _, d := range w.damages {
		if d.at < len(b) {
			b[d.at] = d.is
		}
	}
	if w.tagged {
		b = slices.Insert(b, 12, 0x81, 0, 0, 5)
	}
	if w.cut < 0 {
		return append(b, make([]byte, -w.cut)...)
	}
	runt := 14 + 20 // less than the IP header is no frame for BPF_PROG_RUN
	if w.from.Addr().Is6() {
		runt = 14 + 40
	}
	return b[:max(runt, len(b)-w.cut)]
}

func (w wire) ipv4() []byte {
	header := 20 + 4*w.options
	ip := make([]byte, header)
	transport := w.transport(w.from.Addr().AsSlice(), w.to.Addr().AsSlice())
	ip[0], ip[1] = 0x40|byte(header/4), w.tos
	binary.BigEndian.PutUint16(ip[2:], uint16(header+len(transport)))
	ip[4], ip[5] = w.id, w.id
	binary.BigEndian.PutUint16(ip[6:], w.fragment)
	ip[8], ip[9] = w.ttl, w.number()
	copy(ip[12:], w.from.Addr().AsSlice())
	copy(ip[16:], w.to.Addr().AsSlice())
	for i := 20; i < header; i++ {
		ip[i] = 1
	}
	binary.BigEndian.PutUint16(ip[10:], ^wireSum(ip))
	return append(ip, transport...)
}

func (w wire) ipv6() []byte {
	ip := make([]byte, 40)
	transport := w.transport(w.from.Addr().AsSlice(), w.to.Addr().AsSlice())
	ip[0], ip[7] = 0x60, w.ttl
	copy(ip[8:], w.from.Addr().AsSlice())
	copy(ip[24:], w.to.Addr().AsSlice())
	next := w.number()
	var chain []byte
	for i, kind := range slices.Backward(w.extensions) {
		header := make([]byte, 8+8*(i%3))
		header[0] = next
		if kind == 44 {
			binary.BigEndian.PutUint16(header[2:], w.fragment<<3|w.fragment>>13&1)
			header[7] = w.id
		} else {
			header[1] = byte(len(header)/8 - 1)
		}
		chain, next = append(header, chain...), kind
	}
	ip[6] = next
	binary.BigEndian.PutUint16(ip[4:], uint16(len(chain)+len(transport)))
	return append(append(ip, chain...), transport...)
}

// number is that of the transport protocol.
func (w wire) number() byte {
	switch {
	case w.quotes == nil:
		return byte(w.protocol)
	case w.from.Addr().Is6():
		return 58
	}
	return 1
}

// icmp gives the error.
func (w wire) icmp(src, dst []byte) []byte {
	quoted, pseudo := []byte(nil), []byte(nil)
	if w.from.Addr().Is6() {
		quoted = w.quotes.ipv6()
	} else {
		quoted = w.quotes.ipv4()
	}
	b := []byte{w.kind, 4, 0, 0, 0, 0, 2, 88}
	if w.tells != nil {
		b = slices.Clone(w.tells)
	}
	b = append(b, quoted[:min(w.quoted, len(quoted))]...)
	if w.from.Addr().Is6() {
		pseudo = slices.Concat(src, dst, []byte{0, 58, byte(len(b) >> 8), byte(len(b))})
	}
	binary.BigEndian.PutUint16(b[2:], ^wireSum(append(pseudo, b...)))
	return b
}

func (w wire) transport(src, dst []byte) []byte {
	if w.quotes != nil {
		return w.icmp(src, dst)
	}
	if w.protocol == lvs.SCTP {
		return w.sctp()
	}
	b := make([]byte, 20, 20+w.payload)
	field := 16
	if w.protocol == lvs.UDP {
		b, field = b[:8], 6
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(w.content())))
	} else {
		copy(b[4:], "seqnackn\x50f\x20\x00")
		b[12], b[13] = byte(5+w.words)<<4, w.flags
		b = append(b, bytes.Repeat([]byte{1}, 4*w.words)...)
	}
	binary.BigEndian.PutUint16(b, w.from.Port())
	binary.BigEndian.PutUint16(b[2:], w.to.Port())
	b = append(b, w.content()...)
	pseudo := slices.Concat(src, dst, []byte{0, byte(w.protocol), byte(len(b) >> 8), byte(len(b))}, b)
	switch sum := ^wireSum(pseudo); w.checksum {
	case checksumRight:
		if sum == 0 && w.protocol == lvs.UDP {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(b[field:], sum)
	case checksumWrong:
		binary.BigEndian.PutUint16(b[field:], sum^0x1100)
	}
	return b
}

// sctp gives a chunk, whose type is what others have for flags.
func (w wire) sctp() []byte {
	content := w.content()
	b := make([]byte, 16, 16+len(content))
	binary.BigEndian.PutUint16(b, w.from.Port())
	binary.BigEndian.PutUint16(b[2:], w.to.Port())
	b[12] = w.flags
	binary.BigEndian.PutUint16(b[14:], uint16(4+len(content)))
	b = append(b, content...)
	switch sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)); w.checksum {
	case checksumRight:
		binary.LittleEndian.PutUint32(b[8:], sum)
	case checksumWrong:
		binary.LittleEndian.PutUint32(b[8:], sum^0x1100)
	}
	return b
}

func (w wire) content() (b []byte) {
	if w.says != "" {
		return []byte(w.says)
	}
	for i := range w.payload {
		b = append(b, byte(i*7))
	}
	return b
}

func wireSum(b []byte) uint16 {
	var sum uint32
	for i, v := range b {
		sum += uint32(v) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
