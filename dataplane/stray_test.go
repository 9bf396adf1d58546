// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"lvs"
)

// A server calls a client: it leaves from the service's address, and all of the call's packets are that server's, as in the kernel's
// ip_vs_new_conn_out.
func TestCallsOfServers(t *testing.T) {
	for name, once := range map[string]bool{"connections": false, "one packet": true} {
		t.Run(name, func(t *testing.T) {
			id := serviceID(lvs.UDP, netip.MustParseAddrPort("203.0.113.20:5060"))
			c := lvs.ServiceConfig{Scheduler: "rr", Netmask: 0xffffffff, Persistent: 300, PE: "sip", OnePacket: once}
			onBothHooksSticky(t, id, c, 5060, func(t *testing.T, s *sticky) { s.checkCallBack(t, once) })
		})
	}
}

func (s *sticky) checkCallBack(t *testing.T, once bool) {
	p := path{lvs.UDP, netip.MustParseAddrPort("198.51.100.7:5062"), netip.MustParseAddrPort("203.0.113.20:5060"), netip.MustParseAddrPort("10.0.0.12:5060")}
	says := func(one packet, call string) packet {
		one.payload = []byte("INVITE sip:bob@example.org SIP/2.0\r\nVia: here\r\n" + call + "\r\n")
		return one
	}
	leaves := func(about string, one packet, as []byte) {
		t.Helper()
		frame := one.frame(t)
		verdict, out := s.run(s.p, s.servers, frame)
		if s.p == s.xdp && verdict == xdpPass {
			if verdict, out = s.run(s.tc, s.servers, frame); verdict == tcRedirect {
				verdict = xdpRedirect
			}
		}
		switch {
		case as == nil && verdict != xdpPass && verdict != tcPass:
			t.Errorf("%s: the verdict is %d", about, verdict)
		case as != nil && !bytes.Equal(out[12:], as[12:]): // the kernel writes the first one's neighbour
			t.Errorf("%s:\n%x\nwant\n%x", about, out, as)
		}
	}
	began := says(p.out(""), "Call-ID: theirs@server\r\n")
	leaves("no Call-ID", says(p.out(""), ""), nil)
	stranger := began
	stranger.server = netip.MustParseAddrPort("10.0.0.12:5070")
	leaves("no server's port", stranger, nil)
	s.mustShow("nothing has begun")

	for range 2 {
		leaves("the call", began, began.forwarded(t, routerMAC))
	}
	s.mustShow("a call", "UDP 5m0s ASSURED 198.51.100.7:0 203.0.113.20:5060 10.0.0.12:5060")
	if got := s.sendPacket(says(p.in(""), "Call-ID: theirs@server\r\n"), 0); got != 2 {
		t.Errorf("the answer goes to server %d", got)
	}
	other := began
	other.server = netip.MustParseAddrPort("10.0.0.13:5060")
	leaves("another server in the same call", other, other.forwarded(t, routerMAC))
	if got := s.sendPacket(says(p.from(5999).in(""), "Call-ID: theirs@server\r\n"), 0); got != 3 {
		t.Errorf("the call of two servers goes to server %d", got)
	}
	leaves("the first one again", began, began.forwarded(t, routerMAC))
	if got := s.sendPacket(says(p.from(6000).in(""), "Call-ID: theirs@server\r\n"), 0); got != 2 {
		t.Errorf("from another port it goes to server %d", got)
	}
	table, err := s.Table()
	must(t, err)
	want := lvs.Stats{Conns: 5, InPackets: 3, OutPackets: 4}
	if once {
		want.Conns = 7
	}
	got := table.Services()[0].Stats
	got.InBytes, got.OutBytes = 0, 0
	if got != want {
		t.Errorf("counted: %+v, want %+v", got, want)
	}
	s.pass(20 * time.Minute)
	s.mustShow("all is over")
	if n := s.mustLive(); n != 0 {
		t.Errorf("%d entries are left", n)
	}
}

