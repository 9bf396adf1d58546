// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"lvs"
)

const (
	lifeState    = 0x1f
	lifeActive   = 0x100
	lifeSamePort = 0x800
	lifeForward  = 16
	callPort     = 1  // a template's client port, if it is one of a SIP call
	templateMore = 60 // seconds that a template with connections goes on
)

func (in *instance) size() int {
	m, err := in.m(bpfMapConns)
	if err != nil {
		return 0
	}
	return connsIn(m.MaxEntries())
}

// jiffies64 is the kernel's clock of connections: it counts from five minutes before 32 bits of it overflow. It is a variable for the sake of
// tests that have a clock of their own.
var jiffies64 = func(hz uint32) uint64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return uint64(ts.Nano())*uint64(hz)/1e9 + 1<<32 - 300*uint64(hz)
}

// jiffies is that clock as connections have it.
func jiffies(hz uint32) uint32 { return uint32(jiffies64(hz)) }

func (in *instance) conns(now uint32, yield func(lvs.Conn, error) bool) {
	table, err := in.entries()
	if err != nil {
		yield(lvs.Conn{}, err)
		return
	}
	for at, e := range table.all() {
		if e.Kind == kindReturn || int(e.Server) >= len(in.servers) {
			continue
		}
		if c, ok := in.listed(table, at, e, now); ok && !yield(c, nil) {
			return
		}
	}
}

// listed is what a listing shows of an entry; nothing if its time is over.
func (in *instance) listed(table entries, at uint32, e *bpfConn, now uint32) (c lvs.Conn, ok bool) {
	if past := int32(e.Expires-now) <= 0; past && e.isTemplate() && table.links[at] != 0 {
		e.Expires += templateMore * in.hz // as the sweep is about to find
	} else if past {
		return c, false
	}
	c = in.conn(e, now)
	if c.Forward == lvs.FullNAT && !c.Template {
		c.Local = table.local(at)
	}
	if c.Template && e.ClientPort == callPort {
		in.call(at, &c)
	}
	return c, true
}

// lostPort is what is told of a lost template: a template's own port says nothing of that.
const lostPort = 0xffff

func (in *instance) conn(e *bpfConn, now uint32) lvs.Conn {
	server, virtual := serverID(&in.servers[e.Server]), fromPort(e.VirtualPort)
	template, lost := e.isTemplate(), e.Kind == kindLost
	if lost {
		virtual = lostPort
	}
	if template && (lost || virtual == 0) || !template && e.Life&lifeSamePort != 0 {
		server.Port = virtual
	}
	forward := lvs.Forward(e.Life >> lifeForward)
	if template {
		forward = lvs.Forward(in.servers[e.Server].Forward)
	}
	return lvs.Conn{
		Protocol: lvs.Protocol(e.Protocol),
		State:    lvs.State(e.Life & lifeState),
		Template: template,
		Client:   netip.AddrPortFrom(fromAddr(e.Client), fromPort(e.ClientPort)),
		Virtual:  netip.AddrPortFrom(fromAddr(e.Virtual), virtual),
		Server:   netip.AddrPortFrom(server.Addr, server.Port),
		Forward:  forward,
		Expires:  time.Duration(e.Expires-now) * time.Second / time.Duration(in.hz),
	}
}

// call tells a template of a SIP call from which client and of which call it is, if that is known.
func (in *instance) call(line uint32, c *lvs.Conn) {
	c.PE, c.Client = engines[1], netip.AddrPort{}
	calls, err := in.m(bpfMapCalls)
	if err != nil {
		return
	}
	var call bpfCall
	if calls.Lookup(line, &call) != nil {
		return
	}
	c.Client = netip.AddrPortFrom(fromAddr(call.Client), 0)
	c.PEData = string(call.Text[:min(int(call.Length), len(call.Text))])
}

// readCalls has the program look for Call-IDs if a service goes by them. Without exact, it does not stop to.
func (in *instance) readCalls(t *lvs.Table, exact bool) error {
	var calls uint32
	for _, s := range t.Services() {
		if s.PE != "" && s.Persistent != 0 {
			calls = 1
		}
	}
	s, err := in.settings()
	if err != nil || s.Calls == calls || calls == 0 && !exact {
		return err
	}
	s.Calls = calls
	return in.putSettings(s)
}
