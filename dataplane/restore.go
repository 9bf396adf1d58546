// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"lvs"
)

// Restored is what has become of entries that were to be made again.
type Restored struct {
	Conns, Templates int
	There            int // were there already
	NoServer         int // their server, or its service, is not there
	NoLocal          int // their local address is in no pool, or their local port another connection's
	InTheWay         int // the server's answers would be those of another connection
	NoRoom           int // the table is full
}

// LeftOut is how many entries are not in the table.
func (r Restored) LeftOut() int { return r.NoServer + r.NoLocal + r.InTheWay + r.NoRoom }

// Restore makes entries of the connection table again, for services and servers that are there, while packets come; what these have
// made since stays as it is. Templates come before the connections that they have. It may be cut short and done again. Changes of
// the table wait for its end.
func (d *Director) Restore(all iter.Seq2[*lvs.Entry, error]) (Restored, error) {
	in, err := d.open(unix.LOCK_SH)
	if err != nil {
		return Restored{}, err
	}
	defer in.close()
	r, err := in.restorer()
	if err != nil {
		return Restored{}, err
	}
	defer r.close()
	for e, err := range all {
		if err == nil {
			err = r.add(e)
		}
		if err != nil {
			return r.done, errors.Join(err, r.flush())
		}
	}
	return r.done, r.flush()
}

// restorer fills batches of entries, and has a program make them.
type restorer struct {
	*instance
	coll      *ebpf.Collection
	own       *instance // the program's own maps
	batch     []restorerRestored
	names     []uint32 // of the batch: the numbers of templates
	templates []restoredTemplate
	servers   map[serverName]uint32
	shared    []lvs.LocalAddr
	pools     map[uint32][]lvs.LocalAddr // of services that have their own, by slot
	done      Restored
}

// restoredTemplate is where a template of the file is now. They are in the order of their numbers, as the file has them.
type restoredTemplate struct{ number, line, own uint32 }

type serverName struct {
	service lvs.ServiceID
	server  lvs.ServerID
}

