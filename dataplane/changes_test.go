// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"lvs"
)

// state is a configuration that a change leads to, from any other.
type state struct {
	timeout  uint32
	services []stateService
}

type stateService struct {
	path
	scheduler string
	servers   string // letters, oldest first; a capital has weight 5
}

var (
	serviceA = tcp4.service("203.0.113.1:80", "10.0.0.11:80")
	serviceB = tcp4.service("203.0.113.2:80", "10.0.0.11:80")
	serviceC = tcp4.service("203.0.113.3:80", "10.0.0.11:80")

	states = []state{
		{900, []stateService{{serviceA, "rr", "abc"}, {serviceB, "wlc", "d"}}},
		{901, []stateService{{serviceA, "lc", "aeB"}, {serviceC, "wrr", "fG"}}},
		{902, []stateService{{serviceA, "lc", "eabcdfghijk"}, {serviceB, "wlc", "dh"}, {serviceC, "wrr", "g"}}},
		{903, []stateService{{serviceB, "rr", ""}, {serviceC, "wrr", "Gabcdefhijk"}}},
		{904, nil},
	}
)

func letter(r rune) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(r | 0x20)}), 80)
}

// become is a change to a state. What stays is edited, as operators do it.
func (s state) become(t *lvs.Table) error {
	t.SetTimeouts(lvs.Timeouts{TCP: s.timeout})
	if err := relocate(t, nil, int(s.timeout)%3); err != nil {
		return err
	}
	for _, old := range slices.Clone(t.Services()) {
		if !slices.ContainsFunc(s.services, func(v stateService) bool { return v.id() == old.ServiceID }) {
			if err := t.DeleteService(old.ServiceID); err != nil {
				return err
			}
		}
	}
	for _, v := range s.services {
		c := lvs.ServiceConfig{Scheduler: v.scheduler, Netmask: 0xffffffff}
		if t.Service(v.id()) == nil {
			if err := t.AddService(v.id(), c); err != nil {
				return err
			}
		} else if err := t.EditService(v.id(), c); err != nil {
			return err
		}
		id := v.id()
		if err := t.Zero(&id); err != nil {
			return err
		}
		if err := v.serve(t); err != nil {
			return err
		}
		if err := relocate(t, &id, len(v.servers)%3); err != nil {
			return err
		}
	}
	return nil
}

// relocate gives a service, or all of them, so many local addresses of their own.
func relocate(t *lvs.Table, id *lvs.ServiceID, n int) error {
	have := t.Locals
	if id != nil {
		have = t.Service(*id).Locals
	}
	for _, l := range have {
		if err := t.DeleteLocal(id, l.Addr); err != nil {
			return err
		}
	}
	for i := range n {
		if err := t.AddLocal(id, lvs.LocalAddr{Addr: letter(rune('p' + i)).Addr(), Ports: lvs.Ports{First: uint16(1000 + n), Last: 2000}}); err != nil {
			return err
		}
	}
	return nil
}

// serve gives a service its servers in order: those that it has keep their place only if nothing older goes.
func (v stateService) serve(t *lvs.Table) error {
	s := t.Service(v.id())
	for _, d := range slices.Clone(s.Servers) {
		if err := t.DeleteServer(v.id(), d.ServerID); err != nil {
			return err
		}
	}
	for _, r := range v.servers {
		c := lvs.ServerConfig{Forward: lvs.Masq, Weight: 1}
		if r < 'a' {
			c.Weight = 5
		}
		if err := t.AddServer(v.id(), realServer(letter(r)), c); err != nil {
			return err
		}
		if err := t.EditServer(v.id(), realServer(letter(r)), c); err != nil {
			return err
		}
	}
	return nil
}

func (s state) String() string {
	t := &lvs.Table{Timeouts: lvs.DefaultTimeouts}
	if err := s.become(t); err != nil {
		panic(err)
	}
	return configured(t)
}

func mustConfigured(t testing.TB, d *Director) string {
	t.Helper()
	table, err := d.Table()
	must(t, err)
	return configured(table)
}

