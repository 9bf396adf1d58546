// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"lvs"
)

// The programs as they are in service: with the kernel's clock.
func withKernelClock(c *ebpf.CollectionSpec) {
	if err := c.Variables[bpfVarTestClock].Set(false); err != nil {
		panic(err)
	}
}

// known is a packet of an established connection.
type known struct {
	name  string
	from  netlink.Link
	frame []byte
}

// mustKnow makes connections by each forwarding method, and gives a packet of each direction that the director sees.
func (w *world) mustKnow() (all []known) {
	w.t.Helper()
	for _, along := range []path{tcp4, tcp6} {
		family := "IPv4"
		if along.server.Addr().Is6() {
			family = "IPv6"
		}
		for i, way := range []struct {
			name string
			lvs.ServerConfig
		}{
			{"DR", lvs.ServerConfig{Forward: lvs.Route}}, {"TUN", lvs.ServerConfig{Forward: lvs.Tunnel}},
			{"NAT", lvs.ServerConfig{Forward: lvs.Masq}}, {"FULLNAT", lvs.ServerConfig{Forward: lvs.FullNAT}},
		} {
			port := uint16(100 + i)
			p := path{lvs.TCP, along.client, netip.AddrPortFrom(along.virtual.Addr(), port), netip.AddrPortFrom(along.server.Addr(), port)}.from(4000 + 10*uint16(i))
			if way.Forward == lvs.FullNAT {
				w.mustUpdate(addFull(p, lvs.DefaultLocalPorts))
			} else {
				w.mustUpdate(addWay(p.id(), p.server.Addr(), way.ServerConfig))
			}
			w.run(w.tc, w.clients, p.from(4001+10*uint16(i)).in("S").frame(w.t)) // the kernel's turn to look for the neighbour
			_, out := w.run(w.tc, w.clients, p.in("S").frame(w.t))
			answer := p.out("A")
			if way.Forward == lvs.FullNAT {
				answer.client = sentFrom(out)
			}
			if answers := way.Forward == lvs.Masq || way.Forward == lvs.FullNAT; answers {
				first := answer
				first.flags = "SA"
				w.run(w.tc, w.servers, first.frame(w.t))
				w.run(w.tc, w.servers, first.frame(w.t))
				w.run(w.tc, w.servers, answer.frame(w.t)) // the server has what FULLNAT adds to the first packets
				all = append(all, known{way.name + "-out/" + family, w.servers, answer.frame(w.t)})
				way.name += "-in"
			}
			w.run(w.tc, w.clients, p.in("A").frame(w.t))
			all = append(all, known{way.name + "/" + family, w.clients, p.in("A").frame(w.t)})
		}
	}
	return all
}

// sentFrom is where a frame of TCP says that it comes from.
func sentFrom(frame []byte) netip.AddrPort {
	addr, ports := frame[26:30], frame[34:]
	if frame[12] == 0x86 {
		addr, ports = frame[22:38], frame[54:]
	}
	a, _ := netip.AddrFromSlice(addr)
	return netip.AddrPortFrom(a, uint16(ports[0])<<8|uint16(ports[1]))
}

// BenchmarkKnownConnection is what a packet of an established connection costs, by hook, forwarding method, direction and family: one
// connection, so that all of its memory is in the nearest cache. Beside it runs the least that a balancer does: look at
// the headers, and look once into a BPF hash map. There is no tunnel on tc: the kernel lets no packet be encapsulated a
// second time, though the first header has been taken off again. One on XDP has this taking off in its time.
func BenchmarkKnownConnection(b *testing.B) {
	w := mustWorld(b, small, withKernelClock)
	enter := mustStay(b)
	all := w.mustKnow()
	for _, hook := range []string{"xdp", "tc"} {
		program := hooks[hook](w)
		for _, k := range all {
			if hook == "tc" && k.name[:3] == "TUN" {
				continue
			}
			b.Run(hook+"/"+k.name, func(b *testing.B) {
				enter(b)
				a := again{frame: k.frame}
				own, bare := a.mustAgain(b, program), a.mustAgain(b, mustBare(b, program.Type()))
				before := w.packets(b)
				w.race(b, own, bare, map[string]*ebpf.Program{"lookup": a.mustAgain(b, a.mustLookup(b, program.Type()))}, k.from, k.frame)
				w.checkCarried(b, before, uint64(b.N*runs))
			})
		}
		b.Run(hook+"/nothing of ours/IPv4", func(b *testing.B) {
			enter(b)
			along := path{lvs.TCP, tcp4.client, netip.MustParseAddrPort("203.0.113.77:80"), tcp4.server}
			a := again{frame: along.in("A").frame(b)}
			own, bare := a.mustAgain(b, program), a.mustAgain(b, mustBare(b, program.Type()))
			left := map[ebpf.ProgramType]uint32{ebpf.XDP: xdpPassed, ebpf.SchedCLS: tcUnspec}[program.Type()]
			var floor, took []float64
			for b.Loop() {
				floor = append(floor, spend(b, bare, w.clients, a.frame, runs))
				took = append(took, spendFor(b, own, left, w.clients, a.frame, runs))
			}
			report(b, floor, took, nil)
		})
	}
}

