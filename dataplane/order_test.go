// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"lvs"
)

// The recordings of a real kernel, which package sched is held to, hold the loaded program to the same.
const recordings = "../sched/testdata/"

// replay is a service of a recording.
type replay struct {
	*world
	path
}

// mustRecorded makes a world with the addresses of the recordings.
func mustRecorded(t testing.TB) *world {
	t.Helper()
	w := mustWorld(t, Sizes{Conns: 1 << 14, Services: 256, Servers: 1024})
	mustAddress(t, w.clients, "10.1.255.254/16")
	mustAddress(t, w.servers, "10.2.0.254/24")
	return w
}

func (w *world) mustReplay(c lvs.ServiceConfig, p lvs.Protocol, virtual netip.AddrPort) replay {
	w.t.Helper()
	r := replay{w, path{protocol: p, virtual: virtual}}
	c.Netmask = 0xffffffff
	if virtual.Addr().Is6() {
		c.Netmask = 128
	}
	w.mustUpdate(func(t *lvs.Table) error { return t.AddService(r.id(), c) })
	return r
}

// flagsOf are scheduler flags by their names.
func flagsOf(text string) (f lvs.SchedulerFlags) {
	if strings.Contains(text, "-port") {
		f |= lvs.SchedulerPort
	}
	if strings.Contains(text, "-fallback") {
		f |= lvs.SchedulerFallback
	}
	return f
}

func (r replay) numbered(server int) lvs.ServerID {
	return lvs.ServerID{Addr: netip.AddrFrom4([4]byte{10, 2, 0, byte(10 + server)}), Port: r.virtual.Port()}
}

func (r replay) mustAdd(server int, weight int32, upper uint32) {
	r.t.Helper()
	r.mustUpdate(func(t *lvs.Table) error {
		return t.AddServer(r.id(), r.numbered(server), lvs.ServerConfig{Forward: lvs.Masq, Weight: weight, Upper: upper})
	})
}

// connect makes a connection, and ends it if it is to be closed; it gives the recording's sign for the server.
func (r replay) connect(client netip.AddrPort, closed bool) byte {
	r.t.Helper()
	r.client = client
	verdict, out := r.run(r.tc, r.clients, r.in("S").frame(r.t))
	if verdict != tcRedirect {
		r.t.Fatalf("connection from %v: verdict %d", client, int32(verdict))
	}
	if icmp := out[23] == 1; icmp {
		return 'x'
	}
	r.server = netip.AddrPortFrom(netip.AddrFrom4([4]byte(out[30:34])), r.virtual.Port())
	rest := []packet{r.out("SA"), r.in("A"), r.in("FA"), r.out("FA"), r.in("A")}
	switch {
	case r.protocol == lvs.UDP:
		rest = rest[:1]
	case !closed:
		rest = rest[:2]
	}
	for _, p := range rest {
		if verdict, _ := r.run(r.tc, r.side(p), p.frame(r.t)); verdict != tcRedirect {
			r.t.Errorf("connection from %v: verdict %d", client, int32(verdict))
		}
	}
	return '0' + out[33] - 10
}

// clientOf is the source of connection i, as the recordings were made.
func clientOf(kind string, i int) netip.AddrPort {
	if kind == "one" {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, 1}), uint16(20000+i))
	}
	if kind == "ports" {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 3, byte(1 + i%6)}), uint16(21000+(i/6)*7))
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i * 37), byte(1 + (i*91)%254)}), uint16(20000+(i*13)%5000))
}

// TestRecorded makes the connections that a Linux 6.1 kernel was asked for, and wants the same servers and loads.
func TestRecorded(t *testing.T) {
	w := mustRecorded(t)
	f, err := os.Open(recordings + "sched.jsonl")
	must(t, err)
	defer f.Close()
	lines, runs, scheduler := bufio.NewScanner(f), 0, ""
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var run struct {
			Sched, Flags, Proto, VIP, Conns, Src, Seq string
			Clients                                   []string
			Weights                                   []int32
			Upper                                     []uint32
			Active, Inact                             []uint32
		}
		must(t, json.Unmarshal(lines.Bytes(), &run))
		protocol, known := map[string]lvs.Protocol{"tcp": lvs.TCP, "udp": lvs.UDP}[run.Proto]
		if !known {
			continue
		}
		if run.Sched != scheduler { // too many connections of one client's port do not fit
			w.mustExpire()
			scheduler = run.Sched
		}
		runs++
		name := fmt.Sprintf("%s %s %s %v %v %s", run.Sched, run.Flags, run.Conns, run.Weights, run.Upper, run.Src)
		r := w.mustReplay(lvs.ServiceConfig{Scheduler: run.Sched, SchedulerFlags: flagsOf(run.Flags)}, protocol, netip.MustParseAddrPort(run.VIP))
		for i, weight := range run.Weights {
			var upper uint32
			if run.Upper != nil {
				upper = run.Upper[i]
			}
			r.mustAdd(i+1, weight, upper)
		}
		var got []byte
		for i := range run.Seq {
			client := clientOf(run.Src, i)
			if run.Clients != nil {
				client = netip.MustParseAddrPort(run.Clients[i])
			}
			got = append(got, r.connect(client, run.Conns == "closed"))
		}
		if string(got) != run.Seq {
			t.Errorf("%s: got\n%s, want\n%s", name, got, run.Seq)
		}
		loads := w.mustLoads(r.path)
		slices.Reverse(loads)
		for i, l := range loads {
			if want := (lvs.Load{Active: run.Active[i], Inactive: run.Inact[i]}); l != want {
				t.Errorf("%s: server %d has %+v, want %+v", name, i+1, l, want)
			}
		}
	}
	must(t, lines.Err())
	if runs < 200 {
		t.Errorf("only %d recordings", runs)
	}
	w.checkLoads()
	w.mustExpire()
}

