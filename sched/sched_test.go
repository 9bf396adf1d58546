// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lvs"
)

func serverNumber(n int) Server {
	return Server{ID: lvs.ServerID{Addr: netip.AddrFrom4([4]byte{10, 2, byte(n >> 8), byte(n)}), Port: 80}}
}

func serversOf(weights ...int32) []Server {
	var list []Server
	for n, w := range weights {
		s := serverNumber(n)
		s.Weight, s.LastWeight = w, w
		list = append(list, s)
	}
	return list
}

func drawServers(t *rapid.T) []Server {
	weights := rapid.SliceOfN(rapid.OneOf(rapid.Int32Range(0, 4), rapid.Int32Range(0, 60)), 0, 8).Draw(t, "weights")
	list := serversOf(weights...)
	for i := range list {
		list[i].Active = rapid.Uint32Range(0, 5).Draw(t, "active")
		list[i].Inactive = rapid.Uint32Range(0, 300).Draw(t, "inactive")
		list[i].Overloaded = rapid.IntRange(0, 3).Draw(t, "overloaded") == 0
	}
	return list
}

func drawRequest(t *rapid.T) Request {
	ip := rapid.OneOf(
		rapid.Map(rapid.Uint32(), func(v uint32) netip.Addr {
			return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
		}),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 16, 16), func(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)) }))
	return Request{
		Client:  netip.AddrPortFrom(ip.Draw(t, "client"), rapid.Uint16().Draw(t, "port")),
		Virtual: netip.AddrPortFrom(ip.Draw(t, "virtual"), 80),
		Now:     time.Duration(rapid.IntRange(0, 100).Draw(t, "hours")) * time.Hour,
	}
}

// TestPickIsUsable: no scheduler ever picks a server of weight 0, and only lblc picks one at its threshold. Schedulers
// without a table find a server whenever there is one, but for ovf, which may find all too busy.
func TestPickIsUsable(t *testing.T) {
	for _, name := range lvs.Schedulers {
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			flags := lvs.SchedulerFlags(rapid.Uint8Range(0, 3).Draw(t, "flags"))
			before := drawServers(t)
			s, err := New(name, flags, before)
			if err != nil {
				t.Fatal(err)
			}
			servers := drawServers(t)
			s.Changed(before, servers)
			for range 20 {
				i := s.Pick(servers, drawRequest(t))
				some := slices.ContainsFunc(servers, func(s Server) bool { return s.usable() })
				always := !slices.Contains([]string{"sh", "dh", "mh", "ovf"}, name)
				if i < 0 && some && always {
					t.Fatal("nothing picked, though a server is usable")
				}
				if i >= 0 && (servers[i].Weight == 0 || servers[i].Overloaded && name != "lblc") {
					t.Fatalf("picked %+v", servers[i])
				}
				if i >= 0 && servers[i].Active < 50 {
					servers[i].Active++
				}
			}
		}))
	}
}

// TestPickDoesNotAllocate: simulations pick many millions of times.
func TestPickDoesNotAllocate(t *testing.T) {
	servers := serversOf(1, 2, 5)
	r := Request{Client: netip.MustParseAddrPort("10.0.0.1:40000"), Virtual: netip.MustParseAddrPort("10.9.0.1:80")}
	for _, name := range lvs.Schedulers {
		s, err := New(name, lvs.SchedulerPort|lvs.SchedulerFallback, servers)
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() { servers[max(s.Pick(servers, r), 0)].Active++ }); n != 0 {
			t.Errorf("%s: %v allocations a pick", name, n)
		}
	}
}

// TestCost: whoever has the least cost, and the first one of several, is picked by the schedulers that compare loads.
func TestCost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"lc", "wlc", "sed", "nq", "lblc", "lblcr"}).Draw(t, "scheduler")
		servers := drawServers(t)
		want, least := -1, 0.0
		for i := range servers {
			if cost, compared := Cost(name, &servers[i]); compared && (want < 0 || cost < least) {
				want, least = i, cost
			}
		}
		s, err := New(name, 0, servers)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Pick(servers, drawRequest(t)); got != want {
			t.Fatalf("%s picks %d of %+v, the least cost has %d", name, got, servers, want)
		}
	})
}