func (in *instance) restorer() (*restorer, error) {
	c, err := loadRestorer()
	if err != nil {
		return nil, err
	}
	pinned := map[string]*ebpf.Map{}
	for name, m := range c.Maps {
		if name == constants || name == restorerMapRestoring {
			continue
		}
		if pinned[name], err = in.m(mapPin(name)); err != nil {
			return nil, err
		}
		m.MaxEntries = pinned[name].MaxEntries()
	}
	if err := in.takeConstants(c); err != nil {
		return nil, err
	}
	coll, err := ebpf.NewCollectionWithOptions(c, ebpf.CollectionOptions{MapReplacements: pinned})
	if err != nil {
		return nil, explainLoad(err)
	}
	r := &restorer{instance: in, coll: coll, own: &instance{pinned: map[string]*ebpf.Map{restorerMapRestoring: coll.Maps[restorerMapRestoring]}}}
	all, err := mapped[restorerRestored](r.own, restorerMapRestoring)
	if err != nil {
		r.close()
		return nil, err
	}
	r.batch, r.names = all[:0], make([]uint32, 0, len(all))
	r.index()
	if err := r.findPools(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *restorer) close() {
	for _, b := range r.own.mapped {
		unix.Munmap(b)
	}
	r.coll.Close()
}

// index finds the slots of servers that are there.
func (r *restorer) index() {
	r.servers = map[serverName]uint32{}
	for _, s := range r.live() {
		service := fromKey(s.Key)
		for i, d := range r.members(s) {
			if bpfSlotUse(d.Use) == bpfSlotUseSLOT_LIVE {
				r.servers[serverName{service, serverID(d)}] = i
			}
		}
	}
}

func (r *restorer) findPools() (err error) {
	r.pools = map[uint32][]lvs.LocalAddr{}
	for slot, s := range r.live() {
		own, err := r.ownLocals(slot, s)
		if err != nil {
			return err
		}
		if len(own) > 0 {
			r.pools[slot] = fromLocals(own)
		}
	}
	r.shared, err = r.sharedLocals()
	return err
}

// add puts an entry into the batch.
func (r *restorer) add(e *lvs.Entry) error {
	server, ok := r.servers[serverName{e.Service, e.ServerID}]
	if !ok {
		r.done.NoServer++
		return nil
	}
	if e.Forward == lvs.FullNAT && !e.Template && !r.hasLocal(server, e) {
		r.done.NoLocal++
		return nil
	}
	first := !e.Template && len(r.batch) > 0 && isTemplate(&r.batch[len(r.batch)-1]) // its template's line is not known before that is made
	if first || len(r.batch) == cap(r.batch) {
		if err := r.flush(); err != nil {
			return err
		}
	}
	r.batch = append(r.batch, restorerRestored{})
	r.names = append(r.names, e.Number)
	r.fill(&r.batch[len(r.batch)-1], e, server)
	return nil
}

// hasLocal says whether the local address and port of a connection are some of its server's service.
func (r *restorer) hasLocal(server uint32, e *lvs.Entry) bool {
	pool, own := r.pools[r.instance.servers[server].Service]
	if !own {
		pool = r.shared
	}
	return slices.ContainsFunc(pool, func(l lvs.LocalAddr) bool {
		return l.Addr == e.Local.Addr() && l.Ports.First <= e.Local.Port() && e.Local.Port() <= l.Ports.Last
	})
}

func (r *restorer) fill(to *restorerRestored, e *lvs.Entry, server uint32) {
	to.Key.Client, to.Key.Virtual = toAddr(e.Client.Addr()), toAddr(e.Virtual.Addr())
	client, kind := toPort(e.Client.Port()), uint64(kindPlain)
	to.Age = uint32(e.Age / time.Second)
	to.Account.InPackets, to.Account.OutPackets, to.Account.InBytes, to.Account.OutBytes = e.Stats.InPackets, e.Stats.OutPackets, e.Stats.InBytes, e.Stats.OutBytes
	to.Data.Server, to.Data.Expires, to.Template = server, jiffiesIn(e.Expires, r.hz), lvs.NoTemplate
	if e.Template {
		kind = kindTemplate
		to.Data.Life = e.Timeout<<lifeSecondsShift | uint32(e.State)
		if e.Conns > 0 { // which come after it
			to.Data.Expires = max(to.Data.Expires, templateMore*r.hz)
		}
		if e.PE != "" {
			client = callPort
			to.Call.Client, to.Call.Length = to.Key.Client, uint32(copy(to.Call.Text[:], e.PEData))
		}
	} else {
		r.fillConn(to, e)
	}
	to.Key.Word = uint64(client) | uint64(toPort(e.Virtual.Port()))<<16 | uint64(e.Protocol)<<32 | kind<<40
}

func (r *restorer) fillConn(to *restorerRestored, e *lvs.Entry) {
	to.Data.Life = uint32(e.Forward)<<lifeForward | uint32(e.State)
	if e.State.Active(e.Protocol) {
		to.Data.Life |= lifeActiveBit
	}
	for _, f := range lifeFlags {
		if e.Flags&f.flag != 0 {
			to.Data.Life |= f.life
		}
	}
	if e.Forward == lvs.FullNAT {
		to.Local, to.LocalPort = toAddr(e.Local.Addr()), toPort(e.Local.Port())
	}
	i, found := slices.BinarySearchFunc(r.templates, e.Controller, func(t restoredTemplate, n uint32) int { return int(int64(t.number) - int64(n)) })
	if found && e.Controller != lvs.NoTemplate {
		to.Template, to.TemplateOwn = r.templates[i].line, r.templates[i].own
	}
}

// flush has the program make the batch, and counts what has become of it.
func (r *restorer) flush() error {
	if len(r.batch) == 0 {
		return nil
	}
	o := &ebpf.RunOptions{Data: make([]byte, 14), Context: [48]uint32{2: uint32(len(r.batch))}} // struct __sk_buff
	if _, err := r.coll.Programs[restorerProgRestore].Run(o); err != nil {
		return fmt.Errorf("restore connections: %w", err)
	}
	for i := range r.batch {
		r.count(&r.batch[i], r.names[i])
	}
	clear(r.batch)
	r.batch, r.names = r.batch[:0], r.names[:0]
	return nil
}

func (r *restorer) count(e *restorerRestored, number uint32) {
	template := isTemplate(e)
	if template && e.Outcome <= restorerRestoreOutcomeRESTORE_THERE {
		r.templates = append(r.templates, restoredTemplate{number, e.Template, e.TemplateOwn})
	}
	switch e.Outcome {
	case restorerRestoreOutcomeRESTORE_MADE:
		if template {
			r.done.Templates++
		} else {
			r.done.Conns++
		}
	case restorerRestoreOutcomeRESTORE_THERE:
		r.done.There++
	case restorerRestoreOutcomeRESTORE_ANSWERED:
		r.done.InTheWay++
	case restorerRestoreOutcomeRESTORE_NO_PORT:
		r.done.NoLocal++
	default:
		r.done.NoRoom++
	}
}

func isTemplate(e *restorerRestored) bool { return uint8(e.Key.Word>>40) == kindTemplate }
