// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"lvs"
)

// mustSetting gives settings values.
func (w *world) mustSetting(values map[string]string) {
	w.t.Helper()
	must(w.t, w.Set(func(all *lvs.Settings) error {
		for name, value := range values {
			n, err := lvs.Setting(name)
			if err == nil {
				err = n.Set(all, value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
	var err error
	w.settings, err = w.mustLook().settings()
	must(w.t, err)
}

// mustShow reads a setting, which may have turned itself on or off.
func (w *world) mustShow(name string) uint32 {
	w.t.Helper()
	s, err := w.Settings()
	must(w.t, err)
	n, err := lvs.Setting(name)
	must(w.t, err)
	return n.Of(s)
}

// mustPass lets a 16th of a second go by, and the sweep go through a 16th of the table, or a quarter, if that is how fast it goes.
func (w *world) mustPass() {
	w.t.Helper()
	in := w.mustLook()
	s, err := in.settings()
	must(w.t, err)
	s.Now += in.hz / 16
	must(w.t, in.putSettings(s))
	m, err := in.m(bpfMapConns)
	must(w.t, err)
	segments := (m.MaxEntries() + 15) / 16
	if s.LittleRoom != 0 {
		segments *= 4
	}
	w.sweepNext(segments, 0)
}

// sweepNext sweeps so many segments, or fewer in which there is so much work, and gives how many.
func (w *world) sweepNext(segments, work uint32) uint32 {
	w.t.Helper()
	skb := [48]uint32{2: segments, 8: work} // mark, priority
	n, err := w.mustTool("sweep_next").Run(&ebpf.RunOptions{Data: make([]byte, 64), Context: skb})
	if err != nil || n > segments {
		w.t.Fatalf("sweep: %d, %v", int32(n), err)
	}
	return n
}

// TestSweepInParts: where much ends at once the sweep goes on in parts, none of them long, and leaves nothing out.
func TestSweepInParts(t *testing.T) {
	const conns, work, most = 5000, 16384, 16384/16 + segmentLines // C's WORK_AT_ONCE, and how many ends that are, with the rest of a segment
	w := mustWorld(t, Sizes{Conns: 1 << 13, Services: 4, Servers: 4})
	w.settings.SweepSlice, w.settings.DropEntry = 0, 0
	w.setClock(w.settings.Now)
	w.mustUpdate(addService(tcp4.id(), "rr", tcp4.server))
	for n := range uint16(conns) {
		w.run(w.tc, w.clients, tcp4.from(1000+n).in("S").frame(t))
	}
	status, err := w.Status()
	must(t, err)
	before := status.Expired
	w.setClock(w.settings.Now + 1000*w.mustLook().hz)
	m, err := w.mustLook().m(bpfMapConns)
	must(t, err)
	parts := 0
	for left := m.MaxEntries(); left > 0; parts++ {
		status, err := w.Status()
		must(t, err)
		left -= w.sweepNext(left, work)
		after, err := w.Status()
		must(t, err)
		if n := after.Expired - status.Expired; n > most {
			t.Errorf("part %d ends %d connections", parts, n)
		}
	}
	if status, err = w.Status(); err != nil || status.Expired-before != conns || parts < conns/most {
		t.Errorf("%d of %d connections have ended in %d parts, %v", status.Expired-before, conns, parts, err)
	}
}

// sender sends one frame again and again, from one address and port after another.
type sender struct {
	w     *world
	p     *ebpf.Program
	frame []byte
	run   ebpf.RunOptions
}

func (w *world) sender(p *ebpf.Program, one packet) *sender {
	s := &sender{w: w, p: p, frame: one.frame(w.t)}
	s.run = ebpf.RunOptions{Data: s.frame, DataOut: make([]byte, 512), Context: contextOf(p, w.side(one), s.frame, 0)}
	return s
}

func (s *sender) send(from netip.AddrPort) uint32 {
	s.w.t.Helper()
	a := from.Addr().As4()
	copy(s.frame[26:], a[:]) // IPv4's source, whose checksum nobody looks at here
	binary.BigEndian.PutUint16(s.frame[34:], from.Port())
	verdict, err := s.p.Run(&s.run)
	must(s.w.t, err)
	return verdict
}

// flood is what a director went through.
type flood struct {
	spoofed, honest, served, held int // honest handshakes and those that came through; packets of old connections that did
}

// mustFlood has spoofed SYNs come for some seconds, so many in a 16th of one; beside them, clients open connections, which takes each
// half a second; and connections that were there before go on.
func (w *world) mustFlood(p *ebpf.Program, seconds, spoofed int) (f flood) {
	w.t.Helper()
	const old, opening = 100, 8 // old connections; handshakes begun at a time
	forwarded := func(verdict uint32) bool { return verdict == tcRedirect || verdict == xdpRedirect }
	syn, ack := w.sender(p, tcp4.in("S")), w.sender(p, tcp4.in("A"))
	honest := func(n int) path { return tcp4.from(uint16(10_000 + n)) }
	open := func(n int) bool {
		answer := honest(n).out("SA")
		verdict, _ := w.run(p, w.servers, answer.frame(w.t))
		return forwarded(verdict) && forwarded(ack.send(honest(n).client))
	}
	for n := range old {
		if !forwarded(syn.send(honest(n).client)) || !open(n) {
			w.t.Fatal("no connection before the flood")
		}
	}
	var begun []int
	next := old
	for tick := range seconds * 16 {
		for range spoofed {
			f.spoofed++
			a := [4]byte{100, byte(f.spoofed >> 16), byte(f.spoofed >> 8), byte(f.spoofed)}
			syn.send(netip.AddrPortFrom(netip.AddrFrom4(a), 999))
		}
		for range opening {
			f.honest++
			if forwarded(syn.send(honest(next).client)) {
				begun = append(begun, next)
			} else {
				begun = append(begun, -1)
			}
			next++
		}
		for len(begun) > 8*opening {
			if n := begun[0]; n >= 0 && open(n) && forwarded(ack.send(honest(n).client)) {
				f.served++
			}
			begun = begun[1:]
		}
		if forwarded(ack.send(honest(tick % old).client)) {
			f.held++
		}
		w.mustPass()
	}
	f.honest -= len(begun)
	if f.held != seconds*16 {
		w.t.Errorf("of %d packets of old connections, %d came through", seconds*16, f.held)
	}
	return f
}

// Spoofed SYNs fill a table for a minute each. Half-open connections make room before that, those that clients are just opening
// do not; and without the defence it is bad.
func TestSYNFlood(t *testing.T) {
	for name, hook := range hooks {
		t.Run(name, func(t *testing.T) {
			flooded := func(dropEntry string) (f flood, w *world) {
				w = mustWorld(t, Sizes{Conns: 1 << 14, Services: 8, Servers: 8})
				w.settings.SweepSlice = 0 // time goes by only here
				w.setClock(w.settings.Now)
				w.mustUpdate(addService(tcp4.id(), "wlc", tcp4.server))
				for range 2 { // routes
					w.run(w.tc, w.clients, tcp4.in("S").frame(t))
					w.run(w.tc, w.servers, tcp4.out("SA").frame(t))
				}
				w.mustSetting(map[string]string{"drop_entry": dropEntry})
				return w.mustFlood(hook(w), 16, 512), w // 8,192 a second: half of the table
			}
			f, w := flooded("1")
			t.Logf("%+v", f)
			if f.served*100 < f.honest*99 {
				t.Errorf("of %d connections during a flood, %d were served", f.honest, f.served)
			}
			if got := w.mustShow("drop_entry"); got != 2 {
				t.Errorf("drop_entry is %d during a flood", got)
			}
			for range 5 * 16 {
				w.mustPass()
			}
			if got := w.mustShow("drop_entry"); got != 1 {
				t.Errorf("drop_entry is %d some seconds after the flood", got)
			}
			w.checkLoads()
			if f, _ := flooded("0"); f.served*2 > f.honest {
				t.Errorf("without drop_entry, of %d connections %d were served: this flood tells nothing", f.honest, f.served)
			}
		})
	}
}

// drop_packet=3 drops one in am_droprate packets that begin a connection, on each CPU, and no others.
func TestDropPacket(t *testing.T) {
	onBothHooks(t, func(t *testing.T, w *world, p *ebpf.Program) {
		w.mustSetting(map[string]string{"drop_packet": "3", "am_droprate": "4"})
		w.mustPass()
		w.mustSetting(nil)
		for n := range uint16(40) {
			r := row{does: "a packet that begins a connection", in: syn4, becomes: forwarded}
			if n%4 == 3 {
				r = row{does: "the fourth packet that begins a connection", in: syn4, becomes: dropped, reason: bpfReasonREASON_DEFENCE}
			}
			w.check(p, r, 2000+n)
		}
		for range 40 {
			w.check(p, row{does: "a packet of a connection", in: tcp4.in("A"), becomes: forwarded}, 2000)
		}
		w.mustSetting(map[string]string{"drop_packet": "0"})
		w.mustPass()
		w.mustSetting(nil)
		for n := range uint16(8) {
			w.check(p, row{does: "nothing is dropped", in: syn4, becomes: forwarded}, 3000+n)
		}
	})
}

// A defence that is ready turns on while the table has little room, and off when it has enough again.
func TestDefencesTurnThemselvesOn(t *testing.T) {
	w := mustWorld(t, Sizes{Conns: 1 << 10, Services: 8, Servers: 8})
	w.settings.SweepSlice = 0
	w.setClock(w.settings.Now)
	w.mustUpdate(addService(tcp4.id(), "wlc", tcp4.server))
	ready := map[string]string{"drop_entry": "0", "drop_packet": "1", "secure_tcp": "1", "amemthresh": "8"}
	w.mustSetting(ready)
	second := func() {
		for range 16 {
			w.mustPass()
		}
	}
	check := func(when string, drop, secure uint32) {
		t.Helper()
		if d, s := w.mustShow("drop_packet"), w.mustShow("secure_tcp"); d != drop || s != secure {
			t.Errorf("%s: drop_packet is %d, secure_tcp %d, want %d and %d", when, d, s, drop, secure)
		}
	}
	second()
	check("an empty table", 1, 1)
	syn := w.sender(w.tc, syn4)
	for n := range uint16(12 * 64) { // of 24 pages
		syn.send(tcp4.from(1000 + n).client)
	}
	second()
	check("half is free", 1, 1)
	for n := range uint16(10 * 64) {
		syn.send(tcp4.from(5000 + n).client)
	}
	second()
	check("2 pages are free", 2, 2)
	s, err := w.mustLook().settings()
	must(t, err)
	if s.DropEvery != 1 {
		t.Errorf("one in %d is dropped while 2 of 8 pages are free, want each", s.DropEvery)
	}
	for range 66 {
		second()
	}
	check("all is over", 1, 1)
}

// With secure_tcp, what the client says alone does not establish a connection.
func TestSecureTCP(t *testing.T) {
	for value, want := range map[string][]string{
		"0": {"SYN_RECV", "SYN_RECV", "ESTABLISHED", "ESTABLISHED"},
		"1": {"SYN_RECV", "SYN_RECV", "ESTABLISHED", "ESTABLISHED"},
		"3": {"SYN_RECV", "SYNACK", "SYNACK", "ESTABLISHED"},
	} {
		w := mustWorld(t, small)
		w.mustUpdate(addService(tcp4.id(), "wlc", tcp4.server))
		w.mustSetting(map[string]string{"secure_tcp": value})
		for i, one := range []packet{tcp4.in("S"), tcp4.out("SA"), tcp4.in("A"), tcp4.out("A")} {
			w.run(w.tc, w.side(one), one.frame(t))
			if got := w.mustState(tcp4); got != want[i] {
				t.Errorf("secure_tcp=%s: after packet %d the state is %s, want %s", value, i, got, want[i])
			}
		}
	}
}
