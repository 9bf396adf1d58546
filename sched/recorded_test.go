// SPDX-License-Identifier: Apache-2.0

package sched

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
	"time"

	"lvs"
)

// story is a service under a scheduler, with just enough of a director to keep loads and thresholds.
type story struct {
	t       *testing.T
	sched   Scheduler
	servers []Server // newest first
	numbers []int    // what the recording calls each
	limits  []Limits
	gone    map[lvs.ServerID]Server // with the connections that they still have
	now     time.Duration
}

func mustStory(t *testing.T, name string, flags lvs.SchedulerFlags) *story {
	t.Helper()
	s, err := New(name, flags, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &story{t: t, sched: s, gone: map[lvs.ServerID]Server{}}
}

func mustFlags(t *testing.T, text string) (f lvs.SchedulerFlags) {
	t.Helper()
	for word := range strings.SplitSeq(text, ",") {
		switch {
		case strings.HasSuffix(word, "-port"):
			f |= lvs.SchedulerPort
		case strings.HasSuffix(word, "-fallback"):
			f |= lvs.SchedulerFallback
		case word != "":
			t.Fatalf("flag %q", word)
		}
	}
	return f
}

func (s *story) edit(change func()) {
	before := slices.Clone(s.servers)
	change()
	s.sched.Changed(before, s.servers)
	for i := range s.servers {
		s.servers[i].Edited = false
	}
}

func (s *story) add(number int, id lvs.ServerID, weight int32, l Limits) {
	s.edit(func() {
		r := s.gone[id]
		r.ID, r.Weight, r.LastWeight = id, weight, weight
		s.servers = slices.Insert(s.servers, 0, r)
		s.numbers = slices.Insert(s.numbers, 0, number)
		s.limits = slices.Insert(s.limits, 0, l)
	})
}

func (s *story) set(number int, weight int32) {
	s.edit(func() {
		r := &s.servers[slices.Index(s.numbers, number)]
		r.Weight, r.Edited = weight, true
		if weight != 0 {
			r.LastWeight = weight
		}
	})
}

func (s *story) remove(number int) {
	s.edit(func() {
		i := slices.Index(s.numbers, number)
		s.gone[s.servers[i].ID] = s.servers[i]
		s.servers = slices.Delete(s.servers, i, i+1)
		s.numbers = slices.Delete(s.numbers, i, i+1)
		s.limits = slices.Delete(s.limits, i, i+1)
	})
}

// connect schedules one connection and gives the recording's sign for the answer.
func (s *story) connect(client, virtual netip.AddrPort, kind string) byte {
	s.now += 10 * time.Millisecond
	i := s.sched.Pick(s.servers, Request{Client: client, Virtual: virtual, Now: s.now})
	if i < 0 {
		return 'x'
	}
	r := &s.servers[i]
	total := r.Active + r.Inactive + 1
	r.Overloaded = s.limits[i].Overloaded(r.Overloaded, total)
	switch kind {
	case "open":
		r.Active++
	case "closed":
		r.Inactive++
	case "one-packet":
		r.Overloaded = s.limits[i].Overloaded(r.Overloaded, total-1)
	}
	return '0' + byte(s.numbers[i])
}

func (s *story) load(number int) (active, inactive int) {
	r := s.servers[slices.Index(s.numbers, number)]
	return int(r.Active), int(r.Inactive)
}

// clientOf is the source of connection i, as the recordings were made.
func clientOf(kind string, i int) netip.AddrPort {
	switch kind {
	case "one":
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, 1}), uint16(20000+i))
	case "many":
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i * 37), byte(1 + (i*91)%254)}), uint16(20000+(i*13)%5000))
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 3, byte(1 + i%6)}), uint16(21000+(i/6)*7))
}

// run is a service under one scheduler, and what a Linux 6.1 kernel answered to a row of connections.
type run struct {
	Sched, Flags, Proto, VIP, Conns, Src, Seq string
	RS, Clients, Dst                          []string
	Weights                                   []int32
	Upper                                     []uint32
	Active, Inact                             []int
}

