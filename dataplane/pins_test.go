// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"lvs/place"
)

// mustForeign pins a map that is somebody else's.
func (w *world) mustForeign(pin string, spec *ebpf.MapSpec) {
	w.t.Helper()
	path := filepath.Join(w.place.Path, pin)
	os.Remove(path)
	m, err := ebpf.NewMap(spec)
	must(w.t, err)
	defer m.Close()
	must(w.t, m.Pin(path))
}

func (w *world) mustForeignProgram(pin string) {
	w.t.Helper()
	path := filepath.Join(w.place.Path, pin)
	os.Remove(path)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "somebody_s", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	must(w.t, err)
	defer p.Close()
	must(w.t, p.Pin(path))
}

// A pin that is missing or is something else is told, and mended out of what runs: nothing that is known is lost.
func TestDamagedPins(t *testing.T) {
	w := mustWorld(t, small)
	w.mustFill()
	before := w.known()
	remove := func(pins ...string) func() {
		return func() {
			for _, pin := range pins {
				must(t, os.Remove(filepath.Join(w.place.Path, pin)))
			}
		}
	}
	for _, d := range []struct {
		what    string
		damage  func()
		pins    []string
		refuses bool // commands do not go on with it
	}{
		{"maps that are missing", remove(bpfMapConns, bpfMapServices, settingsPin, bpfMapLists, "rodata"), []string{bpfMapConns, bpfMapServices, settingsPin, bpfMapLists, "rodata"}, true},
		{"a map of another size", func() {
			w.mustForeign(bpfMapServers, &ebpf.MapSpec{Name: bpfMapServers, Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 5})
		}, []string{bpfMapServers}, true},
		{"a map of another type", func() {
			w.mustForeign(bpfMapCounters, &ebpf.MapSpec{Name: "theirs", Type: ebpf.Hash, KeySize: 4, ValueSize: 64, MaxEntries: 5})
		}, []string{bpfMapCounters}, true},
		{"a map of the same form", func() {
			w.mustForeign(bpfMapReasons, &ebpf.MapSpec{Name: bpfMapReasons, Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: uint32(bpfReasonREASONS)})
		}, []string{bpfMapReasons}, false},
		{"a program in a map's place", func() { w.mustForeignProgram(bpfMapLoads) }, []string{bpfMapLoads}, true},
		{"a map in a program's place", func() {
			w.mustForeign("tc", &ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 64, MaxEntries: 5})
		}, []string{"tc"}, false},
		{"programs that are missing or others", func() { remove("xdp", startPin)(); w.mustForeignProgram("out") }, []string{"xdp", startPin, "out"}, false},
		{"a release that is missing", remove(releasePin), []string{releasePin}, true},
		{"a release that is something else", func() {
			w.mustForeign(releasePin, &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
		}, []string{releasePin}, true},
		{"a journal that is none", func() { w.mustForeignProgram(journalPin) }, []string{journalPin}, true},
		{"all of the programs and the constants", remove("tc", "xdp", "out", startPin, lookupPin), []string{"tc", "xdp", "out"}, false},
	} {
		d.damage()
		err := w.Update(nothing)
		if d.refuses && !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: a change: %v", d.what, err)
		}
		told := ""
		if s, err := w.Status(); err != nil {
			told = err.Error()
		} else {
			told = strings.Join(s.Advice, "\n")
		}
		if !strings.Contains(told, "director upgrade") || !slices.ContainsFunc(d.pins, func(pin string) bool { return strings.Contains(told, pin) }) {
			t.Errorf("%s: the status says %q", d.what, told)
		}
		u, err := w.Upgrade(false)
		must(t, err)
		for _, pin := range d.pins {
			if !slices.ContainsFunc(u.Mended, func(m string) bool { return strings.Contains(m, pin) }) {
				t.Errorf("%s: mended is %q", d.what, u.Mended)
			}
		}
		w.checkOnePlace()
		w.mustReopen()
		if after := w.known(); after != before {
			t.Fatalf("%s: before:\n%s\nafterwards:\n%s", d.what, before, after)
		}
		if s, err := w.Status(); err != nil || len(s.Advice) > 0 {
			t.Errorf("%s: mended, and the status says %q, %v", d.what, s.Advice, err)
		}
	}
}

// Links whose pins somebody has removed are attached anew by the next change.
func TestMissingLinks(t *testing.T) {
	w := mustWorld(t, small)
	w.mustFill()
	before := w.known()
	ifindex := w.clients.Attrs().Index
	pins, foreign := []string{xdpPin(ifindex), place.AnchorPin}, xdpPin(ifindex)
	if haveTCX() {
		pins, foreign = append(pins, tcPin(ifindex), outPin(1)), tcPin(ifindex)
	}
	for _, pin := range pins {
		must(t, os.Remove(filepath.Join(w.place.Path, pin)))
	}
	w.mustForeign(foreign, &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if i := w.mustAttached("clients"); haveTCX() && i.TC != lost || i.XDP != lost {
		t.Errorf("%+v", i)
	}
	if !place.Alive(w.place.Path) {
		t.Error("without the anchor it counts as one whose namespace is gone")
	}
	w.mustUpdate(nothing)
	w.checkAttached("clients", onTC(), string(XDPNative))
	w.checkOnePlace()
	if there, err := place.Anchored(w.place.Path); !there {
		t.Errorf("there is no anchor (%v)", err)
	}
	if after := w.known(); after != before {
		t.Fatalf("before:\n%s\nafterwards:\n%s", before, after)
	}
}

// A directory that somebody has emptied has nothing to be mended with: the next change begins anew.
func TestEmptiedPlace(t *testing.T) {
	w := mustWorld(t, small)
	w.mustFill()
	entries, err := os.ReadDir(w.place.Path)
	must(t, err)
	for _, e := range entries {
		must(t, os.Remove(filepath.Join(w.place.Path, e.Name())))
	}
	if _, err := w.Table(); !errors.Is(err, ErrDamaged) {
		t.Errorf("reading: %v", err)
	}
	w.mustUpdate(states[0].become)
	if got := mustConfigured(t, w.Director); got != states[0].String() {
		t.Errorf("the table is\n%s\nwant\n%s", got, states[0])
	}
	w.checkAttached("clients", onTC(), "")
}

// Whatever is damaged or another version's can be unloaded, and leaves nothing attached.
func TestUnloadOfWhatCannotBeRead(t *testing.T) {
	for what, damage := range map[string]func(w *world){
		"damaged": func(w *world) { must(t, os.Remove(filepath.Join(w.place.Path, bpfMapServices))) },
		"newer":   func(w *world) { w.mustRelease(release{Layout: 1000}) },
	} {
		t.Run(what, func(t *testing.T) {
			w := mustWorld(t, small)
			w.mustUpdate(states[0].become)
			own := mustInterface(t, "own", 1500)
			must(t, w.mustLook().attachClsact(own, w.tc, bpfDevice{Tc: bpfAttachmentATTACH_CLSACT}, 0xfffffff2))
			damage(w)
			must(t, w.Unload())
			if now := surroundings(t); strings.Contains(now, "XDP true") || strings.Contains(now, " filter ") {
				t.Errorf("afterwards:\n%s", now)
			}
			if _, err := os.Stat(w.place.Path); !errors.Is(err, os.ErrNotExist) {
				t.Error("the place is left")
			}
		})
	}
}
