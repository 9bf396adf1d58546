// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"time"

	"lvs"
)

// flow names a connection by its client's side, which is how its packets arrive.
type flow struct {
	protocol        lvs.Protocol
	client, virtual netip.AddrPort
}

type conn struct {
	flow
	server   *server
	to       netip.AddrPort // of the server
	forward  lvs.Forward    // as it was when the connection began
	state    lvs.State
	expires  time.Duration
	template *template      // nil if it has none
	once     bool           // its only packet is all of it
	local    netip.AddrPort // what the server sees in the client's place, with FULLNAT
	told     bool           // the server was told who the client is
	answered bool           // and has answered a packet since the handshake
	disowned bool           // its server has been taken away from it
}

func (c *conn) report(now time.Duration) lvs.Conn {
	return lvs.Conn{
		Protocol: c.protocol,
		State:    c.state,
		Client:   c.client,
		Virtual:  c.virtual,
		Server:   c.to,
		Local:    c.local,
		Forward:  c.forward,
		Expires:  c.expires - now,
	}
}

// answered finds the connection that a packet from a server answers.
func (d *Director) answered(p *packet) *conn { return d.between(p.protocol, p.destination, p.source) }

// between finds the connection whose answers go from a server to a client.
func (d *Director) between(p lvs.Protocol, client, server netip.AddrPort) *conn {
	for _, c := range d.conns {
		if c.forward == lvs.Masq && c.protocol == p && c.client == client && c.to == server {
			return c
		}
	}
	return nil
}

// insert begins a connection in state 0. It counts as inactive until its first packet has moved it on. It ends an older
// one of the same client's port with the same server, for another service: no answer could be told from the other's.
func (d *Director) insert(c *conn) {
	if older := d.between(c.protocol, c.client, c.to); older != nil && c.forward == lvs.Masq {
		d.remove(older)
	}
	d.conns[c.flow] = c
	if c.local.IsValid() {
		d.returns[returnKey{c.protocol, c.local, c.to}] = c
	}
	c.server.begin()
}

// begin counts one more connection.
func (s *server) begin() {
	s.load.Inactive++
	s.weigh()
	s.stats.Conns++
	s.service.stats.Conns++
}

func (d *Director) remove(c *conn) {
	delete(d.conns, c.flow)
	delete(d.returns, returnKey{c.protocol, c.local, c.to})
	*c.server.tally(c) -= 1
	c.server.weigh()
}

// touch moves a connection on by a packet of it.
func (d *Director) touch(c *conn, dir lvs.Direction, p *packet) {
	if c.once || p.only() {
		return
	}
	*c.server.tally(c) -= 1
	c.state = lvs.MachineOf(c.protocol, d.settings.SecureTCP >= 2).Next(c.state, dir, p.event)
	*c.server.tally(c) += 1
	if t := c.template; t != nil && (c.state == lvs.TCPEstablished && c.protocol == lvs.TCP || c.state == lvs.SCTPEstablished && c.protocol == lvs.SCTP || c.protocol == lvs.UDP && dir == lvs.ToClient) {
		t.assured = true
	}
	c.answered = c.answered || dir == lvs.ToClient && !p.syn
	c.expires = d.now + time.Duration(d.timeouts.Of(c.protocol, c.state))*time.Second
}

// noOutput says that no packet of the server is seen by this director.
func (c *conn) noOutput() bool { return c.forward == lvs.Route || c.forward == lvs.Tunnel }

// tally is the number that the connection counts in.
func (s *server) tally(c *conn) *uint32 {
	if c.state.Active(c.protocol) {
		return &s.load.Active
	}
	return &s.load.Inactive
}
