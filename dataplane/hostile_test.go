// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"lvs"
)

// seeds are valid packets: those of the table, of every way of forwarding, and what the director has sent of these, as others quote
// it.
func (j *judge) seeds(t testing.TB) (frames [][]byte) {
	for _, r := range rows {
		frame := r.in.frame(t)
		if r.damage != nil {
			frame = r.damage(frame)
		}
		frames = append(frames, frame)
	}
	for p, way := range byEveryWay {
		in := p.in("A")
		answer := p // as it goes to the client, whoever rewrites it
		answer.server = p.virtual
		frames = append(frames, in.frame(t), packet{path: answer, flags: "A", payload: []byte("answer"), answer: true}.frame(t))
		j.frames <- in.frame(t)
		must(t, <-j.said)
		for _, c := range j.conns() {
			switch {
			case c.Client != p.client || c.Virtual != p.virtual:
			case way.Forward == lvs.FullNAT:
				frames = append(frames, packet{path: path{p.protocol, c.Local, p.virtual, p.server}, flags: "A", payload: []byte("answer"), answer: true}.frame(t))
				frames = append(frames, packet{path: path{p.protocol, c.Local, p.server, p.server}, flags: "A", payload: []byte("request")}.frame(t))
			case way.Forward == lvs.Masq:
				request := p // as it goes to the server
				request.virtual = p.server
				frames = append(frames, p.out("A").frame(t), request.in("A").frame(t))
			}
		}
		if way.Forward == lvs.Tunnel {
			_, out, err := j.once(j.tc, in.frame(t))
			must(t, err)
			copy(out, routerMAC) // as the kernel has left it when it looks for the neighbour
			frames = append(frames, out)
		}
		frames = append(frames, inFragments(p.in("A").with(datagram1200).frame(t), uint32(p.virtual.Port()), 400)...)
	}
	return frames
}

func datagram1200(p *packet) { p.payload, p.fragmentOK = make([]byte, 1200), true }

// hostile makes packets out of valid ones that somebody might send who means no good.
type hostile struct {
	*rand.Rand
	valid [][]byte
}

func (h hostile) any() []byte { return slices.Clone(h.valid[h.IntN(len(h.valid))]) }

// frames are some packets that come one after the other.
func (h hostile) frames() [][]byte {
	frame := h.any()
	for range h.IntN(3) {
		frame = h.change(frame)
	}
	if h.IntN(8) == 0 {
		return h.overlapping(frame)
	}
	for range h.IntN(4) {
		frame = h.damage(frame)
	}
	if h.IntN(3) > 0 {
		mend(frame)
	}
	return [][]byte{frame}
}

// change makes another packet of a packet: an error about it, a tunnel with it, a fragment of it.
func (h hostile) change(frame []byte) []byte {
	if _, ok := readFrame(frame); !ok {
		return h.any()
	}
	switch h.IntN(6) {
	case 0, 1, 2:
		return h.about(frame)
	case 3:
		return h.tunnel(frame)
	case 4:
		return h.fragment(frame)
	}
	return h.extend(frame)
}

// packed puts what follows an IP header behind one.
func packed(v6 bool, src, dst []byte, protocol byte, payload []byte) []byte {
	frame := append(slices.Concat(routerMAC, clientMAC), 8, 0)
	if v6 {
		frame[12], frame[13] = 0x86, 0xdd
		frame = append(frame, 0x60, 0, 0, 0, byte(len(payload)>>8), byte(len(payload)), protocol, 64)
	} else {
		frame = append(frame, 0x45, 0, byte((20+len(payload))>>8), byte(20+len(payload)), 0, 1, 0x40, 0, 64, protocol, 0, 0)
	}
	frame = slices.Concat(frame, src, dst, payload)
	mend(frame)
	return frame
}

// about is an ICMP error about a packet, to whom that is from, or to somebody else.
func (h hostile) about(frame []byte) []byte {
	r, _ := read(frame[headers:], false)
	quoted := r.b[:min(len(r.b), 600)]
	if h.IntN(2) == 0 {
		quoted = quoted[:h.IntN(len(quoted)+1)]
	}
	kinds, protocol, from := []byte{3, 3, 3, 11, 4, 5, 12}, byte(1), server4.AsSlice()
	if r.v6 {
		kinds, protocol, from = []byte{1, 2, 2, 3, 4, 127, 128}, 58, server6.AsSlice()
	}
	to := r.src.AsSlice()
	if h.IntN(8) == 0 {
		to = r.dst.AsSlice()
	}
	head := []byte{kinds[h.IntN(len(kinds))], byte(h.IntN(6)), 0, 0, 0, 0, byte(h.IntN(8)), byte(h.Uint32())}
	return packed(r.v6, from, to, protocol, slices.Concat(head, quoted))
}

