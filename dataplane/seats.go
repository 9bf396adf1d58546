// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"

	"lvs/sched"
)

// Each service's list of servers is a map of its own inside the map of lists. It is built aside and swapped by one
// update, so no packet sees half a change. Its head says where the scheduler is; an edit moves that by the rules of
// package sched. The table of sh, dh or mh follows the servers. The contest of a long list whose scheduler goes by loads is a map beside it.

// seated gives the servers that a service has now, as its scheduler sees them.
func (a *applying) seated(members []uint32) (list []sched.Server) {
	for _, i := range members {
		if d := &a.servers[i]; bpfSlotUse(d.Use) == bpfSlotUseSLOT_LIVE {
			list = append(list, sched.Server{ID: serverID(d), Weight: d.Weight, LastWeight: d.LastWeight})
		}
	}
	return list
}

// seat swaps a service's list for the one in order, unless it is the same and nothing was edited.
func (a *applying) seat(slot uint32, before []sched.Server, order []uint32, want []bpfServer, fresh, newScheduler bool, made func(...swap) error) error {
	after := make([]sched.Server, len(order))
	edited := len(before) != len(after)
	for n, i := range order {
		d := &a.servers[i]
		after[n] = sched.Server{ID: serverID(d), Weight: d.Weight, LastWeight: d.LastWeight, Edited: want[n].Next&askAnew != 0}
		edited = edited || after[n] != before[n]
	}
	if !fresh && !newScheduler && !edited && !a.again {
		return nil
	}
	head := bpfSeat{Server: uint32(len(order)), Scheduler: uint8(a.services[slot].Scheduler)}
	if !fresh && !newScheduler {
		old, err := a.head(slot)
		if err != nil {
			return err
		}
		head.Cursor = old.Cursor
		head.Weight, head.Next = old.Weight, old.Next
	}
	a.moveCursor(slot, &head, before, after, fresh, newScheduler)
	return a.swapList(slot, head, order, tableOf(schedulers[a.services[slot].Scheduler], after), made)
}

// swapList swaps a service's list, and the contest between its servers: two maps, so for a moment they may not belong together, which
// programs see.
func (a *applying) swapList(slot uint32, head bpfSeat, order []uint32, table []uint16, made func(...swap) error) error {
	head.Table = uint16(len(table))
	seats := []bpfSeat{head}
	for _, i := range order {
		seats = append(seats, bpfSeat{Server: i, Weight: a.servers[i].Weight})
	}
	swaps := []swap{{of: a.contests, at: slot}}
	if byLoad(a.services[slot].Scheduler) && len(order) > fewServers {
		contest, err := aside("contest", 0, []bpfContest{contestOf(seats)})
		if err != nil {
			return fmt.Errorf("contest of servers: %w", err)
		}
		defer contest.Close()
		swaps[0].to = contest
	} else if held, err := isHeld(a.contests, slot); err != nil {
		return fmt.Errorf("contest of servers: %w", err)
	} else if !held {
		swaps = nil
	}
	list, err := aside("seats", innerMap, append(seats, inRows(table)...))
	if err != nil {
		return fmt.Errorf("list of servers: %w", err)
	}
	defer list.Close()
	return made(append(swaps, swap{a.lists, slot, list})...)
}

// holdContests makes the contests of long lists that have none, for an earlier version has made them. Until then all servers are looked at.
func (in *instance) holdContests() error {
	a := &applying{instance: in}
	if err := a.openMaps(); err != nil {
		return err
	}
	var changes []change
	for slot, s := range in.live() {
		if !byLoad(s.Scheduler) {
			continue
		}
		changes = append(changes, func(made func(...swap) error) error {
			if held, err := isHeld(a.contests, slot); held || err != nil {
				return err
			}
			var order []uint32
			for member, d := range in.members(s) {
				if bpfSlotUse(d.Use) == bpfSlotUseSLOT_LIVE {
					order = append(order, member)
				}
			}
			if len(order) <= fewServers {
				return nil
			}
			return a.swapList(slot, bpfSeat{Server: uint32(len(order)), Scheduler: uint8(s.Scheduler)}, order, nil, made)
		})
	}
	return inStep(changes)
}

// isHeld says whether a map of maps holds one in a place.
func isHeld(m *ebpf.Map, at uint32) (bool, error) {
	var id ebpf.MapID
	err := m.Lookup(at, &id)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	return err == nil, err
}

// tableOf is the table of a scheduler that has one: an index into the servers for each slot of the hash.
func tableOf(scheduler string, servers []sched.Server) []uint16 {
	switch scheduler {
	case "sh":
		return sched.SourceTable(servers)
	case "dh":
		return sched.DestinationTable(servers)
	case "mh":
		return sched.MaglevTable(servers)
	}
	return nil
}

// moveCursor moves the state of rr and wrr from one list to the next; others begin anew.
func (a *applying) moveCursor(slot uint32, head *bpfSeat, before, after []sched.Server, fresh, newScheduler bool) {
	if fresh {
		before = nil
	}
	switch schedulers[a.services[slot].Scheduler] {
	case "rr":
		rr := sched.RR{Next: int(uint32(head.Cursor))}
		if newScheduler || fresh {
			rr.Next = 0
		}
		rr.Changed(before, after)
		head.Cursor = uint64(rr.Next)
	case "wrr":
		wrr := &sched.WRR{Next: int(uint32(head.Cursor)), Current: int32(head.Cursor >> 32), Step: int32(head.Next), Top: head.Weight}
		switch {
		case fresh:
			wrr = sched.NewWRR(nil)
			wrr.Changed(nil, after)
		case newScheduler:
			wrr = sched.NewWRR(before)
			wrr.Changed(before, after)
		default:
			wrr.Changed(before, after)
		}
		head.Cursor = uint64(uint32(wrr.Next)) | uint64(uint32(wrr.Current))<<32
		head.Next, head.Weight = uint32(wrr.Step), wrr.Top
	default:
		head.Cursor, head.Next, head.Weight = 0, 0, 0
	}
}

