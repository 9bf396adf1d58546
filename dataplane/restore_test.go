// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"lvs"
	"lvs/saved"
)

// moving is a world with connections of every kind, and the packets that go on with each.
type moving struct {
	*world
	goes    []func() (frame []byte) // further packets of clients, which are forwarded without a new connection
	persist []func() (frame []byte, server netip.Addr)
}

func netmask24(c lvs.ServiceConfig) lvs.ServiceConfig { c.Netmask = 0xffffff00; return c }

// The services of the test, by the way that their packets go.
var (
	movedRoute  = tcp4.service("203.0.113.10:190", "10.0.0.11:190")
	movedTunnel = tcp4.service("203.0.113.10:191", "10.0.0.11:191")
	movedSticky = tcp4.service("203.0.113.20:80", "10.0.0.11:8081")
	movedAny    = tcp4.service("203.0.113.21:0", "10.0.0.11:0")
	movedFull   = tcp4.service("203.0.113.22:80", "10.0.0.11:80")
	movedSIP    = path{lvs.UDP, netip.MustParseAddrPort("198.51.100.7:5060"), netip.MustParseAddrPort("203.0.113.23:5060"), netip.MustParseAddrPort("10.0.0.11:5060")}
	movedMark   = tcp4.service("203.0.113.20:81", "10.0.0.11:0") // by mark; its address is also that of a service
)

const movedMarkNumber = 5

func movingTable(t *lvs.Table) error {
	persistent := lvs.ServiceConfig{Scheduler: "rr", Netmask: 0xffffffff, Persistent: 300}
	sip := persistent
	sip.PE = "sip"
	mark := lvs.ServiceID{Family: lvs.IPv4, Mark: movedMarkNumber}
	nat, full := lvs.ServerConfig{Forward: lvs.Masq, Weight: 1}, lvs.ServerConfig{Forward: lvs.FullNAT, Weight: 1}
	for _, change := range []func(*lvs.Table) error{
		addService(tcp4.id(), "rr", tcp4.server), addService(tcp6.id(), "rr", tcp6.server), addService(udp4.id(), "rr", udp4.server), addService(sctp4.id(), "rr", sctp4.server),
		addWay(movedRoute.id(), server4, lvs.ServerConfig{Forward: lvs.Route}), addWay(movedTunnel.id(), server4, lvs.ServerConfig{Forward: lvs.Tunnel}),
		addFull(fullPaths[0], lvs.DefaultLocalPorts), addFull(fullPaths[1], lvs.DefaultLocalPorts), addFull(fullPaths[2], lvs.DefaultLocalPorts),
		func(t *lvs.Table) error {
			return t.AddLocal(nil, lvs.LocalAddr{Addr: local4, Ports: lvs.DefaultLocalPorts})
		},
	} {
		if err := change(t); err != nil {
			return err
		}
	}
	for _, s := range []struct {
		id     lvs.ServiceID
		config lvs.ServiceConfig
		port   uint16
		server lvs.ServerConfig
	}{
		{movedSticky.id(), netmask24(persistent), 8081, nat}, {movedAny.id(), persistent, 0, nat}, {movedFull.id(), persistent, 80, full},
		{movedSIP.id(), sip, 5060, nat}, {mark, persistent, 0, nat},
	} {
		if err := t.AddService(s.id, s.config); err != nil {
			return err
		}
		for _, a := range []netip.Addr{server4, other4} {
			if err := t.AddServer(s.id, lvs.ServerID{Addr: a, Port: s.port}, s.server); err != nil {
				return err
			}
		}
	}
	return nil
}

// call is a datagram of a SIP call.
func call(p path, id string) packet {
	one := p.in("")
	one.payload = []byte("INVITE sip:bob@example.org SIP/2.0\r\nCall-ID: " + id + "\r\n\r\n")
	return one
}

