// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"
	"time"

	"lvs"
)

// begunByError is how long a connection has that an ICMP error began, until a packet of its own comes.
const begunByError = 3 * time.Second

// beginByError is the way of an ICMP error about a connection that is not there, with schedule_icmp.
func (d *Director) beginByError(in Packet, p *packet) Result {
	s := d.requested(p, in.Mark)
	switch {
	case s == nil || !s.takes(p):
		return Result{}
	case s.byCall(): // which an error does not say
		return Result{Verdict: Drop, Reason: NoCall}
	case s.config.OnePacket && p.protocol == lvs.UDP: // whoever had the packet is not known any more
		return Result{}
	}
	d.tried = 0
	return d.beginWith(s, in, p)
}

// stray is the way of a packet that belongs to no connection and begins none of a client's: a server may call, or be told.
func (d *Director) stray(in Packet, p *packet) Result {
	r := d.real(p)
	switch {
	case r == nil || p.follows || p.ttl <= 1 || d.options.Here(p.destination.Addr()):
		return Result{}
	case r.service.byCall() && r.service.id.Mark == 0 && p.call() != "":
		return d.callBack(r, in, p)
	case d.settings.NATICMPSend == 0, p.protocol == lvs.TCP && p.event == lvs.RST, p.protocol == lvs.SCTP && p.event == lvs.SCTPAbort:
		return Result{}
	}
	from := p.destination.Addr()
	if own := d.options.Towards(p.source.Addr()); own.IsValid() {
		from = own
	}
	return Result{Verdict: Answer, Packet: Packet{Interface: in.Interface, Frame: portUnreachable.aboutFrom(from, p, 0)}, Reason: NoConn}
}

// real finds the server with NAT that a packet comes from, of the newest service that has it.
func (d *Director) real(p *packet) *server {
	for _, s := range slices.Backward(d.services) {
		for _, r := range s.servers {
			if r.config.Forward == lvs.Masq && (s.id.Mark != 0 || s.id.Protocol == p.protocol) &&
				netip.AddrPortFrom(r.server.Addr, r.server.Port) == p.source {
				return r
			}
		}
	}
	return nil
}

// callBack is the way of a call that a server begins: it leaves from the address of its service.
func (d *Director) callBack(r *server, in Packet, p *packet) Result {
	s, turned := r.service, *p
	turned.source, turned.destination = p.destination, netip.AddrPortFrom(s.id.Addr, s.id.Port)
	t := d.template(s, &turned)
	if t != nil && t.server != r {
		t.lost, t = true, nil
	}
	if t == nil {
		t = d.remember(s, &turned, r)
	}
	if t == nil {
		return Result{Verdict: Drop, Reason: TableFull}
	}
	t.expires = d.now + t.timeout
	c := &conn{flow: flow{p.protocol, turned.source, turned.destination}, server: r, to: p.source, forward: lvs.Masq, template: t}
	older := d.conns[c.flow]
	if older != nil && older.server != r && !s.config.OnePacket {
		d.remove(older)
		older = nil
	}
	switch {
	case s.config.OnePacket:
		t.assured = true
		d.glance(c)
	case older != nil:
		c = older
	case d.full():
		return Result{Verdict: Drop, Reason: TableFull}
	default:
		d.insert(c)
	}
	return d.toClient(c, in, p)
}
