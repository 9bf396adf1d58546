// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"testing"
)

// connTable is the connection table as C has it (bpf/conn.h), for looking at its bits.
type connTable struct {
	segments []bpfSegment
	guards   func(segment uint32) bpfGuard
}

func (in *instance) mustConnTable(t testing.TB) connTable {
	t.Helper()
	segments, err := mapped[bpfSegment](in, bpfMapConns)
	must(t, err)
	m, err := in.m(bpfMapGuards)
	must(t, err)
	return connTable{segments, func(i uint32) (g bpfGuard) {
		must(t, m.Lookup(i, &g))
		return g
	}}
}

// The parts of own, and the shape of a segment.
const (
	dead           = 2
	linesPerPage   = 64
	pages          = 4
	lineShift      = 2
	distanceShift  = 8
	lifeControlled = 0x1000
)

// lives are the entries of one segment that can be found.
func (c connTable) lives(segment int) (all []bpfConn) {
	for _, e := range c.segments[segment].Line {
		if e.Own&ownLive != 0 {
			all = append(all, e)
		}
	}
	return all
}

func (c connTable) live() (all []bpfConn) {
	for i := range c.segments {
		all = append(all, c.lives(i)...)
	}
	return all
}

// faults lists what must not be in a table at rest: lines that are used and not taken or the other way round, hop and
// overflow bits without entries, entries without theirs, and keys that are there twice.
func (c connTable) faults() (all []string) {
	type key struct {
		client, virtual         [2]uint64
		clientPort, virtualPort uint16
		protocol, kind          uint8
	}
	for i := range c.segments {
		lines, g := &c.segments[i].Line, c.guards(uint32(i))
		var hop [segmentLines]uint64
		var overflow [segmentLines]uint8
		keys := map[key]bool{}
		for n := range lines {
			e := &lines[n]
			page, bit := n/linesPerPage, n%linesPerPage
			taken := g.Taken[page]>>bit&1 != 0
			if used := e.Own&(ownLive|dead) != 0; used != taken {
				all = append(all, fmt.Sprintf("segment %d line %d: own %#x, taken %v", i, n, e.Own, taken))
			}
			if e.Own&ownLive == 0 {
				continue
			}
			home, distance := int(e.Own>>lineShift)%linesPerPage, int(e.Own>>distanceShift)%pages
			hop[page*linesPerPage+home] |= 1 << bit
			if distance > 0 {
				overflow[(page+pages-distance)%pages*linesPerPage+home] |= 1 << distance
			}
			k := key{e.Client, e.Virtual, e.ClientPort, e.VirtualPort, e.Protocol, e.Kind}
			if keys[k] && e.Kind != kindLost {
				all = append(all, fmt.Sprintf("segment %d line %d: there is another entry of its key: %+v", i, n, k))
			}
			keys[k] = true
		}
		for n := range lines {
			if lines[n].Hop != hop[n] || lines[n].Overflow != overflow[n] {
				all = append(all, fmt.Sprintf("segment %d line %d: hop %#x and overflow %#x, but entries for %#x and %#x",
					i, n, lines[n].Hop, lines[n].Overflow, hop[n], overflow[n]))
			}
		}
	}
	return all
}

// used counts the lines that are not free.
func (c connTable) used() (n int) {
	for i := range c.segments {
		for _, e := range c.segments[i].Line {
			if e.Own&(ownLive|dead) != 0 {
				n++
			}
		}
	}
	return n
}

// overstated lists the servers that do not carry what the table says they do.
func (c connTable) overstated(loads []bpfLoad) (all []string) {
	there := make([]bpfLoad, len(loads))
	for _, e := range c.live() {
		switch {
		case e.isTemplate():
			there[e.Server].Persistent++
		case e.Kind != kindPlain:
		case e.Life&lifeActive != 0:
			there[e.Server].Active++
		default:
			there[e.Server].Inactive++
		}
	}
	for slot, l := range loads {
		if l.Active != there[slot].Active || l.Inactive != there[slot].Inactive || l.Persistent != there[slot].Persistent {
			all = append(all, fmt.Sprintf("server slot %d: %+v, in the table are %+v", slot, l, there[slot]))
		}
	}
	return all
}
