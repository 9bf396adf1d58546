// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"lvs"
	"lvs/sched"
)

// record is what is to become of one service: the same layouts as in the maps, only with what an operator decides.
type record struct {
	service bpfService  // Use is SLOT_REMOVED if the service is to go; First has what is asked, Carried what counters are to be then
	servers []bpfServer // newest first; so have Next and Zero
	locals  []bpfLocal  // the service's own; for a record without a service, those that all of its family share
}

func (r *record) gone() bool   { return r.service.Use == bpfSlotUseSLOT_REMOVED }
func (r *record) shared() bool { return r.service.Key.Protocol == 0 && r.service.Key.Mark == 0 }
func (r *record) zeroed() bool { return r.service.First&askAnew != 0 }

// commit makes the maps say what the table says. Only what differs is touched. Every change is written down first, so
// that the next command can finish it if this process is killed.
func (in *instance) commit(t *lvs.Table) error {
	in.followRoutes()
	records, err := in.diff(t)
	if err != nil {
		return err
	}
	marks := marksOf(t)
	if len(records) == 0 {
		if err := in.steer(marks, true); err != nil {
			return err
		}
		if err := in.setTimeouts(t.Timeouts); err != nil {
			return err
		}
		return in.expireDeserted()
	}
	if err := in.reclaim(); err != nil {
		return err
	}
	if err := in.room(t, records); err != nil {
		return err
	}
	if err := in.steer(marks, false); err != nil {
		return errors.Join(err, in.steer(in.marks(), true))
	}
	if err := in.answerHere(records); err != nil {
		return err
	}
	if err := in.readCalls(t, false); err != nil {
		return err
	}
	if err := in.writeJournal(records, t.Timeouts); err != nil {
		return err
	}
	if err := in.apply(records, false); err != nil {
		return err
	}
	if err := in.setTimeouts(t.Timeouts); err != nil {
		return err
	}
	if err := in.removeJournal(); err != nil {
		return err
	}
	if err := in.steer(marks, true); err != nil {
		return err
	}
	if err := in.readCalls(t, true); err != nil {
		return err
	}
	if err := in.followReals(); err != nil {
		return err
	}
	return in.expireDeserted()
}

func (in *instance) setTimeouts(t lvs.Timeouts) error {
	settings, err := in.settings()
	if err != nil || settings.timeouts(in.hz) == t {
		return err
	}
	settings.setTimeouts(t, in.hz)
	return in.putSettings(settings)
}

// apply carries records out. It may be called again for the same records after it was cut short anywhere: then (again)
// it looks for a service's servers in all slots, not only in its chain, which may be half written.
func (in *instance) apply(records []*record, again bool) error {
	a := &applying{instance: in, again: again, nextService: 1, nextServer: 1, slots: map[bpfServiceKey]uint32{}}
	for i := range in.services {
		s := &in.services[i]
		if s.Use != bpfSlotUseSLOT_FREE {
			a.slots[s.Key] = uint32(i)
			a.added = max(a.added, s.Added)
		}
	}
	if err := a.openMaps(); err != nil {
		return err
	}
	var changes []change
	for _, r := range records {
		changes = append(changes, func(made func(...swap) error) error {
			err := a.one(r, made)
			if err != nil {
				id, _ := fromService(&r.service)
				err = fmt.Errorf("%v: %w", id, err)
			}
			return err
		})
	}
	return inStep(changes)
}

// cut is called after each step of a change, for a test to end it there.
var cut = func() {}

// applying is the state of one apply.
type applying struct {
	*instance
	again                   bool
	slots                   map[bpfServiceKey]uint32 // of services, removed ones too
	added                   uint64
	nextService, nextServer uint32 // where the search for a free slot goes on
	keys, lists             *ebpf.Map
	contests, pools         *ebpf.Map
	ours                    []addressKinds
}

