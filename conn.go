package lvs

import (
	"net/netip"
	"time"
)

// State is the state of a connection, numbered per protocol as in kernel IPVS.
type State uint8

// The states of a TCP connection.
const (
	TCPNone State = iota
	TCPEstablished
	TCPSynSent
	TCPSynRecv
	TCPFinWait
	TCPTimeWait
	TCPClose
	TCPCloseWait
	TCPLastAck
	TCPListen
	TCPSynAck
	TCPStates // how many there are
)

// TemplateAssured is the state of a template that a connection has come through.
const TemplateAssured State = 1

var tcpStateNames = [TCPStates]string{"NONE", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT", "TIME_WAIT",
	"CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "SYNACK"}

// StateName gives the name that ipvsadm -Lc prints for a state of a protocol.
func StateName(p Protocol, s State) string {
	switch {
	case p == TCP && s < TCPStates:
		return tcpStateNames[s]
	case p == SCTP && s < SCTPStates:
		return sctpStateNames[s]
	case p == UDP:
		return "UDP"
	}
	return "NONE"
}

// Conn is an entry of the connection table.
type Conn struct {
	Protocol Protocol
	State    State
	Template bool // a persistence template, not a connection
	Client   netip.AddrPort
	Virtual  netip.AddrPort
	Server   netip.AddrPort
	Local    netip.AddrPort // what the server sees in the client's place, with FullNAT
	Forward  Forward
	Expires  time.Duration // until the entry goes, if no packet comes
	PE       string        // of a template: the persistence engine that it is found by, "" or "sip"
	PEData   string        // and what that goes by, a SIP Call-ID
}

// StateName gives the state as ipvsadm -Lc prints it. A template knows only whether it has been used.
func (c Conn) StateName() string {
	if !c.Template {
		return StateName(c.Protocol, c.State)
	}
	if c.State == TemplateAssured {
		return "ASSURED"
	}
	return "NONE"
}
