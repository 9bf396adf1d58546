// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"lvs"
)

// A packet that was cut off anywhere is left as it is: no length may be believed that the frame does not have.
func TestCutPacketsAreLeft(t *testing.T) {
	onBothHooks(t, func(t *testing.T, w *world, p *ebpf.Program) {
		pass := map[ebpf.ProgramType]uint32{ebpf.SchedCLS: tcPass, ebpf.XDP: xdpPass}[p.Type()]
		for _, whole := range []packet{
			tcp4.in("S"), tcp6.in("S"), udp4.in(""), udp6.in(""), tcp4.out("SA"), tcp6.out("SA"), udp4.out(""), udp6.out(""),
			tcp4.in("S").with(full), udp6.in("").with(extensions(hopByHop, destinationOptions)),
			tcp6.out("SA").with(extensions(hopByHop)), tcp4.in("S").with(empty), udp6.in("").with(empty),
		} {
			if whole.answer {
				w.run(p, w.clients, whole.in("S").frame(t))
			}
			frame := whole.frame(t)
			least := headers
			if p.Type() == ebpf.SchedCLS { // the kernel does not run one on less than an IP header
				least += map[bool]int{true: 40, false: 20}[whole.client.Addr().Is6()]
			}
			for n := least; n < len(frame); n++ {
				verdict, out := w.run(p, w.side(whole), frame[:n])
				if verdict != pass || !bytes.Equal(out, frame[:n]) {
					t.Errorf("%d of %d bytes of %v: verdict %d\n%s", n, len(frame), whole, int32(verdict), hex.Dump(out))
				}
			}
			if verdict, out := w.run(p, w.side(whole), frame); verdict == pass || bytes.Equal(out, frame) {
				t.Errorf("the whole packet is left, too: %v", whole)
			}
		}
	})
}

// A UDP checksum that comes out as zero is sent as its other zero, for zero means that there is none.
func TestUDPChecksumIsNeverLost(t *testing.T) {
	onBothHooks(t, func(t *testing.T, w *world, p *ebpf.Program) {
		for _, along := range []path{udp4, udp6} {
			d := along.in("").with(func(p *packet) { p.payload = []byte{0, 0} })
			at := len(d.frame(t)) - len(d.payload) - 2
			// what the checksum is short of is added to the data
			binary.BigEndian.PutUint16(d.payload, binary.BigEndian.Uint16(d.forwarded(t, clientMAC)[at:]))
			want := d.forwarded(t, w.servers.Attrs().HardwareAddr)
			if sum := binary.BigEndian.Uint16(want[at:]); sum != 0xffff {
				t.Fatalf("the packet's checksum comes out as %#x", sum)
			}
			if _, out := w.run(p, w.clients, d.frame(t)); !bytes.Equal(out, want) {
				t.Errorf("the packet is\n%s\nwant\n%s", hex.Dump(out), hex.Dump(want))
			}
		}
	})
}

// What the kernel will cut into segments is larger than any way on, and goes.
func TestSuperPacketsAreForwarded(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	for _, along := range []path{tcp4, tcp6} {
		w.run(w.tc, w.clients, along.in("S").frame(t))
		frame := along.in("A").with(huge).frame(t)
		o := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)), Context: contextOf(w.tc, w.clients, frame, 1000)}
		verdict, err := w.tc.Run(o)
		must(t, err)
		if want := along.in("A").with(huge).forwarded(t, w.servers.Attrs().HardwareAddr); verdict != tcRedirect || !bytes.Equal(o.DataOut, want) {
			t.Errorf("verdict %d, the packet is\n%s\nwant\n%s", int32(verdict), hex.Dump(o.DataOut), hex.Dump(want))
		}
	}
}

