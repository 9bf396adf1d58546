// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"encoding/binary"
	"net/netip"

	"lvs"
)

// HashBits is the size of the tables of sh and dh as a power of two: CONFIG_IP_VS_SH_TAB_BITS.
const HashBits = 8

// fold is an address as the hashes see it: four bytes as a number, of IPv6 the four words combined.
func fold(a netip.Addr) uint32 {
	if a.Is4() {
		b := a.As4()
		return binary.BigEndian.Uint32(b[:])
	}
	var v uint32
	b := a.As16()
	for i := 0; i < len(b); i += 4 {
		v ^= binary.BigEndian.Uint32(b[i:])
	}
	return v
}

// hash32 is the kernel's hash_32.
func hash32(v uint32, bits int) uint32 { return v * 0x61C88647 >> (32 - bits) }

// SourceTable is the table of sh: the index of the server of each slot, or nil without servers. A server has as many
// slots in a row as its weight, and one if that is 0, again and again until the table is full.
func SourceTable(servers []Server) []uint16 {
	if len(servers) == 0 {
		return nil
	}
	table := make([]uint16, 0, 1<<HashBits)
	for i := 0; len(table) < cap(table); i = (i + 1) % len(servers) {
		for n := max(servers[i].Weight, 1); n > 0 && len(table) < cap(table); n-- {
			table = append(table, uint16(i))
		}
	}
	return table
}

// DestinationTable is the table of dh: the index of the server of each slot, or nil without servers. Servers have one slot
// in turn, whatever their weights.
func DestinationTable(servers []Server) []uint16 {
	if len(servers) == 0 {
		return nil
	}
	table := make([]uint16, 1<<HashBits)
	for slot := range table {
		table[slot] = uint16(slot % len(servers))
	}
	return table
}

// hashed is a scheduler that has a table of server indices, which the address of a connection leads into.
type hashed struct {
	table    []uint16
	fill     func([]Server) []uint16
	key      func(Request) uint32                // what is hashed
	slot     func(key, offset uint32, n int) int // hashes it into a table of n slots
	fallback bool                                // look on when the server of the slot cannot take it
}

func (h *hashed) Changed(_, after []Server) { h.table = h.fill(after) }

func (h *hashed) Pick(servers []Server, r Request) int {
	n := len(h.table)
	if n == 0 {
		return -1
	}
	key := h.key(r)
	first := h.slot(key, 0, n)
	if i := int(h.table[first]); servers[i].usable() {
		return i
	}
	if !h.fallback {
		return -1
	}
	for offset := range n {
		i := int(h.table[h.slot(key, uint32((first+offset)%n), n)])
		if servers[i].usable() {
			return i
		}
	}
	return -1
}

// source is the key of sh and mh.
func source(flags lvs.SchedulerFlags) func(Request) uint32 {
	return func(r Request) uint32 {
		key := fold(r.Client.Addr())
		if flags&lvs.SchedulerPort != 0 {
			key += uint32(r.Client.Port())
		}
		return key
	}
}

func newSourceHash(flags lvs.SchedulerFlags) *hashed {
	return &hashed{
		fill:     SourceTable,
		key:      source(flags),
		slot:     func(key, offset uint32, n int) int { return int(offset+hash32(key, HashBits)) % n },
		fallback: flags&lvs.SchedulerFallback != 0,
	}
}

func newDestinationHash() *hashed {
	return &hashed{
		fill: DestinationTable,
		key:  func(r Request) uint32 { return fold(r.Virtual.Addr()) },
		slot: func(key, _ uint32, _ int) int { return int(hash32(key, HashBits)) },
	}
}
