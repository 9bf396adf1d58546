// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
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
	r, err := w.mustTool("sweep_all").Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	if err != nil || r != 0 {
		w.t.Fatalf("sweep: %d, %v", int32(r), err)
	}
}

// mustTool gives a program that works on the world's maps.
func (w *world) mustTool(name string) *ebpf.Program {
	w.t.Helper()
	if w.tools == nil {
		w.tools = mustTools(w.t, w.mustLook())
	}
	return w.tools.Programs[name]
}

// mustTools loads the programs of tests upon an instance's maps.
func mustTools(t testing.TB, in *instance) *ebpf.Collection {
	t.Helper()
	c, err := ebpf.LoadCollectionSpec("testdata/stress.o")
	must(t, err)
	replaced := map[string]*ebpf.Map{}
	for _, name := range []string{bpfMapConns, bpfMapGuards, bpfMapLinks, bpfMapServers, bpfMapLoads, bpfMapCounters, bpfMapCalls, bpfMapSweepers, bpfMapContests,
		bpfMapServices, bpfMapServerEstimates, bpfMapServiceEstimates, bpfMapEstimators, bpfMapAccounts} {
		replaced[name], err = in.m(name)
		must(t, err)
		c.Maps[name].MaxEntries = replaced[name].MaxEntries()
	}
	replaced[settingsMap], err = in.m(settingsPin)
	must(t, err)
	must(t, c.Variables[bpfVarSegments].Set(replaced[bpfMapConns].MaxEntries()))
	accounting, err := in.accounting()
	must(t, err)
	must(t, c.Variables[bpfVarAccounting].Set(accounting))
	must(t, c.Variables[bpfVarHz].Set(in.hz))
	must(t, c.Variables[bpfVarCpus].Set(uint32(in.cpus)))
	must(t, c.Variables[bpfVarServersSize].Set(uint32(len(in.servers))))
	must(t, c.Variables[bpfVarServicesSize].Set(uint32(len(in.services))))
	must(t, c.Variables[bpfVarTestClock].Set(true))
	coll, err := ebpf.NewCollectionWithOptions(c, ebpf.CollectionOptions{MapReplacements: replaced})
	must(t, err)
	t.Cleanup(coll.Close)
	return coll
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
		if e.Kind != kindPlain {
			continue
		}
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

// mustExpire lets all connections end, and checks that nothing is left of them. Rounds are counted, so the timer makes none.
func (w *world) mustExpire() {
	w.t.Helper()
	in := w.mustLook()
	table, live := in.mustConnTable(w.t), w.mustLive()
	w.settings.SweepSlice = 0
	w.setClock(w.settings.Now)
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

// Packets of the same connections come to all CPUs at once, both ways and by both hooks: each is counted once.
func TestCountersAreExact(t *testing.T) {
	const packets, conns = 20_000, 10
	w := mustWorld(t, small)
	nth := func(i int) path {
		p := udp4 // of a client with a neighbour: XDP leaves others to tc
		p.client = netip.AddrPortFrom(client4, uint16(1024+i))
		return p
	}
	w.mustUpdate(addService(udp4.id(), "rr", udp4.server))
	for i := range conns {
		w.run(w.tc, w.clients, nth(i).in("").frame(t))
	}
	before := w.mustStats(udp4)
	cpus := runtime.NumCPU()
	w.onCPUs(cpus, func(cpu int) {
		for i := range conns {
			in, out := nth(i).in(""), nth(i).out("").with(odd)
			for _, one := range []struct {
				packet
				p *ebpf.Program
			}{{in, w.tc}, {out, w.tc}, {in, w.xdp}, {out, w.xdp}} { // tc first: it finds the routes
				frame, side := one.frame(t), w.side(one.packet)
				o := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, 512), Context: contextOf(one.p, side, frame, 0), Repeat: 1}
				for range packets / conns / 4 {
					if _, err := one.p.Run(o); err != nil {
						t.Error(err)
						return
					}
				}
			}
		}
	})
	half := uint64(cpus * packets / 2)
	want := before
	want.Add(lvs.Stats{
		InPackets: half, InBytes: half * uint64(len(udp4.in("").frame(t))-14),
		OutPackets: half, OutBytes: half * uint64(len(udp4.out("").with(odd).frame(t))-14),
	})
	if got := w.mustStats(udp4); got != want || got.Conns != conns {
		t.Errorf("counted %+v, want %+v with %d connections", got, want, conns)
	}
}

// Counters are read, and set to zero, while packets come to all CPUs: a reading is whole, none goes back, and what has come since is counted
// once it is quiet, to the last packet.
func TestZeroWhilePacketsCome(t *testing.T) {
	w := mustWorld(t, Sizes{Conns: 1 << 14, Services: 4, Servers: 16})
	w.mustUpdate(addService(crowd.id(), "rr", crowd.server, netip.AddrPortFrom(other4, 53)))
	reading := func() (of lvs.Stats) {
		table, err := w.Table()
		if err != nil {
			t.Error(err)
			return of
		}
		s := table.Service(crowd.id())
		var sum lvs.Stats
		for _, d := range s.Servers {
			sum.Add(d.Stats)
		}
		if sum != s.Stats {
			t.Errorf("the service counts %+v, its servers %+v", s.Stats, sum)
		}
		return s.Stats
	}
	zero := func() {
		if err := w.Update(func(t *lvs.Table) error { return t.Zero(nil) }); err != nil {
			t.Error(err)
		}
	}
	const each, clients = 4_500, 1_000
	cpus := runtime.NumCPU()
	var sending atomic.Int32
	sending.Store(int32(cpus))
	all := uint64(cpus * each)
	w.onThreads(cpus+1, func(n int) {
		if n < cpus {
			defer sending.Add(-1)
			o := w.datagram()
			for i := range each {
				w.come(o, uint32((i*cpus+n)%clients))
			}
			return
		}
		for round := 0; sending.Load() > 0; round++ {
			before := lvs.Stats{}
			for range 3 {
				now := reading()
				if now.InPackets < before.InPackets || now.InBytes < before.InBytes || now.Conns < before.Conns || now.InPackets > all || now.Conns > clients {
					t.Errorf("%+v after %+v", now, before)
				}
				before = now
			}
			zero()
		}
	})
	zero()
	if got := reading(); got != (lvs.Stats{}) {
		t.Errorf("%+v after a zero", got)
	}
	bytes := uint64(len(w.datagram().Data) - headers)
	w.onThreads(cpus, func(n int) {
		o := w.datagram()
		for i := range each / 3 {
			w.come(o, uint32((i*cpus+n)%clients))
		}
	})
	if got, want := reading(), (lvs.Stats{InPackets: all / 3, InBytes: all / 3 * bytes}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
