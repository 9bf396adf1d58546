// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"net/netip"

	"lvs"
)

// Verdict is what becomes of a frame.
type Verdict uint8

// The verdicts.
const (
	Pass    Verdict = iota // it goes up to the stack as it came
	Forward                // it goes on, changed
	Answer                 // another frame goes back instead of it
	Drop
)

// String gives the verdict in lower case.
func (v Verdict) String() string {
	names := [...]string{"pass", "forward", "answer", "drop"}
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("verdict-%d", uint8(v))
}

// Reason says why a packet of a service or a connection was not forwarded.
type Reason string

// The reasons, by the names that the eBPF program has for them.
const (
	NoServer        Reason = "no_server"        // answered: no server can take the connection
	Removed         Reason = "removed"          // dropped: the server of the connection is removed
	Reset           Reason = "reset"            // answered: the same, or it was taken away from the connection, and both ends are told
	NoConn          Reason = "no_conn"          // passed: a TCP segment that neither begins a connection nor belongs to one
	NoRoute         Reason = "no_route"         // no way: to the server, answered; to the client, passed
	TableFull       Reason = "table_full"       // dropped: no room for another connection
	Fragment        Reason = "fragment"         // dropped: a later fragment, and its first one did not come before it
	Malformed       Reason = "malformed"        // passed: lengths that cannot be, to an address that has a service
	NoLocalPort     Reason = "no_local_port"    // answered: no local address and port free for FULLNAT
	NoRoom          Reason = "toa_no_room"      // forwarded without the client's address, which the server has not heard yet
	TTL             Reason = "ttl"              // its hops are used up: to the server, answered; to the client, dropped
	TooBig          Reason = "too_big"          // larger than the way on: answered, or passed, see send
	FragmentOverlap Reason = "fragment_overlap" // dropped: a later fragment with bytes of the first one
	NoCall          Reason = "no_call"          // dropped: to a service that goes by SIP calls, without a Call-ID
	Unsupported     Reason = "unsupported"      // passed: the service or the server asks for what is not built
)

// Result is what became of a frame: the one that leaves, with [Forward] and [Answer], or that the stack gets with [Pass] if
// not as it came; and why it was not forwarded.
type Result struct {
	Verdict
	Packet
	Reason
	Back Packet // with [Reset]: what its sender is told, besides what goes on
}

// Packet says what becomes of a frame, and moves connections and counters accordingly.
func (d *Director) Packet(in Packet) Result {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.handle(in)
	if r.Reason != "" {
		d.reasons[r.Reason]++
	}
	return r
}

func (d *Director) handle(in Packet) Result {
	p, k := parse(in.Frame)
	switch {
	case k == malformed && d.serves(p):
		return Result{Reason: Malformed}
	case k == unsupported && d.serves(p):
		return Result{Reason: Unsupported}
	case k == related:
		return d.relate(in, p)
	case k == later:
		return d.follow(in, p)
	case k != whole:
		return Result{}
	}
	r := d.direct(in, p)
	if p.part.first() {
		d.lead(p, r)
	}
	return r
}

// direct is the way of a packet that has its ports.
func (d *Director) direct(in Packet, p *packet) Result {
	if c := d.returned(p); c != nil {
		return d.toClient(c, in, p)
	}
	c := d.conns[flow{p.protocol, p.source, p.destination}]
	switch {
	case c == nil:
	case d.replaced(c, p):
		d.remove(c)
		c = nil
	case d.deserted(c, p):
		d.remove(c)
		c, p.apart = nil, true
	}
	if c != nil {
		return d.toServer(c, in, p)
	}
	if c := d.answered(p); c != nil {
		return d.toClient(c, in, p)
	}
	if r := d.begin(in, p); r.Verdict != Pass || r.Reason != "" {
		return r
	}
	return d.stray(in, p)
}

// ways are the forwarding methods that the oracle has.
var ways = map[lvs.Forward]bool{lvs.Masq: true, lvs.Route: true, lvs.Tunnel: true, lvs.FullNAT: true}

// refuse answers a packet with an ICMP error, unless it is one itself, or a later fragment.
func refuse(in Packet, p *packet, c complaint, why Reason) Result {
	if p.only() {
		return Result{Verdict: Drop, Reason: why}
	}
	return Result{Verdict: Answer, Packet: Packet{Interface: in.Interface, Frame: c.about(p, 0)}, Reason: why}
}

func serviceOf(p *packet) lvs.ServiceID {
	id := lvs.ServiceID{Family: lvs.IPv4, Protocol: p.protocol, Addr: p.destination.Addr(), Port: p.destination.Port()}
	if p.v6() {
		id.Family = lvs.IPv6
	}
	return id
}

// serves says whether the packet is for an address that has a service, of any protocol and port.
func (d *Director) serves(p *packet) bool {
	for _, s := range d.services {
		if s.id.Mark == 0 && s.id.Addr == p.destination.Addr() {
			return true
		}
	}
	return false
}

