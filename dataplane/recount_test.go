// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"testing"

	"lvs"
)

// Counters that were carried here are shown, and go on; -Z ends them. They are nobody's who has counted something here, or is not there.
func TestCarriedCounters(t *testing.T) {
	w := mustWorld(t, small)
	had := lvs.Stats{Conns: 7, InPackets: 70, OutPackets: 60, InBytes: 7000, OutBytes: 6000}
	more := lvs.Stats{Conns: 1, InPackets: 2, OutPackets: 3, InBytes: 4, OutBytes: 5}
	sum := had
	sum.Add(more)
	id, server := udp4.id(), lvs.ServerID{Addr: udp4.server.Addr(), Port: udp4.server.Port()}
	carry := func(t *lvs.Table) error {
		elsewhere := tcp4.id()
		all := had
		all.Conns = 100 // of servers that were removed, too
		t.Carry(elsewhere, nil, had)
		t.Carry(id, &lvs.ServerID{Addr: other4}, had)
		t.Carry(id, nil, all)
		t.Carry(id, &server, had)
		return nil
	}
	check := func(what string, conns uint64, of lvs.Stats) {
		t.Helper()
		table, err := w.Table()
		must(t, err)
		s := table.Service(id)
		whole := of
		whole.Conns = conns
		if s.Stats != whole || s.Servers[0].Stats != of {
			t.Errorf("%s: %+v and %+v, want %+v and %+v", what, s.Stats, s.Servers[0].Stats, whole, of)
		}
	}
	w.mustUpdate(func(table *lvs.Table) error {
		must(t, addService(id, "rr", udp4.server)(table))
		return carry(table)
	})
	check("made with them", 100, had)
	w.count(udp4, 0, 0, more)
	check("counted", 101, sum)
	w.mustUpdate(carry)
	check("carried again", 101, sum)
	w.mustUpdate(func(t *lvs.Table) error { return t.Zero(&id) })
	check("after -Z", 0, lvs.Stats{})
	w.mustUpdate(carry)
	check("carried where nothing was counted", 100, had)
	w.count(udp4, 0, 0, more)
	w.mustUpdate(func(t *lvs.Table) error { return t.DeleteService(id) })
	w.mustUpdate(addService(id, "rr", udp4.server))
	table, err := w.Table()
	must(t, err)
	if got := table.Service(id).Stats; got != (lvs.Stats{}) {
		t.Errorf("made again: %+v", got)
	}
}

// A connection whose server was taken away from it is without it where it is carried to: its next packet ends it there, too.
func TestDisownedMoves(t *testing.T) {
	w := mustWorld(t, small)
	w.mustUpdate(addService(tcp4.id(), "rr", tcp4.server))
	for _, flags := range []string{"S", "A"} {
		w.send(tcp4.from(5000).in(flags).frame(t), 0)
	}
	if n, err := w.Disown(tcp4.id(), realServer(tcp4.server), true); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	_, text := w.mustSaved()
	w.mustExpire()
	w.mustRestore(text, Restored{Conns: 1})
	if e := w.detail(tcp4.from(5000)); e.Flags&lvs.Disowned == 0 {
		t.Errorf("%+v", e)
	}
	w.send(tcp4.from(5000).in("A").frame(t), 0)
	if e := w.detail(tcp4.from(5000)); e.State != lvs.TCPClose {
		t.Errorf("%+v after a packet", e)
	}
}