// packets is how many the servers' counters tell of.
func (w *world) packets(b *testing.B) (sum uint64) {
	b.Helper()
	m, err := w.mustLook().m(bpfMapCounters)
	must(b, err)
	for i := range m.MaxEntries() {
		var c bpfCounter
		must(b, m.Lookup(i, &c))
		sum += c.Counts.InPackets + c.Counts.OutPackets
	}
	return sum
}

// checkCarried sees to it that what was measured is what it is said to be: packets that were sent on, but for the few that XDP leaves to tc so
// that the kernel verifies a neighbour, and those that a veth pair has no room for while the CPU is taken from the machine.
func (w *world) checkCarried(b *testing.B, before, want uint64) {
	b.Helper()
	if got := w.packets(b) - before; got < want-want/100 {
		b.Errorf("%d of %d packets were sent on", got, want)
	}
}

// BenchmarkManyConnections is what a packet costs of any of so many connections, in turn by chance: what memory costs. The table is made for
// as many, which are two thirds of its lines; few are tried in a large one, too. Beside it runs a program that keeps exact connections in
// a BPF hash map, made for as many. Both are measured alone, and in a chain of hosts.
func BenchmarkManyConnections(b *testing.B) {
	const few, many, most = 1 << 14, 1 << 18, 1 << 20
	for _, name := range []string{"DR/IPv4", "TUN/IPv4", "NAT-in/IPv4"} {
		for _, of := range []struct{ clients, room uint32 }{{few, few}, {few, most}, {many, many}, {most, most}} {
			title := fmt.Sprintf("%s/%d", name, of.clients)
			if of.room != of.clients {
				title += fmt.Sprintf(" of %d", of.room)
			}
			b.Run(title, func(b *testing.B) { measureMany(b, name, of.clients, of.room) })
		}
	}
}

func measureMany(b *testing.B, name string, clients, room uint32) {
	w := mustWorld(b, Sizes{Conns: int(room) * 9 / 8, Services: 64, Servers: 256}, withKernelClock)
	w.settings.DropEntry = 0 // or half of the handshakes would be taken for an attack before they have ended
	w.setClock(w.settings.Now)
	enter := mustStay(b)
	all := w.mustKnow()
	k := all[slices.IndexFunc(all, func(k known) bool { return k.name == name })]
	a, begun := again{k.frame, anyClient, clients}, false
	begin := func(b *testing.B) {
		enter(b)
		for _, frame := range [][]byte{opening(k.frame), k.frame} {
			if !begun {
				spend(b, again{frame, nextClient, clients}.mustAgain(b, w.xdp), k.from, frame, int(clients))
			}
		}
		begun = true
	}
	b.Run("alone", func(b *testing.B) {
		begin(b)
		before := w.packets(b)
		w.race(b, a.mustAgain(b, w.xdp), a.mustAgain(b, mustBare(b, ebpf.XDP)),
			map[string]*ebpf.Program{"exact": a.mustAgain(b, a.mustExact(b, ebpf.XDP))}, k.from, k.frame)
		w.checkCarried(b, before, uint64(b.N*runs))
	})
	b.Run("chain", func(b *testing.B) {
		begin(b)
		c, before := w.mustChain(b), w.packets(b)
		c.race(b, a)
		w.checkCarried(b, before, uint64(b.N*(runs+runs/10)))
	})
}

