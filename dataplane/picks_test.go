// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"lvs"
	"lvs/sched"
)

// judged is a service whose every choice package sched makes, too.
type judged struct {
	replay
	scheduler string
	many      int // servers that may come and go; 0 is a dozen
	in        *instance
	slot      uint32
	judge     sched.Scheduler
	random    uint32
	last      map[lvs.ServerID]int32 // weights that were not 0
}

// mustJudge makes a service under a scheduler.
func (w *world) mustJudge(c lvs.ServiceConfig, virtual netip.AddrPort) *judged {
	w.t.Helper()
	j := &judged{scheduler: c.Scheduler, replay: w.mustReplay(c, lvs.TCP, virtual), in: w.mustLook(), last: map[lvs.ServerID]int32{}}
	var err error
	j.judge, err = sched.New(c.Scheduler, c.SchedulerFlags, nil)
	must(w.t, err)
	keys, err := j.in.m(bpfMapServiceSlots)
	must(w.t, err)
	must(w.t, keys.Lookup(toKey(j.id()), &j.slot))
	w.settings.Random = 0
	w.setClock(w.settings.Now)
	return j
}

// chance gives the numbers that the program draws under the clock of a test.
func (j *judged) chance() uint32 {
	j.random = j.random*1664525 + 1013904223
	return j.random
}

// servers are the service's, with what they carry now.
func (j *judged) servers() (list []sched.Server) {
	for i, d := range j.in.members(&j.in.services[j.slot]) {
		if bpfSlotUse(d.Use) != bpfSlotUseSLOT_LIVE {
			continue
		}
		l := fromLoad(j.in.loads[i])
		id := serverID(d)
		list = append(list, sched.Server{
			ID: id, Weight: d.Weight, LastWeight: j.last[id], Active: l.Active, Inactive: l.Inactive, Overloaded: j.in.loads[i].Overloaded != 0,
		})
	}
	return list
}

func (j *judged) change(id lvs.ServerID, c lvs.ServerConfig, edit func(*lvs.Table) error) {
	j.t.Helper()
	before := j.servers()
	known := slices.ContainsFunc(before, func(s sched.Server) bool { return s.ID == id })
	j.mustUpdate(edit)
	if !known || c.Weight != 0 {
		j.last[id] = c.Weight
	}
	after := j.servers()
	for i := range after {
		after[i].Edited = known && after[i].ID == id
	}
	j.judge.Changed(before, after)
}

func (j *judged) add(id lvs.ServerID, c lvs.ServerConfig) {
	j.t.Helper()
	j.change(id, c, func(t *lvs.Table) error { return t.AddServer(j.id(), id, c) })
}

// addAll adds servers in one change.
func (j *judged) addAll(family lvs.Family, weights []int32) {
	j.t.Helper()
	j.mustUpdate(func(t *lvs.Table) error {
		for i, weight := range weights {
			id := serverOf(family, i+1)
			j.last[id] = weight
			if err := t.AddServer(j.id(), id, lvs.ServerConfig{Forward: lvs.Masq, Weight: weight}); err != nil {
				return err
			}
		}
		return nil
	})
	j.judge.Changed(nil, j.servers())
}

// ask makes a connection; program and judge must choose the same server.
func (j *judged) ask(client netip.AddrPort) (chosen lvs.ServerID) {
	j.t.Helper()
	servers := j.servers()
	now := time.Duration(j.settings.Now) * time.Second / time.Duration(j.in.hz)
	want := j.judge.Pick(servers, sched.Request{Client: client, Virtual: j.virtual, Now: now, Random: j.chance})
	j.client = client
	verdict, out := j.run(j.tc, j.clients, j.path.in("S").frame(j.t))
	if verdict != tcRedirect {
		j.t.Fatalf("%s: connection from %v: verdict %d", j.scheduler, client, int32(verdict))
	}
	got := -1
	if protocol := out[23]; client.Addr().Is4() && protocol == byte(lvs.TCP) {
		chosen = lvs.ServerID{Addr: netip.AddrFrom4([4]byte(out[30:34])), Port: binary.BigEndian.Uint16(out[36:])}
	} else if protocol := out[20]; client.Addr().Is6() && protocol == byte(lvs.TCP) {
		chosen = lvs.ServerID{Addr: netip.AddrFrom16([16]byte(out[38:54])), Port: binary.BigEndian.Uint16(out[56:])}
	}
	got = slices.IndexFunc(servers, func(s sched.Server) bool { return s.ID == chosen })
	if got != want {
		j.t.Fatalf("%s: client %v: server %d of %+v, want %d", j.scheduler, client, got, servers, want)
	}
	return chosen
}

// randomClient is any unicast address and port.
func randomClient(r *rand.Rand, family lvs.Family) netip.AddrPort {
	var b [16]byte
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	port := uint16(1 + r.Uint32N(65535))
	if family == lvs.IPv6 {
		b[0] = 0x20 | b[0]&0x1f
		return netip.AddrPortFrom(netip.AddrFrom16(b), port)
	}
	b[0] = 11 + b[0]%100
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), port)
}

