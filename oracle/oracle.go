// SPDX-License-Identifier: Apache-2.0

// Package oracle is the data plane of a director once more, in plain Go: slow, obvious, with a clock that is moved by
// hand. It judges the eBPF program, which has to answer every packet alike, and stands in for it where there are no
// privileges to load one.
package oracle

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"lvs"
)

// Hop is where a frame goes next.
type Hop struct {
	Interface           int
	Source, Destination [6]byte    // MAC addresses
	MTU                 uint32     // IP bytes that a packet may have there, 0 for no limit
	From                netip.Addr // the director's own address there, where tunnels begin
}

// Options are what a director stands on.
type Options struct {
	Size   int                          // connections that there is room for
	Route  func(netip.Addr) (Hop, bool) // the way to an address, false if there is none; nil knows no way
	Turns  func() Turns                 // where the round through local ports is; nil begins with the first one
	Early  bool                         // XDP comes before tc
	Random func() uint32                // chance, for schedulers that use it; nil is the runtime's source

	// Here says whether an address is the director's own, or one without a way; nil says no.
	Here func(netip.Addr) bool

	// Towards gives the director's own address towards a server, for what it tells it; nil knows none.
	Towards func(netip.Addr) netip.Addr

	// Spread tells connections apart from outside of tunnels, by GUE's source port and IPv6's flow label; nil does not.
	Spread func(client, virtual netip.AddrPort) uint64
}

// Director has a table in force, connections, and a clock that begins at zero. It is a [lvs.Director], and safe for
// concurrent use.
type Director struct {
	options   Options
	updates   sync.Mutex // held during a whole Update
	mu        sync.Mutex // guards what follows
	now       time.Duration
	timeouts  lvs.Timeouts
	settings  lvs.Settings
	services  []*service // oldest first
	servers   map[serverKey]*server
	conns     map[flow]*conn
	leads     map[fragmentKey]*lead
	locals    []lvs.LocalAddr // shared by the services
	everLocal map[netip.Addr]bool
	returns   map[returnKey]*conn
	tried     uint32 // local ports, in vain, for the packet that is handled
	templates []*template
	reasons   map[Reason]uint64
}

var _ lvs.Director = (*Director)(nil)

// New makes a director without services.
func New(o Options) *Director {
	if o.Route == nil {
		o.Route = func(netip.Addr) (Hop, bool) { return Hop{}, false }
	}
	if o.Here == nil {
		o.Here = func(netip.Addr) bool { return false }
	}
	if o.Towards == nil {
		o.Towards = func(netip.Addr) netip.Addr { return netip.Addr{} }
	}
	if o.Spread == nil {
		o.Spread = func(netip.AddrPort, netip.AddrPort) uint64 { return 0 }
	}
	return &Director{
		options:   o,
		settings:  lvs.DefaultSettings,
		servers:   map[serverKey]*server{},
		conns:     map[flow]*conn{},
		leads:     map[fragmentKey]*lead{},
		returns:   map[returnKey]*conn{},
		everLocal: map[netip.Addr]bool{},
		reasons:   map[Reason]uint64{},
	}
}

// Update changes the table; see [lvs.Director]. It answers the error of change, or one of a scheduler.
func (d *Director) Update(change func(*lvs.Table) error) error {
	d.updates.Lock()
	defer d.updates.Unlock()
	t, err := d.Table()
	if err != nil {
		return err
	}
	if err := change(t); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.commit(t)
}

// Table reads the table with loads and counters. Rates are not kept.
func (d *Director) Table() (*lvs.Table, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := &lvs.Table{Timeouts: d.timeouts, Locals: d.locals}
	for _, s := range d.services {
		t.Put(s.report())
	}
	return t, nil
}

// Conns reads the connection table as it is at the first step.
func (d *Director) Conns() iter.Seq2[lvs.Conn, error] {
	return func(yield func(lvs.Conn, error) bool) {
		d.mu.Lock()
		all := make([]lvs.Conn, 0, len(d.conns)+len(d.templates))
		for _, c := range d.conns {
			all = append(all, c.report(d.now))
		}
		for _, t := range d.templates {
			all = append(all, t.report(d.now))
		}
		d.mu.Unlock()
		for _, c := range all {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// Size is how many connections there is room for.
func (d *Director) Size() int { return d.options.Size }

// Advance moves the clock on, and ends the connections whose time comes. An entry that was given n seconds is there
// until the clock has moved by n seconds, and not any more then.
func (d *Director) Advance(by time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now += by
	d.endTemplates()
	for _, c := range slices.Collect(maps.Values(d.conns)) {
		if c.expires <= d.now {
			d.remove(c)
		}
	}
}

// Reasons counts the packets of services and connections that were not forwarded, by reason.
func (d *Director) Reasons() map[Reason]uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.reasons)
}
