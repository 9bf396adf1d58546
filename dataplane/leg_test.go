// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"lvs"
)

// leg is what a connection does with packets of one direction.
type leg struct {
	lvs.Conn
	from, to       netip.AddrPort // as they come in
	newFrom, newTo netip.AddrPort
	answers        bool
}

// legs are those of a connection.
func legs(c lvs.Conn) []leg {
	in := leg{Conn: c, from: c.Client, to: c.Virtual, newFrom: c.Client, newTo: c.Server}
	out := leg{Conn: c, from: c.Server, to: c.Client, newFrom: c.Virtual, newTo: c.Client, answers: true}
	switch c.Forward {
	case lvs.Masq:
		return []leg{in, out}
	case lvs.FullNAT:
		in.newFrom, out.to = c.Local, c.Local
		return []leg{in, out}
	}
	in.newTo = c.Virtual
	return []leg{in}
}

// leads says whether a packet, or the one that an error quotes, is of this way. A later fragment is known by addresses.
func (y leg) leads(a reading) bool {
	is := func(r reading, from, to netip.AddrPort) bool {
		src, dst, ports := r.ends()
		if r.from != 0 {
			return src.Addr() == from.Addr() && dst.Addr() == to.Addr() && (r.v6 || r.protocol == byte(y.Protocol))
		}
		return ports && r.protocol == byte(y.Protocol) && src == from && dst == to
	}
	q, complains := a.quotes()
	if !complains {
		return is(a, y.from, y.to)
	}
	if inner, ok := q.inside(true); ok && y.Forward == lvs.Tunnel && a.dst == q.src && is(inner, y.from, y.to) {
		return true
	}
	return a.dst == q.src && is(q, y.to, y.from)
}

func (y leg) name(a reading) string {
	name := y.Forward.String()
	if y.answers {
		name += ", answer"
	}
	if q, complains := a.quotes(); complains {
		name += ", error"
		if _, ok := q.inside(true); ok && q.protocol != 6 {
			name += " about a tunnel"
		}
	}
	if a.fragment() {
		name += ", fragment"
	}
	return name
}

// made says what is wrong with what has become of a packet.
func (y leg) made(a, b reading) error {
	if q, complains := a.quotes(); complains && y.Forward == lvs.Tunnel {
		if inner, ok := q.inside(true); ok && inner.src == y.Client.Addr() && q.dst == y.Server.Addr() {
			return y.relayed(a, b, inner)
		}
	}
	if y.Forward == lvs.Tunnel {
		inner, ok := b.inside(false)
		if !ok || b.dst != y.Server.Addr() || b.src != local4 && b.src != local6 {
			return errNowhere
		}
		if err := y.translated(a, inner); err != nil {
			return err
		}
		if header, transport, _, _ := b.valid(); !header || b.protocol == 17 && !transport && wholly(a) {
			return errChecksum
		}
		return nil
	}
	return y.translated(a, b)
}

// wholly says whether all checksums of a packet are right that a tunnel's checksum rests on.
func wholly(a reading) bool {
	header, transport, _, _ := a.valid()
	return header && (transport || a.checksum() == 0)
}

// relayed judges an error about a packet in a tunnel.
func (y leg) relayed(a, b, inner reading) error {
	quoted := b.b[b.head+8:]
	if b.src != y.Virtual.Addr() || b.dst != y.Client.Addr() || !bytes.HasPrefix(inner.b, quoted) || len(quoted) != min(548, len(inner.b)) {
		return errAnswer
	}
	if _, was, _, _ := a.valid(); !was {
		return errChecksum
	}
	if header, transport, _, _ := b.valid(); !header || !transport {
		return errChecksum
	}
	return nil
}

// translated judges a packet with the addresses and ports that it is to have.
func (y leg) translated(a, b reading) error {
	if *a.ttl() < 2 || *b.ttl() != *a.ttl()-1 {
		return errTTL
	}
	src, dst, ports := b.ends()
	q, complains := b.quotes()
	switch {
	case complains:
		from, to, ok := q.ends()
		sender := a.src
		if y.newFrom.Addr() != y.from.Addr() {
			sender = y.newFrom.Addr()
		}
		if !ok || to != y.newFrom || from != y.newTo || b.dst != y.newTo.Addr() || b.src != sender {
			return errNowhere
		}
	case a.from != 0:
		if b.src != y.newFrom.Addr() || b.dst != y.newTo.Addr() {
			return errNowhere
		}
	case !ports || src != y.newFrom || dst != y.newTo:
		return errNowhere
	}
	if err := same(a, y.untold(b, len(a.b))); err != nil {
		return err
	}
	header, transport, quotedHeader, quotedTransport := a.valid()
	nowHeader, nowTransport, nowQuotedHeader, nowQuotedTransport := b.valid()
	if header && !nowHeader || transport && !nowTransport || quotedHeader && !nowQuotedHeader || quotedTransport && !nowQuotedTransport {
		return errChecksum
	}
	return nil
}

// same says whether two packets have all in common but what is translated.
func same(a, b reading) error {
	if !bytes.Equal(a.masked(false), b.masked(false)) {
		return errElsewhere
	}
	for {
		at := a.checksum()
		if a.protocol == 17 && at != 0 && (a.b[at]|a.b[at+1] == 0) != (b.b[at]|b.b[at+1] == 0) {
			return errZero
		}
		q, ok := a.quotes()
		if !ok {
			return nil
		}
		a = q
		b, _ = b.quotes()
	}
}

// untold takes the option that tells a server of FULLNAT who the client is out of a packet that has grown by it.
func (y leg) untold(b reading, length int) reading {
	more := 8
	if b.v6 {
		more = 20
	}
	if y.Forward != lvs.FullNAT || b.protocol != 6 || len(b.b) != length+more {
		return b
	}
	option := append(binary.BigEndian.AppendUint16([]byte{254, byte(more)}, y.Client.Port()), y.Client.Addr().AsSlice()...)
	end := b.head + int(b.b[b.head+12]>>4)*4
	for _, at := range []int{b.head + 20, end - more} {
		if end > len(b.b) || !bytes.Equal(b.b[at:at+more], option) {
			continue
		}
		without := append(append([]byte(nil), b.b[:at]...), b.b[at+more:]...)
		without[b.head+12] -= byte(more / 4 << 4)
		if b.v6 {
			binary.BigEndian.PutUint16(without[4:], uint16(length-40))
		} else {
			binary.BigEndian.PutUint16(without[2:], uint16(length))
		}
		b.b = without
		return b
	}
	return b
}
