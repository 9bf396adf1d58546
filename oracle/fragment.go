// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"time"

	"lvs"
)

// lifetime is how long later fragments may come after the first one.
const lifetime = 30 * time.Second

// part is what a fragment is of its packet.
type part struct {
	id       uint32
	from, to int // the bytes that it has
	more     bool
}

func (p part) first() bool { return p.more && p.from == 0 }
func (p part) later() bool { return p.from > 0 }

// isPart takes down what fragment begins at an offset of the frame, and says whether it can be.
func (p *packet) isPart(at int, f part) bool {
	bytes := p.end - at
	f.to = f.from + bytes
	p.part = f
	return bytes > 0 && (!f.more || bytes%8 == 0) && f.to <= 0xffff
}

type fragmentKey struct {
	source, destination netip.Addr
	id                  uint32
	protocol            lvs.Protocol // 0 for IPv6
}

// lead is what later fragments follow.
type lead struct {
	conn             *conn // nil: they have the result's verdict and reason
	output           bool
	result           Result
	began            time.Duration
	first, seen, all int // bytes: of the first fragment, that have come by, and in all if it is known
}

func (p *packet) fragmentKey() fragmentKey {
	k := fragmentKey{p.source.Addr(), p.destination.Addr(), p.part.id, p.protocol}
	if p.v6() {
		k.protocol = 0
	}
	return k
}

// concerned says whether an address of the packet is one of a service, or of a server whose answers are translated, or is
// or was a local one.
func (d *Director) concerned(p *packet) bool {
	if d.serves(p) || d.everLocal[p.destination.Addr()] {
		return true
	}
	for _, s := range d.servers {
		if s.server.Addr == p.source.Addr() && s.config.Forward == lvs.Masq {
			return true
		}
	}
	return false
}

// lead takes down what became of a first fragment.
func (d *Director) lead(p *packet, r Result) {
	if !d.concerned(p) {
		return
	}
	l := &lead{conn: d.returned(p), result: Result{Verdict: r.Verdict, Reason: r.Reason}, began: d.now, first: p.part.to, seen: p.part.to}
	l.output = l.conn != nil
	if l.conn == nil {
		l.conn = d.conns[flow{p.protocol, p.source, p.destination}]
	}
	if l.conn == nil {
		l.conn = d.answered(p)
		l.output = l.conn != nil
	}
	if r.Verdict == Answer {
		l.result.Verdict = Drop
	}
	d.leads[p.fragmentKey()] = l
}

// follow is the way of a later fragment: that of the first one.
func (d *Director) follow(in Packet, p *packet) Result {
	if !d.concerned(p) {
		return Result{}
	}
	k := p.fragmentKey()
	l := d.leads[k]
	if l == nil || d.now-l.began >= lifetime {
		return Result{Verdict: Drop, Reason: Fragment}
	}
	l.seen += p.part.to - p.part.from
	if !p.part.more {
		l.all = p.part.to
	}
	if p.part.from < l.first {
		return Result{Verdict: Drop, Reason: FragmentOverlap}
	}
	if l.all != 0 && l.seen >= l.all {
		delete(d.leads, k)
	}
	switch {
	case l.conn == nil:
		return l.result
	case l.output:
		return d.toClient(l.conn, in, p)
	}
	return d.toServer(l.conn, in, p)
}
