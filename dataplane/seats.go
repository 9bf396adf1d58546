// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"math/bits"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"

	"lvs/sched"
)

// Each service's list of servers is a map of its own inside the map of lists. It is built aside and swapped by one
// update, so no packet sees half a change. Its head says where the scheduler is; an edit moves that by the rules of
// package sched. The table of sh, dh or mh follows the servers.

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
func (a *applying) seat(slot uint32, before []sched.Server, order []uint32, want []bpfServer, fresh, newScheduler bool, made func(swap) error) error {
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
	list, err := a.listOf(slot, head, order, tableOf(schedulers[a.services[slot].Scheduler], after))
	if err != nil {
		return fmt.Errorf("list of servers: %w", err)
	}
	defer list.Close()
	return made(swap{a.lists, slot, list})
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
	default: // matches that are yet to be played
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

func (a *applying) listOf(slot uint32, head bpfSeat, order []uint32, table []uint16) (*ebpf.Map, error) {
	head.Table = uint16(len(table))
	seats := []bpfSeat{head}
	for _, i := range order {
		seats = append(seats, bpfSeat{Server: i, Weight: a.servers[i].Weight})
	}
	if byLoad(a.services[slot].Scheduler) && len(order) > fewServers {
		seats = inGroups(seats)
	}
	for row := range slices.Chunk(table, tableRow) {
		var entries struct {
			seat [tableRow]uint16
			_    uint64
		}
		for n, server := range row {
			entries.seat[n] = server + 1 // seat 0 is the head
		}
		seats = append(seats, *(*bpfSeat)(unsafe.Pointer(&entries)))
	}
	return aside("seats", seats)
}

// byLoad says whether a scheduler asks for the least loaded server.
func byLoad(s bpfScheduler) bool {
	switch schedulers[s] {
	case "lc", "wlc", "sed", "nq", "fo", "ovf", "lblc", "lblcr":
		return true
	}
	return false
}

// inGroups puts the servers of a list in groups, and adds the matches between these.
func inGroups(seats []bpfSeat) []bpfSeat {
	count := groupsOf(len(seats) - 1)
	matches := make([]bpfMatch, 2*count-1) // from match 1 on
	for i := len(seats) - 1; i > 0; i-- {
		group := &matches[count+groupOf(seats[i].Server)%count-1]
		seats[i].Next, group.First = group.First, uint32(i)
	}
	seats[0].Groups = uint8(count)
	for i := range matches {
		seats = append(seats, *(*bpfSeat)(unsafe.Pointer(&matches[i])))
	}
	return seats
}

// groupsOf is how many groups so many servers are put in.
func groupsOf(servers int) int { return min(1<<bits.Len(uint(servers-1)), mostGroups) }

// groupOf is C's group_of.
func groupOf(slot uint32) int { return int(slot * 2654435769 >> 26) }

// aside makes a map of entries that is to go into a map of maps.
func aside[T any](name string, entries []T) (*ebpf.Map, error) {
	keys := make([]uint32, len(entries))
	for i := range keys {
		keys[i] = uint32(i)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: name, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(unsafe.Sizeof(entries[0])), MaxEntries: uint32(len(entries)), Flags: innerMap,
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
	mostGroups = 64      // C's GROUPS
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
