// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"lvs"
)

// withPolicy is a change that has a service of the protocol treat the connections of removed servers by a policy.
func withPolicy(p lvs.Protocol, svc string, o lvs.OnDead) func(*lvs.Table) error {
	return func(t *lvs.Table) error {
		c := t.Service(serviceID(p, svc)).ServiceConfig
		c.OnDead = o
		return t.EditService(serviceID(p, svc), c)
	}
}

// said tells of a segment as tcpdump would.
func said(t *testing.T, b []byte) string {
	t.Helper()
	mustChecksums(t, b)
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	tcp, ok := p.TransportLayer().(*layers.TCP)
	if !ok {
		t.Fatalf("no segment: %v", p)
	}
	flags := ""
	for _, f := range []struct {
		set  bool
		name string
	}{{tcp.SYN, "S"}, {tcp.FIN, "F"}, {tcp.RST, "R"}, {tcp.ACK, "A"}} {
		if f.set {
			flags += f.name
		}
	}
	net := p.NetworkLayer().NetworkFlow()
	return fmt.Sprintf("%v:%d > %v:%d %s seq %d ack %d length %d", net.Src(), tcp.SrcPort, net.Dst(), tcp.DstPort, flags, tcp.Seq, tcp.Ack, len(tcp.Payload))
}

// numbered gives a segment its numbers.
func numbered(f frame, seq, ack uint32) frame {
	f.edit = func(_, l4 gopacket.SerializableLayer) { l4.(*layers.TCP).Seq, l4.(*layers.TCP).Ack = seq, ack }
	return f
}

// TestReset: what both ends of a connection are told by a packet of either, once its server is removed.
func TestReset(t *testing.T) {
	for _, c := range []struct {
		sense        string
		in           frame
		back, onward string // "" if it is no packet's fate to be answered
	}{
		{"data of the client", numbered(frame{from: client, to: vip, flags: "PA", payload: "hello"}, 1000, 77),
			"10.9.0.1:80 > 10.1.0.1:20000 R seq 77 ack 0 length 0", "10.1.0.1:20000 > 10.2.0.11:8080 RA seq 1000 ack 77 length 0"},
		{"data of the server", numbered(frame{from: real, to: client, flags: "A", payload: "hello"}, 77, 1000),
			"10.1.0.1:20000 > 10.2.0.11:8080 R seq 1000 ack 0 length 0", "10.9.0.1:80 > 10.1.0.1:20000 RA seq 77 ack 1000 length 0"},
		{"the client's end", numbered(frame{from: client, to: vip, flags: "FA"}, 1000, 77),
			"10.9.0.1:80 > 10.1.0.1:20000 R seq 77 ack 0 length 0", "10.1.0.1:20000 > 10.2.0.11:8080 RA seq 1000 ack 77 length 0"},
		{"without ACK", numbered(frame{from: client, to: vip, flags: "F", payload: "hello"}, 1000, 77),
			"10.9.0.1:80 > 10.1.0.1:20000 RA seq 0 ack 1006 length 0", "10.1.0.1:20000 > 10.2.0.11:8080 R seq 1000 ack 0 length 0"},
		{"a RST", numbered(frame{from: client, to: vip, flags: "R"}, 1000, 77),
			"", "10.1.0.1:20000 > 10.2.0.11:8080 R seq 1000 ack 77 length 0"},
		{"the last hop", numbered(frame{from: client, to: vip, flags: "A", ttl: 1}, 1000, 77),
			"10.9.0.1:80 > 10.1.0.1:20000 R seq 77 ack 0 length 0", ""},
	} {
		t.Run(c.sense, func(t *testing.T) {
			d := mustDirector(t)
			mustForward(t, d, segments(client, vip, real, "> S", "< SA", "> A")...)
			mustUpdate(t, d, deleteServer(lvs.TCP, vip, real))
			r := d.Packet(c.in.mustPacket(t))
			back, onward := "", ""
			if r.Back.Frame != nil {
				back = said(t, r.Back.Frame)
			}
			if r.Verdict == Forward {
				onward = said(t, r.Frame)
			}
			if back != c.back || onward != c.onward {
				t.Errorf("answered with %q, goes on as %q\nwant %q, %q", back, onward, c.back, c.onward)
			}
			if want := map[bool]Reason{true: Reset}[c.back != ""]; r.Reason != want {
				t.Errorf("counted as %q, want %q", r.Reason, want)
			}
			if got := conns(d); len(got) != 1 || !strings.Contains(got[0], " CLOSE ") {
				t.Errorf("the connection is %q", got)
			}
		})
	}
}

