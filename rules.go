// SPDX-License-Identifier: Apache-2.0

package lvs

import (
	"net/netip"
	"slices"
)

// Schedulers are the names that a service may have, in the order of the kernel's files.
var Schedulers = []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "fo", "ovf", "mh", "sed", "nq", "twos"}

// NoScheduler is the name of no scheduler at all: a service that has it refuses every connection.
const NoScheduler = "none"

func (c *ServiceConfig) check(id ServiceID) error {
	if c.Scheduler != NoScheduler && !slices.Contains(Schedulers, c.Scheduler) || c.PE != "" && c.PE != "sip" {
		return ErrNoScheduler
	}
	if id.Family == IPv6 && (c.Netmask < 1 || c.Netmask > 128) {
		return ErrInvalid
	}
	return nil
}

func (c *ServerConfig) check(s *Service, id ServerID) error {
	switch {
	case id.Addr.Is4() != (s.Family == IPv4) && c.Forward != Tunnel:
		return ErrInvalid
	case c.Weight < 0 || c.Lower > c.Upper:
		return ErrRange
	case c.Tunnel.Type == GUE && c.Tunnel.Port == 0:
		return ErrInvalid
	}
	return nil
}

var broadcasts = []netip.Addr{
	netip.AddrFrom4([4]byte{255, 255, 255, 255}),
	netip.AddrFrom4([4]byte{127, 255, 255, 255}),
}

// canServe tells whether a server may have the address, as inet_addr_type and ipv6_addr_type of the kernel see
// it. The broadcast addresses of interfaces other than lo are not known here.
func canServe(a netip.Addr) bool {
	if a.IsUnspecified() || a.IsMulticast() {
		return false
	}
	if a.Is4() {
		return !slices.Contains(broadcasts, a)
	}
	return !a.IsLinkLocalUnicast() && !a.Is4In6()
}
