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
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lvs"
	"lvs/needs"
	"lvs/place"
)

// objects are the things in the kernel that a director has, as "map 17", each with how to ask whether it is still there.
type objects map[string]func() bool

// collect adds what is pinned in a directory, and what the programs use and call.
func (o objects) collect(t *testing.T, dir string) {
	t.Helper()
	f, err := findRunning(dir)
	must(t, err)
	defer f.close()
	for id := range f.used {
		o[fmt.Sprint("map ", id)] = func() bool { return alive(ebpf.MapGetNextID, id) }
	}
	links, err := pinnedLinks(dir)
	must(t, err)
	for _, l := range links {
		o[fmt.Sprint("link ", l.id)] = func() bool {
			open, err := link.NewFromID(l.id)
			if err == nil {
				open.Close()
			}
			return !errors.Is(err, os.ErrNotExist)
		}
	}
	for pin := range programPins {
		p, err := ebpf.LoadPinnedProgram(filepath.Join(dir, pin), nil)
		must(t, err)
		info, err := p.Info()
		must(t, err)
		p.Close()
		id, _ := info.ID()
		o[fmt.Sprint("program ", id)] = func() bool { return alive(ebpf.ProgramGetNextID, id) }
	}
}

// alive says whether the kernel lists an id. Opening what has it would be wrong: a program array whose last descriptor is closed a second time,
// before the kernel has emptied it for the first, is never freed (prog_array_map_clear).
func alive[ID ~uint32](next func(ID) (ID, error), id ID) bool {
	found, err := next(id - 1)
	return found == id || err != nil && !errors.Is(err, os.ErrNotExist)
}

// checkGone waits for all of them to be gone from the kernel.
func (o objects) checkGone(t *testing.T) {
	t.Helper()
	for name, there := range o {
		for deadline := time.Now().Add(20 * time.Second); there(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("%s is left", name)
				break
			}
		}
	}
}

// around is what a director may change in its namespace and its process: interfaces, queues, filters, rules, settings, descriptors.
func around(t *testing.T) string {
	t.Helper()
	text := surroundings(t)
	for _, family := range families {
		rules, err := netlink.RuleList(family.number)
		must(t, err)
		for _, r := range rules {
			text += fmt.Sprintln(r, r.Protocol)
		}
		routes, err := netlink.RouteListFiltered(family.number, &netlink.Route{Table: markTable}, netlink.RT_FILTER_TABLE)
		must(t, err)
		text += fmt.Sprintln(len(routes), "routes of ours")
	}
	open, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	var kinds []string
	for _, e := range open {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, "anon_inode:bpf") {
			kinds = append(kinds, to)
		}
	}
	slices.Sort(kinds)
	return text + strings.Join(kinds, "\n")
}

// TestNothingIsLeft has a director live through all that there is, and leave everything as it was: pins, links, programs, maps, rules,
// devices, settings and descriptors.
func TestNothingIsLeft(t *testing.T) {
	needs.BPF(t)
	mustNamespace(t)
	mustInterface(t, "clients", 1500, "198.51.100.1/24")
	mustInterface(t, "servers", 1500, "10.0.0.1/24")
	must(t, os.WriteFile(families[0].forwarding, []byte("1"), 0))
	before := around(t)
	d, err := Open(small)
	must(t, err)
	all := objects{}
	update := func(changes ...func(*lvs.Table) error) {
		t.Helper()
		for _, change := range changes {
			must(t, d.Update(change))
			all.collect(t, d.place.Path)
		}
	}
	upgrade := func() {
		t.Helper()
		_, err := d.Upgrade(true)
		must(t, err)
		all.collect(t, d.place.Path)
	}
	mark := lvs.ServiceID{Family: lvs.IPv4, Mark: 5}
	update(states[0].become, states[1].become, addService(mark, "rr"))
	must(t, d.Attach([]string{"clients"}, XDPNative))
	upgrade()
	update(states[2].become, addService(mark, "rr"))
	mustInterface(t, "comes", 1500)
	update(nothing)
	mustDelete(t, "comes")
	update(nothing)
	must(t, d.Detach([]string{"servers"}))
	upgrade()
	must(t, d.Detach(nil))
	must(t, d.Attach(nil, XDPNone))
	must(t, os.Remove(filepath.Join(d.place.Path, bpfMapServices)))
	upgrade()
	lock, err := place.LockDir(d.place.Path, unix.LOCK_EX)
	must(t, err)
	f, err := findRunning(d.place.Path)
	must(t, err)
	n, err := f.load()
	must(t, err)
	was, err := cutAfter(3, func() error { return d.exchange(f, n) })
	must(t, err)
	if !was {
		t.Error("no upgrade was cut short")
	}
	n.Close()
	f.close()
	lock.Release()
	update(states[3].become)
	must(t, d.Unload())
	if after := around(t); after != before {
		t.Errorf("before:\n%s\nafterwards:\n%s", before, after)
	}
	for _, path := range []string{d.place.Path, d.place.Unfinished()} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left", path)
		}
	}
	if len(all) < 50 {
		t.Errorf("only %d things were there", len(all))
	}
	all.checkGone(t)
}
