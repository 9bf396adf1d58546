// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"lvs"
)

// checkConsistent holds the maps to what must be true of them between two changes.
func (w *world) checkConsistent() {
	w.t.Helper()
	in := w.mustLook()
	if in.broken() {
		w.t.Error("there is a journal of an unfinished change")
	}
	c := &consistency{instance: in, owner: map[uint32]uint32{}}
	must(w.t, c.read())
	for i := range in.services {
		if i > 0 {
			c.service(uint32(i), &in.services[i])
		}
	}
	for i := range in.servers {
		d := &in.servers[i]
		if used := bpfSlotUse(d.Use) != bpfSlotUseSLOT_FREE; used && c.owner[uint32(i)] == 0 {
			c.say("server slot %d (%v) is in use, and in no service's chain", i, serverID(d))
		} else if !used && in.loads[i] != (bpfLoad{}) {
			c.say("server slot %d is free, and carries %+v", i, in.loads[i])
		}
	}
	if n := c.entries(); n != c.live {
		c.say("%d keys for %d services", n, c.live)
	}
	for _, wrong := range append(c.wrong, in.mustConnTable(w.t).faults()...) {
		w.t.Error(wrong)
	}
}

type consistency struct {
	*instance
	keys, lists *ebpf.Map
	contests    *ebpf.Map
	ours        []addressKinds
	owner       map[uint32]uint32 // server's slot -> service's
	live        int
	wrong       []string
}

func (c *consistency) say(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

func (c *consistency) read() (err error) {
	if c.keys, err = c.m(bpfMapServiceSlots); err != nil {
		return err
	}
	if c.lists, err = c.m(bpfMapLists); err != nil {
		return err
	}
	if c.contests, err = c.m(bpfMapContests); err != nil {
		return err
	}
	c.ours, err = mapped[addressKinds](c.instance, bpfMapOurs)
	return err
}

func (c *consistency) entries() (n int) {
	var key bpfServiceKey
	var slot uint32
	for it := c.keys.Iterate(); it.Next(&key, &slot); {
		n++
	}
	return n
}

// service looks at a service's slot: its key, its chain of servers, and the list that packets see.
func (c *consistency) service(slot uint32, s *bpfService) {
	var found uint32
	listed, err := c.list(slot)
	if s.Use != bpfSlotUseSLOT_LIVE {
		if err == nil {
			c.say("service slot %d has a list and is not live", slot)
		}
		if c.keys.Lookup(s.Key, &found) == nil && found == slot {
			c.say("service slot %d has a key and is not live", slot)
		}
	} else {
		c.live++
		if err := c.keys.Lookup(s.Key, &found); err != nil || found != slot {
			c.say("service slot %d: its key leads to slot %d, %v", slot, found, err)
		}
		if err != nil {
			c.say("service slot %d has no list: %v", slot, err)
		}
		if !isOurs(&c.ours[0], s.Key.Addr, oursVirtual) {
			c.say("service slot %d: its address is not among ours", slot)
		}
	}
	if s.Use != bpfSlotUseSLOT_FREE {
		c.chain(slot, s, listed)
	}
}

func (c *consistency) chain(slot uint32, s *bpfService, listed []bpfSeat) {
	var seats []bpfSeat
	removed := false
	for i, d := range c.members(s) {
		if other := c.owner[i]; other != 0 {
			c.say("server slot %d is in the chains of services %d and %d", i, other, slot)
			return
		}
		c.owner[i] = slot
		if d.Service != slot {
			c.say("server slot %d says that it is of service slot %d, and is in the chain of %d", i, d.Service, slot)
		}
		if lvs.Forward(d.Forward) == lvs.Masq && !isOurs(&c.ours[0], d.Addr, oursServer) {
			c.say("server slot %d: its address is not among ours", i)
		}
		switch bpfSlotUse(d.Use) {
		case bpfSlotUseSLOT_LIVE:
			if removed || s.Use != bpfSlotUseSLOT_LIVE {
				c.say("server slot %d is live, after a removed one or in a removed service", i)
			}
			seats = append(seats, bpfSeat{Server: i, Weight: d.Weight})
		case bpfSlotUseSLOT_REMOVED:
			removed = true
		default:
			c.say("server slot %d is in the chain of service slot %d, and free", i, slot)
		}
	}
	if s.Use == bpfSlotUseSLOT_LIVE && !slices.Equal(listed, seats) {
		c.say("service slot %d: packets see %v, its chain is %v", slot, listed, seats)
	}
}

var errSeats = errors.New("the head of the list miscounts")

// list reads the list of servers that packets see.
func (c *consistency) list(slot uint32) ([]bpfSeat, error) {
	var id ebpf.MapID
	if err := c.lists.Lookup(slot, &id); err != nil {
		return nil, err
	}
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	seats := make([]bpfSeat, m.MaxEntries())
	for i := range seats {
		if err := m.Lookup(uint32(i), &seats[i]); err != nil {
			return nil, err
		}
	}
	last := int(seats[0].Server)
	rows := (int(seats[0].Table) + tableRow - 1) / tableRow
	if last+rows != len(seats)-1 {
		return nil, errSeats
	}
	if err := c.contest(slot, seats[:last+1]); err != nil {
		return nil, err
	}
	for i := range seats {
		seats[i].Next = 0
	}
	return seats[1 : last+1], nil
}

// configured gives a table as text, without what it carries: its services, each with its servers in order.
func configured(t *lvs.Table) string {
	var all []string
	for _, s := range t.Services() {
		text := fmt.Sprintf("%v %+v %v\n", s.ServiceID, s.ServiceConfig, s.Locals)
		for _, d := range s.Servers {
			text += fmt.Sprintf("  %v %+v\n", d.ServerID, d.ServerConfig)
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return fmt.Sprintf("%+v %v\n%s", t.Timeouts, t.Locals, strings.Join(all, ""))
}
