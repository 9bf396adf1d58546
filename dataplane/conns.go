// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"lvs"
)

const (
	ownLive      = 1
	lifeState    = 0x1f
	lifeSamePort = 0x800
	lifeForward  = 16
	kindPlain    = 0
	kindTemplate = 1
	kindReturn   = 2
	callPort     = 1  // a template's client port, if it is one of a SIP call
	templateMore = 60 // seconds that a template with connections goes on
)

func (in *instance) size() int {
	m, err := in.m(bpfMapConns)
	if err != nil {
		return 0
	}
	return int(m.MaxEntries()) * segmentLines * 3 / 4
}

// lines gives the connection table as the kernel has it; entries change while they are read.
func (in *instance) lines() ([]bpfConn, error) {
	segments, err := mapped[bpfSegment](in, bpfMapConns)
	if err != nil {
		return nil, err
	}
	return unsafe.Slice(&segments[0].Line[0], len(segments)*segmentLines), nil
}

// links gives the word beside each line.
func (in *instance) links() ([]uint32, error) {
	segments, err := mapped[bpfLinks](in, bpfMapLinks)
	if err != nil {
		return nil, err
	}
	return unsafe.Slice(&segments[0].Line[0], len(segments)*segmentLines), nil
}

// jiffies is the kernel's clock of connections, cut to 32 bits: it counts from five minutes before it overflows. It is a
// variable for the sake of tests that have a clock of their own.
var jiffies = func(hz uint32) uint32 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	ticks := uint64(ts.Nano()) * uint64(hz) / 1e9
	return uint32(ticks) - 300*hz
}

// snapshot copies an entry, and says whether it is one that is not being written just now.
func snapshot(line *bpfConn, into *bpfConn) bool {
	own := atomic.LoadUint32(&line.Own)
	if own&ownLive == 0 {
		return false
	}
	*into = *line
	return atomic.LoadUint32(&line.Own) == own
}

func (in *instance) conns(now uint32, yield func(lvs.Conn, error) bool) {
	lines, err := in.lines()
	if err != nil {
		yield(lvs.Conn{}, err)
		return
	}
	counts, err := in.links()
	if err != nil {
		yield(lvs.Conn{}, err)
		return
	}
	var e bpfConn
	for i := range lines {
		if !snapshot(&lines[i], &e) || e.Kind == kindReturn || int(e.Server) >= len(in.servers) {
			continue
		}
		if past := int32(e.Expires-now) <= 0; past && e.Kind == kindTemplate && counts[i] != 0 {
			e.Expires += templateMore * in.hz // as the sweep is about to find
		} else if past {
			continue
		}
		c := in.conn(&e, now)
		if back := counts[i]; c.Forward == lvs.FullNAT && !c.Template && int(back) < len(lines) {
			var r bpfConn
			if snapshot(&lines[back], &r) && r.Kind == kindReturn {
				c.Local = netip.AddrPortFrom(fromAddr(r.Client), fromPort(r.ClientPort))
			}
		}
		if c.Template && e.ClientPort == callPort {
			in.call(uint32(i), &c)
		}
		if !yield(c, nil) {
			return
		}
	}
}

func (in *instance) conn(e *bpfConn, now uint32) lvs.Conn {
	server := serverID(&in.servers[e.Server])
	template := e.Kind == kindTemplate
	if lost := e.VirtualPort == 0xffff; template && (lost || e.VirtualPort == 0) || !template && e.Life&lifeSamePort != 0 {
		server.Port = fromPort(e.VirtualPort)
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
		Virtual:  netip.AddrPortFrom(fromAddr(e.Virtual), fromPort(e.VirtualPort)),
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

// filled counts the live entries and those whose lines are not free yet.
func (in *instance) filled() (live int, err error) {
	lines, err := in.lines()
	if err != nil {
		return 0, err
	}
	for i := range lines {
		if atomic.LoadUint32(&lines[i].Own)&ownLive != 0 {
			live++
		}
	}
	return live, nil
}
