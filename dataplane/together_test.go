// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"lvs"
)

// operator is one of many who change the same table at the same time. Each has two services of its own, which come and
// change together, and a server in a service of all.
type operator int

var shared = tcp4.service("203.0.113.200:80", "10.0.0.11:80")

func (o operator) service(n int) path {
	return tcp4.service(fmt.Sprintf("203.0.113.%d:%d", 100+o, 80+n), fmt.Sprintf("10.0.0.%d:80", 100+o))
}

func (o operator) server() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + o)}), 80)
}

func (o operator) id(n int) lvs.ServiceID { return o.service(n).id() }

// changes are what the operator does, one after the other.
func (o operator) changes() (all []func(*lvs.Table) error) {
	config := func(weight int32) lvs.ServerConfig { return lvs.ServerConfig{Forward: lvs.Masq, Weight: weight} }
	both := func(f func(t *lvs.Table, id lvs.ServiceID) error) func(*lvs.Table) error {
		return func(t *lvs.Table) error {
			if err := f(t, o.id(0)); err != nil {
				return err
			}
			return f(t, o.id(1))
		}
	}
	for weight := range int32(2) {
		all = append(all,
			both(func(t *lvs.Table, id lvs.ServiceID) error { return addService(id, "rr", o.server())(t) }),
			func(t *lvs.Table) error { return t.AddServer(shared.id(), realServer(o.server()), config(weight)) },
			both(func(t *lvs.Table, id lvs.ServiceID) error {
				return t.EditServer(id, realServer(o.server()), config(10+weight))
			}),
			func(t *lvs.Table) error { return t.EditServer(shared.id(), realServer(o.server()), config(20+weight)) },
		)
		if weight < 1 {
			all = append(all,
				both(func(t *lvs.Table, id lvs.ServiceID) error { return t.DeleteService(id) }),
				func(t *lvs.Table) error { return t.DeleteServer(shared.id(), realServer(o.server())) })
		}
	}
	return all
}

// whole says what is wrong with a table that somebody reads while operators change it.
func (o operator) whole(t *lvs.Table) error {
	a, b := t.Service(o.id(0)), t.Service(o.id(1))
	switch {
	case (a == nil) != (b == nil):
		return fmt.Errorf("operator %d has one service of two", o)
	case a != nil && (len(a.Servers) != 1 || len(b.Servers) != 1):
		return fmt.Errorf("operator %d has %d and %d servers", o, len(a.Servers), len(b.Servers))
	case a != nil && a.Servers[0].Weight != b.Servers[0].Weight:
		return fmt.Errorf("operator %d has weights %d and %d", o, a.Servers[0].Weight, b.Servers[0].Weight)
	}
	return nil
}

// Sixteen operators lose nothing of each other's, and who reads meanwhile sees no half of a change.
func TestChangesTogether(t *testing.T) {
	const operators, readers = 16, 2
	w := mustWorld(t, small)
	w.mustUpdate(addService(shared.id(), "wrr"))
	var working atomic.Int32
	working.Store(operators)
	var reads atomic.Int64
	w.onThreads(operators+readers, func(n int) {
		d := *w.Director // a Director is for one goroutine
		if n >= operators {
			for working.Load() > 0 {
				table, err := d.Table()
				if err != nil {
					t.Error(err)
					return
				}
				reads.Add(1)
				for o := range operator(operators) {
					if err := o.whole(table); err != nil {
						t.Error(err)
					}
				}
			}
			return
		}
		defer working.Add(-1)
		for i, change := range operator(n).changes() {
			if err := d.Update(change); err != nil {
				t.Errorf("operator %d, change %d: %v", n, i, err)
			}
		}
	})
	if reads.Load() == 0 {
		t.Error("nobody has read")
	}
	table, err := w.Table()
	must(t, err)
	alone := &lvs.Table{Timeouts: lvs.DefaultTimeouts}
	must(t, addService(shared.id(), "wrr")(alone))
	for _, s := range slices.Backward(table.Service(shared.id()).Servers) { // in the order in which they came last
		for _, change := range operator(s.Addr.As4()[3] - 100).changes() {
			must(t, change(alone))
		}
	}
	if got, want := configured(table), configured(alone); got != want {
		t.Errorf("the table is\n%s\none operator after the other:\n%s", got, want)
	}
	w.checkConsistent()
}

// Packets see the old list of servers or the new one, whatever is changed: there is always a server for a new connection.
func TestPacketsSeeWholeChanges(t *testing.T) {
	w := mustWorld(t, Sizes{Conns: 1 << 14, Services: 16, Servers: 64})
	p := tcp4
	a, b := netip.AddrPortFrom(server4, 80), netip.AddrPortFrom(other4, 80)
	replace := func(from, to netip.AddrPort) func(*lvs.Table) error {
		return func(t *lvs.Table) error {
			if err := t.DeleteServer(p.id(), realServer(from)); err != nil {
				return err
			}
			return t.AddServer(p.id(), realServer(to), lvs.ServerConfig{Forward: lvs.Masq, Weight: 1})
		}
	}
	again := func(t *lvs.Table) error {
		t.Clear()
		return addService(p.id(), "wrr", a)(t)
	}
	weights := func(x, y int32) func(*lvs.Table) error {
		return func(t *lvs.Table) error {
			t.Clear()
			if err := addService(p.id(), "wlc", a, b)(t); err != nil {
				return err
			}
			if err := t.EditServer(p.id(), realServer(a), lvs.ServerConfig{Forward: lvs.Masq, Weight: x}); err != nil {
				return err
			}
			return t.EditServer(p.id(), realServer(b), lvs.ServerConfig{Forward: lvs.Masq, Weight: y})
		}
	}
	w.mustUpdate(addService(p.id(), "rr", a))
	var changing atomic.Bool
	changing.Store(true)
	w.onThreads(2, func(n int) {
		if n == 0 {
			defer changing.Store(false)
			for range 40 {
				for _, change := range []func(*lvs.Table) error{replace(a, b), replace(b, a), weights(1, 0), weights(0, 1), weights(1, 0), again} {
					if err := w.Update(change); err != nil {
						t.Error(err)
					}
				}
			}
			return
		}
		forwarded, dropped := 0, 0
		for i := 0; changing.Load() && i < 10_000; i++ {
			verdict, out := w.run(w.tc, w.clients, p.nth(i).in("S").frame(t))
			switch {
			case verdict == tcRedirect && out[23] == 6:
				forwarded++
			case verdict == tcDrop: // the server that was chosen has just been removed
				dropped++
			default:
				t.Errorf("connection %d is not served: verdict %d", i, int32(verdict))
				return
			}
		}
		if forwarded < 9*dropped {
			t.Errorf("%d connections are served, %d dropped", forwarded, dropped)
		}
		t.Logf("%d connections are served, %d dropped", forwarded, dropped)
	})
	w.checkConsistent()
	w.checkLoads()
}
