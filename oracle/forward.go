// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"

	"lvs"
	"lvs/sched"
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

// The reasons.
const (
	NoServer      Reason = "no_server"      // answered: no server can take the connection
	NoDestination Reason = "no_destination" // dropped: the server of the connection is removed
	NoConnection  Reason = "no_connection"  // passed: a TCP segment that neither begins a connection nor belongs to one
	NoRoute       Reason = "no_route"       // passed: no way to the server or client
	TableFull     Reason = "table_full"     // dropped: no room for another connection
	Fragment      Reason = "fragment"       // passed: to an address that has a service of the protocol
	TTL           Reason = "ttl"            // dropped: its hops are used up
	Unsupported   Reason = "unsupported"    // dropped: a forwarding method other than NAT
)

// Result is what became of a frame: the one that leaves, with [Forward] and [Answer], and why it was not forwarded.
type Result struct {
	Verdict
	Packet
	Reason
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
	p, ok := parse(in.Frame)
	if !ok {
		return Result{}
	}
	if p.fragment {
		if d.serves(p) {
			return Result{Reason: Fragment}
		}
		return Result{}
	}

	f := flow{p.protocol, p.source, p.destination}
	c := d.conns[f]
	if c != nil && d.reused(c, p) {
		d.remove(c)
		c = nil
	}
	if c != nil {
		return d.toServer(c, p)
	}
	if c := d.answered(p); c != nil {
		return d.toClient(c, p)
	}

	s := d.service(serviceOf(p))
	switch {
	case s == nil:
		return Result{}
	case p.protocol == lvs.TCP && p.event != lvs.SYN:
		return Result{Reason: NoConnection}
	}
	request := sched.Request{Client: p.source, Virtual: p.destination, Now: d.now, Random: d.options.Random}
	i := s.scheduler.Pick(s.rows(), request)
	switch {
	case i < 0:
		return Result{Answer, Packet{in.Interface, unreachable(p)}, NoServer}
	case len(d.conns) >= d.options.Size:
		return Result{Verdict: Drop, Reason: TableFull}
	}
	return d.toServer(d.insert(f, s.servers[i]), p)
}

func serviceOf(p *packet) lvs.ServiceID {
	id := lvs.ServiceID{Family: lvs.IPv4, Protocol: p.protocol, Addr: p.destination.Addr(), Port: p.destination.Port()}
	if p.v6() {
		id.Family = lvs.IPv6
	}
	return id
}

// serves says whether the packet is for an address that has a service of its protocol, on any port.
func (d *Director) serves(p *packet) bool {
	for _, s := range d.services {
		if s.id.Mark == 0 && s.id.Protocol == p.protocol && s.id.Addr == p.destination.Addr() {
			return true
		}
	}
	return false
}

// reused says that a client begins a new connection on the port of one that is over: conn_reuse_mode 1.
func (d *Director) reused(c *conn, p *packet) bool {
	return c.protocol == lvs.TCP && p.event == lvs.SYN && (c.state == lvs.TCPTimeWait || c.state == lvs.TCPClose)
}

func (d *Director) toServer(c *conn, p *packet) Result {
	if c.server.service == nil {
		return Result{Verdict: Drop, Reason: NoDestination}
	}
	dir := lvs.ToServer
	if c.forward != lvs.Masq {
		dir = lvs.ToServerOnly
	}
	d.touch(c, dir, p)
	if c.forward != lvs.Masq {
		return Result{Verdict: Drop, Reason: Unsupported}
	}
	return d.send(p, rewrite{destination: c.real()}, func(s *lvs.Stats) {
		s.InPackets++
		s.InBytes += uint64(p.size())
	}, c.server)
}

func (d *Director) toClient(c *conn, p *packet) Result {
	if c.server.service == nil {
		return Result{Verdict: Drop, Reason: NoDestination}
	}
	d.touch(c, lvs.ToClient, p)
	return d.send(p, rewrite{source: c.virtual}, func(s *lvs.Stats) {
		s.OutPackets++
		s.OutBytes += uint64(p.size())
	}, c.server)
}

// send is the way out: what gets this far and finds a way is counted.
func (d *Director) send(p *packet, w rewrite, count func(*lvs.Stats), s *server) Result {
	if p.ttl <= 1 {
		return Result{Verdict: Drop, Reason: TTL}
	}
	to := p.destination
	if w.destination.IsValid() {
		to = w.destination
	}
	hop, ok := d.options.Route(to.Addr())
	if !ok {
		return Result{Reason: NoRoute}
	}
	count(&s.stats)
	count(&s.service.stats)
	return Result{Verdict: Forward, Packet: Packet{hop.Interface, w.apply(p, hop)}}
}
