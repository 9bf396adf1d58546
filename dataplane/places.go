// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"sync/atomic"

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

// readPlaced gives the servers' slots that places name, or nil if packets change them too fast to be read. Those that were not used for their
// time it takes away, as the program's timer does once a minute: then what they name may be another server's.
func (in *instance) readPlaced() map[uint32]bool {
	places, err := in.m(bpfMapPlaces)
	if err != nil {
		return nil
	}
	set, err := in.settings()
	if err != nil {
		return nil
	}
	now := jiffies64(in.hz)
	all, stand := map[bpfPlaceKey]bpfPlace{}, map[bpfPlaceKey]bool{}
	var key bpfPlaceKey
	var place bpfPlace
	it := places.Iterate()
	for it.Next(&key, &place) {
		all[key] = place
		if key.Part == 0 && now < place.Used+in.placeLife(&set, key.Service)*uint64(in.hz) {
			stand[key] = true
		}
	}
	if it.Err() != nil {
		return nil
	}
	named := map[uint32]bool{}
	for key, place := range all {
		whole := key
		whole.Part = 0
		if !stand[whole] {
			if places.Delete(key) == nil && key.Part == 0 && int(key.Service) < len(in.services) {
				atomic.AddUint32(&in.services[key.Service].Places, ^uint32(0))
			}
			continue
		}
		for _, member := range place.Server {
			named[member] = true
		}
	}
	return named
}

// placeLife is how many seconds a place of a service is remembered that is not used, as C's place_over has it.
func (in *instance) placeLife(set *bpfSetting, service uint32) uint64 {
	const manyPlaces, idle = 16 << 10, 360 // C's PLACES_A_SERVICE and PLACE_IDLE
	if int(service) >= len(in.services) {
		return 0
	}
	s, life := &in.services[service], set.LblcExpiration
	if s.Scheduler == bpfSchedulerSCHEDULER_LBLCR {
		life = set.LblcrExpiration
	}
	if atomic.LoadUint32(&s.Places) > manyPlaces {
		life = min(life, idle)
	}
	return uint64(life)
}
