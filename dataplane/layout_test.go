// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"lvs/place"
)

//go:generate go test . -run TestLayoutIsKnown -layout

var layoutAnew = flag.Bool("layout", false, "write testdata/layout.txt anew")

// layoutText tells the form of every map that outlives its programs.
func layoutText(t testing.TB) string {
	c, err := loadBpf()
	must(t, err)
	var text strings.Builder
	fmt.Fprintf(&text, "layout %d\n", ownLayout())
	for _, name := range slices.Sorted(maps.Keys(c.Maps)) {
		if slices.Contains(passing, name) {
			continue
		}
		m := c.Maps[name]
		fmt.Fprintf(&text, "%s: %v, %d entries, flags %#x\n", name, m.Type, m.MaxEntries, m.Flags)
		for _, part := range []btf.Type{m.Key, m.Value} {
			writeType(&text, "  ", part)
		}
		if m.InnerMap != nil {
			fmt.Fprintf(&text, "  of maps with entries of %d bytes\n", m.InnerMap.ValueSize)
		}
	}
	for _, name := range []string{"seat", "match", "local"} {
		var s *btf.Struct
		must(t, c.Types.TypeByName(name, &s))
		writeType(&text, "", s)
	}
	return text.String()
}

func writeType(text *strings.Builder, indent string, t btf.Type) {
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		fmt.Fprintf(text, "%sstruct %s, %d bytes\n", indent, t.Name, t.Size)
		for _, m := range t.Members {
			fmt.Fprintf(text, "%s  %d %s %s\n", indent, m.Offset.Bytes(), m.Name, typeName(m.Type))
			if s, ok := btf.UnderlyingType(m.Type).(*btf.Struct); ok {
				writeType(text, indent+"    ", s)
			}
			if a, ok := btf.UnderlyingType(m.Type).(*btf.Array); ok {
				writeType(text, indent+"    ", a.Type)
			}
		}
	case *btf.Datasec:
		for _, v := range t.Vars {
			writeType(text, indent, v.Type.(*btf.Var).Type)
		}
	}
}

func typeName(t btf.Type) string {
	if a, ok := btf.UnderlyingType(t).(*btf.Array); ok {
		return fmt.Sprintf("%s[%d]", typeName(a.Type), a.Nelems)
	}
	if n := t.TypeName(); n != "" {
		return n
	}
	return fmt.Sprintf("%T", t)
}

// A change of a map's form is seen here. If a version with the former layout was released, a step leads from it to the new one; then, or else at once,
// `make generate` writes down the new layout.
func TestLayoutIsKnown(t *testing.T) {
	const file = "testdata/layout.txt"
	now := layoutText(t)
	if *layoutAnew {
		must(t, os.WriteFile(file, []byte(now), 0o644))
	}
	known, err := os.ReadFile(file)
	must(t, err)
	if now != string(known) {
		t.Errorf("the forms of maps are not those of %s: see steps in layout.go\n%s", file, now)
	}
	c, err := spec(small)
	must(t, err)
	for i, s := range steps {
		for name := range s {
			m, all := c.Maps[name], conversions(name, uint32(i+1))
			if m == nil {
				t.Errorf("step %d: there is no map %s", i+1, name)
			} else if n := len(convertEntry(make([]byte, all[0].from), all)); m.InnerMap == nil && n != int(m.ValueSize) {
				t.Errorf("from step %d on, entries of %s become %d bytes, and should %d", i+1, name, n, m.ValueSize)
			}
		}
		for _, name := range still {
			if _, ok := s[name]; ok {
				t.Errorf("step %d: %s never changes its form", i+1, name)
			}
		}
	}
}

// formOf makes entries of a map larger or smaller, as those of another layout.
func formOf(c *ebpf.CollectionSpec, name string, size uint32) {
	m := c.Maps[name]
	if m.InnerMap != nil {
		m.InnerMap.ValueSize, m.InnerMap.Value = size, nil
		return
	}
	m.ValueSize, m.Key, m.Value = size, nil, nil
}

// resized is a conversion that keeps the beginning of an entry.
func resized(from, to int) conversion {
	return conversion{from, func(e []byte) []byte {
		return append(slices.Clone(e[:min(from, to)]), make([]byte, max(to-from, 0))...)
	}}
}

// ownSteps are those of this version, before a test adds some of its own.
var ownSteps = slices.Clone(steps)

// mustBecome brings what is loaded to another layout, whose maps have entries of other sizes.
func (w *world) mustBecome(layout []step, sizes map[string]uint32) {
	w.t.Helper()
	steps = slices.Concat(ownSteps, layout)
	w.t.Cleanup(func() { steps = ownSteps })
	f, err := findRunning(w.place.Path)
	must(w.t, err)
	defer f.close()
	c, err := f.spec()
	must(w.t, err)
	for name, size := range sizes {
		formOf(c, name, size)
	}
	n, err := f.loadSpec(c)
	must(w.t, err)
	defer n.Close()
	l, err := place.LockDir(w.place.Path, unix.LOCK_EX)
	must(w.t, err)
	defer l.Release()
	must(w.t, w.exchange(f, n))
}

// The layouts of the test: in the first one servers lack their last bytes, counters too, seats and devices have some more, and so have
// the reasons of each CPU.
const serverBytes, counterBytes, seatBytes, deviceBytes, reasonBytes = 128, 64, 24, 20, 8

