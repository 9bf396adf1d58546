// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// dispensable are the maps that an instance can do without: what is lost with them comes again by itself, or is told.
var dispensable = []string{bpfMapRoutes, bpfMapIcmpBudgets, bpfMapLeads, bpfMapCalls, bpfMapReasons, bpfMapAccounts}

// load loads this version's programs upon the maps that run, and makes those anew that have another form.
func (f *running) load() (*ebpf.Collection, error) {
	c, err := f.spec()
	if err != nil {
		return nil, err
	}
	return f.loadSpec(c)
}

func (f *running) loadSpec(c *ebpf.CollectionSpec) (*ebpf.Collection, error) {
	shared, converted := map[string]*ebpf.Map{}, map[string][]conversion{}
	for name := range c.Maps {
		if slices.Contains(passing, name) {
			continue
		}
		was, all := f.maps[name], conversions(name, f.release.Layout)
		switch {
		case was == nil && (f.release.Layout < ownLayout() || slices.Contains(dispensable, name)):
		case was == nil:
			return nil, fmt.Errorf("%w: nothing is left of the map %s; `director unload` removes the rest, with all connections", ErrDamaged, name)
		case len(all) > 0 && slices.Contains(still, name):
			return nil, fmt.Errorf("map %s cannot be brought to another form", name)
		case len(all) > 0:
			converted[name] = all
		default:
			shared[name] = was
		}
	}
	n, err := ebpf.NewCollectionWithOptions(c, ebpf.CollectionOptions{MapReplacements: shared})
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return nil, fmt.Errorf("maps of layout %d: %w", f.release.Layout, err)
	}
	if err != nil {
		return nil, explainLoad(err)
	}
	if err := putRest(n); err != nil {
		n.Close()
		return nil, err
	}
	for name, all := range converted {
		if err := convertMap(n.Maps[name], f.maps[name], c.Maps[name].InnerMap, all); err != nil {
			n.Close()
			return nil, fmt.Errorf("bring map %s from layout %d to %d: %w", name, f.release.Layout, ownLayout(), err)
		}
	}
	return n, nil
}

// spec is this version's program for the sizes, and with the constants, that what runs was loaded with.
func (f *running) spec() (*ebpf.CollectionSpec, error) {
	for _, name := range []string{bpfMapConns, bpfMapServices, bpfMapServers} {
		if f.maps[name] == nil {
			return nil, fmt.Errorf("%w: nothing is left of the map %s; `director unload` removes the rest, with all connections", ErrDamaged, name)
		}
	}
	c, err := spec(Sizes{
		Conns:    int(f.maps[bpfMapConns].MaxEntries()) * segmentLines * 3 / 4,
		Services: int(f.maps[bpfMapServices].MaxEntries()) - 1, Servers: int(f.maps[bpfMapServers].MaxEntries()) - 1,
		Accounting: f.maps[bpfMapAccounts] != nil && f.maps[bpfMapAccounts].MaxEntries() == f.maps[bpfMapConns].MaxEntries(),
	})
	if err != nil {
		return nil, err
	}
	for _, name := range []string{bpfVarSeed, bpfVarTestClock} {
		if c.Variables[name].Value, err = f.constant(name); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// convertMap fills a map with the entries of another in their new form.
func convertMap(to, from *ebpf.Map, inner *ebpf.MapSpec, all []conversion) error {
	if int(from.ValueSize()) != all[0].from && inner == nil {
		return fmt.Errorf("its entries have %d bytes, and should have %d", from.ValueSize(), all[0].from)
	}
	switch from.Type() {
	case ebpf.Array:
		return convertArray(to, from, all)
	case ebpf.PerCPUArray:
		return convertPerCPU(to, from, all)
	case ebpf.Hash, ebpf.LRUHash:
		var key, value []byte
		it := from.Iterate()
		for it.Next(&key, &value) {
			if err := to.Put(key, convertEntry(value, all)); err != nil {
				return err
			}
			cut()
		}
		return it.Err()
	case ebpf.ArrayOfMaps:
		return convertLists(to, from, inner, all)
	}
	return fmt.Errorf("maps of type %s cannot be brought to another form", from.Type())
}

func convertArray(to, from *ebpf.Map, all []conversion) error {
	for i := range min(from.MaxEntries(), to.MaxEntries()) {
		value, err := from.LookupBytes(i)
		if err != nil {
			return err
		}
		if err := to.Put(i, convertEntry(value, all)); err != nil {
			return err
		}
	}
	cut()
	return nil
}

// convertPerCPU converts what each CPU has of an entry. The kernel hands out values rounded up to eight bytes.
func convertPerCPU(to, from *ebpf.Map, all []conversion) error {
	for i := range min(from.MaxEntries(), to.MaxEntries()) {
		var values [][]byte
		if err := from.Lookup(i, &values); err != nil {
			return err
		}
		for cpu, v := range values {
			values[cpu] = convertEntry(v[:from.ValueSize()], all)
		}
		if err := to.Put(i, values); err != nil {
			return err
		}
		cut()
	}
	return nil
}

// convertLists makes a map of maps anew.
func convertLists(to, from *ebpf.Map, inner *ebpf.MapSpec, all []conversion) error {
	var changes []change
	for i := range min(from.MaxEntries(), to.MaxEntries()) {
		changes = append(changes, func(made func(...swap) error) error {
			var list *ebpf.Map
			if err := from.Lookup(i, &list); errors.Is(err, ebpf.ErrKeyNotExist) {
				return nil
			} else if err != nil {
				return err
			}
			defer list.Close()
			spec := inner.Copy()
			spec.MaxEntries = list.MaxEntries()
			converted, err := ebpf.NewMap(spec)
			if err != nil {
				return err
			}
			defer converted.Close()
			if err := convertArray(converted, list, all); err != nil {
				return err
			}
			return made(swap{to, i, converted})
		})
	}
	return inStep(changes)
}
