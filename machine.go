// SPDX-License-Identifier: Apache-2.0

package lvs

// Direction is the way that a packet of a connection goes.
type Direction uint8

// The directions, in the order of the rows of transitions.
const (
	ToServer Direction = iota
	ToClient
	ToServerOnly // towards the server, in a connection whose answers have not been seen to come this way
	Directions   // how many there are
)

// Event is what a packet means to its connection, numbered per protocol: [SYN] and so on, or [SCTPData] and so on.
type Event uint8

// Machine is a set of rules by which connections go from state to state.
type Machine uint8

// The machines, in the order of C's enum machine.
const (
	TCPMachine Machine = iota
	TCPSecure          // TCP with secure_tcp: a connection is open after the whole handshake, and not before
	SCTPMachine
	Stateless // all others: one state
	Machines  // how many there are
)

// MachineOf gives the machine of a protocol.
func MachineOf(p Protocol, secure bool) Machine {
	switch {
	case p == TCP && secure:
		return TCPSecure
	case p == TCP:
		return TCPMachine
	case p == SCTP:
		return SCTPMachine
	}
	return Stateless
}

// Shape says how many events and states a machine has.
func (m Machine) Shape() (events Event, states State) {
	switch m {
	case TCPMachine, TCPSecure:
		return TCPEvents, TCPStates
	case SCTPMachine:
		return SCTPEvents, SCTPStates
	}
	return 1, 1
}

// Next is the state that follows.
func (m Machine) Next(s State, d Direction, e Event) State {
	switch m {
	case TCPMachine:
		return tcpTransitions[d][e][s]
	case TCPSecure:
		return tcpSecureTransitions[d][e][s]
	case SCTPMachine:
		return sctpTransitions[d][e][s]
	}
	return s
}

// Active says whether a connection in this state counts as active or, as all those of UDP do, as inactive.
func (s State) Active(p Protocol) bool {
	return p == TCP && tcpActive[s] || p == SCTP && s == SCTPEstablished
}

// Of is how long an entry in this state lives without a packet, in seconds.
func (t Timeouts) Of(p Protocol, s State) uint32 {
	t = t.OrDefault()
	switch {
	case p == SCTP:
		return sctpTimeouts[s]
	case p != TCP:
		return t.UDP
	case s == TCPEstablished:
		return t.TCP
	case s == TCPFinWait:
		return t.TCPFin
	}
	return tcpTimeouts[s]
}
