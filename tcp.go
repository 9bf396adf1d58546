// SPDX-License-Identifier: Apache-2.0

package lvs

// The events of TCP: the flag that counts in a segment.
const (
	SYN Event = iota
	FIN
	ACK
	RST
	NoFlag    // none of the four
	TCPEvents // how many there are
)

// TCPEventOf says which flag of a segment counts: RST before SYN before FIN before ACK.
func TCPEventOf(syn, fin, ack, rst bool) Event {
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

type transitionsOfTCP [Directions][TCPEvents][TCPStates]State

// tcpTransitions is the state that follows, by direction, event and state, as kernel IPVS has it.
var tcpTransitions = transitionsOfTCP{
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

// tcpSecureTransitions is the same with secure_tcp.
var tcpSecureTransitions = transitionsOfTCP{
	ToServer: {
		//       no  es  ss  sr  fw  tw  cl  cw  la  li  sa
		SYN:    {sr, es, es, sr, sr, sr, sr, sr, sr, sr, sa},
		FIN:    {cl, cw, ss, tw, tw, tw, cl, cw, la, li, sa},
		ACK:    {es, es, ss, sr, fw, tw, cl, cw, cl, li, sa},
		RST:    {cl, cl, cl, sr, cl, cl, cl, cl, la, li, cl},
		NoFlag: {cl, cl, cl, cl, cl, cl, cl, cl, cl, cl, cl},
	},
	ToClient: {
		//       no  es  ss  sr  fw  tw  cl  cw  la  li  sa
		SYN:    {ss, es, ss, sa, ss, ss, ss, ss, ss, li, sa},
		FIN:    {tw, fw, ss, tw, fw, tw, cl, tw, la, li, tw},
		ACK:    {es, es, ss, es, fw, tw, cl, cw, la, es, es},
		RST:    {cl, cl, ss, cl, cl, tw, cl, cl, cl, cl, cl},
		NoFlag: {cl, cl, cl, cl, cl, cl, cl, cl, cl, cl, cl},
	},
	ToServerOnly: {
		//       no  es  ss  sr  fw  tw  cl  cw  la  li  sa
		SYN:    {sa, es, es, sr, sa, sa, sa, sa, sa, sa, sa},
		FIN:    {cl, fw, ss, tw, fw, tw, cl, cw, la, li, tw},
		ACK:    {es, es, ss, es, fw, tw, cl, cw, cl, li, es},
		RST:    {cl, cl, cl, sr, cl, cl, cl, cl, la, li, cl},
		NoFlag: {cl, cl, cl, cl, cl, cl, cl, cl, cl, cl, cl},
	},
}

// tcpActive tells the states in which a connection is an active one of its server ([Load]).
var tcpActive = [TCPStates]bool{es: true, ss: true, sr: true, sa: true}

// tcpTimeouts are the time-outs that --set does not change.
var tcpTimeouts = [TCPStates]uint32{no: 2, ss: 120, sr: 60, tw: 120, cl: 10, cw: 60, la: 30, li: 120, sa: 120}
