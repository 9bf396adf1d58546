// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"io/fs"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"lvs"
)

const (
	lifeDisowned = 0x40
	lifeEnded    = 0x200
)

// Disown takes a server's persistent clients away from it, which have another one from their next connection on, and with conns
// also its connections: those of TCP are reset at both ends when one of them sends something, datagrams go to another server. It
// says how many connections that are, and answers [lvs.ErrNotDefined] or [lvs.ErrNoServer].
func (d *Director) Disown(id lvs.ServiceID, server lvs.ServerID, conns bool) (int, error) {
	in, err := d.open(unix.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, lvs.ErrNotDefined
	}
	if err != nil {
		return 0, err
	}
	defer in.close()
	if err := in.repair(); err != nil {
		return 0, err
	}
	slot, err := in.slotOf(id, server)
	if err != nil {
		return 0, err
	}
	return in.disown(slot, conns)
}

// slotOf finds the slot of a server.
func (in *instance) slotOf(id lvs.ServiceID, server lvs.ServerID) (uint32, error) {
	for _, s := range in.live() {
		if fromKey(s.Key) != id {
			continue
		}
		for slot, d := range in.members(s) {
			if bpfSlotUse(d.Use) == bpfSlotUseSLOT_LIVE && serverID(d) == server {
				return slot, nil
			}
		}
		return 0, lvs.ErrNoServer
	}
	return 0, lvs.ErrNotDefined
}

// disown marks the entries of a server. One that ends meanwhile is left alone: its line is nobody else's for a while. It may be done
// again.
func (in *instance) disown(slot uint32, conns bool) (n int, err error) {
	table, err := in.entries()
	if err != nil {
		return 0, err
	}
	now := jiffies(in.hz)
	for at, e := range table.all() {
		line := &table.lines[at]
		switch {
		case e.Server != slot:
		case e.Kind == kindTemplate:
			line.Kind = kindLost
			atomic.CompareAndSwapUint32(&line.Expires, e.Expires, now)
		case e.Kind == kindPlain && conns && takeAway(&line.Life):
			n++
		}
	}
	return n, nil
}

// takeAway sets the flag, unless it is there or the connection ends.
func takeAway(life *uint32) bool {
	for {
		was := atomic.LoadUint32(life)
		if was&(lifeDisowned|lifeEnded) != 0 {
			return false
		}
		if atomic.CompareAndSwapUint32(life, was, was|lifeDisowned) {
			return true
		}
	}
}
