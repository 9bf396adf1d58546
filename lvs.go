// Package lvs is the vocabulary of the Linux Virtual Server: services, real servers, connections, and the
// table that holds them. It knows no kernel, no files and no network; everything else in this module speaks
// in its words.
package lvs

import (
	"fmt"
	"net/netip"
	"slices"
)

// Protocol is the transport protocol of a service, with the IANA number as its value.
type Protocol uint8

// The protocols that a service can have. A service by firewall mark has protocol zero.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String gives the name as listings print it: TCP, UDP, SCTP.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	case 0:
		return "IP"
	}
	return fmt.Sprintf("proto-%d", uint8(p))
}

// Family is the address family of a service: the family of its virtual address, or, for a firewall mark, the
// one that was asked for with -6.
type Family uint8

// The address families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Forward is how packets reach a real server.
type Forward uint8

// The forwarding methods, with the names that a listing shows for them.
const (
	Route   Forward = iota // direct routing: the MAC address is rewritten (-g)
	Tunnel                 // the packet travels inside another one (-i)
	Masq                   // NAT: the destination is rewritten, and the source of answers (-m)
	Local                  // the server is the director itself
	FullNAT                // source and destination are rewritten (--fullnat)
)

// String gives the method's name as listings print it.
func (f Forward) String() string {
	names := [...]string{"Route", "Tunnel", "Masq", "Local", "FullNat"}
	if int(f) < len(names) {
		return names[f]
	}
	return fmt.Sprintf("forward-%d", uint8(f))
}

// TunnelType is the encapsulation of [Tunnel].
type TunnelType uint8

// The encapsulations.
const (
	IPIP TunnelType = iota
	GUE
	GRE
)

// Checksum says what a [GUE] or [GRE] tunnel does about checksums.
type Checksum uint8

// The checksum kinds of a tunnel.
const (
	NoChecksum Checksum = iota
	FullChecksum
	RemoteChecksum // GUE only
)

// SchedulerFlags are the options of a scheduler (-b). What a bit means depends on the scheduler.
type SchedulerFlags uint8

// The flags, as sh and mh name them: flag-1 is sh-fallback or mh-fallback, flag-2 is sh-port or mh-port.
const (
	SchedulerFlag1 SchedulerFlags = 1 << iota
	SchedulerFlag2
	SchedulerFlag3
	SchedulerFallback = SchedulerFlag1
	SchedulerPort     = SchedulerFlag2
)

// OnDead is what becomes of a connection whose server has been removed. A SYN from the same client's port begins a new one in any
// case, as long as the setting conn_reuse_mode says so.
type OnDead uint32

// The policies.
const (
	OnDeadUnset      OnDead = iota // what the setting on_dead says
	OnDeadKeep                     // the server has its packets as before, until it ends
	OnDeadDrop                     // its packets are dropped, until it times out or the server is added again
	OnDeadReset                    // TCP is reset at both ends, datagrams go to another server
	OnDeadReschedule               // the same; and datagrams and persistent clients leave a server of weight 0, too
)

var onDeadNames = []string{"unset", "keep", "drop", "reset", "reschedule"}

// OnDeadNames are the policies that a service can have, by the names that --on-dead takes.
var OnDeadNames = onDeadNames[OnDeadKeep:]

// String gives the policy as --on-dead takes it.
func (o OnDead) String() string {
	if int(o) < len(onDeadNames) {
		return onDeadNames[o]
	}
	return fmt.Sprintf("on-dead-%d", uint32(o))
}

// ParseOnDead reads a policy, and says whether it is one.
func ParseOnDead(name string) (OnDead, bool) {
	i := slices.Index(OnDeadNames, name)
	return OnDead(i + 1), i >= 0
}

// ServiceID names a virtual service: a firewall mark with a family, or protocol, address and port.
// It is comparable and usable as a map key.
type ServiceID struct {
	Family   Family
	Protocol Protocol   // zero for a firewall mark
	Addr     netip.Addr // invalid for a firewall mark; a v4-mapped address is one of IPv6
	Port     uint16     // zero is any port, for persistent services only
	Mark     uint32     // firewall mark, or zero
}

