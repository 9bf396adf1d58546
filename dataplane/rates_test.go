// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"lvs"
)

// mustEstimate has two seconds go by for the rates, by the code that the timer runs, in slices of so many counter lines.
func (w *world) mustEstimate(lines uint32) (slices int) {
	w.t.Helper()
	return mustEstimate(w.t, w.mustTool("estimate"), lines)
}

func mustEstimate(t testing.TB, p *ebpf.Program, lines uint32) (slices int) {
	t.Helper()
	for {
		slices++
		skb := [48]uint32{2: lines} // mark
		r, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 64), Context: skb})
		if err != nil || r > 1 {
			t.Fatalf("estimate: %d, %v", int32(r), err)
		}
		if r == 1 {
			return slices
		}
	}
}

// count adds to the counters of a service's server, as packets do.
func (w *world) count(p path, server, cpu int, more lvs.Stats) {
	w.t.Helper()
	in := w.mustLook()
	for _, v := range in.live() {
		n := 0
		for slot := range in.members(v) {
			if id, _ := fromService(v); id != p.id() {
				break
			}
			if n == server {
				c := &in.counters[int(slot)*in.cpus+cpu].Counts
				sum := fromCounts(*c)
				sum.Add(more)
				*c = toCounts(sum)
				return
			}
			n++
		}
	}
	w.t.Fatalf("%v has no server %d", p.id(), server)
}

// mustRates gives the rates of a service and of its servers, newest first.
func (w *world) mustRates(p path) (service lvs.Rates, servers []lvs.Rates) {
	w.t.Helper()
	t, err := w.Table()
	must(w.t, err)
	s := t.Service(p.id())
	for _, d := range s.Servers {
		servers = append(servers, d.Rates)
	}
	return s.Rates, servers
}

func (w *world) checkRates(p path, service lvs.Rates, servers ...lvs.Rates) {
	w.t.Helper()
	gotService, got := w.mustRates(p)
	if gotService != service {
		w.t.Errorf("the service's rates are %+v, want %+v", gotService, service)
	}
	for i, want := range servers {
		if got[i] != want {
			w.t.Errorf("the rates of server %d are %+v, want %+v", i, got[i], want)
		}
	}
}

// What kernel IPVS has shown while 30 datagrams came and went in some three seconds (the recording does not tell how they fell
// into the estimator's periods; 9, 17 and 4 is a way that leads to it).
func TestRatesAsRecorded(t *testing.T) {
	w := mustWorld(t, small)
	w.mustUpdate(addService(udp4.id(), "rr", udp4.server))
	for _, datagrams := range []uint64{9, 17} {
		w.count(udp4, 0, 0, lvs.Stats{Conns: datagrams, InPackets: datagrams, OutPackets: datagrams, InBytes: 29 * datagrams, OutBytes: 32 * datagrams})
		w.mustEstimate(1 << 20)
	}
	first := lvs.Rates{CPS: 3, InPPS: 3, OutPPS: 3, InBPS: 86, OutBPS: 95}
	w.checkRates(udp4, first, first)
	w.count(udp4, 0, 0, lvs.Stats{Conns: 4, InPackets: 4, OutPackets: 4, InBytes: 4 * 29, OutBytes: 4 * 32})
	w.mustEstimate(1 << 20)
	second := lvs.Rates{CPS: 3, InPPS: 3, OutPPS: 3, InBPS: 79, OutBPS: 87}
	w.checkRates(udp4, second, second)
}

// A steady stream is shown as what it is after a while, and nothing is left of it a while after its end.
func TestRatesComeAndGo(t *testing.T) {
	w := mustWorld(t, small)
	w.mustUpdate(addService(udp4.id(), "rr", udp4.server, netip.AddrPortFrom(other4, 53)))
	for range 128 {
		w.count(udp4, 0, 0, lvs.Stats{Conns: 2, InPackets: 4, InBytes: 2_000_000_000_000})
		w.count(udp4, 1, 0, lvs.Stats{OutPackets: 4_000_000, OutBytes: 400})
		w.mustEstimate(1 << 20)
	}
	one, other := lvs.Rates{CPS: 1, InPPS: 2, InBPS: 1_000_000_000_000}, lvs.Rates{OutPPS: 2_000_000, OutBPS: 200}
	w.checkRates(udp4, lvs.Rates{CPS: 1, InPPS: 2, OutPPS: 2_000_000, InBPS: 1_000_000_000_000, OutBPS: 200}, one, other)
	for range 128 {
		w.mustEstimate(1 << 20)
	}
	w.checkRates(udp4, lvs.Rates{}, lvs.Rates{}, lvs.Rates{})
}

