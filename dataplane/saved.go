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
}{{0x400, lvs.NoOutput}, {lifeSamePort, lvs.SamePort}, {0x2000, lvs.Assured}, {0x4000, lvs.Answered}, {0x8000, lvs.Told}, {lifeDisowned, lvs.Disowned}}

const (
	lifeActiveBit     = 0x100
	lifeControlledBit = 0x1000
	lifeSecondsShift  = 10 // of a template
)

// Entries reads the connection table with all that it takes to restore it: templates first, then connections. It leaves out
// templates that nobody would find again, and those of calls that are not known. Like Conns it waits for nobody.
func (d *Director) Entries() iter.Seq2[lvs.Entry, error] {
	return d.reader(func(in *instance, yield func(lvs.Entry, error) bool) { in.savedEntries(jiffies64(in.hz), yield) })
}

// Details reads the connection table with all that is known of each entry, in no particular order. Like Conns it waits for nobody.
func (d *Director) Details() iter.Seq2[lvs.Entry, error] {
	return d.reader(func(in *instance, yield func(lvs.Entry, error) bool) {
		in.details(jiffies64(in.hz), 1<<kindTemplate|1<<kindLost|1<<kindPlain, yield)
	})
}

func (d *Director) reader(read func(*instance, func(lvs.Entry, error) bool)) iter.Seq2[lvs.Entry, error] {
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
		read(in, yield)
	}
}

func (in *instance) savedEntries(now uint64, yield func(lvs.Entry, error) bool) {
	for _, kind := range []uint8{kindTemplate, kindPlain} {
		goes := true
		in.details(now, 1<<kind, func(e lvs.Entry, err error) bool {
			unknown := e.Template && e.PE != "" && e.PEData == ""
			goes = unknown || yield(e, err)
			return goes
		})
		if !goes {
			return
		}
	}
}

// details goes over the entries of some kinds, of each of which a bit is set.
func (in *instance) details(now uint64, kinds uint32, yield func(lvs.Entry, error) bool) {
	table, err := in.entries()
	if err != nil {
		yield(lvs.Entry{}, err)
		return
	}
	for at, e := range table.all() {
		if kinds>>e.Kind&1 == 0 || int(e.Server) >= len(in.servers) {
			continue
		}
		c, ok := in.listed(table, at, e, uint32(now))
		if !ok {
			continue
		}
		x := in.detail(table, at, e, c)
		table.account(at, &x, uint32(now/uint64(in.hz)))
		if !yield(x, nil) {
			return
		}
	}
}

// detail is all that is known of an entry.
func (in *instance) detail(table entries, at uint32, e *bpfConn, c lvs.Conn) lvs.Entry {
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
		var of bpfConn
		x.Controller = table.template(at, c.Forward)
		if table.at(x.Controller, &of) && of.isTemplate() {
			x.Persistent = in.conn(&of, e.Expires).Client
			if of.ClientPort == callPort {
				var call lvs.Conn
				in.call(x.Controller, &call)
				x.Persistent = call.Client
			}
		}
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