// TestWeightedShare: a round of wrr gives each server its weight's share of turns, from wherever it begins.
func TestWeightedShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		servers := serversOf(rapid.SliceOfN(rapid.Int32Range(0, 20), 1, 6).Draw(t, "weights")...)
		var total int32
		for _, s := range servers {
			total += s.Weight
		}
		w := &WRR{}
		w.Changed(nil, servers)
		for range rapid.IntRange(0, 30).Draw(t, "start") {
			w.Pick(servers, Request{})
		}
		turns := make([]int32, len(servers))
		for range total / w.Step {
			turns[w.Pick(servers, Request{})]++
		}
		for i, s := range servers {
			if turns[i]*w.Step != s.Weight {
				t.Fatalf("turns %v in a round of %v", turns, servers)
			}
		}
	})
}

// walk is wrr pass by pass, every server of each: what Pick takes a shorter way to.
func walk(w WRR, servers []Server) (int, WRR) {
	if w.Top == 0 {
		return -1, w
	}
	for range int(w.Top)*2 + 2 {
		for i := w.Next; i < len(servers); i++ {
			if !servers[i].Overloaded && servers[i].Weight >= w.Current {
				w.Next = i + 1
				return i, w
			}
		}
		w.Next = 0
		if w.Current -= w.Step; w.Current <= 0 {
			w.Current = w.Top
		}
	}
	return -1, w
}

func TestWRRTakesTheSameTurnsAsAWalk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &WRR{}
		var servers []Server
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			if rapid.IntRange(0, 3).Draw(t, "edit") == 0 {
				next := drawServers(t)
				w.Changed(servers, next)
				servers = next
			}
			want, then := walk(*w, servers)
			if got := w.Pick(servers, Request{}); got != want || want >= 0 && *w != then {
				t.Fatalf("picked %d, walked to %d; %+v, %+v", got, want, *w, then)
			}
		}
	})
}

// TestRRCursor: an edit makes nobody wait longer and nobody come twice.
func TestRRCursor(t *testing.T) {
	name := func(names string) (list []Server) {
		for _, c := range names {
			s := serverNumber(int(c))
			s.Weight = 1
			list = append(list, s)
		}
		return list
	}
	for _, c := range []struct {
		before string
		next   int
		after  string
		want   int
		sense  string
	}{
		{"", 0, "cba", 0, "begins at the head"},
		{"cba", 1, "dcba", 2, "a new one waits until the list begins again"},
		{"cba", 2, "ca", 1, "the one that had the last turn goes"},
		{"cba", 1, "ba", 0, "the first had the last turn and goes"},
		{"cba", 2, "ba", 1, "one before it goes"},
		{"cba", 2, "cb", 2, "one behind it goes"},
		{"cba", 3, "c", 1, "the last two go"},
		{"cba", 3, "xyz", 0, "all are new"},
		{"cba", 3, "acb", 3, "deleted and added again, it is the first and b the last"},
		{"cba", 2, "", 0, "all go"},
	} {
		r := &RR{Next: c.next}
		if r.Changed(name(c.before), name(c.after)); r.Next != c.want {
			t.Errorf("%s: %s at %d, then %s at %d, want %d", c.sense, c.before, c.next, c.after, r.Next, c.want)
		}
	}
}

// TestMaglevMovesLittle: when a server leaves, hardly a slot of the others changes hands.
func TestMaglevMovesLittle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := serversOf(rapid.SliceOfN(rapid.Int32Range(1, 5), 2, 12).Draw(t, "weights")...)
		gone := rapid.IntRange(0, len(before)-1).Draw(t, "gone")
		after := slices.Delete(slices.Clone(before), gone, gone+1)
		old, now := MaglevTable(before), MaglevTable(after)
		moved := 0
		for slot := range old {
			if int(old[slot]) != gone && before[old[slot]].ID != after[now[slot]].ID {
				moved++
			}
		}
		if moved > MaglevSize/5 {
			t.Fatalf("%d of %d slots moved", moved, MaglevSize)
		}
	})
}

