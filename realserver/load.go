// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"lvs/place"
)

// load loads some of the programs, with the maps that they use.
func load(constants map[string]any, programs ...string) (*ebpf.Collection, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for name, p := range spec.Programs {
		if !slices.Contains(programs, name) {
			delete(spec.Programs, name)
			continue
		}
		for _, i := range p.Instructions {
			used[i.Reference()] = true
		}
	}
	for name := range spec.Maps {
		if !used[name] {
			delete(spec.Maps, name)
		}
	}
	if !used[".rodata"] {
		clear(spec.Variables)
	}
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("constant %s: %w", name, err)
		}
	}
	c, err := ebpf.NewCollection(spec)
	if _, refused := errors.AsType[*ebpf.VerifierError](err); err != nil && !refused && errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("%w: %w", place.ErrNotRoot, err)
	}
	if err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	return c, nil
}

// pinned loads programs and pins them with their maps, unless they are there already. The programs come last: once one
// is there, its maps are.
func (in *instance) pinned(constants map[string]any, programs ...string) error {
	missing := slices.ContainsFunc(programs, func(name string) bool {
		_, err := os.Stat(in.pin(name))
		return err != nil
	})
	if !missing {
		return nil
	}
	c, err := load(constants, programs...)
	if err != nil {
		return err
	}
	defer c.Close()
	for name, m := range c.Maps {
		if name[0] == '.' { // constants
			continue
		}
		os.Remove(in.pin(name)) // of an attempt that was cut short
		if err := m.Pin(in.pin(name)); err != nil {
			return err
		}
	}
	between()
	for name, p := range c.Programs {
		os.Remove(in.pin(name))
		if err := p.Pin(in.pin(name)); err != nil {
			return err
		}
	}
	return nil
}

func (in *instance) openMap(name string) (*ebpf.Map, error) {
	return ebpf.LoadPinnedMap(in.pin(name), nil)
}

// fill makes the keys of a map those that are wanted, without a moment in which one of those is missing.
func fill[K comparable](in *instance, name string, want []K) error {
	m, err := in.openMap(name)
	if err != nil {
		return err
	}
	defer m.Close()
	for _, k := range want {
		if err := m.Put(k, uint8(1)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	var k K
	var v uint8
	var old []K
	for it := m.Iterate(); it.Next(&k, &v); {
		if !slices.Contains(want, k) {
			old = append(old, k)
		}
	}
	for _, k := range old {
		if err := ignore(m.Delete(k), ebpf.ErrKeyNotExist); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// counters gives the sums of a map of counters over all CPUs; zeros if it is not there.
func (in *instance) counters(name string, n int) ([]uint64, error) {
	sums := make([]uint64, n)
	m, err := in.openMap(name)
	if errors.Is(err, os.ErrNotExist) {
		return sums, nil
	}
	if err != nil {
		return nil, err
	}
	defer m.Close()
	for i := range sums {
		var each []uint64
		if err := m.Lookup(uint32(i), &each); err != nil {
			return nil, err
		}
		for _, c := range each {
			sums[i] += c
		}
	}
	return sums, nil
}

// key is an address as C has it.
func key(a netip.Addr) [16]byte { return a.As16() }

// swapped is a port as C has it: as in the packet.
func swapped(port uint16) uint16 { return port<<8 | port>>8 }
