// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lvs"
)

// conns lists the connections as ipvsadm -Lnc does, but for the time that is left.
func conns(d *Director) []string {
	var lines []string
	for c := range d.Conns() {
		lines = append(lines, fmt.Sprintf("%v %s %v %v %v", c.Protocol, lvs.StateName(c.Protocol, c.State), c.Client, c.Virtual, c.Server))
	}
	slices.Sort(lines)
	return lines
}

// left is how long each connection has to live, by client and state.
func left(d *Director) map[string]time.Duration {
	m := map[string]time.Duration{}
	for c := range d.Conns() {
		m[c.Client.String()+" "+lvs.StateName(c.Protocol, c.State)] = c.Expires
	}
	return m
}

func mustServer(t rapid.TB, d *Director, p lvs.Protocol, svc, addr string) *lvs.Server {
	t.Helper()
	table, err := d.Table()
	if err != nil {
		t.Fatal(err)
	}
	s := table.Service(serviceID(p, svc))
	if s == nil || s.Server(serverID(addr)) == nil {
		t.Fatalf("no server %s of %s", addr, svc)
	}
	return s.Server(serverID(addr))
}

func mustForward(t rapid.TB, d *Director, frames ...frame) Result {
	t.Helper()
	var r Result
	for _, f := range frames {
		if r = d.Packet(f.mustPacket(t)); r.Verdict != Forward {
			t.Fatalf("%+v: %v %q", f, r.Verdict, r.Reason)
		}
		mustChecksums(t, r.Frame)
	}
	return r
}

// segments are those of a connection between a client and a server behind a service: "> S" goes towards the server.
func segments(client, virtual, real string, text ...string) (all []frame) {
	for _, s := range text {
		way, flags, _ := strings.Cut(s, " ")
		f := frame{from: client, to: virtual, flags: flags}
		if way == "<" {
			f.from, f.to = real, client
		}
		all = append(all, f)
	}
	return all
}

var connLine = regexp.MustCompile(`^(TCP|UDP) \d\d:\d\d +(\w+) +(\S+) +(\S+) +(\S+)$`)