// connect makes some connections to each service of a state, so that servers have them when they go.
func (w *world) connect(s state, round int) {
	w.t.Helper()
	for _, v := range s.services {
		for i := range len(v.servers) {
			w.run(w.tc, w.clients, v.from(uint16(1000+round*16+i)).in("S").frame(w.t))
		}
	}
}

// cutAfter lets a function run until the n-th step of a change; it says whether it came that far. What the function has
// open is closed, as the end of a process does it.
func cutAfter(n int, f func() error) (was bool, err error) {
	type ended struct{}
	cut = func() {
		if n--; n == 0 {
			panic(ended{})
		}
	}
	defer func() {
		cut = func() {}
		if r := recover(); r != nil {
			if _, was = r.(ended); !was {
				panic(r)
			}
		}
	}()
	return false, f()
}

// A change that ends at any step is finished by whoever looks next, whether the kernel takes swaps by the batch or one by one.
func TestChangesCutAnywhere(t *testing.T) {
	for name, batches := range map[string]bool{"batches": true, "one by one": false} {
		t.Run(name, func(t *testing.T) {
			before := batchesWaitOnce
			t.Cleanup(func() { batchesWaitOnce = before })
			batchesWaitOnce = func() bool { return batches }
			testChangesCutAnywhere(t)
		})
	}
}

func testChangesCutAnywhere(t *testing.T) {
	w := mustWorld(t, small)
	steps, round := 0, 0
	for i, from := range states {
		to := states[(i+1)%len(states)]
		for n := 1; ; n++ {
			w.mustUpdate(from.become)
			w.connect(from, round)
			round++
			was, err := cutAfter(n, func() error { return w.Update(to.become) })
			if err != nil {
				t.Fatal(err)
			}
			if was {
				steps++
			}
			w.connect(to, round)
			if got := mustConfigured(t, w.Director); got != to.String() {
				t.Errorf("from state %d, cut at step %d: the table is\n%s\nwant\n%s", i, n, got, to)
			}
			w.checkConsistent()
			if t.Failed() {
				return
			}
			if !was {
				break
			}
		}
	}
	if steps < 50 {
		t.Errorf("only %d steps", steps)
	}
	w.checkLoads()
	w.mustExpire()
}

// Finishing a change may end at any step, too.
func TestRepairsCutAnywhere(t *testing.T) {
	w := mustWorld(t, small)
	from, to := states[1], states[2]
	for first := 1; ; first += 3 {
		for second := 1; ; second += 2 {
			w.mustUpdate(from.become)
			was, err := cutAfter(first, func() error { return w.Update(to.become) })
			must(t, err)
			if !was {
				return
			}
			was, err = cutAfter(second, func() error { _, err := w.Table(); return err })
			must(t, err)
			if got := mustConfigured(t, w.Director); got != to.String() {
				t.Errorf("cut at step %d, and at step %d of the repair: the table is\n%s\nwant\n%s", first, second, got, to)
			}
			w.checkConsistent()
			if t.Failed() {
				return
			}
			if !was {
				break
			}
		}
	}
}

var errRefused = errors.New("refused")

// A change that is refused changes nothing.
func TestRefusedChanges(t *testing.T) {
	w := mustWorld(t, Sizes{Conns: 64, Services: 3, Servers: 8})
	w.mustUpdate(states[0].become)
	for name, c := range map[string]struct {
		change func(*lvs.Table) error
		err    error
	}{
		"refused by the change": {func(t *lvs.Table) error { return errors.Join(states[2].become(t), errRefused) }, errRefused},
		"too many servers":      {states[3].become, ErrNoRoom},
		"too many services": {func(t *lvs.Table) error {
			for i := range 4 {
				must(w.t, addService(serverless4.service(fmt.Sprintf("203.0.113.20:%d", 80+i), "10.0.0.1:80").id(), "rr")(t))
			}
			return nil
		}, ErrNoRoom},
	} {
		if err := w.Update(c.change); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", name, err)
		}
		if got := mustConfigured(t, w.Director); got != states[0].String() {
			t.Errorf("%s: the table is\n%s\nwant\n%s", name, got, states[0])
		}
		w.checkConsistent()
	}
}