func (a *applying) openMaps() (err error) {
	if a.keys, err = a.m(bpfMapServiceSlots); err != nil {
		return err
	}
	if a.lists, err = a.m(bpfMapLists); err != nil {
		return err
	}
	if a.contests, err = a.m(bpfMapContests); err != nil {
		return err
	}
	if a.pools, err = a.m(bpfMapPools); err != nil {
		return err
	}
	a.ours, err = mapped[addressKinds](a.instance, bpfMapOurs)
	return err
}

func (a *applying) one(r *record, made func(...swap) error) error {
	if r.shared() {
		return a.swapLocals(poolOf(r.service.Key.Family, 0, false), r.locals, made)
	}
	slot := a.slots[r.service.Key]
	if r.gone() {
		return a.removeService(slot, made)
	}
	fresh := slot == 0 || a.services[slot].Use != bpfSlotUseSLOT_LIVE
	if slot == 0 {
		if slot = a.freeService(); slot == 0 {
			return ErrNoRoom
		}
	}
	s := &a.services[slot]
	members := a.membersOf(slot)
	before, oldScheduler := a.seated(members), s.Scheduler
	if r.service.Scheduler != oldScheduler {
		if err := a.forgetPlaces(slot); err != nil {
			return err
		}
	}
	added := s.Added
	if fresh {
		a.added++
		added = a.added
	}
	if len(r.locals) > 0 {
		if err := a.swapLocals(poolOf(0, slot, true), r.locals, made); err != nil {
			return err
		}
	}
	a.writeService(slot, r, members, fresh)
	s.Added = added
	cut()
	order, err := a.writeServers(slot, r.servers, members)
	if err != nil {
		return err
	}
	markOurs(&a.ours[0], s.Key.Addr, oursVirtual)
	if err := a.seat(slot, before, order, r.servers, fresh, oldScheduler != s.Scheduler, made); err != nil {
		return err
	}
	cut()
	a.chain(s, order, members)
	if r.zeroed() {
		a.zero(slot, s)
	}
	a.carry(s, r, order)
	if !fresh && !a.again {
		return nil
	}
	s.Use = bpfSlotUseSLOT_LIVE
	cut()
	a.slots[s.Key] = slot
	return a.keys.Put(s.Key, slot)
}

// membersOf gives all servers' slots of a service, removed ones too.
func (a *applying) membersOf(slot uint32) (slots []uint32) {
	if !a.again {
		for i := range a.members(&a.services[slot]) {
			slots = append(slots, i)
		}
		return slots
	}
	for i := range a.servers {
		if d := &a.servers[i]; bpfSlotUse(d.Use) != bpfSlotUseSLOT_FREE && d.Service == slot {
			slots = append(slots, uint32(i))
		}
	}
	return slots
}

func (a *applying) freeService() uint32 {
	for ; int(a.nextService) < len(a.services); a.nextService++ {
		if a.services[a.nextService].Use == bpfSlotUseSLOT_FREE {
			a.nextService++
			return a.nextService - 1
		}
	}
	return 0
}

func (a *applying) freeServer() uint32 {
	for ; int(a.nextServer) < len(a.servers); a.nextServer++ {
		if bpfSlotUse(a.servers[a.nextServer].Use) == bpfSlotUseSLOT_FREE {
			a.nextServer++
			return a.nextServer - 1
		}
	}
	return 0
}

func (a *applying) writeService(slot uint32, r *record, members []uint32, fresh bool) {
	s, c := &a.services[slot], &r.service
	if fresh {
		if s.Use == bpfSlotUseSLOT_FREE {
			*s = bpfService{Key: c.Key}
		}
		a.rates.services[slot].restart()
		var sum lvs.Stats
		for _, i := range members {
			sum.Add(a.counted(i))
		}
		var none lvs.Stats
		none.Sub(sum) // a service that is made again counts from zero
		s.Carried = toCounts(none)
	}
	s.SchedulerFlags, s.Persistent, s.Netmask = c.SchedulerFlags, c.Persistent, c.Netmask
	s.Engine, s.OnePacket, s.Scheduler, s.Locals, s.OnDead = c.Engine, c.OnePacket, c.Scheduler, uint32(len(r.locals)), c.OnDead
	for _, i := range members {
		a.servers[i].OnDead = uint32(c.OnDead)
	}
}

