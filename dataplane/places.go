// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// What lblc and lblcr remember is in a map of places, by service and destination. Packets make the entries, and the
// program's timer ends those that were not used for long; here it is seen to that they never name a slot that is another server's.

// isLocal says whether a service's scheduler remembers places.
func isLocal(s bpfScheduler) bool {
	return s == bpfSchedulerSCHEDULER_LBLC || s == bpfSchedulerSCHEDULER_LBLCR
}

// forgetPlaces forgets where a service's destinations are served: its scheduler changes, or it goes.
func (a *applying) forgetPlaces(slot uint32) error {
	if !isLocal(a.services[slot].Scheduler) {
		return nil
	}
	places, err := a.m(bpfMapPlaces)
	if err != nil {
		return err
	}
	var key bpfPlaceKey
	var place bpfPlace
	var old []bpfPlaceKey
	it := places.Iterate()
	for it.Next(&key, &place) {
		if key.Service == slot {
			old = append(old, key)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("places: %w", err)
	}
	for _, key := range old {
		if err := places.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("places: %w", err)
		}
	}
	a.services[slot].Places = 0
	return nil
}

// placed says whether a place names a server's slot. One that is removed and comes back is then the one it was.
func (in *instance) placed(server uint32) bool {
	if !isLocal(in.services[in.servers[server].Service].Scheduler) {
		return false
	}
	if in.named == nil {
		in.named = in.readPlaced()
	}
	return in.named == nil || in.named[server]
}

// readPlaced gives the servers' slots that places name, or nil if packets change them too fast to be read.
func (in *instance) readPlaced() map[uint32]bool {
	places, err := in.m(bpfMapPlaces)
	if err != nil {
		return nil
	}
	named := map[uint32]bool{}
	var key bpfPlaceKey
	var place bpfPlace
	it := places.Iterate()
	for it.Next(&key, &place) {
		for _, member := range place.Server {
			named[member] = true
		}
	}
	if it.Err() != nil {
		return nil
	}
	return named
}
