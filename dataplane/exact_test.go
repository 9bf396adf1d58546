// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"lvs"
)

// onThreads runs f on as many threads at once, in the world's namespace.
func (w *world) onThreads(n int, f func(n int)) {
	w.t.Helper()
	ns, err := os.Open("/proc/thread-self/ns/net")
	must(w.t, err)
	defer ns.Close()
	var all, ready sync.WaitGroup
	ready.Add(n)
	for i := range n {
		all.Go(func() {
			runtime.LockOSThread() // never unlocked: the thread keeps to its CPU and namespace
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				w.t.Error(err)
			}
			if err := pin(i % runtime.NumCPU()); err != nil {
				w.t.Error(err)
			}
			ready.Done()
			ready.Wait()
			f(i)
		})
	}
	all.Wait()
}

// onCPUs runs f on as many CPUs at once.
func (w *world) onCPUs(n int, f func(cpu int)) {
	w.t.Helper()
	if runtime.NumCPU() < n {
		w.t.Skipf("needs %d CPUs", n)
	}
	w.onThreads(n, f)
}

// mustSweep sweeps the whole table at once, by the code that the timer runs in slices.
func (w *world) mustSweep() {
	w.t.Helper()
	if w.sweep == nil {
		w.sweep = w.mustLoadSweep()
	}
	r, err := w.sweep.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	if err != nil || r != 0 {
		w.t.Fatalf("sweep: %d, %v", int32(r), err)
	}
}

func (w *world) mustLoadSweep() *ebpf.Program {
	w.t.Helper()
	c, err := ebpf.LoadCollectionSpec("testdata/stress.o")
	must(w.t, err)
	in := w.mustLook()
	replaced := map[string]*ebpf.Map{}
	for _, name := range []string{bpfMapConns, bpfMapGuards, bpfMapLinks, bpfMapServers, bpfMapLoads, bpfMapCounters, bpfMapSweepers} {
		replaced[name], err = in.m(name)
		must(w.t, err)
		c.Maps[name].MaxEntries = replaced[name].MaxEntries()
	}
	replaced[settingsMap], err = in.m(settingsPin)
	must(w.t, err)
	must(w.t, c.Variables[bpfVarSegments].Set(replaced[bpfMapConns].MaxEntries()))
	must(w.t, c.Variables[bpfVarHz].Set(in.hz))
	must(w.t, c.Variables[bpfVarTestClock].Set(true))
	coll, err := ebpf.NewCollectionWithOptions(c, ebpf.CollectionOptions{MapReplacements: replaced})
	must(w.t, err)
	w.t.Cleanup(coll.Close)
	return coll.Programs["sweep_all"]
}

// farm is a service with so many servers, without a neighbour to any.
func farm(protocol lvs.Protocol, servers int) (path, []netip.AddrPort) {
	p := tcp4
	p.protocol = protocol
	var all []netip.AddrPort
	for i := range servers {
		all = append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + i)}), 8080))
	}
	return p, all
}

// client gives the path of one of many clients.
func (p path) nth(i int) path {
	p.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(100 + i/5000)}), uint16(1024+i%5000))
	return p
}

// checkLoads holds servers' loads to the connection table: what they are said to have is there, by state.
func (w *world) checkLoads() {
	w.t.Helper()
	in := w.mustLook()
	table := in.mustConnTable(w.t)
	for _, wrong := range table.faults() {
		w.t.Error(wrong)
	}
	for _, wrong := range table.overstated(in.loads) {
		w.t.Error(wrong)
	}
	for _, e := range table.live() {
		if active := lvs.State(e.Life & lifeState).Active(lvs.Protocol(e.Protocol)); active != (e.Life&lifeActive != 0) {
			w.t.Errorf("an entry's flags say active %v, its state says %v: %+v", !active, active, e)
		}
	}
}

// mustLoads gives the loads of a service's servers, newest first.
func (w *world) mustLoads(p path) (loads []lvs.Load) {
	w.t.Helper()
	t, err := w.Table()
	must(w.t, err)
	for _, s := range t.Service(p.id()).Servers {
		loads = append(loads, s.Load)
	}
	return loads
}

// mustExpire lets all connections end, and checks that nothing is left of them.
func (w *world) mustExpire() {
	w.t.Helper()
	in := w.mustLook()
	table, live := in.mustConnTable(w.t), w.mustLive()
	w.setClock(w.settings.Now + 1<<24)
	w.mustSweep()
	w.mustSweep()
	if n := table.used(); n != live {
		w.t.Errorf("%d connections have ended just now, and %d lines are kept of them", live, n)
	}
	for slot, l := range in.loads {
		if l != (bpfLoad{}) {
			w.t.Errorf("server slot %d: %+v without a connection", slot, l)
		}
	}
	w.checkLoads()
	w.setClock(w.settings.Now + in.hz)
	w.mustSweep()
	if n := table.used(); n != 0 {
		w.t.Errorf("%d lines are not free", n)
	}
	w.checkLoads()
}

// Round robin from two CPUs gives each server exactly its share, and each connection is counted once.
func TestTurnsAreExact(t *testing.T) {
	const each = 5250 // divisible by 3 and by 7
	for _, servers := range []int{3, 7} {
		t.Run(fmt.Sprint(servers), func(t *testing.T) {
			w := mustWorld(t, Sizes{Conns: 1 << 14, Services: 4, Servers: 16})
			w.settings.SweepSlice = 0
			w.setClock(w.settings.Now)
			p, all := farm(lvs.TCP, servers)
			w.mustUpdate(addService(p.id(), "rr", all...))
			w.onCPUs(2, func(cpu int) {
				for i := range each {
					w.run(w.tc, w.clients, p.nth(cpu*each+i).in("S").frame(t))
				}
			})
			for i, l := range w.mustLoads(p) {
				if want := (lvs.Load{Active: 2 * each / uint32(servers)}); l != want {
					t.Errorf("server %d has %+v, want %+v", i, l, want)
				}
			}
			w.checkLoads()
			w.mustExpire()
		})
	}
}

// Requests and answers of the same connections meet on two CPUs, in any order: loads stay what the table says.
func TestLoadsAreExact(t *testing.T) {
	for _, protocol := range []lvs.Protocol{lvs.TCP, lvs.UDP} {
		t.Run(protocol.String(), func(t *testing.T) {
			const conns = 1500
			w := mustWorld(t, Sizes{Conns: 1 << 12, Services: 4, Servers: 16})
			w.settings.SweepSlice = 0
			w.setClock(w.settings.Now)
			p, all := farm(protocol, 1)
			p.server = all[0]
			w.mustUpdate(addService(p.id(), "wlc", all...))
			w.onCPUs(2, func(cpu int) {
				for i := range conns {
					to := p.nth(i)
					for _, flags := range []string{"S", "A", "FA", "A", "S", "R"}[:1+i%6] {
						one := to.in(flags)
						if cpu == 1 && i%3 > 0 { // else both send the same
							one = to.out(flags + "A")
						}
						w.run(w.tc, w.side(one), one.frame(t))
					}
				}
			})
			if got := w.mustLive(); got != conns {
				t.Errorf("%d entries, want %d", got, conns)
			}
			w.checkLoads()
			w.mustExpire()
		})
	}
}