// TestOnDead: what the next packet of a connection does under each policy, when its server was removed, or is of weight 0.
func TestOnDead(t *testing.T) {
	const other = "10.2.0.12:8080"
	gone := []func(lvs.Protocol) func(*lvs.Table) error{
		func(p lvs.Protocol) func(*lvs.Table) error { return deleteServer(p, vip, real) },
		func(p lvs.Protocol) func(*lvs.Table) error { return editServer(p, vip, real, nat(0)) },
	}
	fates := map[lvs.OnDead][2][3]string{ // TCP, UDP, a SYN; removed, then of weight 0
		lvs.OnDeadKeep:       {{"stays", "stays", "moves"}, {"stays", "stays", "moves"}},
		lvs.OnDeadDrop:       {{"dropped", "dropped", "moves"}, {"stays", "stays", "moves"}},
		lvs.OnDeadReset:      {{"reset", "moves", "moves"}, {"stays", "stays", "moves"}},
		lvs.OnDeadReschedule: {{"reset", "moves", "moves"}, {"stays", "moves", "moves"}},
	}
	for policy, want := range fates {
		for n, go0 := range gone {
			for k, f := range []frame{{from: client, to: vip, flags: "A"}, {from: client, to: vip, udp: true}, {from: client, to: vip, flags: "S"}} {
				p := lvs.TCP
				if f.udp {
					p = lvs.UDP
				}
				d := mustDirector(t)
				first := frame{from: client, to: vip, udp: f.udp, flags: "S"}
				mustUpdate(t, d, withPolicy(p, vip, policy))
				mustForward(t, d, first)
				if !f.udp {
					mustForward(t, d, segments(client, vip, real, "< SA", "> A")...)
				}
				mustUpdate(t, d, addServer(p, vip, other, nat(1)), go0(p))
				if got := fateOf(d.Packet(f.mustPacket(t))); got != want[n][k] {
					t.Errorf("%v, %v %s, weight 0: %v: %s, want %s", policy, p, f.flags, n == 1, got, want[n][k])
				}
			}
		}
	}
}

func fateOf(r Result) string {
	switch p, _ := parse(r.Frame); {
	case r.Reason == Reset:
		return "reset"
	case r.Verdict == Drop:
		return "dropped"
	case r.Verdict == Forward && p.destination.Addr().String() == "10.2.0.12":
		return "moves"
	case r.Verdict == Forward:
		return "stays"
	}
	return fmt.Sprintf("%v %v", r.Verdict, r.Reason)
}

// TestOnDeadOfTheKernel: a service's own policy wins over the kernel's settings, which are in force for all others.
func TestOnDeadOfTheKernel(t *testing.T) {
	for _, c := range []struct {
		policy lvs.OnDead
		expire uint32
		want   string
	}{
		{lvs.OnDeadUnset, 0, "dropped"}, {lvs.OnDeadUnset, 1, "pass no_conn"}, {lvs.OnDeadReset, 0, "reset"}, {lvs.OnDeadReset, 1, "reset"},
		{lvs.OnDeadKeep, 1, "stays"},
	} {
		d := asKernel(t, mustDirector(t))
		mustUpdate(t, d, withPolicy(lvs.TCP, vip, c.policy))
		if err := d.Set(func(s *lvs.Settings) error { s.ExpireNodestConn = c.expire; return nil }); err != nil {
			t.Fatal(err)
		}
		mustForward(t, d, segments(client, vip, real, "> S", "< SA", "> A")...)
		mustUpdate(t, d, deleteServer(lvs.TCP, vip, real))
		if got := fateOf(d.Packet(frame{from: client, to: vip, flags: "A"}.mustPacket(t))); got != c.want {
			t.Errorf("%v, expire_nodest_conn=%d: %s, want %s", c.policy, c.expire, got, c.want)
		}
	}
}