// The slots of what was removed are free again when its connections are gone.
func TestRemovedSlotsAreReclaimed(t *testing.T) {
	w := mustWorld(t, small)
	for i, s := range append(states, states[0], states[4]) {
		w.mustUpdate(s.become)
		w.connect(s, i)
	}
	in := w.mustLook()
	w.mustAgeRemoved()
	w.mustUpdate(addService(serverless4.id(), "rr"))
	if n := in.slotsInUse(); n == 0 {
		t.Error("servers with connections have lost their slots")
	}
	w.mustExpire()
	w.mustUpdate(func(t *lvs.Table) error { return t.DeleteService(serverless4.id()) })
	w.mustUpdate(addService(serverless6.id(), "rr"))
	if n := in.slotsInUse(); n != 1 {
		t.Errorf("%d slots are in use, for one service without servers", n)
	}
	w.checkConsistent()
	status, err := w.Status()
	must(t, err)
	if status.Services.Used != 1 || status.Servers.Used != 0 {
		t.Errorf("status tells of %+v services and %+v servers", status.Services, status.Servers)
	}
}

func (in *instance) slotsInUse() (n int) {
	for i := range in.services {
		if in.services[i].Use != bpfSlotUseSLOT_FREE {
			n++
		}
	}
	for i := range in.servers {
		if bpfSlotUse(in.servers[i].Use) != bpfSlotUseSLOT_FREE {
			n++
		}
	}
	return n
}

// Where all places for servers are taken, also by removed ones, a change is refused whole; later there is room again.
func TestServersWithoutRoom(t *testing.T) {
	w := mustWorld(t, Sizes{Conns: 1024, Services: 4, Servers: 8})
	w.settings.SweepSlice = 0
	w.setClock(w.settings.Now)
	full := state{900, []stateService{{serviceA, "rr", "abcdefgh"}}}
	other := state{900, []stateService{{serviceA, "rr", "hijklmno"}, {serviceB, "rr", ""}}}
	w.mustUpdate(full.become)
	w.connect(full, 0)
	w.mustUpdate(states[4].become)
	for range 2 {
		if err := w.Update(other.become); !errors.Is(err, ErrNoRoom) {
			t.Errorf("replacing all servers while they have connections: %v", err)
		}
		if got := mustConfigured(t, w.Director); got != states[4].String() {
			t.Fatalf("the table is\n%s\nwant\n%s", got, states[4])
		}
		w.checkConsistent()
	}
	w.mustExpire()
	w.mustAgeRemoved()
	w.mustUpdate(other.become)
	if got := mustConfigured(t, w.Director); got != other.String() {
		t.Errorf("the table is\n%s\nwant\n%s", got, other)
	}
	w.checkConsistent()
}

// mustAgeRemoved makes it as if what was removed had been so before.
func (w *world) mustAgeRemoved() {
	w.t.Helper()
	in := w.mustLook()
	for slot := range in.servers {
		in.servers[slot].Removed -= min(in.servers[slot].Removed, graceSeconds)
	}
}

// Clearing up after removed servers may end at any step: the next change goes on with it.
func TestReclaimingCutAnywhere(t *testing.T) {
	w := mustWorld(t, small)
	steps := 0
	for i, from := range states[:3] {
		to := states[i+1]
		for n := 1; ; n++ {
			w.mustUpdate(from.become)
			w.mustAgeRemoved()
			_, before := w.mustLook().free()
			was, err := cutAfter(n, func() error { return w.Update(to.become) })
			must(t, err)
			if _, after := w.mustLook().free(); was && after > before {
				steps++
			}
			if got := mustConfigured(t, w.Director); got != from.String() && got != to.String() {
				t.Errorf("from state %d, cut at step %d: the table is\n%s\nneither\n%s\nnor\n%s", i, n, got, from, to)
			}
			w.mustUpdate(to.become)
			w.checkConsistent()
			if t.Failed() {
				return
			}
			if !was {
				break
			}
		}
	}
	if steps == 0 {
		t.Error("nothing was freed")
	}
}