// TestRecorded asks each scheduler what the kernel was asked, and wants the same answers.
func TestRecorded(t *testing.T) {
	f, err := os.Open("testdata/sched.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r run
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprint(r.Sched, " ", r.Flags, " ", r.Proto, " ", r.Conns, " ", r.Weights, r.Upper, " ", r.Src)
		t.Run(name, r.replay)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

func (r *run) replay(t *testing.T) {
	s := mustStory(t, r.Sched, mustFlags(t, r.Flags))
	for i, w := range r.Weights {
		id := lvs.ServerID{Addr: netip.MustParseAddr(r.RS[i])}
		if r.Proto != "fwmark" {
			id.Port = map[string]uint16{"tcp": 80, "udp": 53, "ops": 53}[r.Proto]
		}
		var l Limits
		if r.Upper != nil {
			l.Upper = r.Upper[i]
		}
		s.add(i+1, id, w, l)
	}
	kind := r.Conns
	if r.Proto == "ops" {
		kind = "one-packet"
	}
	var got []byte
	for i := range r.Seq {
		got = append(got, s.connect(r.client(i), r.virtual(i), kind))
	}
	if string(got) != r.Seq {
		t.Errorf("got  %s\nwant %s", got, r.Seq)
	}
	for i := range r.Weights {
		if a, n := s.load(i + 1); a != r.Active[i] || n != r.Inact[i] {
			t.Errorf("server %d has %d active and %d inactive, want %d and %d", i+1, a, n, r.Active[i], r.Inact[i])
		}
	}
}

func (r *run) client(i int) netip.AddrPort {
	if r.Clients != nil {
		return netip.MustParseAddrPort(r.Clients[i])
	}
	return clientOf(r.Src, i)
}

func (r *run) virtual(i int) netip.AddrPort {
	if r.Proto == "fwmark" {
		return netip.AddrPortFrom(netip.MustParseAddr(r.Dst[i]), 80)
	}
	return netip.MustParseAddrPort(r.VIP)
}

var (
	storyLine = regexp.MustCompile(`^== -s (\w+)(?: -b (\S+))?, connections (\w+), clients (\w+), service (\S+),`)
	burstLine = regexp.MustCompile(`^(start|-.*?) {2,}([1-4x]{12})$`)
	addLine   = regexp.MustCompile(`^-([ae]) -r (10\.2\.0\.1(\d):80) -m -w (\d+)$`)
	dropLine  = regexp.MustCompile(`^-d -r 10\.2\.0\.1(\d):80$`)
)

// TestRecordedEdits does the same while weights change and servers come and go.
func TestRecordedEdits(t *testing.T) {
	text, err := os.ReadFile("testdata/dynamic.txt")
	if err != nil {
		t.Fatal(err)
	}
	for block := range strings.SplitSeq("\n"+string(text), "\n== ") {
		lines := strings.Split("== "+block, "\n")
		head := storyLine.FindStringSubmatch(lines[0])
		if head == nil {
			continue
		}
		t.Run(strings.Join(head[1:4], " "), func(t *testing.T) {
			s := mustStory(t, head[1], mustFlags(t, head[2]))
			virtual := netip.MustParseAddrPort(head[5])
			for n := 1; n <= 3; n++ {
				s.add(n, lvs.ServerID{Addr: netip.AddrFrom4([4]byte{10, 2, 0, byte(10 + n)}), Port: 80}, int32(n), Limits{})
			}
			k, bursts := 0, 0
			for _, line := range lines[1:] {
				b := burstLine.FindStringSubmatch(line)
				if b == nil {
					continue
				}
				bursts++
				s.mustEdit(b[1])
				var got []byte
				for range 12 {
					client := clientOf(head[4], k)
					if head[4] == "many" {
						client = clientOf(head[4], k%12)
						client = netip.AddrPortFrom(client.Addr(), client.Port()+uint16(6000+k))
					}
					k++
					got = append(got, s.connect(client, virtual, head[3]))
				}
				if string(got) != b[2] {
					t.Fatalf("%s: got %s, want %s", b[1], got, b[2])
				}
			}
			if bursts != 8 {
				t.Fatalf("%d edits understood, want 8", bursts)
			}
		})
	}
}

func (s *story) mustEdit(command string) {
	s.t.Helper()
	if m := addLine.FindStringSubmatch(command); m != nil {
		var number int
		var weight int32
		fmt.Sscan(m[3], &number)
		fmt.Sscan(m[4], &weight)
		if m[1] == "a" {
			s.add(number, lvs.ServerID{Addr: netip.MustParseAddrPort(m[2]).Addr(), Port: 80}, weight, Limits{})
		} else {
			s.set(number, weight)
		}
		return
	}
	if m := dropLine.FindStringSubmatch(command); m != nil {
		s.remove(int(m[1][0] - '0'))
		return
	}
	if command != "start" && !strings.HasPrefix(command, "-E ") {
		s.t.Fatalf("edit %q", command)
	}
}