// send hands a frame of a client to tc, with a mark.
func (w *world) send(frame []byte, mark uint32) (server netip.Addr) {
	w.t.Helper()
	context := contextOf(w.tc, w.clients, frame, 0).([48]uint32)
	context[2] = mark
	o := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+128), Context: context}
	verdict, err := w.tc.Run(o)
	must(w.t, err)
	if verdict != tcRedirect {
		w.t.Fatalf("verdict %d, counted %v, of %x", int32(verdict), w.mustReasons(), frame)
	}
	if o.DataOut[12] == 8 {
		server = netip.AddrFrom4([4]byte(o.DataOut[30:34]))
	}
	return server
}

// mustMoving makes the connections.
func mustMoving(t *testing.T) *moving {
	m := &moving{world: mustWorld(t, small)}
	m.sweepByHand()
	m.mustHave(movingTable)
	for _, p := range []path{tcp4, tcp6, movedRoute, movedTunnel, movedSticky, fullPaths[0], fullPaths[1], movedFull} {
		p := p.from(3000)
		m.send(p.in("S").frame(t), 0)
		if p.id() == tcp4.id() || p.id() == tcp6.id() {
			m.run(m.tc, m.servers, p.out("SA").frame(t))
		}
		m.send(p.in("A").frame(t), 0)
		m.goes = append(m.goes, func() []byte { return p.in("A").frame(t) })
	}
	m.send(tcp4.from(3001).in("S").frame(t), 0)
	m.send(tcp4.from(3001).in("FA").frame(t), 0)
	for _, p := range []path{udp4, fullPaths[2]} {
		m.send(p.from(3000).in("").frame(t), 0)
		m.goes = append(m.goes, func() []byte { return p.from(3000).in("").frame(t) })
	}
	init, _ := association(t, m.world, sctp4.from(3000), false, 0, 1)
	m.send(init, 0)
	m.sticks(func(port uint16) []byte { return movedSticky.from(port).in("S").frame(t) }, 0)
	m.sticks(func(port uint16) []byte {
		p := movedAny.from(port)
		p.virtual = netip.AddrPortFrom(p.virtual.Addr(), 7000+port)
		return p.in("S").frame(t)
	}, 0)
	m.sticks(func(port uint16) []byte { return call(movedSIP.from(port), "one@here").frame(t) }, 0)
	m.sticks(func(port uint16) []byte { return call(movedSIP.from(port), "two@here").frame(t) }, 0)
	m.sticks(func(port uint16) []byte { return movedMark.from(port).in("S").frame(t) }, movedMarkNumber)
	return m
}

// sweepByHand stops the timer: a template that it has found over would wait no more for the sweep of a test.
func (w *world) sweepByHand() {
	w.settings.SweepSlice = 0
	w.setClock(w.settings.Now)
}

// mustHave changes the table, and has marks decided about where they are seen first.
func (m *moving) mustHave(change func(*lvs.Table) error) {
	m.t.Helper()
	m.mustUpdate(change)
	set, err := m.mustLook().settings()
	must(m.t, err)
	m.settings, m.settings.Marks = set, 0
	m.setClock(m.settings.Now)
}

// sticks has a client come twice, and again after the move.
func (m *moving) sticks(frame func(port uint16) []byte, mark uint32) {
	m.t.Helper()
	n := uint16(len(m.persist))
	server := m.send(frame(3100+10*n), mark)
	if again := m.send(frame(3101+10*n), mark); again != server {
		m.t.Fatalf("client %d comes to %v, and to %v", n, server, again)
	}
	m.persist = append(m.persist, func() ([]byte, netip.Addr) { return frame(3102 + 10*n), server })
}

