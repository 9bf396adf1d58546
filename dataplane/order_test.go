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

// inProgram are the schedulers that the program has.
var inProgram = []string{"rr", "wrr", "lc", "wlc"}

// replay is a service of a recording.
type replay struct {
	*world
	path
}

// mustRecorded makes a world with the addresses of the recordings.
func mustRecorded(t testing.TB) *world {
	t.Helper()
	w := mustWorld(t, Sizes{Conns: 1 << 13, Services: 128, Servers: 512})
	mustAddress(t, w.clients, "10.1.255.254/16")
	mustAddress(t, w.servers, "10.2.0.254/24")
	return w
}

func (w *world) mustReplay(scheduler string, virtual netip.AddrPort) replay {
	w.t.Helper()
	r := replay{w, path{protocol: lvs.TCP, virtual: virtual}}
	w.mustUpdate(addService(r.id(), scheduler))
	return r
}

func numbered(server int) lvs.ServerID {
	return lvs.ServerID{Addr: netip.AddrFrom4([4]byte{10, 2, 0, byte(10 + server)}), Port: 80}
}

func (r replay) mustAdd(server int, weight int32, upper uint32) {
	r.t.Helper()
	r.mustUpdate(func(t *lvs.Table) error {
		return t.AddServer(r.id(), numbered(server), lvs.ServerConfig{Forward: lvs.Masq, Weight: weight, Upper: upper})
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
	r.server = netip.AddrPortFrom(netip.AddrFrom4([4]byte(out[30:34])), 80)
	rest := []packet{r.out("SA"), r.in("A"), r.in("FA"), r.out("FA"), r.in("A")}
	if !closed {
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
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i * 37), byte(1 + (i*91)%254)}), uint16(20000+(i*13)%5000))
}

// TestRecorded makes the connections that a Linux 6.1 kernel was asked for, and wants the same servers and loads.
func TestRecorded(t *testing.T) {
	w := mustRecorded(t)
	f, err := os.Open(recordings + "sched.jsonl")
	must(t, err)
	defer f.Close()
	lines, runs := bufio.NewScanner(f), 0
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var run struct {
			Sched, Proto, VIP, Conns, Src, Seq string
			Weights                            []int32
			Upper                              []uint32
			Active, Inact                      []uint32
		}
		must(t, json.Unmarshal(lines.Bytes(), &run))
		if !slices.Contains(inProgram, run.Sched) || run.Proto != "tcp" {
			continue
		}
		runs++
		name := fmt.Sprintf("%s %s %v %v %s", run.Sched, run.Conns, run.Weights, run.Upper, run.Src)
		r := w.mustReplay(run.Sched, netip.MustParseAddrPort(run.VIP))
		for i, weight := range run.Weights {
			var upper uint32
			if run.Upper != nil {
				upper = run.Upper[i]
			}
			r.mustAdd(i+1, weight, upper)
		}
		var got []byte
		for i := range run.Seq {
			got = append(got, r.connect(clientOf(run.Src, i), run.Conns == "closed"))
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
	if runs < 40 {
		t.Errorf("only %d recordings", runs)
	}
	w.checkLoads()
	w.mustExpire()
}

var (
	storyLine  = regexp.MustCompile(`^== -s (\w+), connections (\w+), clients (\w+), service (\S+),`)
	burstLine  = regexp.MustCompile(`^(start|-.*?) {2,}([1-4x]{12})$`)
	addLine    = regexp.MustCompile(`^-([ae]) -r 10\.2\.0\.1(\d):80 -m -w (\d+)$`)
	dropLine   = regexp.MustCompile(`^-d -r 10\.2\.0\.1(\d):80$`)
	serverLine = regexp.MustCompile(`^  -> 10\.2\.0\.1(\d):80 +Masq +\d+ +(\d+) +(\d+) +$`)
)

// TestRecordedEdits does the same while weights change and servers come and go.
func TestRecordedEdits(t *testing.T) {
	text, err := os.ReadFile(recordings + "dynamic.txt")
	must(t, err)
	stories := 0
	for block := range strings.SplitSeq("\n"+string(text), "\n== ") {
		lines := strings.Split("== "+block, "\n")
		head := storyLine.FindStringSubmatch(lines[0])
		if head == nil || !slices.Contains(inProgram, head[1]) {
			continue
		}
		stories++
		t.Run(strings.Join(head[1:4], " "), func(t *testing.T) {
			r := mustRecorded(t).mustReplay(head[1], netip.MustParseAddrPort(head[4]))
			for n := 1; n <= 3; n++ {
				r.mustAdd(n, int32(n), 0)
			}
			r.mustFollow(lines[1:], head[1], head[2], head[3])
			r.checkLoads()
			r.mustExpire()
		})
	}
	if stories < 4 {
		t.Errorf("only %d stories", stories)
	}
}

// mustFollow makes the edits of a story, each with the connections after it, and looks at the loads at the end.
func (r replay) mustFollow(lines []string, scheduler, conns, clients string) {
	r.t.Helper()
	k, listed := 0, 0
	for _, line := range lines {
		if b := burstLine.FindStringSubmatch(line); b != nil {
			r.mustEdit(b[1], scheduler)
			var got []byte
			for range len(b[2]) {
				got = append(got, r.connect(clientOf(clients, k), conns == "closed"))
				k++
			}
			if string(got) != b[2] {
				r.t.Fatalf("%s: got %s, want %s", b[1], got, b[2])
			}
		}
		if m := serverLine.FindStringSubmatch(line); m != nil {
			listed++
			var number int
			var want lvs.Load
			fmt.Sscan(strings.Join(m[1:], " "), &number, &want.Active, &want.Inactive)
			t, err := r.Table()
			must(r.t, err)
			if got := t.Service(r.id()).Server(numbered(number)).Load; got != want {
				r.t.Errorf("server %d has %+v, want %+v", number, got, want)
			}
		}
	}
	if k != 8*12 || listed != 8 {
		r.t.Errorf("%d connections and %d servers understood", k, listed)
	}
}

func (r replay) mustEdit(command, scheduler string) {
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
			return t.EditServer(r.id(), numbered(number), lvs.ServerConfig{Forward: lvs.Masq, Weight: weight})
		})
		return
	}
	if m := dropLine.FindStringSubmatch(command); m != nil {
		fmt.Sscan(m[1], &number)
		r.mustUpdate(func(t *lvs.Table) error { return t.DeleteServer(r.id(), numbered(number)) })
		return
	}
	if strings.HasPrefix(command, "-E ") {
		r.mustUpdate(func(t *lvs.Table) error {
			return t.EditService(r.id(), lvs.ServiceConfig{Scheduler: scheduler, Netmask: 0xffffffff})
		})
		return
	}
	if command != "start" {
		r.t.Fatalf("edit %q", command)
	}
}