func TestMaglevKeepsSlotsOfAQuiescedServer(t *testing.T) {
	servers := serversOf(2, 3, 1)
	before := MaglevTable(servers)
	servers[1].Weight = 0
	if !slices.Equal(MaglevTable(servers), before) {
		t.Error("weight 0 has moved slots")
	}
	servers[1].LastWeight = 0
	if slices.Contains(MaglevTable(servers), 1) {
		t.Error("a server added with weight 0 has slots")
	}
}

// TestTwosIsFair: with equal loads, turns go by weight; with unequal ones, mostly to the less loaded.
func TestTwosIsFair(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 2))
	s, err := New("twos", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	count := func(servers []Server) (turns [3]int) {
		for range 6000 {
			turns[s.Pick(servers, Request{Random: chance.Uint32})]++
		}
		return turns
	}
	if n := count(serversOf(10, 20, 30)); n[0] < 900 || n[1] < 1850 || n[2] < 2800 {
		t.Errorf("turns of weights 10, 20 and 30: %v", n)
	}
	busy := serversOf(10, 10, 10)
	busy[0].Active = 1
	if n := count(busy); n[0] > 900 { // both draws must fall on it: about a ninth
		t.Errorf("turns with the first one busy: %v", n)
	}
}

// TestReplicationShrinks: a set of lblcr that has not changed for a day loses its most loaded member.
func TestReplicationShrinks(t *testing.T) {
	l := newLocality(true)
	servers := serversOf(1, 4)
	r := Request{Virtual: netip.MustParseAddrPort("10.9.0.1:80")}
	pick := func(want int) {
		t.Helper()
		if i := l.Pick(servers, r); i != want {
			t.Fatalf("picked %d at %v, want %d", i, r.Now, want)
		}
	}
	pick(0)
	servers[0].Active = 2
	pick(1) // replicated
	r.Now = 20 * time.Hour
	pick(1)
	r.Now = 25 * time.Hour
	pick(1)
	servers[1].Active = 3
	servers[0].Active = 0
	if got := l.places[r.Virtual.Addr()].servers; !slices.Equal(got, []lvs.ServerID{servers[1].ID}) {
		t.Errorf("the set is %v", got)
	}
	pick(1)
}

// TestLocalityForgets: an address that nobody asks for is forgotten after a day.
func TestLocalityForgets(t *testing.T) {
	l := newLocality(false)
	servers := serversOf(1, 1)
	r := Request{Virtual: netip.MustParseAddrPort("10.9.0.1:80")}
	l.Pick(servers, r)
	servers[0].Active = 1
	r.Now = LocalityLifetime - 1
	if l.Pick(servers, r) != 0 {
		t.Error("forgotten too early")
	}
	r.Now += LocalityLifetime
	if l.Pick(servers, r) != 1 {
		t.Error("not forgotten")
	}
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		sense       string
		limits      Limits
		was         bool
		connections uint32
		want        bool
	}{
		{"no limit", Limits{}, false, 1000, false},
		{"limit taken away", Limits{}, true, 1000, false},
		{"below", Limits{Upper: 4}, false, 3, false},
		{"reached", Limits{Upper: 4}, false, 4, true},
		{"three of four", Limits{Upper: 4}, true, 3, true},
		{"less than three quarters", Limits{Upper: 4}, true, 2, false},
		{"three quarters of five", Limits{Upper: 5}, true, 4, true},
		{"less than that", Limits{Upper: 5}, true, 3, false},
		{"at the lower limit", Limits{Upper: 4, Lower: 2}, true, 2, true},
		{"below the lower limit", Limits{Upper: 4, Lower: 2}, true, 1, false},
		{"a limit of one", Limits{Upper: 1}, true, 0, false},
	} {
		if got := c.limits.Overloaded(c.was, c.connections); got != c.want {
			t.Errorf("%s: overloaded %v, want %v", c.sense, got, c.want)
		}
	}
}

func TestUnknownScheduler(t *testing.T) {
	if _, err := New("nope", 0, nil); !errors.Is(err, lvs.ErrNoScheduler) {
		t.Errorf("error %v", err)
	}
}