// mustSaved gives the entries as a file has them, in an order of their own, with templates in the place of their numbers.
func (w *world) mustSaved() (entries []lvs.Entry, text string) {
	w.t.Helper()
	var out bytes.Buffer
	f := saved.NewWriter(&out, lvs.DefaultSettings, nil)
	w.mustLook().savedEntries(w.now64(), func(e lvs.Entry, err error) bool {
		must(w.t, err)
		entries = append(entries, e)
		f.Entry(&e)
		return true
	})
	must(w.t, f.Close())
	return entries, out.String()
}

// now64 is the program's clock.
func (w *world) now64() uint64 { return uint64(w.settings.Wraps)<<32 | uint64(w.settings.Now) }

// asText gives entries as text, sorted, with templates in the place of their numbers.
func asText(entries []lvs.Entry) string {
	templates := map[uint32]string{lvs.NoTemplate: "none"}
	var rows []string
	for _, e := range entries {
		if e.Template {
			templates[e.Number] = fmt.Sprint(e.Protocol, e.Client, e.Virtual, e.PEData)
		}
		of := templates[e.Controller]
		e.Number, e.Controller = 0, 0
		rows = append(rows, fmt.Sprintf("%+v of %s", e, of))
	}
	slices.Sort(rows)
	return strings.Join(rows, "\n")
}

// fromFile reads what a file has, as a restore does.
func fromFile(text string) iter.Seq2[*lvs.Entry, error] {
	return func(yield func(*lvs.Entry, error) bool) {
		if _, err := saved.Read(strings.NewReader(text), saved.Into{Entry: func(e *lvs.Entry) error { yield(e, nil); return nil }}); err != nil {
			yield(nil, err)
		}
	}
}

func (w *world) mustRestore(text string, want Restored) {
	w.t.Helper()
	got, err := w.Restore(fromFile(text))
	must(w.t, err)
	if got != want {
		w.t.Errorf("%+v, want %+v", got, want)
	}
}

// mustSound holds a table at rest to what must be true of it.
func (w *world) mustSound() {
	w.t.Helper()
	for _, wrong := range w.mustLook().mustConnTable(w.t).faults() {
		w.t.Error(wrong)
	}
	w.checkLoads()
	w.checkTemplates()
}

// Connections of every kind are moved into a table of another size, on another clock and with another secret of its hash, and go on.
func TestRestore(t *testing.T) {
	m := mustMoving(t)
	m.setClock(m.settings.Now + 3*m.mustLook().hz)
	before, text := m.mustSaved()
	was, err := m.Director.Table()
	must(t, err)
	must(t, m.Unload())
	m.mustLoad(Sizes{Conns: 9000, Services: 70, Servers: 300})
	m.sweepByHand()
	m.setClock(1 << 31)
	m.mustHave(movingTable)
	counts := Restored{}
	for _, e := range before {
		if e.Template {
			counts.Templates++
		} else {
			counts.Conns++
		}
	}
	if counts.Conns != 22 || counts.Templates != 6 {
		t.Fatalf("%+v of\n%s", counts, asText(before))
	}
	m.mustRestore(text, counts)
	after, _ := m.mustSaved()
	if b, a := asText(before), asText(after); a != b {
		t.Errorf("after the move\n%s\nbefore it\n%s", a, b)
	}
	m.mustSound()
	is, err := m.Director.Table()
	must(t, err)
	for _, s := range was.Services() {
		for i, d := range s.Servers {
			if got := is.Service(s.ServiceID).Servers[i]; got.Load != d.Load || got.Stats != (lvs.Stats{}) {
				t.Errorf("%v %v carries %+v, and did %+v; it counts %+v", s.ServiceID, d.ServerID, got.Load, d.Load, got.Stats)
			}
		}
	}
	m.mustRestore(text, Restored{There: counts.Conns + counts.Templates})
	m.mustSound()
	for _, frame := range m.goes {
		m.send(frame(), 0)
	}
	if n := len(m.conns()); n != len(before) {
		t.Errorf("%d entries, there were %d", n, len(before))
	}
	for i, next := range m.persist {
		frame, want := next()
		mark := uint32(0)
		if i == len(m.persist)-1 {
			mark = movedMarkNumber
		}
		if server := m.send(frame, mark); server != want {
			t.Errorf("persistent client %d comes to %v, and came to %v", i, server, want)
		}
	}
	m.mustAnswer(fullPaths[0].from(3000))
	m.mustSound()
	m.mustExpire()
	var key uint32
	calls, err := m.mustLook().m(bpfMapCalls)
	must(t, err)
	if err := calls.NextKey(nil, &key); err == nil {
		t.Errorf("a call is kept, of line %d", key)
	}
}

