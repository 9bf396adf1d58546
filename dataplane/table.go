// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"iter"
	"slices"

	"lvs"
)

// live gives the slots of the services, in no particular order.
func (in *instance) live() iter.Seq2[uint32, *bpfService] {
	return func(yield func(uint32, *bpfService) bool) {
		for i := range in.services {
			if s := &in.services[i]; s.Use == bpfSlotUseSLOT_LIVE && !yield(uint32(i), s) {
				return
			}
		}
	}
}

// members gives the slots of a service's servers: those that it has, newest first, then those that were removed.
func (in *instance) members(s *bpfService) iter.Seq2[uint32, *bpfServer] {
	return func(yield func(uint32, *bpfServer) bool) {
		left := len(in.servers)
		for i := s.First; i != 0 && int(i) < len(in.servers) && left > 0; left-- {
			d := &in.servers[i]
			next := d.Next
			if !yield(i, d) {
				return
			}
			i = next
		}
	}
}

// counted is what a server's slot has counted since it was taken, on all CPUs.
func (in *instance) counted(slot uint32) (sum lvs.Stats) {
	for _, c := range in.counters[int(slot)*in.cpus : (int(slot)+1)*in.cpus] {
		sum.Add(fromCounts(c.Counts))
	}
	return sum
}

// table reads the services and what they carry.
func (in *instance) table() (*lvs.Table, error) {
	settings, err := in.settings()
	if err != nil {
		return nil, err
	}
	t := &lvs.Table{Timeouts: settings.timeouts(in.hz)}
	if t.Locals, err = in.sharedLocals(); err != nil {
		return nil, err
	}
	type numbered struct {
		added   uint64
		service *lvs.Service
	}
	var all []numbered
	for slot, s := range in.live() {
		v := in.service(slot, s)
		own, err := in.ownLocals(slot, s)
		if err != nil {
			return nil, err
		}
		v.Locals = fromLocals(own)
		all = append(all, numbered{s.Added, v})
	}
	slices.SortFunc(all, func(a, b numbered) int { return cmp.Compare(a.added, b.added) })
	for _, n := range all {
		t.Put(n.service)
	}
	return t, nil
}

func (in *instance) service(slot uint32, s *bpfService) *lvs.Service {
	v := &lvs.Service{Rates: in.rates.services[slot].rates()}
	v.ServiceID, v.ServiceConfig = fromService(s)
	v.Stats = fromCounts(s.Carried)
	for slot, d := range in.members(s) {
		counted := in.counted(slot)
		v.Stats.Add(counted)
		if bpfSlotUse(d.Use) != bpfSlotUseSLOT_LIVE {
			continue
		}
		counted.Sub(fromCounts(d.Zero))
		server := &lvs.Server{LastWeight: d.LastWeight, Load: fromLoad(in.loads[slot]), Stats: counted, Rates: in.rates.servers[slot].rates()}
		server.ServerID, server.ServerConfig = fromServer(d)
		v.Servers = append(v.Servers, server)
	}
	return v
}
