// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lvs/place"
)

// An upgrade builds a directory of pins beside the one that there is: new programs, the maps that keep their form, others made anew out of
// the former ones, the links. Both directories are exchanged at once, and from then on the new one counts. Then all that is attached
// is made to run the new programs, and the former directory is removed. Whoever finds an upgrade that was cut short
// before the exchange removes the new directory, and after it goes on: what is left is told by the pins alone, so any version
// can do it. If something cannot be attached, all goes back to the former directory.

// Upgraded tells what an upgrade has found and done.
type Upgraded struct {
	Loaded bool     `json:"loaded"` // whether there was something to upgrade
	Done   bool     `json:"done"`   // whether the programs were replaced
	From   string   `json:"from"`   // programs
	To     string   `json:"to"`
	Layout [2]int   `json:"layout"` // of the maps, before and afterwards
	Conns  int      `json:"conns"`  // entries of the connection table
	Mended []string `json:"mended,omitempty"`
}

// Upgrade replaces the programs that run by this version's, and keeps whatever they know. If they are this version's already it does so
// only if again is set, or if a pin is damaged. A failure leaves those running that ran before.
func (d *Director) Upgrade(again bool) (*Upgraded, error) {
	l, err := place.LockDir(d.place.Path, unix.LOCK_EX)
	if err == nil && d.emptied() {
		l.Release()
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) {
		return &Upgraded{To: ownRelease().String(), Layout: [2]int{0, int(ownLayout())}}, nil
	}
	if err != nil {
		return nil, err
	}
	defer l.Release()
	if err := d.complete(); err != nil {
		return nil, err
	}
	f, err := findRunning(d.place.Path)
	if err != nil {
		return nil, err
	}
	defer f.close()
	if f.release.Layout > ownLayout() {
		return nil, f.release.check()
	}
	own := ownRelease()
	u := &Upgraded{Loaded: true, From: f.release.String(), To: own.String(), Layout: [2]int{int(f.release.Layout), int(own.Layout)}, Mended: f.wrong}
	if again || f.release != own || len(f.wrong) > 0 {
		u.Done = true
		if err := d.replace(f); err != nil {
			return nil, fmt.Errorf("%w (what ran before still does)", err)
		}
	}
	u.Conns, err = d.filled()
	return u, err
}

// filled opens what is loaded, as any command after this one, and gives the number of its connections.
func (d *Director) filled() (int, error) {
	in := &instance{dir: d.place.Path, pinned: map[string]*ebpf.Map{}}
	defer in.close()
	if err := in.open(); err != nil {
		return 0, err
	}
	if err := in.followReals(); err != nil {
		return 0, err
	}
	if err := errors.Join(in.holdContests(), in.paceSweep()); err != nil {
		return 0, err
	}
	table, err := in.entries()
	return table.live(), err
}

// paceSweep has the sweep go at this version's pace, unless it rests.
func (in *instance) paceSweep() error {
	s, err := in.settings()
	if err != nil || s.SweepSlice == 0 {
		return err
	}
	m, err := in.m(bpfMapConns)
	if err != nil {
		return err
	}
	own := newSettings(in.hz, m.MaxEntries())
	if s.SweepSlice == own.SweepSlice && s.SweepEvery == own.SweepEvery {
		return nil
	}
	s.SweepSlice, s.SweepEvery = own.SweepSlice, own.SweepEvery
	return in.putSettings(s)
}

// replace loads this version's programs in the place of what runs.
func (d *Director) replace(f *running) error {
	n, err := f.load()
	if err != nil {
		return err
	}
	defer n.Close()
	return d.exchange(f, n)
}

// exchange puts programs that are loaded in the place of what runs.
func (d *Director) exchange(f *running, n *ebpf.Collection) error {
	cut()
	l, err := d.place.Exchange(func(dir string) error { return f.build(dir, n) })
	if err != nil {
		return err
	}
	defer l.Release()
	cut()
	return d.complete()
}

// upgradingPin is in a directory from before the exchange until all that is attached runs its programs.
const upgradingPin = "upgrading"

func (d *Director) upgrading() bool {
	for _, path := range []string{filepath.Join(d.place.Path, upgradingPin), d.place.Unfinished()} {
		if _, err := os.Lstat(path); err == nil {
			return true
		}
	}
	return false
}

