// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"lvs"
)

// tunnelKinds are all the headers that a tunnel may have.
var tunnelKinds = map[string]lvs.TunnelConfig{
	"ipip": {Type: lvs.IPIP}, "gre": {Type: lvs.GRE}, "gre with checksum": {Type: lvs.GRE, Checksum: lvs.FullChecksum},
	"gue": {Type: lvs.GUE, Port: 6080}, "gue with checksum": {Type: lvs.GUE, Port: 6080, Checksum: lvs.FullChecksum},
}

// tunnelled is a connection that goes through a tunnel, and what a router beyond the director says of a packet of it.
type tunnelled struct {
	*world
	name           string
	service        lvs.ServiceID
	in, out        []byte // a packet as it came, and as it left
	says           complaint
	around         uint32 // bytes of the tunnel's headers
	inner6, outer6 bool
}

// mustTunnel begins a connection to a service with a port of its own.
func (w *world) mustTunnel(name string, kind lvs.TunnelConfig, port uint16, along, outer path) *tunnelled {
	w.t.Helper()
	along.virtual = netip.AddrPortFrom(along.virtual.Addr(), port)
	w.mustUpdate(addWay(along.id(), outer.server.Addr(), lvs.ServerConfig{Forward: lvs.Tunnel, Tunnel: kind}))
	w.twice(w.tc, along)
	u := &tunnelled{world: w, service: along.id(), in: along.from(4000).in("A").frame(w.t), inner6: along.client.Addr().Is6(), outer6: outer.client.Addr().Is6()}
	u.name = fmt.Sprintf("%s, %d, %v in %v", name, along.protocol, along.server.Addr(), outer.server.Addr())
	var verdict uint32
	if verdict, u.out = w.run(w.tc, w.clients, u.in); verdict != tcRedirect {
		w.t.Fatalf("%s: the verdict is %d", u.name, int32(verdict))
	}
	u.says = complaint{macs: [2]net.HardwareAddr{serverMAC, routerMAC}, ttl: 64, kind4: fragNeeded, kind6: tooBig6, mtu: 1400}
	u.says.from, u.says.to = netip.MustParseAddr("10.0.0.77"), netip.MustParseAddr("10.0.0.1")
	if u.outer6 {
		u.says.from, u.says.to = netip.MustParseAddr("fd00::77"), netip.MustParseAddr("fd00::1")
	}
	u.says.quotes = bytes.Clone(u.out[headers:])
	u.around = uint32(len(u.out) - len(u.in))
	for range 2 { // the kernel verifies its neighbours
		w.run(w.tc, w.servers, u.says.frame(w.t))
	}
	return u
}

// mustTunnels makes one of each kind of tunnel, with all families.
func (w *world) mustTunnels() (all []*tunnelled) {
	w.t.Helper()
	for name, kind := range tunnelKinds {
		for _, along := range []path{tcp4, tcp6, udp4, udp6} {
			for _, outer := range []path{tcp4, tcp6} {
				all = append(all, w.mustTunnel(name, kind, 94+uint16(len(all)), along, outer))
			}
		}
	}
	return all
}

// told is what the client has to hear, when the error quotes so many bytes of its packet.
func (u *tunnelled) told(kind4 layers.ICMPv4TypeCode, kind6 layers.ICMPv6TypeCode, mtu uint32, quoted int) []byte {
	inner := once(u.t, u.in)
	frame := bytes.Clone(u.in[:headers])
	copy(frame, routerMAC) // icmpError turns it round
	copy(frame[6:], clientMAC)
	frame = append(frame, inner[:quoted]...)
	return errorQuoting(u.t, frame, kind4, kind6, mtu)
}

