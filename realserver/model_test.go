// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// header is an IP header, as the model reads it.
type header struct {
	v6             bool
	dst            netip.Addr
	header, length int
	protocol, ecn  byte
	fragment       bool
}

// readIP reads an IP header; ok is whether its lengths can be.
func readIP(b []byte, v6 bool) (h header, short, ok bool) {
	h.v6 = v6
	if v6 {
		if len(b) < 40 {
			return h, true, false
		}
		h.header, h.length, h.protocol = 40, 40+int(binary.BigEndian.Uint16(b[4:])), b[6]
		h.dst, _ = netip.AddrFromSlice(b[24:40])
		h.ecn = b[1] >> 4 & 3
		h.fragment = h.protocol == unix.IPPROTO_FRAGMENT
		return h, false, b[0]>>4 == 6 && h.length <= len(b)
	}
	if len(b) < 20 {
		return h, true, false
	}
	h.header, h.length, h.protocol = int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:])), b[9]
	h.dst, _ = netip.AddrFromSlice(b[16:20])
	h.ecn = b[1] & 3
	h.fragment = binary.BigEndian.Uint16(b[6:])&0x3fff != 0
	return h, false, b[0]>>4 == 4 && h.header >= 20 && h.header <= h.length && h.length <= len(b)
}

// model says what is to become of a frame for a host that forwards nothing. A dropped frame has no bytes.
func model(in []byte) ([]byte, bpfDecap) {
	ethertype := binary.BigEndian.Uint16(in[12:])
	if !bytes.Equal(in[:6], make([]byte, 6)) || (ethertype != unix.ETH_P_IP && ethertype != unix.ETH_P_IPV6) {
		return in, nothing
	}
	outer, _, ok := readIP(in[14:], ethertype == unix.ETH_P_IPV6)
	if !ok {
		return in, nothing
	}
	b := in[14+outer.header : 14+outer.length]
	if outer.fragment {
		if slices.Contains([]byte{unix.IPPROTO_IPIP, unix.IPPROTO_IPV6, unix.IPPROTO_GRE}, outer.protocol) {
			return in, bpfDecapDECAP_FRAGMENT
		}
		return in, nothing
	}
	b, inner6, what := unwrap(outer.protocol, b)
	if b == nil {
		return in, what
	}
	inner, short, ok := readIP(b, inner6)
	switch {
	case short:
		return in, bpfDecapDECAP_MALFORMED
	case inner.dst != vip4 && inner.dst != vip6:
		return in, nothing
	case !ok:
		return in, bpfDecapDECAP_MALFORMED
	case outer.ecn == 3 && inner.ecn == 0:
		return nil, bpfDecapDECAP_CONGESTED
	}
	tail := in[14+outer.length:]
	b = slices.Concat(b, tail)
	if outer.ecn == 3 {
		markCE(b)
	}
	ethertype = unix.ETH_P_IP
	if inner6 {
		ethertype = unix.ETH_P_IPV6
	}
	return slices.Concat(in[:12], be16(int(ethertype)), b), bpfDecapDECAP_DONE
}

func markCE(b []byte) {
	if b[0]>>4 == 6 {
		b[1] |= 3 << 4
		return
	}
	old := b[1]
	b[1] |= 3
	s := uint32(^binary.BigEndian.Uint16(b[10:])) + uint32(b[1]-old)
	binary.BigEndian.PutUint16(b[10:], ^uint16(s&0xffff+s>>16))
}

// unwrap takes off what is between the IP headers; without bytes, it says why not.
func unwrap(protocol byte, b []byte) (inner []byte, v6 bool, what bpfDecap) {
	switch protocol {
	case unix.IPPROTO_IPIP, unix.IPPROTO_IPV6:
		return append([]byte{}, b...), protocol == unix.IPPROTO_IPV6, nothing
	case unix.IPPROTO_GRE:
		if len(b) < 4 {
			return nil, false, bpfDecapDECAP_MALFORMED
		}
		ethertype := binary.BigEndian.Uint16(b[2:])
		if b[0]&^0x80 != 0 || b[1] != 0 || ethertype != unix.ETH_P_IP && ethertype != unix.ETH_P_IPV6 {
			return nil, false, bpfDecapDECAP_UNSUPPORTED
		}
		skip := 4
		if b[0] != 0 {
			skip = 8
		}
		return append([]byte{}, b[min(skip, len(b)):]...), ethertype == unix.ETH_P_IPV6, nothing
	case unix.IPPROTO_UDP:
		if len(b) < 8 || binary.BigEndian.Uint16(b[2:]) != DefaultGUEPort {
			return nil, false, nothing
		}
		if int(binary.BigEndian.Uint16(b[4:])) != len(b) || len(b) < 12 {
			return nil, false, bpfDecapDECAP_MALFORMED
		}
		if b[8] != 0 || b[10] != 0 || b[11] != 0 || b[9] != unix.IPPROTO_IPIP && b[9] != unix.IPPROTO_IPV6 {
			return nil, false, bpfDecapDECAP_UNSUPPORTED
		}
		return append([]byte{}, b[12:]...), b[9] == unix.IPPROTO_IPV6, nothing
	}
	return nil, false, nothing
}
