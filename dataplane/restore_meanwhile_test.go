// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"iter"
	"net/netip"
	"os"
	"testing"
	"time"

	"lvs"
)

// manyEntries are FULLNAT connections, each with a local port of its own, and the templates of their clients.
func manyEntries(n int) iter.Seq2[int, lvs.Entry] {
	return func(yield func(int, lvs.Entry) bool) {
		server := [2]netip.Addr{server4, other4}
		for i := range n + n/64 {
			c, connection := nthClient(uint32(i-n/64)), i >= n/64
			if !connection {
				c = netip.AddrPortFrom(nthClient(uint32(i*64)).Addr(), 0)
			}
			e := lvs.Entry{
				Conn:    lvs.Conn{Protocol: lvs.TCP, Client: c, Virtual: movedFull.virtual, Forward: lvs.FullNAT, Expires: time.Minute},
				Service: movedFull.id(), ServerID: lvs.ServerID{Addr: server[i/64%2], Port: 80}, Controller: lvs.NoTemplate,
			}
			if e.Template = !connection; e.Template {
				e.Number, e.Timeout, e.Conns = uint32(i), 300, 64
			} else {
				e.State, e.Controller = lvs.TCPEstablished, uint32((i-n/64)/64)
				e.Local = netip.AddrPortFrom(local4, uint16(1024+i))
			}
			if !yield(i, e) {
				return
			}
		}
	}
}

// restoreMany restores them, and writes a byte now and then.
func (d *Director) restoreMany(conns int) error {
	_, err := d.Restore(func(yield func(*lvs.Entry, error) bool) {
		for n, e := range manyEntries(conns) {
			if !yield(&e, nil) {
				return
			}
			if n%500 == 0 {
				os.Stdout.Write([]byte{'.'})
			}
		}
	})
	return err
}

// Whenever a restore is killed, the table is sound, and another restore has all that was missing.
func TestKilledWhileRestoring(t *testing.T) {
	const conns, lines = 25_600, 2*25_600 + 25_600/64
	w := mustWorld(t, Sizes{Conns: 60_000, Services: 64, Servers: 256})
	w.sweepByHand()
	w.mustUpdate(movingTable)
	for range 4 {
		mustKill(t, "restore", conns, 10*time.Millisecond)
		w.mustSound()
		before := w.mustLive()
		got, err := w.Restore(func(yield func(*lvs.Entry, error) bool) {
			for _, e := range manyEntries(conns) {
				if !yield(&e, nil) {
					return
				}
			}
		})
		must(t, err)
		if got.Conns+got.Templates+got.There != conns+conns/64 || got.LeftOut() != 0 || w.mustLive() != lines {
			t.Errorf("%+v, and %d of %d lines", got, w.mustLive(), lines)
		}
		t.Logf("%d lines were taken when it was killed; %+v", before, got)
		w.mustSound()
		w.mustExpire()
	}
}

// Packets that come while connections are restored win, whichever comes first, and nothing is there twice.
func TestRestoreWhilePacketsCome(t *testing.T) {
	const crowded = 20_000
	w := mustWorld(t, Sizes{Conns: 2 * crowded, Services: 4, Servers: 16})
	w.sweepByHand()
	w.mustUpdate(addService(crowd.id(), "rr", crowd.server))
	for range 3 {
		end := w.comeMeanwhile(0, crowded)
		got, err := w.Restore(func(yield func(*lvs.Entry, error) bool) {
			for n := range crowded {
				e := lvs.Entry{
					Conn:    lvs.Conn{Protocol: lvs.UDP, Client: nthClient(uint32(n)), Virtual: crowd.virtual, Forward: lvs.Masq, Expires: time.Minute},
					Service: crowd.id(), ServerID: realServer(crowd.server), Controller: lvs.NoTemplate,
				}
				if !yield(&e, nil) {
					return
				}
			}
		})
		must(t, err)
		came := end()
		if got.Conns+got.There != crowded || came == 0 {
			t.Errorf("%+v while %d packets came", got, came)
		}
		t.Logf("%+v while %d packets came", got, came)
		w.mustSound()
		if n := w.mustLive(); n != crowded {
			t.Errorf("%d entries", n)
		}
		w.mustExpire()
	}
}