// A full table refuses, with a reason, and serves those whom it has.
func TestFullTable(t *testing.T) {
	for name, hook := range hooks {
		t.Run(name, func(t *testing.T) {
			w := mustWorld(t, Sizes{Conns: 64, Services: 64, Servers: 64})
			w.mustServe()
			p, room := hook(w), 256-w.mustLive()
			for n := range room {
				if verdict, _ := w.run(p, w.clients, udp4.from(2000+uint16(n)).in("").frame(t)); verdict != tcRedirect && verdict != xdpRedirect {
					t.Fatalf("refused with %d lines free: verdict %d", room-n, int32(verdict))
				}
			}
			w.check(p, row{does: "no line is free", in: udp4.in(""), becomes: dropped, reason: bpfReasonREASON_TABLE_FULL}, 1)
			w.check(p, row{does: "a SYN finds none either", in: tcp6.in("S"), becomes: dropped, reason: bpfReasonREASON_TABLE_FULL}, 1)
			for n := range room {
				w.check(p, row{does: "who is in the table goes on", in: udp4.in(""), becomes: forwarded}, 2000+uint16(n))
				w.check(p, row{does: "and is answered", in: udp4.out(""), becomes: forwarded}, 2000+uint16(n))
			}
			if got := w.mustLive(); got != 256 {
				t.Errorf("%d live entries in a table of 256 lines", got)
			}
		})
	}
}

// mustLive counts the live entries of the connection table.
func (w *world) mustLive() int {
	w.t.Helper()
	table, err := w.mustLook().entries()
	must(w.t, err)
	return table.live()
}

// Beyond the limit of messages, refusals are silent until time has passed.
func TestICMPErrorsAreLimited(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	w.settings.IcmpBurst, w.settings.IcmpEvery = 3, 10
	w.setClock(w.settings.Now + 1000)
	refused := row{does: "within the limit", in: serverless4.in("S"), becomes: answered, reason: bpfReasonREASON_NO_SERVER, kind4: icmp4(3, 3)}
	silent := row{does: "beyond the limit", in: serverless4.in("S"), becomes: dropped, reason: bpfReasonREASON_NO_SERVER_QUIET}
	for range 3 {
		w.check(w.tc, refused, 1)
	}
	w.check(w.tc, silent, 1)
	w.setClock(w.settings.Now + 9)
	w.check(w.tc, silent, 1)
	w.setClock(w.settings.Now + 1)
	w.check(w.tc, refused, 1)
	w.check(w.tc, silent, 1)
}

// Counters are of IP bytes, per direction, and of new connections.
func TestPacketsAreCounted(t *testing.T) {
	onBothHooks(t, func(t *testing.T, w *world, p *ebpf.Program) {
		before := w.mustStats(tcp6)
		all := []packet{tcp6.in("S").with(padded), tcp6.out("SA"), tcp6.in("A").with(odd), tcp6.in("A").with(extensions(60)), tcp6.out("FA").with(ttl1)}
		for _, one := range all {
			w.run(p, w.side(one), one.frame(t))
		}
		got := w.mustStats(tcp6)
		got.Sub(before)
		want := lvs.Stats{
			Conns: 1, InPackets: 3, OutPackets: 1, InBytes: (40 + 24 + 7) + (40 + 20 + 7) + (40 + 8 + 20 + 7), OutBytes: 40 + 24 + 6,
		}
		if got != want {
			t.Errorf("counted %+v, want %+v", got, want)
		}
	})
}

func (w *world) mustStats(p path) lvs.Stats {
	w.t.Helper()
	t, err := w.Table()
	must(w.t, err)
	s := t.Service(p.id())
	if d := s.Server(realServer(p.server)); d == nil || d.Stats != s.Stats {
		w.t.Fatalf("the only server has not counted what its service has: %+v, %+v", d, s)
	}
	return s.Stats
}

// An entry past its time counts as absent, whether or not it has been swept.
func TestExpiredConnectionsAreAbsent(t *testing.T) {
	onBothHooks(t, func(t *testing.T, w *world, p *ebpf.Program) {
		w.check(p, row{does: "a connection", held: established4, in: tcp4.in("A"), becomes: forwarded}, 1)
		end := w.settings.Now + *w.settings.timeout(lvs.TCPMachine, lvs.TCPEstablished)
		w.settings.SweepSlice = 0 // nothing is swept
		w.setClock(end - 1)
		for range 2 { // the second is past the kernel's turn to look for its neighbours
			w.run(w.tc, w.clients, tcp4.from(2).in("S").frame(t))
			w.run(w.tc, w.servers, tcp4.from(2).out("SA").frame(t))
		}
		w.check(p, row{does: "an answer in the last jiffy", in: tcp4.out("A"), becomes: forwarded}, 1)
		end = w.settings.Now + *w.settings.timeout(lvs.TCPMachine, lvs.TCPEstablished)
		w.setClock(end)
		w.check(p, row{does: "an answer past the end", in: tcp4.out("A"), becomes: passed}, 1)
		w.check(p, row{does: "a segment past the end", in: tcp4.in("A"), becomes: passed, reason: bpfReasonREASON_NO_CONN}, 1)
	})
}

