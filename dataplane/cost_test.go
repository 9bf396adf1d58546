// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"lvs"
)

// BenchmarkNewConnection is what it costs to choose a server, by scheduler and number of servers. The servers are not the
// program's to forward to, so that the packet is left to the kernel then, and no connection is made.
func BenchmarkNewConnection(b *testing.B) {
	w := mustWorld(b, Sizes{Conns: 1 << 10, Services: 64, Servers: 1 << 16})
	port := uint16(1000)
	for _, scheduler := range []string{"wlc", "lc", "sed", "nq", "sh", "mh"} {
		for _, servers := range []int{1, 10, 100, 1000, 4096} {
			port++
			at := netip.AddrPortFrom(tcp4.virtual.Addr(), port)
			j := w.mustJudge(lvs.ServiceConfig{Scheduler: scheduler}, at)
			weights := make([]int32, servers)
			for i := range weights {
				weights[i] = 1
			}
			j.addAll(lvs.IPv4, weights)
			for i, d := range j.in.members(&j.in.services[j.slot]) {
				j.in.loads[i].Active = int32(1 + i%7)
				d.Forward = uint8(lvs.Route) // chosen, and then left to the kernel: no connection is made
			}
			j.client = netip.AddrPortFrom(client4, 4000)
			frame := j.path.in("S").frame(b)
			b.Run(fmt.Sprintf("%s/%d", scheduler, servers), func(b *testing.B) {
				r := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, 512), Repeat: uint32(b.N), Context: contextOf(w.xdp, w.clients, frame, 0)}
				if _, err := w.xdp.Run(r); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