// All CPUs' counters count, slices of any size come to the same, and a slice does not do more than it may.
func TestRatesInSlices(t *testing.T) {
	w := mustWorld(t, small)
	w.mustUpdate(addService(udp4.id(), "rr", udp4.server, netip.AddrPortFrom(other4, 53)), addService(tcp4.id(), "rr", tcp4.server))
	want := lvs.Rates{InPPS: 1000 * uint64(w.mustLook().cpus)}
	for _, lines := range []uint32{1, 7, 1 << 20} {
		for range 64 {
			for cpu := range w.mustLook().cpus {
				for server := range 2 {
					w.count(udp4, server, cpu, lvs.Stats{InPackets: 2000})
				}
			}
			slices := w.mustEstimate(lines)
			if slots := small.Servers + small.Services + 2; slices < slots/int(lines) {
				t.Fatalf("%d slots were looked at in %d slices of %d", slots, slices, lines)
			}
		}
		w.checkRates(udp4, lvs.Rates{InPPS: 2 * want.InPPS}, want, want)
		w.checkRates(tcp4, lvs.Rates{}, lvs.Rates{})
	}
}

// -Z lets rates begin at zero, of all services or of one; what goes on shows again.
func TestZeroedRates(t *testing.T) {
	w := mustWorld(t, small)
	w.mustUpdate(addService(udp4.id(), "rr", udp4.server), addService(tcp4.id(), "rr", tcp4.server))
	flow := func() {
		for _, p := range []path{udp4, tcp4} {
			w.count(p, 0, 0, lvs.Stats{InPackets: 8000})
		}
		w.mustEstimate(1 << 20)
	}
	flow()
	quarter, half := lvs.Rates{InPPS: 1000}, lvs.Rates{InPPS: 1750}
	w.checkRates(udp4, quarter, quarter)
	one := udp4.id()
	w.mustUpdate(func(t *lvs.Table) error { return t.Zero(&one) })
	w.checkRates(udp4, lvs.Rates{}, lvs.Rates{})
	w.checkRates(tcp4, quarter, quarter)
	flow()
	w.checkRates(udp4, quarter, quarter)
	w.checkRates(tcp4, half, half)
	w.mustUpdate(func(t *lvs.Table) error { return t.Zero(nil) })
	w.checkRates(udp4, lvs.Rates{}, lvs.Rates{})
	w.checkRates(tcp4, lvs.Rates{}, lvs.Rates{})
}

// A server that comes in the place of another has nothing of its rates; its service has.
func TestRatesOfSlots(t *testing.T) {
	w := mustWorld(t, small)
	w.mustUpdate(addService(udp4.id(), "rr", udp4.server))
	w.count(udp4, 0, 0, lvs.Stats{InPackets: 8000, InBytes: 800})
	w.mustEstimate(1 << 20)
	w.mustUpdate(without(udp4))
	boot := bootSeconds
	t.Cleanup(func() { bootSeconds = boot })
	bootSeconds = func() uint32 { return boot() + 60 }
	w.mustUpdate(func(t *lvs.Table) error {
		return t.AddServer(udp4.id(), lvs.ServerID{Addr: other4, Port: 53}, lvs.ServerConfig{Forward: lvs.Masq, Weight: 1})
	})
	w.checkRates(udp4, lvs.Rates{InPPS: 1000, InBPS: 100}, lvs.Rates{})
	w.count(udp4, 0, 0, lvs.Stats{InPackets: 4000})
	w.mustEstimate(1 << 20)
	w.checkRates(udp4, lvs.Rates{InPPS: 1250, InBPS: 75}, lvs.Rates{InPPS: 500})
}

// The timer itself: nobody asks for it, and rates come.
func TestRatesByThemselves(t *testing.T) {
	w := mustWorld(t, small, func(c *ebpf.CollectionSpec) { must(t, c.Variables[bpfVarTestClock].Set(false)) })
	w.mustUpdate(addService(udp4.id(), "rr", udp4.server))
	w.count(udp4, 0, 0, lvs.Stats{InPackets: 1_000_000})
	for until := time.Now().Add(time.Minute); ; {
		if service, servers := w.mustRates(udp4); service.InPPS > 0 && servers[0].InPPS > 0 {
			return
		}
		if time.Now().After(until) {
			t.Fatal("no rates after a minute")
		}
	}
}
