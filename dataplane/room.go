// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"lvs"
)

// ErrNoRoom says that a table is larger than the instance was loaded for.
var ErrNoRoom = errors.New("no room (the sizes are set when the director is loaded: see `director attach --help`)")

// room checks a change against what is free, before anything is done about it. What was removed keeps its place while
// it has connections.
func (in *instance) room(t *lvs.Table, records []*record) error {
	for _, s := range t.Services() {
		if len(s.Servers) > ServersPerService {
			return fmt.Errorf("%v: %d servers, a service can have %d: %w", s.ServiceID, len(s.Servers), ServersPerService, ErrNoRoom)
		}
	}
	services, servers := in.free()
	kept := map[bpfServiceKey]*bpfService{}
	for i := range in.services {
		if s := &in.services[i]; s.Use != bpfSlotUseSLOT_FREE {
			kept[s.Key] = s
		}
	}
	for _, r := range records {
		if r.gone() || r.shared() {
			continue
		}
		s := kept[r.service.Key]
		if s == nil {
			services--
			servers -= len(r.servers)
			continue
		}
		servers -= len(r.servers)
		for _, d := range in.members(s) {
			if slices.ContainsFunc(r.servers, func(w bpfServer) bool { return w.Addr == d.Addr && w.Port == d.Port }) {
				servers++
			}
		}
	}
	if services < 0 {
		return fmt.Errorf("%d services more than the table has room for: %w", -services, ErrNoRoom)
	}
	if servers < 0 {
		return fmt.Errorf("%d servers more than the table has room for: %w", -servers, ErrNoRoom)
	}
	return nil
}

// free counts the slots that are not in use.
func (in *instance) free() (services, servers int) {
	for i := range in.services[1:] {
		if in.services[1+i].Use == bpfSlotUseSLOT_FREE {
			services++
		}
	}
	for i := range in.servers[1:] {
		if bpfSlotUse(in.servers[1+i].Use) == bpfSlotUseSLOT_FREE {
			servers++
		}
	}
	return services, servers
}

// graceSeconds is how long a removed server's slot is kept at least: packets that saw the old list are through by then.
const graceSeconds = 2

// bootSeconds is a variable for the sake of tests that have a clock of their own.
var bootSeconds = func() uint32 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return uint32(ts.Sec)
}

// idle says whether a server was removed, and neither packets nor connections nor places refer to it any more.
func (in *instance) idle(slot uint32, now uint32) bool {
	d, l := &in.servers[slot], &in.loads[slot]
	return bpfSlotUse(d.Use) == bpfSlotUseSLOT_REMOVED && l.Active <= 0 && l.Inactive <= 0 && l.Persistent <= 0 &&
		now-d.Removed >= graceSeconds && !in.placed(slot)
}

// reclaim frees the slots of removed servers that are idle, and of removed services without servers. It is no part of a
// change: cut short anywhere, it goes on with the next one. A slot leaves its chain first.
func (in *instance) reclaim() error {
	now := bootSeconds()
	for i := range in.services {
		if in.services[i].Use != bpfSlotUseSLOT_FREE {
			in.unchain(&in.services[i], now)
		}
	}
	freed := false
	for i := range in.servers {
		if in.idle(uint32(i), now) {
			in.clear(uint32(i))
			in.servers[i].Use = uint8(bpfSlotUseSLOT_FREE)
			freed = true
			cut()
		}
	}
	for i := range in.services {
		if s := &in.services[i]; s.Use == bpfSlotUseSLOT_REMOVED && s.First == 0 {
			s.Use = bpfSlotUseSLOT_FREE
			freed = true
			cut()
		}
	}
	if !freed {
		return nil
	}
	return in.unmarkOurs()
}

// unchain takes idle servers out of a service's chain; the service keeps what they have counted.
func (in *instance) unchain(s *bpfService, now uint32) {
	var kept []uint32
	sum, before := fromCounts(s.Carried), 0
	for slot := range in.members(s) {
		before++
		if in.idle(slot, now) {
			sum.Add(in.counted(slot))
		} else {
			kept = append(kept, slot)
		}
	}
	if len(kept) < before {
		s.Carried = toCounts(sum)
		in.link(s, kept)
	}
}