var (
	storyLine  = regexp.MustCompile(`^== -s (\w+)(?: -b (\S+))?, connections (\w+), clients (\w+), service (\S+),`)
	burstLine  = regexp.MustCompile(`^(start|-.*?) {2,}([1-4x]{12})$`)
	addLine    = regexp.MustCompile(`^-([ae]) -r 10\.2\.0\.1(\d):80 -m -w (\d+)$`)
	dropLine   = regexp.MustCompile(`^-d -r 10\.2\.0\.1(\d):80$`)
	serverLine = regexp.MustCompile(`^  -> 10\.2\.0\.1(\d):80 +Masq +\d+ +(\d+) +(\d+) +$`)
)

// TestRecordedEdits does the same while weights change and servers come and go.
func TestRecordedEdits(t *testing.T) {
	text, err := os.ReadFile(recordings + "dynamic.txt")
	must(t, err)
	stories, w := 0, mustRecorded(t)
	for block := range strings.SplitSeq("\n"+string(text), "\n== ") {
		lines := strings.Split("== "+block, "\n")
		head := storyLine.FindStringSubmatch(lines[0])
		if head == nil {
			continue
		}
		stories++
		c := lvs.ServiceConfig{Scheduler: head[1], SchedulerFlags: flagsOf(head[2])}
		r := w.mustReplay(c, lvs.TCP, netip.MustParseAddrPort(head[5]))
		for n := 1; n <= 3; n++ {
			r.mustAdd(n, int32(n), 0)
		}
		r.mustFollow(lines[1:], c, head[3], head[4])
		r.checkLoads()
		r.mustExpire()
	}
	if stories < 30 {
		t.Errorf("only %d stories", stories)
	}
}

// mustFollow makes the edits of a story, each with the connections after it, and looks at the loads at the end.
func (r replay) mustFollow(lines []string, c lvs.ServiceConfig, conns, clients string) {
	r.t.Helper()
	k, listed := 0, 0
	for _, line := range lines {
		if b := burstLine.FindStringSubmatch(line); b != nil {
			r.mustEdit(b[1], c)
			var got []byte
			for range len(b[2]) {
				client := clientOf(clients, k)
				if clients == "many" { // the same ones again, from other ports
					client = clientOf(clients, k%12)
					client = netip.AddrPortFrom(client.Addr(), client.Port()+uint16(6000+k))
				}
				got = append(got, r.connect(client, conns == "closed"))
				k++
			}
			if string(got) != b[2] {
				r.t.Fatalf("%+v: %s: got %s, want %s", c, b[1], got, b[2])
			}
		}
		if m := serverLine.FindStringSubmatch(line); m != nil {
			listed++
			var number int
			var want lvs.Load
			fmt.Sscan(strings.Join(m[1:], " "), &number, &want.Active, &want.Inactive)
			t, err := r.Table()
			must(r.t, err)
			if got := t.Service(r.id()).Server(r.numbered(number)).Load; got != want {
				r.t.Errorf("server %d has %+v, want %+v", number, got, want)
			}
		}
	}
	if k != 8*12 || listed != 8 {
		r.t.Errorf("%d connections and %d servers understood", k, listed)
	}
}

func (r replay) mustEdit(command string, c lvs.ServiceConfig) {
	r.t.Helper()
	var number int
	var weight int32
	if m := addLine.FindStringSubmatch(command); m != nil {
		fmt.Sscan(m[2]+" "+m[3], &number, &weight)
		if m[1] == "a" {
			r.mustAdd(number, weight, 0)
			return
		}
		r.mustUpdate(func(t *lvs.Table) error {
			return t.EditServer(r.id(), r.numbered(number), lvs.ServerConfig{Forward: lvs.Masq, Weight: weight})
		})
		return
	}
	if m := dropLine.FindStringSubmatch(command); m != nil {
		fmt.Sscan(m[1], &number)
		r.mustUpdate(func(t *lvs.Table) error { return t.DeleteServer(r.id(), r.numbered(number)) })
		return
	}
	if strings.HasPrefix(command, "-E ") {
		r.mustUpdate(func(t *lvs.Table) error {
			c.Netmask = 0xffffffff
			return t.EditService(r.id(), c)
		})
		return
	}
	if command != "start" {
		r.t.Fatalf("edit %q", command)
	}
}
