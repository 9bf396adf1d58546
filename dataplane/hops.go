// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"

	"github.com/vishvananda/netlink"
)

// NextHop is where the kernel would send now what goes to an address: by an interface, to a gateway if via is valid. Without a way
// there, both are zero.
func NextHop(to netip.Addr) (via netip.Addr, device string) {
	routes, err := netlink.RouteGet(to.AsSlice())
	if err != nil || len(routes) == 0 {
		return netip.Addr{}, ""
	}
	via, _ = netip.AddrFromSlice(routes[0].Gw)
	l, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return netip.Addr{}, ""
	}
	return via.Unmap(), l.Attrs().Name
}
