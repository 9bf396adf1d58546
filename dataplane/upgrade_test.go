// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"lvs"
	"lvs/place"
)

// known is everything that a director knows.
func (w *world) known() string {
	w.t.Helper()
	table, err := w.Table()
	must(w.t, err)
	var text strings.Builder
	fmt.Fprint(&text, configured(table))
	for _, s := range table.Services() {
		fmt.Fprintln(&text, s.ServiceID, s.Stats, s.Rates)
		for _, d := range s.Servers {
			fmt.Fprintln(&text, "  ", d.ServerID, d.LastWeight, d.Load, d.Stats, d.Rates)
		}
	}
	for c, err := range w.Conns() {
		must(w.t, err)
		fmt.Fprintf(&text, "%+v\n", c)
	}
	in := w.mustLook()
	set, err := in.settings()
	must(w.t, err)
	devices, err := in.devices()
	must(w.t, err)
	fmt.Fprintln(&text, set, devices, w.mustReasons())
	return text.String()
}

// mustFill gives a world services of several kinds, connections, templates, counters, rates, and a setting that is not the usual one.
func (w *world) mustFill() {
	w.t.Helper()
	w.mustServe()
	w.mustUpdate(states[0].become, addPersistent(callless.id(), callless.server))
	w.mustUpdate(addService(tcp4.id(), "sh", tcp4.server), addService(udp4.id(), "rr", udp4.server), addService(tcp6.id(), "wrr", tcp6.server))
	w.connect(states[0], 1)
	w.settings.SloppyTcp = 1
	w.setClock(w.settings.Now + 1)
	for i := range 20 {
		for _, flags := range []string{"S", "A", "PA"} {
			w.run(w.tc, w.clients, tcp4.nth(i).in(flags).frame(w.t))
			w.run(w.xdp, w.clients, tcp6.from(uint16(2000+i)).in(flags).frame(w.t))
		}
		w.run(w.tc, w.clients, udp4.from(uint16(3000+i)).in("").frame(w.t))
	}
	w.run(w.tc, w.clients, noService.in("S").frame(w.t))
	w.mustEstimate(1 << 20)
}

// mustReopen looks at what is pinned now.
func (w *world) mustReopen() {
	w.t.Helper()
	if w.look != nil {
		w.look.close()
		w.look = nil
	}
	var err error
	w.tc.Close()
	w.xdp.Close()
	in := w.mustLook()
	w.tc, err = in.program("tc")
	must(w.t, err)
	w.xdp, err = in.program("xdp")
	must(w.t, err)
}

// checkOnePlace holds all that runs to what is pinned: one set of programs, nothing aside, links that run them.
func (w *world) checkOnePlace() {
	w.t.Helper()
	for _, path := range []string{w.place.Unfinished(), filepath.Join(w.place.Path, upgradingPin)} {
		if _, err := os.Lstat(path); err == nil {
			w.t.Errorf("%s is left", path)
		}
	}
	pinned := map[string]ebpf.ProgramID{}
	for pin := range programPins {
		p, err := ebpf.LoadPinnedProgram(filepath.Join(w.place.Path, pin), nil)
		must(w.t, err)
		info, err := p.Info()
		must(w.t, err)
		pinned[pin], _ = info.ID()
		p.Close()
	}
	links, err := pinnedLinks(w.place.Path)
	must(w.t, err)
	if len(links) < 3 {
		w.t.Errorf("only the links %v", links)
	}
	for _, l := range links {
		if l.cut || l.program != pinned[l.kind()] {
			w.t.Errorf("link %s runs program %d and not %d (cut %v)", l.pin, l.program, pinned[l.kind()], l.cut)
		}
	}
}

// users gives the director's programs in the kernel that use the connection table.
func (w *world) users() (ids []ebpf.ProgramID) {
	w.t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(w.place.Path, bpfMapConns), nil)
	must(w.t, err)
	defer m.Close()
	info, err := m.Info()
	must(w.t, err)
	own, _ := info.ID()
	for id := ebpf.ProgramID(0); ; {
		if id, err = ebpf.ProgramGetNextID(id); errors.Is(err, os.ErrNotExist) {
			return ids
		}
		must(w.t, err)
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // another test's, and gone
		}
		if info, err := p.Info(); err == nil && strings.HasPrefix(info.Name, "director_") {
			if used, _ := info.MapIDs(); slices.Contains(used, own) {
				ids = append(ids, id)
			}
		}
		p.Close()
	}
}

