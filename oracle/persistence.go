// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"lvs"
)

// templateMore is how long a template goes on that runs out while it has connections, and from then on at each use.
const templateMore = time.Minute

// lostPort is the port of a template whose server may not have the client any more.
const lostPort = 0xffff

// templateKey is what a client finds its template by: its network, and the part of a director that it is remembered for.
type templateKey struct {
	protocol lvs.Protocol
	network  netip.Addr
	virtual  netip.AddrPort
	call     string // the SIP Call-ID, if the service goes by it
}

// template remembers the server of a client.
type template struct {
	templateKey
	server  *server
	timeout time.Duration
	expires time.Duration
	assured bool // a connection has come through
	lost    bool // nobody finds it any more; it stays until its connections are over
}

func (t *template) report(now time.Duration) lvs.Conn {
	c := lvs.Conn{
		Protocol: t.protocol,
		Template: true,
		Client:   netip.AddrPortFrom(t.network, 0),
		Virtual:  t.virtual,
		Server:   netip.AddrPortFrom(t.server.server.Addr, t.server.server.Port),
		Forward:  t.server.config.Forward,
		Expires:  t.expires - now,
		PEData:   t.call,
	}
	if t.call != "" {
		c.PE = "sip"
	}
	if t.assured {
		c.State = lvs.TemplateAssured
	}
	if t.lost {
		c.Virtual = netip.AddrPortFrom(c.Virtual.Addr(), lostPort)
	}
	if t.lost || t.virtual.Port() == 0 {
		c.Server = netip.AddrPortFrom(c.Server.Addr(), c.Virtual.Port())
	}
	return c
}

// key is that of the template which a packet's client has with the service.
func (s *service) key(p *packet) templateKey {
	k := templateKey{protocol: p.protocol, network: s.network(p.source.Addr()), virtual: netip.AddrPortFrom(p.destination.Addr(), 0)}
	if s.byCall() {
		k.call = p.call()
	}
	switch {
	case p.destination.Port() == s.id.Port && s.id.Port != ftpPort:
		k.virtual = p.destination
	case s.id.Mark != 0:
		k.protocol = 0
		k.virtual = netip.AddrPortFrom(markAddr(s.id), 0)
	}
	return k
}

// byCall says that the service's clients are remembered by their SIP calls.
func (s *service) byCall() bool { return s.config.PE == "sip" && s.config.Persistent != 0 }

// network is the part of a client's address that the service goes by.
func (s *service) network(client netip.Addr) netip.Addr {
	if client.Is6() {
		p, _ := client.Prefix(int(s.config.Netmask))
		return p.Addr()
	}
	a := client.As4()
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])&s.config.Netmask)
	return netip.AddrFrom4(a)
}

// markAddr is the address that stands for a mark in a template.
func markAddr(id lvs.ServiceID) netip.Addr {
	var a [16]byte
	binary.BigEndian.PutUint32(a[:], id.Mark)
	if id.Family == lvs.IPv6 {
		return netip.AddrFrom16(a)
	}
	return netip.AddrFrom4([4]byte(a[:4]))
}

// template finds the template of a packet's client whose server it may go to; nil if there is none. One that does not serve
// is lost.
func (d *Director) template(s *service, p *packet) *template {
	k := s.key(p)
	i := slices.IndexFunc(d.templates, func(t *template) bool { return !t.lost && t.templateKey == k })
	if i < 0 {
		return nil
	}
	t := d.templates[i]
	if d.quits(t.server) {
		t.lost = true
		return nil
	}
	return t
}

// remember makes a template; nil if there is no room.
func (d *Director) remember(s *service, p *packet, r *server) *template {
	if d.full() {
		return nil
	}
	t := &template{templateKey: s.key(p), server: r, timeout: time.Duration(s.config.Persistent) * time.Second}
	d.templates = append(d.templates, t)
	r.load.Persistent++
	r.weigh()
	return t
}

// endTemplates ends the templates whose time is over by now, and lets those that have connections at that time go on.
// Connections that end at the same time end first.
func (d *Director) endTemplates() {
	d.templates = slices.DeleteFunc(d.templates, func(t *template) bool {
		for t.expires <= d.now {
			if !d.holds(t, t.expires) {
				t.end()
				return true
			}
			t.expires += templateMore
			t.timeout = templateMore
		}
		return false
	})
}

// end takes the template off its server.
func (t *template) end() {
	t.server.load.Persistent--
	t.server.weigh()
}

// holds says whether a connection of the template goes on after some time.
func (d *Director) holds(t *template, at time.Duration) bool {
	for _, c := range d.conns {
		if c.template == t && c.expires > at {
			return true
		}
	}
	return false
}
