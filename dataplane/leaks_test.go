// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"lvs"
)

// TestNothingLeaks: under each scheduler 10,000 connections come on all CPUs at once and close in one way or another, with
// templates and without. When their time is over, servers have nothing and the table is empty.
func TestNothingLeaks(t *testing.T) {
	cpus := min(runtime.NumCPU(), 16)
	each := 10_000 / cpus
	endings := [][]string{{"S"}, {"S", "R"}, {"S", "A", "FA", "A"}}
	for name, hook := range hooks {
		t.Run(name, func(t *testing.T) {
			w := mustWorld(t, Sizes{Conns: 1 << 15, Services: 4, Servers: 64})
			w.settings.SweepSlice = 0
			w.setClock(w.settings.Now)
			program := hook(w)
			p, all := farm(lvs.TCP, 2*fewServers)
			for n, scheduler := range lvs.Schedulers {
				persistent := uint32(0) // on one hook or the other
				if (n%2 == 0) == (name == "xdp") {
					persistent = 60
				}
				about := fmt.Sprintf("%s, persistent %d", scheduler, persistent)
				c := lvs.ServiceConfig{Scheduler: scheduler, Persistent: persistent, Netmask: 0xffffffff}
				w.mustUpdate(func(t *lvs.Table) error { return t.AddService(p.id(), c) })
				for _, a := range all {
					w.mustUpdate(func(t *lvs.Table) error {
						return t.AddServer(p.id(), realServer(a), lvs.ServerConfig{Forward: lvs.Masq, Weight: int32(2 * cpus * each)})
					})
				}
				w.onCPUs(cpus, func(cpu int) {
					for i := range each {
						one := p // every client comes on every CPU
						one.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i % 97)}), uint16(1024+cpu*each+i))
						for _, flags := range endings[i%len(endings)] {
							w.run(program, w.clients, one.in(flags).frame(t))
						}
					}
				})
				if live := w.mustLive(); live < cpus*each {
					t.Errorf("%s: %d entries, want %d connections at least", about, live, cpus*each)
				}
				w.checkTemplates()
				w.checkLoads()
				w.mustExpire()
				w.mustUpdate(func(t *lvs.Table) error { t.Clear(); return nil })
				if t.Failed() {
					t.Fatal(about)
				}
			}
		})
	}
}

// checkTemplates holds the number of connections that each template has to the table.
func (w *world) checkTemplates() {
	w.t.Helper()
	table, err := w.mustLook().entries()
	must(w.t, err)
	have := map[uint32]uint32{}
	for at, e := range table.all() {
		if e.Kind == kindPlain && e.Life&lifeControlled != 0 {
			have[table.template(at, lvs.Forward(e.Life>>lifeForward))]++
		}
	}
	for at, e := range table.all() {
		if e.isTemplate() && table.links[at] != have[at] {
			w.t.Errorf("the template in line %d has %d connections, and counts %d", at, have[at], table.links[at])
		}
	}
}