// String gives the service in the form "TCP 10.0.0.1:80" or "FWM 5" (an IPv6 mark is "FWM 5 IPv6").
func (id ServiceID) String() string {
	if id.Mark != 0 {
		if id.Family == IPv6 {
			return fmt.Sprintf("FWM %d IPv6", id.Mark)
		}
		return fmt.Sprintf("FWM %d", id.Mark)
	}
	return fmt.Sprintf("%v %v", id.Protocol, netip.AddrPortFrom(id.Addr, id.Port))
}

// ServerID names a real server within its service.
type ServerID struct {
	Addr netip.Addr // a v4-mapped address is one of IPv6, and no server can have it
	Port uint16     // zero only in services by firewall mark and in port-zero services
}

// String gives the server in the form "192.168.1.1:80".
func (id ServerID) String() string { return netip.AddrPortFrom(id.Addr, id.Port).String() }

// ServiceConfig is what an operator decides about a service, besides its name.
type ServiceConfig struct {
	Scheduler      string         // "wlc", "rr", ...
	SchedulerFlags SchedulerFlags // -b
	Persistent     uint32         // persistence time-out in seconds, 0 for none (-p)
	Netmask        uint32         // IPv4: mask of persistence as a host-order number; IPv6: prefix length (-M)
	PE             string         // persistence engine, "" or "sip"
	OnePacket      bool           // -o
	OnDead         OnDead         // --on-dead
}

// TunnelConfig is how a [Tunnel] server is reached.
type TunnelConfig struct {
	Type     TunnelType
	Port     uint16 // GUE only
	Checksum Checksum
}

// ServerConfig is what an operator decides about a real server, besides its name.
type ServerConfig struct {
	Forward Forward
	Weight  int32  // 0 takes no new connections
	Upper   uint32 // connections at which the server is left out, 0 for no limit (-x)
	Lower   uint32 // connections below which it is taken back, 0 for three quarters of Upper (-y)
	Tunnel  TunnelConfig
}

// Stats counts what a service or a server has carried.
type Stats struct {
	Conns      uint64 // connections scheduled
	InPackets  uint64 // towards the server
	OutPackets uint64 // towards the client; always zero for Route and Tunnel
	InBytes    uint64 // IP bytes, headers included
	OutBytes   uint64
}

// Add adds the counts of b.
func (s *Stats) Add(b Stats) {
	s.Conns += b.Conns
	s.InPackets += b.InPackets
	s.OutPackets += b.OutPackets
	s.InBytes += b.InBytes
	s.OutBytes += b.OutBytes
}

// Sub takes away the counts of b, which must be an earlier reading.
func (s *Stats) Sub(b Stats) {
	s.Conns -= b.Conns
	s.InPackets -= b.InPackets
	s.OutPackets -= b.OutPackets
	s.InBytes -= b.InBytes
	s.OutBytes -= b.OutBytes
}

// Rates are the moving averages of [Stats], per second.
type Rates struct {
	CPS, InPPS, OutPPS, InBPS, OutBPS uint64 // connections, packets and bytes a second
}

// Load is how many connections a server has now.
type Load struct {
	Active     uint32 // TCP and SCTP connections that are being opened or established
	Inactive   uint32 // all others
	Persistent uint32 // templates
}

// Timeouts are the time-outs that --set changes, in seconds; 0 leaves one as it is.
type Timeouts struct {
	TCP    uint32 // established connections; 900 unless set
	TCPFin uint32 // after a FIN (FIN_WAIT); 120 unless set
	UDP    uint32 // 300 unless set
}

// DefaultTimeouts are those of kernel IPVS.
var DefaultTimeouts = Timeouts{TCP: 900, TCPFin: 120, UDP: 300}

// OrDefault gives the time-outs that are in force: the default where none is set.
func (t Timeouts) OrDefault() Timeouts {
	all := Table{Timeouts: DefaultTimeouts}
	all.SetTimeouts(t)
	return all.Timeouts
}