func (d *Director) toServer(c *conn, in Packet, p *packet) Result {
	switch d.lost(c, lvs.ToServer, p) {
	case isDropped:
		return Result{Verdict: Drop, Reason: Removed}
	case isReset:
		return d.reset(c, in, p, d.toServer)
	}
	dir := lvs.ToServer
	if c.forward != lvs.Masq && c.forward != lvs.FullNAT {
		dir = lvs.ToServerOnly
	}
	d.touch(c, dir, p)
	hop, ok := d.options.Route(c.to.Addr())
	switch {
	case p.ttl <= 1:
		return refuse(in, p, timeExceeded, TTL)
	case !ok:
		return refuse(in, p, hostUnreachable, NoRoute)
	}
	w, overhead, fragments := d.wayTo(c, hop, p)
	if hop.tooBig(p.size() + overhead) {
		if fragments { // by the stack
			return Result{Verdict: Pass, Packet: Packet{Interface: in.Interface, Frame: w.apply(p)}, Reason: TooBig}
		}
		if p.only() {
			return Result{Verdict: Drop, Reason: TooBig}
		}
		return Result{Verdict: Answer, Packet: Packet{Interface: in.Interface, Frame: packetTooBig.about(p, hop.MTU-uint32(overhead))}, Reason: TooBig}
	}
	d.count(c.server, func(s *lvs.Stats) {
		s.InPackets++
		s.InBytes += uint64(p.size())
	})
	r := hop.send(w.apply(p))
	if d.introduces(c, p) {
		var told bool
		if r.Frame, told = introduce(r.Frame, c.client, hop); told {
			c.told = true
		} else if !c.told {
			r.Reason = NoRoom
		}
	}
	return r
}

// wayTo is what becomes of a packet on its way to the server: how it is changed, how much larger it becomes, and whether the stack
// may fragment it then. An IPv6 packet on its way is fragmented by nobody.
func (d *Director) wayTo(c *conn, hop Hop, p *packet) (w interface{ apply(*packet) []byte }, overhead int, fragments bool) {
	switch c.forward {
	case lvs.Masq, lvs.FullNAT:
		return rewrite{source: c.local, destination: c.to}, 0, p.mayFragment
	case lvs.Tunnel:
		t := tunnel{c.server.config.Tunnel, hop.From, c.to.Addr(), d.spread(p), d.settings.PMTUDisc != 0}
		return t, t.overhead(), t.mayFragment(p) && !p.v6() && !t.to.Is6()
	}
	return rewrite{}, 0, p.mayFragment
}

// spread is what packets of a connection have in common; fragments, of which most have no ports, go together as well.
func (d *Director) spread(p *packet) uint64 {
	if p.part.first() || p.part.later() {
		return d.options.Spread(netip.AddrPortFrom(p.source.Addr(), 0), netip.AddrPortFrom(p.destination.Addr(), 0))
	}
	return d.options.Spread(p.source, p.destination)
}

// toClient is the way of an answer. One from a server that is removed goes out, too, and counts nowhere, unless its connections are
// to be kept, or reset.
func (d *Director) toClient(c *conn, in Packet, p *packet) Result {
	switch d.lost(c, lvs.ToClient, p) {
	case isDropped:
		return Result{Verdict: Drop, Reason: Removed}
	case isReset:
		return d.reset(c, in, p, d.toClient)
	}
	d.touch(c, lvs.ToClient, p)
	hop, ok := d.options.Route(c.client.Addr())
	switch {
	case p.ttl <= 1:
		return Result{Verdict: Drop, Reason: TTL}
	case !ok:
		return Result{Reason: NoRoute}
	}
	w := rewrite{source: c.virtual, destination: c.client}
	if hop.tooBig(p.size()) {
		if p.mayFragment {
			return Result{Verdict: Pass, Packet: Packet{Interface: in.Interface, Frame: w.apply(p)}, Reason: TooBig}
		}
		if c.forward == lvs.FullNAT && p.only() {
			return Result{Verdict: Drop, Reason: TooBig}
		}
		if c.forward == lvs.FullNAT { // the stack knows nothing of it
			return Result{Verdict: Answer, Packet: Packet{Interface: in.Interface, Frame: packetTooBig.about(p, hop.MTU)}, Reason: TooBig}
		}
		return Result{Reason: TooBig} // the stack tells the server, which knows the packet as it is
	}
	if d.counts(c, p) {
		d.count(c.server, func(s *lvs.Stats) {
			s.OutPackets++
			s.OutBytes += uint64(p.size())
		})
	}
	return hop.send(w.apply(p))
}

func (h Hop) tooBig(size int) bool { return h.MTU != 0 && size > int(h.MTU) }

func (h Hop) send(out []byte) Result {
	copy(out[0:], h.Destination[:])
	copy(out[6:], h.Source[:])
	return Result{Verdict: Forward, Packet: Packet{Interface: h.Interface, Frame: out}}
}
