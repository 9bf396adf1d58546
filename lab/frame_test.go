// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

var (
	cip4, vip4 = netip.MustParseAddr("172.16.249.10"), netip.MustParseAddr("172.16.50.50")
	cip6, vip6 = netip.MustParseAddr("2001:db8::10"), netip.MustParseAddr("2001:db8::50")
	dip4, rip4 = netip.MustParseAddr("172.16.50.10"), netip.MustParseAddr("192.168.100.2")
	dip6, rip6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
)

func ethernet(ip []byte) []byte {
	b := []byte{2, 0, 0, 0, 2, 0, 2, 0, 0, 0, 1, 0, 8, 0}
	if ip[0]>>4 == 6 {
		b[12], b[13] = 0x86, 0xdd
	}
	return append(b, ip...)
}

func ip(from, to netip.Addr, protocol byte, payload []byte) []byte {
	if from.Is4() {
		b := make([]byte, 20)
		b[0], b[9] = 0x45, protocol
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
		return append(append(append(b[:12], from.AsSlice()...), to.AsSlice()...), payload...)
	}
	b := make([]byte, 8)
	b[0], b[6] = 0x60, protocol
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	return append(append(append(b, from.AsSlice()...), to.AsSlice()...), payload...)
}

func tcp(flags byte, options ...byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, 40000)
	binary.BigEndian.PutUint16(b[2:], 80)
	b[12], b[13] = byte(20+len(options))<<2, flags
	return append(b, options...)
}

var frames = []struct {
	about string
	bytes []byte
	want  frame // without MAC addresses
}{
	{"IPv4", ethernet(ip(cip4, vip4, 6, tcp(0x02))), frame{ip: [2]netip.AddrPort{at(cip4, 40000), at(vip4, 80)}, flags: "SYN"}},
	{"IPv6, with more flags", ethernet(ip(vip6, cip6, 6, tcp(0xd2))), frame{ip: [2]netip.AddrPort{at(vip6, 40000), at(cip6, 80)}, flags: "SYN+ACK"}},
	{"IPv4 in IPv4", ethernet(ip(dip4, rip4, 4, ip(cip4, vip4, 6, tcp(0x02)))),
		frame{tunnel: "ipip", outer: [2]netip.Addr{dip4, rip4}, ip: [2]netip.AddrPort{at(cip4, 40000), at(vip4, 80)}, flags: "SYN"}},
	{"IPv6 in IPv4", ethernet(ip(dip4, rip4, 41, ip(cip6, vip6, 6, tcp(0x10)))),
		frame{tunnel: "ipip", outer: [2]netip.Addr{dip4, rip4}, ip: [2]netip.AddrPort{at(cip6, 40000), at(vip6, 80)}, flags: "ACK"}},
	{"GRE with a checksum", ethernet(ip(dip6, rip6, 47, append([]byte{0x80, 0, 8, 0, 1, 2, 3, 4}, ip(cip4, vip4, 6, tcp(0x02))...))),
		frame{tunnel: "gre", outer: [2]netip.Addr{dip6, rip6}, ip: [2]netip.AddrPort{at(cip4, 40000), at(vip4, 80)}, flags: "SYN"}},
	{"GUE with four more bytes", ethernet(ip(dip4, rip4, 17, append([]byte{0, 1, 0x17, 0xc0, 0, 0, 0, 0, 1, 41, 0, 0, 9, 9, 9, 9}, ip(cip6, vip6, 6, tcp(0x02))...))),
		frame{tunnel: "gue", outer: [2]netip.Addr{dip4, rip4}, ip: [2]netip.AddrPort{at(cip6, 40000), at(vip6, 80)}, flags: "SYN"}},
	{"the client of IPv4, after NOPs", ethernet(ip(dip4, rip4, 6, tcp(0x10, 1, 1, 254, 8, 0x9c, 0x40, 172, 16, 249, 10, 1, 1))),
		frame{ip: [2]netip.AddrPort{at(dip4, 40000), at(rip4, 80)}, flags: "ACK", toa: at(cip4, 40000)}},
	{"the client of IPv6", ethernet(ip(dip6, rip6, 6, tcp(0x10, append([]byte{254, 20, 0x9c, 0x40}, cip6.AsSlice()...)...))),
		frame{ip: [2]netip.AddrPort{at(dip6, 40000), at(rip6, 80)}, flags: "ACK", toa: at(cip6, 40000)}},
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func TestDecode(t *testing.T) {
	for _, c := range frames {
		t.Run(c.about, func(t *testing.T) {
			c.want.mac = [2]string{"02:00:00:00:01:00", "02:00:00:00:02:00"}
			if got, ok := decode(c.bytes); !ok || got != c.want {
				t.Errorf("%+v, %v; not %+v", got, ok, c.want)
			}
			for n := range c.bytes {
				if _, ok := decode(c.bytes[:n]); ok {
					t.Errorf("the first %d of %d bytes are a frame, too", n, len(c.bytes))
				}
			}
		})
	}
	if _, ok := decode(ethernet(ip(dip4, rip4, 4, ip(dip4, rip4, 4, ip(cip4, vip4, 6, tcp(0x02)))))); ok {
		t.Error("a tunnel in a tunnel")
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range frames {
		f.Add(c.bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) { decode(b) })
}
