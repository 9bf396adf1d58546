// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"lvs"
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
	"DR/IPv4":          {506, 9, 12, 1},
	"TUN/IPv4":         {643, 10, 13, 1},
	"NAT-out/IPv4":     {642, 10, 12, 1},
	"NAT-in/IPv4":      {646, 9, 12, 1},
	"FULLNAT-out/IPv4": {668, 13, 15, 2},
	"FULLNAT-in/IPv4":  {688, 11, 14, 2},
	"DR/IPv6":          {520, 9, 12, 1},
	"TUN/IPv6":         {644, 10, 13, 1},
	"NAT-out/IPv6":     {692, 10, 12, 1},
	"NAT-in/IPv6":      {702, 9, 12, 1},
	"FULLNAT-out/IPv6": {720, 13, 15, 2},
	"FULLNAT-in/IPv6":  {743, 11, 14, 2},
}

// beginnings are what packets take that begin a connection to one of ten servers, by method and scheduler.
var beginnings = map[string]pace{
	"Route/rr":  {1327, 39, 23, 1},
	"Route/wrr": {1328, 39, 24, 1},
	"Route/wlc": {1679, 42, 31, 1},
	"Route/sh":  {1324, 37, 23, 1},
	"Route/mh":  {1458, 37, 24, 1},
	"Masq/rr":   {1487, 39, 23, 1},
	"Masq/wrr":  {1488, 39, 23, 1},
	"Masq/wlc":  {1839, 42, 28, 1},
	"Masq/sh":   {1484, 37, 22, 1},
	"Masq/mh":   {1618, 37, 24, 1},
}

func (m *machine) pace() pace {
	got := pace{instructions: m.instructions, conns: len(m.lines[bpfMapConns])}
	for _, n := range m.helpers {
		got.helpers += n
	}
	for _, l := range m.lines {
		got.lines += len(l)
	}
	return got
}

// TestPaces goes step by step through what the programs do with packets of known connections, and with those that begin one.
func TestPaces(t *testing.T) {
	w := mustWorld(t, small, func(c *ebpf.CollectionSpec) {
		must(t, c.Variables[bpfVarSeed].Set([6]uint32{1, 2, 3, 5, 8, 13})) // or connections would meet in other lines each time
	})
	follow := func(name string, from netlink.Link, frame []byte, want pace) {
		m := newMachine(t, w.mustLook(), 0)
		if verdict := m.run(bpfProgDirectorXdp, frame, from.Attrs().Index); verdict != xdpRedirect {
			t.Errorf("%s: the verdict is %d", name, verdict)
		}
		if got := m.pace(); got != want {
			t.Errorf("%q: {%d, %d, %d, %d}, // was %v", name, got.instructions, got.helpers, got.lines, got.conns, want)
		}
	}
	for _, k := range w.mustKnow() {
		w.run(w.xdp, k.from, k.frame) // past the kernel's turn to verify its neighbour
		follow(k.name, k.from, k.frame, paces[k.name])
	}
	port := uint16(1000)
	for _, method := range []lvs.Forward{lvs.Route, lvs.Masq} {
		for _, scheduler := range []string{"rr", "wrr", "wlc", "sh", "mh"} {
			port++
			along := path{lvs.TCP, tcp4.client, netip.AddrPortFrom(tcp4.virtual.Addr(), port), tcp4.server}
			w.mustUpdate(addMany(along, scheduler, method, 10))
			for i := range uint16(3) { // as above, and the first choice looks at all servers
				w.run(w.tc, w.clients, along.from(5000+i).in("S").frame(t))
			}
			name := fmt.Sprintf("%v/%s", method, scheduler)
			follow(name, w.clients, along.from(5010).in("S").frame(t), beginnings[name])
		}
	}
}
