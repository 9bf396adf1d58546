// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"lvs/needs"
)

var (
	clientAddr4, clientAddr6     = netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:c::7")
	directorAddr4, directorAddr6 = netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("2001:db8:9::1")
	serverAddr4, serverAddr6     = netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("2001:db8:9::2")
)

func be16(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }

func sum(b []byte) uint16 {
	var s uint32
	for i := range len(b) / 2 {
		s += uint32(binary.BigEndian.Uint16(b[2*i:]))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

// ip puts an IP header before a payload. The families of source and destination are the packet's.
func ip(src, dst netip.Addr, protocol, tos byte, payload []byte) []byte {
	if src.Is4() {
		h := slices.Concat([]byte{0x45, tos}, be16(20+len(payload)), []byte{0, 1, 0x40, 0, 64, protocol, 0, 0}, src.AsSlice(), dst.AsSlice())
		binary.BigEndian.PutUint16(h[10:], sum(h))
		return append(h, payload...)
	}
	return slices.Concat([]byte{0x60 | tos>>4, tos << 4, 0, 0}, be16(len(payload)), []byte{protocol, 64}, src.AsSlice(), dst.AsSlice(), payload)
}

func frame(packet []byte) []byte {
	ethertype := be16(unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		ethertype = be16(unix.ETH_P_IPV6)
	}
	return slices.Concat(make([]byte, 12), ethertype, packet)
}

func udp(src, dst int, payload []byte) []byte {
	return slices.Concat(be16(src), be16(dst), be16(8+len(payload)), be16(0), payload)
}

func protocolOf(packet []byte) byte {
	if packet[0]>>4 == 6 {
		return unix.IPPROTO_IPV6
	}
	return unix.IPPROTO_IPIP
}

// tunnels are the ways to wrap a packet: the protocol and what comes after the outer IP header.
var tunnels = map[string]func(packet []byte) (byte, []byte){
	"ipip": func(p []byte) (byte, []byte) { return protocolOf(p), p },
	"gre":  func(p []byte) (byte, []byte) { return unix.IPPROTO_GRE, gre(0, nil, p) },
	"gre with checksum": func(p []byte) (byte, []byte) {
		b := gre(0x80, make([]byte, 4), p)
		binary.BigEndian.PutUint16(b[4:], sum(append(slices.Clone(b), 0)))
		return unix.IPPROTO_GRE, b
	},
	"gue": func(p []byte) (byte, []byte) { return unix.IPPROTO_UDP, udp(40000, DefaultGUEPort, gue(0, p)) },
}

func gre(flags byte, options, p []byte) []byte {
	ethertype := be16(unix.ETH_P_IP)
	if p[0]>>4 == 6 {
		ethertype = be16(unix.ETH_P_IPV6)
	}
	return slices.Concat([]byte{flags, 0}, ethertype, options, p)
}

func gue(first byte, p []byte) []byte { return append([]byte{first, protocolOf(p), 0, 0}, p...) }

// tunnelled puts a packet into a tunnel from director to server.
func tunnelled(tunnel string, outer6 bool, tos byte, packet []byte) []byte {
	protocol, payload := tunnels[tunnel](packet)
	if outer6 {
		return ip(directorAddr6, serverAddr6, protocol, tos, payload)
	}
	return ip(directorAddr4, serverAddr4, protocol, tos, payload)
}

// program is the loaded program in a namespace of its own, in which no packet is forwarded.
type program struct {
	t       testing.TB
	ns      namespace
	program *ebpf.Program
	counts  *ebpf.Map
	context any // of the packets, a struct __sk_buff
}

func mustProgram(t testing.TB) *program {
	t.Helper()
	needs.NetNS(t)
	needs.BPF(t)
	c, err := load(nil, bpfProgRealserverDecap)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for _, a := range []netip.Addr{vip4, vip6} {
		if err := c.Maps[bpfMapVips].Put(key(a), uint8(1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Maps[bpfMapGuePorts].Put(swapped(DefaultGUEPort), uint8(1)); err != nil {
		t.Fatal(err)
	}
	ns := mustNamespace(t)
	mustSetUp(t, ns, "lo")
	return &program{t, ns, c.Programs[bpfProgRealserverDecap], c.Maps[bpfMapDecaps], nil}
}

// runnable says whether the kernel runs programs on a frame: shorter ones it refuses, as its drivers would.
func runnable(b []byte) bool {
	if len(b) < 15 {
		return false
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case unix.ETH_P_IP:
		return len(b) >= 14+20
	case unix.ETH_P_IPV6:
		return len(b) >= 14+40
	}
	return true
}

const nothing = bpfDecapDECAPS // became of a packet

func (p *program) sums() (all [bpfDecapDECAPS]uint64) {
	p.t.Helper()
	for i := range all {
		var each []uint64
		if err := p.counts.Lookup(uint32(i), &each); err != nil {
			p.t.Fatal(err)
		}
		for _, n := range each {
			all[i] += n
		}
	}
	return all
}

// mustRun gives the verdict, the frame and what was counted.
func (p *program) mustRun(in []byte) (drop bool, out []byte, what bpfDecap) {
	p.t.Helper()
	before := p.sums()
	o := ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256), Context: p.context}
	var r uint32
	p.ns.must(p.t, func() (err error) {
		r, err = p.program.Run(&o)
		return err
	})
	what = nothing
	for i, n := range p.sums() {
		if n != before[i] {
			if what != nothing || n != before[i]+1 {
				p.t.Errorf("counted more than once: %x", in)
			}
			what = bpfDecap(i)
		}
	}
	const shot = 2
	if r != shot && int32(r) != -1 {
		p.t.Errorf("verdict %d", int32(r))
	}
	return r == shot, o.DataOut, what
}

var hello = map[bool][]byte{
	false: ip(clientAddr4, vip4, unix.IPPROTO_UDP, 0, udp(4000, 53, []byte("hi"))),
	true:  ip(clientAddr6, vip6, unix.IPPROTO_UDP, 0, udp(4000, 53, []byte("hi"))),
}

// everyWay calls a function with each way to wrap a packet of either family for the real server.
func everyWay(f func(name string, frame, inner []byte)) {
	for tunnel := range tunnels {
		for _, outer6 := range []bool{false, true} {
			for inner6, packet := range hello {
				name := fmt.Sprintf("%s %s in %s", tunnel, map[bool]string{false: "IPv4", true: "IPv6"}[inner6], map[bool]string{false: "IPv4", true: "IPv6"}[outer6])
				f(name, frame(tunnelled(tunnel, outer6, 0, packet)), packet)
			}
		}
	}
}

func TestTakenOutOfTunnels(t *testing.T) {
	p := mustProgram(t)
	everyWay(func(name string, in, inner []byte) {
		drop, out, what := p.mustRun(in)
		if drop || what != bpfDecapDECAP_DONE || !bytes.Equal(out, frame(inner)) {
			t.Errorf("%s: drop %v, counted %d\ngot  %x\nwant %x", name, drop, what, out, frame(inner))
		}
	})
}

// mustAgree compares the program with the model.
func mustAgree(t testing.TB, p *program, name string, in []byte) {
	t.Helper()
	drop, out, what := p.mustRun(in)
	wantOut, wantWhat := model(in)
	if drop != (wantOut == nil) || what != wantWhat || !drop && !bytes.Equal(out, wantOut) {
		t.Errorf("%s: %x\ndrop %v, counted %d: %x\nwant %v, counted %d: %x", name, in, drop, what, out, wantOut == nil, wantWhat, wantOut)
	}
}

// TestTruncated cuts each packet at each length: what remains is left as it is.
func TestTruncated(t *testing.T) {
	p := mustProgram(t)
	everyWay(func(name string, in, _ []byte) {
		for n := range len(in) {
			if !runnable(in[:n]) {
				continue
			}
			drop, out, what := p.mustRun(in[:n])
			if drop || what == bpfDecapDECAP_DONE || !bytes.Equal(out, in[:n]) {
				t.Errorf("%s, %d bytes of it: drop %v, counted %d: %x", name, n, drop, what, out)
			}
			mustAgree(t, p, name, in[:n])
		}
	})
}

// TestEachByteWrong changes each byte of each packet in each way that a header would notice.
func TestEachByteWrong(t *testing.T) {
	p := mustProgram(t)
	everyWay(func(name string, in, _ []byte) {
		for i := range in {
			for _, with := range []byte{0x01, 0x03, 0x10, 0x80, 0xff} {
				b := slices.Clone(in)
				b[i] ^= with
				mustAgree(t, p, name, b)
			}
		}
	})
}

func TestLeftToTheKernel(t *testing.T) {
	p := mustProgram(t)
	stranger := ip(clientAddr4, serverAddr4, unix.IPPROTO_UDP, 0, udp(4000, 53, nil))
	v4 := hello[false]
	outer := func(protocol byte, payload []byte) []byte {
		return frame(ip(directorAddr4, serverAddr4, protocol, 0, payload))
	}
	fragment := outer(unix.IPPROTO_IPIP, v4)
	fragment[14+6] = 0x20
	ecn := frame(tunnelled("ipip", false, 3, ip(clientAddr4, vip4, unix.IPPROTO_UDP, 2, udp(4000, 53, nil))))
	for _, test := range []struct {
		sentence string
		in       []byte
		drop     bool
		what     bpfDecap
	}{
		{"a plain packet for the virtual address", frame(v4), false, nothing},
		{"a tunnelled packet for somebody else", outer(unix.IPPROTO_IPIP, stranger), false, nothing},
		{"a tunnel in a tunnel loses the outer one only if the inner is for a virtual address",
			outer(unix.IPPROTO_IPIP, ip(directorAddr4, serverAddr4, unix.IPPROTO_IPIP, 0, v4)), false, nothing},
		{"a fragment of a tunnelled packet", fragment, false, bpfDecapDECAP_FRAGMENT},
		{"GRE with a key", outer(unix.IPPROTO_GRE, gre(0x20, make([]byte, 4), v4)), false, bpfDecapDECAP_UNSUPPORTED},
		{"GUE to another port", outer(unix.IPPROTO_UDP, udp(1, 4789, gue(0, v4))), false, nothing},
		{"GUE of version 1", outer(unix.IPPROTO_UDP, udp(1, DefaultGUEPort, gue(0x40, v4))), false, bpfDecapDECAP_UNSUPPORTED},
		{"GUE control", outer(unix.IPPROTO_UDP, udp(1, DefaultGUEPort, gue(0x20, v4))), false, bpfDecapDECAP_UNSUPPORTED},
		{"congestion that the sender does not know of", frame(tunnelled("ipip", false, 3, v4)), true, bpfDecapDECAP_CONGESTED},
		{"congestion is handed on", ecn, false, bpfDecapDECAP_DONE},
		{"congestion is handed on in IPv6",
			frame(tunnelled("gre", false, 3, ip(clientAddr6, vip6, unix.IPPROTO_UDP, 1, udp(4000, 53, nil)))), false, bpfDecapDECAP_DONE},
	} {
		drop, _, what := p.mustRun(test.in)
		if drop != test.drop || what != test.what {
			t.Errorf("%s: drop %v, counted %d", test.sentence, drop, what)
		}
		mustAgree(t, p, test.sentence, test.in)
	}
}

// TestWhatCannotBeShortened: the kernel refuses to take headers off a super-packet whose kind it does not know.
func TestWhatCannotBeShortened(t *testing.T) {
	p := mustProgram(t)
	const segments, size = 164, 176 // offsets of gso_segs and gso_size
	context := make([]byte, 192)
	binary.NativeEndian.PutUint32(context[segments:], 2)
	binary.NativeEndian.PutUint32(context[size:], 1)
	p.context = context
	everyWay(func(name string, in, _ []byte) {
		if drop, _, what := p.mustRun(in); !drop || what != bpfDecapDECAP_FAILED {
			t.Errorf("%s: drop %v, counted %d", name, drop, what)
		}
	})
}

// TestForwardedTunnelsGoOn: a real server that is a router, too, does not open what is for another one.
func TestForwardedTunnelsGoOn(t *testing.T) {
	p := mustProgram(t)
	peer := mustNamespace(t)
	mustWire(t, p.ns, peer, "eth0")
	mustSetUp(t, p.ns, "eth0", "10.9.0.2/24", "2001:db8:9::2/64")
	p.ns.must(t, func() error {
		for _, s := range []string{"net/ipv4/conf/lo/forwarding", "net/ipv4/conf/eth0/forwarding", "net/ipv6/conf/all/forwarding"} {
			if err := writeSetting(s, "1"); err != nil {
				return err
			}
		}
		return nil
	})
	everyWay(func(name string, in, inner []byte) {
		if _, _, what := p.mustRun(in); what != bpfDecapDECAP_DONE {
			t.Errorf("%s: for this host: counted %d", name, what)
		}
		other := slices.Clone(in)
		if strings.HasSuffix(name, "in IPv6") {
			other[14+39] = 9
		} else {
			other[14+19] = 9
		}
		if drop, out, what := p.mustRun(other); drop || what != bpfDecapDECAP_FOREIGN || !bytes.Equal(out, other) {
			t.Errorf("%s: for another host: counted %d", name, what)
		}
	})
}

func FuzzDecap(f *testing.F) {
	p := mustProgram(f)
	everyWay(func(_ string, in, _ []byte) { f.Add(in) })
	f.Fuzz(func(t *testing.T, in []byte) {
		if !runnable(in) || len(in) > 2000 {
			return
		}
		p.t = t
		mustAgree(t, p, "fuzz", in)
	})
}
