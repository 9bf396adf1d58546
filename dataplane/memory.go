// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
)

// ErrNoMemory says that the machine, or the control group, has too little memory for an instance of the sizes asked for.
var ErrNoMemory = errors.New("not enough memory")

// memoryOf is what a map takes from the beginning. Those that grow take nothing then.
func memoryOf(m *ebpf.MapSpec, cpus int) uint64 {
	rounded := func(n uint32) uint64 { return (uint64(n) + 7) &^ 7 }
	switch m.Type {
	case ebpf.Array:
		return uint64(m.MaxEntries) * rounded(m.ValueSize)
	case ebpf.PerCPUArray:
		return uint64(m.MaxEntries) * rounded(m.ValueSize) * uint64(cpus)
	case ebpf.ArrayOfMaps:
		return uint64(m.MaxEntries) * 8
	case ebpf.LRUHash:
		const head = 64 // of an element
		return uint64(m.MaxEntries) * (head + rounded(m.KeySize) + rounded(m.ValueSize))
	}
	return 0
}

// tableMaps are the maps that are as large as the connection table.
var tableMaps = []string{bpfMapConns, bpfMapGuards, bpfMapLinks, bpfMapAccounts}

// fits says whether the machine has the memory for what is about to be loaded.
func fits(c *ebpf.CollectionSpec) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	var all, table uint64
	for _, m := range c.Maps {
		all += memoryOf(m, cpus)
	}
	for _, name := range tableMaps {
		table += memoryOf(c.Maps[name], cpus)
	}
	free, where := freeMemory(os.DirFS("/"))
	if all <= free {
		return nil
	}
	return fmt.Errorf("%w: a connection table for %d connections takes %d MiB, with everything else %d MiB, and %d MiB are free %s; fewer --conns take less",
		ErrNoMemory, connsIn(c.Maps[bpfMapConns].MaxEntries), mebibytes(table), mebibytes(all), free>>20, where)
}

// mebibytes rounds up.
func mebibytes(n uint64) uint64 { return (n + 1<<20 - 1) >> 20 }

// freeMemory is the memory that can be had, and where the least of it is: on the machine or in a control group that we are in. What
// is not known counts as plenty: then the kernel will tell. It is a variable for the sake of tests.
var freeMemory = func(root fs.FS) (free uint64, where string) {
	free, where = math.MaxUint64, "on the machine"
	if kib, ok := field(root, "proc/meminfo", "MemAvailable:"); ok {
		free = kib << 10
	}
	groups, _ := fs.ReadFile(root, "proc/self/cgroup")
	_, own, _ := strings.Cut(string(groups), "0::/")
	own, _, _ = strings.Cut(own, "\n")
	for group := own; ; group = filepath.Dir(group) {
		dir := filepath.Join("sys/fs/cgroup", group)
		limit, limited := number(root, filepath.Join(dir, "memory.max"))
		used, known := number(root, filepath.Join(dir, "memory.current"))
		if limited && known {
			cache, _ := field(root, filepath.Join(dir, "memory.stat"), "inactive_file") // gives way
			if left := limit - min(limit, used-min(used, cache)); left < free {
				free, where = left, "in the control group /"+group
			}
		}
		if group == "." || group == "" || group == "/" {
			return free, where
		}
	}
}

// number reads a file that is a number, and nothing else.
func number(root fs.FS, name string) (uint64, bool) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}

// field reads the number behind a word of a file.
func field(root fs.FS, name, word string) (uint64, bool) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == word {
			n, err := strconv.ParseUint(words[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
