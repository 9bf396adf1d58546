// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"lvs"
)

// addWay is a change that adds a service with one server that is reached in a way of its own.
func addWay(id lvs.ServiceID, server netip.Addr, c lvs.ServerConfig) func(*lvs.Table) error {
	return func(t *lvs.Table) error {
		if err := addService(id, "rr")(t); err != nil {
			return err
		}
		c.Weight = 1
		return t.AddServer(id, lvs.ServerID{Addr: server, Port: id.Port}, c)
	}
}

// once gives a packet with one hop less, as the director sends it on.
func once(t testing.TB, frame []byte) []byte {
	t.Helper()
	ip := bytes.Clone(frame[14:])
	if ip[0]>>4 == 6 {
		ip[7]--
		return ip
	}
	ip[8]--
	head := ip[:int(ip[0]&15)*4]
	binary.BigEndian.PutUint16(head[10:], 0)
	binary.BigEndian.PutUint16(head[10:], ^sum16(head))
	return ip
}

func sum16(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// twice runs a SYN through tc, so that the kernel has had its turn to look for the neighbour, and another through p.
func (w *world) twice(p *ebpf.Program, along path) (verdict uint32, in, out []byte) {
	w.run(w.tc, w.clients, along.from(4000).in("S").frame(w.t))
	in = along.from(4001).in("S").frame(w.t)
	verdict, out = w.run(p, w.clients, in)
	if verdict != tcRedirect && verdict != xdpRedirect {
		w.t.Fatalf("the verdict is %d", verdict)
	}
	return verdict, in, out
}

func TestDirectRouting(t *testing.T) {
	for _, along := range []path{tcp4, tcp6} {
		onBothHooks(t, func(t *testing.T, w *world, p *ebpf.Program) {
			along.virtual = netip.AddrPortFrom(along.virtual.Addr(), 90)
			w.mustUpdate(addWay(along.id(), along.server.Addr(), lvs.ServerConfig{Forward: lvs.Route}))
			_, in, out := w.twice(p, along)
			if want := once(t, in); !bytes.Equal(out[14:], want) {
				t.Errorf("the packet is\n%x\nwant\n%x", out[14:], want)
			}
			if !bytes.Equal(out[:6], serverMAC) || !bytes.Equal(out[6:12], routerMAC) {
				t.Errorf("it goes from %x to %x", out[6:12], out[:6])
			}
		})
	}
}

func TestTunnels(t *testing.T) {
	kinds := map[string]lvs.TunnelConfig{
		"ipip": {Type: lvs.IPIP}, "gre": {Type: lvs.GRE}, "gue": {Type: lvs.GUE, Port: 6080},
	}
	for name, tunnel := range kinds {
		for _, along := range []path{tcp4, tcp6} {
			for _, outer := range []path{tcp4, tcp6} {
				t.Run(fmt.Sprintf("%s/%v in %v", name, along.server.Addr(), outer.server.Addr()), func(t *testing.T) {
					onBothHooks(t, func(t *testing.T, w *world, p *ebpf.Program) {
						along := along
						along.virtual = netip.AddrPortFrom(along.virtual.Addr(), 91)
						w.mustUpdate(addWay(along.id(), outer.server.Addr(), lvs.ServerConfig{Forward: lvs.Tunnel, Tunnel: tunnel}))
						_, in, out := w.twice(p, along)
						checkTunnel(t, in, out, outer.server.Addr(), tunnel)
					})
				})
			}
		}
	}
}

// Tunnels begin at the address that the route has when the table is next changed, whatever the change.
func TestTunnelsFollowRoutes(t *testing.T) {
	onBothHooks(t, func(t *testing.T, w *world, p *ebpf.Program) {
		along := tcp4
		along.virtual = netip.AddrPortFrom(along.virtual.Addr(), 92)
		w.mustUpdate(addWay(along.id(), server4, lvs.ServerConfig{Forward: lvs.Tunnel}))
		old, err := netlink.ParseAddr("10.0.0.1/24")
		must(t, err)
		must(t, netlink.AddrDel(w.servers, old))
		mustAddress(t, w.servers, "10.0.0.77/24")
		w.mustUpdate(func(t *lvs.Table) error { return t.DeleteService(udp6.id()) })
		_, _, out := w.twice(p, along)
		if from, _ := netip.AddrFromSlice(out[headers+12 : headers+16]); from != netip.MustParseAddr("10.0.0.77") {
			t.Errorf("the tunnel begins at %v", from)
		}
	})
}

// checkTunnel judges what the tunnel made of a packet: the outer headers one by one, and the packet inside.
func checkTunnel(t *testing.T, in, out []byte, server netip.Addr, tunnel lvs.TunnelConfig) {
	t.Helper()
	inner, proto := once(t, in), layers.IPProtocolIPv4
	if inner[0]>>4 == 6 {
		proto = layers.IPProtocolIPv6
	}
	next, rest := outerHeader(t, out[14:], server)
	switch tunnel.Type {
	case lvs.IPIP:
		if next != proto {
			t.Errorf("the outer protocol is %v, want %v", next, proto)
		}
	case lvs.GRE:
		if ether := binary.BigEndian.Uint16(in[12:]); next != layers.IPProtocolGRE || rest[0]|rest[1] != 0 || binary.BigEndian.Uint16(rest[2:]) != ether {
			t.Errorf("protocol %v, GRE header %x", next, rest[:4])
		}
		rest = rest[4:]
	case lvs.GUE:
		if next != layers.IPProtocolUDP || binary.BigEndian.Uint16(rest[2:]) != tunnel.Port || int(binary.BigEndian.Uint16(rest[4:])) != len(rest) ||
			rest[8] != 0 || rest[9] != byte(proto) || rest[10]|rest[11] != 0 {
			t.Errorf("protocol %v, UDP and GUE header %x", next, rest[:12])
		}
		if source := binary.BigEndian.Uint16(rest); source < 0xc000 {
			t.Errorf("the source port is %d, none for such use", source)
		}
		rest = rest[12:]
	}
	if !bytes.Equal(rest, inner) {
		t.Errorf("inside is\n%x\nwant\n%x", rest, inner)
	}
}

// outerHeader judges the outer IP header, and gives its protocol and what follows.
func outerHeader(t *testing.T, ip []byte, server netip.Addr) (layers.IPProtocol, []byte) {
	t.Helper()
	source := netip.MustParseAddr("10.0.0.1")
	if server.Is6() {
		source = netip.MustParseAddr("fd00::1")
		from, _ := netip.AddrFromSlice(ip[8:24])
		to, _ := netip.AddrFromSlice(ip[24:40])
		if ip[0]>>4 != 6 || from != source || to != server || ip[7] != 63 || int(binary.BigEndian.Uint16(ip[4:])) != len(ip)-40 {
			t.Errorf("the outer header is %x", ip[:40])
		}
		return layers.IPProtocol(ip[6]), ip[40:]
	}
	from, _ := netip.AddrFromSlice(ip[12:16])
	to, _ := netip.AddrFromSlice(ip[16:20])
	if ip[0] != 0x45 || from != source || to != server || ip[8] != 63 || int(binary.BigEndian.Uint16(ip[2:])) != len(ip) || sum16(ip[:20]) != 0xffff {
		t.Errorf("the outer header is %x", ip[:20])
	}
	return layers.IPProtocol(ip[9]), ip[20:]
}