// head reads the head of a service's present list. A service that was cut short in the making may have none.
func (a *applying) head(slot uint32) (head bpfSeat, err error) {
	var id ebpf.MapID
	if err := a.lists.Lookup(slot, &id); err != nil {
		return head, nil
	}
	list, err := ebpf.NewMapFromID(id)
	if err != nil {
		return head, fmt.Errorf("list of servers: %w", err)
	}
	defer list.Close()
	return head, list.Lookup(uint32(0), &head)
}

// byLoad says whether a scheduler asks for the least loaded server.
func byLoad(s bpfScheduler) bool {
	switch schedulers[s] {
	case "lc", "wlc", "sed", "nq", "fo", "ovf", "lblc", "lblcr":
		return true
	}
	return false
}

// inRows gives a table of indexes into the servers as it follows their seats.
func inRows(table []uint16) (rows []bpfSeat) {
	for entries := range slices.Chunk(table, tableRow) {
		var row struct {
			seat [tableRow]uint16
			_    uint64
		}
		for n, server := range entries {
			row.seat[n] = server + 1 // seat 0 is the head
		}
		rows = append(rows, *(*bpfSeat)(unsafe.Pointer(&row)))
	}
	return rows
}

// contestOf puts the servers of a list in groups, whose matches are yet to be played.
func contestOf(seats []bpfSeat) bpfContest {
	levels := levelsOf(len(seats) - 1)
	c := bpfContest{List: rand.Uint64(), Levels: uint32(levels)}
	for i := len(seats) - 1; i > 0; i-- {
		group := groupOf(seats[i].Server) % (1 << levels)
		seats[i].Next, c.First[group] = uint32(c.First[group]), uint16(i)
	}
	seats[0].Cursor = c.List
	return c
}

// levelsOf is how many levels of matches so many servers have, with a group for about each, up to the most.
func levelsOf(servers int) int { return min(bits.Len(uint(servers-1)), mostLevels) }

// groupOf is C's group_of.
func groupOf(slot uint32) int { return int(slot * 2654435769 >> 26) }

// aside makes a map of entries that is to go into a map of maps.
func aside[T any](name string, flags uint32, entries []T) (*ebpf.Map, error) {
	keys := make([]uint32, len(entries))
	for i := range keys {
		keys[i] = uint32(i)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: name, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(unsafe.Sizeof(entries[0])), MaxEntries: uint32(len(entries)), Flags: flags,
	})
	if err != nil {
		return nil, err
	}
	if _, err := m.BatchUpdate(keys, entries, nil); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

const (
	fewServers = 8       // a list of no more is not put in groups: to look at all of them costs no more than the matches
	mostLevels = 6       // C's LEVELS
	tableRow   = 8       // C's TABLE_ROW
	oursShift  = 15      // C's OURS_SHIFT
	innerMap   = 1 << 12 // BPF_F_INNER_MAP: lists of any length fit into the map of lists
)

// addressKinds says of addresses what of ours they may be, four to a word, by a hash (C's struct address_kinds).
type addressKinds = bpfAddressKinds

// oursKind is a bit of these (C's enum ours_kind).
type oursKind uint32

const (
	oursVirtual oursKind = 1 << iota
	oursServer
	oursLocal
)

// oursAt is where an address has its bits: a word, and how far they are shifted in it.
func oursAt(addr [2]uint64) (word, shift int) {
	i := int((addr[0] ^ addr[1]) * 0x9e3779b97f4a7c15 >> (64 - oursShift))
	return i / 4, i % 4 * 8
}

func markOurs(o *addressKinds, addr [2]uint64, kind oursKind) {
	word, shift := oursAt(addr)
	atomic.OrUint32(&o.Four[word], uint32(kind)<<shift) // as packets with marks do it, at any time
}

// isOurs says whether an address may be one of a kind.
func isOurs(o *addressKinds, addr [2]uint64, kind oursKind) bool {
	word, shift := oursAt(addr)
	return o.Four[word]>>shift&uint32(kind) != 0
}

// unmarkOurs clears the bits that no service or server has any more. Those of local addresses stay: connections that use one
// outlive its removal.
func (in *instance) unmarkOurs() error {
	ours, err := mapped[addressKinds](in, bpfMapOurs)
	if err != nil {
		return err
	}
	fresh, marks := new(addressKinds), false
	for i := range in.services {
		s := &in.services[i]
		if s.Use == bpfSlotUseSLOT_FREE {
			continue
		}
		marks = marks || s.Key.Mark != 0
		markOurs(fresh, s.Key.Addr, oursVirtual)
		for _, d := range in.members(s) {
			markOurs(fresh, d.Addr, oursServer)
		}
	}
	stale := uint32(oursServer)
	if !marks { // else there are connections to addresses that no service names
		stale |= uint32(oursVirtual)
	}
	for i, word := range fresh.Four {
		atomic.AndUint32(&ours[0].Four[i], word|^(stale*0x01010101))
	}
	return nil
}
