// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"io/fs"
	"iter"
	"time"

	"golang.org/x/sys/unix"

	"lvs"
)

// The flags of a connection's life that a file keeps, as C has them.
var lifeFlags = []struct {
	life uint32
	flag lvs.EntryFlags
}{{0x400, lvs.NoOutput}, {lifeSamePort, lvs.SamePort}, {0x2000, lvs.Assured}, {0x4000, lvs.Answered}, {0x8000, lvs.Told}}

const (
	lifeActiveBit     = 0x100
	lifeControlledBit = 0x1000
	lifeSecondsShift  = 10 // of a template
	lostPort          = 0xffff
)

// Entries reads the connection table with all that it takes to restore it: templates first, then connections. It leaves out
// templates that nobody would find again, and those of calls that are not known. Like Conns it waits for nobody.
func (d *Director) Entries() iter.Seq2[lvs.Entry, error] {
	return func(yield func(lvs.Entry, error) bool) {
		in, done, err := d.reading(unix.LOCK_UN)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			yield(lvs.Entry{}, err)
			return
		}
		defer done()
		in.savedEntries(jiffies(in.hz), yield)
	}
}

func (in *instance) savedEntries(now uint32, yield func(lvs.Entry, error) bool) {
	table, err := in.entries()
	if err != nil {
		yield(lvs.Entry{}, err)
		return
	}
	for _, kind := range []uint8{kindTemplate, kindPlain} {
		for at, e := range table.all() {
			if e.Kind != kind || int(e.Server) >= len(in.servers) {
				continue
			}
			c, ok := in.listed(table, at, e, now)
			if !ok {
				continue
			}
			x := in.saved(table, at, e, c)
			if x.Template && (e.VirtualPort == lostPort || c.PE != "" && c.PEData == "") {
				continue
			}
			if !yield(x, nil) {
				return
			}
		}
	}
}

// saved is what a file keeps of an entry.
func (in *instance) saved(table entries, at uint32, e *bpfConn, c lvs.Conn) lvs.Entry {
	x := lvs.Entry{Conn: c, ServerID: serverID(&in.servers[e.Server]), Controller: lvs.NoTemplate}
	if service := in.servers[e.Server].Service; int(service) < len(in.services) {
		x.Service = fromKey(in.services[service].Key)
	}
	if c.Template {
		x.Number, x.Conns, x.Timeout = at, table.links[at], e.Life>>lifeSecondsShift
		return x
	}
	for _, f := range lifeFlags {
		if e.Life&f.life != 0 {
			x.Flags |= f.flag
		}
	}
	if e.Life&lifeControlledBit != 0 {
		x.Controller = table.template(at, c.Forward)
	}
	return x
}

// template is the line of a controlled connection's template.
func (t entries) template(at uint32, forward lvs.Forward) uint32 {
	line := t.links[at]
	if forward != lvs.FullNAT {
		return line
	}
	var back bpfConn // has it in the place of a server
	if !t.at(line, &back) || back.Kind != kindReturn {
		return lvs.NoTemplate
	}
	return back.Server
}

// jiffiesIn is a time in jiffies.
func jiffiesIn(d time.Duration, hz uint32) uint32 {
	return uint32((d.Milliseconds()*int64(hz) + 500) / 1000)
}