// TestRecordedStates plays the connections whose states were recorded from a Linux 6.1 kernel, and looks at the table and the
// loads where that was done.
func TestRecordedStates(t *testing.T) {
	text, err := os.ReadFile("testdata/states.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, story, _ := strings.Cut(string(text), "== NAT\n")
	story, _, _ = strings.Cut(story, "== DR\n")

	d := asKernel(t, New(Options{Size: 100, Route: route}))
	for _, port := range []string{":80", ":81", ":99"} {
		v, r := "10.9.200.1"+port, "10.2.0.11"+port
		mustUpdate(t, d, addService(lvs.TCP, v, "rr"), addServer(lvs.TCP, v, r, nat(1)))
	}
	phases := 0
	for phase := range strings.SplitSeq(story, "\n-- ") {
		note, seen, _ := strings.Cut(phase, "\n")
		if !mustPlay(t, d, note) {
			continue
		}
		phases++
		var want []string
		for line := range strings.SplitSeq(seen, "\n") {
			if m := connLine.FindStringSubmatch(line); m != nil {
				want = append(want, strings.Join(m[1:], " "))
			}
			if f := strings.Fields(line); len(f) == 6 && f[1] == "10.2.0.11:80" {
				load := mustServer(t, d, lvs.TCP, "10.9.200.1:80", f[1]).Load
				if got := fmt.Sprint(load.Active, load.Inactive); got != f[4]+" "+f[5] {
					t.Errorf("%s: load %s, want %s %s", note, got, f[4], f[5])
				}
			}
		}
		slices.Sort(want)
		got := conns(d)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", note, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if phases != 12 {
		t.Errorf("%d phases understood, want 12", phases)
	}
}

// mustPlay lets the packets of a phase of the recording pass; false if its title tells of none.
func mustPlay(t *testing.T, d *Director, note string) bool {
	t.Helper()
	play := func(port int, virtual string, text ...string) {
		t.Helper()
		client := fmt.Sprint("10.1.0.1:", port)
		mustForward(t, d, segments(client, "10.9.200.1"+virtual, "10.2.0.11"+virtual, text...)...)
	}
	open := func(port int) { play(port, ":80", "> S", "< SA", "> A", "> PA", "< A", "< PA", "> A") }
	switch {
	case strings.HasPrefix(note, "SYN sent"):
		play(31000, ":80", "> S", "> S")
	case strings.HasPrefix(note, "connected"):
		open(31001)
	case strings.HasPrefix(note, "closed by the client first"):
		play(31001, ":80", "> FA", "< A", "< FA", "> A")
	case strings.HasPrefix(note, "server has sent its FIN"):
		open(31002)
		play(31002, ":80", "< FA", "> A")
	case note == "client closed too":
		play(31002, ":80", "> FA", "< A")
	case strings.HasPrefix(note, "client has sent its FIN"):
		open(31003)
		play(31003, ":80", "> FA", "< A")
	case note == "the server's FIN let through":
		play(31003, ":80", "< FA", "> A")
	case note == "client reset":
		open(31004)
		play(31004, ":80", "> RA")
	case note == "server reset":
		open(31005)
		play(31005, ":80", "< RA")
	case note == "refused by the real server's RST":
		play(31006, ":99", "> S", "< RA")
	case strings.HasPrefix(note, "port 31001 used again"):
		open(31001)
	case note == "after ipvsadm -C":
		play(31001, ":80", "> RA")
		mustUpdate(t, d, func(t *lvs.Table) error { t.Clear(); return nil })
	default:
		return false
	}
	return true
}

// TestLifetimes: an entry lives for the time of its state after its last packet; a new time-out takes hold with the next.
func TestLifetimes(t *testing.T) {
	d := mustDirector(t)
	wantLeft := func(entry string, want time.Duration) {
		t.Helper()
		if got := left(d)[entry]; got != want*time.Second {
			t.Errorf("%s: %v left, want %d s; %v", entry, got, want, left(d))
		}
	}
	mustForward(t, d, segments(client, vip, real, "> S", "< SA", "> A")...)
	mustForward(t, d, frame{from: client, to: vip, udp: true})
	wantLeft(client+" ESTABLISHED", 900)
	wantLeft(client+" UDP", 300)
	mustUpdate(t, d, func(t *lvs.Table) error { t.Timeouts = lvs.Timeouts{TCP: 100, TCPFin: 20, UDP: 30}; return nil })
	d.Advance(time.Second)
	wantLeft(client+" ESTABLISHED", 899)
	wantLeft(client+" UDP", 299)
	mustForward(t, d, segments(client, vip, real, "< A")...)
	mustForward(t, d, frame{from: real, to: client, udp: true})
	wantLeft(client+" ESTABLISHED", 100)
	wantLeft(client+" UDP", 30)
	mustForward(t, d, segments(client, vip, real, "< FA")...)
	wantLeft(client+" FIN_WAIT", 20)
	mustForward(t, d, segments(client, vip, real, "> FA")...)
	wantLeft(client+" TIME_WAIT", 120)

	d.Advance(30*time.Second - 1)
	if n := len(conns(d)); n != 2 {
		t.Errorf("%d entries a moment before the end of one", n)
	}
	d.Advance(1)
	if n := len(conns(d)); n != 1 {
		t.Errorf("%d entries after the end of one", n)
	}
	if load := mustServer(t, d, lvs.UDP, vip, real).Load; load != (lvs.Load{}) {
		t.Errorf("load %+v after the last entry", load)
	}
	if r := d.Packet(frame{from: real, to: client, udp: true}.mustPacket(t)); r.Verdict != Pass {
		t.Errorf("an answer after the end: %v", r.Verdict)
	}
}

// TestPortUsedAgain: a SYN on the port of a connection that is over begins another one, on whichever server is next.
func TestPortUsedAgain(t *testing.T) {
	d := mustDirector(t)
	mustUpdate(t, d, addServer(lvs.TCP, vip, "10.2.0.12:8080", nat(1)))
	mustForward(t, d, segments(client, vip, "10.2.0.12:8080", "> S", "< RA", "> S")...)
	if got := conns(d); len(got) != 1 || !strings.Contains(got[0], "SYN_RECV") || !strings.Contains(got[0], "10.2.0.11") {
		t.Errorf("%q", got)
	}
	mustForward(t, d, segments(client, vip, real, "< SA", "> A", "> S")...)
	if got := conns(d); !strings.Contains(got[0], "ESTABLISHED") || !strings.Contains(got[0], "10.2.0.11") {
		t.Errorf("a SYN has ended an open connection: %q", got)
	}
	if n := mustServer(t, d, lvs.TCP, vip, real).Stats.Conns; n != 1 {
		t.Errorf("%d connections scheduled", n)
	}
}

// TestRemovedServer: with the kernel's defaults its clients are not heard until it is added again, and it then has its numbers back.
func TestRemovedServer(t *testing.T) {
	for _, c := range []struct {
		sense     string
		gone      func(*lvs.Table) error
		backAgain []func(*lvs.Table) error
		conns     uint64 // that the service has counted in the end
	}{
		{"a server", deleteServer(lvs.TCP, vip, real), []func(*lvs.Table) error{addServer(lvs.TCP, vip, real, nat(1))}, 1},
		{"a service", func(t *lvs.Table) error { return t.DeleteService(serviceID(lvs.TCP, vip)) },
			[]func(*lvs.Table) error{addService(lvs.TCP, vip, "wlc"), addServer(lvs.TCP, vip, real, nat(1))}, 0},
	} {
		t.Run(c.sense, func(t *testing.T) {
			d := asKernel(t, mustDirector(t))
			mustForward(t, d, segments(client, vip, real, "> S", "< SA", "> A")...)
			before := mustServer(t, d, lvs.TCP, vip, real)
			mustUpdate(t, d, c.gone)
			d.Advance(5 * time.Second)
			for _, f := range segments(client, vip, real, "> PA") {
				if r := d.Packet(f.mustPacket(t)); r.Verdict != Drop || r.Reason != Removed {
					t.Errorf("%v %q while it is removed", r.Verdict, r.Reason)
				}
			}
			if got := left(d)[client+" ESTABLISHED"]; got != 895*time.Second {
				t.Errorf("%v left: a packet that was dropped has kept the entry alive", got)
			}
			mustForward(t, d, segments(client, vip, real, "< PA")...) // which counts nowhere
			mustUpdate(t, d, c.backAgain...)
			after := mustServer(t, d, lvs.TCP, vip, real)
			if after.Stats != before.Stats || after.Load != before.Load {
				t.Errorf("%+v, want %+v", after, before)
			}
			mustForward(t, d, segments(client, vip, real, "> PA", "< PA")...)
			table, _ := d.Table()
			if got := table.Service(serviceID(lvs.TCP, vip)).Stats.Conns; got != c.conns {
				t.Errorf("the service counts %d connections, want %d", got, c.conns)
			}
		})
	}
}

// TestRemovedForGood: a server that was removed some time ago, and has no connections, is forgotten.
func TestRemovedForGood(t *testing.T) {
	d := mustDirector(t)
	mustForward(t, d, segments(client, vip, real, "> S")...)
	mustUpdate(t, d, deleteServer(lvs.TCP, vip, real))
	if len(conns(d)) != 1 {
		t.Error("its connection is not in the table any more")
	}
	d.Advance(time.Minute)
	mustUpdate(t, d, addServer(lvs.TCP, vip, real, nat(1)))
	if s := mustServer(t, d, lvs.TCP, vip, real); s.Stats != (lvs.Stats{}) || s.Load != (lvs.Load{}) {
		t.Errorf("%+v", s)
	}
}

// TestQuiesced: a server of weight 0 keeps its connections and gets no others.
func TestQuiesced(t *testing.T) {
	d := mustDirector(t)
	mustForward(t, d, segments(client, vip, real, "> S")...)
	mustUpdate(t, d, editServer(lvs.TCP, vip, real, nat(0)))
	mustForward(t, d, segments(client, vip, real, "< SA", "> A")...)
	if r := d.Packet(frame{from: "10.1.0.1:20001", to: vip, flags: "S"}.mustPacket(t)); r.Reason != NoServer {
		t.Errorf("%v %q for another one", r.Verdict, r.Reason)
	}
}

// TestThresholds is the recorded story of a server with an upper limit of 4: left out there, taken back below 3.
func TestThresholds(t *testing.T) {
	d := New(Options{Size: 100, Route: route})
	limited := nat(1)
	limited.Upper = 4
	mustUpdate(t, d, addService(lvs.TCP, vip, "rr"), addServer(lvs.TCP, vip, "10.2.0.11:80", limited), addServer(lvs.TCP, vip, "10.2.0.12:80", nat(1)))
	port := 20000
	var first []string // clients of the limited server
	connect := func(n int) (took string) {
		for range n {
			port++
			c := fmt.Sprint("10.1.0.1:", port)
			r := mustForward(t, d, segments(c, vip, "", "> S")...)
			to := r.Frame[ethernetHeader+19]
			took += string('0' + to - 10)
			if to == 11 {
				first = append(first, c)
			}
		}
		return took
	}
	closeOne := func() {
		mustForward(t, d, segments(first[0], vip, "", "> A")...)
		mustForward(t, d, segments(first[0], vip, "", "> R")...)
		first = first[1:]
		d.Advance(11 * time.Second)
	}
	for _, c := range []struct {
		do   func() string
		want string
	}{
		{func() string { return connect(12) }, "212121212222"},
		{func() string { closeOne(); return connect(2) }, "22"},
		{func() string { closeOne(); return connect(2) }, "12"},
	} {
		if got := c.do(); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}

// TestCounters: packets and IP bytes each way, of the server and the service; both begin again when they are zeroed.
func TestCounters(t *testing.T) {
	d := mustDirector(t)
	for _, f := range []frame{{from: client, to: vip}, {from: "10.1.0.1:20001", to: vip}, {from: client, to: vip}} {
		f.udp, f.payload = true, strings.Repeat("x", 100)
		mustForward(t, d, f)
		f.from, f.to = real, f.from
		mustForward(t, d, f)
	}
	want := lvs.Stats{Conns: 2, InPackets: 3, OutPackets: 3, InBytes: 384, OutBytes: 384}
	stats := func() (service, server lvs.Stats) {
		table, _ := d.Table()
		s := table.Service(serviceID(lvs.UDP, vip))
		return s.Stats, s.Servers[0].Stats
	}
	if a, b := stats(); a != want || b != want {
		t.Errorf("%+v and %+v, want %+v", a, b, want)
	}
	if r := d.Packet(frame{from: client, to: vip, udp: true, ttl: 1}.mustPacket(t)); r.Reason != TTL {
		t.Fatalf("%v %q", r.Verdict, r.Reason)
	}
	if a, _ := stats(); a != want {
		t.Errorf("a packet that was dropped counts: %+v", a)
	}
	mustUpdate(t, d, func(t *lvs.Table) error { return t.Zero(nil) })
	if a, b := stats(); a != (lvs.Stats{}) || b != (lvs.Stats{}) {
		t.Errorf("%+v and %+v after they were zeroed", a, b)
	}
}

// TestBothWaysAtOnce: one port of a client may reach the same server through two services; answers then belong to the newer one.
func TestBothWaysAtOnce(t *testing.T) {
	d := mustDirector(t)
	const other = "10.9.0.2:80"
	mustUpdate(t, d, addService(lvs.TCP, other, "rr"), addServer(lvs.TCP, other, real, nat(1)))
	mustForward(t, d, frame{from: client, to: other, flags: "S"}, frame{from: client, to: vip, flags: "S"})
	r := mustForward(t, d, frame{from: real, to: client, flags: "SA"})
	if from := netip.AddrFrom4([4]byte(r.Frame[ethernetHeader+12:])); from != netip.MustParseAddrPort(vip).Addr() {
		t.Errorf("the answer comes from %v", from)
	}
}
