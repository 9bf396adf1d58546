// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"slices"

	"lvs"
)

// policy is what becomes of connections of a server that is removed. With expire they have ended with the server, or end now.
func (d *Director) policy(r *server) (o lvs.OnDead, expire bool) {
	switch {
	case r.onDead != lvs.OnDeadUnset:
		return r.onDead, false
	case d.settings.ExpireNodestConn != 0:
		return lvs.OnDeadDrop, true
	}
	return d.settings.OnDead, false
}

// quits says whether persistent clients leave a server.
func (d *Director) quits(r *server) bool {
	o, _ := d.policy(r)
	return r.service == nil || r.config.Weight == 0 && (d.settings.ExpireQuiescentTemplate != 0 || o == lvs.OnDeadReschedule)
}

// datagram says that a packet can be any connection's first: what follows another connection cannot.
func (p *packet) datagram() bool { return p.protocol == lvs.UDP && !p.follows }

// deserted says whether a connection ends, for its server is gone, or of weight 0, and the packet can begin a new one.
func (d *Director) deserted(c *conn, p *packet) bool {
	o, expire := d.policy(c.server)
	gone := c.server.service == nil || c.server.config.Weight == 0
	switch {
	case c.disowned:
		return p.opens || p.datagram()
	case gone && p.opens && d.settings.ConnReuseMode&lvs.ReuseEnding != 0:
		return true
	case c.server.service == nil && expire:
		return true
	case c.server.service == nil:
		return (o == lvs.OnDeadReset || o == lvs.OnDeadReschedule) && (p.opens || p.datagram())
	case c.server.config.Weight == 0:
		return expire && p.opens || o == lvs.OnDeadReschedule && p.datagram()
	}
	return false
}

// endDeserted ends the connections and templates of servers that are removed, if that is what the settings ask for.
func (d *Director) endDeserted() {
	over := func(r *server) bool {
		_, expire := d.policy(r)
		return expire && r.service == nil
	}
	for _, c := range d.conns {
		if over(c.server) {
			d.remove(c)
		}
	}
	d.templates = slices.DeleteFunc(d.templates, func(t *template) bool {
		if over(t.server) {
			t.end()
			return true
		}
		return false
	})
}

// fate is what becomes of a packet whose connection the server has lost.
type fate uint8

const (
	goesOn fate = iota // it goes on as if nothing were the matter
	isDropped
	isReset
)

// lost says what becomes of a packet of a connection. A server's last packets are let out where nothing else is asked for.
func (d *Director) lost(c *conn, dir lvs.Direction, p *packet) fate {
	o, _ := d.policy(c.server)
	switch {
	case c.disowned:
		o = lvs.OnDeadReset
	case c.server.service != nil:
		return goesOn
	}
	resets := o == lvs.OnDeadReset || o == lvs.OnDeadReschedule
	switch {
	case o == lvs.OnDeadKeep || resets && p.protocol == lvs.TCP && p.event == lvs.RST && !p.only() && p.part == (part{}):
		return goesOn
	case resets && p.protocol == lvs.TCP && !p.only() && p.part == (part{}) && p.plain():
		return isReset
	case dir == lvs.ToClient && (!resets || p.protocol != lvs.TCP):
		return goesOn
	}
	return isDropped
}

// counts says whether a packet of a server counts: the last ones of a removed server do not, save for connections that it keeps, and
// for what resets the others.
func (d *Director) counts(c *conn, p *packet) bool {
	o, _ := d.policy(c.server)
	resets := (o == lvs.OnDeadReset || o == lvs.OnDeadReschedule) && p.protocol == lvs.TCP
	return c.server.service != nil || c.disowned || o == lvs.OnDeadKeep || resets
}

// plain says that the TCP header follows the shortest IP header.
func (p *packet) plain() bool {
	if p.v6() {
		return p.transport == p.ip+40
	}
	return p.transport == p.ip+20
}

// Flags of TCP.
const (
	tcpRST = 4
	tcpACK = 16
)