// XDP gives back by the interface that the packet came from, where the driver can.
func TestOneArmedXDP(t *testing.T) {
	w := mustWorld(t, small)
	along := tcp4.service("203.0.113.10:80", "198.51.100.8:80")
	mustNeighbour(t, w.clients, along.server.Addr(), serverMAC)
	w.mustUpdate(addService(along.id(), "rr", along.server))
	in := w.mustLook()
	d, err := in.device(w.clients.Attrs().Index)
	must(t, err)
	d.XdpTx = 1
	must(t, in.putDevice(w.clients.Attrs().Index, d))
	w.run(w.tc, w.clients, along.from(9).in("S").frame(t))
	const xdpTx = 3
	verdict, out := w.run(w.xdp, w.clients, along.in("S").frame(t))
	if want := along.in("S").forwarded(t, w.clients.Attrs().HardwareAddr); verdict != xdpTx || !bytes.Equal(out, want) {
		t.Errorf("verdict %d, the packet is\n%s\nwant\n%s", verdict, hex.Dump(out), hex.Dump(want))
	}
}

// Two clients' connections differ in whatever of their keys differs.
func TestConnectionsAreTheirOwn(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	other := turns
	other.client = netip.MustParseAddrPort("198.51.100.8:1")
	other.server = netip.AddrPortFrom(other4, 8086)
	again := slices.Repeat([]path{other, turns.from(2), other.from(2), turns}, 2)
	for i, along := range again {
		along.server = []netip.AddrPort{netip.AddrPortFrom(other4, 8086), netip.AddrPortFrom(server4, 8086)}[i%2]
		_, out := w.run(w.tc, w.clients, along.in("S").frame(t))
		if want := along.in("S").forwarded(t, w.servers.Attrs().HardwareAddr); !bytes.Equal(out[14:], want[14:]) {
			t.Errorf("connection %d: the packet is\n%s\nwant\n%s", i, hex.Dump(out), hex.Dump(want))
		}
	}
}

// A server at its upper threshold is left out until it has come below the lower one, or below three quarters of the upper.
func TestThresholds(t *testing.T) {
	for _, c := range []struct{ upper, lower, back int }{{8, 0, 5}, {8, 3, 2}, {1, 0, 0}, {5, 5, 4}} {
		w := mustWorld(t, small)
		w.settings.SweepSlice = 0
		w.setClock(w.settings.Now)
		w.mustUpdate(addService(udp4.id(), "rr"), func(t *lvs.Table) error {
			return t.AddServer(udp4.id(), realServer(udp4.server), lvs.ServerConfig{
				Forward: lvs.Masq, Weight: 1, Upper: uint32(c.upper), Lower: uint32(c.lower),
			})
		})
		opens := func(client uint16) bool {
			_, out := w.run(w.tc, w.clients, udp4.from(client).in("").frame(t))
			return out[23] == byte(lvs.UDP)
		}
		for n := range c.upper { // they end one after the other
			w.setClock(w.settings.Now + 1)
			if !opens(uint16(1 + n)) {
				t.Errorf("%+v: connection %d is refused", c, n)
			}
		}
		first := w.settings.Now - uint32(c.upper) + 1
		for left := c.upper; ; left-- {
			if got, want := opens(1000), left <= c.back; got != want {
				t.Errorf("%+v: with %d connections it opens one: %v", c, left, got)
			}
			if left <= c.back {
				break
			}
			w.setClock(first + *w.settings.timeout(lvs.Stateless, 0) + uint32(c.upper-left))
			w.mustSweep()
		}
	}
}
