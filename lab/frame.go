// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// frame is what is read of an Ethernet frame that carries TCP, in a tunnel or not.
type frame struct {
	mac    [2]string // source and destination, as all pairs here
	tunnel string    // ipip, gre or gue
	outer  [2]netip.Addr
	ip     [2]netip.AddrPort
	flags  string         // "SYN", "SYN+ACK" or "ACK"; of others, none
	toa    netip.AddrPort // the client that TCP option 254 names
}

// decode reads a frame, and tells whether it is one.
func decode(b []byte) (f frame, ok bool) {
	if len(b) < 14 {
		return f, false
	}
	f.mac = [2]string{net.HardwareAddr(b[6:12]).String(), net.HardwareAddr(b[:6]).String()}
	return f, f.packet(b[14:], binary.BigEndian.Uint16(b[12:]))
}

func (f *frame) packet(b []byte, ethertype uint16) bool {
	var ip [2]netip.Addr
	var protocol byte
	switch {
	case ethertype == unix.ETH_P_IP && len(b) >= 20:
		header, whole := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		if header < 20 || whole < header || whole > len(b) {
			return false
		}
		ip = [2]netip.Addr{netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))}
		protocol, b = b[9], b[header:whole]
	case ethertype == unix.ETH_P_IPV6 && len(b) >= 40:
		whole := 40 + int(binary.BigEndian.Uint16(b[4:]))
		if whole > len(b) {
			return false
		}
		ip = [2]netip.Addr{netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))}
		protocol, b = b[6], b[40:whole]
	default:
		return false
	}
	if protocol == unix.IPPROTO_TCP {
		return f.tcp(ip, b)
	}
	if f.tunnel != "" {
		return false
	}
	f.outer = ip
	var inner uint16
	f.tunnel, inner, b = tunnel(protocol, b)
	return f.tunnel != "" && f.packet(b, inner)
}

// tunnel finds the packet that another one carries.
func tunnel(protocol byte, b []byte) (name string, ethertype uint16, inner []byte) {
	switch {
	case protocol == unix.IPPROTO_UDP && len(b) >= 12 && b[8]>>5 == 0: // GUE, version 0, data
		protocol, inner = b[9], b[min(len(b), 12+int(b[8]&31)*4):]
		name = "gue"
	case protocol == unix.IPPROTO_GRE && len(b) >= 4:
		header := 4
		for bit := range 3 { // a checksum, a key and a sequence number are four bytes each
			if b[0]&[]byte{0x80, 0x20, 0x10}[bit] != 0 {
				header += 4
			}
		}
		return "gre", binary.BigEndian.Uint16(b[2:]), b[min(len(b), header):]
	default:
		name, inner = "ipip", b
	}
	switch protocol {
	case unix.IPPROTO_IPIP:
		return name, unix.ETH_P_IP, inner
	case unix.IPPROTO_IPV6:
		return name, unix.ETH_P_IPV6, inner
	}
	return "", 0, nil
}

const (
	optionTOA  = 254
	flagsOfTCP = 0x17 // FIN, SYN, RST, ACK
)

func (f *frame) tcp(ip [2]netip.Addr, b []byte) bool {
	if len(b) < 20 {
		return false
	}
	for i := range f.ip {
		f.ip[i] = netip.AddrPortFrom(ip[i], binary.BigEndian.Uint16(b[i*2:]))
	}
	f.flags = map[byte]string{0x02: "SYN", 0x12: "SYN+ACK", 0x10: "ACK"}[b[13]&flagsOfTCP]
	header := int(b[12]>>4) * 4
	if header < 20 || header > len(b) {
		return false
	}
	for o := b[20:header]; len(o) > 0 && o[0] != 0; {
		if o[0] == 1 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			return false
		}
		if o[0] == optionTOA && (o[1] == 8 || o[1] == 20) {
			a, _ := netip.AddrFromSlice(o[4:o[1]])
			f.toa = netip.AddrPortFrom(a, binary.BigEndian.Uint16(o[2:]))
		}
		o = o[o[1]:]
	}
	return true
}