// mustAnswer has the server of a FULLNAT connection answer, and the answer reach the client.
func (w *world) mustAnswer(p path) {
	w.t.Helper()
	answer := p
	answer.client = w.localPort(p)
	verdict, out := w.run(w.tc, w.servers, answer.out("A").frame(w.t))
	if verdict != tcRedirect || !bytes.Equal(out[30:34], p.client.Addr().AsSlice()) {
		w.t.Errorf("the answer: verdict %d\n%x", int32(verdict), out)
	}
}

// What is there, and what there is no place for, is not restored, and counted.
func TestRestoreLeavesOut(t *testing.T) {
	m := mustMoving(t)
	all, text := m.mustSaved()
	clear := func() {
		m.setClock(m.settings.Now + 1<<24)
		for range 3 {
			m.mustSweep()
			m.setClock(m.settings.Now + m.mustLook().hz)
		}
		if n := m.mustLive(); n != 0 {
			t.Fatalf("%d entries are left", n)
		}
	}
	clear()
	m.mustHave(func(t *lvs.Table) error {
		if err := t.DeleteService(tcp6.id()); err != nil {
			return err
		}
		if err := t.DeleteLocal(nil, local4); err != nil {
			return err
		}
		return t.DeleteServer(udp4.id(), realServer(udp4.server))
	})
	m.send(tcp4.from(3000).in("S").frame(t), 0) // the client has begun anew
	rival := tcp4.from(3001)
	rival.virtual = netip.MustParseAddrPort("203.0.113.99:80")
	m.mustHave(addService(rival.id(), "rr", rival.server))
	m.send(rival.in("S").frame(t), 0) // with the same server, from the same port
	got, err := m.Restore(fromFile(text))
	must(t, err)
	want := Restored{Conns: len(all) - 6 - 5, Templates: 6, There: 1, NoServer: 2, NoLocal: 1, InTheWay: 1}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if n := got.LeftOut(); n != 4 {
		t.Errorf("%d are left out", n)
	}
	for _, c := range m.conns() {
		if c.Client == tcp4.from(3000).client && c.Virtual == tcp4.virtual && c.State != lvs.TCPSynRecv {
			t.Errorf("what has begun anew is %s", c.StateName())
		}
	}
	m.mustSound()
	m.mustExpire()
}

// A full table takes what it has room for.
func TestRestoreIntoTooSmallATable(t *testing.T) {
	w := mustWorld(t, Sizes{Conns: 64, Services: 4, Servers: 4})
	w.mustUpdate(addService(udp4.id(), "rr", udp4.server))
	var entries []lvs.Entry
	for n := range 300 {
		entries = append(entries, lvs.Entry{
			Conn:    lvs.Conn{Protocol: lvs.UDP, Client: udp4.from(uint16(1000 + n)).client, Virtual: udp4.virtual, Forward: lvs.Masq, Expires: time.Minute},
			Service: udp4.id(), ServerID: realServer(udp4.server), Controller: lvs.NoTemplate,
		})
	}
	got, err := w.Restore(func(yield func(*lvs.Entry, error) bool) {
		for i := range entries {
			if !yield(&entries[i], nil) {
				return
			}
		}
	})
	must(t, err)
	if want := (Restored{Conns: 256, NoRoom: 44}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	w.mustSound()
	w.mustExpire()
}