// checkNothingOf waits for programs to be gone from the kernel.
func (w *world) checkNothingOf(former []ebpf.ProgramID) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := slices.DeleteFunc(w.users(), func(id ebpf.ProgramID) bool { return !slices.Contains(former, id) })
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Errorf("programs %v of %v are left", left, former)
			return
		}
	}
}

// An upgrade keeps what is known, and leaves nothing of the former programs.
func TestUpgradeKeepsEverything(t *testing.T) {
	w := mustWorld(t, small)
	w.mustFill()
	before := w.known()
	if u, err := w.Upgrade(false); err != nil || !u.Loaded || u.Done {
		t.Errorf("to the same version: %+v, %v", u, err)
	}
	for range 2 {
		former := w.users()
		u, err := w.Upgrade(true)
		must(t, err)
		if !u.Done || u.Conns == 0 || len(u.Mended) > 0 {
			t.Errorf("%+v", u)
		}
		w.checkOnePlace()
		w.mustReopen()
		w.checkNothingOf(former)
		if after := w.known(); after != before {
			t.Fatalf("before:\n%s\nafterwards:\n%s", before, after)
		}
	}
	if verdict, _ := w.run(w.tc, w.clients, tcp4.nth(3).in("A").frame(t)); verdict != tcRedirect {
		t.Errorf("a packet of a connection: %d", int32(verdict))
	}
	s, err := w.Status()
	must(t, err)
	if s.Programs.UpgradeDue || s.Programs.Running != s.Programs.Own || len(s.Advice) > 0 {
		t.Errorf("%+v %q", s.Programs, s.Advice)
	}
}

// What an earlier version has loaded is swept at its pace until an upgrade; a sweep that rests goes on resting.
func TestUpgradePacesTheSweep(t *testing.T) {
	for _, slice := range []uint32{1000, 0} {
		w := mustWorld(t, small)
		want := w.settings
		if slice == 0 {
			want.SweepSlice, want.SweepEvery = 0, 1e6
		}
		w.settings.SweepSlice, w.settings.SweepEvery = slice, 1e6
		w.setClock(w.settings.Now)
		_, err := w.Upgrade(true)
		must(t, err)
		w.mustReopen()
		set, err := w.mustLook().settings()
		must(t, err)
		if set.SweepSlice != want.SweepSlice || set.SweepEvery != want.SweepEvery {
			t.Errorf("slices of %d every %d ns, want %d and %d", set.SweepSlice, set.SweepEvery, want.SweepSlice, want.SweepEvery)
		}
	}
}

// Filters of clsact, where the kernel has no tcx, run the new programs, and those of others stay.
func TestUpgradeOfFilters(t *testing.T) {
	w := mustWorld(t, small)
	own := mustInterface(t, "own", 1500)
	in := w.mustLook()
	for _, parent := range clsactParents {
		must(t, in.attachClsact(own, w.tc, bpfDevice{Tc: bpfAttachmentATTACH_CLSACT, Out: bpfAttachmentATTACH_CLSACT}, parent))
	}
	theirs := clsactFilter(own.Attrs().Index, w.tc.FD(), netlink.HANDLE_MIN_INGRESS)
	theirs.Name, theirs.Priority = "somebody's", 7
	must(t, netlink.FilterAdd(theirs))
	info, err := w.tc.Info()
	must(t, err)
	former, _ := info.ID()
	_, err = w.Upgrade(true)
	must(t, err)
	for parent, pin := range map[uint32]string{netlink.HANDLE_MIN_INGRESS: "tc", netlink.HANDLE_MIN_EGRESS: "out"} {
		p, err := ebpf.LoadPinnedProgram(filepath.Join(w.place.Path, pin), nil)
		must(t, err)
		info, err := p.Info()
		must(t, err)
		p.Close()
		now, _ := info.ID()
		filters, err := netlink.FilterList(own, parent)
		must(t, err)
		var got []ebpf.ProgramID
		for _, f := range filters {
			got = append(got, ebpf.ProgramID(f.(*netlink.BpfFilter).Id))
		}
		want := []ebpf.ProgramID{now}
		if pin == "tc" {
			want = append(want, former)
		}
		if now == former || !slices.Equal(got, want) {
			t.Errorf("%s: the filters run %v, and should run %v", pin, got, want)
		}
	}
	w.checkAttached("own", "clsact", "")
}