var (
	formerSizes = map[string]uint32{bpfMapServers: serverBytes - 16, bpfMapCounters: 40, bpfMapLists: seatBytes + 8, bpfMapDevices: deviceBytes + 4,
		bpfMapReasons: reasonBytes + 4}
	toFormer = step{
		bpfMapServers: resized(serverBytes, serverBytes-16), bpfMapCounters: resized(counterBytes, 40),
		bpfMapLists: resized(seatBytes, seatBytes+8), bpfMapDevices: resized(deviceBytes, deviceBytes+4),
		bpfMapReasons: resized(reasonBytes, reasonBytes+4),
	}
	// a field comes with each step
	fromFormer = slices.Concat(ownSteps, []step{nil, {
		bpfMapServers: conversion{serverBytes - 16, func(e []byte) []byte { return append(slices.Clone(e), 5, 0, 0, 0, 0, 0, 0, 0) }},
		bpfMapDevices: resized(deviceBytes+4, deviceBytes), bpfMapReasons: resized(reasonBytes+4, reasonBytes),
	}, {
		bpfMapServers:  conversion{serverBytes - 8, func(e []byte) []byte { return append(slices.Clone(e), e[serverBytes-16]+2, 0, 0, 0, 0, 0, 0, 0) }},
		bpfMapCounters: resized(40, counterBytes), bpfMapLists: resized(seatBytes+8, seatBytes),
	}})
)

// What an older version has loaded is brought to this version's layout by the steps between, with everything that is known.
func TestUpgradeFromAnotherLayout(t *testing.T) {
	w := mustWorld(t, small)
	w.mustFill()
	before := w.known()
	w.mustBecome([]step{toFormer}, formerSizes)
	steps = fromFormer
	if _, err := w.Table(); !errors.Is(err, ErrOtherVersion) || !strings.Contains(err.Error(), "director upgrade") {
		t.Errorf("reading: %v", err)
	}
	if err := w.Update(nothing); !errors.Is(err, ErrOtherVersion) {
		t.Errorf("changing: %v", err)
	}
	u, err := w.Upgrade(false)
	must(t, err)
	own := len(ownSteps) + 1
	if !u.Done || u.Layout != [2]int{own + 1, own + 3} {
		t.Errorf("%+v", u)
	}
	w.checkOnePlace()
	w.mustReopen()
	if after := w.known(); after != before {
		t.Fatalf("before:\n%s\nafterwards:\n%s", before, after)
	}
	for _, d := range w.mustLook().servers {
		if d.Spare2 != [2]uint64{5, 7} {
			t.Fatalf("a server's new fields are %v", d.Spare2)
		}
	}
	if verdict, _ := w.run(w.tc, w.clients, tcp4.nth(3).in("A").frame(t)); verdict != tcRedirect {
		t.Errorf("a packet of a connection: %d", int32(verdict))
	}
	w.mustUpdate(states[1].become)
	w.checkConsistent()

	// and of a newer one nothing is touched
	steps = ownSteps
	if _, err := w.Upgrade(true); !errors.Is(err, ErrOtherVersion) || !strings.Contains(err.Error(), "newer") {
		t.Errorf("to an older layout: %v", err)
	}
	steps = fromFormer
}

// A change that was cut short before the upgrade is finished after it.
func TestUpgradeCarriesJournal(t *testing.T) {
	w := mustWorld(t, small)
	w.mustUpdate(states[0].become)
	was, err := cutAfter(9, func() error { return w.Update(states[1].become) })
	must(t, err)
	if !was || !(&instance{dir: w.place.Path}).broken() {
		t.Fatal("the change was not cut short")
	}
	w.mustBecome([]step{toFormer}, formerSizes)
	steps = fromFormer
	_, err = w.Upgrade(false)
	must(t, err)
	w.mustReopen()
	if got := mustConfigured(t, w.Director); got != states[1].String() {
		t.Errorf("the table is\n%s\nwant\n%s", got, states[1])
	}
	w.checkConsistent()
}

// Wherever an upgrade to another layout ends, the next one finds all that there was.
func TestUpgradeToAnotherLayoutCutAnywhere(t *testing.T) {
	w := mustWorld(t, small)
	w.mustFill()
	before := w.known()
	done := 0
	for n := 1; ; n += n/2 + 1 {
		w.mustBecome([]step{toFormer}, formerSizes)
		steps = fromFormer
		was, err := cutAfter(n, func() error { _, err := w.Upgrade(false); return err })
		must(t, err)
		if _, err := w.Table(); err == nil {
			done++
		} else if !errors.Is(err, ErrOtherVersion) {
			t.Fatal(err)
		}
		u, err := w.Upgrade(false)
		must(t, err)
		if u.Layout[1] != len(ownSteps)+4 {
			t.Errorf("%+v", u)
		}
		w.checkOnePlace()
		w.mustReopen()
		if after := w.known(); after != before {
			t.Fatalf("cut at step %d: before:\n%s\nafterwards:\n%s", n, before, after)
		}
		if !was {
			break
		}
		steps = ownSteps
		w.mustRelease(ownRelease())
	}
	if done < 2 {
		t.Error("no upgrade was completed by the next command")
	}
}