// hear runs an error, and says what must become of it; nil is nothing.
func (u *tunnelled) hear(does string, frame, want []byte) {
	u.t.Helper()
	if verdict, out := u.run(u.xdp, u.servers, frame); verdict != xdpPass || !bytes.Equal(out, frame) {
		u.t.Errorf("%s: %s: XDP's verdict is %d", u.name, does, verdict)
	}
	before, reasons := u.mustTotal(), u.mustReasons()
	verdict, out := u.run(u.tc, u.servers, frame)
	if want == nil {
		if verdict != tcPass || !bytes.Equal(out, frame) {
			u.t.Errorf("%s: %s: the verdict is %d, the packet\n%s\nbecomes\n%s", u.name, does, int32(verdict), hex.Dump(frame), hex.Dump(out))
		}
	} else {
		if verdict != tcRedirect || !bytes.Equal(out, want) {
			u.t.Errorf("%s: %s: the verdict is %d, the packet\n%s\nbecomes\n%s\nwant\n%s", u.name, does, int32(verdict), hex.Dump(frame), hex.Dump(out), hex.Dump(want))
		}
		before.OutPackets++
		before.OutBytes += uint64(ipLength(want) - errorHead(want))
	}
	if after := u.mustTotal(); before != after {
		u.t.Errorf("%s: %s: counted %+v, want %+v", u.name, does, after, before)
	}
	if after := u.mustReasons(); want != nil && reasons != after {
		u.t.Errorf("%s: %s: counted %v, want %v", u.name, does, after, reasons)
	}
}

// errorHead is what an error has before what it quotes.
func errorHead(frame []byte) int {
	if frame[12] == 8 {
		return 28
	}
	return 48
}

// TestRelay: what a router beyond the director says of a tunnel's packet is said to the client of its own one.
func TestRelay(t *testing.T) {
	w := mustWorld(t, small)
	for _, u := range w.mustTunnels() {
		all := len(once(t, u.in))
		unreachable4, unreachable6 := icmp4(3, 1), icmp6(1, 3)
		tooBig := u.told(fragNeeded, tooBig6, 1400-u.around, all)
		if !u.outer6 && u.out[headers+6]&0x40 == 0 {
			tooBig = nil // it was free to be fragmented
		}
		u.hear("too big", u.says.frame(t), tooBig)
		for _, other := range []struct {
			kind4 layers.ICMPv4TypeCode
			kind6 layers.ICMPv6TypeCode
			same  bool // the client is told the same
		}{{icmp4(3, 0), icmp6(1, 0), true}, {icmp4(3, 2), icmp6(4, 1), !u.outer6}, {icmp4(3, 3), icmp6(1, 4), true}, {hopsUsed, hopsUsed6, true}} {
			says := u.says
			says.kind4, says.kind6, says.mtu = other.kind4, other.kind6, 0
			want := u.told(unreachable4, unreachable6, 0, all)
			if other.same && u.inner6 == u.outer6 {
				want = u.told(other.kind4, other.kind6, 0, all)
			}
			u.hear("of another kind", says.frame(t), want)
		}
		says := u.says
		says.kind4, says.kind6, says.mtu = icmp4(8, 0), icmp6(128, 0), 0
		u.hear("no error", says.frame(t), nil)
	}
}

// TestRelayCut: with whatever is quoted up to the client's ports nobody is known, with more he is.
func TestRelayCut(t *testing.T) {
	w := mustWorld(t, small)
	for _, u := range w.mustTunnels() {
		says := u.says
		says.kind4, says.kind6, says.mtu = icmp4(3, 1), icmp6(1, 3), 0
		header := 20
		if u.inner6 {
			header = 40
		}
		for n := range len(u.says.quotes) {
			says.quotes = u.says.quotes[:n]
			frame, quoted := says.frame(t), n-int(u.around)
			if quoted < header+4 {
				if verdict, out := u.run(u.tc, u.servers, frame); verdict != tcPass || !bytes.Equal(out, frame) {
					t.Errorf("%s: with %d bytes the verdict is %d", u.name, n, int32(verdict))
				}
				continue
			}
			u.hear(fmt.Sprintf("with %d bytes", n), frame, u.told(icmp4(3, 1), icmp6(1, 3), 0, quoted))
		}
	}
}

