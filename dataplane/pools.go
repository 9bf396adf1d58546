// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"lvs"
)

// The local addresses of FULLNAT are in pools, which are maps of their own as the lists of servers are: built aside and swapped
// whole. Two are shared by the services, one for each family; a service with local addresses of its own has another.

// poolOf is a pool's place in the map of pools.
func poolOf(family uint8, slot uint32, own bool) uint32 {
	switch {
	case own:
		return 2 + slot // C's POOL_OF_SERVICE
	case lvs.Family(family) == lvs.IPv4:
		return 0
	}
	return 1
}

func toLocals(locals []lvs.LocalAddr) (all []bpfLocal) {
	for _, l := range locals {
		all = append(all, bpfLocal{Addr: toAddr(l.Addr), First: l.Ports.First, Last: l.Ports.Last})
	}
	return all
}

func fromLocals(locals []bpfLocal) (all []lvs.LocalAddr) {
	for _, l := range locals {
		all = append(all, lvs.LocalAddr{Addr: fromAddr(l.Addr), Ports: lvs.Ports{First: l.First, Last: l.Last}})
	}
	return all
}

// locals reads a pool; one that was never made is empty.
func (in *instance) locals(pool uint32) ([]bpfLocal, error) {
	pools, err := in.m(bpfMapPools)
	if err != nil {
		return nil, err
	}
	var id ebpf.MapID
	if err := pools.Lookup(pool, &id); errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("local addresses: %w", err)
	}
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return nil, fmt.Errorf("local addresses: %w", err)
	}
	defer m.Close()
	all := make([]bpfLocal, m.MaxEntries())
	for i := range all {
		if err := m.Lookup(uint32(i), &all[i]); err != nil {
			return nil, fmt.Errorf("local addresses: %w", err)
		}
	}
	return all[1:], nil // behind the head
}

// ownLocals reads the local addresses that the service in a slot has of its own.
func (in *instance) ownLocals(slot uint32, s *bpfService) ([]bpfLocal, error) {
	if s.Locals == 0 {
		return nil, nil
	}
	return in.locals(poolOf(0, slot, true))
}

// sharedLocals reads the local addresses that all services share, those of IPv4 first.
func (in *instance) sharedLocals() ([]lvs.LocalAddr, error) {
	var all []lvs.LocalAddr
	for _, f := range []lvs.Family{lvs.IPv4, lvs.IPv6} {
		pool, err := in.locals(poolOf(uint8(f), 0, false))
		if err != nil {
			return nil, err
		}
		all = append(all, fromLocals(pool)...)
	}
	return all, nil
}

// diffShared gives records of the shared pools that differ from the maps.
func (in *instance) diffShared(t *lvs.Table) (records []*record, err error) {
	for _, f := range []lvs.Family{lvs.IPv4, lvs.IPv6} {
		want := toLocals(slices.DeleteFunc(slices.Clone(t.Locals), func(l lvs.LocalAddr) bool { return l.Addr.Is4() != (f == lvs.IPv4) }))
		have, err := in.locals(poolOf(uint8(f), 0, false))
		if err != nil {
			return nil, err
		}
		if !slices.Equal(have, want) {
			records = append(records, &record{service: bpfService{Key: bpfServiceKey{Family: uint8(f)}}, locals: want})
		}
	}
	return records, nil
}

// swapLocals puts a pool in force. Addresses are marked as ours first.
func (a *applying) swapLocals(pool uint32, locals []bpfLocal, made func(...swap) error) error {
	for _, l := range locals {
		markOurs(&a.ours[0], l.Addr, oursLocal)
	}
	m, err := aside("locals", innerMap, append([]bpfLocal{{Count: uint32(len(locals))}}, locals...))
	if err != nil {
		return fmt.Errorf("local addresses: %w", err)
	}
	defer m.Close()
	if err := made(swap{a.pools, pool, m}); err != nil {
		return fmt.Errorf("local addresses: %w", err)
	}
	cut()
	return nil
}