// BenchmarkTwoCores is how many times as much two CPUs carry as one of them, each packets of clients of its own: with a table as attach makes
// it, and in one that these fill, where lines that lie side by side are often of different CPUs. A processor that fetches memory by two lines
// takes those from each other. Beside it do the same a program that does nothing, and one that keeps exact connections in a BPF hash map
// for each CPU: what the machine has to give.
func BenchmarkTwoCores(b *testing.B) {
	if runtime.NumCPU() < 2 {
		b.Skip("there is one CPU")
	}
	const clients = 1 << 13 // of each CPU
	for _, name := range []string{"DR/IPv4", "NAT-in/IPv4"} {
		for _, room := range []int{1 << 20, 2 * clients} {
			b.Run(fmt.Sprintf("%s/%d of %d", name, 2*clients, room), func(b *testing.B) { measureTwo(b, name, clients, room) })
		}
	}
}

func measureTwo(b *testing.B, name string, clients uint32, room int) {
	w := mustWorld(b, Sizes{Conns: room * 9 / 8, Services: 64, Servers: 256}, withKernelClock)
	w.settings.DropEntry = 0 // as above
	w.setClock(w.settings.Now)
	enter := mustStayOn(b)
	must(b, enter(0))
	all := w.mustKnow()
	k := all[slices.IndexFunc(all, func(k known) bool { return k.name == name })]
	programs := map[string][]*ebpf.Program{}
	frames := [][]byte{k.frame, slices.Clone(k.frame)}
	frames[1][27] ^= 1 // a client of another network
	for cpu, frame := range frames {
		must(b, pin(cpu))
		for range 2 { // each has routes of its own, and the kernel verifies the neighbour
			w.run(w.tc, k.from, opening(frame))
		}
		for _, f := range [][]byte{opening(frame), frame} {
			spend(b, again{f, nextClient, clients}.mustAgain(b, w.xdp), k.from, f, int(clients))
		}
		a := again{frame, nextClient, clients}
		for of, p := range map[string]*ebpf.Program{"": w.xdp, "bare-": mustBare(b, ebpf.XDP), "exact-": a.mustExact(b, ebpf.XDP)} {
			programs[of+"x-cores"] = append(programs[of+"x-cores"], a.mustAgain(b, p))
		}
	}
	must(b, pin(0))
	scale := map[string][]float64{}
	for b.Loop() {
		for name, p := range programs {
			alone := spend(b, p[0], k.from, frames[0], 10*runs)
			took := make([]float64, len(p))
			var going sync.WaitGroup
			for cpu := range p {
				going.Go(func() {
					if err := enter(cpu); err != nil {
						b.Error(err)
						return
					}
					took[cpu] = spend(b, p[cpu], k.from, frames[cpu], 10*runs)
				})
			}
			going.Wait()
			scale[name] = append(scale[name], alone/took[0]+alone/took[1])
		}
	}
	b.ReportMetric(0, "ns/op")
	for name, all := range scale {
		b.ReportMetric(quantile(all, 0.5), name)
	}
}

// opening makes a SYN of a frame of TCP over IPv4.
func opening(frame []byte) []byte {
	frame = slices.Clone(frame)
	frame[47] = 2
	return frame
}

