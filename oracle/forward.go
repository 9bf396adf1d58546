// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"slices"

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

// The reasons, by the names that the eBPF program has for them.
const (
	NoServer    Reason = "no_server"   // answered: no server can take the connection
	Removed     Reason = "removed"     // dropped: the server of the connection is removed
	NoConn      Reason = "no_conn"     // passed: a TCP segment that neither begins a connection nor belongs to one
	NoRoute     Reason = "no_route"    // no way: to the server, answered; to the client, passed
	TableFull   Reason = "table_full"  // dropped: no room for another connection
	Fragment    Reason = "fragment"    // passed: to an address that has a service
	Malformed   Reason = "malformed"   // passed: lengths that cannot be, to an address that has a service
	TTL         Reason = "ttl"         // its hops are used up: to the server, answered; to the client, dropped
	TooBig      Reason = "too_big"     // larger than the way on: answered, or passed, see send
	Unsupported Reason = "unsupported" // passed: the service or the server asks for what is not built
)

// Result is what became of a frame: the one that leaves, with [Forward] and [Answer], or that the stack gets with [Pass] if
// not as it came; and why it was not forwarded.
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
	p, k := parse(in.Frame)
	switch {
	case k == malformed && d.serves(p):
		return Result{Reason: Malformed}
	case k == fragmented && d.serves(p):
		return Result{Reason: Fragment}
	case k != whole:
		return Result{}
	}

	f := flow{p.protocol, p.source, p.destination}
	c := d.conns[f]
	if c != nil && d.reused(c, p) {
		d.remove(c)
		c = nil
	}
	if c != nil {
		return d.toServer(c, in, p)
	}
	if c := d.answered(p); c != nil {
		return d.toClient(c, in, p)
	}

	s := d.service(serviceOf(p))
	switch {
	case s == nil:
		return Result{}
	case p.protocol == lvs.TCP && p.event != lvs.SYN:
		return Result{Reason: NoConn}
	case !d.supports(s.config):
		return Result{Reason: Unsupported}
	}
	request := sched.Request{Client: p.source, Virtual: p.destination, Now: d.now, Random: d.options.Random}
	i := s.scheduler.Pick(s.rows(), request)
	switch {
	case i < 0:
		return refuse(in, p, portUnreachable, NoServer)
	case s.servers[i].config.Forward != lvs.Masq:
		return Result{Reason: Unsupported}
	case len(d.conns) >= d.options.Size:
		return Result{Verdict: Drop, Reason: TableFull}
	}
	return d.toServer(d.insert(f, s.servers[i]), in, p)
}

func refuse(in Packet, p *packet, c complaint, why Reason) Result {
	return Result{Answer, Packet{in.Interface, c.about(p, 0)}, why}
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

// supports says whether what the service asks for is built.
func (d *Director) supports(c lvs.ServiceConfig) bool {
	only := d.options.Schedulers
	return c.Persistent == 0 && !c.OnePacket && (only == nil || slices.Contains(only, c.Scheduler))
}

// reused says that a client begins a new connection on the port of one that is over: conn_reuse_mode 1.
func (d *Director) reused(c *conn, p *packet) bool {
	return c.protocol == lvs.TCP && p.event == lvs.SYN && (c.state == lvs.TCPTimeWait || c.state == lvs.TCPClose)
}

func (d *Director) toServer(c *conn, in Packet, p *packet) Result {
	if c.server.service == nil {
		return Result{Verdict: Drop, Reason: Removed}
	}
	d.touch(c, lvs.ToServer, p)
	hop, ok := d.options.Route(c.real().Addr())
	switch {
	case p.ttl <= 1:
		return refuse(in, p, timeExceeded, TTL)
	case !ok:
		return refuse(in, p, hostUnreachable, NoRoute)
	}
	w := rewrite{destination: c.real()}
	if hop.tooBig(p) {
		if p.mayFragment { // by the stack
			return Result{Pass, Packet{in.Interface, w.apply(p)}, TooBig}
		}
		return Result{Answer, Packet{in.Interface, packetTooBig.about(p, hop.MTU)}, TooBig}
	}
	c.server.count(func(s *lvs.Stats) {
		s.InPackets++
		s.InBytes += uint64(p.size())
	})
	return hop.send(p, w)
}

// toClient is the way of an answer. One from a server that is removed goes out, too, and counts nowhere.
func (d *Director) toClient(c *conn, in Packet, p *packet) Result {
	d.touch(c, lvs.ToClient, p)
	hop, ok := d.options.Route(p.destination.Addr())
	switch {
	case p.ttl <= 1:
		return Result{Verdict: Drop, Reason: TTL}
	case !ok:
		return Result{Reason: NoRoute}
	}
	w := rewrite{source: c.virtual}
	if hop.tooBig(p) {
		if p.mayFragment {
			return Result{Pass, Packet{in.Interface, w.apply(p)}, TooBig}
		}
		return Result{Reason: TooBig} // the stack tells the server, which knows the packet as it is
	}
	c.server.count(func(s *lvs.Stats) {
		s.OutPackets++
		s.OutBytes += uint64(p.size())
	})
	return hop.send(p, w)
}

func (h Hop) tooBig(p *packet) bool { return h.MTU != 0 && p.size() > int(h.MTU) }

func (h Hop) send(p *packet, w rewrite) Result {
	out := w.apply(p)
	copy(out[0:], h.Destination[:])
	copy(out[6:], h.Source[:])
	return Result{Verdict: Forward, Packet: Packet{h.Interface, out}}
}
