// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"slices"

	"lvs"
)

// diff gives the records of the services that differ from the maps.
func (in *instance) diff(t *lvs.Table) ([]*record, error) {
	slots := map[bpfServiceKey]uint32{}
	for slot, s := range in.live() {
		slots[s.Key] = slot
	}
	records, err := in.diffShared(t)
	if err != nil {
		return nil, err
	}
	for _, v := range t.Services() {
		r, err := newRecord(v)
		if err != nil {
			return nil, err
		}
		slot := slots[r.service.Key]
		delete(slots, r.service.Key)
		differs, err := in.differs(slot, r)
		if err != nil {
			return nil, err
		}
		if differs {
			records = append(records, r)
		}
	}
	for key := range slots {
		records = append(records, &record{service: bpfService{Key: key, Use: bpfSlotUseSLOT_REMOVED}})
	}
	// what goes makes room for what comes
	slices.SortStableFunc(records, func(a, b *record) int { return int(b.service.Use) - int(a.service.Use) })
	return records, nil
}

// differs says whether a record would change the service in a slot; there is none in slot 0.
func (in *instance) differs(slot uint32, r *record) (bool, error) {
	s := &in.services[slot]
	if slot == 0 || r.service.First != 0 || configOf(s) != configOf(&r.service) || in.serversDiffer(s, r.servers) {
		return true, nil
	}
	own, err := in.ownLocals(slot, s)
	return !slices.Equal(own, r.locals), err
}

func newRecord(v *lvs.Service) (*record, error) {
	s, err := toService(v.ServiceID, v.ServiceConfig)
	if err != nil {
		return nil, err
	}
	if v.Zeroed {
		s.First |= askAnew
	}
	if v.Carried {
		s.First |= askCarry
		s.Carried = toCounts(v.Stats)
	}
	r := &record{service: s, servers: make([]bpfServer, len(v.Servers)), locals: toLocals(v.Locals)}
	r.service.Locals = uint32(len(r.locals))
	for i, d := range v.Servers {
		r.servers[i] = toServer(d.ServerID, d.ServerConfig)
		if d.Edited {
			r.servers[i].Next |= askAnew
		}
		if d.Carried {
			r.servers[i].Next |= askCarry
			r.servers[i].Zero = toCounts(d.Stats)
		}
	}
	return r, nil
}

func configOf(s *bpfService) bpfService {
	c := *s
	c.First, c.Added, c.Carried, c.Use, c.Places = 0, 0, bpfCounts{}, 0, 0
	return c
}

func serverConfigOf(d *bpfServer) bpfServer {
	c := *d
	c.Service, c.Next, c.Removed, c.Use, c.LastWeight, c.OnDead = 0, 0, 0, 0, 0, 0
	c.Zero, c.TunnelSource = bpfCounts{}, [2]uint64{}
	return c
}

func (in *instance) serversDiffer(s *bpfService, want []bpfServer) bool {
	i := 0
	for _, d := range in.members(s) {
		if bpfSlotUse(d.Use) != bpfSlotUseSLOT_LIVE {
			continue
		}
		if i >= len(want) || want[i].Next != 0 || serverConfigOf(d) != serverConfigOf(&want[i]) {
			return true
		}
		i++
	}
	return i != len(want)
}