// mustSet loads the programs of an upgrade.
func (w *world) mustSet() (*running, *ebpf.Collection) {
	w.t.Helper()
	f, err := findRunning(w.place.Path)
	must(w.t, err)
	w.t.Cleanup(f.close)
	n, err := f.load()
	must(w.t, err)
	w.t.Cleanup(n.Close)
	return f, n
}

// An upgrade that ends at any step is completed or undone by whoever comes next, and so is that if it is cut short.
func TestUpgradesCutAnywhere(t *testing.T) {
	w := mustWorld(t, small)
	w.mustFill()
	before := w.known()
	f, n := w.mustSet()
	one := func() error {
		l, err := place.LockDir(w.place.Path, 2) // LOCK_EX
		must(t, err)
		defer l.Release()
		return w.exchange(f, n)
	}
	steps := 0
	for first := 1; ; first++ {
		was, err := cutAfter(first, one)
		must(t, err)
		for second := 1; was; second++ {
			again, err := cutAfter(second, func() error { _, err := w.Table(); return err })
			must(t, err)
			steps++
			if !again {
				break
			}
		}
		w.checkOnePlace()
		w.mustReopen()
		if after := w.known(); after != before {
			t.Fatalf("cut at step %d: before:\n%s\nafterwards:\n%s", first, before, after)
		}
		if t.Failed() {
			t.Fatalf("cut at step %d", first)
		}
		if !was {
			break
		}
	}
	if steps < 15 {
		t.Errorf("only %d steps", steps)
	}
}

// A process that is killed while it upgrades leaves a director that the next one finds whole.
func TestKilledWhileUpgrading(t *testing.T) {
	w := mustWorld(t, small)
	w.mustFill()
	before := w.known()
	for range 5 {
		mustKill(t, "upgrade", 0, 6*time.Second)
		w.mustReopen()
		if after := w.known(); after != before {
			t.Fatalf("before:\n%s\nafterwards:\n%s", before, after)
		}
		w.checkOnePlace()
	}
}

// A failed upgrade leaves what ran before, and says why.
func TestFailedUpgrades(t *testing.T) {
	w := mustWorld(t, small)
	w.mustFill()
	before, users := w.known(), w.users()
	same := func(what string, err error, words ...string) {
		t.Helper()
		for _, word := range words {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v", what, err)
			}
		}
		w.checkOnePlace()
		w.mustReopen()
		if after := w.known(); after != before {
			t.Errorf("%s: before:\n%s\nafterwards:\n%s", what, before, after)
		}
		if now := w.users(); !slices.Equal(now, users) {
			t.Errorf("%s: programs %v, and not %v", what, now, users)
		}
	}

	f, n := w.mustSet()
	program := n.Programs[bpfProgDirectorXdp]
	n.Programs[bpfProgDirectorXdp] = n.Programs[bpfProgDirectorTc] // no link of XDP takes it
	users = w.users()
	err := w.exchange(f, n)
	n.Programs[bpfProgDirectorXdp] = program
	same("a program that cannot be attached", err, "upgrade", "xdp-")

	r, err := readRelease(w.place.Path)
	must(t, err)
	r.Layout++
	w.mustRelease(r)
	_, err = w.Upgrade(true)
	if !errors.Is(err, ErrOtherVersion) || !strings.Contains(err.Error(), "newer") {
		t.Errorf("a newer layout: %v", err)
	}
	if _, err := w.Table(); !errors.Is(err, ErrOtherVersion) {
		t.Errorf("reading a newer layout: %v", err)
	}
	if err := w.Update(func(*lvs.Table) error { return nil }); !errors.Is(err, ErrOtherVersion) {
		t.Errorf("changing a newer layout: %v", err)
	}
	r.Layout--
	w.mustRelease(r)
	same("a newer layout", nil)
}

// mustRelease has what is loaded be another version's.
func (w *world) mustRelease(r release) {
	w.t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(w.place.Path, releasePin), nil)
	must(w.t, err)
	defer m.Close()
	must(w.t, m.Put(uint32(0), r))
}