func serverOf(family lvs.Family, n int) lvs.ServerID {
	n += 20 // the first ones are the director's own
	if family == lvs.IPv6 {
		return lvs.ServerID{Addr: netip.AddrFrom16([16]byte{0xfd, 13: byte(n * 7), 14: byte(n >> 8), 15: byte(n)}), Port: uint16(8000 + n)}
	}
	return lvs.ServerID{Addr: netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), Port: uint16(8000 + n)}
}

// mustEverywhere makes routes to all clients.
func (w *world) mustEverywhere() {
	w.t.Helper()
	mustAddress(w.t, w.clients, "11.255.255.254/1")
	mustAddress(w.t, w.clients, "2000::1/3")
}

// TestHashes: 10,000 clients of each family and scheduler go where the hashes of package sched send them.
func TestHashes(t *testing.T) {
	w := mustWorld(t, Sizes{Conns: 1 << 16, Services: 128, Servers: 1 << 13})
	w.mustEverywhere()
	for _, virtual := range []netip.AddrPort{tcp4.virtual, tcp6.virtual} {
		for _, scheduler := range []string{"sh", "mh", "dh"} {
			r := rand.New(rand.NewPCG(4, 2))
			n := 0
			for flags := range lvs.SchedulerFlags(4) {
				for _, weights := range [][]int32{{1}, {1, 2, 5}, {0, 1, 0, 3}, {10, 20, 30, 40, 50}, slices.Repeat([]int32{3, 1, 100}, 40)} {
					n++
					at := netip.AddrPortFrom(virtual.Addr(), uint16(1000*n+len(scheduler)+int(scheduler[0])))
					j := w.mustJudge(lvs.ServiceConfig{Scheduler: scheduler, SchedulerFlags: flags}, at)
					family := j.id().Family
					j.addAll(family, weights)
					for range 500 {
						j.ask(randomClient(r, family))
					}
				}
			}
			w.mustExpire()
		}
	}
}

// TestPicks tells each scheduler a random story of edits, connections that come and go, and time that passes.
func TestPicks(t *testing.T) {
	w := mustWorld(t, Sizes{Conns: 1 << 14, Services: 64, Servers: 512})
	w.mustEverywhere()
	w.settings.SweepSlice = 0
	for n, scheduler := range lvs.Schedulers {
		r := rand.New(rand.NewPCG(7, uint64(n)))
		j := w.mustJudge(lvs.ServiceConfig{Scheduler: scheduler, SchedulerFlags: lvs.SchedulerFlags(n % 4)},
			netip.AddrPortFrom(tcp4.virtual.Addr(), uint16(100+n)))
		for range 600 {
			j.step(r)
		}
		w.checkLoads()
		w.mustExpire()
	}
}

func (j *judged) step(r *rand.Rand) {
	j.t.Helper()
	many := j.many
	if many == 0 {
		many = 12
	}
	id := serverOf(lvs.IPv4, 1+r.IntN(many))
	c := lvs.ServerConfig{Forward: lvs.Masq, Weight: r.Int32N(5)}
	if r.IntN(3) == 0 {
		c.Weight = r.Int32N(50)
	}
	if r.IntN(4) == 0 {
		c.Upper = 1 + r.Uint32N(8)
	}
	known := slices.ContainsFunc(j.servers(), func(s sched.Server) bool { return s.ID == id })
	switch n := r.IntN(100); {
	case n < 8 && !known:
		j.add(id, c)
	case n < 4:
		j.change(id, c, func(t *lvs.Table) error { return t.DeleteServer(j.id(), id) })
	case n < 8:
		j.change(id, c, func(t *lvs.Table) error { return t.EditServer(j.id(), id, c) })
	case n < 9:
		j.pass(time.Duration(r.IntN(30*60*60)) * time.Second)
	case n < 10:
		j.pass(time.Duration(r.IntN(100)) * time.Second)
	default:
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, 0, byte(r.Uint32()), byte(r.Uint32())}), uint16(1+r.Uint32N(65535)))
		server := j.ask(client)
		if server == (lvs.ServerID{}) {
			return
		}
		j.server = netip.AddrPortFrom(server.Addr, server.Port)
		rest := []packet{j.out("SA"), j.path.in("A"), j.path.in("FA"), j.out("FA"), j.path.in("A")}
		for _, p := range rest[:r.IntN(len(rest)+1)] {
			j.run(j.tc, j.side(p), p.frame(j.t))
		}
	}
}

// pass lets time pass, also for slots of servers that were removed.
func (j *judged) pass(d time.Duration) {
	j.t.Helper()
	j.settings.Random = j.random
	j.setClock(j.settings.Now + uint32(d.Seconds())*j.in.hz)
	j.mustSweep()
	for i := range j.in.servers {
		j.in.servers[i].Removed = 0
	}
}
