// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"unsafe"

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

func weighing(service lvs.ServiceID, server lvs.ServerID, weight int32) func(*lvs.Table) error {
	return func(t *lvs.Table) error {
		return t.EditServer(service, server, lvs.ServerConfig{Forward: lvs.Masq, Weight: weight})
	}
}

// groups says what is wrong with the groups of a list: each server is in the one that its slot says, in the order of the list.
func groups(list []bpfSeat) error {
	head, servers := list[0], int(list[0].Server)
	if (head.Groups > 0) != (byLoad(bpfScheduler(head.Scheduler)) && servers > fewServers) {
		return fmt.Errorf("%d groups of %d servers under %s", head.Groups, servers, schedulers[head.Scheduler])
	}
	if head.Groups == 0 {
		return nil
	}
	count := groupsOf(servers)
	if int(head.Groups) != count || len(list) != 1+servers+2*count-1 {
		return fmt.Errorf("%d groups of %d servers in %d rows", head.Groups, servers, len(list))
	}
	var seen []uint32
	for group := range count {
		last := uint32(0)
		for i := (*bpfMatch)(unsafe.Pointer(&list[servers+count+group])).First; i != 0; i = list[i].Next {
			if i <= last || int(i) > servers || groupOf(list[i].Server)%count != group {
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
