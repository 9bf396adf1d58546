// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"lvs"
)

const narrow = 600 // bytes, the MTU of every way in these tests

// mustNarrow has ways with a small MTU, except to one server of each family, to which there is none.
func mustNarrow(t testing.TB) *Director {
	d := New(Options{Size: 4, Route: func(a netip.Addr) (Hop, bool) {
		hop, ok := route(a)
		hop.MTU = narrow
		return hop, ok
	}})
	for svc, server := range map[string]string{vip: real, "10.9.0.2:80": "10.66.0.1:80", vip6: real6, "[2001:db8:9::2]:80": "[2001:db8:66::1]:80"} {
		for _, p := range []lvs.Protocol{lvs.TCP, lvs.UDP} {
			mustUpdate(t, d, addService(p, svc, "rr"), addServer(p, svc, server, nat(1)))
		}
	}
	return d
}

// TestAnswers: which ICMP error says what.
func TestAnswers(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for _, c := range []struct {
		sense      string
		in         frame
		kind, code byte
		mtu        uint32
		reason     Reason
	}{
		{"the hops are used up", frame{from: client, to: vip, flags: "S", ttl: 1}, 11, 0, 0, TTL},
		{"over IPv6", frame{from: client6, to: vip6, flags: "S", ttl: 1}, 3, 0, 0, TTL},
		{"no way to the server", frame{from: client, to: "10.9.0.2:80", flags: "S"}, 3, 1, 0, NoRoute},
		{"over IPv6", frame{from: client6, to: "[2001:db8:9::2]:80", flags: "S"}, 1, 3, 0, NoRoute},
		{"larger than the way on", frame{from: client, to: vip, udp: true, payload: long}, 3, 4, narrow, TooBig},
		{"over IPv6", frame{from: client6, to: vip6, udp: true, payload: long}, 2, 0, narrow, TooBig},
	} {
		t.Run(c.sense, func(t *testing.T) {
			d := mustNarrow(t)
			in := c.in.mustPacket(t)
			r := d.Packet(in)
			if r.Verdict != Answer || r.Reason != c.reason {
				t.Fatalf("%v %q", r.Verdict, r.Reason)
			}
			mustChecksums(t, r.Frame)
			icmp := r.Frame[ethernetHeader+20:]
			if c.in.to[0] == '[' {
				icmp = r.Frame[ethernetHeader+40:]
			}
			if icmp[0] != c.kind || icmp[1] != c.code || binary.BigEndian.Uint32(icmp[4:]) != c.mtu {
				t.Errorf("type %d code %d MTU %d", icmp[0], icmp[1], binary.BigEndian.Uint32(icmp[4:]))
			}
			p, _ := parse(in.Frame)
			if !bytes.Equal(icmp[8:], in.Frame[p.ip:min(p.end, p.ip+quoted)]) {
				t.Error("it does not quote the packet")
			}
			if n := len(conns(d)); n != 1 {
				t.Errorf("%d connections, want 1", n)
			}
		})
	}
}

// TestTooBigForTheStack: what may be cut is cut by the stack, translated. What a server sends and may not be cut, the
// stack complains of, to the server, as it came.
func TestTooBigForTheStack(t *testing.T) {
	mayFragment := func(l3, _ gopacket.SerializableLayer) { l3.(*layers.IPv4).Flags = 0 }
	long := strings.Repeat("x", 1000)
	for _, c := range []struct {
		sense string
		in    frame
		out   frame // if it is translated
	}{
		{"from a client", frame{from: client, to: vip, udp: true, payload: long, edit: mayFragment},
			frame{from: client, to: real, udp: true, payload: long, edit: mayFragment, ttl: 63}},
		{"from a server", frame{from: real, to: client, udp: true, payload: long, edit: mayFragment},
			frame{from: vip, to: client, udp: true, payload: long, edit: mayFragment, ttl: 63}},
		{"from a server, not to be cut", frame{from: real, to: client, udp: true, payload: long}, frame{}},
	} {
		t.Run(c.sense, func(t *testing.T) {
			d := mustNarrow(t)
			mustForward(t, d, frame{from: client, to: vip, udp: true})
			in := c.in.mustPacket(t)
			r := d.Packet(in)
			var want []byte
			if c.out.to != "" {
				want = c.out.mustPacket(t).Frame
				copy(want, in.Frame[:12])
			}
			if r.Verdict != Pass || r.Reason != TooBig || !bytes.Equal(r.Frame, want) {
				t.Errorf("%v %q\n% x, want\n% x", r.Verdict, r.Reason, r.Frame, want)
			}
		})
	}
}
