// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"testing"
	"time"

	"lvs"
)

var accounted = Sizes{Conns: 1024, Services: 64, Servers: 256, Accounting: true}

// detail gives what is known of the connection of a path.
func (w *world) detail(p path) (found lvs.Entry) {
	w.t.Helper()
	n := 0
	w.mustLook().details(w.now64(), 1<<kindPlain, func(e lvs.Entry, err error) bool {
		must(w.t, err)
		if e.Client == p.client && e.Virtual == p.virtual {
			found = e
			n++
		}
		return true
	})
	if n != 1 {
		w.t.Fatalf("%v has %d connections", p.client, n)
	}
	return found
}

// Each packet of a connection is counted once, from whichever CPU and in whichever direction it comes, and no other's.
func TestAccounts(t *testing.T) {
	const each = 500
	w := mustWorld(t, accounted)
	w.sweepByHand()
	full := fullPaths[0]
	w.mustUpdate(addService(tcp4.id(), "rr", tcp4.server), addFull(full, lvs.DefaultLocalPorts))
	for _, p := range []path{tcp4, full} {
		w.send(p.from(5000).in("S").frame(t), 0)
	}
	w.setClock(w.settings.Now + 7*w.mustLook().hz)
	back := full.from(5000)
	back.client = w.localPort(back)
	in, out := tcp4.from(5000).in("A"), tcp4.from(5000).out("A")
	in.payload, out.payload = make([]byte, 100), make([]byte, 200)
	w.onCPUs(2, func(cpu int) {
		for range each {
			w.run(w.tc, w.clients, in.frame(t))
			w.run(w.tc, w.servers, out.frame(t))
			w.run(w.tc, w.servers, back.out("A").frame(t))
		}
	})
	syn, answer := uint64(ipLength(tcp4.in("S").frame(t))), uint64(ipLength(back.out("A").frame(t)))
	for _, c := range []struct {
		of   path
		want lvs.Stats
	}{
		{tcp4, lvs.Stats{InPackets: 1 + 2*each, OutPackets: 2 * each, InBytes: syn + 2*each*(40+100), OutBytes: 2 * each * (40 + 200)}},
		{full, lvs.Stats{InPackets: 1, OutPackets: 2 * each, InBytes: syn, OutBytes: 2 * each * answer}},
	} {
		if e := w.detail(c.of.from(5000)); !e.Accounted || e.Stats != c.want || e.Age != 7*time.Second {
			t.Errorf("%v: %+v after %v, want %+v", c.of.id(), e.Stats, e.Age, c.want)
		}
	}
	table, err := w.Table()
	must(t, err)
	if s, e := table.Service(tcp4.id()).Stats, w.detail(tcp4.from(5000)).Stats; s.InPackets != e.InPackets || s.OutBytes != e.OutBytes {
		t.Errorf("the service counts %+v, its only connection %+v", s, e)
	}
}

// An account goes with its connection, into a file and out of it, through an upgrade, and to nobody who has the line afterwards.
func TestAccountsMove(t *testing.T) {
	w := mustWorld(t, accounted)
	w.sweepByHand()
	w.mustUpdate(addService(tcp4.id(), "rr", tcp4.server))
	for _, flags := range []string{"S", "A", "A"} {
		w.send(tcp4.from(5000).in(flags).frame(t), 0)
	}
	w.setClock(w.settings.Now + 5*w.mustLook().hz)
	before := w.detail(tcp4.from(5000))
	_, text := w.mustSaved()
	w.mustExpire()
	w.send(tcp4.from(5000).in("S").frame(t), 0)
	if e := w.detail(tcp4.from(5000)); e.Stats.InPackets != 1 || e.Age != 0 {
		t.Errorf("the next connection begins with %+v, %v old", e.Stats, e.Age)
	}
	w.mustExpire()
	w.mustRestore(text, Restored{Conns: 1})
	if e := w.detail(tcp4.from(5000)); e.Stats != before.Stats || e.Age != before.Age || e.Stats.InPackets != 3 {
		t.Errorf("%+v, %v old, was %+v, %v old", e.Stats, e.Age, before.Stats, before.Age)
	}
	if _, err := w.Upgrade(true); err != nil {
		t.Fatal(err)
	}
	w.look = nil
	if e := w.detail(tcp4.from(5000)); e.Stats != before.Stats {
		t.Errorf("after an upgrade %+v, before it %+v", e.Stats, before.Stats)
	}
	if status, err := w.Status(); err != nil || status.TableBytes != 6*(16384+64+1024+9216) {
		t.Errorf("%+v, %v", status, err)
	}
}

// Unless it is asked for, nothing is kept.
func TestNoAccounts(t *testing.T) {
	w := mustWorld(t, small)
	w.mustUpdate(addService(tcp4.id(), "rr", tcp4.server))
	w.send(tcp4.from(5000).in("S").frame(t), 0)
	if e := w.detail(tcp4.from(5000)); e.Accounted || e.Age != 0 || e.Stats != (lvs.Stats{}) {
		t.Errorf("%+v", e)
	}
}
