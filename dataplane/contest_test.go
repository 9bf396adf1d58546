// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"lvs"
)

// leastLoaded are the schedulers that ask for the least loaded server.
var leastLoaded = []string{"lc", "wlc", "sed", "nq", "fo", "ovf", "lblc", "lblcr"}

// mustCrowd makes a service with many servers, some of which take no connections, judged by package sched.
func (w *world) mustCrowd(r *rand.Rand, scheduler string, port uint16, servers int) *judged {
	w.t.Helper()
	j := w.mustJudge(lvs.ServiceConfig{Scheduler: scheduler}, netip.AddrPortFrom(tcp4.virtual.Addr(), port))
	j.many = servers
	weights := make([]int32, servers)
	for i := range weights {
		weights[i] = r.Int32N(5)
	}
	j.addAll(lvs.IPv4, weights)
	return j
}

// TestPicksAmongMany tells random stories with lists that are long enough for groups, up to the longest: each choice is the one of package
// sched, which looks at all servers.
func TestPicksAmongMany(t *testing.T) {
	w := mustWorld(t, Sizes{Conns: 1 << 14, Services: 64, Servers: 1 << 13})
	w.mustEverywhere()
	mustAddress(t, w.servers, "10.0.255.254/16")
	w.settings.SweepSlice = 0
	port := uint16(100)
	for _, servers := range []int{fewServers, fewServers + 1, 16, 17, 70, 1100, ServersPerService - 100} {
		for n, scheduler := range leastLoaded {
			if servers > 2000 && scheduler != "wlc" && scheduler != "nq" {
				continue
			}
			port++
			r := rand.New(rand.NewPCG(uint64(servers), uint64(n)))
			j := w.mustCrowd(r, scheduler, port, servers)
			for range 10_000 / (servers + 30) {
				j.step(r)
			}
			w.checkConsistent()
			w.mustExpire()
			w.mustUpdate(func(t *lvs.Table) error { return t.DeleteService(j.id()) })
			j.pass(0)
		}
	}
}

// TestChoicesTogether: while connections begin, go on and end on all CPUs, and the list is changed, no change of a load gets lost: afterwards
// the choices are again exactly those of package sched.
func TestChoicesTogether(t *testing.T) {
	w := mustWorld(t, Sizes{Conns: 1 << 15, Services: 64, Servers: 1 << 10})
	w.mustEverywhere()
	w.settings.SweepSlice = 0
	for n, scheduler := range []string{"wlc", "nq", "lc"} {
		r := rand.New(rand.NewPCG(11, uint64(n)))
		j := w.mustCrowd(r, scheduler, uint16(100+n), 90)
		for round := range 12 {
			w.onThreads(3, func(n int) {
				if n == 2 {
					if err := w.Update(weighing(j.id(), serverOf(lvs.IPv4, 1+round), int32(round%3))); err != nil {
						t.Error(err)
					}
					return
				}
				for i := range 100 {
					p := j.path
					p.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, byte(1 + n), byte(round), byte(i)}), uint16(1000+i))
					for _, flags := range []string{"S", "A", "FA", "R"}[:1+i%4] {
						w.run(w.tc, w.clients, p.in(flags).frame(t))
					}
				}
			})
			for range 30 {
				j.ask(randomClient(r, lvs.IPv4))
			}
		}
		w.checkConsistent()
		w.checkLoads()
		w.mustExpire()
	}
}

// TestOtherContest: choices are right where a list has no contest, as an earlier version leaves it, or another one's, as between two swaps; and an
// upgrade gives it its own.
func TestOtherContest(t *testing.T) {
	w := mustWorld(t, small)
	w.mustEverywhere()
	r := rand.New(rand.NewPCG(12, 0))
	j, other := w.mustCrowd(r, "wlc", 100, 20), w.mustCrowd(r, "wlc", 101, 30)
	slot := func(j *judged) (slot uint32) {
		for i := range w.mustLook().live() {
			if w.look.services[i].Key == toKey(j.id()) {
				slot = i
			}
		}
		return slot
	}
	contests, err := w.mustLook().m(bpfMapContests)
	must(t, err)
	ask := func() {
		for range 40 {
			j.ask(randomClient(r, lvs.IPv4))
		}
	}
	ask()
	must(t, contests.Delete(slot(j)))
	ask()
	var held *ebpf.Map
	must(t, contests.Lookup(slot(other), &held))
	must(t, contests.Put(slot(j), held))
	held.Close()
	ask()
	must(t, contests.Delete(slot(j)))
	_, err = w.Upgrade(true)
	must(t, err)
	w.mustReopen()
	w.checkConsistent()
	ask()
}

func weighing(service lvs.ServiceID, server lvs.ServerID, weight int32) func(*lvs.Table) error {
	return func(t *lvs.Table) error {
		return t.EditServer(service, server, lvs.ServerConfig{Forward: lvs.Masq, Weight: weight})
	}
}

// contest says what is wrong with the contest of a list: each server is in the group that its slot says, in the order of the list.
func (c *consistency) contest(slot uint32, list []bpfSeat) error {
	head, servers := list[0], int(list[0].Server)
	var held *ebpf.Map
	err := c.contests.Lookup(slot, &held)
	if long := byLoad(bpfScheduler(head.Scheduler)) && servers > fewServers; long != (err == nil) {
		return fmt.Errorf("the contest of %d servers under %s: %v", servers, schedulers[head.Scheduler], err)
	} else if !long {
		return nil
	}
	defer held.Close()
	var contest bpfContest
	if err := held.Lookup(uint32(0), &contest); err != nil {
		return err
	}
	if levels := levelsOf(servers); contest.Levels != uint32(levels) || contest.List != head.Cursor {
		return fmt.Errorf("a contest of %d levels, of list %#x: want %d, %#x", contest.Levels, contest.List, levels, head.Cursor)
	}
	var seen []uint32
	for group, first := range contest.First {
		last := uint32(0)
		for i := uint32(first); i != 0; i = list[i].Next {
			if i <= last || int(i) > servers || groupOf(list[i].Server)%(1<<contest.Levels) != group {
				return fmt.Errorf("seat %d comes after %d in group %d", i, last, group)
			}
			last = i
			seen = append(seen, i)
		}
	}
	slices.Sort(seen)
	if len(slices.Compact(seen)) != servers {
		return fmt.Errorf("%d of %d servers are in groups", len(seen), servers)
	}
	return nil
}