// tunnel puts a packet into another one, as the director does, or nearly so.
func (h hostile) tunnel(frame []byte) []byte {
	r, _ := read(frame[headers:], false)
	next, ether, payload, protocol := byte(4), uint16(0x0800), r.b, byte(0)
	if r.v6 {
		next, ether = 41, 0x86dd
	}
	switch h.IntN(4) {
	case 0:
		protocol = next
	case 1:
		protocol, payload = 47, slices.Concat(binary.BigEndian.AppendUint16([]byte{0, 0}, ether), payload)
	case 2:
		protocol, payload = 47, slices.Concat(binary.BigEndian.AppendUint16([]byte{0x80, 0}, ether), make([]byte, 4), payload)
	case 3:
		udp := binary.BigEndian.AppendUint16([]byte{0xc0, 1, 0x17, 0xc0}, uint16(12+len(payload)))
		protocol, payload = 17, slices.Concat(udp, []byte{0, 0, 0, next, 0, 0}, payload)
	}
	if h.IntN(2) == 0 {
		return packed(false, local4.AsSlice(), server4.AsSlice(), protocol, payload)
	}
	return packed(true, local6.AsSlice(), server6.AsSlice(), protocol, payload)
}

// fragment says of a packet that it is one, of any place.
func (h hostile) fragment(frame []byte) []byte {
	if frame[12] == 8 {
		binary.BigEndian.PutUint16(frame[20:], uint16(h.Uint32())&[]uint16{0xe003, 0x2000, 0x3fff, 0x0001}[h.IntN(4)])
		mend(frame)
		return frame
	}
	field := uint16(h.Uint32()) & []uint16{0x0019, 1, 0xffff, 8}[h.IntN(4)]
	x := append(binary.BigEndian.AppendUint16([]byte{frame[20], 0}, field), 0, 0, 0, byte(h.IntN(4)))
	frame[20] = fragmentHeader
	frame = slices.Insert(frame, headers+40, x...)
	binary.BigEndian.PutUint16(frame[18:], uint16(len(frame)-headers-40))
	return frame
}

// extend puts a header between, or makes one longer or shorter than it is.
func (h hostile) extend(frame []byte) []byte {
	if frame[12] == 8 {
		frame[headers] = 0x40 | byte(h.IntN(16))
		return frame
	}
	x := []byte{frame[20], byte(h.IntN(2) * h.IntN(256)), 1, 4, 0, 0, 0, 0}
	frame[20] = []byte{0, 43, 60, 51, 135}[h.IntN(5)]
	frame = slices.Insert(frame, headers+40, x...)
	binary.BigEndian.PutUint16(frame[18:], uint16(len(frame)-headers-40))
	return frame
}

// overlapping are fragments of a packet that have bytes in common, in any order, and some twice.
func (h hostile) overlapping(frame []byte) (all [][]byte) {
	r, ok := readFrame(frame)
	if !ok || r.fragment() || r.v6 && r.head != 40 || len(r.b)-r.head < 24 {
		return [][]byte{frame}
	}
	all = inFragments(frame, h.Uint32()%64, 8*(1+h.IntN(20)))
	all = all[:min(len(all), 6)]
	for _, f := range slices.Clone(all) {
		if h.IntN(3) > 0 {
			continue
		}
		f = slices.Clone(f)
		at, by := 20, uint16(1)
		if r.v6 {
			at, by = headers+42, 8
		}
		binary.BigEndian.PutUint16(f[at:], binary.BigEndian.Uint16(f[at:])+by*uint16(h.IntN(5))-2*by)
		mend(f)
		all = append(all, f)
	}
	if h.IntN(2) == 0 {
		h.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	}
	return all
}

// damage changes bytes at random. Most of what is read lies in the first ones.
func (h hostile) damage(frame []byte) []byte {
	n := min(len(frame), 180)
	switch kind := h.IntN(5); {
	case kind == 0:
		return frame[:h.IntN(len(frame)+1)]
	case kind == 1:
		return append(frame, make([]byte, h.IntN(64))...)
	case n <= 12:
	case kind == 2:
		frame[12+h.IntN(n-12)] = byte(h.Uint32())
	default:
		frame[12+h.IntN(n-12)] ^= 1 << h.IntN(8)
	}
	return frame
}

// mend makes the checksums of a packet right, where there are any.
func mend(frame []byte) {
	r, ok := readFrame(frame)
	if !ok {
		return
	}
	if !r.v6 {
		clear(r.b[10:12])
		binary.BigEndian.PutUint16(r.b[10:], ^uint16(sum(r.b[:r.head], 0)))
	}
	at := r.checksum()
	if at == 0 || r.fragment() || r.protocol == 17 && r.b[at]|r.b[at+1] == 0 {
		return
	}
	segment := r.b[r.head:]
	if r.protocol == 17 {
		if n := int(binary.BigEndian.Uint16(segment[4:])); n >= 8 && n <= len(segment) {
			segment = segment[:n]
		}
	}
	clear(r.b[at:][:2])
	check := ^uint16(sum(segment, r.pseudo(len(segment))))
	if check == 0 && r.protocol == 17 {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(r.b[at:], check)
}
