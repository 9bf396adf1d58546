// SPDX-License-Identifier: Apache-2.0

package lvs

// The states of an SCTP association, as the server sees it.
const (
	SCTPNone State = iota
	SCTPInit1
	SCTPInit
	SCTPCookieSent
	SCTPCookieReplied
	SCTPCookieWait
	SCTPCookie
	SCTPCookieEchoed
	SCTPEstablished
	SCTPShutdownSent
	SCTPShutdownReceived
	SCTPShutdownAckSent
	SCTPRejected
	SCTPClosed
	SCTPStates // how many there are
)

var sctpStateNames = [SCTPStates]string{"NONE", "INIT1", "INIT", "C-SENT", "C-REPLIED", "C-WAIT", "COOKIE", "C-ECHOED",
	"ESTABLISHED", "S-SENT", "S-RECEIVED", "S-ACK-SENT", "REJECTED", "CLOSED"}

// The events of SCTP: the chunk that counts in a packet.
const (
	SCTPData Event = iota // and all chunks that are no other event
	SCTPInitChunk
	SCTPInitAck
	SCTPCookieEcho
	SCTPCookieAck
	SCTPShutdown
	SCTPShutdownAck
	SCTPShutdownComplete
	SCTPError
	SCTPAbort
	SCTPEvents // how many there are
)

// SCTPChunks are the events of the first chunk of a packet, by the chunk's type; other types are [SCTPData]. An ABORT after a
// COOKIE ECHO or COOKIE ACK counts in its place.
var SCTPChunks = [16]Event{
	1: SCTPInitChunk, 2: SCTPInitAck, 6: SCTPAbort, 7: SCTPShutdown, 8: SCTPShutdownAck, 9: SCTPError, 10: SCTPCookieEcho,
	11: SCTPCookieAck, 14: SCTPShutdownComplete,
}

const (
	nn = SCTPNone
	i1 = SCTPInit1
	in = SCTPInit
	cs = SCTPCookieSent
	cr = SCTPCookieReplied
	ct = SCTPCookieWait
	co = SCTPCookie
	ce = SCTPCookieEchoed
	st = SCTPEstablished
	ds = SCTPShutdownSent
	dr = SCTPShutdownReceived
	da = SCTPShutdownAckSent
	rj = SCTPRejected
	cd = SCTPClosed
)

// sctpTransitions is the state that follows, by direction, event and state, as kernel IPVS has it.
var sctpTransitions = [Directions][SCTPEvents][SCTPStates]State{
	ToServer: {
		//                     nn  i1  in  cs  cr  ct  co  ce  st  ds  dr  da  rj  cd
		SCTPData:             {st, i1, in, cs, cr, ct, co, ce, st, ds, dr, da, rj, cd},
		SCTPInitChunk:        {i1, in, in, cs, cr, ct, co, ce, st, ds, dr, da, in, in},
		SCTPInitAck:          {ct, ct, ct, cs, cr, co, co, ce, st, ds, dr, da, rj, cd},
		SCTPCookieEcho:       {cr, in, in, cr, cr, ct, co, ce, st, ds, dr, da, rj, cd},
		SCTPCookieAck:        {st, i1, in, cs, cr, ct, co, st, st, ds, dr, da, rj, cd},
		SCTPShutdown:         {dr, i1, in, cs, cr, ct, co, ce, dr, ds, dr, da, rj, cd},
		SCTPShutdownAck:      {cd, in, in, cs, cr, ct, co, ce, st, cd, dr, cd, rj, cd},
		SCTPShutdownComplete: {cd, cd, cd, cs, cr, ct, co, ce, st, ds, dr, cd, rj, cd},
		SCTPError:            {cd, i1, in, cs, cr, ct, co, cd, st, ds, dr, da, rj, cd},
		SCTPAbort:            {cd, cd, cd, cd, cd, rj, cd, cd, cd, cd, cd, cd, cd, cd},
	},
	ToClient: {
		//                     nn  i1  in  cs  cr  ct  co  ce  st  ds  dr  da  rj  cd
		SCTPData:             {st, i1, in, cs, cr, ct, co, ce, st, ds, dr, da, rj, cd},
		SCTPInitChunk:        {ct, ct, ct, ct, ct, ct, ct, ct, st, ct, ct, ct, ct, ct},
		SCTPInitAck:          {cs, cs, cs, cs, cr, ct, co, ce, st, ds, dr, da, rj, cd},
		SCTPCookieEcho:       {ce, ce, ce, ce, ce, ce, ce, ce, st, ds, dr, da, rj, cd},
		SCTPCookieAck:        {st, st, st, st, st, st, st, st, st, ds, dr, da, rj, cd},
		SCTPShutdown:         {ds, ds, ds, ds, ds, ds, ds, ds, ds, ds, dr, da, rj, cd},
		SCTPShutdownAck:      {da, da, da, da, da, ct, co, ce, st, da, da, da, rj, cd},
		SCTPShutdownComplete: {cd, i1, in, cs, cr, ct, co, ce, st, ds, dr, da, rj, cd},
		SCTPError:            {cd, cd, cd, cd, cd, ct, co, ce, st, ds, dr, da, rj, cd},
		SCTPAbort:            {cd, rj, cd, cd, cd, cd, cd, cd, cd, cd, cd, cd, cd, cd},
	},
	ToServerOnly: {
		//                     nn  i1  in  cs  cr  ct  co  ce  st  ds  dr  da  rj  cd
		SCTPData:             {st, i1, in, cs, cr, st, co, ce, st, ds, dr, da, rj, cd},
		SCTPInitChunk:        {i1, in, in, in, in, in, co, ce, st, ds, dr, da, in, in},
		SCTPInitAck:          {ce, ce, ce, ce, ce, ce, co, ce, st, ds, dr, da, rj, cd},
		SCTPCookieEcho:       {st, st, st, st, st, st, co, ce, st, ds, dr, da, rj, cd},
		SCTPCookieAck:        {st, i1, in, st, st, ct, st, st, st, ds, dr, da, rj, cd},
		SCTPShutdown:         {dr, i1, in, cs, cr, ct, co, ce, dr, ds, dr, da, rj, cd},
		SCTPShutdownAck:      {cd, in, in, cs, cr, ct, co, ce, cd, cd, dr, cd, rj, cd},
		SCTPShutdownComplete: {cd, cd, cd, cd, cd, ct, co, ce, st, ds, cd, cd, rj, cd},
		SCTPError:            {cd, i1, in, cs, cr, ct, co, ce, st, ds, dr, da, rj, cd},
		SCTPAbort:            {cd, cd, cd, cd, cd, rj, cd, cd, cd, cd, cd, cd, cd, cd},
	},
}

// sctpTimeouts are those of kernel IPVS: none of them can be changed.
var sctpTimeouts = [SCTPStates]uint32{
	nn: 2, i1: 4, in: 61, cs: 61, cr: 61, ct: 61, co: 61, ce: 61, st: 900, ds: 61, dr: 61, da: 61, rj: 4, cd: 61,
}
