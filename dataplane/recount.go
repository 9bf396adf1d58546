// SPDX-License-Identifier: Apache-2.0

package dataplane

import "lvs"

// What a record asks of a service or server besides its configuration.
const (
	askAnew  = 1 << iota // of a service: that its counters start again; of a server: that schedulers take it as configured anew
	askCarry             // that its counters are those of the record
)

// zero lets the counters of a service and its servers start again.
func (a *applying) zero(slot uint32, s *bpfService) {
	var sum lvs.Stats
	a.rates.services[slot].restart()
	for i, d := range a.members(s) {
		a.rates.servers[i].restart()
		counted := a.counted(i)
		d.Zero = toCounts(counted)
		cut()
		sum.Add(counted)
	}
	var none lvs.Stats
	none.Sub(sum)
	s.Carried = toCounts(none)
}

// carry gives a service and its servers the counters that a record has for them.
func (a *applying) carry(s *bpfService, r *record, order []uint32) {
	for n, w := range r.servers {
		if w.Next&askCarry == 0 {
			continue
		}
		before := a.counted(order[n])
		before.Sub(fromCounts(w.Zero))
		a.servers[order[n]].Zero = toCounts(before)
		cut()
	}
	if r.service.First&askCarry == 0 {
		return
	}
	sum := fromCounts(r.service.Carried)
	for i := range a.members(s) {
		sum.Sub(a.counted(i))
	}
	s.Carried = toCounts(sum)
}

func (in *instance) clear(server uint32) {
	in.loads[server], in.rates.servers[server] = bpfLoad{}, bpfEstimate{}
	for i := range in.counters[int(server)*in.cpus : (int(server)+1)*in.cpus] {
		in.counters[int(server)*in.cpus+i] = bpfCounter{}
	}
}