// BenchmarkNewConnection is what a packet costs that begins a connection, by scheduler and number of servers; each is another client's.
// The clock stands still but when the table is made empty again, outside of what is measured.
func BenchmarkNewConnection(b *testing.B) {
	const clients = 1 << 19
	w := mustWorld(b, Sizes{Conns: 1 << 20, Services: 64, Servers: 1 << 16})
	w.settings.DropEntry = 0 // as above
	enter := mustStay(b)
	port := uint16(1000)
	for _, method := range []lvs.Forward{lvs.Route, lvs.Masq, lvs.FullNAT} {
		for _, scheduler := range []string{"rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "mh"} {
			for _, servers := range []int{3, 64, 1000, 4096} {
				if method != lvs.Route && scheduler != "wlc" {
					continue
				}
				port++
				along := path{lvs.TCP, tcp4.client, netip.AddrPortFrom(tcp4.virtual.Addr(), port), tcp4.server}
				w.mustUpdate(addMany(along, scheduler, method, servers))
				b.Run(fmt.Sprintf("%v/%s/%d", method, scheduler, servers), func(b *testing.B) {
					enter(b)
					a := again{opening(along.in("A").frame(b)), nextClient, clients}
					own, bare := a.mustAgain(b, w.xdp), a.mustAgain(b, mustBare(b, ebpf.XDP))
					fresh := func() {
						w.empty()
						for range 2 { // the clock has gone on: the kernel's turn to verify the neighbour
							w.run(w.tc, w.clients, a.frame)
						}
					}
					fresh()
					var floor, took []float64
					before := w.packets(b)
					for n := 0; b.Loop(); n += runs {
						if n+runs > clients {
							n = 0
							b.StopTimer()
							fresh()
							b.StartTimer()
						}
						floor = append(floor, spend(b, bare, w.clients, a.frame, runs))
						took = append(took, spend(b, own, w.clients, a.frame, runs))
					}
					w.checkCarried(b, before, uint64(b.N*runs))
					w.empty()
					report(b, floor, took, nil)
				})
			}
		}
	}
}

// addMany is a change that adds a service with so many servers: ports of one address, for the way there is not what is asked.
func addMany(p path, scheduler string, method lvs.Forward, servers int) func(*lvs.Table) error {
	return func(t *lvs.Table) error {
		if err := addService(p.id(), scheduler)(t); err != nil {
			return err
		}
		for i := range servers {
			id := lvs.ServerID{Addr: p.server.Addr(), Port: uint16(10000 + i)}
			if err := t.AddServer(p.id(), id, lvs.ServerConfig{Forward: method, Weight: int32(1 + i%3)}); err != nil {
				return err
			}
		}
		id := p.id()
		for i := byte(1); method == lvs.FullNAT && i <= 16; i++ { // three servers are to have half a million ports
			if err := t.AddLocal(&id, lvs.LocalAddr{Addr: netip.AddrFrom4([4]byte{10, 0, 1, i}), Ports: lvs.DefaultLocalPorts}); err != nil {
				return err
			}
		}
		return nil
	}
}

// empty lets all connections end, and the clock go on until their lines are free.
func (w *world) empty() {
	for _, later := range []uint32{1 << 24, w.mustLook().hz} {
		w.setClock(w.settings.Now + later)
		w.mustSweep()
		w.mustSweep()
	}
}

// BenchmarkSweep is what a line of the connection table costs the sweep that finds nothing to end: of an empty table, and of one that
// is as full as its size promises; beside it a walk through the same memory that reads two words of each line, and nothing else.
func BenchmarkSweep(b *testing.B) {
	const most = 1 << 20
	w := mustWorld(b, Sizes{Conns: most, Services: 64, Servers: 256})
	w.settings.DropEntry = 0 // as above
	w.setClock(w.settings.Now)
	enter := mustStay(b)
	all, sweep := w.mustKnow(), w.mustTool("sweep_all")
	lines := float64(w.look.pinned[bpfMapConns].MaxEntries() * segmentLines)
	for _, clients := range []uint32{0, most} {
		b.Run(fmt.Sprint(clients), func(b *testing.B) {
			enter(b)
			if clients > 0 {
				frame := opening(all[0].frame)
				spend(b, again{frame, nextClient, clients}.mustAgain(b, w.xdp), w.clients, frame, int(clients))
			}
			table, err := w.look.entries()
			must(b, err)
			var took, walked []float64
			for sum := uint32(0); b.Loop(); {
				begin := threadTime(b)
				_, err := sweep.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
				must(b, err)
				swept := threadTime(b)
				for i := range table.lines {
					sum += table.lines[i].Own + table.lines[i].Expires
				}
				took, walked = append(took, float64(swept-begin)/lines), append(walked, float64(threadTime(b)-swept)/lines)
				runtime.KeepAlive(sum)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(quantile(took, 0.1), "ns/line")
			b.ReportMetric(quantile(took, 0.5), "ns/line-median")
			b.ReportMetric(quantile(walked, 0.1), "walk-ns/line")
			b.ReportMetric(quantile(took, 0.1)/quantile(walked, 0.1), "x-walk")
		})
	}
}