// complete goes on with an upgrade that was exchanged, and removes what is left of one that was not.
func (d *Director) complete() error {
	marker := filepath.Join(d.place.Path, upgradingPin)
	if _, err := os.Lstat(marker); err != nil {
		return d.place.Discard()
	}
	err := switchTo(d.place.Path)
	if err != nil {
		return errors.Join(fmt.Errorf("upgrade: %w", err), d.goBack())
	}
	if err := quiesce(); err != nil {
		return err
	}
	if err := d.place.Discard(); err != nil {
		return err
	}
	cut()
	return os.Remove(marker)
}

// goBack has the former programs run again.
func (d *Director) goBack() error {
	if _, err := os.Stat(d.place.Unfinished()); err != nil {
		return nil // they are gone
	}
	if err := switchTo(d.place.Unfinished()); err != nil {
		return err
	}
	if err := d.place.Return(); err != nil {
		return err
	}
	return d.place.Discard()
}

// build makes the new directory.
func (f *running) build(dir string, c *ebpf.Collection) error {
	if err := pinAll(c, dir); err != nil {
		return err
	}
	cut()
	links, err := pinnedLinks(f.dir)
	if err != nil {
		return err
	}
	anchored := false
	for _, l := range links {
		if l.cut {
			continue // to be attached anew
		}
		if err := pinAgain(l, dir); err != nil {
			return err
		}
		anchored = anchored || l.pin == place.AnchorPin
		cut()
	}
	if !anchored {
		if err := place.Anchor(dir, c.Programs[bpfProgDirectorTc], c.Programs[bpfProgDirectorAnchor]); err != nil {
			return err
		}
	}
	if err := f.carryJournal(dir); err != nil {
		return err
	}
	if err := ownRelease().pin(dir); err != nil {
		return err
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: upgradingPin, Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Pin(filepath.Join(dir, upgradingPin))
}

// pinAgain pins a link in another directory as well.
func pinAgain(l pinnedLink, dir string) error {
	other, err := link.NewFromID(l.id)
	if err != nil {
		return fmt.Errorf("link %s: %w", l.pin, err)
	}
	defer other.Close()
	return other.Pin(filepath.Join(dir, l.pin))
}

// switchTo has all that is attached run the programs that are pinned in a directory, and these the timers. It can be done again.
func switchTo(dir string) error {
	programs := map[string]*ebpf.Program{}
	for pin := range programPins {
		p, err := ebpf.LoadPinnedProgram(filepath.Join(dir, pin), nil)
		if err != nil {
			return fmt.Errorf("program %s: %w", pin, err)
		}
		defer p.Close()
		programs[pin] = p
	}
	links, err := pinnedLinks(dir)
	if err != nil {
		return err
	}
	for _, l := range links {
		if err := l.run(dir, programs[l.kind()]); err != nil {
			return fmt.Errorf("link %s: %w", l.pin, err)
		}
		cut()
	}
	if err := switchFilters(programs); err != nil {
		return err
	}
	return start(programs[startPin])
}

// run has a link run a program. The kernel exchanges them between two packets.
func (l pinnedLink) run(dir string, p *ebpf.Program) error {
	if l.cut {
		return nil
	}
	pinned, err := link.LoadPinnedLink(filepath.Join(dir, l.pin), nil)
	if err != nil {
		return err
	}
	defer pinned.Close()
	if err := pinned.Update(p); err != nil && !errors.Is(err, unix.ENOLINK) { // its interface may have gone just now
		return err
	}
	return nil
}

// switchFilters has the filters run the programs that are there where the kernel has no tcx.
func switchFilters(programs map[string]*ebpf.Program) error {
	all, err := allLinks()
	if err != nil {
		return err
	}
	for _, l := range all {
		if has, err := hasClsact(l); err != nil || !has {
			continue // it may have gone just now
		}
		for parent, pin := range map[uint32]string{netlink.HANDLE_MIN_INGRESS: "tc", netlink.HANDLE_MIN_EGRESS: "out"} {
			if ours, err := hasFilter(l, parent); err != nil || !ours {
				continue
			}
			if err := netlink.FilterReplace(clsactFilter(l.Attrs().Index, programs[pin].FD(), parent)); err != nil {
				return fmt.Errorf("filter of %s: %w", l.Attrs().Name, err)
			}
			cut()
		}
	}
	return nil
}

// quiesce returns when no program runs any more that was replaced before. The kernel waits for that when somebody changes a map of
// maps, whichever it is; membarrier does it, too, but not on machines with CPUs without ticks.
func quiesce() error {
	inner := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	one, err := ebpf.NewMap(inner)
	if err != nil {
		return err
	}
	defer one.Close()
	outer, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner})
	if err != nil {
		return err
	}
	defer outer.Close()
	return outer.Put(uint32(0), one)
}