// TestDisown: connections are taken away from a server that is there, one after the other as they speak; persistent clients move.
func TestDisown(t *testing.T) {
	d := New(Options{Size: 20, Route: route})
	persistent := func(t *lvs.Table) error {
		return t.AddService(serviceID(lvs.TCP, vip), lvs.ServiceConfig{Scheduler: "rr", Persistent: 300, Netmask: 0xffffffff})
	}
	mustUpdate(t, d, persistent, addServer(lvs.TCP, vip, real, nat(1)))
	mustForward(t, d, segments(client, vip, real, "> S", "< SA", "> A")...)
	mustUpdate(t, d, addServer(lvs.TCP, vip, "10.2.0.12:8080", nat(1)), editServer(lvs.TCP, vip, real, nat(0)))
	if n, err := d.Disown(serviceID(lvs.TCP, vip), serverID(real), false); n != 0 || err != nil {
		t.Errorf("%d connections, %v", n, err)
	}
	if got := fateOf(d.Packet(frame{from: "10.1.0.1:20001", to: vip, flags: "S"}.mustPacket(t))); got != "moves" {
		t.Errorf("the client's next connection %s", got)
	}
	if got := fateOf(d.Packet(frame{from: client, to: vip, flags: "A"}.mustPacket(t))); got != "stays" {
		t.Errorf("the client's old connection %s", got)
	}
	if n, err := d.Disown(serviceID(lvs.TCP, vip), serverID(real), true); n != 1 || err != nil {
		t.Errorf("%d connections, %v", n, err)
	}
	if got := fateOf(d.Packet(frame{from: client, to: vip, flags: "A"}.mustPacket(t))); got != "reset" {
		t.Errorf("the client's old connection %s", got)
	}
	if got := fateOf(d.Packet(frame{from: client, to: vip, flags: "S"}.mustPacket(t))); got != "moves" {
		t.Errorf("a new one from its port %s", got)
	}
	if _, err := d.Disown(serviceID(lvs.TCP, vip), serverID("10.2.0.99:80"), true); err != lvs.ErrNoServer {
		t.Errorf("nobody's connections: %v", err)
	}
}

// TestPortOfAnEndingConnection: a SYN begins a new connection as soon as the old one has begun to end, as the mode has it.
func TestPortOfAnEndingConnection(t *testing.T) {
	for state, so := range map[string][]string{
		"CLOSE_WAIT": {"> FA"}, "FIN_WAIT": {"< FA"}, "TIME_WAIT": {"> FA", "< FA"}, "CLOSE": {"< R"}, "ESTABLISHED": nil,
	} {
		for mode, states := range map[uint32][]string{
			0: nil, 1: {"TIME_WAIT", "CLOSE"}, 3: {"TIME_WAIT", "CLOSE"}, 4: {"CLOSE_WAIT", "FIN_WAIT", "TIME_WAIT", "CLOSE"},
		} {
			d := mustDirector(t)
			if err := d.Set(func(s *lvs.Settings) error { s.ConnReuseMode = mode; return nil }); err != nil {
				t.Fatal(err)
			}
			mustUpdate(t, d, addServer(lvs.TCP, vip, "10.2.0.12:8080", nat(1)))
			mustForward(t, d, segments(client, vip, "10.2.0.12:8080", append([]string{"> S", "< SA", "> A"}, so...)...)...)
			r := mustForward(t, d, frame{from: client, to: vip, flags: "S"})
			anew := mustServer(t, d, lvs.TCP, vip, real).Stats.Conns == 1 // rr's next
			if want := slices.Contains(states, state); anew != want {
				t.Errorf("conn_reuse_mode=%d, %s: a new connection: %v, want %v (%v)", mode, state, anew, want, fateOf(r))
			}
		}
	}
}