// With nat_icmp_send, a server whose packet belongs to no connection is told so from the director's own address; without, it is left alone.
func TestServersAreTold(t *testing.T) {
	for name, hook := range hooks {
		t.Run(name, func(t *testing.T) {
			w := mustWorld(t, small)
			w.mustServe()
			set := func(to uint32) {
				must(t, w.Set(func(s *lvs.Settings) error { s.NATICMPSend = to; return nil }))
			}
			run := func(frame []byte) (verdict uint32, out []byte) {
				if verdict, out = w.run(hook(w), w.servers, frame); hook(w) == w.xdp && verdict == xdpPass {
					verdict, out = w.run(w.tc, w.servers, frame)
				}
				return verdict, out
			}
			left := func(about string, one packet) {
				t.Helper()
				frame := one.frame(t)
				if verdict, out := run(frame); verdict != tcPass || !bytes.Equal(out, frame) {
					t.Errorf("%s: the verdict is %d", about, int32(verdict))
				}
			}
			for _, p := range []path{tcp4, tcp6, udp4, udp6} {
				p = p.from(7000)
				set(0)
				left("without", p.out("A"))
				set(1)
				from := ownTowards(p.server.Addr())
				if !from.IsValid() || from == p.client.Addr() {
					t.Fatalf("the director's address towards %v is %v", p.server.Addr(), from)
				}
				frame := p.out("A").frame(t)
				told := complaint{from: from, to: p.server.Addr(), macs: [2]net.HardwareAddr{routerMAC, serverMAC}, ttl: 64,
					kind4: icmp4(3, 3), kind6: icmp6(1, 4), quotes: frame[headers : headers+ipLength(frame)]}
				want := told.frame(t)
				verdict, out := run(frame)
				if from.Is4() { // whose identification is 0
					copy(want[18:20], out[18:20])
					copy(want[24:26], out[24:26])
				}
				if verdict != tcRedirect || !bytes.Equal(out, want) {
					t.Errorf("%v: the verdict is %d\n%x\nwant\n%x", p, int32(verdict), out, want)
				}
				if p.protocol == lvs.TCP {
					left("a reset", p.out("R"))
				}
				other := p
				other.server = netip.AddrPortFrom(p.server.Addr(), 9999)
				left("another port", other.out("A"))
				asked, last := p, p.out("A")
				asked.client, last.ttl = netip.AddrPortFrom(from, 40000), 1
				left("what the director has asked for", asked.out("A"))
				left("a packet on its last hop, of which the kernel tells", last)
				w.run(w.tc, w.clients, p.in("S").frame(t))
				if verdict, _ := run(p.out("SA").frame(t)); verdict != tcRedirect && verdict != xdpRedirect {
					t.Errorf("an answer: %d", int32(verdict))
				}
			}
			w.mustUpdate(func(t *lvs.Table) error { t.Clear(); return nil })
			left("a server no more", tcp4.from(7100).out("A"))
		})
	}
}

// With schedule_icmp, an error about a connection that is not there begins it for a moment, so that whoever has it gets to know.
func TestErrorsBegin(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	before := w.mustLive()
	for _, p := range []path{tcp4, tcp6, udp4, udp6} {
		in, want := ofClient(t, p.from(7200).out("A"), 1000)
		frame := in.frame(t)
		must(t, w.Set(func(s *lvs.Settings) error { s.ScheduleICMP = 0; return nil }))
		if verdict, out := w.run(w.tc, w.clients, frame); verdict != tcPass || !bytes.Equal(out, frame) {
			t.Errorf("%v: without: %d", p, int32(verdict))
		}
		must(t, w.Set(func(s *lvs.Settings) error { s.ScheduleICMP = 1; return nil }))
		for range 2 {
			if verdict, out := w.run(w.tc, w.clients, frame); verdict != tcRedirect || !bytes.Equal(out, want.frame(t)) {
				t.Errorf("%v: %d\n%x\nwant\n%x", p, int32(verdict), out, want.frame(t))
			}
		}
		var rows []string
		w.mustLook().conns(w.settings.Now, func(c lvs.Conn, err error) bool {
			must(t, err)
			if c.Client.Port() != 7200 {
				return true
			}
			rows = append(rows, strings.Join([]string{c.Protocol.String(), c.StateName(), c.Expires.String()}, " "))
			return true
		})
		state := map[lvs.Protocol]string{lvs.TCP: "TCP NONE 3s", lvs.UDP: "UDP UDP 3s"}[p.protocol]
		if len(rows) != 1 || rows[0] != state {
			t.Errorf("%v: connections %q, want %q", p, rows, state)
		}
		w.setClock(w.settings.Now + 3*w.mustLook().hz)
		w.mustSweep()
		if n := w.mustLive(); n != before {
			t.Errorf("%v: %d entries are left", p, n-before)
		}
	}
}
