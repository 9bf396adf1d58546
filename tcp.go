// SPDX-License-Identifier: Apache-2.0

package lvs

// Direction is the way that a packet of a connection goes.
type Direction uint8

// The directions, in the order of the rows of [TCPTransitions].
const (
	ToServer Direction = iota
	ToClient
	ToServerOnly // towards the server, in a connection whose answers have not been seen to come this way
	Directions   // how many there are
)

// TCPEvent is what moves a TCP connection on: the flag that counts in a segment.
type TCPEvent uint8

// The events, in the order of the rows of [TCPTransitions].
const (
	SYN TCPEvent = iota
	FIN
	ACK
	RST
	NoFlag    // none of the four
	TCPEvents // how many there are
)

// TCPEventOf says which flag of a segment counts: RST before SYN before FIN before ACK.
func TCPEventOf(syn, fin, ack, rst bool) TCPEvent {
	switch {
	case rst:
		return RST
	case syn:
		return SYN
	case fin:
		return FIN
	case ack:
		return ACK
	}
	return NoFlag
}

const (
	no = TCPNone
	es = TCPEstablished
	ss = TCPSynSent
	sr = TCPSynRecv
	fw = TCPFinWait
	tw = TCPTimeWait
	cl = TCPClose
	cw = TCPCloseWait
	la = TCPLastAck
	li = TCPListen
	sa = TCPSynAck
)

// TCPTransitions is the state that follows, by direction, event and state. It is what kernel IPVS does without secure_tcp.
var TCPTransitions = [Directions][TCPEvents][TCPStates]State{
	ToServer: {
		//       no  es  ss  sr  fw  tw  cl  cw  la  li  sa
		SYN:    {sr, es, es, sr, sr, sr, sr, sr, sr, sr, sr},
		FIN:    {cl, cw, ss, tw, tw, tw, cl, cw, la, li, tw},
		ACK:    {es, es, ss, es, fw, tw, cl, cw, cl, li, es},
		RST:    {cl, cl, cl, sr, cl, cl, cl, cl, la, li, sr},
		NoFlag: {cl, cl, cl, cl, cl, cl, cl, cl, cl, cl, cl},
	},
	ToClient: {
		//       no  es  ss  sr  fw  tw  cl  cw  la  li  sa
		SYN:    {ss, es, ss, sr, ss, ss, ss, ss, ss, li, sr},
		FIN:    {tw, fw, ss, tw, fw, tw, cl, tw, la, li, tw},
		ACK:    {es, es, ss, es, fw, tw, cl, cw, la, es, es},
		RST:    {cl, cl, ss, cl, cl, tw, cl, cl, cl, cl, cl},
		NoFlag: {cl, cl, cl, cl, cl, cl, cl, cl, cl, cl, cl},
	},
	ToServerOnly: {
		//       no  es  ss  sr  fw  tw  cl  cw  la  li  sa
		SYN:    {sr, es, es, sr, sr, sr, sr, sr, sr, sr, sr},
		FIN:    {cl, fw, ss, tw, fw, tw, cl, cw, la, li, tw},
		ACK:    {es, es, ss, es, fw, tw, cl, cw, cl, li, es},
		RST:    {cl, cl, cl, sr, cl, cl, cl, cl, la, li, cl},
		NoFlag: {cl, cl, cl, cl, cl, cl, cl, cl, cl, cl, cl},
	},
}

// Next is the state of a TCP connection after a segment.
func (s State) Next(d Direction, e TCPEvent) State { return TCPTransitions[d][e][s] }

// TCPActive tells the states in which a TCP connection is an active one of its server ([Load]).
var TCPActive = [TCPStates]bool{es: true, ss: true, sr: true, sa: true}

// Active says whether a connection in this state counts as active or, as all those of UDP do, as inactive.
func (s State) Active(p Protocol) bool { return p == TCP && TCPActive[s] }

var tcpTimeouts = [TCPStates]uint32{no: 2, ss: 120, sr: 60, tw: 120, cl: 10, cw: 60, la: 30, li: 120, sa: 120}

// Of is how long an entry in this state lives without a packet, in seconds.
func (t Timeouts) Of(p Protocol, s State) uint32 {
	or := func(v, otherwise uint32) uint32 {
		if v != 0 {
			return v
		}
		return otherwise
	}
	switch {
	case p == UDP:
		return or(t.UDP, DefaultTimeouts.UDP)
	case s == TCPEstablished:
		return or(t.TCP, DefaultTimeouts.TCP)
	case s == TCPFinWait:
		return or(t.TCPFin, DefaultTimeouts.TCPFin)
	}
	return tcpTimeouts[s]
}