// writeServers writes the servers that are wanted into their slots, and gives the slots in order. A server that was
// removed not long ago gets its slot again, with its counters and connections, as the kernel does it.
func (a *applying) writeServers(slot uint32, want []bpfServer, members []uint32) (order []uint32, err error) {
	type id struct {
		addr [2]uint64
		port uint16
	}
	known := map[id]uint32{}
	for _, i := range members {
		known[id{a.servers[i].Addr, a.servers[i].Port}] = i
	}
	for i := range want {
		w := &want[i]
		at := known[id{w.Addr, w.Port}]
		if at == 0 {
			if at = a.freeServer(); at == 0 {
				return nil, ErrNoRoom
			}
			a.servers[at] = bpfServer{Addr: w.Addr, Port: w.Port, Service: slot, OnDead: uint32(a.services[slot].OnDead)}
			cut()
			a.clear(at)
		}
		a.writeServer(at, w)
		cut()
		order = append(order, at)
	}
	return order, nil
}

func (a *applying) writeServer(at uint32, w *bpfServer) {
	d, l := &a.servers[at], &a.loads[at]
	if d.Upper != w.Upper || d.Lower != w.Lower {
		limits, carries, over := sched.Limits{Upper: w.Upper, Lower: w.Lower}, fromLoad(*l), uint32(0)
		if limits.Overloaded(l.Overloaded != 0, carries.Active+carries.Inactive+carries.Persistent) {
			over = 1
		}
		l.Overloaded = over
	}
	if added := bpfSlotUse(d.Use) != bpfSlotUseSLOT_LIVE; added || w.Weight != 0 {
		d.LastWeight = w.Weight
	}
	d.Upper, d.Lower, d.Weight, d.Forward = w.Upper, w.Lower, w.Weight, w.Forward
	d.TunnelType, d.TunnelChecksum, d.TunnelPort = w.TunnelType, w.TunnelChecksum, w.TunnelPort
	if lvs.Forward(w.Forward) == lvs.Masq {
		markOurs(&a.ours[0], d.Addr, oursServer)
	}
	if lvs.Forward(w.Forward) == lvs.Tunnel { // and kept else, for connections that began with a tunnel
		d.TunnelSource = sourceTowards(fromAddr(d.Addr))
	}
	d.Use = uint8(bpfSlotUseSLOT_LIVE)
}

// chain links a service's slots: the servers that it has in order, then those that were removed, which become so
// now: no packet has been sent to them since the list was swapped.
func (a *applying) chain(s *bpfService, order, members []uint32) {
	all := slices.Clone(order)
	for _, i := range members {
		if slices.Contains(order, i) {
			continue
		}
		if d := &a.servers[i]; bpfSlotUse(d.Use) == bpfSlotUseSLOT_LIVE {
			d.Removed = bootSeconds()
			d.Use = uint8(bpfSlotUseSLOT_REMOVED)
			cut()
		}
		all = append(all, i)
	}
	a.link(s, all)
}

func (in *instance) link(s *bpfService, all []uint32) {
	next := uint32(0)
	for _, i := range slices.Backward(all) {
		in.servers[i].Next = next
		cut()
		next = i
	}
	s.First = next
}

func (a *applying) removeService(slot uint32, made func(...swap) error) error {
	if slot == 0 {
		return nil
	}
	s := &a.services[slot]
	if err := a.keys.Delete(s.Key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	cut()
	if err := made(swap{of: a.lists, at: slot}, swap{of: a.contests, at: slot}, swap{of: a.pools, at: poolOf(0, slot, true)}); err != nil {
		return err
	}
	cut()
	a.chain(s, nil, a.membersOf(slot))
	s.Use = bpfSlotUseSLOT_REMOVED
	return a.forgetPlaces(slot)
}
