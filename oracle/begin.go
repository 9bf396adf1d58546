// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"time"

	"lvs"
	"lvs/sched"
)

const (
	ftpPort      = 21
	ftpDataPort  = 20
	unprivileged = 1024 // ports from here on may be those of FTP's data
)

// requested finds the service that a packet without a connection asks for: by its mark; else by address and port, for FTP's
// data, or for any port.
func (d *Director) requested(p *packet, mark uint32) *service {
	id := serviceOf(p)
	if s := d.service(lvs.ServiceID{Family: id.Family, Mark: mark}); mark != 0 && s != nil {
		return s
	}
	ports := []uint16{id.Port}
	if p.protocol == lvs.TCP && (id.Port == ftpDataPort || id.Port >= unprivileged) {
		ports = append(ports, ftpPort)
	}
	for _, id.Port = range append(ports, 0) {
		if s := d.service(id); s != nil {
			return s
		}
	}
	return nil
}

// begins says whether a packet begins a connection.
func (d *Director) begins(p *packet) bool {
	switch p.protocol {
	case lvs.TCP:
		return p.opens || d.settings.SloppyTCP != 0 && p.event != lvs.RST
	case lvs.SCTP:
		return p.opens || d.settings.SloppySCTP != 0 && p.event != lvs.SCTPAbort
	}
	return true
}

// takes says whether a service takes a packet that has found it. What comes from the port of FTP's data was begun by a
// server, and other ports than the service's follow it by a template alone.
func (s *service) takes(p *packet) bool {
	return p.source.Port() != ftpDataPort &&
		(s.id.Port == 0 || s.id.Port == p.destination.Port() || s.config.Persistent != 0)
}

// begin is the way of a packet that has no connection. Where XDP comes first, it leaves to tc what finds no local port, and a
// scheduler is asked twice.
func (d *Director) begin(in Packet, p *packet) Result {
	d.tried = 0
	r := d.beginOnce(in, p)
	if r.Reason == NoLocalPort && d.options.Early && !p.apart {
		r = d.beginOnce(in, p)
	}
	return r
}

func (d *Director) beginOnce(in Packet, p *packet) Result {
	s := d.requested(p, in.Mark)
	switch {
	case s == nil || p.follows:
		return Result{}
	case !d.begins(p):
		return Result{Reason: NoConn}
	case !s.takes(p):
		return Result{}
	case s.byCall() && p.call() == "":
		return Result{Verdict: Drop, Reason: NoCall}
	}
	return d.beginWith(s, in, p)
}

// beginWith is the same with a service that takes the packet.
func (d *Director) beginWith(s *service, in Packet, p *packet) Result {
	var t *template
	if s.config.Persistent != 0 {
		t = d.template(s, p)
	}
	var r *server
	if t != nil {
		r = t.server
	} else if i := s.scheduler.Pick(s.rows(), d.request(s, p)); i >= 0 {
		r = s.servers[i]
	}
	switch {
	case r == nil:
		return refuse(in, p, portUnreachable, NoServer)
	case !ways[r.config.Forward] || r.config.Forward == lvs.FullNAT && s.config.OnePacket && p.protocol == lvs.UDP:
		return Result{Reason: Unsupported}
	}
	if s.config.Persistent != 0 {
		if t == nil {
			t = d.remember(s, p, r)
		}
		if t == nil {
			return Result{Verdict: Drop, Reason: TableFull}
		}
		t.expires = d.now + t.timeout
	}
	c := &conn{flow: flow{p.protocol, p.source, p.destination}, server: r, to: r.at(p.destination), forward: r.config.Forward, template: t}
	switch {
	case s.config.OnePacket && p.protocol == lvs.UDP:
		d.glance(c)
	case c.forward == lvs.FullNAT && !d.takeLocal(s, c):
		return refuse(in, p, portUnreachable, NoLocalPort)
	case d.full():
		return Result{Verdict: Drop, Reason: TableFull}
	default:
		d.insert(c)
		c.expires = d.now + begunByError // unless a packet of its own moves it on
	}
	return d.toServer(c, in, p)
}

// request is what the scheduler is told.
func (d *Director) request(s *service, p *packet) sched.Request {
	return sched.Request{Client: p.source, Virtual: p.destination, Now: d.now, Random: d.options.Random, Lifetime: d.placeLife(s)}
}

// placeLife is how long lblc and lblcr remember what is not used.
func (d *Director) placeLife(s *service) time.Duration {
	lifetime := time.Duration(d.settings.LBLCExpiration) * time.Second
	if s.config.Scheduler == "lblcr" {
		lifetime = time.Duration(d.settings.LBLCRExpiration) * time.Second
	}
	if lifetime == 0 {
		return -1
	}
	return lifetime
}

// at is where a server takes a connection to an address. It keeps the port of the client's choice if it has none of its own,
// or if the service is a persistent one of another port.
func (r *server) at(to netip.AddrPort) netip.AddrPort {
	port := r.server.Port
	if s := r.service; port == 0 || s.config.Persistent != 0 && s.id.Port != to.Port() {
		port = to.Port()
	}
	return netip.AddrPortFrom(r.server.Addr, port)
}

// full says whether there is no room for another entry.
func (d *Director) full() bool { return len(d.conns)+len(d.returns)+len(d.templates) >= d.options.Size }

// glance is a connection of one packet, which a threshold may notice.
func (d *Director) glance(c *conn) {
	c.once = true
	c.server.begin()
	c.server.load.Inactive--
	c.server.weigh()
}
