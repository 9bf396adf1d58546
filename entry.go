// SPDX-License-Identifier: Apache-2.0

package lvs

import (
	"net/netip"
	"time"
)

// Entry is an entry of the connection table with all that it takes to go on with it elsewhere.
type Entry struct {
	Conn
	Service    ServiceID
	ServerID   ServerID // as the service has it; the port of Conn.Server may be another
	Flags      EntryFlags
	Number     uint32 // of a template: one that no other template has at the same time
	Controller uint32 // of a connection: the number of its template, or NoTemplate
	Timeout    uint32 // of a template: seconds
	Conns      uint32 // of a template: how many connections it has

	Persistent netip.AddrPort // of a connection: the client of its template, a network
	Accounted  bool           // the next two are known
	Age        time.Duration
	Stats      Stats // but for Conns
}

// NoTemplate is in place of the number of a template for connections that have none.
const NoTemplate = 1<<32 - 1

// EntryFlags are what a connection has been through, besides its state.
type EntryFlags uint8

// The flags.
const (
	NoOutput EntryFlags = 1 << iota // no packet of the server has been seen
	SamePort                        // the server's port is the one that the client asked for
	Assured                         // it has assured its template, as ASSURED says of a template itself
	Told                            // of FullNAT: the server has been told who the client is
	Answered                        // and has answered since
	Disowned                        // its server has been taken away from it
)

// StateNamed is the state of a protocol that has a name; ok is false if there is none.
func StateNamed(p Protocol, name string) (s State, ok bool) {
	for s := range max(TCPStates, SCTPStates) {
		if StateName(p, s) == name {
			return s, true
		}
	}
	return 0, false
}

// MaxExpires is the longest that an entry of a file may have to live: the kernel's clock turns round.
const MaxExpires = (1<<31 - 1) / 1000 * time.Second