// answerReset is the segment that tells the sender of a segment that there is no such connection (RFC 9293, 3.5.2).
func (p *packet) answerReset() []byte {
	tcp := p.frame[p.transport:p.end]
	seq, ack, flags := uint32(0), uint32(0), byte(tcpRST)
	if tcp[13]&tcpACK != 0 {
		seq = binary.BigEndian.Uint32(tcp[8:])
	} else {
		flags |= tcpACK
		ack = binary.BigEndian.Uint32(tcp[4:]) + uint32(len(tcp)-int(tcp[12]>>4)*4) + uint32(tcp[13]&1) + uint32(tcp[13]>>1&1)
	}
	out := p.segment(seq, ack, flags, 64)
	copy(out[0:6], p.frame[6:12])
	copy(out[6:12], p.frame[0:6])
	at, size := p.ip+12, 4
	if p.v6() {
		at, size = p.ip+8, 16
	}
	copy(out[at:], p.frame[at+size:at+2*size])
	copy(out[at+size:], p.frame[at:at+size])
	copy(out[p.transport:], p.frame[p.transport+2:p.transport+4])
	copy(out[p.transport+2:], p.frame[p.transport:p.transport+2])
	return p.summed(out)
}

// becomeReset is a segment as a RST of its sender: the receiver expects what the segment would have begun with.
func (p *packet) becomeReset() []byte {
	tcp := p.frame[p.transport:]
	seq, ack, flags := binary.BigEndian.Uint32(tcp[4:]), uint32(0), byte(tcpRST)
	if tcp[13]&tcpACK != 0 {
		ack, flags = binary.BigEndian.Uint32(tcp[8:]), tcpRST|tcpACK
	}
	return p.summed(p.segment(seq, ack, flags, p.ttl))
}

// segment is a frame with the addresses and ports of the packet and nothing but a TCP header, its checksums missing.
func (p *packet) segment(seq, ack uint32, flags, ttl byte) []byte {
	out := append([]byte(nil), p.frame[:p.transport+tcpHeader]...)
	ip, tcp := out[p.ip:], out[p.transport:]
	if p.v6() {
		copy(ip, []byte{0x60, 0, 0, 0, 0, tcpHeader, byte(lvs.TCP), ttl})
	} else {
		copy(ip, []byte{0x45, 0, 0, 20 + tcpHeader, 0, 0, 0x40, 0, ttl, byte(lvs.TCP), 0, 0})
	}
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], ack)
	copy(tcp[12:], []byte{tcpHeader / 4 << 4, flags, 0, 0, 0, 0, 0, 0})
	return out
}

// summed completes the checksums of a segment.
func (p *packet) summed(out []byte) []byte {
	ip, tcp := out[p.ip:], out[p.transport:]
	addrs := ip[12:20]
	if p.v6() {
		addrs = ip[8:40]
	} else {
		binary.BigEndian.PutUint16(ip[10:], checksum(ip[:20]))
	}
	binary.BigEndian.PutUint16(tcp[16:], checksum(addrs, []byte{0, byte(lvs.TCP), 0, tcpHeader}, tcp))
	return out
}

// reset ends a connection by a packet of it: its sender is answered, and the other end has a RST in the packet's place, if there is a
// way there.
func (d *Director) reset(c *conn, in Packet, p *packet, forward func(*conn, Packet, *packet) Result) Result {
	onward, _ := parse(p.becomeReset())
	r := forward(c, in, onward)
	if r.Verdict != Forward {
		r = Result{Verdict: Drop}
	}
	r.Reason, r.Back = Reset, Packet{Interface: in.Interface, Frame: p.answerReset()}
	return r
}

// Disown takes a server's persistent clients away from it, and with conns also its connections: those of TCP are reset at both ends
// when one of them sends something, datagrams go to another server. It says how many connections that are.
func (d *Director) Disown(id lvs.ServiceID, server lvs.ServerID, conns bool) (n int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.service(id)
	if s == nil {
		return 0, lvs.ErrNotDefined
	}
	for _, r := range s.servers {
		if r.server == server {
			return d.disown(r, conns), nil
		}
	}
	return 0, lvs.ErrNoServer
}

func (d *Director) disown(r *server, conns bool) (n int) {
	for _, t := range d.templates {
		if t.server == r && !t.lost {
			t.lost, t.expires = true, d.now
		}
	}
	for _, c := range d.conns {
		if c.server == r && conns && !c.disowned {
			c.disowned = true
			n++
		}
	}
	d.endTemplates()
	return n
}
