// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"testing"

	"github.com/cilium/ebpf"
)

// pace is what a packet takes.
type pace struct {
	instructions, helpers int
	lines                 int // of all maps
	conns                 int // of them, lines of the connection table
}

// paces are what packets of known connections take on XDP. They are exact, so that whoever changes the program sees what it costs; a
// change for the worse has to be worth it.
var paces = map[string]pace{
	"DR/IPv4":          {512, 9, 12, 1},
	"TUN/IPv4":         {648, 10, 13, 1},
	"NAT-out/IPv4":     {649, 10, 12, 1},
	"NAT-in/IPv4":      {648, 9, 12, 1},
	"FULLNAT-out/IPv4": {668, 13, 15, 2},
	"FULLNAT-in/IPv4":  {692, 11, 14, 2},
	"DR/IPv6":          {526, 9, 12, 1},
	"TUN/IPv6":         {652, 10, 13, 1},
	"NAT-out/IPv6":     {703, 10, 12, 1},
	"NAT-in/IPv6":      {703, 9, 12, 1},
	"FULLNAT-out/IPv6": {722, 13, 15, 2},
	"FULLNAT-in/IPv6":  {747, 11, 14, 2},
}

// TestPaces goes step by step through what the programs do with packets of known connections.
func TestPaces(t *testing.T) {
	w := mustWorld(t, small, func(c *ebpf.CollectionSpec) {
		must(t, c.Variables[bpfVarSeed].Set([6]uint32{1, 2, 3, 5, 8, 13})) // or connections would meet in other lines each time
	})
	for _, k := range w.mustKnow() {
		w.run(w.xdp, k.from, k.frame) // past the kernel's turn to verify its neighbour
		m := newMachine(t, w.mustLook(), 0)
		if verdict := m.run(bpfProgDirectorXdp, k.frame, k.from.Attrs().Index); verdict != xdpRedirect {
			t.Errorf("%s: the verdict is %d", k.name, verdict)
		}
		got := pace{instructions: m.instructions, conns: len(m.lines[bpfMapConns])}
		for _, n := range m.helpers {
			got.helpers += n
		}
		for _, l := range m.lines {
			got.lines += len(l)
		}
		if got != paces[k.name] {
			t.Errorf("%q: {%d, %d, %d, %d}, // was %v", k.name, got.instructions, got.helpers, got.lines, got.conns, paces[k.name])
		}
	}
}
