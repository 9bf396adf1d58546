// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"lvs/place"
)

func TestFreeMemory(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	machine := fstest.MapFS{"proc/meminfo": file("MemTotal: 9000 kB\nMemAvailable:   4000 kB\n"), "proc/self/cgroup": file("0::/system/lvs\n")}
	group := func(limit, used, cache string) fstest.MapFS {
		all := fstest.MapFS{}
		for name, f := range machine {
			all[name] = f
		}
		all["sys/fs/cgroup/system/memory.max"] = file(limit + "\n")
		all["sys/fs/cgroup/system/memory.current"] = file(used + "\n")
		all["sys/fs/cgroup/system/memory.stat"] = file("anon 5\ninactive_file " + cache + "\n")
		all["sys/fs/cgroup/system/lvs/memory.max"] = file("max\n")
		return all
	}
	for _, c := range []struct {
		root  fs.FS
		free  uint64
		where string
	}{
		{fstest.MapFS{}, math.MaxUint64, "on the machine"},
		{machine, 4000 << 10, "on the machine"},
		{group("max", "100", "0"), 4000 << 10, "on the machine"},
		{group("1000", "300", "50"), 750, "in the control group /system"},
		{group("1000", "3000", "0"), 0, "in the control group /system"},
		{group("100000000", "0", "0"), 4000 << 10, "on the machine"},
	} {
		if free, where := freeMemory(c.root); free != c.free || where != c.where {
			t.Errorf("%d bytes free %s, want %d %s", free, where, c.free, c.where)
		}
	}
}

// Where the memory is not there, nothing is loaded, and what is missing is told.
func TestNotEnoughMemory(t *testing.T) {
	mustNamespace(t)
	free := freeMemory
	t.Cleanup(func() { freeMemory = free })
	freeMemory = func(fs.FS) (uint64, string) { return 100 << 20, "on the machine" }
	d, err := Open(Sizes{})
	must(t, err)
	err = d.Attach(nil, XDPNone)
	if !errors.Is(err, ErrNoMemory) || !strings.Contains(err.Error(), "for 1048704 connections takes 92 MiB") || !strings.Contains(err.Error(), "100 MiB are free") {
		t.Errorf("%v", err)
	}
	p, err := place.Find("")
	must(t, err)
	if _, err := os.Stat(p.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
}

// A table keeps its size; nobody who asks for another gets part of it.
func TestSizesAreFixed(t *testing.T) {
	mustNamespace(t)
	open := func(s Sizes) *Director {
		d, err := Open(s)
		must(t, err)
		return d
	}
	t.Cleanup(func() { must(t, open(Sizes{}).Unload()) })
	if size := open(Sizes{Conns: 1000}).Size(); size != 1152 {
		t.Errorf("room for %d connections, before it is loaded", size)
	}
	must(t, open(Sizes{Conns: 1000, Services: 10, Servers: 20}).Attach(nil, XDPNone))
	status, err := open(Sizes{}).Status()
	must(t, err)
	if status.Conns.Size != 1152 || status.TableBytes != 6*(16384+64+1024)+9216 || status.MemoryBytes <= status.TableBytes {
		t.Errorf("%+v", status)
	}
	for _, s := range []Sizes{{}, {Conns: 1000}, {Conns: 1152}, {Services: 10}, {Servers: 20}} {
		must(t, open(s).Attach(nil, XDPNone))
	}
	for _, s := range []Sizes{{Conns: 1153}, {Conns: 1 << 20}, {Conns: 64}, {Services: 11}, {Servers: 1}, {Accounting: true}} {
		if err := open(s).Attach(nil, XDPNone); !errors.Is(err, ErrOtherSize) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if after, err := open(Sizes{}).Status(); err != nil || after.Conns != status.Conns || after.Services != status.Services {
		t.Errorf("%+v, %v", after, err)
	}
}

// The largest table can be had, where there is memory for it.
func TestLargestTable(t *testing.T) {
	mustNamespace(t)
	d, err := Open(Sizes{Conns: MaxConns})
	must(t, err)
	if free, _ := freeMemory(os.DirFS("/")); free < 4<<30 {
		t.Skipf("needs 4 GiB of memory, %d MiB are free", free>>20)
	}
	must(t, d.Attach(nil, XDPNone))
	defer func() { must(t, d.Unload()) }()
	if status, err := d.Status(); err != nil || status.Conns.Size < MaxConns {
		t.Errorf("%+v, %v", status, err)
	}
}