// TestRelayHostile: nobody hears of what is not a packet of a tunnel of ours.
func TestRelayHostile(t *testing.T) {
	w := mustWorld(t, small)
	for _, u := range w.mustTunnels() {
		says := u.says
		says.kind4, says.kind6, says.mtu = icmp4(3, 1), icmp6(1, 3), 0
		quotes := func(does string, change func(outer, inner []byte)) {
			says := says
			says.quotes = bytes.Clone(says.quotes)
			change(says.quotes, says.quotes[u.around:])
			frame := says.frame(t)
			if verdict, out := u.run(u.tc, u.servers, frame); verdict != tcPass || !bytes.Equal(out, frame) {
				t.Errorf("%s: %s: the verdict is %d", u.name, does, int32(verdict))
			}
		}
		last, from, protocol := 19, 15, 9 // offsets in headers
		if u.outer6 {
			last, from, protocol = 39, 23, 6
		}
		ports, source, inside := 20, 12, 9
		if u.inner6 {
			ports, source, inside = 40, 8, 6
		}
		quotes("to another server", func(outer, _ []byte) { outer[last]++ })
		quotes("from another director", func(outer, _ []byte) { outer[from]++ })
		quotes("of another protocol", func(outer, _ []byte) { outer[protocol] = 99 })
		quotes("of another version", func(outer, _ []byte) { outer[0] ^= 0x30 })
		quotes("of another version inside", func(_, inner []byte) { inner[0] ^= 0x30 })
		quotes("of another protocol inside", func(_, inner []byte) { inner[inside] = 99 })
		quotes("of another client", func(_, inner []byte) { inner[source]++ })
		quotes("from another port", func(_, inner []byte) { inner[ports]++ })
		quotes("to another port", func(_, inner []byte) { inner[ports+3]++ })
		if !u.outer6 {
			quotes("a later fragment", func(outer, _ []byte) { outer[7] = 1 })
			quotes("an impossible length", func(outer, _ []byte) { outer[0] = 0x44 })
			quotes("options", func(outer, _ []byte) { outer[0] = 0x46 })
		}
		if !u.inner6 {
			quotes("a later fragment inside", func(_, inner []byte) { inner[7] = 1 })
			quotes("an impossible length inside", func(_, inner []byte) { inner[0] = 0x44 })
		}
		frame := says.frame(t)
		frame[len(frame)-1] ^= 1
		u.hear("with a wrong checksum", frame, nil)
		for _, mtu := range []uint32{0, 60, 68 + u.around - 1} {
			says := u.says
			says.mtu = mtu
			u.hear("of a way without room", says.frame(t), nil)
		}
	}
}

// TestRelayNAT: an error about NAT that happens to quote what looks like a tunnel goes nowhere.
func TestRelayNAT(t *testing.T) {
	u := mustWorld(t, small).mustTunnel("ipip", lvs.TunnelConfig{Type: lvs.IPIP}, 94, tcp4, tcp4)
	u.mustServe()
	p := tcp4.from(2000)
	u.run(u.tc, u.clients, p.in("S").frame(t))
	u.run(u.tc, u.servers, p.out("SA").frame(t))
	says := u.says
	says.quotes = append(bytes.Clone(says.quotes[:20]), p.in("A").frame(t)[headers:]...)
	u.hear("about a server of NAT", says.frame(t), nil)
}

// TestRelayRemoved: nor does anybody hear of a server that was removed.
func TestRelayRemoved(t *testing.T) {
	u := mustWorld(t, small).mustTunnel("gre", lvs.TunnelConfig{Type: lvs.GRE}, 94, tcp4, tcp6)
	u.mustUpdate(func(t *lvs.Table) error {
		return t.DeleteServer(u.service, lvs.ServerID{Addr: server6, Port: 94})
	})
	before := u.mustReasons()
	before[bpfReasonREASON_REMOVED]++
	if verdict, _ := u.run(u.tc, u.servers, u.says.frame(t)); verdict != tcDrop || u.mustReasons() != before {
		t.Errorf("the verdict is %d, counted %v", int32(verdict), u.mustReasons())
	}
}
